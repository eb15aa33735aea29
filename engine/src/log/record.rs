//! A record: one LSN and the ops that happen at it, as bytes of a log's stream.
//!
//! Layout (little-endian): `body length u32 | lsn u64 | flags u8 | [transaction part] | ops`. The
//! transaction part, present with flag TXN, is `coordinator (start u32, shard u16) | participant
//! count u16 | participants (u32, u16 each)`. The length is a fixed u32, not a varint, because it
//! is patched once the body is known. Checksums are the frame's business.
//!
//! A record never has neither ops nor a transaction part nor the MARKER flag; a record of a
//! transaction may have no ops, since being there is what it says.

use super::super::entry::{DecodeError, Op};
use crate::types::{LogId, Lsn, ShardId, StartId, TxnId};

/// Bytes of the length that precedes each record's body.
pub const LENGTH_BYTES: usize = 4;
/// The largest body.
pub const MAX_BODY_BYTES: usize = u32::MAX as usize;
const LOG_ID_BYTES: usize = 6;
/// LSN and flags.
const MIN_BODY_BYTES: usize = 9;

const FLAG_TXN: u8 = 1;
const FLAG_RELAXED: u8 = 2;
const FLAG_MARKER: u8 = 4;
const KNOWN_FLAGS: u8 = FLAG_TXN | FLAG_RELAXED | FLAG_MARKER;

/// Why bytes are not a record. All of these mean corruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The body is shorter than its fields.
    #[error("a record of {0} bytes is too short")]
    Short(usize),
    /// A flag, or a combination of them, that no version writes.
    #[error("a record has the unknown flags {0:#04x}")]
    Flags(u8),
    /// Neither ops nor a transaction nor a marker, or a marker with ops.
    #[error("a record has ops where it may not, or lacks them where it must not")]
    Content,
}

/// The part of a transaction that one log holds: who else must have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnPart<'a> {
    /// The log of the shard that coordinates it.
    pub coordinator: LogId,
    participants: &'a [u8],
}

impl<'a> TxnPart<'a> {
    /// Every log that has a part, this one included.
    pub fn participants(&self) -> impl ExactSizeIterator<Item = LogId> + 'a {
        self.participants.chunks_exact(LOG_ID_BYTES).map(read_log_id)
    }
}

/// A record, borrowed from the bytes that it was decoded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The LSN of everything in the record.
    pub lsn: Lsn,
    /// Written under `everysec` or `never`: its transaction did not wait to be durable everywhere.
    pub relaxed: bool,
    /// An idle marker: no ops, nothing to replay.
    pub marker: bool,
    /// Set if the record is one part of a command on several shards.
    pub txn: Option<TxnPart<'a>>,
    /// The encoded ops, as [`Op::decode`] takes them.
    pub ops: &'a [u8],
}

impl<'a> Record<'a> {
    /// Takes one record off the front of `input`; `None` if its bytes are not all there yet.
    ///
    /// # Errors
    /// [`RecordError`] if they are there and no record; `input` is then unspecified.
    pub fn decode(input: &mut &'a [u8]) -> Result<Option<Self>, RecordError> {
        let Some((length, rest)) = input.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let Some((body, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else {
            return Ok(None);
        };
        *input = rest;
        Self::decode_body(body).map(Some)
    }

    fn decode_body(body: &'a [u8]) -> Result<Self, RecordError> {
        let short = RecordError::Short(body.len());
        let (lsn, rest) = body.split_first_chunk::<8>().ok_or(short)?;
        let (&flags, mut rest) = rest.split_first().ok_or(short)?;
        if flags & !KNOWN_FLAGS != 0 || flags & (FLAG_TXN | FLAG_MARKER) == FLAG_TXN | FLAG_MARKER {
            return Err(RecordError::Flags(flags));
        }
        let marker = flags & FLAG_MARKER != 0;
        let txn = if flags & FLAG_TXN == 0 {
            if rest.is_empty() != marker {
                return Err(RecordError::Content);
            }
            None
        } else {
            Some(take_txn_part(&mut rest).ok_or(short)?)
        };
        let relaxed = flags & FLAG_RELAXED != 0;
        Ok(Self { lsn: Lsn(u64::from_le_bytes(*lsn)), relaxed, marker, txn, ops: rest })
    }

    /// The identity of its transaction, if it is part of one.
    pub fn txn_id(&self) -> Option<TxnId> {
        self.txn.map(|txn| TxnId { lsn: self.lsn, coordinator: txn.coordinator })
    }

    /// The ops one by one; ends after the first error.
    pub fn ops(&self) -> impl Iterator<Item = Result<Op<'a>, DecodeError>> + use<'a> {
        let mut rest = self.ops;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let op = Op::decode(&mut rest);
            if op.is_err() {
                rest = &[];
            }
            Some(op)
        })
    }
}

