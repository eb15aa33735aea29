//! The files of a log directory: which there are, and which nothing needs any more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::disk::LogDisk;
use super::reader::{Expected, LogError, LogFiles, find_segment};
use super::recovery::{Coverage, RecoveryError, expected_of};
use super::sealing::LogKeys;
use super::segment::{SegmentIndex, parse_segment_name, segment_name};
use super::start::{StartRecord, parse_start_name, start_name, start_path};
use crate::types::{LogId, Position, StartId};

/// The files of a log directory that nothing needs any more once `older`, the older of the two
/// checkpoints, can be loaded: in the order in which to remove them. Files of the start `current`
/// are left to its writers. Spares are not listed.
///
/// # Errors
/// [`RecoveryError::Start`] if the record of `older`'s start is gone; those of reading.
pub fn obsolete_files(
    disk: &dyn LogDisk,
    dir: &Path,
    keys: &LogKeys,
    older: &Coverage,
    current: StartId,
) -> Result<Vec<String>, RecoveryError> {
    let listing = list(disk, dir)?;
    let mut names = Vec::new();
    for (&log, files) in &listing.logs {
        let mut count = 0;
        if log.start < older.start {
            count = files.segments.len();
        } else if let Some(part) = older.part(log).filter(|_| log.start != current) {
            let record = StartRecord::read(disk, dir, log.start, keys).map_err(|source| {
                RecoveryError::Start { path: start_path(dir, log.start), source }
            })?;
            let expected = expected_of(&record, keys);
            let first_needed = find_segment(disk, dir, files, &expected, part.position)?;
            count = first_needed.map_or(0, |(at, _)| at);
        }
        names.extend(files.segments[..count].iter().map(|&index| segment_name(log, index)));
    }
    let starts = listing.starts.iter().filter(|&&start| start < older.start);
    names.extend(starts.map(|&start| start_name(start)));
    Ok(names)
}

/// What a log directory holds.
pub(super) struct Listing {
    pub(super) starts: BTreeSet<StartId>,
    pub(super) logs: BTreeMap<LogId, LogFiles>,
}

pub(super) fn list(disk: &dyn LogDisk, dir: &Path) -> Result<Listing, LogError> {
    let files = disk.list(dir).map_err(|source| LogError::Io {
        operation: "list",
        path: dir.to_owned(),
        source,
    })?;
    let mut segments: BTreeMap<LogId, BTreeSet<SegmentIndex>> = BTreeMap::new();
    let mut starts = BTreeSet::new();
    for file in files {
        starts.extend(parse_start_name(&file.name));
        if let Some((log, index)) = parse_segment_name(&file.name) {
            segments.entry(log).or_default().insert(index);
        }
    }
    let files = |(log, indexes): (LogId, BTreeSet<_>)| {
        (log, LogFiles { log, segments: indexes.into_iter().collect() })
    };
    Ok(Listing { starts, logs: segments.into_iter().map(files).collect() })
}

/// The segments of a log that begin behind its end: made ahead, and never used or cut off whole.
pub(super) fn beyond_end<'a>(
    disk: &dyn LogDisk,
    dir: &Path,
    files: &'a LogFiles,
    expected: &Expected<'_>,
    end: Position,
) -> Result<&'a [SegmentIndex], LogError> {
    if end == Position(0) {
        return Ok(&files.segments);
    }
    let last = find_segment(disk, dir, files, expected, end)?;
    Ok(last.map_or(&[], |(at, _)| &files.segments[at + 1..]))
}
