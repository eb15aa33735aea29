//! Ends a snapshot: first the manifest says so, then the objects go. In that order a crash leaves
//! a tombstone with leftovers, which the next sweep removes, and never a published snapshot of
//! which something is missing. A deletion replaces the manifest that it has read, in one put; the
//! tombstone and the claim stay for ever, so the id never returns.
//!
//! In a store that others may take over a deletion is claimed first ([`crate::claim::Removal`]).

use std::collections::BTreeSet;

use cutwater_engine::types::SnapshotId;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::ObjectStore;

use crate::amend::Found;
use crate::catalog::{Catalog, EntryState, find_names, read_record};
use crate::claim::{Claim, Removal};
use crate::error::{Flaw, SnapshotError};
use crate::ident::{Identity, SnapshotUuid};
use crate::manifest::{RawManifest, Record, State, Tombstone};
use crate::paths::{self, SnapshotName};
use crate::store;

/// Objects of the log that are removed at once.
const REMOVALS_AT_ONCE: usize = 16;

/// What a deletion or sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Objects of snapshots.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Snapshots that were published.
    pub snapshots: u64,
    /// Objects of the log.
    pub log_objects: u64,
}

impl Removed {
    pub(crate) fn add(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.snapshots += other.snapshots;
        self.log_objects += other.log_objects;
    }
}

/// Deletes a snapshot, unless it is among `protect` (for a local store the two newest checkpoints:
/// [`Catalog::newest_two_checkpoints`]). Deleting what is aborted or deleted already sweeps it
/// again. A damaged manifest can be deleted; one of a later format cannot.
///
/// # Errors
/// [`SnapshotError::Protected`], [`SnapshotError::Pinned`], [`SnapshotError::NoSnapshot`] (also
/// for an unfinished one, which its writer or the next takeover ends), [`SnapshotError::Damaged`]
/// if neither manifest nor claim can be read, or the store's error, after which the deletion can be
/// asked for again.
pub async fn delete_snapshot(
    store: &dyn ObjectStore,
    id: SnapshotId,
    protect: &[SnapshotId],
    reason: &str,
) -> Result<(Tombstone, Removed), SnapshotError> {
    if protect.contains(&id) {
        return Err(SnapshotError::Protected { id });
    }
    let names = find_names(store, id).await?;
    let Some((last, others)) = names.split_last() else {
        return Err(SnapshotError::NoSnapshot { id });
    };
    for name in others {
        delete_named(store, *name, reason).await?;
    }
    delete_named(store, *last, reason).await
}

/// Removes the objects of an aborted or deleted snapshot.
///
/// # Errors
/// [`SnapshotError::Published`] if it is neither; or the store's error.
pub async fn sweep(store: &dyn ObjectStore, name: SnapshotName) -> Result<Removed, SnapshotError> {
    match read_record(store, name).await? {
        Record::Tombstone(_) => {}
        Record::Published(_) => return Err(SnapshotError::Published { name }),
    }
    let mut removed = Removed::default();
    let manifest = name.manifest();
    for object in store::list(store, &name.folder()).await? {
        if object.location != manifest {
            store::delete(store, &object.location).await?;
            removed.objects += 1;
            removed.bytes += object.size;
        }
    }
    Ok(removed)
}

/// Sweeps everything that lies behind tombstones: what a crash between tombstone and removal left,
/// and what a superseded writer wrote after it. For the store's writer, after its takeover.
///
/// # Errors
/// As for [`sweep`].
pub async fn sweep_leftovers(
    store: &dyn ObjectStore,
    catalog: &Catalog,
) -> Result<Removed, SnapshotError> {
    let mut total = Removed::default();
    for entry in catalog.entries() {
        if let EntryState::Tombstone(tombstone) = &entry.state
            && entry.stored_bytes > 0
        {
            total.add(sweep(store, tombstone.name).await?);
        }
    }
    Ok(total)
}

