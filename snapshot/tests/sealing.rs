//! Sealed and compressed snapshots: they come back as they were, and everything that somebody
//! without the key could do to the store is refused, by the name of the object and with a reason.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::*;
use cutwater_engine::seal::{Keyring, PIECE_BYTES, SEALED_PIECE_BYTES};
use cutwater_engine::types::{ShardId, SnapshotId};
use cutwater_snapshot::catalog::{Catalog, EntryState};
use cutwater_snapshot::chunk::OBJECT_HEADER_BYTES;
use cutwater_snapshot::compression::Compression;
use cutwater_snapshot::delete::delete_snapshot;
use cutwater_snapshot::error::{Refusal, SnapshotError};
use cutwater_snapshot::manifest::{Manifest, RawManifest, Record};
use cutwater_snapshot::reader::CoreReader;
use cutwater_snapshot::rekey::rekey;
use cutwater_snapshot::restore::copy_snapshot;
use cutwater_snapshot::verify::verify;
use cutwater_snapshot::writer::{SnapshotSpec, SnapshotWriter};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;

type Store = Arc<dyn ObjectStore>;

fn ring() -> Keyring {
    keys(&[("k1", 1)])
}

/// A snapshot of a store of its own, sealed if there are keys.
async fn written(keys: &Keyring, compression: Compression, uuid: u8) -> (Store, Manifest) {
    let store = memory();
    let manifest = write_to(&store, keys, compression, 100, uuid).await;
    (store, manifest)
}

async fn write_to(
    store: &Store,
    keys: &Keyring,
    compression: Compression,
    begin: u64,
    uuid: u8,
) -> Manifest {
    let mut claimant = claimant(store, uuid).await;
    let spec = SnapshotSpec { piece_limit_bytes: 240, compression, ..spec(begin, uuid) };
    let writer = SnapshotWriter::begin(&mut claimant, spec, keys).await.unwrap();
    write_parts(writer, 20).await.unwrap()
}

fn object(manifest: &Manifest, at: usize) -> Path {
    Path::from(manifest.objects()[at].name.as_str())
}

/// What reading the snapshot ends with, which must name the object: by verification and by a copy.
async fn refused(store: &Store, id: SnapshotId, keys: &Keyring, object: &Path) -> String {
    let error = verify(store, id, keys, &|_| ()).await.unwrap_err();
    let copy = memory();
    let other = copy_snapshot(store, &copy, id, keys, &|_| ()).await.unwrap_err();
    for error in [&error, &other] {
        assert!(error.to_string().contains(object.as_ref()), "{object}: {error}");
    }
    error.to_string()
}

/// Replaces an object and makes the manifest's checksum agree, as one who is no fool would; the
/// manifest cannot be authenticated again without the key.
async fn replace(store: &Store, manifest: &Manifest, at: usize, bytes: &[u8]) {
    overwrite(store, &object(manifest, at), bytes).await;
    let mut raw = manifest.raw().clone();
    raw.meta.data_bytes = raw.meta.data_bytes - raw.objects[at].length + bytes.len() as u64;
    raw.objects[at].length = bytes.len() as u64;
    raw.objects[at].crc32c = crc32c::crc32c(bytes);
    overwrite(store, &manifest.name().manifest(), &raw.encode()).await;
}

/// The same with the key: the manifest is authentic, and the object still does not open.
async fn replace_with_key(store: &Store, manifest: &Manifest, at: usize, bytes: &[u8]) {
    overwrite(store, &object(manifest, at), bytes).await;
    let mut raw = manifest.raw().clone();
    raw.meta.data_bytes = raw.meta.data_bytes - raw.objects[at].length + bytes.len() as u64;
    raw.objects[at].length = bytes.len() as u64;
    raw.objects[at].crc32c = crc32c::crc32c(bytes);
    manifest.unlock(&ring()).unwrap().authenticate(&mut raw);
    overwrite(store, &manifest.name().manifest(), &raw.encode()).await;
}

