//! The table of one slot: its subtables by the top bits of the hash, and how they grow, split,
//! shrink and merge.
//!
//! A slot without keys has no subtable, and nearly every other slot has one. A subtable grows by a
//! fifth to a third until it has [`MAX_BUCKETS`], then splits in two; it shrinks when it is
//! mostly empty, and merges with its other half. So a resize never touches more than some thousand
//! entries. Subtables stand in the order of their hashes.
//!
//! While a walk goes on, only subtables that it has passed (or that were made under it) change
//! their shape; the caller says which stamp that is.

use super::hash::KeyHasher;
use super::table::{BUCKET_ENTRIES, MAX_BUCKETS, MAX_DEPTH, Subtable};
use crate::types::Position;

/// Subtables with fewer entries than this may merge with their other half.
const MERGE_LEN: u32 = capacity_of(MAX_BUCKETS) / 4;

/// Entries that a subtable of this size holds before it grows: seven eighths of its words.
pub(super) const fn capacity_of(bucket_count: u32) -> u32 {
    if bucket_count == 1 {
        BUCKET_ENTRIES as u32
    } else {
        bucket_count * (BUCKET_ENTRIES as u32) * 7 / 8
    }
}

/// The next larger number of buckets: 1 to 8, then three for each doubling (10, 12, 16, 20, ...),
/// all of them size classes of the usual allocators.
fn next_bucket_count(bucket_count: u32) -> u32 {
    if bucket_count < 8 {
        return bucket_count + 1;
    }
    let doubling = 1 << (31 - bucket_count.leading_zeros());
    match bucket_count * 4 / doubling {
        4 => doubling / 4 * 5,
        5 => doubling / 4 * 6,
        _ => doubling * 2,
    }
}

/// The smallest number of buckets that holds so many entries.
fn bucket_count_for(len: u32) -> u32 {
    let mut bucket_count = 1;
    while capacity_of(bucket_count) < len && bucket_count < MAX_BUCKETS {
        bucket_count = next_bucket_count(bucket_count);
    }
    bucket_count
}

#[derive(Debug, Default)]
enum Tables {
    #[default]
    None,
    One(Subtable),
    Many(Vec<Subtable>),
}

/// One slot.
#[derive(Debug, Default)]
pub(super) struct SlotTable {
    tables: Tables,
    /// How many keys there are, in all databases.
    pub(super) keys: u64,
    /// How many of them have an expiry.
    pub(super) expiring: u64,
    /// The place in the shard's log of the last record that concerns this slot.
    pub(super) last_position: Position,
}

/// Whether subtables may change their shape now, and with which stamp.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// The stamp of new buckets: that of the walk that goes on, or of the last one.
    pub(super) stamp: u16,
    /// Whether a walk goes on.
    pub(super) walking: bool,
}

impl Shape {
    pub(super) fn may_change(self, table: &Subtable) -> bool {
        !self.walking || table.walked == self.stamp
    }
}

impl SlotTable {
    pub(super) fn tables(&self) -> &[Subtable] {
        match &self.tables {
            Tables::None => &[],
            Tables::One(table) => std::slice::from_ref(table),
            Tables::Many(tables) => tables,
        }
    }

    pub(super) fn tables_mut(&mut self) -> &mut [Subtable] {
        match &mut self.tables {
            Tables::None => &mut [],
            Tables::One(table) => std::slice::from_mut(table),
            Tables::Many(tables) => tables,
        }
    }

    /// The index of the subtable that covers a hash; there must be one.
    pub(super) fn index_of(&self, hash: u64) -> usize {
        match &self.tables {
            Tables::Many(tables) => tables.partition_point(|table| table.prefix() <= hash) - 1,
            _ => 0,
        }
    }

    /// The subtable that covers a hash.
    pub(super) fn table_of(&self, hash: u64) -> Option<&Subtable> {
        match &self.tables {
            Tables::One(table) => Some(table),
            Tables::None => None,
            Tables::Many(tables) => tables.get(self.index_of(hash)),
        }
    }

    /// The subtable that covers a hash.
    pub(super) fn table_of_mut(&mut self, hash: u64) -> Option<&mut Subtable> {
        let index = self.index_of(hash);
        self.tables_mut().get_mut(index)
    }

    /// The subtable that covers a hash; the first one is made here.
    pub(super) fn table_or_new(&mut self, hash: u64, stamp: u16) -> &mut Subtable {
        if let Tables::None = self.tables {
            self.tables = Tables::One(Subtable::new(0, 0, 1, stamp));
        }
        self.table_of_mut(hash).expect("subtables cover all hashes")
    }

    /// Takes all subtables out, and all keys with them.
    pub(super) fn take_tables(&mut self) -> Vec<Subtable> {
        self.keys = 0;
        self.expiring = 0;
        match std::mem::take(&mut self.tables) {
            Tables::None => Vec::new(),
            Tables::One(table) => vec![table],
            Tables::Many(tables) => tables,
        }
    }

    /// What the buckets and the directory occupy.
    pub(super) fn memory_bytes(&self) -> usize {
        self.directory_bytes() + self.tables().iter().map(Subtable::memory_bytes).sum::<usize>()
    }

