//! A command on several shards, on a shard that takes part: hold, execute on copies, log, apply.
//!
//! Under its intents the keys of a transaction are read and changed on *copies*; what it changed
//! is kept as ops. The keyspace itself changes in [`ShardCore::apply_part`], when the ops are
//! durable everywhere, by the same code that replays a log. So nothing can depend on a transaction
//! that a crash may still undo, and there is nothing to roll back.

use std::collections::{HashMap, HashSet};

use crate::command::scan::Found;
use crate::command::table::{CommandId, KeyRange};
use crate::command::{self, Context};
use crate::entry::Op;
use crate::keyspace::{Keyspace, NewValue};
use crate::log::LogMark;
use crate::resp::{Reply, RespVersion};
use crate::types::{DbIndex, Fsync, LogId, Lsn, Position, TxnId};

use super::core::ShardCore;
use super::intent::{DbKey, Outcome, Ticket};
use super::journal::Part;
use super::message::{self, Call, Granted, Intend, Mail, Refusal, Task, TaskResult};

/// The transactions that this shard takes part in.
#[derive(Debug, Default)]
pub struct Participations {
    waiting: HashMap<Ticket, Intend>,
    /// Requests to write that came while it was not known whether the log has room.
    roomless: Vec<Intend>,
    granted: HashMap<Ticket, Participation>,
    /// Where copies of keys live while tasks are executed; empty in between.
    scratch: Option<Box<Keyspace>>,
}

/// One of them, from grant to release.
#[derive(Debug)]
struct Participation {
    /// The clock that was given with the grant: the LSN will be above it.
    clock: Lsn,
    keys: Vec<DbKey>,
    /// Those of them that it watches since the grant.
    watching: Vec<DbKey>,
    version: RespVersion,
    whole_shard: bool,
    /// What its tasks changed so far.
    ops: Vec<u8>,
    /// Its LSN and the position of its record, once it is logged.
    logged: Option<(Lsn, Position)>,
}

impl Participations {
    /// How many there are, granted or not.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.granted.len() + self.roomless.len()
    }

    /// The lowest clock that was given with a still unresolved grant.
    pub fn lowest_clock(&self) -> Option<Lsn> {
        self.granted.values().map(|participation| participation.clock).min()
    }
}

impl ShardCore {
    /// The closed LSN: no record at or below it can appear on this shard any more.
    pub fn closed_lsn(&self) -> Lsn {
        let clock = self.clock.closed();
        self.participations.lowest_clock().map_or(clock, |lowest| lowest.min(clock))
    }

    /// Where the log stands now: what is closed, and the end before which all of it lies. The log
    /// is asked to become durable up to there.
    pub fn mark(&mut self) -> LogMark {
        LogMark { log: self.log_id(), closed: self.closed_lsn(), end: self.journal.request_sync() }
    }

    /// Step 1: a coordinator asks for intents.
    pub(super) fn intend(&mut self, request: Intend) {
        let ticket = request.ticket;
        if request.claim.writes() {
            if self.journal.is_out_of_space() {
                return self.refuse_for_room(ticket);
            }
            if self.journal.awaits_segment() {
                // What is granted is logged, and might then wait for as long as there is no room.
                self.awaits_room = true;
                return self.participations.roomless.push(request);
            }
        }
        match self.intents.request(ticket, request.claim.clone()) {
            Outcome::Granted => self.grant(request),
            Outcome::Waiting => {
                self.participations.waiting.insert(ticket, request);
            }
            Outcome::Refused(holder) => self.post(ticket.shard, Mail::Refused { ticket, holder }),
        }
    }

    /// It is known whether the log has room: requests that waited for that go on.
    pub(super) fn retry_roomless(&mut self) {
        for request in std::mem::take(&mut self.participations.roomless) {
            self.intend(request);
        }
    }

    fn refuse_for_room(&mut self, ticket: Ticket) {
        let granted = Granted {
            ticket,
            shard: self.id,
            clock: Lsn::ZERO,
            refusal: Some(Refusal::NoRoom),
            found: message::Found {
                at_ms: 0,
                reads_until_ms: u64::MAX,
                watched_until_ms: u64::MAX,
            },
            results: Vec::new(),
        };
        self.post(ticket.shard, Mail::Granted(Box::new(granted)));
    }