#[tokio::test]
async fn every_form_comes_back() {
    let mut state = 7u64;
    let mut noise = |length: usize| -> Vec<u8> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    };
    let noise = noise(3 * PIECE_BYTES);
    for (what, store, _folder) in stores() {
        for (n, compression) in
            [Compression::None, Compression::Lz4, Compression::Zstd(1)].into_iter().enumerate()
        {
            for keys in [plain(), ring()] {
                let uuid = 1 + 2 * n as u8 + u8::from(keys.is_empty());
                let mut claimant = claimant(&store, uuid).await;
                let spec = SnapshotSpec { compression, num_cores: 1, ..spec(100, uuid) };
                let writer = SnapshotWriter::begin(&mut claimant, spec, &keys).await.unwrap();
                let mut core = writer.core(ShardId(0));
                let mut bodies = Vec::new();
                for value_bytes in [0, 100, 70_000, PIECE_BYTES, 3 * PIECE_BYTES] {
                    // Compressible ones, and such that are not.
                    bodies.push(puts("plaintext", 3, value_bytes));
                    bodies.push((Bytes::from(one_put(&noise[..value_bytes])), 1));
                }
                for (body, entries) in &bodies {
                    core.image(body.clone(), *entries).await.unwrap();
                }
                let part = core.finish(point(0, 100)).await.unwrap();
                let manifest = writer.finish(vec![part], Vec::new()).await.unwrap();
                let report = verify(&store, manifest.id(), &keys, &|_| ()).await.unwrap();
                assert_eq!(report.entries, 20, "{what} {compression}");
                let raw_bytes: usize = bodies.iter().map(|(body, _)| body.len()).sum();
                let smaller = manifest.meta().data_bytes < raw_bytes as u64 / 2;
                assert_eq!(smaller, compression != Compression::None, "{what} {compression}");
                let bytes = read(&store, &object(&manifest, 0)).await;
                let shows = bytes.windows(11).any(|window| window == b"plaintext:1");
                assert_eq!(shows, keys.is_empty(), "{what} {compression}");

                let unlocked = manifest.unlock(&keys).unwrap();
                let mut reader =
                    CoreReader::open(&Handle::current(), store.clone(), &unlocked, ShardId(0));
                for (body, entries) in bodies {
                    let chunk = reader.next().await.unwrap().unwrap();
                    assert!(chunk.body == body && chunk.count == entries, "{what} {compression}");
                }
                assert!(reader.next().await.unwrap().is_none());
            }
        }
    }
}

fn one_put(value: &[u8]) -> Vec<u8> {
    use cutwater_engine::entry::{Op, ValueKind};
    let mut body = Vec::new();
    let (db, kind) = (cutwater_engine::types::DbIndex(0), ValueKind::String);
    Op::Put { db, key: b"noise", kind, expires_at_ms: None, value }.encode(&mut body);
    body
}

#[tokio::test]
async fn only_the_right_keys_open() {
    let (store, manifest) = written(&ring(), Compression::None, 1).await;
    let (id, path) = (manifest.id(), manifest.name().manifest());
    verify(&store, id, &keys(&[("k2", 2), ("k1", 1)]), &|_| ()).await.unwrap();
    for (keys, text) in [
        (plain(), "it is sealed under the key k1, and no key is configured"),
        (keys(&[("k2", 1)]), "it is sealed under the key k1, which is not configured"),
        (keys(&[("k1", 2)]), "the key k1 does not open its data key"),
    ] {
        let error = refused(&store, id, &keys, &path).await;
        assert!(error.contains(text), "{error}");
        let error = manifest.unlock(&keys).unwrap_err();
        assert!(!error.is_corruption() && !error.is_retryable());
        // It is listed all the same.
        let mut catalog = Catalog::load(&*store, IDENTITY.database).await.unwrap();
        catalog.authenticate(&keys, false);
        assert_eq!(catalog.published().count(), 1);
    }
    let (store, manifest) = written(&plain(), Compression::None, 1).await;
    let path = manifest.name().manifest();
    let error = refused(&store, manifest.id(), &ring(), &path).await;
    assert!(error.contains("it is not sealed, although keys are configured"), "{error}");
    let mut catalog = Catalog::load(&*store, IDENTITY.database).await.unwrap();
    catalog.authenticate(&ring(), false);
    assert_eq!(catalog.published().count(), 0);
}

