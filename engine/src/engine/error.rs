//! Why an engine does not start, and why it stopped.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

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
    Shard(Failure),
}

impl From<Failure> for OpenError {
    /// What ended a shard while the engine started; if it was the machine, as the check of the
    /// machine would have said it. (The check sets one ring up; the limit may be lower than what
    /// all shards need.)
    fn from(failure: Failure) -> Self {
        let ring = match &failure.reason {
            FailureReason::Ring(error) => match &**error {
                RingError::KernelTooOld => RingError::KernelTooOld,
                RingError::Forbidden(error) => RingError::Forbidden(again(error)),
                RingError::LockedMemory => RingError::LockedMemory,
                RingError::Setup(error) => RingError::Setup(again(error)),
                RingError::Enter(_) => return Self::Shard(failure),
            },
            _ => return Self::Shard(failure),
        };
        Self::Machine(PreflightError::Ring(ring))
    }
}

/// The same error once more: an [`io::Error`] cannot be cloned.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
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
    Ring(Arc<RingError>),
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
        Self::Ring(Arc::new(error))
    }
}

impl From<LogError> for OpenError {
    fn from(error: LogError) -> Self {
        Self::Recovery(RecoveryError::Log(error))
    }
}

/// The engine has stopped, or stops before it could answer. What was asked may have happened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the engine has stopped{}", cause(.failure.as_ref()))]
pub struct Stopped {
    /// Why, if it stopped by itself; none if it was closed.
    pub failure: Option<Failure>,
}

fn cause(failure: Option<&Failure>) -> String {
    failure.map_or_else(String::new, |failure| format!(": {failure}"))
}

/// Where the first failure of an engine is kept; shared by its threads and its clients.
#[derive(Clone, Debug, Default)]
pub struct FailureCell(Arc<OnceLock<Failure>>);

impl FailureCell {
    /// The failure, if there was one.
    pub fn get(&self) -> Option<Failure> {
        self.0.get().cloned()
    }

    /// Keeps it if it is the first.
    pub fn set(&self, failure: Failure) {
        let _ = self.0.set(failure);
    }

    /// What to answer to a caller that gets nothing else any more.
    pub fn stopped(&self) -> Stopped {
        Stopped { failure: self.get() }
    }
}