/// The whole bytes (length and body) of the record at the front of `input`, from its length alone.
/// `None` if not even that is all there.
pub(super) fn peek_len(input: &[u8]) -> Option<u64> {
    let length = input.first_chunk::<LENGTH_BYTES>()?;
    Some(LENGTH_BYTES as u64 + u64::from(u32::from_le_bytes(*length)))
}

/// Appends everything of a record but its ops, with a length of 0 for now.
pub(super) fn begin(out: &mut Vec<u8>, lsn: Lsn) {
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    out.extend_from_slice(&lsn.0.to_le_bytes());
    out.push(0);
}

/// Like [`begin`], for one part of a transaction.
///
/// # Panics
/// With more participants than a layout can have shards.
pub(super) fn begin_txn(out: &mut Vec<u8>, id: TxnId, participants: &[LogId], relaxed: bool) {
    begin(out, id.lsn);
    if let Some(flags) = out.last_mut() {
        *flags = FLAG_TXN | if relaxed { FLAG_RELAXED } else { 0 };
    }
    put_log_id(out, id.coordinator);
    let count = u16::try_from(participants.len()).expect("a layout has at most 65,535 shards");
    out.extend_from_slice(&count.to_le_bytes());
    participants.iter().for_each(|&log| put_log_id(out, log));
}

/// Appends a whole marker record.
pub(super) fn put_marker(out: &mut Vec<u8>, lsn: Lsn) {
    let start = out.len();
    begin(out, lsn);
    if let Some(flags) = out.last_mut() {
        *flags = FLAG_MARKER;
    }
    patch_len(out, start);
}

/// Writes the length of the record that begins at `start` and ends with `out`.
///
/// # Panics
/// If the body is over [`MAX_BODY_BYTES`]: the caller bounds a command's effects far below.
pub(super) fn patch_len(out: &mut [u8], start: usize) {
    let body = out.len() - start - LENGTH_BYTES;
    let body = u32::try_from(body).expect("a record is under 4 GiB");
    out[start..start + LENGTH_BYTES].copy_from_slice(&body.to_le_bytes());
}

/// Bytes of a record, its length included, before the first op, when it is no transaction.
pub(super) const PLAIN_PREFIX_BYTES: usize = LENGTH_BYTES + MIN_BODY_BYTES;

fn put_log_id(out: &mut Vec<u8>, log: LogId) {
    out.extend_from_slice(&log.start.0.to_le_bytes());
    out.extend_from_slice(&log.shard.0.to_le_bytes());
}

fn take_txn_part<'a>(input: &mut &'a [u8]) -> Option<TxnPart<'a>> {
    let (coordinator, rest) = input.split_at_checked(LOG_ID_BYTES)?;
    let (count, rest) = rest.split_first_chunk::<2>()?;
    let bytes = usize::from(u16::from_le_bytes(*count)) * LOG_ID_BYTES;
    let (participants, rest) = rest.split_at_checked(bytes)?;
    *input = rest;
    Some(TxnPart { coordinator: read_log_id(coordinator), participants })
}

