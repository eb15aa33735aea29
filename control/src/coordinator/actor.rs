//! The coordinator's loop. It never waits for a job: a snapshot runs beside it and comes back with
//! the claimant when it is over, so there is at most one. How one begins is in [`requests`], where
//! the actor stands is told in [`standing`].

mod changes;
mod requests;
mod standing;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cutwater_engine::Engine;
use cutwater_engine::clock::wall_micros;
use cutwater_engine::seal::Keyring;
use cutwater_engine::types::{Lsn, SnapshotId};
use cutwater_snapshot::catalog::{Catalog, Entry};
use cutwater_snapshot::claim::Claimant;
use cutwater_snapshot::compression::Compression;
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::HistoryId;
use cutwater_snapshot::manifest::{Manifest, SnapshotKind};
use cutwater_snapshot::paths::SnapshotName;
use cutwater_snapshot::retention::Policy;
use cutwater_snapshot::store::paced::PacedStore;
use cutwater_snapshot::verify::VerifyReport;
use object_store::ObjectStore;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::archive::ArchiveStatus;
use super::growth::LogGrowth;
use super::job::{BASE_DUE, CHECKPOINT, Form};
use super::message::Taken;
use super::message::{CoordinatorError, Handle, Message, REQUESTS, Reply};
use super::readback::ReadBacks;
use super::recycle::{Archived, recycle, superfluous_checkpoints};
use super::request::Origin;
use super::retention::RETIRED;
use super::upload::Uploads;
use super::verification::Verifications;
use super::work::{Running, Work};
use requests::Request;

/// How often the growth of the log is looked at: a fast disk takes a gigabyte a second, so that at
/// most some tens of megabytes come on top of what starts a checkpoint.
const TICK: Duration = Duration::from_millis(50);
/// How many ticks pass before `INFO persistence` is renewed.
const TICKS_PER_INFO: u32 = 10;

/// What a coordinator begins with.
pub struct CoordinatorSetup {
    /// The shards.
    pub engine: Arc<Engine>,
    /// The local store.
    pub store: Arc<dyn ObjectStore>,
    /// This process as the store's writer.
    pub claimant: Claimant,
    /// What is in the store.
    pub catalog: Catalog,
    /// Where the log is, if there is one.
    pub data_dir: Option<PathBuf>,
    /// The history of this data directory.
    pub history: HistoryId,
    /// At how many bytes of log a checkpoint is taken; `None`: the larger of 1 GiB and the last
    /// snapshot's size.
    pub checkpoint_log_bytes: Option<u64>,
    /// What brings snapshots to the remote store, if there is one.
    pub uploads: Option<Uploads>,
    /// The keys that seal; empty: nothing is sealed.
    pub keys: Keyring,
    /// How snapshots are compressed.
    pub compression: Compression,
    /// Bytes that snapshots write, and verifications read, in a second at most.
    pub snapshot_limit_bytes_per_s: Option<u64>,
    /// Where the archive stands, if there is one.
    pub archive: Option<watch::Receiver<ArchiveStatus>>,
    /// What stays by itself.
    pub retention: Policy,
}

/// After how long a base that is due and has failed is tried again.
const BASE_RETRY: Duration = Duration::from_secs(30);
/// How long a deletion waits for the remote store before it is said to be pending there.
const REMOTE_DELETE_LIMIT: Duration = Duration::from_secs(5);

/// What comes back from a job.
type JobResult = (Claimant, Result<Taken, CoordinatorError>);

struct Job {
    handle: JoinHandle<JobResult>,
    work: Arc<Work>,
    /// Who wanted it.
    origin: Origin,
    since_us: u64,
    /// Who waits for it, if anybody does.
    reply: Option<Reply<Taken>>,
    /// Who waits until it is cancelled.
    cancellers: Vec<Reply<SnapshotId>>,
}

impl Job {
    fn running(&self) -> Running {
        let (progress, client) = (self.work.progress(), self.origin.client());
        Running { id: self.id(), client, since_us: self.since_us, progress }
    }

