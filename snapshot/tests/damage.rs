//! Every byte of every stored object wrong once: an error that names the object, never a panic and
//! never a snapshot that passes.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use std::sync::Arc;

use common::*;
use cutwater_engine::types::{Lsn, ShardId, SnapshotId};
use cutwater_snapshot::catalog::{Catalog, EntryState};
use cutwater_snapshot::chunk::OBJECT_HEADER_BYTES;
use cutwater_snapshot::claim::{Claim, read_claim};
use cutwater_snapshot::delete::delete_snapshot;
use cutwater_snapshot::error::{Flaw, SnapshotError};
use cutwater_snapshot::manifest::{Manifest, RawManifest, Record};
use cutwater_snapshot::paths;
use cutwater_snapshot::restore::copy_snapshot;
use cutwater_snapshot::verify::verify;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

/// A change to a manifest, and its name.
type Change = (&'static str, &'static dyn Fn(&mut RawManifest));

async fn sample() -> (Arc<dyn ObjectStore>, Manifest) {
    let store = memory();
    let manifest = write(&mut claimant(&store, 1).await, 100, 1).await;
    verify(&store, manifest.id(), &plain(), &|_| ()).await.unwrap();
    (store, manifest)
}

/// Every way in which the bytes are wrong: each byte changed, each length cut, one byte more.
fn damaged(bytes: &[u8]) -> impl Iterator<Item = (String, Vec<u8>)> {
    let flips = (0..bytes.len()).flat_map(move |at| {
        [0x01, 0x80, 0xFF].map(|mask| {
            let mut bad = bytes.to_vec();
            bad[at] ^= mask;
            (format!("byte {at} ^ {mask:#x}"), bad)
        })
    });
    let cuts = (0..bytes.len()).map(|len| (format!("cut to {len}"), bytes[..len].to_vec()));
    let longer = ("one byte more".into(), [bytes, b"\0"].concat());
    flips.chain(cuts).chain([longer])
}

fn must_name(error: &SnapshotError, path: &Path, what: &str) {
    assert!(error.is_corruption(), "{path}, {what}: {error}");
    assert!(error.to_string().contains(path.as_ref()), "{path}, {what}: {error}");
}

#[tokio::test]
async fn every_byte_of_every_object() {
    let (store, manifest) = sample().await;
    for object in manifest.objects() {
        let path = Path::from(object.name.as_str());
        let good = read(&store, &path).await;
        for (what, bad) in damaged(&good) {
            overwrite(&store, &path, &bad).await;
            let error = verify(&store, manifest.id(), &plain(), &|_| ()).await.unwrap_err();
            must_name(&error, &path, &what);
            let target = memory();
            let error =
                copy_snapshot(&store, &target, manifest.id(), &plain(), &|_| ()).await.unwrap_err();
            must_name(&error, &path, &what);
            let copied = Catalog::load(&*target, IDENTITY.database).await.unwrap();
            assert_eq!(copied.published().count(), 0, "{path}, {what}");
        }
        store.delete(&path).await.unwrap();
        let error = verify(&store, manifest.id(), &plain(), &|_| ()).await.unwrap_err();
        must_name(&error, &path, "missing");
        overwrite(&store, &path, &good).await;
    }
}

#[tokio::test]
async fn every_byte_of_the_manifest() {
    let (store, manifest) = sample().await;
    let path = manifest.name().manifest();
    let good = read(&store, &path).await;
    for (what, bad) in damaged(&good) {
        overwrite(&store, &path, &bad).await;
        let error = verify(&store, manifest.id(), &plain(), &|_| ()).await.unwrap_err();
        must_name(&error, &path, &what);
        let catalog = Catalog::load(&*store, IDENTITY.database).await.unwrap();
        let [entry] = catalog.entries() else { panic!("{what}: {catalog:?}") };
        let EntryState::Unreadable { reason } = &entry.state else { panic!("{what}: {entry:?}") };
        assert!(reason.contains(path.as_ref()), "{what}: {reason}");
        assert_eq!(catalog.find_base(Lsn(u64::MAX)), None);
    }
    delete_snapshot(&*store, manifest.id(), &[], "damaged").await.unwrap();
    let catalog = Catalog::load(&*store, IDENTITY.database).await.unwrap();
    assert_eq!(catalog.entries()[0].state_name(), "deleted");
    assert_eq!(catalog.entries()[0].stored_bytes, 0);
}

#[tokio::test]
async fn every_byte_of_the_newest_claim() {
    let (store, manifest) = sample().await;
    let path = paths::claim(manifest.id());
    let good = read(&store, &path).await;
    for (what, bad) in damaged(&good) {
        overwrite(&store, &path, &bad).await;
        let error = read_claim(&*store, manifest.id(), IDENTITY.database).await.unwrap_err();
        must_name(&error, &path, &what);
        must_name(&take_over(&store, 2).await.unwrap_err(), &path, &what);
        must_name(
            &verify(&store, manifest.id(), &plain(), &|_| ()).await.unwrap_err(),
            &path,
            &what,
        );
    }
}

