//! One shard's part of a snapshot: freeze at the cut, walk, tail.
//!
//! ```text
//!   CreateSnapshot{cut} -> armed --(clock reaches the cut)--> frozen: watermark, log position
//!                                                               |  walk a slice a turn -> chunks
//!   end{end_lsn} ------------------------------------------>    |  records above the watermark are
//!                                                               v  kept until end_lsn is closed
//!                                                  tail -> (log durable past it) -> done
//! ```
//!
//! - The view freezes before the first LSN above the cut. A shard that had passed the cut when it
//!   was asked freezes at once, at its own, later watermark.
//! - Keys under an unresolved exclusive intent stay out of the walk, and are written when it is
//!   resolved: the after-state if the transaction's LSN is at or below the watermark, else the
//!   before-state. While the *whole* shard is held (FLUSHALL) nothing else changes it, so the
//!   freeze waits for the resolution, and takes place before or after the change by its LSN.
//! - Chunks go to a consumer through a byte budget. The walk stops at a quarter of it; the rest
//!   is for groups that writes force out. When it is full, writes wait for at most the stall
//!   limit; then the snapshot is abandoned, never the write.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::keyspace::{SlotDigests, WalkPlan, WalkProgress};
use crate::types::{Lsn, Position, SnapshotId};

use super::core::ShardCore;
use super::intent::DbKey;

/// Bytes of the keyspace that one turn serializes.
const SLICE_BYTES: usize = 64 << 10;
/// A chunk is handed over when it has this many bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of records that a shard keeps while the end of a snapshot is not known.
const MAX_TAIL_BYTES: usize = 64 << 20;
/// Entries of cleared tables that one turn frees.
const RECLAIM_ENTRIES: usize = 512;

/// Bytes of chunks on their way from the shards to the consumer: one shard's, and those of all
/// shards together, which count against the limit.
#[derive(Debug)]
pub struct ChunkBudget {
    own_bytes: AtomicUsize,
    queued_bytes: Arc<AtomicUsize>,
    limit_bytes: usize,
}

impl ChunkBudget {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self { own_bytes: AtomicUsize::new(0), queued_bytes: Arc::default(), limit_bytes })
    }

    /// Another shard's view of the same budget.
    pub fn share(&self) -> Arc<Self> {
        let queued_bytes = Arc::clone(&self.queued_bytes);
        Arc::new(Self {
            own_bytes: AtomicUsize::new(0),
            queued_bytes,
            limit_bytes: self.limit_bytes,
        })
    }

    /// The consumer has let go of a chunk.
    pub fn consumed(&self, bytes: usize) {
        self.own_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that were handed over and not let go of.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    fn queue(&self, bytes: usize) {
        self.own_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Below a quarter of the budget; or this shard has nothing queued at all: a consumer that
    /// takes one part after the other would else wait for ever for the one that the others left
    /// no room.
    fn may_walk(&self) -> bool {
        self.own_bytes.load(Ordering::Relaxed) == 0 || self.queued_bytes() < self.limit_bytes / 4
    }

    fn is_full(&self) -> bool {
        self.queued_bytes() >= self.limit_bytes
    }
}

/// A request for this shard's part.
#[derive(Clone, Debug)]
pub struct CutRequest {
    /// Names the snapshot within this process.
    pub id: SnapshotId,
    /// Where to freeze.
    pub cut: Lsn,
    /// Shared by all shards.
    pub budget: Arc<ChunkBudget>,
    /// How long writes wait for room, in milliseconds.
    pub stall_limit_ms: u64,
    /// Keys the digests of the slots.
    pub digest_seed: u64,
    /// Whether the entries are wanted, or only the digests.
    pub serializes: bool,
}

/// What the consumer of the part hears.
#[derive(Debug)]
pub enum CutEvent {
    /// The view is frozen.
    Frozen {
        /// Which snapshot.
        id: SnapshotId,
        /// No record above it is in the walked part.
        watermark: Lsn,
        /// Every record that a restart needs beside this part is at or after this position.
        position: Position,
    },
    /// Encoded ops of the image.
    Chunk {
        /// Which snapshot.
        id: SnapshotId,
        /// A run of ops.
        ops: Vec<u8>,
        /// How many ops these are.
        count: u32,
        /// How many entries begin in it.
        entries: u64,
    },
    /// Records above the watermark, up to the snapshot's end; the part is complete, and the log is
    /// durable past the end.
    Done {
        /// Which snapshot.
        id: SnapshotId,
        /// LSN and encoded ops of each, in log order.
        tail: Vec<(Lsn, Vec<u8>)>,
        /// Every record up to the snapshot's end lies before it; the log is durable up to here.
        log_end: Position,
        /// The digests of the shard's slots at the watermark, over all entries.
        digests: SlotDigests,
    },
    /// The part was given up.
    Abandoned {
        /// Which snapshot.
        id: SnapshotId,
        /// Why.
        reason: AbandonReason,
    },
}

impl CutEvent {
    /// Which snapshot it is of.
    pub fn id(&self) -> SnapshotId {
        match self {
            Self::Frozen { id, .. }
            | Self::Chunk { id, .. }
            | Self::Done { id, .. }
            | Self::Abandoned { id, .. } => *id,
        }
    }
}

/// Why a shard gives a snapshot up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbandonReason {
    /// The consumer was too slow for the stall limit.
    Stalled,
    /// Too much was written before the end was known.
    TailTooLong,
    /// The consumer cancelled it.
    Cancelled,
}

