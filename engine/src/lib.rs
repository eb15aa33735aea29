//! The shards of Cutwater: keyspace, commands, log, network, and the embeddable [`Engine`].
//!
//! Every CPU owns one shard, a thread with its own keys, log and sockets; nothing is shared between
//! shards but messages. A shard is in two parts. [`shard`] is its core, without I/O, which the
//! simulation drives from a seed; [`mod@engine`] holds the shell that feeds the core from the ring,
//! the disk and the mailboxes, and everything that starts and ends shards. This crate knows
//! glommio; it knows neither tokio nor object stores.
//!
//! | module | what | does I/O |
//! |---|---|---|
//! | [`types`], [`slot`], [`clock`] | LSNs and other newtypes; key to slot to shard; the hybrid
//! clock | reads it |
//! | [`entry`] | the one codec of changes: for log records *and* snapshot chunks | no |
//! | [`resp`] | bytes to requests, replies to bytes | no |
//! | [`command`] | the table of commands, and a file a family | no |
//! | [`keyspace`] | a small hash table for each slot; expiry; the view that a snapshot walks | no |
//! | [`log`] | records, frames, segments, group commit, recovery | `log/disk.rs` |
//! | [`seal`] | AES-256-GCM, and the keys for it: for the log, snapshots and the archive | no |
//! | [`net`] | the `io_uring` of a shard, doorbells, mailboxes | yes |
//! | [`shard`] | the shard actor: routing, transactions, replies that wait, the cut | no |
//! | [`mod@engine`] | open, load, serve, snapshot, close | yes |
//!
//! # The journey of a write
//!
//! 1. `net/ring.rs`: bytes arrive in a provided buffer; `engine/shell.rs` takes them out, reads the
//!    clock, and hands them to the core.
//! 2. `shard/input.rs` and `resp/decode.rs`: bytes become requests.
//! 3. `shard/dispatch.rs`: which command (`command/table.rs`), which slots, whose shard
//!    (`slot.rs`). Keys of one other shard: a message by `net/mailbox.rs`. Keys of several:
//!    `shard/coordinate.rs`, `shard/intent.rs` and `shard/participate.rs` prepare the command
//!    durably everywhere, then apply it.
//! 4. `shard/execute.rs` and the command's file, such as `command/string.rs`: it is applied to
//!    `keyspace/mod.rs`, and says what it changed as an [`entry::Op`].
//! 5. `shard/journal.rs`, `log/record.rs`, `log/writer.rs`: the change becomes a record under an
//!    LSN of `clock.rs`, and the record part of the next group commit.
//! 6. `engine/shell/outward.rs`: the block goes to the ring in the same system call as the replies.
//! 7. `shard/gate.rs`: the reply waits until the log is durable up to what it reveals; then
//!    `shard/connection.rs` sends it. Nobody ever sees a change that a crash can take back.
//!
//! # The journey of a snapshot
//!
//! 1. `engine/mod.rs`: `Engine::create_snapshot` picks a cut, a little ahead of now, and tells
//!    every shard.
//! 2. `shard/cut.rs`: when its clock reaches the cut, a shard freezes its view, and reports the
//!    LSN (its watermark) and the place in its log.
//! 3. `keyspace/walk.rs`: the view is serialized a slice a turn. A write that comes first to a
//!    group of entries that the walk has not reached has it serialized before it changes it.
//! 4. `shard/cut.rs` again: what was written between the watermark and the end of the snapshot
//!    follows as a tail, and the log becomes durable past it.
//! 5. `engine/snapshot.rs`: one bounded stream of chunks for each shard, for whoever stores them:
//!    the crates above, or the program that embeds the engine.
//!
//! # The journey of a restart
//!
//! 1. `engine/open.rs`: the machine is checked, the directory locked (`engine/lock.rs`).
//! 2. `log/start.rs`, `log/reader.rs`: what earlier starts decided, and what their logs hold. An
//!    unfinished commit is cut off; damage below what was durable ends the start.
//! 3. `log/recovery.rs` and `log/resolve.rs`: a transaction that some participant does not have is
//!    dropped on all. What was decided is written down durably before anything is served.
//! 4. `engine/threads.rs` starts the shards; `engine/load.rs` hands them an image
//!    ([`ImageSource`], the newest whose logs reach back to it), and then the logs that continue
//!    it, each op to the shard that owns its slot *now*. `shard/load.rs` applies them.
//! 5. Every shard goes on above every LSN that was found, in fresh segments of its own log
//!    (`engine/provider.rs`), and serves.

pub mod clock;
pub mod command;
pub mod engine;
pub mod entry;
pub mod keyspace;
pub mod log;
pub mod net;
pub mod resp;
pub mod seal;
pub mod shard;
pub mod slot;
pub mod types;

pub use engine::{Client, Engine, EngineConfig, ImageSource, SnapshotError as SnapshotStreamError};