    /// The snapshot that is being taken; another one when a base is taken in place of a delta.
    fn id(&self) -> SnapshotId {
        self.work.id()
    }
}

impl Drop for Job {
    /// An actor that is aborted takes its job with it: nobody would hear of its snapshot.
    fn drop(&mut self) {
        self.handle.abort();
    }
}

struct Actor {
    engine: Arc<Engine>,
    store: Arc<dyn ObjectStore>,
    /// The same, for reading whole snapshots.
    paced_store: Arc<dyn ObjectStore>,
    /// Away while a job runs.
    claimant: Option<Claimant>,
    catalog: Catalog,
    data_dir: Option<PathBuf>,
    history: HistoryId,
    checkpoint_log_bytes: Option<u64>,
    form: Form,
    job: Option<Job>,
    /// The request that is next.
    waiting: Option<Request>,
    /// Snapshots that were given up or deleted, of which the store was not heard, or has something
    /// left.
    unsettled: BTreeSet<SnapshotName>,
    /// When these are looked at again.
    settle_at: Instant,
    verifications: Verifications,
    /// New snapshots that are read back.
    readbacks: ReadBacks,
    uploads: Option<Uploads>,
    archive: Option<watch::Receiver<ArchiveStatus>>,
    /// Whether a new snapshot was read back and none waits for it, so that log may go.
    may_recycle: bool,
    /// How far the archive had come when log was last let go.
    recycled_to: Lsn,
    /// A failed base is not tried again before this.
    base_retry_at: Instant,
    growth: LogGrowth,
    published: u64,
    failed: u64,
    cancelled: u64,
    last_duration_us: u64,
    last_error: Option<String>,
    /// Since `INFO persistence` was renewed.
    ticks: u32,
}

/// Starts a coordinator on the runtime of the caller.
pub fn start(setup: CoordinatorSetup) -> (Handle, JoinHandle<()>) {
    let (requests, receiver) = mpsc::channel(REQUESTS);
    let limit = setup.snapshot_limit_bytes_per_s;
    let paced_store: Arc<dyn ObjectStore> = match limit {
        Some(limit) => Arc::new(PacedStore::new(Arc::clone(&setup.store), limit)),
        None => Arc::clone(&setup.store),
    };
    let mut actor = Actor {
        paced_store,
        engine: setup.engine,
        store: setup.store,
        claimant: Some(setup.claimant),
        catalog: setup.catalog,
        data_dir: setup.data_dir,
        history: setup.history,
        checkpoint_log_bytes: setup.checkpoint_log_bytes,
        form: Form { keys: setup.keys, compression: setup.compression, limit_bytes_per_s: limit },
        job: None,
        waiting: None,
        unsettled: BTreeSet::new(),
        settle_at: Instant::now(),
        verifications: Verifications::default(),
        readbacks: ReadBacks::default(),
        growth: LogGrowth::default(),
        uploads: setup.uploads,
        archive: setup.archive,
        may_recycle: false,
        recycled_to: Lsn::ZERO,
        base_retry_at: Instant::now(),
        published: 0,
        failed: 0,
        cancelled: 0,
        last_duration_us: 0,
        last_error: None,
        ticks: 0,
    };
    actor.measure_old_logs();
    let uploads = actor.uploads.clone();
    let retention = setup.retention;
    (Handle { requests, uploads, retention }, tokio::spawn(actor.run(receiver)))
}

impl Actor {
    async fn run(mut self, mut requests: mpsc::Receiver<Message>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.publish_info();
        loop {
            tokio::select! {
                message = requests.recv() => match message {
                    Some(Message::Close(reply)) => {
                        self.give_up().await;
                        let _ = reply.send(Ok(()));
                        return;
                    }
                    Some(message) => self.handle(message).await,
                    None => return self.give_up().await,
                },
                result = finished(&mut self.job) => self.job_over(result).await,
                Some((id, outcome)) = self.readbacks.next() => self.let_go(id, outcome).await,
                _ = tick.tick() => self.tick().await,
            }
        }
    }

