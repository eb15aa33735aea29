//! The stored formats, byte by byte: `golden/` holds what version 1 looks like. `BLESS=1` writes
//! the files anew; then FORMAT.md, the constants and the version change in the same commit.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::*;
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::claim::Claim;
use cutwater_snapshot::compression::Compression;
use cutwater_snapshot::manifest::Record;
use cutwater_snapshot::paths;
use cutwater_snapshot::verify::verify;
use cutwater_snapshot::writer::{SnapshotSpec, SnapshotWriter};
use object_store::path::Path;

#[expect(clippy::disallowed_methods, reason = "BLESS is a wish of who runs the test")]
fn check(file: &str, bytes: &[u8], exact: bool) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(file);
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    let golden = std::fs::read(&path).unwrap();
    if exact {
        assert_eq!(bytes, golden, "{file} is not what the format says");
    }
    golden
}

/// The forms of a snapshot of which there is a golden copy: their folder, compression and key.
const FORMS: [(&str, Compression, bool); 4] = [
    ("", Compression::None, false),
    ("sealed", Compression::None, true),
    ("lz4", Compression::Lz4, false),
    ("zstd", Compression::Zstd(3), false),
];

/// Not random at all: the golden files are the same every time.
fn fixed(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    (0u8..).zip(bytes).for_each(|(n, byte)| *byte = n ^ 0xA5);
    Ok(())
}

#[tokio::test]
async fn objects_manifests_and_claims() {
    for (folder, compression, is_sealed) in FORMS {
        one_form(folder, compression, is_sealed).await;
    }
}

async fn one_form(folder: &str, compression: Compression, is_sealed: bool) {
    let keys = if is_sealed { keys(&[("golden", 0x4B)]) } else { plain() };
    let store = memory();
    let mut claimant = claimant(&store, 7).await;
    // Values long enough to be compressed, but for the first form.
    let value_bytes = if folder.is_empty() { 4 } else { 64 };
    let spec = SnapshotSpec { piece_limit_bytes: 300, compression, ..spec(100, 1) };
    let writer = SnapshotWriter::begin_with(&mut claimant, spec, &keys, fixed).await.unwrap();
    let manifest = write_parts(writer, value_bytes).await.unwrap();
    let name = manifest.name();

    // zstd may compress otherwise in its next version: what is golden there is what can be read.
    let exact = compression == Compression::None;
    let checked = |file: &str, bytes: &[u8]| match folder {
        "" => check(file, bytes, true),
        _ => check(&format!("{folder}/{file}"), bytes, exact),
    };
    if folder.is_empty() {
        for (file, id) in [("takeover", SnapshotId(1)), ("claim", name.id)] {
            let golden = checked(file, &read(&store, &paths::claim(id)).await);
            overwrite(&store, &paths::claim(id), &golden).await;
        }
        let claim = Claim::decode(name.id, &read(&store, &paths::claim(name.id)).await);
        assert_eq!(claim.unwrap().snapshot, Some((name, manifest.snapshot_uuid())));
    }
    for object in manifest.objects() {
        let path = Path::from(object.name.as_str());
        let golden = checked(path.filename().unwrap(), &read(&store, &path).await);
        overwrite(&store, &path, &golden).await;
    }
    // The program's version is in the manifest, and not in its format.
    let mut raw = manifest.raw().clone();
    raw.meta.created_by = "golden".into();
    manifest.unlock(&keys).unwrap().authenticate(&mut raw);
    let golden = checked("manifest.msgpack", &raw.encode());
    overwrite(&store, &name.manifest(), &golden).await;

    verify(&store, name.id, &keys, &|_| ()).await.unwrap();
    let Record::Published(read) = Record::decode(name, &golden).unwrap() else { panic!() };
    assert_eq!(read.raw().encode(), golden);
    assert_eq!(read.wrapped_key().is_some(), is_sealed);

    // Any MessagePack tool opens it: one map with field names.
    let fields: BTreeMap<String, serde::de::IgnoredAny> = rmp_serde::from_slice(&golden).unwrap();
    for field in ["meta", "core_files", "num_cores", "database_id", "cores", "objects", "crc32c"] {
        assert!(fields.contains_key(field), "{field}");
    }
}
