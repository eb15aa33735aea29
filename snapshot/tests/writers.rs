//! Several writers, and writers that stop: at every single operation of theirs.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use common::*;
use cutwater_engine::types::{Lsn, ShardId};
use cutwater_snapshot::catalog::Catalog;
use cutwater_snapshot::delete::{delete_snapshot, sweep_leftovers};
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::SnapshotUuid;
use cutwater_snapshot::manifest::Manifest;
use cutwater_snapshot::restore::copy_snapshot;
use cutwater_snapshot::verify::verify;
use cutwater_snapshot::writer::{SnapshotSpec, SnapshotWriter};
use object_store::ObjectStore;

/// Values that make core 0 longer than one part of a multipart upload.
const PART_VALUES_BYTES: usize = 2 << 20;

/// Several pieces either way.
fn split(uuid: u8, value_bytes: usize) -> SnapshotSpec {
    let piece_limit_bytes = if value_bytes == PART_VALUES_BYTES { 9 << 20 } else { 240 };
    SnapshotSpec { piece_limit_bytes, ..spec(100, uuid) }
}

/// A whole life: takeover, one snapshot, and if that fails what a server does about it.
async fn live(
    store: Arc<dyn ObjectStore>,
    n: u8,
    value_bytes: usize,
) -> Result<Manifest, SnapshotError> {
    let mut claimant = take_over(&store, n).await?;
    write_spec(&mut claimant, split(n, value_bytes), value_bytes).await
}

/// Everything that is published is whole, ids are not shared, and nothing lies behind tombstones.
async fn check_whole(store: &Arc<dyn ObjectStore>, what: &str) -> Vec<SnapshotUuid> {
    let catalog = Catalog::load(&**store, IDENTITY.database).await.unwrap();
    let mut ids = BTreeSet::new();
    let mut uuids = Vec::new();
    for entry in catalog.entries() {
        assert!(ids.insert(entry.id), "{what}: {} is shared", entry.id);
        match entry.manifest() {
            Some(manifest) => {
                verify(store, entry.id, &plain(), &|_| ()).await.expect(what);
                uuids.push(manifest.snapshot_uuid());
            }
            None => assert!(matches!(entry.state_name(), "aborted" | "deleted"), "{what}"),
        }
    }
    uuids
}

/// How many operations a whole life takes.
async fn operations(value_bytes: usize) -> usize {
    let store = FaultStore::new(memory(), usize::MAX, None);
    live(store.clone(), 1, value_bytes).await.unwrap();
    store.operations()
}

#[tokio::test]
async fn a_crash_at_every_operation_leaves_a_whole_snapshot_or_none() {
    for value_bytes in [20, PART_VALUES_BYTES] {
        let count = operations(value_bytes).await;
        assert!(count > if value_bytes == 20 { 9 } else { 10 }, "{count}");
        for fault in [Fault::Stop, Fault::StopAfter, Fault::Blink] {
            for at in 0..count {
                let what = format!("{value_bytes}-byte values, {fault:?} at {at}");
                let inner = memory();
                let store = FaultStore::new(inner.clone(), at, Some(fault));
                let result = live(store, 1, value_bytes).await;
                // The next start.
                let mut next = claimant(&inner, 2).await;
                let catalog = Catalog::load(&*inner, IDENTITY.database).await.unwrap();
                sweep_leftovers(&*inner, &catalog).await.unwrap();
                let published = check_whole(&inner, &what).await;
                if result.is_ok() {
                    assert_eq!(published, [SnapshotUuid([1; 16])], "{what}");
                }
                let catalog = Catalog::load(&*inner, IDENTITY.database).await.unwrap();
                let behind = catalog.entries().iter().filter(|entry| entry.manifest().is_none());
                assert!(behind.map(|entry| entry.stored_bytes).all(|bytes| bytes == 0), "{what}");
                write(&mut next, 500, 9).await;
            }
        }
    }
}

