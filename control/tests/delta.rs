//! Deltas of an open database: what they store, that they restore, what they are based on, and when
//! a base is due instead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cutwater_control::coordinator::delta::BaseDue;
use cutwater_control::coordinator::remote::RemoteConfig;
use cutwater_control::coordinator::{CoordinatorError, Taken};
use cutwater_control::verify::verify_deep;
use cutwater_control::{Database, DatabaseConfig};
use cutwater_engine::Client;
use cutwater_engine::seal::Keyring;
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::ObjectStore;
use cutwater_snapshot::catalog::{Catalog, Entry, EntryState};
use cutwater_snapshot::chain::CHAIN_LIMIT;
use cutwater_snapshot::claim::Claimant;
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::WriterNonce;
use cutwater_snapshot::manifest::{Manifest, SnapshotKind};
use cutwater_snapshot::store::open_local;

/// How long anything that is waited for may take.
const LIMIT: Duration = Duration::from_secs(60);

fn directory(path: &Path, shards: u16) -> DatabaseConfig {
    let mut config = DatabaseConfig::directory(path).unwrap();
    config.engine.segment_bytes = 1 << 20;
    config.engine.shards = shards;
    config
}

async fn open(path: &Path, shards: u16) -> Database {
    Database::open(directory(path, shards)).await.unwrap()
}

/// A delta that had to be possible.
async fn delta(database: &Database) -> Manifest {
    let Taken { manifest, instead } = database.snapshot_delta().await.unwrap();
    assert_eq!(instead, None);
    assert_eq!(manifest.meta().kind, SnapshotKind::Delta);
    manifest
}

/// Why a base was taken instead.
async fn due(database: &Database) -> BaseDue {
    let Taken { manifest, instead } = database.snapshot_delta().await.unwrap();
    assert_eq!(manifest.meta().kind, SnapshotKind::Base);
    instead.unwrap()
}

/// Every key and value, in order.
type Contents = Vec<(String, Vec<u8>)>;

fn contents(client: &Client) -> Contents {
    let reply = client.execute(&["KEYS", "*"]).unwrap();
    let mut keys: Vec<String> =
        reply.as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect();
    keys.sort();
    let value = |key: String| client.get(&key).unwrap().map(|value| (key, value));
    keys.into_iter().filter_map(value).collect()
}

/// What a snapshot of a database's store restores, onto so many shards.
async fn restored(database: &Database, id: SnapshotId, shards: u16) -> Contents {
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("into");
    database.restore(id, &into).await.unwrap();
    let copy = open(&into, shards).await;
    let found = contents(&copy.client());
    copy.close().await.unwrap();
    found
}

async fn check_deep(store: &Arc<dyn ObjectStore>, id: SnapshotId) {
    for shards in [1, 2, 5] {
        let report = verify_deep(store, id, &Keyring::default(), shards, &|_| {}).await;
        report.unwrap_or_else(|error| panic!("{id} on {shards} shards: {error}"));
    }
}

