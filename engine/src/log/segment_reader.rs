//! One segment file, read frame by frame through a window of bounded size.
//!
//! Says what stands at an offset; what that means for the log is decided in [`super::reader`].

use std::path::{Path, PathBuf};

use super::disk::LogDisk;
use super::error::{Fault, LogError};
use super::frame::{BLOCK_BYTES, Frame, FrameFault, MAX_FRAME_BYTES, RawFrame};
use super::sealing::LogKeys;
use super::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, SegmentIndex, segment_name};
use crate::seal::SealKey;
use crate::types::{LogId, Position};

/// Bytes read at once; a frame fits.
const WINDOW_BYTES: usize = 2 * MAX_FRAME_BYTES;

/// What every segment of one start's logs must say about itself, and what opens it.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'k> {
    /// The database of the data directory.
    pub database_id: u128,
    /// The history of that start.
    pub history_id: u128,
    /// Shards in the layout of that start.
    pub shards: u16,
    /// The configured keys.
    pub keys: &'k LogKeys,
}

impl Expected<'_> {
    fn fits(&self, header: &SegmentHeader) -> bool {
        (header.database_id, header.history_id, header.shards)
            == (self.database_id, self.history_id, self.shards)
    }
}

/// A segment with a valid header.
pub(super) struct SegmentReader<'d> {
    disk: &'d dyn LogDisk,
    path: PathBuf,
    header: SegmentHeader,
    /// Opens the frames, if they are sealed.
    key: Option<SealKey>,
    window: Vec<u8>,
    window_start: u64,
    /// The payload of the last frame that was opened.
    opened: Vec<u8>,
}

impl<'d> SegmentReader<'d> {
    /// Opens a segment and checks that it is the one its name says.
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::Refused`], or [`LogError::Damaged`] at offset 0 (with
    /// positions of 0: none is known).
    pub(super) fn open(
        disk: &'d dyn LogDisk,
        dir: &Path,
        log: LogId,
        index: SegmentIndex,
        expected: &Expected<'_>,
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
        if (header.log, header.index) != (log, index) || !expected.fits(&header) {
            return Err(damaged(Fault::Foreign));
        }
        let expected_bytes = header.size_bytes;
        if expected_bytes != found_bytes || !expected_bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return Err(damaged(Fault::Size { expected_bytes, found_bytes }));
        }
        let key = match header.open(&block, expected.keys) {
            Ok(key) => key,
            Err(reason) => return Err(LogError::Refused { path, reason }),
        };
        let (window, opened) = (Vec::new(), Vec::new());
        Ok(Self { disk, path, header, key, window, window_start: 0, opened })
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
    /// [`LogError::Io`]; [`LogError::Damaged`] if it is whole and does not open: no crash does
    /// that.
    pub(super) fn frame_at(
        &mut self,
        offset_bytes: u64,
    ) -> Result<Result<Frame<'_>, FrameFault>, LogError> {
        self.load(offset_bytes, BLOCK_BYTES)?;
        let raw = match RawFrame::parse(self.bytes(offset_bytes, BLOCK_BYTES)) {
            Ok(raw) => raw,
            Err(fault) => return Ok(Err(fault)),
        };
        if raw.header().identity != self.header.identity {
            return Ok(Err(FrameFault::Identity));
        }
        self.load(offset_bytes, raw.frame_bytes())?;
        let from = (offset_bytes - self.window_start) as usize;
        let stored = match raw.verify(self.window.get(from..).unwrap_or_default()) {
            Ok(stored) => stored,
            Err(fault) => return Ok(Err(fault)),
        };
        let Some(key) = &self.key else { return Ok(Ok(stored.plain())) };
        let position = stored.header.position;
        let frame = stored.open(key, &mut self.opened).ok_or_else(|| LogError::Damaged {
            path: self.path.clone(),
            offset_bytes,
            position,
            durable: position,
            fault: Fault::Altered,
        })?;
        Ok(Ok(frame))
    }

    /// Makes sure that the window has the bytes from an offset on: `len` of them, or fewer if the
    /// file ends before.
    fn load(&mut self, offset_bytes: u64, len: usize) -> Result<(), LogError> {
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
        Ok(())
    }

    /// Loaded bytes from an offset on.
    fn bytes(&self, offset_bytes: u64, len: usize) -> &[u8] {
        let from = (offset_bytes - self.window_start) as usize;
        let rest = self.window.get(from..).unwrap_or_default();
        &rest[..len.min(rest.len())]
    }
}
