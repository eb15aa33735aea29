//! Filling a shard at the start: the ops of an image, then the records of the log.
//!
//! Loaders run on threads of their own, read and verify, and hand each shard the ops of its slots
//! in order. The shard applies them between turns, and answers `-LOADING` to everybody else.

use crate::entry::{DecodeError, Op};
use crate::keyspace::ApplyError;
use crate::slot::{SlotMap, slot_of};
use crate::types::{Lsn, ShardId, Slot};

use super::core::ShardCore;

/// Why ops that were read back cannot be applied: they are none that this version has written.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bytes are no ops.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The ops do not fit.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// A run of ops, divided among shards; the order of the ops of each slot is kept.
#[derive(Debug)]
pub struct Division {
    slots: SlotMap,
    /// The encoded ops of each shard.
    pub parts: Vec<Vec<u8>>,
}

impl Division {
    /// Nothing yet.
    pub fn new(slots: SlotMap) -> Self {
        Self { slots, parts: (0..slots.shards()).map(|_| Vec::new()).collect() }
    }

    /// Adds ops.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are no ops.
    pub fn add(&mut self, ops: &[u8]) -> Result<(), DecodeError> {
        let mut rest = ops;
        while !rest.is_empty() {
            let before = rest;
            let op = Op::decode(&mut rest)?;
            let encoded = &before[..before.len() - rest.len()];
            match op {
                Op::Clear { first, last, db } => self.clear(first, last, db),
                Op::Put { key, .. }
                | Op::Delete { key, .. }
                | Op::Expire { key, .. }
                | Op::Write { key, .. } => {
                    let owner = self.slots.owner(slot_of(key));
                    self.parts[owner.0 as usize].extend_from_slice(encoded);
                }
            }
        }
        Ok(())
    }

    /// Gives each shard the part of the range that it owns.
    fn clear(&mut self, first: Slot, last: Slot, db: Option<crate::types::DbIndex>) {
        for shard in self.slots.owner(first).0..=self.slots.owner(last).0 {
            let owned = self.slots.range(ShardId(shard));
            let first = Slot(first.0.max(owned.start));
            let last = Slot(last.0.min(owned.end - 1));
            Op::Clear { first, last, db }.encode(&mut self.parts[shard as usize]);
        }
    }
}

impl ShardCore {
    /// Applies ops of an image or a log.
    ///
    /// # Errors
    /// [`LoadError`]; the start has to be given up.
    pub fn load(&mut self, mut ops: &[u8]) -> Result<(), LoadError> {
        assert!(self.loading, "a shard is loaded before it serves");
        let mut count = 0;
        while !ops.is_empty() {
            let op = Op::decode(&mut ops)?;
            self.keyspace.apply(&op)?;
            count += 1;
        }
        self.shared.loaded(count);
        Ok(())
    }

    /// Everything is loaded, on all shards: the shard serves. Every LSN is above `floor`.
    pub fn finish_loading(&mut self, floor: Lsn) {
        self.clock.observe(floor);
        self.loading = false;
        self.shared.loaded_shard();
        while self.keyspace.reclaim_slice(usize::MAX) {}
        self.publish_stats();
    }

    /// Whether this shard, or another, is still being loaded: all begin to serve at once, so that
    /// a client who was answered by one is not refused by the next.
    pub fn is_loading(&self) -> bool {
        self.loading || !self.shared.all_loaded()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::DbIndex;

    #[test]
    fn ops_go_to_the_owners_and_clears_to_all_of_them() {
        let slots = SlotMap::new(3);
        let mut ops = Vec::new();
        let keys: Vec<String> = (0..100).map(|n| format!("key:{n}")).collect();
        for key in &keys {
            Op::Delete { db: DbIndex(0), key: key.as_bytes() }.encode(&mut ops);
        }
        Op::Clear { first: Slot(0), last: Slot(16_383), db: None }.encode(&mut ops);
        let mut division = Division::new(slots);
        division.add(&ops).unwrap();
        let mut seen = 0;
        for (shard, part) in division.parts.iter().enumerate() {
            let mut rest = part.as_slice();
            let mut last = None;
            while !rest.is_empty() {
                let op = Op::decode(&mut rest).unwrap();
                if let Some(key) = op.key() {
                    assert_eq!(slots.owner(slot_of(key)), ShardId(shard as u16));
                    seen += 1;
                }
                last = Some(op);
            }
            let range = slots.range(ShardId(shard as u16));
            let (first, end) = (Slot(range.start), Slot(range.end - 1));
            assert_eq!(last, Some(Op::Clear { first, last: end, db: None }));
        }
        assert_eq!(seen, keys.len());
    }
}
