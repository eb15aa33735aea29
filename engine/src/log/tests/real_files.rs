//! The same journey once over real files, O_DIRECT where the file system takes it.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::rig::{log, op_bytes};
use crate::entry::Op;
use crate::log::segment::{prepare_segment, segment_name};
use crate::log::{
    FileDisk, LogDisk, LogEffect, LogError, LogKeys, LogWriter, NewStart, Recovery, SegmentHeader,
    SegmentIdentity, WriterConfig,
};
use crate::types::{Fsync, Lsn};

#[test]
fn a_log_in_a_folder_comes_back() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    FileDisk.create_dir(&dir).unwrap();
    let mut recovery = Recovery::scan(Arc::new(FileDisk), &dir, LogKeys::default()).unwrap();
    recovery.resolve(None).unwrap();
    let new = NewStart {
        database_id: 1,
        history_id: 2,
        created_at_us: 3,
        shards: 1,
        lsn_floor: Lsn(0),
        seal: None,
    };
    assert_eq!(recovery.write_start_record(&new).unwrap().start.0, 1);

    let segment_bytes = 64 * 1024;
    let fsync = Fsync::Always;
    let pending_limit_bytes = 1 << 20;
    let mut writer =
        LogWriter::new(WriterConfig { log: log(1, 0), segment_bytes, fsync, pending_limit_bytes });
    let mut files = HashMap::new();
    for lsn in 1..=20 {
        let ops = op_bytes(lsn, 17_000);
        let mut recorder = writer.record(Lsn(lsn));
        recorder.op(&Op::decode(&mut ops.as_slice()).unwrap());
        recorder.finish().unwrap();
        while let Some(effect) = writer.next_write() {
            match effect {
                LogEffect::NeedSegment { index } => {
                    let identity = SegmentIdentity(index.0 + 99);
                    let header = SegmentHeader {
                        database_id: 1,
                        history_id: 2,
                        log: log(1, 0),
                        shards: 1,
                        index,
                        identity,
                        size_bytes: segment_bytes,
                        sealing: None,
                    };
                    prepare_segment(&FileDisk, &dir, &header, None).unwrap();
                    let path = dir.join(segment_name(log(1, 0), index));
                    files.insert(index, FileDisk.open_for_frames(&path, true).unwrap().file);
                    writer.segment_ready(index, identity, None);
                }
                LogEffect::Write { id, segment, offset_bytes, block, .. } => {
                    files[&segment].write_all_at(&block, offset_bytes).unwrap();
                    writer.written(id, block);
                }
                LogEffect::Sync { .. } => panic!("every write is durable by itself"),
            }
        }
        assert_eq!(writer.durable(), writer.tail());
    }

    let mut recovery = Recovery::scan(Arc::new(FileDisk), &dir, LogKeys::default()).unwrap();
    assert_eq!(recovery.resolve(None).unwrap().max_lsn, Lsn(20));
    let mut next = 1;
    let replayed = recovery.replay::<LogError>(log(1, 0), Lsn::ZERO, &mut |record| {
        assert_eq!((record.lsn, record.ops), (Lsn(next), op_bytes(next, 17_000).as_slice()));
        next += 1;
        Ok(())
    });
    replayed.unwrap();
    assert_eq!(next, 21);
}
