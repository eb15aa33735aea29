//! Brings a snapshot into a new place: bit by bit the same objects, each checked on the way.
//!
//! Order at the destination is that of writing: claim, objects, and the manifest last, so a copy
//! that was cut short is no snapshot. What a database does with its new folder, the identity it
//! writes and the history it begins, is its own business.

use std::path::Path as FsPath;
use std::sync::Arc;

use bytes::Bytes;
use cutwater_engine::seal::Keyring;
use cutwater_engine::types::SnapshotId;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt};

use crate::catalog::find_published;
use crate::claim::{Claim, Settled};
use crate::decoder::{CoreDecoder, Step};
use crate::error::{Damage, Operation, SnapshotError, StoreError};
use crate::ident::WriterNonce;
use crate::local::create_folder;
use crate::manifest::{Manifest, StoredObject, object_path};
use crate::paths;
use crate::reader::{check_length, read_run};
use crate::store::{self, Created, open_local};
use crate::verify::Progress;

/// The folder of the local store in a data directory.
pub const STORE_FOLDER: &str = "store";
/// Bytes of a part at the destination, at least.
const PART_BYTES: usize = crate::core_writer::PART_BYTES;

/// Copies a published snapshot into `folder/store` of a new data directory, which must not exist
/// or be empty, and gives its manifest. A crash leaves a folder without a manifest: remove it.
///
/// # Errors
/// [`SnapshotError::NotEmpty`], or as for [`copy_snapshot`].
pub async fn restore_snapshot(
    store: &Arc<dyn ObjectStore>,
    id: SnapshotId,
    folder: &FsPath,
    keys: &Keyring,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Manifest, SnapshotError> {
    // First of all: a wrong number must not leave a folder that the next try finds in its way.
    find_published(&**store, id).await?.unlock(keys)?;
    require_new(folder)?;
    let destination = open_local(&folder.join(STORE_FOLDER))?;
    copy_snapshot(store, &destination, id, keys, progress).await
}

/// Copies a published snapshot from one store to another, with its claim, verifying every chunk
/// and every object's length and CRC32C on the way. Entries are not decoded ([`crate::verify`]
/// does that). A copy that was cut short can be repeated.
///
/// # Errors
/// [`SnapshotError::Damaged`] if the source is, [`SnapshotError::Superseded`] if the destination
/// has another snapshot of this id, as for [`find_published`], or either store's error.
pub async fn copy_snapshot(
    from: &Arc<dyn ObjectStore>,
    to: &Arc<dyn ObjectStore>,
    id: SnapshotId,
    keys: &Keyring,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Manifest, SnapshotError> {
    let manifest = find_published(&**from, id).await?;
    let unlocked = manifest.unlock(keys)?;
    for object in manifest.objects() {
        check_length(&**from, object).await?;
    }
    let claim = claim_of(&**from, &manifest).await?;
    create(to, &paths::claim(id), claim, &manifest).await?;

    let mut done = Progress { done_bytes: 0, total_bytes: manifest.meta().data_bytes };
    progress(done);
    for part in manifest.cores() {
        let mut decoder = CoreDecoder::new(&unlocked, part.core);
        for object in manifest.objects_of(part.core) {
            copy_object(from, to, object, &mut decoder, &mut |bytes| {
                done.done_bytes += bytes;
                progress(done);
            })
            .await?;
        }
    }
    // Read again rather than encoded: the copy is bit by bit what the source holds.
    let path = manifest.name().manifest();
    let bytes = store::get(&**from, &path).await?;
    if manifest.raw().encode() != bytes[..] {
        return Err(SnapshotError::Superseded { name: manifest.name() });
    }
    create(to, &path, bytes, &manifest).await?;
    Ok(manifest)
}

/// Makes a folder, or makes sure that the one that is there is empty.
///
/// # Errors
/// [`SnapshotError::NotEmpty`], or the system's.
pub fn require_new(folder: &FsPath) -> Result<(), SnapshotError> {
    let io = |source| StoreError::Io {
        operation: Operation::Open,
        path: folder.display().to_string(),
        source,
    };
    create_folder(folder).map_err(io)?;
    match std::fs::read_dir(folder).map_err(io)?.next() {
        None => Ok(()),
        Some(_) => Err(SnapshotError::NotEmpty { folder: folder.display().to_string() }),
    }
}

/// The snapshot's claim. Where the source's is missing or damaged the data is none the worse, and
/// a restore must not fail for it: the copy then gets a claim of epoch 0, below every writer's.
async fn claim_of(from: &dyn ObjectStore, manifest: &Manifest) -> Result<Bytes, SnapshotError> {
    let (name, uuid) = (manifest.name(), manifest.snapshot_uuid());
    let path = paths::claim(name.id);
    let reason = match store::get(from, &path).await {
        Ok(bytes) => {
            let checked =
                Claim::decode(name.id, &bytes).and_then(|claim| claim.check_names(name, uuid));
            match checked {
                Ok(()) => return Ok(bytes),
                Err(damage) => damage.to_string(),
            }
        }
        Err(error) if error.is_not_found() => error.to_string(),
        Err(error) => return Err(error.into()),
    };
    tracing::warn!(snapshot = %name, reason, "the claim cannot be copied: a new one is written");
    let claim = Claim {
        id: name.id,
        epoch: 0,
        nonce: WriterNonce::default(),
        identity: manifest.identity(),
        snapshot: Some((name, uuid)),
        removal: None,
        settled: Settled::default(),
        created_at_us: manifest.meta().created_at_us,
    };
    Ok(claim.encode().into())
}

async fn create(
    to: &Arc<dyn ObjectStore>,
    path: &object_store::path::Path,
    bytes: Bytes,
    manifest: &Manifest,
) -> Result<(), SnapshotError> {
    match store::create(&**to, path, bytes).await? {
        Created::Ours => Ok(()),
        Created::Theirs(_) => Err(SnapshotError::Superseded { name: manifest.name() }),
    }
}

/// Copies one object; it appears at the destination only if all of it was right.
async fn copy_object(
    from: &Arc<dyn ObjectStore>,
    to: &Arc<dyn ObjectStore>,
    object: &StoredObject,
    decoder: &mut CoreDecoder,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<(), SnapshotError> {
    let path = object_path(object);
    let failed = |e| SnapshotError::from(StoreError::failed(Operation::Multipart, &path, e));
    let mut upload: Option<Box<dyn MultipartUpload>> = None;
    let (mut runs, mut waiting, mut at) = (Vec::new(), 0, 0);
    while at < object.length {
        let run = read_run(&**from, object, at).await?;
        at += run.len() as u64;
        decoder.push(run.clone());
        check(decoder, at == object.length)?;
        progress(run.len() as u64);
        waiting += run.len();
        runs.push(run);
        if waiting >= PART_BYTES && at < object.length {
            if upload.is_none() {
                upload = Some(to.put_multipart(&path).await.map_err(failed)?);
            }
            let part = std::mem::take(&mut runs).into_iter().collect();
            let upload = upload.as_mut().expect("just opened");
            upload.put_part(part).await.map_err(failed)?;
            waiting = 0;
        }
    }
    if object.length == 0 {
        check(decoder, true)?;
    }
    let last = runs.into_iter().collect();
    match upload {
        None => Ok(store::put(&**to, &path, last).await?),
        Some(mut upload) => {
            upload.put_part(last).await.map_err(failed)?;
            upload.complete().await.map(drop).map_err(failed)
        }
    }
}

/// Checks what has come of an object so far, or all of it.
fn check(decoder: &mut CoreDecoder, whole: bool) -> Result<(), Damage> {
    loop {
        match decoder.step()? {
            Step::Chunk(_) => {}
            Step::Starved if whole => return Err(decoder.ended_early()),
            Step::Starved | Step::PieceDone | Step::Done => return Ok(()),
        }
    }
}
