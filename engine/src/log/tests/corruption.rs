//! Damage: every byte once, lost, misplaced and torn writes, missing and foreign files.

use super::rig::{
    Appended, BLOCK, Shell, contents, dir, first_start, keys, log, lsns, next_start_with, recover,
    recover_with, replay, whole,
};
use crate::log::LogKeys;
use crate::log::disk::LogDisk;
use crate::log::error::{Fault, LogError};
use crate::log::frame::{FRAME_HEADER_BYTES, FrameFault, RawFrame};
use crate::log::recovery::{Recovery, RecoveryError};
use crate::log::sim_disk::SimDisk;
use crate::log::writer::EARLY_COMMIT_BYTES;
use crate::types::{Fsync, Lsn, TxnId};

fn shell(segment_bytes: u64) -> Shell {
    first_start(&SimDisk::new(1), 1, segment_bytes, Fsync::Always).remove(0)
}

fn recovered(disk: &SimDisk) -> Result<(Recovery, Vec<Appended>), RecoveryError> {
    recovered_with(disk, &LogKeys::default())
}

fn recovered_with(
    disk: &SimDisk,
    keys: &LogKeys,
) -> Result<(Recovery, Vec<Appended>), RecoveryError> {
    let recovery = recover_with(disk, None, keys)?;
    let records = replay(&recovery, log(1, 0))?;
    Ok((recovery, records))
}

/// Which bytes of a segment file are checked by something, and up to which of them damage must be
/// told from an unfinished commit.
fn checked(bytes: &[u8], durable: u64) -> Vec<Option<bool>> {
    let mut map = vec![None; bytes.len()];
    map[..256].fill(Some(true));
    let mut offset = BLOCK as usize;
    while let Ok(raw) = RawFrame::parse(&bytes[offset..]) {
        let frame = raw.verify(&bytes[offset..]).unwrap().plain();
        let end = offset + FRAME_HEADER_BYTES + frame.stored_bytes;
        map[offset..end].fill(Some(frame.header.position.0 < durable));
        offset += raw.frame_bytes();
        if offset >= bytes.len() {
            break;
        }
    }
    map
}

#[test]
fn every_byte_once() {
    every_byte_once_with(&LogKeys::default());
}

#[test]
fn every_byte_once_of_a_sealed_segment() {
    every_byte_once_with(&keys(&[("k", 7)]));
}

fn every_byte_once_with(keys: &LogKeys) {
    let disk = SimDisk::new(1);
    let mut shell = next_start_with(&disk, None, 1, 10 * BLOCK, Fsync::Always, keys).remove(0);
    shell.put(1, 20);
    shell.settle();
    let id = TxnId { lsn: Lsn(2), coordinator: log(1, 0) };
    shell.txn(id, &[log(1, 0)], false, 4500);
    shell.put(3, 30);
    shell.settle();
    let covered = shell.writer.tail();
    shell.put(4, 40);
    shell.settle();
    let path = shell.path(0);
    let (bytes, all) = (whole(&path, &shell.disk), contents(&shell.appended));
    let checked = checked(&bytes, covered.0);
    let (mut damaged, mut cut) = (0, 0);
    for (at, checked) in checked.into_iter().enumerate() {
        let mask = 1 << (at % 8);
        shell.disk.corrupt(&path, |bytes| bytes[at] ^= mask);
        match (recovered_with(&shell.disk, keys), checked) {
            (Ok((_, records)), None) => assert_eq!(records, all, "padding, byte {at}"),
            (Ok((_, records)), Some(must_fail)) => {
                assert!(!must_fail, "byte {at} was durable");
                assert_eq!(records, all[..3], "byte {at}");
                cut += 1;
            }
            (Err(error), Some(true)) => {
                assert!(error.is_corruption(), "byte {at}: {error}");
                damaged += 1;
            }
            (Err(error), _) => panic!("byte {at}: {error}"),
        }
        shell.disk.corrupt(&path, |bytes| bytes[at] ^= mask);
    }
    assert!(damaged > 4500 && cut > 100, "{damaged} {cut}");
}

#[test]
fn a_truncated_file_is_damage() {
    let mut shell = shell(8 * BLOCK);
    shell.put(1, 20);
    shell.settle();
    shell.disk.corrupt(&shell.path(0), |bytes| bytes.truncate(7 * BLOCK as usize));
    let error = recovered(&shell.disk).map(drop).unwrap_err();
    assert!(matches!(
        error,
        RecoveryError::Log(LogError::Damaged { fault: Fault::Size { .. }, .. })
    ));
    shell.disk.corrupt(&shell.path(0), |bytes| bytes.truncate(30));
    assert!(recovered(&shell.disk).map(drop).unwrap_err().is_corruption());
}

