//! The deep verification against snapshots in which an entry was changed before it was written: all
//! checksums, lengths and counts agree, and only what was there when the shards froze does not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use cutwater_control::verify::{DeepError, verify_deep};
use cutwater_control::{Database, DatabaseConfig};
use cutwater_engine::entry::Op;
use cutwater_engine::seal::Keyring;
use cutwater_engine::slot::slot_of;
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::ObjectStore;
use cutwater_snapshot::chunk::ChunkKind;
use cutwater_snapshot::claim::Claimant;
use cutwater_snapshot::core_writer::PartPoint;
use cutwater_snapshot::ident::{SnapshotUuid, WriterNonce};
use cutwater_snapshot::manifest::Manifest;
use cutwater_snapshot::reader::CoreReader;
use cutwater_snapshot::store::open_local;
use cutwater_snapshot::verify::verify;
use cutwater_snapshot::writer::{Parent, SlotSummary, SnapshotSpec, SnapshotWriter};
use object_store::memory::InMemory;
use tokio::runtime::Handle;

async fn open(path: &Path) -> Database {
    let mut config = DatabaseConfig::directory(path).unwrap();
    config.engine.segment_bytes = 1 << 20;
    config.engine.shards = 3;
    Database::open(config).await.unwrap()
}

/// Writes the chain anew into another store, with every op passed through `change`.
async fn copy(
    from: &Arc<dyn ObjectStore>,
    chain: &[&Manifest],
    has_digests: bool,
    change: &dyn Fn(usize, &Op<'_>, &mut Vec<u8>),
) -> (Arc<dyn ObjectStore>, SnapshotId) {
    let none = Keyring::default();
    let to: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let identity = chain[0].identity();
    let takeover = Claimant::take_over(Arc::clone(&to), identity, WriterNonce([9; 16]), 1).await;
    let mut claimant = takeover.unwrap().claimant;
    let mut parent = None;
    for (layer, original) in chain.iter().enumerate() {
        let (meta, cores) = (original.meta(), original.cores());
        let uuid = SnapshotUuid([layer as u8 + 1; 16]);
        let mut spec = SnapshotSpec::base(meta.begin_lsn, cores.len() as u16, uuid, 2);
        spec.parent = parent.as_ref().map(Parent::of);
        let writer = SnapshotWriter::begin(&mut claimant, spec, &none).await.unwrap();
        let mut finished = Vec::new();
        for part in cores {
            let snapshot = original.unlock(&none).unwrap();
            let mut core = writer.core(part.core);
            let mut reader =
                CoreReader::open(&Handle::current(), Arc::clone(from), &snapshot, part.core);
            while let Some(chunk) = reader.next().await.unwrap() {
                if chunk.kind == ChunkKind::Tail {
                    core.tail(chunk.body.clone(), chunk.count).await.unwrap();
                    continue;
                }
                let (mut body, mut count) = (Vec::new(), 0);
                chunk
                    .for_each_op(|_, op| {
                        let before = body.len();
                        change(layer, &op, &mut body);
                        count += u32::from(body.len() > before);
                    })
                    .unwrap();
                core.image(body.into(), count).await.unwrap();
            }
            let (watermark, log_id, position) = (part.watermark, part.log_id, part.position);
            finished.push(core.finish(PartPoint { watermark, log_id, position }).await.unwrap());
        }
        let digests = original.slot_digests().map(|(seed, sums)| (seed, sums.collect()));
        let slots = SlotSummary { counts: Vec::new(), digests: digests.filter(|_| has_digests) };
        parent = Some(writer.finish_with(finished, slots).await.unwrap());
    }
    (to, parent.unwrap().id())
}

/// Two snapshots, a base and a delta, with strings short and long, and keys that expire.
async fn chain(dir: &Path) -> (Arc<dyn ObjectStore>, Vec<Manifest>) {
    let database = open(dir).await;
    let client = database.client();
    let fill = |name: &str| {
        for n in 0..100 {
            client.set(format!("{name}:{n}"), format!("value {n}")).unwrap();
        }
        client.execute(&["SET", &format!("{name}:large"), &"long ".repeat(20_000)]).unwrap();
        client.execute(&["SET", &format!("{name}:expiring"), "1", "PX", "1"]).unwrap();
        client.execute(&["SET", &format!("{name}:later"), "1", "EX", "10000"]).unwrap();
    };
    fill("base");
    let base = database.snapshot().await.unwrap();
    fill("delta");
    client.execute(&["DEL", "base:7"]).unwrap();
    client.execute(&["APPEND", "base:large", "more"]).unwrap();
    let delta = database.snapshot_delta().await.unwrap();
    assert_eq!(delta.instead, None);
    database.close().await.unwrap();
    (open_local(&dir.join("store")).unwrap(), vec![base, delta.manifest])
}

fn as_it_is(_: usize, op: &Op<'_>, out: &mut Vec<u8>) {
    op.encode(out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_was_changed_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (store, chain) = chain(dir.path()).await;
    let none = Keyring::default();
    let manifests: Vec<&Manifest> = chain.iter().collect();
    for length in [1, 2] {
        let manifests = &manifests[..length];
        let (copied, id) = copy(&store, manifests, true, &as_it_is).await;
        for shards in [1, 2, 5] {
            verify_deep(&copied, id, &none, shards, &|_| {}).await.unwrap();
        }
    }
    // In the base or in the delta: another value, a later expiry, an entry that is gone.
    type Change = fn(usize, &Op<'_>, &mut Vec<u8>);
    let changes: [(&str, usize, Change); 5] = [
        ("base:42", 1, |_, op, out| match *op {
            Op::Put { db, key: key @ b"base:42", kind, expires_at_ms, .. } => {
                Op::Put { db, key, kind, expires_at_ms, value: b"value 43" }.encode(out);
            }
            op => op.encode(out),
        }),
        ("base:later", 2, |_, op, out| match *op {
            Op::Put { db, key: key @ b"base:later", kind, expires_at_ms, value } => {
                let expires_at_ms = expires_at_ms.map(|at| at + 1);
                Op::Put { db, key, kind, expires_at_ms, value }.encode(out);
            }
            op => op.encode(out),
        }),
        ("delta:42", 2, |_, op, out| match op.key() {
            Some(b"delta:42") => {}
            _ => op.encode(out),
        }),
        ("base:7", 2, |_, op, out| match op {
            Op::Delete { key: b"base:7", .. } => {}
            op => op.encode(out),
        }),
        ("base:large", 2, |layer, op, out| match *op {
            Op::Write { db, key: key @ b"base:large", offset, bytes } if layer == 1 => {
                Op::Write { db, key, offset: offset - 1, bytes }.encode(out);
            }
            op => op.encode(out),
        }),
    ];
    for (key, length, change) in changes {
        let (altered, id) = copy(&store, &manifests[..length], true, &change).await;
        verify(&altered, id, &none, &|_| {}).await.unwrap();
        for shards in [1, 2, 5] {
            let found = verify_deep(&altered, id, &none, shards, &|_| {}).await.unwrap_err();
            assert!(found.is_corruption(), "{found}");
            let DeepError::Differs { name, slot, slots } = found else { panic!("{found}") };
            assert_eq!((name.id, slot, slots), (id, slot_of(key.as_bytes()), 1), "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_digests_it_says_that_it_cannot_compare() {
    let dir = tempfile::tempdir().unwrap();
    let (store, chain) = chain(dir.path()).await;
    let (bare, id) = copy(&store, &[&chain[0]], false, &as_it_is).await;
    let error = verify_deep(&bare, id, &Keyring::default(), 1, &|_| {}).await.unwrap_err();
    assert!(matches!(error, DeepError::NoDigests { .. }), "{error}");
    assert!(error.to_string().contains("cannot be compared"), "{error}");
    assert!(!error.is_corruption());
}