/// Removes snapshots and log: what is gone already is fine, what is pinned stays, and so does what
/// is below it. In a store that others may take over it is claimed first, by
/// [`crate::claim::Claimant::remove`].
///
/// # Errors
/// The store's, after which it can be repeated.
pub async fn remove(store: &dyn ObjectStore, removal: &Removal) -> Result<Removed, SnapshotError> {
    let mut total = Removed::default();
    let mut needed: BTreeSet<SnapshotId> = BTreeSet::new();
    for (name, uuid) in &removal.snapshots {
        let found = match read_record(store, *name).await {
            // Damaged manifests are removed on somebody's wish only.
            Ok(Record::Published(manifest)) if manifest.snapshot_uuid() == *uuid => manifest,
            Ok(Record::Published(_)) | Err(SnapshotError::Damaged(_)) => continue,
            Ok(Record::Tombstone(_)) => {
                total.add(sweep(store, *name).await?);
                continue;
            }
            Err(SnapshotError::Store(error)) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        let is_needed = found.pinned_at_us().is_some() || needed.contains(&name.id);
        let deleted = match is_needed {
            true => Err(SnapshotError::Pinned { id: name.id }),
            false => delete_named(store, *name, &removal.reason).await,
        };
        match deleted {
            Ok((_, removed)) => {
                total.snapshots += 1;
                total.add(removed);
            }
            // Pinned since it was decided.
            Err(SnapshotError::Pinned { .. }) => needed.extend(found.meta().parent_id),
            Err(error) => return Err(error),
        }
    }
    // The oldest first, but for those that go at once: all of them lie before what is promised.
    let numbers = removal.log.iter().flat_map(|&(first, last)| first..=last);
    let removals: Vec<_> = numbers.map(|number| delete_log(store, number)).collect();
    let mut removals = stream::iter(removals).buffered(REMOVALS_AT_ONCE);
    while let Some(()) = removals.try_next().await? {
        total.log_objects += 1;
    }
    Ok(total)
}

async fn delete_log(store: &dyn ObjectStore, number: u64) -> Result<(), SnapshotError> {
    Ok(store::delete(store, &paths::wal(number)).await?)
}

async fn delete_named(
    store: &dyn ObjectStore,
    name: SnapshotName,
    reason: &str,
) -> Result<(Tombstone, Removed), SnapshotError> {
    let found = Found::read(store, name).await?;
    let raw = match found.record().map_err(SnapshotError::from) {
        Ok(Record::Tombstone(tombstone)) => return Ok((tombstone, sweep(store, name).await?)),
        Ok(Record::Published(manifest)) if manifest.pinned_at_us().is_some() => {
            return Err(SnapshotError::Pinned { id: name.id });
        }
        Ok(Record::Published(manifest)) => {
            let (uuid, at) = (manifest.snapshot_uuid(), manifest.meta().created_at_us);
            let mut raw = deleted(name, manifest.identity(), uuid, reason, at);
            raw.meta.end_lsn = manifest.meta().end_lsn;
            raw
        }
        Err(SnapshotError::Damaged(damage)) if !matches!(damage.flaw, Flaw::Version(_)) => {
            let (identity, uuid, at) = claimed(store, name).await?;
            deleted(name, identity, uuid, reason, at)
        }
        Err(error) => return Err(error),
    };
    let body = raw.encode();
    if !found.replace(store, body.clone().into()).await? {
        // Pinned, rewrapped or deleted meanwhile: looked at anew.
        return Box::pin(delete_named(store, name, reason)).await;
    }
    let removed = sweep(store, name).await?;
    match Record::decode(name, &body)? {
        Record::Tombstone(tombstone) => Ok((tombstone, removed)),
        Record::Published(_) => unreachable!("a manifest made to be a tombstone"),
    }
}

fn deleted(
    name: SnapshotName,
    identity: Identity,
    uuid: SnapshotUuid,
    reason: &str,
    created_at_us: u64,
) -> RawManifest {
    RawManifest::tombstone(State::Deleted, name, identity, uuid, reason.into(), created_at_us)
}

/// What the claim knows of a snapshot whose manifest is damaged. The history is lost with it.
async fn claimed(
    store: &dyn ObjectStore,
    name: SnapshotName,
) -> Result<(Identity, SnapshotUuid, u64), SnapshotError> {
    let bytes = store::get(store, &paths::claim(name.id)).await?;
    let claim = Claim::decode(name.id, &bytes)?;
    let identity = Identity { database: claim.identity.database, ..Identity::default() };
    let uuid = claim.snapshot.map(|(_, uuid)| uuid).unwrap_or_default();
    Ok((identity, uuid, claim.created_at_us))
}
