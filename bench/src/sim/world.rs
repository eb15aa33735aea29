//! The world while shards serve: what can happen next, one thing at a time, chosen by chance.
//!
//! Mail between two shards keeps its order; everything else (disk operations, sends, what the
//! control plane says, pieces of input) ends when chance wants it to. Every choice comes from the
//! seed and goes into a hash, so that two runs of a seed can be compared.

use std::hash::{DefaultHasher, Hash};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use cutwater_engine::log::segment::{prepare_segment, segment_name};
use cutwater_engine::log::{LogEffect, SegmentHeader, SegmentIdentity, SegmentIndex, SimDisk};
use cutwater_engine::resp::ArgsBuf;
use cutwater_engine::shard::connection::Endpoints;
use cutwater_engine::shard::core::ShardCore;
use cutwater_engine::slot::SlotMap;
use cutwater_engine::types::{Fsync, LogId, ShardId, StartId};

use super::archive::Archive;
use super::boot::IDENTITY;
use super::client::Client;
use super::model::Request;
use super::mutation::Mutation;
use super::node::{Io, Node};
use super::rng::Rng;
use super::sealing::Sealing;
use super::search::Event;
use super::snapshot::{Complete, Shot};
use super::workload::Workload;

/// How often each kind of thing happens, relative to the others.
#[derive(Clone, Debug)]
pub struct Tempo {
    /// Mail is delivered; by sender and receiver.
    pub mail: Vec<u64>,
    /// A disk operation ends.
    pub disk: u64,
    /// A client sends, or takes what was sent.
    pub net: u64,
    /// A client asks for something new.
    pub ask: u64,
    /// A client goes away, in a thousand of its turns.
    pub leave_permille: u64,
    /// The clock moves, in a hundred steps.
    pub clock_percent: u64,
    /// A snapshot is begun, in a thousand steps.
    pub snapshot_permille: u64,
}

/// Everything outside of the shards, and the shards.
pub struct World {
    /// The source of chance.
    pub rng: Rng,
    /// What happened, as a number.
    pub hash: DefaultHasher,
    /// The disk of all shards.
    pub disk: SimDisk,
    /// The log folder.
    pub dir: PathBuf,
    /// What clients ask for.
    pub workload: Workload,
    /// When replies may leave.
    pub fsync: Fsync,
    /// The size of segments.
    pub segment_bytes: u64,
    /// What is taken away.
    pub mutation: Mutation,
    /// How often what happens.
    pub tempo: Tempo,
    /// Now.
    pub now_micros: u64,
    /// Counts what happened.
    pub step: u64,
    /// The start that serves.
    pub start: StartId,
    /// The shards.
    pub nodes: Vec<Node>,
    /// The clients, each with one connection.
    pub clients: Vec<Client>,
    /// Connections so far in this history.
    pub connections: usize,
    /// What clients asked for and saw since the start.
    pub history: Vec<Event>,
    /// Requests that clients may still ask.
    pub quota: usize,
    /// The snapshot under way.
    pub shot: Option<Shot>,
    /// The snapshots that are complete, oldest first.
    pub complete: Vec<Complete>,
    /// Snapshots so far.
    pub snapshots: u64,
    /// How many were completed since somebody asked.
    pub completed: u64,
    /// Log that two snapshots cover is given up.
    pub recycles: bool,
    /// The log reaches back to the first start.
    pub whole_log: bool,
    /// The log had no room once, so writes may have been refused without anybody knowing.
    pub refused: bool,
    /// Files that segments can be made from.
    pub spares: Vec<String>,
    /// What was taken out of the logs.
    pub archive: Archive,
    /// What the log is sealed with, if it is.
    pub sealing: Sealing,
}

/// One thing that can happen.
#[derive(Clone, Copy, Debug, Hash)]
enum Action {
    Mail { to: usize, from: usize },
    Disk { node: usize, at: usize },
    Control { node: usize },
    Sent { node: usize, at: usize },
    Send { client: usize },
    Take { client: usize },
    Ask { client: usize },
    TakeChunk { at: usize },
    Turn { node: usize },
}

