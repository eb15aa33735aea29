//! A folder on this machine as an object store that keeps its promises.
//!
//! object_store's `LocalFileSystem` does the reading and writing (with fsync); this wrapper mends
//! what its code does otherwise than a store must: deletes are not synced, nor is what a create
//! finds; a listing skips what it may not look at, and is empty when the whole folder is gone; and
//! an object cannot be replaced on the condition that it is still the one that was read.
//! Large objects, which come in parts, are written past the page cache (`local/upload.rs`).
//! Files named `x#1` are writes that have not finished, and no objects.

mod upload;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UpdateVersion,
};

use crate::error::{Operation, StoreError};
use upload::Upload;

/// The word that object_store's errors carry for this store.
const STORE: &str = "local";

/// A folder as an object store; every change is durable when its call returns.
#[derive(Debug, Clone)]
pub struct LocalStore {
    inner: LocalFileSystem,
    root: Arc<PathBuf>,
    puts: Arc<Puts>,
}

/// The puts under way. They run on threads of their own, to their end, also when nobody waits for
/// them any more: a directory whose lock is given back must not have one left. (Two writers stage
/// under one name, `x#1`, and each would publish or remove the other's.)
#[derive(Debug, Default)]
struct Puts {
    state: Mutex<PutState>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct PutState {
    under_way: usize,
    closed: bool,
}

/// One put under way.
struct Put(Arc<Puts>);

impl Puts {
    fn state(&self) -> MutexGuard<'_, PutState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>) -> Result<Put> {
        let mut state = self.state();
        if state.closed {
            return Err(generic(io::Error::other("the store was closed")));
        }
        state.under_way += 1;
        Ok(Put(Arc::clone(self)))
    }
}

impl Drop for Put {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
        self.0.ended.notify_all();
    }
}

impl LocalStore {
    /// Opens the folder, and makes it first, durably, if it does not exist.
    ///
    /// # Errors
    /// [`StoreError::Io`] if that fails.
    pub fn open(folder: &FsPath) -> std::result::Result<Self, StoreError> {
        let io = |source| StoreError::Io {
            operation: Operation::Open,
            path: folder.display().to_string(),
            source,
        };
        create_folder(folder).map_err(io)?;
        let root = folder.canonicalize().map_err(io)?;
        let inner = LocalFileSystem::new_with_prefix(&root)
            .map_err(|e| StoreError::failed(Operation::Open, &Path::default(), e))?
            .with_fsync(true);
        Ok(Self { inner, root: Arc::new(root), puts: Arc::default() })
    }

