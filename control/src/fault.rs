//! What kind of failure an error is, for programs: the word with which an error reply begins, and
//! the exit code of the command line. One place decides it for every error.

use cutwater_engine::SnapshotStreamError;
use cutwater_engine::engine::OpenError;
use cutwater_engine::engine::lock::LockError;
use cutwater_snapshot::archive::ArchiveError;
use cutwater_snapshot::error::{SnapshotError, StoreError};
use cutwater_snapshot::plan::PlanError;

use crate::coordinator::CoordinatorError;
use crate::restore::RestoreError;
use crate::verify::DeepError;

/// The kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Anything else.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// There is no such snapshot, store or moment.
    NotFound,
    /// What was read is damaged, or the keys and it do not fit.
    Damaged,
    /// A store or a server did not answer: worth another try.
    Unreachable,
    /// Something else is under way: worth another try, later.
    Busy,
    /// Somebody cancelled it.
    Cancelled,
}

/// Every kind with its word and its exit code.
const KINDS: [(Fault, &str, u8); 7] = [
    (Fault::Failed, "ERR", 1),
    (Fault::Usage, "USAGE", 2),
    (Fault::NotFound, "NOTFOUND", 3),
    (Fault::Damaged, "DAMAGED", 4),
    (Fault::Unreachable, "STORE", 5),
    (Fault::Busy, "BUSY", 6),
    (Fault::Cancelled, "CANCELLED", 1),
];

impl Fault {
    /// The first word of an error reply.
    pub fn word(self) -> &'static str {
        self.kind().1
    }

    /// What a command ends with.
    pub fn exit_code(self) -> u8 {
        self.kind().2
    }

    /// The kind of an error reply.
    pub fn of_reply(message: &str) -> Self {
        let word = message.split(' ').next().unwrap_or_default();
        match word {
            // A server that starts, or one that stops.
            "LOADING" | CLOSING => Self::Unreachable,
            // The password is part of the command line.
            "NOAUTH" | "WRONGPASS" => Self::Usage,
            _ => {
                let known = KINDS.iter().find(|(_, known, _)| *known == word);
                known.map_or(Self::Failed, |(fault, ..)| *fault)
            }
        }
    }

    fn kind(self) -> (Self, &'static str, u8) {
        *KINDS.iter().find(|(fault, ..)| *fault == self).expect("the list has every kind")
    }
}

/// The word of a server that is being closed.
const CLOSING: &str = "CLOSING";

/// The error reply for what the coordinator did not do.
pub fn reply_text(error: &CoordinatorError) -> String {
    let word = match error {
        CoordinatorError::Closed => CLOSING,
        other => Fault::from(other).word(),
    };
    format!("{word} {error}")
}

impl From<&CoordinatorError> for Fault {
    fn from(error: &CoordinatorError) -> Self {
        use CoordinatorError as C;
        match error {
            C::Busy(_) | C::BusyBehind(_) | C::Verifying(_) => Self::Busy,
            C::Engine(SnapshotStreamError::Busy) => Self::Busy,
            C::Cancelled(_) | C::WaitCancelled | C::VerifyCancelled(_) => Self::Cancelled,
            C::NothingToCancel | C::NothingWaits | C::NotRunning(_) | C::NoVerification => {
                Self::NotFound
            }
            C::Leftovers { reason, .. } => Self::from(&**reason),
            C::Engine(_) | C::NoLog | C::NoMemory { .. } => Self::Failed,
            C::Store(error) => Self::from(&**error),
            C::Deep(error) => Self::from(&**error),
            C::Closed => Self::Unreachable,
        }
    }
}

impl From<&SnapshotError> for Fault {
    fn from(error: &SnapshotError) -> Self {
        use SnapshotError as S;
        match error {
            S::Store(error) => error.into(),
            S::NoSnapshot { .. } | S::NotPublished { .. } => Self::NotFound,
            S::Damaged(_) | S::Refused { .. } | S::NoKeys | S::Chain { .. } => Self::Damaged,
            _ => Self::Failed,
        }
    }
}

impl From<&DeepError> for Fault {
    fn from(error: &DeepError) -> Self {
        match error {
            DeepError::Snapshot(error) => error.into(),
            DeepError::Differs { .. } | DeepError::Open(OpenError::Image { .. }) => Self::Damaged,
            _ => Self::Failed,
        }
    }
}

impl From<&StoreError> for Fault {
    fn from(error: &StoreError) -> Self {
        match error {
            _ if error.is_refusal() => Self::Usage,
            _ if error.is_retryable() => Self::Unreachable,
            _ => Self::Failed,
        }
    }
}

impl From<&RestoreError> for Fault {
    fn from(error: &RestoreError) -> Self {
        use RestoreError as R;
        match error {
            R::Plan(PlanError::BrokenChain { .. }) => Self::Damaged,
            R::Impeded(_) | R::Latest { .. } => Self::Damaged,
            R::Plan(_) => Self::NotFound,
            R::Snapshot(error) => error.into(),
            R::Archive(error) => error.into(),
            R::Open(OpenError::Image { .. }) => Self::Damaged,
            R::Stopped => Self::Cancelled,
            R::Base(error) => error.into(),
            R::Lock(error) => error.into(),
            _ => Self::Failed,
        }
    }
}

impl From<&ArchiveError> for Fault {
    fn from(error: &ArchiveError) -> Self {
        match error {
            ArchiveError::Store(error) => error.into(),
            ArchiveError::Damaged(_)
            | ArchiveError::Seal { .. }
            | ArchiveError::NotSealed { .. }
            | ArchiveError::NeedsKey { .. } => Self::Damaged,
            _ => Self::Failed,
        }
    }
}

impl From<&LockError> for Fault {
    fn from(error: &LockError) -> Self {
        match error {
            LockError::Held { .. } => Self::Busy,
            LockError::Io { .. } => Self::Failed,
        }
    }
}
