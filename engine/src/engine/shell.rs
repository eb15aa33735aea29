//! The shell of a shard: the one task that feeds a [`ShardCore`] from the ring, the disk, the
//! mailboxes and the inbox, and carries out what it asks for.
//!
//! A turn takes everything that has arrived, lets the core handle it, and hands the results to the
//! kernel and to the peers: one `io_uring_enter` for all sockets and the log, one batch and at most
//! one doorbell for each peer. Between turns the executor may run its own tasks. With nothing to do
//! the task parks: it declares itself parked, looks once more at everything, and waits; first for
//! a moment in its ring, which costs one system call, then in the executor for its doorbell's
//! eventfd, which its ring signals too.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::TimeSource;
use crate::log::{AlignedBuffer, LogMark, SegmentIndex, SyncId, WriteId};
use crate::net::{
    CloseReason, ConnId, Doorbell, Event, Idle, Inbox, IoToken, ListenerId, MeshEnd, Ring,
    RingConfig,
};
use crate::shard::connection::Endpoints;
use crate::shard::core::{ShardCore, ShardSetup};
use crate::shard::cut::CutEvent;
use crate::shard::message::Mail;
use crate::shard::shared::Shared;
use crate::types::{ShardId, SnapshotId};

use super::config::AdminCall;
use super::error::FailureReason;
use super::message::{ToProvider, ToShard};

mod outward;

/// Messages of the inbox that one turn takes.
const INBOX_BATCH: usize = 256;
/// How long a shard with nothing to do waits in its ring before it goes to sleep in the executor:
/// under load something comes sooner, a log write's completion at the latest.
const NAP: Duration = Duration::from_millis(1);
/// The longest that a shard sleeps: expiry, the sync of `everysec` and timeouts go by it.
const TICK: Duration = Duration::from_millis(100);
/// The longest that a shard sleeps where no key expires: housekeeping is once a second.
const QUIET_TICK: Duration = Duration::from_secs(1);
/// The longest that a shard sleeps while a snapshot waits for its consumer.
const SNAPSHOT_TICK: Duration = Duration::from_millis(2);
/// How often a quiet log covers its last frame with a marker, and `everysec` syncs.
const SECOND_MICROS: u64 = 1_000_000;

/// What a shell is made of; it is moved to the shard's thread.
pub struct ShellSetup {
    /// The core's part.
    pub core: ShardSetup,
    /// Mail to and from the other shards.
    pub mesh: MeshEnd<Mail>,
    /// The doorbells of all shards.
    pub doorbells: Vec<Doorbell>,
    /// From other threads.
    pub inbox: Inbox<ToShard>,
    /// To answer the control plane's callers.
    pub replier: crate::net::InboxSender<ToShard>,
    /// Common port first, then the shard's own.
    pub listeners: Vec<TcpListener>,
    /// Makes segments.
    pub provider: flume::Sender<ToProvider>,
    /// Now.
    pub time: Arc<TimeSource>,
    /// Who answers SNAPSHOT and the like.
    pub admin: Option<flume::Sender<AdminCall>>,
}

/// A shell in its executor.
pub struct Shell {
    id: ShardId,
    core: ShardCore,
    shared: Arc<Shared>,
    ring: Ring<AlignedBuffer>,
    idle: Idle,
    mesh: MeshEnd<Mail>,
    doorbells: Vec<Doorbell>,
    inbox: Inbox<ToShard>,
    replier: crate::net::InboxSender<ToShard>,
    provider: flume::Sender<ToProvider>,
    time: Arc<TimeSource>,
    admin: Option<flume::Sender<AdminCall>>,
    listeners: Vec<ListenerId>,
    segments: HashMap<SegmentIndex, Arc<OwnedFd>>,
    /// Batches that a full queue gave back, by receiver.
    unsent: Vec<Vec<Mail>>,
    /// Who waits for the replies of a virtual connection.
    clients: HashMap<ConnId, flume::Sender<Vec<u8>>>,
    /// Connections whose command is with the control plane; dropped when the client has gone.
    callers: HashMap<ConnId, flume::Sender<Infallible>>,
    free_virtuals: Vec<(u32, u32)>,
    virtuals: u32,
    /// The snapshot under way, and who takes its chunks.
    snapshot: Option<(SnapshotId, flume::Sender<CutEvent>)>,
    loaded: Vec<flume::Sender<()>>,
    /// Marks that the log is not durable up to yet, and who waits for them.
    marks: Vec<(LogMark, flume::Sender<LogMark>)>,
    second_at_micros: u64,
    stopping: bool,
    /// When clients that do not take their replies are given up.
    stop_by_micros: u64,
    /// The shard has just waited in its ring, and nothing came.
    napped: bool,
    failure: Option<FailureReason>,
}

