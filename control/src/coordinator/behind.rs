//! Whether a data directory is as new as what the remote store has of its history. One that is
//! older (a copy of a directory that went on elsewhere, a disk that was brought back to an earlier
//! state) would write another history under the same name: its start is refused, and while the
//! store does not answer at a start, nothing is claimed or written there before it was asked.

use std::collections::BTreeSet;

use cutwater_engine::types::Lsn;
use cutwater_snapshot::ObjectStore;
use cutwater_snapshot::archive::{ArchiveError, find_head};
use cutwater_snapshot::catalog::{Catalog, EntryState};
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::{Identity, SnapshotUuid};

/// What a data directory knows of what was written to remote stores.
#[derive(Clone, Debug)]
pub struct Known {
    /// Whose directory it is.
    identity: Identity,
    /// No object of the archive that it put ends above this.
    ceiling: Lsn,
    /// The snapshots that it took, deleted ones too; `None` if some of them cannot be read.
    snapshots: Option<BTreeSet<SnapshotUuid>>,
}

/// Why a directory must not write to the store.
#[derive(Debug, thiserror::Error)]
pub enum BehindError {
    /// The archive has what the directory has not.
    #[error(
        "the archive of this history reaches LSN {head}, and this data directory knows only of LSN \
         {ceiling}: the directory is older than its archive"
    )]
    Archive {
        /// Where the archive ends.
        head: Lsn,
        /// What the directory knows of.
        ceiling: Lsn,
    },
    /// A snapshot of the history that the directory never took.
    #[error(
        "{name} in the remote store is of this history, and this data directory has not taken it: \
         the directory is older than the snapshot"
    )]
    Snapshot {
        /// The snapshot.
        name: String,
    },
    /// The archive cannot be read.
    #[error(transparent)]
    Unread(#[from] ArchiveError),
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] SnapshotError),
}

impl BehindError {
    /// The archive ends above what the directory knows of.
    pub fn archive(head: Lsn, ceiling: Lsn) -> Self {
        Self::Archive { head, ceiling }
    }

    /// Whether the directory is older, rather than the store out of reach.
    pub fn is_behind(&self) -> bool {
        matches!(self, Self::Archive { .. } | Self::Snapshot { .. })
    }
}

impl Known {
    /// What a directory knows by its archive's cursor and its catalog.
    pub fn new(identity: Identity, ceiling: Lsn, catalog: &Catalog) -> Self {
        let uuid = |state: &EntryState| match state {
            EntryState::Published(manifest) => Some(manifest.snapshot_uuid()),
            EntryState::Tombstone(tombstone) => Some(tombstone.snapshot_uuid),
            EntryState::Unfinished | EntryState::Unreadable { .. } => None,
        };
        let is_unread = |state: &EntryState| matches!(state, EntryState::Unreadable { .. });
        let is_whole = !catalog.entries().iter().any(|entry| is_unread(&entry.state));
        let snapshots = catalog.entries().iter().filter_map(|entry| uuid(&entry.state));
        Self { identity, ceiling, snapshots: is_whole.then(|| snapshots.collect()) }
    }

    /// Compares it with the store; what snapshots that has.
    ///
    /// # Errors
    /// [`BehindError`].
    pub async fn check(&self, store: &dyn ObjectStore) -> Result<Catalog, BehindError> {
        let head = find_head(store, self.identity).await?.own;
        if let Some(head) = head.filter(|head| head.to > self.ceiling) {
            return Err(BehindError::archive(head.to, self.ceiling));
        }
        let catalog = Catalog::load(store, self.identity.database).await?;
        let Some(snapshots) = &self.snapshots else { return Ok(catalog) };
        let foreign = catalog.published().find(|manifest| {
            manifest.identity().history == self.identity.history
                && !snapshots.contains(&manifest.snapshot_uuid())
        });
        match foreign {
            Some(manifest) => Err(BehindError::Snapshot { name: manifest.name().to_string() }),
            None => Ok(catalog),
        }
    }
}
