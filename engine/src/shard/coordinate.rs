//! A command on several shards, on the shard that received it: *prepare durably, then apply*.
//!
//! 1. Every participant grants intents on the keys, under one ticket; a refusal gives all back and
//!    comes again behind the holder, with a lead that doubles. Pure reads end here.
//! 2. Rounds of tasks are executed under the intents ([`super::plan`]), on copies.
//!    The instant by which expiry is judged is taken when all have granted: a key that somebody
//!    saw expired while the transaction waited is expired to it too.
//! 3. The LSN is fixed above the clock of every participant; each logs its part.
//! 4. When every part is durable, all apply and release, and the reply leaves.
//!
//! After step 2 there is only commit, or the process stops: a client that goes away changes
//! nothing. With one participant there is no protocol: the whole is executed there in one turn.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::resp::{Reply, RespVersion};
use crate::slot::slot_of;
use crate::types::{LogId, Lsn, Position, ShardId};

use crate::net::ConnId;

use super::connection::Connection;
use super::core::ShardCore;
use super::intent::{Claim, Mode, Ticket};
use super::message::{Call, ExecuteHere, Granted, Intend, Mail, Refusal, TaskResult, WatchedKey};
use super::plan::{Round, Script};

/// The transactions that this shard coordinates.
#[derive(Debug, Default)]
pub struct Coordinations {
    running: HashMap<Ticket, Coordination>,
    last_number: u64,
}

#[derive(Debug)]
struct Coordination {
    conn: ConnId,
    slot: u64,
    version: RespVersion,
    /// The reply is an array of all replies.
    exec: bool,
    script: Script,
    claims: BTreeMap<ShardId, Claim>,
    watched: BTreeMap<ShardId, Vec<WatchedKey>>,
    /// Why it must not go on, if a participant says so.
    refusal: Option<Refusal>,
    round: Option<Round>,
    /// How many participants have not answered yet.
    awaited: usize,
    /// The highest clock that was given with a grant.
    clock: Lsn,
    /// The instant of the transaction, in milliseconds since the Unix epoch, once all have granted;
    /// until then the latest at which one has looked.
    now_ms: u64,
    /// From when on the reads that came with the grants would find something else.
    reads_until_ms: u64,
    /// From when on a watched key has expired.
    watched_until_ms: u64,
    /// How far behind a holder the next ticket goes.
    lead: u64,
}

impl Coordinations {
    /// How many are under way.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// A ticket that this shard has not used yet, at or above `number`.
    fn ticket(&mut self, number: u64, shard: ShardId) -> Ticket {
        self.last_number = number.max(self.last_number + 1);
        Ticket { number: self.last_number, shard }
    }

    fn take(&mut self, ticket: Ticket) -> Coordination {
        self.running.remove(&ticket).expect("a participant answers a running transaction")
    }
}

impl Coordination {
    /// Forgets what an earlier ticket was granted.
    fn begin_again(&mut self) {
        self.awaited = self.claims.len();
        self.refusal = None;
        self.clock = Lsn::ZERO;
        self.now_ms = 0;
        self.reads_until_ms = u64::MAX;
        self.watched_until_ms = u64::MAX;
    }

    /// Everything is held from here to the end, so this is the transaction's instant.
    fn fix_instant(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        if self.now_ms >= self.watched_until_ms {
            self.refusal.get_or_insert(Refusal::WatchFailed);
        }
        if self.now_ms >= self.reads_until_ms {
            // A key that was read has expired since: it is read again, at this instant.
            self.round = None;
        }
    }

    /// Takes the results of one shard; true when the round is complete.
    fn take_results(&mut self, shard: ShardId, results: Vec<TaskResult>) -> bool {
        let round = self.round.as_mut().expect("results belong to a round");
        round.results(shard, results)
    }
}

