//! Two writers of one store: the first is stopped before each operation, the second does all that
//! a writer does, the first goes on. And a store's faults at each operation.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use cutwater_engine::types::{LogId, Lsn, ShardId};
use cutwater_snapshot::archive::{
    Archive, ArchiveError, ArchiveWriter, BodyBuilder, Draft, Fence, Packing, Secrets, WalListing,
    WalRecord, WalWriterId, find_head,
};
use cutwater_snapshot::catalog::Catalog;
use cutwater_snapshot::claim::{Claim, Claimant, Removal, Settled};
use cutwater_snapshot::delete::{delete_snapshot, sweep_leftovers};
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::{DatabaseId, SnapshotUuid, WalUuid};
use cutwater_snapshot::manifest::Manifest;
use cutwater_snapshot::orphans::{ORPHAN_GRACE, sweep_orphans};
use cutwater_snapshot::paths::{self, SnapshotName};
use cutwater_snapshot::pin::set_pin;
use cutwater_snapshot::retention::{Decision, Holdings, Policy, Promise};
use cutwater_snapshot::verify::verify;
use cutwater_snapshot::writer::{Parent, SnapshotSpec};
use cutwater_snapshot::{throttle::Throttle, upload::Upload};
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::Mutex as AsyncMutex;

/// Every object of a store by its path.
type Dump = Vec<(String, Vec<u8>)>;

/// The claim of a takeover, after two listings, the newest claim, and one that is not settled.
const CLAIM: usize = 4;

/// Why a writer stopped.
#[derive(Debug)]
enum Stopped {
    Snapshot(SnapshotError),
    Archive(ArchiveError),
}

impl From<SnapshotError> for Stopped {
    fn from(error: SnapshotError) -> Self {
        Self::Snapshot(error)
    }
}

