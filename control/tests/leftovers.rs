//! A deletion that fails behind its tombstone: the list says `deleted` all the same, whoever asked
//! is told that objects stay, and these go later by themselves.

#![expect(clippy::unwrap_used, reason = "tests")]

mod hooked;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cutwater_control::coordinator::CoordinatorError;
use cutwater_control::{Database, DatabaseConfig};
use cutwater_engine::types::SnapshotId;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectMeta, ObjectStore};

use crate::hooked::{Hooked, What, broken};

/// How long anything that is waited for may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The objects of a snapshot, without its manifest.
async fn objects(store: &InMemory, id: SnapshotId) -> usize {
    let folder = format!("snap-{:06}-", id.0);
    let all: Vec<ObjectMeta> = store.list(None).try_collect().await.unwrap();
    let names = all.iter().map(|object| object.location.to_string());
    names.filter(|name| name.contains(&folder) && name.ends_with(".snap")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_deletion_leaves_is_told_and_goes_later() {
    let (inner, is_stubborn) = (Arc::new(InMemory::new()), Arc::new(AtomicBool::new(false)));
    let told = Arc::clone(&is_stubborn);
    let store = Hooked::over(inner.clone(), move |what, _| {
        let fails = what == What::Delete && told.load(Ordering::SeqCst);
        Box::pin(async move { if fails { Err(broken()) } else { Ok(()) } })
    });
    let config = DatabaseConfig::memory(store).unwrap();
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

    is_stubborn.store(true, Ordering::SeqCst);
    let refused = database.delete(ids[0]).await.unwrap_err();
    assert!(matches!(refused, CoordinatorError::Leftovers { .. }), "{refused}");
    assert!(
        refused.to_string().contains("is deleted, but objects of it stay for now"),
        "{refused}"
    );
    assert_eq!(state(ids[0]).await, "deleted");
    assert!(objects(&inner, ids[0]).await > 0);
    // It is no snapshot any more.
    assert!(database.verify(ids[0]).await.is_err());

    // Asked for again, it is finished at once.
    is_stubborn.store(false, Ordering::SeqCst);
    database.delete(ids[0]).await.unwrap();
    assert_eq!(objects(&inner, ids[0]).await, 0);

    // Or it goes by itself.
    is_stubborn.store(true, Ordering::SeqCst);
    database.delete(ids[1]).await.unwrap_err();
    assert_eq!(state(ids[1]).await, "deleted");
    is_stubborn.store(false, Ordering::SeqCst);
    let deadline = Instant::now() + LIMIT;
    while objects(&inner, ids[1]).await > 0 {
        assert!(Instant::now() < deadline, "its objects stay");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    database.close().await.unwrap();
}
