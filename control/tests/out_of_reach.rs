//! What a store that fails in the middle is taken for: no damage, and worth another try. A start
//! that is refused for a snapshot's key changes nothing. And a server without a log says that it
//! archives nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hooked;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cutwater_control::coordinator::remote::RemoteConfig;
use cutwater_control::fault::Fault;
use cutwater_control::restore::{Destination, Source, restore};
use cutwater_control::status::{fields, persistence_info};
use cutwater_control::{Database, DatabaseConfig};
use cutwater_engine::seal::{Keyring, MasterKey};
use cutwater_snapshot::plan::Target;
use cutwater_snapshot::store::open_local;
use object_store::memory::InMemory;

use crate::hooked::{Hooked, What, broken};

fn keys(fill: u8) -> Keyring {
    Keyring::new(vec![(format!("k{fill}").parse().unwrap(), MasterKey::new([fill; 32]))]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_during_a_restore_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let database = Database::open_dir(&path).await.unwrap();
    for n in 0..100 {
        database.client().set(format!("key:{n}"), "x".repeat(1_000)).unwrap();
    }
    let id = database.snapshot().await.unwrap().id();
    database.close().await.unwrap();
    // Every read fails once, of the base's objects too.
    let mut outcomes = BTreeMap::new();
    for at in 0.. {
        let reads = Arc::new(AtomicUsize::new(0));
        let count = reads.clone();
        let store = Hooked::over(open_local(&path.join("store")).unwrap(), move |what, _| {
            let fails = what == What::Get && count.fetch_add(1, Ordering::SeqCst) == at;
            Box::pin(async move { if fails { Err(broken()) } else { Ok(()) } })
        });
        let into = folder.path().join(format!("into-{at}"));
        let restored = async {
            let source = Source::load(store, Keyring::default()).await?;
            let plan = source.plan(Target::Snapshot(id), None)?;
            restore(&source, &plan, &Destination { into: into.clone(), shards: None }).await
        };
        match restored.await {
            Ok(_) => break,
            Err(error) => {
                assert_eq!(Fault::from(&error), Fault::Unreachable, "read {at}: {error}");
                assert_eq!(Fault::from(&error).exit_code(), 5);
                *outcomes.entry(Fault::from(&error).word()).or_insert(0) += 1;
                assert!(!into.exists(), "read {at}");
            }
        }
    }
    assert!(outcomes["STORE"] >= 4, "{outcomes:?}");
}

fn everything(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(everything(&path));
        } else {
            all.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_the_key_of_a_snapshot_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let config = |keys: Keyring| {
        let mut config = DatabaseConfig::directory(&path).unwrap();
        config.engine.log = false;
        config.keys = keys;
        config
    };
    let database = Database::open(config(keys(1))).await.unwrap();
    database.client().set("a", "1").unwrap();
    database.snapshot().await.unwrap();
    database.close().await.unwrap();
    let before = everything(&path.join("store"));
    for wrong in [keys(2), Keyring::default()] {
        Database::open(config(wrong)).await.unwrap_err();
        assert_eq!(everything(&path.join("store")), before);
    }
    Database::open(config(keys(1))).await.unwrap().close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_log_it_is_said_that_nothing_is_archived() {
    for log in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = DatabaseConfig::directory(folder.path()).unwrap();
        config.engine.log = log;
        config.engine.segment_bytes = 1 << 20;
        config.remote = Some(RemoteConfig {
            store: Arc::new(InMemory::new()),
            url: "memory:".into(),
            single_writer: false,
            upload_limit_bytes_per_s: None,
            archive_interval: Duration::from_secs(10),
            archive_backlog_bytes: 1 << 30,
            shutdown_timeout: Duration::from_secs(10),
        });
        let database = Database::open(config).await.unwrap();
        let status = database.coordinator().status().await.unwrap();
        let word = if log { "on" } else { "off (no log)" };
        assert!(persistence_info(&status).contains(&format!("\r\narchive:{word}\r\n")));
        let told = fields(&status).into_iter().find(|(name, _)| *name == "archive").unwrap();
        assert!(format!("{told:?}").contains(word), "{told:?}");
        database.close().await.unwrap();
    }
}
