//! The threads of an engine: one pinned executor for each shard, and the segment provider. One dead
//! shard takes the others with it: half a database is not served.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle};

use glommio::{LocalExecutorBuilder, Placement};

use crate::net::Doorbell;
use crate::shard::shared::Shared;
use crate::types::ShardId;

use super::error::{Failure, FailureReason, OpenError};
use super::provider::Provider;
use super::shell::{Shell, ShellSetup};

/// The threads that run.
#[derive(Debug)]
pub struct ShardThreads {
    threads: Vec<JoinHandle<()>>,
    failure: Arc<OnceLock<Failure>>,
    /// Closed when the first shard fails.
    failed: flume::Receiver<()>,
}

/// What a shard's thread does when it ends badly.
#[derive(Clone)]
struct Alarm {
    failure: Arc<OnceLock<Failure>>,
    failed: flume::Sender<()>,
    shared: Arc<Shared>,
    doorbells: Vec<Doorbell>,
}

impl ShardThreads {
    /// Starts all shards.
    ///
    /// # Errors
    /// A thread cannot be made; those that were made end by themselves.
    pub fn start(
        setups: Vec<ShellSetup>,
        cpus: Option<&[usize]>,
        provider: Option<Provider>,
        shared: &Arc<Shared>,
        doorbells: &[Doorbell],
    ) -> Result<Self, OpenError> {
        let failure = Arc::new(OnceLock::new());
        let (failed_sender, failed) = flume::bounded(1);
        let alarm = Alarm {
            failure: Arc::clone(&failure),
            failed: failed_sender,
            shared: Arc::clone(shared),
            doorbells: doorbells.to_vec(),
        };
        let mut threads = Vec::new();
        for (shard, setup) in setups.into_iter().enumerate() {
            let placement = match cpus {
                Some(cpus) => Placement::Fixed(cpus[shard % cpus.len()]),
                None => Placement::Unbound,
            };
            let alarm = alarm.clone();
            let shard = ShardId(shard as u16);
            let run = move || alarm.watch(shard, || run_shard(setup, placement));
            threads.push(spawn(&format!("shard-{shard}"), run)?);
        }
        if let Some(provider) = provider {
            threads.push(spawn("segments", move || provider.run())?);
        }
        Ok(Self { threads, failure, failed })
    }

    /// Why the first shard that failed did.
    pub fn failure(&self) -> Option<Failure> {
        self.failure.get().cloned()
    }

    /// Resolves when a shard has failed.
    pub async fn failed(&self) -> Failure {
        loop {
            if self.failed.recv_async().await.is_err() || self.failure.get().is_some() {
                break;
            }
        }
        self.failure().unwrap_or(Failure {
            shard: ShardId(0),
            reason: FailureReason::Panic("every shard has ended".to_owned()),
        })
    }

    /// Waits until every thread has ended.
    pub fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // A panic was caught inside, and reported.
            let _ = thread.join();
        }
    }
}

impl Alarm {
    /// Runs a shard; if it ends badly, notes why and wakes the others, so that they end too.
    fn watch(&self, shard: ShardId, run: impl FnOnce() -> Result<(), FailureReason>) {
        let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            Err(FailureReason::Panic(text.unwrap_or_default()))
        });
        if let Err(reason) = result {
            let failure = Failure { shard, reason };
            tracing::error!(shard = shard.0, error = %failure, "a shard has failed");
            let _ = self.failure.set(failure);
            self.shared.failed.store(true, Ordering::Release);
            let _ = self.failed.try_send(());
            self.doorbells.iter().for_each(Doorbell::ring);
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    Builder::new().name(name.to_owned()).spawn(run).map_err(|source| OpenError::Io {
        what: "start the thread",
        path: name.into(),
        source,
    })
}

#[expect(clippy::disallowed_methods, reason = "here the executors of the shards are made")]
fn run_shard(setup: ShellSetup, placement: Placement) -> Result<(), FailureReason> {
    let executor = LocalExecutorBuilder::new(placement)
        .preempt_timer(crate::net::idle::PREEMPT_TIMER)
        .make()
        .map_err(|error| FailureReason::Executor(error.to_string()))?;
    executor.run(async move { Shell::new(setup)?.run().await })
}
