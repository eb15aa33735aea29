//! A minimal shell for the tests: carries out a writer's effects on a simulated disk, and keeps the
//! list of what was appended.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::entry::{Op, ValueKind};
use crate::log::disk::LogDisk;
use crate::log::record::Record;
use crate::log::recovery::{NewStart, Recovery, RecoveryError};
use crate::log::segment::{SegmentHeader, SegmentIdentity, SegmentIndex, prepare_segment};
use crate::log::sim_disk::{SimDisk, WriteOp};
use crate::log::writer::{LogEffect, LogWriter, SyncId, WriteId, WriterConfig};
use crate::log::{AlignedBuffer, Coverage, LogError, LogKeys, StartIdentity, StartSeal, segment};
use crate::seal::{Keyring, MasterKey};
use crate::types::{DbIndex, Fsync, LogId, Lsn, Position, ShardId, StartId, TxnId};

pub(super) const BLOCK: u64 = 4096;

pub(super) fn dir() -> PathBuf {
    PathBuf::from("data/log")
}

pub(super) fn log(start: u32, shard: u16) -> LogId {
    LogId { start: StartId(start), shard: ShardId(shard) }
}

/// A seeded random stream (SplitMix64).
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A record as the tests compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Appended {
    pub(super) lsn: Lsn,
    pub(super) txn: Option<TxnId>,
    pub(super) ops: Vec<u8>,
    /// The position after it; not known for a replayed one.
    pub(super) end: Position,
}

pub(super) fn replayed(record: &Record<'_>) -> Appended {
    assert!(record.ops().all(|op| op.is_ok()));
    let (lsn, txn) = (record.lsn, record.txn_id());
    Appended { lsn, txn, ops: record.ops.to_vec(), end: Position(0) }
}

/// One op whose content follows from `tag`, with a value of `len` bytes.
pub(super) fn op_bytes(tag: u64, len: usize) -> Vec<u8> {
    let key = tag.to_le_bytes();
    let value: Vec<u8> = (0..len).map(|at| (tag as usize + at * 7) as u8).collect();
    let (db, kind) = (DbIndex(0), ValueKind::String);
    let mut out = Vec::new();
    Op::Put { db, key: &key, kind, expires_at_ms: None, value: &value }.encode(&mut out);
    out
}

/// A writer with its shell.
pub(super) struct Shell {
    pub(super) disk: SimDisk,
    pub(super) writer: LogWriter,
    pub(super) appended: Vec<Appended>,
    pub(super) writes: Vec<(WriteId, AlignedBuffer, WriteOp)>,
    pub(super) syncs: Vec<(SyncId, SegmentIndex)>,
    pub(super) wanted: Option<SegmentIndex>,
    pub(super) spares: Vec<String>,
    template: SegmentHeader,
    seal: Option<StartSeal>,
}

impl Shell {
    pub(super) fn new(
        disk: &SimDisk,
        log: LogId,
        shards: u16,
        segment_bytes: u64,
        fsync: Fsync,
    ) -> Self {
        disk.create_dir(&dir()).unwrap();
        let pending_limit_bytes = 1 << 20;
        let config = WriterConfig { log, segment_bytes, fsync, pending_limit_bytes };
        let template = SegmentHeader {
            database_id: 1,
            history_id: 2,
            log,
            shards,
            index: SegmentIndex(0),
            identity: SegmentIdentity(0),
            size_bytes: segment_bytes,
            sealing: None,
        };
        Self {
            disk: disk.clone(),
            writer: LogWriter::new(config),
            appended: Vec::new(),
            writes: Vec::new(),
            syncs: Vec::new(),
            wanted: None,
            spares: Vec::new(),
            template,
            seal: None,
        }
    }

    /// The same, sealed under these keys.
    pub(super) fn sealed(mut self, keys: &LogKeys) -> Self {
        self.seal = start_seal(keys, self.template.log.start);
        self
    }

