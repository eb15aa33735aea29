//! The walk: the keyspace as it is at one instant, serialized a slice at a time while it changes.
//!
//! `begin_walk` freezes the view. `walk_slice` goes through the tables by slot and hash, and
//! serializes one group of entries (a bucket with its chain) after the other. Whoever is about to
//! change a group that the walk has not reached serializes it first. So the image holds exactly the
//! entries of the beginning, each once, in no promised order.
//!
//! - **Stamps.** Every group carries the stamp of the last walk that serialized it, or under
//!   which it was made; a group with the present walk's stamp is behind it. A subtable is *walked*
//!   once the walk has passed it whole, and changes its shape only then: until then its chains
//!   grow. One that gets half as full again as it should be is serialized whole at once instead,
//!   which is bounded by what it held at the beginning.
//! - **Stamps wrap around.** A completed walk leaves every group with its stamp, so older stamps
//!   exist only after walks that were abandoned. These are counted, and before their number could
//!   bring an old stamp round again, all groups are stamped anew.
//! - **Huge values** are not serialized at once: the walk keeps a clone, which shares the pieces,
//!   and later slices turn it into a `Put` of the first piece and a `Write` for each other. What
//!   belongs to one value stays in this order, with other entries in between.
//! - **Cleared tables** that were not walked are handed over, serialized and freed in slices.
//! - **Digests** of the slots are summed up on the way ([`super::digest`]), and where nothing but
//!   they are wanted no entry is serialized.
//! - **Excluded keys** are those under unresolved intents. The caller writes them, with
//!   [`Keyspace::walk_include`] or into the output.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::digest::{Digester, EntryHead, SlotDigests};
use super::reclaim::Detached;
use super::slot_table::SlotTable;
use super::table::Subtable;
use super::value::{LargeValue, ValueView};
use super::{EntryView, KeyRef, Keyspace};
use crate::entry::{Op, ValueKind};
use crate::slot::slot_of;
use crate::types::{DbIndex, Slot};

/// What one step takes of the budget beyond the bytes that it writes, so that a slice over empty
/// slots and groups ends too.
const STEP_COST_BYTES: usize = 16;
/// How many buckets ahead of the walk the entries are asked for; without that it waits for each
/// (5 million of 116 bytes: 0.70 s of the shards' CPU, and 1.79 s without).
const AHEAD_BUCKETS: u32 = 2;
/// Abandoned walks in a row after which all groups are stamped anew.
const MAX_ABANDONED_WALKS: u16 = u16::MAX - 1;

/// Whether the walk has reached its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkProgress {
    /// There is more to serialize.
    More,
    /// Everything is in the output. Excluded keys may still be included.
    Done,
}

/// What a walk is to do.
#[derive(Clone, Debug)]
pub struct WalkPlan {
    /// Keys, present or not, that are left to the caller.
    pub excluded: Vec<(DbIndex, Vec<u8>)>,
    /// Keys the digests.
    pub digest_seed: u64,
    /// Whether entries are serialized, or only their digests summed up.
    pub serializes: bool,
}

/// What the walk has serialized and nobody has taken yet.
#[derive(Debug, Default)]
pub struct WalkOutput {
    /// Encoded [`Op`]s: a `Put` for each entry, followed by `Write`s if its value is large.
    pub bytes: Vec<u8>,
    /// How many entries the walk has passed since it began; a `Put` each.
    pub entries: u64,
    /// How many ops it has written since it began.
    pub ops: u64,
}

/// A large value that waits to be serialized.
#[derive(Debug)]
struct Pending {
    db: DbIndex,
    slot: Slot,
    key: Box<[u8]>,
    kind: ValueKind,
    expires_at_ms: Option<u64>,
    value: LargeValue,
    next_piece: usize,
    /// What its runs are added to the digest with.
    digest_head: u64,
    /// The bytes counted as held for it: those of a value that is changed or removed meanwhile.
    held_bytes: usize,
}

