//! Brings snapshots under the active key: only their manifests are written anew, with the same data
//! key wrapped by another configured key. Objects and authentication stay what they are.
//!
//! A manifest that was deleted or pinned meanwhile is not overwritten (`amend.rs`).

use cutwater_engine::seal::Keyring;
use cutwater_engine::types::SnapshotId;
use object_store::ObjectStore;

use crate::amend::Found;
use crate::catalog::find_names;
use crate::error::SnapshotError;
use crate::ident;
use crate::manifest::{Manifest, Record};
use crate::paths::{Named, SnapshotName};
use crate::store;

/// What a rekeying did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rekeyed {
    /// Manifests that were written anew, as they are now.
    pub manifests: Vec<Manifest>,
    /// Snapshots that were under the active key already.
    pub current: u64,
}

/// Rewraps the data key of one published snapshot, or of all of them, under the active key. The
/// keys under which they are now must be configured too. Can be repeated.
///
/// # Errors
/// [`SnapshotError::NoKeys`] without keys, [`SnapshotError::NoSnapshot`] or
/// [`SnapshotError::NotPublished`] for the one that was named, as for
/// [`Manifest::unlock`] at the first that does not open, or the store's error. Those before
/// it are done.
pub async fn rekey(
    store: &dyn ObjectStore,
    id: Option<SnapshotId>,
    keys: &Keyring,
) -> Result<Rekeyed, SnapshotError> {
    if keys.is_empty() {
        return Err(SnapshotError::NoKeys);
    }
    let names = match id {
        Some(id) => find_names(store, id).await?,
        None => all_names(store).await?,
    };
    let mut done = Rekeyed::default();
    let mut other = id.map(|id| SnapshotError::NoSnapshot { id });
    for name in names {
        match rekey_named(store, name, keys).await? {
            Outcome::Rewrapped(manifest) => done.manifests.push(*manifest),
            Outcome::Current => done.current += 1,
            Outcome::Tombstone(state) => {
                other = id.map(|id| SnapshotError::NotPublished { id, state });
                continue;
            }
        }
        other = None;
    }
    match other {
        Some(error) if done == Rekeyed::default() => Err(error),
        _ => Ok(done),
    }
}

enum Outcome {
    Rewrapped(Box<Manifest>),
    Current,
    Tombstone(&'static str),
}

async fn rekey_named(
    store: &dyn ObjectStore,
    name: SnapshotName,
    keys: &Keyring,
) -> Result<Outcome, SnapshotError> {
    loop {
        let found = Found::read(store, name).await?;
        let manifest = match found.record()? {
            Record::Published(manifest) => manifest,
            Record::Tombstone(tombstone) => return Ok(Outcome::Tombstone(tombstone.state.name())),
        };
        // Also where the key is the active one: what does not open is not called done.
        let unlocked = manifest.unlock(keys)?;
        let active = keys.active().expect("checked by the caller").0;
        if manifest.wrapped_key().is_some_and(|wrapped| wrapped.key_id == *active) {
            return Ok(Outcome::Current);
        }
        let raw = unlocked.rewrapped(keys, ident::random)?.expect("a key is active");
        let body = raw.encode();
        let Record::Published(manifest) = Record::decode(name, &body)? else {
            unreachable!("a published manifest with another wrapped key")
        };
        // What was deleted or pinned meanwhile is looked at anew.
        if found.replace(store, body.into()).await? {
            return Ok(Outcome::Rewrapped(manifest));
        }
    }
}

async fn all_names(store: &dyn ObjectStore) -> Result<Vec<SnapshotName>, SnapshotError> {
    let found = store::list(store, &crate::paths::snapshots()).await?;
    let names = found.iter().filter_map(|object| match Named::parse(&object.location) {
        Some(Named::Manifest(name)) => Some(name),
        _ => None,
    });
    Ok(names.collect())
}
