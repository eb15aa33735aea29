//! What an object of the archive says of itself: 512 bytes in the clear, so that a plan needs
//! nothing else and no key. Pure. FORMAT.md draws it byte by byte.
//!
//! The header is authenticated by the sealed body behind it, but for the key id, the wrapped key
//! and its own checksum: a new key re-wraps the data key and rewrites no data.

use std::fmt;

use cutwater_engine::seal::{KeyId, SALT_BYTES, WRAPPED_BYTES, WrappedKey};
use cutwater_engine::types::Lsn;

use crate::chunk::mismatch;
use crate::compression::Algorithm;
use crate::error::{Damage, Flaw};
use crate::ident::{DatabaseId, Fork, HistoryId, IDENT_BYTES, Identity, WalUuid, WriterNonce};
use crate::paths;

/// The format of archive objects that this code writes, and the only one that it reads.
pub const WAL_VERSION: u16 = 1;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 512;
/// The largest body, inclusive, in bytes: a record may hold a whole value of 512 MiB.
pub const RAW_LIMIT_BYTES: u64 = 1 << 30;
/// The largest key id, in bytes.
const KEY_ID_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"CWARCHIV";
const SEALING_NONE: u8 = 0;
const SEALING_AES_256_GCM: u8 = 1;

/// Where the fields stand; each begins where the one before ends.
mod at {
    use super::{IDENT_BYTES, KEY_ID_BYTES, SALT_BYTES, WRAPPED_BYTES};

    pub const VERSION: usize = 8;
    pub const COMPRESSION: usize = 10;
    pub const SEALING: usize = 11;
    pub const SECTIONS: usize = 12;
    pub const NUMBER: usize = 16;
    pub const EPOCH: usize = 24;
    pub const NONCE: usize = 32;
    pub const UUID: usize = NONCE + IDENT_BYTES;
    pub const DATABASE: usize = UUID + IDENT_BYTES;
    pub const HISTORY: usize = DATABASE + IDENT_BYTES;
    pub const PARENT: usize = HISTORY + IDENT_BYTES;
    pub const FORK_LSN: usize = PARENT + IDENT_BYTES;
    pub const FROM: usize = FORK_LSN + 8;
    pub const TO: usize = FROM + 8;
    pub const PREDECESSOR: usize = TO + 8;
    pub const PREDECESSOR_UUID: usize = PREDECESSOR + 8;
    pub const CREATED_AT: usize = PREDECESSOR_UUID + IDENT_BYTES;
    pub const RECORDS: usize = CREATED_AT + 8;
    pub const RAW_BYTES: usize = RECORDS + 8;
    pub const BODY_BYTES: usize = RAW_BYTES + 8;
    pub const SALT: usize = BODY_BYTES + 8;
    pub const KEY_ID_LENGTH: usize = SALT + SALT_BYTES;
    pub const KEY_ID: usize = KEY_ID_LENGTH + 1;
    pub const WRAPPED: usize = KEY_ID + KEY_ID_BYTES;
    pub const END: usize = WRAPPED + WRAPPED_BYTES;
    pub const CRC: usize = super::HEADER_BYTES - 4;
}

const _: () = assert!(at::END <= at::CRC);

/// The number of an object in its store, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalNumber(pub u64);

impl WalNumber {
    /// The number that follows.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for WalNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One particular object: its number alone may be borne by a superseded writer's, elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub number: WalNumber,
    /// Its uuid.
    pub uuid: WalUuid,
}

/// How an object is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its data key.
    pub wrapped: WrappedKey,
    /// The salt of its object key.
    pub salt: [u8; SALT_BYTES],
}

/// The header of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalHeader {
    /// Which object it is.
    pub link: Link,
    /// The epoch of its writer, as in claims.
    pub epoch: u64,
    /// Its writer.
    pub nonce: WriterNonce,
    /// The database, the history, and where that forked off.
    pub identity: Identity,
    /// Everything of the history above it,
    pub from: Lsn,
    /// and at or below it, is in the body.
    pub to: Lsn,
    /// The object of the same history that comes before; `None` for its first.
    pub predecessor: Option<Link>,
    /// When it was made, in microseconds since the Unix epoch.
    pub created_at_us: u64,
    /// Logs that have records in it.
    pub sections: u32,
    /// Records of all of them.
    pub records: u64,
    /// Bytes of the body as it was.
    pub raw_bytes: u64,
    /// Bytes of the body as stored.
    pub body_bytes: u64,
    /// How the body is compressed.
    pub compression: Algorithm,
    /// How the body is sealed, if it is.
    pub sealed: Option<Sealed>,
}

