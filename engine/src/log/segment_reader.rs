//! One segment file, read frame by frame through a window of bounded size.
//!
//! Says what stands at an offset; what that means for the log is decided in [`super::reader`].

use std::path::{Path, PathBuf};

use super::disk::LogDisk;
use super::error::{Fault, LogError};
use super::frame::{BLOCK_BYTES, Frame, FrameFault, MAX_FRAME_BYTES, RawFrame};
use super::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, SegmentIndex, segment_name};
use crate::types::{LogId, Position};

/// Bytes read at once; a frame fits.
const WINDOW_BYTES: usize = 2 * MAX_FRAME_BYTES;

/// What every segment of one start's logs must say about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The database of the data directory.
    pub database_id: u128,
    /// The history of that start.
    pub history_id: u128,
    /// Shards in the layout of that start.
    pub shards: u16,
}

/// A segment with a valid header.
pub(super) struct SegmentReader<'d> {
    disk: &'d dyn LogDisk,
    path: PathBuf,
    header: SegmentHeader,
    window: Vec<u8>,
    window_start: u64,
}

impl<'d> SegmentReader<'d> {
    /// Opens a segment and checks that it is the one its name says.
    ///
    /// # Errors
    /// [`LogError::Io`], or [`LogError::Damaged`] at offset 0 (with positions of 0: none is known).
    pub(super) fn open(
        disk: &'d dyn LogDisk,
        dir: &Path,
        log: LogId,
        index: SegmentIndex,
        expected: &Expected,
    ) -> Result<Self, LogError> {
        let path = dir.join(segment_name(log, index));
        let io = |operation, source| LogError::Io { operation, path: path.clone(), source };
        let damaged = |fault| LogError::Damaged {
            path: path.clone(),
            offset_bytes: 0,
            position: Position(0),
            durable: Position(0),
            fault,
        };
        let found_bytes = disk.size_bytes(&path).map_err(|error| io("look at", error))?;
        let mut block = [0; SEGMENT_HEADER_BYTES];
        let len = disk.read_at(&path, 0, &mut block).map_err(|error| io("read", error))?;
        let header =
            SegmentHeader::decode(&block[..len]).map_err(|error| damaged(Fault::Header(error)))?;
        let of = Expected {
            database_id: header.database_id,
            history_id: header.history_id,
            shards: header.shards,
        };
        if (header.log, header.index, of) != (log, index, *expected) {
            return Err(damaged(Fault::Foreign));
        }
        let expected_bytes = header.size_bytes;
        if expected_bytes != found_bytes || !expected_bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return Err(damaged(Fault::Size { expected_bytes, found_bytes }));
        }
        Ok(Self { disk, path, header, window: Vec::new(), window_start: 0 })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn index(&self) -> SegmentIndex {
        self.header.index
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.header.size_bytes
    }

    /// The whole, verified frame of this use of the segment at `offset_bytes`, or what is there
    /// instead. Where in the log it belongs is not checked.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub(super) fn frame_at(
        &mut self,
        offset_bytes: u64,
    ) -> Result<Result<Frame<'_>, FrameFault>, LogError> {
        let identity = self.header.identity;
        let raw = match RawFrame::parse(self.bytes(offset_bytes, BLOCK_BYTES)?) {
            Ok(raw) => raw,
            Err(fault) => return Ok(Err(fault)),
        };
        if raw.header().identity != identity {
            return Ok(Err(FrameFault::Identity));
        }
        Ok(raw.verify(self.bytes(offset_bytes, raw.frame_bytes())?))
    }

    /// The bytes from an offset on: `len` of them, or fewer if the file ends before.
    fn bytes(&mut self, offset_bytes: u64, len: usize) -> Result<&[u8], LogError> {
        let window_end = self.window_start + self.window.len() as u64;
        let end = (offset_bytes + len as u64).min(self.header.size_bytes);
        if offset_bytes < self.window_start || end > window_end {
            self.window.resize(WINDOW_BYTES, 0);
            let read = self.disk.read_at(&self.path, offset_bytes, &mut self.window);
            let read = read.map_err(|source| LogError::Io {
                operation: "read",
                path: self.path.clone(),
                source,
            })?;
            self.window.truncate(read);
            self.window_start = offset_bytes;
        }
        let from = (offset_bytes - self.window_start) as usize;
        let rest = self.window.get(from..).unwrap_or_default();
        Ok(&rest[..len.min(rest.len())])
    }
}
