//! The archive under another key: the old one can be retired, and nothing but the wrapped key of an
//! object changes.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use std::sync::Arc;

use common::*;
use cutwater_engine::seal::Keyring;
use cutwater_engine::types::{LogId, Lsn};
use cutwater_snapshot::archive::object::decode;
use cutwater_snapshot::archive::rekey::{RekeyedLog, rekey_archive};
use cutwater_snapshot::archive::{
    Archive, ArchiveError, ArchiveWriter, BodyBuilder, Draft, Packing, Secrets, WalNumber,
    WalRecord, WalWriterId, find_head,
};
use cutwater_snapshot::paths;
use object_store::{ObjectStore, ObjectStoreExt};

const OBJECTS: u64 = 5;

/// Puts objects at the end of the archive, sealed by the first of these keys.
async fn put(store: &Arc<dyn ObjectStore>, keys: &Keyring, objects: u64) {
    let head = find_head(&**store, IDENTITY).await.unwrap();
    let from = head.own.as_ref().map_or(100, |own| own.to.0);
    let id = WalWriterId { identity: IDENTITY, epoch: 1, nonce: nonce(1) };
    let packing = Packing { keys: keys.clone(), ..Packing::default() };
    let mut writer = ArchiveWriter::new(store.clone(), id, packing, &head);
    for n in from..from + objects {
        let mut body = BodyBuilder::default();
        body.push(WalRecord { log: LogId::default(), lsn: Lsn(n + 1), ops: b"some ops" });
        let fill = n as u8;
        let draft = Draft {
            uuid: cutwater_snapshot::ident::WalUuid([fill; 16]),
            from: Lsn(n),
            to: Lsn(n + 1),
            created_at_us: 1,
            body: body.finish(),
            secrets: Secrets { data_key: [fill; 32], wrap_nonce: [fill; 12], salt: [fill; 32] },
        };
        writer.put(&draft).await.unwrap();
    }
}

#[tokio::test]
async fn every_object_opens_with_the_new_key_alone() {
    for (what, store, _guard) in stores() {
        let (old, new) = (keys(&[("k1", 1)]), keys(&[("k2", 2)]));
        let both = keys(&[("k2", 2), ("k1", 1)]);
        put(&store, &old, OBJECTS).await;
        put(&store, &both, 1).await;
        let before = Archive::load(&*store, IDENTITY.database).await.unwrap();
        let error = rekey_archive(&*store, IDENTITY.database, &new).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Seal { .. }), "{what}: {error}");

        let done = rekey_archive(&*store, IDENTITY.database, &both).await.unwrap();
        let all = RekeyedLog { rewrapped: OBJECTS, current: 1, plain: 0 };
        assert_eq!(done, all, "{what}");
        let after = Archive::load(&*store, IDENTITY.database).await.unwrap();
        assert_eq!(after.chain(IDENTITY.history).len() as u64, OBJECTS + 1, "{what}");
        for (before, after) in before.headers().zip(after.headers()) {
            assert_eq!(before.encode_authenticated(), after.encode_authenticated(), "{what}");
            let number = after.link.number;
            let object = read(&store, &paths::wal(number.0)).await;
            let (_, body) = decode(number, &object, &new).unwrap();
            assert_eq!(body.records, 1, "{what}");
            if number.0 <= OBJECTS {
                assert!(decode(number, &object, &old).is_err(), "{what}");
            }
        }
        let again = rekey_archive(&*store, IDENTITY.database, &new).await.unwrap();
        assert_eq!(again, RekeyedLog { current: OBJECTS + 1, ..RekeyedLog::default() }, "{what}");
        // The writer goes on behind it.
        put(&store, &new, 1).await;
        let grown = Archive::load(&*store, IDENTITY.database).await.unwrap();
        assert_eq!(grown.chain(IDENTITY.history).len() as u64, OBJECTS + 2, "{what}");
    }
}

#[tokio::test]
async fn one_that_is_damaged_leaves_the_others_rewrapped() {
    let store = memory();
    let (old, both) = (keys(&[("k1", 1)]), keys(&[("k2", 2), ("k1", 1)]));
    put(&store, &old, OBJECTS).await;
    overwrite(&store, &paths::wal(2), b"CWARCHIV and then nothing").await;
    let error = rekey_archive(&*store, IDENTITY.database, &both).await.unwrap_err();
    assert!(error.to_string().contains("wal/000000000002"), "{error}");
    for number in [1, 3, 4, 5] {
        let object = read(&store, &paths::wal(number)).await;
        assert!(decode(WalNumber(number), &object, &keys(&[("k2", 2)])).is_ok(), "{number}");
    }
}

/// Retention removes an object between any two operations of a rekeying: it stays removed.
#[tokio::test]
async fn what_is_removed_meanwhile_does_not_come_back() {
    let (old, both) = (keys(&[("k1", 1)]), keys(&[("k2", 2), ("k1", 1)]));
    for at in 0.. {
        let inner = memory();
        put(&inner, &old, 2).await;
        let target = inner.clone();
        let hook = Box::new(move || {
            let removal = async move { target.delete(&paths::wal(1)).await.unwrap() };
            Box::pin(removal) as futures::future::BoxFuture<'static, ()>
        });
        let store = FaultStore::with_hook(inner.clone(), at, hook);
        let done = rekey_archive(&*store, IDENTITY.database, &both).await.unwrap();
        let is_there = inner.head(&paths::wal(1)).await.is_ok();
        if at >= store.operations() {
            assert_eq!((done.rewrapped, is_there), (2, true));
            return;
        }
        assert!(!is_there, "removed before operation {at}");
    }
}
