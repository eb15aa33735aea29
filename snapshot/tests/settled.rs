//! What a start costs in a store on which many servers have been started: what the last ones left,
//! not what all ever did. And nothing is taken for settled that a takeover did not get to.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use std::sync::Arc;

use common::*;
use cutwater_engine::types::{LogId, Lsn};
use cutwater_snapshot::archive::{
    ArchiveWriter, BodyBuilder, Draft, Packing, Secrets, WalRecord, WalWriterId, find_head,
};
use cutwater_snapshot::catalog::Catalog;
use cutwater_snapshot::claim::{Claim, Claimant, Removal, Settled};
use cutwater_snapshot::delete::sweep_leftovers;
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::{Fork, HistoryId, Identity, SnapshotUuid, WalUuid};
use cutwater_snapshot::paths;
use object_store::ObjectStore;

/// What a start does to a store, but for snapshots, and one object of the archive.
async fn start(store: &Arc<dyn ObjectStore>, n: u8) -> Claimant {
    let claimant = claimant(store, n).await;
    let catalog = Catalog::load(&**store, IDENTITY.database).await.unwrap();
    sweep_leftovers(&**store, &catalog).await.unwrap();
    let head = find_head(&**store, IDENTITY).await.unwrap();
    let id = WalWriterId { identity: IDENTITY, epoch: claimant.epoch(), nonce: claimant.nonce() };
    let from = head.own.as_ref().map_or(0, |own| own.to.0);
    let mut body = BodyBuilder::default();
    body.push(WalRecord { log: LogId::default(), lsn: Lsn(from + 1), ops: b"" });
    let draft = Draft {
        uuid: WalUuid([n; 16]),
        from: Lsn(from),
        to: Lsn(from + 1),
        created_at_us: 1,
        body: body.finish(),
        secrets: Secrets { data_key: [n; 32], wrap_nonce: [n; 12], salt: [n; 32] },
    };
    ArchiveWriter::new(store.clone(), id, Packing::default(), &head).put(&draft).await.unwrap();
    claimant
}

#[tokio::test]
async fn the_sixtieth_start_costs_what_the_fifth_did() {
    for (what, inner, _guard) in stores().into_iter().take(2) {
        // Starts that do nothing else; that remove log; that leave a claimed snapshot behind.
        for kind in 0..3 {
            let mut costs = Vec::new();
            for n in 1..=60 {
                let store = FaultStore::new(inner.clone(), usize::MAX, None);
                let counted: Arc<dyn ObjectStore> = store.clone();
                let mut claimant = start(&counted, n).await;
                costs.push(store.operations());
                match kind {
                    0 => {}
                    1 => {
                        let removal = Removal { reason: "x".into(), ..Removal::default() };
                        let removal = Removal { log: vec![(1_000, 1_001)], ..removal };
                        claimant.remove(removal, 1).await.unwrap();
                    }
                    _ => {
                        let uuid = SnapshotUuid([n; 16]);
                        claimant.claim(Lsn(u64::from(n)), uuid, 1).await.unwrap();
                    }
                }
            }
            // Of what is aborted the manifest stays, and is read.
            let tombstones = |start: usize| if kind == 2 { start } else { 0 };
            let (fifth, last) = (costs[4] - tombstones(4), costs[59] - tombstones(59));
            assert_eq!(fifth, last, "{what}, {kind}: {costs:?}");
        }
    }
}

/// A writer that left a snapshot and a removal, and a takeover that stops at every operation in
/// turn: the next one sees to both.
#[tokio::test]
async fn a_takeover_that_dies_settles_nothing_that_it_did_not_get_to() {
    for fault in [Fault::Stop, Fault::StopAfter] {
        for at in 0.. {
            let what = format!("{fault:?} at {at}");
            let store = memory();
            let mut first = claimant(&store, 1).await;
            let base = write(&mut first, 100, 1).await;
            let newest = write(&mut first, 200, 2).await;
            let open = first.claim(Lsn(300), SnapshotUuid([3; 16]), 1).await.unwrap();
            let removal = Removal {
                snapshots: vec![(base.name(), base.snapshot_uuid())],
                log: Vec::new(),
                reason: "retention".into(),
            };
            let claim = Claim {
                id: first.next_id(),
                epoch: first.epoch(),
                nonce: first.nonce(),
                identity: IDENTITY,
                snapshot: None,
                removal: Some(removal),
                settled: Settled::default(),
                created_at_us: 5,
            };
            overwrite(&store, &paths::claim(claim.id), &claim.encode()).await;
            let faulty = FaultStore::new(store.clone(), at, Some(fault));
            let counted: Arc<dyn ObjectStore> = faulty.clone();
            let is_whole = take_over(&counted, 2).await.is_ok();
            // Any number of starts that come no further than their claim.
            for n in 3..6 {
                let faulty = FaultStore::new(store.clone(), 8, Some(Fault::Stop));
                let counted: Arc<dyn ObjectStore> = faulty;
                let _ = take_over(&counted, n).await;
            }
            let last = claimant(&store, 6).await;
            let catalog = Catalog::load(&*store, IDENTITY.database).await.unwrap();
            assert_eq!(catalog.get(base.id()).unwrap().state_name(), "deleted", "{what}");
            assert_eq!(catalog.get(open.id).unwrap().state_name(), "aborted", "{what}");
            assert!(catalog.get(newest.id()).unwrap().manifest().is_some(), "{what}");
            assert!(last.epoch() >= 2, "{what}");
            if is_whole {
                assert!(at > 10, "{what}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn open_claims_that_are_kept_stay_open_over_many_starts() {
    let store = memory();
    let mut first = claimant(&store, 1).await;
    let uuid = SnapshotUuid([9; 16]);
    let open = first.claim(Lsn(300), uuid, 1).await.unwrap();
    let keep = [uuid].into();
    for n in 2..20 {
        let takeover =
            Claimant::take_over_keeping(store.clone(), IDENTITY, nonce(n), 1, &keep).await.unwrap();
        assert_eq!(takeover.kept, [(open, uuid)], "{n}");
        let catalog = Catalog::load(&*store, IDENTITY.database).await.unwrap();
        assert_eq!(catalog.get(open.id).unwrap().state_name(), "unfinished", "{n}");
    }
    let takeover = Claimant::take_over(store.clone(), IDENTITY, nonce(20), 1).await.unwrap();
    assert_eq!(takeover.aborted, [open]);
}

/// Whose claims are not read again is not forgotten.
#[tokio::test]
async fn every_history_is_known_however_long_ago_it_wrote() {
    let store = memory();
    let identity = |n: u8| Identity {
        history: HistoryId([n; 16]),
        fork: (n > 1).then(|| Fork { parent: HistoryId([n - 1; 16]), lsn: Lsn(n.into()) }),
        ..IDENTITY
    };
    for n in 1..=30 {
        let of = identity(n / 5 + 1);
        let at_us = 1_000_000 * u64::from(n);
        let takeover = Claimant::take_over(store.clone(), of, nonce(n), at_us).await.unwrap();
        assert_eq!(takeover.histories.len(), usize::from(n / 5 + 1), "{n}");
        for (history, written) in &takeover.histories {
            assert_eq!(written.fork, identity(history.0[0]).fork, "{n}");
            assert_eq!(written.log_end.is_none(), *history == of.history, "{n}");
        }
    }
    let other = Identity { database: cutwater_snapshot::ident::DatabaseId([7; 16]), ..IDENTITY };
    let error = Claimant::take_over(store, other, nonce(99), 1).await.unwrap_err();
    assert!(matches!(error, SnapshotError::ForeignDatabase { .. }), "{error}");
}
