//! Logs that are sealed: what can be seen of them, what opens them, and what is refused.

use std::path::PathBuf;
use std::sync::Arc;

use super::rig::{
    BLOCK, Shell, begin, contents, dir, keys, log, lsns, next_start_with, recover_with, replay,
    replayed, start_seal, whole,
};
use crate::log::disk::LogDisk;
use crate::log::error::{Fault, LogError, RecoveryError};
use crate::log::files::obsolete_files;
use crate::log::follow::{LogRange, Running};
use crate::log::frame::{FRAME_HEADER_BYTES, RawFrame};
use crate::log::recovery::{Coverage, Part};
use crate::log::segment::{SEGMENT_HEADER_BYTES, retire_segment};
use crate::log::sim_disk::SimDisk;
use crate::log::start::{StartError, StartRecord, start_path};
use crate::log::{LogEnd, LogKeys, Refusal};
use crate::seal::SealError;
use crate::types::{Fsync, Lsn, Position, StartId, TxnId};

/// Records of [`filled`]; their LSNs count from 1.
const LSNS: u64 = 12;

fn one() -> LogKeys {
    keys(&[("one", 1)])
}

/// A start with one shard under these keys.
fn start(disk: &SimDisk, keys: &LogKeys) -> Shell {
    next_start_with(disk, None, 1, 6 * BLOCK, Fsync::Always, keys).remove(0)
}

/// A log over several segments.
fn filled(keys: &LogKeys) -> Shell {
    let mut shell = start(&SimDisk::new(1), keys);
    for lsn in 1..=LSNS {
        shell.put(lsn, 3000);
        shell.settle();
    }
    shell
}

fn refusal(disk: &SimDisk, keys: &LogKeys) -> (String, Refusal) {
    let error = recover_with(disk, None, keys).map(drop).unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    assert_eq!(error.is_corruption(), error.refusal() == Some(&Refusal::Altered), "{error}");
    let refusal = error.refusal().cloned().unwrap_or_else(|| panic!("{error}"));
    (error.to_string(), refusal)
}

fn missing(id: &str) -> Refusal {
    Refusal::Key(SealError::MissingKey { id: id.parse().unwrap() })
}

fn wrong(id: &str) -> Refusal {
    Refusal::Key(SealError::WrongKey { id: id.parse().unwrap() })
}

/// Gives the header and every frame of a segment the checksum of what is there, as somebody would
/// who has changed it on purpose.
fn mend(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[..252]);
    bytes[252..256].copy_from_slice(&crc.to_le_bytes());
    let mut at = SEGMENT_HEADER_BYTES;
    while at < bytes.len() {
        let Ok(frame) = RawFrame::parse(&bytes[at..]) else {
            at += BLOCK as usize;
            continue;
        };
        let stored = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        let end = (at + FRAME_HEADER_BYTES + stored).min(bytes.len());
        let crc = crc32c::crc32c(&bytes[at + 8..end]);
        bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        at += frame.frame_bytes();
    }
}

#[test]
fn several_starts_come_back_and_nothing_shows() {
    let (disk, keys) = (SimDisk::new(1), one());
    let mut expected = Vec::new();
    for round in 1..=3 {
        let mut shell = start(&disk, &keys);
        for at in 0..20 {
            // From one byte to several frames and segments.
            shell.put(round * 100 + at, [1, 200, 4000, 40_000][at as usize % 4]);
            if at % 3 == 0 {
                shell.settle();
            }
        }
        shell.settle();
        expected.push(contents(&shell.appended));
    }
    let recovery = recover_with(&disk, None, &keys).unwrap();
    for (at, expected) in expected.iter().enumerate() {
        let found = replay(&recovery, log(at as u32 + 1, 0)).unwrap();
        assert_eq!(&found, expected);
        for file in disk.list(&dir()).unwrap() {
            let bytes = whole(&dir().join(&file.name), &disk);
            for record in expected.iter().filter(|record| record.ops.len() > 100) {
                let needle = &record.ops[..32];
                assert!(!bytes.windows(32).any(|bytes| bytes == needle), "{}", file.name);
            }
        }
    }
    // The running log too, up to its durable end.
    let mut shell = start(&disk, &keys);
    let durable = shell.put(1000, 5000);
    shell.settle();
    shell.put(1001, 5000);
    shell.pump().unwrap();
    let (start, ends) = (StartId(4), vec![durable]);
    let disk = Arc::new(disk);
    let range = LogRange::open(disk, &dir(), &keys, None, &Running { start, ends }).unwrap();
    let mut found = Vec::new();
    let all = Lsn(u64::MAX);
    let next = range.replay::<LogError>(log(4, 0), Lsn::ZERO, all, &mut |record| {
        found.push(replayed(record));
        Ok(())
    });
    assert_eq!((found, next.unwrap()), (contents(&shell.appended[..1]), durable));
}