/// Reads a log id from exactly [`LOG_ID_BYTES`] bytes.
fn read_log_id(bytes: &[u8]) -> LogId {
    let mut start = [0; 4];
    let mut shard = [0; 2];
    start.copy_from_slice(&bytes[..4]);
    shard.copy_from_slice(&bytes[4..LOG_ID_BYTES]);
    LogId { start: StartId(u32::from_le_bytes(start)), shard: ShardId(u16::from_le_bytes(shard)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::ValueKind;
    use crate::types::DbIndex;

    fn log(start: u32, shard: u16) -> LogId {
        LogId { start: StartId(start), shard: ShardId(shard) }
    }

    fn samples() -> Vec<Vec<u8>> {
        let db = DbIndex(1);
        let put =
            Op::Put { db, key: b"k", kind: ValueKind::String, expires_at_ms: None, value: b"v" };
        let delete = Op::Delete { db, key: b"other" };
        let mut plain = Vec::new();
        begin(&mut plain, Lsn(0x0102_0304_0506_0708));
        put.encode(&mut plain);
        delete.encode(&mut plain);
        patch_len(&mut plain, 0);
        let mut txn = Vec::new();
        let id = TxnId { lsn: Lsn(77), coordinator: log(3, 1) };
        begin_txn(&mut txn, id, &[log(3, 0), log(3, 1)], true);
        put.encode(&mut txn);
        patch_len(&mut txn, 0);
        let mut empty_part = Vec::new();
        begin_txn(&mut empty_part, id, &[log(3, 1)], false);
        patch_len(&mut empty_part, 0);
        let mut marker = Vec::new();
        put_marker(&mut marker, Lsn(9));
        vec![plain, txn, empty_part, marker]
    }

    #[test]
    fn round_trip() {
        let bytes = samples().concat();
        let mut input = bytes.as_slice();
        let mut next = || Record::decode(&mut input).unwrap().unwrap();
        let plain = next();
        assert_eq!((plain.lsn, plain.txn, plain.marker), (Lsn(0x0102_0304_0506_0708), None, false));
        assert_eq!(plain.ops().map(|op| op.unwrap().key().unwrap().len()).sum::<usize>(), 6);
        let txn = next();
        assert_eq!(txn.txn_id(), Some(TxnId { lsn: Lsn(77), coordinator: log(3, 1) }));
        assert!(txn.relaxed);
        let participants: Vec<_> = txn.txn.unwrap().participants().collect();
        assert_eq!(participants, [log(3, 0), log(3, 1)]);
        assert_eq!(txn.ops().count(), 1);
        let part = next();
        assert!(part.ops.is_empty() && part.txn.is_some() && !part.relaxed);
        let marker = next();
        assert!(marker.marker && marker.ops.is_empty());
        assert_eq!(Record::decode(&mut input), Ok(None));
    }

    #[test]
    fn golden() {
        let hex: String = samples().concat().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "18000000080706050403020100\
             0101016b000176\
             0301056f74686572\
             240000004d0000000000000003\
             030000000100\
             0200030000000000030000000100\
             0101016b000176\
             170000004d0000000000000001\
             030000000100\
             0100030000000100\
             09000000090000000000000004"
        );
    }

    #[test]
    fn every_truncation_waits_and_every_flip_is_survived() {
        for record in samples() {
            for len in 0..record.len() {
                assert_eq!(Record::decode(&mut &record[..len]), Ok(None));
            }
            for at in 0..record.len() {
                for bit in 0..8 {
                    let mut bytes = record.clone();
                    bytes[at] ^= 1 << bit;
                    if let Ok(Some(record)) = Record::decode(&mut bytes.as_slice()) {
                        record.ops().for_each(drop);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Record::decode_body(&bytes).map(|record| record.ops().count());
        }
    }
}
