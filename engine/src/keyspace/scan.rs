//! Going through the keys: SCAN's cursor, keys of a slot, a random key.
//!
//! A cursor is a slot and the first 48 bits of a hash: the place where to go on, whatever the
//! tables look like by then. A call visits whole groups of entries (buckets), so every key that is
//! there during the whole iteration is returned at least once; after a resize some are twice.

use super::slot_table::SlotTable;
use super::table::{MAX_DEPTH, Subtable};
use super::{EntryView, Keyspace};
use crate::slot::SLOT_COUNT;
use crate::types::{DbIndex, Slot};

/// Bits of the hash that a cursor keeps: as many as decide on a bucket.
const CURSOR_HASH_BITS: u32 = MAX_DEPTH + 16;
/// Slots that one call of `scan` looks at, so that an empty keyspace costs no long pause either.
const SCAN_SLOTS: usize = 4096;
/// Random picks before `random` searches from the last place on.
const RANDOM_TRIES: usize = 16;
/// Random words of a chosen subtable before `random` takes the next entry there.
const RANDOM_WORD_TRIES: usize = 64;

/// Where a scan goes on. As a number it is what SCAN shows; 0 is the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScanCursor {
    slot: u16,
    /// The first bits of the hash, in the upper bits.
    hash: u64,
}

impl ScanCursor {
    /// The beginning of a slot.
    pub fn of_slot(slot: Slot) -> Self {
        Self { slot: slot.0, hash: 0 }
    }

    /// The slot in which the scan goes on; it tells the shard.
    pub fn slot(self) -> Slot {
        Slot(self.slot)
    }

    /// The cursor as SCAN's number.
    pub fn to_u64(self) -> u64 {
        u64::from(self.slot) << CURSOR_HASH_BITS | self.hash >> (64 - CURSOR_HASH_BITS)
    }

    /// The cursor of SCAN's number; `None` if there is no such slot.
    pub fn from_u64(cursor: u64) -> Option<Self> {
        let slot =
            u16::try_from(cursor >> CURSOR_HASH_BITS).ok().filter(|slot| *slot < SLOT_COUNT)?;
        Some(Self { slot, hash: cursor << (64 - CURSOR_HASH_BITS) })
    }
}

impl Keyspace {
    /// Calls `f` with the entries of one database from the cursor on, until about
    /// `budget_entries` of all databases were visited (and at least one group). Returns where to go
    /// on: at the end of this keyspace's range that is the first slot behind it, and `None` when
    /// that was the last of all slots.
    pub fn scan(
        &self,
        cursor: ScanCursor,
        db: DbIndex,
        budget_entries: usize,
        mut f: impl FnMut(EntryView<'_>),
    ) -> Option<ScanCursor> {
        let mut at = cursor.max(ScanCursor { slot: self.range.start, hash: 0 });
        let (mut visited, mut slots) = (0, 0);
        while at.slot < self.range.end && slots < SCAN_SLOTS {
            let slot = &self.slots[usize::from(at.slot - self.range.start)];
            let next_hash = visit_group(slot, at.hash, |entry| {
                visited += 1;
                if entry.db() == db {
                    f(entry);
                }
            });
            at = match next_hash {
                Some(hash) => ScanCursor { slot: at.slot, hash },
                None => ScanCursor { slot: at.slot + 1, hash: 0 },
            };
            slots += usize::from(next_hash.is_none());
            if visited >= budget_entries.max(1) {
                break;
            }
        }
        (at.slot < SLOT_COUNT).then_some(at)
    }

    /// Calls `f` with up to `count` entries of a slot, of all databases.
    pub fn keys_in_slot(&self, slot: Slot, count: usize, mut f: impl FnMut(EntryView<'_>)) {
        let table = &self.slots[self.index(slot)];
        let (mut left, mut hash) = (count, Some(0));
        while let (Some(at), true) = (hash, left > 0) {
            hash = visit_group(table, at, |entry| {
                if left > 0 {
                    left -= 1;
                    f(entry);
                }
            });
        }
    }

    /// A key of the database, about evenly distributed: `random` should be. Where the database has
    /// few of many keys, this may have to search all of them.
    pub fn random(&self, db: DbIndex, random: u64) -> Option<EntryView<'_>> {
        if self.len(db) == 0 {
            return None;
        }
        let mut random = RandomWords(random);
        let mut last = ScanCursor::of_slot(Slot(self.range.start));
        for _ in 0..RANDOM_TRIES {
            let Some((index, entry)) = self.random_entry(&mut random) else { continue };
            if entry.db() == db {
                return Some(entry);
            }
            last = ScanCursor::of_slot(Slot(self.range.start + index as u16));
        }
        self.first_from(last, db)
            .or_else(|| self.first_from(ScanCursor::of_slot(Slot(self.range.start)), db))
    }

    /// An entry of any database: a slot by its number of keys, a subtable likewise, then any word.
    fn random_entry(&self, random: &mut RandomWords) -> Option<(usize, EntryView<'_>)> {
        let mut nth = random.below(self.total_len());
        let (index, slot) = self.slots.iter().enumerate().find(|(_, slot)| {
            let found = nth < slot.keys;
            nth -= if found { 0 } else { slot.keys };
            found
        })?;
        let table = slot.tables().iter().find(|table| {
            let found = nth < u64::from(table.len());
            nth -= if found { 0 } else { u64::from(table.len()) };
            found
        })?;
        random_of_table(table, random).map(|entry| (index, entry))
    }

    fn first_from(&self, cursor: ScanCursor, db: DbIndex) -> Option<EntryView<'_>> {
        let begin = usize::from(cursor.slot - self.range.start);
        self.slots[begin..].iter().flat_map(SlotTable::tables).find_map(|table| {
            let mut found = None;
            for bucket in 0..table.bucket_count() {
                table.for_chain(bucket, |entry, _| {
                    found = found.or_else(|| (entry.db() == db).then_some(entry));
                });
                if found.is_some() {
                    break;
                }
            }
            found
        })
    }
}

/// Calls `f` with the entries of the bucket that covers a hash; returns the first hash behind it,
/// or `None` at the end of the slot.
fn visit_group<'a>(
    slot: &'a SlotTable,
    hash: u64,
    mut f: impl FnMut(EntryView<'a>),
) -> Option<u64> {
    let table = slot.table_of(hash)?;
    let bucket = table.bucket_of(hash);
    table.for_chain(bucket, |entry, _| f(entry));
    table.hash_after(bucket)
}

fn random_of_table<'a>(table: &'a Subtable, random: &mut RandomWords) -> Option<EntryView<'a>> {
    for _ in 0..RANDOM_WORD_TRIES {
        let bucket = random.below(u64::from(table.bucket_count())) as u32;
        // A longer chain is not drawn more often; that is the unevenness which "about" means.
        let word = random.below(table.chain_words(bucket) as u64) as usize;
        if let Some(entry) = table.nth(bucket, word) {
            return Some(entry);
        }
    }
    (0..table.bucket_count()).find_map(|bucket| table.nth(bucket, 0))
}

/// More words of one random word (splitmix64).
struct RandomWords(u64);

impl RandomWords {
    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^= word >> 31;
        ((u128::from(word) * u128::from(bound)) >> 64) as u64
    }
}
