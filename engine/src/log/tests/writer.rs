//! The writer: what it asks for, in which order, and what it calls durable.

use super::rig::{BLOCK, Shell, contents, first_start, log, lsns, recover, replay, whole};
use crate::log::LogKeys;
use crate::log::disk::LogDisk;
use crate::log::reader::{Expected, LogError, LogReader};
use crate::log::segment::{SegmentIdentity, SegmentIndex, retire_segment};
use crate::log::sim_disk::SimDisk;
use crate::log::writer::{EARLY_COMMIT_BYTES, LogEffect, LogWriter, MAX_IN_FLIGHT, WriterConfig};
use crate::types::{Fsync, Lsn, Position, TxnId};

fn shell(segment_bytes: u64, fsync: Fsync) -> Shell {
    let mut shells = first_start(&SimDisk::new(1), 1, segment_bytes, fsync);
    let mut shell = shells.remove(0);
    shell.pump().unwrap();
    shell.provide().unwrap();
    shell
}

#[test]
fn commits_late_and_whole_while_little_waits_and_early_when_much_does() {
    let mut shell = shell(64 << 20, Fsync::Always);
    shell.put(1, 10);
    shell.pump().unwrap();
    assert_eq!(shell.writes.len(), 1);
    shell.put(2, 10);
    shell.put(3, 10);
    shell.pump().unwrap();
    assert_eq!(shell.writes.len(), 1, "they gather");
    for count in 2..=MAX_IN_FLIGHT {
        shell.put(count as u64 * 10, EARLY_COMMIT_BYTES);
        shell.pump().unwrap();
        assert_eq!(shell.writes.len(), count);
    }
    shell.put(99, EARLY_COMMIT_BYTES);
    shell.pump().unwrap();
    assert_eq!(shell.writes.len(), MAX_IN_FLIGHT, "no more than that");
    shell.settle();
    assert_eq!(shell.writer.durable(), shell.writer.tail());
}

#[test]
fn durable_moves_over_a_contiguous_prefix_only() {
    let mut shell = shell(64 << 20, Fsync::Always);
    let ends: Vec<_> = (0..4)
        .map(|at| {
            let end = shell.put(at + 1, EARLY_COMMIT_BYTES);
            shell.pump().unwrap();
            end
        })
        .collect();
    shell.complete(2).unwrap();
    shell.complete(2).unwrap();
    assert_eq!(shell.writer.durable(), Position(0));
    shell.put(9, EARLY_COMMIT_BYTES);
    shell.pump().unwrap();
    assert_eq!(shell.writes.len(), 2, "completed ones behind a gap still count");
    shell.complete(0).unwrap();
    assert_eq!(shell.writer.durable(), ends[0]);
    shell.complete(0).unwrap();
    assert_eq!(shell.writer.durable(), ends[3]);
}

#[test]
fn asks_for_segments_ahead_and_waits_without_one() {
    let mut shell = shell(8 * BLOCK, Fsync::Always);
    shell.put(1, 100);
    shell.settle();
    assert_eq!(shell.wanted, None);
    for lsn in 2..=3 {
        shell.put(lsn, 100);
        shell.pump().unwrap();
        shell.complete(0).unwrap();
    }
    shell.pump().unwrap();
    assert_eq!(shell.wanted, Some(SegmentIndex(1)), "half full");
    shell.put(10, 40_000);
    shell.pump().unwrap();
    shell.complete(0).unwrap();
    shell.pump().unwrap();
    assert!(shell.writer.is_stalled());
    assert!(shell.writes.is_empty() && shell.writer.next_write().is_none());
    shell.provide().unwrap();
    assert!(!shell.writer.is_stalled());
    shell.settle();
    assert_eq!(shell.writer.durable(), shell.writer.tail());
    let recovery = recover(&shell.disk, None).unwrap();
    assert_eq!(replay(&recovery, log(1, 0)).unwrap(), contents(&shell.appended));
}