#[test]
fn a_segment_is_filled_to_its_last_block() {
    for keys in [LogKeys::default(), one()] {
        let shell = filled(&keys);
        let files = shell.writer.files();
        assert!(files.segments.len() > 2);
        for &index in &files.segments[..files.segments.len() - 1] {
            let bytes = whole(&shell.path(index.0), &shell.disk);
            let blocks = bytes.chunks(BLOCK as usize);
            assert!(blocks.clone().all(|block| block.iter().any(|&byte| byte != 0)));
        }
        let recovery = recover_with(&shell.disk, None, &keys).unwrap();
        assert_eq!(replay(&recovery, log(1, 0)).unwrap(), contents(&shell.appended));
    }
}

#[test]
fn without_its_key_or_with_another_of_its_name_a_log_is_refused() {
    let shell = filled(&keys(&[("mine", 1), ("other", 2)]));
    let (text, refused) = refusal(&shell.disk, &LogKeys::default());
    assert_eq!(refused, missing("mine"));
    let expected =
        "data/log/000001.start: it is sealed under the key mine, which is not configured";
    assert_eq!(text, expected);
    assert_eq!(refusal(&shell.disk, &keys(&[("other", 1)])).1, missing("mine"));
    assert_eq!(refusal(&shell.disk, &keys(&[("mine", 2)])).1, wrong("mine"));
    let accepting = LogKeys { accept_plain: true, ..keys(&[("other", 2)]) };
    assert_eq!(refusal(&shell.disk, &accepting).1, missing("mine"));
    // Each segment by itself says the same.
    let plain = StartRecord::read(&shell.disk, &dir(), StartId(1), &keys(&[("mine", 1)])).unwrap();
    let plain = StartRecord { sealing: None, ..plain };
    plain.write(&shell.disk, &dir()).unwrap();
    let (text, refused) = refusal(&shell.disk, &LogKeys::default());
    assert_eq!(refused, missing("mine"));
    assert!(text.contains(".seg: it is sealed under the key mine"), "{text}");
    assert_eq!(refusal(&shell.disk, &keys(&[("mine", 1)])).1, Refusal::Plain);
}

#[test]
fn a_plain_log_is_read_with_keys_only_if_that_was_said() {
    let plain = filled(&LogKeys::default());
    let (text, refused) = refusal(&plain.disk, &one());
    assert_eq!(refused, Refusal::Plain);
    assert_eq!(text, "data/log/000001.start: it is not sealed, although keys are configured");
    let accepting = LogKeys { accept_plain: true, ..one() };
    let recovery = recover_with(&plain.disk, None, &accepting).unwrap();
    assert_eq!(lsns(&recovery, log(1, 0)), (1..=LSNS).collect::<Vec<_>>());
    let mut sealed = start(&plain.disk, &accepting);
    let end = sealed.put(100, 10);
    sealed.settle();
    assert_eq!(refusal(&plain.disk, &one()).1, Refusal::Plain);
    // Once nothing needs the plain start any more, its files go, and so does the permission.
    let part = Part { watermark: Lsn(100), position: end };
    let image = Coverage { start: StartId(2), parts: vec![part] };
    let accepted = obsolete_files(&plain.disk, &dir(), &accepting, &image, StartId(3));
    for name in accepted.unwrap() {
        plain.disk.remove(&dir().join(name)).unwrap();
    }
    sealed.put(101, 10);
    sealed.settle();
    let recovery = recover_with(&plain.disk, Some(&image), &one()).unwrap();
    assert_eq!(lsns(&recovery, log(2, 0)), [101]);
}

/// A plain segment in the place of a sealed one, the start record being whole.
#[test]
fn a_sealed_segment_replaced_by_a_plain_one_is_refused() {
    let (sealed, plain) = (filled(&one()), filled(&LogKeys::default()));
    let path = sealed.path(1);
    let bytes = whole(&path, &plain.disk);
    sealed.disk.corrupt(&path, |found| found.clone_from(&bytes));
    let (text, refused) = refusal(&sealed.disk, &one());
    assert_eq!(refused, Refusal::Plain);
    assert!(text.starts_with("data/log/000001-000-0000000001.seg: "), "{text}");
}

