//! Pins of a server: in its own store at once, and in the remote one as soon as the snapshot is
//! there.
//!
//! A pin may come later to the remote store, and the [keeper](super::retention) brings it there. A
//! pin is lifted there first and here last, or not at all: what is pinned here would be pinned
//! there again, and what was pinned there by somebody else is never unpinned by itself.

use std::sync::Arc;
use std::time::Duration;

use cutwater_engine::clock::wall_micros;
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::SnapshotUuid;
use cutwater_snapshot::pin::set_pin;

use super::message::{CoordinatorError, Handle};
use super::remote::{Lease, RemoteState};

/// How long the remote store is waited for.
const REMOTE_LIMIT: Duration = Duration::from_secs(5);

/// What came of a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// It is pinned wherever it is.
    Everywhere,
    /// It is pinned here, and in the remote store when that can be reached.
    RemotePending,
}

/// Why a pin was not set or lifted.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Here.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    /// In the remote store.
    #[error("the pin in the remote store cannot be lifted: {0}")]
    Remote(#[from] SnapshotError),
    /// The remote store cannot be asked.
    #[error("the pin in the remote store cannot be lifted: it does not answer now")]
    NoAnswer,
}

impl Handle {
    /// Pins a snapshot: it stays, with the chain below it, whatever the policy says.
    ///
    /// # Errors
    /// [`PinError::Coordinator`].
    pub async fn pin(&self, id: SnapshotId) -> Result<Pinned, PinError> {
        let manifest = self.pin_here(id, Some(wall_micros())).await?;
        let Some(uploads) = &self.uploads else { return Ok(Pinned::Everywhere) };
        let there = there(self, manifest.snapshot_uuid());
        let RemoteState::Writer(lease) = uploads.state() else { return Ok(Pinned::RemotePending) };
        let pinned = match there {
            Some(id) => pin_there(&lease, id, manifest.pinned_at_us()).await,
            // When it is there.
            None => return Ok(Pinned::RemotePending),
        };
        Ok(if pinned.is_ok() { Pinned::Everywhere } else { Pinned::RemotePending })
    }

    /// Lifts the pin of a snapshot, wherever it has one.
    ///
    /// # Errors
    /// [`PinError`]; then it is pinned here as before.
    pub async fn unpin(&self, id: SnapshotId) -> Result<(), PinError> {
        let entries = self.list().await?;
        let of_id = entries.iter().find(|entry| entry.id == id);
        let uuid = of_id.and_then(|entry| entry.manifest()).map(|m| m.snapshot_uuid());
        if let (Some(uploads), Some(uuid)) = (&self.uploads, uuid) {
            match uploads.state() {
                // What is there is another server's.
                RemoteState::Superseded { .. } => {}
                RemoteState::Connecting { .. } => return Err(PinError::NoAnswer),
                RemoteState::Writer(lease) => {
                    if !uploads.status().is_known {
                        return Err(PinError::NoAnswer);
                    }
                    if let Some(there) = there(self, uuid) {
                        pin_there(&lease, there, None).await?;
                    }
                }
            }
        }
        self.pin_here(id, None).await?;
        Ok(())
    }
}

/// The id of a snapshot in the remote store, if it is there.
fn there(handle: &Handle, uuid: SnapshotUuid) -> Option<SnapshotId> {
    handle.uploads.as_ref()?.status().uploaded.get(&uuid).copied()
}

async fn pin_there(lease: &Arc<Lease>, id: SnapshotId, at_us: Option<u64>) -> Result<(), PinError> {
    let pinned = async {
        lease.check().await?;
        set_pin(&*lease.store, id, at_us).await
    };
    match tokio::time::timeout(REMOTE_LIMIT, pinned).await {
        Ok(pinned) => pinned.map(drop)?,
        Err(_) => return Err(PinError::NoAnswer),
    }
    lease.tell_change();
    Ok(())
}
