//! A disk in memory for the simulation: it crashes, tears, flips, loses and misplaces.
//!
//! Reads see what was written, as through a page cache. What is *durable* is kept apart: a write is
//! pending until its file is synced, or, when issued as dsync, until it completes.
//! [`SimDisk::crash`] keeps what is durable and a random subset of the rest, in sectors of 512
//! bytes. Changes of names are durable at once, because the methods of [`LogDisk`] sync the
//! directory; what a crash can interrupt there is the step between two of them
//! ([`SimDisk::fail_after`]).
//!
//! Handles are cheap clones of one disk. Everything follows from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{FileEntry, LogDisk};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// An asynchronous write that was started and not yet completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteOp(u64);

/// A write whose bytes a crash may lose.
#[derive(Debug)]
struct Pending {
    offset: usize,
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct SimFile {
    durable: Vec<u8>,
    /// What a reader sees.
    visible: Vec<u8>,
    /// Completed, not yet synced, in order.
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct InFlight {
    path: PathBuf,
    write: Pending,
    dsync: bool,
}

#[derive(Debug)]
struct State {
    rng: u64,
    files: BTreeMap<PathBuf, SimFile>,
    dirs: BTreeSet<PathBuf>,
    in_flight: BTreeMap<WriteOp, InFlight>,
    next_op: u64,
    operations: u64,
    /// From this operation on, all fail until the next crash.
    fail_from: Option<u64>,
}

/// A disk in memory; clones are handles of the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// An empty disk; `seed` decides what its crashes keep.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: seed,
            files: BTreeMap::new(),
            dirs: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            next_op: 0,
            operations: 0,
            fail_from: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a write into an existing file. Nothing is visible before [`Self::complete`]; a crash
    /// before that may keep any of its sectors.
    ///
    /// # Errors
    /// If the file is not there or too short, or the disk fails.
    pub fn start_write(
        &self,
        path: &Path,
        offset: u64,
        bytes: &[u8],
        dsync: bool,
    ) -> io::Result<WriteOp> {
        let mut state = self.state();
        state.operation()?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let file = state.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        if offset + bytes.len() > file.visible.len() {
            return Err(io::Error::other("a frame was written past its segment's end"));
        }
        let op = WriteOp(state.next_op);
        state.next_op += 1;
        let write = Pending { offset, bytes: bytes.to_vec() };
        state.in_flight.insert(op, InFlight { path: path.to_owned(), write, dsync });
        Ok(op)
    }

    /// Completes a write: it is visible, and durable if it was issued as dsync.
    ///
    /// # Errors
    /// If the disk fails; the write is then in doubt, as after a crash.
    pub fn complete(&self, op: WriteOp) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        let InFlight { path, write, dsync } =
            state.in_flight.remove(&op).ok_or(io::ErrorKind::NotFound)?;
        let file = state.files.get_mut(&path).ok_or(io::ErrorKind::NotFound)?;
        write.apply_to(&mut file.visible);
        if dsync {
            write.apply_to(&mut file.durable);
        } else {
            file.pending.push(write);
        }
        Ok(())
    }

    /// The machine loses its power: in-flight and unsynced writes survive in part, sector by
    /// sector. The disk works again afterwards.
    pub fn crash(&self) {
        let mut state = self.state();
        state.fail_from = None;
        let in_flight = std::mem::take(&mut state.in_flight);
        let mut doubtful: Vec<(PathBuf, Pending)> = Vec::new();
        for (path, file) in &mut state.files {
            doubtful.extend(file.pending.drain(..).map(|write| (path.clone(), write)));
        }
        doubtful.extend(in_flight.into_values().map(|write| (write.path, write.write)));
        for (path, write) in doubtful {
            let mode = state.random() % 4;
            for (at, sector) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
                let keep = match mode {
                    0 => false,
                    1 => true,
                    _ => state.random().is_multiple_of(2),
                };
                if let (true, Some(file)) = (keep, state.files.get_mut(&path)) {
                    let offset = write.offset + at * SECTOR_BYTES;
                    overwrite(&mut file.durable, offset, sector);
                }
            }
        }
        for file in state.files.values_mut() {
            file.visible.clone_from(&file.durable);
        }
    }

    /// Only the process dies: everything completed stays, in-flight writes survive in part.
    pub fn kill(&self) {
        let mut state = self.state();
        for file in state.files.values_mut() {
            file.pending.clear();
            file.durable.clone_from(&file.visible);
        }
        drop(state);
        self.crash();
    }

    /// Lets `operations` more operations succeed; all later ones fail until [`Self::crash`].
    pub fn fail_after(&self, operations: u64) {
        let mut state = self.state();
        state.fail_from = Some(state.operations + operations);
    }

    /// How many operations that change or sync something were asked for so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Changes bytes behind everyone's back, durably: a flipped bit is `|bytes| bytes[0] ^= 1`.
    /// Does nothing to a file that is not there.
    pub fn corrupt(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(file) = self.state().files.get_mut(path) {
            change(&mut file.durable);
            file.visible.clone_from(&file.durable);
            file.pending.clear();
        }
    }

    /// The disk forgets a started write and reports success: a lost write.
    pub fn lose(&self, op: WriteOp) {
        self.state().in_flight.remove(&op);
    }

    /// The disk writes a started write to another place of the file: a misplaced write.
    pub fn misplace(&self, op: WriteOp, offset: u64) {
        if let Some(write) = self.state().in_flight.get_mut(&op) {
            write.write.offset = usize::try_from(offset).unwrap_or(usize::MAX / 2);
        }
    }

    /// A copy of the whole disk, pending writes included, with a random stream of its own: so that
    /// one state can crash in many ways.
    pub fn fork(&self, seed: u64) -> Self {
        let state = self.state();
        let copy_pending =
            |write: &Pending| Pending { offset: write.offset, bytes: write.bytes.clone() };
        let copy_file = |file: &SimFile| SimFile {
            durable: file.durable.clone(),
            visible: file.visible.clone(),
            pending: file.pending.iter().map(copy_pending).collect(),
        };
        let files = state.files.iter().map(|(path, file)| (path.clone(), copy_file(file)));
        let in_flight = state.in_flight.iter().map(|(&op, write)| {
            let path = write.path.clone();
            (op, InFlight { path, write: copy_pending(&write.write), dsync: write.dsync })
        });
        Self(Arc::new(Mutex::new(State {
            rng: seed,
            files: files.collect(),
            dirs: state.dirs.clone(),
            in_flight: in_flight.collect(),
            next_op: state.next_op,
            operations: state.operations,
            fail_from: state.fail_from,
        })))
    }
}

