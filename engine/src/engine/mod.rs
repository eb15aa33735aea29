//! The engine: shards on their threads, embedded in whatever process opens it.
//!
//! [`Engine::open`] locks and recovers a directory (or starts empty in memory), starts a pinned
//! glommio executor for each shard, loads it, and returns when every shard serves. The engine
//! never exits the process, prints, reads the environment, installs handlers, or touches the
//! caller's thread.
//!
//! | file | what |
//! |---|---|
//! | [`config`] | how it is opened; what an image is |
//! | [`client`] | commands from any thread |
//! | `shell` | a shard's task: ring, disk, mailboxes around the core |
//! | `provider` | makes log segments ahead of their use |
//! | `load` | image and logs into the shards |
//! | [`snapshot`] | chunk streams of one cut |
//! | [`message`], [`error`], [`lock`] | what they speak of |

pub mod client;
pub mod config;
pub mod error;
mod load;
pub mod lock;
pub mod message;
mod open;
mod provider;
mod shell;
pub mod snapshot;
mod threads;
mod usage;

use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::TimeSource;
use crate::log::{LogKeys, LogMark};
use crate::net::{ConnId, Doorbell, InboxSender};
use crate::resp::{Reply, RespVersion};
use crate::shard::cut::{ChunkBudget, CutRequest};
use crate::shard::shared::{Ports, Shared};
use crate::types::{LogId, Lsn, Position, ShardId, SnapshotId, StartId};

pub use client::{CallError, Client};
pub use config::{AdminCall, EngineConfig, ImageSource};
pub use error::{Failure, FailureReason, OpenError, Stopped};
pub use snapshot::{
    ImageChunk, PartEvent, PartStream, SnapshotError, SnapshotPlan, SnapshotStreams,
};

use error::FailureCell;
use lock::DataLock;
use message::ToShard;
use threads::ShardThreads;

/// How far ahead of now a cut is picked, so that every shard reaches it after it was told.
const CUT_LEAD: Duration = Duration::from_millis(2);

/// A running engine. [`Engine::close`] or dropping it drains, syncs and ends every shard.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    time: Arc<TimeSource>,
    inboxes: Arc<[InboxSender<ToShard>]>,
    doorbells: Vec<Doorbell>,
    threads: ShardThreads,
    failure: FailureCell,
    start: StartId,
    keys: LogKeys,
    recovered: Recovered,
    snapshots: AtomicU64,
    /// Held by the streams of the snapshot under way.
    snapshot_turn: Arc<AtomicBool>,
    stall_limit_ms: u64,
    /// Given back when every shard has ended.
    lock: Mutex<Option<DataLock>>,
}

/// What the start found.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Keys that are there now.
    pub keys: u64,
    /// How long loading took.
    pub elapsed: Duration,
    /// The image that was loaded.
    pub image: Option<String>,
    /// Incomplete transactions that were dropped.
    pub dropped_transactions: usize,
    /// The database and the history.
    pub identity: (u128, u128),
}

impl Engine {
    /// Opens an engine; blocks until it serves.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong and what to do.
    pub fn open(config: EngineConfig) -> Result<Self, OpenError> {
        open::open(config)
    }

    /// Fails as [`Engine::open`] would if the keys do not fit the log, and changes nothing: for a
    /// caller that writes elsewhere before it opens. Other errors are left to the open.
    ///
    /// # Errors
    /// [`OpenError::Recovery`] with a [`refusal`](crate::log::RecoveryError::refusal).
    pub fn check_keys(config: &EngineConfig) -> Result<(), OpenError> {
        open::check_keys(config)
    }

    /// A handle for commands. It does not keep the engine running.
    pub fn client(&self) -> Client {
        Client::new(Arc::clone(&self.inboxes), self.shared.slots, self.failure.clone())
    }

    /// Where the engine listens.
    pub fn ports(&self) -> Ports {
        self.shared.ports.get().cloned().unwrap_or_default()
    }

    /// What all shards share: counters and settings.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What the start found.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// The number of this start of the data directory.
    pub fn start(&self) -> StartId {
        self.start
    }

    /// What the logs of the data directory are opened with.
    pub fn log_keys(&self) -> &LogKeys {
        &self.keys
    }

    /// How many shards it has.
    pub fn shards(&self) -> u16 {
        self.shared.slots.shards()
    }

    /// Now, as an LSN of this engine's clock.
    pub fn now(&self) -> Lsn {
        Lsn::from_micros(self.time.now_micros())
    }

    /// Begins a snapshot at one cut of all shards (a little ahead of now if none is given); answers
    /// when every shard has frozen its view. Works on any runtime. Dropping the future or the
    /// streams cancels the snapshot, and the next can begin at once.
    ///
    /// # Errors
    /// [`SnapshotError::Busy`] while the streams of another live, or [`SnapshotError`].
    pub async fn create_snapshot(
        &self,
        plan: impl Into<SnapshotPlan>,
    ) -> Result<SnapshotStreams, SnapshotError> {
        let SnapshotPlan { cut, digest_seed, only_digests } = plan.into();
        let id = SnapshotId(self.snapshots.fetch_add(1, Ordering::Relaxed) + 1);
        let lead = CUT_LEAD.as_micros() as u64;
        let cut = cut.unwrap_or(Lsn::from_micros(self.time.now_micros() + lead));
        let budget = ChunkBudget::new(snapshot::CHUNK_QUEUE_BYTES);
        let turn = snapshot::Turn::take(id, &self.snapshot_turn, &self.inboxes)?;
        let mut pending = Vec::with_capacity(self.inboxes.len());
        for (shard, inbox) in self.inboxes.iter().enumerate() {
            let (events, receiver) = flume::unbounded();
            let budget = budget.share();
            let request = CutRequest {
                id,
                cut,
                budget: Arc::clone(&budget),
                stall_limit_ms: self.stall_limit_ms,
                digest_seed,
                serializes: !only_digests,
            };
            let sent = inbox.send_async(ToShard::BeginCut { request, events }).await;
            sent.map_err(|_| SnapshotError::Stopped)?;
            pending.push(snapshot::PendingPart {
                log: LogId { start: self.start, shard: ShardId(shard as u16) },
                events: receiver,
                budget,
                wake: self.doorbells[shard].clone(),
            });
        }
        snapshot::begin(turn, pending).await
    }

