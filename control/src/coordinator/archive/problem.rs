//! Why the log is not archived, and when that is worth a line.

use cutwater_engine::log::RecoveryError;
use cutwater_snapshot::archive::ArchiveError;
use cutwater_snapshot::error::SnapshotError;

use super::file::CursorError;
use crate::coordinator::behind::BehindError;

/// Why nothing was archived this time.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("the remote store cannot be written yet: {}", .0.as_deref().unwrap_or("no answer"))]
    Connecting(Option<String>),
    #[error("another server has taken the remote store over")]
    Superseded,
    #[error(transparent)]
    Behind(#[from] BehindError),
    #[error("{bytes} bytes were written in one microsecond, more than an object holds")]
    TooLarge { bytes: usize },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the log cannot be read: {0}")]
    Log(#[from] RecoveryError),
    #[error(transparent)]
    Cursor(#[from] CursorError),
    #[error("the remote store has not taken an object for {seconds} s")]
    Hangs { seconds: u64 },
    #[error("the engine has stopped")]
    Stopped,
    #[error("the kernel gives no random bytes")]
    Random,
}

impl Problem {
    /// Whether a person has not been told of it: `before` is what was wrong before. What the role
    /// of the writer tells of, and a store that does not answer and is told of in other words each
    /// time, are no news.
    pub(super) fn is_news(&self, before: &Option<String>) -> bool {
        let is_silence = match self {
            Self::Connecting(_) => return false,
            Self::Archive(error) => error.is_retryable(),
            Self::Snapshot(error) => error.is_retryable(),
            Self::Hangs { .. } => true,
            _ => false,
        };
        match before {
            None => true,
            Some(before) => !is_silence && *before != self.to_string(),
        }
    }
}
