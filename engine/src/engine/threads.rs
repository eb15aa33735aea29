//! The threads of an engine: one pinned executor for each shard, and the segment provider. One dead
//! shard takes the others with it: half a database is not served.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use glommio::{LocalExecutorBuilder, Placement};

use crate::net::Doorbell;
use crate::shard::shared::Shared;
use crate::types::{LogId, ShardId};

use super::error::{Failure, FailureCell, FailureReason, OpenError};
use super::provider::Provider;
use super::shell::{Shell, ShellSetup};

/// The threads that run.
#[derive(Debug)]
pub struct ShardThreads {
    threads: Mutex<Vec<JoinHandle<()>>>,
    failure: FailureCell,
    /// Closed when every shard has ended; has something when one has failed.
    failed: flume::Receiver<()>,
}

/// What a shard's thread does when it ends badly.
#[derive(Clone)]
struct Alarm {
    failure: FailureCell,
    failed: flume::Sender<()>,
    shared: Arc<Shared>,
    doorbells: Vec<Doorbell>,
}

impl ShardThreads {
    /// Starts all shards.
    ///
    /// # Errors
    /// A thread cannot be made; those that were made have ended.
    pub fn start(
        setups: Vec<ShellSetup>,
        cpus: Option<&[usize]>,
        provider: Option<Provider>,
        shared: &Arc<Shared>,
        doorbells: &[Doorbell],
        failure: FailureCell,
    ) -> Result<Self, OpenError> {
        let (failed_sender, failed) = flume::bounded(1);
        let alarm = Alarm {
            failure: failure.clone(),
            failed: failed_sender,
            shared: Arc::clone(shared),
            doorbells: doorbells.to_vec(),
        };
        let this = Self { threads: Mutex::default(), failure, failed };
        let started = this.start_all(setups, cpus, provider, &alarm);
        if started.is_err() {
            // The shards that run would wait for the others for ever.
            alarm.end_all();
            drop(alarm);
            this.join();
        }
        started.map(|()| this)
    }

    fn start_all(
        &self,
        setups: Vec<ShellSetup>,
        cpus: Option<&[usize]>,
        provider: Option<Provider>,
        alarm: &Alarm,
    ) -> Result<(), OpenError> {
        for (shard, setup) in setups.into_iter().enumerate() {
            let placement = match cpus {
                Some(cpus) => Placement::Fixed(cpus[shard % cpus.len()]),
                None => Placement::Unbound,
            };
            let alarm = alarm.clone();
            let shard = ShardId(shard as u16);
            self.spawn(&format!("shard-{shard}"), move || {
                run_shard(shard, setup, placement, &alarm)
            })?;
        }
        match provider {
            Some(provider) => self.spawn("segments", move || provider.run()),
            None => Ok(()),
        }
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        let thread = Builder::new().name(name.to_owned()).spawn(run).map_err(|source| {
            OpenError::Io { what: "start the thread", path: name.into(), source }
        })?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Why the first shard that failed did.
    pub fn failure(&self) -> Option<Failure> {
        self.failure.get()
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

    /// Waits until every thread has ended. Several may wait.
    pub fn join(&self) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // A panic was caught inside, and reported.
            let _ = thread.join();
        }
    }
}

impl Alarm {
    /// Notes why a shard has ended badly, and wakes the others, so that they end too.
    fn raise(&self, shard: ShardId, reason: FailureReason) {
        let failure = Failure { shard, reason };
        tracing::error!(shard = shard.0, error = %failure, "a shard has failed");
        self.failure.set(failure);
        self.end_all();
        let _ = self.failed.try_send(());
    }

    fn end_all(&self) {
        self.shared.failed.store(true, Ordering::Release);
        self.doorbells.iter().for_each(Doorbell::ring);
    }
}

/// A shard's thread. When it fails that is noted before anything of the shard is dropped: those
/// who wait for it then see at once why they get nothing.
fn run_shard(shard: ShardId, setup: ShellSetup, placement: Placement, alarm: &Alarm) {
    let result = catch_unwind(AssertUnwindSafe(|| execute(shard, setup, placement, alarm)));
    match result {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => alarm.raise(shard, reason),
        Err(panic) => alarm.raise(shard, FailureReason::Panic(panic_text(&*panic))),
    }
}

fn execute(
    shard: ShardId,
    setup: ShellSetup,
    placement: Placement,
    alarm: &Alarm,
) -> Result<(), FailureReason> {
    let executor = LocalExecutorBuilder::new(placement)
        .preempt_timer(crate::net::idle::PREEMPT_TIMER)
        .make()
        .map_err(|error| FailureReason::Executor(error.to_string()))?;
    executor.run(async move {
        let (id, lsn) = (LogId { start: setup.core.start, shard }, setup.core.floor.0);
        let mut shell = tracing::info_span!("boot", shard = shard.0, %id, lsn).in_scope(|| {
            let shell = Shell::new(setup);
            tracing::debug!("the shard is ready to load");
            shell
        })?;
        if let Err(reason) = caught(shell.run()).await {
            alarm.raise(shard, reason);
        }
        Ok(())
    })
}

/// A panic as an error, before what the future borrows is dropped.
async fn caught(run: impl Future<Output = Result<(), FailureReason>>) -> Result<(), FailureReason> {
    let mut run = pin!(run);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(context)));
        polled.unwrap_or_else(|panic| {
            std::task::Poll::Ready(Err(FailureReason::Panic(panic_text(&*panic))))
        })
    })
    .await
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