impl From<ArchiveError> for Stopped {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

impl Stopped {
    fn is_superseded(&self) -> bool {
        use SnapshotError as S;
        matches!(
            self,
            Self::Snapshot(S::Fenced { .. } | S::Superseded { .. })
                | Self::Archive(ArchiveError::Fenced { .. })
        )
    }
}

/// What one writer knows that it has published.
#[derive(Clone, Debug, Default)]
struct Published {
    snapshots: Vec<Manifest>,
    log: Vec<(u64, WalUuid)>,
}

fn draft(n: u8, from: u64, to: u64) -> Draft {
    let mut body = BodyBuilder::default();
    body.push(WalRecord { log: LogId::default(), lsn: Lsn(to), ops: b"" });
    Draft {
        uuid: WalUuid([n; 16]),
        from: Lsn(from),
        to: Lsn(to),
        created_at_us: 1,
        body: body.finish(),
        secrets: Secrets { data_key: [n; 32], wrap_nonce: [n; 12], salt: [n; 32] },
    }
}

/// All that a writer does: takeover, sweep, a base and a delta of its own, an upload of a snapshot
/// of another store, log, a pin, retention over both, and a deletion by hand. `begin` is where its
/// LSNs begin.
async fn live(
    store: Arc<dyn ObjectStore>,
    n: u8,
    begin: u64,
    done: Arc<Mutex<Published>>,
) -> Result<(), Stopped> {
    let mut claimant = take_over(&store, n).await?;
    let catalog = Catalog::load(&*store, IDENTITY.database).await?;
    sweep_leftovers(&*store, &catalog).await?;
    let id = WalWriterId { identity: IDENTITY, epoch: claimant.epoch(), nonce: claimant.nonce() };
    let head = find_head(&*store, IDENTITY).await?;
    let newest = catalog.published().next_back().cloned();

    // On top of what was there, and then one of its own.
    let mut own = spec(begin + 100, n);
    own.parent = newest.as_ref().map(Parent::of);
    let first = write_spec(&mut claimant, own, 20).await?;
    done.lock().unwrap().snapshots.push(first);
    let second = write_spec(&mut claimant, spec(begin + 200, n + 50), 20).await?;
    done.lock().unwrap().snapshots.push(second.clone());
    let third = upload(&mut claimant, begin + 300, n + 100).await?;
    done.lock().unwrap().snapshots.push(third);

    let fence = Arc::new(AsyncMutex::new(claimant));
    let from = head.own.as_ref().map_or(0, |head| head.to.0);
    let mut writer = ArchiveWriter::new(store.clone(), id, Packing::default(), &head);
    writer = writer.fenced(fence.clone() as Arc<dyn Fence>);
    let mut from = from;
    for (k, to) in (0u8..).zip([begin + 150, begin + 250, begin + 350]) {
        let put = writer.put(&draft(n + 10 * k, from, to)).await?;
        let link = put.header().link;
        done.lock().unwrap().log.push((link.number.0, link.uuid));
        from = to;
    }
    let mut claimant = fence.lock().await;
    pin(&claimant, &second, Some(7)).await?;
    retain(&store, &mut claimant, 3).await?;
    pin(&claimant, &second, None).await?;
    let removal = Removal {
        snapshots: vec![(second.name(), second.snapshot_uuid())],
        log: Vec::new(),
        reason: "deleted".into(),
    };
    done.lock().unwrap().snapshots.retain(|manifest| manifest.id() != second.id());
    claimant.remove(removal, 3_000).await?;
    sweep_orphans(&*store, IDENTITY.database, &|_| false, Duration::ZERO).await?;
    claimant.check().await?;
    Ok(())
}

/// Copies a snapshot of another store into the claimant's.
async fn upload(claimant: &mut Claimant, begin: u64, n: u8) -> Result<Manifest, SnapshotError> {
    let from = memory();
    let mut there = self::claimant(&from, n).await;
    let manifest = write_spec(&mut there, spec(begin, n), 20).await?;
    let name = claimant.claim(Lsn(begin), manifest.snapshot_uuid(), 2_000).await?;
    let (to, keys) = (claimant.store().clone(), plain());
    let (throttle, done_bytes) = (Arc::new(Throttle::new(None)), Arc::default());
    Upload { from, to, manifest, keys, name, parent: None, throttle, done_bytes }.run().await
}

/// Pins as a server does: a snapshot that is gone may be gone because another writer is there.
async fn pin(
    claimant: &Claimant,
    manifest: &Manifest,
    at_us: Option<u64>,
) -> Result<(), SnapshotError> {
    claimant.check().await?;
    let pinned = set_pin(&**claimant.store(), manifest.id(), at_us).await;
    if pinned.is_err() {
        claimant.check().await?;
    }
    pinned.map(drop)
}

/// The newest so many stay, and what they need.
async fn retain(
    store: &Arc<dyn ObjectStore>,
    claimant: &mut Claimant,
    keep_last: u32,
) -> Result<(), Stopped> {
    let catalog = Catalog::load(&**store, IDENTITY.database).await?;
    let holdings = Holdings::of_snapshots(&catalog);
    let policy = Policy { keep_last: Some(keep_last), keep_for: None };
    let promise = Promise::new(&holdings, &policy, 0);
    let listing = WalListing::load(&**store).await?;
    let log = listing.superfluous(&**store, IDENTITY.database, &promise, 1_000).await?;
    let mut removal = Removal { reason: "retention".into(), ..Removal::default() };
    log.into_iter().for_each(|number| removal.push_log(number.0));
    for id in promise.superfluous(&holdings.snapshots) {
        let manifest = catalog.get(id).unwrap().manifest().unwrap();
        removal.snapshots.push((manifest.name(), manifest.snapshot_uuid()));
    }
    claimant.remove(removal, 3_000).await?;
    Ok(())
}

/// Counts the operations of a life in a store in which another one has been lived.
async fn operations() -> usize {
    let inner = memory();
    live(inner.clone(), 1, 1_000, Arc::default()).await.unwrap();
    let store = FaultStore::new(inner, usize::MAX, None);
    live(store.clone(), 2, 2_000, Arc::default()).await.unwrap();
    store.operations()
}

/// Everything that is published is whole, with its parents; no claim is gone or has changed; no
/// published manifest has changed but for its pin.
async fn check(store: &Arc<dyn ObjectStore>, before: &[(String, Vec<u8>)], what: &str) {
    let catalog = Catalog::load(&**store, IDENTITY.database).await.unwrap();
    let mut ids = BTreeMap::new();
    for entry in catalog.entries() {
        assert_eq!(ids.insert(entry.id, entry.name), None, "{what}: {} is shared", entry.id);
        if entry.manifest().is_some() {
            catalog.chain_of(entry.id).unwrap_or_else(|error| panic!("{what}: {error}"));
            verify(store, entry.id, &plain(), &|_| ()).await.expect(what);
        }
        assert_ne!(entry.state_name(), "unreadable", "{what}: {entry:?}");
    }
    let after: BTreeMap<String, Vec<u8>> = dump(store).await.into_iter().collect();
    for (name, bytes) in before.iter().filter(|(name, _)| name.starts_with("claims/")) {
        assert_eq!(after.get(name), Some(bytes), "{what}: {name}");
    }
}

#[tokio::test]
async fn a_frozen_writer_wakes_up_superseded_and_destroys_nothing() {
    let count = operations().await;
    assert!(count > 60, "{count}");
    let mut finished = 0;
    for at in 0..count {
        let what = format!("the second writer lives before operation {at} of {count}");
        let inner = memory();
        live(inner.clone(), 1, 1_000, Arc::default()).await.unwrap();
        let second: Arc<Mutex<Published>> = Arc::default();
        let dumped: Arc<Mutex<Dump>> = Arc::default();
        let (target, published, before) = (inner.clone(), second.clone(), dumped.clone());
        let hook = Box::new(move || {
            Box::pin(async move {
                live(target.clone(), 3, 3_000, published).await.unwrap();
                *before.lock().unwrap() = dump(&target).await;
            }) as futures::future::BoxFuture<'static, ()>
        });
        let first: Arc<Mutex<Published>> = Arc::default();
        let store = FaultStore::with_hook(inner.clone(), at, hook);
        let outcome = live(store, 2, 2_000, first.clone()).await;
        let before = dumped.lock().unwrap().clone();
        assert!(!before.is_empty(), "{what}: the hook ran");
        check(&inner, &before, &what).await;
        match outcome {
            // Up to its claim its own takeover is still to come.
            Ok(()) => {
                assert!(at <= CLAIM, "{what}");
                finished += 1;
            }
            Err(error) => assert!(error.is_superseded(), "{what}: {error:?}"),
        }
        if at <= CLAIM {
            continue;
        }
        // All that the second has published and wanted to keep is there, bit by bit.
        let after: BTreeMap<String, Vec<u8>> = dump(&inner).await.into_iter().collect();
        let second = second.lock().unwrap().clone();
        for manifest in &second.snapshots {
            let prefix = format!("snapshots/{}/", manifest.name());
            let of_it = before.iter().filter(|(name, _)| name.starts_with(&prefix));
            for (name, bytes) in of_it {
                assert_eq!(after.get(name), Some(bytes), "{what}: {name}");
            }
        }
        for (name, bytes) in before.iter().filter(|(name, _)| name.starts_with("wal/")) {
            assert_eq!(after.get(name), Some(bytes), "{what}: {name}");
        }
        // What the first put late is on no chain.
        let archive = Archive::load(&*inner, IDENTITY.database).await.unwrap();
        let uuids: Vec<WalUuid> =
            archive.chain(IDENTITY.history).iter().map(|header| header.link.uuid).collect();
        for (_, uuid) in &second.log {
            let is_there = archive.headers().any(|header| header.link.uuid == *uuid);
            assert!(!is_there || uuids.contains(uuid), "{what}: {uuid}");
        }
        for (n, uuid) in uuids.iter().enumerate() {
            let is_theirs = second.log.iter().any(|(_, own)| own == uuid);
            let later = uuids[n..].iter().any(|later| later.0[0] % 10 == 2);
            assert!(!(is_theirs && later), "{what}: {uuids:?}");
        }
    }
    assert_eq!(finished, CLAIM + 1);
}

#[tokio::test]
async fn faults_at_every_operation_leave_a_store_that_goes_on() {
    let count = operations().await;
    for fault in [Fault::Stop, Fault::StopAfter, Fault::Blink] {
        for at in 0..count {
            let what = format!("{fault:?} at {at}");
            let inner = memory();
            live(inner.clone(), 1, 1_000, Arc::default()).await.unwrap();
            let before = dump(&inner).await;
            let store = FaultStore::new(inner.clone(), at, Some(fault));
            let outcome = live(store, 2, 2_000, Arc::default()).await;
            if let Err(error) = &outcome {
                assert!(!error.is_superseded(), "{what}: {error:?}");
            }
            // The next start takes everything up.
            let published: Arc<Mutex<Published>> = Arc::default();
            live(inner.clone(), 3, 3_000, published.clone()).await.expect(&what);
            check(&inner, &before, &what).await;
            let catalog = Catalog::load(&*inner, IDENTITY.database).await.unwrap();
            for manifest in &published.lock().unwrap().snapshots {
                assert_eq!(catalog.get(manifest.id()).unwrap().manifest(), Some(manifest));
            }
            let behind = catalog.entries().iter().filter(|entry| entry.manifest().is_none());
            assert!(behind.map(|entry| entry.stored_bytes).all(|bytes| bytes == 0), "{what}");
        }
    }
}

/// The whole reason for claims of removals: a writer decides, is stopped, and its successor builds
/// on what was to go.
#[tokio::test]
async fn a_takeover_finishes_what_was_decided_before_it() {
    let store = memory();
    let mut first = claimant(&store, 1).await;
    let base = write_spec(&mut first, spec(100, 1), 20).await.unwrap();
    let newest = write_spec(&mut first, spec(200, 2), 20).await.unwrap();
    let removal = Removal {
        snapshots: vec![(base.name(), base.snapshot_uuid())],
        log: vec![(1, 2)],
        reason: "retention".into(),
    };
    let mut second = claimant(&store, 2).await;
    // Before the claim has landed nothing is removed.
    let error = first.remove(removal.clone(), 1).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Fenced { .. }), "{error}");
    assert!(Catalog::load(&*store, IDENTITY.database).await.unwrap().get(base.id()).is_some());
    // After it the next takeover sees to it, before it looks at what there is.
    let half = Removal { log: Vec::new(), ..removal };
    let claim = Claim {
        id: second.next_id(),
        epoch: second.epoch(),
        nonce: second.nonce(),
        identity: IDENTITY,
        snapshot: None,
        removal: Some(half),
        settled: Settled::default(),
        created_at_us: 5,
    };
    store.put(&paths::claim(claim.id), claim.encode().into()).await.unwrap();
    drop(claimant(&store, 3).await);
    let catalog = Catalog::load(&*store, IDENTITY.database).await.unwrap();
    assert_eq!(catalog.get(base.id()).unwrap().state_name(), "deleted");
    assert!(catalog.get(newest.id()).unwrap().manifest().is_some());
    // The one that had decided goes past its own claim, and meets the takeover.
    let error =
        second.remove(Removal { reason: "x".into(), log: vec![(9, 9)], ..Removal::default() }, 6);
    assert!(matches!(error.await.unwrap_err(), SnapshotError::Fenced { .. }));
}