    async fn handle(&mut self, message: Message) {
        match message {
            Message::Create(kind, origin, reply) => {
                self.request(Request { kind, origin, reply: Some(reply) });
            }
            Message::Begin(kind, origin, reply) => {
                drop(
                    reply.send(self.admit(Request { kind, origin, reply: None }).map_err(|e| e.0)),
                );
            }
            Message::CancelWaiting(client, reply) => {
                drop(reply.send(self.cancel_waiting(client)));
            }
            Message::Cancel(id, reply) => self.cancel(id, reply),
            Message::List(reply) => drop(reply.send(Ok(self.catalog.entries().to_vec()))),
            Message::Verify(id, client, reply) => {
                self.verifications.begin(&self.paced_store, &self.form.keys, (id, client), reply);
            }
            Message::VerifyDeep(id, client, reply) => {
                let (store, keys) = (&self.paced_store, &self.form.keys);
                let shards = self.engine.shards();
                self.verifications.begin_deep(store, keys, shards, (id, client), reply);
            }
            Message::CancelVerify(id, reply) => {
                let outcome = match self.verifications.cancel(id) {
                    0 => Err(CoordinatorError::NoVerification),
                    count => Ok(count),
                };
                drop(reply.send(outcome));
            }
            Message::Delete(id, reply) => self.delete_everywhere(id, reply).await,
            Message::Retire(id, reply) => drop(reply.send(self.delete(id, RETIRED).await)),
            Message::Pin(id, at_us, reply) => drop(reply.send(self.pin(id, at_us).await)),
            Message::Rekey(id, reply) => drop(reply.send(self.rekey(id).await)),
            Message::Status(reply) => drop(reply.send(Ok(self.status()))),
            Message::Close(_) => unreachable!("the loop takes it"),
        }
    }

    async fn job_over(&mut self, result: Result<JobResult, tokio::task::JoinError>) {
        let mut job = self.job.take().expect("its result was just awaited");
        let outcome = match result {
            Ok((claimant, outcome)) => {
                self.claimant = Some(claimant);
                outcome
            }
            // The claimant went down with the job: no snapshot can be taken any more.
            Err(error) => {
                tracing::error!(%error, "the snapshot job has failed");
                Err(CoordinatorError::Closed)
            }
        };
        match &outcome {
            Ok(Taken { manifest, .. }) => {
                let end_lsn = manifest.meta().end_lsn.0;
                tracing::info!(snapshot = manifest.id().0, end_lsn, "snapshot published");
                self.catalog.add(manifest.clone());
                self.show_uploads();
                self.measure_old_logs();
                self.published += 1;
                self.last_duration_us = wall_micros().saturating_sub(job.since_us);
                self.last_error = None;
                self.growth.succeeded();
            }
            Err(error) => {
                if let CoordinatorError::Cancelled(_) = error {
                    tracing::info!(snapshot = job.id().0, "snapshot cancelled");
                    self.cancelled += 1;
                } else {
                    tracing::warn!(snapshot = job.id().0, %error, "snapshot failed");
                    self.failed += 1;
                    self.last_error = Some(error.to_string());
                }
                self.growth.failed(&self.engine, self.checkpoint_log_bytes);
                self.base_retry_at = Instant::now() + BASE_RETRY;
            }
        }
        for name in job.work.take_given_up() {
            self.settle(name).await;
        }
        let id = job.id();
        for canceller in job.cancellers.drain(..) {
            let answer = match &outcome {
                Ok(_) => Err(CoordinatorError::NotRunning(id)),
                Err(_) => Ok(id),
            };
            let _ = canceller.send(answer);
        }
        if let Ok(Taken { manifest, .. }) = &outcome {
            self.may_recycle = false;
            self.readbacks.begin(manifest.id(), &self.paced_store, &self.form.keys);
        }
        let reply = job.reply.take();
        drop(job);
        self.begin_waiting();
        // Before the answer: who has it finds it in INFO.
        self.publish_info();
        if let Some(reply) = reply {
            let _ = reply.send(outcome);
        }
    }

