//! A frame: one commit's slice of a log's stream, as blocks of a segment.
//!
//! A frame starts on a block and fills whole blocks: 48 bytes of header, the payload, zeros. Its
//! header says enough to tell a frame of this log from a leftover of a recycled segment (identity),
//! a misplaced or lost write (position, predecessor) and a torn or flipped one (checksum). It also
//! says which position was durable when it was written: damage below that is no unfinished commit.
//!
//! In a sealed segment the payload is stored sealed: ciphertext, then the tag. The checksum is over
//! what is stored, so a torn frame is told from an altered one without the key.
//!
//! Three types stand for the degrees of trust: [`RawFrame`] is a header whose fields are in range;
//! [`StoredFrame`] has its checksum verified; [`Frame`] is opened, if it was sealed. Where in the
//! log it belongs is the reader's question ([`Frame::follows`]).

use super::sealing::frame_nonce;
use super::segment::SegmentIdentity;
use crate::seal::{SealKey, TAG_BYTES};
use crate::types::Position;

/// Frames start on these, and nothing smaller is ever written.
pub const BLOCK_BYTES: usize = 4096;
/// Bytes before the payload.
pub const FRAME_HEADER_BYTES: usize = 48;
/// The largest frame, header and padding included: one write of the disk.
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;
/// The largest payload as stored: with its tag, if it is sealed.
pub const MAX_PAYLOAD_BYTES: usize = MAX_FRAME_BYTES - FRAME_HEADER_BYTES;

const MAGIC: u32 = u32::from_le_bytes(*b"CWF1");
/// Stands in `first_record` for "no record begins in this frame".
const NO_RECORD: u32 = u32::MAX;
/// The checksum covers the header from here on, and the payload.
const CHECKED_FROM: usize = 8;

const _: () = assert!(MAX_FRAME_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(FRAME_HEADER_BYTES < BLOCK_BYTES);

/// What a frame says about itself, beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The use of the segment that it was written for.
    pub identity: SegmentIdentity,
    /// The position of its first payload byte.
    pub position: Position,
    /// The position that was durable when it was written.
    pub durable: Position,
    /// The checksum of the frame before it in this log; 0 for a log's first.
    pub previous_crc: u32,
    /// Where in the payload the first record begins; `None` if it only continues one.
    pub first_record: Option<u32>,
}

/// Why bytes are not the frame that was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// No frame was ever written here: the block begins with zeros.
    #[error("no frame")]
    Blank,
    /// The block begins like no frame.
    #[error("no frame header")]
    Magic,
    /// The header's fields contradict each other or the file's size.
    #[error("the frame header is out of range")]
    Range,
    /// The checksum does not match: torn, or changed since.
    #[error("the checksum does not match")]
    Checksum,
    /// Left by an earlier use of the segment.
    #[error("left over from an earlier use of the segment")]
    Identity,
    /// Whole, but of another place in the log.
    #[error("it belongs to position {found}, not {expected}")]
    Position {
        /// Where the reader is.
        expected: Position,
        /// What the frame says.
        found: Position,
    },
    /// Whole and at its place, but it does not continue the frame before it.
    #[error("it does not continue the frame before it")]
    Predecessor,
}

/// Whole blocks that a frame with this payload, as stored, takes, in bytes.
pub const fn frame_bytes(stored_bytes: usize) -> usize {
    (FRAME_HEADER_BYTES + stored_bytes).next_multiple_of(BLOCK_BYTES)
}

/// Bytes of a payload as stored, with this key or without one.
pub fn stored_bytes(payload_bytes: usize, key: Option<&SealKey>) -> usize {
    payload_bytes + key.map_or(0, |_| TAG_BYTES)
}