/// Damage that comes with a right checksum: a hostile or broken writer's.
#[tokio::test]
async fn manifests_that_disagree_with_themselves() {
    let (_, manifest) = sample().await;
    let refused = |what: &str, change: &dyn Fn(&mut RawManifest)| {
        let mut raw = manifest.raw().clone();
        change(&mut raw);
        match Record::decode(manifest.name(), &raw.encode()) {
            Err(damage) => damage.flaw,
            Ok(record) => panic!("{what}: {record:?}"),
        }
    };
    let missing = |core| Flaw::MissingPart(ShardId(core));
    assert_eq!(refused("no part", &|raw| raw.cores.clear()), missing(0));
    assert_eq!(refused("part 0", &|raw| _ = raw.cores.remove(0)), missing(0));
    assert_eq!(refused("part 1", &|raw| _ = raw.cores.remove(1)), missing(1));
    assert_eq!(refused("num_cores", &|raw| raw.num_cores = 3), missing(2));
    assert_eq!(refused("objects", &|raw| raw.objects.retain(|o| o.core.0 == 0)), missing(1));
    assert_eq!(refused("version", &|raw| raw.meta.format_version = 2), Flaw::Version(2));
    let no_cores = |raw: &mut RawManifest| {
        (raw.num_cores, raw.cores, raw.objects) = (0, Vec::new(), Vec::new());
    };
    assert_eq!(refused("no core", &no_cores), missing(0));
    let changes: [Change; 16] = [
        ("fewer cores", &|raw| raw.num_cores = 1),
        ("id", &|raw| raw.meta.snapshot_id = SnapshotId(9)),
        ("begin", &|raw| raw.meta.begin_lsn = Lsn(99)),
        ("end", &|raw| raw.meta.end_lsn = Lsn(111)),
        ("watermark below", &|raw| raw.cores[1].watermark = Lsn(50)),
        ("tail at the end", &|raw| raw.cores[1].tail_records = 1),
        ("piece", &|raw| _ = raw.objects.remove(1)),
        ("name", &|raw| raw.objects[0].name = "snapshots/other".into()),
        ("order", &|raw| raw.objects.swap(0, 1)),
        ("object of no core", &|raw| {
            let object = raw.objects[0].clone();
            raw.objects.push(object);
        }),
        ("core_files", &|raw| raw.core_files.swap(0, 1)),
        ("entries", &|raw| raw.cores[0].entries += 1),
        ("data_bytes", &|raw| raw.meta.data_bytes += 1),
        ("slots", &|raw| raw.slot_counts = vec![0; 3]),
        ("compression", &|raw| raw.compression = "zip".into()),
        ("parent", &|raw| raw.meta.parent_id = Some(SnapshotId(1))),
    ];
    for (what, change) in changes {
        assert!(!matches!(refused(what, change), Flaw::Crc { .. }), "{what}");
    }
}

/// What the manifest says of the objects is compared with what they hold.
#[tokio::test]
async fn manifests_that_disagree_with_the_objects() {
    let (store, manifest) = sample().await;
    let path = manifest.name().manifest();
    let changes: [Change; 6] = [
        ("crc", &|raw| raw.objects[0].crc32c ^= 1),
        ("entries", &|raw| {
            raw.objects[0].entries -= 1;
            raw.objects[1].entries += 1;
        }),
        ("chunks", &|raw| raw.cores[0].chunks += 1),
        ("tail", &|raw| raw.cores[0].tail_records += 1),
        ("uuid", &|raw| raw.snapshot_uuid.0[3] ^= 1),
        ("watermark above a tail record", &|raw| {
            // Core 0 keeps the lowest watermark only if another core has it, too.
            raw.cores[0].watermark = Lsn(105);
            raw.cores[1].watermark = Lsn(100);
            raw.meta.end_lsn = Lsn(105);
            raw.cores[0].tail_records = 0;
        }),
    ];
    for (what, change) in changes {
        let mut raw = manifest.raw().clone();
        change(&mut raw);
        overwrite(&store, &path, &raw.encode()).await;
        let error = verify(&store, manifest.id(), &plain(), &|_| ()).await.unwrap_err();
        assert!(error.is_corruption(), "{what}: {error}");
    }
}

/// Objects that are whole, but stand in the wrong place.
#[tokio::test]
async fn swapped_pieces_and_replayed_snapshots() {
    let store = memory();
    let mut claimant = claimant(&store, 1).await;
    let (old, new) = (write(&mut claimant, 100, 1).await, write(&mut claimant, 200, 2).await);
    let paths: Vec<_> =
        new.objects().iter().map(|object| Path::from(object.name.as_str())).collect();
    let replaced = Path::from(old.objects()[0].name.as_str());
    let good = read(&store, &paths[0]).await;
    for source in [&paths[1], &paths[4], &replaced] {
        let other = read(&store, source).await;
        overwrite(&store, &paths[0], &other).await;
        let error = verify(&store, new.id(), &plain(), &|_| ()).await.unwrap_err();
        must_name(&error, &paths[0], source.as_ref());
    }
    // A whole chunk of another snapshot behind the right header, with the manifest made to match.
    let mut mixed = read(&store, &replaced).await;
    mixed[..OBJECT_HEADER_BYTES].copy_from_slice(&good[..OBJECT_HEADER_BYTES]);
    overwrite(&store, &paths[0], &mixed).await;
    let mut raw = new.raw().clone();
    raw.objects[0].crc32c = crc32c::crc32c(&mixed);
    overwrite(&store, &new.name().manifest(), &raw.encode()).await;
    must_name(&verify(&store, new.id(), &plain(), &|_| ()).await.unwrap_err(), &paths[0], "chunk");
}

/// Foreign bytes with a right checksum reach the decoders of MessagePack and validation.
#[tokio::test]
async fn decoders_never_panic() {
    let (store, manifest) = sample().await;
    let fixed = |mut bytes: Vec<u8>| {
        let body = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..body]).to_le_bytes();
        bytes[body..].copy_from_slice(&crc);
        bytes
    };
    let good = read(&store, &manifest.name().manifest()).await;
    for (_, bad) in damaged(&good) {
        if bad.len() >= 4 {
            drop(Record::decode(manifest.name(), &fixed(bad)));
        }
    }
    let good = read(&store, &paths::claim(manifest.id())).await;
    for (_, bad) in damaged(&good) {
        if bad.len() >= 4 {
            drop(Claim::decode(manifest.id(), &fixed(bad)));
        }
    }
}
