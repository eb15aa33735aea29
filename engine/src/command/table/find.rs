//! From a name to its row: an open-addressed hash over the names of the table, built at compile
//! time. No allocation, no locale; letters of either case.

use super::{CommandSpec, TABLE};

/// Buckets of the hash; about four times the commands, so that probes are short.
const BUCKETS: usize = 256;
/// An empty bucket.
const EMPTY: u8 = u8::MAX;

const _: () = assert!(TABLE.len() < BUCKETS / 2, "half of the buckets stay empty");

static INDEX: [u8; BUCKETS] = {
    let mut index = [EMPTY; BUCKETS];
    let mut row = 0;
    while row < TABLE.len() {
        let mut bucket = hash(TABLE[row].name.as_bytes());
        while index[bucket] != EMPTY {
            bucket = (bucket + 1) % BUCKETS;
        }
        index[bucket] = row as u8;
        row += 1;
    }
    index
};

/// The command of this name, in any case; subcommands are found by [`super::resolve`].
pub fn lookup(name: &[u8]) -> Option<&'static CommandSpec> {
    let mut bucket = hash(name);
    loop {
        let spec = TABLE.get(INDEX[bucket] as usize)?;
        if spec.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(spec);
        }
        bucket = (bucket + 1) % BUCKETS;
    }
}

/// Mixes the first eight bytes, the last one and the length; all letters as lowercase.
const fn hash(name: &[u8]) -> usize {
    let len = name.len();
    let mut word = 0u64;
    let mut at = 0;
    while at < len && at < 8 {
        word = word << 8 | (name[at] | 0x20) as u64;
        at += 1;
    }
    let last = if len == 0 { 0 } else { (name[len - 1] | 0x20) as u64 };
    let mixed = (word ^ (len as u64) << 56 ^ last << 48).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 56) as usize
}
