//! A whole object of the archive: header, body, and the CRC32C of both. The body is compressed and
//! then sealed in pieces, under a key that opens only this object under this number. Pure; every
//! random byte comes from the caller, in [`Secrets`].

use std::fmt;

use bytes::Bytes;
use cutwater_engine::seal::{
    DataKey, KEY_BYTES, Keyring, NONCE_BYTES, PieceOpener, PieceSealer, SALT_BYTES, SealKey,
    sealed_length,
};
use cutwater_engine::types::Lsn;

use super::body::Body;
use super::error::ArchiveError;
use super::header::{HEADER_BYTES, Link, Sealed, WalHeader, WalNumber};
use crate::chunk::mismatch;
use crate::compression::{Algorithm, Compression, Compressor};
use crate::error::{Damage, Flaw};
use crate::ident::{Identity, Random, WalUuid, WriterNonce};
use crate::paths;

/// Bytes of the checksum at the end.
const CRC_BYTES: usize = 4;

/// The random bytes that one object needs if it is sealed.
#[derive(Clone)]
pub struct Secrets {
    /// Its data key.
    pub data_key: [u8; KEY_BYTES],
    /// The nonce under which that is wrapped.
    pub wrap_nonce: [u8; NONCE_BYTES],
    /// The salt of its object key.
    pub salt: [u8; SALT_BYTES],
}

impl Secrets {
    /// Secrets from this source; what is sealed with bytes that are not random is not secret.
    ///
    /// # Errors
    /// The source's.
    pub fn new(random: Random) -> Result<Self, getrandom::Error> {
        let mut secrets =
            Self { data_key: [0; KEY_BYTES], wrap_nonce: [0; NONCE_BYTES], salt: [0; SALT_BYTES] };
        random(&mut secrets.data_key)?;
        random(&mut secrets.wrap_nonce)?;
        random(&mut secrets.salt)?;
        Ok(secrets)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(..)")
    }
}

/// An object that is to be put. It is tried again with the same draft until it is known what came
/// of it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its uuid; random, never used twice.
    pub uuid: WalUuid,
    /// Everything above it
    pub from: Lsn,
    /// and at or below it is in the body.
    pub to: Lsn,
    /// Now, in microseconds since the Unix epoch.
    pub created_at_us: u64,
    /// The records.
    pub body: Body,
    /// What sealing needs.
    pub secrets: Secrets,
}

/// Where a draft goes, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its number.
    pub number: WalNumber,
    /// The writer's epoch.
    pub epoch: u64,
    /// The writer.
    pub nonce: WriterNonce,
    /// The writer's database and history.
    pub identity: Identity,
    /// The object before it.
    pub predecessor: Option<Link>,
}

/// How bodies are written.
#[derive(Clone, Debug, Default)]
pub struct Packing {
    /// The configured keys; without an active one nothing is sealed.
    pub keys: Keyring,
    /// How bodies are compressed.
    pub compression: Compression,
}

/// The bytes of an object. A body that would not become shorter is not compressed.
pub fn encode(draft: &Draft, place: &Place, packing: &Packing) -> (WalHeader, Bytes) {
    let raw = draft.body.bytes.as_slice();
    let packed = Compressor::new(packing.compression).compress(raw);
    let (compression, body) = match &packed {
        Some(packed) => (packing.compression.algorithm(), packed.as_slice()),
        None => (Algorithm::None, raw),
    };
    let mut header = WalHeader {
        link: Link { number: place.number, uuid: draft.uuid },
        epoch: place.epoch,
        nonce: place.nonce,
        identity: place.identity,
        from: draft.from,
        to: draft.to,
        predecessor: place.predecessor,
        created_at_us: draft.created_at_us,
        sections: draft.body.sections,
        records: draft.body.records,
        raw_bytes: raw.len() as u64,
        body_bytes: body.len() as u64,
        compression,
        sealed: None,
    };
    let data_key = DataKey::new(draft.secrets.data_key);
    if let Some(active) = packing.keys.active() {
        let wrapped = data_key.wrap(active, draft.secrets.wrap_nonce, &header.key_context());
        header.sealed = Some(Sealed { wrapped, salt: draft.secrets.salt });
        header.body_bytes = sealed_length(body.len() as u64);
    }
    let length = HEADER_BYTES + header.body_bytes as usize + CRC_BYTES;
    let mut out = Vec::with_capacity(length);
    out.extend_from_slice(&header.encode());
    match &header.sealed {
        None => out.extend_from_slice(body),
        Some(sealed) => {
            let key = object_key(&data_key, sealed, &header);
            let mut sealer = PieceSealer::new(key, &header.encode_authenticated());
            sealer.push(body, |piece| out.extend_from_slice(&piece));
            out.extend_from_slice(&sealer.finish());
        }
    }
    let crc = crc_of(&header, &out[HEADER_BYTES..]);
    out.extend_from_slice(&crc.to_le_bytes());
    debug_assert_eq!(out.len(), length, "the length of a body is known beforehand");
    (header, out.into())
}