#[test]
fn a_missing_or_exchanged_segment_is_damage() {
    let mut shell = shell(4 * BLOCK);
    for lsn in 1..=12 {
        shell.put(lsn, 3000);
        shell.settle();
    }
    let missing = shell.disk.fork(1);
    missing.remove(&shell.path(1)).unwrap();
    let error = recovered(&missing).map(drop).unwrap_err();
    assert!(error.to_string().contains("000001-000-0000000001.seg"), "{error}");
    let exchanged = shell.disk.fork(1);
    let (one, two, other) = (shell.path(1), shell.path(2), dir().join("other"));
    exchanged.rename(&one, &other).unwrap();
    exchanged.rename(&two, &one).unwrap();
    exchanged.rename(&other, &two).unwrap();
    let error = recovered(&exchanged).map(drop).unwrap_err();
    assert!(matches!(error, RecoveryError::Log(LogError::Damaged { fault: Fault::Foreign, .. })));
}

#[test]
fn a_lost_write_below_the_durable_position_is_damage_and_above_it_is_the_end() {
    let mut shell = shell(64 * BLOCK);
    shell.put(1, 10);
    shell.settle();
    shell.put(2, 10);
    shell.pump().unwrap();
    shell.disk.lose(shell.writes[0].2);
    let (id, block, _) = shell.writes.remove(0);
    shell.writer.written(id, block);
    let (_, records) = recovered(&shell.disk).unwrap();
    assert_eq!(records, contents(&shell.appended[..1]));
    // The next frame says that the lost one was durable.
    assert!(shell.writer.idle_marker(Lsn(3)));
    shell.settle();
    match recovered(&shell.disk).map(drop).unwrap_err() {
        RecoveryError::Log(LogError::Damaged { path, offset_bytes, position, durable, fault }) => {
            assert_eq!((path, offset_bytes), (shell.path(0), 2 * BLOCK));
            assert_eq!((position, durable), (shell.appended[0].end, shell.appended[1].end));
            assert_eq!(fault, Fault::Frame(FrameFault::Blank));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_misplaced_write_is_found_at_both_places() {
    let mut shell = shell(64 * BLOCK);
    for lsn in 1..=3 {
        shell.put(lsn, 10);
        shell.settle();
    }
    shell.put(4, 10);
    shell.pump().unwrap();
    shell.disk.misplace(shell.writes[0].2, 2 * BLOCK);
    shell.complete(0).unwrap();
    shell.put(5, 10);
    shell.settle();
    match recovered(&shell.disk).map(drop).unwrap_err() {
        RecoveryError::Log(LogError::Damaged { offset_bytes, fault, .. }) => {
            assert_eq!(offset_bytes, 2 * BLOCK);
            assert!(matches!(fault, Fault::Frame(FrameFault::Position { .. })));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn whole_commits_behind_an_unfinished_one_go_too() {
    let mut shell = shell(256 * BLOCK);
    shell.put(1, 10);
    shell.settle();
    for lsn in 2..=4 {
        shell.put(lsn, EARLY_COMMIT_BYTES);
        shell.pump().unwrap();
    }
    shell.complete(1).unwrap();
    shell.complete(1).unwrap();
    let (recovery, records) = recovered(&shell.disk).unwrap();
    assert_eq!(records, contents(&shell.appended[..1]));
    let cuts = &recovery.resolution().cuts;
    assert_eq!(cuts.len(), 1);
    assert_eq!(cuts[0].end, shell.appended[0].end);
    assert_eq!(cuts[0].later_frame_bytes, shell.appended[3].end.0 - shell.appended[1].end.0);
}

#[test]
fn an_incomplete_record_at_the_end_is_cut() {
    let mut shell = shell(4 * BLOCK);
    shell.put(1, 10);
    shell.settle();
    shell.put(2, 30_000);
    shell.pump().unwrap();
    shell.complete(0).unwrap();
    let (recovery, records) = recovered(&shell.disk).unwrap();
    assert_eq!(records, contents(&shell.appended[..1]));
    let cut = &recovery.resolution().cuts[0];
    assert_eq!(cut.end, shell.appended[0].end);
    assert!(cut.partial_record_bytes > 4000);
}

#[test]
fn another_database_is_refused() {
    let mut shell = shell(4 * BLOCK);
    shell.put(1, 10);
    shell.settle();
    let recovery = recover(&shell.disk, None).unwrap();
    assert_eq!(lsns(&recovery, log(1, 0)), [1]);
    let new = crate::log::NewStart {
        database_id: 77,
        history_id: 2,
        created_at_us: 0,
        shards: 1,
        lsn_floor: Lsn(0),
        seal: None,
    };
    assert!(matches!(
        recovery.write_start_record(&new),
        Err(RecoveryError::ForeignDatabase { .. })
    ));
}