/// One walk.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) serializes: bool,
    pub(super) digester: Digester,
    excluded: BTreeMap<DbIndex, BTreeSet<Vec<u8>>>,
    /// The slot that is next, as an index.
    index: usize,
    /// Where to go on in that slot.
    hash: u64,
    detached: VecDeque<Detached>,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    held_bytes: usize,
    /// Bytes of entries that were looked at, which is what a slice is measured by.
    passed_bytes: usize,
    output: WalkOutput,
}

impl Keyspace {
    /// Freezes the view.
    ///
    /// # Panics
    /// If a walk goes on: there is one at a time.
    pub fn begin_walk(&mut self, plan: WalkPlan) {
        assert!(self.walk.is_none(), "one walk at a time");
        if self.abandoned_walks >= MAX_ABANDONED_WALKS {
            self.stamp_all();
            self.abandoned_walks = 0;
        }
        self.stamp = self.stamp.wrapping_add(1);
        let mut excluded: BTreeMap<DbIndex, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for (db, key) in plan.excluded {
            excluded.entry(db).or_default().insert(key);
        }
        self.walk = Some(Box::new(Walk {
            serializes: plan.serializes,
            digester: Digester::new(self.range.clone(), plan.digest_seed),
            excluded,
            index: 0,
            hash: 0,
            detached: VecDeque::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            held_bytes: 0,
            passed_bytes: 0,
            output: WalkOutput::default(),
        }));
    }

    /// Whether a walk goes on.
    pub fn is_walking(&self) -> bool {
        self.walk.is_some()
    }

    /// Passes about `budget_bytes` (and at least one group or piece). Without a walk: `Done`.
    pub fn walk_slice(&mut self, budget_bytes: usize) -> WalkProgress {
        let mut spent = 0;
        loop {
            match self.walk_step() {
                Some(bytes) => spent += bytes + STEP_COST_BYTES,
                None => return WalkProgress::Done,
            }
            if spent >= budget_bytes {
                return WalkProgress::More;
            }
        }
    }

    /// What was serialized; the caller takes the bytes away.
    ///
    /// # Panics
    /// If no walk goes on.
    pub fn walk_output(&mut self) -> &mut WalkOutput {
        &mut self.walk.as_mut().expect("a walk goes on").output
    }

    /// Bytes in the output and of large values that wait to get there. (Cleared tables that were
    /// handed over are not among them; they count as memory.)
    pub fn walk_pending_bytes(&self) -> usize {
        self.walk.as_ref().map_or(0, |walk| walk.output.bytes.len() + walk.pending_bytes)
    }

    /// Whether the walk has yet to serialize this key's group, which a change of the key would
    /// force now.
    pub fn walk_contains(&self, key: &KeyRef<'_>) -> bool {
        let Some(table) = self.slots[self.index(key.slot)].table_of(key.hash) else { return false };
        self.walk.is_some()
            && table.walked != self.stamp
            && table.stamp(table.bucket_of(key.hash)) != self.stamp
    }

    /// Whether the walk leaves this key to the caller.
    pub fn walk_excludes(&self, key: &KeyRef<'_>) -> bool {
        self.walk.as_ref().is_some_and(|walk| walk.excludes(key.db, key.key))
    }

    /// Serializes an excluded key as it is now; false if it does not exist. To be called once for
    /// each, when its intent is resolved.
    ///
    /// # Panics
    /// If no walk goes on, or the walk does not exclude the key and so writes it itself.
    pub fn walk_include(&mut self, key: &KeyRef<'_>) -> bool {
        assert!(self.walk_excludes(key), "the walk writes the other keys");
        let mut walk = self.walk.take().expect("a walk goes on");
        let entry = self.get(key);
        if let Some(entry) = entry {
            walk.write(key.slot, entry, true);
        }
        let found = entry.is_some();
        self.walk = Some(walk);
        found
    }

