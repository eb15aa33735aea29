//! Why a database did not open, or did not do what it was asked.

use cutwater_engine::engine::{Failure, OpenError};
use cutwater_snapshot::error::SnapshotError;

use crate::coordinator::CoordinatorError;
use crate::coordinator::archive::file::CursorError;
use crate::coordinator::behind::BehindError;
use crate::data_dir::DataDirError;
use crate::identity::IdentityError;
use crate::restore::RestoreError;

/// Why a database did not open, or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The engine did not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The engine has stopped by itself.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The store, or something in it, is not as it has to be.
    #[error(transparent)]
    Store(#[from] SnapshotError),
    /// The remote store refuses definitely.
    #[error("the remote store {url} cannot be used: {source}")]
    Remote {
        /// Its address.
        url: String,
        /// What it said.
        source: Box<SnapshotError>,
    },
    /// The data directory is older than what the remote store has of its history.
    #[error(transparent)]
    Behind(#[from] BehindError),
    /// What is remembered of the archive cannot be used.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// The coordinator did not do what it was asked.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    /// There are snapshots, and not one of them can be read.
    #[error("no snapshot of the local store can be read: {reason}")]
    Unreadable {
        /// What is wrong with the newest, naming the object.
        reason: String,
    },
    /// The identity of a restored directory could not be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Nothing was restored.
    #[error(transparent)]
    Restore(Box<RestoreError>),
    /// The kernel gave no random bytes.
    #[error("the kernel gives no random bytes")]
    Random,
    /// The runtime is going down.
    #[error("the runtime is going down")]
    Runtime,
}

impl From<RestoreError> for DatabaseError {
    fn from(error: RestoreError) -> Self {
        Self::Restore(Box::new(error))
    }
}