#[test]
fn records_of_any_size_come_back() {
    for segment_bytes in [2 * BLOCK, 3 * BLOCK, 5 * BLOCK, 64 * BLOCK] {
        let mut shell = shell(segment_bytes, Fsync::Always);
        for (at, len) in [0, 1, 4000, 4020, 4030, 5000, 100_000, 3, 9000].into_iter().enumerate() {
            shell.put(at as u64 + 1, len);
            if at % 3 == 0 {
                shell.settle();
            }
        }
        shell.settle();
        let recovery = recover(&shell.disk, None).unwrap();
        assert_eq!(replay(&recovery, log(1, 0)).unwrap(), contents(&shell.appended));
        assert_eq!(recovery.resolution().cuts, []);
        assert_eq!(recovery.resolution().max_lsn, Lsn(9));
        assert_eq!(recovery.resolution().logs[0].end, shell.writer.tail());
    }
}

#[test]
fn a_record_larger_than_a_frame_is_fragmented() {
    let mut shell = shell(64 << 20, Fsync::Always);
    shell.put(1, 3_000_000);
    shell.put(2, 10);
    shell.pump().unwrap();
    assert_eq!(shell.writes.len(), 3);
    shell.settle();
    let recovery = recover(&shell.disk, None).unwrap();
    assert_eq!(replay(&recovery, log(1, 0)).unwrap(), contents(&shell.appended));
}

#[test]
fn everysec_is_durable_after_a_sync_of_every_segment() {
    let mut shell = shell(4 * BLOCK, Fsync::Everysec);
    shell.put(1, 20_000);
    shell.settle();
    assert_eq!(shell.writer.durable(), Position(0));
    shell.writer.tick_sync();
    shell.pump().unwrap();
    assert_eq!(shell.syncs.len(), 2, "two segments have unsynced bytes");
    let covered = shell.writer.tail();
    shell.put(2, 10);
    shell.pump().unwrap();
    shell.complete(0).unwrap();
    shell.complete_sync(1).unwrap();
    assert_eq!(shell.writer.durable(), Position(0));
    shell.complete_sync(0).unwrap();
    assert_eq!(shell.writer.durable(), covered);
    shell.settle();
    assert!(shell.writer.durable() < shell.writer.tail(), "the next sync comes with the next tick");
    shell.writer.tick_sync();
    shell.settle();
    assert_eq!(shell.writer.durable(), shell.writer.tail());
}

#[test]
fn a_requested_sync_waits_for_what_is_still_to_be_written() {
    let mut shell = shell(64 * BLOCK, Fsync::Never);
    shell.put(1, 10);
    shell.pump().unwrap();
    shell.put(2, 10);
    shell.writer.tick_sync();
    let target = shell.writer.request_sync();
    shell.pump().unwrap();
    assert!(shell.syncs.is_empty());
    shell.settle();
    assert_eq!((shell.writer.durable(), shell.writer.tail()), (target, target));
}

#[test]
fn the_mode_may_change_under_load() {
    let mut shell = shell(64 * BLOCK, Fsync::Always);
    let first = shell.put(1, EARLY_COMMIT_BYTES);
    shell.pump().unwrap();
    shell.writer.set_fsync(Fsync::Never);
    let second = shell.put(2, EARLY_COMMIT_BYTES);
    shell.pump().unwrap();
    shell.writer.set_fsync(Fsync::Always);
    let third = shell.put(3, EARLY_COMMIT_BYTES);
    shell.pump().unwrap();
    shell.complete(0).unwrap();
    assert_eq!(shell.writer.durable(), first, "needed no sync");
    shell.complete(1).unwrap();
    shell.complete(0).unwrap();
    assert_eq!(shell.writer.durable(), first);
    shell.pump().unwrap();
    let fourth = shell.put(4, 10);
    shell.pump().unwrap();
    shell.complete(0).unwrap();
    assert_eq!(shell.writer.durable(), first);
    shell.complete_sync(0).unwrap();
    assert_eq!(shell.writer.durable(), fourth, "everything after the gap was durable already");
    assert!(second < third && third < fourth);
}

