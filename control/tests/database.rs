//! A database over any object store, in one process: snapshots taken, listed, verified, deleted and
//! restored; restarts; and what happens when it is dropped instead of closed.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cutwater_control::coordinator::CoordinatorError;
use cutwater_control::database::{DatabaseError, restore};
use cutwater_control::restore::RestoreError;
use cutwater_control::{Database, DatabaseConfig};
use cutwater_engine::Client;
use cutwater_engine::seal::Keyring;
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::local::LocalStore;
use object_store::ObjectStore;
use object_store::memory::InMemory;

/// A directory's database with small log segments.
fn directory(path: &Path) -> DatabaseConfig {
    let mut config = DatabaseConfig::directory(path).unwrap();
    config.engine.segment_bytes = 1 << 20;
    config
}

fn fill(client: &Client, name: &str) {
    let pairs: Vec<(String, String)> =
        (0..300).map(|n| (format!("{name}:{n}"), format!("value of {name}:{n}"))).collect();
    client.mset(&pairs).unwrap();
}

fn check(client: &Client, names: &[&str]) {
    for name in names {
        for n in 0..300 {
            let value = client.get(format!("{name}:{n}")).unwrap();
            assert_eq!(value, Some(format!("value of {name}:{n}").into_bytes()), "{name}:{n}");
        }
    }
    let keys = client.execute(&["DBSIZE"]).unwrap().as_integer();
    assert_eq!(keys, Some(300 * names.len() as i64));
}

fn ids(entries: &[cutwater_snapshot::catalog::Entry]) -> Vec<u64> {
    entries.iter().filter(|entry| entry.manifest().is_some()).map(|entry| entry.id.0).collect()
}

/// The whole life of snapshots, for a database in memory and for one in a directory.
async fn snapshots_of(config: impl Fn() -> DatabaseConfig, store: &Arc<dyn ObjectStore>) {
    let database = Database::open(config()).await.unwrap();
    let client = database.client();
    let names = ["a", "b", "c"];
    let mut taken = Vec::new();
    for name in names {
        fill(&client, name);
        taken.push(database.snapshot().await.unwrap().id());
    }
    fill(&client, "after");
    assert_eq!(
        ids(&database.list().await.unwrap()),
        taken.iter().map(|id| id.0).collect::<Vec<_>>()
    );
    for id in &taken {
        let report = database.verify(*id).await.unwrap();
        assert!(report.entries > 0);
    }
    // Each restores what it was taken of: by the open database, and from the store alone.
    let target = tempfile::tempdir().unwrap();
    for (n, id) in taken.iter().enumerate() {
        let into = target.path().join(id.to_string());
        database.restore(*id, &into).await.unwrap();
        let restored = Database::open(directory(&into)).await.unwrap();
        check(&restored.client(), &names[..=n]);
        restored.close().await.unwrap();
    }
    let used = database.restore(taken[0], &target.path().join(taken[0].to_string())).await;
    let Err(DatabaseError::Restore(used)) = used else { panic!("restored twice") };
    assert!(matches!(*used, RestoreError::Snapshot(SnapshotError::NotEmpty { .. })), "{used}");
    database.delete(taken[0]).await.unwrap();
    let missing = database.verify(taken[0]).await.unwrap_err();
    assert!(matches!(missing, CoordinatorError::Store(_)), "{missing}");
    let kept = database.delete(taken[2]).await.unwrap_err();
    assert!(kept.to_string().contains("newest"), "{kept}");
    assert!(database.verify(SnapshotId(999)).await.is_err());
    assert_eq!(ids(&database.list().await.unwrap()).len(), 2);
    database.close().await.unwrap();
    let into = target.path().join("from the store");
    restore(store, taken[1], &Keyring::default(), &into).await.unwrap();
    let mut config = directory(&into);
    config.engine.shards = 3;
    let restored = Database::open(config).await.unwrap();
    check(&restored.client(), &names[..2]);
    restored.close().await.unwrap();
}

