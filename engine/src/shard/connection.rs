//! One connection as its shard sees it: unfinished input, the session, and replies on their way.
//!
//! Replies leave in the order of the commands. A command that is answered at once writes straight
//! into `ready`; one that is answered elsewhere or later has a slot, and what comes after it queues
//! behind. At the end of a turn `ready` becomes sendable, or is held until its gate is durable.
//!
//! A *virtual* connection is a batch of an embedded client: the same commands, replies and gates
//! without a socket.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::net::ConnId;
use crate::resp::{ArgsBuf, Decoder, Reply, RespVersion};
use crate::types::{DbIndex, Position};

use super::message::{Call, WatchedKey};

/// Bytes of replies that may wait for a slow reader before its requests are no longer read.
pub const MAX_UNSENT_BYTES: usize = 32 << 20;
/// Commands of one connection that may wait for other shards before no more are read.
pub const MAX_AWAITED_REPLIES: usize = 1_024;
/// The guess at the size of a reply from another shard before the first has come.
const FIRST_AWAITED_BYTES: usize = 1 << 20;
/// A reply buffer above this is not kept for reuse.
const KEPT_BUFFER_BYTES: usize = 64 << 10;

/// What the commands of a connection set up for those after them.
#[derive(Debug)]
pub struct Session {
    /// SELECT.
    pub db: DbIndex,
    /// HELLO.
    pub version: RespVersion,
    /// AUTH, or no password is needed.
    pub authenticated: bool,
    /// CLIENT SETNAME.
    pub name: Vec<u8>,
    /// CLIENT SETINFO LIB-NAME.
    pub lib_name: Vec<u8>,
    /// CLIENT SETINFO LIB-VER.
    pub lib_version: Vec<u8>,
    /// The commands queued since MULTI.
    pub multi: Option<Queued>,
    /// WATCH.
    pub watched: Vec<WatchedKey>,
}

/// What MULTI has queued.
#[derive(Debug, Default)]
pub struct Queued {
    /// In order.
    pub calls: Vec<Call>,
    /// A command was refused while queueing: EXEC will refuse the whole.
    pub broken: bool,
    /// Memory of the queued arguments.
    pub size_bytes: usize,
}

/// Where a connection came from.
#[derive(Clone, Copy, Debug)]
pub struct Endpoints {
    /// The client.
    pub peer: SocketAddr,
    /// The address by which it came.
    pub local: SocketAddr,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Its name.
    pub id: ConnId,
    /// The number that CLIENT ID answers: unique in the process.
    pub client_id: u64,
    /// `None` for a virtual connection.
    pub endpoints: Option<Endpoints>,
    /// When it was accepted, in microseconds since the Unix epoch.
    pub created_at_micros: u64,
    /// When it last sent a command.
    pub active_at_micros: u64,
    /// The last command, for CLIENT LIST.
    pub last_command: &'static str,
    /// The session.
    pub session: Session,
    /// Bytes that make no whole request yet, or wait behind a barrier.
    pub input: Vec<u8>,
    /// The commands of a virtual connection that were not run yet.
    pub queue: VecDeque<ArgsBuf>,
    /// The state of the request at the front of `input`.
    pub decoder: Decoder,
    /// A command on several shards is under way: later ones wait.
    pub blocked: bool,
    /// Nothing more is read; closed when all replies were sent.
    pub closing: bool,
    /// It came through the shard's own port: a cluster client that takes the shard for a node.
    pub own_port: bool,
    /// The client will send no more.
    pub ended: bool,
    /// The network was told to close it; nothing more happens.
    pub dropped: bool,
    /// The network no longer reads from it.
    pub paused: bool,
    /// Its next command waits for the log.
    pub starved: bool,
    /// On the list of those to flush at the end of this turn.
    pub dirty: bool,
    /// Replies.
    pub replies: Replies,
}

impl Connection {
    /// A connection that has sent nothing yet.
    pub fn new(id: ConnId, client_id: u64, endpoints: Option<Endpoints>, now_micros: u64) -> Self {
        Self {
            id,
            client_id,
            endpoints,
            created_at_micros: now_micros,
            active_at_micros: now_micros,
            last_command: "NULL",
            session: Session {
                db: DbIndex(0),
                version: RespVersion::V2,
                authenticated: true,
                name: Vec::new(),
                lib_name: Vec::new(),
                lib_version: Vec::new(),
                multi: None,
                watched: Vec::new(),
            },
            input: Vec::new(),
            queue: VecDeque::new(),
            decoder: Decoder::new(),
            blocked: false,
            closing: false,
            own_port: false,
            ended: false,
            dropped: false,
            paused: false,
            starved: false,
            dirty: false,
            replies: Replies::default(),
        }
    }

