//! How far a restore is, and whether it is still wanted: counters that the restore raises and
//! whoever waits for it reads, and the flag that stops it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::RestoreError;
use crate::coordinator::work::Work;

/// One restore.
#[derive(Debug, Default)]
pub struct Gauge {
    /// Bytes of the base's and the deltas' objects that were read, and all of them.
    pub(crate) snapshots: Counter,
    /// Bytes of the archive's objects that were replayed, and all of them.
    pub(super) log: Counter,
    base: OnceLock<Arc<Work>>,
    stopped: AtomicBool,
    /// The first thing that could not be read, as an error and not as text.
    failure: Mutex<Option<RestoreError>>,
}

/// What is done of how much.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl Counter {
    pub(crate) fn expect(&self, total_bytes: u64) {
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    pub(super) fn add(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn parts(&self) -> (u64, u64) {
        (self.done_bytes.load(Ordering::Relaxed), self.total_bytes.load(Ordering::Relaxed))
    }
}

/// What a restore is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The base and its deltas are read.
    Snapshots,
    /// The log behind them is replayed.
    Log,
    /// The base of the new directory is written.
    Base,
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreProgress {
    /// What it is at.
    pub phase: Phase,
    /// Bytes of this phase that are done.
    pub done_bytes: u64,
    /// Bytes of this phase; of the base that is written an estimate.
    pub total_bytes: Option<u64>,
}

impl Gauge {
    /// How far it is.
    pub fn progress(&self) -> RestoreProgress {
        if let Some(base) = self.base.get() {
            let progress = base.progress();
            let (done_bytes, total_bytes) = (progress.done_bytes, progress.expected_bytes);
            return RestoreProgress { phase: Phase::Base, done_bytes, total_bytes };
        }
        let (phase, (done_bytes, total)) = match (self.snapshots.parts(), self.log.parts()) {
            (_, log) if log.0 > 0 => (Phase::Log, log),
            (snapshots, _) => (Phase::Snapshots, snapshots),
        };
        let total_bytes = Some(total).filter(|total| *total > 0);
        RestoreProgress { phase, done_bytes, total_bytes }
    }

    /// Stops the restore, which then takes away what it had begun.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        if let Some(base) = self.base.get() {
            base.cancel();
        }
    }

    /// Whether it was stopped.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// For readers that wait.
    pub(super) fn stopped(&self) -> &AtomicBool {
        &self.stopped
    }

    /// The base is being written.
    pub(super) fn write_base(&self, work: Arc<Work>) {
        let work = self.base.get_or_init(|| work);
        // Stopped just before it was known here.
        if self.is_stopped() {
            work.cancel();
        }
    }

    /// Keeps why nothing more could be read; its text.
    pub(super) fn failed(&self, error: impl Into<RestoreError>) -> String {
        let error = error.into();
        let text = error.to_string();
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        text
    }

    /// What [`Self::failed`] kept.
    pub(crate) fn take_failure(&self) -> Option<RestoreError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_follow_each_other() {
        let gauge = Gauge::default();
        gauge.snapshots.expect(10);
        gauge.log.expect(5);
        gauge.snapshots.add(10);
        let at = |phase, done_bytes, total| RestoreProgress {
            phase,
            done_bytes,
            total_bytes: Some(total),
        };
        assert_eq!(gauge.progress(), at(Phase::Snapshots, 10, 10));
        gauge.log.add(2);
        assert_eq!(gauge.progress(), at(Phase::Log, 2, 5));
        let work = Work::of_unknown_size();
        gauge.stop();
        gauge.write_base(Arc::clone(&work));
        assert!(work.is_cancelled() && gauge.progress().phase == Phase::Base);
    }
}
