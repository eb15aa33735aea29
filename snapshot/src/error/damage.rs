//! Stored bytes that are not what was written, and sealed ones that are not opened.

use cutwater_engine::entry::DecodeError;
use cutwater_engine::seal::{KeyId, SealError};
use cutwater_engine::types::ShardId;

/// Why stored bytes are not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The object is not in the store.
    #[error("the object is missing")]
    Missing,
    /// The first bytes are not those of the format.
    #[error("the magic number is wrong")]
    Magic,
    /// A later format, or damage in the version.
    #[error("format version {0} is not supported")]
    Version(u64),
    /// The checksum disagrees.
    #[error("CRC32C is {found:08x}, not {expected:08x}")]
    Crc {
        /// What was stored.
        expected: u32,
        /// What the bytes give.
        found: u32,
    },
    /// The object has another length than was recorded.
    #[error("the length is {found} bytes, not {expected}")]
    Length {
        /// What was recorded.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The bytes end too early.
    #[error("the bytes end too early")]
    Truncated,
    /// Bytes follow the end.
    #[error("bytes follow the end")]
    Trailing,
    /// A length that no writer writes.
    #[error("a length of {0} bytes is out of bounds")]
    Bound(u64),
    /// A tag that is none of those in FORMAT.md.
    #[error("unknown {field} {value}")]
    Tag {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A field disagrees with what names or surrounds the bytes.
    #[error("{field} is {found}, not {expected}")]
    Mismatch {
        /// The field.
        field: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A chunk is missing, doubled or out of order.
    #[error("chunk {found} stands where chunk {expected} belongs")]
    Sequence {
        /// The number that belongs there.
        expected: u64,
        /// The number that stands there.
        found: u64,
    },
    /// An image chunk after the first tail chunk.
    #[error("an image chunk follows the tail records")]
    Order,
    /// An entry cannot be decoded.
    #[error("entry {index}: {source}")]
    Entry {
        /// The entry, counted from 0 in its chunk.
        index: u64,
        /// Why.
        source: DecodeError,
    },
    /// The MessagePack cannot be decoded.
    #[error("not the expected MessagePack map: {0}")]
    MessagePack(String),
    /// A body is not what was compressed.
    #[error("a compressed body cannot be decompressed to its length")]
    Compressed,
    /// The manifest is not what was authenticated.
    #[error("its authentication is wrong: it was altered after it was written")]
    Auth,
    /// A sealed piece does not open, or what is stored of a key is not sound.
    #[error("{0}")]
    Seal(SealError),
    /// A part has no entry.
    #[error("the part of core {0} is missing")]
    MissingPart(ShardId),
}

/// Damaged bytes, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}{}: {flaw}", .offset_bytes.map_or(String::new(), |at| format!(", offset {at}")))]
pub struct Damage {
    /// The object's name in its store.
    pub object: String,
    /// The first byte of what is damaged, where that is known.
    pub offset_bytes: Option<u64>,
    /// Why.
    pub flaw: Flaw,
}

impl Damage {
    /// Damage of an object as a whole.
    pub fn whole(object: impl ToString, flaw: Flaw) -> Self {
        Self { object: object.to_string(), offset_bytes: None, flaw }
    }

    /// Damage at a place in an object.
    pub fn at(object: impl ToString, offset_bytes: u64, flaw: Flaw) -> Self {
        Self { object: object.to_string(), offset_bytes: Some(offset_bytes), flaw }
    }
}

/// Why a sealed snapshot is not read without its key, nor a plain one with keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not sealed.
    #[error("it is not sealed, although keys are configured")]
    Plain,
    /// It is sealed.
    #[error("it is sealed under the key {id}, and no key is configured")]
    NoKey {
        /// The id of the key that is needed.
        id: KeyId,
    },
    /// The configured keys do not open it.
    #[error("{0}")]
    Key(SealError),
}