    /// Answers a command at once with something that reveals no key.
    pub fn reply(&mut self, write: impl FnOnce(&mut Reply<'_>)) {
        let version = self.session.version;
        self.replies.push(|out| {
            write(&mut Reply::new(out, version));
            Position(0)
        });
    }

    /// Answers with an error.
    pub fn error(&mut self, text: &str) {
        self.reply(|reply| reply.error(text));
    }

    /// Whether this is a batch of an embedded client.
    pub fn is_virtual(&self) -> bool {
        self.endpoints.is_none()
    }

    /// Whether every command so far has its whole reply in what may leave.
    pub fn is_answered(&self) -> bool {
        // What QUIT left in the queue is not run.
        (self.queue.is_empty() || self.closing)
            && self.replies.awaited() == 0
            && !self.replies.is_held()
    }

    /// Whether there is input that was not handled yet.
    pub fn has_unread(&self) -> bool {
        !self.input.is_empty() || !self.queue.is_empty()
    }

    /// Whether input has to wait: for a barrier, for too many replies, for a slow reader.
    pub fn must_wait(&self) -> bool {
        self.blocked
            || self.closing
            || self.replies.awaited() >= MAX_AWAITED_REPLIES
            // The replies of a batch leave when all are there.
            || (!self.is_virtual() && self.replies.expected_bytes() >= MAX_UNSENT_BYTES)
    }
}

/// The replies of a connection, from the first that was not sent.
#[derive(Debug)]
pub struct Replies {
    /// Complete and in order, made in this turn.
    ready: Vec<u8>,
    /// The highest position that `ready` speaks of.
    ready_gate: Position,
    /// Complete and in order, behind a gate.
    held: VecDeque<(Position, Vec<u8>)>,
    held_bytes: usize,
    /// May leave.
    sendable: Vec<u8>,
    /// The slots after `ready`; `None` is awaited.
    slots: VecDeque<Option<(Position, Vec<u8>)>>,
    /// The number of the first of `slots`.
    first_slot: u64,
    slot_bytes: usize,
    /// How large a reply that is awaited may be, by those that came before it.
    awaited_bytes: usize,
    /// A send is under way.
    sending: bool,
    /// An empty buffer with memory.
    spare: Vec<u8>,
}

impl Default for Replies {
    fn default() -> Self {
        Self {
            ready: Vec::new(),
            ready_gate: Position(0),
            held: VecDeque::new(),
            held_bytes: 0,
            sendable: Vec::new(),
            slots: VecDeque::new(),
            first_slot: 0,
            slot_bytes: 0,
            awaited_bytes: FIRST_AWAITED_BYTES,
            sending: false,
            spare: Vec::new(),
        }
    }
}

impl Replies {
    /// Adds a reply that is complete; it may leave when the position that `write` answers is
    /// durable.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Position) {
        if self.slots.is_empty() {
            let gate = write(&mut self.ready);
            self.ready_gate = self.ready_gate.max(gate);
        } else {
            let mut reply = Vec::new();
            let gate = write(&mut reply);
            self.slot_bytes += reply.len();
            self.slots.push_back(Some((gate, reply)));
        }
    }

    /// Reserves the next place for a reply that comes later.
    pub fn await_reply(&mut self) -> u64 {
        self.slots.push_back(None);
        self.first_slot + self.slots.len() as u64 - 1
    }

    /// Fills a reserved place.
    pub fn fill(&mut self, slot: u64, gate: Position, reply: Vec<u8>) {
        let index = slot.checked_sub(self.first_slot).expect("a slot is filled once");
        let place = self.slots.get_mut(index as usize).expect("a slot was reserved");
        assert!(place.is_none(), "a slot is filled once");
        self.slot_bytes += reply.len();
        self.awaited_bytes = reply.len().max(self.awaited_bytes / 2);
        *place = Some((gate, reply));
        while let Some(Some(_)) = self.slots.front() {
            let (gate, reply) = self.slots.pop_front().flatten().expect("the front was looked at");
            self.first_slot += 1;
            self.slot_bytes -= reply.len();
            self.ready_gate = self.ready_gate.max(gate);
            if self.ready.is_empty() {
                self.ready = reply;
            } else {
                self.ready.extend_from_slice(&reply);
            }
        }
    }

    /// How many replies are awaited from elsewhere, or queue behind such a one.
    pub fn awaited(&self) -> usize {
        self.slots.len()
    }

    /// Whether something waits for the gate, or for the end of the turn.
    pub fn is_held(&self) -> bool {
        !self.held.is_empty() || !self.ready.is_empty()
    }