    /// Ends a walk whose output was taken, and answers the digests of the slots.
    ///
    /// # Panics
    /// If it is not done.
    pub fn end_walk(&mut self) -> SlotDigests {
        let walk = self.walk.take().expect("a walk goes on");
        assert!(walk.is_done(self.slots.len()), "the walk is not done");
        self.abandoned_walks = 0;
        walk.digester.into_digests()
    }

    /// Gives the walk up, and what it has serialized and was handed over.
    pub fn abandon_walk(&mut self) {
        let Some(walk) = self.walk.take() else { return };
        self.abandoned_walks += 1;
        walk.detached.into_iter().for_each(|detached| self.graveyard.take_table(detached));
    }

    /// Passes the next piece or group; returns its bytes, and `None` at the end.
    fn walk_step(&mut self) -> Option<usize> {
        let walk = self.walk.as_mut()?;
        let before = walk.passed_bytes;
        if walk.write_piece() {
            return Some(walk.passed_bytes - before);
        }
        if !walk.detached.is_empty() {
            self.memory_bytes -= walk.step_detached(self.stamp);
            return Some(walk.passed_bytes - before);
        }
        let index = walk.index;
        let passed = walk.step_slot(self.slots.get_mut(index)?, self.stamp);
        let passed_bytes = walk.passed_bytes - before;
        if let Some(hash) = passed {
            // What the subtable put off while it was not walked.
            self.reshape(index, hash);
        }
        Some(passed_bytes)
    }

    /// Stamps all groups as the last walk would have done, had it been completed.
    fn stamp_all(&mut self) {
        for table in self.slots.iter_mut().flat_map(SlotTable::tables_mut) {
            for bucket in 0..table.bucket_count() {
                table.set_stamp(bucket, self.stamp);
            }
            table.walked = self.stamp;
        }
    }
}

impl Walk {
    /// To be called before a group changes: serializes it if the walk has not reached it.
    pub(super) fn before_change(&mut self, table: &mut Subtable, hash: u64, stamp: u16) {
        if table.walked != stamp {
            self.copy_group(table, table.bucket_of(hash), stamp);
        }
    }

    /// Serializes a group that is about to change, if the walk has not reached it.
    pub(super) fn copy_group(&mut self, table: &mut Subtable, bucket: u32, stamp: u16) {
        self.serialize_group(table, bucket, stamp, true);
    }

    /// Serializes a whole subtable that cannot wait.
    pub(super) fn walk_table(&mut self, table: &mut Subtable, stamp: u16) {
        for bucket in 0..table.bucket_count() {
            self.copy_group(table, bucket, stamp);
        }
        table.walked = stamp;
    }

    /// Takes a subtable that was cleared before it was walked.
    pub(super) fn take_over(&mut self, detached: Detached) {
        self.detached.push_back(detached);
    }

    /// Memory of values that the tables do not hold any more.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    #[cfg(test)]
    pub(super) fn detached_bytes(&self) -> usize {
        self.detached.iter().map(Detached::bytes).sum()
    }

    fn is_done(&self, slot_count: usize) -> bool {
        self.index == slot_count && self.detached.is_empty() && self.pending.is_empty()
    }

    fn excludes(&self, db: DbIndex, key: &[u8]) -> bool {
        self.excluded.get(&db).is_some_and(|keys| keys.contains(key))
    }

    /// Serializes the group at the cursor and moves on; returns a hash of the subtable if it is
    /// walked now.
    fn step_slot(&mut self, slot: &mut SlotTable, stamp: u16) -> Option<u64> {
        let at = self.hash;
        let Some(table) = slot.table_of_mut(at) else {
            self.advance(None);
            return None;
        };
        if table.walked == stamp {
            self.advance(table.end());
            return None;
        }
        let bucket = table.bucket_of(at);
        if bucket == 0 {
            (0..AHEAD_BUCKETS).for_each(|ahead| table.prefetch_entries(ahead));
        }
        table.prefetch_entries(bucket + AHEAD_BUCKETS);
        self.serialize_group(table, bucket, stamp, false);
        self.advance(table.hash_after(bucket));
        if bucket + 1 < table.bucket_count() {
            return None;
        }
        table.walked = stamp;
        Some(at)
    }

