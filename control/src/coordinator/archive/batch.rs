//! What the log has for the next object of the archive. Blocks: for a thread of its own.

use std::path::Path;
use std::sync::Arc;

use cutwater_engine::log::{
    Coverage, FileDisk, LogError, LogKeys, LogRange, Part, RecoveryError, Running,
};
use cutwater_engine::types::{Lsn, Position, StartId};
use cutwater_snapshot::archive::{Body, BodyBuilder, WalRecord};

/// The LSNs of one microsecond: objects end between two.
const LSNS_PER_MICRO: u64 = 1 << Lsn::COUNTER_BITS;

/// The records of an object, and where the next one goes on.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The records.
    pub body: Body,
    /// It holds everything up to here.
    pub to: Lsn,
    /// Where everything above stands.
    pub coverage: Coverage,
}

/// Why collecting stopped.
enum Stop {
    Log(LogError),
    /// There is more than fits.
    Full,
}

impl From<LogError> for Stop {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

/// The last LSN of the last whole microsecond at or below this one.
pub fn whole_micros(lsn: Lsn) -> Lsn {
    Lsn(((lsn.0.saturating_add(1)) & !(LSNS_PER_MICRO - 1)).saturating_sub(1))
}

/// Bytes of log behind a place.
///
/// # Errors
/// As for [`LogRange::open`].
pub fn backlog_bytes(
    (dir, keys): (&Path, &LogKeys),
    coverage: Option<&Coverage>,
    running: &Running,
) -> Result<u64, RecoveryError> {
    Ok(LogRange::open(Arc::new(FileDisk), dir, keys, coverage, running)?.size_bytes())
}

/// Collects everything above `from` and at or below `up_to`; if that is more than `limit_bytes`,
/// less: up to an earlier moment, by halves. What belongs to one microsecond is never divided.
///
/// # Errors
/// As for [`LogRange::open`], and those of reading the logs.
pub fn collect(
    (dir, keys): (&Path, &LogKeys),
    coverage: Option<&Coverage>,
    running: &Running,
    (from, up_to): (Lsn, Lsn),
    limit_bytes: usize,
) -> Result<Batch, RecoveryError> {
    let range = LogRange::open(Arc::new(FileDisk), dir, keys, coverage, running)?;
    let mut to = up_to;
    let mut limit_bytes = limit_bytes;
    loop {
        match try_collect(&range, (from, to), limit_bytes) {
            Ok(batch) => return Ok(batch),
            Err(Stop::Log(error)) => return Err(error.into()),
            Err(Stop::Full) => {
                let half = whole_micros(Lsn(from.0 + (to.0 - from.0) / 2));
                if half > from {
                    to = half;
                } else {
                    limit_bytes = usize::MAX;
                }
            }
        }
    }
}

/// Where everything above `to` stands: for going on there and giving up what lies below.
///
/// # Errors
/// As for [`collect`].
pub fn skip(
    (dir, keys): (&Path, &LogKeys),
    coverage: Option<&Coverage>,
    running: &Running,
    to: Lsn,
) -> Result<Coverage, RecoveryError> {
    let range = LogRange::open(Arc::new(FileDisk), dir, keys, coverage, running)?;
    match try_collect(&range, (to, to), 0) {
        Ok(batch) => Ok(batch.coverage),
        Err(Stop::Log(error)) => Err(error.into()),
        Err(Stop::Full) => unreachable!("nothing lies above and not above an LSN"),
    }
}

fn try_collect(
    range: &LogRange,
    (from, to): (Lsn, Lsn),
    limit_bytes: usize,
) -> Result<Batch, Stop> {
    let mut builder = BodyBuilder::default();
    let mut ends: Vec<(StartId, Position, bool)> = Vec::new();
    for resolved in range.logs() {
        let log = resolved.log;
        let next = range.replay::<Stop>(log, from, to, &mut |record| {
            if builder.size_bytes().saturating_add(record.ops.len()) > limit_bytes {
                return Err(Stop::Full);
            }
            builder.push(WalRecord { log, lsn: record.lsn, ops: record.ops });
            Ok(())
        })?;
        ends.push((log.start, next, next < resolved.end));
    }
    // Everything above stands in the first start that has any of it, and in later ones.
    let with_more = ends.iter().find(|(_, _, has_more)| *has_more).map(|(start, ..)| *start);
    let start = with_more.or(ends.last().map(|(start, ..)| *start)).unwrap_or_default();
    let of_start = ends.iter().filter(|(of, ..)| *of == start);
    let parts = of_start.map(|&(_, position, _)| Part { watermark: to, position }).collect();
    Ok(Batch { body: builder.finish(), to, coverage: Coverage { start, parts } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_end_between_microseconds() {
        assert_eq!(whole_micros(Lsn(5 << 12 | 0xFFF)), Lsn(5 << 12 | 0xFFF));
        assert_eq!(whole_micros(Lsn(5 << 12 | 0xFFE)), Lsn(4 << 12 | 0xFFF));
        assert_eq!(whole_micros(Lsn(0)), Lsn(0));
        assert_eq!(whole_micros(Lsn(u64::MAX)), Lsn(u64::MAX - 0xFFF - 1));
    }
}
