//! What the logs hold above the parent's watermarks, folded for one part of a delta. Blocks: for a
//! thread of its own.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cutwater_engine::entry::Op;
use cutwater_engine::log::{
    Coverage, LogDisk, LogError, LogKeys, LogRange, RecoveryError, Running,
};
use cutwater_engine::slot::SlotMap;
use cutwater_engine::types::{Lsn, ShardId, StartId};
use cutwater_snapshot::compact::{Compactor, INDEX_KEYS, Index, IndexError, Sink};
use tokio::sync::mpsc;

/// Bytes of a chunk, about.
const CHUNK_BYTES: usize = 1 << 20;
/// Ranges of slots in which a part is compacted at most, each of which reads its log twice.
const ROUNDS: usize = 16;
/// Keys of one shard that may have changed, at least.
pub const KEYS_LIMIT: usize = ROUNDS * INDEX_KEYS / 2;

/// A run of the image of a part, and how many ops it has.
pub type Chunk = (Bytes, u32);

/// Why the changes were not all handed out.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There are too many, or they are no ops.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// There are too many keys.
    #[error("more than {KEYS_LIMIT} keys of one shard have changed")]
    Rounds,
    /// Nobody listens any more.
    #[error("the delta was given up")]
    GivenUp,
}

/// The logs behind a parent.
pub struct Changes {
    range: LogRange,
    running: StartId,
    slots: SlotMap,
    /// Keys the hashes of keys.
    seed: u64,
}

impl Changes {
    /// Opens the logs in `dir` behind `parent`, up to `running`, and checks that they reach back.
    /// The seed is random.
    ///
    /// # Errors
    /// As for [`LogRange::open`].
    pub fn open(
        disk: Arc<dyn LogDisk>,
        dir: &Path,
        keys: &LogKeys,
        parent: Option<&Coverage>,
        running: &Running,
        seed: u64,
    ) -> Result<Self, RecoveryError> {
        let range = LogRange::open(disk, dir, keys, parent, running)?;
        let shards = u16::try_from(running.ends.len()).expect("there are at most 16,384 shards");
        Ok(Self { range, running: running.start, slots: SlotMap::new(shards), seed })
    }

    /// Sends what changed in the slots of a shard at or below its watermark, in chunks.
    ///
    /// # Errors
    /// [`ChangesError`].
    pub fn send(
        &self,
        shard: ShardId,
        watermark: Lsn,
        chunks: &mpsc::Sender<Chunk>,
    ) -> Result<(), ChangesError> {
        let mut out = Output { chunks, body: Vec::new(), ops: 0 };
        self.compact(shard, watermark, &|| chunks.is_closed(), &mut |op| out.push(op))?;
        out.flush()
    }

    /// Hands out what changed in the slots of a shard at or below its watermark, folded. Ends early
    /// when it is given up.
    ///
    /// # Errors
    /// [`ChangesError`], and what the sink returns.
    pub fn compact(
        &self,
        shard: ShardId,
        watermark: Lsn,
        is_given_up: &dyn Fn() -> bool,
        sink: Sink<'_, ChangesError>,
    ) -> Result<(), ChangesError> {
        let owned = self.slots.range(shard);
        let mut from = owned.start;
        for _ in 0..ROUNDS {
            let slots = from..owned.end;
            let mut index = Index::new(slots.clone(), self.seed);
            self.replay(shard, watermark, &slots, &mut |ops| {
                if is_given_up() { Err(ChangesError::GivenUp) } else { Ok(index.add(ops)?) }
            })?;
            from = index.slots().end;
            let mut compactor = Compactor::begin(index, sink)?;
            self.replay(shard, watermark, &slots, &mut |ops| compactor.add(ops, sink))?;
            compactor.finish();
            if from == owned.end {
                return Ok(());
            }
        }
        Err(ChangesError::Rounds)
    }

    /// Hands out the ops of records that may concern these slots of a shard, in the order in which
    /// they were made. Logs of earlier starts are of other shards, perhaps, and of whole starts:
    /// everything in them lies below every watermark of this one.
    fn replay(
        &self,
        shard: ShardId,
        watermark: Lsn,
        slots: &Range<u16>,
        each: &mut dyn FnMut(&[u8]) -> Result<(), ChangesError>,
    ) -> Result<(), ChangesError> {
        let logs = self.range.logs();
        for of_start in logs.chunk_by(|a, b| a.log.start == b.log.start) {
            let layout = SlotMap::new(of_start.len() as u16);
            for log in of_start.iter().map(|resolved| resolved.log) {
                let is_running = log.start == self.running;
                let owned = layout.range(log.shard);
                let concerns = match is_running {
                    true => log.shard == shard,
                    false => owned.start < slots.end && slots.start < owned.end,
                };
                if concerns {
                    self.range.replay::<ChangesError>(
                        log,
                        Lsn::ZERO,
                        watermark,
                        &mut |record| each(record.ops),
                    )?;
                }
            }
        }
        Ok(())
    }
}

/// Collects ops into chunks.
struct Output<'c> {
    chunks: &'c mpsc::Sender<Chunk>,
    body: Vec<u8>,
    ops: u32,
}

impl Output<'_> {
    fn push(&mut self, op: &Op<'_>) -> Result<(), ChangesError> {
        op.encode(&mut self.body);
        self.ops += 1;
        if self.body.len() >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ChangesError> {
        if self.ops == 0 {
            return Ok(());
        }
        let body = std::mem::take(&mut self.body).into();
        let ops = std::mem::take(&mut self.ops);
        self.chunks.blocking_send((body, ops)).map_err(|_| ChangesError::GivenUp)
    }
}