/// 1 % of a million keys, at random, with keys of 10 and values of 50 bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delta_stores_only_what_changed() {
    const KEYS: u64 = 1_000_000;
    let dir = tempfile::tempdir().unwrap();
    let mut config = directory(dir.path(), 2);
    config.engine.segment_bytes = 16 << 20;
    let database = Database::open(config).await.unwrap();
    let client = database.client();
    let key = |n: u64| format!("key:{n:06}");
    let numbers: Vec<u64> = (0..KEYS).collect();
    for run in numbers.chunks(5_000) {
        let pairs: Vec<_> = run.iter().map(|n| (key(*n), format!("{n:050}"))).collect();
        client.mset(&pairs).unwrap();
    }
    let base = database.snapshot().await.unwrap();
    // A xorshift generator; each key is written three times, and counts once.
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut changed = BTreeSet::new();
    while (changed.len() as u64) < KEYS / 100 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        changed.insert(random % KEYS);
    }
    let changed: Vec<u64> = changed.into_iter().collect();
    for round in 0..3 {
        for run in changed.chunks(1_000) {
            let pairs: Vec<_> =
                run.iter().map(|n| (key(*n), format!("{:050}", n * 7 + round))).collect();
            client.mset(&pairs).unwrap();
        }
    }
    let delta = delta(&database).await;
    let entries: u64 = changed.len() as u64 * (10 + 50);
    let stored = delta.meta().data_bytes;
    println!("{stored} bytes for {} entries of {entries} bytes", changed.len());
    assert!(stored * 2 <= entries * 3, "{stored} bytes for entries of {entries}");
    assert_eq!(delta.cores().iter().map(|part| part.entries).sum::<u64>(), changed.len() as u64);
    assert_eq!(delta.parent().unwrap().0, base.id());
    let report = database.verify_deep(delta.id()).await.unwrap();
    assert_eq!((report.keys, report.snapshots), (KEYS, 2));
    database.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chains_restore_and_restart_on_any_number_of_shards() {
    let dir = tempfile::tempdir().unwrap();
    let mut taken: Vec<(SnapshotId, Contents)> = Vec::new();
    let mut state = Vec::new();
    for (round, shards) in [2u16, 3, 1, 2].into_iter().enumerate() {
        let database = open(dir.path(), shards).await;
        let client = database.client();
        assert_eq!(contents(&client), state, "round {round}");
        if round > 0 {
            // The start has loaded the whole chain.
            let newest = taken.last().unwrap().0;
            let image = database.recovered().image.clone().unwrap();
            assert!(image.starts_with(&format!("snap-{:06}-", newest.0)), "{image}");
        }
        for step in 0..3 {
            let name = |n: u32| format!("{round}:{step}:{n}");
            let pairs: Vec<_> = (0..50).map(|n| (name(n), format!("value of {n}"))).collect();
            client.mset(&pairs).unwrap();
            client.execute(&["APPEND", "log", &format!("{round}{step}")]).unwrap();
            client.execute(&["SETRANGE", "large", "300000", &name(0)]).unwrap();
            client.execute(&["RENAME", &name(1), &name(100)]).unwrap();
            client.execute(&["DEL", &name(2), &name(3)]).unwrap();
            client.execute(&["SET", &name(4), "soon", "PX", "86400000"]).unwrap();
            client.execute(&["PERSIST", &name(4)]).unwrap();
            if (round, step) == (2, 1) {
                client.execute(&["FLUSHALL"]).unwrap();
                client.execute(&["SET", "after", "the flood"]).unwrap();
            }
            let id = match (round, step) {
                (0, 0) => database.snapshot().await.unwrap().id(),
                _ => delta(&database).await.id(),
            };
            taken.push((id, contents(&client)));
            client.execute(&["SET", "not yet", "in it"]).unwrap();
            client.execute(&["DEL", "not yet"]).unwrap();
        }
        client.execute(&["INCR", "starts"]).unwrap();
        state = contents(&client);
        if round % 2 == 0 { database.close().await.unwrap() } else { drop(database) }
    }
    let database = open(dir.path(), 2).await;
    assert_eq!(contents(&database.client()), state);
    let store = open_local(&dir.path().join("store")).unwrap();
    for (n, (id, expected)) in taken.iter().enumerate() {
        database.verify(*id).await.unwrap();
        check_deep(&store, *id).await;
        assert_eq!(&restored(&database, *id, [1, 2, 5][n % 3]).await, expected, "snapshot {id}");
    }
    database.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_snapshot_does_not_make_the_next_delta_miss_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path(), 2).await;
    let client = database.client();
    client.set("before", "1").unwrap();
    let base = database.snapshot().await.unwrap();
    client.set("a", "1").unwrap();
    // The base is read back, and then the store cannot be written: claims can, objects cannot.
    while database.coordinator().status().await.unwrap().reading_back > 0 {
        tokio::task::yield_now().await;
    }
    let (snapshots, away) = (dir.path().join("store/snapshots"), dir.path().join("away"));
    for kind in [SnapshotKind::Delta, SnapshotKind::Base, SnapshotKind::Delta] {
        fs::rename(&snapshots, &away).unwrap();
        fs::write(&snapshots, "no folder").unwrap();
        let failed = database.coordinator().create_kind(kind).await.unwrap_err();
        assert!(matches!(failed, CoordinatorError::Store(_)), "{failed}");
        fs::remove_file(&snapshots).unwrap();
        fs::rename(&away, &snapshots).unwrap();
        client.incr("b").unwrap();
    }
    let delta = delta(&database).await;
    assert_eq!(delta.parent().unwrap().0, base.id());
    let expected = contents(&client);
    assert_eq!(expected.len(), 3);
    assert_eq!(restored(&database, delta.id(), 3).await, expected);
    database.verify_deep(delta.id()).await.unwrap();
    database.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_with_children_stays() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path(), 2).await;
    let client = database.client();
    client.set("a", "1").unwrap();
    let base = database.snapshot().await.unwrap().id();
    client.set("b", "2").unwrap();
    let first = delta(&database).await.id();
    client.set("c", "3").unwrap();
    let second = delta(&database).await.id();
    for (parent, child) in [(base, first), (first, second)] {
        let refused = database.delete(parent).await.unwrap_err();
        let CoordinatorError::Store(error) = &refused else { panic!("{refused}") };
        assert!(matches!(**error, SnapshotError::HasChildren { .. }), "{refused}");
        assert!(refused.to_string().contains(&child.to_string()), "{refused}");
    }
    let listed = find(&database.list().await.unwrap(), second);
    assert_eq!(listed.manifest().unwrap().meta().parent_id, Some(first));
    // Two other ways back: then the chain may go, from its end.
    for _ in 0..2 {
        database.snapshot().await.unwrap();
    }
    for id in [second, first, base] {
        database.delete(id).await.unwrap();
    }
    database.close().await.unwrap();
}

