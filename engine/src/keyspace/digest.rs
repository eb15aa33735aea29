//! Digests of slots: for each slot a sum of keyed hashes over everything in it, which does not
//! depend on the order in which entries are met, on the number of shards, or on how a value is
//! stored. Two keyspaces with the same seed and the same sums hold the same entries.
//!
//! The canonical elements of an entry (all integers little-endian), each hashed with xxh3-128 and
//! the seed, and added modulo 2^128:
//!
//! - the head: database (1 byte), type (1), whether it expires (1), expiry in milliseconds or 0
//!   (8), length of the value (8), length of the key (4), the key; and the value itself, if that
//!   has at most [`SHORT_VALUE_BYTES`];
//! - of a longer value each run of [`PIECE_BYTES`] from offset 0 on, under a seed of its own: the
//!   low half of the head's hash, plus the run's number times a constant. So runs of different
//!   entries, or in other places, never stand for one another.
//!
//! The seed is random for each snapshot: nobody can make two values that collide in advance. These
//! sums find accidents and bugs; forgery is what sealing is against.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::PIECE_BYTES;
use crate::entry::ValueKind;
use crate::types::{DbIndex, Slot};

/// Values up to this length are hashed together with their head.
const SHORT_VALUE_BYTES: usize = 1024;
/// Spreads the numbers of the runs of a value over their seeds (as in splitmix64).
const RUN_MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// The sums of a contiguous range of slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotDigests {
    /// The first slot.
    pub first: Slot,
    /// One sum for each slot from there on.
    pub sums: Vec<u128>,
}

/// Everything of an entry but its value.
#[derive(Clone, Copy, Debug)]
pub struct EntryHead<'a> {
    /// The logical database.
    pub db: DbIndex,
    /// The key.
    pub key: &'a [u8],
    /// The type of the value.
    pub kind: ValueKind,
    /// When it expires, in milliseconds since the Unix epoch.
    pub expires_at_ms: Option<u64>,
    /// The length of the value, in bytes.
    pub value_len: usize,
}

/// Adds entries to the sums of their slots.
#[derive(Debug)]
pub struct Digester {
    seed: u64,
    digests: SlotDigests,
    /// Kept for its memory.
    scratch: Vec<u8>,
    /// Off only to measure what it costs.
    #[cfg(test)]
    pub(super) enabled: bool,
}

impl Digester {
    /// Nothing yet, for a range of slots.
    pub fn new(slots: Range<u16>, seed: u64) -> Self {
        let digests = SlotDigests { first: Slot(slots.start), sums: vec![0; slots.len()] };
        Self {
            seed,
            digests,
            scratch: Vec::new(),
            #[cfg(test)]
            enabled: true,
        }
    }

    /// The sums.
    pub fn into_digests(self) -> SlotDigests {
        self.digests
    }

    /// Adds a whole entry.
    pub fn add(&mut self, slot: Slot, head: &EntryHead<'_>, value: &[u8]) {
        let hash = self.add_head(slot, head, value);
        for (index, run) in value.chunks(PIECE_BYTES).enumerate() {
            self.add_run(slot, hash, head.value_len, index, run);
        }
    }

    /// Adds the head of an entry, whose value (or its first run) is given, and answers what its
    /// runs are added with.
    pub fn add_head(&mut self, slot: Slot, head: &EntryHead<'_>, value: &[u8]) -> u64 {
        #[cfg(test)]
        if !self.enabled {
            return 0;
        }
        let bytes = &mut self.scratch;
        bytes.clear();
        bytes.extend_from_slice(&[head.db.0, head.kind as u8, head.expires_at_ms.is_some().into()]);
        bytes.extend_from_slice(&head.expires_at_ms.unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(&(head.value_len as u64).to_le_bytes());
        bytes.extend_from_slice(&(head.key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(head.key);
        if head.value_len <= SHORT_VALUE_BYTES {
            bytes.extend_from_slice(value);
        }
        let hash = xxh3_128_with_seed(bytes, self.seed);
        self.sum(slot, hash);
        hash as u64
    }

    /// Adds one run of a value; of a short one, which is part of its head, nothing.
    pub fn add_run(&mut self, slot: Slot, head: u64, value_len: usize, index: usize, run: &[u8]) {
        if value_len > SHORT_VALUE_BYTES {
            let seed = head.wrapping_add((index as u64 + 1).wrapping_mul(RUN_MULTIPLIER));
            self.sum(slot, xxh3_128_with_seed(run, seed));
        }
    }

    fn sum(&mut self, slot: Slot, hash: u128) {
        let sum = &mut self.digests.sums[usize::from(slot.0 - self.digests.first.0)];
        *sum = sum.wrapping_add(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(head: &EntryHead<'_>, value: &[u8], seed: u64) -> u128 {
        let mut digester = Digester::new(7..9, seed);
        digester.add(Slot(8), head, value);
        let digests = digester.into_digests();
        assert_eq!((digests.first, digests.sums[0]), (Slot(7), 0));
        digests.sums[1]
    }

    /// Stored in manifests for ever: must not change.
    #[test]
    fn golden() {
        let head = |value_len, expires_at_ms| EntryHead {
            db: DbIndex(3),
            key: b"key",
            kind: ValueKind::String,
            expires_at_ms,
            value_len,
        };
        let long: Vec<u8> = (0..PIECE_BYTES + 5).map(|at| at as u8).collect();
        let found = [
            digest(&head(5, None), b"value", 1),
            digest(&head(5, Some(7)), b"value", 1),
            digest(&head(long.len(), None), &long, 2),
        ];
        let found = found.map(|digest| format!("{digest:032x}"));
        assert_eq!(found, GOLDEN);
    }

    const GOLDEN: [&str; 3] = [
        "28556488513854f9596cb5950670afda",
        "a5965027e1bad467b7cbb6b9b31d8658",
        "b096528b7d54da80a8190fcb36df7a41",
    ];

    #[test]
    fn every_part_of_an_entry_counts() {
        let long: Vec<u8> = (0..3 * PIECE_BYTES).map(|at| (at / 77) as u8).collect();
        for value in [&b"value"[..], &long[..SHORT_VALUE_BYTES + 1], &long] {
            let head = EntryHead {
                db: DbIndex(0),
                key: b"key",
                kind: ValueKind::String,
                expires_at_ms: None,
                value_len: value.len(),
            };
            let mut seen = vec![digest(&head, value, 1), digest(&head, value, 2)];
            seen.push(digest(&EntryHead { db: DbIndex(1), ..head }, value, 1));
            seen.push(digest(&EntryHead { key: b"kex", ..head }, value, 1));
            seen.push(digest(&EntryHead { expires_at_ms: Some(5), ..head }, value, 1));
            seen.push(digest(&EntryHead { value_len: value.len() - 1, ..head }, &value[1..], 1));
            for at in [0, value.len() / 2, value.len() - 1] {
                let mut changed = value.to_vec();
                changed[at] ^= 1;
                seen.push(digest(&head, &changed, 1));
            }
            let count = seen.len();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), count);
        }
        let mut swapped = long.clone();
        swapped.rotate_left(PIECE_BYTES);
        let head = EntryHead {
            db: DbIndex(0),
            key: b"key",
            kind: ValueKind::String,
            expires_at_ms: None,
            value_len: long.len(),
        };
        assert_ne!(digest(&head, &long, 1), digest(&head, &swapped, 1), "runs have their places");
    }
}
