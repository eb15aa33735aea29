//! Clearing slots and freeing in slices what was cleared.
//!
//! Freeing millions of entries takes seconds, so `clear` only detaches whole tables; so are huge
//! values that are removed or replaced. They wait in the graveyard until `reclaim_slice` frees
//! them, and count as memory until then. Tables that a walk has not passed go to the walk instead,
//! which serializes and frees them. Clearing one database of several in use is the exception: its
//! entries are searched for and freed at once.

use std::ops::Range;

use super::Keyspace;
use super::entry_layout::Entry;
use super::slot_table::SlotTable;
use super::table::Subtable;
use super::value::{LargeValue, ValueView};
use crate::types::{DATABASE_COUNT, DbIndex, Slot};

/// Values with more pieces than this (1 MiB) are freed in slices.
const DEFERRED_PIECES: usize = 16;
/// What freeing a piece of a value takes of the budget, in entries.
const PIECE_COST: usize = 16;

/// A table without a slot, emptied from its first bucket on.
#[derive(Debug)]
pub(super) struct Detached {
    pub(super) table: Subtable,
    /// The bucket that is next.
    pub(super) bucket: u32,
}

impl Detached {
    /// Frees the entries of the next bucket; returns their number and the bytes freed.
    pub(super) fn free_bucket(&mut self) -> (usize, usize) {
        let (mut entries, before) = (0, self.table.memory_bytes());
        let mut freed = 0;
        self.table.take_from_chain(
            self.bucket,
            |_| true,
            |entry| {
                entries += 1;
                freed += entry.view().memory_bytes();
            },
        );
        self.bucket += 1;
        (entries, freed + before - self.table.memory_bytes())
    }

    pub(super) fn is_done(&self) -> bool {
        self.bucket == self.table.bucket_count()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let mut bytes = self.table.memory_bytes();
        for bucket in 0..self.table.bucket_count() {
            self.table.for_chain(bucket, |entry, _| bytes += entry.memory_bytes());
        }
        bytes
    }
}

/// What waits to be freed.
#[derive(Debug, Default)]
pub(super) struct Graveyard {
    tables: Vec<Detached>,
    values: Vec<LargeValue>,
}

impl Graveyard {
    pub(super) fn take_table(&mut self, detached: Detached) {
        self.tables.push(detached);
    }

    /// Frees an entry, but a huge value of it later; returns the bytes that are not freed yet.
    pub(super) fn take_entry(&mut self, entry: Entry) -> usize {
        match entry.view().value() {
            ValueView::Large(value) if value.piece_count() > DEFERRED_PIECES => {
                self.values.push(value.clone());
                value.memory_bytes()
            }
            _ => 0,
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.tables.iter().map(Detached::bytes).sum::<usize>()
            + self.values.iter().map(LargeValue::memory_bytes).sum::<usize>()
    }
}

impl Keyspace {
    /// Removes all keys of these slots (both inclusive, as far as they are of this keyspace), in
    /// one database or in all. Cheap, unless one database of several in use is cleared.
    pub fn clear(&mut self, first: Slot, last: Slot, db: Option<DbIndex>) {
        let begin = first.0.max(self.range.start);
        let end = last.0.saturating_add(1).min(self.range.end);
        if begin >= end {
            return;
        }
        let indices = usize::from(begin - self.range.start)..usize::from(end - self.range.start);
        match db {
            Some(db) if self.len(db) < self.total_len() => {
                if self.len(db) > 0 {
                    indices.for_each(|index| self.clear_database(index, db));
                }
            }
            _ => self.clear_all(indices),
        }
    }