/// The newer writer's objects, into which the older one would have run, have been removed.
#[tokio::test]
async fn log_that_is_put_late_at_a_removed_number_is_taken_back() {
    let store = memory();
    let writer = |claimant: Claimant, head| {
        let (epoch, nonce) = (claimant.epoch(), claimant.nonce());
        let id = WalWriterId { identity: IDENTITY, epoch, nonce };
        let fence = Arc::new(AsyncMutex::new(claimant));
        ArchiveWriter::new(store.clone(), id, Packing::default(), &head).fenced(fence)
    };
    let first = claimant(&store, 1).await;
    let head = find_head(&*store, IDENTITY).await.unwrap();
    let mut first = writer(first, head);
    first.put(&draft(1, 0, 10)).await.unwrap();
    let second = claimant(&store, 2).await;
    let head = find_head(&*store, IDENTITY).await.unwrap();
    let mut second = writer(second, head);
    for (n, from) in [(2, 10), (3, 20), (4, 30)] {
        second.put(&draft(n, from, from + 10)).await.unwrap();
    }
    for number in 1..=3 {
        store.delete(&paths::wal(number)).await.unwrap();
    }
    let before = dump(&store).await;
    let error = first.put(&draft(9, 10, 15)).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Fenced { own: 1, found: 2 }), "{error}");
    assert_eq!(dump(&store).await, before);
    second.put(&draft(5, 40, 50)).await.unwrap();
    let archive = Archive::load(&*store, IDENTITY.database).await.unwrap();
    assert_eq!(archive.chain(IDENTITY.history).len(), 2);
}

