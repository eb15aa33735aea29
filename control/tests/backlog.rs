//! A store that takes an object of the archive and never answers: the limit of the backlog holds
//! all the same, and everything heals when it answers again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hooked;
mod waits;

use std::sync::Arc;
use std::time::Duration;

use cutwater_control::coordinator::remote::RemoteConfig;
use cutwater_control::{Database, DatabaseConfig};
use object_store::memory::InMemory;
use tokio::sync::watch;

use crate::hooked::{Hooked, What};
use crate::waits::{LIMIT, wait};

/// Bytes of log that may wait.
const BACKLOG_BYTES: u64 = 256 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backlog_has_its_limit_while_a_put_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let hangs = watch::Sender::new(false);
    let told = hangs.clone();
    let store = Hooked::over(Arc::new(InMemory::new()), move |what, path| {
        let mut hangs = told.subscribe();
        Box::pin(async move {
            if what == What::Put && path.starts_with("wal/") {
                hangs.wait_for(|hangs| !hangs).await.unwrap();
            }
            Ok(())
        })
    });
    let mut config = DatabaseConfig::directory(folder.path()).unwrap();
    config.engine.segment_bytes = 1 << 20;
    config.remote = Some(RemoteConfig {
        store: store.clone(),
        url: "memory:".into(),
        single_writer: false,
        upload_limit_bytes_per_s: None,
        archive_interval: Duration::from_millis(200),
        archive_backlog_bytes: BACKLOG_BYTES,
        shutdown_timeout: LIMIT,
    });
    let database = Database::open(config).await.unwrap();
    let client = database.client();
    client.set("before", "1").unwrap();
    let now = database.engine().now();
    wait(&database, "archived", |status| status.archived_to > now).await;

    hangs.send_replace(true);
    client.set("first", "1").unwrap();
    for n in 0..400 {
        client.set(format!("gap:{n}"), "x".repeat(1_000)).unwrap();
    }
    // Seen while the put is under way, which nothing ends.
    wait(&database, "a backlog", |status| status.backlog_bytes > BACKLOG_BYTES).await;
    wait(&database, "a gap", |status| status.gap.is_some()).await;
    wait(&database, "no backlog", |status| status.backlog_bytes < BACKLOG_BYTES).await;
    hangs.send_replace(false);

    client.set("after", "2").unwrap();
    let now = database.engine().now();
    wait(&database, "archived again", |s| s.archived_to > now && s.last_error.is_none()).await;
    database.close().await.unwrap();
}
