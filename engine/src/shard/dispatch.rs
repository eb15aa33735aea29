//! From a command to the shard that executes it.
//!
//! A connection's commands keep their order on every shard: each is executed, forwarded or parked
//! in the order in which it was read. A command on several shards, EXEC and WATCH are barriers:
//! they begin when every earlier reply is there, and nothing later is read before they are over.

use std::borrow::Cow;

use crate::command::table::{CommandFlags, CommandId, CommandSpec, ResolveError, resolve};
use crate::resp::{Args, Reply};
use crate::types::{DbIndex, ShardId};

use super::connection::{Connection, Queued};
use super::coordinate::exec_abort;
use super::core::{AdminRequest, ShardCore};
use super::message::{Call, Forwarded, Mail};
use super::plan::{Place, place};
use super::session::database;

/// Memory of the commands that one MULTI may queue.
const MAX_QUEUED_BYTES: usize = 1 << 30;
/// The reply to what cannot be part of a transaction.
const NOT_IN_TRANSACTION: &str = "ERR Command not allowed inside a transaction";

impl ShardCore {
    /// Runs the commands of a virtual connection until one has to wait.
    pub(super) fn run_queue(&mut self, connection: &mut Connection) {
        while !connection.must_wait() && !self.stopping {
            if self.journal.is_full() {
                return self.starve(connection);
            }
            let Some(args) = connection.queue.pop_front() else { return };
            if !self.command(connection, args.as_args()) {
                connection.queue.push_front(args);
                return;
            }
        }
    }

    /// Handles one command. False if it is a barrier that has to wait for earlier replies.
    pub(super) fn command(&mut self, connection: &mut Connection, args: Args<'_>) -> bool {
        let spec = match resolve(args) {
            Ok(spec) => spec,
            Err(ResolveError::UnknownCommand { .. }) if is_http(args) => {
                connection.closing = true;
                return true;
            }
            Err(error) => {
                let is_exec = matches!(error, ResolveError::Arity { spec } if is_exec(spec));
                self.refuse(connection, &error.text(), is_exec);
                return true;
            }
        };
        connection.active_at_micros = self.clock.now_micros();
        connection.last_command = spec.full_name;
        if let Some(refusal) = self.refusal(connection, spec) {
            self.refuse(connection, &refusal, is_exec(spec));
            return true;
        }
        if connection.session.multi.is_some() && !is_multi_control(spec.id) {
            queue(connection, spec, args);
            return true;
        }
        if self.journal.awaits_segment() && writes(connection, spec) {
            self.starve(connection);
            return false;
        }
        self.shared.stats(self.id).command();
        if spec.id == CommandId::Watch {
            return self.watch(connection, spec, args);
        }
        let place = if connection.own_port && is_per_node(spec.id) {
            Place::One(self.id)
        } else {
            place(spec, args, self.shared.slots)
        };
        match place {
            Place::One(owner) if owner == self.id => {
                self.execute_own(connection, spec, args);
                true
            }
            Place::One(owner) => {
                self.forward(connection, spec, args, owner);
                true
            }
            Place::Several => self.barrier(connection, |core, connection| {
                let call = call(connection, spec, args);
                core.coordinate(connection, vec![call], false);
            }),
            Place::Anywhere => self.keyless(connection, spec, args),
        }
    }

    /// A command without keys: of the session, of a transaction, or of the control plane.
    fn keyless(
        &mut self,
        connection: &mut Connection,
        spec: &'static CommandSpec,
        args: Args<'_>,
    ) -> bool {
        match spec.id {
            CommandId::Multi => self.multi(connection),
            CommandId::Discard => self.discard(connection),
            CommandId::Unwatch => {
                self.unwatch(connection);
                connection.reply(|reply| reply.ok());
            }
            CommandId::Exec => {
                return self.barrier(connection, |core, connection| core.exec(connection));
            }
            id if is_admin(id) => {
                return self.barrier(connection, |core, connection| {
                    core.ask_control_plane(connection, args);
                });
            }
            _ => self.session_command(connection, spec, args),
        }
        true
    }

