//! The layout of a snapshot's objects: an object header, then chunks, the last of which ends the
//! piece or the core's stream with totals. FORMAT.md draws it byte by byte.
//!
//! Invariants: a chunk lies in one object; chunks of a core are numbered from 0 over all its
//! pieces; image chunks come before tail chunks. A chunk's checksum continues that of its object's
//! header, so a whole chunk moved in from another object is as wrong as a flipped bit. Pure; the
//! order over a whole core is [`crate::decoder`]'s business.

use bytes::Bytes;
use cutwater_engine::entry::{DecodeError, Op};
use cutwater_engine::seal::SALT_BYTES;
use cutwater_engine::types::{Lsn, ShardId};

use crate::compression::Algorithm;
use crate::error::Flaw;
use crate::ident::{DatabaseId, IDENT_BYTES, SnapshotUuid};

/// The format of objects that this code writes, and the only one that it reads.
pub const OBJECT_VERSION: u16 = 1;
/// Bytes of an object's header.
pub const OBJECT_HEADER_BYTES: usize = 96;
/// Bytes of a chunk's header.
pub const CHUNK_HEADER_BYTES: usize = 32;
/// The largest body, inclusive: a tail record may hold a whole value of 512 MiB.
pub const BODY_LIMIT_BYTES: usize = 768 << 20;
/// Bytes before a tail record's ops: its length and its LSN.
const TAIL_PREFIX_BYTES: usize = 12;
/// Bytes of the totals in an end chunk.
const TOTALS_BYTES: usize = 32;

const OBJECT_MAGIC: [u8; 8] = *b"CWSNAPOB";
const CHUNK_MAGIC: [u8; 4] = *b"CWCH";
/// Where the checksum stands in each header: at its end.
const OBJECT_CRC_AT: usize = OBJECT_HEADER_BYTES - 4;
const CHUNK_CRC_AT: usize = CHUNK_HEADER_BYTES - 4;

/// The tag for objects that are stored in the clear.
pub const SEALING_NONE: u8 = 0;
/// The tag for objects whose stream of chunks is sealed in pieces (AES-256-GCM).
pub const SEALING_PIECES: u8 = 1;

/// What an object says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectHeader {
    /// The database.
    pub database: DatabaseId,
    /// The snapshot.
    pub snapshot: SnapshotUuid,
    /// The core whose part this is.
    pub core: ShardId,
    /// Which piece of that part, from 0.
    pub piece: u32,
    /// How bodies are compressed.
    pub compression: Algorithm,
    /// The salt of the object's key; `None` if it is not sealed.
    pub salt: Option<[u8; SALT_BYTES]>,
}

