//! What shards say to each other. One enum; every variant says who sends it, what it is answered
//! with, and why it cannot be lost.
//!
//! Mail between two shards of one process arrives in the order in which it was sent, and is lost
//! only when the process ends: then every shard is lost with it, and the log decides (DESIGN §4).
//! Every batch carries its sender's clock, and the receiver moves past it before it reads the rest.

use std::sync::Arc;

use crate::command::table::CommandSpec;
use crate::keyspace::OwnedEntry;
use crate::net::ConnId;
use crate::resp::{ArgsBuf, RespVersion};
use crate::types::{DbIndex, LogId, Lsn, ShardId};

use super::intent::{Claim, DbKey, Ticket};

/// One message between two shards.
#[derive(Debug)]
pub enum Mail {
    /// Begins what a shard sends in one turn: its clock, at or above every LSN that the rest
    /// depends on. The receiver moves past it.
    Clock(Lsn),
    /// The shard of a connection, to the owner of the command's keys. Answered with [`Mail::Reply`]
    /// once what it reveals is durable.
    Command(Box<Forwarded>),
    /// The owner, to the shard of the connection. Not answered.
    Reply {
        /// The connection that waits.
        conn: ConnId,
        /// Its reply slot.
        slot: u64,
        /// The encoded reply.
        reply: Vec<u8>,
    },
    /// A coordinator whose transaction has this shard as its only participant. Executed in one
    /// turn like a plain command, and answered with [`Mail::Executed`] once it is durable.
    ExecuteHere(Box<ExecuteHere>),
    /// Step 1: a coordinator asks a participant for intents. Answered with [`Mail::Granted`], maybe
    /// much later, or [`Mail::Refused`].
    Intend(Box<Intend>),
    /// A participant holds what was asked. It keeps it until `Apply` or `Release`.
    Granted(Box<Granted>),
    /// A participant cannot wait under this ticket; it holds nothing. The coordinator releases the
    /// others and comes again behind `holder`.
    Refused {
        /// The refused ticket.
        ticket: Ticket,
        /// The highest ticket in its way.
        holder: Ticket,
    },
    /// Step 2: the coordinator has tasks executed under the intents, on copies of their keys.
    /// Answered with [`Mail::Executed`]. There can be several rounds.
    Execute {
        /// The transaction.
        ticket: Ticket,
        /// The instant of the transaction, in milliseconds since the Unix epoch.
        now_ms: u64,
        /// In the order of the commands.
        tasks: Vec<Task>,
    },
    /// The results of [`Mail::Execute`] or [`Mail::ExecuteHere`], in the order of the tasks.
    Executed {
        /// The transaction.
        ticket: Ticket,
        /// The participant.
        from: ShardId,
        /// One for each task; empty if nothing was executed.
        results: Vec<TaskResult>,
        /// Why nothing was executed (`ExecuteHere`).
        refusal: Option<Refusal>,
    },
    /// Step 3: the coordinator has fixed the LSN; the participant logs its part. Answered with
    /// [`Mail::Logged`] when that is durable (at once under `everysec` and `never`).
    Commit {
        /// The transaction.
        ticket: Ticket,
        /// The one LSN of its records.
        lsn: Lsn,
        /// The log of the coordinator.
        coordinator: LogId,
        /// The logs of all participants, this one too.
        participants: Arc<[LogId]>,
    },
    /// A participant's part is durable.
    Logged {
        /// The transaction.
        ticket: Ticket,
    },
    /// Step 4: durable everywhere. The participant applies its part and gives the intents back.
    Apply {
        /// The transaction.
        ticket: Ticket,
    },
    /// The coordinator gives intents back unused: a pure read, a refusal elsewhere, a failed WATCH.
    Release {
        /// The transaction.
        ticket: Ticket,
        /// What it has begun here is void, the keys that it watches too: it comes again under
        /// another ticket, or not at all.
        void: bool,
    },
    /// A connection's shard, to the owner: these watches are over. Not answered.
    Unwatch {
        /// The keys, one for each time they were watched.
        keys: Vec<DbKey>,
    },
}