/// How long a stopping shard waits for clients to take their replies.
const DRAIN_MICROS: u64 = 2_000_000;
/// Tokens of syncs have this bit; the others are writes.
const SYNC_TOKEN: u64 = 1 << 63;

impl Shell {
    /// Sets the shell up in the executor that will run it.
    ///
    /// # Errors
    /// The ring or the executor's watch on the doorbell cannot be made.
    pub fn new(setup: ShellSetup) -> Result<Self, FailureReason> {
        let ShellSetup { core, mesh, doorbells, inbox, replier, listeners, provider, time, admin } =
            setup;
        let doorbell = doorbells[core.id.0 as usize].clone();
        let mut ring = Ring::new(&RingConfig::default(), doorbell.clone())?;
        let executor = |error: std::io::Error| FailureReason::Executor(error.to_string());
        let idle = Idle::new(doorbell).map_err(executor)?;
        let listeners =
            listeners.into_iter().map(|listener| ring.listen(listener)).collect::<Result<_, _>>();
        let shards = doorbells.len();
        Ok(Self {
            id: core.id,
            shared: Arc::clone(&core.shared),
            core: ShardCore::new(core),
            ring,
            idle,
            mesh,
            doorbells,
            inbox,
            replier,
            provider,
            time,
            admin,
            listeners: listeners.map_err(executor)?,
            segments: HashMap::new(),
            unsent: (0..shards).map(|_| Vec::new()).collect(),
            clients: HashMap::new(),
            callers: HashMap::new(),
            free_virtuals: Vec::new(),
            virtuals: 0,
            snapshot: None,
            loaded: Vec::new(),
            marks: Vec::new(),
            second_at_micros: 0,
            stopping: false,
            stop_by_micros: 0,
            napped: false,
            failure: None,
        })
    }

    /// Runs until the engine stops.
    ///
    /// # Errors
    /// Why the shard cannot go on.
    pub async fn run(&mut self) -> Result<(), FailureReason> {
        loop {
            let handled = self.turn()?;
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            let failed = self.shared.failed.load(Ordering::Acquire);
            if failed || (self.stopping && self.is_drained()) {
                return Ok(());
            }
            if handled == 0 && !self.core.has_background_work() {
                self.park().await?;
            } else {
                self.napped = false;
                let turn = self.idle.give_turn_if_due().await;
                turn.map_err(|error| FailureReason::Executor(error.to_string()))?;
            }
        }
    }

    /// One turn; answers how much there was to do.
    fn turn(&mut self) -> Result<usize, FailureReason> {
        let mut handled = self.take_completions()?;
        let mut ticked = handled > 0;
        handled += self.take_mail(&mut ticked);
        handled += self.take_inbox(&mut ticked);
        if !ticked {
            self.core.begin_turn(self.time.now_micros());
        }
        self.every_second();
        self.cancel_unheard_snapshot();
        self.core.end_turn();
        self.carry_out();
        if self.stopping {
            // Again: transactions that were under way have logged more since.
            self.core.journal().request_sync();
        }
        self.drive_log();
        handled += self.send_mail();
        Ok(handled)
    }