impl ObjectHeader {
    /// The stored form.
    pub fn encode(&self) -> [u8; OBJECT_HEADER_BYTES] {
        let mut out = [0; OBJECT_HEADER_BYTES];
        out[0..8].copy_from_slice(&OBJECT_MAGIC);
        out[8..10].copy_from_slice(&OBJECT_VERSION.to_le_bytes());
        out[10] = self.compression as u8;
        out[11] = if self.salt.is_some() { SEALING_PIECES } else { SEALING_NONE };
        out[12..14].copy_from_slice(&self.core.0.to_le_bytes());
        out[16..20].copy_from_slice(&self.piece.to_le_bytes());
        out[24..40].copy_from_slice(&self.database.0);
        out[40..56].copy_from_slice(&self.snapshot.0);
        out[56..88].copy_from_slice(&self.salt.unwrap_or_default());
        let crc = crc32c::crc32c(&out[..OBJECT_CRC_AT]);
        out[OBJECT_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The checksum of the stored form, which seeds those of its chunks.
    pub(crate) fn seed(&self) -> u32 {
        le_u32(&self.encode(), OBJECT_CRC_AT)
    }

    /// The header that these bytes hold, and its checksum, which seeds those of its chunks.
    ///
    /// # Errors
    /// [`Flaw`] if they hold none that this code reads.
    pub fn decode(bytes: &[u8; OBJECT_HEADER_BYTES]) -> Result<(Self, u32), Flaw> {
        if bytes[0..8] != OBJECT_MAGIC {
            return Err(Flaw::Magic);
        }
        let crc = check_crc(le_u32(bytes, OBJECT_CRC_AT), crc32c::crc32c(&bytes[..OBJECT_CRC_AT]))?;
        let version = le_u16(bytes, 8);
        if version != OBJECT_VERSION {
            return Err(Flaw::Version(version.into()));
        }
        let salt = match bytes[11] {
            SEALING_NONE => None,
            SEALING_PIECES => Some(field(bytes, 56)),
            other => return Err(Flaw::Tag { field: "sealing", value: other.into() }),
        };
        let header = Self {
            database: DatabaseId(ident(bytes, 24)),
            snapshot: SnapshotUuid(ident(bytes, 40)),
            core: ShardId(le_u16(bytes, 12)),
            piece: le_u32(bytes, 16),
            compression: Algorithm::from_tag(bytes[10])?,
            salt,
        };
        Ok((header, crc))
    }
}

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ChunkKind {
    /// A run of `entry::Op`: `Put`s and `Write`s that make the image at the watermark.
    Image = 1,
    /// A run of log records above the part's watermark, at or below the snapshot's `end_lsn`.
    Tail = 2,
    /// [`Totals`] so far; the stream goes on in the next piece.
    PieceEnd = 3,
    /// [`Totals`] of the core; nothing follows.
    CoreEnd = 4,
}

impl ChunkKind {
    fn from_tag(tag: u8) -> Result<Self, Flaw> {
        match tag {
            1 => Ok(Self::Image),
            2 => Ok(Self::Tail),
            3 => Ok(Self::PieceEnd),
            4 => Ok(Self::CoreEnd),
            other => Err(Flaw::Tag { field: "chunk kind", value: other.into() }),
        }
    }
}

/// The place of a chunk: of which object, core and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPlace {
    /// The checksum of the object's header.
    pub seed: u32,
    /// The core.
    pub core: ShardId,
    /// The chunk's number in the core's stream, from 0, end chunks included.
    pub sequence: u64,
}

/// The header that goes before `body`, which is stored as it is or was compressed from `raw_bytes`.
///
/// # Panics
/// If the body is longer than `raw_bytes`, or those than [`BODY_LIMIT_BYTES`]; writers check that
/// before.
pub fn chunk_header(
    place: ChunkPlace,
    kind: ChunkKind,
    count: u32,
    raw_bytes: usize,
    body: &[u8],
) -> [u8; CHUNK_HEADER_BYTES] {
    assert!(body.len() <= raw_bytes, "{} bytes stored of {raw_bytes}", body.len());
    assert!(raw_bytes <= BODY_LIMIT_BYTES, "a chunk of {raw_bytes} bytes");
    let mut out = [0; CHUNK_HEADER_BYTES];
    out[0..4].copy_from_slice(&CHUNK_MAGIC);
    out[4] = kind as u8;
    out[6..8].copy_from_slice(&place.core.0.to_le_bytes());
    out[8..16].copy_from_slice(&place.sequence.to_le_bytes());
    out[16..20].copy_from_slice(&count.to_le_bytes());
    out[20..24].copy_from_slice(&(body.len() as u32).to_le_bytes());
    out[24..28].copy_from_slice(&(raw_bytes as u32).to_le_bytes());
    let crc = chunk_crc(place.seed, &out, body);
    out[CHUNK_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The length of the stored body that follows this header, believed only as far as a bound.
///
/// # Errors
/// [`Flaw::Magic`] or [`Flaw::Bound`]: reading on would be reading anything.
pub fn body_length(header: &[u8; CHUNK_HEADER_BYTES]) -> Result<usize, Flaw> {
    if header[0..4] != CHUNK_MAGIC {
        return Err(Flaw::Magic);
    }
    let length = le_u32(header, 20);
    if length as usize > BODY_LIMIT_BYTES {
        return Err(Flaw::Bound(length.into()));
    }
    Ok(length as usize)
}

/// A chunk as it came from a store. Nothing in it is believed before [`UnverifiedChunk::verify`].
#[derive(Clone, Debug)]
pub struct UnverifiedChunk {
    /// The header's bytes.
    pub header: [u8; CHUNK_HEADER_BYTES],
    /// The body, as long as [`body_length`] said.
    pub body: Bytes,
}

impl UnverifiedChunk {
    /// The chunk with its body decompressed, if it is whole and belongs at `place`.
    ///
    /// # Errors
    /// [`Flaw`] if it does not.
    pub fn verify(self, place: ChunkPlace, compression: Algorithm) -> Result<Chunk, Flaw> {
        let header = &self.header;
        let found = chunk_crc(place.seed, header, &self.body);
        check_crc(le_u32(header, CHUNK_CRC_AT), found)?;
        let kind = ChunkKind::from_tag(header[4])?;
        let core = ShardId(le_u16(header, 6));
        if core != place.core {
            return Err(mismatch("core", place.core, core));
        }
        let sequence = le_u64(header, 8);
        if sequence != place.sequence {
            return Err(Flaw::Sequence { expected: place.sequence, found: sequence });
        }
        // Where both lengths are the same, compression would have gained nothing.
        let raw_bytes = le_u32(header, 24) as usize;
        let body = if raw_bytes == self.body.len() {
            self.body
        } else if raw_bytes < self.body.len() || raw_bytes > BODY_LIMIT_BYTES {
            return Err(Flaw::Bound(raw_bytes as u64));
        } else {
            compression.decompress(&self.body, raw_bytes)?.into()
        };
        Ok(Chunk { kind, sequence, count: le_u32(header, 16), body })
    }
}

/// A chunk whose checksum, place and length are right; its entries are not decoded yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// What it holds.
    pub kind: ChunkKind,
    /// Its number in the core's stream.
    pub sequence: u64,
    /// How many ops (image) or records (tail) the body holds.
    pub count: u32,
    /// The bytes.
    pub body: Bytes,
}

impl Chunk {
    /// Decodes every op, and compares their number with `count`. What is good is given to `each`,
    /// with the LSN of its record in a tail chunk.
    ///
    /// # Errors
    /// [`Flaw`] at the first that is not an op, or when the count is wrong.
    pub fn for_each_op(&self, mut each: impl FnMut(Option<Lsn>, Op<'_>)) -> Result<(), Flaw> {
        let mut found = 0;
        match self.kind {
            ChunkKind::Image => {
                let mut input = &self.body[..];
                while !input.is_empty() {
                    each(None, Op::decode(&mut input).map_err(|e| entry(found, e))?);
                    found += 1;
                }
            }
            ChunkKind::Tail => {
                for record in TailRecords(&self.body) {
                    let record = record?;
                    let mut input = record.ops;
                    while !input.is_empty() {
                        let op = Op::decode(&mut input).map_err(|e| entry(found, e))?;
                        each(Some(record.lsn), op);
                    }
                    found += 1;
                }
            }
            ChunkKind::PieceEnd | ChunkKind::CoreEnd => return Ok(()),
        }
        if found == u64::from(self.count) {
            Ok(())
        } else {
            Err(mismatch("entry count", self.count, found))
        }
    }

    /// The records of a tail chunk, in log order.
    pub fn records(&self) -> TailRecords<'_> {
        TailRecords(&self.body)
    }
}

/// A log record that a part carries because its watermark lies below the snapshot's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailRecord<'a> {
    /// The record's LSN.
    pub lsn: Lsn,
    /// A run of `entry::Op`.
    pub ops: &'a [u8],
}

/// Walks the body of a tail chunk; ends after the first flaw.
#[derive(Clone, Debug)]
pub struct TailRecords<'a>(&'a [u8]);

