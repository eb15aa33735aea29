//! The writer of one log: records in, blocks to write out, completions in, durability out. Pure.
//!
//! A shard appends records with [`LogWriter::record`] and asks [`LogWriter::next_write`] for
//! effects until it has none; the shell carries them out and reports each one's end. In between,
//! bytes gather in one stream buffer, which is cut into frames only when a commit starts:
//!
//! - none in flight: a commit takes all that waits, at once;
//! - some in flight: they gather and are committed whole when one completes, unless
//!   [`EARLY_COMMIT_BYTES`] wait already; then the next starts beside it, up to
//!   [`MAX_IN_FLIGHT`]. (Late and whole costs least CPU while the queue is short; DESIGN §6.)
//!
//! Invariants: a segment is filled to its last block before the next is begun; no block is written
//! twice; `durable` only moves over a contiguous prefix, whatever order completions come in; after
//! a failed write nothing moves any more.

use std::collections::VecDeque;

use super::buffer::{AlignedBuffer, BufferPool};
use super::durability::Durability;
use super::frame::{
    BLOCK_BYTES, FRAME_HEADER_BYTES, FrameHeader, MAX_PAYLOAD_BYTES, encode_frame, frame_bytes,
    stored_bytes,
};
use super::reader::LogFiles;
use super::record;
use super::segment::{MIN_SEGMENT_BYTES, SEGMENT_HEADER_BYTES, SegmentIdentity, SegmentIndex};
use super::stream::Stream;
use crate::entry::Op;
use crate::seal::SealKey;
use crate::types::{Fsync, LogId, Lsn, Position, TxnId};

/// Commits in flight at once. Four use most of what a disk's queue gives (DESIGN §6).
pub const MAX_IN_FLIGHT: usize = 4;
/// Waiting bytes that start a commit while another is in flight.
pub const EARLY_COMMIT_BYTES: usize = 16 * 1024;
/// Waiting bytes above which [`LogWriter::has_room`] refuses, where nothing else is configured.
pub const DEFAULT_PENDING_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// Names one write of this writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// Names one sync of this writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyncId(pub u64);

/// What the shell is to do for the log.
#[derive(Debug)]
pub enum LogEffect {
    /// Write a block; answered by [`LogWriter::written`] or [`LogWriter::failed`].
    Write {
        /// Comes back with the answer.
        id: WriteId,
        /// The segment, which was reported ready.
        segment: SegmentIndex,
        /// Where in its file.
        offset_bytes: u64,
        /// The bytes; the same buffer comes back with the answer.
        block: AlignedBuffer,
        /// The write must be durable when it completes (O_DSYNC, or RWF_DSYNC for this one).
        dsync: bool,
    },
    /// Prepare a segment, ahead of time; answered by [`LogWriter::segment_ready`]. If there is no
    /// room for it, try again later: nothing is lost, but writes wait once the current is full.
    NeedSegment {
        /// Its number.
        index: SegmentIndex,
    },
    /// Sync a segment's file; answered by [`LogWriter::synced`] or [`LogWriter::failed`].
    Sync {
        /// Comes back with the answer.
        id: SyncId,
        /// The segment.
        segment: SegmentIndex,
    },
}

/// What a writer is told about its log.
#[derive(Clone, Copy, Debug)]
pub struct WriterConfig {
    /// Which log it writes.
    pub log: LogId,
    /// The size of every segment file, a multiple of the block.
    pub segment_bytes: u64,
    /// When replies may leave.
    pub fsync: Fsync,
    /// The bound on waiting bytes.
    pub pending_limit_bytes: usize,
}

/// A segment of this log that has frames, or is about to.
#[derive(Clone, Copy, Debug)]
struct Segment {
    index: SegmentIndex,
    identity: SegmentIdentity,
    start: Position,
}

/// The writer of one log, from an empty one on. See the module's introduction.
#[derive(Debug)]
pub struct LogWriter {
    config: WriterConfig,
    stream: Stream,
    durability: Durability,
    /// The end of the last record that is no marker.
    data_end: Position,
    previous_crc: u32,
    /// What the last frame said was durable.
    claimed: Position,
    next_id: u64,
    segments: VecDeque<Segment>,
    /// Where in the current segment's file the next frame goes; the segment's size when it is full.
    offset_bytes: u64,
    /// Seals the frames of the current segment, if it is sealed.
    key: Option<Box<SealKey>>,
    next_segment: Option<(SegmentIndex, SegmentIdentity, Option<Box<SealKey>>)>,
    /// The next segment that has not been asked for yet.
    unasked: SegmentIndex,
    pool: BufferPool,
}