    fn take_completions(&mut self) -> Result<usize, FailureReason> {
        let Self { ring, core, time, callers, failure, .. } = self;
        let mut ticked = false;
        let count = ring.turn(crate::net::Wait::Never, |event| {
            if !ticked {
                // After the input was taken: an LSN given in this turn is above whatever the
                // client had seen before it sent.
                core.begin_turn(time.now_micros());
                ticked = true;
            }
            match event {
                Event::Received { conn, bytes } => core.receive(conn, bytes),
                Event::Sent { conn, buffer } => core.sent(conn, buffer),
                Event::Accepted { conn, peer, local, .. } => {
                    core.accept(conn, Endpoints { peer, local });
                }
                Event::ReceiveEnded { conn } => {
                    callers.remove(&conn);
                    core.input_ended(conn);
                }
                Event::Closed { conn, reason } => {
                    if let CloseReason::Failed(error) = reason {
                        tracing::debug!(conn = conn.0, %error, "connection failed");
                    }
                    callers.remove(&conn);
                    core.disconnected(conn);
                }
                Event::Written { token, result, buffer } => match result {
                    Ok(_) => written(core, token, buffer),
                    Err(error) => {
                        *failure = Some(FailureReason::Log(error.to_string()));
                    }
                },
                Event::Synced { token, result } => match result {
                    Ok(()) => synced(core, token),
                    Err(error) => {
                        *failure = Some(FailureReason::Log(error.to_string()));
                    }
                },
                Event::ListenerPaused { error, .. } => {
                    tracing::warn!(%error, "cannot accept connections for now");
                }
                Event::ListenerClosed { error, .. } => {
                    if let Some(error) = error {
                        tracing::error!(%error, "a listener has failed");
                    }
                }
            }
        })?;
        if failure.is_some()
            && let Some(writer) = core.journal().writer()
        {
            writer.failed();
        }
        Ok(count)
    }

    fn take_mail(&mut self, ticked: &mut bool) -> usize {
        if self.mesh.is_empty() {
            return 0;
        }
        self.tick(ticked);
        let core = &mut self.core;
        self.mesh.receive(|_, batch| core.deliver(batch))
    }

    fn take_inbox(&mut self, ticked: &mut bool) -> usize {
        if self.inbox.is_empty() {
            return 0;
        }
        let mut messages = Vec::new();
        let count = self.inbox.receive(INBOX_BATCH, |message| messages.push(message));
        self.tick(ticked);
        messages.into_iter().for_each(|message| self.handle(message));
        count
    }

    fn tick(&mut self, ticked: &mut bool) {
        // Also when it was read before: mail and messages may have come in since.
        self.core.begin_turn(self.time.now_micros());
        *ticked = true;
    }

    fn handle(&mut self, message: ToShard) {
        match message {
            // Dropping the sender answers.
            ToShard::Submit { .. } if self.stopping => {}
            ToShard::Submit { commands, reply } => {
                let conn = self.virtual_id();
                self.clients.insert(conn, reply);
                self.core.submit(conn, commands);
            }
            ToShard::AdminReply { conn, slot, reply } => {
                self.callers.remove(&conn);
                self.core.admin_reply(conn, slot, reply);
            }
            ToShard::Load { ops, done } => {
                if let Err(error) = self.core.load(&ops) {
                    self.failure = Some(FailureReason::Load(error.to_string()));
                }
                self.loaded.extend(done);
            }
            ToShard::FinishLoading { floor, done } => {
                self.core.finish_loading(floor);
                self.loaded.push(done);
            }
            ToShard::BeginCut { request, events } => {
                if let Some((id, _)) = self.snapshot.take() {
                    // Its consumer is gone, or there would be no other.
                    self.core.cancel_cut(id);
                }
                self.snapshot = Some((request.id, events));
                self.core.begin_cut(request);
            }
            ToShard::EndCut { id, end } => self.core.end_cut(id, end),
            ToShard::CancelCut { id } => self.core.cancel_cut(id),
            ToShard::SegmentReady { index, identity, key, file } => {
                self.segments.insert(index, file);
                self.core.journal().set_out_of_space(false);
                if let Some(writer) = self.core.journal().writer() {
                    writer.segment_ready(index, identity, key);
                }
            }
            ToShard::SegmentDelayed => self.no_room(),
            ToShard::SegmentFailed { error } => {
                self.failure = Some(FailureReason::Log(error.to_string()));
            }
            ToShard::ReleaseLog { before } => self.release_log(before),
            ToShard::Mark { reply } => self.marks.push((self.core.mark(), reply)),
            ToShard::Stop => self.stop(),
        }
    }