#[test]
fn keys_rotate_and_one_that_is_dropped_too_early_is_named_with_its_file() {
    let disk = SimDisk::new(1);
    let old = keys(&[("old", 1)]);
    let both = keys(&[("new", 2), ("old", 1)]);
    let new = keys(&[("new", 2)]);
    let mut first = start(&disk, &old);
    first.put(1, 3000);
    first.settle();
    let mut second = start(&disk, &both);
    let end = second.put(2, 3000);
    second.settle();
    let recovery = recover_with(&disk, None, &both).unwrap();
    assert_eq!(lsns(&recovery, log(1, 0)), [1]);
    assert_eq!(lsns(&recovery, log(2, 0)), [2]);
    let (text, refused) = refusal(&disk, &new);
    assert_eq!(refused, missing("old"));
    assert!(text.contains("000001.start"), "{text}");
    let image =
        Coverage { start: StartId(2), parts: vec![Part { watermark: Lsn(2), position: end }] };
    for name in obsolete_files(&disk, &dir(), &both, &image, StartId(2)).unwrap() {
        disk.remove(&dir().join(name)).unwrap();
    }
    let recovery = recover_with(&disk, Some(&image), &new).unwrap();
    assert_eq!(lsns(&recovery, log(2, 0)), [] as [u64; 0]);
    begin(&recovery, 1).unwrap();
}

/// Every byte of a sealed segment, changed by somebody who mends the checksums as well: what is
/// refused is refused as altered, with the file and the place, also where a torn write would have
/// been cut off.
#[test]
fn every_byte_once_with_mended_checksums() {
    let keys = one();
    let mut shell = next_start_with(&SimDisk::new(1), None, 1, 5 * BLOCK, Fsync::Always, &keys);
    let mut shell = shell.remove(0);
    shell.put(1, 20);
    shell.settle();
    let id = TxnId { lsn: Lsn(2), coordinator: log(1, 0) };
    shell.txn(id, &[log(1, 0)], false, 4500);
    shell.settle();
    // The last frame: nothing says that it was durable.
    shell.put(3, 30);
    shell.settle();
    let path = shell.path(0);
    let bytes = whole(&path, &shell.disk);
    let frames = frames(&bytes);
    assert_eq!(frames.len(), 3);
    let mut altered = 0;
    for at in 0..bytes.len() {
        let mask = 1 << (at % 8);
        shell.disk.corrupt(&path, |found| {
            found[at] ^= mask;
            mend(found);
        });
        let result = recover_with(&shell.disk, None, &keys)
            .and_then(|recovery| Ok(replay(&recovery, log(1, 0))?));
        let frame = frames.iter().position(|&(from, end)| (from..end).contains(&at));
        let in_frame = frame.map(|frame| at - frames[frame].0);
        match (frame, in_frame, result) {
            // The checksums themselves: mended. And what none covers.
            (_, Some(4..8), Ok(records)) => assert_eq!(records.len(), 3, "byte {at}"),
            (None, _, Ok(records)) => assert_eq!(records.len(), 3, "byte {at}"),
            // A header that makes no sense, or names another use of the file: as if the frame had
            // never been there, which is what taking the end of the log away comes to.
            (Some(2), Some(0..48), Ok(records)) => assert_eq!(records.len(), 2, "byte {at}"),
            (Some(frame), _, Ok(_)) => panic!("byte {at} of frame {frame} is believed"),
            (None, _, Err(error)) => assert!(at < 252, "byte {at}: {error}"),
            (Some(frame), Some(in_frame), Err(error)) => {
                let RecoveryError::Log(LogError::Damaged {
                    path: named, offset_bytes, fault, ..
                }) = &error
                else {
                    panic!("byte {at}: {error}")
                };
                let place = (&path, frames[frame].0 as u64);
                assert_eq!((named, *offset_bytes), place, "byte {at}");
                let by_tag = *fault == Fault::Altered;
                assert!(by_tag || in_frame < 48, "byte {at}: {error}");
                altered += usize::from(by_tag);
            }
            (Some(_), None, _) => unreachable!("a place in a frame is in it"),
        }
        shell.disk.corrupt(&path, |found| found.clone_from(&bytes));
    }
    assert!(altered > 4500, "{altered}");
}

