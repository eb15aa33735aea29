//! What a start reads in a remote store on which the server has been started many times: what the
//! last start left, not what all ever did.

mod hooked;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cutwater_control::coordinator::remote::RemoteConfig;
use cutwater_control::{Database, DatabaseConfig};
use object_store::memory::InMemory;

use crate::hooked::{Hooked, What};

/// How long anything that is waited for may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Starts of the server.
const STARTS: usize = 30;
/// Claims and manifests that one of them reads at most: once before the shards open, once after the
/// takeover, and once more where the keeper came to look before the end.
const READS: usize = 18;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_reads_what_is_new_however_many_there_were() {
    let folder = tempfile::tempdir().unwrap();
    let reads: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = reads.clone();
    let store = Hooked::over(Arc::new(InMemory::new()), move |what, path| {
        if what == What::Get {
            seen.lock().unwrap().push(path);
        }
        Box::pin(async { Ok(()) })
    });
    for n in 0..STARTS {
        reads.lock().unwrap().clear();
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
        let read = reads.lock().unwrap().clone();
        let is_counted = |path: &&String| !path.starts_with("wal/");
        let counted: Vec<_> = read.iter().filter(is_counted).collect();
        assert!(counted.len() <= READS, "{n}: {counted:?}");
        // Two headers for each who looks for the archive's head, beside the uploader's own.
        assert!(read.len() - counted.len() <= 8, "{n}: {read:?}");
    }
}