#[tokio::test]
async fn orphans_go_after_a_while_and_nothing_else_does() {
    for (what, store, _guard) in stores() {
        let mut writer = claimant(&store, 1).await;
        let whole = write(&mut writer, 100, 1).await;
        let gone = write(&mut writer, 200, 2).await;
        let removal = Removal {
            snapshots: vec![(gone.name(), gone.snapshot_uuid())],
            log: Vec::new(),
            reason: "test".into(),
        };
        writer.remove(removal, 1).await.unwrap();
        let open = writer.claim(Lsn(300), SnapshotUuid([3; 16]), 1).await.unwrap();
        let late = gone.name().core_object(ShardId(0), 7);
        let unclaimed = SnapshotName { begin_lsn: Lsn(5), ..whole.name() };
        let unclaimed = unclaimed.core_object(ShardId(0), 0);
        let live = open.core_object(ShardId(0), 0);
        let foreign = "snapshots/notes.txt".into();
        for path in [&late, &unclaimed, &live, &foreign] {
            store.put(path, "1".into()).await.unwrap();
        }
        let sweep = async |grace| {
            sweep_orphans(&*store, IDENTITY.database, &|_| false, grace).await.unwrap().objects
        };
        assert_eq!(sweep(ORPHAN_GRACE).await, 0, "{what}");
        assert_eq!(sweep(Duration::ZERO).await, 2, "{what}");
        for path in [&live, &foreign, &paths::claim(open.id), &gone.name().manifest()] {
            assert!(store.head(path).await.is_ok(), "{what}: {path}");
        }
        for path in [&late, &unclaimed] {
            assert!(store.head(path).await.is_err(), "{what}: {path}");
        }
        verify(&store, whole.id(), &plain(), &|_| ()).await.unwrap();
        let other = DatabaseId([9; 16]);
        store.put(&unclaimed, "1".into()).await.unwrap();
        let error = sweep_orphans(&*store, other, &|_| false, Duration::ZERO).await.unwrap_err();
        assert!(matches!(error, SnapshotError::ForeignDatabase { .. }), "{what}: {error}");
    }
}

