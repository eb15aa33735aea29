//! Recovery over whole directories: transactions, images, several starts, repeated crashes.

use std::sync::Arc;

use super::rig::{
    BLOCK, Shell, begin, contents, dir, first_start, log, lsns, next_start, recover, replay,
};
use crate::log::disk::LogDisk;
use crate::log::files::obsolete_files;
use crate::log::recovery::{Coverage, Part, Recovery, RecoveryError};
use crate::log::sim_disk::SimDisk;
use crate::log::start::StartRecord;
use crate::log::{LogError, LogKeys, segment};
use crate::types::{Fsync, LogId, Lsn, Position, StartId, TxnId};

fn shells(shards: u16) -> (SimDisk, Vec<Shell>) {
    let disk = SimDisk::new(7);
    let shells = first_start(&disk, shards, 8 * BLOCK, Fsync::Always);
    (disk, shells)
}

fn id(lsn: u64) -> TxnId {
    TxnId { lsn: Lsn(lsn), coordinator: log(1, 0) }
}

fn both() -> [LogId; 2] {
    [log(1, 0), log(1, 1)]
}

fn image(start: u32, parts: &[(u64, Position)]) -> Coverage {
    let part = |&(watermark, position)| Part { watermark: Lsn(watermark), position };
    Coverage { start: StartId(start), parts: parts.iter().map(part).collect() }
}

#[test]
fn an_empty_directory_begins_with_start_one() {
    let disk = SimDisk::new(1);
    disk.create_dir(&dir()).unwrap();
    let recovery = recover(&disk, None).unwrap();
    assert_eq!(recovery.resolution().next_start, StartId(1));
    assert_eq!(begin(&recovery, 2).unwrap(), StartId(1));
    assert_eq!(recover(&disk, None).unwrap().resolution().next_start, StartId(2));
}

#[test]
fn a_transaction_without_all_parts_is_dropped_on_all() {
    let (disk, mut shells) = shells(2);
    for (lsn, on) in [(10, &[0, 1][..]), (11, &[0]), (12, &[1])] {
        for &shard in on {
            shells[shard].txn(id(lsn), &both(), false, 20);
        }
        shells[0].put(lsn + 100, 10);
    }
    shells.iter_mut().for_each(Shell::settle);
    let recovery = recover(&disk, None).unwrap();
    assert_eq!(lsns(&recovery, log(1, 0)), [10, 110, 111, 112]);
    assert_eq!(lsns(&recovery, log(1, 1)), [10]);
    assert_eq!(recovery.resolution().max_lsn, Lsn(112));
    assert_eq!(recovery.resolution().dropped.len(), 2);
}

#[test]
fn dropped_transactions_count_for_the_greatest_lsn() {
    let (disk, mut shells) = shells(2);
    shells[0].txn(id(500), &both(), false, 20);
    shells[0].settle();
    let recovery = recover(&disk, None).unwrap();
    assert_eq!(lsns(&recovery, log(1, 0)), []);
    assert_eq!(recovery.resolution().max_lsn, Lsn(500));
    begin(&recovery, 1).unwrap();
    let recovery = recover(&disk, Some(&image(2, &[(0, Position(0))]))).unwrap();
    assert_eq!(recovery.resolution().max_lsn, Lsn(500), "from the start record");
}

#[test]
fn a_part_behind_the_image_counts() {
    let (disk, mut shells) = shells(2);
    let frozen = shells[1].put(5, 10);
    shells[0].txn(id(10), &both(), false, 20);
    shells[0].settle();
    shells[1].settle();
    let dropped = recover(&disk, Some(&image(1, &[(0, Position(0)), (9, frozen)]))).unwrap();
    assert_eq!(lsns(&dropped, log(1, 0)), []);
    let kept = recover(&disk, Some(&image(1, &[(0, Position(0)), (10, frozen)]))).unwrap();
    assert_eq!(lsns(&kept, log(1, 0)), [10]);
    assert_eq!(lsns(&kept, log(1, 1)), []);
}