impl ShardCore {
    /// Begins a transaction of a connection, which is blocked until it is over.
    pub(super) fn coordinate(&mut self, connection: &mut Connection, calls: Vec<Call>, exec: bool) {
        let slots = self.shared.slots;
        let mut script = Script::new(calls, slots, |call| self.random_shard(call.spec.id, call.db));
        let mut claims = script.claims(self.shared.slots);
        let mut watched: BTreeMap<ShardId, Vec<WatchedKey>> = BTreeMap::new();
        if exec {
            for key in std::mem::take(&mut connection.session.watched) {
                let owner = self.shared.slots.owner(slot_of(&key.key.key));
                let claim = claims.entry(owner).or_default();
                if !claim.keys.iter().any(|(held, _)| *held == key.key) {
                    claim.keys.push((key.key.clone(), Mode::Shared));
                }
                watched.entry(owner).or_default().push(key);
            }
        }
        if claims.is_empty() {
            // An EXEC of nothing, or only of commands that this shard answers.
            script.answer_rest(|call| self.answer_in_exec(connection, call));
            let replies: Vec<u8> = script.replies().flatten().copied().collect();
            let count = script.replies().len();
            return connection.reply(|reply| {
                reply.array(count);
                reply.raw(&replies);
            });
        }
        connection.blocked = true;
        let coordination = Coordination {
            conn: connection.id,
            slot: connection.replies.await_reply(),
            version: connection.session.version,
            exec,
            script,
            claims,
            watched,
            refusal: None,
            round: None,
            awaited: 0,
            clock: Lsn::ZERO,
            now_ms: 0,
            reads_until_ms: u64::MAX,
            watched_until_ms: u64::MAX,
            lead: 1,
        };
        let number = self.clock.peek().0;
        self.shared.stats(self.id).transaction();
        if coordination.claims.len() == 1 {
            self.execute_on_one(coordination, number);
        } else {
            self.ask_for_intents(coordination, number);
        }
    }

    /// All on one shard: executed there in one turn, no intents.
    fn execute_on_one(&mut self, mut coordination: Coordination, number: u64) {
        let ticket = self.coordinations.ticket(number, self.id);
        let shard = *coordination.claims.keys().next().expect("there is one participant");
        let mut round = coordination.script.round().unwrap_or_default();
        let tasks = round.tasks.remove(&shard).unwrap_or_default();
        coordination.round = Some(round);
        let request = ExecuteHere {
            ticket,
            from: (self.id, coordination.conn),
            version: coordination.version,
            watched: coordination.watched.get(&shard).cloned().unwrap_or_default(),
            tasks,
        };
        self.coordinations.running.insert(ticket, coordination);
        self.post(shard, Mail::ExecuteHere(Box::new(request)));
    }

    /// Step 1, also after a refusal.
    fn ask_for_intents(&mut self, mut coordination: Coordination, number: u64) {
        let ticket = self.coordinations.ticket(number, self.id);
        coordination.begin_again();
        let mut reads = BTreeMap::new();
        if coordination.script.is_pure_read() {
            let mut round = coordination.script.round().unwrap_or_default();
            reads = std::mem::take(&mut round.tasks);
            coordination.round = Some(round);
        }
        for (shard, claim) in &coordination.claims {
            let request = Intend {
                ticket,
                claim: claim.clone(),
                watched: coordination.watched.get(shard).cloned().unwrap_or_default(),
                version: coordination.version,
                reads: reads.remove(shard).unwrap_or_default(),
            };
            self.post(*shard, Mail::Intend(Box::new(request)));
        }
        self.coordinations.running.insert(ticket, coordination);
    }

    /// A participant holds what was asked. Late grants of a refused ticket are ignored: their
    /// release is on its way.
    pub(super) fn granted(&mut self, granted: Granted) {
        let Granted { ticket, shard, clock, refusal, found, results } = granted;
        let Some(coordination) = self.coordinations.running.get_mut(&ticket) else { return };
        coordination.clock = coordination.clock.max(clock);
        coordination.refusal = coordination.refusal.or(refusal);
        coordination.now_ms = coordination.now_ms.max(found.at_ms);
        coordination.reads_until_ms = coordination.reads_until_ms.min(found.reads_until_ms);
        coordination.watched_until_ms = coordination.watched_until_ms.min(found.watched_until_ms);
        if !results.is_empty() {
            coordination.take_results(shard, results);
        }
        coordination.awaited -= 1;
        if coordination.awaited > 0 {
            return;
        }
        let mut coordination = self.coordinations.take(ticket);
        coordination.fix_instant(self.clock.now_ms());
        if coordination.refusal.is_some() {
            return self.release_all(ticket, coordination);
        }
        if let Some(round) = coordination.round.take() {
            coordination.script.absorb(round);
            return self.release_all(ticket, coordination);
        }
        self.next_round(ticket, coordination);
    }

    /// A participant has executed its tasks.
    pub(super) fn executed(
        &mut self,
        ticket: Ticket,
        from: ShardId,
        results: Vec<TaskResult>,
        refusal: Option<Refusal>,
    ) {
        let mut coordination = self.coordinations.take(ticket);
        if coordination.claims.len() == 1 {
            coordination.refusal = refusal;
            if refusal.is_none() {
                if !results.is_empty() {
                    coordination.take_results(from, results);
                }
                let round = coordination.round.take().expect("the tasks were a round");
                coordination.script.absorb(round);
            }
            return self.finish(coordination);
        }
        if !coordination.take_results(from, results) {
            self.coordinations.running.insert(ticket, coordination);
            return;
        }
        let round = coordination.round.take().expect("the tasks were a round");
        coordination.script.absorb(round);
        self.next_round(ticket, coordination);
    }