    /// The claim is held: checks the watched keys, and does the reads of a pure read. Both by this
    /// shard's clock, for the transaction's instant is not known before all have granted; the
    /// coordinator is told until when it stays as it was found.
    fn grant(&mut self, request: Intend) {
        let Intend { ticket, claim, watched, version, reads } = request;
        let now_ms = self.clock.now_ms();
        let refusal = self.watch_failed(&watched, now_ms).then_some(Refusal::WatchFailed);
        let read_keys = claim.keys.iter().map(|(key, _)| key);
        let has_read = reads.iter().any(|task| matches!(task, Task::Call(_)));
        // How long a key will live is true at one instant only.
        let reads_limit_ms = if reads.iter().any(is_time) { now_ms + 1 } else { u64::MAX };
        let existed = watched.iter().filter(|watched| watched.existed);
        let found = message::Found {
            at_ms: now_ms,
            reads_until_ms: self
                .first_expiry_ms(read_keys.filter(|_| has_read), now_ms)
                .min(reads_limit_ms),
            watched_until_ms: self.first_expiry_ms(existed.map(|watched| &watched.key), now_ms),
        };
        let mut watching = Vec::new();
        let mut gate = Position(0);
        let mut results = Vec::with_capacity(reads.len());
        for task in reads {
            let result = match task {
                Task::Call(call) => {
                    let (reply, position) = self.perform_read(&call, version, now_ms);
                    gate = gate.max(position);
                    TaskResult::Reply(reply)
                }
                Task::Watch(keys) => {
                    gate = gate.max(self.gate_of_keys(&keys));
                    watching.extend(keys.iter().cloned());
                    TaskResult::Watching(self.watch_keys(keys, now_ms))
                }
                Task::Fetch(_) | Task::Store(..) => unreachable!("a pure read only reads"),
            };
            results.push(result);
        }
        if refusal.is_some() {
            let keys: Vec<_> = watched.into_iter().map(|watched| watched.key).collect();
            gate = gate.max(self.gate_of_keys(&keys));
        }
        let clock = self.clock.closed();
        let participation = Participation {
            clock,
            keys: claim.keys.into_iter().map(|(key, _)| key).collect(),
            watching,
            version,
            whole_shard: claim.whole_shard,
            ops: Vec::new(),
            logged: None,
        };
        self.participations.granted.insert(ticket, participation);
        let granted = Granted { ticket, shard: self.id, clock, refusal, found, results };
        self.post_durable(ticket.shard, Mail::Granted(Box::new(granted)), gate);
    }