impl<'a> Iterator for TailRecords<'a> {
    type Item = Result<TailRecord<'a>, Flaw>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = take_record(&mut self.0);
        if record.is_err() {
            self.0 = &[];
        }
        Some(record)
    }
}

/// Appends a record to the body of a tail chunk.
///
/// # Panics
/// If the ops are longer than a chunk may be.
pub fn push_tail_record(body: &mut Vec<u8>, lsn: Lsn, ops: &[u8]) {
    assert!(ops.len() <= BODY_LIMIT_BYTES - TAIL_PREFIX_BYTES, "a record of {} bytes", ops.len());
    body.extend_from_slice(&(8 + ops.len() as u32).to_le_bytes());
    body.extend_from_slice(&lsn.0.to_le_bytes());
    body.extend_from_slice(ops);
}

pub(crate) fn take_record<'a>(input: &mut &'a [u8]) -> Result<TailRecord<'a>, Flaw> {
    let (length, rest) = input.split_first_chunk::<4>().ok_or(Flaw::Truncated)?;
    let (record, rest) =
        rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(Flaw::Truncated)?;
    let (lsn, ops) = record.split_first_chunk::<8>().ok_or(Flaw::Truncated)?;
    *input = rest;
    Ok(TailRecord { lsn: Lsn(u64::from_le_bytes(*lsn)), ops })
}

/// What a core's stream holds up to an end chunk, end chunks not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Image and tail chunks.
    pub chunks: u64,
    /// Ops in image chunks.
    pub entries: u64,
    /// Records in tail chunks.
    pub tail_records: u64,
    /// Bytes of the bodies of image and tail chunks, before compression.
    pub body_bytes: u64,
}

impl Totals {
    /// Counts one more image or tail chunk.
    pub fn add(&mut self, kind: ChunkKind, count: u32, body_bytes: usize) {
        match kind {
            ChunkKind::Image => self.entries += u64::from(count),
            ChunkKind::Tail => self.tail_records += u64::from(count),
            ChunkKind::PieceEnd | ChunkKind::CoreEnd => return,
        }
        self.chunks += 1;
        self.body_bytes += body_bytes as u64;
    }

    /// The body of an end chunk.
    pub fn encode(&self) -> [u8; TOTALS_BYTES] {
        let mut out = [0; TOTALS_BYTES];
        let fields = [self.chunks, self.entries, self.tail_records, self.body_bytes];
        for (slot, field) in out.chunks_exact_mut(8).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        out
    }

