//! Commands about the connection and the server, which any shard answers: PING, HELLO, CLIENT,
//! CONFIG, INFO, CLUSTER and the like.

use crate::command::table::{CommandId, CommandSpec};
use crate::resp::{Args, Reply};
use crate::types::{DATABASE_COUNT, DbIndex, Position};

use super::connection::Connection;
use super::core::ShardCore;

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
        let mut reply = Reply::new(out, connection.session.version);
        match spec.id {
            CommandId::Ping if args.len() == 1 => reply.simple("PONG"),
            CommandId::Ping | CommandId::Echo => reply.bulk(&args[1]),
            CommandId::Select => {
                let number = std::str::from_utf8(&args[1]).ok().and_then(|text| text.parse().ok());
                match number.filter(|number: &u8| *number < DATABASE_COUNT) {
                    Some(number) => {
                        connection.session.db = DbIndex(number);
                        reply.ok();
                    }
                    None => reply.error("ERR DB index is out of range"),
                }
            }
            CommandId::Quit => {
                connection.closing = true;
                reply.ok();
            }
            _ => crate::command::introspect::command(args, &mut reply),
        }
    }

    /// Copies this shard's counters to where INFO finds them.
    pub(super) fn publish_stats(&mut self) {
        use std::sync::atomic::Ordering::Relaxed;
        let stats = self.shared.stats(self.id);
        for db in 0..DATABASE_COUNT {
            stats.keys[db as usize].store(self.keyspace.len(DbIndex(db)), Relaxed);
        }
        stats.memory_bytes.store(self.keyspace.memory_bytes() as u64, Relaxed);
        stats.log_tail.store(self.journal.tail().0, Relaxed);
        stats.log_durable.store(self.journal.durable().0, Relaxed);
        stats.lsn.store(self.clock.last().0, Relaxed);
    }
}