    /// Why a command is not run at all, as an error reply.
    fn refusal(&self, connection: &Connection, spec: &CommandSpec) -> Option<Cow<'static, str>> {
        if !connection.session.authenticated && !spec.flags.contains(CommandFlags::NO_AUTH) {
            return Some("NOAUTH Authentication required.".into());
        }
        if connection.session.multi.is_some() && spec.flags.contains(CommandFlags::NO_MULTI) {
            return Some(NOT_IN_TRANSACTION.into());
        }
        if self.is_loading() && !spec.flags.contains(CommandFlags::LOADING) {
            return Some(self.shared.loading_error().into());
        }
        // Of any shard: they share a disk, and a command may end up on another than this.
        if writes(connection, spec) && self.shared.is_out_of_space() {
            return Some(self.shared.out_of_space_error().into());
        }
        None
    }

    /// The connection goes on when the log does.
    pub(super) fn starve(&mut self, connection: &mut Connection) {
        if !connection.starved {
            connection.starved = true;
            self.starved.push(connection.id);
        }
    }

    /// Commands that waited for the log go on, once it takes more or is known to have no room.
    pub(super) fn feed_starved(&mut self) {
        if self.starved.is_empty() && !self.awaits_room || self.journal.awaits_segment() {
            return;
        }
        if std::mem::take(&mut self.awaits_room) {
            self.retry_parked();
            self.retry_roomless();
        }
        if self.starved.is_empty() || self.journal.is_full() {
            return;
        }
        for conn in std::mem::take(&mut self.starved) {
            if let Some(connection) = self.connections.get_mut(conn) {
                connection.starved = false;
            }
            self.mark_dirty(conn);
        }
    }

    /// Answers an error; inside MULTI it also breaks the transaction, and ends it if it is EXEC
    /// that cannot run.
    fn refuse(&mut self, connection: &mut Connection, text: &str, is_exec: bool) {
        if is_exec {
            connection.session.multi = None;
            self.unwatch(connection);
            return connection.error(&exec_abort(text));
        }
        if let Some(queued) = &mut connection.session.multi {
            queued.broken = true;
        }
        connection.error(text);
    }

    /// Runs a barrier if every earlier reply is there.
    fn barrier(
        &mut self,
        connection: &mut Connection,
        run: impl FnOnce(&mut Self, &mut Connection),
    ) -> bool {
        if connection.replies.awaited() > 0 {
            return false;
        }
        run(self, connection);
        true
    }

    fn forward(
        &mut self,
        connection: &mut Connection,
        spec: &'static CommandSpec,
        args: Args<'_>,
        owner: ShardId,
    ) {
        self.shared.stats(self.id).forwarded();
        let slot = connection.replies.await_reply();
        let (conn, version) = (connection.id, connection.session.version);
        let call = call(connection, spec, args);
        self.post(
            owner,
            Mail::Command(Box::new(Forwarded { from: self.id, conn, slot, version, call })),
        );
    }

    fn ask_control_plane(&mut self, connection: &mut Connection, args: Args<'_>) {
        connection.blocked = true;
        self.effects.admin.push(AdminRequest {
            conn: connection.id,
            client_id: connection.client_id,
            slot: connection.replies.await_reply(),
            version: connection.session.version,
            args: args.to_buf(),
        });
    }

    /// The shard whose key RANDOMKEY answers: chosen by how many of the database it has, as far as
    /// is known here.
    pub(super) fn random_shard(&mut self, id: CommandId, db: DbIndex) -> ShardId {
        if id != CommandId::RandomKey {
            return self.id;
        }
        let random = self.next_random();
        self.shared.shard_by_keys(db, random)
    }

    /// A random number that the seed determines (splitmix64).
    pub(super) fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn multi(&mut self, connection: &mut Connection) {
        if connection.session.multi.is_some() {
            return connection.error("ERR MULTI calls can not be nested");
        }
        connection.session.multi = Some(Queued::default());
        connection.reply(|reply| reply.ok());
    }

    fn watch(
        &mut self,
        connection: &mut Connection,
        spec: &'static CommandSpec,
        args: Args<'_>,
    ) -> bool {
        if connection.session.multi.is_some() {
            connection.error("ERR WATCH inside MULTI is not allowed");
            return true;
        }
        self.barrier(connection, |core, connection| {
            let call = call(connection, spec, args);
            core.coordinate(connection, vec![call], false);
        })
    }

    fn discard(&mut self, connection: &mut Connection) {
        if connection.session.multi.take().is_none() {
            return connection.error("ERR DISCARD without MULTI");
        }
        self.unwatch(connection);
        connection.reply(|reply| reply.ok());
    }

    fn exec(&mut self, connection: &mut Connection) {
        let Some(queued) = connection.session.multi.take() else {
            return connection.error("ERR EXEC without MULTI");
        };
        if queued.broken {
            self.unwatch(connection);
            return connection.error("EXECABORT Transaction discarded because of previous errors.");
        }
        // A SELECT among them is for what comes after it, and is carried out when all is done.
        let mut db = connection.session.db;
        let mut calls = queued.calls;
        for call in &mut calls {
            call.db = db;
            if call.spec.id == CommandId::Select
                && let Ok(selected) = database(call.args.as_args())
            {
                db = selected;
            }
        }
        self.shared.stats(self.id).queued_commands(calls.len());
        self.coordinate(connection, calls, true);
    }

    /// The reply of a command without keys inside EXEC.
    pub(super) fn answer_in_exec(&mut self, connection: &mut Connection, call: &Call) -> Vec<u8> {
        let args = call.args.as_args();
        let mut reply = Vec::new();
        if is_admin(call.spec.id) {
            Reply::new(&mut reply, connection.session.version).error(NOT_IN_TRANSACTION);
        } else {
            self.session_reply(connection, call.spec, args, &mut reply);
        }
        reply
    }
}