    /// When the first of these keys expires that has not expired yet.
    fn first_expiry_ms<'k>(&self, keys: impl Iterator<Item = &'k DbKey>, now_ms: u64) -> u64 {
        let expiry =
            |key: &DbKey| self.keyspace.get(&self.keyspace.key(key.db, &key.key))?.expires_at_ms();
        keys.filter_map(expiry).filter(|at_ms| *at_ms > now_ms).min().unwrap_or(u64::MAX)
    }

    /// Step 2: executes tasks on copies of the transaction's keys.
    pub(super) fn execute_tasks(&mut self, ticket: Ticket, now_ms: u64, tasks: Vec<Task>) {
        let mut participation =
            self.participations.granted.remove(&ticket).expect("a coordinator keeps its grant");
        let mut scratch = match self.participations.scratch.take() {
            Some(scratch) => scratch,
            None => Box::new(Keyspace::new(self.keyspace.slots(), self.seed)),
        };
        self.fill_scratch(&mut scratch, &participation);
        self.changes.reset(true);
        let version = participation.version;
        let results = tasks
            .into_iter()
            .map(|task| match task {
                Task::Call(call) if call.spec.id == CommandId::DbSize => {
                    let mut reply = Vec::new();
                    let size = self.size_within(&scratch, &participation, call.db);
                    Reply::new(&mut reply, version).integer(size as i64);
                    TaskResult::Reply(reply)
                }
                Task::Call(call) if call.spec.id == CommandId::Keys => {
                    let mut reply = Vec::new();
                    self.keys_within(&mut scratch, &participation, &call, now_ms)
                        .reply(&mut Reply::new(&mut reply, version));
                    TaskResult::Reply(reply)
                }
                task => self.execute_task(&mut scratch, task, version, now_ms),
            })
            .collect();
        participation.ops.extend_from_slice(&self.changes.ops);
        for key in &participation.keys {
            let key = scratch.key(key.db, &key.key);
            scratch.remove(&key);
        }
        debug_assert_eq!(scratch.total_len(), 0, "a transaction touches only keys it holds");
        self.participations.scratch = Some(scratch);
        self.participations.granted.insert(ticket, participation);
        let mail = Mail::Executed { ticket, from: self.id, results, refusal: None };
        self.post(ticket.shard, mail);
    }

    /// Copies the keys as they are for this transaction: the keyspace and its own changes so far.
    fn fill_scratch(&self, scratch: &mut Keyspace, participation: &Participation) {
        for key in &participation.keys {
            let key = self.keyspace.key(key.db, &key.key);
            if let Some(entry) = self.keyspace.get(&key) {
                let entry = entry.to_owned();
                let key = scratch.key(key.db, key.key);
                scratch.put(&key, entry.kind, NewValue::Owned(entry.value), entry.expires_at_ms);
            }
        }
        apply_ops(scratch, &participation.ops);
    }

    /// How many keys a database has as a transaction sees it: with what it has changed so far,
    /// which is in `scratch` and nowhere else.
    fn size_within(&self, scratch: &Keyspace, part: &Participation, db: DbIndex) -> u64 {
        if self.has_cleared(part, db) {
            return scratch.len(db);
        }
        let held: HashSet<&DbKey> = part.keys.iter().filter(|key| key.db == db).collect();
        let is_there =
            |key: &&&DbKey| self.keyspace.get(&self.keyspace.key(db, &key.key)).is_some();
        let copied = held.iter().filter(is_there).count();
        self.keyspace.len(db) + scratch.len(db) - copied as u64
    }

    /// The same for KEYS.
    fn keys_within(
        &mut self,
        scratch: &mut Keyspace,
        part: &Participation,
        call: &Call,
        now_ms: u64,
    ) -> Found {
        let (db, args) = (call.db, call.args.as_args());
        let mut found = Found::default();
        if !self.has_cleared(part, db) {
            let held = part.keys.iter().filter(|key| key.db == db).map(|key| &*key.key);
            let held: HashSet<&[u8]> = held.collect();
            let context = Context::new(db, now_ms, &mut self.keyspace, &mut self.changes);
            found.keys(&context, &args[1], |key| !held.contains(key));
        }
        found.keys(&Context::new(db, now_ms, scratch, &mut self.changes), &args[1], |_| true);
        found
    }

    fn has_cleared(&self, part: &Participation, db: DbIndex) -> bool {
        clears(&part.ops, db) || clears(&self.changes.ops, db)
    }

    fn execute_task(
        &mut self,
        scratch: &mut Keyspace,
        task: Task,
        version: RespVersion,
        now_ms: u64,
    ) -> TaskResult {
        match task {
            Task::Call(call) if call.spec.keys == KeyRange::NONE && !is_flush(&call) => {
                // SCAN and RANDOMKEY observe the shard, not the transaction.
                let changes = std::mem::take(&mut self.changes);
                let (reply, _) = self.perform_read(&call, version, now_ms);
                self.changes = changes;
                TaskResult::Reply(reply)
            }
            Task::Call(Call { spec, db, args }) => {
                let mut reply = Vec::new();
                let mut context = Context::new(db, now_ms, scratch, &mut self.changes);
                let mut encoder = Reply::new(&mut reply, version);
                command::execute(spec.id, &mut context, args.as_args(), &mut encoder);
                TaskResult::Reply(reply)
            }
            Task::Fetch(key) => {
                let context = Context::new(key.db, now_ms, scratch, &mut self.changes);
                let entry = context.get_owned(&context.key(&key.key));
                TaskResult::Entry(entry.map(Box::new))
            }
            Task::Store(key, entry) => {
                let mut context = Context::new(key.db, now_ms, scratch, &mut self.changes);
                let key = context.key(&key.key);
                context.put_entry(&key, *entry);
                TaskResult::Stored
            }
            Task::Watch(_) => unreachable!("WATCH is no part of a transaction"),
        }
    }

    /// Step 3: logs this shard's part under the LSN of the transaction, also if it only read: the
    /// log's order then makes durable what it read.
    pub(super) fn log_part(
        &mut self,
        ticket: Ticket,
        lsn: Lsn,
        coordinator: LogId,
        participants: &[LogId],
    ) {
        if self.intents.whole_shard() {
            self.before_whole_shard_record(lsn);
        }
        self.observe(lsn);
        let relaxed = self.journal.fsync() != Fsync::Always;
        let participation =
            self.participations.granted.get_mut(&ticket).expect("a coordinator keeps its grant");
        assert!(lsn > participation.clock, "the LSN is above every clock given with a grant");
        let id = TxnId { lsn, coordinator };
        let part = Part { id, participants, relaxed };
        let position = self.journal.append(lsn, Some(part), &participation.ops);
        self.cut.tee(lsn, &participation.ops);
        participation.logged = Some((lsn, position));
        let gate = self.gated(position);
        self.post_durable(ticket.shard, Mail::Logged { ticket }, gate);
    }

    /// Step 4: durable everywhere; the part takes effect and the intents are given back.
    pub(super) fn apply_part(&mut self, ticket: Ticket) {
        let participation =
            self.participations.granted.remove(&ticket).expect("a coordinator keeps its grant");
        let (lsn, position) = participation.logged.expect("a part is logged before it is applied");
        self.before_resolution(&participation.keys, participation.whole_shard, Some(lsn));
        apply_ops(&mut self.keyspace, &participation.ops);
        self.after_resolution(&participation.keys, participation.whole_shard, Some(lsn));
        self.watches.changed(&participation.ops);
        if participation.whole_shard {
            self.touch_all(position);
        }
        for key in &participation.keys {
            let slot = self.keyspace.key(key.db, &key.key).slot;
            self.keyspace.touch(slot, position);
        }
        self.give_back(ticket);
    }

    /// The coordinator does not need the intents (any more). `void`: nor what began with them.
    pub(super) fn release_part(&mut self, ticket: Ticket, void: bool) {
        self.participations.waiting.remove(&ticket);
        self.participations.roomless.retain(|request| request.ticket != ticket);
        if let Some(participation) = self.participations.granted.remove(&ticket) {
            assert!(participation.logged.is_none(), "what is logged is applied");
            if void {
                // Another participant refused: WATCH comes again, and watches again.
                self.watches.unwatch(&participation.watching);
            }
            self.before_resolution(&participation.keys, participation.whole_shard, None);
            self.after_resolution(&participation.keys, participation.whole_shard, None);
        }
        self.give_back(ticket);
    }

    fn give_back(&mut self, ticket: Ticket) {
        if self.intents.release(ticket).is_none() {
            return;
        }
        self.retry_parked();
        while let Some(next) = self.intents.grant_next() {
            let request = self.participations.waiting.remove(&next);
            self.grant(request.expect("a waiting claim has its request"));
        }
    }
}

/// Whether the result follows from the very instant.
fn is_time(task: &Task) -> bool {
    use crate::command::table::CommandId as C;
    matches!(task, Task::Call(call) if matches!(call.spec.id, C::Ttl | C::PTtl))
}

fn is_flush(call: &Call) -> bool {
    use crate::command::table::CommandId as C;
    matches!(call.spec.id, C::FlushAll | C::FlushDb)
}

/// Whether these ops, which our own encoder wrote, clear a database.
fn clears(mut ops: &[u8], db: DbIndex) -> bool {
    while !ops.is_empty() {
        let op = Op::decode(&mut ops).expect("our own encoder wrote the ops");
        if matches!(op, Op::Clear { db: cleared, .. } if cleared.is_none_or(|it| it == db)) {
            return true;
        }
    }
    false
}

/// Applies ops that our own encoder wrote.
pub(super) fn apply_ops(keyspace: &mut Keyspace, mut ops: &[u8]) {
    while !ops.is_empty() {
        let op = Op::decode(&mut ops).expect("our own encoder wrote the ops");
        keyspace.apply(&op).expect("our own encoder wrote the ops");
    }
}
