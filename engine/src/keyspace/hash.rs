//! The hash of a key: seeded xxh3, so that clients cannot choose keys that collide.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::types::DbIndex;

/// Spreads the database over the seed (the golden ratio in 64 bits, as in splitmix64).
const DB_MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// Hashes keys with the seed of one keyspace.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyHasher {
    seed: u64,
    /// Bits of the hash that tests keep, to provoke collisions.
    #[cfg(test)]
    pub(super) mask: u64,
}

impl KeyHasher {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            #[cfg(test)]
            mask: u64::MAX,
        }
    }

    pub(super) fn hash(&self, db: DbIndex, key: &[u8]) -> u64 {
        let seed = self.seed.wrapping_add(u64::from(db.0).wrapping_mul(DB_MULTIPLIER));
        let hash = xxh3_64_with_seed(key, seed);
        #[cfg(test)]
        let hash = hash & self.mask;
        hash
    }
}
