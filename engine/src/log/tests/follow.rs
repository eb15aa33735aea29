//! Ranges of the log behind a place, read while the newest of it is being written.

use std::sync::Arc;

use super::rig::{
    Appended, BLOCK, Rng, Shell, begin, contents, dir, first_start, log, next_start, recover,
    replayed,
};
use crate::log::disk::LogDisk;
use crate::log::follow::{LogRange, Running};
use crate::log::recovery::{Coverage, Part, RecoveryError};
use crate::log::sim_disk::SimDisk;
use crate::log::{LogError, LogKeys, ResolvedLog};
use crate::types::{Fsync, LogId, Lsn, Position, StartId, TxnId};

const ALL: Lsn = Lsn(u64::MAX);

fn running(start: u32, shells: &[Shell]) -> Running {
    let ends = shells.iter().map(|shell| shell.writer.durable()).collect();
    Running { start: StartId(start), ends }
}

fn open(
    disk: &SimDisk,
    from: Option<&Coverage>,
    running: &Running,
) -> Result<LogRange, RecoveryError> {
    LogRange::open(Arc::new(disk.clone()), &dir(), &LogKeys::default(), from, running)
}

fn read(range: &LogRange, log: LogId, above: Lsn, up_to: Lsn) -> (Vec<Appended>, Position) {
    let mut records = Vec::new();
    let next = range.replay::<LogError>(log, above, up_to, &mut |record| {
        records.push(replayed(record));
        Ok(())
    });
    (records, next.unwrap())
}

fn lsns(range: &LogRange, log: LogId) -> Vec<u64> {
    read(range, log, Lsn::ZERO, ALL).0.iter().map(|record| record.lsn.0).collect()
}

fn from(start: u32, parts: &[(u64, Position)]) -> Coverage {
    let part = |&(watermark, position)| Part { watermark: Lsn(watermark), position };
    Coverage { start: StartId(start), parts: parts.iter().map(part).collect() }
}

#[test]
fn a_running_log_is_read_up_to_its_durable_end_and_on_from_there() {
    let disk = SimDisk::new(1);
    let mut shells = first_start(&disk, 1, 4 * BLOCK, Fsync::Always);
    let mut place = from(1, &[(0, Position(0))]);
    let mut seen = Vec::new();
    for round in 0..20u64 {
        for at in 0..4 {
            shells[0].put(round * 10 + at + 1, 700 * (at as usize + 1));
        }
        shells[0].settle();
        // Not durable, and not to be seen yet: begun, and never completed before the read.
        let ends = running(1, &shells);
        shells[0].put(round * 10 + 5, 900);
        shells[0].pump().unwrap();
        let range = open(&disk, Some(&place), &ends).unwrap();
        let up_to = Lsn(round * 10 + 3);
        let (records, next) = read(&range, log(1, 0), Lsn::ZERO, up_to);
        seen.extend(records);
        place = from(1, &[(up_to.0, next)]);
        shells[0].settle();
    }
    let range = open(&disk, Some(&place), &running(1, &shells)).unwrap();
    seen.extend(read(&range, log(1, 0), Lsn::ZERO, ALL).0);
    assert_eq!(seen, contents(&shells[0].appended));
}

/// Ranges cut by LSN at random, over several starts with their own numbers of shards: together they
/// are everything, each record once.
#[test]
fn ranges_of_any_cut_add_up_over_starts_and_layouts() {
    for seed in 0..30 {
        println!("seed {seed}");
        let (disk, mut random) = (SimDisk::new(seed), Rng(seed));
        let mut all: Vec<(LogId, Vec<Appended>)> = Vec::new();
        let mut seen: Vec<(LogId, Appended)> = Vec::new();
        let (mut lsn, mut had, mut place) = (0u64, Lsn::ZERO, None::<Coverage>);
        for (at, shards) in [2u16, 1, 3].into_iter().enumerate() {
            let start = at as u32 + 1;
            let mut shells = match at {
                0 => first_start(&disk, shards, 4 * BLOCK, Fsync::Always),
                _ => next_start(&disk, None, shards, 4 * BLOCK, Fsync::Always),
            };
            for _ in 0..4 {
                for _ in 0..random.below(20) {
                    lsn += 1;
                    let shell = random.below(u64::from(shards)) as usize;
                    shells[shell].put(lsn, random.below(3_000) as usize);
                }
                shells.iter_mut().for_each(Shell::settle);
                if random.below(3) == 0 {
                    continue;
                }
                let range = open(&disk, place.as_ref(), &running(start, &shells)).unwrap();
                let up_to = Lsn(lsn.saturating_sub(random.below(10))).max(had);
                let mut parts = Vec::new();
                for &ResolvedLog { log, .. } in range.logs() {
                    let (records, next) = read(&range, log, Lsn::ZERO, up_to);
                    seen.extend(records.into_iter().map(|record| (log, record)));
                    if log.start.0 == start {
                        parts.push((up_to.0, next));
                    }
                }
                // A cut below an earlier start's end must not be left behind with that start.
                let left = range.logs().iter().filter(|log| log.log.start.0 < start);
                let left: usize = left.map(|l| read(&range, l.log, up_to, ALL).0.len()).sum();
                if left == 0 {
                    (had, place) = (up_to, Some(from(start, &parts)));
                } else {
                    seen.truncate(seen.len() - counted(&range, up_to));
                }
            }
            all.extend(shells.iter().map(|s| (s.writer.log(), contents(&s.appended))));
            if at == 2 {
                let range = open(&disk, place.as_ref(), &running(start, &shells)).unwrap();
                for &ResolvedLog { log, .. } in range.logs() {
                    let records = read(&range, log, Lsn::ZERO, ALL).0;
                    seen.extend(records.into_iter().map(|record| (log, record)));
                }
            }
        }
        for (log, records) in all {
            let of_log = seen.iter().filter(|(of, _)| *of == log).map(|(_, record)| record.clone());
            assert!(of_log.collect::<Vec<_>>() == records, "{log}");
        }
    }
}

