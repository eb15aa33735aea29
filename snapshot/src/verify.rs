//! Reads a whole snapshot and believes nothing: lengths, checksums, chunk order, counts, totals,
//! every entry, every tail record's LSN, the claim, and, where the writer counted keys per slot,
//! those.

use std::sync::Arc;

use cutwater_engine::entry::Op;
use cutwater_engine::seal::Keyring;
use cutwater_engine::slot::{SLOT_COUNT, slot_of};
use cutwater_engine::types::{Lsn, ShardId, SnapshotId};
use object_store::ObjectStore;
use tokio::runtime::Handle;

use crate::catalog::find_published;
use crate::chain::check_parent;
use crate::chunk::{Chunk, mismatch};
use crate::claim::read_claim;
use crate::error::{Damage, Flaw, SnapshotError};
use crate::manifest::{Manifest, SnapshotKind};
use crate::reader::{CoreReader, check_length};

/// How far a long operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of objects that are done.
    pub done_bytes: u64,
    /// Bytes of all objects.
    pub total_bytes: u64,
}

/// What was found to be in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Objects, the manifest not counted.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks of entries or records.
    pub chunks: u64,
    /// Ops of the image, decoded one by one.
    pub entries: u64,
    /// Tail records, decoded one by one.
    pub tail_records: u64,
}

/// Verifies a published snapshot. `progress` is called after every chunk.
///
/// # Errors
/// [`SnapshotError::Damaged`] with object, offset and reason at the first thing that is wrong, or
/// as for [`find_published`] and [`Manifest::unlock`].
pub async fn verify(
    store: &Arc<dyn ObjectStore>,
    id: SnapshotId,
    keys: &Keyring,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<VerifyReport, SnapshotError> {
    let manifest = find_published(&**store, id).await?.unlock(keys)?;
    let claim = read_claim(&**store, id, manifest.identity().database).await?;
    claim.check_names(manifest.name(), manifest.snapshot_uuid())?;
    check_ancestry(&**store, &manifest, keys).await?;
    // What is plainly missing is said at once, not after hours of reading.
    for object in manifest.objects() {
        check_length(&**store, object).await?;
    }
    let total_bytes = manifest.meta().data_bytes;
    progress(Progress { done_bytes: 0, total_bytes });
    let mut report = VerifyReport {
        objects: manifest.objects().len() as u64,
        bytes: total_bytes,
        ..VerifyReport::default()
    };
    let mut slots = vec![0; usize::from(SLOT_COUNT)];
    let mut before = 0;
    for part in manifest.cores() {
        let mut reader = CoreReader::open(&Handle::current(), store.clone(), &manifest, part.core);
        let mut chunks = 0;
        while let Some(chunk) = reader.next().await? {
            let window = (part.watermark, manifest.meta().end_lsn);
            let decoded = check_entries(&chunk, manifest.meta().kind, window, &mut slots);
            decoded.map_err(|flaw| place(&manifest, part.core, chunk.sequence, flaw))?;
            chunks += 1;
            progress(Progress { done_bytes: before + reader.read_bytes(), total_bytes });
        }
        before += reader.read_bytes();
        report.chunks += chunks;
        report.entries += part.entries;
        report.tail_records += part.tail_records;
    }
    check_slots(&manifest, &slots)?;
    progress(Progress { done_bytes: total_bytes, total_bytes });
    Ok(report)
}

/// Every snapshot that a delta is on top of is there, whole by its manifest, and the one that was
/// meant.
async fn check_ancestry(
    store: &dyn ObjectStore,
    manifest: &Manifest,
    keys: &Keyring,
) -> Result<(), SnapshotError> {
    let mut child = manifest.clone();
    while let Some((id, _)) = child.parent() {
        let parent = find_published(store, id).await?.unlock(keys)?;
        check_parent(&child, &parent)?;
        child = Manifest::clone(&parent);
    }
    Ok(())
}

/// Decodes every entry; tail records must lie in (watermark, end_lsn].
fn check_entries(
    chunk: &Chunk,
    kind: SnapshotKind,
    (watermark, end_lsn): (Lsn, Lsn),
    slots: &mut [u64],
) -> Result<(), Flaw> {
    let mut outside = None;
    let mut not_image = false;
    chunk.for_each_op(|lsn, op| match (lsn, op) {
        (Some(lsn), _) if lsn <= watermark || lsn > end_lsn => outside = Some(lsn),
        (Some(_), _) => {}
        (None, Op::Put { key, .. }) => slots[usize::from(slot_of(key).0)] += 1,
        (None, Op::Write { .. }) => {}
        // A delta says what was deleted, too.
        (None, _) => not_image |= kind == SnapshotKind::Base,
    })?;
    if not_image {
        return Err(mismatch("an entry of the image", "a put or a write", "another"));
    }
    match outside {
        Some(lsn) => {
            let window = format!("above {watermark}, up to {end_lsn}");
            Err(mismatch("a tail record's LSN", window, lsn))
        }
        None => Ok(()),
    }
}

/// Damage inside a chunk whose checksum is right: the writer's, so the chunk is named by number.
fn place(manifest: &Manifest, core: ShardId, sequence: u64, flaw: Flaw) -> Damage {
    let object = manifest.objects_of(core).next().map_or("", |object| &object.name);
    Damage::whole(format!("{object} (chunk {sequence} of core {core})"), flaw)
}

fn check_slots(manifest: &Manifest, found: &[u64]) -> Result<(), Damage> {
    let counted = manifest.slot_counts();
    let wrong = counted.iter().zip(found).position(|(counted, found)| counted != found);
    match wrong {
        None => Ok(()),
        Some(slot) => {
            let flaw = mismatch("keys of a slot", counted[slot], found[slot]);
            Err(Damage::whole(format!("{} (slot {slot})", manifest.name().manifest()), flaw))
        }
    }
}
