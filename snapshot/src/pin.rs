//! Pins: a snapshot that stays whatever the policy says, with the chain below it, until it is
//! unpinned. A pin is a field of the manifest, so it is where the snapshot is, survives what that
//! survives, and whoever deletes sees it: both replace the manifest that they have read
//! (`amend.rs`), and only one of them can.

use cutwater_engine::types::SnapshotId;
use object_store::ObjectStore;

use crate::amend::Found;
use crate::catalog::find_names;
use crate::error::SnapshotError;
use crate::manifest::{Manifest, Record};

/// Pins a published snapshot since `at_us`, in microseconds since the Unix epoch; one that is
/// pinned stays as it is. `None` unpins. Gives the manifest as it is then.
///
/// # Errors
/// [`SnapshotError::NoSnapshot`], [`SnapshotError::NotPublished`], [`SnapshotError::Damaged`] for a
/// manifest that cannot be read, or the store's error, after which it can be repeated.
pub async fn set_pin(
    store: &dyn ObjectStore,
    id: SnapshotId,
    at_us: Option<u64>,
) -> Result<Manifest, SnapshotError> {
    let mut other = SnapshotError::NoSnapshot { id };
    for name in find_names(store, id).await? {
        loop {
            let found = Found::read(store, name).await?;
            let manifest = match found.record()? {
                Record::Published(manifest) => manifest,
                Record::Tombstone(tombstone) => {
                    other = SnapshotError::NotPublished { id, state: tombstone.state.name() };
                    break;
                }
            };
            if manifest.pinned_at_us().is_some() == at_us.is_some() {
                return Ok(*manifest);
            }
            let mut raw = manifest.raw().clone();
            raw.pinned_at_us = at_us;
            let body = raw.encode();
            if found.replace(store, body.clone().into()).await?
                && let Record::Published(manifest) = Record::decode(name, &body)?
            {
                return Ok(*manifest);
            }
        }
    }
    Err(other)
}