#[tokio::test]
async fn every_flipped_bit_and_every_cut_of_every_object() {
    let (store, manifest) = written(&ring(), Compression::None, 1).await;
    for at in 0..manifest.objects().len() {
        let path = object(&manifest, at);
        let good = read(&store, &path).await;
        let manifest_bytes = read(&store, &manifest.name().manifest()).await;
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            overwrite(&store, &path, &bad).await;
            let error = verify(&store, manifest.id(), &ring(), &|_| ()).await.unwrap_err();
            assert!(error.is_corruption(), "{path} bit {bit}: {error}");
            assert!(error.to_string().contains(path.as_ref()), "{path} bit {bit}: {error}");
            // Also where every checksum that needs no key was made to agree.
            if bit % 8 == 3 {
                replace_with_key(&store, &manifest, at, &bad).await;
                refused(&store, manifest.id(), &ring(), &path).await;
                overwrite(&store, &manifest.name().manifest(), &manifest_bytes).await;
            }
        }
        for length in 0..good.len() {
            replace_with_key(&store, &manifest, at, &good[..length]).await;
            refused(&store, manifest.id(), &ring(), &path).await;
        }
        replace_with_key(&store, &manifest, at, &[&good[..], b"\0"].concat()).await;
        refused(&store, manifest.id(), &ring(), &path).await;
        overwrite(&store, &path, &good).await;
        overwrite(&store, &manifest.name().manifest(), &manifest_bytes).await;
        verify(&store, manifest.id(), &ring(), &|_| ()).await.unwrap();
    }
}

/// Cut at, swapped over and appended at the borders of sealed pieces, which are where it could
/// work.
#[tokio::test]
async fn pieces_stay_where_they_were() {
    let store = memory();
    let mut claimant = claimant(&store, 1).await;
    let spec = SnapshotSpec { num_cores: 1, ..spec(100, 1) };
    let writer = SnapshotWriter::begin(&mut claimant, spec, &ring()).await.unwrap();
    let mut core = writer.core(ShardId(0));
    let (body, entries) = puts("x", 3, PIECE_BYTES);
    core.image(body, entries).await.unwrap();
    let part = core.finish(point(0, 100)).await.unwrap();
    let manifest = writer.finish(vec![part], Vec::new()).await.unwrap();
    let path = object(&manifest, 0);
    let good = read(&store, &path).await;
    let piece = |n: usize| {
        let at = OBJECT_HEADER_BYTES + n * SEALED_PIECE_BYTES;
        &good[at..good.len().min(at + SEALED_PIECE_BYTES)]
    };
    let header = &good[..OBJECT_HEADER_BYTES];
    for (what, bad) in [
        ("cut to its header", header.to_vec()),
        ("cut after a piece", [header, piece(0)].concat()),
        ("cut after three", [header, piece(0), piece(1), piece(2)].concat()),
        ("swapped", [header, piece(1), piece(0), piece(2), piece(3)].concat()),
        ("one missing", [header, piece(0), piece(2), piece(3)].concat()),
        ("one doubled", [header, piece(0), piece(0), piece(1), piece(2), piece(3)].concat()),
        ("one appended", [&good[..], piece(3)].concat()),
        ("a flipped bit in the third", {
            let mut bad = good.clone();
            bad[OBJECT_HEADER_BYTES + 2 * SEALED_PIECE_BYTES + 9] ^= 1;
            bad
        }),
    ] {
        replace_with_key(&store, &manifest, 0, &bad).await;
        let error = refused(&store, manifest.id(), &ring(), &path).await;
        assert!(
            error.contains("does not open") || error.contains("end too early"),
            "{what} {error}"
        );
    }
}

#[tokio::test]
async fn swapped_renamed_and_replayed_objects() {
    let store = memory();
    let old = write_to(&store, &ring(), Compression::None, 100, 1).await;
    let new = write_to(&store, &ring(), Compression::None, 200, 2).await;
    let path = object(&new, 0);
    let original = read(&store, &path).await;
    let last = new.objects().len() - 1;
    for source in [object(&new, 1), object(&new, last), object(&old, 0)] {
        let other = read(&store, &source).await;
        overwrite(&store, &path, &other).await;
        refused(&store, new.id(), &ring(), &path).await;
        replace_with_key(&store, &new, 0, &other).await;
        refused(&store, new.id(), &ring(), &path).await;
        // Behind the header that belongs there: another key then.
        let mixed = [&original[..OBJECT_HEADER_BYTES], &other[OBJECT_HEADER_BYTES..]].concat();
        replace_with_key(&store, &new, 0, &mixed).await;
        let error = refused(&store, new.id(), &ring(), &path).await;
        assert!(error.contains("piece 0 does not open"), "{error}");
    }
}