impl LogWriter {
    /// A writer for a log that has nothing yet. Its first effect asks for segment 0.
    ///
    /// # Panics
    /// If the segment size is under two blocks or no multiple of the block.
    pub fn new(config: WriterConfig) -> Self {
        assert!(
            config.segment_bytes >= MIN_SEGMENT_BYTES
                && config.segment_bytes.is_multiple_of(BLOCK_BYTES as u64),
            "a segment is a header and whole blocks"
        );
        Self {
            config,
            stream: Stream::default(),
            durability: Durability::new(),
            data_end: Position(0),
            previous_crc: 0,
            claimed: Position(0),
            next_id: 0,
            segments: VecDeque::new(),
            offset_bytes: config.segment_bytes,
            key: None,
            next_segment: None,
            unasked: SegmentIndex(0),
            pool: BufferPool::new(MAX_IN_FLIGHT),
        }
    }

    // ---- appending ----

    /// Begins a record; it exists once [`Recorder::finish`] is called.
    pub fn record(&mut self, lsn: Lsn) -> Recorder<'_> {
        let start = self.stream.buffer().len();
        record::begin(self.stream.buffer(), lsn);
        Recorder { start, keep_empty: false, writer: self }
    }

    /// Begins this log's part of a command on several shards. `participants` are all logs that
    /// have a part, this one included; `relaxed` says that its coordinator runs under `everysec`
    /// or `never`, and is the same in every part.
    pub fn txn_record(&mut self, id: TxnId, participants: &[LogId], relaxed: bool) -> Recorder<'_> {
        debug_assert!(participants.contains(&self.config.log), "a part is one of its parts");
        let start = self.stream.buffer().len();
        record::begin_txn(self.stream.buffer(), id, participants, relaxed);
        Recorder { start, keep_empty: true, writer: self }
    }

    /// Appends a marker if the log is idle and its last record is durable without any frame saying
    /// so: after a crash, damage to it could pass for an unfinished commit. Returns whether it did;
    /// [`Self::next_write`] then has the frame.
    pub fn idle_marker(&mut self, lsn: Lsn) -> bool {
        let due = !self.is_failed()
            && self.pending_bytes() == 0
            && self.durable() == self.stream.sent()
            && self.claimed < self.data_end;
        if due {
            record::put_marker(self.stream.buffer(), lsn);
        }
        due
    }

    /// Whether `bytes` more may be appended. An empty buffer takes a record of any size, so that
    /// one larger than the limit is not refused for ever. Appending itself never fails.
    pub fn has_room(&self, bytes: usize) -> bool {
        let pending = self.pending_bytes();
        pending == 0 || pending.saturating_add(bytes) <= self.config.pending_limit_bytes
    }

    // ---- where it stands ----

    /// Which log this is.
    pub fn log(&self) -> LogId {
        self.config.log
    }

    /// The end of everything appended.
    pub fn tail(&self) -> Position {
        self.stream.tail()
    }

    /// Everything before this survives a crash.
    pub fn durable(&self) -> Position {
        self.durability.durable()
    }

    /// Whether what waits comes close to the end of the current segment while the next is not
    /// ready: more might have to wait for it without a bound, if there is no room for one.
    pub fn is_short_of_room(&self) -> bool {
        let reserve_bytes = self.config.segment_bytes / 8;
        let end_bytes = self.offset_bytes + self.pending_bytes() as u64;
        self.next_segment.is_none() && end_bytes + reserve_bytes > self.config.segment_bytes
    }

    /// Bytes appended that no write carries yet.
    pub fn pending_bytes(&self) -> usize {
        self.stream.pending_bytes()
    }

    /// Writes in flight.
    pub fn in_flight(&self) -> usize {
        self.durability.in_flight()
    }

    /// Whether bytes wait because the current segment is full and the next is not ready.
    pub fn is_stalled(&self) -> bool {
        self.pending_bytes() > 0
            && self.offset_bytes >= self.config.segment_bytes
            && self.next_segment.is_none()
    }

    /// Whether a write or a sync failed: nothing becomes durable any more.
    pub fn is_failed(&self) -> bool {
        self.durability.has_failed()
    }

    /// The first position whose segment has not been released.
    pub fn oldest_position(&self) -> Position {
        self.segments.front().map_or(self.stream.sent(), |segment| segment.start)
    }

    /// The segments that have frames and have not been released, for reading the running log up to
    /// [`Self::durable`].
    pub fn files(&self) -> LogFiles {
        let segments = self.segments.iter().map(|segment| segment.index).collect();
        LogFiles { log: self.config.log, segments }
    }

    /// Bytes of the segment files that have not been released.
    pub fn retained_bytes(&self) -> u64 {
        self.segments.len() as u64 * self.config.segment_bytes
    }

    /// Memory that the writer holds, buffers in flight excluded.
    pub fn memory_bytes(&self) -> usize {
        self.stream.memory_bytes() + self.pool.memory_bytes()
    }

    // ---- effects and their answers ----

    /// The next thing to do, or `None` until something changes. After [`Self::failed`] always
    /// `None`.
    pub fn next_write(&mut self) -> Option<LogEffect> {
        if self.is_failed() {
            return None;
        }
        self.need_segment().or_else(|| self.next_sync()).or_else(|| self.next_commit())
    }

    /// A prepared segment: its header is durable and it has its name. `key` seals its frames, if
    /// its header says that they are sealed.
    ///
    /// # Panics
    /// If it is not the one that was asked for.
    pub fn segment_ready(
        &mut self,
        index: SegmentIndex,
        identity: SegmentIdentity,
        key: Option<Box<SealKey>>,
    ) {
        assert!(
            index.next() == self.unasked && self.next_segment.is_none(),
            "segments become ready in the order in which they were asked for"
        );
        self.next_segment = Some((index, identity, key));
    }

    /// A write completed. Completions may come in any order.
    ///
    /// # Panics
    /// If no such write is in flight.
    pub fn written(&mut self, id: WriteId, block: AlignedBuffer) {
        self.pool.put(block);
        self.durability.write_ends(id);
    }

    /// A sync completed.
    ///
    /// # Panics
    /// If no such sync is in flight.
    pub fn synced(&mut self, id: SyncId) {
        self.durability.sync_ends(id);
    }

    /// A write or a sync failed. That is final: what the disk holds is in doubt from here on.
    pub fn failed(&mut self) {
        self.durability.fail();
    }

    /// Changes when replies may leave. Towards `always`, what was written before is synced first.
    pub fn set_fsync(&mut self, fsync: Fsync) {
        self.config.fsync = fsync;
        if fsync == Fsync::Always {
            self.request_sync();
        }
    }

    /// Makes everything appended so far durable, whatever the mode; returns the position to wait
    /// for in [`Self::durable`].
    pub fn request_sync(&mut self) -> Position {
        let target = self.tail();
        self.durability.want_sync(target);
        target
    }

    /// Once a second under `everysec`: like [`Self::request_sync`]. Does nothing in other modes.
    pub fn tick_sync(&mut self) {
        if self.config.fsync == Fsync::Everysec {
            self.request_sync();
        }
    }

    /// Gives up every segment that ends at or before `before` and returns them, oldest first. The
    /// current one stays, and so does one whose successor has no durable frame yet: after a crash,
    /// the position where they meet would be in neither.
    pub fn release(&mut self, before: Position) -> Vec<SegmentIndex> {
        let mut released = Vec::new();
        let durable = self.durable();
        let is_over = |next: &Segment| next.start <= before && next.start < durable;
        while self.segments.get(1).is_some_and(is_over) {
            released.extend(self.segments.pop_front().map(|segment| segment.index));
        }
        released
    }

    // ---- below: what the effects are made of ----

    /// Asks for the first segment at once, and for each further one when the current is half full.
    fn need_segment(&mut self) -> Option<LogEffect> {
        let begun = self.segments.back().map_or(0, |segment| segment.index.0 + 1);
        if self.unasked.0 > begun || self.offset_bytes < self.config.segment_bytes / 2 {
            return None;
        }
        let index = self.unasked;
        self.unasked = index.next();
        Some(LogEffect::NeedSegment { index })
    }

    /// Syncs every segment that has bytes between `durable` and `written`.
    fn next_sync(&mut self) -> Option<LogEffect> {
        if self.durability.is_sync_due() {
            let unsynced = self.durable()..self.durability.written();
            let mut segments = VecDeque::new();
            for (at, segment) in self.segments.iter().enumerate() {
                let next = self.segments.get(at + 1);
                let end = next.map_or(self.stream.sent(), |next| next.start);
                if end > unsynced.start && segment.start < unsynced.end {
                    segments.push_back(segment.index);
                }
            }
            self.durability.sync_begins(segments);
        }
        let id = SyncId(self.next_id);
        let segment = self.durability.next_sync(id)?;
        self.next_id += 1;
        Some(LogEffect::Sync { id, segment })
    }

    fn next_commit(&mut self) -> Option<LogEffect> {
        let waiting = self.pending_bytes();
        // A completed commit behind an unfinished one still counts: memory stays bounded.
        let due = match self.durability.open_commits() {
            0 => waiting > 0,
            1..MAX_IN_FLIGHT => waiting >= EARLY_COMMIT_BYTES,
            _ => false,
        };
        if !due || !self.enter_segment() {
            return None;
        }
        let segment = *self.segments.back()?;
        let left = (self.config.segment_bytes - self.offset_bytes) as usize;
        let room = MAX_PAYLOAD_BYTES.min(left - FRAME_HEADER_BYTES);
        let payload_bytes = waiting.min(room - stored_bytes(0, self.key.as_deref()));
        let start = self.stream.sent();
        let block = self.cut_frame(segment.identity, payload_bytes);
        let offset_bytes = self.offset_bytes;
        self.offset_bytes += block.len() as u64;
        let dsync = self.config.fsync == Fsync::Always;
        let id = WriteId(self.next_id);
        self.next_id += 1;
        self.durability.write_begins(id, start..self.stream.sent(), dsync);
        Some(LogEffect::Write { id, segment: segment.index, offset_bytes, block, dsync })
    }

    /// Makes sure that the current segment has a free block; false if that must wait.
    fn enter_segment(&mut self) -> bool {
        if self.offset_bytes < self.config.segment_bytes {
            return true;
        }
        let Some((index, identity, key)) = self.next_segment.take() else { return false };
        self.key = key;
        self.segments.push_back(Segment { index, identity, start: self.stream.sent() });
        self.offset_bytes = SEGMENT_HEADER_BYTES as u64;
        true
    }

    /// Takes `payload_bytes` off the front of the stream, as a frame.
    fn cut_frame(&mut self, identity: SegmentIdentity, payload_bytes: usize) -> AlignedBuffer {
        let (payload, first_record) = self.stream.front(payload_bytes);
        let header = FrameHeader {
            identity,
            position: self.stream.sent(),
            durable: self.durability.durable(),
            previous_crc: self.previous_crc,
            first_record,
        };
        let key = self.key.as_deref();
        let mut block = self.pool.take(frame_bytes(stored_bytes(payload_bytes, key)));
        self.previous_crc = encode_frame(&mut block, &header, payload, key);
        self.claimed = header.durable;
        self.stream.cut(payload_bytes);
        block
    }
}

