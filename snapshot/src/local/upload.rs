//! A large object on its way into the folder, part by part: written beside its name, past the page
//! cache, and renamed when it is whole and durable.
//!
//! Past the page cache, because what a snapshot writes nobody reads soon: through it, the kernel
//! copies every byte once more (a third of what all of a snapshot costs), turns out pages that
//! others use, and reads a new snapshot back out of memory, which checks no disk. Where the file
//! system has no O_DIRECT the same writes go through the cache.
//!
//! Parts have any length, writes are of whole blocks: what is left of a part goes before the next
//! one, and the last block is written padded and cut off.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};

use async_trait::async_trait;
use cutwater_engine::log::AlignedBuffer;
use cutwater_engine::log::frame::BLOCK_BYTES;
use futures::FutureExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    MultipartUpload, ObjectStoreExt as _, PutPayload, PutResult, Result, UploadPart,
};

use super::{Puts, create_folder, generic, sync_folder};

/// Bytes of one write.
const WRITE_BYTES: usize = 1 << 20;
/// Buffers that wait for the next part; more are freed.
const SPARE_BUFFERS: usize = 2;

/// An object that is being written. What is dropped before it is complete is removed.
#[derive(Debug)]
pub(super) struct Upload {
    inner: LocalFileSystem,
    location: Path,
    staged: Option<Arc<Staged>>,
    /// The bytes behind the last whole block.
    rest: Vec<u8>,
    /// Where they belong.
    rest_offset: u64,
}

/// The file under its first name.
#[derive(Debug)]
struct Staged {
    file: File,
    path: PathBuf,
    to: PathBuf,
    puts: Arc<Puts>,
    buffers: Mutex<Vec<AlignedBuffer>>,
}

impl Upload {
    /// Makes the file, under a name that no other write has. Blocks.
    pub(super) fn begin(inner: LocalFileSystem, location: Path, puts: Arc<Puts>) -> Result<Self> {
        let to = inner.path_to_filesystem(&location)?;
        let (file, path) = create_staged(&to).map_err(generic)?;
        let staged = Arc::new(Staged { file, path, to, puts, buffers: Mutex::default() });
        Ok(Self { inner, location, staged: Some(staged), rest: Vec::new(), rest_offset: 0 })
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let Some(staged) = self.staged.clone() else { return async { Err(ended()) }.boxed() };
        let before = std::mem::take(&mut self.rest);
        let offset = self.rest_offset;
        let len = before.len() + payload.content_length();
        self.rest = last_bytes(&before, &payload, len % BLOCK_BYTES);
        let whole = len - self.rest.len();
        self.rest_offset += whole as u64;
        async move {
            let put = staged.puts.begin()?;
            let written = tokio::task::spawn_blocking(move || {
                let written = staged.write(offset, &before, &payload, whole);
                drop(put);
                written
            });
            written.await?.map_err(generic)
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = self.staged.as_ref().ok_or_else(ended)?;
        let (put, of_thread) = (staged.puts.begin()?, Arc::clone(staged));
        let (rest, offset) = (std::mem::take(&mut self.rest), self.rest_offset);
        let published = tokio::task::spawn_blocking(move || {
            let published = of_thread.publish(offset, &rest);
            drop(put);
            published
        });
        published.await?.map_err(generic)?;
        self.staged = None;
        let e_tag = self.inner.head(&self.location).await?.e_tag;
        Ok(PutResult { e_tag, version: None, extensions: Default::default() })
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = self.staged.take().ok_or_else(ended)?;
        super::blocking(move || std::fs::remove_file(&staged.path)).await
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(staged) = self.staged.take() else { return };
        let remove = move || std::fs::remove_file(&staged.path);
        // The next start removes what stays.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => drop(remove()),
        }
    }
}

impl Staged {
    /// Writes the first `whole` bytes of what is left of the part before, and of the part.
    fn write(
        &self,
        mut offset: u64,
        before: &[u8],
        payload: &PutPayload,
        whole: usize,
    ) -> io::Result<()> {
        let mut buffer = self.take_buffer();
        let (mut filled, mut left) = (0, whole);
        for run in std::iter::once(before).chain(payload.iter().map(|run| &run[..])) {
            let mut run = &run[..run.len().min(left)];
            left -= run.len();
            while !run.is_empty() {
                let (now, later) = run.split_at(run.len().min(WRITE_BYTES - filled));
                buffer[filled..filled + now.len()].copy_from_slice(now);
                filled += now.len();
                run = later;
                if filled == WRITE_BYTES {
                    self.file.write_all_at(&buffer, offset)?;
                    offset += WRITE_BYTES as u64;
                    filled = 0;
                }
            }
        }
        assert!(filled.is_multiple_of(BLOCK_BYTES), "only whole blocks are written");
        self.file.write_all_at(&buffer[..filled], offset)?;
        self.give_back(buffer);
        Ok(())
    }