/// Encodes a frame into `out`, sealed if there is a key, and returns its checksum.
///
/// # Panics
/// If `out` is not exactly [`frame_bytes`] long, or the payload is empty or too large.
pub fn encode_frame(
    out: &mut [u8],
    header: &FrameHeader,
    payload: &[u8],
    key: Option<&SealKey>,
) -> u32 {
    let stored_bytes = stored_bytes(payload.len(), key);
    assert_eq!(out.len(), frame_bytes(stored_bytes), "a frame fills its blocks");
    assert!(!payload.is_empty() && stored_bytes <= MAX_PAYLOAD_BYTES, "a payload is bounded");
    let end = FRAME_HEADER_BYTES + stored_bytes;
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[8..12].copy_from_slice(&(stored_bytes as u32).to_le_bytes());
    out[12..16].copy_from_slice(&header.first_record.unwrap_or(NO_RECORD).to_le_bytes());
    out[16..24].copy_from_slice(&header.identity.0.to_le_bytes());
    out[24..32].copy_from_slice(&header.position.0.to_le_bytes());
    out[32..40].copy_from_slice(&header.durable.0.to_le_bytes());
    out[40..44].copy_from_slice(&header.previous_crc.to_le_bytes());
    out[44..48].fill(0);
    let (head, body) = out.split_at_mut(FRAME_HEADER_BYTES);
    let (sealed, rest) = body.split_at_mut(payload.len());
    sealed.copy_from_slice(payload);
    if let Some(key) = key {
        let tag = key.seal(frame_nonce(header.position), &head[CHECKED_FROM..], sealed);
        rest[..TAG_BYTES].copy_from_slice(&tag);
    }
    out[end..].fill(0);
    let crc = crc32c::crc32c(&out[CHECKED_FROM..end]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// A frame header whose fields are in range; nothing is verified yet.
#[derive(Clone, Copy, Debug)]
pub struct RawFrame {
    header: FrameHeader,
    crc: u32,
    stored_bytes: usize,
}

impl RawFrame {
    /// Reads the header at the front of a block.
    ///
    /// # Errors
    /// [`FrameFault::Blank`], [`FrameFault::Magic`] or [`FrameFault::Range`].
    pub fn parse(block: &[u8]) -> Result<Self, FrameFault> {
        let header = block.first_chunk::<FRAME_HEADER_BYTES>().ok_or(FrameFault::Range)?;
        match u32_at(header, 0) {
            MAGIC => {}
            0 => return Err(FrameFault::Blank),
            _ => return Err(FrameFault::Magic),
        }
        let stored_bytes = u32_at(header, 8) as usize;
        let first_record = Some(u32_at(header, 12)).filter(|&at| at != NO_RECORD);
        if !(1..=MAX_PAYLOAD_BYTES).contains(&stored_bytes)
            || first_record.is_some_and(|at| at as usize >= stored_bytes)
        {
            return Err(FrameFault::Range);
        }
        let header = FrameHeader {
            identity: SegmentIdentity(u64_at(header, 16)),
            position: Position(u64_at(header, 24)),
            durable: Position(u64_at(header, 32)),
            previous_crc: u32_at(header, 40),
            first_record,
        };
        // No log is this long; so adding a payload's length cannot overflow.
        if header.position.0 > u64::MAX / 2 || header.durable > header.position {
            return Err(FrameFault::Range);
        }
        Ok(Self { header, crc: u32_at(block, 4), stored_bytes })
    }

    /// What the header claims.
    pub fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// The payload as stored, in bytes: with its tag, if it is sealed.
    pub fn stored_bytes(&self) -> usize {
        self.stored_bytes
    }

    /// The blocks that the frame takes, in bytes.
    pub fn frame_bytes(&self) -> usize {
        frame_bytes(self.stored_bytes)
    }

    /// Verifies the checksum over `bytes`, which begin with the header that was parsed.
    ///
    /// # Errors
    /// [`FrameFault::Range`] if the bytes end too early, [`FrameFault::Checksum`].
    pub fn verify<'a>(&self, bytes: &'a [u8]) -> Result<StoredFrame<'a>, FrameFault> {
        let end = FRAME_HEADER_BYTES + self.stored_bytes;
        let checked = bytes.get(CHECKED_FROM..end).ok_or(FrameFault::Range)?;
        if crc32c::crc32c(checked) != self.crc {
            return Err(FrameFault::Checksum);
        }
        let (head, stored) = bytes[..end].split_at(FRAME_HEADER_BYTES);
        Ok(StoredFrame { header: self.header, crc: self.crc, head, stored })
    }
}