impl State {
    /// Counts an operation, and fails it if the disk is to fail by now.
    fn operation(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.fail_from {
            Some(from) if self.operations > from => Err(io::Error::other("the disk failed")),
            _ => Ok(()),
        }
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn random(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.rng;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn file(&mut self, path: &Path) -> io::Result<&mut SimFile> {
        self.files.get_mut(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Pending {
    fn apply_to(&self, bytes: &mut [u8]) {
        overwrite(bytes, self.offset, &self.bytes);
    }
}

/// Copies as much of `bytes` as the file has room for.
fn overwrite(file: &mut [u8], offset: usize, bytes: &[u8]) {
    let start = offset.min(file.len());
    let end = (offset + bytes.len()).min(file.len());
    file[start..end].copy_from_slice(&bytes[..end - start]);
}

impl LogDisk for SimDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        state.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<FileEntry>> {
        let state = self.state();
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.files.iter().filter(|(path, _)| path.parent() == Some(dir));
        let entry = |(path, file): (&PathBuf, &SimFile)| {
            let name = path.file_name()?.to_str()?.to_owned();
            Some(FileEntry { name, size_bytes: file.visible.len() as u64 })
        };
        Ok(inside.filter_map(entry).collect())
    }

    fn size_bytes(&self, path: &Path) -> io::Result<u64> {
        Ok(self.state().file(path)?.visible.len() as u64)
    }

    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        let bytes = &state.file(path)?.visible;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let len = buffer.len().min(bytes.len() - start);
        buffer[..len].copy_from_slice(&bytes[start..start + len]);
        Ok(len)
    }

    fn create_prewritten(&self, path: &Path, size_bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        let zeros = vec![0; usize::try_from(size_bytes).map_err(io::Error::other)?];
        let file = SimFile { durable: zeros.clone(), visible: zeros, pending: Vec::new() };
        state.files.insert(path.to_owned(), file);
        Ok(())
    }

    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let op = self.start_write(path, offset, bytes, true)?;
        self.complete(op)
    }

    fn write_atomically(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = super::disk::temporary_path(path);
        self.create_prewritten(&temporary, bytes.len() as u64)?;
        self.write_at(&temporary, 0, bytes)?;
        self.rename(&temporary, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        state.files.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        let file = state.file(path)?;
        for write in std::mem::take(&mut file.pending) {
            write.apply_to(&mut file.durable);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &SimDisk, path: &Path) -> Vec<u8> {
        disk.read_file(path, 1 << 20).unwrap()
    }

    #[test]
    fn a_crash_keeps_what_is_durable_and_tears_the_rest_at_sectors() {
        let (mut lost, mut torn, mut whole) = (0, 0, 0);
        for seed in 0..64 {
            let (disk, path) = (SimDisk::new(seed), Path::new("file"));
            disk.create_prewritten(path, 8192).unwrap();
            let durable = disk.start_write(path, 0, &[1; 2048], true).unwrap();
            disk.complete(durable).unwrap();
            let loose = disk.start_write(path, 4096, &[2; 2048], false).unwrap();
            disk.complete(loose).unwrap();
            disk.start_write(path, 2048, &[3; 2048], true).unwrap();
            assert_eq!(read(&disk, path)[4096], 2);
            assert_eq!(read(&disk, path)[2048], 0);
            disk.crash();
            let bytes = read(&disk, path);
            assert_eq!(bytes[..2048], [1; 2048]);
            assert!(
                bytes.chunks(SECTOR_BYTES).all(|sector| sector.iter().all(|b| *b == sector[0]))
            );
            match bytes[4096..6144].iter().filter(|&&byte| byte == 2).count() {
                0 => lost += 1,
                2048 => whole += 1,
                _ => torn += 1,
            }
        }
        assert!(lost > 5 && torn > 5 && whole > 5, "{lost} {torn} {whole}");
    }

    #[test]
    fn the_nth_operation_fails_and_so_do_all_after_it() {
        let (disk, path) = (SimDisk::new(0), Path::new("file"));
        disk.create_prewritten(path, 512).unwrap();
        disk.fail_after(1);
        disk.sync(path).unwrap();
        assert!(disk.write_at(path, 0, b"x").is_err());
        assert!(disk.sync(path).is_err());
        disk.crash();
        disk.write_at(path, 0, b"x").unwrap();
        assert_eq!(read(&disk, path)[0], b'x');
    }
}