fn find(entries: &[Entry], id: SnapshotId) -> Entry {
    entries.iter().find(|entry| entry.id == id).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_base_is_due() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path(), 2).await;
    let client = database.client();
    client.set("a", "1").unwrap();
    assert_eq!(due(&database).await, BaseDue::NoParent);
    // A chain has an end.
    for n in 0..CHAIN_LIMIT {
        client.set("n", n.to_string()).unwrap();
        delta(&database).await;
    }
    assert!(matches!(due(&database).await, BaseDue::Length { deltas: CHAIN_LIMIT, .. }));
    // More has changed than it is worth.
    for n in 0..300 {
        client.set(format!("big:{n}"), "x".repeat(10_000)).unwrap();
    }
    assert!(matches!(due(&database).await, BaseDue::Bytes { .. }));
    // What was begun of it is listed at once, as in the store, and the base is the one after it.
    let listed = database.list().await.unwrap();
    let [.., given_up, base] = &listed[..] else { panic!("{listed:?}") };
    let EntryState::Tombstone(tombstone) = &given_up.state else { panic!("{given_up:?}") };
    assert!(tombstone.reason.starts_with("a base is due: too much"), "{tombstone:?}");
    assert_eq!((base.id.0, base.state_name()), (given_up.id.0 + 1, "published"));
    let status = database.coordinator().status().await.unwrap();
    assert_eq!(status.last, Some(base.id));
    client.set("a", "2").unwrap();
    delta(&database).await;
    client.set("a", "3").unwrap();
    client.set("b", "3").unwrap();
    database.close().await.unwrap();
    // The log behind the newest snapshot is gone.
    let database = open(dir.path(), 1).await;
    let aborted = |entry: &&Entry| matches!(&entry.state, EntryState::Tombstone(_));
    assert_eq!(database.list().await.unwrap().iter().filter(aborted).count(), 1);
    client_set(&database, "b", "1");
    let log = dir.path().join("log");
    for file in fs::read_dir(&log).unwrap().map(|file| file.unwrap().path()) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("000001-") {
            fs::remove_file(file).unwrap();
        }
    }
    let gone = due(&database).await;
    assert!(matches!(gone, BaseDue::Log { .. }), "{gone}");
    database.close().await.unwrap();
}