#[tokio::test]
async fn pins_hold_against_everybody() {
    for (what, store, _guard) in stores() {
        let mut writer = claimant(&store, 1).await;
        let base = write(&mut writer, 100, 1).await;
        let spec = SnapshotSpec { parent: Some(Parent::of(&base)), ..spec(200, 2) };
        let delta = write_spec(&mut writer, spec, 20).await.unwrap();
        let newest = write(&mut writer, 300, 3).await;
        let pinned = set_pin(&*store, delta.id(), Some(5)).await.unwrap();
        assert_eq!(pinned.pinned_at_us(), Some(5), "{what}");
        assert_eq!(set_pin(&*store, delta.id(), Some(6)).await.unwrap(), pinned, "{what}");
        // It changes nothing by which the snapshot is known or checked.
        assert_eq!(pinned.raw().digest(), delta.raw().digest());
        verify(&store, delta.id(), &plain(), &|_| ()).await.unwrap();
        let error = delete_snapshot(&*store, delta.id(), &[], "test");
        let error = error.await.unwrap_err();
        assert_eq!(error.to_string(), format!("snapshot {} is pinned: unpin it first", delta.id()));
        retain(&store, &mut writer, 1).await.unwrap();
        // Nor by a decision that did not know of it.
        let all = [&delta, &base].map(|manifest| (manifest.name(), manifest.snapshot_uuid()));
        let stale = Removal { snapshots: all.to_vec(), log: vec![], reason: "stale".into() };
        assert_eq!(writer.remove(stale.clone(), 9).await.unwrap().snapshots, 0, "{what}");
        let catalog = Catalog::load(&*store, IDENTITY.database).await.unwrap();
        assert_eq!(catalog.chain_of(delta.id()).unwrap().len(), 2, "{what}");
        assert_eq!(catalog.get(delta.id()).unwrap().manifest(), Some(&pinned));
        assert_eq!(set_pin(&*store, delta.id(), None).await.unwrap(), delta, "{what}");
        assert_eq!(writer.remove(stale, 9).await.unwrap().snapshots, 2, "{what}");
        let error = set_pin(&*store, delta.id(), Some(1)).await.unwrap_err();
        assert!(matches!(error, SnapshotError::NotPublished { .. }), "{what}: {error}");
        verify(&store, newest.id(), &plain(), &|_| ()).await.unwrap();
    }
}

