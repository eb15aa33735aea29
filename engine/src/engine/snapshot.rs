//! A snapshot as its consumer sees it: one bounded stream of chunks for each shard, all of one cut.
//!
//! [`Engine::create_snapshot`](super::Engine::create_snapshot) has every shard freeze, learns their
//! watermarks, and tells them where the snapshot ends: at the highest. Dropping the streams cancels
//! the snapshot: every shard is told, and one that cannot be (its inbox is full) sees that nobody
//! listens any more. Bytes that were handed over and not taken yet count against one budget; when
//! a quarter of it is used the walks pause, and they go on when the consumer takes more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::keyspace::SlotDigests;
use crate::net::{Doorbell, InboxSender};
use crate::shard::cut::{AbandonReason, ChunkBudget, CutEvent};
use crate::types::{LogId, Lsn, Position, SnapshotId};

use super::message::ToShard;

/// Bytes of chunks that may wait for the consumer, all shards together.
pub const CHUNK_QUEUE_BYTES: usize = 64 << 20;

/// What snapshot to take. `None` (or a cut) is a whole image with digests of no seed in particular.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotPlan {
    /// Where to freeze; a little ahead of now if none is given.
    pub cut: Option<Lsn>,
    /// Keys the digests of the slots; random for a snapshot that is to be stored.
    pub digest_seed: u64,
    /// No entries are wanted: the parts give no chunks, only digests and tails.
    pub only_digests: bool,
}

impl From<Option<Lsn>> for SnapshotPlan {
    fn from(cut: Option<Lsn>) -> Self {
        Self { cut, ..Self::default() }
    }
}

/// Why a snapshot was not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Another one is under way.
    #[error("a snapshot is under way already")]
    Busy,
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
    /// The consumer was slower than the stall limit allows.
    #[error("the snapshot was abandoned: chunks were not taken in time, and writes do not wait")]
    Stalled,
    /// Too much was written before the end was known.
    #[error("the snapshot was abandoned: too much was written while it began")]
    TailTooLong,
    /// It was cancelled.
    #[error("the snapshot was cancelled")]
    Cancelled,
}

impl From<AbandonReason> for SnapshotError {
    fn from(reason: AbandonReason) -> Self {
        match reason {
            AbandonReason::Stalled => Self::Stalled,
            AbandonReason::TailTooLong => Self::TailTooLong,
            AbandonReason::Cancelled => Self::Cancelled,
        }
    }
}

/// A snapshot that was begun: every shard has frozen its view.
#[derive(Debug)]
pub struct SnapshotStreams {
    /// The lowest watermark.
    pub begin_lsn: Lsn,
    /// The highest watermark: the snapshot restores exactly the state at it.
    pub end_lsn: Lsn,
    /// One for each shard, in order; to be taken side by side, or one after the other.
    pub parts: Vec<PartStream>,
}

/// One shard's part.
#[derive(Debug)]
pub struct PartStream {
    /// The log that the part was taken beside.
    pub log: LogId,
    /// No record above it is in the chunks.
    pub watermark: Lsn,
    /// A restart from this part reads the log from here.
    pub position: Position,
    events: flume::Receiver<CutEvent>,
    budget: Arc<ChunkBudget>,
    wake: Doorbell,
    /// Cancels the snapshot when the last part is dropped. Behind `events`, so that every shard can
    /// see by then that nobody listens.
    _turn: Arc<Turn>,
}

/// What a part's stream gives.
#[derive(Debug)]
pub enum PartEvent {
    /// A run of the image.
    Chunk(ImageChunk),
    /// The end: the records from the watermark to the snapshot's end, and the log is durable past
    /// it.
    End {
        /// LSN and encoded ops of each record, in log order.
        tail: Vec<(Lsn, Vec<u8>)>,
        /// Every record up to the snapshot's end lies before it in the log.
        log_end: Position,
        /// The digests of the shard's slots at the watermark, over all entries.
        digests: SlotDigests,
    },
}

/// A run of ops that counts against the budget until it is taken or dropped.
#[derive(Debug)]
pub struct ImageChunk {
    ops: Vec<u8>,
    counted_bytes: usize,
    /// How many ops there are: an entry, or a further piece of a large value, each.
    pub count: u32,
    /// How many entries begin in it.
    pub entries: u64,
    budget: Arc<ChunkBudget>,
    wake: Doorbell,
}

impl ImageChunk {
    /// The encoded ops, which count for the consumer from now on. (Would they count for the
    /// shards until they are stored, then a consumer that gathers those of many shards, part by
    /// part, could hold all that the budget has, and wait for more.)
    pub fn into_ops(mut self) -> Vec<u8> {
        std::mem::take(&mut self.ops)
    }

