//! What the log has for the next object of the archive. Blocks: for a thread of its own.

use std::path::Path;
use std::sync::Arc;

use cutwater_engine::log::{
    Coverage, FileDisk, LogError, LogKeys, LogRange, Part, RecoveryError, Running,
};
use cutwater_engine::types::{Lsn, Position, StartId};
use cutwater_snapshot::archive::{Body, BodyBuilder, WalRecord};

/// Bytes of a record beside its ops, about.
const RECORD_BYTES: usize = 32;
/// Into how many stretches of time a search divides what does not fit.
const STRETCHES: usize = 1_024;
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
/// less: up to an earlier moment, though never nothing. What belongs to one microsecond is never
/// divided.
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
    match try_collect(&range, (from, up_to), limit_bytes) {
        Ok(batch) => return Ok(batch),
        Err(Stop::Log(error)) => return Err(error.into()),
        Err(Stop::Full) => {}
    }
    let to = fitting(&range, (from, up_to), limit_bytes)?;
    match try_collect(&range, (from, to), usize::MAX) {
        Ok(batch) => Ok(batch),
        Err(Stop::Log(error)) => Err(error.into()),
        Err(Stop::Full) => unreachable!("everything fits"),
    }
}

/// Up to where it is about `limit_bytes`: counts the bytes of so many stretches of time, and looks
/// closer at the first that has any where that alone is too much. The log is read a few times at
/// most, however long the time is and however large a record.
fn fitting(
    range: &LogRange,
    (from, up_to): (Lsn, Lsn),
    limit_bytes: usize,
) -> Result<Lsn, LogError> {
    let (mut first_us, mut last_us) = (from.micros(), up_to.micros());
    loop {
        let width_us = (last_us - first_us) / STRETCHES as u64 + 1;
        let mut bytes = [0usize; STRETCHES];
        for resolved in range.logs() {
            range.replay::<LogError>(resolved.log, from, up_to, &mut |record| {
                let since_us = record.lsn.micros().checked_sub(first_us);
                if let Some(at) = since_us.and_then(|us| bytes.get_mut((us / width_us) as usize)) {
                    *at += record.ops.len() + RECORD_BYTES;
                }
                Ok(())
            })?;
        }
        let mut sum = 0usize;
        let fits = |bytes: &&usize| {
            sum = sum.saturating_add(**bytes);
            sum <= limit_bytes
        };
        let fitting = bytes.iter().take_while(fits).count();
        let has_any = bytes[..fitting].iter().any(|bytes| *bytes > 0);
        let taken = if has_any { fitting } else { fitting + 1 };
        if has_any || width_us == 1 {
            let end_us = first_us.saturating_add(width_us.saturating_mul(taken as u64));
            return Ok(Lsn(Lsn::from_micros(end_us).0 - 1).min(up_to));
        }
        first_us += width_us * fitting as u64;
        last_us = last_us.min(first_us + width_us - 1);
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
