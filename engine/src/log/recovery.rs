//! All logs together, at a start: what is there, what counts, and the replay.
//!
//! In order:
//!
//! 1. [`Recovery::scan`] lists the log directory and reads every start record.
//! 2. [`Recovery::resolve`] takes the image that will be loaded and checks that the logs continue
//!    it without a gap. The logs of the last start, which no one has decided about, are synced,
//!    read, and decided by the rule of [`super::resolve`]; those of earlier starts were decided.
//! 3. [`Recovery::write_start_record`] makes the decisions final, durably, before anything is
//!    served. A crash before that leaves nothing behind, and the next start decides the same.
//! 4. [`Recovery::replay`] hands out what the image does not hold, one log at a time; the logs of
//!    one start in any order or in parallel, the starts one after the other.
//!
//! Memory: the parts of transactions of the last start (not its records), and what [`LogReader`]
//! holds for each log that is being replayed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::LogDisk;
pub use super::error::RecoveryError;
use super::files::{beyond_end, list};
use super::reader::{Cut, Expected, LogError, LogFiles, LogReader};
use super::record::Record;
use super::resolve::{Decision, Parts, Reach};
use super::sealing::{LogKeys, StartSeal};
use super::segment::{SegmentIndex, segment_name};
use super::start::{KeptBelow, LogEnd, START_FORMAT_VERSION, StartError, StartRecord, start_path};
use crate::types::{LogId, Lsn, Position, ShardId, StartId, TxnId};

/// One shard's part of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The image holds everything of this log with an LSN up to here, inclusive.
    pub watermark: Lsn,
    /// Records above the watermark stand at or after this position.
    pub position: Position,
}

/// What an image holds: everything of starts before `start`, and of each log of `start` its part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The start that took it.
    pub start: StartId,
    /// One part for each shard of that start's layout.
    pub parts: Vec<Part>,
}

impl Coverage {
    pub(super) fn part(&self, log: LogId) -> Option<Part> {
        let part = self.parts.get(usize::from(log.shard.0));
        part.copied().filter(|_| log.start == self.start)
    }
}

/// One log that is to be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedLog {
    /// The log.
    pub log: LogId,
    /// Nothing before this is needed.
    pub from: Position,
    /// Nothing from here on exists.
    pub end: Position,
    /// Before that, part of the log does not count either.
    pub kept_below: Option<KeptBelow>,
    /// Records up to this LSN, inclusive, are in the image.
    pub watermark: Lsn,
}

impl ResolvedLog {
    fn counts(&self, position: Position, lsn: Lsn) -> bool {
        self.kept_below.is_none_or(|kept| position < kept.from || lsn <= kept.lsn)
    }
}

/// What recovery decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// The logs to replay, by start and shard.
    pub logs: Vec<ResolvedLog>,
    /// The transactions in them that do not count.
    pub dropped: BTreeSet<TxnId>,
    /// Unfinished commits that were cut off.
    pub cuts: Vec<Cut>,
    /// Logs cut short because a relaxed transaction in them is incomplete, with the bytes.
    pub relaxed_cuts: Vec<(LogId, u64)>,
    /// The greatest LSN of all logs and of the image; of what is dropped or cut, too.
    pub max_lsn: Lsn,
    /// The number of the start that is under way.
    pub next_start: StartId,
}

/// What a new start adds to the decisions in its record.
#[derive(Clone, Debug)]
pub struct NewStart {
    /// The data directory's database.
    pub database_id: u128,
    /// The history that it continues.
    pub history_id: u128,
    /// Now, in microseconds since the Unix epoch.
    pub created_at_us: u64,
    /// Shards of its layout.
    pub shards: u16,
    /// Its LSNs begin above this, if it is more than [`Resolution::max_lsn`].
    pub lsn_floor: Lsn,
    /// What seals its log; `None` if nothing does.
    pub seal: Option<StartSeal>,
}

/// What the reading of the undecided logs collects.
#[derive(Default)]
struct Scan {
    parts: Parts,
    /// A published snapshot has everything up to here.
    published: Lsn,
    /// Where the last record of that stands in each log.
    last_published: BTreeMap<LogId, Position>,
}