    /// Where the logs of this start stand, by shard: answered when each is durable up to its mark's
    /// end. Idle shards close their logs up to now for it. Works on any runtime.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn mark(&self) -> Result<Vec<LogMark>, Stopped> {
        let mut waiting = Vec::with_capacity(self.inboxes.len());
        for inbox in self.inboxes.iter() {
            let (reply, mark) = flume::bounded(1);
            let sent = inbox.send_async(ToShard::Mark { reply }).await;
            sent.map_err(|_| self.failure.stopped())?;
            waiting.push(mark);
        }
        let mut marks = Vec::with_capacity(waiting.len());
        for mark in waiting {
            marks.push(mark.recv_async().await.map_err(|_| self.failure.stopped())?);
        }
        Ok(marks)
    }

    /// The logs of this start before these positions, by shard, are not needed any more: their
    /// segments are used again. The engine alone never recycles.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn release_log(&self, before: &[Position]) -> Result<(), Stopped> {
        for (inbox, before) in self.inboxes.iter().zip(before) {
            inbox
                .send(ToShard::ReleaseLog { before: *before })
                .map_err(|_| self.failure.stopped())?;
        }
        Ok(())
    }

    /// Why the engine has stopped by itself, if it has.
    pub fn failure(&self) -> Option<Failure> {
        self.failure.get()
    }

    /// Resolves when the engine has stopped by itself.
    pub async fn failed(&self) -> Failure {
        self.threads.failed().await
    }

    /// Drains, syncs and ends; the directory can be opened again when this returns. Calls that are
    /// not answered by then get [`Stopped`].
    ///
    /// # Errors
    /// Why it had stopped before.
    pub fn close(self) -> Result<(), Failure> {
        self.shut_down()
    }

    /// [`Self::close`], for an engine that several share. Blocks; again is harmless.
    ///
    /// # Errors
    /// Why it had stopped before.
    pub fn shut_down(&self) -> Result<(), Failure> {
        let stopped = self.stop();
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        stopped
    }

    /// [`Self::shut_down`], but nobody else may open the directory yet: for whoever still writes
    /// down there what became of the logs.
    ///
    /// # Errors
    /// Why it had stopped before.
    pub fn stop(&self) -> Result<(), Failure> {
        self.shared.stopping.store(true, Ordering::Release);
        for inbox in self.inboxes.iter() {
            // One that is gone has stopped.
            let _ = inbox.send(ToShard::Stop);
        }
        self.threads.join();
        self.failure.get().map_or(Ok(()), Err)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Whoever wants to know asks before, or closes.
        let _ = self.shut_down();
    }
}

/// Answers one command of the control plane's.
#[derive(Debug)]
pub struct AdminReplier {
    shard: Option<InboxSender<ToShard>>,
    conn: ConnId,
    slot: u64,
    version: RespVersion,
    gone: flume::Receiver<Infallible>,
}

impl AdminReplier {
    pub(crate) fn new(
        shard: InboxSender<ToShard>,
        conn: ConnId,
        slot: u64,
        version: RespVersion,
        gone: flume::Receiver<Infallible>,
    ) -> Self {
        Self { shard: Some(shard), conn, slot, version, gone }
    }

    /// Completes when nobody waits for the reply any more: the client has closed its connection, or
    /// at least its sending side, or was answered.
    pub fn client_gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let gone = self.gone.clone().into_recv_async();
        async move {
            let _ = gone.await;
        }
    }

    /// Ends the command without a reply: the connection is about to be closed (SHUTDOWN).
    pub fn silently(mut self) {
        self.send(|_| {});
    }

    /// Sends the reply.
    pub fn reply(mut self, write: impl FnOnce(&mut Reply<'_>)) {
        self.send(write);
    }

    /// For the shard itself, which answers a call that it could not pass on: what is dropped there
    /// must not wait for room in the inbox that only that shard empties.
    pub(crate) fn forget(mut self) {
        self.shard = None;
    }

    fn send(&mut self, write: impl FnOnce(&mut Reply<'_>)) {
        let Some(shard) = self.shard.take() else { return };
        let mut reply = Vec::new();
        write(&mut Reply::new(&mut reply, self.version));
        // A shard that has stopped has no connection left to answer.
        let _ = shard.send(ToShard::AdminReply { conn: self.conn, slot: self.slot, reply });
    }
}

impl Drop for AdminReplier {
    fn drop(&mut self) {
        self.send(|reply| reply.error("ERR the control plane did not answer"));
    }
}

/// The folder of the logs in a data directory.
pub fn log_dir(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join("log")
}
