//! What a start reads in a remote store on which the server has been started many times: what the
//! last start left, not what all ever did.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cutwater_control::coordinator::remote::RemoteConfig;
use cutwater_control::{Database, DatabaseConfig};
use cutwater_snapshot::ObjectStore;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

/// How long anything that is waited for may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Starts of the server.
const STARTS: usize = 30;
/// Claims and manifests that one of them reads at most: once before the shards open, once after the
/// takeover, and once more where the keeper came to look before the end.
const READS: usize = 18;

/// A store that remembers what was read.
#[derive(Debug)]
struct Watched {
    inner: InMemory,
    read: Mutex<Vec<String>>,
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Watched {
    async fn put_opts(
        &self,
        path: &object_store::path::Path,
        body: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.inner.put_opts(path, body, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &object_store::path::Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(
        &self,
        path: &object_store::path::Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        self.read.lock().unwrap().push(path.to_string());
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<object_store::path::Path>>,
    ) -> BoxStream<'static, object_store::Result<object_store::path::Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(
        &self,
        prefix: Option<&object_store::path::Path>,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(
        &self,
        prefix: Option<&object_store::path::Path>,
    ) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &object_store::path::Path,
        to: &object_store::path::Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_reads_what_is_new_however_many_there_were() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Watched { inner: InMemory::new(), read: Mutex::default() });
    for n in 0..STARTS {
        store.read.lock().unwrap().clear();
        let mut config = DatabaseConfig::directory(folder.path()).unwrap();
        config.engine.segment_bytes = 1 << 20;
        config.remote = Some(RemoteConfig {
            store: store.clone(),
            url: "memory:".into(),
            single_writer: false,
            upload_limit_bytes_per_s: None,
            archive_interval: LIMIT,
            archive_backlog_bytes: 1 << 30,
            shutdown_timeout: LIMIT,
        });
        let database = Database::open(config).await.unwrap();
        database.client().set("n", n.to_string()).unwrap();
        let deadline = Instant::now() + LIMIT;
        loop {
            let remote = database.coordinator().status().await.unwrap().remote.unwrap();
            if remote.pending == 0 && remote.uploaded == 1 {
                break;
            }
            assert!(Instant::now() < deadline, "{n}: {remote:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        database.close().await.unwrap();
        let read = store.read.lock().unwrap().clone();
        let is_counted = |path: &&String| !path.starts_with("wal/");
        let counted: Vec<_> = read.iter().filter(is_counted).collect();
        assert!(counted.len() <= READS, "{n}: {counted:?}");
        // Two headers for each who looks for the archive's head, beside the uploader's own.
        assert!(read.len() - counted.len() <= 8, "{n}: {read:?}");
    }
}
