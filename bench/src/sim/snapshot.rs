//! The coordinator of snapshots: has every shard freeze, tells them the end, takes the chunks as
//! fast as it likes, and keeps what is complete for restarts and comparisons.

use std::collections::BTreeSet;
use std::sync::Arc;

use cutwater_engine::entry::Op;
use cutwater_engine::log::{Coverage, Part};
use cutwater_engine::shard::cut::{ChunkBudget, CutEvent};
use cutwater_engine::types::{Lsn, Position, SnapshotId, StartId};

use super::image::Image;

/// A snapshot under way.
#[derive(Debug)]
pub struct Shot {
    /// Which.
    pub id: SnapshotId,
    /// What the chunks count against.
    pub budget: Arc<ChunkBudget>,
    /// The sizes of chunks that were not let go of.
    pub untaken: Vec<usize>,
    /// The consumer is stuck.
    pub stuck: bool,
    /// Some shard gave it up, or it was cancelled.
    pub given_up: bool,
    parts: Vec<PartShot>,
}

#[derive(Debug, Default)]
struct PartShot {
    frozen: Option<Part>,
    ops: Vec<u8>,
    entries: u64,
    tail: Option<Vec<(Lsn, Vec<u8>)>>,
    log_end: Position,
}

/// A complete snapshot.
#[derive(Debug)]
pub struct Complete {
    /// Which logs continue it, and from where.
    pub coverage: Coverage,
    /// It restores the state at this LSN.
    pub end: Lsn,
    /// Where everything up to its end lies before, in each log.
    pub ends: Vec<Position>,
    /// The ops of each part.
    pub parts: Vec<Vec<u8>>,
    /// The image with its tail: the state at its end.
    pub at_end: Image,
}

impl Complete {
    /// Its start and its end, for messages.
    pub fn coverage_text(&self) -> String {
        format!("the snapshot of start {} that ends at {}", self.coverage.start, self.end)
    }

    /// The image without the tail: what the logs continue.
    ///
    /// # Errors
    /// The parts are no ops.
    pub fn base(&self) -> Result<Image, String> {
        let mut image = Image::default();
        self.parts
            .iter()
            .try_for_each(|ops| image.apply(ops))
            .map_err(|error| error.to_string())?;
        Ok(image)
    }
}

impl Shot {
    /// A snapshot that nobody has frozen for yet.
    pub fn new(id: SnapshotId, shards: usize, limit_bytes: usize, stuck: bool) -> Self {
        Self {
            id,
            budget: ChunkBudget::new(limit_bytes),
            untaken: Vec::new(),
            stuck,
            given_up: false,
            parts: (0..shards).map(|_| PartShot::default()).collect(),
        }
    }

    /// A shard reports. Answers the end of the snapshot once it is known.
    ///
    /// # Errors
    /// What cannot be.
    pub fn event(&mut self, shard: usize, event: CutEvent) -> Result<Option<Lsn>, String> {
        let part = &mut self.parts[shard];
        match event {
            CutEvent::Frozen { watermark, position, .. } => {
                if part.frozen.replace(Part { watermark, position }).is_some() {
                    return Err("a part was frozen twice".to_owned());
                }
                if self.parts.iter().all(|part| part.frozen.is_some()) {
                    return Ok(self.end());
                }
            }
            CutEvent::Chunk { ops, entries, .. } => {
                self.untaken.push(ops.len());
                part.entries += entries;
                part.ops.extend_from_slice(&ops);
            }
            CutEvent::Done { tail, log_end, .. } => {
                part.tail = Some(tail);
                part.log_end = log_end;
            }
            CutEvent::Abandoned { .. } => self.given_up = true,
        }
        Ok(None)
    }

    /// Whether every part is there.
    pub fn is_done(&self) -> bool {
        self.parts.iter().all(|part| part.tail.is_some())
    }

    /// Lets go of a chunk.
    pub fn take(&mut self, at: usize) {
        self.budget.consumed(self.untaken.swap_remove(at));
    }

    fn end(&self) -> Option<Lsn> {
        self.parts.iter().filter_map(|part| part.frozen).map(|part| part.watermark).max()
    }

    /// The whole, once it is done.
    ///
    /// # Errors
    /// What cannot be in an image.
    pub fn complete(self, start: StartId) -> Result<Complete, String> {
        let end = self.end().ok_or("no part is frozen")?;
        let (mut parts, mut covered, mut at_end) = (Vec::new(), Vec::new(), Image::default());
        let ends = self.parts.iter().map(|part| part.log_end).collect();
        for part in &self.parts {
            check_part(part)?;
            at_end.apply(&part.ops).map_err(|error| error.to_string())?;
        }
        for part in self.parts {
            let frozen = part.frozen.ok_or("a part is done that was never frozen")?;
            for (lsn, ops) in part.tail.unwrap_or_default() {
                if lsn <= frozen.watermark || lsn > end {
                    return Err(format!("the tail has {lsn}, outside of the watermark and {end}"));
                }
                at_end.apply(&ops).map_err(|error| error.to_string())?;
            }
            covered.push(frozen);
            parts.push(part.ops);
        }
        Ok(Complete { coverage: Coverage { start, parts: covered }, end, ends, parts, at_end })
    }
}

/// Every key once, and as many as were counted.
fn check_part(part: &PartShot) -> Result<(), String> {
    let (mut rest, mut keys, mut entries) = (part.ops.as_slice(), BTreeSet::new(), 0);
    while !rest.is_empty() {
        match Op::decode(&mut rest).map_err(|error| error.to_string())? {
            Op::Put { db, key, .. } => {
                entries += 1;
                if !keys.insert((db, key.to_vec())) {
                    return Err(format!("the image has {} twice", key.escape_ascii()));
                }
            }
            Op::Write { .. } => {}
            other => return Err(format!("the image has {other:?}")),
        }
    }
    if entries == part.entries {
        return Ok(());
    }
    Err(format!("the image has {entries} entries, and {} were counted", part.entries))
}
