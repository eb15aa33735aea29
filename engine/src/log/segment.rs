//! A segment: one file of a log. Its name, its header block, and its life from spare to spare.
//!
//! The header is durable, and the file has its final name, *before* the writer may put a frame
//! into it. So a bad header is never the trace of a crash, and the identity that tells this use
//! of the file from the one before is known whenever a frame of it can exist. Where the segment
//! begins in the stream is not known that early: its first frame says it (position, predecessor).
//!
//! A segment is filled to its last block before the next is begun, so its end needs no mark.
//!
//! Life: [`prepare_segment`] takes a spare (or writes a new file of zeros), puts the new header
//! into it and renames it; [`retire_segment`] renames it back into a spare, durably, so that an
//! old name can never carry a new header. A sealed segment is never made from one that was plain:
//! old frames would stay readable behind the new ones.

use std::io;
use std::path::Path;

use super::buffer::AlignedBuffer;
use super::disk::LogDisk;
use super::frame::BLOCK_BYTES;
use super::sealing::SegmentSealing;
use crate::seal::{KEY_ID_LIMIT_BYTES, SALT_BYTES, TAG_BYTES, WRAPPED_BYTES, WrappedKey};
use crate::types::{LogId, ShardId, StartId};

/// The number of a segment in its log, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentIndex(pub u64);

impl SegmentIndex {
    /// The segment after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A random number for each use of a segment file; repeated by each frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SegmentIdentity(pub u64);

/// Bytes of the header block; the first frame follows.
pub const SEGMENT_HEADER_BYTES: usize = BLOCK_BYTES;
/// The size of a segment file where nothing else is configured.
pub const DEFAULT_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// The smallest segment: a header and one block.
pub const MIN_SEGMENT_BYTES: u64 = 2 * BLOCK_BYTES as u64;
/// The version of header, frames and records that this code writes. It reads those from 1 to it.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"CUTWLOG\0";
const SEALED: u8 = 1;
const SALT_AT: usize = 80;
const KEY_ID_AT: usize = SALT_AT + SALT_BYTES;
const WRAPPED_AT: usize = KEY_ID_AT + KEY_ID_LIMIT_BYTES;
/// The tag covers everything before it.
pub(super) const TAG_AT: usize = WRAPPED_AT + WRAPPED_BYTES;
/// The checksum covers everything before it, in every version.
const CRC_AT: usize = TAG_AT + TAG_BYTES;

const _: () = assert!(CRC_AT == 252, "later versions are told by it");

/// What a segment file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The data directory's database.
    pub database_id: u128,
    /// The unbroken line of writes that the log continues.
    pub history_id: u128,
    /// The log that it belongs to.
    pub log: LogId,
    /// Shards in the layout of that start.
    pub shards: u16,
    /// Its number in the log.
    pub index: SegmentIndex,
    /// This use of the file.
    pub identity: SegmentIdentity,
    /// The size of the whole file, a multiple of the block.
    pub size_bytes: u64,
    /// What its frames are sealed with; `None` if they are plain.
    pub sealing: Option<SegmentSealing>,
}

/// Why a block is not a segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It is not one, or not whole.
    #[error("no segment header, or a damaged one")]
    Damaged,
    /// Written by a version that this one does not read.
    #[error("segment format version {0} is not supported")]
    Version(u32),
}

