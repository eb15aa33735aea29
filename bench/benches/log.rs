//! Log commit: records into frames with their checksums, in memory; the same sealed; and both with
//! every frame written to a real file, opened as the server opens it (O_DIRECT and O_DSYNC, where
//! the file system has them).

use std::os::unix::fs::FileExt;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use cutwater_engine::entry::{Op, ValueKind};
use cutwater_engine::log::segment::{prepare_segment, segment_name};
use cutwater_engine::log::{
    FileDisk, LogEffect, LogFile, LogWriter, SegmentHeader, SegmentIdentity, SegmentIndex,
    WriterConfig,
};
use cutwater_engine::seal::{DataKey, SealKey};
use cutwater_engine::types::{DbIndex, Fsync, LogId, Lsn, ShardId, StartId};

const SEGMENT_BYTES: u64 = 4 << 20;
const LOG: LogId = LogId { start: StartId(1), shard: ShardId(0) };

/// Where frames go.
enum Target {
    Nowhere,
    /// One prepared segment, which stands for all: it is written again from its beginning.
    File(LogFile),
}

struct Committer {
    writer: LogWriter,
    target: Target,
    key: Option<SealKey>,
    lsn: u64,
    ops: Vec<u8>,
}

impl Committer {
    fn new(target: Target, is_sealed: bool) -> Self {
        let writer = LogWriter::new(WriterConfig {
            log: LOG,
            segment_bytes: SEGMENT_BYTES,
            fsync: Fsync::Always,
            pending_limit_bytes: 64 << 20,
        });
        let mut ops = Vec::new();
        let (db, key, value) = (DbIndex(0), &b"key:000000000001"[..], &[b'v'; 64][..]);
        let (kind, expires_at_ms) = (ValueKind::String, None);
        Op::Put { db, key, kind, expires_at_ms, value }.encode(&mut ops);
        let key = is_sealed.then(|| DataKey::new([1; 32]).segment_key(&[2; 32], &[]));
        Self { writer, target, key, lsn: 0, ops }
    }

    /// One commit of so many records, durable when it returns.
    fn commit(&mut self, records: usize) {
        for _ in 0..records {
            self.lsn += 1;
            let mut record = self.writer.record(Lsn(self.lsn));
            record.encoded_ops(&self.ops);
            record.finish().expect("the writer has not failed");
        }
        while let Some(effect) = self.writer.next_write() {
            match effect {
                LogEffect::NeedSegment { index } => {
                    let key = self.key.clone().map(Box::new);
                    self.writer.segment_ready(index, SegmentIdentity(index.0 + 1), key);
                }
                LogEffect::Write { id, offset_bytes, block, .. } => {
                    if let Target::File(file) = &self.target {
                        file.file.write_all_at(&block, offset_bytes).expect("the disk takes it");
                    }
                    self.writer.written(id, block);
                }
                LogEffect::Sync { id, .. } => self.writer.synced(id),
            }
        }
        assert_eq!(self.writer.durable(), self.writer.tail());
        // The segments that are full; a checkpoint would let them go.
        self.writer.release(self.writer.durable());
    }
}

fn commits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log commit");
    let folder = tempfile::tempdir().expect("a folder");
    let header = SegmentHeader {
        database_id: 1,
        history_id: 2,
        log: LOG,
        shards: 1,
        index: SegmentIndex(0),
        identity: SegmentIdentity(1),
        size_bytes: SEGMENT_BYTES,
        sealing: None,
    };
    prepare_segment(&FileDisk, folder.path(), &header, None).expect("a segment");
    let path = folder.path().join(segment_name(LOG, SegmentIndex(0)));
    for records in [1, 16, 256] {
        group.throughput(Throughput::Elements(records as u64));
        for (is_sealed, name) in [(false, "plain"), (true, "sealed")] {
            let mut frames = Committer::new(Target::Nowhere, is_sealed);
            group.bench_function(format!("frames and crc, {name}, {records} records"), |bencher| {
                bencher.iter(|| frames.commit(records));
            });
            let file = FileDisk.open_for_frames(&path, true).expect("the segment opens");
            let kind = if file.direct { "direct" } else { "buffered" };
            let mut durable = Committer::new(Target::File(file), is_sealed);
            group.bench_function(format!("{kind} file, {name}, {records} records"), |bencher| {
                bencher.iter(|| durable.commit(records));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, commits);
criterion_main!(benches);
