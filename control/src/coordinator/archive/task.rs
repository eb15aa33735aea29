//! The archiver's rounds: mark, connect, put; see the module above.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cutwater_engine::clock::wall_micros;
use cutwater_engine::engine::log_dir;
use cutwater_engine::log::{Coverage, LogError, LogKeys, RecoveryError, Running};
use cutwater_engine::types::Lsn;
use cutwater_snapshot::archive::header::RAW_LIMIT_BYTES;
use cutwater_snapshot::archive::{
    ArchiveError, ArchiveWriter, Cursor, Draft, Fence, Put, Secrets, WalWriterId, find_head,
};
use cutwater_snapshot::ident::{self, WalUuid};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::batch::{self, Batch};
use super::problem::Problem;
use super::{ArchiveSetup, ArchiveStatus};
use crate::coordinator::behind::BehindError;
use crate::coordinator::remote::{Lease, RemoteState};
use crate::restore::text::moment;

/// Bytes of records in one object, about: beside them their compressed and their sealed form are in
/// memory.
const OBJECT_BYTES: usize = 32 << 20;
/// Intervals without records after which an object is put at the latest, so that the window moves.
const LONGEST_IDLE: u32 = 6;
/// Bytes of log after which a mark is taken between two rounds: each object then reads its own log
/// and little else, however much an interval brings.
const MARK_BYTES: u64 = 16 << 20;
/// How often the growth of the log is looked at.
const GROWTH_INTERVAL: Duration = Duration::from_millis(100);
/// How long a store that was well may take for an object although more log waits than may.
const PATIENCE: Duration = Duration::from_secs(5);
/// Marks that are remembered while the store does not answer; beyond, every other one is forgotten.
const MARKS: usize = 512;

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

pub(super) struct Task {
    setup: ArchiveSetup,
    status: watch::Sender<ArchiveStatus>,
    cursor: Cursor,
    writer: Option<(Arc<Lease>, ArchiveWriter)>,
    /// An object of which it is not certain whether it is stored.
    pending: Option<Pending>,
    /// What is to be archived, oldest first.
    marks: VecDeque<Mark>,
    /// Where the logs of this start ended at the newest mark, added up.
    marked_bytes: u64,
    idle: Idle,
    /// Since when there is no hole, if the remote store has no base from there on.
    base_due: Option<Lsn>,
    /// Told when the last mark was taken.
    last_mark: Option<oneshot::Sender<()>>,
}