    fn directory_bytes(&self) -> usize {
        match &self.tables {
            Tables::Many(tables) => tables.capacity() * size_of::<Subtable>(),
            _ => 0,
        }
    }

    /// Whether the subtable is fuller or emptier than it should be.
    pub(super) fn is_misshapen(table: &Subtable) -> bool {
        let capacity = capacity_of(table.bucket_count());
        table.len() > capacity
            || table.len() < capacity / 4 && table.bucket_count() > 1
            || table.depth() > 0 && table.len() < MERGE_LEN
    }

    /// Whether a subtable that may not change its shape has grown too full to wait.
    pub(super) fn is_overfull(table: &Subtable) -> bool {
        let capacity = capacity_of(table.bucket_count());
        table.len() > capacity + capacity / 2
    }

    /// Lets the subtable that covers this hash grow, split, shrink or merge, if it should and may.
    /// Returns by how many bytes the buckets and the directory grew.
    pub(super) fn reshape(&mut self, hash: u64, shape: Shape, hasher: &KeyHasher) -> isize {
        let index = self.index_of(hash);
        let Some(table) = self.tables().get(index) else { return 0 };
        if !shape.may_change(table) {
            return 0;
        }
        let (len, bucket_count) = (table.len(), table.bucket_count());
        let capacity = capacity_of(bucket_count);
        if len > capacity {
            if bucket_count < MAX_BUCKETS {
                return self.resize(index, bucket_count_for(len), shape);
            }
            if table.depth() < MAX_DEPTH {
                return self.split(index, shape, hasher);
            }
            return 0;
        }
        if table.depth() > 0
            && len < MERGE_LEN
            && let Some(lower) = self.mergeable(index, shape)
        {
            // What has merged may be small enough to merge again: at most `MAX_DEPTH` times.
            return self.merge(lower, shape) + self.reshape(hash, shape, hasher);
        }
        if len < capacity / 4 && bucket_count > 1 {
            // Room for half as many again, so that growing does not follow at once.
            return self.resize(index, bucket_count_for(len + len / 2 + 1), shape);
        }
        0
    }

    fn resize(&mut self, index: usize, bucket_count: u32, shape: Shape) -> isize {
        let table = &mut self.tables_mut()[index];
        let before = table.memory_bytes();
        table.resize(bucket_count, shape.stamp);
        table.memory_bytes() as isize - before as isize
    }

    fn split(&mut self, index: usize, shape: Shape, hasher: &KeyHasher) -> isize {
        let before = self.directory_bytes() + self.tables()[index].memory_bytes();
        let table = &mut self.tables_mut()[index];
        let bucket_count = bucket_count_for(table.len() / 2 + table.len() / 8);
        let upper = table.split(bucket_count, shape.stamp, hasher);
        match &mut self.tables {
            Tables::Many(tables) => tables.insert(index + 1, upper),
            tables => {
                if let Tables::One(lower) = std::mem::take(tables) {
                    *tables = Tables::Many(vec![lower, upper]);
                }
            }
        }
        let halves = &self.tables()[index..=index + 1];
        let after = halves.iter().map(Subtable::memory_bytes).sum::<usize>();
        (self.directory_bytes() + after) as isize - before as isize
    }

    /// The index of the lower half, if the subtable and its other half should and may merge.
    fn mergeable(&self, index: usize, shape: Shape) -> Option<usize> {
        let tables = self.tables();
        let lower = match tables.get(index + 1) {
            Some(upper) if tables[index].is_lower_half_of(upper) => index,
            _ => index.checked_sub(1)?,
        };
        let (low, high) = (&tables[lower], &tables[lower + 1]);
        let should = low.is_lower_half_of(high) && low.len() + high.len() < 2 * MERGE_LEN;
        (should && shape.may_change(low) && shape.may_change(high)).then_some(lower)
    }

    fn merge(&mut self, lower: usize, shape: Shape) -> isize {
        let halves = &self.tables()[lower..=lower + 1];
        let before =
            self.directory_bytes() + halves.iter().map(Subtable::memory_bytes).sum::<usize>();
        let Tables::Many(tables) = &mut self.tables else { return 0 };
        let upper = tables.remove(lower + 1);
        let len = tables[lower].len() + upper.len();
        tables[lower].merge(upper, bucket_count_for(len + len / 4), shape.stamp);
        if tables.len() == 1 {
            self.tables = tables.pop().map_or(Tables::None, Tables::One);
        } else if tables.len() < tables.capacity() / 4 {
            tables.shrink_to(tables.len() * 2);
        }
        (self.directory_bytes() + self.tables()[lower].memory_bytes()) as isize - before as isize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_grow_by_a_third_at_most_and_keep_to_size_classes() {
        let mut sizes = vec![1];
        while sizes[sizes.len() - 1] < MAX_BUCKETS {
            sizes.push(next_bucket_count(sizes[sizes.len() - 1]));
        }
        assert_eq!(sizes[..14], [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32]);
        assert_eq!(sizes[sizes.len() - 4..], [256, 320, 384, 512]);
        for len in 0..=capacity_of(MAX_BUCKETS) {
            let fitting = sizes.iter().find(|size| capacity_of(**size) >= len);
            assert_eq!(Some(&bucket_count_for(len)), fitting);
        }
    }
}