/// The part under way, if there is one.
#[derive(Debug, Default)]
pub struct Cut {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    request: CutRequest,
    /// The watermark, once the view is frozen.
    watermark: Option<Lsn>,
    end: Option<Lsn>,
    unresolved: HashSet<DbKey>,
    walk_done: bool,
    written_entries: u64,
    written_ops: u64,
    tail: Vec<(Lsn, Vec<u8>)>,
    tail_bytes: usize,
    tail_closed: bool,
    /// The log has to be durable to here.
    durable_at: Position,
    /// Since when writes wait, in milliseconds.
    stalled_since_ms: Option<u64>,
}

impl Cut {
    /// Whether records have to be encoded for the tail.
    pub fn wants_tail(&self) -> bool {
        self.running.as_ref().is_some_and(|part| part.watermark.is_some() && !part.tail_closed)
    }

    /// Keeps a record for the tail.
    pub fn tee(&mut self, lsn: Lsn, ops: &[u8]) {
        let Some(part) = &mut self.running else { return };
        let open = part.watermark.is_some_and(|watermark| lsn > watermark) && !part.tail_closed;
        if open && part.end.is_none_or(|end| lsn <= end) {
            part.tail_bytes += ops.len();
            part.tail.push((lsn, ops.to_vec()));
        }
    }

    /// Whether writes wait for room.
    pub fn stalls_writes(&self) -> bool {
        self.running.as_ref().is_some_and(|part| part.stalled_since_ms.is_some())
    }

    /// Whether a snapshot is under way.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether another turn would get on with it.
    pub fn wants_turn(&self) -> bool {
        self.running.as_ref().is_some_and(|part| {
            let walking = part.watermark.is_some() && !part.walk_done;
            walking && part.request.budget.may_walk()
        })
    }
}

impl ShardCore {
    /// The coordinator wants this shard's part of a snapshot.
    ///
    /// # Panics
    /// If another is under way: the coordinator runs one at a time.
    pub fn begin_cut(&mut self, mut request: CutRequest) {
        assert!(self.cut.running.is_none(), "one walk at a time");
        // What has passed the cut already answers with its own, later watermark.
        request.cut = request.cut.max(self.clock.last());
        self.cut.running = Some(Running {
            request,
            watermark: None,
            end: None,
            unresolved: HashSet::new(),
            walk_done: false,
            written_entries: 0,
            written_ops: 0,
            tail: Vec::new(),
            tail_bytes: 0,
            tail_closed: false,
            durable_at: Position(0),
            stalled_since_ms: None,
        });
        self.advance_past(self.clock.peek());
    }

    /// The coordinator knows where the snapshot ends: at the highest watermark.
    pub fn end_cut(&mut self, id: SnapshotId, end: Lsn) {
        if let Some(part) = &mut self.cut.running
            && part.request.id == id
        {
            part.end = Some(end);
            part.tail.retain(|(lsn, _)| *lsn <= end);
        }
        self.observe(end);
    }

    /// The coordinator does not want the snapshot any more.
    pub fn cancel_cut(&mut self, id: SnapshotId) {
        if self.cut.running.as_ref().is_some_and(|part| part.request.id == id) {
            self.abandon_cut(AbandonReason::Cancelled);
        }
    }

    /// Freezes the view if `lsn` lies above the cut.
    pub(super) fn advance_past(&mut self, lsn: Lsn) {
        let Some(part) = &self.cut.running else { return };
        if part.watermark.is_none() && lsn > part.request.cut && !self.intents.whole_shard() {
            self.freeze();
        }
    }

    fn freeze(&mut self) {
        let unresolved: HashSet<DbKey> = self.intents.exclusive_keys().cloned().collect();
        let excluded = unresolved.iter().map(|key| (key.db, key.key.to_vec())).collect();
        let position = self.journal.tail();
        let part = self.cut.running.as_mut().expect("only a part under way freezes");
        let (id, watermark) = (part.request.id, part.request.cut);
        part.watermark = Some(watermark);
        part.unresolved = unresolved;
        let (digest_seed, serializes) = (part.request.digest_seed, part.request.serializes);
        self.keyspace.begin_walk(WalkPlan { excluded, digest_seed, serializes });
        self.effects.snapshot.push(CutEvent::Frozen { id, watermark, position });
    }