/// A command that came to a shard which does not own its keys.
#[derive(Debug)]
pub struct Forwarded {
    /// The shard of the connection.
    pub from: ShardId,
    /// The connection that waits for the reply.
    pub conn: ConnId,
    /// Its reply slot.
    pub slot: u64,
    /// How to encode the reply.
    pub version: RespVersion,
    /// The command.
    pub call: Call,
}

/// A command with its arguments, ready to be executed on a shard.
#[derive(Clone, Debug)]
pub struct Call {
    /// Which command.
    pub spec: &'static CommandSpec,
    /// The connection's database.
    pub db: DbIndex,
    /// Its arguments, the name first.
    pub args: ArgsBuf,
}

/// A watched key and what it was when WATCH saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedKey {
    /// The key.
    pub key: DbKey,
    /// The count of changes of the key on its shard.
    pub version: u64,
    /// Whether the key existed: one that expires before EXEC has changed.
    pub existed: bool,
}

/// A transaction with one participant.
#[derive(Debug)]
pub struct ExecuteHere {
    /// Names it to its coordinator; no intent is taken.
    pub ticket: Ticket,
    /// The coordinator and the connection: keeps that connection's commands in order.
    pub from: (ShardId, ConnId),
    /// How to encode replies.
    pub version: RespVersion,
    /// All must be unchanged.
    pub watched: Vec<WatchedKey>,
    /// In order, as one atomic record.
    pub tasks: Vec<Task>,
}

/// A request for intents.
#[derive(Debug)]
pub struct Intend {
    /// The transaction, and its place in the queue.
    pub ticket: Ticket,
    /// What it needs here.
    pub claim: Claim,
    /// Checked when the claim is granted.
    pub watched: Vec<WatchedKey>,
    /// How to encode replies.
    pub version: RespVersion,
    /// The tasks of a pure read, done with the grant; empty otherwise.
    pub reads: Vec<Task>,
}

/// A grant.
#[derive(Debug)]
pub struct Granted {
    /// The transaction.
    pub ticket: Ticket,
    /// The participant.
    pub shard: ShardId,
    /// The participant's clock: the LSN must be above it.
    pub clock: Lsn,
    /// Why the transaction must not go on. For want of room nothing is held.
    pub refusal: Option<Refusal>,
    /// What was found, and for how long it holds.
    pub found: Found,
    /// The results of the reads; what they reveal is durable.
    pub results: Vec<TaskResult>,
}

/// How long what a participant found under its intents stays true: nobody changes the keys, but
/// they may expire. All in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// When it looked.
    pub at_ms: u64,
    /// When the first of the keys that the reads saw expires (exclusive); never is `u64::MAX`.
    pub reads_until_ms: u64,
    /// When the first of the watched keys expires.
    pub watched_until_ms: u64,
}

/// Why a participant wants a transaction not to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A watched key had changed.
    WatchFailed,
    /// The log has no room.
    NoRoom,
}

/// One thing that a transaction does on one shard.
#[derive(Debug)]
pub enum Task {
    /// A command, or the part of it that concerns this shard.
    Call(Call),
    /// Takes an owned copy of an entry, for RENAME and COPY to another shard.
    Fetch(DbKey),
    /// Sets a key to a fetched entry.
    Store(DbKey, Box<OwnedEntry>),
    /// Watches keys from here on.
    Watch(Vec<DbKey>),
}

/// What a [`Task`] gives.
#[derive(Debug)]
pub enum TaskResult {
    /// The encoded reply of a call.
    Reply(Vec<u8>),
    /// A fetched entry.
    Entry(Option<Box<OwnedEntry>>),
    /// A store is done.
    Stored,
    /// The watches as they stand.
    Watching(Vec<WatchedKey>),
}