    /// The next segment cannot be made yet. Writes are refused as soon as the present one is full.
    fn no_room(&mut self) {
        if !self.core.journal().is_out_of_space() {
            tracing::error!(shard = self.id.0, "{}", self.shared.out_of_space_error());
        }
        self.core.journal().set_out_of_space(true);
    }

    fn release_log(&mut self, before: crate::types::Position) {
        let Some(writer) = self.core.journal().writer() else { return };
        let segments = writer.release(before);
        segments.iter().for_each(|index| drop(self.segments.remove(index)));
        if !segments.is_empty() {
            let _ = self.provider.send(ToProvider::Retire { shard: self.id, segments });
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.stop_by_micros = self.time.now_micros() + DRAIN_MICROS;
        self.core.stop_reading();
        for listener in self.listeners.drain(..) {
            self.ring.stop_listening(listener);
        }
    }

    /// A consumer that dropped its stream could not tell, if the inbox was full.
    fn cancel_unheard_snapshot(&mut self) {
        if let Some((id, events)) = &self.snapshot
            && events.is_disconnected()
        {
            self.core.cancel_cut(*id);
        }
    }

    /// Whether a stopping shard has nothing left that was promised to anybody.
    fn is_drained(&mut self) -> bool {
        let replies_left = self.core.has_unsent_replies() || !self.clients.is_empty();
        let patient = self.time.now_micros() < self.stop_by_micros;
        let journal = self.core.journal();
        // A full disk must not keep the engine from stopping: what it has no room for was not
        // acknowledged under `always`, and may be lost under the other modes.
        let durable =
            journal.durable() >= journal.tail() || (journal.is_out_of_space() && !patient);
        durable
            && self.ring.file_operations() == 0
            && self.shared.all_drained(self.id, !(replies_left && patient))
    }

    fn every_second(&mut self) {
        let now = self.core.now_micros();
        if now < self.second_at_micros + SECOND_MICROS {
            return;
        }
        self.second_at_micros = now;
        if self.id == ShardId(0) {
            self.time.slew();
        }
        self.ring.retry_listeners();
        self.core.every_second();
    }

    async fn park(&mut self) -> Result<(), FailureReason> {
        let Self { ring, mesh, inbox, doorbells, id, .. } = self;
        let doorbell = &doorbells[id.0 as usize];
        if !self.napped {
            if doorbell.park(|| mesh.is_empty() && inbox.is_empty() && !ring.has_work()) {
                self.napped = true;
                ring.nap(NAP)?;
                doorbell.unpark();
            }
            return Ok(());
        }
        let mut failed = None;
        let parked = doorbell.park(|| {
            mesh.is_empty()
                && inbox.is_empty()
                && ring.prepare_to_wait().unwrap_or_else(|error| {
                    failed = Some(error);
                    false
                })
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        if parked {
            let longest = if self.core.waits_for_consumer() {
                SNAPSHOT_TICK
            } else if self.core.has_expiring_keys() {
                TICK
            } else {
                QUIET_TICK
            };
            let waited = self.idle.wait(Some(longest)).await;
            waited.map_err(|error| FailureReason::Executor(error.to_string()))?;
        }
        Ok(())
    }
}

fn written(core: &mut ShardCore, token: IoToken, buffer: AlignedBuffer) {
    if let Some(writer) = core.journal().writer() {
        writer.written(WriteId(token.0), buffer);
    }
    core.durable_moved();
}

fn synced(core: &mut ShardCore, token: IoToken) {
    if let Some(writer) = core.journal().writer() {
        writer.synced(SyncId(token.0 & !SYNC_TOKEN));
    }
    core.durable_moved();
}
