//! Shards without I/O in one test: several [`ShardCore`]s, the mail between them carried by hand,
//! a clock that only the test moves, and clients that are no more than bytes in and bytes out.
//!
//! [`TestCluster::call`] is the usual way: send a command, let everything settle, read the reply.
//! For interleavings, [`TestCluster::send`] without pumping and [`TestCluster::turn`] give each
//! shard its turns one by one, and [`TestCluster::pump_seeded`] in a random order.

mod clients;
mod disk;
mod overlap;
mod room;
mod session;
mod topology;
mod transactions;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::connection::Endpoints;
use super::core::{AdminRequest, ShardCore, ShardSetup};
use super::journal::Journal;
use super::message::Mail;
use super::shared::{Ports, ServerIdentity, Settings, Shared};
use crate::net::{ConnId, INDEX_BITS};
use crate::resp::{Value, encode};
use crate::slot::{SlotMap, slot_of};
use crate::types::{Fsync, Lsn, ShardId, StartId};

/// Where the clock of every test begins: some day of 2023, in microseconds since the Unix epoch.
pub const START_MICROS: u64 = 1_700_000_000_000_000;
/// How far the clock moves with each turn of a shard.
const TURN_MICROS: u64 = 7;
/// Turns after which shards that still send mail to each other are taken to do so for ever.
const MAX_TURNS: usize = 100_000;
/// The port of shard 0; the others follow.
pub const FIRST_PORT: u16 = 7_000;
/// The port on which any shard takes connections.
const COMMON_PORT: u16 = 6379;

/// A client of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TestConn {
    /// The shard that accepted it.
    pub shard: ShardId,
    /// Its id there.
    pub id: ConnId,
}

/// Shards, and everything around them.
pub struct TestCluster {
    /// The shards, by number.
    pub shards: Vec<ShardCore>,
    /// What they share.
    pub shared: Arc<Shared>,
    /// The reading that the next turn begins with.
    pub now_micros: u64,
    /// What was asked of the control plane.
    pub admin: Vec<(ShardId, AdminRequest)>,
    /// Mail on its way: `mail[to][from]`.
    mail: Vec<Vec<Vec<Mail>>>,
    output: BTreeMap<TestConn, Vec<u8>>,
    closed: BTreeSet<TestConn>,
    accepted: u32,
    /// By shard; none without logs.
    disks: Vec<disk::TestDisk>,
}

impl TestCluster {
    /// Shards that have loaded nothing and serve, without a log.
    pub fn new(shards: u16) -> Self {
        Self::with_journals(shards, |_| Journal::none())
    }

    /// The same with a journal for each shard.
    pub fn with_journals(shards: u16, journal: impl Fn(ShardId) -> Journal) -> Self {
        let mut cluster = Self::loading(shards, journal);
        cluster.shards.iter_mut().for_each(|shard| shard.finish_loading(Lsn::ZERO));
        cluster
    }

