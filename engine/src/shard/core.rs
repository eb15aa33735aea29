//! [`ShardCore`]: one shard without I/O. Bytes, mail, completions and clock readings go in; what
//! is to be sent, written, mailed and closed comes out as [`Effects`]. No glommio type, no system
//! clock, no randomness that was not injected: the simulation drives it from a seed.
//!
//! A turn, as the shell makes it:
//!
//! 1. [`ShardCore::begin_turn`] with a reading of the clock, taken after the turn's input.
//! 2. Any number of inputs: [`ShardCore::receive`], [`ShardCore::deliver`],
//!    [`ShardCore::durable_moved`], [`ShardCore::submit`] ...
//! 3. [`ShardCore::end_turn`]: replies become sendable or are held, background work gets a slice.
//! 4. The shell carries out the effects.
//!
//! The journey of a write continues in `dispatch` (which shard?), `execute`
//! (apply, record) and [`super::journal`] (log, durable).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock::ShardClock;
use crate::command;
use crate::keyspace::Keyspace;
use crate::resp::ArgsBuf;
use crate::types::{LogId, Lsn, Position, ShardId, Slot, StartId};

use crate::net::ConnId;

use super::connection::{Connection, Endpoints};
use super::connections::Connections;
use super::coordinate::Coordinations;
use super::cut::Cut;
use super::gate::Gate;
use super::input::Window;
use super::intent::IntentTable;
use super::journal::Journal;
use super::message::Mail;
use super::parked::Parked;
use super::participate::Participations;
use super::session::Housekeeping;
use super::shared::Shared;
use super::watch::Watches;

/// What a turn asks of the outside. The shell takes each list and leaves it empty.
#[derive(Debug, Default)]
pub struct Effects {
    /// Bytes for connections; each comes back through [`ShardCore::sent`].
    pub sends: Vec<(ConnId, Vec<u8>)>,
    /// Connections to close at once: all their replies were sent, or what is left of them does not
    /// matter (CLIENT KILL, `timeout`), so a send under way need not be waited for.
    pub closes: Vec<ConnId>,
    /// Connections to read no more from, until resumed.
    pub pauses: Vec<ConnId>,
    /// Connections to read from again.
    pub resumes: Vec<ConnId>,
    /// Requests for the control plane; answered through [`ShardCore::admin_reply`].
    pub admin: Vec<AdminRequest>,
    /// Pieces of a running snapshot.
    pub snapshot: Vec<super::cut::CutEvent>,
}

/// A command that the control plane answers.
#[derive(Debug)]
pub struct AdminRequest {
    /// The connection that waits.
    pub conn: ConnId,
    /// The client, as CLIENT ID says it.
    pub client_id: u64,
    /// Its reply slot.
    pub slot: u64,
    /// How to encode the reply.
    pub version: crate::resp::RespVersion,
    /// The command, its name first.
    pub args: ArgsBuf,
}

/// What waits at the gate.
#[derive(Debug)]
pub(super) enum Held {
    /// A connection has held replies.
    Replies(ConnId),
    /// Mail for a shard.
    Mail(ShardId, Mail),
}

/// One shard.
#[derive(Debug)]
pub struct ShardCore {
    pub(super) id: ShardId,
    pub(super) start: StartId,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: ShardClock,
    pub(super) keyspace: Keyspace,
    pub(super) journal: Journal,
    /// The changes of the command under way; kept for its memory.
    pub(super) changes: command::Effects,
    pub(super) connections: Connections,
    /// Requests that are decoded ahead; kept for its memory.
    pub(super) window: Window,
    pub(super) gate: Gate<Held>,
    /// Mail by receiving shard, sent at the end of the turn.
    pub(super) outbox: Vec<Vec<Mail>>,
    /// Mail of this shard to itself.
    pub(super) local_mail: VecDeque<Mail>,
    pub(super) intents: IntentTable,
    pub(super) participations: Participations,
    pub(super) coordinations: Coordinations,
    pub(super) parked: Parked,
    pub(super) watches: Watches,
    pub(super) housekeeping: Housekeeping,
    pub(super) cut: Cut,
    pub(super) random: u64,
    /// Whether the keyspace is still being loaded.
    pub(super) loading: bool,
    /// When to look for expired keys again, in milliseconds since the Unix epoch.
    pub(super) expire_again_ms: u64,
    /// Tables of a FLUSHALL are still to be freed.
    pub(super) reclaiming: bool,
    /// The seed of the keyspace's hash.
    pub(super) seed: u64,
    /// The client of the command under way takes this shard for a node of a cluster.
    pub(super) as_node: bool,
    /// Connections whose commands wait until the log has room.
    pub(super) starved: Vec<ConnId>,
    /// What other shards sent waits too, until it is known whether there is room.
    pub(super) awaits_room: bool,
    /// The engine is stopping: no more commands are begun.
    pub(super) stopping: bool,
    /// What the outside has to do.
    pub effects: Effects,
}