#[test]
fn an_incomplete_relaxed_one_cuts_each_log_from_its_place_on() {
    let (disk, mut shells) = shells(2);
    for shell in &mut shells {
        shell.put(1, 10);
        shell.txn(id(2), &both(), true, 20);
    }
    let end = shells[0].writer.tail();
    shells[0].txn(id(3), &both(), true, 20);
    shells[0].put(4, 10);
    shells[1].put(5, 10);
    shells.iter_mut().for_each(Shell::settle);
    let recovery = recover(&disk, None).unwrap();
    assert_eq!(lsns(&recovery, log(1, 0)), [1, 2]);
    assert_eq!(lsns(&recovery, log(1, 1)), [1, 2, 5]);
    assert_eq!(recovery.resolution().logs[0].end, end);
    assert_eq!(recovery.resolution().relaxed_cuts.len(), 1);
}

/// Shard 0 logs 20 before 12, whose LSN was fixed earlier, and shard 1 loses its part of 20. A
/// snapshot that ends at 15 was published in between: it has 12, in whatever part of it.
#[test]
fn an_incomplete_relaxed_one_cuts_nothing_that_a_published_snapshot_has() {
    for watermarks in [(15, 15), (11, 15), (15, 11)] {
        let (disk, mut shells) = shells(2);
        let frozen = (shells[0].put(1, 10), shells[1].put(2, 10));
        shells[0].txn(id(20), &both(), true, 20);
        shells[0].txn(id(12), &both(), true, 20);
        shells[1].txn(id(12), &both(), true, 20);
        shells[0].txn(id(21), &both(), true, 20);
        shells[0].put(22, 10);
        shells[1].txn(id(21), &both(), true, 20);
        shells.iter_mut().for_each(Shell::settle);
        let newest = image(1, &[(watermarks.0, frozen.0), (watermarks.1, frozen.1)]);
        let older = image(1, &[(0, Position(0)), (0, Position(0))]);
        let above = |watermark| if watermark < 12 { vec![12] } else { vec![] };
        let all = (vec![1, 12], vec![2, 12]);
        let behind = (above(watermarks.0), above(watermarks.1));
        let kept = |image: Option<&Coverage>| {
            let keys = LogKeys::default();
            let mut recovery = Recovery::scan(Arc::new(disk.clone()), &dir(), keys).unwrap();
            // Known from its manifest, also if it cannot be loaded.
            recovery.keep(Lsn(15));
            recovery.resolve(image).unwrap();
            let kept = (lsns(&recovery, log(1, 0)), lsns(&recovery, log(1, 1)));
            (recovery, kept)
        };
        assert_eq!(kept(None).1, all);
        assert_eq!(kept(Some(&older)).1, all);
        let (decided, found) = kept(Some(&newest));
        assert_eq!(found, behind);
        begin(&decided, 2).unwrap();
        // Final for every image that a later start loads, the older one too.
        assert_eq!(kept(Some(&newest)).1, behind);
        assert_eq!(kept(Some(&older)).1, all);
        begin(&kept(Some(&older)).0, 1).unwrap();
        assert_eq!(kept(None).1, all, "handed on");
    }
}

#[test]
fn segments_behind_the_end_of_a_log_are_left_over() {
    let disk = SimDisk::new(5);
    let mut shells = first_start(&disk, 2, 4 * BLOCK, Fsync::Always);
    for at in 0..5 {
        shells[0].put(100 + at, 3000);
        shells[0].settle();
    }
    // Made ahead and not used: by the first shard the next, by the second its only one.
    shells[1].pump().unwrap();
    shells.iter_mut().for_each(|shell| shell.provide().unwrap());
    let before = disk.list(&dir()).unwrap().len();
    let mut recovery = recover(&disk, None).unwrap();
    begin(&recovery, 1).unwrap();
    let leftovers = recovery.take_leftovers().unwrap();
    let names: Vec<_> =
        leftovers.iter().map(|&(log, index)| segment::segment_name(log, index)).collect();
    assert!(names.contains(&"000001-001-0000000000.seg".to_owned()), "{names:?} of {before}");
    for name in &names {
        disk.remove(&dir().join(name)).unwrap();
    }
    // Neither this recovery nor a later one misses them.
    assert_eq!(lsns(&recovery, log(1, 0)), [100, 101, 102, 103, 104]);
    let mut recovery = recover(&disk, None).unwrap();
    assert_eq!(lsns(&recovery, log(1, 0)), [100, 101, 102, 103, 104]);
    assert_eq!(lsns(&recovery, log(1, 1)), []);
    assert_eq!(recovery.take_leftovers().unwrap(), []);
}