    pub(super) fn path(&self, index: u64) -> PathBuf {
        dir().join(segment::segment_name(self.template.log, SegmentIndex(index)))
    }

    pub(super) fn put(&mut self, lsn: u64, len: usize) -> Position {
        self.append(Lsn(lsn), None, len)
    }

    pub(super) fn txn(&mut self, id: TxnId, all: &[LogId], relaxed: bool, len: usize) -> Position {
        self.append(id.lsn, Some((id, all, relaxed)), len)
    }

    fn append(&mut self, lsn: Lsn, txn: Option<(TxnId, &[LogId], bool)>, len: usize) -> Position {
        let ops = op_bytes(lsn.0, len);
        let mut recorder = match txn {
            None => self.writer.record(lsn),
            Some((id, participants, relaxed)) => self.writer.txn_record(id, participants, relaxed),
        };
        recorder.op(&Op::decode(&mut ops.as_slice()).unwrap());
        let end = recorder.finish().unwrap();
        self.appended.push(Appended { lsn, txn: txn.map(|(id, ..)| id), ops, end });
        end
    }

    /// Starts every effect that there is; a wanted segment waits for [`Self::provide`].
    pub(super) fn pump(&mut self) -> std::io::Result<()> {
        while let Some(effect) = self.writer.next_write() {
            match effect {
                LogEffect::NeedSegment { index } => self.wanted = Some(index),
                LogEffect::Sync { id, segment } => self.syncs.push((id, segment)),
                LogEffect::Write { id, segment, offset_bytes, block, dsync } => {
                    assert!(offset_bytes.is_multiple_of(BLOCK) && !block.is_empty());
                    assert!((block.len() as u64).is_multiple_of(BLOCK));
                    let path = self.path(segment.0);
                    let op = self.disk.start_write(&path, offset_bytes, &block, dsync)?;
                    self.writes.push((id, block, op));
                }
            }
        }
        Ok(())
    }