    /// Bytes of the encoded ops.
    pub fn bytes(&self) -> u64 {
        self.ops.len() as u64
    }
}

impl AsRef<[u8]> for ImageChunk {
    /// The encoded ops.
    fn as_ref(&self) -> &[u8] {
        &self.ops
    }
}

impl Drop for ImageChunk {
    fn drop(&mut self) {
        self.budget.consumed(self.counted_bytes);
        self.wake.ring();
    }
}

impl PartStream {
    /// The next chunk, or the end.
    ///
    /// # Errors
    /// [`SnapshotError`]; the snapshot is over.
    pub async fn next(&mut self) -> Result<PartEvent, SnapshotError> {
        let event = self.events.recv_async().await.map_err(|_| SnapshotError::Stopped)?;
        self.convert(event)
    }

    /// [`Self::next`], blocking the thread.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn next_blocking(&mut self) -> Result<PartEvent, SnapshotError> {
        let event = self.events.recv().map_err(|_| SnapshotError::Stopped)?;
        self.convert(event)
    }

    fn convert(&self, event: CutEvent) -> Result<PartEvent, SnapshotError> {
        match event {
            CutEvent::Chunk { ops, count, entries, .. } => Ok(PartEvent::Chunk(ImageChunk {
                counted_bytes: ops.len(),
                ops,
                count,
                entries,
                budget: Arc::clone(&self.budget),
                wake: self.wake.clone(),
            })),
            CutEvent::Done { tail, log_end, digests, .. } => {
                Ok(PartEvent::End { tail, log_end, digests })
            }
            CutEvent::Abandoned { reason, .. } => Err(reason.into()),
            CutEvent::Frozen { .. } => unreachable!("a view freezes once"),
        }
    }
}

/// The right to be the one snapshot under way. Dropped, it tells every shard that nobody wants the
/// snapshot any more; shards that are done ignore it.
#[derive(Debug)]
pub(super) struct Turn {
    id: SnapshotId,
    taken: Arc<AtomicBool>,
    shards: Arc<[InboxSender<ToShard>]>,
}

impl Turn {
    /// Takes the turn.
    ///
    /// # Errors
    /// [`SnapshotError::Busy`].
    pub(super) fn take(
        id: SnapshotId,
        taken: &Arc<AtomicBool>,
        shards: &Arc<[InboxSender<ToShard>]>,
    ) -> Result<Self, SnapshotError> {
        if taken.swap(true, Ordering::AcqRel) {
            return Err(SnapshotError::Busy);
        }
        Ok(Self { id, taken: Arc::clone(taken), shards: Arc::clone(shards) })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        for shard in self.shards.iter() {
            // Never blocks: a shard whose inbox is full is told by the consumer's closed channel.
            let _ = shard.try_send(ToShard::CancelCut { id: self.id });
        }
        // After the cancelling: the next snapshot's messages are behind it.
        self.taken.store(false, Ordering::Release);
    }
}

/// What the engine knows of a part that is about to freeze.
pub(super) struct PendingPart {
    pub(super) log: LogId,
    pub(super) events: flume::Receiver<CutEvent>,
    pub(super) budget: Arc<ChunkBudget>,
    pub(super) wake: Doorbell,
}

/// Waits until every part is frozen, and tells all shards where the snapshot ends.
pub(super) async fn begin(
    turn: Turn,
    pending: Vec<PendingPart>,
) -> Result<SnapshotStreams, SnapshotError> {
    let turn = Arc::new(turn);
    let mut parts = Vec::with_capacity(pending.len());
    for PendingPart { log, events, budget, wake } in pending {
        let (watermark, position) =
            match events.recv_async().await.map_err(|_| SnapshotError::Stopped)? {
                CutEvent::Frozen { watermark, position, .. } => (watermark, position),
                CutEvent::Abandoned { reason, .. } => return Err(reason.into()),
                CutEvent::Chunk { .. } | CutEvent::Done { .. } => {
                    unreachable!("a part freezes first")
                }
            };
        let _turn = Arc::clone(&turn);
        parts.push(PartStream { log, watermark, position, events, budget, wake, _turn });
    }
    let begin_lsn = parts.iter().map(|part| part.watermark).min().unwrap_or_default();
    let end_lsn = parts.iter().map(|part| part.watermark).max().unwrap_or_default();
    for shard in turn.shards.iter() {
        let message = ToShard::EndCut { id: turn.id, end: end_lsn };
        shard.send_async(message).await.map_err(|_| SnapshotError::Stopped)?;
    }
    Ok(SnapshotStreams { begin_lsn, end_lsn, parts })
}