    /// Before a part under an intent on the whole shard is logged: only now its LSN is known. If it
    /// lies above the cut the view freezes here, before the record: later, the record would be
    /// behind the part's position and above its watermark, so neither the tail nor a restart
    /// from the part would have it.
    pub(super) fn before_whole_shard_record(&mut self, lsn: Lsn) {
        let Some(part) = &self.cut.running else { return };
        if part.watermark.is_none() && lsn > part.request.cut {
            self.freeze();
        }
    }

    /// Before a transaction's part takes effect (or is released: no LSN).
    pub(super) fn before_resolution(&mut self, keys: &[DbKey], whole: bool, lsn: Option<Lsn>) {
        let Some(part) = &mut self.cut.running else { return };
        let after = |limit: Lsn| lsn.is_none_or(|lsn| lsn > limit);
        match part.watermark {
            None if whole && after(part.request.cut) && self.clock.peek() > part.request.cut => {
                self.freeze();
                // Its own keys are no longer excluded: the walk has what was before.
                self.write_unresolved(keys);
            }
            Some(watermark) if after(watermark) => self.write_unresolved(keys),
            _ => {}
        }
    }

    /// After a transaction's part took effect.
    pub(super) fn after_resolution(&mut self, keys: &[DbKey], whole: bool, _lsn: Option<Lsn>) {
        let Some(part) = &self.cut.running else { return };
        match part.watermark {
            None if whole && self.clock.peek() > part.request.cut => {
                self.freeze();
                self.write_unresolved(keys);
            }
            Some(_) => self.write_unresolved(keys),
            None => {}
        }
    }

    /// Writes those of the keys that the walk leaves out, as they are now.
    fn write_unresolved(&mut self, keys: &[DbKey]) {
        let part = self.cut.running.as_mut().expect("the caller looked");
        for key in keys {
            if part.unresolved.remove(key) {
                let key = self.keyspace.key(key.db, &key.key);
                self.keyspace.walk_include(&key);
            }
        }
    }

    /// A turn's share of the work.
    pub(super) fn cut_slice(&mut self) {
        self.keyspace.reclaim_slice(RECLAIM_ENTRIES);
        let now_ms = self.clock.now_ms();
        let Some(part) = &mut self.cut.running else { return };
        if part.watermark.is_none() {
            return;
        }
        if !part.walk_done && part.request.budget.may_walk() {
            let done = self.keyspace.walk_slice(SLICE_BYTES) == WalkProgress::Done;
            part.walk_done = done && part.unresolved.is_empty();
        }
        let stalled = part.request.budget.is_full() && !part.walk_done;
        let since = if stalled { Some(part.stalled_since_ms.unwrap_or(now_ms)) } else { None };
        let resumes = part.stalled_since_ms.is_some() && since.is_none();
        part.stalled_since_ms = since;
        let limit_ms = part.request.stall_limit_ms;
        let too_long = part.tail_bytes > MAX_TAIL_BYTES;
        self.hand_over_chunk();
        if since.is_some_and(|since| now_ms.saturating_sub(since) >= limit_ms) {
            return self.abandon_cut(AbandonReason::Stalled);
        }
        if too_long {
            return self.abandon_cut(AbandonReason::TailTooLong);
        }
        if resumes {
            self.retry_parked();
        }
        self.close_tail();
    }

    fn hand_over_chunk(&mut self) {
        let Some(part) = &mut self.cut.running else { return };
        if !self.keyspace.is_walking() {
            return;
        }
        let output = self.keyspace.walk_output();
        let enough = if part.walk_done { 1 } else { CHUNK_BYTES };
        if output.bytes.len() < enough {
            return;
        }
        let entries = output.entries - part.written_entries;
        let count = (output.ops - part.written_ops) as u32;
        (part.written_entries, part.written_ops) = (output.entries, output.ops);
        let ops = std::mem::replace(&mut output.bytes, Vec::with_capacity(CHUNK_BYTES * 9 / 8));
        part.request.budget.queue(ops.len());
        self.effects.snapshot.push(CutEvent::Chunk { id: part.request.id, ops, count, entries });
    }

    /// When the end is known and closed, and the walk is over: the tail, once the log is durable.
    fn close_tail(&mut self) {
        let closed = self.closed_lsn();
        let Some(part) = &mut self.cut.running else { return };
        if !part.tail_closed && part.end.is_some_and(|end| closed >= end) {
            part.tail_closed = true;
            part.durable_at = self.journal.request_sync();
        }
        if !part.tail_closed || !part.walk_done || self.journal.durable() < part.durable_at {
            return;
        }
        let digests = self.keyspace.end_walk();
        let part = self.cut.running.take().expect("it was just looked at");
        self.effects.snapshot.push(CutEvent::Done {
            id: part.request.id,
            tail: part.tail,
            log_end: part.durable_at,
            digests,
        });
    }

    fn abandon_cut(&mut self, reason: AbandonReason) {
        let Some(part) = self.cut.running.take() else { return };
        self.keyspace.abandon_walk();
        self.effects.snapshot.push(CutEvent::Abandoned { id: part.request.id, reason });
        self.retry_parked();
    }
}
