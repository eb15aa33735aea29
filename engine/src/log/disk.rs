//! The blocking file operations that the log needs, and their implementation over real files.
//!
//! These run on helper threads and at a start: listing, reading, preparing segments, small files.
//! Frames themselves are written by the shell, asynchronously, into a [`LogFile`] that
//! [`FileDisk::open_for_frames`] opened. Every operation that changes a name is durable when it
//! returns: it syncs the directory. Bytes written by [`LogDisk::write_at`] are durable too.
#![expect(clippy::disallowed_methods, reason = "this is the module that owns the files")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Zeros are written in pieces of this size.
const PREWRITE_BYTES: usize = 1024 * 1024;
/// The suffix of a file that [`LogDisk::write_atomically`] has not renamed yet.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// One file of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name, without the directory.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
}

/// A disk, as far as the log needs one. Calls block; none of them may run on a shard's thread
/// while it serves.
///
/// # Errors
/// Every method returns what the file system says; the caller knows the operation and the path.
pub trait LogDisk: Send + Sync {
    /// Makes a directory (and its parents) exist, durably.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// The files of a directory, sorted by name; no subdirectories. Names that are not UTF-8 are
    /// left out: the log never writes one.
    fn list(&self, dir: &Path) -> io::Result<Vec<FileEntry>>;

    /// The size of a file.
    fn size_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Reads at `offset` until `buffer` is full or the file ends; returns the bytes read.
    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Creates a file of zeros that are really written, so that a later write into it converts no
    /// metadata; durable. Replaces a file of that name (a spare left half-made by a crash).
    fn create_prewritten(&self, path: &Path, size_bytes: u64) -> io::Result<()>;

    /// Writes into an existing file; durable when it returns.
    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Creates or replaces a small file as a whole; durable when it returns.
    fn write_atomically(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Renames a file within its directory, replacing what is there; durable when it returns.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; durable when it returns.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes what was written to a file durable.
    fn sync(&self, path: &Path) -> io::Result<()>;

    /// Reads a whole small file.
    fn read_file(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        let size_bytes = self.size_bytes(path)?;
        if size_bytes > max_bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is far too large"));
        }
        let mut bytes = vec![0; usize::try_from(size_bytes).map_err(io::Error::other)?];
        let len = self.read_at(path, 0, &mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    }
}

/// The real disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileDisk;

/// A segment opened for frames.
#[derive(Debug)]
pub struct LogFile {
    /// The file; writes go past the page cache if `direct`.
    pub file: File,
    /// Whether O_DIRECT was accepted. Where not, say so once: durability is the same, speed is not.
    pub direct: bool,
}

impl FileDisk {
    /// Opens a segment for writing whole aligned blocks, with O_DIRECT if the file system takes it.
    /// With `dsync` a completed write is durable.
    ///
    /// # Errors
    /// Those of open(2); EINVAL means no O_DIRECT, and is answered by opening without it.
    pub fn open_for_frames(&self, path: &Path, dsync: bool) -> io::Result<LogFile> {
        let sync = if dsync { libc::O_DSYNC } else { 0 };
        let open = |flags| OpenOptions::new().write(true).custom_flags(flags).open(path);
        match open(libc::O_DIRECT | sync) {
            Ok(file) => Ok(LogFile { file, direct: true }),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                Ok(LogFile { file: open(sync)?, direct: false })
            }
            Err(error) => Err(error),
        }
    }
}

impl LogDisk for FileDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        sync_dir(dir)?;
        sync_parent(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<FileEntry>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                files.push(FileEntry { name, size_bytes: metadata.len() });
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    fn size_bytes(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = File::open(path)?;
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn create_prewritten(&self, path: &Path, size_bytes: u64) -> io::Result<()> {
        let mut file = File::create(path)?;
        let zeros = vec![0; PREWRITE_BYTES];
        let mut left = size_bytes;
        while left > 0 {
            let len = left.min(PREWRITE_BYTES as u64) as usize;
            file.write_all(&zeros[..len])?;
            left -= len as u64;
        }
        file.sync_all()?;
        sync_parent(path)
    }

    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.write_all_at(bytes, offset)?;
        file.sync_all()
    }

    fn write_atomically(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = temporary_path(path);
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        sync_parent(to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)?;
        sync_parent(path)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// Where a small file is written before it gets its name.
pub(super) fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    PathBuf::from(name)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => sync_dir(dir),
        _ => sync_dir(Path::new(".")),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::buffer::AlignedBuffer;
    use crate::log::sim_disk::SimDisk;

    /// What both disks must agree on.
    fn conformance(disk: &dyn LogDisk, root: &Path) {
        let dir = root.join("a/log");
        disk.create_dir(&dir).unwrap();
        disk.create_dir(&dir).unwrap();
        let (one, two) = (dir.join("one"), dir.join("two"));
        disk.create_prewritten(&one, 10_000).unwrap();
        disk.write_at(&one, 9_998, b"xy").unwrap();
        disk.sync(&one).unwrap();
        let mut buffer = [1; 8];
        assert_eq!(disk.read_at(&one, 9_996, &mut buffer).unwrap(), 4);
        assert_eq!(buffer, [0, 0, b'x', b'y', 1, 1, 1, 1]);
        assert_eq!(disk.read_at(&one, 20_000, &mut buffer).unwrap(), 0);
        disk.write_atomically(&two, b"first").unwrap();
        disk.write_atomically(&two, b"second").unwrap();
        assert_eq!(disk.read_file(&two, 100).unwrap(), b"second");
        assert!(disk.read_file(&two, 5).is_err());
        let names = |disk: &dyn LogDisk| {
            let files = disk.list(&dir).unwrap();
            files.into_iter().map(|file| (file.name, file.size_bytes)).collect::<Vec<_>>()
        };
        assert_eq!(names(disk), [("one".into(), 10_000), ("two".into(), 6)]);
        disk.rename(&two, &one).unwrap();
        assert_eq!(names(disk), [("one".into(), 6)]);
        disk.remove(&one).unwrap();
        assert_eq!(names(disk), []);
        for result in [
            disk.remove(&one),
            disk.sync(&one),
            disk.rename(&one, &two),
            disk.write_at(&one, 0, b"x"),
            disk.size_bytes(&one).map(drop),
            disk.read_at(&one, 0, &mut buffer).map(drop),
            disk.list(&root.join("none")).map(drop),
        ] {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn real_files() {
        let root = tempfile::tempdir().unwrap();
        conformance(&FileDisk, root.path());
    }

    #[test]
    fn simulated_files() {
        conformance(&SimDisk::new(0), Path::new("root"));
    }

    #[test]
    fn frames_can_be_written_directly() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("segment");
        FileDisk.create_prewritten(&path, 16_384).unwrap();
        for dsync in [true, false] {
            let opened = FileDisk.open_for_frames(&path, dsync).unwrap();
            let mut block = AlignedBuffer::zeroed(4096);
            block.fill(7);
            opened.file.write_all_at(&block, 8192).unwrap();
        }
        FileDisk.sync(&path).unwrap();
        assert_eq!(FileDisk.read_file(&path, 16_384).unwrap()[8191..8193], [0, 7]);
    }
}
