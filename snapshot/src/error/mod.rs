//! What can go wrong with snapshots, each with its context in fields: a [`StoreError`] is the
//! store's, a [`Damage`] is stored bytes that are not what was written, and [`SnapshotError`] is
//! both and what a caller asked that cannot be. Text for people is finished at the edge.

mod damage;
mod store;

use cutwater_engine::types::{ShardId, SnapshotId};

use crate::ident::DatabaseId;
use crate::paths::SnapshotName;

pub use damage::{Damage, Flaw, Refusal};
pub use store::{Cause, Operation, StoreError};

/// Anything that an operation on snapshots answers instead of its result.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store's fault.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Stored bytes are not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The configured keys and the snapshot do not fit.
    #[error("{object}: {reason}")]
    Refused {
        /// The manifest, or the object.
        object: String,
        /// Why.
        reason: Refusal,
    },
    /// Something was to be sealed, and there is no key.
    #[error("no key is configured")]
    NoKeys,
    /// The kernel gave no random bytes.
    #[error("the kernel gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// The runtime on which a part was packed has gone.
    #[error("the runtime that packs core {core} has stopped")]
    WriterStopped {
        /// The core.
        core: ShardId,
    },
    /// Another writer has taken the store over; this one must not write to it any more.
    #[error("another writer has taken the store over (its epoch is {found}, ours is {own})")]
    Fenced {
        /// This writer's epoch.
        own: u64,
        /// The epoch that was found.
        found: u64,
    },
    /// Another writer has aborted or replaced this snapshot before it was published.
    #[error("{name} was ended by another writer before it was published")]
    Superseded {
        /// The snapshot.
        name: SnapshotName,
    },
    /// The snapshot cannot be aborted: its manifest is in the store, and everything it names is.
    #[error("{name} is published")]
    Published {
        /// The snapshot.
        name: SnapshotName,
    },
    /// No snapshot has this id.
    #[error("there is no snapshot {id}")]
    NoSnapshot {
        /// The id.
        id: SnapshotId,
    },
    /// The snapshot is not published.
    #[error("snapshot {id} is {state}")]
    NotPublished {
        /// The id.
        id: SnapshotId,
        /// What it is instead.
        state: &'static str,
    },
    /// A core's part was not delivered.
    #[error("the part of core {core} is missing")]
    MissingPart {
        /// The core.
        core: ShardId,
    },
    /// What a writer delivered cannot be a snapshot.
    #[error("the parts do not make a snapshot: {reason}")]
    Parts {
        /// Why.
        reason: String,
    },
    /// The shard's stream of chunks ended without its end mark: it gave up, or died.
    #[error("core {core} stopped sending before its end")]
    SourceClosed {
        /// The core.
        core: ShardId,
    },
    /// The snapshot is one of those that must stay.
    #[error("snapshot {id} is one of the two newest checkpoints, from which a restart recovers")]
    Protected {
        /// The id.
        id: SnapshotId,
    },
    /// The snapshot is pinned.
    #[error("snapshot {id} is pinned: unpin it first")]
    Pinned {
        /// The id.
        id: SnapshotId,
    },
    /// The snapshot is the parent of another.
    #[error("snapshot {id} is the parent of delta {child}: delete that first")]
    HasChildren {
        /// The id.
        id: SnapshotId,
        /// A delta on top of it.
        child: SnapshotId,
    },
    /// A delta's chain does not lead to a base.
    #[error("snapshot {id} cannot be restored: {reason}")]
    Chain {
        /// The snapshot whose chain was followed.
        id: SnapshotId,
        /// Where the chain ends.
        reason: String,
    },
    /// The store belongs to another database.
    #[error("{object} belongs to database {found}, not to {expected}")]
    ForeignDatabase {
        /// The object that says so.
        object: String,
        /// Ours.
        expected: DatabaseId,
        /// What was found.
        found: DatabaseId,
    },
    /// A restore goes only into a new folder.
    #[error("{folder} is not empty; a restore needs a new folder")]
    NotEmpty {
        /// The folder.
        folder: String,
    },
    /// The receiver of a reader's chunks or the runtime behind it has gone.
    #[error("the runtime that reads {object} has stopped")]
    ReaderStopped {
        /// What was being read.
        object: String,
    },
}

impl SnapshotError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_retryable())
    }

    /// Whether the store cannot be used as it is configured: its own definite refusal, or that it
    /// is another database's.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Store(error) => error.is_refusal(),
            Self::ForeignDatabase { .. } => true,
            _ => false,
        }
    }

    /// Whether stored bytes are damaged.
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::Damaged(_))
    }
}
