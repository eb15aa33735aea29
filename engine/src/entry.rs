//! A change to the keyspace as bytes: the one codec that log records and snapshot chunks share.
//!
//! A log record is an LSN and a run of [`Op`]s; a snapshot chunk is a run of `Put`s (and, for a
//! value too large for one piece, a `Put` of its first piece followed by `Write`s of the others, in
//! order). So loading an image, replaying a log and applying a transaction are one operation.
//! Every op holds an *effect*, never a command: applying it needs no clock and cannot fail.
//!
//! The layout, byte by byte, is in `FORMAT.md` beside this crate. Integers are little-endian;
//! `varint` is unsigned LEB128 of at most 10 bytes. Tags are contracts: never reused.

use crate::types::{DATABASE_COUNT, DbIndex, Slot};

/// The type of a value, as stored. `string` is the only one so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ValueKind {
    /// A byte string.
    String = 0,
}

impl ValueKind {
    /// The name that `TYPE` answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
        }
    }

    fn from_tag(tag: u8) -> Result<Self, DecodeError> {
        match tag {
            0 => Ok(Self::String),
            other => Err(DecodeError::Kind(other)),
        }
    }
}

/// One effect on the keyspace. Borrowed from the bytes that it was decoded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// The key now holds this value and expiry, whatever it held before.
    Put {
        /// The logical database.
        db: DbIndex,
        /// The key.
        key: &'a [u8],
        /// The type of the value.
        kind: ValueKind,
        /// Milliseconds since the Unix epoch at which the key expires; never 0.
        expires_at_ms: Option<u64>,
        /// The whole value, or its first piece (then [`Op::Write`]s follow).
        value: &'a [u8],
    },
    /// The key no longer exists.
    Delete {
        /// The logical database.
        db: DbIndex,
        /// The key.
        key: &'a [u8],
    },
    /// The key keeps its value; its expiry is now this.
    Expire {
        /// The logical database.
        db: DbIndex,
        /// The key.
        key: &'a [u8],
        /// Milliseconds since the Unix epoch; `None` takes the expiry away.
        expires_at_ms: Option<u64>,
    },
    /// These bytes of a string now stand at this offset; a gap before it is filled with zeros, and
    /// a key that does not exist is an empty string. The expiry stays.
    Write {
        /// The logical database.
        db: DbIndex,
        /// The key.
        key: &'a [u8],
        /// The first byte that changes.
        offset: u64,
        /// The bytes from there on.
        bytes: &'a [u8],
    },
    /// No key of these slots exists any more (in one database, or in all).
    Clear {
        /// The first slot.
        first: Slot,
        /// The last slot, inclusive.
        last: Slot,
        /// The database; `None` is all of them.
        db: Option<DbIndex>,
    },
}

const TAG_PUT: u8 = 1;
const TAG_PUT_EXPIRING: u8 = 2;
const TAG_DELETE: u8 = 3;
const TAG_EXPIRE: u8 = 4;
const TAG_PERSIST: u8 = 5;
const TAG_WRITE: u8 = 6;
const TAG_CLEAR: u8 = 7;
/// The database byte of a [`Op::Clear`] of all databases.
const ALL_DATABASES: u8 = 0xFF;

/// Why bytes are not an op. All of these mean corruption: the encoder never writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside the op.
    #[error("the bytes end inside an entry")]
    Truncated,
    /// A number takes more bytes than any number may.
    #[error("a length is longer than 10 bytes")]
    Varint,
    /// The op tag is none of those in FORMAT.md.
    #[error("unknown entry tag {0}")]
    Tag(u8),
    /// The value type is none of those in FORMAT.md.
    #[error("unknown value type {0}")]
    Kind(u8),
    /// The database does not exist.
    #[error("database {0} does not exist")]
    Database(u8),
    /// An expiry of 0, or a slot range that is none.
    #[error("a field is out of range")]
    Range,
}

impl Op<'_> {
    /// Appends the encoding of this op.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Op::Put { db, key, kind, expires_at_ms, value } => {
                let tag = if expires_at_ms.is_some() { TAG_PUT_EXPIRING } else { TAG_PUT };
                put_key(out, tag, db, key);
                out.push(kind as u8);
                if let Some(at) = expires_at_ms {
                    out.extend_from_slice(&at.to_le_bytes());
                }
                put_bytes(out, value);
            }
            Op::Delete { db, key } => put_key(out, TAG_DELETE, db, key),
            Op::Expire { db, key, expires_at_ms: Some(at) } => {
                put_key(out, TAG_EXPIRE, db, key);
                out.extend_from_slice(&at.to_le_bytes());
            }
            Op::Expire { db, key, expires_at_ms: None } => put_key(out, TAG_PERSIST, db, key),
            Op::Write { db, key, offset, bytes } => {
                put_key(out, TAG_WRITE, db, key);
                put_varint(out, offset);
                put_bytes(out, bytes);
            }
            Op::Clear { first, last, db } => {
                out.push(TAG_CLEAR);
                out.push(db.map_or(ALL_DATABASES, |db| db.0));
                out.extend_from_slice(&first.0.to_le_bytes());
                out.extend_from_slice(&last.0.to_le_bytes());
            }
        }
    }
}