impl SegmentHeader {
    /// The header as the file's first block.
    pub fn encode(&self) -> AlignedBuffer {
        let mut out = AlignedBuffer::zeroed(SEGMENT_HEADER_BYTES);
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..14].copy_from_slice(&self.shards.to_le_bytes());
        if let Some(SegmentSealing { wrapped, salt, tag }) = &self.sealing {
            let key_id = wrapped.key_id.as_str().as_bytes();
            out[14] = SEALED;
            out[15] = key_id.len() as u8;
            out[SALT_AT..KEY_ID_AT].copy_from_slice(salt);
            out[KEY_ID_AT..KEY_ID_AT + key_id.len()].copy_from_slice(key_id);
            out[WRAPPED_AT..TAG_AT].copy_from_slice(&wrapped.bytes);
            out[TAG_AT..CRC_AT].copy_from_slice(tag);
        }
        out[16..20].copy_from_slice(&self.log.start.0.to_le_bytes());
        out[20..22].copy_from_slice(&self.log.shard.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.index.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.identity.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.size_bytes.to_le_bytes());
        out[48..64].copy_from_slice(&self.database_id.to_le_bytes());
        out[64..80].copy_from_slice(&self.history_id.to_le_bytes());
        let crc = crc32c::crc32c(&out[..CRC_AT]);
        out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header at the front of a file.
    ///
    /// # Errors
    /// [`HeaderError`]; the version is only believed once the checksum was verified.
    pub fn decode(block: &[u8]) -> Result<Self, HeaderError> {
        let fields = block.first_chunk::<CRC_AT>().ok_or(HeaderError::Damaged)?;
        let crc: [u8; 4] = take(block.get(CRC_AT..).ok_or(HeaderError::Damaged)?)?;
        if fields[..8] != MAGIC || u32::from_le_bytes(crc) != crc32c::crc32c(fields) {
            return Err(HeaderError::Damaged);
        }
        let version = u32::from_le_bytes(take(&fields[8..])?);
        if !(1..=FORMAT_VERSION).contains(&version) {
            return Err(HeaderError::Version(version));
        }
        Ok(Self {
            database_id: u128::from_le_bytes(take(&fields[48..])?),
            history_id: u128::from_le_bytes(take(&fields[64..])?),
            log: LogId {
                start: StartId(u32::from_le_bytes(take(&fields[16..])?)),
                shard: ShardId(u16::from_le_bytes(take(&fields[20..])?)),
            },
            shards: u16::from_le_bytes(take(&fields[12..])?),
            index: SegmentIndex(u64::from_le_bytes(take(&fields[24..])?)),
            identity: SegmentIdentity(u64::from_le_bytes(take(&fields[32..])?)),
            size_bytes: u64::from_le_bytes(take(&fields[40..])?),
            sealing: decode_sealing(fields)?,
        })
    }
}

fn decode_sealing(fields: &[u8; CRC_AT]) -> Result<Option<SegmentSealing>, HeaderError> {
    let key_id_bytes = usize::from(fields[15]);
    match (fields[14], key_id_bytes) {
        (0, 0) => return Ok(None),
        (SEALED, 1..=KEY_ID_LIMIT_BYTES) => {}
        _ => return Err(HeaderError::Damaged),
    }
    let key_id = std::str::from_utf8(&fields[KEY_ID_AT..KEY_ID_AT + key_id_bytes]);
    let key_id = key_id.ok().and_then(|id| id.parse().ok()).ok_or(HeaderError::Damaged)?;
    Ok(Some(SegmentSealing {
        wrapped: WrappedKey { key_id, bytes: take(&fields[WRAPPED_AT..])? },
        salt: take(&fields[SALT_AT..])?,
        tag: take(&fields[TAG_AT..])?,
    }))
}

fn take<const N: usize>(bytes: &[u8]) -> Result<[u8; N], HeaderError> {
    bytes.first_chunk::<N>().copied().ok_or(HeaderError::Damaged)
}

/// The file name of a segment, in the log directory.
pub fn segment_name(log: LogId, index: SegmentIndex) -> String {
    format!("{log}-{:010}.seg", index.0)
}

