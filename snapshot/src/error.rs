//! What can go wrong with snapshots, each with its context in fields: a [`StoreError`] is the
//! store's, a [`Damage`] is stored bytes that are not what was written, and [`SnapshotError`] is
//! both and what a caller asked that cannot be. Text for people is finished at the edge.

use cutwater_engine::entry::DecodeError;
use cutwater_engine::seal::{KeyId, SealError};
use cutwater_engine::types::{ShardId, SnapshotId};

use crate::ident::DatabaseId;
use crate::paths::SnapshotName;

/// What was being done to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opening the store.
    Open,
    /// Listing a folder.
    List,
    /// Reading an object or a range of it.
    Get,
    /// Reading an object's length.
    Head,
    /// Writing an object that must not exist.
    Create,
    /// Writing an object, replacing what was there.
    Put,
    /// Writing an object in parts.
    Multipart,
    /// Removing an object.
    Delete,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::List => "list",
            Self::Get => "read",
            Self::Head => "look up",
            Self::Create => "create",
            Self::Put => "write",
            Self::Multipart => "write in parts",
            Self::Delete => "delete",
        })
    }
}

/// What the answer of a store tells, so that a definite refusal is told from no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The object does not exist.
    Missing,
    /// The object exists although it had to be new.
    Exists,
    /// The credentials are missing, wrong, or do not allow it.
    Credentials,
    /// The bucket, or the folder, does not exist.
    NoBucket,
    /// The store lacks the operation.
    Unsupported,
    /// The address or the region is not that of the store.
    Address,
    /// No answer, or a failure of the store's own: it may pass.
    NoAnswer,
}

impl Cause {
    /// What the error of an operation tells. Where object_store's own classes say too little (a
    /// failed listing has none), the status and the code in the store's answer decide.
    fn of(operation: Operation, source: &object_store::Error) -> Self {
        use object_store::Error as E;
        let text = error_chain(source);
        let status = text.split_once("status code: ").and_then(|(_, rest)| rest.get(..3));
        let has = |code: &str| text.contains(code);
        if has("NoSuchBucket") {
            return Self::NoBucket;
        }
        // The body may be lacking, but none of these can miss an object.
        let needs_no_object =
            matches!(operation, Operation::Create | Operation::Put | Operation::List);
        match (source, status) {
            (E::NotFound { .. }, _) | (_, Some("404")) if needs_no_object => Self::NoBucket,
            (E::NotFound { .. }, _) => Self::Missing,
            (E::AlreadyExists { .. } | E::Precondition { .. }, _) => Self::Exists,
            (E::PermissionDenied { .. } | E::Unauthenticated { .. }, _)
            | (_, Some("401" | "403")) => Self::Credentials,
            // The instance's own service, which is asked when nothing is configured.
            _ if has("169.254.16") || has("169.254.17") || has("InvalidAccessKeyId") => {
                Self::Credentials
            }
            (E::NotSupported { .. } | E::NotImplemented { .. }, _) | (_, Some("501")) => {
                Self::Unsupported
            }
            _ if has("ExpiredToken") || has("InvalidToken") => Self::Credentials,
            (E::InvalidPath { .. } | E::UnknownConfigurationKey { .. }, _)
            | (_, Some("301" | "307")) => Self::Address,
            // What the service of another region says.
            _ if has("redirect without LOCATION") || has("AuthorizationHeaderMalformed") => {
                Self::Address
            }
            _ => Self::NoAnswer,
        }
    }

    /// Whether nothing but another configuration, or a change in the store, can help.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::Credentials | Self::NoBucket | Self::Unsupported | Self::Address)
    }

    /// What to look at.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Missing => "the object does not exist",
            Self::Exists => "the object exists already",
            Self::Credentials => "check the credentials and what they allow",
            Self::NoBucket => "the bucket does not exist",
            Self::Unsupported => "the store lacks this operation",
            Self::Address => "check the store's address, endpoint and region",
            Self::NoAnswer => "check that the store can be reached and has room",
        }
    }
}

/// An error and its causes, as one text.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(source) = at {
        text.push_str(": ");
        text.push_str(&source.to_string());
        at = source.source();
    }
    text
}

/// A store did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store answered with an error, or not at all.
    #[error("cannot {operation} {path}: {source} ({})", .cause.hint())]
    Failed {
        /// What was being done.
        operation: Operation,
        /// The object, or the folder.
        path: String,
        /// What the answer tells.
        cause: Cause,
        /// The store's own words.
        source: Box<object_store::Error>,
    },
    /// A folder on this machine could not be made or synced.
    #[error("cannot {operation} {path}: {source} (check that the folder exists and is writable)")]
    Io {
        /// What was being done.
        operation: Operation,
        /// The folder.
        path: String,
        /// The system's own words.
        source: std::io::Error,
    },
    /// The text is not the address of a store.
    #[error("{url} is not a store's address: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it, and what works.
        reason: &'static str,
    },
    /// The store lets a second writer create an object that exists.
    #[error(
        "the store took a second create of {path}: it ignores conditional puts, so two writers \
         could share a snapshot id"
    )]
    CreateNotExclusive {
        /// The object of the probe.
        path: String,
    },
}

