//! Executing a command on the shard that owns its keys: apply, record, and say what its reply has
//! to wait for.
//!
//! A command that meets an intent on one of its keys is parked, and with it everything later of
//! the same connection on this shard, so that a connection's commands keep their order.

use crate::command::table::{CommandFlags, CommandId, CommandSpec, Group, KeyRange};
use crate::command::{self, Context};
use crate::keyspace::KeyRef;
use crate::resp::{Args, Reply, RespVersion};
use crate::types::{DbIndex, Fsync, Lsn, Position, ShardId};

use crate::net::ConnId;

use super::connection::Connection;
use super::core::ShardCore;
use super::intent::DbKey;
use super::message::{Call, ExecuteHere, Forwarded, Mail, Refusal, Task, TaskResult, WatchedKey};
use super::parked::Job;

impl ShardCore {
    /// A command of a connection of this shard.
    pub(super) fn execute_own(
        &mut self,
        connection: &mut Connection,
        spec: &'static CommandSpec,
        args: Args<'_>,
    ) {
        let (db, version) = (connection.session.db, connection.session.version);
        let from = (self.id, connection.id);
        if self.must_park(from, spec, db, args) {
            let slot = connection.replies.await_reply();
            let call = Call { spec, db, args: args.to_buf() };
            let forwarded = Forwarded { from: self.id, conn: connection.id, slot, version, call };
            return self.parked.push(from, Job::Call(forwarded));
        }
        self.as_node = connection.own_port;
        connection.replies.push(|out| self.perform(spec, db, args, version, out));
        self.as_node = false;
    }

    /// A command of a connection of another shard.
    pub(super) fn execute_forwarded(&mut self, forwarded: Forwarded) {
        let Call { spec, db, args } = &forwarded.call;
        let origin = (forwarded.from, forwarded.conn);
        if self.must_park(origin, spec, *db, args.as_args()) {
            return self.parked.push(origin, Job::Call(forwarded));
        }
        let job = Job::Call(forwarded);
        if self.waits_for_room(&job) {
            return self.parked.push(origin, job);
        }
        self.run_job(job);
    }

    /// A transaction whose only participant is this shard.
    pub(super) fn execute_here(&mut self, request: ExecuteHere) {
        if self.must_park_transaction(&request) {
            return self.parked.push(request.from, Job::Here(request));
        }
        let (origin, job) = (request.from, Job::Here(request));
        if self.waits_for_room(&job) {
            return self.parked.push(origin, job);
        }
        self.run_job(job);
    }

    /// Tries everything that is parked again, in the order in which it came.
    pub(super) fn retry_parked(&mut self) {
        for origin in self.parked.origins() {
            while let Some(job) = self.parked.take_first(origin) {
                if self.is_blocked(&job) || self.waits_for_room(&job) {
                    self.parked.put_back(origin, job);
                    break;
                }
                self.run_job(job);
            }
        }
    }

    /// Whether a job has to wait until it is known if the log has room: executed now, it might get
    /// no reply for as long as there is none.
    fn waits_for_room(&mut self, job: &Job) -> bool {
        let waits = self.journal.awaits_segment() && job.writes();
        self.awaits_room |= waits;
        waits
    }

    fn run_job(&mut self, job: Job) {
        let refused = self.journal.is_out_of_space() && job.writes();
        match job {
            Job::Call(forwarded) if refused => {
                let Forwarded { conn, slot, version, from, .. } = forwarded;
                let mut reply = Vec::new();
                Reply::new(&mut reply, version).error(&self.shared.out_of_space_error());
                self.answer_from(from, conn, slot, reply, Position(0));
            }
            Job::Call(forwarded) => self.run_call(forwarded),
            Job::Here(request) if refused => {
                let ticket = request.ticket;
                let (results, refusal) = (Vec::new(), Some(Refusal::NoRoom));
                self.post(ticket.shard, Mail::Executed { ticket, from: self.id, results, refusal });
            }
            Job::Here(request) => self.run_here(request),
        }
    }

    /// Answers a command of a connection of this or another shard.
    fn answer_from(
        &mut self,
        from: ShardId,
        conn: ConnId,
        slot: u64,
        reply: Vec<u8>,
        gate: Position,
    ) {
        if from == self.id {
            self.answer(conn, slot, reply, gate);
        } else {
            self.post_durable(from, Mail::Reply { conn, slot, reply }, gate);
        }
    }

