//! Objects that nothing explains: of snapshots that were given up, put late by a writer that was
//! stopped and superseded meanwhile. They look like nothing and cost room; [`sweep_orphans`]
//! removes them when they have lain for [`ORPHAN_GRACE`].
//!
//! An object of a snapshot is explained by its manifest, or as long as there is none by a claim
//! that names its folder: an upload under way is never touched, however long it takes. Age is
//! measured by the store's own clock, as the youngest object in the listing shows it. Claims,
//! manifests, tombstones, and names that are not Cutwater's always stay. Parts of multipart uploads
//! that nobody completes cannot be listed through `object_store`: a rule of the bucket has to
//! remove them.

use std::collections::BTreeMap;
use std::time::Duration;

use cutwater_engine::types::SnapshotId;
use object_store::{ObjectMeta, ObjectStore};

use crate::catalog::read_record;
use crate::claim::read_claim;
use crate::delete::Removed;
use crate::error::SnapshotError;
use crate::ident::DatabaseId;
use crate::manifest::Record;
use crate::paths::{self, Named, SnapshotName};
use crate::store;

/// For how long an object that nothing explains stays.
pub const ORPHAN_GRACE: Duration = Duration::from_secs(3600);

#[derive(Default)]
struct Folder {
    has_manifest: bool,
    objects: Vec<ObjectMeta>,
}

/// Removes objects that nothing explains and that are older than `grace`. `is_settled` names the
/// published snapshots that are known, whose manifests need not be read again.
///
/// # Errors
/// [`SnapshotError::ForeignDatabase`], or the store's error; what was removed is removed.
pub async fn sweep_orphans(
    store: &dyn ObjectStore,
    database: DatabaseId,
    is_settled: &(dyn Fn(SnapshotName) -> bool + Sync),
    grace: Duration,
) -> Result<Removed, SnapshotError> {
    let mut folders: BTreeMap<SnapshotName, Folder> = BTreeMap::new();
    // Objects before claims: whatever is found was claimed before.
    let objects = store::list(store, &paths::snapshots()).await?;
    let claims = store::list(store, &paths::claims()).await?;
    let last = claims.iter().filter_map(|object| match Named::parse(&object.location) {
        Some(Named::Claim(id)) => Some(id),
        _ => None,
    });
    let last: Option<SnapshotId> = last.max();
    // No object is younger than the store's clock.
    let now = objects.iter().chain(&claims).map(|object| object.last_modified).max();
    for object in objects {
        match Named::parse(&object.location) {
            Some(Named::Manifest(name)) => folders.entry(name).or_default().has_manifest = true,
            Some(Named::Core { name, .. }) => folders.entry(name).or_default().objects.push(object),
            Some(Named::Claim(_) | Named::Wal(_)) | None => {}
        }
    }
    let is_old = |object: &ObjectMeta| {
        let age = now.and_then(|now| (now - object.last_modified).to_std().ok());
        age.is_some_and(|age| age >= grace)
    };
    let mut removed = Removed::default();
    for (name, folder) in folders {
        let old: Vec<&ObjectMeta> = folder.objects.iter().filter(|object| is_old(object)).collect();
        if old.is_empty() || is_settled(name) {
            continue;
        }
        let is_explained = match folder.has_manifest {
            true => is_published(store, name).await?,
            false => {
                last.is_none_or(|last| name.id > last) || is_claimed(store, name, database).await?
            }
        };
        if is_explained {
            continue;
        }
        for object in old {
            store::delete(store, &object.location).await?;
            removed.objects += 1;
            removed.bytes += object.size;
        }
    }
    Ok(removed)
}

/// Whether the manifest is no tombstone; what cannot be read might be none.
async fn is_published(store: &dyn ObjectStore, name: SnapshotName) -> Result<bool, SnapshotError> {
    match read_record(store, name).await {
        Ok(Record::Tombstone(_)) => Ok(false),
        Ok(Record::Published(_)) | Err(SnapshotError::Damaged(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether the claim of its id names the folder, or might.
async fn is_claimed(
    store: &dyn ObjectStore,
    name: SnapshotName,
    database: DatabaseId,
) -> Result<bool, SnapshotError> {
    match read_claim(store, name.id, database).await {
        Ok(claim) => Ok(claim.snapshot.is_some_and(|(claimed, _)| claimed == name)),
        Err(SnapshotError::Damaged(_)) => Ok(true),
        Err(SnapshotError::Store(error)) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
