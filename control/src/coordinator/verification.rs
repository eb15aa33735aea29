//! Verifications beside the actor: each reads a snapshot, tells how far it is, and ends when it is
//! cancelled or when nobody waits for its answer any more.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use cutwater_engine::clock::wall_micros;
use cutwater_engine::seal::Keyring;
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::ObjectStore;
use cutwater_snapshot::verify::{VerifyReport, verify};

use super::message::{CoordinatorError, Reply};
use super::work::{Running, Work};

/// Those under way.
#[derive(Debug, Default)]
pub struct Verifications {
    running: Vec<Verification>,
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
    /// Begins one.
    pub fn begin(
        &mut self,
        store: &Arc<dyn ObjectStore>,
        keys: &Keyring,
        (id, client): (SnapshotId, Option<u64>),
        mut reply: Reply<VerifyReport>,
    ) {
        self.forget_ended();
        let (store, keys) = (Arc::clone(store), keys.clone());
        let work = Work::of_unknown_size();
        let since_us = wall_micros();
        self.running.push(Verification { id, client, since_us, work: Arc::downgrade(&work) });
        tokio::spawn(async move {
            let progress = |progress: cutwater_snapshot::verify::Progress| {
                work.done_bytes.store(progress.done_bytes, Ordering::Relaxed);
                work.total_bytes.store(progress.total_bytes, Ordering::Relaxed);
            };
            let outcome = tokio::select! {
                report = verify(&store, id, &keys, &progress) => Some(report.map_err(Into::into)),
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