    /// Frees what was cleared, up to about `budget_entries` entries; true if there is more.
    pub fn reclaim_slice(&mut self, budget_entries: usize) -> bool {
        let mut spent = 0;
        while spent < budget_entries.max(1) {
            if let Some(value) = self.graveyard.values.last_mut() {
                let before = value.memory_bytes();
                if value.shorten(1) {
                    self.memory_bytes -= before - value.memory_bytes();
                } else {
                    self.memory_bytes -= before;
                    self.graveyard.values.pop();
                }
                spent += PIECE_COST;
            } else if let Some(detached) = self.graveyard.tables.last_mut() {
                let (entries, freed) = detached.free_bucket();
                self.memory_bytes -= freed;
                spent += entries.max(1);
                if detached.is_done() {
                    self.memory_bytes -= detached.table.memory_bytes();
                    self.graveyard.tables.pop();
                }
            } else {
                return false;
            }
        }
        !(self.graveyard.tables.is_empty() && self.graveyard.values.is_empty())
    }

    /// Frees an entry that was taken out of the tables and is not counted as memory any more.
    pub(super) fn bury(&mut self, entry: Entry) {
        self.memory_bytes += self.graveyard.take_entry(entry);
    }

    /// Detaches the tables of slots.
    fn clear_all(&mut self, indices: Range<usize>) {
        let whole = indices.len() == self.slots.len();
        let only_db = self.only_database();
        for index in indices {
            let slot = &mut self.slots[index];
            if slot.keys == 0 {
                continue;
            }
            match only_db {
                _ if whole => {}
                Some(db) => {
                    self.db_keys[db] -= slot.keys;
                    self.db_expiring[db] -= slot.expiring;
                }
                None => {
                    for (db, (keys, expiring)) in count_by_database(slot).into_iter().enumerate() {
                        self.db_keys[db] -= keys;
                        self.db_expiring[db] -= expiring;
                    }
                }
            }
            self.memory_bytes -= slot.memory_bytes();
            for table in slot.take_tables() {
                self.memory_bytes += table.memory_bytes();
                let detached = Detached { table, bucket: 0 };
                match &mut self.walk {
                    Some(walk) if detached.table.walked != self.stamp => walk.take_over(detached),
                    _ => self.graveyard.take_table(detached),
                }
            }
            self.next_expiry_ms[index] = u64::MAX;
        }
        if whole {
            self.db_keys = [0; DATABASE_COUNT as usize];
            self.db_expiring = [0; DATABASE_COUNT as usize];
        }
    }

    /// Removes the entries of one database from a slot that may have others.
    fn clear_database(&mut self, index: usize, db: DbIndex) {
        let slot = &mut self.slots[index];
        if slot.keys == 0 {
            return;
        }
        let mut removed = Vec::new();
        let before = slot.memory_bytes();
        for table in slot.tables_mut() {
            for bucket in 0..table.bucket_count() {
                let mut found = false;
                table.for_chain(bucket, |entry, _| found |= entry.db() == db);
                if !found {
                    continue;
                }
                if let Some(walk) = &mut self.walk {
                    walk.copy_group(table, bucket, self.stamp);
                }
                table.take_from_chain(
                    bucket,
                    |entry| entry.db() == db,
                    |entry| removed.push(entry),
                );
            }
        }
        self.memory_bytes -= before - slot.memory_bytes();
        let prefixes: Vec<u64> = slot.tables().iter().map(Subtable::prefix).collect();
        for entry in removed {
            let expiring = entry.view().expires_at_ms().is_some();
            self.memory_bytes -= entry.view().memory_bytes();
            self.bury(entry);
            self.count_removed(index, db, expiring);
        }
        for prefix in prefixes {
            self.reshape(index, prefix);
        }
    }

    /// The one database that has keys, if it is one.
    fn only_database(&self) -> Option<usize> {
        let mut used = (0..self.db_keys.len()).filter(|db| self.db_keys[*db] > 0);
        used.next().filter(|_| used.next().is_none())
    }
}

/// The keys of each database, and how many of them have an expiry.
fn count_by_database(slot: &SlotTable) -> [(u64, u64); DATABASE_COUNT as usize] {
    let mut counts = [(0, 0); DATABASE_COUNT as usize];
    for table in slot.tables() {
        for bucket in 0..table.bucket_count() {
            table.for_chain(bucket, |entry, expires| {
                let (keys, expiring) = &mut counts[usize::from(entry.db().0)];
                *keys += 1;
                *expiring += u64::from(expires);
            });
        }
    }
    counts
}
