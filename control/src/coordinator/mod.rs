//! The coordinator: one actor on the tokio side that takes snapshots, keeps the catalog, takes a
//! checkpoint when the log has grown, and lets the log go that the checkpoints cover.
//!
//! | file | what |
//! |---|---|
//! | [`message`] | what it is asked, and how one asks |
//! | [`request`] | who asks for a snapshot, and who waits |
//! | `actor` | the actor: one request at a time, at most one job beside it |
//! | `job` | one snapshot: freeze, write the parts, publish |
//! | [`delta`] | what changed since another snapshot, out of the log |
//! | `growth` | how much log has come since the checkpoints |
//! | `readback` | new snapshots that are read before anything rests on them |
//! | [`image`] | a snapshot as the engine's start reads it |
//! | [`remote`] | the role of the remote store's writer |
//! | [`archive`] | the log on its way to the remote store |
//! | [`upload`] | snapshots on their way to the remote store |
//! | `verification` | snapshots that are being verified |
//! | [`work`] | how far a piece of work is, and whether it is still wanted |
//! | [`schedule`] | snapshots that are due by themselves |
//! | [`retention`] | what may go, here and in the remote store |
//! | [`pins`] | what may not |
//! | `recycle` | which log the two newest checkpoints make superfluous |

mod actor;
pub mod archive;
pub mod behind;
pub mod delta;
mod growth;
pub mod image;
mod job;
pub mod message;
pub mod pins;
mod readback;
pub(crate) mod recycle;
pub mod remote;
pub mod request;
pub mod retention;
pub mod schedule;
pub mod upload;
mod verification;
pub mod work;

pub use actor::{CoordinatorSetup, start};
pub(crate) use job::{Form, gather_digests, take as take_snapshot};
pub use message::{CoordinatorError, Deleted, Handle, RemoteStatus, Status, Taken, UploadProgress};
