//! Why logs cannot be read: the errors of [`super::reader`] and of [`super::recovery`].
//!
//! They carry facts, not advice; the text for a person is made at the edge.

use std::io;
use std::path::PathBuf;

use super::frame::FrameFault;
use super::record::RecordError;
use super::sealing::Refusal;
use super::segment::HeaderError;
use super::start::StartError;
use crate::types::{LogId, Position, StartId};

/// What is wrong with a place in a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No valid frame where one must be.
    #[error(transparent)]
    Frame(#[from] FrameFault),
    /// The segment header is unreadable.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A whole segment header, but of another log, segment, layout, database or history.
    #[error("the file is a segment of something else")]
    Foreign,
    /// The file does not have the size that its header says.
    #[error("the file has {found_bytes} bytes instead of {expected_bytes}")]
    Size {
        /// By the header.
        expected_bytes: u64,
        /// By the file system.
        found_bytes: u64,
    },
    /// A segment file is not there, though later ones, or a decision, need it.
    #[error("the file is missing")]
    Missing,
    /// A sealed frame is whole, but not what was sealed.
    #[error("the frame was altered: its checksum matches, and it does not open with its key")]
    Altered,
    /// A verified frame holds something that is no record.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something durable is not there any more, or changed.
    #[error(
        "{} is damaged at offset {offset_bytes} (position {position}, durable up to {durable}): \
         {fault}",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset_bytes: u64,
        /// Where in the log.
        position: Position,
        /// What is known to have been durable.
        durable: Position,
        /// What was found.
        fault: Fault,
    },
    /// A segment does not fit the keys that are configured.
    #[error("{}: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: Refusal,
    },
    /// The log does not reach back, or not forward, to a position that an image needs.
    #[error("log {log} has {oldest} to {end}, but position {needed} is needed")]
    Gap {
        /// The log.
        log: LogId,
        /// The position from which the image needs it.
        needed: Position,
        /// The first position that is there.
        oldest: Position,
        /// The end of what is there.
        end: Position,
    },
}

impl LogError {
    /// Whether bytes are lost or wrong, rather than out of reach for now.
    pub fn is_corruption(&self) -> bool {
        match self {
            Self::Io { .. } => false,
            Self::Refused { reason, .. } => *reason == Refusal::Altered,
            _ => true,
        }
    }

    /// Whether the same call can succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Io { .. })
    }
}

/// Why recovery stops.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// A log cannot be read, is damaged, or does not continue the image.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A start record cannot be read.
    #[error("{}: {source}", path.display())]
    Start {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: StartError,
    },
    /// The record of a start that the image needs is not there.
    #[error("the record of start {start} is missing")]
    MissingStart {
        /// The start.
        start: StartId,
    },
    /// The image does not have one part for each shard of the start that took it.
    #[error("the image of start {start} has {parts} parts, but its layout has {shards} shards")]
    Layout {
        /// The start.
        start: StartId,
        /// Shards of its layout.
        shards: u16,
        /// Parts of the image.
        parts: usize,
    },
    /// The log directory belongs to another database.
    #[error("start {start} belongs to another database")]
    ForeignDatabase {
        /// The start.
        start: StartId,
    },
}

impl RecoveryError {
    /// Whether bytes are lost or wrong, rather than out of reach for now.
    pub fn is_corruption(&self) -> bool {
        match self {
            Self::Log(error) => error.is_corruption(),
            Self::Start { source: StartError::Refused(reason), .. } => *reason == Refusal::Altered,
            Self::Start { source: StartError::Io(_), .. } => false,
            _ => true,
        }
    }

    /// Whether the same call can succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Log(error) => error.is_retryable(),
            Self::Start { source, .. } => matches!(source, StartError::Io(_)),
            _ => false,
        }
    }

    /// Why a file does not fit the keys that are configured, if that is it.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Log(LogError::Refused { reason, .. }) => Some(reason),
            Self::Start { source: StartError::Refused(reason), .. } => Some(reason),
            _ => None,
        }
    }
}