/// A frame whose checksum was verified, with its payload as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct StoredFrame<'a> {
    /// What it says about itself.
    pub header: FrameHeader,
    /// Its checksum, which its successor repeats.
    pub crc: u32,
    head: &'a [u8],
    stored: &'a [u8],
}

impl<'a> StoredFrame<'a> {
    /// The frame of a plain segment.
    pub fn plain(self) -> Frame<'a> {
        let Self { header, crc, stored: payload, .. } = self;
        Frame { header, crc, payload, stored_bytes: payload.len() }
    }

    /// The frame of a sealed segment, opened into `buffer`. `None` if it is not what was sealed:
    /// not torn, since the checksum matches, but altered.
    pub fn open(self, key: &SealKey, buffer: &'a mut Vec<u8>) -> Option<Frame<'a>> {
        let (sealed, tag) = self.stored.split_last_chunk::<TAG_BYTES>()?;
        buffer.clear();
        buffer.extend_from_slice(sealed);
        let nonce = frame_nonce(self.header.position);
        if sealed.is_empty() || !key.open(nonce, &self.head[CHECKED_FROM..], buffer, *tag) {
            return None;
        }
        let (header, crc, stored_bytes) = (self.header, self.crc, self.stored.len());
        Some(Frame { header, crc, payload: buffer, stored_bytes })
    }
}

/// A frame whose checksum was verified and whose payload can be read.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What it says about itself.
    pub header: FrameHeader,
    /// Its checksum, which its successor repeats.
    pub crc: u32,
    /// Its slice of the stream.
    pub payload: &'a [u8],
    /// How many bytes of the file that takes, tag included.
    pub stored_bytes: usize,
}