    /// Refuses every further put through this store and its clones, and waits, blocking the thread,
    /// for those under way: then the directory can be another writer's. Needs no runtime to go on.
    pub fn close(&self) {
        let mut state = self.puts.state();
        state.closed = true;
        while state.under_way > 0 {
            state = self.puts.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Removes what writes that never finished left behind, and says how many files that were.
    /// Only for the process that holds the data directory's lock, before it writes.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the folder cannot be walked or a file not be removed.
    pub fn remove_unfinished_writes(&self) -> std::result::Result<usize, StoreError> {
        let io = |source| StoreError::Io {
            operation: Operation::Delete,
            path: self.root.display().to_string(),
            source,
        };
        let mut files = Vec::new();
        walk(&self.root, &mut |path, unfinished| {
            if unfinished {
                files.push(path);
            }
            Ok(())
        })
        .map_err(io)?;
        for file in &files {
            match remove_file(file) {
                // An upload that was dropped removes its own.
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(io)?,
            }
        }
        Ok(files.len())
    }

    /// Every finished object below a folder, which may be missing; the root may not.
    fn list_now(&self, prefix: &Path) -> io::Result<Vec<ObjectMeta>> {
        std::fs::metadata(self.root.as_path())?;
        let folder = self.folder(prefix);
        let mut found = Vec::new();
        if !folder.try_exists()? {
            return Ok(found);
        }
        walk(&folder, &mut |path, unfinished| {
            if !unfinished {
                found.push(self.meta(&path)?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn folder(&self, prefix: &Path) -> PathBuf {
        prefix.parts().fold(self.root.to_path_buf(), |path, part| path.join(part.as_ref()))
    }

    fn meta(&self, path: &FsPath) -> io::Result<ObjectMeta> {
        let invalid = |_| io::Error::new(io::ErrorKind::InvalidData, "a file name is no object's");
        let meta = std::fs::metadata(path)?;
        let relative = path.strip_prefix(self.root.as_path()).map_err(io::Error::other)?;
        let text = relative.to_str().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "a file name is not UTF-8")
        })?;
        Ok(ObjectMeta {
            location: Path::parse(text).map_err(invalid)?,
            last_modified: meta.modified()?.into(),
            size: meta.len(),
            e_tag: None,
            version: None,
        })
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file://{}", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let put = self.puts.begin()?;
        let (inner, to) = (self.inner.clone(), location.clone());
        let runtime = tokio::runtime::Handle::current();
        // On a thread that goes on when the caller is gone, and so does what it counts for.
        let result = tokio::task::spawn_blocking(move || {
            let result = match opts.mode.clone() {
                PutMode::Update(version) => runtime.block_on(update(&inner, &to, payload, version)),
                _ => runtime.block_on(inner.put_opts(&to, payload, opts)),
            };
            drop(put);
            result
        });
        let result = result.await?;
        if let Err(object_store::Error::AlreadyExists { .. }) = result {
            // What a create reports as existing may be another's link, or that of an earlier try,
            // of which the folder was not synced. Nobody may build on it before it is.
            let file = self.inner.path_to_filesystem(location)?;
            blocking(move || file.parent().map_or(Ok(()), sync_folder)).await?;
        }
        result
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (inner, to, puts) = (self.inner.clone(), location.clone(), Arc::clone(&self.puts));
        if !opts.attributes.is_empty() {
            // A folder has no place for them, which this answers.
            return self.inner.put_multipart_opts(location, opts).await;
        }
        let begun = tokio::task::spawn_blocking(move || Upload::begin(inner, to, puts));
        Ok(Box::new(begun.await??))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[std::ops::Range<u64>],
    ) -> Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .and_then(move |location| {
                let file = store.inner.path_to_filesystem(&location);
                async move {
                    let file = file?;
                    let removed = blocking(move || Ok(remove_file(&file))).await?;
                    match removed {
                        Ok(()) => Ok(location),
                        Err(e) if e.kind() == io::ErrorKind::NotFound => {
                            let path = location.to_string();
                            Err(object_store::Error::NotFound { path, source: e.into() })
                        }
                        Err(e) => Err(generic(e)),
                    }
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        stream::once(blocking(move || store.list_now(&prefix)))
            .map_ok(|found| stream::iter(found.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        let mut objects = Vec::new();
        let mut common_prefixes = std::collections::BTreeSet::new();
        let mut found = self.list(Some(&prefix));
        while let Some(meta) = found.try_next().await? {
            let Some(mut parts) = meta.location.prefix_match(&prefix) else { continue };
            match (parts.next(), parts.next()) {
                (Some(folder), Some(_)) => {
                    common_prefixes.insert(prefix.clone().join(folder));
                }
                _ => objects.push(meta.clone()),
            }
        }
        let common_prefixes = common_prefixes.into_iter().collect();
        Ok(ListResult { common_prefixes, objects, extensions: Default::default() })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Replaces an object if it is still this version of it. Whoever else does so, in whatever process,
/// waits meanwhile for a lock on its folder, which a process that ends gives back.
async fn update(
    inner: &LocalFileSystem,
    location: &Path,
    payload: PutPayload,
    version: UpdateVersion,
) -> Result<PutResult> {
    let file = inner.path_to_filesystem(location)?;
    let folder = File::open(file.parent().unwrap_or(&file)).map_err(generic)?;
    folder.lock().map_err(generic)?;
    let found = inner.head(location).await?.e_tag;
    if found != version.e_tag {
        let source = format!("its ETag is {found:?}, not {:?}", version.e_tag);
        return Err(object_store::Error::Precondition {
            path: location.to_string(),
            source: source.into(),
        });
    }
    inner.put(location, payload).await
}

/// Makes a folder and its missing parents, and syncs every folder that got a new entry.
pub(crate) fn create_folder(folder: &FsPath) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut at = std::path::absolute(folder)?;
    while !at.try_exists()? {
        missing.push(at.clone());
        if !at.pop() {
            break;
        }
    }
    std::fs::create_dir_all(folder)?;
    missing.iter().filter_map(|made| made.parent()).try_for_each(sync_folder)
}

/// Calls `each` for every file below a folder, and whether it is an unfinished write's. Whatever
/// cannot be looked at is an error; what vanishes meanwhile is not.
fn walk(folder: &FsPath, each: &mut dyn FnMut(PathBuf, bool) -> io::Result<()>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let done = match std::fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => walk(&path, each),
            Ok(_) => {
                let unfinished = is_unfinished(&path);
                each(path.clone(), unfinished)
            }
            Err(e) => Err(e),
        };
        match done {
            // Not `exists`, which takes a broken link for nothing.
            Err(e) if e.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {}
            done => done?,
        }
    }
    Ok(())
}

/// Whether object_store stages a write under this name: `{name}#{digits}`.
fn is_unfinished(path: &FsPath) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    name.split_once('#').is_some_and(|(_, suffix)| {
        !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn remove_file(file: &FsPath) -> io::Result<()> {
    std::fs::remove_file(file)?;
    file.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(folder: &FsPath) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await?.map_err(generic)
}

fn generic(source: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: STORE, source: source.into() }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn a_closed_store_has_no_put_left() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        for n in 0..8 {
            let (store, path) = (store.clone(), Path::from(format!("claims/{n}")));
            let put = tokio::spawn(async move { store.put(&path, "1".into()).await });
            tokio::task::yield_now().await;
            // Its thread may be at it already.
            put.abort();
        }
        let closing = store.clone();
        tokio::task::spawn_blocking(move || closing.close()).await.unwrap();
        let mut unfinished = 0;
        let count = &mut |_, is_unfinished| {
            unfinished += usize::from(is_unfinished);
            Ok(())
        };
        walk(folder.path(), count).unwrap();
        assert_eq!(unfinished, 0);
        assert!(store.put(&Path::from("claims/9"), "1".into()).await.is_err());
        let again = LocalStore::open(folder.path()).unwrap();
        again.put(&Path::from("claims/9"), "1".into()).await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_root_and_unreadable_names_are_errors_not_emptiness() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a/b");
        let store = LocalStore::open(&root).unwrap();
        let list = || store.list(Some(&Path::from("snapshots"))).try_collect::<Vec<_>>();
        assert!(list().await.unwrap().is_empty());
        store.put(&Path::from("snapshots/x"), "1".into()).await.unwrap();
        std::fs::write(root.join("snapshots/y#1"), b"half").unwrap();
        assert_eq!(list().await.unwrap().len(), 1);
        assert_eq!(store.remove_unfinished_writes().unwrap(), 1);
        std::os::unix::fs::symlink("nowhere", root.join("snapshots/broken")).unwrap();
        assert!(list().await.is_err());
        std::fs::remove_file(root.join("snapshots/broken")).unwrap();
        store.delete(&Path::from("snapshots/x")).await.unwrap();
        let gone = store.delete(&Path::from("snapshots/x")).await.unwrap_err();
        assert!(matches!(gone, object_store::Error::NotFound { .. }));
        std::fs::remove_dir_all(&root).unwrap();
        assert!(list().await.is_err());
    }
}
