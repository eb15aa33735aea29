//! The first time through the log: which changes of each key count.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::ops::Range;

use cutwater_engine::entry::{DecodeError, Op};
use cutwater_engine::slot::slot_of;
use cutwater_engine::types::{DbIndex, Slot};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::clears::Clears;

/// The most keys of one index: seven eighths of a power of two, to which its table grows.
pub const INDEX_KEYS: usize = (1 << 20) / 8 * 7;

/// Why ops could not be indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The bytes are no ops.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// More keys of one slot have changed than an index holds.
    #[error("more than {keys} keys of slot {slot} have changed")]
    Keys {
        /// The slot.
        slot: Slot,
        /// How many an index holds.
        keys: usize,
    },
    /// There are more ops than can be numbered.
    #[error("more than {} changes were made", u32::MAX)]
    Ops,
}

/// A key, as far as an index knows it: a keyed hash of it and its database. Two keys are mistaken
/// for one another with a probability of 1 in 2^128 for each pair, and nobody knows the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyHash([u32; 4]);

impl Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.0[0]) << 32 | u64::from(self.0[1]));
    }
}

/// What is known of the changes of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changes {
    /// The last op that replaces it whole; 0: none does.
    pub(super) since: u32,
    /// The last op of all.
    pub(super) last: u32,
    slot: Slot,
}

/// Indexes the ops of a range of slots.
#[derive(Debug)]
pub struct Index {
    seed: u64,
    slots: Range<u16>,
    limit_keys: usize,
    /// How many ops there were, of any slot.
    ops: u32,
    keys: HashMap<KeyHash, Changes, BuildHasherDefault<Truncated>>,
    clears: Clears,
    /// Kept for its memory.
    scratch: Vec<u8>,
}

impl Index {
    /// An index of these slots, of at most [`INDEX_KEYS`]. The seed is random.
    pub fn new(slots: Range<u16>, seed: u64) -> Self {
        Self::with_limit(slots, seed, INDEX_KEYS)
    }

    /// [`Index::new`] with another limit.
    pub fn with_limit(slots: Range<u16>, seed: u64, limit_keys: usize) -> Self {
        Self {
            seed,
            clears: Clears::new(slots.clone()),
            slots,
            limit_keys,
            ops: 0,
            keys: HashMap::default(),
            scratch: Vec::new(),
        }
    }

    /// Notes the next ops of the log. If there are too many keys, it narrows to the lower half of
    /// its slots, as often as need be.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn add(&mut self, mut ops: &[u8]) -> Result<(), IndexError> {
        while !ops.is_empty() {
            let op = Op::decode(&mut ops)?;
            self.ops = self.ops.checked_add(1).ok_or(IndexError::Ops)?;
            match op {
                Op::Clear { first, last, db } => self.clears.add(first, last, db, self.ops),
                Op::Put { db, key, .. } | Op::Delete { db, key } => self.note(db, key, true)?,
                Op::Expire { db, key, .. } | Op::Write { db, key, .. } => {
                    self.note(db, key, false)?;
                }
            }
        }
        Ok(())
    }

    /// The slots that it indexes; fewer than it began with if it had to narrow.
    pub fn slots(&self) -> Range<u16> {
        self.slots.clone()
    }

    /// How many keys have changed.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn clears(&self) -> &Clears {
        &self.clears
    }

    /// What is known of a key; `None` if it is of another range.
    pub(super) fn find(&mut self, db: DbIndex, key: &[u8]) -> Option<(KeyHash, Changes, Slot)> {
        let slot = slot_of(key);
        if !self.slots.contains(&slot.0) {
            return None;
        }
        let hash = self.hash(db, key);
        self.keys.get(&hash).map(|changes| (hash, *changes, slot))
    }

    fn note(&mut self, db: DbIndex, key: &[u8], replaces: bool) -> Result<(), IndexError> {
        let slot = slot_of(key);
        if !self.slots.contains(&slot.0) {
            return Ok(());
        }
        let (hash, number) = (self.hash(db, key), self.ops);
        let new = Changes { since: 0, last: number, slot };
        let changes = self.keys.entry(hash).or_insert(new);
        changes.last = number;
        if replaces {
            changes.since = number;
        }
        while self.keys.len() > self.limit_keys {
            self.narrow()?;
        }
        Ok(())
    }

    /// Forgets the upper half of its slots.
    fn narrow(&mut self) -> Result<(), IndexError> {
        if self.slots.len() <= 1 {
            let (slot, keys) = (Slot(self.slots.start), self.limit_keys);
            return Err(IndexError::Keys { slot, keys });
        }
        self.slots.end -= (self.slots.len() / 2) as u16;
        let slots = self.slots.clone();
        self.keys.retain(|_, changes| slots.contains(&changes.slot.0));
        Ok(())
    }

    fn hash(&mut self, db: DbIndex, key: &[u8]) -> KeyHash {
        self.scratch.clear();
        self.scratch.push(db.0);
        self.scratch.extend_from_slice(key);
        let hash = xxh3_128_with_seed(&self.scratch, self.seed);
        KeyHash([0, 32, 64, 96].map(|shift| (hash >> shift) as u32))
    }
}

/// The hash of what is a hash: part of it.
#[derive(Debug, Default)]
pub(super) struct Truncated(u64);

impl Hasher for Truncated {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