impl Frame<'_> {
    /// The position after its last payload byte.
    pub fn end(&self) -> Position {
        Position(self.header.position.0 + self.payload.len() as u64)
    }

    /// Whether it is the frame that belongs at a place in the log. `None` for what is not known
    /// there: the first segment that is kept has no predecessor to compare with.
    ///
    /// # Errors
    /// [`FrameFault::Position`] or [`FrameFault::Predecessor`].
    pub fn follows(
        &self,
        expected: Option<Position>,
        previous_crc: Option<u32>,
    ) -> Result<(), FrameFault> {
        let found = self.header.position;
        if let Some(expected) = expected.filter(|&expected| expected != found) {
            return Err(FrameFault::Position { expected, found });
        }
        if previous_crc.is_some_and(|crc| crc != self.header.previous_crc) {
            return Err(FrameFault::Predecessor);
        }
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::DataKey;

    fn sample(payload: &[u8]) -> (FrameHeader, Vec<u8>, u32) {
        let header = FrameHeader {
            identity: SegmentIdentity(0x1122_3344_5566_7788),
            position: Position(1000),
            durable: Position(900),
            previous_crc: 0xAABB_CCDD,
            first_record: Some(2),
        };
        let mut out = vec![0xEE; frame_bytes(payload.len())];
        let crc = encode_frame(&mut out, &header, payload, None);
        (header, out, crc)
    }

    fn open(bytes: &[u8]) -> Result<Frame<'_>, FrameFault> {
        Ok(RawFrame::parse(bytes)?.verify(bytes)?.plain())
    }

    #[test]
    fn round_trip_at_every_block_edge() {
        for len in [1, 2, 4047, 4048, 4049, 8144, MAX_PAYLOAD_BYTES] {
            let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let (mut header, mut out, _) = sample(&payload);
            header.first_record = None;
            let crc = encode_frame(&mut out, &header, &payload, None);
            let frame = open(&out).unwrap();
            assert_eq!((frame.header, frame.crc, frame.payload), (header, crc, payload.as_slice()));
            assert_eq!(frame.end(), Position(1000 + len as u64));
            assert!(out[FRAME_HEADER_BYTES + len..].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn sealed_round_trip_at_every_block_edge() {
        let key = DataKey::new([7; 32]).segment_key(&[8; 32], &[]);
        for len in [1, 2, 4031, 4032, 4033, MAX_PAYLOAD_BYTES - TAG_BYTES] {
            let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let (mut header, ..) = sample(b"..");
            header.first_record = None;
            let stored = stored_bytes(len, Some(&key));
            let mut out = vec![0xEE; frame_bytes(stored)];
            let crc = encode_frame(&mut out, &header, &payload, Some(&key));
            let mut buffer = Vec::new();
            let raw = RawFrame::parse(&out).unwrap();
            let frame = raw.verify(&out).unwrap().open(&key, &mut buffer).unwrap();
            assert_eq!((frame.header, frame.crc, frame.payload), (header, crc, payload.as_slice()));
            assert_eq!((frame.stored_bytes, raw.frame_bytes()), (stored, out.len()));
            assert_eq!(frame.end(), Position(1000 + len as u64));
            assert!(out[FRAME_HEADER_BYTES + stored..].iter().all(|&byte| byte == 0));
        }
    }

    /// Whatever is changed, and the checksum mended, does not open; nor does a frame under another
    /// key, or a plain one.
    #[test]
    fn every_flip_of_a_sealed_frame_is_found_behind_a_mended_checksum() {
        let key = DataKey::new([7; 32]).segment_key(&[8; 32], &[]);
        let (header, ..) = sample(b"payload");
        let mut out = vec![0; BLOCK_BYTES];
        encode_frame(&mut out, &header, b"payload", Some(&key));
        let opens = |bytes: &mut [u8], key: &SealKey| {
            let Ok(raw) = RawFrame::parse(bytes) else { return false };
            let end = FRAME_HEADER_BYTES + raw.stored_bytes;
            if end > bytes.len() {
                return false;
            }
            let crc = crc32c::crc32c(&bytes[CHECKED_FROM..end]);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            let stored = RawFrame::parse(bytes).unwrap().verify(bytes).unwrap();
            stored.open(key, &mut Vec::new()).is_some()
        };
        assert!(opens(&mut out.clone(), &key));
        for at in CHECKED_FROM..FRAME_HEADER_BYTES + 7 + TAG_BYTES {
            for bit in 0..8 {
                let mut bytes = out.clone();
                bytes[at] ^= 1 << bit;
                assert!(!opens(&mut bytes, &key), "bit {bit} of byte {at}");
            }
        }
        let other = DataKey::new([7; 32]).segment_key(&[9; 32], &[]);
        assert!(!opens(&mut out.clone(), &other));
        for payload in [&b"p"[..], &[1; TAG_BYTES], &[1; 100]] {
            let header = FrameHeader { first_record: None, ..header };
            let mut plain = vec![0; BLOCK_BYTES];
            encode_frame(&mut plain, &header, payload, None);
            assert!(!opens(&mut plain, &key));
        }
    }

    #[test]
    fn golden_header() {
        let (_, out, crc) = sample(b"payload");
        let hex: String =
            out[..56].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        let crc: String = crc.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            format!(
                "43574631{crc}0700000002000000\
                 8877665544332211e80300000000000084030000000000\
                 00ddccbbaa000000007061796c6f616400"
            )
        );
    }

    #[test]
    fn every_flip_and_truncation_is_found() {
        let (_, out, _) = sample(b"payload");
        for at in 0..FRAME_HEADER_BYTES + 7 {
            for bit in 0..8 {
                let mut bytes = out.clone();
                bytes[at] ^= 1 << bit;
                assert!(open(&bytes).is_err(), "bit {bit} of byte {at}");
            }
            assert!(open(&out[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(open(&[0; BLOCK_BYTES]).unwrap_err(), FrameFault::Blank);
    }

    #[test]
    fn only_the_successor_follows() {
        let (_, out, _) = sample(b"payload");
        let frame = open(&out).unwrap();
        assert_eq!(frame.follows(Some(Position(1000)), Some(0xAABB_CCDD)), Ok(()));
        assert_eq!(frame.follows(None, None), Ok(()));
        assert_eq!(frame.follows(Some(Position(1000)), Some(1)), Err(FrameFault::Predecessor));
        assert!(matches!(frame.follows(Some(Position(1)), None), Err(FrameFault::Position { .. })));
    }
}