/// How many records a range hands out up to an LSN.
fn counted(range: &LogRange, up_to: Lsn) -> usize {
    let logs = range.logs().iter();
    logs.map(|found| read(range, found.log, Lsn::ZERO, up_to).0.len()).sum()
}

#[test]
fn what_an_earlier_start_dropped_or_cut_off_is_not_handed_out() {
    let disk = SimDisk::new(7);
    let mut shells = first_start(&disk, 2, 8 * BLOCK, Fsync::Always);
    let both = [log(1, 0), log(1, 1)];
    let id = |lsn| TxnId { lsn: Lsn(lsn), coordinator: log(1, 0) };
    shells[0].put(1, 10);
    shells[0].txn(id(5), &both, false, 10);
    shells[1].txn(id(5), &both, false, 10);
    shells[0].txn(id(6), &both, false, 10);
    shells.iter_mut().for_each(Shell::settle);
    // Never completed: cut off by the next start.
    shells[1].put(7, 10);
    begin(&recover(&disk, None).unwrap(), 1).unwrap();
    let second = [Shell::new(&disk, log(2, 0), 1, 8 * BLOCK, Fsync::Always)];
    shells[1].settle();
    let range = open(&disk, None, &running(2, &second)).unwrap();
    assert_eq!(lsns(&range, log(1, 0)), [1, 5]);
    assert_eq!(lsns(&range, log(1, 1)), [5]);
    assert_eq!(lsns(&range, log(2, 0)), [0; 0]);
    // Also behind a place in the first start.
    let position = shells[0].appended[0].end;
    let place = from(1, &[(1, position), (5, Position(0))]);
    let range = open(&disk, Some(&place), &running(2, &second)).unwrap();
    assert_eq!(lsns(&range, log(1, 0)), [5]);
    assert_eq!(lsns(&range, log(1, 1)), [0; 0]);
    assert_eq!(range.logs().len(), 3);
    assert!(range.size_bytes() > 0);
}

#[test]
fn a_range_that_does_not_reach_back_is_refused() {
    let disk = SimDisk::new(2);
    let mut shells = first_start(&disk, 1, 4 * BLOCK, Fsync::Always);
    for lsn in 1..=20 {
        shells[0].put(lsn, 3_000);
        shells[0].settle();
    }
    let ends = running(1, &shells);
    let late = shells[0].appended[15].end;
    disk.remove(&shells[0].path(0)).unwrap();
    let gap = |place: Option<&Coverage>| match open(&disk, place, &ends).map(drop) {
        Err(RecoveryError::Log(LogError::Gap { .. })) => true,
        Ok(()) => false,
        Err(other) => panic!("{other}"),
    };
    assert!(gap(None));
    assert!(gap(Some(&from(1, &[(2, shells[0].appended[1].end)]))));
    assert!(gap(Some(&from(1, &[(20, Position(shells[0].writer.tail().0 + 1))]))));
    let place = from(1, &[(16, late)]);
    assert!(!gap(Some(&place)));
    let range = open(&disk, Some(&place), &ends).unwrap();
    assert_eq!(lsns(&range, log(1, 0)), [17, 18, 19, 20]);
    let ahead = open(&disk, Some(&from(2, &[(0, Position(0))])), &ends).map(drop);
    assert!(matches!(ahead, Err(RecoveryError::MissingStart { start: StartId(2) })));
    let other = open(&disk, Some(&from(1, &[])), &ends).map(drop);
    assert!(matches!(other, Err(RecoveryError::Layout { parts: 0, shards: 1, .. })));
    let other = open(&disk, None, &Running { start: StartId(1), ends: vec![] }).map(drop);
    assert!(matches!(other, Err(RecoveryError::Layout { parts: 0, shards: 1, .. })));
    // Damage below the durable end is damage, although no later frame says so.
    let last = shells[0].path(shells[0].writer.retained_bytes() / (4 * BLOCK) - 1);
    disk.corrupt(&last, |bytes| bytes[4096 + 60] ^= 1);
    let range = open(&disk, Some(&place), &ends).unwrap();
    let read = range.replay::<LogError>(log(1, 0), Lsn::ZERO, ALL, &mut |_| Ok(()));
    assert!(matches!(read, Err(LogError::Damaged { .. })), "{read:?}");
}
