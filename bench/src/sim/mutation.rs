//! Ways to break the database on purpose, to show that the simulation notices.

use std::io;
use std::path::Path;

use cutwater_engine::log::frame::BLOCK_BYTES;
use cutwater_engine::log::frame::{FRAME_HEADER_BYTES, RawFrame, encode_frame, frame_bytes};
use cutwater_engine::log::{FileEntry, LogDisk, SimDisk};

/// What is taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mutation {
    /// Nothing.
    #[default]
    None,
    /// Writes and syncs complete without anything being durable.
    NoSync,
    /// Replies and mail do not wait for the log.
    NoGate,
    /// The reader takes every checksum for right.
    NoCrc,
    /// Nothing is sealed, and somebody changes the log all the same.
    NoSeal,
}

/// A disk whose frames always have the right checksum when they are read: to the reader it is as if
/// it did not compare them.
pub struct NoCrcDisk(pub SimDisk);

impl LogDisk for NoCrcDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<FileEntry>> {
        self.0.list(dir)
    }

    fn size_bytes(&self, path: &Path) -> io::Result<u64> {
        self.0.size_bytes(path)
    }

    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut whole = vec![0; usize::try_from(self.0.size_bytes(path)?).unwrap_or(0)];
        let length = self.0.read_at(path, 0, &mut whole)?;
        if path.extension().is_some_and(|suffix| suffix == "seg") {
            mend(&mut whole[..length]);
        }
        let start = usize::try_from(offset).unwrap_or(length).min(length);
        let count = buffer.len().min(length - start);
        buffer[..count].copy_from_slice(&whole[start..start + count]);
        Ok(count)
    }

    fn create_prewritten(&self, path: &Path, size_bytes: u64) -> io::Result<()> {
        self.0.create_prewritten(path, size_bytes)
    }

    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(path, offset, bytes)
    }

    fn write_atomically(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.0.write_atomically(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.0.sync(path)
    }
}

/// Gives every frame of a segment the checksum of what is there.
fn mend(segment: &mut [u8]) {
    let mut at = BLOCK_BYTES;
    while at < segment.len() {
        let rest = &mut segment[at..];
        let length = RawFrame::parse(rest).ok().and_then(|frame| {
            let payload_bytes = u32::from_le_bytes(*rest[8..].first_chunk()?) as usize;
            let length = frame_bytes(payload_bytes);
            let payload =
                rest.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + payload_bytes)?.to_vec();
            encode_frame(rest.get_mut(..length)?, frame.header(), &payload, None);
            Some(length)
        });
        at += length.unwrap_or(BLOCK_BYTES);
    }
}