impl WalHeader {
    /// The stored form.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = self.encode_authenticated();
        if let Some(Sealed { wrapped, .. }) = &self.sealed {
            let id = wrapped.key_id.as_str().as_bytes();
            out[at::KEY_ID_LENGTH] = u8::try_from(id.len()).expect("a key id has 64 bytes at most");
            put(&mut out, at::KEY_ID, id);
            put(&mut out, at::WRAPPED, &wrapped.bytes);
        }
        let crc = crc32c::crc32c(&out[..at::CRC]);
        put(&mut out, at::CRC, &crc.to_le_bytes());
        out
    }

    /// The part that never changes: the stored form without key id, wrapped key and checksum,
    /// which are zero.
    pub fn encode_authenticated(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let fork = self.identity.fork;
        let before = self.predecessor;
        put(&mut out, 0, &MAGIC);
        put(&mut out, at::VERSION, &WAL_VERSION.to_le_bytes());
        out[at::COMPRESSION] = self.compression as u8;
        out[at::SEALING] = self.sealed.as_ref().map_or(SEALING_NONE, |_| SEALING_AES_256_GCM);
        put(&mut out, at::SECTIONS, &self.sections.to_le_bytes());
        let nothing = [0; IDENT_BYTES];
        for (at, bytes) in [
            (at::NONCE, &self.nonce.0),
            (at::UUID, &self.link.uuid.0),
            (at::DATABASE, &self.identity.database.0),
            (at::HISTORY, &self.identity.history.0),
            (at::PARENT, fork.as_ref().map_or(&nothing, |fork| &fork.parent.0)),
            (at::PREDECESSOR_UUID, before.as_ref().map_or(&nothing, |link| &link.uuid.0)),
        ] {
            put(&mut out, at, bytes);
        }
        for (at, number) in [
            (at::NUMBER, self.link.number.0),
            (at::EPOCH, self.epoch),
            (at::FORK_LSN, fork.map_or(0, |fork| fork.lsn.0)),
            (at::FROM, self.from.0),
            (at::TO, self.to.0),
            (at::PREDECESSOR, before.map_or(0, |link| link.number.0)),
            (at::CREATED_AT, self.created_at_us),
            (at::RECORDS, self.records),
            (at::RAW_BYTES, self.raw_bytes),
            (at::BODY_BYTES, self.body_bytes),
        ] {
            put(&mut out, at, &number.to_le_bytes());
        }
        if let Some(Sealed { salt, .. }) = &self.sealed {
            put(&mut out, at::SALT, salt);
        }
        out
    }

    /// The header at the front of the object with this number; what follows is not looked at.
    ///
    /// # Errors
    /// [`Damage`] that names the object.
    pub fn decode(number: WalNumber, object: &[u8]) -> Result<Self, Damage> {
        decode(number, object).map_err(|flaw| Damage::at(paths::wal(number.0), 0, flaw))
    }

    /// The whole object's length in bytes, as the header has it.
    pub fn object_bytes(&self) -> u64 {
        (HEADER_BYTES as u64).saturating_add(self.body_bytes).saturating_add(4)
    }

    /// What the object's data key is wrapped for.
    pub fn key_context(&self) -> Vec<u8> {
        let mut context = b"cutwater archive v1".to_vec();
        context.extend_from_slice(&self.identity.database.0);
        context.extend_from_slice(&self.link.uuid.0);
        context
    }
}