/// From and to of the frames' checked bytes.
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut frames, mut at) = (Vec::new(), SEGMENT_HEADER_BYTES);
    while let Some(Ok(raw)) = bytes.get(at..).map(RawFrame::parse) {
        let stored = raw.verify(&bytes[at..]).unwrap().plain().stored_bytes;
        frames.push((at, at + FRAME_HEADER_BYTES + stored));
        at += raw.frame_bytes();
    }
    frames
}

/// Every byte of the header, mended: nothing of it can be changed without its being refused.
#[test]
fn every_byte_of_a_sealed_header_counts() {
    let shell = filled(&one());
    let path = shell.path(0);
    let bytes = whole(&path, &shell.disk);
    for at in 0..252 {
        shell.disk.corrupt(&path, |found| {
            found[at] ^= 1;
            mend(found);
        });
        let error = recover_with(&shell.disk, None, &one()).map(drop).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "byte {at}: {error}");
        shell.disk.corrupt(&path, |found| found.clone_from(&bytes));
    }
}

/// A whole frame of one segment in another of the same log, with the identity of its new place.
#[test]
fn a_frame_does_not_open_in_another_segment() {
    let shell = filled(&one());
    let (from, to) = (shell.path(0), shell.path(1));
    let (donor, mut bytes) = (whole(&from, &shell.disk), whole(&to, &shell.disk));
    let (at, end) = frames(&donor)[0];
    let (mine, _) = frames(&bytes)[0];
    let identity: [u8; 8] = bytes[mine + 16..mine + 24].try_into().unwrap();
    bytes[mine..mine + (end - at)].copy_from_slice(&donor[at..end]);
    bytes[mine + 16..mine + 24].copy_from_slice(&identity);
    mend(&mut bytes);
    shell.disk.corrupt(&to, |found| found.clone_from(&bytes));
    let error = recover_with(&shell.disk, None, &one()).map(drop).unwrap_err();
    let expected = format!("{} is damaged at offset 4096", to.display());
    assert!(error.to_string().contains(&expected), "{error}");
    assert!(error.to_string().contains("the frame was altered"), "{error}");
}

#[test]
fn a_start_record_that_was_altered_is_refused() {
    let (disk, keys) = (SimDisk::new(1), one());
    let mut shell = start(&disk, &keys);
    shell.put(1, 10);
    shell.settle();
    begin(&recover_with(&disk, None, &keys).unwrap(), 1).unwrap();
    let path = start_path(&dir(), StartId(2));
    let original = StartRecord::read(&disk, &dir(), StartId(2), &keys).unwrap();
    let write = |record: &StartRecord| record.write(&disk, &dir()).unwrap();
    // What somebody would want to change: which log counts, and up to where.
    let txn = TxnId { lsn: Lsn(1), coordinator: log(1, 0) };
    let end = LogEnd { log: log(1, 0), end: Position(0), kept_below: None };
    for changed in [
        StartRecord { ends: vec![end], ..original.clone() },
        StartRecord { dropped: vec![txn], ..original.clone() },
        StartRecord { lsn_floor: Lsn(7777), ..original.clone() },
        StartRecord { shards: 2, ..original.clone() },
    ] {
        write(&changed);
        let (text, refused) = refusal(&disk, &keys);
        assert_eq!(refused, Refusal::Altered, "{text}");
        assert!(text.starts_with(&path.display().to_string()), "{text}");
    }
    write(&StartRecord { sealing: None, ..original.clone() });
    assert_eq!(refusal(&disk, &keys).1, Refusal::Plain);
    // The first start's, renumbered: its data key is bound to the first.
    let first = StartRecord::read(&disk, &dir(), StartId(1), &keys).unwrap();
    write(&StartRecord { start: StartId(2), ..first });
    assert_eq!(refusal(&disk, &keys).1, wrong("one"));
    write(&original);
    let mut bytes = original.encode();
    for at in 0..bytes.len() - 4 {
        bytes[at] ^= 1;
        let crc = crc32c::crc32c(&bytes[..bytes.len() - 4]);
        let end = bytes.len() - 4;
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        disk.write_atomically(&path, &bytes).unwrap();
        match recover_with(&disk, None, &keys).map(drop) {
            Err(RecoveryError::Start { path: named, .. }) => assert_eq!(named, path, "byte {at}"),
            Err(error) => panic!("byte {at}: {error}"),
            // The name of a field that is nil, for instance: what is read is what was written.
            Ok(()) => assert_eq!(StartRecord::decode(&bytes).unwrap(), original, "byte {at}"),
        }
        bytes[at] ^= 1;
    }
}