/// Opens an object and checks all of it: its length and checksum, its pieces, that its records can
/// be told apart, are as many as it says, and lie within its LSNs.
///
/// # Errors
/// [`ArchiveError`] that names the object.
pub fn decode(
    number: WalNumber,
    object: &[u8],
    keys: &Keyring,
) -> Result<(WalHeader, Body), ArchiveError> {
    let header = WalHeader::decode(number, object)?;
    let name = || paths::wal(number.0).to_string();
    let damaged = |flaw| Damage::whole(name(), flaw);
    if object.len() as u64 != header.object_bytes() {
        let (expected, found) = (header.object_bytes(), object.len() as u64);
        return Err(damaged(Flaw::Length { expected, found }).into());
    }
    let (rest, crc) = object.split_last_chunk::<CRC_BYTES>().expect("a header is longer");
    let stored = &rest[HEADER_BYTES..];
    let (expected, found) = (u32::from_le_bytes(*crc), crc_of(&header, stored));
    if expected != found {
        return Err(damaged(Flaw::Crc { expected, found }).into());
    }
    let body = match &header.sealed {
        None if keys.is_empty() => stored.to_vec(),
        None => return Err(ArchiveError::NotSealed { object: name() }),
        Some(sealed) if keys.is_empty() => {
            let key_id = sealed.wrapped.key_id.clone();
            return Err(ArchiveError::NeedsKey { object: name(), key_id });
        }
        Some(sealed) => open_body(&header, sealed, stored, keys)
            .map_err(|source| ArchiveError::Seal { object: name(), source })?,
    };
    let body = match header.compression {
        Algorithm::None => body,
        algorithm => algorithm.decompress(&body, header.raw_bytes as usize).map_err(damaged)?,
    };
    if body.len() as u64 != header.raw_bytes {
        let (expected, found) = (header.raw_bytes, body.len() as u64);
        return Err(damaged(Flaw::Length { expected, found }).into());
    }
    let body = Body { bytes: body, sections: header.sections, records: header.records };
    body.for_each::<Flaw>(&mut |record| {
        if record.lsn <= header.from || record.lsn > header.to {
            let expected = format!("above {} and at most {}", header.from, header.to);
            return Err(mismatch("the LSN of a record", expected, record.lsn));
        }
        Ok(())
    })
    .map_err(damaged)?;
    Ok((header, body))
}

/// The same object with its data key wrapped by the ring's active key; nothing else changes.
///
/// # Errors
/// As for [`decode`] of the header, and if the old key is not in the ring.
pub fn rewrapped(
    number: WalNumber,
    object: &[u8],
    keys: &Keyring,
    nonce: [u8; NONCE_BYTES],
) -> Result<Bytes, ArchiveError> {
    let mut header = WalHeader::decode(number, object)?;
    let name = || paths::wal(number.0).to_string();
    let context = header.key_context();
    let (Some(sealed), Some(active)) = (&mut header.sealed, keys.active()) else {
        return Err(ArchiveError::NotSealed { object: name() });
    };
    let data_key = sealed.wrapped.unwrap(keys, &context);
    let data_key = data_key.map_err(|source| ArchiveError::Seal { object: name(), source })?;
    sealed.wrapped = data_key.wrap(active, nonce, &context);
    let mut out = header.encode().to_vec();
    out.extend_from_slice(&object[HEADER_BYTES..]);
    Ok(out.into())
}

fn open_body(
    header: &WalHeader,
    sealed: &Sealed,
    stored: &[u8],
    keys: &Keyring,
) -> Result<Vec<u8>, cutwater_engine::seal::SealError> {
    let data_key = sealed.wrapped.unwrap(keys, &header.key_context())?;
    let key = object_key(&data_key, sealed, header);
    let mut opener = PieceOpener::new(key, &header.encode_authenticated());
    let mut body = Vec::with_capacity(stored.len());
    opener.push(stored, |piece| body.extend_from_slice(&piece))?;
    body.extend_from_slice(&opener.finish()?);
    Ok(body)
}

fn object_key(data_key: &DataKey, sealed: &Sealed, header: &WalHeader) -> SealKey {
    let file = format!("{:012}", header.link.number.0);
    let names = [&header.identity.database.0[..], &header.link.uuid.0[..], file.as_bytes()];
    data_key.object_key(&sealed.salt, &names)
}

/// The checksum at the end, over what never changes.
fn crc_of(header: &WalHeader, stored_body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header.encode_authenticated()), stored_body)
}