    /// Shards that still load.
    pub fn loading(shards: u16, journal: impl Fn(ShardId) -> Journal) -> Self {
        let slots = SlotMap::new(shards);
        let shared = Arc::new(Shared::new(slots, identity(), settings()));
        let port = |shard| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), FIRST_PORT + shard);
        let ports = Ports {
            common: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), COMMON_PORT)),
            shards: (0..shards).map(port).collect(),
        };
        shared.ports.set(ports).expect("set once");
        let core = |shard| {
            ShardCore::new(ShardSetup {
                id: ShardId(shard),
                start: StartId(1),
                shared: Arc::clone(&shared),
                floor: Lsn::ZERO,
                now_micros: START_MICROS,
                journal: journal(ShardId(shard)),
                seed: 0x5EED + u64::from(shard),
            })
        };
        let empty = || (0..shards).map(|_| Vec::new()).collect();
        Self {
            shards: (0..shards).map(core).collect(),
            shared: Arc::clone(&shared),
            now_micros: START_MICROS,
            admin: Vec::new(),
            mail: (0..shards).map(|_| empty()).collect(),
            output: BTreeMap::new(),
            closed: BTreeSet::new(),
            accepted: 0,
            disks: Vec::new(),
        }
    }

    /// A new client of a shard, on that shard's own port.
    pub fn connect(&mut self, shard: u16) -> TestConn {
        self.connect_to(shard, FIRST_PORT + shard)
    }

    /// A new client of a shard, on the common port.
    pub fn connect_to_common_port(&mut self, shard: u16) -> TestConn {
        self.connect_to(shard, COMMON_PORT)
    }

    fn connect_to(&mut self, shard: u16, port: u16) -> TestConn {
        self.accepted += 1;
        let id = ConnId(u64::from(self.accepted) << INDEX_BITS | u64::from(self.accepted));
        let conn = TestConn { shard: ShardId(shard), id };
        let local = SocketAddr::from(([127, 0, 0, 1], port));
        let peer = SocketAddr::from(([127, 0, 0, 1], 50_000 + self.accepted as u16));
        self.core(conn.shard).accept(id, Endpoints { peer, local });
        conn
    }

    /// The client closes its end.
    pub fn disconnect(&mut self, conn: TestConn) {
        self.core(conn.shard).disconnected(conn.id);
        self.closed.insert(conn);
    }

    /// Whether the shard has closed the connection.
    pub fn is_closed(&self, conn: TestConn) -> bool {
        self.closed.contains(&conn)
    }

    /// The shard gets bytes of a client; nothing is carried further yet.
    pub fn send(&mut self, conn: TestConn, bytes: &[u8]) {
        let now_micros = self.now_micros;
        let core = self.core(conn.shard);
        core.begin_turn(now_micros);
        core.receive(conn.id, bytes);
    }

    /// Sends one command.
    pub fn send_command(&mut self, conn: TestConn, args: &[&str]) {
        self.send(conn, &request(args));
    }

    /// Everything that the shard has sent to a client since the last call.
    pub fn take_output(&mut self, conn: TestConn) -> Vec<u8> {
        self.output.remove(&conn).unwrap_or_default()
    }

    /// The replies among [`Self::take_output`].
    pub fn take_replies(&mut self, conn: TestConn) -> Vec<Value> {
        let output = self.take_output(conn);
        let mut rest = output.as_slice();
        let mut replies = Vec::new();
        while !rest.is_empty() {
            let (value, length) = Value::parse(rest).expect("a reply").expect("a whole reply");
            replies.push(value);
            rest = &rest[length..];
        }
        replies
    }

    /// Sends a command and pumps until its reply is there.
    pub fn call(&mut self, conn: TestConn, args: &[&str]) -> Value {
        self.send_command(conn, args);
        self.pump();
        let mut replies = self.take_replies(conn);
        assert_eq!(replies.len(), 1, "one reply to {args:?}, not {replies:?}");
        replies.pop().expect("there is one")
    }

    /// The error that a command is answered with.
    pub fn error(&mut self, conn: TestConn, args: &[&str]) -> String {
        let reply = self.call(conn, args);
        reply.as_error().unwrap_or_else(|| panic!("{args:?} was answered {reply:?}")).to_owned()
    }

    /// The text that a command is answered with.
    pub fn text(&mut self, conn: TestConn, args: &[&str]) -> String {
        let reply = self.call(conn, args);
        reply.as_str().unwrap_or_else(|| panic!("{args:?} was answered {reply:?}")).to_owned()
    }

    /// Gives shards their turns, in order, until none has anything left to do.
    pub fn pump(&mut self) {
        for _ in 0..MAX_TURNS {
            let shards = 0..self.shards.len() as u16;
            let busy = shards.filter(|shard| self.turn(ShardId(*shard))).count();
            if busy == 0 {
                return;
            }
        }
        panic!("the shards never come to rest");
    }

    /// Gives shards their turns in an order that the seed determines, until none has anything
    /// left to do.
    pub fn pump_seeded(&mut self, seed: u64) {
        let mut random = seed | 1;
        for _ in 0..MAX_TURNS {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            self.turn(ShardId((random % self.shards.len() as u64) as u16));
            if self.is_quiet() {
                return self.pump();
            }
        }
        panic!("the shards never come to rest");
    }

    /// One turn of one shard: the mail that has reached it, its end of turn, its effects. Answers
    /// whether anything happened.
    pub fn turn(&mut self, shard: ShardId) -> bool {
        self.now_micros += TURN_MICROS;
        let now_micros = self.now_micros;
        let core = &mut self.shards[shard.0 as usize];
        core.begin_turn(now_micros);
        let mut busy = core.has_background_work();
        for batch in &mut self.mail[shard.0 as usize] {
            busy |= !batch.is_empty();
            core.deliver(batch);
        }
        core.end_turn();
        for to in 0..self.mail.len() {
            let batch = &mut self.mail[to][shard.0 as usize];
            core.take_mail(ShardId(to as u16), batch);
            busy |= !batch.is_empty();
        }
        busy |= self.drive_log(shard);
        self.carry_out(shard) || busy
    }

    /// Lets time pass; every shard has a turn after it.
    pub fn advance_ms(&mut self, milliseconds: u64) {
        self.now_micros += milliseconds * 1_000;
        self.pump();
    }

    /// The shard that owns a key.
    pub fn owner(&self, key: &str) -> ShardId {
        self.shared.slots.owner(slot_of(key.as_bytes()))
    }

    /// The `number`th key of a prefix that a shard owns.
    pub fn key_on(&self, shard: u16, prefix: &str, number: usize) -> String {
        let mut keys = (0..).map(|n| format!("{prefix}:{n}"));
        keys.by_ref()
            .filter(|key| self.owner(key) == ShardId(shard))
            .nth(number)
            .expect("keys never end")
    }

    fn core(&mut self, shard: ShardId) -> &mut ShardCore {
        &mut self.shards[shard.0 as usize]
    }

    fn is_quiet(&self) -> bool {
        let no_mail = self.mail.iter().flatten().all(Vec::is_empty);
        no_mail && !self.shards.iter().any(ShardCore::has_background_work)
    }

    fn carry_out(&mut self, shard: ShardId) -> bool {
        let core = &mut self.shards[shard.0 as usize];
        let effects = std::mem::take(&mut core.effects);
        let mut busy = false;
        for (id, bytes) in effects.sends {
            busy = true;
            self.output.entry(TestConn { shard, id }).or_default().extend_from_slice(&bytes);
            core.sent(id, bytes);
        }
        for id in effects.closes {
            busy |= self.closed.insert(TestConn { shard, id });
            core.disconnected(id);
        }
        for request in effects.admin {
            busy = true;
            self.admin.push((shard, request));
        }
        busy
    }
}

/// A command as clients send it.
pub fn request(args: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::request(&mut bytes, args.iter().map(|arg| arg.as_bytes()));
    bytes
}

/// A cluster, and a client of its first shard.
pub fn with_client(shards: u16) -> (TestCluster, TestConn) {
    let mut cluster = TestCluster::new(shards);
    let conn = cluster.connect(0);
    (cluster, conn)
}

/// A status as a reply.
pub fn status(text: &str) -> Value {
    Value::Simple(text.to_owned())
}

/// A string as a reply.
pub fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

/// An array of strings as a reply.
pub fn bulks(texts: &[&str]) -> Value {
    Value::Array(texts.iter().map(|text| bulk(text)).collect())
}

fn identity() -> ServerIdentity {
    ServerIdentity {
        run_id: "0123456789abcdef0123456789abcdef01234567".to_owned(),
        node_base: "00000000000000000000000000000000000000ff".to_owned(),
        node_name: None,
        announce_host: None,
        data_dir: Some("/data".to_owned()),
        fsync: Fsync::Always,
        log: false,
        started_at_micros: START_MICROS,
    }
}

fn settings() -> Settings {
    Settings { password: Vec::new(), max_clients: 10_000, timeout_s: 0 }
}