#[test]
fn decisions_are_final_once_written() {
    let (disk, mut shells) = shells(2);
    shells[0].txn(id(11), &both(), false, 20);
    shells[0].put(12, 20);
    shells.iter_mut().for_each(Shell::settle);
    let first = recover(&disk, None).unwrap();
    let again = recover(&disk, None).unwrap();
    assert_eq!(first.resolution(), again.resolution(), "a crash before the record changes nothing");
    begin(&first, 3).unwrap();
    // The other part turns up after all, too late.
    shells[1].txn(id(11), &both(), false, 20);
    shells[1].settle();
    let later = recover(&disk, None).unwrap();
    assert_eq!(lsns(&later, log(1, 0)), [12]);
    assert_eq!(lsns(&later, log(1, 1)), []);
    assert_eq!(later.resolution().next_start, StartId(3));
    assert_eq!(later.resolution().logs.len(), 5);
    begin(&later, 1).unwrap();
    let record = StartRecord::read(&disk, &dir(), StartId(3), &LogKeys::default()).unwrap();
    assert_eq!(record.dropped, [id(11)], "handed on");
}

#[test]
fn damage_below_a_decided_end_is_found_although_no_frame_tells() {
    let (disk, mut shells) = shells(1);
    shells[0].put(1, 10);
    shells[0].put(2, 10);
    shells[0].settle();
    let path = shells[0].path(0);
    let flip = |disk: &SimDisk| disk.corrupt(&path, |bytes| bytes[4096 + 60] ^= 1);
    flip(&disk);
    assert_eq!(recover(&disk, None).unwrap().resolution().cuts.len(), 1, "an unfinished commit");
    flip(&disk);
    begin(&recover(&disk, None).unwrap(), 1).unwrap();
    flip(&disk);
    let recovery = recover(&disk, None).unwrap();
    assert!(matches!(replay(&recovery, log(1, 0)), Err(LogError::Damaged { .. })));
    flip(&disk);
    disk.remove(&path).unwrap();
    let recovery = recover(&disk, None);
    assert!(recovery.and_then(|recovery| Ok(replay(&recovery, log(1, 0))?)).is_err());
}

#[test]
fn several_starts_with_other_layouts_are_replayed_in_order() {
    let disk = SimDisk::new(3);
    let mut all = Vec::new();
    for (round, shards) in [2u16, 1, 3].into_iter().enumerate() {
        let mut shells = if round == 0 {
            first_start(&disk, shards, 4 * BLOCK, Fsync::Always)
        } else {
            next_start(&disk, None, shards, 4 * BLOCK, Fsync::Always)
        };
        for (shard, shell) in shells.iter_mut().enumerate() {
            for at in 0..5 {
                shell.put((round as u64 + 1) * 1000 + shard as u64 * 100 + at, 3000);
                shell.settle();
            }
            all.push((shell.writer.log(), contents(&shell.appended)));
        }
    }
    let recovery = recover(&disk, None).unwrap();
    let found: Vec<_> = recovery.resolution().logs.iter().map(|found| found.log).collect();
    assert_eq!(found, all.iter().map(|(log, _)| *log).collect::<Vec<_>>());
    for (log, records) in all {
        assert_eq!(replay(&recovery, log).unwrap(), records);
    }
}