    /// Prepares the wanted segment, from a spare if there is one.
    pub(super) fn provide(&mut self) -> std::io::Result<()> {
        if let Some(index) = self.wanted {
            let log = self.template.log;
            let unique = index.0 + 1000 * u64::from(log.start.0) + 100 * u64::from(log.shard.0);
            let identity = SegmentIdentity(unique.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut header = SegmentHeader { index, identity, ..self.template.clone() };
            let salt = [unique as u8; 32];
            let key = self.seal.as_ref().map(|seal| seal.seal_segment(&mut header, salt));
            let spare = self.spares.pop();
            prepare_segment(&self.disk, &dir(), &header, spare.as_deref())?;
            self.wanted = None;
            self.writer.segment_ready(index, identity, key.map(Box::new));
        }
        Ok(())
    }

    /// Completes the write at `at` of those in flight.
    pub(super) fn complete(&mut self, at: usize) -> std::io::Result<()> {
        let (id, block, op) = self.writes.remove(at);
        self.disk.complete(op)?;
        self.writer.written(id, block);
        Ok(())
    }

    pub(super) fn complete_sync(&mut self, at: usize) -> std::io::Result<()> {
        let (id, index) = self.syncs.remove(at);
        self.disk.sync(&self.path(index.0))?;
        self.writer.synced(id);
        Ok(())
    }

    /// Does everything that there is to do.
    pub(super) fn settle(&mut self) {
        loop {
            self.pump().unwrap();
            if self.wanted.is_some() {
                self.provide().unwrap();
            } else if !self.writes.is_empty() {
                self.complete(0).unwrap();
            } else if !self.syncs.is_empty() {
                self.complete_sync(0).unwrap();
            } else {
                return;
            }
        }
    }
}

/// Keys of these ids, each with 32 times its byte; the first is active.
pub(super) fn keys(ids: &[(&str, u8)]) -> LogKeys {
    let keys = ids.iter().map(|(id, fill)| (id.parse().unwrap(), MasterKey::new([*fill; 32])));
    LogKeys::strict(Keyring::new(keys.collect()).unwrap())
}

/// What seals a start under the active key, if there is one; not random at all.
pub(super) fn start_seal(keys: &LogKeys, start: StartId) -> Option<StartSeal> {
    let of = StartIdentity { database_id: 1, history_id: 2, start };
    let mut next = start.0 as u8;
    let random = &mut |bytes: &mut [u8]| {
        next = next.wrapping_add(100);
        bytes.fill(next);
        Ok(())
    };
    StartSeal::new(keys, of, random).unwrap()
}

/// Opens recovery on a disk and resolves it.
pub(super) fn recover(disk: &SimDisk, image: Option<&Coverage>) -> Result<Recovery, RecoveryError> {
    recover_with(disk, image, &LogKeys::default())
}

pub(super) fn recover_with(
    disk: &SimDisk,
    image: Option<&Coverage>,
    keys: &LogKeys,
) -> Result<Recovery, RecoveryError> {
    let mut recovery = Recovery::scan(Arc::new(disk.clone()), &dir(), keys.clone())?;
    recovery.resolve(image)?;
    Ok(recovery)
}

pub(super) fn begin(recovery: &Recovery, shards: u16) -> Result<StartId, RecoveryError> {
    let seal = start_seal(&recovery.keys, recovery.resolution().next_start);
    let new = NewStart {
        database_id: 1,
        history_id: 2,
        created_at_us: 3,
        shards,
        lsn_floor: Lsn(0),
        seal,
    };
    Ok(recovery.write_start_record(&new)?.start)
}

/// The first start on an empty disk, with its writers.
pub(super) fn first_start(
    disk: &SimDisk,
    shards: u16,
    segment_bytes: u64,
    fsync: Fsync,
) -> Vec<Shell> {
    disk.create_dir(&dir()).unwrap();
    next_start(disk, None, shards, segment_bytes, fsync)
}

/// A further start, with its writers.
pub(super) fn next_start(
    disk: &SimDisk,
    image: Option<&Coverage>,
    shards: u16,
    segment_bytes: u64,
    fsync: Fsync,
) -> Vec<Shell> {
    next_start_with(disk, image, shards, segment_bytes, fsync, &LogKeys::default())
}

/// A further start under these keys, with its writers.
pub(super) fn next_start_with(
    disk: &SimDisk,
    image: Option<&Coverage>,
    shards: u16,
    segment_bytes: u64,
    fsync: Fsync,
    keys: &LogKeys,
) -> Vec<Shell> {
    disk.create_dir(&dir()).unwrap();
    let start = begin(&recover_with(disk, image, keys).unwrap(), shards).unwrap();
    let shell =
        |shard| Shell::new(disk, log(start.0, shard), shards, segment_bytes, fsync).sealed(keys);
    (0..shards).map(shell).collect()
}

/// Everything that the replay of one log hands out.
pub(super) fn replay(recovery: &Recovery, log: LogId) -> Result<Vec<Appended>, LogError> {
    let mut records = Vec::new();
    recovery.replay::<LogError>(log, Lsn::ZERO, &mut |record| {
        records.push(replayed(record));
        Ok(())
    })?;
    Ok(records)
}

/// The LSNs that the replay of one log hands out.
pub(super) fn lsns(recovery: &Recovery, log: LogId) -> Vec<u64> {
    replay(recovery, log).unwrap().iter().map(|record| record.lsn.0).collect()
}

/// Without positions, as a replay knows them.
pub(super) fn contents(records: &[Appended]) -> Vec<Appended> {
    records.iter().map(|record| Appended { end: Position(0), ..record.clone() }).collect()
}

pub(super) fn whole(path: &Path, disk: &SimDisk) -> Vec<u8> {
    disk.read_file(path, 1 << 30).unwrap()
}
