//! How far a piece of work of the coordinator is, and whether it is still wanted: counters that the
//! work raises and `SNAPSHOT STATUS` reads, and a flag that `SNAPSHOT CANCEL` sets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cutwater_engine::shard::shared::Shared;
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::paths::SnapshotName;
use tokio::sync::watch;

/// After this part of the entries, one in so many, the bytes written so far tell more of the total
/// than the memory that the keys occupy.
const TELLING_SHARE: u64 = 50;
/// So few entries tell nothing: one large value may be all there is.
const TELLING_ENTRIES: u64 = 1_000;

/// One snapshot that is being taken, or one that is being read.
#[derive(Debug)]
pub struct Work {
    /// Bytes that are done: of entries as they are in memory, or of objects.
    pub done_bytes: AtomicU64,
    /// Entries that are done.
    pub done_entries: AtomicU64,
    /// Bytes in all, where that is known from the start; else 0.
    pub total_bytes: AtomicU64,
    /// The snapshot; another one where a base is taken in place of a delta.
    id: AtomicU64,
    expected: Mutex<Expected>,
    /// What was begun and given up.
    given_up: Mutex<Vec<SnapshotName>>,
    cancelled: watch::Sender<bool>,
}

/// How much there will be, as far as that was known when the work began.
#[derive(Clone, Copy, Debug)]
struct Expected {
    /// Entries in all, about: keys may come and go meanwhile. `None`: nobody knows.
    entries: Option<u64>,
    /// Bytes that the keys occupy in memory, where the total is not known.
    memory_bytes: u64,
}

impl Expected {
    fn of_all_keys(shared: &Shared) -> Self {
        let keys = shared.all_stats().iter().map(|stats| stats.total_keys()).sum();
        let (memory_bytes, _) = shared.memory_and_peak_bytes();
        Self { entries: Some(keys), memory_bytes }
    }
}

impl Work {
    /// A snapshot of everything that the shards hold.
    pub fn of_all_keys(shared: &Shared) -> Arc<Self> {
        Self::new(Expected::of_all_keys(shared))
    }

    /// Work of which nobody knows how much it is, or only once it has begun
    /// ([`Self::total_bytes`]).
    pub fn of_unknown_size() -> Arc<Self> {
        Self::new(Expected { entries: None, memory_bytes: 0 })
    }

    fn new(expected: Expected) -> Arc<Self> {
        Arc::new(Self {
            done_bytes: AtomicU64::new(0),
            done_entries: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            id: AtomicU64::new(0),
            expected: Mutex::new(expected),
            given_up: Mutex::default(),
            cancelled: watch::Sender::new(false),
        })
    }

    /// The snapshot that it is about, once that is known.
    pub fn id(&self) -> SnapshotId {
        SnapshotId(self.id.load(Ordering::Acquire))
    }

    /// Says which snapshot it is about.
    pub fn set_id(&self, id: SnapshotId) {
        self.id.store(id.0, Ordering::Release);
    }

    /// Begins again, with a snapshot of everything that the shards hold.
    pub fn restart_with_all_keys(&self, shared: &Shared) {
        *self.expected() = Expected::of_all_keys(shared);
        self.done_bytes.store(0, Ordering::Relaxed);
        self.done_entries.store(0, Ordering::Relaxed);
    }

    /// Notes a snapshot that was begun and is given up.
    pub fn give_up(&self, name: SnapshotName) {
        self.given_up.lock().expect("nobody panics while holding it").push(name);
    }

    /// What was begun and given up, once.
    pub fn take_given_up(&self) -> Vec<SnapshotName> {
        std::mem::take(&mut *self.given_up.lock().expect("nobody panics while holding it"))
    }

