//! Key -> slot -> shard: the partition that routing, the keyspace, copy-on-write, restore and the
//! cluster protocol share. Pure arithmetic.
//!
//! The slot of a key is CRC16/XMODEM of the key, or of its `{tag}`, modulo 16,384, exactly as in
//! the Redis Cluster specification. Each shard owns one contiguous range of slots.

use std::ops::Range;

use crate::types::{ShardId, Slot};

/// The number of slots, fixed by the Redis Cluster specification.
pub const SLOT_COUNT: u16 = 16_384;

/// CRC16/XMODEM: polynomial 0x1021, initial value 0, no reflection.
const CRC16_TABLE: [u16; 256] = {
    let mut table = [0u16; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = (i as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// The slot of a key.
pub fn slot_of(key: &[u8]) -> Slot {
    let crc = hashed_part(key)
        .iter()
        .fold(0u16, |crc, byte| (crc << 8) ^ CRC16_TABLE[((crc >> 8) as u8 ^ byte) as usize]);
    Slot(crc % SLOT_COUNT)
}

/// What of the key is hashed: the part between the first `{` and the next `}`, if that is not
/// empty, else the whole key.
fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else { return key };
    let tail = &key[open + 1..];
    match tail.iter().position(|byte| *byte == b'}') {
        None | Some(0) => key,
        Some(close) => &tail[..close],
    }
}

/// Which shard owns which slots: contiguous ranges, sizes that differ by at most one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotMap {
    shards: u16,
}

impl SlotMap {
    /// A map for `shards` shards, at least 1 and at most [`SLOT_COUNT`].
    ///
    /// # Panics
    /// If `shards` is outside that range; configuration is validated before.
    pub fn new(shards: u16) -> Self {
        assert!((1..=SLOT_COUNT).contains(&shards), "1 to {SLOT_COUNT} shards, not {shards}");
        Self { shards }
    }

    /// How many shards there are.
    pub fn shards(self) -> u16 {
        self.shards
    }

    /// The owner of a slot.
    pub fn owner(self, slot: Slot) -> ShardId {
        // The inverse of `range`: the last shard whose range begins at or below the slot.
        ShardId((u32::from(slot.0) * u32::from(self.shards) / u32::from(SLOT_COUNT)) as u16)
    }

    /// The slots that a shard owns.
    pub fn range(self, shard: ShardId) -> Range<u16> {
        let begin = |shard: u32| {
            (shard * u32::from(SLOT_COUNT))
                .div_ceil(u32::from(self.shards))
                .min(u32::from(SLOT_COUNT)) as u16
        };
        begin(u32::from(shard.0))..begin(u32::from(shard.0) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(slot_of(b"foo"), Slot(12182));
        assert_eq!(slot_of(b"123456789"), Slot(0x31C3 % SLOT_COUNT));
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(slot_of(b"foo{}{bar}"), Slot(8363));
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
    }

    #[test]
    fn every_slot_has_one_owner_and_ranges_agree() {
        for shards in [1, 2, 3, 5, 7, 16, 100, 1000, SLOT_COUNT] {
            let map = SlotMap::new(shards);
            let mut next = 0;
            for shard in 0..shards {
                let range = map.range(ShardId(shard));
                assert_eq!(range.start, next);
                next = range.end;
                for slot in range {
                    assert_eq!(map.owner(Slot(slot)), ShardId(shard), "{shards} shards, {slot}");
                }
            }
            assert_eq!(next, SLOT_COUNT);
        }
    }
}