#[test]
fn a_failure_is_final() {
    let mut shell = shell(64 * BLOCK, Fsync::Always);
    shell.put(1, EARLY_COMMIT_BYTES);
    shell.pump().unwrap();
    shell.put(2, EARLY_COMMIT_BYTES);
    shell.pump().unwrap();
    shell.writer.failed();
    shell.complete(0).unwrap();
    shell.put(3, 10);
    shell.pump().unwrap();
    shell.complete(0).unwrap();
    assert!(shell.writer.is_failed() && shell.writes.is_empty());
    assert_eq!(shell.writer.durable(), Position(0));
    assert!(!shell.writer.idle_marker(Lsn(9)));
}

#[test]
fn an_idle_log_writes_one_marker() {
    let mut shell = shell(64 * BLOCK, Fsync::Always);
    assert!(!shell.writer.idle_marker(Lsn(1)), "nothing to cover");
    shell.put(2, 10);
    assert!(!shell.writer.idle_marker(Lsn(3)), "not idle");
    shell.pump().unwrap();
    assert!(!shell.writer.idle_marker(Lsn(3)), "not durable");
    shell.settle();
    assert!(shell.writer.idle_marker(Lsn(4)));
    assert!(!shell.writer.idle_marker(Lsn(5)), "it waits to be written");
    shell.settle();
    assert!(!shell.writer.idle_marker(Lsn(6)), "the data is covered");
    let recovery = recover(&shell.disk, None).unwrap();
    assert_eq!(lsns(&recovery, log(1, 0)), [2], "markers are not replayed");
    assert_eq!(recovery.resolution().max_lsn, Lsn(4));
    shell.put(7, 10);
    shell.settle();
    assert!(shell.writer.idle_marker(Lsn(8)));
}

#[test]
fn records_without_content_are_abandoned() {
    let mut shell = shell(64 * BLOCK, Fsync::Always);
    assert_eq!(shell.writer.record(Lsn(1)).finish(), None);
    drop(shell.writer.record(Lsn(2)));
    let id = TxnId { lsn: Lsn(3), coordinator: log(1, 0) };
    drop(shell.writer.txn_record(id, &[log(1, 0)], false));
    assert_eq!(shell.writer.tail(), Position(0));
    let end = shell.writer.txn_record(id, &[log(1, 0)], false).finish();
    assert_eq!(end, Some(shell.writer.tail()));
    shell.settle();
    assert_eq!(lsns(&recover(&shell.disk, None).unwrap(), log(1, 0)), [3]);
}

#[test]
fn room_is_bounded_but_never_for_one_record() {
    let config = WriterConfig {
        log: log(1, 0),
        segment_bytes: 64 * BLOCK,
        fsync: Fsync::Always,
        pending_limit_bytes: 1000,
    };
    let mut writer = LogWriter::new(config);
    assert!(writer.has_room(5000));
    let id = TxnId { lsn: Lsn(1), coordinator: log(1, 0) };
    writer.txn_record(id, &[log(1, 0)], false).finish();
    assert!(writer.has_room(500) && !writer.has_room(5000));
}

#[test]
fn released_segments_are_recycled_and_their_old_frames_ignored() {
    let mut shell = shell(4 * BLOCK, Fsync::Always);
    let mut released = 0;
    for lsn in 1..=40 {
        shell.put(lsn, 3000);
        shell.settle();
        let before = shell.appended[shell.appended.len().saturating_sub(4)].end;
        for index in shell.writer.release(before) {
            let spare = retire_segment(&shell.disk, &super::rig::dir(), log(1, 0), index).unwrap();
            shell.spares.push(spare);
            released += 1;
        }
        assert!(shell.writer.oldest_position() <= before);
    }
    assert!(released > 5);
    assert!(shell.writer.retained_bytes() <= 4 * 4 * BLOCK);
    let position = shell.appended[37].end;
    let image = crate::log::Coverage {
        start: log(1, 0).start,
        parts: vec![crate::log::Part { watermark: Lsn(38), position }],
    };
    let recovery = recover(&shell.disk, Some(&image)).unwrap();
    assert_eq!(lsns(&recovery, log(1, 0)), [39, 40]);
    assert_eq!(recovery.resolution().cuts, []);
    assert!(
        recover(&shell.disk, None)
            .map(drop)
            .unwrap_err()
            .to_string()
            .contains("position 0 is needed")
    );
}