#[test]
fn a_data_key_is_bound_to_its_start() {
    let keys = one();
    let seal = start_seal(&keys, StartId(1)).unwrap();
    let of = |start| crate::log::StartIdentity { database_id: 1, history_id: 2, start };
    assert!(keys.open(of(StartId(1)), Some(seal.wrapped())).is_ok());
    let opened = keys.open(of(StartId(2)), Some(seal.wrapped()));
    assert_eq!(opened.map(drop).unwrap_err(), wrong("one"));
}

/// Spares of a plain log hold what was written; behind the frames of a sealed segment they would
/// go on showing it.
#[test]
fn a_sealed_segment_is_never_made_from_a_plain_one() {
    let mut plain = filled(&LogKeys::default());
    let released = plain.writer.release(plain.writer.durable());
    let spares: Vec<String> = released
        .iter()
        .map(|&index| retire_segment(&plain.disk, &dir(), log(1, 0), index).unwrap())
        .collect();
    assert!(spares.len() > 1);
    let needle = &plain.appended[0].ops[20..60];
    let shows = |disk: &SimDisk, path: &PathBuf| {
        whole(path, disk).windows(needle.len()).any(|bytes| bytes == needle)
    };
    assert!(shows(&plain.disk, &dir().join(&spares[0])));
    let accepting = LogKeys { accept_plain: true, ..one() };
    let mut sealed = Shell::new(&plain.disk, log(2, 0), 1, 6 * BLOCK, Fsync::Always);
    sealed = sealed.sealed(&accepting);
    sealed.spares = spares;
    for lsn in 1..=LSNS {
        sealed.put(lsn * 1000, 3000);
        sealed.settle();
    }
    for &index in &sealed.writer.files().segments {
        assert!(!shows(&plain.disk, &sealed.path(index.0)));
    }
    // What was sealed is used again.
    let index = sealed.writer.release(sealed.writer.durable())[0];
    let spare = retire_segment(&plain.disk, &dir(), log(2, 0), index).unwrap();
    sealed.spares = vec![spare];
    let before = plain.disk.list(&dir()).unwrap().len();
    while sealed.wanted.is_none() && !sealed.spares.is_empty() {
        sealed.put(1_000_000, 3000);
        sealed.settle();
    }
    assert_eq!(plain.disk.list(&dir()).unwrap().len(), before);
}

/// A whole sealed segment and its start record, whose keys and salts are fixed. To renew them after
/// a change of the format (and of the version, and of FORMAT.md):
/// `BLESS=1 cargo test -p cutwater-engine golden`.
#[test]
#[expect(clippy::disallowed_methods, reason = "the golden file is no file of the log")]
fn golden_sealed() {
    let keys = keys(&[("2026.golden", 42)]);
    let mut shell = start(&SimDisk::new(1), &keys);
    shell.put(1, 5);
    shell.settle();
    let id = TxnId { lsn: Lsn(2), coordinator: log(1, 0) };
    shell.txn(id, &[log(1, 0)], true, 5000);
    shell.put(3, 10);
    shell.settle();
    let start = start_path(&dir(), StartId(1));
    for (path, name) in [(shell.path(0), "segment.sealed.v1"), (start, "start.sealed.v1")] {
        let bytes = whole(&path, &shell.disk);
        let golden = format!("{}/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&golden, &bytes).unwrap();
        }
        assert!(bytes == std::fs::read(golden).unwrap(), "the format of {name} changed");
        shell.disk.corrupt(&path, |found| found.clone_from(&bytes));
    }
    let recovery = recover_with(&shell.disk, None, &keys).unwrap();
    assert_eq!(replay(&recovery, log(1, 0)).unwrap(), contents(&shell.appended));
}

#[test]
fn a_start_record_without_a_wrapped_key_is_refused() {
    let (disk, keys) = (SimDisk::new(1), one());
    start(&disk, &keys);
    let mut record = StartRecord::read(&disk, &dir(), StartId(1), &keys).unwrap();
    record.sealing.as_mut().unwrap().wrapped_key.truncate(59);
    record.write(&disk, &dir()).unwrap();
    let read = StartRecord::read(&disk, &dir(), StartId(1), &keys).unwrap_err();
    assert!(matches!(
        read,
        StartError::Refused(Refusal::Key(SealError::WrappedLength { found: 59 }))
    ));
}
