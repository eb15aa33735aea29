//! Verifications beside the actor: each reads a snapshot, tells how far it is, and ends when it is
//! cancelled or when nobody waits for its answer any more. At most [`VERIFICATIONS_MAX`] run or
//! wait for their turn; a deep one only begins where there is memory for it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use cutwater_engine::clock::wall_micros;
use cutwater_engine::seal::Keyring;
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::ObjectStore;
use cutwater_snapshot::verify::{Progress, VerifyReport, verify};
use futures::future::BoxFuture;
use tokio::sync::Mutex;

use super::message::{CoordinatorError, Reply};
use super::work::{Running, Work};
use crate::verify::{DeepReport, available_bytes, memory_needed, verify_deep};

/// How many run at once, deep ones that wait for each other included: one more is refused.
pub const VERIFICATIONS_MAX: usize = 4;

/// Those under way.
#[derive(Debug, Default)]
pub struct Verifications {
    running: Vec<Verification>,
    /// Held by the deep one under way: each holds all keys once more.
    deep_turn: Arc<Mutex<()>>,
}

#[derive(Debug)]
struct Verification {
    id: SnapshotId,
    client: Option<u64>,
    since_us: u64,
    /// Held by the task: it is over when this is gone.
    work: Weak<Work>,
}

impl Verifications {
    /// Begins one that reads.
    pub fn begin(
        &mut self,
        store: &Arc<dyn ObjectStore>,
        keys: &Keyring,
        (id, client): (SnapshotId, Option<u64>),
        reply: Reply<VerifyReport>,
    ) {
        let (store, keys) = (Arc::clone(store), keys.clone());
        self.run((id, client), reply, move |work| {
            Box::pin(async move {
                let told = |progress| tell(&work, progress);
                Ok(verify(&store, id, &keys, &told).await?)
            })
        });
    }

    /// Begins one that reads, restores on so many shards and compares. They wait for each other.
    pub fn begin_deep(
        &mut self,
        store: &Arc<dyn ObjectStore>,
        keys: &Keyring,
        shards: u16,
        (id, client): (SnapshotId, Option<u64>),
        reply: Reply<DeepReport>,
    ) {
        let (store, keys, turn) = (Arc::clone(store), keys.clone(), Arc::clone(&self.deep_turn));
        self.run((id, client), reply, move |work| {
            Box::pin(async move {
                let _turn = turn.lock().await;
                // Only now: the one before has given its memory back.
                let needed_bytes = memory_needed(&store, id).await?;
                match available_bytes() {
                    Some(available_bytes) if available_bytes < needed_bytes => {
                        return Err(CoordinatorError::NoMemory {
                            id,
                            needed_bytes,
                            available_bytes,
                        });
                    }
                    // Where nobody tells, nobody is refused.
                    _ => {}
                }
                let told = |progress| tell(&work, progress);
                Ok(verify_deep(&store, id, &keys, shards, &told).await?)
            })
        });
    }

    fn run<T: Send + 'static>(
        &mut self,
        (id, client): (SnapshotId, Option<u64>),
        mut reply: Reply<T>,
        begin: impl FnOnce(Arc<Work>) -> BoxFuture<'static, Result<T, CoordinatorError>>,
    ) {
        self.forget_ended();
        if self.running.len() >= VERIFICATIONS_MAX {
            let _ = reply.send(Err(CoordinatorError::Verifying(self.running.len())));
            return;
        }
        let work = Work::of_unknown_size();
        let since_us = wall_micros();
        self.running.push(Verification { id, client, since_us, work: Arc::downgrade(&work) });
        let reading = begin(Arc::clone(&work));
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = reading => Some(outcome),
                () = work.cancelled() => Some(Err(CoordinatorError::VerifyCancelled(id))),
                () = reply.closed() => None,
            };
            // Before the answer: who has it does not find the verification running any more.
            drop(work);
            match outcome {
                Some(outcome) => drop(reply.send(outcome)),
                None => tracing::info!(snapshot = id.0, "a verification ended with its client"),
            }
        });
    }

    /// Ends those of one snapshot, or all; says how many.
    pub fn cancel(&mut self, id: Option<SnapshotId>) -> u64 {
        let is_meant = |one: &&Verification| id.is_none_or(|id| one.id == id);
        let works = self.running.iter().filter(is_meant).filter_map(|one| one.work.upgrade());
        works.map(|work| work.cancel()).count() as u64
    }

    /// Those that are not over.
    pub fn running(&self) -> Vec<Running> {
        let running = self.running.iter().filter_map(|one| {
            let progress = one.work.upgrade()?.progress();
            Some(Running { id: one.id, client: one.client, since_us: one.since_us, progress })
        });
        running.collect()
    }

    fn forget_ended(&mut self) {
        self.running.retain(|one| one.work.strong_count() > 0);
    }
}

fn tell(work: &Work, progress: Progress) {
    work.done_bytes.store(progress.done_bytes, Ordering::Relaxed);
    work.total_bytes.store(progress.total_bytes, Ordering::Relaxed);
}