fn client_set(database: &Database, key: &str, value: &str) {
    database.client().set(key, value).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_log_there_is_no_delta() {
    let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
    let database = Database::open(DatabaseConfig::memory(Arc::clone(&store)).unwrap()).await;
    let database = database.unwrap();
    let base = database.snapshot().await.unwrap();
    let refused = database.snapshot_delta().await.unwrap_err();
    assert!(matches!(refused, CoordinatorError::NoLog), "{refused}");
    assert!(refused.to_string().contains("--no-log"), "{refused}");
    // Digests are recorded all the same.
    database.verify_deep(base.id()).await.unwrap();
    database.close().await.unwrap();
}

/// A restored directory goes on with deltas of what it was restored to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delta_of_a_restored_directory() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(&dir.path().join("first"), 2).await;
    client_set(&database, "a", "1");
    let base = database.snapshot().await.unwrap().id();
    let into = dir.path().join("second");
    database.restore(base, &into).await.unwrap();
    database.close().await.unwrap();
    for round in 0..2 {
        let database = open(&into, 3 - round).await;
        client_set(&database, "b", &round.to_string());
        let taken = delta(&database).await;
        assert!(taken.parent().is_some());
        database.verify_deep(taken.id()).await.unwrap();
        let expected = contents(&database.client());
        assert_eq!(restored(&database, taken.id(), 1).await, expected);
        database.close().await.unwrap();
    }
}

/// Remote ids are others than local ones, and the remote delta names its remote parent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delta_goes_up_behind_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let (data, remote) = (folder.path().join("data"), folder.path().join("remote"));
    let database = open(&data, 2).await;
    client_set(&database, "a", "1");
    let base = database.snapshot().await.unwrap();
    client_set(&database, "b", "2");
    let first = delta(&database).await;
    database.close().await.unwrap();
    let store = open_local(&remote).unwrap();
    for n in 0..20 {
        let nonce = WriterNonce([n; 16]);
        Claimant::take_over(Arc::clone(&store), base.identity(), nonce, 1).await.unwrap();
    }
    let mut config = directory(&data, 2);
    config.remote = Some(RemoteConfig {
        store: Arc::clone(&store),
        url: format!("file://{}", remote.display()),
        single_writer: false,
        upload_limit_bytes_per_s: None,
        archive_interval: Duration::from_millis(200),
        archive_backlog_bytes: 1 << 20,
        shutdown_timeout: Duration::from_secs(20),
    });
    let database = Database::open(config).await.unwrap();
    client_set(&database, "c", "3");
    let second = delta(&database).await;
    assert_eq!(second.parent().unwrap().0, first.id());
    let deadline = Instant::now() + LIMIT;
    while database.coordinator().status().await.unwrap().remote.unwrap().uploaded < 3 {
        assert!(Instant::now() < deadline, "the chain does not go up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    database.close().await.unwrap();

    let catalog = Catalog::load(&*store, base.identity().database).await.unwrap();
    let there = |uuid| catalog.published().find(|it| it.snapshot_uuid() == uuid).unwrap();
    let last = there(second.snapshot_uuid());
    let chain = catalog.chain_of(last.id()).unwrap();
    assert_eq!(chain.len(), 3);
    for (found, local) in chain.iter().zip([&base, &first, &second]) {
        assert_eq!(found.snapshot_uuid(), local.snapshot_uuid());
        check_deep(&store, found.id()).await;
    }
    assert_ne!(there(base.snapshot_uuid()).id(), base.id(), "ids are a store's own");
    let refused = catalog.check_childless(chain[0].id()).unwrap_err();
    assert!(matches!(refused, SnapshotError::HasChildren { .. }), "{refused}");
}
