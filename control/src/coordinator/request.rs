//! Requests for a snapshot: who asks, and whether one begins, waits or is refused. Pure.
//!
//! One snapshot is taken at a time. One that the server takes by itself (a checkpoint, a base that
//! is due, a rule of the schedule) is nobody's business: what a caller asks for meanwhile waits
//! behind it and is then taken, and only one request waits. Behind a caller's own snapshot nobody
//! waits: that caller may be another person, who is told so.

use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::manifest::SnapshotKind;

use super::message::CoordinatorError;

/// Who wants a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The coordinator itself: a checkpoint, or a base that is due.
    Server,
    /// A rule of the schedule, which asks again if it is refused.
    Schedule,
    /// A client, as CLIENT ID says it, or the program that embeds the database.
    Caller(Option<u64>),
}

impl Origin {
    /// The client, if it is one.
    pub fn client(self) -> Option<u64> {
        match self {
            Self::Caller(client) => client,
            Self::Server | Self::Schedule => None,
        }
    }

    fn is_caller(self) -> bool {
        matches!(self, Self::Caller(_))
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is being taken.
    Begins,
    /// It is taken when the one under way is over.
    Waits,
}

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// What is asked for.
    pub kind: SnapshotKind,
    /// Who asks.
    pub origin: Origin,
}

/// Whether a request of `origin` begins or waits, `running` being what is taken now and by whose
/// wish, and `is_waiting` whether a request waits for it already.
///
/// # Errors
/// [`CoordinatorError::Busy`] or [`CoordinatorError::BusyBehind`].
pub fn accept(
    origin: Origin,
    running: Option<(SnapshotId, Origin)>,
    is_waiting: bool,
) -> Result<Accepted, CoordinatorError> {
    match running {
        None => Ok(Accepted::Begins),
        Some((id, by)) if by.is_caller() || !origin.is_caller() => Err(CoordinatorError::Busy(id)),
        Some((id, _)) if is_waiting => Err(CoordinatorError::BusyBehind(id)),
        Some(_) => Ok(Accepted::Waits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_waits_behind_what_the_server_takes_by_itself_and_behind_nothing_else() {
        let caller = Origin::Caller(Some(7));
        let all = [Origin::Server, Origin::Schedule, caller, Origin::Caller(None)];
        for origin in all {
            assert_eq!(accept(origin, None, false).unwrap(), Accepted::Begins);
            for by in all {
                for is_waiting in [false, true] {
                    let accepted = accept(origin, Some((SnapshotId(3), by)), is_waiting);
                    match (origin.client(), by, is_waiting) {
                        (_, Origin::Server | Origin::Schedule, false) if origin.is_caller() => {
                            assert_eq!(accepted.unwrap(), Accepted::Waits);
                        }
                        (_, Origin::Server | Origin::Schedule, true) if origin.is_caller() => {
                            let refused = accepted.unwrap_err();
                            assert!(matches!(refused, CoordinatorError::BusyBehind(_)));
                        }
                        _ => assert!(matches!(accepted, Err(CoordinatorError::Busy(_)))),
                    }
                }
            }
        }
        assert_eq!((caller.client(), Origin::Schedule.client()), (Some(7), None));
    }
}
