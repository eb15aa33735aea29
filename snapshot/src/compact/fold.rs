//! The second time through the log: what counts, folded.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use cutwater_engine::entry::{Op, ValueKind};
use cutwater_engine::types::DbIndex;

use super::index::{Index, IndexError, KeyHash, Truncated};
use super::patch::Patch;

/// Bytes of changes that are being folded; when there are more, all of them are handed out as far
/// as they have come. That is right as well, only longer.
pub const FOLD_BYTES: usize = 16 << 20;
/// Values and writes that are longer are handed out as they are.
const LONG_BYTES: usize = 1 << 20;
/// What a key that is being folded takes beside its bytes, about.
const FOLDED_OVERHEAD_BYTES: usize = 128;

/// Folds the changes of the keys of an index.
#[derive(Debug)]
pub struct Compactor {
    index: Index,
    /// How many ops there were, of any slot.
    ops: u32,
    folded: HashMap<KeyHash, Folded, BuildHasherDefault<Truncated>>,
    folded_bytes: usize,
}

/// Takes what comes out.
pub type Sink<'s, E> = &'s mut dyn FnMut(&Op<'_>) -> Result<(), E>;

impl Compactor {
    /// Begins with the clears, which it hands out.
    ///
    /// # Errors
    /// What the sink returns.
    pub fn begin<E>(index: Index, sink: Sink<'_, E>) -> Result<Self, E> {
        for clear in index.clears().ops(index.slots()) {
            sink(&clear)?;
        }
        Ok(Self { index, ops: 0, folded: HashMap::default(), folded_bytes: 0 })
    }

    /// Takes the next ops of the log: the same ones as the index did.
    ///
    /// # Errors
    /// What the sink returns, and [`IndexError::Decode`].
    pub fn add<E: From<IndexError>>(&mut self, mut ops: &[u8], sink: Sink<'_, E>) -> Result<(), E> {
        while !ops.is_empty() {
            let op = Op::decode(&mut ops).map_err(IndexError::Decode)?;
            self.ops = self.ops.checked_add(1).ok_or(IndexError::Ops)?;
            self.op(&op, sink)?;
        }
        Ok(())
    }

    /// Ends; nothing is left to be handed out.
    ///
    /// # Panics
    /// If it was not given what the index was given.
    pub fn finish(self) {
        assert!(self.folded.is_empty(), "every key's last change was seen");
    }

    fn op<E>(&mut self, op: &Op<'_>, sink: Sink<'_, E>) -> Result<(), E> {
        let (db, key) = match *op {
            Op::Put { db, key, .. }
            | Op::Delete { db, key }
            | Op::Expire { db, key, .. }
            | Op::Write { db, key, .. } => (db, key),
            Op::Clear { .. } => return Ok(()),
        };
        let Some((hash, changes, slot)) = self.index.find(db, key) else { return Ok(()) };
        let cleared = self.index.clears().last(db, slot);
        if self.ops < changes.since || self.ops < cleared {
            return Ok(());
        }
        let is_last = self.ops == changes.last;
        let is_cleared = cleared > 0;
        if is_last && !self.folded.contains_key(&hash) {
            return hand_out(op, is_cleared, sink);
        }
        if length(op) > LONG_BYTES {
            // In order: what came before it goes first, what comes after is folded anew.
            self.end(hash, is_cleared, sink)?;
            return hand_out(op, is_cleared, sink);
        }
        let before = self.folded.get(&hash).map_or(0, |folded| folded.bytes);
        let folded = self.folded.entry(hash).or_insert_with(|| Folded::new(db, key));
        folded.take(op);
        self.folded_bytes = self.folded_bytes + folded.bytes - before;
        if is_last {
            self.end(hash, is_cleared, sink)?;
        } else if self.folded_bytes > FOLD_BYTES {
            self.end_all(sink)?;
        }
        Ok(())
    }

    fn end<E>(&mut self, hash: KeyHash, is_cleared: bool, sink: Sink<'_, E>) -> Result<(), E> {
        let Some(folded) = self.folded.remove(&hash) else { return Ok(()) };
        self.folded_bytes -= folded.bytes;
        folded.hand_out(is_cleared, sink)
    }

    fn end_all<E>(&mut self, sink: Sink<'_, E>) -> Result<(), E> {
        self.folded_bytes = 0;
        for (_, folded) in self.folded.drain() {
            // A deletion too many does no harm.
            folded.hand_out(false, sink)?;
        }
        Ok(())
    }
}

/// Hands an op out, but for the deletion of what is cleared before.
fn hand_out<E>(op: &Op<'_>, is_cleared: bool, sink: Sink<'_, E>) -> Result<(), E> {
    if is_cleared && matches!(op, Op::Delete { .. }) { Ok(()) } else { sink(op) }
}

fn length(op: &Op<'_>) -> usize {
    match *op {
        Op::Put { value, .. } => value.len(),
        Op::Write { bytes, .. } => bytes.len(),
        Op::Delete { .. } | Op::Expire { .. } | Op::Clear { .. } => 0,
    }
}

/// What the changes of one key make so far.
#[derive(Debug)]
struct Folded {
    db: DbIndex,
    key: Box<[u8]>,
    base: Base,
    /// Onto the base.
    writes: Patch,
    /// Of what is older.
    expiry: Option<Option<u64>>,
    /// What it counts for.
    bytes: usize,
}

/// What the changes begin with.
#[derive(Debug)]
enum Base {
    /// What is there, if anything is.
    Older,
    Deleted,
    Put {
        kind: ValueKind,
        expires_at_ms: Option<u64>,
        value: Vec<u8>,
    },
}

impl Folded {
    fn new(db: DbIndex, key: &[u8]) -> Self {
        let bytes = key.len() + FOLDED_OVERHEAD_BYTES;
        let (base, writes) = (Base::Older, Patch::default());
        Self { db, key: key.into(), base, writes, expiry: None, bytes }
    }

    /// Takes the next change of the key.
    fn take(&mut self, op: &Op<'_>) {
        match *op {
            Op::Put { kind, expires_at_ms, value, .. } => {
                self.replace(Base::Put { kind, expires_at_ms, value: value.to_vec() });
                self.bytes += value.len();
            }
            Op::Delete { .. } => self.replace(Base::Deleted),
            Op::Expire { expires_at_ms, .. } => match &mut self.base {
                Base::Put { expires_at_ms: expiry, .. } => *expiry = expires_at_ms,
                Base::Deleted if self.writes.is_empty() => {}
                Base::Older | Base::Deleted => self.expiry = Some(expires_at_ms),
            },
            Op::Write { offset, bytes, .. } => self.write(offset, bytes),
            Op::Clear { .. } => {}
        }
    }

    fn replace(&mut self, base: Base) {
        self.base = base;
        self.writes = Patch::default();
        self.expiry = None;
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.bytes += bytes.len();
        let end = offset.saturating_add(bytes.len() as u64);
        let fits = end <= LONG_BYTES as u64 && self.writes.is_empty();
        if let Base::Deleted = self.base
            && fits
        {
            let kind = ValueKind::String;
            self.replace(Base::Put { kind, expires_at_ms: None, value: Vec::new() });
        }
        match &mut self.base {
            Base::Put { value, .. } if fits => {
                let (offset, end) = (offset as usize, end as usize);
                self.bytes += end.saturating_sub(value.len());
                value.resize(value.len().max(end), 0);
                value[offset..end].copy_from_slice(bytes);
            }
            Base::Put { .. } | Base::Older | Base::Deleted => self.writes.write(offset, bytes),
        }
    }

    fn hand_out<E>(&self, is_cleared: bool, sink: Sink<'_, E>) -> Result<(), E> {
        let (db, key) = (self.db, &*self.key);
        match &self.base {
            Base::Older => {}
            Base::Deleted => hand_out(&Op::Delete { db, key }, is_cleared, sink)?,
            Base::Put { kind, expires_at_ms, value } => {
                let (kind, expires_at_ms) = (*kind, *expires_at_ms);
                sink(&Op::Put { db, key, kind, expires_at_ms, value })?;
            }
        }
        for (offset, bytes) in self.writes.runs() {
            sink(&Op::Write { db, key, offset, bytes })?;
        }
        match self.expiry {
            Some(expires_at_ms) => sink(&Op::Expire { db, key, expires_at_ms }),
            None => Ok(()),
        }
    }
}
