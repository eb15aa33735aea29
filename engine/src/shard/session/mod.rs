//! Commands about the connection and the server, which any shard answers: PING, HELLO, CLIENT,
//! CONFIG, INFO, CLUSTER and the like.
//!
//! | file | commands |
//! |---|---|
//! | `connection` | PING ECHO HELLO AUTH SELECT QUIT RESET |
//! | `client` | CLIENT; LIST and KILL are executed on every shard |
//! | `config` | CONFIG GET and SET |
//! | `info` | INFO and TIME |
//! | `cluster` | CLUSTER, but for what looks at the keys of a slot |
//!
//! COMMAND and every HELP are in [`crate::command::introspect`]. Replies and error texts are those
//! of Redis 7.2. Nothing here reveals a key, so no reply waits for the log.

mod client;
mod cluster;
mod config;
mod connection;
mod info;

pub(super) use connection::database;

use std::sync::atomic::Ordering::Relaxed;

use crate::command::table::{CommandId, CommandSpec};
use crate::command::{Lookups, introspect};
use crate::net::ConnId;
use crate::resp::{Args, Reply};
use crate::slot::slot_of;
use crate::types::{DATABASE_COUNT, DbIndex, Position, ShardId};

use super::connection::Connection;
use super::core::ShardCore;
use super::shared::bump;

/// The version of Redis whose commands, replies and errors these are.
pub const REDIS_VERSION: &str = "7.2.4";
/// The version of Cutwater.
pub const CUTWATER_VERSION: &str = env!("CARGO_PKG_VERSION");

/// How often idle connections are looked for and rates are counted anew, in microseconds.
const HOUSEKEEPING_INTERVAL_MICROS: u64 = 1_000_000;

/// What a shard does about once a second.
#[derive(Debug, Default)]
pub(super) struct Housekeeping {
    /// The next time, in microseconds since the Unix epoch.
    next_micros: u64,
    /// When it was done last, and how many commands there had been.
    last: (u64, u64),
}

impl ShardCore {
    /// Answers a command of the session, outside of EXEC.
    pub(super) fn session_command(
        &mut self,
        connection: &mut Connection,
        spec: &'static CommandSpec,
        args: Args<'_>,
    ) {
        let mut reply = Vec::new();
        self.session_reply(connection, spec, args, &mut reply);
        connection.replies.push(|out| {
            out.extend_from_slice(&reply);
            Position(0)
        });
    }

    /// Writes the reply of a command of the session.
    pub(super) fn session_reply(
        &mut self,
        connection: &mut Connection,
        spec: &'static CommandSpec,
        args: Args<'_>,
        out: &mut Vec<u8>,
    ) {
        use CommandId as C;
        let mut reply = Reply::new(out, connection.session.version);
        let reply = &mut reply;
        match spec.id {
            C::Ping => connection::ping(args, reply),
            C::Echo => reply.bulk(&args[1]),
            C::Select => connection::select(connection, args, reply),
            C::Quit => connection::quit(connection, reply),
            C::Hello => self.hello(connection, args, out),
            C::Auth => self.auth(connection, args, reply),
            C::Reset => self.reset(connection, reply),
            // Inside EXEC the watches are over already.
            C::Unwatch => reply.ok(),
            C::ClientId => reply.integer(connection.client_id as i64),
            C::ClientGetName => client::get_name(connection, reply),
            C::ClientSetName => client::set_name(connection, args, reply),
            C::ClientSetInfo => client::set_info(connection, args, reply),
            C::ClientInfo => self.client_info(connection, reply),
            C::ConfigGet => config::get(&self.shared, args, reply),
            C::ConfigSet => config::set(&self.shared, args, reply),
            C::Info => self.info(args, reply),
            C::Time => info::time(self.clock.now_micros(), reply),
            C::ClusterKeySlot => reply.integer(i64::from(slot_of(&args[2]).0)),
            C::ClusterSlots
            | C::ClusterShards
            | C::ClusterNodes
            | C::ClusterInfo
            | C::ClusterMyId => self.cluster(connection, spec.id, reply),
            C::ClientHelp | C::ConfigHelp | C::SnapshotHelp | C::ClusterHelp => {
                introspect::help(args, reply);
            }
            _ => introspect::command(args, reply),
        }
    }

    /// A connection begins: whether it must authenticate, and whether it may stay at all.
    pub(super) fn admit(&mut self, connection: &mut Connection) {
        let (password, limit) = {
            let settings = self.shared.settings();
            (settings.requires_password(), settings.max_clients)
        };
        connection.session.authenticated = !password;
        let is_full = self.shared.sum(|stats| &stats.connections) >= limit;
        let stats = self.shared.stats(self.id);
        stats.accepted();
        if is_full {
            bump(&stats.connections_rejected, 1);
            connection.error("ERR max number of clients reached");
            connection.closing = true;
        }
    }

    /// Copies this shard's counters to where INFO finds them.
    pub(super) fn publish_stats(&mut self) {
        self.housekeep();
        let stats = self.shared.stats(self.id);
        for db in 0..DATABASE_COUNT {
            let (at, db) = (usize::from(db), DbIndex(db));
            stats.keys[at].store(self.keyspace.len(db), Relaxed);
            stats.expiring[at].store(self.keyspace.expiring_len(db), Relaxed);
        }
        let Lookups { hits, misses } = self.changes.lookups;
        stats.keyspace_hits.store(hits, Relaxed);
        stats.keyspace_misses.store(misses, Relaxed);
        stats.memory_bytes.store(self.keyspace.memory_bytes() as u64, Relaxed);
        stats.log_tail.store(self.journal.tail().0, Relaxed);
        // Without a log everything is durable, also what comes.
        stats.log_durable.store(self.journal.durable().min(self.journal.tail()).0, Relaxed);
        stats.log_bytes.store(self.journal.retained_bytes(), Relaxed);
        stats.lsn.store(self.clock.last().0, Relaxed);
    }

    /// Ends a connection without waiting for what it has not read yet.
    fn drop_connection(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(conn)
            && !connection.dropped
        {
            connection.closing = true;
            connection.dropped = true;
            self.effects.closes.push(conn);
        }
    }

    fn housekeep(&mut self) {
        let now_micros = self.clock.now_micros();
        if now_micros < self.housekeeping.next_micros {
            return;
        }
        self.housekeeping.next_micros = now_micros + HOUSEKEEPING_INTERVAL_MICROS;
        let stats = self.shared.stats(self.id);
        let (last_micros, last_commands) = self.housekeeping.last;
        let commands = stats.commands.load(Relaxed);
        self.housekeeping.last = (now_micros, commands);
        let elapsed_micros = now_micros.saturating_sub(last_micros).max(1);
        let rate = (commands - last_commands).saturating_mul(1_000_000) / elapsed_micros;
        stats.commands_per_second.store(rate, Relaxed);
        if self.id == ShardId(0) {
            // For the peak.
            self.shared.memory_and_peak_bytes();
        }
        let timeout_s = self.shared.settings().timeout_s;
        if timeout_s > 0 {
            self.close_idle(now_micros.saturating_sub(timeout_s.saturating_mul(1_000_000)));
        }
    }

    /// Closes connections that have waited for nothing and sent nothing since.
    fn close_idle(&mut self, since_micros: u64) {
        let is_idle = |connection: &&Connection| {
            connection.active_at_micros < since_micros
                && !connection.blocked
                && connection.replies.awaited() == 0
        };
        let idle: Vec<ConnId> =
            self.connections.sockets().filter(is_idle).map(|connection| connection.id).collect();
        idle.into_iter().for_each(|conn| self.drop_connection(conn));
    }
}