/// More shards than the budget of chunks has room for parts that fill: none waits for another.
#[tokio::test(flavor = "multi_thread")]
async fn parts_of_many_shards_do_not_wait_for_each_other() {
    let mut config = DatabaseConfig::memory(Arc::new(InMemory::new())).unwrap();
    config.engine.shards = 16;
    let database = Database::open(config).await.unwrap();
    let value = "v".repeat(64 << 10);
    for n in 0..20u32 {
        let pairs: Vec<(String, &str)> =
            (0..100).map(|m| (format!("key:{n}:{m}"), value.as_str())).collect();
        database.client().mset(&pairs).unwrap();
    }
    let taken = tokio::time::timeout(Duration::from_secs(120), database.snapshot()).await;
    let manifest = taken.expect("the snapshot stands still").unwrap();
    assert!(manifest.meta().data_bytes > 125 << 20);
    database.verify(manifest.id()).await.unwrap();
    database.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory_with_a_store_in_memory() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    snapshots_of(|| DatabaseConfig::memory(Arc::clone(&store)).unwrap(), &store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory_with_a_local_store() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(LocalStore::open(dir.path()).unwrap());
    snapshots_of(|| DatabaseConfig::memory(Arc::clone(&store)).unwrap(), &store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_with_its_own_store() {
    let dir = tempfile::tempdir().unwrap();
    let config = || directory(dir.path());
    let store = config().store;
    snapshots_of(config, &store).await;
    let database = Database::open(config()).await.unwrap();
    check(&database.client(), &["a", "b", "c", "after"]);
    assert!(database.recovered().image.is_some(), "it starts from its newest checkpoint");
    database.close().await.unwrap();
}

/// The log alone, then a checkpoint in whatever store, then another number of shards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_restarts_from_a_store_in_memory_and_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut names = Vec::new();
    for (round, name) in ["one", "two", "three", "four"].into_iter().enumerate() {
        let mut config = directory(dir.path());
        config.store = Arc::clone(&store);
        config.engine.shards = [2, 3, 1, 4][round];
        let database = Database::open(config).await.unwrap();
        check(&database.client(), &names);
        fill(&database.client(), name);
        names.push(name);
        if round != 0 {
            database.snapshot().await.unwrap();
        }
        if round % 2 == 0 { database.close().await.unwrap() } else { drop(database) }
    }
}

/// Every start makes segments ahead; what an earlier one did not use is used again or removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_restarts_without_writes_leave_a_bounded_log_folder() {
    const SEGMENTS_MAX: usize = 12;
    let dir = tempfile::tempdir().unwrap();
    let segments = || {
        let files = std::fs::read_dir(dir.path().join("log")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".seg")).collect::<Vec<_>>()
    };
    let database = Database::open(directory(dir.path())).await.unwrap();
    fill(&database.client(), "some");
    database.close().await.unwrap();
    for round in 0..20 {
        let database = Database::open(directory(dir.path())).await.unwrap();
        if round % 5 == 0 {
            check(&database.client(), &["some"]);
        }
        if round % 2 == 0 {
            database.close().await.unwrap()
        } else {
            drop(database)
        }
        let found = segments();
        assert!(found.len() <= SEGMENTS_MAX, "after {round} restarts: {found:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_use_says_so_and_opens_when_it_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open_dir(dir.path()).await.unwrap();
    database.client().set("a", "1").unwrap();
    let error = Database::open_dir(dir.path()).await.unwrap_err();
    assert!(matches!(error, DatabaseError::DataDir(_)), "{error}");
    database.close().await.unwrap();
    let again = Database::open_dir(dir.path()).await.unwrap();
    assert_eq!(again.client().get("a").unwrap(), Some(b"1".to_vec()));
    again.close().await.unwrap();
}

/// A start that fails late (the port is taken) gives the directory back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_failed_leaves_the_directory_free() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for _ in 0..3 {
        let mut config = directory(dir.path());
        config.engine.listen = Some(taken.local_addr().unwrap());
        let error = Database::open(config).await.unwrap_err();
        assert!(matches!(error, DatabaseError::Open(_)), "{error}");
    }
    Database::open(directory(dir.path())).await.unwrap().close().await.unwrap();
}

/// Dropped in the middle of a snapshot, with commands in flight: nothing hangs, the directory opens
/// at once, and what was acknowledged is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_at_work_and_opened_again_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for _ in 0..4 {
        let database = Arc::new(Database::open(directory(dir.path())).await.unwrap());
        let client = database.client();
        let found =
            client.get("n").unwrap().map_or(0, |n| String::from_utf8(n).unwrap().parse().unwrap());
        assert!(found >= acknowledged, "{found} of {acknowledged}");
        fill(&client, "some");
        let caller = tokio::task::spawn_blocking(move || {
            let mut last = 0;
            while let Ok(n) = client.incr("n") {
                last = n;
            }
            last
        });
        let snapshot = database.coordinator().clone();
        let snapshot = tokio::spawn(async move { snapshot.create().await.map(drop) });
        let asked = database.client();
        let admin = tokio::spawn(async move { asked.execute_async(&["SNAPSHOT", "LIST"]).await });
        tokio::task::yield_now().await;
        let database = Arc::into_inner(database).unwrap();
        tokio::task::spawn_blocking(move || drop(database)).await.unwrap();
        acknowledged = caller.await.unwrap();
        // Taken in time or not; but they end.
        let _ = snapshot.await.unwrap();
        let _ = admin.await.unwrap();
    }
}

/// Inside a runtime of one thread, where nothing else can run meanwhile, and outside of any.
#[test]
fn dropped_inside_and_outside_of_a_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begin = async || {
        let database = Database::open(directory(dir.path())).await.unwrap();
        database.client().incr("rounds").unwrap();
        let handle = database.coordinator().clone();
        tokio::spawn(async move { handle.create().await.map(drop) });
        tokio::task::yield_now().await;
        database
    };
    runtime.block_on(async { drop(begin().await) });
    let outlives = runtime.block_on(begin());
    drop(outlives);
    let outlives = runtime.block_on(begin());
    drop(runtime);
    assert_eq!(outlives.client().get("rounds").unwrap(), Some(b"3".to_vec()));
    drop(outlives);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let database = Database::open(directory(dir.path())).await.unwrap();
        assert_eq!(database.client().get("rounds").unwrap(), Some(b"3".to_vec()));
        database.snapshot().await.unwrap();
        database.close().await.unwrap();
    });
}

/// An open that nobody waits for any more leaves the directory free in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_that_was_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let opening = tokio::spawn(Database::open(directory(dir.path())));
    tokio::task::yield_now().await;
    opening.abort();
    let _ = opening.await;
    // The thread that opens it may still be at it.
    let database = loop {
        match Database::open_dir(dir.path()).await {
            Ok(database) => break database,
            Err(DatabaseError::DataDir(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    database.close().await.unwrap();
}
