//! What can go wrong with the archive, each with its context in fields.

use cutwater_engine::seal::{KeyId, SealError};

use super::header::WalNumber;
use crate::error::{Damage, StoreError};
use crate::ident::DatabaseId;

/// Anything that an operation on the archive answers instead of its result.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The store's fault.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Stored bytes are not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The object cannot be opened with the configured keys.
    #[error("{object}: {source}")]
    Seal {
        /// The object.
        object: String,
        /// Why.
        source: SealError,
    },
    /// Keys are configured, and the object is not sealed: it may be anybody's.
    #[error("{object} is not sealed, although keys are configured: it is not trusted")]
    NotSealed {
        /// The object.
        object: String,
    },
    /// No keys are configured, and the object is sealed.
    #[error("{object} is sealed under the key {key_id}: give it with --key-file {key_id}=PATH")]
    NeedsKey {
        /// The object.
        object: String,
        /// The key.
        key_id: KeyId,
    },
    /// Another writer has taken the store over; this one must not write to it any more.
    #[error("another writer has taken the store over (its epoch is {found}, ours is {own})")]
    Fenced {
        /// This writer's epoch.
        own: u64,
        /// The epoch that was found.
        found: u64,
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
    /// The kernel gave no random bytes.
    #[error("the kernel gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// So many objects of superseded writers in a row that it is no accident.
    #[error("more than {limit} objects of superseded writers stand before {number}")]
    TooManyStale {
        /// How many were passed over.
        limit: u64,
        /// The number that was reached.
        number: WalNumber,
    },
}

impl ArchiveError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_retryable())
    }

    /// Whether stored bytes are damaged.
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::Seal { source: SealError::Piece { .. }, .. })
    }
}