    /// Reply bytes that the client has not taken yet.
    pub fn unsent_bytes(&self) -> usize {
        self.ready.len() + self.held_bytes + self.sendable.len() + self.slot_bytes
    }

    /// The same, with a guess for those that are awaited. They come from other shards, which do
    /// not know how slowly this client reads.
    pub fn expected_bytes(&self) -> usize {
        self.unsent_bytes() + self.slots.len().saturating_mul(self.awaited_bytes)
    }

    /// Whether everything was handed to the network and taken.
    pub fn is_drained(&self) -> bool {
        self.unsent_bytes() == 0 && self.slots.is_empty() && !self.sending
    }

    /// At the end of a turn: closes `ready`. Answers the position to wait for, if it must.
    pub fn end_turn(&mut self, durable: Position) -> Option<Position> {
        if self.ready.is_empty() {
            return None;
        }
        let gate = std::mem::take(&mut self.ready_gate);
        if gate <= durable && self.held.is_empty() {
            if self.sendable.is_empty() {
                std::mem::swap(&mut self.sendable, &mut self.ready);
            } else {
                self.sendable.append(&mut self.ready);
            }
            return None;
        }
        let gate = self.held.back().map_or(gate, |(last, _)| gate.max(*last));
        let spare = std::mem::take(&mut self.spare);
        let bytes = std::mem::replace(&mut self.ready, spare);
        self.held_bytes += bytes.len();
        self.held.push_back((gate, bytes));
        Some(gate)
    }

    /// Moves what waits for nothing above `durable` to what may leave.
    pub fn release(&mut self, durable: Position) {
        while self.held.front().is_some_and(|(gate, _)| *gate <= durable) {
            let (_, mut bytes) = self.held.pop_front().expect("the front was looked at");
            self.held_bytes -= bytes.len();
            if self.sendable.is_empty() {
                std::mem::swap(&mut self.sendable, &mut bytes);
            } else {
                self.sendable.append(&mut bytes);
            }
            self.keep(bytes);
        }
    }

    /// The bytes to send now, if there are some and no send is under way.
    pub fn take_sendable(&mut self) -> Option<Vec<u8>> {
        if self.sending || self.sendable.is_empty() {
            return None;
        }
        self.sending = true;
        let spare = std::mem::take(&mut self.spare);
        Some(std::mem::replace(&mut self.sendable, spare))
    }

    /// A send is over; its buffer comes back.
    pub fn sent(&mut self, buffer: Vec<u8>) {
        self.sending = false;
        self.keep(buffer);
    }

    fn keep(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > self.spare.capacity() && buffer.capacity() <= KEPT_BUFFER_BYTES {
            buffer.clear();
            self.spare = buffer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(replies: &mut Replies, durable: u64) -> String {
        replies.release(Position(durable));
        let bytes = replies.take_sendable().unwrap_or_default();
        replies.sent(Vec::new());
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn replies_keep_their_order_across_slots_and_gates() {
        let mut replies = Replies::default();
        let put = |gate, text: &'static str| {
            move |out: &mut Vec<u8>| {
                out.extend_from_slice(text.as_bytes());
                Position(gate)
            }
        };
        replies.push(put(0, "a"));
        let (b, c) = (replies.await_reply(), replies.await_reply());
        replies.push(put(0, "d"));
        assert_eq!(replies.end_turn(Position(0)), None);
        assert_eq!(sent(&mut replies, 0), "a");
        replies.fill(c, Position(0), b"c".to_vec());
        assert_eq!(replies.awaited(), 3);
        replies.fill(b, Position(7), b"b".to_vec());
        assert_eq!(replies.end_turn(Position(0)), Some(Position(7)));
        replies.push(put(3, "e"));
        assert_eq!(replies.end_turn(Position(5)), Some(Position(7)), "not before what is earlier");
        assert_eq!(sent(&mut replies, 6), "");
        assert_eq!(sent(&mut replies, 7), "bcde");
        assert!(replies.is_drained());
    }

    #[test]
    fn one_send_at_a_time() {
        let mut replies = Replies::default();
        replies.push(|out| {
            out.push(b'x');
            Position(0)
        });
        replies.end_turn(Position(0));
        assert_eq!(replies.take_sendable(), Some(b"x".to_vec()));
        replies.push(|out| {
            out.push(b'y');
            Position(0)
        });
        replies.end_turn(Position(0));
        assert_eq!(replies.take_sendable(), None);
        replies.sent(Vec::with_capacity(10));
        assert_eq!(replies.take_sendable(), Some(b"y".to_vec()));
    }
}