impl<'a> Op<'a> {
    /// Takes one op off the front of `input`.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are no op; `input` is then unspecified.
    pub fn decode(input: &mut &'a [u8]) -> Result<Self, DecodeError> {
        let tag = take_byte(input)?;
        let db = take_byte(input)?;
        if tag == TAG_CLEAR {
            let first = Slot(take_u16(input)?);
            let last = Slot(take_u16(input)?);
            if first > last || last.0 >= crate::slot::SLOT_COUNT {
                return Err(DecodeError::Range);
            }
            let db = if db == ALL_DATABASES { None } else { Some(database(db)?) };
            return Ok(Op::Clear { first, last, db });
        }
        if !(TAG_PUT..=TAG_WRITE).contains(&tag) {
            return Err(DecodeError::Tag(tag));
        }
        let db = database(db)?;
        let key = take_bytes(input)?;
        Ok(match tag {
            TAG_PUT | TAG_PUT_EXPIRING => {
                let kind = ValueKind::from_tag(take_byte(input)?)?;
                let expires_at_ms =
                    if tag == TAG_PUT_EXPIRING { Some(take_expiry(input)?) } else { None };
                Op::Put { db, key, kind, expires_at_ms, value: take_bytes(input)? }
            }
            TAG_DELETE => Op::Delete { db, key },
            TAG_EXPIRE => Op::Expire { db, key, expires_at_ms: Some(take_expiry(input)?) },
            TAG_PERSIST => Op::Expire { db, key, expires_at_ms: None },
            _ => {
                let offset = take_varint(input)?;
                Op::Write { db, key, offset, bytes: take_bytes(input)? }
            }
        })
    }

    /// The key that the op changes; `None` for [`Op::Clear`].
    pub fn key(&self) -> Option<&'a [u8]> {
        match *self {
            Op::Put { key, .. }
            | Op::Delete { key, .. }
            | Op::Expire { key, .. }
            | Op::Write { key, .. } => Some(key),
            Op::Clear { .. } => None,
        }
    }
}

/// Appends an unsigned LEB128 number.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes an unsigned LEB128 number off the front of `input`.
///
/// # Errors
/// [`DecodeError::Truncated`] or [`DecodeError::Varint`].
pub fn take_varint(input: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(input)?;
        let bits = u64::from(byte & 0x7F);
        if shift == 63 && bits > 1 {
            return Err(DecodeError::Varint);
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DecodeError::Varint)
}

fn put_key(out: &mut Vec<u8>, tag: u8, db: DbIndex, key: &[u8]) {
    out.push(tag);
    out.push(db.0);
    put_bytes(out, key);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn take_byte(input: &mut &[u8]) -> Result<u8, DecodeError> {
    let (&byte, rest) = input.split_first().ok_or(DecodeError::Truncated)?;
    *input = rest;
    Ok(byte)
}

fn take_u16(input: &mut &[u8]) -> Result<u16, DecodeError> {
    let (bytes, rest) = input.split_first_chunk::<2>().ok_or(DecodeError::Truncated)?;
    *input = rest;
    Ok(u16::from_le_bytes(*bytes))
}

fn take_expiry(input: &mut &[u8]) -> Result<u64, DecodeError> {
    let (bytes, rest) = input.split_first_chunk::<8>().ok_or(DecodeError::Truncated)?;
    *input = rest;
    let at = u64::from_le_bytes(*bytes);
    if at == 0 { Err(DecodeError::Range) } else { Ok(at) }
}

fn take_bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let len = usize::try_from(take_varint(input)?).map_err(|_| DecodeError::Truncated)?;
    let (bytes, rest) = input.split_at_checked(len).ok_or(DecodeError::Truncated)?;
    *input = rest;
    Ok(bytes)
}

fn database(db: u8) -> Result<DbIndex, DecodeError> {
    if db < DATABASE_COUNT { Ok(DbIndex(db)) } else { Err(DecodeError::Database(db)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples() -> Vec<Op<'static>> {
        let (db, key) = (DbIndex(3), b"key".as_slice());
        let put = |expires_at_ms| Op::Put {
            db,
            key,
            kind: ValueKind::String,
            expires_at_ms,
            value: b"value",
        };
        vec![
            put(None),
            put(Some(1_700_000_000_000)),
            Op::Delete { db, key },
            Op::Expire { db, key, expires_at_ms: Some(7) },
            Op::Expire { db, key, expires_at_ms: None },
            Op::Write { db, key, offset: 1 << 40, bytes: b"tail" },
            Op::Clear { first: Slot(0), last: Slot(16_383), db: None },
            Op::Clear { first: Slot(5), last: Slot(5), db: Some(DbIndex(15)) },
        ]
    }

    #[test]
    fn round_trip_and_every_truncation() {
        for op in samples() {
            let mut bytes = Vec::new();
            op.encode(&mut bytes);
            let mut input = bytes.as_slice();
            assert_eq!(Op::decode(&mut input), Ok(op));
            assert!(input.is_empty());
            for len in 0..bytes.len() {
                assert!(Op::decode(&mut &bytes[..len]).is_err(), "{op:?} cut at {len}");
            }
        }
    }

    #[test]
    fn golden() {
        let mut bytes = Vec::new();
        samples().iter().for_each(|op| op.encode(&mut bytes));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "0103036b6579000576616c7565\
             0203036b6579000068e5cf8b0100000576616c7565\
             0303036b6579\
             0403036b65790700000000000000\
             0503036b6579\
             0603036b6579808080808020047461696c\
             07ff0000ff3f\
             070f05000500"
        );
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut input = bytes.as_slice();
            while !input.is_empty() {
                if Op::decode(&mut input).is_err() {
                    break;
                }
            }
        }

        #[test]
        fn varints_round_trip(value in any::<u64>()) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(take_varint(&mut bytes.as_slice()), Ok(value));
        }
    }
}