#[tokio::test]
async fn a_failed_snapshot_can_be_aborted_and_the_next_taken_by_the_same_writer() {
    // Takeover (3), claim, two objects, manifest.
    for at in 0..7 {
        let what = format!("Blink at {at}");
        let inner = memory();
        let store: Arc<dyn ObjectStore> = FaultStore::new(inner.clone(), at, Some(Fault::Blink));
        let Ok(mut claimant) = take_over(&store, 1).await else { continue };
        let Ok(writer) = SnapshotWriter::begin(&mut claimant, spec(100, 1), &plain()).await else {
            write(&mut claimant, 200, 2).await;
            assert_eq!(check_whole(&inner, &what).await, [SnapshotUuid([2; 16])], "{what}");
            continue;
        };
        let finished = async {
            let mut core = writer.core(ShardId(0));
            let (body, entries) = puts("a", 2, 20);
            core.image(body, entries).await?;
            let first = core.finish(point(0, 100)).await?;
            let second = writer.core(ShardId(1)).finish(point(1, 100)).await?;
            writer.finish(vec![first, second], Vec::new()).await
        };
        if finished.await.is_err() {
            match writer.abort("a put failed").await {
                Ok(()) | Err(SnapshotError::Published { .. }) => {}
                Err(error) => panic!("{what}: {error}"),
            }
        }
        write(&mut claimant, 200, 2).await;
        let published = check_whole(&inner, &what).await;
        assert!(published.contains(&SnapshotUuid([2; 16])), "{what}");
    }
}

