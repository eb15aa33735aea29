//! The property of the whole: random appends, transactions, completions and power failures over
//! several starts, also in the middle of recovery. Nothing durable is lost, each log is a prefix of
//! what was appended, and a transaction is there on all its shards or on none.

use std::collections::{BTreeMap, BTreeSet};

use super::rig::{
    Appended, BLOCK, Rng, Shell, begin, contents, dir, first_start, keys, log, recover,
    recover_with, replay,
};
use crate::log::LogKeys;
use crate::log::disk::LogDisk;
use crate::log::recovery::{Coverage, Part, RecoveryError};
use crate::log::sim_disk::SimDisk;
use crate::types::{Fsync, LogId, Position, StartId, TxnId};

/// What the world was told before a crash.
struct Before {
    log: LogId,
    appended: Vec<Appended>,
    durable: Position,
}

/// One transaction: the shards of its parts, and where each part ends.
type Txns = BTreeMap<TxnId, (bool, Vec<(LogId, Position)>)>;

/// Runs the shells at random until the disk fails or the steps are over.
fn run(rng: &mut Rng, shells: &mut [Shell], lsn: &mut u64, fsync: Fsync, txns: &mut Txns) {
    let logs: Vec<_> = shells.iter().map(|shell| shell.writer.log()).collect();
    for _ in 0..rng.below(160) {
        *lsn += 1;
        let at = rng.below(shells.len() as u64) as usize;
        let len = [3, 200, 5000, 20_000][rng.below(4) as usize];
        match rng.below(8) {
            0 | 1 => {
                let _ = shells[at].put(*lsn, len);
            }
            2 => {
                let id = TxnId { lsn: crate::types::Lsn(*lsn), coordinator: logs[at] };
                let relaxed = fsync != Fsync::Always;
                // A crash may come before the last participant has appended its part.
                let reached = 1 + rng.below(shells.len() as u64) as usize;
                let append =
                    |shell: &mut Shell| (shell.writer.log(), shell.txn(id, &logs, relaxed, 40));
                let parts: Vec<_> = shells[..reached].iter_mut().map(append).collect();
                let is_whole = reached == shells.len();
                txns.insert(id, (is_whole, parts));
                if !is_whole {
                    return;
                }
            }
            3 => {
                shells[at].writer.tick_sync();
                shells[at].writer.idle_marker(crate::types::Lsn(*lsn));
            }
            _ => {
                if step(rng, &mut shells[at]).is_err() {
                    shells[at].writer.failed();
                    return;
                }
            }
        }
    }
}

/// The end of the last record that is durable as a whole.
fn durable_records(shell: &Shell) -> Position {
    let durable = shell.writer.durable();
    let mut ends = shell.appended.iter().map(|record| record.end);
    ends.rfind(|&end| end <= durable).unwrap_or_default()
}

/// One random event of the shell.
fn step(rng: &mut Rng, shell: &mut Shell) -> std::io::Result<()> {
    shell.pump()?;
    let (writes, syncs) = (shell.writes.len() as u64, shell.syncs.len() as u64);
    if shell.wanted.is_some() && rng.below(3) == 0 {
        shell.provide()?;
    } else if writes > 0 {
        shell.complete(rng.below(writes) as usize)?;
    } else if syncs > 0 {
        shell.complete_sync(rng.below(syncs) as usize)?;
    }
    Ok(())
}

/// Recovers, crashing in the middle a few times, and begins the next start.
fn recover_through_crashes(rng: &mut Rng, disk: &SimDisk, shards: u16, keys: &LogKeys) -> StartId {
    let mut decided = None;
    loop {
        if rng.below(2) == 0 {
            disk.fail_after(rng.below(12));
        }
        let result = recover_with(disk, None, keys).and_then(|recovery| {
            let resolution = recovery.resolution().clone();
            let previous = decided.get_or_insert_with(|| resolution.clone());
            assert_eq!(
                (&previous.logs, &previous.dropped),
                (&resolution.logs, &resolution.dropped)
            );
            begin(&recovery, shards)
        });
        match result {
            Ok(start) => return start,
            Err(error) => {
                assert!(matches!(error, RecoveryError::Log(_) | RecoveryError::Start { .. }));
                assert!(error.is_retryable(), "{error}");
                disk.crash();
            }
        }
        // The record may have been written although its writer was told that it failed.
        if let Ok(recovery) = recover_with(disk, None, keys)
            && decided.as_ref().is_some_and(|d| d.next_start < recovery.resolution().next_start)
        {
            decided = None;
        }
    }
}

fn check(seed: u64, disk: &SimDisk, before: &[Before], txns: &Txns) {
    let recovery = recover_with(disk, None, &keys_of(seed)).unwrap();
    let resolution = recovery.resolution();
    let ends: BTreeMap<_, _> =
        resolution.logs.iter().map(|resolved| (resolved.log, resolved.end)).collect();
    let mut found: BTreeMap<TxnId, BTreeSet<LogId>> = BTreeMap::new();
    for Before { log, appended, durable } in before {
        let records = replay(&recovery, *log).unwrap();
        let is_dropped =
            |record: &Appended| record.txn.is_some_and(|id| resolution.dropped.contains(&id));
        let kept: Vec<_> = appended
            .iter()
            .filter(|record| record.end <= ends[log] && !is_dropped(record))
            .cloned()
            .collect();
        assert_eq!(records, contents(&kept), "seed {seed}, log {log}: not a prefix");
        // Under a relaxed mode a durable byte may stand behind a transaction that is incomplete
        // elsewhere, and go with it.
        let may_be_cut =
            is_relaxed(seed) && txns.keys().any(|id| id.coordinator.start == log.start);
        assert!(
            ends[log] >= *durable || may_be_cut,
            "seed {seed}, log {log}: {durable} was durable"
        );
        for id in records.iter().filter_map(|record| record.txn) {
            found.entry(id).or_default().insert(*log);
        }
    }
    for (id, (is_whole, parts)) in txns {
        let there = found.get(id).map_or(0, BTreeSet::len);
        assert!(there == 0 || (*is_whole && there == parts.len()), "seed {seed}: half of {id:?}");
        let durable = |&(log, end): &(LogId, Position)| {
            before.iter().any(|before| before.log == log && end <= before.durable)
        };
        if *is_whole && !is_relaxed(seed) && parts.iter().all(durable) {
            assert_eq!(there, parts.len(), "seed {seed}: {id:?} was durable everywhere");
        }
    }
}