impl World {
    /// The shards serve from here on, with new clients.
    pub fn serve(&mut self, cores: Vec<ShardCore>, clients: usize) {
        let shards = cores.len();
        self.nodes = cores.into_iter().map(|core| Node::new(core, shards)).collect();
        self.history.clear();
        self.clients.clear();
        self.connections = 0;
        self.shot = None;
        for at in 0..clients {
            let client = self.connect(at);
            self.clients.push(client);
        }
        for node in 0..shards {
            self.turn(node, |_, _| {});
        }
    }

    /// One step; false if nothing is under way and no client has anything to ask.
    ///
    /// # Errors
    /// What must not be.
    pub fn step(&mut self) -> Result<bool, String> {
        self.step += 1;
        self.move_clock();
        if self.rng.below(1_000) < self.tempo.snapshot_permille as usize && self.quota > 0 {
            self.begin_snapshot();
        }
        if self.archive.is_on && self.quota > 0 && self.rng.chance(4) {
            self.begin_round();
        }
        let actions = self.actions();
        let total: u64 = actions.iter().map(|(weight, _)| weight).sum();
        if total == 0 {
            return Ok(false);
        }
        let mut at = self.rng.any() % total;
        let chosen = actions.iter().find(|(weight, _)| {
            let found = at < *weight;
            at = at.wrapping_sub(*weight);
            found
        });
        let action = chosen.map(|(_, action)| *action).ok_or("no action was chosen")?;
        (action, self.now_micros).hash(&mut self.hash);
        self.act(action)?;
        Ok(true)
    }

    /// Time passes and nothing happens: every shard has a turn.
    pub fn idle(&mut self, micros: u64) {
        self.now_micros += micros;
        for node in 0..self.nodes.len() {
            self.turn(node, |_, _| {});
        }
    }

    fn slots(&self) -> SlotMap {
        SlotMap::new(self.nodes.len() as u16)
    }

    fn move_clock(&mut self) {
        if self.rng.chance(self.tempo.clock_percent) {
            self.now_micros += match self.rng.below(1_000) {
                0..900 => self.rng.between(1, 100),
                900..995 => self.rng.between(100, 20_000),
                _ => self.rng.between(20_000, 3_000_000),
            };
        }
    }

