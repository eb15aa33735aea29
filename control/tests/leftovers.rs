//! A deletion that fails behind its tombstone: the list says `deleted` all the same, whoever asked
//! is told that objects stay, and these go later by themselves.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cutwater_control::coordinator::CoordinatorError;
use cutwater_control::{Database, DatabaseConfig};
use cutwater_engine::types::SnapshotId;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::*;

/// How long anything that is waited for may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A store in memory that removes nothing while it is told so.
#[derive(Clone, Debug, Default)]
struct Stubborn {
    inner: Arc<InMemory>,
    is_stubborn: Arc<AtomicBool>,
}

impl fmt::Display for Stubborn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a stubborn store")
    }
}

#[async_trait]
impl ObjectStore for Stubborn {
    async fn put_opts(&self, path: &Path, body: PutPayload, o: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(path, body, o).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        if self.is_stubborn.load(Ordering::SeqCst) {
            let error = Error::Generic { store: "stubborn", source: "it removes nothing".into() };
            return stream::once(async { Err(error) }).boxed();
        }
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// The objects of a snapshot, without its manifest.
async fn objects(store: &InMemory, id: SnapshotId) -> usize {
    let folder = format!("snap-{:06}-", id.0);
    let all: Vec<ObjectMeta> = store.list(None).try_collect().await.unwrap();
    let names = all.iter().map(|object| object.location.to_string());
    names.filter(|name| name.contains(&folder) && name.ends_with(".snap")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_deletion_leaves_is_told_and_goes_later() {
    let store = Stubborn::default();
    let config = DatabaseConfig::memory(Arc::new(store.clone())).unwrap();
    let database = Database::open(config).await.unwrap();
    let mut ids = Vec::new();
    for name in ["a", "b", "c", "d"] {
        database.client().set(name, "1").unwrap();
        ids.push(database.snapshot().await.unwrap().id());
    }
    let state = async |id: SnapshotId| {
        let entries = database.list().await.unwrap();
        entries.iter().find(|entry| entry.id == id).unwrap().state_name()
    };

    store.is_stubborn.store(true, Ordering::SeqCst);
    let refused = database.delete(ids[0]).await.unwrap_err();
    assert!(matches!(refused, CoordinatorError::Leftovers { .. }), "{refused}");
    assert!(
        refused.to_string().contains("is deleted, but objects of it stay for now"),
        "{refused}"
    );
    assert_eq!(state(ids[0]).await, "deleted");
    assert!(objects(&store.inner, ids[0]).await > 0);
    // It is no snapshot any more.
    assert!(database.verify(ids[0]).await.is_err());

    // Asked for again, it is finished at once.
    store.is_stubborn.store(false, Ordering::SeqCst);
    database.delete(ids[0]).await.unwrap();
    assert_eq!(objects(&store.inner, ids[0]).await, 0);

    // Or it goes by itself.
    store.is_stubborn.store(true, Ordering::SeqCst);
    database.delete(ids[1]).await.unwrap_err();
    assert_eq!(state(ids[1]).await, "deleted");
    store.is_stubborn.store(false, Ordering::SeqCst);
    let deadline = Instant::now() + LIMIT;
    while objects(&store.inner, ids[1]).await > 0 {
        assert!(Instant::now() < deadline, "its objects stay");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    database.close().await.unwrap();
}
