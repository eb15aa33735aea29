//! The archiver: sends the log to the remote store, an interval at a time.
//!
//! Every interval it takes a mark of all shards and puts what lies between the cursor and the
//! mark's closed LSN, as one object or several. In this order, so that a crash between any two
//! steps loses nothing and doubles nothing: the ceiling is durable, the object is put (again and
//! again, always the same one, until it is certain), the cursor is durable, and only then may the
//! log go.
//!
//! A store that does not answer costs disk, up to the backlog's limit. Past it the archive goes on
//! at the present: the gap is durable in the cursor before any log goes on its account, and a base
//! is due, since no older one reaches across.
//!
//! | file | what |
//! |---|---|
//! | `batch` | records out of the logs |
//! | [`file`](mod@file) | the cursor over restarts |

mod batch;
pub mod file;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cutwater_engine::Engine;
use cutwater_engine::clock::wall_micros;
use cutwater_engine::engine::log_dir;
use cutwater_engine::log::{Coverage, LogKeys, RecoveryError, Running};
use cutwater_engine::types::Lsn;
use cutwater_snapshot::archive::{
    ArchiveError, ArchiveWriter, Cursor, Draft, Packing, Put, Secrets, WalWriterId, find_head,
};
use cutwater_snapshot::catalog::Catalog;
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::{self, Identity, WalUuid};
use cutwater_snapshot::manifest::SnapshotKind;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use self::batch::Batch;
use self::file::CursorError;
use super::remote::{Lease, RemoteState};

/// Bytes of records in one object, about: beside them their compressed and their sealed form are in
/// memory.
const OBJECT_BYTES: usize = 32 << 20;
/// Intervals without records after which an object is put at the latest, so that the window moves.
const LONGEST_IDLE: u32 = 6;
/// Marks that are remembered while the store does not answer; beyond, every other one is forgotten.
const MARKS: usize = 512;

/// What an archiver works with.
pub struct ArchiveSetup {
    /// The shards.
    pub engine: Arc<Engine>,
    /// Where the log and the cursor are.
    pub data_dir: PathBuf,
    /// Whether this process may write to the remote store.
    pub remote: watch::Receiver<RemoteState>,
    /// How objects are written.
    pub packing: Packing,
    /// How often.
    pub interval: Duration,
    /// Bytes of log that may wait.
    pub backlog_limit_bytes: u64,
    /// How far it has come.
    pub cursor: Cursor,
}

/// Where the archive stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveStatus {
    /// Everything at or below it is archived.
    pub archived_to: Lsn,
    /// Bytes of log that wait.
    pub backlog_bytes: u64,
    /// Why the last try failed, if none succeeded since.
    pub last_error: Option<String>,
    /// The last gap: above, and at or below.
    pub gap: Option<(Lsn, Lsn)>,
    /// A base has to be in the remote store that ends at or above it: before, nothing behind it can
    /// be restored.
    pub base_due: Option<Lsn>,
    /// Log behind it is still needed; `None`: all of it.
    pub coverage: Option<Coverage>,
    /// The disk is older than the archive: nothing is archived until a person decides.
    pub is_behind: bool,
}

/// A running archiver.
#[derive(Debug)]
pub struct Archiver {
    /// Where it stands.
    pub status: watch::Receiver<ArchiveStatus>,
    stop: Option<oneshot::Sender<()>>,
    marked: Option<oneshot::Receiver<()>>,
    task: JoinHandle<()>,
}

/// How long a stop waits for the shards' last mark.
const LAST_MARK_LIMIT: Duration = Duration::from_secs(2);

impl Archiver {
    /// Tells it to end with what is durable now; completes when the shards are not needed for that
    /// any more.
    pub async fn mark_last(&mut self) {
        if let (Some(stop), Some(marked)) = (self.stop.take(), self.marked.take()) {
            let _ = stop.send(());
            let _ = tokio::time::timeout(LAST_MARK_LIMIT, marked).await;
        }
    }

    /// Waits until it has ended, at most so long.
    pub async fn finish(&mut self, limit: Duration) {
        let _ = tokio::time::timeout(limit, &mut self.task).await;
    }
}