/// An image of the last start, at an LSN up to which all was durable: the rest is what the whole
/// replay hands out above it.
fn check_with_image(seed: u64, disk: &SimDisk, before: &[Before], start: StartId) {
    let logs: Vec<_> = before.iter().filter(|before| before.log.start == start).collect();
    let is_durable = |before: &Before, record: &&Appended| record.end <= before.durable;
    let last = |before: &&Before| {
        let durable = before.appended.iter().filter(|record| is_durable(before, record));
        durable.map(|record| record.lsn).max().unwrap_or_default()
    };
    let watermark = logs.iter().map(last).min().unwrap_or_default();
    let part = |before: &&Before| {
        let covered = before.appended.iter().rfind(|record| record.lsn <= watermark);
        Part { watermark, position: covered.map_or(Position(0), |record| record.end) }
    };
    let image = Coverage { start, parts: logs.iter().map(part).collect() };
    let recovered = |image| recover_with(disk, image, &keys_of(seed)).unwrap();
    let (all, rest) = (recovered(None), recovered(Some(&image)));
    for Before { log, .. } in logs {
        let mut expected = replay(&all, *log).unwrap();
        expected.retain(|record| record.lsn > watermark);
        assert_eq!(replay(&rest, *log).unwrap(), expected, "seed {seed}, log {log}");
    }
}

fn is_relaxed(seed: u64) -> bool {
    seed.is_multiple_of(3)
}

/// A third of the seeds is sealed.
fn keys_of(seed: u64) -> LogKeys {
    if seed % 3 == 1 { keys(&[("k", 7)]) } else { LogKeys::default() }
}

fn simulate(seed: u64) {
    let mut rng = Rng(seed);
    let disk = SimDisk::new(seed);
    disk.create_dir(&dir()).unwrap();
    let fsync = if is_relaxed(seed) { Fsync::Everysec } else { Fsync::Always };
    let (segment_bytes, keys) = ((2 + rng.below(8)) * BLOCK, keys_of(seed));
    let (mut lsn, mut txns, mut before) = (0, Txns::new(), Vec::new());
    for _ in 0..3 {
        let shards = 1 + rng.below(3) as u16;
        let start = recover_through_crashes(&mut rng, &disk, shards, &keys);
        disk.crash();
        let new = |shard| {
            Shell::new(&disk, log(start.0, shard), shards, segment_bytes, fsync).sealed(&keys)
        };
        let mut shells: Vec<_> = (0..shards).map(new).collect();
        if rng.below(2) == 0 {
            disk.fail_after(rng.below(120));
        }
        run(&mut rng, &mut shells, &mut lsn, fsync, &mut txns);
        before.extend(shells.into_iter().map(|shell| Before {
            log: shell.writer.log(),
            durable: durable_records(&shell),
            appended: shell.appended,
        }));
        if rng.below(3) == 0 {
            disk.kill()
        } else {
            disk.crash()
        }
        check(seed, &disk, &before, &txns);
        check_with_image(seed, &disk, &before, start);
    }
}

#[test]
fn nothing_durable_is_lost_and_nothing_is_half_there() {
    for seed in 0..400 {
        simulate(seed);
    }
}

/// One fixed run, crashed after every single operation of the disk.
#[test]
fn a_crash_at_every_write_and_sync() {
    for fsync in [Fsync::Always, Fsync::Everysec] {
        let mut survived = 0;
        for fail_after in 0.. {
            let disk = SimDisk::new(fail_after);
            let mut shell = first_start(&disk, 1, 4 * BLOCK, fsync).remove(0);
            disk.fail_after(fail_after);
            let result = (1..=12u64).try_for_each(|lsn| {
                shell.put(lsn, 1500);
                shell.writer.tick_sync();
                shell.pump()?;
                shell.provide()?;
                shell.pump()?;
                while !shell.writes.is_empty() || !shell.syncs.is_empty() {
                    if shell.writes.is_empty() {
                        shell.complete_sync(0)?;
                    } else {
                        shell.complete(0)?;
                    }
                    shell.pump()?;
                }
                std::io::Result::Ok(())
            });
            let durable = durable_records(&shell);
            disk.crash();
            let recovery = recover(&disk, None).unwrap();
            let records = replay(&recovery, log(1, 0)).unwrap();
            assert_eq!(records, contents(&shell.appended[..records.len()]));
            assert!(recovery.resolution().logs[0].end >= durable, "after {fail_after}");
            survived = records.len();
            if result.is_ok() {
                break;
            }
        }
        assert_eq!(survived, 12);
    }
}