    fn expected(&self) -> MutexGuard<'_, Expected> {
        self.expected.lock().expect("nobody panics while holding it")
    }

    /// Adds what was done.
    pub fn add(&self, bytes: u64, entries: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.done_entries.fetch_add(entries, Ordering::Relaxed);
    }

    /// Says that it is not wanted any more.
    pub fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Completes when it is not wanted any more.
    pub async fn cancelled(&self) {
        let mut cancelled = self.cancelled.subscribe();
        if cancelled.wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether it is not wanted any more.
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    /// How far it is.
    pub fn progress(&self) -> WorkProgress {
        let done_bytes = self.done_bytes.load(Ordering::Relaxed);
        let done_entries = self.done_entries.load(Ordering::Relaxed);
        let total_bytes = self.total_bytes.load(Ordering::Relaxed);
        let expected = *self.expected();
        let estimate =
            |entries| estimate_bytes((done_bytes, done_entries), entries, expected.memory_bytes);
        let expected_bytes = match (total_bytes, expected.entries) {
            (0, None) => None,
            (0, Some(entries)) => Some(estimate(entries)),
            (total, _) => Some(total),
        };
        let expected_entries = expected.entries.map(|entries| entries.max(done_entries));
        WorkProgress { done_bytes, done_entries, expected_bytes, expected_entries }
    }
}

/// The bytes in all: first from the memory that the keys occupy, then from what those that are done
/// came to.
fn estimate_bytes((done_bytes, done_entries): (u64, u64), entries: u64, memory_bytes: u64) -> u64 {
    let is_telling = done_entries >= TELLING_ENTRIES.max(entries) / TELLING_SHARE;
    let estimate = match is_telling {
        true => {
            let share = entries.max(done_entries) as f64 / done_entries as f64;
            (done_bytes as f64 * share) as u64
        }
        false => memory_bytes,
    };
    estimate.max(done_bytes)
}

/// How far a piece of work is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkProgress {
    /// Bytes that are done.
    pub done_bytes: u64,
    /// Entries that are done.
    pub done_entries: u64,
    /// Bytes in all; of a snapshot that is being taken an estimate.
    pub expected_bytes: Option<u64>,
    /// Entries in all, about.
    pub expected_entries: Option<u64>,
}

/// A snapshot that is being taken or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Which.
    pub id: SnapshotId,
    /// The client that asked for it, as CLIENT ID says it; none for the server itself.
    pub client: Option<u64>,
    /// When it began, in microseconds since the Unix epoch.
    pub since_us: u64,
    /// How far it is.
    pub progress: WorkProgress,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(entries: u64, memory_bytes: u64) -> Arc<Work> {
        Work::new(Expected { entries: Some(entries), memory_bytes })
    }

    #[test]
    fn the_total_is_guessed_from_memory_and_then_from_what_is_done() {
        let work = of(1_000, 90_000);
        let expected = |work: &Work| work.progress().expected_bytes;
        assert_eq!(expected(&work), Some(90_000));
        work.add(500, 10);
        assert_eq!(expected(&work), Some(90_000));
        work.add(500, 10);
        assert_eq!(expected(&work), Some(50_000));
        // Keys were added meanwhile.
        work.add(100_000, 1_980);
        assert_eq!(expected(&work), Some(101_000));
        assert_eq!(work.progress().expected_entries, Some(2_000));
        assert_eq!(expected(&of(0, 64)), Some(64));
        // One large value, of which a part is written.
        let work = of(1, 6_000);
        work.add(1_000, 1);
        assert_eq!(expected(&work), Some(6_000));
    }

    #[test]
    fn a_total_that_is_known_is_told() {
        let work = Work::of_unknown_size();
        work.add(5, 0);
        assert_eq!(work.progress().expected_bytes, None);
        work.total_bytes.store(10, Ordering::Relaxed);
        assert_eq!(work.progress().expected_bytes, Some(10));
    }

    #[tokio::test]
    async fn cancelling_is_seen_before_and_after() {
        let work = Work::of_unknown_size();
        assert!(!work.is_cancelled());
        work.cancel();
        work.cancelled().await;
        assert!(work.is_cancelled());
    }
}