impl StoreError {
    /// An error of object_store with what was being done.
    pub(crate) fn failed(
        operation: Operation,
        path: &object_store::path::Path,
        source: object_store::Error,
    ) -> Self {
        let cause = Cause::of(operation, &source);
        Self::Failed { operation, path: path.to_string(), cause, source: source.into() }
    }

    /// The same error, of which it turned out that nothing can be concluded from it.
    pub(crate) fn unanswered(self) -> Self {
        match self {
            Self::Failed { operation, path, source, .. } => {
                Self::Failed { operation, path, cause: Cause::NoAnswer, source }
            }
            other => other,
        }
    }

    /// Whether the same call may succeed later, with nothing changed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Failed { cause, .. } => *cause == Cause::NoAnswer,
            Self::Io { .. } => true,
            Self::Url { .. } | Self::CreateNotExclusive { .. } => false,
        }
    }

    /// Whether the store, or what names it, says definitely that it is not to be used so: no
    /// credentials, no bucket, a wrong address, conditional puts that do not hold. Silence, a
    /// failure of its own and a missing object are none.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Failed { cause, .. } => cause.is_refusal(),
            Self::Io { .. } => false,
            Self::Url { .. } | Self::CreateNotExclusive { .. } => true,
        }
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Failed { source, .. }
            if matches!(**source, object_store::Error::NotFound { .. }))
    }

    /// Whether the object exists although it had to be new.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Failed { source, .. }
            if matches!(**source,
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. }))
    }
}

/// Why stored bytes are not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The object is not in the store.
    #[error("the object is missing")]
    Missing,
    /// The first bytes are not those of the format.
    #[error("the magic number is wrong")]
    Magic,
    /// A later format, or damage in the version.
    #[error("format version {0} is not supported")]
    Version(u64),
    /// The checksum disagrees.
    #[error("CRC32C is {found:08x}, not {expected:08x}")]
    Crc {
        /// What was stored.
        expected: u32,
        /// What the bytes give.
        found: u32,
    },
    /// The object has another length than was recorded.
    #[error("the length is {found} bytes, not {expected}")]
    Length {
        /// What was recorded.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The bytes end too early.
    #[error("the bytes end too early")]
    Truncated,
    /// Bytes follow the end.
    #[error("bytes follow the end")]
    Trailing,
    /// A length that no writer writes.
    #[error("a length of {0} bytes is out of bounds")]
    Bound(u64),
    /// A tag that is none of those in FORMAT.md.
    #[error("unknown {field} {value}")]
    Tag {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A field disagrees with what names or surrounds the bytes.
    #[error("{field} is {found}, not {expected}")]
    Mismatch {
        /// The field.
        field: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A chunk is missing, doubled or out of order.
    #[error("chunk {found} stands where chunk {expected} belongs")]
    Sequence {
        /// The number that belongs there.
        expected: u64,
        /// The number that stands there.
        found: u64,
    },
    /// An image chunk after the first tail chunk.
    #[error("an image chunk follows the tail records")]
    Order,
    /// An entry cannot be decoded.
    #[error("entry {index}: {source}")]
    Entry {
        /// The entry, counted from 0 in its chunk.
        index: u64,
        /// Why.
        source: DecodeError,
    },
    /// The MessagePack cannot be decoded.
    #[error("not the expected MessagePack map: {0}")]
    MessagePack(String),
    /// A body is not what was compressed.
    #[error("a compressed body cannot be decompressed to its length")]
    Compressed,
    /// The manifest is not what was authenticated.
    #[error("its authentication is wrong: it was altered after it was written")]
    Auth,
    /// A sealed piece does not open, or what is stored of a key is not sound.
    #[error("{0}")]
    Seal(SealError),
    /// A part has no entry.
    #[error("the part of core {0} is missing")]
    MissingPart(ShardId),
}

/// Damaged bytes, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}{}: {flaw}", .offset_bytes.map_or(String::new(), |at| format!(", offset {at}")))]
pub struct Damage {
    /// The object's name in its store.
    pub object: String,
    /// The first byte of what is damaged, where that is known.
    pub offset_bytes: Option<u64>,
    /// Why.
    pub flaw: Flaw,
}

impl Damage {
    /// Damage of an object as a whole.
    pub fn whole(object: impl ToString, flaw: Flaw) -> Self {
        Self { object: object.to_string(), offset_bytes: None, flaw }
    }

    /// Damage at a place in an object.
    pub fn at(object: impl ToString, offset_bytes: u64, flaw: Flaw) -> Self {
        Self { object: object.to_string(), offset_bytes: Some(offset_bytes), flaw }
    }
}

/// Why a sealed snapshot is not read without its key, nor a plain one with keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not sealed.
    #[error("it is not sealed, although keys are configured")]
    Plain,
    /// It is sealed.
    #[error("it is sealed under the key {id}, and no key is configured")]
    NoKey {
        /// The id of the key that is needed.
        id: KeyId,
    },
    /// The configured keys do not open it.
    #[error("{0}")]
    Key(SealError),
}

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
