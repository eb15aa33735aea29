//! Finding expired keys in slices.
//!
//! Every slot has a lower bound of its expiries. A slice visits only slots whose bound is due,
//! reads only the memory of entries that are flagged as expiring, and reports the expired ones; the
//! caller deletes and logs them, for a deletion by expiry is a mutation like any other. A slot that
//! was visited to its end gets its bound anew.

use super::{EntryView, Keyspace};

/// Slots whose bounds one slice compares; a round over all 16,384 takes two or more slices.
const SLICE_SLOTS: usize = 8192;

/// How far the search for expired keys has come.
#[derive(Debug, Default)]
pub(super) struct ExpiryVisit {
    /// The slot that is due next, as an index.
    pub(super) index: usize,
    /// Where to go on in that slot; 0 is its beginning.
    pub(super) hash: u64,
    /// The lowest expiry seen in that slot so far, or put into it meanwhile.
    bound_ms: u64,
}

/// What [`Keyspace::expire_slice`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpireProgress {
    /// Entries that were visited.
    pub visited: usize,
    /// Expired keys that were reported and taken.
    pub expired: usize,
    /// Whether the budget ran out before the round over all slots was complete.
    pub more: bool,
}

impl Keyspace {
    /// Reports keys that expire at or before `now_ms`, until about `budget_entries` were visited or
    /// the round over all slots is complete. `f` returns whether the caller will delete the key
    /// after this call; one that it leaves (under an intent, say) is reported in the next round.
    pub fn expire_slice(
        &mut self,
        now_ms: u64,
        budget_entries: usize,
        mut f: impl FnMut(EntryView<'_>) -> bool,
    ) -> ExpireProgress {
        let mut progress = ExpireProgress { more: true, ..Default::default() };
        for _ in 0..SLICE_SLOTS {
            let Some(bound) = self.next_expiry_ms.get(self.expiry_visit.index) else {
                self.expiry_visit = ExpiryVisit::default();
                progress.more = false;
                return progress;
            };
            if *bound > now_ms {
                self.expiry_visit = ExpiryVisit::of(self.expiry_visit.index + 1);
                continue;
            }
            if !self.visit_slot(now_ms, budget_entries, &mut progress, &mut f) {
                return progress;
            }
        }
        progress
    }

    /// A lower bound of the expiries of all keys: nothing expires before.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.next_expiry_ms.iter().copied().min().filter(|bound| *bound != u64::MAX)
    }

    /// Visits the slot that is due; false if the budget ran out within it.
    fn visit_slot(
        &mut self,
        now_ms: u64,
        budget_entries: usize,
        progress: &mut ExpireProgress,
        f: &mut impl FnMut(EntryView<'_>) -> bool,
    ) -> bool {
        let visit = &mut self.expiry_visit;
        let slot = &self.slots[visit.index];
        if visit.hash == 0 {
            visit.bound_ms = u64::MAX;
        }
        while let Some(table) = slot.table_of(visit.hash) {
            if progress.visited >= budget_entries.max(1) {
                return false;
            }
            let bucket = table.bucket_of(visit.hash);
            // An empty group counts too: a subtable may be full of them.
            progress.visited += 1;
            table.for_chain(bucket, |entry, expires| {
                progress.visited += 1;
                let Some(at) = expires.then(|| entry.expires_at_ms()).flatten() else { return };
                if at <= now_ms && f(entry) {
                    progress.expired += 1;
                } else {
                    visit.bound_ms = visit.bound_ms.min(at);
                }
            });
            match table.hash_after(bucket) {
                Some(hash) => visit.hash = hash,
                None => break,
            }
        }
        self.next_expiry_ms[visit.index] = visit.bound_ms;
        *visit = ExpiryVisit::of(visit.index + 1);
        true
    }

    /// Keeps the bounds below an expiry that an entry of this slot got.
    pub(super) fn note_expiry(&mut self, index: usize, expires_at_ms: Option<u64>) {
        let Some(at) = expires_at_ms else { return };
        let bound = &mut self.next_expiry_ms[index];
        *bound = at.min(*bound);
        if self.expiry_visit.index == index {
            self.expiry_visit.bound_ms = at.min(self.expiry_visit.bound_ms);
        }
    }
}

impl ExpiryVisit {
    fn of(index: usize) -> Self {
        Self { index, hash: 0, bound_ms: u64::MAX }
    }
}