/// Both decide over what the other has changed since: only one of them can.
#[tokio::test]
async fn a_pin_and_a_deletion_at_once_are_one_after_the_other() {
    for which in 0..3 {
        for at in 0.. {
            let (what, store, _guard) = stores().remove(which);
            let id = write(&mut claimant(&store, 1).await, 100, 1).await.id();
            let pinned = Arc::new(Mutex::new(None));
            let (target, result) = (store.clone(), pinned.clone());
            let hook = Box::new(move || {
                Box::pin(async move {
                    let outcome = set_pin(&*target, id, Some(1)).await;
                    *result.lock().unwrap() = Some(outcome.is_ok());
                }) as futures::future::BoxFuture<'static, ()>
            });
            let faulty = FaultStore::with_hook(store.clone(), at, hook);
            let deleted = delete_snapshot(&*faulty, id, &[], "test").await;
            let Some(pinned) = pinned.lock().unwrap().take() else { break };
            let catalog = Catalog::load(&*store, IDENTITY.database).await.unwrap();
            let is_there = catalog.get(id).unwrap().manifest().is_some();
            assert_eq!(is_there, pinned, "{what}, pin before operation {at}");
            assert_eq!(deleted.is_ok(), !pinned, "{what}, pin before operation {at}");
        }
    }
}

#[tokio::test]
async fn a_decision_over_a_whole_store_is_that_of_its_parts() {
    let store = memory();
    live(store.clone(), 1, 1_000, Arc::default()).await.unwrap();
    live(store.clone(), 2, 2_000, Arc::default()).await.unwrap();
    let catalog = Catalog::load(&*store, IDENTITY.database).await.unwrap();
    let archive = Archive::load(&*store, IDENTITY.database).await.unwrap();
    let holdings = Holdings::new(&catalog, &archive);
    let listing = WalListing::load(&*store).await.unwrap();
    for keep_last in 1..5 {
        let policy = Policy { keep_last: Some(keep_last), keep_for: None };
        let decision = Decision::new(&holdings, &archive, &policy, 0);
        let promise = Promise::new(&holdings, &policy, 0);
        let log = listing.superfluous(&*store, IDENTITY.database, &promise, 100).await.unwrap();
        assert_eq!(decision.superfluous_log(), log);
        assert_eq!(decision.order, promise.superfluous(&holdings.snapshots));
    }
}