impl Drop for Archiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why nothing was archived this time.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("the remote store cannot be written yet: {}", .0.as_deref().unwrap_or("no answer"))]
    Connecting(Option<String>),
    #[error("another server has taken the remote store over")]
    Superseded,
    #[error("{}", behind(.0, .1))]
    Behind(Lsn, Lsn),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the log cannot be read: {0}")]
    Log(#[from] RecoveryError),
    #[error(transparent)]
    Cursor(#[from] CursorError),
    #[error("the engine has stopped")]
    Stopped,
    #[error("the kernel gives no random bytes")]
    Random,
}

fn behind(head: &Lsn, own: &Lsn) -> String {
    format!(
        "the archive of this history reaches LSN {head}, and this data directory knows only of LSN \
         {own}: the directory is older than its archive"
    )
}

/// Refuses a start on a disk that is older than its archive: it would write another history under
/// the same name.
///
/// # Errors
/// A text that says so; or why the store could not be asked.
pub async fn check_start(
    store: &dyn cutwater_snapshot::ObjectStore,
    identity: Identity,
    known: Lsn,
) -> Result<Option<String>, ArchiveError> {
    let head = find_head(store, identity).await?.own;
    let ahead = head.filter(|head| head.to > known);
    Ok(ahead.map(|head| behind(&head.to, &known)))
}

/// Starts an archiver on the runtime of the caller.
pub fn start(setup: ArchiveSetup) -> Archiver {
    let status = ArchiveStatus {
        archived_to: setup.cursor.to,
        gap: setup.cursor.gap,
        coverage: setup.cursor.coverage.clone(),
        ..ArchiveStatus::default()
    };
    let (sender, status) = watch::channel(status);
    let (stop, stopped) = oneshot::channel();
    let (last_mark, marked) = oneshot::channel();
    let task = Task {
        cursor: setup.cursor.clone(),
        setup,
        status: sender,
        writer: None,
        pending: None,
        marks: VecDeque::new(),
        idle: Idle::default(),
        base_due: None,
        last_mark: Some(last_mark),
    };
    let task = tokio::spawn(task.run(stopped));
    Archiver { status, stop: Some(stop), marked: Some(marked), task }
}

/// When an interval without records is worth an object.
#[derive(Debug)]
struct Idle {
    rounds: u32,
    wait: u32,
}

impl Default for Idle {
    fn default() -> Self {
        Self { rounds: 0, wait: 1 }
    }
}

impl Idle {
    /// One more interval without records; whether it is time.
    fn is_due(&mut self) -> bool {
        self.rounds += 1;
        if self.rounds < self.wait {
            return false;
        }
        *self = Self { rounds: 0, wait: (self.wait * 2).min(LONGEST_IDLE) };
        true
    }
}

/// Everything at or below `to` lies before the ends.
#[derive(Clone, Debug)]
struct Mark {
    to: Lsn,
    running: Running,
}

struct Pending {
    draft: Draft,
    coverage: Coverage,
}

struct Task {
    setup: ArchiveSetup,
    status: watch::Sender<ArchiveStatus>,
    cursor: Cursor,
    writer: Option<(Arc<Lease>, ArchiveWriter)>,
    /// An object of which it is not certain whether it is stored.
    pending: Option<Pending>,
    /// What is to be archived, oldest first.
    marks: VecDeque<Mark>,
    idle: Idle,
    base_due: Option<Lsn>,
    /// Told when the last mark was taken.
    last_mark: Option<oneshot::Sender<()>>,
}

impl Task {
    async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut tick = tokio::time::interval(self.setup.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut remote = self.setup.remote.clone();
        loop {
            let is_last = tokio::select! {
                _ = tick.tick() => false,
                Ok(()) = remote.changed() => false,
                _ = &mut stop => true,
            };
            let outcome = self.round(is_last).await;
            self.tell(outcome).await;
            if is_last {
                return;
            }
        }
    }

    /// Archives all that is closed now.
    async fn round(&mut self, is_last: bool) -> Result<(), Problem> {
        let marked = self.mark().await;
        if is_last && let Some(told) = self.last_mark.take() {
            let _ = told.send(());
        }
        marked?;
        self.connect().await?;
        loop {
            if let Some(pending) = &self.pending {
                let (lease, writer) = self.writer.as_mut().expect("connected above");
                let put = match writer.put(&pending.draft).await {
                    Err(ArchiveError::Fenced { own, found }) => {
                        lease.fenced(found);
                        return Err(ArchiveError::Fenced { own, found }.into());
                    }
                    put => put?,
                };
                self.advance(put).await?;
            } else if !self.begin(is_last).await? {
                return Ok(());
            }
        }
    }

    async fn mark(&mut self) -> Result<(), Problem> {
        let marks = self.setup.engine.mark().await.map_err(|_| Problem::Stopped)?;
        let closed = marks.iter().map(|mark| mark.closed).min().unwrap_or_default();
        let to = batch::whole_micros(closed);
        if to > self.marks.back().map_or(self.cursor.to, |mark| mark.to) {
            let running = Running::from_marks(self.setup.engine.start(), &marks);
            self.marks.push_back(Mark { to, running });
        }
        if self.marks.len() > MARKS {
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        Ok(())
    }

    /// Makes sure that this process is the writer, and knows where the archive ends.
    async fn connect(&mut self) -> Result<(), Problem> {
        let state = self.setup.remote.borrow().clone();
        let lease = match state {
            RemoteState::Connecting { last_error } => return Err(Problem::Connecting(last_error)),
            RemoteState::Superseded { .. } => return Err(Problem::Superseded),
            RemoteState::Writer(lease) => lease,
        };
        if self.writer.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, &lease)) {
            return Ok(());
        }
        let head = find_head(&*lease.store, lease.identity).await?;
        let reached = head.own.as_ref().map_or(Lsn::ZERO, |own| own.to);
        if reached > self.cursor.ceiling {
            return Err(Problem::Behind(reached, self.cursor.ceiling));
        }
        let mut cursor = self.cursor.clone();
        if let Some(own) = &head.own {
            cursor.number = own.link.number;
        }
        if reached > cursor.to {
            // Put by an earlier start that ended before it could write that down.
            cursor.to = reached;
            self.pending = None;
        } else if reached < cursor.to && cursor.number.0 > 0 {
            // What was put is gone, or this is another store.
            cursor.run_from = cursor.to;
        }
        let catalog = Catalog::load(&*lease.store, lease.identity.database).await?;
        let has_base = catalog.published().any(|manifest| {
            manifest.meta().kind == SnapshotKind::Base
                && manifest.identity().history == lease.identity.history
                && manifest.meta().end_lsn >= cursor.run_from
        });
        self.base_due = (!has_base).then_some(cursor.run_from);
        self.save(cursor).await?;
        let Lease { identity, epoch, nonce, .. } = *lease;
        let id = WalWriterId { identity, epoch, nonce };
        let (store, packing) = (Arc::clone(&lease.store), self.setup.packing.clone());
        self.writer = Some((lease, ArchiveWriter::new(store, id, packing, &head)));
        Ok(())
    }

    /// Makes the next object, if there is anything to archive.
    async fn begin(&mut self, is_last: bool) -> Result<bool, Problem> {
        while self.marks.front().is_some_and(|mark| mark.to <= self.cursor.to) {
            self.marks.pop_front();
        }
        let (Some(first), Some(last)) = (self.marks.front(), self.marks.back()) else {
            return Ok(false);
        };
        // All at once if it is little, else up to the first mark: no log is then read beyond it.
        let is_little = self.backlog_bytes(&last.running).await? <= OBJECT_BYTES as u64;
        let mark = if is_little { last } else { first }.clone();
        let (dir, keys, coverage) = self.place();
        let span = (self.cursor.to, mark.to);
        let Batch { body, to, coverage } = blocking(move || {
            batch::collect((&dir, &keys), coverage.as_ref(), &mark.running, span, OBJECT_BYTES)
        })
        .await??;
        if body.records > 0 {
            self.idle = Idle::default();
        } else if !is_last && !self.idle.is_due() {
            return Ok(false);
        }
        let mut cursor = self.cursor.clone();
        cursor.ceiling = cursor.ceiling.max(to);
        self.save(cursor).await?;
        let draft = Draft {
            uuid: WalUuid::random().map_err(|_| Problem::Random)?,
            from: self.cursor.to,
            to,
            created_at_us: wall_micros(),
            body,
            secrets: Secrets::new(ident::random).map_err(|_| Problem::Random)?,
        };
        self.pending = Some(Pending { draft, coverage });
        Ok(true)
    }

    /// An object is certainly stored.
    async fn advance(&mut self, put: Put) -> Result<(), Problem> {
        let pending = self.pending.take().expect("it was put just now");
        let mut cursor = self.cursor.clone();
        cursor.number = put.header().link.number;
        cursor.to = cursor.to.max(put.header().to);
        if let Put::Stored(_) = put {
            cursor.coverage = Some(pending.coverage);
        }
        self.save(cursor).await
    }

    /// Makes a cursor durable, and then the one that counts.
    async fn save(&mut self, cursor: Cursor) -> Result<(), Problem> {
        if cursor != self.cursor {
            let (dir, copy) = (self.setup.data_dir.clone(), cursor.clone());
            blocking(move || file::write(&dir, &copy)).await??;
            self.cursor = cursor;
        }
        Ok(())
    }

    /// Where the log is, what opens it, and what of it the archive has.
    fn place(&self) -> (PathBuf, LogKeys, Option<Coverage>) {
        let setup = &self.setup;
        let keys = setup.engine.log_keys().clone();
        (log_dir(&setup.data_dir), keys, self.cursor.coverage.clone())
    }

    async fn backlog_bytes(&self, running: &Running) -> Result<u64, Problem> {
        let (dir, keys, coverage) = self.place();
        let running = running.clone();
        let measure = move || batch::backlog_bytes((&dir, &keys), coverage.as_ref(), &running);
        Ok(blocking(measure).await??)
    }

    /// Publishes how it went; gives the backlog up if it has grown past its limit.
    async fn tell(&mut self, outcome: Result<(), Problem>) {
        let mut backlog_bytes = 0;
        if let Some(running) = self.marks.back().map(|mark| mark.running.clone()) {
            match self.backlog_bytes(&running).await {
                Ok(bytes) => backlog_bytes = bytes,
                Err(error) => tracing::warn!(%error, "the backlog of the archive is not known"),
            }
        }
        if outcome.is_err() && backlog_bytes > self.setup.backlog_limit_bytes {
            match self.give_up_backlog().await {
                Ok(()) => backlog_bytes = 0,
                Err(error) => tracing::error!(%error, "the backlog of the archive stays"),
            }
        }
        let last_error = outcome.as_ref().err().map(ToString::to_string);
        let is_news = self.status.borrow().last_error != last_error;
        if let Some(error) = last_error.as_ref().filter(|_| is_news) {
            tracing::warn!(error, "the log is not being archived");
        }
        self.status.send_replace(ArchiveStatus {
            archived_to: self.cursor.to,
            backlog_bytes,
            last_error,
            gap: self.cursor.gap,
            base_due: self.base_due,
            coverage: self.cursor.coverage.clone(),
            is_behind: matches!(outcome, Err(Problem::Behind(..))),
        });
    }

    /// Goes on at the newest mark.
    async fn give_up_backlog(&mut self) -> Result<(), Problem> {
        let Some(mark) = self.marks.back().cloned() else { return Ok(()) };
        let (dir, keys, coverage) = self.place();
        let to = mark.to;
        let skip = move || batch::skip((&dir, &keys), coverage.as_ref(), &mark.running, to);
        let coverage = blocking(skip).await??;
        let after = self.cursor.to;
        let mut cursor = self.cursor.clone();
        cursor.gap = Some((after, to));
        (cursor.to, cursor.run_from) = (to, to);
        cursor.ceiling = cursor.ceiling.max(to);
        cursor.coverage = Some(coverage);
        self.save(cursor).await?;
        self.pending = None;
        self.marks.clear();
        self.base_due = Some(to);
        tracing::error!(
            after = after.0,
            to = to.0,
            "the backlog of the archive has passed its limit: the log of this time is not \
             archived, and moments in it cannot be restored; a base snapshot follows"
        );
        Ok(())
    }
}

/// Runs what blocks on a thread for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Problem::Stopped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_intervals_are_worth_less_and_less() {
        let mut idle = Idle::default();
        let due: Vec<u32> = (1..=25).filter(|_| true).filter(|_| idle.is_due()).collect();
        assert_eq!(due, [1, 3, 7, 13, 19, 25]);
    }
}