impl Task {
    pub(super) fn new(
        setup: ArchiveSetup,
        status: watch::Sender<ArchiveStatus>,
        last_mark: oneshot::Sender<()>,
    ) -> Self {
        Self {
            cursor: setup.cursor.clone(),
            setup,
            status,
            writer: None,
            pending: None,
            marks: VecDeque::new(),
            marked_bytes: 0,
            idle: Idle::default(),
            base_due: None,
            last_mark: Some(last_mark),
        }
    }

    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut tick = tokio::time::interval(self.setup.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut growth = tokio::time::interval(GROWTH_INTERVAL);
        growth.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut remote = self.setup.remote.clone();
        loop {
            let is_last = tokio::select! {
                _ = tick.tick() => false,
                Ok(()) = remote.changed() => false,
                _ = &mut stop => true,
                _ = growth.tick() => {
                    if self.log_bytes().saturating_sub(self.marked_bytes) >= MARK_BYTES
                        && let Err(error) = self.mark().await
                    {
                        tracing::debug!(%error, "no mark between two rounds");
                    }
                    continue;
                }
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
            if let Some(pending) = self.pending.take() {
                let (lease, mut writer) = self.writer.take().expect("connected above");
                let put = self.put(&pending, &lease, &mut writer).await;
                (self.pending, self.writer) = (Some(pending), Some((lease, writer)));
                self.advance(put?).await?;
            } else if !self.begin(is_last).await? {
                return Ok(());
            }
        }
    }

    /// Puts an object; gives it up where the store is silent, or more log waits than may.
    async fn put(
        &mut self,
        pending: &Pending,
        lease: &Lease,
        writer: &mut ArchiveWriter,
    ) -> Result<Put, Problem> {
        let (put, silence) = (writer.put(&pending.draft), lease.silence());
        tokio::pin!(put, silence);
        let mut growth = tokio::time::interval(GROWTH_INTERVAL);
        growth.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (begun, mut measured) = (Instant::now(), Instant::now());
        loop {
            let put = tokio::select! {
                put = &mut put => put,
                silence = &mut silence => return Err(silence.into()),
                _ = growth.tick() => {
                    self.look_while_putting(begun, &mut measured).await?;
                    continue;
                }
            };
            if let Err(ArchiveError::Fenced { found, .. }) = put {
                lease.fenced(found);
            }
            return Ok(put?);
        }
    }

    /// Keeps up with the log while a put is under way since `begun`.
    async fn look_while_putting(
        &mut self,
        begun: Instant,
        measured: &mut Instant,
    ) -> Result<(), Problem> {
        let limit_bytes = self.setup.backlog_limit_bytes;
        let worth_a_look = MARK_BYTES.min(limit_bytes / 8);
        let grown = self.log_bytes().saturating_sub(self.marked_bytes);
        if grown < worth_a_look && measured.elapsed() < self.setup.interval {
            return Ok(());
        }
        *measured = Instant::now();
        if let Err(error) = self.mark().await {
            tracing::debug!(%error, "no mark while an object is put");
            return Ok(());
        }
        let Some(running) = self.marks.back().map(|mark| mark.running.clone()) else {
            return Ok(());
        };
        let bytes = self.backlog_bytes(&running).await?;
        self.status.send_modify(|status| status.backlog_bytes = bytes);
        let was_well = self.status.borrow().last_error.is_none();
        if bytes <= limit_bytes || (was_well && begun.elapsed() < PATIENCE) {
            return Ok(());
        }
        Err(Problem::Hangs { seconds: begun.elapsed().as_secs() })
    }

    /// Where the logs of this start end, added up.
    fn log_bytes(&self) -> u64 {
        let stats = self.setup.engine.shared().all_stats();
        stats.iter().map(|stats| stats.log_tail.load(Ordering::Relaxed)).sum()
    }

    async fn mark(&mut self) -> Result<(), Problem> {
        self.marked_bytes = self.log_bytes();
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
            return Err(BehindError::archive(reached, self.cursor.ceiling).into());
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
        let has_base = lease.newest_base.is_some_and(|end_lsn| end_lsn >= cursor.run_from);
        self.base_due = (!has_base).then_some(cursor.run_from);
        self.save(cursor).await?;
        let Lease { identity, epoch, nonce, .. } = *lease;
        let id = WalWriterId { identity, epoch, nonce };
        let (store, packing) = (Arc::clone(&lease.store), self.setup.packing.clone());
        let fence = Arc::clone(&lease) as Arc<dyn Fence>;
        let writer = ArchiveWriter::new(store, id, packing, &head).fenced(fence);
        let writer = writer.throttled(Arc::clone(&self.setup.throttle));
        self.writer = Some((lease, writer));
        Ok(())
    }

    /// Makes the next object, if there is anything to archive.
    async fn begin(&mut self, is_last: bool) -> Result<bool, Problem> {
        while self.marks.front().is_some_and(|mark| mark.to <= self.cursor.to) {
            self.marks.pop_front();
        }
        let Some(mark) = self.next_mark().await? else { return Ok(false) };
        let is_newest = self.marks.back().is_some_and(|newest| newest.to == mark.to);
        let (dir, keys, coverage) = self.place();
        let span = (self.cursor.to, mark.to);
        let Batch { body, to, coverage } = blocking(move || {
            batch::collect((&dir, &keys), coverage.as_ref(), &mark.running, span, OBJECT_BYTES)
        })
        .await??;
        if body.records > 0 {
            self.idle = Idle::default();
        } else if is_newest && !is_last && !self.idle.is_due() {
            return Ok(false);
        }
        if body.bytes.len() as u64 > RAW_LIMIT_BYTES {
            // Nobody would read it.
            return Err(Problem::TooLarge { bytes: body.bytes.len() });
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

    /// The newest mark to which there is no more than fits into an object, or else the
    /// first: no log is read beyond it.
    async fn next_mark(&self) -> Result<Option<Mark>, Problem> {
        let (mut fits, mut beyond) = (0, self.marks.len());
        let mut probed = beyond.saturating_sub(1);
        while beyond - fits > 1 {
            match self.backlog_bytes(&self.marks[probed].running).await? {
                bytes if bytes <= OBJECT_BYTES as u64 => fits = probed,
                _ => beyond = probed,
            }
            probed = usize::midpoint(fits, beyond);
        }
        Ok(self.marks.get(fits).cloned())
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
            let (file, copy) = (self.setup.file.clone(), cursor.clone());
            blocking(move || file.write(&copy)).await??;
            self.cursor = cursor;
        }
        Ok(())
    }

    /// Where the log is, what opens it, and what of it the archive has.
    fn place(&self) -> (PathBuf, LogKeys, Option<Coverage>) {
        let setup = &self.setup;
        let keys = setup.engine.log_keys().clone();
        (log_dir(setup.file.data_dir()), keys, self.cursor.coverage.clone())
    }

    async fn backlog_bytes(&self, running: &Running) -> Result<u64, Problem> {
        let (dir, keys, coverage) = self.place();
        let running = running.clone();
        let measure = move || batch::backlog_bytes((&dir, &keys), coverage.as_ref(), &running);
        Ok(blocking(measure).await??)
    }

    /// Publishes how it went; gives up what cannot be archived any more.
    async fn tell(&mut self, outcome: Result<(), Problem>) {
        let backlog_bytes = self.bound_backlog(outcome.as_ref().err()).await;
        let last_error = outcome.as_ref().err().map(ToString::to_string);
        let before = self.status.borrow().last_error.clone();
        let is_news = outcome.as_ref().is_err_and(|problem| problem.is_news(&before));
        if let Some(error) = last_error.as_ref().filter(|_| is_news) {
            tracing::warn!(error, "the log is not being archived");
        }
        self.status.send_replace(ArchiveStatus {
            archived_to: self.cursor.to,
            backlog_bytes,
            last_error,
            gap: self.cursor.gap,
            // A base that cannot go up would only fill the disk, and one more with every gap.
            base_due: self.base_due.filter(|_| outcome.is_ok()),
            coverage: self.cursor.coverage.clone(),
        });
    }

    /// How much log waits; after this it is no more than may.
    async fn bound_backlog(&mut self, problem: Option<&Problem>) -> u64 {
        let Some(running) = self.marks.back().map(|mark| mark.running.clone()) else { return 0 };
        let (bytes, given_up) = match self.backlog_bytes(&running).await {
            Ok(bytes) => {
                let is_over = bytes > self.setup.backlog_limit_bytes && problem.is_some();
                if !is_over && !matches!(problem, Some(Problem::TooLarge { .. })) {
                    return bytes;
                }
                (bytes, self.give_up_backlog().await)
            }
            Err(Problem::Log(error)) if is_gone(&error) => (0, self.give_up_lost(error).await),
            Err(error) => (0, Err(error)),
        };
        match given_up {
            Ok(()) => 0,
            Err(error) => {
                tracing::error!(%error, "the backlog of the archive stays");
                bytes
            }
        }
    }

    /// Goes on at the newest mark.
    async fn give_up_backlog(&mut self) -> Result<(), Problem> {
        let Some(mark) = self.marks.back().cloned() else { return Ok(()) };
        let (dir, keys, coverage) = self.place();
        let to = mark.to;
        let skip = move || batch::skip((&dir, &keys), coverage.as_ref(), &mark.running, to);
        let coverage = blocking(skip).await??;
        self.go_on_at(to, coverage).await?;
        self.marks.clear();
        Ok(())
    }

    /// Goes on at the newest checkpoint: log before it is gone without having been archived, as
    /// after a time without the remote store.
    async fn give_up_lost(&mut self, error: RecoveryError) -> Result<(), Problem> {
        let Some((end_lsn, coverage)) = self.setup.checkpoint.take() else {
            return Err(error.into());
        };
        self.go_on_at(end_lsn.max(self.cursor.to), coverage).await
    }

    /// Gives up what lies between here and `to`, and goes on there. A start after this gives no LSN
    /// at or below `to` ([`Cursor::floor`]); the ceiling stays, for nothing was put.
    async fn go_on_at(&mut self, to: Lsn, coverage: Coverage) -> Result<(), Problem> {
        let after = self.cursor.to;
        let mut cursor = self.cursor.clone();
        if to > after {
            cursor.gap = Some((after, to));
            (cursor.to, cursor.run_from) = (to, to);
        }
        cursor.coverage = Some(coverage);
        self.save(cursor).await?;
        self.pending = None;
        if to > after {
            self.base_due = Some(to);
            tracing::error!(
                after = %moment(after),
                to = %moment(to),
                "the log of this time is not archived, and moments in it cannot be restored: it \
                 passed the limit of the backlog, or is gone; a base snapshot follows as soon as \
                 objects get through"
            );
        }
        Ok(())
    }
}

/// Whether log is gone that is asked for.
fn is_gone(error: &RecoveryError) -> bool {
    matches!(error, RecoveryError::MissingStart { .. } | RecoveryError::Log(LogError::Gap { .. }))
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