#[test]
fn gaps_are_refused() {
    let (disk, mut shells) = shells(1);
    for lsn in 1..=20 {
        shells[0].put(lsn, 3000);
        shells[0].settle();
    }
    let (early, late) = (shells[0].appended[2].end, shells[0].appended[15].end);
    let beyond = Position(shells[0].writer.tail().0 + 1);
    disk.remove(&shells[0].path(0)).unwrap();
    let gap = |image: Option<&Coverage>| match recover(&disk, image).map(drop) {
        Err(RecoveryError::Log(LogError::Gap { .. })) => true,
        Ok(()) => false,
        Err(other) => panic!("{other}"),
    };
    assert!(gap(None));
    assert!(gap(Some(&image(1, &[(3, early)]))));
    assert!(gap(Some(&image(1, &[(20, beyond)]))));
    assert!(!gap(Some(&image(1, &[(16, late)]))));
    let recovery = recover(&disk, Some(&image(1, &[(16, late)]))).unwrap();
    assert_eq!(lsns(&recovery, log(1, 0)), [17, 18, 19, 20]);
    let other = recover(&disk, Some(&image(1, &[]))).map(drop);
    assert!(matches!(other, Err(RecoveryError::Layout { parts: 0, shards: 1, .. })));
    let other = recover(&disk, Some(&image(4, &[]))).map(drop);
    assert!(matches!(other, Err(RecoveryError::MissingStart { start: StartId(2) | StartId(4) })));
}

#[test]
fn an_image_needs_every_later_start_from_its_beginning() {
    let (disk, mut shells) = shells(1);
    let frozen = shells[0].put(1, 10);
    shells[0].settle();
    let mut second = next_start(&disk, None, 1, 4 * BLOCK, Fsync::Always).remove(0);
    for lsn in 10..20 {
        second.put(lsn, 3000);
        second.settle();
    }
    let image = image(1, &[(1, frozen)]);
    assert_eq!(lsns(&recover(&disk, Some(&image)).unwrap(), log(2, 0)).len(), 10);
    disk.remove(&second.path(0)).unwrap();
    assert!(recover(&disk, Some(&image)).is_err());
    disk.remove(&dir().join("000002.start")).unwrap();
    let error = recover(&disk, Some(&image)).map(drop).unwrap_err();
    assert!(matches!(error, RecoveryError::MissingStart { start: StartId(2) }));
}

#[test]
fn obsolete_files_are_those_that_no_checkpoint_needs() {
    let disk = SimDisk::new(5);
    let mut shells = first_start(&disk, 1, 4 * BLOCK, Fsync::Always);
    let mut positions = vec![];
    for start in 1..=3u64 {
        if start > 1 {
            shells = next_start(&disk, None, 1, 4 * BLOCK, Fsync::Always);
        }
        for at in 0..9 {
            shells[0].put(start * 100 + at, 3000);
            shells[0].settle();
        }
        positions.push(shells[0].appended[4].end);
    }
    let older = image(2, &[(204, positions[1])]);
    let keys = LogKeys::default();
    let names = obsolete_files(&disk, &dir(), &keys, &older, StartId(3)).unwrap();
    assert_eq!(
        names,
        [
            "000001-000-0000000000.seg",
            "000001-000-0000000001.seg",
            "000001-000-0000000002.seg",
            "000001-000-0000000003.seg",
            "000002-000-0000000000.seg",
            "000001.start",
        ]
    );
    for name in &names {
        disk.remove(&dir().join(name)).unwrap();
        let recovery = recover(&disk, Some(&older)).unwrap();
        assert_eq!(lsns(&recovery, log(2, 0)), [205, 206, 207, 208]);
        assert_eq!(lsns(&recovery, log(3, 0)).len(), 9);
    }
    assert_eq!(obsolete_files(&disk, &dir(), &keys, &older, StartId(3)).unwrap(), [""; 0]);
    let running = image(3, &[(304, positions[2])]);
    let names = obsolete_files(&disk, &dir(), &keys, &running, StartId(3)).unwrap();
    assert!(names.iter().all(|name| name.starts_with("000002")), "{names:?}");
}