    fn advance(&mut self, hash: Option<u64>) {
        match hash {
            Some(hash) => self.hash = hash,
            None => (self.index, self.hash) = (self.index + 1, 0),
        }
    }

    /// Serializes and frees the next group of the tables that were handed over; returns the bytes
    /// freed.
    fn step_detached(&mut self, stamp: u16) -> usize {
        let Some(mut detached) = self.detached.pop_front() else { return 0 };
        self.serialize_group(&mut detached.table, detached.bucket, stamp, true);
        let (_, freed) = detached.free_bucket();
        if detached.is_done() {
            return freed + detached.table.memory_bytes();
        }
        self.detached.push_front(detached);
        freed
    }

    fn serialize_group(&mut self, table: &mut Subtable, bucket: u32, stamp: u16, forced: bool) {
        if table.stamp(bucket) == stamp {
            return;
        }
        table.set_stamp(bucket, stamp);
        // A group is of one table, and a table of one slot: its hash tag is looked for once.
        let mut slot = None;
        table.for_chain(bucket, |entry, _| {
            if self.excluded.is_empty() || !self.excludes(entry.db(), entry.key()) {
                let slot = *slot.get_or_insert_with(|| slot_of(entry.key()));
                self.write(slot, entry, forced);
            }
        });
    }

    /// Writes an entry, or lets its large value wait.
    fn write(&mut self, slot: Slot, entry: EntryView<'_>, forced: bool) {
        let (db, key, kind) = (entry.db(), entry.key(), entry.kind());
        let expires_at_ms = entry.expires_at_ms();
        let head = |value_len| EntryHead { db, key, kind, expires_at_ms, value_len };
        match entry.value() {
            ValueView::Inline(value) => {
                self.digester.add(slot, &head(value.len()), value);
                if self.serializes {
                    Op::Put { db, key, kind, expires_at_ms, value }.encode(&mut self.output.bytes);
                    self.output.ops += 1;
                }
                self.output.entries += 1;
                self.passed_bytes += key.len() + value.len();
            }
            ValueView::Large(value) => {
                let held_bytes = if forced { value.memory_bytes() } else { 0 };
                self.held_bytes += held_bytes;
                self.pending_bytes += value.len();
                let first = if value.is_empty() { &[] } else { value.piece(0) };
                let digest_head = self.digester.add_head(slot, &head(value.len()), first);
                self.pending.push_back(Pending {
                    db,
                    slot,
                    key: key.into(),
                    kind,
                    expires_at_ms,
                    value: value.clone(),
                    next_piece: 0,
                    digest_head,
                    held_bytes,
                });
            }
        }
    }

    /// Writes the next piece of the large values that wait; false if there are none.
    fn write_piece(&mut self) -> bool {
        let Some(pending) = self.pending.front_mut() else { return false };
        let (db, key, index) = (pending.db, &*pending.key, pending.next_piece);
        let count = pending.value.piece_count();
        let bytes = if index < count { pending.value.piece(index) } else { &[] };
        let (slot, head, len) = (pending.slot, pending.digest_head, pending.value.len());
        self.digester.add_run(slot, head, len, index, bytes);
        if index == 0 {
            self.output.entries += 1;
        }
        if self.serializes && index == 0 {
            let (kind, expires_at_ms) = (pending.kind, pending.expires_at_ms);
            Op::Put { db, key, kind, expires_at_ms, value: bytes }.encode(&mut self.output.bytes);
        } else if self.serializes {
            let offset = (index * super::PIECE_BYTES) as u64;
            Op::Write { db, key, offset, bytes }.encode(&mut self.output.bytes);
        }
        self.output.ops += u64::from(self.serializes);
        self.passed_bytes += bytes.len();
        self.pending_bytes -= bytes.len();
        pending.next_piece += 1;
        if pending.next_piece >= count {
            self.held_bytes -= pending.held_bytes;
            self.pending.pop_front();
        }
        true
    }
}
