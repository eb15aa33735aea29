//! How an engine is opened: where its data is, how many shards, what it listens on, and from which
//! image it starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::log::{Coverage, LogKeys};
use crate::resp::{ArgsBuf, RespVersion};
use crate::types::{Fsync, Lsn};

use super::AdminReplier;
use super::lock::DataLock;

/// A command that the control plane answers, as it reaches it.
#[derive(Debug)]
pub struct AdminCall {
    /// The command, its name first.
    pub args: ArgsBuf,
    /// The client that sent it, as CLIENT ID says it.
    pub client_id: u64,
    /// How to encode the reply.
    pub version: RespVersion,
    /// Where the reply goes; dropped unanswered, the client gets an error.
    pub reply: AdminReplier,
}

/// Everything that an engine needs to know. [`EngineConfig::memory`] and
/// [`EngineConfig::directory`] give the defaults.
pub struct EngineConfig {
    /// Where the log lives; `None` is memory only.
    pub data_dir: Option<PathBuf>,
    /// Whether there is a log; only with a data directory.
    pub log: bool,
    /// A lock of the data directory that the caller holds already.
    pub lock: Option<DataLock>,
    /// The database and the history; a new data directory without them makes its own.
    pub identity: Option<(u128, u128)>,
    /// What the log is sealed and opened with. Without keys nothing is sealed.
    pub keys: LogKeys,
    /// When replies may leave.
    pub fsync: Fsync,
    /// How many shards.
    pub shards: u16,
    /// The CPU of each shard; `None` lets the kernel choose.
    pub cpus: Option<Vec<usize>>,
    /// The common port, or no listeners at all.
    pub listen: Option<SocketAddr>,
    /// The first of the shards' own ports; `None` lets the kernel choose them.
    pub shard_port_base: Option<u16>,
    /// What CLUSTER names instead of the address by which a client came.
    pub announce_host: Option<String>,
    /// `--node-name`.
    pub node_name: Option<String>,
    /// AUTH; empty is none.
    pub password: Vec<u8>,
    /// Connections of all shards.
    pub max_clients: u64,
    /// The size of a log segment, in bytes.
    pub segment_bytes: u64,
    /// Goes on although the data is ahead of the clock.
    pub accept_clock: bool,
    /// How long writes wait for a slow snapshot, in milliseconds.
    pub snapshot_stall_limit_ms: u64,
    /// Keys past their time stay, as far as no command meets them: for an engine that only passes
    /// its data on.
    pub keep_expired: bool,
    /// Every LSN that is given lies above it, whatever is found.
    pub lsn_floor: Lsn,
    /// Somebody else has everything of the logs up to here, as an archive has, and every log was
    /// durable past it: a relaxed transaction that a crash left incomplete cuts none of it off.
    pub kept_lsn: Lsn,
    /// Images to start from, newest first.
    pub images: Vec<Box<dyn ImageSource>>,
    /// Who answers SNAPSHOT and the like.
    pub admin: Option<flume::Sender<AdminCall>>,
}

impl EngineConfig {
    /// An engine in memory only: no data directory, no log, no listeners, two shards.
    pub fn memory() -> Self {
        Self {
            data_dir: None,
            log: false,
            lock: None,
            identity: None,
            keys: LogKeys::default(),
            fsync: Fsync::Never,
            shards: 2,
            cpus: None,
            listen: None,
            shard_port_base: None,
            announce_host: None,
            node_name: None,
            password: Vec::new(),
            max_clients: 10_000,
            segment_bytes: crate::log::segment::DEFAULT_SEGMENT_BYTES,
            accept_clock: false,
            snapshot_stall_limit_ms: 1_000,
            keep_expired: false,
            lsn_floor: Lsn::ZERO,
            kept_lsn: Lsn::ZERO,
            images: Vec::new(),
            admin: None,
        }
    }

    /// A durable engine in a directory, without listeners: `fsync` always, two shards.
    pub fn directory(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: Some(data_dir.into()), log: true, fsync: Fsync::Always, ..Self::memory() }
    }
}

/// An image of the whole database that a start can load. It is read from threads of the loader, and
/// whatever it hands out was verified.
pub trait ImageSource: Send + Sync {
    /// What to call it in messages.
    fn name(&self) -> String;

    /// What it covers of which logs, if it was taken from a log that this directory continues;
    /// `None` if the logs of this directory begin with it (a restored one).
    fn coverage(&self) -> Option<Coverage>;

    /// No LSN in it is above this.
    fn end_lsn(&self) -> Lsn;

    /// How many layers it has, at least 1: a base, and then a delta each, or a run of log. They
    /// are loaded one after the other.
    fn layers(&self) -> usize {
        1
    }

    /// How many parts a layer has; they are read side by side.
    fn parts(&self, layer: usize) -> usize;

    /// Hands out the ops of one part of a layer, in order; with `with_tail` also those of the
    /// records above the part's watermark. Every layer but the last is read with its tail; the last
    /// only if no log of this start continues the image.
    ///
    /// # Errors
    /// A text that names the object and the reason, or the sink's own.
    fn read(
        &self,
        layer: usize,
        part: usize,
        with_tail: bool,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String>;
}