/// A whole sealed snapshot under another snapshot's name or in another database's store.
#[tokio::test]
async fn a_replayed_or_renamed_snapshot() {
    let store = memory();
    let old = write_to(&store, &ring(), Compression::None, 100, 1).await;
    let new = write_to(&store, &ring(), Compression::None, 200, 2).await;
    // The manifest as it is does not fit its new name.
    let path = new.name().manifest();
    let bytes = read(&store, &old.name().manifest()).await;
    overwrite(&store, &path, &bytes).await;
    refused(&store, new.id(), &ring(), &path).await;
    // Made to fit, it is not authentic.
    let mut raw = old.raw().clone();
    raw.meta.snapshot_id = new.id();
    raw.meta.begin_lsn = new.name().begin_lsn;
    raw.cores.iter_mut().for_each(|part| part.watermark.0 += 100);
    raw.meta.end_lsn.0 += 100;
    for object in &mut raw.objects {
        object.name = new.name().core_object(object.core, object.piece).to_string();
    }
    raw.core_files = raw.objects.iter().filter(|o| o.piece == 0).map(|o| o.name.clone()).collect();
    overwrite(&store, &path, &raw.encode()).await;
    let error = refused(&store, new.id(), &ring(), &path).await;
    assert!(error.contains("it was altered after it was written"), "{error}");
    // Another database's: the wrapped key is bound to the database.
    let mut raw = new.raw().clone();
    raw.database_id.0[0] ^= 1;
    overwrite(&store, &path, &raw.encode()).await;
    let error = refused(&store, new.id(), &ring(), &path).await;
    assert!(error.contains("does not open its data key"), "{error}");
}

#[tokio::test]
async fn a_sealed_object_replaced_by_a_plain_one() {
    let (store, manifest) = written(&ring(), Compression::None, 1).await;
    // The very same content, never sealed; then its manifest, too.
    let (other, unsealed) = written(&plain(), Compression::None, 1).await;
    let path = object(&manifest, 0);
    let bytes = read(&other, &object(&unsealed, 0)).await;
    overwrite(&store, &path, &bytes).await;
    refused(&store, manifest.id(), &ring(), &path).await;
    replace_with_key(&store, &manifest, 0, &bytes).await;
    let error = refused(&store, manifest.id(), &ring(), &path).await;
    assert!(error.contains("sealing is none, not AES-256-GCM"), "{error}");

    let path = manifest.name().manifest();
    overwrite(&store, &path, &unsealed.raw().encode()).await;
    let error = refused(&store, manifest.id(), &ring(), &path).await;
    assert!(error.contains("it is not sealed, although keys are configured"), "{error}");
}

/// What is done to a manifest, and its name.
type Edit<'a> = (&'a str, &'a dyn Fn(&mut RawManifest));

/// Every field of the manifest by hand, with the checksum made to agree.
#[tokio::test]
async fn a_manifest_edited_by_hand() {
    let (store, manifest) = written(&ring(), Compression::None, 1).await;
    let path = manifest.name().manifest();
    let changes: [Edit<'_>; 13] = [
        ("created_at", &|raw| raw.meta.created_at_us += 1),
        ("created_by", &|raw| raw.meta.created_by.push('x')),
        ("history", &|raw| raw.history_id.0[0] ^= 1),
        ("position", &|raw| raw.cores[0].position.0 += 1),
        ("log", &|raw| raw.cores[0].log_id.start.0 += 1),
        ("chunks", &|raw| raw.cores[0].chunks += 1),
        ("reason", &|raw| raw.reason = Some("checkpoint".into())),
        ("slot counts", &|raw| raw.slot_counts = vec![0; 16_384]),
        ("crc", &|raw| raw.objects[0].crc32c ^= 1),
        ("compression", &|raw| raw.compression = "lz4".into()),
        ("slot digests", &|raw| {
            raw.digest_seed = Some(1);
            raw.slot_digests = Some(vec![1; 16 * 16_384].into());
        }),
        ("auth", &|raw| raw.auth.as_mut().unwrap()[0] ^= 1),
        ("auth cut", &|raw| _ = raw.auth.as_mut().unwrap().pop()),
    ];
    for (what, change) in changes {
        let mut raw = manifest.raw().clone();
        change(&mut raw);
        overwrite(&store, &path, &raw.encode()).await;
        let error = refused(&store, manifest.id(), &ring(), &path).await;
        assert!(error.contains("it was altered after it was written"), "{what}: {error}");
        let mut catalog = Catalog::load(&*store, IDENTITY.database).await.unwrap();
        catalog.authenticate(&ring(), false);
        let state = &catalog.entries()[0].state;
        assert!(matches!(state, EntryState::Unreadable { .. }), "{what}: {state:?}");
    }
    let halves: [Edit<'_>; 6] = [
        ("no auth", &|raw| raw.auth = None),
        ("no key id", &|raw| raw.key_id = None),
        ("no wrapped key", &|raw| raw.wrapped_key = None),
        ("key id", &|raw| raw.key_id = Some("a b".into())),
        ("wrapped key", &|raw| _ = raw.wrapped_key.as_mut().unwrap().pop()),
        ("parent digest", &|raw| raw.parent_digest = Some(vec![1; 32].into())),
    ];
    for (what, change) in halves {
        let mut raw = manifest.raw().clone();
        change(&mut raw);
        assert!(Record::decode(manifest.name(), &raw.encode()).is_err(), "{what}");
    }
    // An object made to agree with an edited manifest, as far as that goes without the key.
    let bytes = read(&store, &object(&manifest, 1)).await;
    replace(&store, &manifest, 0, &bytes).await;
    refused(&store, manifest.id(), &ring(), &path).await;
}

