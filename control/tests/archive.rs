//! The archive of an embedded database: a store out of reach for too long leaves a gap that shows
//! and heals; a directory that is older than its archive does not start; keys that have expired
//! since are restored.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cutwater_control::coordinator::archive::ArchiveStatus;
use cutwater_control::coordinator::remote::RemoteConfig;
use cutwater_control::database::DatabaseError;
use cutwater_control::restore::{Destination, Restored, Source, restore};
use cutwater_control::{Database, DatabaseConfig};
use cutwater_engine::seal::{Keyring, MasterKey};
use cutwater_snapshot::plan::Target;
use cutwater_snapshot::store::open_local;

/// How long anything that is waited for may take.
const LIMIT: Duration = Duration::from_secs(60);

fn keys() -> Keyring {
    Keyring::new(vec![("test".parse().unwrap(), MasterKey::new([7; 32]))]).unwrap()
}

async fn open(dir: &Path, remote: &Path, keys: &Keyring) -> Result<Database, DatabaseError> {
    let mut config = DatabaseConfig::directory(dir).unwrap();
    config.engine.segment_bytes = 1 << 20;
    config.keys = keys.clone();
    config.remote = Some(RemoteConfig {
        store: open_local(remote).unwrap(),
        url: format!("file://{}", remote.display()),
        single_writer: false,
        upload_limit_bytes_per_s: None,
        archive_interval: Duration::from_millis(200),
        archive_backlog_bytes: 256 << 10,
        shutdown_timeout: Duration::from_secs(20),
    });
    Database::open(config).await
}

/// Waits until the archive stands so.
async fn wait(database: &Database, what: &str, so: impl Fn(&ArchiveStatus) -> bool) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let status = database.coordinator().status().await.unwrap().archive.unwrap();
        if so(&status) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until there is a base in the remote store, with which the first window begins.
async fn wait_for_base(database: &Database) {
    let deadline = Instant::now() + LIMIT;
    while database.coordinator().status().await.unwrap().remote.unwrap().uploaded == 0 {
        assert!(Instant::now() < deadline, "no base goes up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn restored(remote: &Path, target: Target, into: &Path, keys: &Keyring) -> Restored {
    let source = Source::load(open_local(remote).unwrap(), keys.clone()).await.unwrap();
    let plan = source.plan(target, None).unwrap();
    let destination = Destination { into: into.to_owned(), shards: Some(3) };
    restore(&source, &plan, &destination).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_shows_and_heals() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (remote, away) = (path("remote"), path("away"));
    for keys in [Keyring::default(), keys()] {
        let name = if keys.is_empty() { "plain" } else { "sealed" };
        let _ = fs::remove_dir_all(&remote);
        let database = open(&path(name), &remote, &keys).await.unwrap();
        wait_for_base(&database).await;
        let client = database.client();
        client.set("before", "1").unwrap();
        let now = database.engine().now();
        wait(&database, "archived", |status| status.archived_to > now).await;

        // Out of reach, until more log waits than may.
        fs::rename(&remote, &away).unwrap();
        fs::write(&remote, "no store").unwrap();
        for n in 0..400 {
            client.set(format!("gap:{n}"), "x".repeat(1_000)).unwrap();
        }
        wait(&database, "a gap", |status| status.gap.is_some()).await;
        fs::remove_file(&remote).unwrap();
        fs::rename(&away, &remote).unwrap();

        // In reach again: it goes on, and a base gets across.
        client.set("after", "2").unwrap();
        let now = database.engine().now();
        wait(&database, "archived again", |status| status.archived_to > now).await;
        let deadline = Instant::now() + LIMIT;
        let found = loop {
            let source = Source::load(open_local(&remote).unwrap(), keys.clone()).await.unwrap();
            let found = source.restorable().remove(0);
            if found.windows.len() == 2 {
                break found;
            }
            assert!(Instant::now() < deadline, "{found:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(found.holes.len(), 1, "{found:?}");
        assert!(found.windows[0].last <= found.holes[0].after, "{found:?}");
        assert!(found.windows[1].first >= found.holes[0].before, "{found:?}");
        database.close().await.unwrap();

        let into = path(&format!("{name}-latest"));
        assert_eq!(restored(&remote, Target::Latest, &into, &keys).await.keys, 402);
        let into = path(&format!("{name}-first"));
        let last = Target::Lsn(found.windows[0].last);
        assert!((1..=401).contains(&restored(&remote, last, &into, &keys).await.keys));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_older_than_its_archive_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (data, old, remote) = (path("data"), path("old"), path("remote"));
    let none = Keyring::default();
    let database = open(&data, &remote, &none).await.unwrap();
    database.client().set("a", "1").unwrap();
    database.close().await.unwrap();
    copy(&data, &old);
    let database = open(&data, &remote, &none).await.unwrap();
    database.client().set("b", "2").unwrap();
    let now = database.engine().now();
    wait(&database, "archived", |status| status.archived_to > now).await;
    database.close().await.unwrap();
    let error = open(&old, &remote, &none).await.err().unwrap();
    assert!(matches!(error, DatabaseError::BehindArchive { .. }), "{error}");
    assert!(error.to_string().contains("older than its archive"), "{error}");
    // The one that it belongs to goes on, and knows everything.
    let database = open(&data, &remote, &none).await.unwrap();
    assert_eq!(database.recovered().keys, 2);
    database.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_expired_since_is_restored_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let none = Keyring::default();
    let remote = path("remote");
    let database = open(&path("data"), &remote, &none).await.unwrap();
    wait_for_base(&database).await;
    let client = database.client();
    client.execute(&["SET", "short", "1", "PX", "1500"]).unwrap();
    client.set("long", "2").unwrap();
    let moment = database.engine().now();
    wait(&database, "archived", |status| status.archived_to > moment).await;
    let deadline = Instant::now() + LIMIT;
    while database.engine().shared().all_stats().iter().map(|s| s.total_keys()).sum::<u64>() > 1 {
        assert!(Instant::now() < deadline, "the key stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    database.close().await.unwrap();
    let then = restored(&remote, Target::Lsn(moment), &path("then"), &none).await;
    assert_eq!(then.keys, 2);
    let now = restored(&remote, Target::Latest, &path("now"), &none).await;
    assert_eq!(now.keys, 1);
}
