//! A delta: what changed since its parent, out of the log.
//!
//! 1. [`parent`]: the newest snapshot of this history that may be its parent; or why a base is due.
//! 2. `job`: every shard freezes at a cut, as for a base, but walks its part only for the digests.
//! 3. [`changes`]: what the logs hold above the parent's watermarks and at or below the new ones,
//!    read on a thread for it, folded key by key ([`cutwater_snapshot::compact`]).
//! 4. `job` again: that is the image of the delta's parts; the tails follow, and the manifest.
//!
//! The parent is always *published*: what a snapshot that failed had frozen does not matter to the
//! next delta. Nothing is remembered of changes but the log itself, so nothing can be forgotten.
//! The log stays while a delta is taken: it is let go between jobs only.
//!
//! Wherever a delta cannot be made, a base is taken in its place, and the reply says why.

pub mod changes;
mod job;
pub mod parent;

use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::compact::IndexError;

pub use job::{Source, take};

/// Why a base is taken where a delta was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaseDue {
    /// There is nothing to be its parent.
    #[error("there is no snapshot that it could be based on")]
    NoParent,
    /// The newest snapshot cannot be restored itself.
    #[error("{0}")]
    Chain(String),
    /// The chain is as long as chains get.
    #[error("snapshot {parent} is already {deltas} deltas away from its base")]
    Length {
        /// The parent.
        parent: SnapshotId,
        /// How many deltas its chain has.
        deltas: usize,
    },
    /// A delta is in the remote store only behind its parent, which will not be there.
    #[error("snapshot {id}, which it would be based on, is not in the remote store: {reason}")]
    NotRemote {
        /// The parent, or what that is based on.
        id: SnapshotId,
        /// Why not.
        reason: String,
    },
    /// The log does not reach back to the parent, or cannot be read.
    #[error("the log does not continue snapshot {parent}: {reason}")]
    Log {
        /// The parent.
        parent: SnapshotId,
        /// What is wrong with it.
        reason: String,
    },
    /// It would be too large beside its base.
    #[error(
        "too much has changed since snapshot {parent}: the delta would be larger than \
         {limit_bytes} bytes, and its base is {base_bytes}"
    )]
    Bytes {
        /// The parent.
        parent: SnapshotId,
        /// How large it might have been.
        limit_bytes: u64,
        /// Bytes of the base.
        base_bytes: u64,
    },
    /// Too many keys have changed.
    #[error("too much has changed since snapshot {parent}: {reason}")]
    Keys {
        /// The parent.
        parent: SnapshotId,
        /// What there is too much of.
        reason: IndexError,
    },
    /// Too many keys of one shard have changed.
    #[error("more than {keys} keys of one shard have changed since snapshot {parent}")]
    Rounds {
        /// The parent.
        parent: SnapshotId,
        /// How many there may be.
        keys: usize,
    },
}