    /// Executes one command and writes its reply. Answers the position that must be durable before
    /// the reply may leave.
    pub(super) fn perform(
        &mut self,
        spec: &'static CommandSpec,
        db: DbIndex,
        args: Args<'_>,
        version: RespVersion,
        out: &mut Vec<u8>,
    ) -> Position {
        let write = spec.flags.contains(CommandFlags::WRITE);
        // Before the change, not after it: taking an LSN can freeze the view of a snapshot.
        let lsn = if write { Some(self.next_lsn()) } else { None };
        self.changes.reset(write && self.must_encode());
        self.run(spec.id, db, args, self.clock.now_ms(), version, out);
        match lsn {
            Some(lsn) if !self.changes.is_empty() => {
                let position = self.record(lsn);
                self.touch(spec, db, args, position);
                self.gated(position)
            }
            _ => self.gate_of(spec, db, args),
        }
    }

    /// Runs a command on the keyspace; the changes are in `self.changes`.
    fn run(
        &mut self,
        id: CommandId,
        db: DbIndex,
        args: Args<'_>,
        now_ms: u64,
        version: RespVersion,
        out: &mut Vec<u8>,
    ) {
        match id {
            CommandId::ClientList => {
                return self.client_list(args, &mut Reply::new(out, version));
            }
            CommandId::ClientKill => {
                return self.client_kill(args, &mut Reply::new(out, version));
            }
            _ => {}
        }
        let random = if id == CommandId::RandomKey { self.next_random() } else { 0 };
        let mut context = Context::new(db, now_ms, &mut self.keyspace, &mut self.changes)
            .with_random(random)
            .as_node(self.as_node);
        command::execute(id, &mut context, args, &mut Reply::new(out, version));
    }

    /// Whether anybody needs the changes as ops.
    pub(super) fn must_encode(&self) -> bool {
        self.journal.is_on() || self.cut.wants_tail() || !self.watches.is_empty()
    }

    /// Records the changes of the command under way, as one record.
    pub(super) fn record(&mut self, lsn: Lsn) -> Position {
        let position = self.journal.append(lsn, None, &self.changes.ops);
        self.cut.tee(lsn, &self.changes.ops);
        self.watches.changed(&self.changes.ops);
        position
    }

    /// Notes the last change of the slots that a command wrote.
    fn touch(&mut self, spec: &CommandSpec, db: DbIndex, args: Args<'_>, position: Position) {
        if spec.keys == KeyRange::NONE {
            return self.touch_all(position);
        }
        for index in spec.keys(args.len()) {
            let slot = self.keyspace.key(db, &args[index]).slot;
            self.keyspace.touch(slot, position);
        }
    }

    /// What a read of these keys has to wait for: the last change of their slots.
    fn gate_of(&self, spec: &CommandSpec, db: DbIndex, args: Args<'_>) -> Position {
        if self.journal.fsync() != Fsync::Always {
            return Position(0);
        }
        if spec.group == Group::Connection {
            return Position(0);
        }
        if spec.keys == KeyRange::NONE {
            return self.journal.tail();
        }
        let last = |index| {
            let key: KeyRef<'_> = self.keyspace.key(db, &args[index]);
            self.keyspace.last_position(key.slot)
        };
        spec.keys(args.len()).map(last).max().unwrap_or_default()
    }

    /// The position if replies wait for the log, else one that is always durable.
    pub(super) fn gated(&self, position: Position) -> Position {
        if self.journal.fsync() == Fsync::Always { position } else { Position(0) }
    }

    fn run_call(&mut self, forwarded: Forwarded) {
        let Forwarded { from, conn, slot, version, call: Call { spec, db, args } } = forwarded;
        let mut reply = Vec::new();
        let gate = self.perform(spec, db, args.as_args(), version, &mut reply);
        self.answer_from(from, conn, slot, reply, gate);
    }

