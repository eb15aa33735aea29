//! The simulation: whole shards, their disks, mail, clock and clients in one thread, from a seed.
//!
//! [`ShardCore`](cutwater_engine::shard::core::ShardCore) is the shard without I/O; the engine's
//! shell feeds it from the kernel, and [`world`] feeds it from chance instead. Mail between shards
//! and disk operations take as long as chance wants, the clock stands still and leaps, clients send
//! pipelines in pieces and go away. Then the power fails: the disk keeps what was synced and some
//! sectors of the rest, and the engine's own recovery has to make sense of it, maybe failing
//! underway, maybe with another number of shards, maybe from a snapshot.
//!
//! | file | what |
//! |---|---|
//! | [`mod@run`] | one seed: start, serve, crash, again; the checks in between |
//! | [`world`], [`node`] | what can happen while shards serve |
//! | [`boot`] | a start, as the engine makes it |
//! | `drive` | at what tempo, until a write is under way, until all is at rest |
//! | [`sealing`] | what a quarter of the seeds seals its log with, and what somebody does to it |
//! | `coordinator`, [`snapshot`], [`image`] | the coordinator of snapshots, and what they hold |
//! | [`delta`] | what the logs hold between two snapshots |
//! | [`archive`] | what an archiver takes out of the logs meanwhile |
//! | [`client`], [`workload`] | who asks, and for what |
//! | [`model`], [`search`], [`lossy`] | what answers are right, and what may be lost |
//! | [`mutation`] | what is broken on purpose, to see that it is noticed |
//!
//! What is checked, after every crash and at rest:
//!
//! 1. Some order of all requests explains every reply that a client saw *and* the state that
//!    recovery found ([`search`]): nothing acknowledged is lost, nothing seen is taken back,
//!    nothing is half there, and all of it is strictly serializable. Under `everysec` and `never`
//!    requests may be lost, but nothing survives that was built on what did not ([`lossy`]).
//! 2. At rest everybody is answered, and no intent, transaction or parked command is left.
//! 3. The logs alone, and each snapshot with the logs behind it, lead to the same state; and a
//!    snapshot with its tail holds exactly the state at its end. What the logs hold between two
//!    snapshots, folded, makes the newer of the older ([`delta`]).
//! 4. What was archived before a crash is in the logs behind it, no more and no less.
//! 5. A sealed frame that somebody has changed, with a checksum that fits, is never believed.

pub mod archive;
pub mod boot;
pub mod client;
mod coordinator;
pub mod delta;
mod drive;
pub mod image;
pub mod lossy;
pub mod model;
pub mod mutation;
pub mod node;
pub mod rng;
pub mod run;
pub mod sealing;
pub mod search;
pub mod snapshot;
pub mod workload;
pub mod world;

pub use mutation::Mutation;
pub use run::{Failure, Report, run, run_archived};
