//! The archive of an embedded database: a store out of reach for too long leaves a gap that shows
//! and heals, and so does log that went without having been archived; a directory that is older
//! than its archive does not start, and writes nothing to a store that answers later; the directory
//! is given back only when the archiver has ended; keys that have expired since are restored.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hooked;
mod waits;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cutwater_control::coordinator::remote::RemoteConfig;
use cutwater_control::database::DatabaseError;
use cutwater_control::restore::{Destination, Restored, Source, restore};
use cutwater_control::{Database, DatabaseConfig};
use cutwater_engine::seal::{Keyring, MasterKey};
use cutwater_snapshot::ObjectStore;
use cutwater_snapshot::plan::{Restorable, Target, Window};
use cutwater_snapshot::store::open_local;
use tokio::sync::watch;

use crate::hooked::{Hooked, What};
use crate::waits::{LIMIT, wait};

fn keys() -> Keyring {
    Keyring::new(vec![("test".parse().unwrap(), MasterKey::new([7; 32]))]).unwrap()
}

async fn open(dir: &Path, remote: &Path, keys: &Keyring) -> Result<Database, DatabaseError> {
    open_with(dir, Some((open_local(remote).unwrap(), remote)), keys).await
}

async fn open_with(
    dir: &Path,
    remote: Option<(Arc<dyn ObjectStore>, &Path)>,
    keys: &Keyring,
) -> Result<Database, DatabaseError> {
    let mut config = DatabaseConfig::directory(dir)?;
    config.engine.segment_bytes = 1 << 20;
    config.keys = keys.clone();
    config.remote = remote.map(|(store, remote)| RemoteConfig {
        store,
        url: format!("file://{}", remote.display()),
        single_writer: false,
        upload_limit_bytes_per_s: None,
        archive_interval: Duration::from_millis(200),
        archive_backlog_bytes: 256 << 10,
        shutdown_timeout: Duration::from_secs(20),
    });
    Database::open(config).await
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
    assert!(matches!(error, DatabaseError::Behind(_)), "{error}");
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

/// Waits until the only history has a hole and, behind it, more than a single moment.
async fn wait_until_healed(remote: &Path) -> Restorable {
    let deadline = Instant::now() + LIMIT;
    loop {
        let source = Source::load(open_local(remote).unwrap(), Keyring::default()).await.unwrap();
        let found = source.restorable().remove(0);
        let hole = found.holes.first().map(|hole| hole.before);
        let is_healed = |window: &Window| hole.is_some_and(|end| window.first >= end);
        let last = found.windows.last();
        if last.is_some_and(|window| is_healed(window) && window.first < window.last) {
            return found;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The names in a folder, however deep.
fn names(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.extend(self::names(&path));
        } else {
            names.push(path.display().to_string());
        }
    }
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_that_went_without_the_remote_store_leaves_a_gap_and_heals() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (data, remote, none) = (path("data"), path("remote"), Keyring::default());
    let database = open(&data, &remote, &none).await.unwrap();
    wait_for_base(&database).await;
    database.client().set("before", "1").unwrap();
    let before = database.engine().now();
    wait(&database, "archived", |status| status.archived_to > before).await;
    database.close().await.unwrap();

    // Without the remote store two checkpoints let log go.
    let log = data.join("log/000001-000");
    let first = |names: Vec<String>| names.iter().any(|name| name.contains("/000001-"));
    assert!(first(names(&data.join("log"))), "{}", log.display());
    let database = open_with(&data, None, &none).await.unwrap();
    for round in 0..3 {
        for n in 0..400 {
            database.client().set(format!("alone:{round}:{n}"), "x".repeat(10_000)).unwrap();
        }
        database.snapshot().await.unwrap();
    }
    let deadline = Instant::now() + LIMIT;
    while first(names(&data.join("log"))) {
        assert!(Instant::now() < deadline, "the log stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    database.close().await.unwrap();

    let database = open(&data, &remote, &none).await.unwrap();
    database.client().set("after", "2").unwrap();
    let now = database.engine().now();
    wait(&database, "archived again", |status| status.archived_to > now).await;
    let found = wait_until_healed(&remote).await;
    assert_eq!(found.holes.len(), 1, "{found:?}");
    database.close().await.unwrap();
    let latest = restored(&remote, Target::Latest, &path("latest"), &none).await;
    assert_eq!(latest.keys, 2 + 3 * 400);
    let then = restored(&remote, Target::Lsn(before), &path("then"), &none).await;
    assert_eq!(then.keys, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_directory_writes_nothing_to_a_store_that_answers_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (data, old, remote, away) = (path("data"), path("old"), path("remote"), path("away"));
    let none = Keyring::default();
    let database = open(&data, &remote, &none).await.unwrap();
    database.client().set("a", "1").unwrap();
    database.close().await.unwrap();
    copy(&data, &old);
    let database = open(&data, &remote, &none).await.unwrap();
    database.client().set("b", "2").unwrap();
    database.close().await.unwrap();

    // The copy starts while nobody can tell it, and has more waiting than may.
    let before = names(&remote);
    let store = open_local(&remote).unwrap();
    fs::rename(&remote, &away).unwrap();
    fs::write(&remote, "no store").unwrap();
    let database = open_with(&old, Some((store, &remote)), &none).await.unwrap();
    for n in 0..400 {
        database.client().set(format!("gap:{n}"), "x".repeat(1_000)).unwrap();
    }
    database.snapshot().await.unwrap();
    wait(&database, "a gap", |status| status.gap.is_some()).await;
    fs::remove_file(&remote).unwrap();
    fs::rename(&away, &remote).unwrap();
    wait(&database, "it is told", |status| {
        status.last_error.as_ref().is_some_and(|error| error.contains("is older than"))
    })
    .await;
    database.close().await.unwrap();
    assert_eq!(names(&remote), before);
    // Nor does it start now, although it has gone on meanwhile.
    let error = open(&old, &remote, &none).await.err().unwrap();
    assert!(matches!(error, DatabaseError::Behind(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_the_directory_never_took_is_enough_to_refuse() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (data, old, remote) = (path("data"), path("old"), path("remote"));
    let none = Keyring::default();
    let database = open(&data, &remote, &none).await.unwrap();
    wait_for_base(&database).await;
    database.close().await.unwrap();
    copy(&data, &old);
    let wal = names(&remote.join("wal")).len();
    let database = open(&data, &remote, &none).await.unwrap();
    database.snapshot().await.unwrap();
    let deadline = Instant::now() + LIMIT;
    while database.coordinator().status().await.unwrap().remote.unwrap().uploaded < 2 {
        assert!(Instant::now() < deadline, "it does not go up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    database.close().await.unwrap();
    // As if the archive had been out of order.
    for object in names(&remote.join("wal")).split_off(wal) {
        fs::remove_file(object).unwrap();
    }
    let error = open(&old, &remote, &none).await.err().unwrap().to_string();
    assert!(error.contains("snap-") && error.contains("older than the snapshot"), "{error}");
}

/// Another start would find an older cursor than the one that the first still writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_is_given_back_when_the_archiver_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (data, remote, none) = (path("data"), path("remote"), Keyring::default());
    let gate = watch::Sender::new(true);
    let waiting = Arc::new(AtomicUsize::new(0));
    let (told, count) = (gate.clone(), Arc::clone(&waiting));
    let store = Hooked::over(open_local(&remote).unwrap(), move |what, path| {
        let (mut shut, count) = (told.subscribe(), Arc::clone(&count));
        Box::pin(async move {
            if what == What::Put && path.starts_with("wal/") {
                count.fetch_add(1, Ordering::SeqCst);
                shut.wait_for(|shut| !shut).await.unwrap();
            }
            Ok(())
        })
    });
    let database = open_with(&data, Some((store, &remote)), &none).await.unwrap();
    database.client().set("a", "1").unwrap();
    let deadline = Instant::now() + LIMIT;
    while waiting.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < deadline, "nothing is archived");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let engine = database.engine().client();
    let closing = tokio::spawn(database.close());
    // The shards have ended when their clients hear so.
    while engine.set("b", "2").is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(DatabaseConfig::directory(&data).is_err(), "the directory is free already");
    gate.send_replace(false);
    closing.await.unwrap().unwrap();
    let database = open(&data, &remote, &none).await.unwrap();
    assert!(database.recovered().keys >= 1);
    database.close().await.unwrap();
}