/// A log directory during a start. See the module's introduction.
pub struct Recovery {
    pub(super) disk: Arc<dyn LogDisk>,
    pub(super) dir: PathBuf,
    pub(super) keys: LogKeys,
    pub(super) starts: BTreeMap<StartId, StartRecord>,
    logs: BTreeMap<LogId, LogFiles>,
    /// What the first later start decided about each log.
    pub(super) decided: BTreeMap<LogId, LogEnd>,
    /// See [`Self::keep`].
    published: Lsn,
    pub(super) resolution: Resolution,
}

impl Recovery {
    /// Reads the names and the start records of a log directory.
    ///
    /// # Errors
    /// [`RecoveryError::Start`] for a record that is unreadable or does not fit the keys,
    /// [`RecoveryError::ForeignDatabase`] if two do not agree, and those of the disk.
    pub fn scan(disk: Arc<dyn LogDisk>, dir: &Path, keys: LogKeys) -> Result<Self, RecoveryError> {
        let listing = list(&*disk, dir)?;
        let mut starts = BTreeMap::new();
        for start in listing.starts {
            let read = StartRecord::read(&*disk, dir, start, &keys);
            let path = start_path(dir, start);
            starts.insert(start, read.map_err(|source| RecoveryError::Start { path, source })?);
        }
        let mut decided = BTreeMap::new();
        let mut database_id = None;
        for record in starts.values() {
            if *database_id.get_or_insert(record.database_id) != record.database_id {
                return Err(RecoveryError::ForeignDatabase { start: record.start });
            }
            for &end in &record.ends {
                decided.entry(end.log).or_insert(end);
            }
        }
        let logs = listing.logs;
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            keys,
            starts,
            logs,
            decided,
            published: Lsn::ZERO,
            resolution: Resolution::default(),
        })
    }

    /// A snapshot that was published ends at this LSN, whether or not it can be loaded, or the
    /// archive does: nothing of it is cut off (see [`super::resolve`]). That of the image is known
    /// without this.
    pub fn keep(&mut self, end_lsn: Lsn) {
        self.published = self.published.max(end_lsn);
    }

    /// The start records, oldest first.
    pub fn starts(&self) -> impl Iterator<Item = &StartRecord> {
        self.starts.values()
    }

    /// Decides what counts beside `image`; without one, everything since the first start. May be
    /// called again with another image until the start record is written.
    ///
    /// # Errors
    /// [`LogError::Gap`] or [`RecoveryError::MissingStart`] if the logs do not continue the image;
    /// [`LogError::Damaged`]; those of the disk.
    pub fn resolve(&mut self, image: Option<&Coverage>) -> Result<&Resolution, RecoveryError> {
        let base = image.map_or(StartId(0), |image| image.start);
        let last = self.last_start();
        let mut run = Resolution { next_start: StartId(last.0 + 1), ..Resolution::default() };
        let watermarks = image.iter().flat_map(|image| &image.parts).map(|part| part.watermark);
        run.max_lsn = watermarks.max().unwrap_or_default();
        let published = self.published.max(run.max_lsn);
        let mut scan = Scan { published, ..Scan::default() };
        let mut ends = BTreeMap::new();
        for start in base.0.max(1)..=last.0.max(base.0) {
            let start = StartId(start);
            let record = self.starts.get(&start).ok_or(RecoveryError::MissingStart { start })?;
            check_layout(record, image)?;
            run.max_lsn = run.max_lsn.max(record.lsn_floor);
            run.dropped.extend(&record.dropped);
            for log in logs_of(record) {
                let part = image.and_then(|image| image.part(log)).unwrap_or_default();
                let decided = self.decided.get(&log);
                let end = match decided {
                    Some(decided) => self.check_decided(log, record, part, decided.end)?,
                    None => self.scan_log(log, record, part, &mut scan, &mut run)?,
                };
                if end < part.position {
                    return Err(gap(log, part.position, end).into());
                }
                ends.insert(log, end);
                let kept_below = decided.and_then(|decided| decided.kept_below);
                let Part { watermark, position: from } = part;
                run.logs.push(ResolvedLog { log, from, end, kept_below, watermark });
            }
        }
        let is_behind = |log: LogId, lsn: Lsn| {
            image.and_then(|image| image.part(log)).is_some_and(|part| lsn <= part.watermark)
        };
        let reach = Reach { ends: &ends, is_behind: &is_behind, published };
        let Decision { cuts, dropped } = scan.parts.decide(&reach);
        run.dropped.extend(dropped);
        for log in &mut run.logs {
            let Some(&from) = cuts.get(&log.log) else { continue };
            run.relaxed_cuts.push((log.log, log.end.0 - from.0));
            match scan.last_published.get(&log.log) {
                Some(&last) if last >= from => {
                    log.kept_below = Some(KeptBelow { from, lsn: published });
                }
                _ => log.end = from,
            }
        }
        self.resolution = run;
        Ok(&self.resolution)
    }

    /// What the last [`Self::resolve`] decided.
    pub fn resolution(&self) -> &Resolution {
        &self.resolution
    }

    /// Makes the decisions final and the new start known, durably. Nothing may be served, and no
    /// segment of the new start be made, before this returned.
    ///
    /// # Errors
    /// [`RecoveryError::ForeignDatabase`], and those of the disk.
    pub fn write_start_record(&self, new: &NewStart) -> Result<StartRecord, RecoveryError> {
        let resolution = &self.resolution;
        let start = resolution.next_start;
        if self.starts.values().any(|record| record.database_id != new.database_id) {
            return Err(RecoveryError::ForeignDatabase { start });
        }
        assert!(start > self.last_start(), "decisions are made before they are written");
        let log_end =
            |log: &ResolvedLog| LogEnd { log: log.log, end: log.end, kept_below: log.kept_below };
        let mut record = StartRecord {
            format_version: START_FORMAT_VERSION,
            start,
            database_id: new.database_id,
            history_id: new.history_id,
            created_at_us: new.created_at_us,
            shards: new.shards,
            lsn_floor: new.lsn_floor.max(resolution.max_lsn),
            ends: resolution.logs.iter().map(log_end).collect(),
            dropped: resolution.dropped.iter().copied().collect(),
            sealing: None,
        };
        if let Some(seal) = &new.seal {
            record.seal(seal);
        }
        record.write(&*self.disk, &self.dir).map_err(|source| RecoveryError::Start {
            path: start_path(&self.dir, start),
            source: StartError::Io(source),
        })?;
        Ok(record)
    }

    /// Segments of earlier starts in which nothing stands before the end of their log, such as
    /// those that were made ahead and never used. To be called when the start record is written:
    /// the caller may remove them, and nothing here reads them any more.
    ///
    /// # Errors
    /// Those of reading.
    pub fn take_leftovers(&mut self) -> Result<Vec<(LogId, SegmentIndex)>, RecoveryError> {
        let mut leftovers = Vec::new();
        for &ResolvedLog { log, end, .. } in &self.resolution.logs {
            let record = self.starts.get(&log.start).expect("it was there to be resolved");
            let files = self.files(log);
            let beyond =
                beyond_end(&*self.disk, &self.dir, &files, &expected_of(record, &self.keys), end)?;
            leftovers.extend(beyond.iter().map(|&index| (log, index)));
            let needed = files.segments.len() - beyond.len();
            if let Some(files) = self.logs.get_mut(&log) {
                files.segments.truncate(needed);
            }
        }
        Ok(leftovers)
    }

    /// Hands out, in log order, every record of `log` above `from` that counts; no markers. The
    /// log's own watermark is applied as well.
    ///
    /// # Errors
    /// What `each` returns, and [`RecoveryError::Log`].
    ///
    /// # Panics
    /// If `log` is none of those in [`Resolution::logs`].
    pub fn replay<E: From<LogError>>(
        &self,
        log: LogId,
        from: Lsn,
        each: &mut dyn FnMut(&Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.replay_between(log, from, Lsn(u64::MAX), each).map(drop)
    }

    /// [`Self::replay`] of the records at or below `up_to`. Answers where the first record above it
    /// begins, or the log's end.
    pub(super) fn replay_between<E: From<LogError>>(
        &self,
        log: LogId,
        from: Lsn,
        up_to: Lsn,
        each: &mut dyn FnMut(&Record<'_>) -> Result<(), E>,
    ) -> Result<Position, E> {
        let found = self.resolution.logs.iter().find(|resolved| resolved.log == log);
        let resolved = *found.expect("only resolved logs are replayed");
        if resolved.end <= resolved.from {
            return Ok(resolved.end);
        }
        let record = self.starts.get(&log.start).expect("a resolved log has its start's record");
        let files = self.files(log);
        let expected = expected_of(record, &self.keys);
        let end = Some(resolved.end);
        let (disk, dir) = (&*self.disk, self.dir.as_path());
        let reader = LogReader::open(disk, dir, &files, expected, resolved.from, end)?;
        let above = resolved.watermark.max(from);
        let mut next = None;
        reader.run(&mut |position, record| {
            let is_dropped =
                || record.txn_id().is_some_and(|id| self.resolution.dropped.contains(&id));
            let counts = record.lsn > above && resolved.counts(position, record.lsn);
            if record.marker || !counts || is_dropped() {
                return Ok(());
            }
            if record.lsn > up_to {
                next.get_or_insert(position);
                return Ok(());
            }
            each(record)
        })?;
        Ok(next.unwrap_or(resolved.end))
    }

    fn last_start(&self) -> StartId {
        let records = self.starts.keys().next_back().copied().unwrap_or_default();
        let logs = self.logs.keys().next_back().map(|log| log.start).unwrap_or_default();
        records.max(logs)
    }

    pub(super) fn files(&self, log: LogId) -> LogFiles {
        let none = || LogFiles { log, segments: Vec::new() };
        self.logs.get(&log).cloned().unwrap_or_else(none)
    }

    /// A log with a decided end: that it reaches back is checked now, the rest when it is replayed.
    fn check_decided(
        &self,
        log: LogId,
        record: &StartRecord,
        part: Part,
        end: Position,
    ) -> Result<Position, LogError> {
        if end > part.position {
            let (files, expected) = (self.files(log), expected_of(record, &self.keys));
            LogReader::open(&*self.disk, &self.dir, &files, expected, part.position, Some(end))?;
        }
        Ok(end)
    }

    /// A log that no start has decided about: synced, so that what is read now is still there after
    /// the next crash, and read to its end.
    fn scan_log(
        &self,
        log: LogId,
        record: &StartRecord,
        part: Part,
        scan: &mut Scan,
        run: &mut Resolution,
    ) -> Result<Position, LogError> {
        let files = self.files(log);
        for &index in &files.segments {
            let path = self.dir.join(segment_name(log, index));
            self.disk.sync(&path).map_err(|source| LogError::Io {
                operation: "sync",
                path,
                source,
            })?;
        }
        let (disk, dir, expected) =
            (&*self.disk, self.dir.as_path(), expected_of(record, &self.keys));
        let reader = LogReader::open(disk, dir, &files, expected, part.position, None)?;
        let scanned = reader.run::<LogError>(&mut |position, record| {
            run.max_lsn = run.max_lsn.max(record.lsn);
            // Also what the image has: another, older one may be loaded later.
            scan.parts.add(log, position, record);
            if record.lsn <= scan.published {
                scan.last_published.insert(log, position);
            }
            Ok(())
        })?;
        run.cuts.extend(scanned.cut);
        Ok(scanned.end)
    }
}

pub(super) fn check_layout(
    record: &StartRecord,
    image: Option<&Coverage>,
) -> Result<(), RecoveryError> {
    match image.filter(|image| image.start == record.start) {
        Some(image) if image.parts.len() != usize::from(record.shards) => {
            let (start, shards, parts) = (record.start, record.shards, image.parts.len());
            Err(RecoveryError::Layout { start, shards, parts })
        }
        _ => Ok(()),
    }
}

pub(super) fn logs_of(record: &StartRecord) -> impl Iterator<Item = LogId> + use<> {
    let start = record.start;
    (0..record.shards).map(move |shard| LogId { start, shard: ShardId(shard) })
}

pub(super) fn expected_of<'k>(record: &StartRecord, keys: &'k LogKeys) -> Expected<'k> {
    let &StartRecord { database_id, history_id, shards, .. } = record;
    Expected { database_id, history_id, shards, keys }
}

pub(super) fn gap(log: LogId, needed: Position, end: Position) -> LogError {
    LogError::Gap { log, needed, oldest: Position(0), end }
}