/// What a shard begins with.
#[derive(Debug)]
pub struct ShardSetup {
    /// Which shard.
    pub id: ShardId,
    /// Which start of the data directory.
    pub start: StartId,
    /// What all shards of the engine share.
    pub shared: Arc<Shared>,
    /// Every LSN will be above it.
    pub floor: Lsn,
    /// A first reading of the clock, in microseconds since the Unix epoch.
    pub now_micros: u64,
    /// The log, or none.
    pub journal: Journal,
    /// Seeds the hash of keys and RANDOMKEY.
    pub seed: u64,
}

impl ShardCore {
    /// A shard that is loading: it answers `-LOADING` until [`Self::finish_loading`].
    pub fn new(setup: ShardSetup) -> Self {
        let ShardSetup { id, start, shared, floor, now_micros, journal, seed } = setup;
        let shards = shared.slots.shards();
        Self {
            id,
            start,
            clock: ShardClock::new(floor, now_micros),
            keyspace: Keyspace::new(shared.slots.range(id), seed),
            journal,
            changes: command::Effects::default(),
            connections: Connections::default(),
            window: Window::default(),
            gate: Gate::default(),
            outbox: (0..shards).map(|_| Vec::new()).collect(),
            local_mail: VecDeque::new(),
            intents: IntentTable::default(),
            participations: Participations::default(),
            coordinations: Coordinations::default(),
            parked: Parked::default(),
            watches: Watches::default(),
            housekeeping: Housekeeping::default(),
            cut: Cut::default(),
            random: seed | 1,
            loading: true,
            expire_again_ms: 0,
            reclaiming: false,
            seed,
            as_node: false,
            starved: Vec::new(),
            awaits_room: false,
            stopping: false,
            effects: Effects::default(),
            shared,
        }
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The log of this shard.
    pub fn log_id(&self) -> LogId {
        LogId { start: self.start, shard: self.id }
    }

    /// The log, for the shell to carry out what it asks.
    pub fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }

    /// The keys of this shard.
    pub fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }

    /// The reading of the clock that this turn goes by, in microseconds since the Unix epoch.
    pub fn now_micros(&self) -> u64 {
        self.clock.now_micros()
    }

    /// Takes a reading of the clock; everything after it in this turn is at that instant.
    pub fn begin_turn(&mut self, now_micros: u64) {
        self.clock.tick(now_micros);
        let now = Lsn::from_micros(now_micros);
        self.advance_past(now);
    }

    /// A client has connected.
    pub fn accept(&mut self, conn: ConnId, endpoints: Endpoints) {
        let client_id = self.shared.next_client_id();
        let mut connection =
            Connection::new(conn, client_id, Some(endpoints), self.clock.now_micros());
        let ports = self.shared.ports.get();
        let own = ports.and_then(|ports| ports.shards.get(usize::from(self.id.0)));
        connection.own_port = own.is_some_and(|own| own.port() == endpoints.local.port());
        self.admit(&mut connection);
        self.connections.insert(connection);
        self.mark_dirty(conn);
    }

    /// Bytes of a client. Unknown connections (closed meanwhile) are ignored.
    pub fn receive(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(mut connection) = self.connections.take(conn) else { return };
        self.read(&mut connection, bytes);
        self.put_back(connection);
    }

    /// A client will send no more; it still gets its replies, and then the connection is closed.
    pub fn input_ended(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.ended = true;
            self.mark_dirty(conn);
        }
    }

    /// The engine is stopping: what was not read yet is not executed.
    pub fn stop_reading(&mut self) {
        self.stopping = true;
    }

    /// How much is under way: intents, transactions, parked commands, and what the gate holds. 0
    /// when nothing was asked that is not answered.
    pub fn unfinished(&self) -> usize {
        self.intents.len()
            + self.participations.len()
            + self.coordinations.len()
            + self.parked.len()
            + self.gate.len()
    }

    /// Whether a client still waits for a reply, or has not taken it.
    pub fn has_unsent_replies(&self) -> bool {
        self.connections.has_unsent_replies()
    }

    /// About once a second: `everysec` syncs, a quiet log covers its last frame.
    pub fn every_second(&mut self) {
        let lsn = self.clock.closed();
        if let Some(writer) = self.journal.writer() {
            writer.tick_sync();
            writer.idle_marker(lsn);
        }
    }

    /// Whether a snapshot waits for its consumer to take chunks.
    pub fn waits_for_consumer(&self) -> bool {
        self.cut.is_running()
    }

    /// A client has gone, or the network had to close the connection.
    pub fn disconnected(&mut self, conn: ConnId) {
        let Some(mut connection) = self.connections.take(conn) else { return };
        self.unwatch(&mut connection);
        self.connections.forget(conn);
        if !conn.is_virtual() {
            // A batch was never counted as accepted: below 0 the count would turn everybody away.
            self.shared.stats(self.id).disconnected();
        }
    }

    /// A batch of commands of an embedded client, on a virtual connection of its own: their replies
    /// come as one [`Effects::sends`] when all are complete, and the connection is over.
    pub fn submit(&mut self, conn: ConnId, commands: Vec<ArgsBuf>) {
        let client_id = self.shared.next_client_id();
        let mut connection = Connection::new(conn, client_id, None, self.clock.now_micros());
        connection.queue = commands.into();
        self.run_queue(&mut connection);
        self.connections.insert(connection);
        self.mark_dirty(conn);
    }

    /// A send is over; its buffer comes back.
    pub fn sent(&mut self, conn: ConnId, buffer: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.replies.sent(buffer);
        self.mark_dirty(conn);
    }

    /// Mail of another shard; the batch is left empty. It begins with the sender's clock.
    pub fn deliver(&mut self, batch: &mut Vec<Mail>) {
        batch.drain(..).for_each(|mail| self.handle(mail));
    }

    /// The control plane answers an [`AdminRequest`].
    pub fn admin_reply(&mut self, conn: ConnId, slot: u64, reply: Vec<u8>) {
        self.answer(conn, slot, reply, Position(0));
        self.unblock(conn);
    }

    /// The log has become durable further: what waited for it goes on.
    pub fn durable_moved(&mut self) {
        let durable = self.journal.durable();
        while let Some(held) = self.gate.release(durable) {
            match held {
                Held::Replies(conn) => self.mark_dirty(conn),
                Held::Mail(to, mail) => self.post(to, mail),
            }
        }
    }

    /// Closes the turn: mail to itself, replies, background work.
    pub fn end_turn(&mut self) {
        while let Some(mail) = self.local_mail.pop_front() {
            self.handle(mail);
        }
        if !self.loading {
            self.expire();
            self.cut_slice();
        }
        self.feed_starved();
        self.flush_connections();
        self.publish_stats();
        self.shared.set_out_of_space(self.id, self.journal.is_out_of_space());
    }

    /// Moves the mail for a shard to the end of `batch`, behind this shard's clock.
    pub fn take_mail(&mut self, to: ShardId, batch: &mut Vec<Mail>) {
        let mail = &mut self.outbox[to.0 as usize];
        if !mail.is_empty() {
            batch.push(Mail::Clock(self.clock.closed()));
            batch.append(mail);
        }
    }

    /// Whether background work wants another turn soon, though nothing comes in.
    pub fn has_background_work(&self) -> bool {
        !self.local_mail.is_empty() || self.cut.wants_turn() || self.reclaiming
    }

    /// Notes a change of every slot.
    pub(super) fn touch_all(&mut self, position: Position) {
        for slot in self.keyspace.slots() {
            self.keyspace.touch(Slot(slot), position);
        }
    }

    /// The next LSN of a change. Freezes first if a cut lies below it.
    pub(super) fn next_lsn(&mut self) -> Lsn {
        self.advance_past(self.clock.peek());
        self.clock.next_lsn()
    }

    /// Moves the clock past another shard's. Freezes first if a cut lies below it.
    pub(super) fn observe(&mut self, lsn: Lsn) {
        self.advance_past(lsn);
        self.clock.observe(lsn);
    }

    /// Sends mail at the end of the turn.
    pub(super) fn post(&mut self, to: ShardId, mail: Mail) {
        if to == self.id {
            self.local_mail.push_back(mail);
        } else {
            self.outbox[to.0 as usize].push(mail);
        }
    }

    /// Sends mail when a position is durable.
    pub(super) fn post_durable(&mut self, to: ShardId, mail: Mail, position: Position) {
        if position <= self.journal.durable() {
            self.post(to, mail);
        } else {
            self.gate.hold(position, Held::Mail(to, mail));
        }
    }

    /// Fills the reply slot of a connection of this shard.
    pub(super) fn answer(&mut self, conn: ConnId, slot: u64, reply: Vec<u8>, gate: Position) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.replies.fill(slot, gate, reply);
        self.mark_dirty(conn);
    }

    /// A barrier is over: the connection's input goes on.
    pub(super) fn unblock(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.blocked = false;
            self.mark_dirty(conn);
        }
    }

    /// The connection is looked at when the turn ends.
    pub(super) fn mark_dirty(&mut self, conn: ConnId) {
        self.connections.mark_dirty(conn);
    }

    fn handle(&mut self, mail: Mail) {
        match mail {
            Mail::Clock(lsn) => self.observe(lsn),
            Mail::Command(forwarded) => self.execute_forwarded(*forwarded),
            Mail::Reply { conn, slot, reply } => self.answer(conn, slot, reply, Position(0)),
            Mail::ExecuteHere(request) => self.execute_here(*request),
            Mail::Intend(request) => self.intend(*request),
            Mail::Execute { ticket, now_ms, tasks } => self.execute_tasks(ticket, now_ms, tasks),
            Mail::Commit { ticket, lsn, coordinator, participants } => {
                self.log_part(ticket, lsn, coordinator, &participants);
            }
            Mail::Apply { ticket } => self.apply_part(ticket),
            Mail::Release { ticket, void } => self.release_part(ticket, void),
            Mail::Unwatch { keys } => self.watches.unwatch(&keys),
            Mail::Granted(granted) => self.granted(*granted),
            Mail::Refused { ticket, holder } => self.refused(ticket, holder),
            Mail::Executed { ticket, from, results, refusal } => {
                self.executed(ticket, from, results, refusal);
            }
            Mail::Logged { ticket } => self.logged(ticket),
        }
    }

    /// Gives each connection that something happened to what it can have: unread input, replies.
    fn flush_connections(&mut self) {
        while let Some(conn) = self.connections.next_dirty() {
            let Some(mut connection) = self.connections.take(conn) else { continue };
            if !connection.must_wait() {
                self.read(&mut connection, &[]);
                self.run_queue(&mut connection);
            }
            self.flush(&mut connection);
            self.connections.put_back(connection);
        }
    }

    fn flush(&mut self, connection: &mut Connection) {
        let durable = self.journal.durable();
        let conn = connection.id;
        if let Some(position) = connection.replies.end_turn(durable) {
            self.gate.hold(position, Held::Replies(conn));
        }
        connection.replies.release(durable);
        let whole = !connection.is_virtual() || connection.is_answered();
        if whole
            && !connection.dropped
            && let Some(bytes) = connection.replies.take_sendable()
        {
            self.effects.sends.push((conn, bytes));
        }
        let full = connection.must_wait()
            || connection.starved
            || connection.has_unread() && self.journal.is_full();
        if full != connection.paused && !connection.is_virtual() {
            connection.paused = full;
            let list = if full { &mut self.effects.pauses } else { &mut self.effects.resumes };
            list.push(conn);
        }
        if connection.ended && !connection.blocked && connection.replies.awaited() == 0 {
            connection.closing = true;
        }
        if connection.closing && connection.replies.is_drained() && !connection.dropped {
            connection.dropped = true;
            self.effects.closes.push(conn);
        }
    }

    fn put_back(&mut self, connection: Box<Connection>) {
        let conn = connection.id;
        self.connections.put_back(connection);
        self.mark_dirty(conn);
    }
}