/// What a segment's file name says; `None` for the name of anything else.
pub fn parse_segment_name(name: &str) -> Option<(LogId, SegmentIndex)> {
    let mut parts = name.strip_suffix(".seg")?.split('-');
    let (start, shard, index) = (parts.next()?, parts.next()?, parts.next()?);
    let log = LogId { start: StartId(start.parse().ok()?), shard: ShardId(shard.parse().ok()?) };
    let index = SegmentIndex(index.parse().ok()?);
    // Only the canonical spelling: "+1" and "1" parse as well, and would name one segment twice.
    (segment_name(log, index) == name).then_some((log, index))
}

/// The file name of a spare that was, or will be, this segment: so no two shards share a spare.
pub fn spare_name(log: LogId, index: SegmentIndex) -> String {
    format!("spare-{}", segment_name(log, index))
}

/// Whether a file name is that of a spare.
pub fn is_spare_name(name: &str) -> bool {
    name.strip_prefix("spare-").is_some_and(|rest| parse_segment_name(rest).is_some())
}

/// Makes the segment that `header` describes exist, durably and under its name, ready for frames.
/// `spare` is the name of a file that may be used for it; one of another size, or one that may hold
/// plain frames where sealed ones are to come, is removed instead.
///
/// # Errors
/// Any of the disk; "no space left" leaves nothing that needs cleaning up but a spare.
pub fn prepare_segment(
    disk: &dyn LogDisk,
    dir: &Path,
    header: &SegmentHeader,
    spare: Option<&str>,
) -> io::Result<()> {
    let fresh = dir.join(spare_name(header.log, header.index));
    let file = match spare.map(|name| dir.join(name)) {
        Some(spare) if is_fit(disk, &spare, header)? => spare,
        other => {
            if let Some(unfit) = other {
                disk.remove(&unfit)?;
            }
            disk.create_prewritten(&fresh, header.size_bytes)?;
            fresh
        }
    };
    disk.write_at(&file, 0, &header.encode())?;
    disk.rename(&file, &dir.join(segment_name(header.log, header.index)))
}

/// Whether a spare can become the segment that `header` describes.
fn is_fit(disk: &dyn LogDisk, spare: &Path, header: &SegmentHeader) -> io::Result<bool> {
    Ok(disk.size_bytes(spare)? == header.size_bytes
        && (header.sealing.is_none() || was_sealed(disk, spare)?))
}

/// Whether nothing plain was ever written to a spare: it was a sealed segment, and those are made
/// of zeros or of sealed ones. (A file of zeros counts as plain: a crash leaves one at most.)
///
/// # Errors
/// Those of reading.
pub fn was_sealed(disk: &dyn LogDisk, spare: &Path) -> io::Result<bool> {
    let mut block = [0; SEGMENT_HEADER_BYTES];
    let len = disk.read_at(spare, 0, &mut block)?;
    Ok(SegmentHeader::decode(&block[..len]).is_ok_and(|found| found.sealing.is_some()))
}