#[tokio::test]
async fn no_two_objects_share_a_salt() {
    let store = memory();
    let (one, two) = (
        write_to(&store, &ring(), Compression::None, 100, 1).await,
        write_to(&store, &ring(), Compression::None, 200, 2).await,
    );
    let mut salts = Vec::new();
    for manifest in [&one, &two] {
        for at in 0..manifest.objects().len() {
            salts.push(read(&store, &object(manifest, at)).await[56..88].to_vec());
        }
    }
    salts.sort();
    assert!(salts.windows(2).all(|pair| pair[0] != pair[1]) && salts.len() >= 6);
    assert_ne!(one.raw().wrapped_key, two.raw().wrapped_key);
}

#[tokio::test]
async fn rekeying_changes_manifests_only() {
    for (what, store, _folder) in stores() {
        let one = write_to(&store, &ring(), Compression::Lz4, 100, 1).await;
        let two = write_to(&store, &ring(), Compression::None, 200, 2).await;
        let gone = write_to(&store, &ring(), Compression::None, 300, 3).await;
        delete_snapshot(&*store, gone.id(), &[], "test").await.unwrap();
        let before = dump(&store).await;
        let both = keys(&[("k2", 2), ("k1", 1)]);

        assert!(matches!(rekey(&*store, None, &plain()).await, Err(SnapshotError::NoKeys)));
        let missing = rekey(&*store, None, &keys(&[("k2", 2)])).await.unwrap_err();
        assert!(matches!(missing, SnapshotError::Refused { reason: Refusal::Key(_), .. }));
        assert_eq!(dump(&store).await, before, "{what}");
        let error = rekey(&*store, Some(SnapshotId(77)), &both).await.unwrap_err();
        assert!(matches!(error, SnapshotError::NoSnapshot { .. }));
        let error = rekey(&*store, Some(gone.id()), &both).await.unwrap_err();
        assert!(matches!(error, SnapshotError::NotPublished { .. }));

        let done = rekey(&*store, Some(one.id()), &both).await.unwrap();
        assert_eq!((done.manifests.len(), done.current), (1, 0));
        let done = rekey(&*store, None, &both).await.unwrap();
        assert_eq!((done.manifests.len(), done.current), (1, 1));
        let after = dump(&store).await;
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            let is_manifest = [&one, &two].iter().any(|m| m.name().manifest().as_ref() == name);
            assert_eq!(before != after, is_manifest, "{what}: {name}");
        }
        for manifest in [&one, &two] {
            verify(&store, manifest.id(), &keys(&[("k2", 2)]), &|_| ()).await.unwrap();
            assert!(verify(&store, manifest.id(), &ring(), &|_| ()).await.is_err());
        }
        // A child names its parent by what stays the same.
        let (old, new) = (one.raw(), &done_manifest(&store, &one).await);
        assert!(old.digest() == new.digest() && old.auth == new.auth && old != new);
    }
}

async fn done_manifest(store: &Store, manifest: &Manifest) -> RawManifest {
    let bytes = read(store, &manifest.name().manifest()).await;
    match Record::decode(manifest.name(), &bytes).unwrap() {
        Record::Published(manifest) => manifest.raw().clone(),
        Record::Tombstone(_) => panic!("it is published"),
    }
}

/// Sealed snapshots are deleted and swept without a key, as plain ones are.
#[tokio::test]
async fn a_deletion_needs_no_key() {
    let (store, manifest) = written(&ring(), Compression::None, 1).await;
    delete_snapshot(&*store, manifest.id(), &[], "test").await.unwrap();
    assert!(store.head(&object(&manifest, 0)).await.is_err());
}