    fn actions(&mut self) -> Vec<(u64, Action)> {
        let tempo = &self.tempo;
        let shards = self.nodes.len();
        let mut actions = Vec::new();
        for (to, node) in self.nodes.iter().enumerate() {
            for (from, batches) in node.mail.iter().enumerate() {
                if !batches.is_empty() {
                    let weight = tempo.mail[(to * shards + from) % tempo.mail.len()];
                    actions.push((weight, Action::Mail { to, from }));
                }
            }
            let disk = (0..node.io.len()).map(|at| (tempo.disk, Action::Disk { node: to, at }));
            actions.extend(disk);
            let sent = (0..node.sending.len()).map(|at| (tempo.net, Action::Sent { node: to, at }));
            actions.extend(sent);
            if !node.control.is_empty() {
                actions.push((2, Action::Control { node: to }));
            }
            if node.core.has_background_work() {
                actions.push((2, Action::Turn { node: to }));
            }
        }
        for (at, client) in self.clients.iter().enumerate() {
            if !client.to_server.is_empty() || !client.batch.is_empty() {
                actions.push((tempo.net, Action::Send { client: at }));
            }
            if !client.from_server.is_empty() {
                actions.push((tempo.net, Action::Take { client: at }));
            }
            let may_ask = if client.is_virtual { 1 } else { 4 };
            if self.quota > 0 && client.unanswered() < may_ask {
                actions.push((tempo.ask, Action::Ask { client: at }));
            }
        }
        if let Some(shot) = self.shot.as_ref().filter(|shot| !shot.stuck) {
            actions.extend((0..shot.untaken.len()).map(|at| (1, Action::TakeChunk { at })));
        }
        actions
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Mail { to, from } => {
                let mut batch = self.nodes[to].mail[from].pop_front().unwrap_or_default();
                self.turn(to, |core, _| core.deliver(&mut batch));
            }
            Action::Disk { node, at } => self.disk_ends(node, at)?,
            Action::Control { node } => self.control(node)?,
            Action::Sent { node, at } => {
                let (conn, buffer) = self.nodes[node].sending.swap_remove(at);
                self.turn(node, |core, _| core.sent(conn, buffer));
            }
            Action::Send { client } => self.client_sends(client),
            Action::Take { client } => self.client_takes(client)?,
            Action::Ask { client } => self.client_asks(client),
            Action::TakeChunk { at } => {
                if let Some(shot) = &mut self.shot {
                    shot.take(at);
                }
            }
            Action::Turn { node } => self.turn(node, |_, _| {}),
        }
        self.end_round()?;
        self.snapshot_events()
    }

    /// A turn of a shard, and all that it asks for is begun.
    pub(super) fn turn(&mut self, node: usize, input: impl FnOnce(&mut ShardCore, &mut Rng)) {
        let now = self.now_micros;
        let shard = &mut self.nodes[node];
        shard.core.begin_turn(now);
        input(&mut shard.core, &mut self.rng);
        if now >= shard.second_at_micros + 1_000_000 {
            shard.second_at_micros = now;
            shard.core.every_second();
        }
        shard.core.end_turn();
        self.carry_out(node);
        self.drive_log(node);
        for to in 0..self.nodes.len() {
            let mut batch = Vec::new();
            if to != node {
                self.nodes[node].core.take_mail(ShardId(to as u16), &mut batch);
            }
            if !batch.is_empty() {
                self.nodes[to].mail[node].push_back(batch);
            }
        }
    }

    fn carry_out(&mut self, node: usize) {
        let shard = &mut self.nodes[node];
        let sends = std::mem::take(&mut shard.core.effects.sends);
        let closes = std::mem::take(&mut shard.core.effects.closes);
        shard.core.effects.pauses.clear();
        shard.core.effects.resumes.clear();
        for (conn, bytes) in sends {
            (conn.0, &bytes).hash(&mut self.hash);
            if conn.is_virtual() {
                shard.core.disconnected(conn);
            } else {
                shard.sending.push((conn, bytes.clone()));
            }
            let client =
                self.clients.iter_mut().find(|client| client.shard == node && client.conn == conn);
            if let Some(client) = client {
                client.from_server.push_back(bytes);
            }
        }
        for conn in closes {
            shard.core.disconnected(conn);
        }
    }

    // ---- the disk ----

    fn drive_log(&mut self, node: usize) {
        let log = LogId { start: self.start, shard: ShardId(node as u16) };
        let shard = &mut self.nodes[node];
        let Some(writer) = shard.core.journal().writer() else { return };
        while let Some(effect) = writer.next_write() {
            match effect {
                LogEffect::Write { id, segment, offset_bytes, block, dsync } => {
                    let path = self.dir.join(segment_name(log, segment));
                    let dsync = dsync && self.mutation != Mutation::NoSync;
                    let op = self.disk.start_write(&path, offset_bytes, &block, dsync);
                    let op = op.expect("the disk does not fail while shards serve");
                    shard.io.push(Io::Write { op, id, block });
                }
                LogEffect::Sync { id, segment } => {
                    let path = self.dir.join(segment_name(log, segment));
                    shard.io.push(Io::Sync { id, path });
                }
                LogEffect::NeedSegment { index } => shard.io.push(Io::Prepare { index }),
            }
        }
    }

    fn disk_ends(&mut self, node: usize, at: usize) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("the disk failed while serving: {error}");
        match self.nodes[node].io.swap_remove(at) {
            Io::Write { op, id, block } => {
                self.disk.complete(op).map_err(failed)?;
                self.turn(node, |core, _| {
                    if let Some(writer) = core.journal().writer() {
                        writer.written(id, block);
                    }
                    core.durable_moved();
                });
            }
            Io::Sync { id, path } => {
                if self.mutation != Mutation::NoSync {
                    cutwater_engine::log::LogDisk::sync(&self.disk, &path).map_err(failed)?;
                }
                self.turn(node, |core, _| {
                    if let Some(writer) = core.journal().writer() {
                        writer.synced(id);
                    }
                    core.durable_moved();
                });
            }
            Io::Prepare { index } => self.segment_ready(node, index)?,
        }
        Ok(())
    }

    fn segment_ready(&mut self, node: usize, index: SegmentIndex) -> Result<(), String> {
        if self.rng.chance(3) {
            // No room for now: tried again later.
            self.nodes[node].io.push(Io::Prepare { index });
            self.refused = true;
            self.turn(node, |core, _| core.journal().set_out_of_space(true));
            return Ok(());
        }
        let identity = SegmentIdentity(self.rng.any());
        let mut header = SegmentHeader {
            database_id: IDENTITY.0,
            history_id: IDENTITY.1,
            log: LogId { start: self.start, shard: ShardId(node as u16) },
            shards: self.nodes.len() as u16,
            index,
            identity,
            size_bytes: self.segment_bytes,
            sealing: None,
        };
        let key = self.sealing.segment(&mut header);
        let spare = self.spares.pop();
        prepare_segment(&self.disk, &self.dir, &header, spare.as_deref())
            .map_err(|error| format!("a segment cannot be made: {error}"))?;
        self.turn(node, |core, _| {
            core.journal().set_out_of_space(false);
            if let Some(writer) = core.journal().writer() {
                writer.segment_ready(index, identity, key);
            }
        });
        Ok(())
    }

    // ---- clients ----

    fn connect(&mut self, at: usize) -> Client {
        let shard = self.rng.below(self.nodes.len());
        let is_virtual = self.rng.chance(25);
        let conn = self.nodes[shard].conn(at, is_virtual);
        if !is_virtual {
            let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let endpoints = Endpoints { peer: address(50_000), local: address(6_379) };
            self.turn(shard, |core, _| core.accept(conn, endpoints));
        }
        self.connections += 1;
        Client::new(shard, conn, self.connections - 1, is_virtual)
    }

    fn client_asks(&mut self, at: usize) {
        if self.rng.below(1_000) < self.tempo.leave_permille as usize {
            return self.client_leaves(at);
        }
        let slots = self.slots();
        if self.clients[at].is_virtual {
            let shard = self.clients[at].shard;
            self.clients[at].conn = self.nodes[shard].conn(at, true);
        }
        for _ in 0..1 + self.rng.below(4) {
            if self.quota == 0 {
                return;
            }
            self.quota -= 1;
            self.step += 1;
            let may_watch = !self.clients[at].is_virtual;
            let request = self.workload.request(&mut self.rng, may_watch);
            let shards = self.workload.shards(&request, slots);
            let barrier = !matches!(request, Request::One(_)) || shards.count_ones() > 1;
            let invoked = (self.step, self.now_micros / 1_000);
            let client = &mut self.clients[at];
            client.send(self.workload.encode(&request), self.history.len());
            let connection = client.connection;
            let event = Event { connection, request, invoked, replied: None, shards, barrier };
            self.history.push(event);
        }
    }

    /// The connection is lost, with all that was on its way; the client comes back.
    fn client_leaves(&mut self, at: usize) {
        let Client { shard, conn, is_virtual, .. } = self.clients[at];
        if is_virtual {
            return;
        }
        self.nodes[shard].sending.retain(|(sending, _)| *sending != conn);
        self.turn(shard, |core, _| core.disconnected(conn));
        self.clients[at] = self.connect(at);
    }

    fn client_sends(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let (shard, conn) = (client.shard, client.conn);
        if client.is_virtual {
            let args = |args: Vec<Vec<u8>>| ArgsBuf::new(args.iter().map(Vec::as_slice));
            let commands = std::mem::take(&mut client.batch).into_iter().map(args).collect();
            return self.turn(shard, |core, _| core.submit(conn, commands));
        }
        let waiting = client.to_server.len();
        let whole = self.rng.chance(50);
        let length = if whole { waiting } else { 1 + self.rng.below(waiting) };
        let bytes: Vec<u8> = client.to_server.drain(..length).collect();
        self.turn(shard, |core, _| core.receive(conn, &bytes));
    }

    fn client_takes(&mut self, at: usize) -> Result<(), String> {
        let now = (self.step, self.now_micros.div_ceil(1_000));
        let client = &mut self.clients[at];
        let Some(mut bytes) = client.from_server.pop_front() else { return Ok(()) };
        if self.rng.chance(30) && bytes.len() > 1 {
            let rest = bytes.split_off(1 + self.rng.below(bytes.len() - 1));
            client.from_server.push_front(rest);
        }
        let taken = client.take(&bytes, now, &mut self.history);
        taken.map_err(|bad| format!("client {at}: {}", bad.0))
    }
}