    /// The totals in the body of an end chunk.
    ///
    /// # Errors
    /// [`Flaw::Length`] if the body is no end chunk's.
    pub fn decode(body: &[u8]) -> Result<Self, Flaw> {
        if body.len() != TOTALS_BYTES {
            let (expected, found) = (TOTALS_BYTES as u64, body.len() as u64);
            return Err(Flaw::Length { expected, found });
        }
        Ok(Self {
            chunks: le_u64(body, 0),
            entries: le_u64(body, 8),
            tail_records: le_u64(body, 16),
            body_bytes: le_u64(body, 24),
        })
    }
}

pub(crate) fn mismatch(field: &'static str, expected: impl ToString, found: impl ToString) -> Flaw {
    Flaw::Mismatch { field, expected: expected.to_string(), found: found.to_string() }
}

fn entry(index: u64, source: DecodeError) -> Flaw {
    Flaw::Entry { index, source }
}

fn chunk_crc(seed: u32, header: &[u8; CHUNK_HEADER_BYTES], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &header[..CHUNK_CRC_AT]), body)
}

fn check_crc(expected: u32, found: u32) -> Result<u32, Flaw> {
    if expected == found { Ok(found) } else { Err(Flaw::Crc { expected, found }) }
}

fn le_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

fn le_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

fn le_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

fn ident(bytes: &[u8], at: usize) -> [u8; IDENT_BYTES] {
    field(bytes, at)
}

/// `N` bytes at a constant offset of a header whose length the caller's types fix.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of N bytes is an array of N bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: ChunkPlace = ChunkPlace { seed: 7, core: ShardId(3), sequence: 11 };

    fn header() -> ObjectHeader {
        ObjectHeader {
            database: DatabaseId([0xDA; 16]),
            snapshot: SnapshotUuid([0x5A; 16]),
            core: ShardId(3),
            piece: 2,
            compression: Algorithm::Lz4,
            salt: Some([0x5C; 32]),
        }
    }

    #[test]
    fn object_header_round_trip_and_every_flip() {
        let bytes = header().encode();
        assert_eq!(ObjectHeader::decode(&bytes).unwrap().0, header());
        for at in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[at / 8] ^= 1 << (at % 8);
            assert!(ObjectHeader::decode(&bad).is_err(), "bit {at}");
        }
    }

    #[test]
    fn chunk_round_trip_every_flip_and_every_other_place() {
        let mut body = Vec::new();
        let record = Op::Delete { db: Default::default(), key: b"k" };
        let mut ops = Vec::new();
        record.encode(&mut ops);
        push_tail_record(&mut body, Lsn(5), &ops);
        push_tail_record(&mut body, Lsn(6), &ops);
        let raw = |header, body: &[u8]| UnverifiedChunk { header, body: body.to_vec().into() };
        let header = chunk_header(PLACE, ChunkKind::Tail, 2, body.len(), &body);
        assert_eq!(body_length(&header), Ok(body.len()));
        let chunk = raw(header, &body).verify(PLACE, Algorithm::None).unwrap();
        let mut seen = Vec::new();
        chunk.for_each_op(|lsn, op| seen.push((lsn, op == record))).unwrap();
        assert_eq!(seen, [(Some(Lsn(5)), true), (Some(Lsn(6)), true)]);
        for at in 0..header.len() {
            let mut bad = header;
            bad[at] ^= 0x10;
            assert!(raw(bad, &body).verify(PLACE, Algorithm::None).is_err(), "header byte {at}");
        }
        for at in 0..body.len() {
            let mut bad = body.clone();
            bad[at] ^= 0x01;
            assert!(raw(header, &bad).verify(PLACE, Algorithm::None).is_err(), "body byte {at}");
            assert!(
                raw(header, &body[..at]).verify(PLACE, Algorithm::None).is_err(),
                "body cut at {at}"
            );
        }
        for place in [
            ChunkPlace { seed: 8, ..PLACE },
            ChunkPlace { core: ShardId(4), ..PLACE },
            ChunkPlace { sequence: 12, ..PLACE },
        ] {
            assert!(raw(header, &body).verify(place, Algorithm::None).is_err(), "{place:?}");
        }
        let wrong_count = chunk_header(PLACE, ChunkKind::Tail, 3, body.len(), &body);
        let chunk = raw(wrong_count, &body).verify(PLACE, Algorithm::None).unwrap();
        assert!(chunk.for_each_op(|_, _| ()).is_err());
    }

    #[test]
    fn foreign_tail_bodies_never_panic() {
        let mut body = Vec::new();
        push_tail_record(&mut body, Lsn(5), b"\x03\x00\x01k");
        for len in 1..body.len() {
            assert!(TailRecords(&body[..len]).any(|record| record.is_err()), "cut at {len}");
        }
    }
}