    /// Writes the end, and gives the file its name once it is durable; then the name is, too.
    fn publish(&self, offset: u64, rest: &[u8]) -> io::Result<()> {
        if !rest.is_empty() {
            let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
            block[..rest.len()].copy_from_slice(rest);
            self.file.write_all_at(&block, offset)?;
        }
        self.file.set_len(offset + rest.len() as u64)?;
        self.file.sync_all()?;
        std::fs::rename(&self.path, &self.to)?;
        self.to.parent().map_or(Ok(()), sync_folder)
    }

    fn take_buffer(&self) -> AlignedBuffer {
        let spare = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| AlignedBuffer::zeroed(WRITE_BYTES))
    }

    fn give_back(&self, buffer: AlignedBuffer) {
        let mut spare = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_BUFFERS {
            spare.push(buffer);
        }
    }
}

/// The last `count` bytes of both together, which have as many.
fn last_bytes(before: &[u8], payload: &PutPayload, count: usize) -> Vec<u8> {
    let mut skip = before.len() + payload.content_length() - count;
    let mut last = Vec::with_capacity(count);
    for run in std::iter::once(before).chain(payload.iter().map(|run| &run[..])) {
        let skipped = skip.min(run.len());
        skip -= skipped;
        last.extend_from_slice(&run[skipped..]);
    }
    last
}

/// A new file `{to}#{n}`, as object_store names a write that has not finished.
fn create_staged(to: &FsPath) -> io::Result<(File, PathBuf)> {
    let mut n = 1;
    loop {
        let mut name = to.as_os_str().to_owned();
        name.push(format!("#{n}"));
        let path = PathBuf::from(name);
        match create(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => n += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = to.parent().ok_or(error)?;
                create_folder(folder)?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Makes a file, with O_DIRECT if its file system takes that; where not, says so once.
fn create(path: &FsPath) -> io::Result<File> {
    static SAID: Once = Once::new();
    // Made first: an open that refuses O_DIRECT may have made the file.
    let made = OpenOptions::new().write(true).create_new(true).open(path)?;
    match OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            SAID.call_once(|| {
                tracing::warn!(
                    file = %path.display(),
                    "the file system has no O_DIRECT: snapshots are written through the page \
                     cache, as durable but slower"
                );
            });
            Ok(made)
        }
        opened => opened,
    }
}

fn ended() -> object_store::Error {
    generic(io::Error::other("the write has ended"))
}

#[cfg(test)]
mod tests {
    use super::super::LocalStore;
    use super::*;

    /// Parts of lengths around blocks and writes come back as they were, whatever is left of each.
    #[tokio::test]
    async fn parts_of_any_length() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        let path = Path::from("snapshots/snap-1/core-0.snap");
        let lengths: [&[usize]; 6] = [
            &[],
            &[0, 1],
            &[BLOCK_BYTES],
            &[BLOCK_BYTES - 1, 1, 1, 0, BLOCK_BYTES],
            &[WRITE_BYTES + 17, 3, 2 * WRITE_BYTES - 20, 5],
            &[100, 200, 3 * BLOCK_BYTES + 5, WRITE_BYTES],
        ];
        for (case, lengths) in lengths.into_iter().enumerate() {
            let total: usize = lengths.iter().sum();
            let bytes: Vec<u8> = (0..total).map(|at| (at * 31 / 7 + case) as u8).collect();
            let mut upload = store.put_multipart(&path).await.unwrap();
            let (mut at, mut parts) = (0, Vec::new());
            for length in lengths {
                let part = &bytes[at..at + length];
                let (first, second) = part.split_at(length / 3);
                let runs = [first, second].map(bytes::Bytes::copy_from_slice);
                parts.push(upload.put_part(runs.into_iter().collect()));
                at += length;
            }
            // In whatever order.
            parts.reverse();
            futures::future::try_join_all(parts).await.unwrap();
            let e_tag = upload.complete().await.unwrap().e_tag;
            assert_eq!(e_tag, store.head(&path).await.unwrap().e_tag);
            let read = store.get(&path).await.unwrap().bytes().await.unwrap();
            assert!(read == bytes, "case {case}");
            assert!(upload.complete().await.is_err(), "it has ended");
        }
        assert_eq!(store.remove_unfinished_writes().unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_not_complete_is_no_object() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        let path = Path::from("snapshots/x");
        let mut first = store.put_multipart(&path).await.unwrap();
        let mut second = store.put_multipart(&path).await.unwrap();
        first.put_part(vec![1; 10_000].into()).await.unwrap();
        second.put_part(vec![2; 10_000].into()).await.unwrap();
        assert!(store.head(&path).await.is_err());
        assert_eq!(store.remove_unfinished_writes().unwrap(), 2);
        let mut third = store.put_multipart(&path).await.unwrap();
        third.put_part(vec![3; 10_000].into()).await.unwrap();
        third.abort().await.unwrap();
        assert_eq!(store.remove_unfinished_writes().unwrap(), 0);
        let mut late = store.put_multipart(&path).await.unwrap();
        store.close();
        assert!(late.put_part(vec![4; 10_000].into()).await.is_err());
        assert!(late.complete().await.is_err());
        assert!(store.head(&path).await.is_err());
    }
}