/// A record that is being appended, straight into the stream. Dropped unfinished, it never was.
#[derive(Debug)]
pub struct Recorder<'w> {
    start: usize,
    /// A part of a transaction counts even without ops.
    keep_empty: bool,
    writer: &'w mut LogWriter,
}

impl Recorder<'_> {
    /// Adds an op.
    pub fn op(&mut self, op: &Op<'_>) {
        op.encode(self.writer.stream.buffer());
    }

    /// Adds ops that were encoded already.
    pub fn encoded_ops(&mut self, ops: &[u8]) {
        self.writer.stream.buffer().extend_from_slice(ops);
    }

    /// Ends the record and returns the position after it, which a reply waits for. `None` if it
    /// would say nothing: no ops, and no part of a transaction; then nothing was appended.
    ///
    /// # Panics
    /// If the record is over 4 GiB.
    pub fn finish(self) -> Option<Position> {
        let stream = self.writer.stream.buffer();
        if !self.keep_empty && stream.len() == self.start + record::PLAIN_PREFIX_BYTES {
            return None;
        }
        record::patch_len(stream, self.start);
        let end = self.writer.tail();
        self.writer.data_end = end;
        // Nothing is left to abandon: the drop below cuts at the end.
        let mut done = self;
        done.start = done.writer.stream.buffer().len();
        Some(end)
    }
}

impl Drop for Recorder<'_> {
    fn drop(&mut self) {
        self.writer.stream.buffer().truncate(self.start);
    }
}
