//! The disks of a [`TestCluster`]: each shard's log is written at once, or held back for as long as
//! a test wants, and new segments come at once, or not, or there is no room for them.

use super::*;
use crate::log::{
    AlignedBuffer, LogEffect, LogWriter, SegmentIdentity, SegmentIndex, WriteId, WriterConfig,
};
use crate::types::LogId;

/// The size of every segment.
const SEGMENT_BYTES: u64 = 64 << 10;

/// The disk of one shard.
#[derive(Default)]
pub struct TestDisk {
    /// Writes are not completed.
    held: bool,
    /// Segments are not made.
    short: bool,
    writes: Vec<(WriteId, AlignedBuffer)>,
    wanted: Option<SegmentIndex>,
}

impl TestCluster {
    /// Shards with logs, whose replies wait until they are durable.
    pub fn with_logs(shards: u16) -> Self {
        let mut cluster = Self::with_journals(shards, |shard| {
            let log = LogId { start: StartId(1), shard };
            let fsync = Fsync::Always;
            let pending_limit_bytes = 1 << 20;
            let config =
                WriterConfig { log, segment_bytes: SEGMENT_BYTES, fsync, pending_limit_bytes };
            Journal::new(LogWriter::new(config), fsync)
        });
        cluster.disks = (0..shards).map(|_| TestDisk::default()).collect();
        cluster.pump();
        cluster
    }

    /// From here on nothing becomes durable on this shard.
    pub fn hold_disk(&mut self, shard: u16) {
        self.disks[usize::from(shard)].held = true;
    }

    /// Everything becomes durable again.
    pub fn release_disk(&mut self, shard: u16) {
        self.disks[usize::from(shard)].held = false;
        self.pump();
    }

    /// From here on this shard gets no further segment.
    pub fn withhold_segments(&mut self, shard: u16) {
        self.disks[usize::from(shard)].short = true;
    }

    /// The shard hears that there is no room for the segment that it has asked for.
    pub fn refuse_segment(&mut self, shard: u16) {
        assert!(self.disks[usize::from(shard)].wanted.is_some());
        self.core(ShardId(shard)).journal().set_out_of_space(true);
        self.pump();
    }

    /// There is room again.
    pub fn give_segments(&mut self, shard: u16) {
        self.disks[usize::from(shard)].short = false;
        self.pump();
    }

    /// Carries out what a shard's log asks for; answers whether that was anything.
    pub(super) fn drive_log(&mut self, shard: ShardId) -> bool {
        let Some(disk) = self.disks.get_mut(usize::from(shard.0)) else { return false };
        let core = &mut self.shards[usize::from(shard.0)];
        let mut busy = false;
        let mut writer = core.journal().writer().expect("a shard with a disk has a log");
        while let Some(effect) = writer.next_write() {
            busy = true;
            match effect {
                LogEffect::Write { id, block, .. } => disk.writes.push((id, block)),
                LogEffect::NeedSegment { index } => disk.wanted = Some(index),
                LogEffect::Sync { id, .. } => writer.synced(id),
            }
        }
        if !disk.short
            && let Some(index) = disk.wanted.take()
        {
            busy = true;
            core.journal().set_out_of_space(false);
            writer = core.journal().writer().expect("it has not gone");
            writer.segment_ready(index, SegmentIdentity(index.0 + 1), None);
        }
        if !disk.held && !disk.writes.is_empty() {
            busy = true;
            writer = core.journal().writer().expect("it has not gone");
            disk.writes.drain(..).for_each(|(id, block)| writer.written(id, block));
            core.durable_moved();
        }
        busy
    }
}