/// The commands that mean themselves also between MULTI and EXEC.
fn is_multi_control(id: CommandId) -> bool {
    use CommandId as C;
    matches!(id, C::Multi | C::Exec | C::Discard | C::Quit | C::Reset | C::Watch)
}

/// Every cluster client scans node by node: on a shard's own port SCAN goes through the keys of
/// that shard, so that none comes up once for each shard. DBSIZE and KEYS are sent to one node by
/// some clients and to all by others; they concern the whole database on every port.
fn is_per_node(id: CommandId) -> bool {
    id == CommandId::Scan
}

/// The commands that the control plane answers.
fn is_admin(id: CommandId) -> bool {
    use CommandId as C;
    matches!(
        id,
        C::SnapshotCreate
            | C::SnapshotList
            | C::SnapshotShow
            | C::SnapshotVerify
            | C::SnapshotDelete
            | C::SnapshotCancel
            | C::SnapshotRekey
            | C::SnapshotPin
            | C::SnapshotUnpin
            | C::SnapshotPrune
            | C::SnapshotStatus
            | C::BgSave
            | C::Save
            | C::LastSave
            | C::Shutdown
    )
}

/// Whether a command may add to the log.
fn writes(connection: &Connection, spec: &CommandSpec) -> bool {
    let is_write = |spec: &CommandSpec| spec.flags.contains(CommandFlags::WRITE);
    match &connection.session.multi {
        Some(queued) if is_exec(spec) => queued.calls.iter().any(|call| is_write(call.spec)),
        _ => is_write(spec),
    }
}

fn is_exec(spec: &CommandSpec) -> bool {
    spec.id == CommandId::Exec
}

/// Whether this is a line of an HTTP request: a page in a browser may POST to any port of this
/// machine, and what it sends must not be taken for commands.
fn is_http(args: Args<'_>) -> bool {
    let is = |name: &[u8]| args.get(0).is_some_and(|arg| arg.eq_ignore_ascii_case(name));
    is(b"post") || is(b"host:")
}

fn call(connection: &Connection, spec: &'static CommandSpec, args: Args<'_>) -> Call {
    let mut args = args.to_buf();
    if spec.id == CommandId::ClientKill {
        // Shards that execute it have to know whom to spare, or to answer before it goes.
        args.push(connection.client_id.to_string().as_bytes());
    }
    Call { spec, db: connection.session.db, args }
}

fn queue(connection: &mut Connection, spec: &'static CommandSpec, args: Args<'_>) {
    let call = call(connection, spec, args);
    let size_bytes = call.args.size_bytes();
    let queued = connection.session.multi.as_mut().expect("MULTI is open");
    if queued.size_bytes + size_bytes > MAX_QUEUED_BYTES {
        queued.broken = true;
        return connection.error("ERR too many bytes are queued in this transaction");
    }
    queued.size_bytes += size_bytes;
    queued.calls.push(call);
    connection.reply(|reply| reply.simple("QUEUED"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table::lookup;

    /// One that is forgotten in [`is_admin`] would be answered as COMMAND is.
    #[test]
    fn the_control_plane_answers_every_command_about_snapshots() {
        let snapshot = lookup(b"snapshot").unwrap();
        for spec in snapshot.subcommands.iter().filter(|spec| spec.id != CommandId::SnapshotHelp) {
            assert!(is_admin(spec.id), "{}", spec.name);
        }
    }
}
