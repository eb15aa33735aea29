//! Why an engine does not start, and why it stopped.

use std::io;
use std::path::PathBuf;

use crate::log::{LogError, RecoveryError};
use crate::net::RingError;
use crate::net::listen::ListenError;
use crate::net::preflight::PreflightError;
use crate::types::ShardId;

use super::lock::LockError;

/// Why an engine did not open. Nothing was changed that a second attempt would trip over.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel is too old, memory cannot be locked, or io_uring is forbidden.
    #[error(transparent)]
    Machine(#[from] PreflightError),
    /// The data directory is in use, or cannot be locked.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// A port could not be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The log is damaged, has a gap, or cannot be read.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// No image can be loaded; the last reason.
    #[error("the image {name} cannot be loaded: {reason}")]
    Image {
        /// Which image.
        name: String,
        /// Why.
        reason: String,
    },
    /// The logs or the images hold LSNs far ahead of the wall clock.
    #[error(
        "the data is {ahead_s} seconds ahead of this machine's clock: set the clock, or start with \
         --accept-clock to go on from the data's time"
    )]
    ClockBehind {
        /// By how much, in seconds.
        ahead_s: u64,
    },
    /// A configuration that makes no sense.
    #[error("{0}")]
    Config(String),
    /// A directory or a thread could not be made.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A shard ended while the engine started.
    #[error(transparent)]
    Shard(#[from] Failure),
}

/// Why a running engine stopped by itself. The first one counts; every caller gets it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("shard {shard} has stopped: {reason}")]
pub struct Failure {
    /// The shard that failed first.
    pub shard: ShardId,
    /// What happened.
    pub reason: FailureReason,
}

/// What ends a shard.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FailureReason {
    /// A write or a sync of the log failed: what the disk holds is in doubt from here on.
    #[error("the log cannot be written ({0}); nothing more is acknowledged")]
    Log(String),
    /// The ring failed.
    #[error("the network ring failed ({0})")]
    Ring(String),
    /// Loaded bytes are no ops.
    #[error("the data cannot be applied ({0})")]
    Load(String),
    /// A bug.
    #[error("it panicked: {0}")]
    Panic(String),
    /// The executor could not be made.
    #[error("its executor could not be started ({0})")]
    Executor(String),
}

impl From<RingError> for FailureReason {
    fn from(error: RingError) -> Self {
        Self::Ring(error.to_string())
    }
}

impl From<LogError> for OpenError {
    fn from(error: LogError) -> Self {
        Self::Recovery(RecoveryError::Log(error))
    }
}

/// The engine has stopped, or stops before it could answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine has stopped")]
pub struct Stopped;