/// The second writer lives its whole life before operation `at` of the first, for every `at`: so
/// the first is frozen there, wakes up superseded, and must neither share an id nor publish.
#[tokio::test]
async fn two_writers_interleaved_at_every_operation() {
    for which in 0..3 {
        for at in 0..operations(20).await {
            let what = format!("store {which}, second writer before operation {at}");
            let (_, inner, _guard) = stores().remove(which);
            let second = Arc::new(Mutex::new(None));
            let (target, result) = (inner.clone(), second.clone());
            let hook = Box::new(move || {
                Box::pin(async move {
                    let lived = live(target, 2, 20).await;
                    *result.lock().unwrap() = Some(lived);
                }) as futures::future::BoxFuture<'static, ()>
            });
            let first = live(FaultStore::with_hook(inner.clone(), at, hook), 1, 20).await;
            let second = second.lock().unwrap().take().expect("the hook ran");
            second.expect("nobody superseded the second writer before it was done");

            claimant(&inner, 3).await;
            let published = check_whole(&inner, &what).await;
            let has = |n| published.contains(&SnapshotUuid([n; 16]));
            assert!(has(2), "{what}");
            assert_eq!(has(1), first.is_ok(), "{what}: {first:?}");
            // Up to its claim (operation 2) the first's own takeover is still to come.
            assert_eq!(first.is_ok(), at <= 2, "{what}");
            if let Err(error) = first {
                assert!(
                    matches!(
                        error,
                        SnapshotError::Fenced { .. } | SnapshotError::Superseded { .. }
                    ),
                    "{what}: {error}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_superseded_writer_is_fenced_at_its_next_claim_and_removes_nothing() {
    let store = memory();
    let mut first = claimant(&store, 1).await;
    let open = SnapshotWriter::begin(&mut first, spec(100, 1), &plain()).await.unwrap();
    let mut second = claimant(&store, 2).await;
    assert_eq!(second.epoch(), first.epoch() + 1);
    let theirs = write(&mut second, 100, 2).await;
    let before = dump(&store).await;
    let fenced = SnapshotWriter::begin(&mut first, spec(200, 3), &plain()).await.unwrap_err();
    assert!(matches!(fenced, SnapshotError::Fenced { own: 1, found: 2 }), "{fenced}");
    let cores = vec![
        open.core(ShardId(0)).finish(point(0, 100)).await.unwrap(),
        open.core(ShardId(1)).finish(point(1, 100)).await.unwrap(),
    ];
    let late = open.finish(cores, Vec::new()).await.unwrap_err();
    assert!(matches!(late, SnapshotError::Superseded { .. }), "{late}");
    open.abort("superseded").await.unwrap();
    assert_eq!(dump(&store).await, before);
    verify(&store, theirs.id(), &plain(), &|_| ()).await.unwrap();
}

#[tokio::test]
async fn a_published_snapshot_cannot_be_aborted() {
    let store = memory();
    let mut claimant = claimant(&store, 1).await;
    let writer = SnapshotWriter::begin(&mut claimant, spec(100, 1), &plain()).await.unwrap();
    let cores = vec![
        writer.core(ShardId(0)).finish(point(0, 100)).await.unwrap(),
        writer.core(ShardId(1)).finish(point(1, 110)).await.unwrap(),
    ];
    let manifest = writer.finish(cores.clone(), Vec::new()).await.unwrap();
    // Publishing again is the same success.
    assert_eq!(writer.finish(cores, Vec::new()).await.unwrap(), manifest);
    let refused = writer.abort("too late").await.unwrap_err();
    assert!(matches!(refused, SnapshotError::Published { .. }));
    verify(&store, manifest.id(), &plain(), &|_| ()).await.unwrap();
}

/// A listing that fails half way must fail everything that rests on it.
#[tokio::test]
async fn a_listing_error_never_reads_as_empty() {
    let inner = memory();
    let mut writer = claimant(&inner, 1).await;
    let id = write(&mut writer, 100, 1).await.id();
    for fault in [Fault::Stop, Fault::Blink] {
        let at = |at| -> Arc<dyn ObjectStore> { FaultStore::new(inner.clone(), at, Some(fault)) };
        let is_store_error = |error: SnapshotError| {
            assert!(matches!(error, SnapshotError::Store(_)), "{error}");
            assert!(error.is_retryable());
        };
        for n in 0..3 {
            is_store_error(Catalog::load(&*at(n), IDENTITY.database).await.unwrap_err());
        }
        for n in 0..2 {
            is_store_error(take_over(&at(n), 2).await.unwrap_err());
            is_store_error(verify(&at(n), id, &plain(), &|_| ()).await.unwrap_err());
            is_store_error(delete_snapshot(&*at(n), id, &[], "test").await.unwrap_err());
            is_store_error(
                copy_snapshot(&at(n), &memory(), id, &plain(), &|_| ()).await.unwrap_err(),
            );
        }
    }
    verify(&inner, id, &plain(), &|_| ()).await.unwrap();
}

#[tokio::test]
async fn a_crash_at_every_operation_of_a_deletion_or_copy() {
    let (source, id) = {
        let store = memory();
        let id = write(&mut claimant(&store, 1).await, 100, 1).await.id();
        (store, id)
    };
    for fault in [Fault::Stop, Fault::StopAfter] {
        for at in 0.. {
            let what = format!("copy, {fault:?} at {at}");
            let inner = memory();
            let store = FaultStore::new(inner.clone(), at, Some(fault));
            let target: Arc<dyn ObjectStore> = store.clone();
            let done = copy_snapshot(&source, &target, id, &plain(), &|_| ()).await;
            let catalog = Catalog::load(&*inner, IDENTITY.database).await.unwrap();
            if catalog.published().next().is_some() {
                verify(&inner, id, &plain(), &|_| ()).await.expect(&what);
            } else {
                assert!(done.is_err(), "{what}");
            }
            copy_snapshot(&source, &inner, id, &plain(), &|_| ()).await.expect(&what);

            let what = format!("delete, {fault:?} at {at}");
            let store = FaultStore::new(inner.clone(), at, Some(fault));
            let deleted = delete_snapshot(&*store, id, &[], "test").await;
            let catalog = Catalog::load(&*inner, IDENTITY.database).await.unwrap();
            match catalog.get(id).unwrap().manifest() {
                Some(manifest) => {
                    assert_eq!(manifest.meta().end_lsn, Lsn(110));
                    verify(&inner, id, &plain(), &|_| ()).await.expect(&what);
                }
                None => assert_eq!(catalog.get(id).unwrap().state_name(), "deleted", "{what}"),
            }
            delete_snapshot(&*inner, id, &[], "test").await.expect(&what);
            let catalog = Catalog::load(&*inner, IDENTITY.database).await.unwrap();
            assert_eq!(catalog.get(id).unwrap().stored_bytes, 0, "{what}");
            if done.is_ok() && deleted.is_ok() {
                break;
            }
        }
    }
}