    /// A new snapshot was read back: when all were, lets go of what the checkpoints make
    /// superfluous.
    async fn let_go(&mut self, id: SnapshotId, outcome: Result<VerifyReport, SnapshotError>) {
        let name = self.catalog.get(id).and_then(Entry::manifest).map(Manifest::name);
        if let (Err(error), Some(name)) = (outcome, name) {
            tracing::error!(snapshot = id.0, %error, "a new snapshot cannot be read back");
            self.last_error = Some(error.to_string());
            if error.is_corruption() {
                // It is no checkpoint, and nothing is taken on top of it.
                self.catalog.distrust(name, &format!("it could not be read back: {error}"));
                self.show_uploads();
                self.measure_old_logs();
            }
            return;
        }
        self.may_recycle = self.readbacks.are_done();
        if !self.may_recycle {
            return;
        }
        self.recycle();
        for id in superfluous_checkpoints(&self.catalog) {
            if let Err(error) = self.delete(id, "an older checkpoint").await {
                tracing::warn!(snapshot = id.0, %error, "an older checkpoint stays");
            }
        }
    }

    /// Lets go of log that neither the checkpoints nor the archive needs.
    fn recycle(&mut self) {
        let Some(data_dir) = &self.data_dir else { return };
        let status = self.archive.as_ref().map(|archive| archive.borrow().clone());
        let archived = match &status {
            Some(status) => Archived::Before(status.coverage.as_ref()),
            None => Archived::NoArchive,
        };
        recycle(&self.engine, data_dir, &self.catalog, self.history, archived);
        self.recycled_to = status.map_or(Lsn::ZERO, |status| status.archived_to);
        self.measure_old_logs();
    }

    /// Whether the archive needs a base that nobody has taken yet, or the remote store one in place
    /// of deltas that cannot go up any more.
    fn is_base_due(&self) -> bool {
        if Instant::now() < self.base_retry_at {
            return false;
        }
        let due = self.archive.as_ref().and_then(|archive| archive.borrow().base_due);
        let Some(since) = due.max(self.uploads.as_ref().and_then(Uploads::orphaned_to)) else {
            return false;
        };
        let serves = |manifest: &Manifest| {
            let meta = manifest.meta();
            meta.kind == SnapshotKind::Base
                && meta.end_lsn >= since
                && manifest.identity().history == self.history
                && manifest.raw().reason.as_deref() != Some(CHECKPOINT)
        };
        !self.catalog.published().any(serves)
    }

    fn show_uploads(&self) {
        if let Some(uploads) = &self.uploads {
            uploads.show(&self.catalog);
        }
    }

    async fn tick(&mut self) {
        if !self.unsettled.is_empty() && Instant::now() >= self.settle_at {
            self.settle_again().await;
        }
        if self.job.is_none() && self.claimant.is_some() && self.data_dir.is_some() {
            if self.is_base_due() {
                self.begin(SnapshotKind::Base, Origin::Server, Some(BASE_DUE));
            } else if self.growth.is_checkpoint_due(&self.engine, self.checkpoint_log_bytes) {
                self.begin(SnapshotKind::Base, Origin::Server, Some(CHECKPOINT));
            }
        }
        self.ticks += 1;
        if self.ticks >= TICKS_PER_INFO {
            let archived = self.archive.as_ref().map(|archive| archive.borrow().archived_to);
            if self.may_recycle && archived.is_some_and(|to| to > self.recycled_to) {
                self.recycle();
            }
            self.publish_info();
        }
    }
}

/// The job's result; never, while none runs.
async fn finished(job: &mut Option<Job>) -> Result<JobResult, tokio::task::JoinError> {
    match job {
        Some(job) => (&mut job.handle).await,
        None => std::future::pending().await,
    }
}
