//! The stored formats, byte by byte: `golden/` holds what version 0 looks like. `BLESS=1` writes
//! the files anew; then FORMAT.md, the constants and the version change in the same commit.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::*;
use cutwater_engine::types::{ShardId, SnapshotId};
use cutwater_snapshot::claim::Claim;
use cutwater_snapshot::manifest::Record;
use cutwater_snapshot::paths;
use cutwater_snapshot::verify::verify;
use cutwater_snapshot::writer::SnapshotSpec;

#[expect(clippy::disallowed_methods, reason = "BLESS is a wish of who runs the test")]
fn check(file: &str, bytes: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(file);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    let golden = std::fs::read(&path).unwrap();
    assert_eq!(bytes, golden, "{file} is not what the format says");
    golden
}

#[tokio::test]
async fn objects_manifest_and_claim() {
    let store = memory();
    let mut claimant = claimant(&store, 7).await;
    let spec = SnapshotSpec { piece_limit_bytes: 300, ..spec(100, 1) };
    let manifest = write_spec(&mut claimant, spec, 4).await.unwrap();
    let name = manifest.name();

    for (file, path) in [
        ("takeover", paths::claim(SnapshotId(1))),
        ("claim", paths::claim(name.id)),
        ("core-0.snap", name.core_object(ShardId(0), 0)),
        ("core-0.1.snap", name.core_object(ShardId(0), 1)),
        ("core-1.snap", name.core_object(ShardId(1), 0)),
    ] {
        let golden = check(file, &read(&store, &path).await);
        overwrite(&store, &path, &golden).await;
    }
    // The program's version is in the manifest, and not in its format.
    let mut raw = manifest.raw().clone();
    raw.meta.created_by = "golden".into();
    let golden = check("manifest.msgpack", &raw.encode());
    overwrite(&store, &name.manifest(), &golden).await;

    verify(&store, name.id, &|_| ()).await.unwrap();
    let Record::Published(read) = Record::decode(name, &golden).unwrap() else { panic!() };
    assert_eq!(read.raw().encode(), golden);
    let claim = Claim::decode(name.id, &check("claim", &store_claim(&store, name.id).await));
    assert_eq!(claim.unwrap().snapshot, Some((name, manifest.snapshot_uuid())));

    // Any MessagePack tool opens it: one map with field names.
    let fields: BTreeMap<String, serde::de::IgnoredAny> = rmp_serde::from_slice(&golden).unwrap();
    for field in ["meta", "core_files", "num_cores", "database_id", "cores", "objects", "crc32c"] {
        assert!(fields.contains_key(field), "{field}");
    }
}

async fn store_claim(
    store: &std::sync::Arc<dyn object_store::ObjectStore>,
    id: SnapshotId,
) -> Vec<u8> {
    read(store, &paths::claim(id)).await
}