/// Turns a released segment into a spare and returns its new name.
///
/// # Errors
/// Any of the disk.
pub fn retire_segment(
    disk: &dyn LogDisk,
    dir: &Path,
    log: LogId,
    index: SegmentIndex,
) -> io::Result<String> {
    let spare = spare_name(log, index);
    disk.rename(&dir.join(segment_name(log, index)), &dir.join(&spare))?;
    Ok(spare)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sim_disk::SimDisk;

    fn sample() -> SegmentHeader {
        SegmentHeader {
            database_id: 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100,
            history_id: 7,
            log: LogId { start: StartId(12), shard: ShardId(3) },
            shards: 4,
            index: SegmentIndex(5),
            identity: SegmentIdentity(0xDEAD_BEEF),
            size_bytes: 64 << 10,
            sealing: None,
        }
    }

    fn sealed() -> SegmentHeader {
        let key_id = "2026-11".parse().unwrap();
        let wrapped = WrappedKey { key_id, bytes: [0x77; WRAPPED_BYTES] };
        let sealing = SegmentSealing { wrapped, salt: [0x55; 32], tag: [0x99; 16] };
        SegmentHeader { sealing: Some(sealing), ..sample() }
    }

    #[test]
    fn header_round_trip_and_every_flip() {
        for header in [sample(), sealed()] {
            let block = header.encode();
            assert_eq!(SegmentHeader::decode(&block), Ok(header));
            for at in 0..CRC_AT + 4 {
                for bit in 0..8 {
                    let mut bytes = block.to_vec();
                    bytes[at] ^= 1 << bit;
                    assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Damaged));
                }
                assert_eq!(SegmentHeader::decode(&block[..at]), Err(HeaderError::Damaged));
            }
        }
    }

    #[test]
    fn another_version_is_named_and_a_half_sealed_header_is_none() {
        let changed = |header: SegmentHeader, change: &dyn Fn(&mut [u8])| {
            let mut block = header.encode().to_vec();
            change(&mut block);
            let crc = crc32c::crc32c(&block[..CRC_AT]);
            block[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
            SegmentHeader::decode(&block)
        };
        for version in [0, 2, 700] {
            let found = changed(sample(), &|block| {
                block[8..12].copy_from_slice(&u32::to_le_bytes(version));
            });
            assert_eq!(found, Err(HeaderError::Version(version)));
        }
        for (at, byte) in [(14, 0), (14, 2), (15, 0), (15, 65), (KEY_ID_AT, b'/')] {
            let found = changed(sealed(), &|block| block[at] = byte);
            assert_eq!(found, Err(HeaderError::Damaged), "{byte} at {at}");
        }
    }

    #[test]
    fn golden_header() {
        let hex = |header: &SegmentHeader| -> String {
            header.encode()[..256].iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let head = |sealing: &str| {
            format!(
                "435554574c4f4700010000000400{sealing}0c00000003000000\
                 0500000000000000efbeadde000000000000010000000000\
                 000102030405060708090a0b0c0d0e0f07000000000000000000000000000000"
            )
        };
        assert_eq!(hex(&sample()), format!("{}{}9129828f", head("0000"), "00".repeat(172)));
        let (salt, wrapped, tag) = ("55".repeat(32), "77".repeat(60), "99".repeat(16));
        let key_id = format!("323032362d3131{}", "00".repeat(57));
        let all = format!("{}{salt}{key_id}{wrapped}{tag}e33a6480", head("0107"));
        assert_eq!(hex(&sealed()), all);
    }

    #[test]
    fn names_round_trip_and_others_are_refused() {
        let (log, index) = (sample().log, sample().index);
        assert_eq!(segment_name(log, index), "000012-003-0000000005.seg");
        assert_eq!(parse_segment_name("000012-003-0000000005.seg"), Some((log, index)));
        assert!(is_spare_name(&spare_name(log, index)));
        for other in ["000012.start", "12-3-5.seg", "spare-1.seg", "000012-003-0000000005.seg.tmp"]
        {
            assert_eq!(parse_segment_name(other), None);
            assert!(!is_spare_name(other));
        }
    }

    #[test]
    fn a_spare_is_reused_only_if_it_fits() {
        let disk = SimDisk::new(1);
        let dir = Path::new("log");
        disk.create_dir(dir).unwrap();
        let first = sample();
        prepare_segment(&disk, dir, &first, None).unwrap();
        let spare = retire_segment(&disk, dir, first.log, first.index).unwrap();
        let second = SegmentHeader { index: first.index.next(), ..first.clone() };
        prepare_segment(&disk, dir, &second, Some(&spare)).unwrap();
        let spare = retire_segment(&disk, dir, second.log, second.index).unwrap();
        let third =
            SegmentHeader { index: second.index.next(), size_bytes: 32 << 10, ..first.clone() };
        prepare_segment(&disk, dir, &third, Some(&spare)).unwrap();
        let files = disk.list(dir).unwrap();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].name, segment_name(third.log, third.index));
        assert_eq!(files[0].size_bytes, 32 << 10);
    }
}
