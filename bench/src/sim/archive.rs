//! The archive: now and then every shard is asked how far its log is closed, and when all are
//! durable to there, the records up to the lowest are taken out of the logs, as the archiver does
//! it. What was taken once must be in the logs after every crash, no more and no less.

use cutwater_engine::log::{
    Coverage, LogDisk, LogError, LogKeys, LogMark, LogRange, Part, Record, Recovery, Running,
};
use cutwater_engine::types::{LogId, Lsn, Position, StartId};

use std::path::Path;
use std::sync::Arc;

use super::boot;
use super::image::Image;
use super::node::{Control, Node};
use super::world::World;

/// One archived record.
type Archived = (LogId, Lsn, Vec<u8>);

/// What the archive has.
#[derive(Debug, Default)]
pub struct Archive {
    /// Whether there is one.
    pub is_on: bool,
    /// Everything up to here.
    to: Lsn,
    /// The start that served then.
    start: StartId,
    records: Vec<Archived>,
    /// Where the rest stands.
    coverage: Option<Coverage>,
    /// The marks that shards have answered, while a round is under way.
    marks: Option<Vec<Option<LogMark>>>,
}

impl Archive {
    /// How many records it has.
    pub fn records(&self) -> usize {
        self.records.len()
    }
}

/// Why a replay was ended.
struct Ended(String);

impl From<LogError> for Ended {
    fn from(error: LogError) -> Self {
        Self(error.to_string())
    }
}

impl World {
    /// Nothing at or below it may be cut off by a recovery.
    pub(super) fn kept_lsn(&self) -> Lsn {
        let snapshot = self.complete.last().map_or(Lsn::ZERO, |image| image.end);
        snapshot.max(self.archive.to)
    }

    /// Asks every shard for a mark, unless that is under way.
    pub(super) fn begin_round(&mut self) {
        if self.archive.is_on && self.archive.marks.is_none() {
            self.archive.marks = Some(vec![None; self.nodes.len()]);
            self.nodes.iter_mut().for_each(|node| node.control.push_back(Control::Mark));
        }
    }

    /// A shard answers.
    pub(super) fn marked(&mut self, node: usize, mark: LogMark) {
        if let Some(marks) = &mut self.archive.marks {
            marks[node] = Some(mark);
        }
    }

    /// The marks are gone with the shards.
    pub(super) fn forget_marks(&mut self) {
        self.archive.marks = None;
    }

    /// Archives, once every shard has answered and is durable.
    ///
    /// # Errors
    /// The logs cannot be read.
    pub(super) fn end_round(&mut self) -> Result<(), String> {
        let marks = self.archive.marks.as_ref();
        let marks: Option<Vec<LogMark>> = marks.and_then(|marks| marks.iter().copied().collect());
        let Some(marks) = marks else { return Ok(()) };
        let is_durable =
            |(node, mark): (&mut Node, &LogMark)| node.core.journal().durable() >= mark.end;
        if !self.nodes.iter_mut().zip(&marks).all(is_durable) {
            return Ok(());
        }
        self.archive.marks = None;
        let to = marks.iter().map(|mark| mark.closed).min().unwrap_or_default();
        if to <= self.archive.to {
            return Ok(());
        }
        let running = Running::from_marks(self.start, &marks);
        let text = |error: &dyn std::error::Error| format!("the archive: {error}");
        let archive = &mut self.archive;
        let (disk, from) = (Arc::new(self.disk.clone()), archive.coverage.as_ref());
        let range = LogRange::open(disk, &self.dir, &self.sealing.keys, from, &running)
            .map_err(|e| text(&e))?;
        let mut ends: Vec<(StartId, Position, bool)> = Vec::new();
        for resolved in range.logs() {
            let log = resolved.log;
            let records = &mut archive.records;
            let next = range.replay::<Ended>(log, archive.to, to, &mut |record| {
                records.push((log, record.lsn, record.ops.to_vec()));
                Ok(())
            });
            let next = next.map_err(|Ended(error)| error)?;
            ends.push((log.start, next, next < resolved.end));
        }
        let first = ends.iter().find(|(.., has_more)| *has_more).or(ends.last());
        let start = first.map(|(start, ..)| *start).unwrap_or_default();
        let of_start = ends.iter().filter(|(of, ..)| *of == start);
        let parts = of_start.map(|&(_, position, _)| Part { watermark: to, position }).collect();
        archive.coverage = Some(Coverage { start, parts });
        (archive.to, archive.start) = (to, self.start);
        Ok(())
    }

    /// Whether the logs hold exactly what was archived, and its order leads to the same state.
    ///
    /// # Errors
    /// What differs.
    pub(super) fn compare_archive(&self, disk: &Arc<dyn LogDisk>) -> Result<(), String> {
        let Archive { to, start, records, .. } = &self.archive;
        if *to == Lsn::ZERO {
            return Ok(());
        }
        let place = (self.dir.as_path(), &self.sealing.keys);
        let mut found = logged(disk, place, self.kept_lsn(), *to)?;
        let mut archived = records.clone();
        found.sort();
        archived.sort();
        if found != archived {
            let lost: Vec<_> = archived.iter().filter(|one| !found.contains(one)).collect();
            let new: Vec<_> = found.iter().filter(|one| !archived.contains(one)).collect();
            return Err(format!("archived to {to}; not in the logs {lost:?}; only there {new:?}"));
        }
        let mut state = Image::default();
        for (_, _, ops) in records {
            state.apply(ops).map_err(|error| error.to_string())?;
        }
        let limit = Some((*start, *to));
        let expected = boot::replayed(Arc::clone(disk), place, None, self.kept_lsn(), limit)?;
        if state == expected {
            return Ok(());
        }
        Err(format!("the archive leads to {state:?} at {to}, and the logs to {expected:?}"))
    }
}

/// Every record up to an LSN that counts after a crash.
fn logged(
    disk: &Arc<dyn LogDisk>,
    (dir, keys): (&Path, &LogKeys),
    kept: Lsn,
    to: Lsn,
) -> Result<Vec<Archived>, String> {
    let mut recovery =
        Recovery::scan(Arc::clone(disk), dir, keys.clone()).map_err(|error| error.to_string())?;
    recovery.keep(kept);
    let logs = recovery.resolve(None).map_err(|error| error.to_string())?.logs.clone();
    let mut found = Vec::new();
    for resolved in logs {
        let take = &mut |record: &Record<'_>| {
            if record.lsn <= to {
                found.push((resolved.log, record.lsn, record.ops.to_vec()));
            }
            Ok(())
        };
        recovery.replay(resolved.log, Lsn::ZERO, take).map_err(|Ended(error)| error)?;
    }
    Ok(found)
}