/// Without this, a crash leaves a log that begins after the position that an image needs.
#[test]
fn a_segment_is_kept_until_its_successor_has_a_durable_frame() {
    let mut shell = shell(2 * BLOCK, Fsync::Always);
    let end = shell.put(1, 4048 - 4 - 9 - 8 - 6);
    assert_eq!(end, Position(4048), "exactly one segment");
    shell.settle();
    shell.put(2, 10);
    shell.pump().unwrap();
    assert_eq!(shell.writes.len(), 1);
    assert_eq!(shell.writer.release(end), []);
    let parts = vec![crate::log::Part { watermark: Lsn(1), position: end }];
    let image = crate::log::Coverage { start: log(1, 0).start, parts };
    let crashed = shell.disk.fork(2);
    crashed.lose(shell.writes[0].2);
    assert_eq!(lsns(&recover(&crashed, Some(&image)).unwrap(), log(1, 0)), []);
    shell.complete(0).unwrap();
    assert_eq!(shell.writer.release(end), [SegmentIndex(0)]);
    shell.disk.remove(&shell.path(0)).unwrap();
    assert_eq!(lsns(&recover(&shell.disk, Some(&image)).unwrap(), log(1, 0)), [2]);
}

#[test]
fn a_running_log_can_be_read_up_to_what_is_durable() {
    let mut shell = shell(4 * BLOCK, Fsync::Always);
    let first = shell.put(1, 10);
    shell.settle();
    shell.put(2, 30_000);
    shell.pump().unwrap();
    shell.complete(0).unwrap();
    assert!(shell.writer.durable() > first);
    let (files, dir) = (shell.writer.files(), super::rig::dir());
    let keys = &LogKeys::default();
    let expected = Expected { database_id: 1, history_id: 2, shards: 1, keys };
    let until = Some(shell.writer.durable());
    let open = |from| LogReader::open(&shell.disk, &dir, &files, expected, from, until).unwrap();
    let mut found = Vec::new();
    let scanned = open(Position(0)).run::<LogError>(&mut |position, record| {
        found.push((position, record.lsn));
        Ok(())
    });
    assert_eq!(scanned.unwrap().end, first);
    assert_eq!(found, [(Position(0), Lsn(1))]);
}

#[test]
fn the_first_segment_comes_first() {
    let config = WriterConfig {
        log: log(1, 0),
        segment_bytes: 2 * BLOCK,
        fsync: Fsync::Always,
        pending_limit_bytes: 1000,
    };
    let mut writer = LogWriter::new(config);
    assert!(matches!(writer.next_write(), Some(LogEffect::NeedSegment { index: SegmentIndex(0) })));
    assert!(writer.next_write().is_none());
    writer.segment_ready(SegmentIndex(0), SegmentIdentity(5), None);
    assert!(writer.next_write().is_none());
}

/// The whole segment file of a fixed run. To renew it after a change of the format (and of the
/// version, and of FORMAT.md): `BLESS=1 cargo test -p cutwater-engine golden`.
#[test]
#[expect(clippy::disallowed_methods, reason = "the golden file is no file of the log")]
fn golden_segment() {
    let mut shell = shell(6 * BLOCK, Fsync::Always);
    shell.put(1, 5);
    shell.settle();
    let id = TxnId { lsn: Lsn(2), coordinator: log(1, 0) };
    shell.txn(id, &[log(1, 0)], true, 5000);
    shell.put(3, 10);
    shell.settle();
    assert!(shell.writer.idle_marker(Lsn(4)));
    shell.settle();
    let bytes = whole(&shell.path(0), &shell.disk);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/segment.v1");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &bytes).unwrap();
    }
    assert!(bytes == std::fs::read(path).unwrap(), "the segment format changed");
}
