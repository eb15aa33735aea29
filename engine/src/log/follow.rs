//! What the logs hold behind a place, while the newest of them are being written: the source of
//! deltas and of the archive.
//!
//! [`LogRange::open`] is given a place ([`Coverage`]: what is had already) and how far the running
//! start's writers call their logs durable ([`Running`], from
//! [`Engine::mark`](crate::Engine::mark)). It finds the logs in between: those of earlier starts up
//! to the ends that were decided, without the transactions that were dropped; those of the running
//! start up to the durable ends. Nothing is decided here, and nothing is written.
//! [`LogRange::replay`] hands out one log's records; several logs of one start may be replayed in
//! any order, or at once on several threads.
//!
//! The records of the running start count as they stand if their LSN is closed on every shard: what
//! is granted and unresolved lies above (DESIGN §4), and what is resolved was durable everywhere.
//!
//! The caller sees to it that the files stay: log is recycled only behind what is needed.

use std::path::Path;
use std::sync::Arc;

use super::disk::LogDisk;
use super::reader::{LogError, LogReader};
use super::record::Record;
use super::recovery::{
    Coverage, Recovery, RecoveryError, Resolution, ResolvedLog, check_layout, expected_of, gap,
    logs_of,
};
use super::sealing::LogKeys;
use super::start::LogEnd;
use crate::types::{LogId, Lsn, Position, StartId};

/// What one shard answers to [`Engine::mark`](crate::Engine::mark).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogMark {
    /// The shard's log.
    pub log: LogId,
    /// Every record at or below it lies before `end`; none is to come.
    pub closed: Lsn,
    /// The log is durable up to here.
    pub end: Position,
}

/// How far the logs of the running start are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The start.
    pub start: StartId,
    /// The end of each shard's log.
    pub ends: Vec<Position>,
}

impl Running {
    /// What marks say, which are those of all shards in order.
    pub fn from_marks(start: StartId, marks: &[LogMark]) -> Self {
        Self { start, ends: marks.iter().map(|mark| mark.end).collect() }
    }
}

/// The logs behind a place.
pub struct LogRange {
    recovery: Recovery,
}

impl LogRange {
    /// Finds the logs that continue `from` (without it: all since the first start) up to `running`,
    /// and checks that they do so without a gap.
    ///
    /// # Errors
    /// [`LogError::Gap`] or [`RecoveryError::MissingStart`] if the logs do not reach back so far,
    /// [`RecoveryError::Layout`] if `from` or `running` has not one position for each shard of its
    /// start, a file that does not fit the keys, [`LogError::Damaged`], and those of the disk.
    pub fn open(
        disk: Arc<dyn LogDisk>,
        dir: &Path,
        keys: &LogKeys,
        from: Option<&Coverage>,
        running: &Running,
    ) -> Result<Self, RecoveryError> {
        let mut recovery = Recovery::scan(disk, dir, keys.clone())?;
        let mut found = Resolution::default();
        let first = from.map_or(StartId(1), |from| from.start).max(StartId(1));
        if first > running.start {
            return Err(RecoveryError::MissingStart { start: first });
        }
        for start in (first.0..=running.start.0).map(StartId) {
            let record =
                recovery.starts.get(&start).ok_or(RecoveryError::MissingStart { start })?;
            check_layout(record, from)?;
            let shards = record.shards;
            if start == running.start && running.ends.len() != usize::from(shards) {
                let parts = running.ends.len();
                return Err(RecoveryError::Layout { start, shards, parts });
            }
            found.dropped.extend(&record.dropped);
            for log in logs_of(record) {
                let part = from.and_then(|from| from.part(log)).unwrap_or_default();
                let LogEnd { end, kept_below, .. } = if start == running.start {
                    let end = running.ends[usize::from(log.shard.0)];
                    LogEnd { log, end, kept_below: None }
                } else {
                    let next = StartId(start.0 + 1);
                    let undecided = RecoveryError::MissingStart { start: next };
                    *recovery.decided.get(&log).ok_or(undecided)?
                };
                if end < part.position {
                    return Err(gap(log, part.position, end).into());
                }
                if end > part.position {
                    let (files, expected) = (recovery.files(log), expected_of(record, keys));
                    let (disk, dir) = (&*recovery.disk, recovery.dir.as_path());
                    LogReader::open(disk, dir, &files, expected, part.position, Some(end))?;
                }
                found.logs.push(ResolvedLog {
                    log,
                    from: part.position,
                    end,
                    kept_below,
                    watermark: part.watermark,
                });
            }
        }
        recovery.resolution = found;
        Ok(Self { recovery })
    }

    /// The logs, by start and shard.
    pub fn logs(&self) -> &[ResolvedLog] {
        &self.recovery.resolution.logs
    }

    /// Bytes of records in all of them together.
    pub fn size_bytes(&self) -> u64 {
        self.logs().iter().map(|log| log.end.0 - log.from.0).sum()
    }

    /// Hands out, in log order, the records of `log` with an LSN above `above` (and above the
    /// place's watermark) and at or below `up_to`; no markers, and nothing that was dropped.
    /// Answers a position at or after which everything of this log above `up_to` stands: with it
    /// and `up_to` as its watermark, a later range goes on where this one ended.
    ///
    /// # Errors
    /// What `each` returns, and [`LogError`].
    ///
    /// # Panics
    /// If `log` is none of [`Self::logs`].
    pub fn replay<E: From<LogError>>(
        &self,
        log: LogId,
        above: Lsn,
        up_to: Lsn,
        each: &mut dyn FnMut(&Record<'_>) -> Result<(), E>,
    ) -> Result<Position, E> {
        self.recovery.replay_between(log, above, up_to, each)
    }
}
