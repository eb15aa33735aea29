//! What a start makes of what it finds in the stores: keys that must fit, snapshots that cannot be
//! read, an archive that is ahead, and the images that the engine may load.

use std::sync::Arc;

use cutwater_engine::ImageSource;
use cutwater_engine::engine::Recovered;
use cutwater_engine::seal::Keyring;
use cutwater_snapshot::catalog::{Catalog, EntryState};
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::Identity;
use cutwater_snapshot::manifest::Manifest;
use object_store::ObjectStore;
use tokio::runtime::Handle as Runtime;

use super::DatabaseError;
use crate::coordinator::behind::Known;
use crate::coordinator::image::SnapshotImage;
use crate::coordinator::remote::{self, Asked, RemoteConfig};

/// The keys, and how strictly they are meant.
pub(super) struct Keys {
    pub(super) ring: Keyring,
    pub(super) accept_plain: bool,
}

impl Keys {
    /// What this snapshot is read with.
    pub(super) fn for_reading(&self, manifest: &Manifest) -> Keyring {
        let is_accepted = self.accept_plain && manifest.wrapped_key().is_none();
        if is_accepted { Keyring::default() } else { self.ring.clone() }
    }
}

/// Refuses to start without the key of the newest snapshot, rather than with an older one that
/// happens to open; and trusts no manifest that was altered.
pub(super) fn check_keys(catalog: &mut Catalog, keys: &Keys) -> Result<(), DatabaseError> {
    if let Some(newest) = catalog.published().next_back()
        && let Err(refused @ SnapshotError::Refused { .. }) =
            newest.unlock(&keys.for_reading(newest))
    {
        return Err(refused.into());
    }
    catalog.authenticate(&keys.ring, keys.accept_plain);
    Ok(())
}

/// Refuses a directory that is older than what the store has of its history. A store that does not
/// answer now (`answer`: why, if it does not) is asked again before anything is written to it.
pub(super) async fn look_at_history(
    remote: Option<&RemoteConfig>,
    known: Option<&Known>,
    answer: Option<String>,
) -> Result<Asked, DatabaseError> {
    let Some(remote) = remote else { return Ok(Asked::Answered) };
    if known.is_none() {
        tracing::warn!(
            store = remote.url,
            "without a log there is nothing to archive: of this start the remote store gets \
             snapshots only, and no moment between them can be restored"
        );
    }
    let known = match (known, answer) {
        (_, Some(silence)) => return Ok(Asked::Silent(silence)),
        (None, None) => return Ok(Asked::Checked),
        (Some(known), None) => known,
    };
    match tokio::time::timeout(remote::START_LIMIT, known.check(&*remote.store)).await {
        Ok(Ok(_)) => Ok(Asked::Checked),
        Ok(Err(error)) if error.is_behind() => Err(error.into()),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the archive cannot be looked at yet");
            Ok(Asked::Answered)
        }
        Err(_) => Ok(Asked::Answered),
    }
}

/// Says which snapshots cannot be read. If that is all of them, then starting from nothing would
/// hide it, and end in a new log beside the only copy.
pub(super) fn look_at_unreadable(catalog: &Catalog, log: bool) -> Result<(), DatabaseError> {
    let mut newest = None;
    for entry in catalog.entries() {
        let (Some(name), EntryState::Unreadable { reason }) = (entry.name, &entry.state) else {
            continue;
        };
        tracing::error!(%name, reason, "a snapshot cannot be read");
        newest = Some(reason.clone());
    }
    match newest {
        Some(reason) if log && catalog.published().next().is_none() => {
            Err(DatabaseError::Unreadable { reason })
        }
        _ => Ok(()),
    }
}

/// Snapshots newer than the one that was loaded could not be: they are no checkpoints, on whose
/// account log or older snapshots may go.
pub(super) fn distrust_unloaded(catalog: &mut Catalog, recovered: &Recovered) {
    let Some(loaded) = &recovered.image else { return };
    let is_newer = |manifest: &&Manifest| manifest.name().to_string() != *loaded;
    let newer: Vec<_> =
        catalog.published().rev().take_while(is_newer).map(Manifest::name).collect();
    for name in newer {
        catalog.distrust(name, "this start could not load it, and took an older one");
    }
}

/// The images that a start may load, newest first: down to the second way back, which has nothing
/// in common with the first. What lies between the two shares the base of the first, and is a way
/// back if only what is on top of it is damaged.
pub(super) fn images(
    store: &Arc<dyn ObjectStore>,
    catalog: &Catalog,
    identity: Identity,
    keys: &Keys,
    log: bool,
) -> Vec<Box<dyn ImageSource>> {
    if !log {
        return Vec::new();
    }
    let image = |chain: Vec<&Manifest>| {
        let (runtime, store) = (Runtime::current(), Arc::clone(store));
        let chain = chain.into_iter().map(|it| (it.clone(), keys.for_reading(it))).collect();
        let image = SnapshotImage::new(runtime, store, chain, identity.history);
        Box::new(image) as Box<dyn ImageSource>
    };
    let ways = catalog.ways_back(|_| true);
    let last_way = ways.last().and_then(|way| way.last()).map(|manifest| manifest.id());
    let mut images = Vec::new();
    for manifest in catalog.published().rev() {
        images.extend(catalog.chain_of(manifest.id()).ok().map(image));
        if Some(manifest.id()) == last_way {
            break;
        }
    }
    images
}