    /// Executes all tasks in this turn, as one record.
    fn run_here(&mut self, request: ExecuteHere) {
        let ExecuteHere { ticket, version, watched, tasks, .. } = request;
        let lsn = self.next_lsn();
        let now_ms = self.clock.now_ms();
        let watch_failed = self.watch_failed(&watched, now_ms);
        self.changes.reset(self.must_encode());
        let mut results = Vec::with_capacity(tasks.len());
        let mut gate = Position(0);
        if watch_failed {
            // That a watched key has changed reveals the change: a crash must not take it back.
            let keys: Vec<DbKey> = watched.into_iter().map(|watched| watched.key).collect();
            gate = self.gate_of_keys(&keys);
        }
        let mut touched: Vec<DbKey> = Vec::new();
        let mut touched_all = false;
        for task in if watch_failed { Vec::new() } else { tasks } {
            let result = match task {
                Task::Call(Call { spec, db, args }) => {
                    let args = args.as_args();
                    let mut reply = Vec::new();
                    self.run(spec.id, db, args, now_ms, version, &mut reply);
                    gate = gate.max(self.gate_of(spec, db, args));
                    touched_all |= spec.keys == KeyRange::NONE;
                    let key = |index| DbKey { db, key: args[index].into() };
                    touched.extend(spec.keys(args.len()).map(key));
                    TaskResult::Reply(reply)
                }
                Task::Watch(keys) => {
                    gate = gate.max(self.gate_of_keys(&keys));
                    TaskResult::Watching(self.watch_keys(keys, now_ms))
                }
                Task::Fetch(_) | Task::Store(..) => {
                    unreachable!("only transactions on several shards fetch and store")
                }
            };
            results.push(result);
        }
        if !self.changes.is_empty() {
            let position = self.record(lsn);
            if touched_all {
                self.touch_all(position);
            }
            for key in touched {
                let slot = self.keyspace.key(key.db, &key.key).slot;
                self.keyspace.touch(slot, position);
            }
            gate = self.gated(position);
        }
        let refusal = watch_failed.then_some(Refusal::WatchFailed);
        let mail = Mail::Executed { ticket, from: self.id, results, refusal };
        self.post_durable(ticket.shard, mail, gate);
    }

    /// What revealing these keys has to wait for.
    pub(super) fn gate_of_keys(&self, keys: &[DbKey]) -> Position {
        if self.journal.fsync() != Fsync::Always {
            return Position(0);
        }
        let last =
            |key: &DbKey| self.keyspace.last_position(self.keyspace.key(key.db, &key.key).slot);
        keys.iter().map(last).max().unwrap_or_default()
    }

    /// A read inside a transaction, with what its reply has to wait for.
    pub(super) fn perform_read(
        &mut self,
        call: &Call,
        version: RespVersion,
        now_ms: u64,
    ) -> (Vec<u8>, Position) {
        let Call { spec, db, args } = call;
        let mut reply = Vec::new();
        self.changes.reset(false);
        self.run(spec.id, *db, args.as_args(), now_ms, version, &mut reply);
        debug_assert!(self.changes.is_empty(), "a read changes nothing");
        (reply, self.gate_of(spec, *db, args.as_args()))
    }

    fn must_park(
        &self,
        origin: (ShardId, ConnId),
        spec: &CommandSpec,
        db: DbIndex,
        args: Args<'_>,
    ) -> bool {
        self.parked.holds(origin) || self.meets_intent(spec, db, args)
    }

    fn must_park_transaction(&self, request: &ExecuteHere) -> bool {
        self.parked.holds(request.from) || self.here_is_blocked(request)
    }

    fn is_blocked(&self, job: &Job) -> bool {
        match job {
            Job::Call(Forwarded { call, .. }) => {
                self.meets_intent(call.spec, call.db, call.args.as_args())
            }
            Job::Here(request) => self.here_is_blocked(request),
        }
    }

    fn here_is_blocked(&self, request: &ExecuteHere) -> bool {
        // A watched key that a transaction is about to change: whether it has changed is not known.
        let is_held =
            |watched: &WatchedKey| self.intents.blocks(watched.key.db, &watched.key.key, false);
        if request.watched.iter().any(is_held) {
            return true;
        }
        request.tasks.iter().any(|task| match task {
            Task::Call(call) => self.meets_intent(call.spec, call.db, call.args.as_args()),
            Task::Watch(keys) => {
                keys.iter().any(|key| self.intents.blocks(key.db, &key.key, false))
            }
            Task::Fetch(_) | Task::Store(..) => false,
        })
    }

    /// Whether a command has to wait: for an intent, or for room in a snapshot's chunk queue.
    fn meets_intent(&self, spec: &CommandSpec, db: DbIndex, args: Args<'_>) -> bool {
        let write = spec.flags.contains(CommandFlags::WRITE);
        if write && self.cut.stalls_writes() {
            return true;
        }
        if self.intents.is_idle() {
            return false;
        }
        if spec.keys == KeyRange::NONE {
            return write || self.intents.whole_shard();
        }
        spec.keys(args.len()).any(|index| self.intents.blocks(db, &args[index], write))
    }
}