    /// Step 2, and then step 3.
    fn next_round(&mut self, ticket: Ticket, mut coordination: Coordination) {
        let now_ms = coordination.now_ms;
        let Some(mut round) = coordination.script.round() else {
            if coordination.script.is_pure_read() {
                return self.release_all(ticket, coordination);
            }
            return self.commit(ticket, coordination);
        };
        for (shard, tasks) in std::mem::take(&mut round.tasks) {
            self.post(shard, Mail::Execute { ticket, now_ms, tasks });
        }
        coordination.round = Some(round);
        self.coordinations.running.insert(ticket, coordination);
    }

    fn commit(&mut self, ticket: Ticket, mut coordination: Coordination) {
        self.observe(coordination.clock);
        let lsn = self.next_lsn();
        let log_id = |shard| LogId { start: self.start, shard };
        let participants: Arc<[LogId]> = coordination.claims.keys().copied().map(log_id).collect();
        coordination.awaited = participants.len();
        for shard in coordination.claims.keys().copied().collect::<Vec<_>>() {
            let participants = Arc::clone(&participants);
            let coordinator = self.log_id();
            self.post(shard, Mail::Commit { ticket, lsn, coordinator, participants });
        }
        self.coordinations.running.insert(ticket, coordination);
    }

    /// Step 4, when the last part is durable.
    pub(super) fn logged(&mut self, ticket: Ticket) {
        let mut coordination = self.coordinations.take(ticket);
        coordination.awaited -= 1;
        if coordination.awaited > 0 {
            self.coordinations.running.insert(ticket, coordination);
            return;
        }
        for shard in coordination.claims.keys() {
            self.post(*shard, Mail::Apply { ticket });
        }
        self.finish(coordination);
    }

    /// A participant has refused: everything is given back and asked for again, behind the holder.
    pub(super) fn refused(&mut self, ticket: Ticket, holder: Ticket) {
        let Some(mut coordination) = self.coordinations.running.remove(&ticket) else { return };
        for shard in coordination.claims.keys() {
            self.post(*shard, Mail::Release { ticket, void: true });
        }
        let number = holder.number.saturating_add(coordination.lead);
        coordination.lead = coordination.lead.saturating_mul(2);
        coordination.round = None;
        self.ask_for_intents(coordination, number);
    }

    fn release_all(&mut self, ticket: Ticket, coordination: Coordination) {
        for shard in coordination.claims.keys() {
            self.post(*shard, Mail::Release { ticket, void: false });
        }
        self.finish(coordination);
    }

    fn finish(&mut self, coordination: Coordination) {
        let Coordination { conn, slot, version, exec, watched, refusal, mut script, .. } =
            coordination;
        let mut watching = script.take_watching();
        for (shard, watched) in watched {
            let keys = watched.into_iter().map(|watched| watched.key).collect();
            self.post(shard, Mail::Unwatch { keys });
        }
        // Not before: an EXEC whose watches have failed must not select a database either.
        if exec
            && refusal.is_none()
            && let Some(mut connection) = self.connections.take(conn)
        {
            script.answer_rest(|call| self.answer_in_exec(&mut connection, call));
            self.connections.put_back(connection);
        }
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, version);
        match refusal {
            Some(Refusal::WatchFailed) => reply.null_array(),
            Some(Refusal::NoRoom) => {
                let text = self.shared.out_of_space_error();
                reply.error(&if exec { exec_abort(&text) } else { text });
            }
            None if !watching.is_empty() => {
                reply.ok();
                match self.connections.get_mut(conn) {
                    Some(connection) => connection.session.watched.append(&mut watching),
                    None => self.unwatch_all(watching),
                }
            }
            None => {
                let replies = script.replies();
                if exec {
                    reply.array(replies.len());
                }
                replies.for_each(|each| reply.raw(each));
            }
        }
        self.answer(conn, slot, out, Position(0));
        self.unblock(conn);
    }

    fn unwatch_all(&mut self, watching: Vec<WatchedKey>) {
        for watched in watching {
            let owner = self.shared.slots.owner(slot_of(&watched.key.key));
            self.post(owner, Mail::Unwatch { keys: vec![watched.key] });
        }
    }
}

/// The reply to an EXEC that cannot run, with the error that one of its commands would give.
pub(super) fn exec_abort(text: &str) -> String {
    let reason = text.strip_prefix("ERR ").unwrap_or(text);
    format!("EXECABORT Transaction discarded because of: {reason}")
}