fn decode(number: WalNumber, object: &[u8]) -> Result<WalHeader, Flaw> {
    let bytes = object.first_chunk::<HEADER_BYTES>().ok_or(Flaw::Truncated)?;
    if bytes[..8] != MAGIC {
        return Err(Flaw::Magic);
    }
    let (expected, found) = (u32_at(bytes, at::CRC), crc32c::crc32c(&bytes[..at::CRC]));
    if expected != found {
        return Err(Flaw::Crc { expected, found });
    }
    let version = u16::from_le_bytes([bytes[at::VERSION], bytes[at::VERSION + 1]]);
    if version != WAL_VERSION {
        return Err(Flaw::Version(version.into()));
    }
    let link =
        Link { number: WalNumber(u64_at(bytes, at::NUMBER)), uuid: WalUuid(id(bytes, at::UUID)) };
    if link.number != number {
        return Err(mismatch("the number", number, link.number));
    }
    let identity = Identity {
        database: DatabaseId(id(bytes, at::DATABASE)),
        history: HistoryId(id(bytes, at::HISTORY)),
        fork: fork(bytes),
    };
    let before = u64_at(bytes, at::PREDECESSOR);
    let header = WalHeader {
        link,
        epoch: u64_at(bytes, at::EPOCH),
        nonce: WriterNonce(id(bytes, at::NONCE)),
        identity,
        from: Lsn(u64_at(bytes, at::FROM)),
        to: Lsn(u64_at(bytes, at::TO)),
        predecessor: (before > 0).then(|| Link {
            number: WalNumber(before),
            uuid: WalUuid(id(bytes, at::PREDECESSOR_UUID)),
        }),
        created_at_us: u64_at(bytes, at::CREATED_AT),
        sections: u32_at(bytes, at::SECTIONS),
        records: u64_at(bytes, at::RECORDS),
        raw_bytes: u64_at(bytes, at::RAW_BYTES),
        body_bytes: u64_at(bytes, at::BODY_BYTES),
        compression: Algorithm::from_tag(bytes[at::COMPRESSION])?,
        sealed: sealed(bytes)?,
    };
    check(&header)?;
    Ok(header)
}

/// What no writer writes.
fn check(header: &WalHeader) -> Result<(), Flaw> {
    if header.from >= header.to {
        return Err(mismatch("the end", format!("above {}", header.from), header.to));
    }
    if header.raw_bytes > RAW_LIMIT_BYTES {
        return Err(Flaw::Bound(header.raw_bytes));
    }
    if let Some(fork) = header.identity.fork
        && header.from < fork.lsn
    {
        return Err(mismatch("the beginning", format!("at or above {}", fork.lsn), header.from));
    }
    match header.predecessor {
        Some(before) if before.number >= header.link.number => {
            Err(mismatch("the predecessor", format!("below {}", header.link.number), before.number))
        }
        _ => Ok(()),
    }
}

fn fork(bytes: &[u8; HEADER_BYTES]) -> Option<Fork> {
    let parent = HistoryId(id(bytes, at::PARENT));
    let lsn = Lsn(u64_at(bytes, at::FORK_LSN));
    (parent != HistoryId::default()).then_some(Fork { parent, lsn })
}

fn sealed(bytes: &[u8; HEADER_BYTES]) -> Result<Option<Sealed>, Flaw> {
    match bytes[at::SEALING] {
        SEALING_NONE => Ok(None),
        SEALING_AES_256_GCM => {
            let length = usize::from(bytes[at::KEY_ID_LENGTH]);
            let key_id = bytes[at::KEY_ID..].get(..length.min(KEY_ID_BYTES));
            let key_id = key_id.and_then(|id| std::str::from_utf8(id).ok());
            let key_id = key_id.and_then(|id| id.parse::<KeyId>().ok());
            let key_id = key_id.ok_or_else(|| mismatch("the key id", "a key id", "none"))?;
            let wrapped = &bytes[at::WRAPPED..at::WRAPPED + WRAPPED_BYTES];
            let wrapped = WrappedKey::new(key_id, wrapped).expect("the length is a constant");
            let salt = bytes[at::SALT..].first_chunk().expect("the header is longer");
            Ok(Some(Sealed { wrapped, salt: *salt }))
        }
        other => Err(Flaw::Tag { field: "sealing", value: other.into() }),
    }
}

fn put(out: &mut [u8; HEADER_BYTES], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn id(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; IDENT_BYTES] {
    *bytes[at..].first_chunk().expect("fields lie within the header")
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("fields lie within the header"))
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("fields lie within the header"))
}
