//! The keys and values of one shard: one small hash table for each slot of its range.
//!
//! Pure and single-threaded: no clock (instants of expiry come in), no logging, no I/O. Reads are
//! *physical*: whether a key has expired is for the caller to judge, who also logs its deletion.
//!
//! Read in this order: `entry_layout` (a key and its value in one allocation), `value` (large
//! values in shared pieces), `table` (buckets of tagged pointers), `slot_table` (how tables grow
//! and split), this file (the operations), then `scan`, `expiry`, `reclaim`, `walk` and `digest`.
//!
//! Invariants:
//! - A key is in the table of its slot, in the database that its entry names; all 16 databases
//!   share the slot's table.
//! - Iteration goes by hash at every size of the tables, so a cursor survives any resize.
//! - Every change goes through `change`, `remove` or `clear`, which show the group of entries to
//!   a walk that goes on and has not reached it, before it changes.
//! - `memory_bytes` is what was requested for entries and tables, to the byte, until it is freed.

use std::mem::size_of;
use std::ops::Range;

use crate::entry::{Op, ValueKind};
use crate::slot::{SLOT_COUNT, slot_of};
use crate::types::{DATABASE_COUNT, DbIndex, Position, Slot};

mod digest;
mod entry_layout;
mod expiry;
mod hash;
mod reclaim;
mod scan;
mod slot_table;
mod table;
mod value;
mod walk;

#[cfg(test)]
mod model;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod walk_tests;

pub use digest::{Digester, EntryHead, SlotDigests};
pub use entry_layout::{EntryView, OwnedEntry};
pub use expiry::ExpireProgress;
pub use scan::ScanCursor;
pub use value::{
    LARGE_VALUE_BYTES, LargeValue, MAX_VALUE_BYTES, NewValue, OwnedValue, PIECE_BYTES, ValueView,
};
pub use walk::{WalkOutput, WalkPlan, WalkProgress};

use entry_layout::Entry;
use expiry::ExpiryVisit;
use hash::KeyHasher;
use reclaim::Graveyard;
use slot_table::{Shape, SlotTable};
use table::{Place, Subtable};
use value::Stored;
use walk::Walk;

/// A key with what is derived from it: computed once for all that a command does with it.
#[derive(Clone, Copy, Debug)]
pub struct KeyRef<'k> {
    /// The logical database.
    pub db: DbIndex,
    /// The slot of the key.
    pub slot: Slot,
    /// The hash, with the seed of one keyspace: good for no other.
    pub hash: u64,
    /// The key.
    pub key: &'k [u8],
}

/// Where a key will be looked for, without the key.
#[derive(Clone, Copy, Debug)]
pub struct PreparedKey {
    slot: Slot,
    hash: u64,
}

/// Why an op cannot be applied: it is none that an engine with this layout has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The key's slot belongs to another shard.
    #[error("slot {slot} is not of this shard ({first} to {end}, exclusive)")]
    ForeignSlot {
        /// The slot of the key.
        slot: Slot,
        /// The first slot of this keyspace.
        first: u16,
        /// The first slot behind this keyspace.
        end: u16,
    },
    /// The value would be longer than [`MAX_VALUE_BYTES`].
    #[error("a value would have {len} bytes, more than any may")]
    ValueLength {
        /// The length that the value would have.
        len: u64,
    },
}

/// All keys of one shard.
#[derive(Debug)]
pub struct Keyspace {
    range: Range<u16>,
    hasher: KeyHasher,
    slots: Vec<SlotTable>,
    /// For each slot a lower bound of the expiries in it, in milliseconds; `u64::MAX` if none.
    next_expiry_ms: Vec<u64>,
    expiry_visit: ExpiryVisit,
    db_keys: [u64; DATABASE_COUNT as usize],
    /// Of those, how many have an expiry.
    db_expiring: [u64; DATABASE_COUNT as usize],
    memory_bytes: usize,
    /// The stamp of the walk that goes on, or of the last one.
    stamp: u16,
    /// Walks since the last one that was completed; see [`walk`].
    abandoned_walks: u16,
    walk: Option<Box<Walk>>,
    graveyard: Graveyard,
}

impl Keyspace {
    /// An empty keyspace for a range of slots. `hash_seed` should be random: it keeps clients from
    /// choosing keys that collide.
    ///
    /// # Panics
    /// If the range is none of slots.
    pub fn new(slots: Range<u16>, hash_seed: u64) -> Self {
        assert!(slots.start <= slots.end && slots.end <= SLOT_COUNT, "slots {slots:?}");
        let count = slots.len();
        Self {
            range: slots,
            hasher: KeyHasher::new(hash_seed),
            slots: std::iter::repeat_with(SlotTable::default).take(count).collect(),
            next_expiry_ms: vec![u64::MAX; count],
            expiry_visit: ExpiryVisit::default(),
            db_keys: [0; DATABASE_COUNT as usize],
            db_expiring: [0; DATABASE_COUNT as usize],
            memory_bytes: count * (size_of::<SlotTable>() + size_of::<u64>()),
            stamp: 0,
            abandoned_walks: 0,
            walk: None,
            graveyard: Graveyard::default(),
        }
    }

    /// The slots of this keyspace.
    pub fn slots(&self) -> Range<u16> {
        self.range.clone()
    }

    /// A key with its slot and hash. The slot may be another shard's: see [`Self::owns`].
    pub fn key<'k>(&self, db: DbIndex, key: &'k [u8]) -> KeyRef<'k> {
        KeyRef { db, slot: slot_of(key), hash: self.hasher.hash(db, key), key }
    }

    /// Whether a slot is of this keyspace.
    pub fn owns(&self, slot: Slot) -> bool {
        self.range.contains(&slot.0)
    }

    /// The entry of a key.
    ///
    /// # Panics
    /// As all that takes a [`KeyRef`] or a [`Slot`]: if the slot is not of this keyspace.
    pub fn get(&self, key: &KeyRef<'_>) -> Option<EntryView<'_>> {
        let table = self.slots[self.index(key.slot)].table_of(key.hash)?;
        table.find(key.hash, key.db, key.key).map(|place| table.view(place))
    }

    /// The slot and the hash of a key that may be looked up soon; `None` if it is not of this
    /// shard.
    pub fn prepare(&self, db: DbIndex, key: &[u8]) -> Option<PreparedKey> {
        let key = self.key(db, key);
        self.owns(key.slot).then_some(PreparedKey { slot: key.slot, hash: key.hash })
    }

    /// The first of three steps that bring what a look-up reads into the cache; each is done for
    /// several keys before the next, so that their misses overlap.
    pub fn prefetch_slot(&self, key: PreparedKey) {
        table::prefetch(&raw const self.slots[self.index(key.slot)]);
    }

    /// The second step: the slot is there, and names the bucket.
    pub fn prefetch_bucket(&self, key: PreparedKey) {
        if let Some(table) = self.slots[self.index(key.slot)].table_of(key.hash) {
            table.prefetch_bucket(key.hash);
        }
    }

    /// The third step: the bucket is there, and names the entry.
    pub fn prefetch_entry(&self, key: PreparedKey) {
        if let Some(table) = self.slots[self.index(key.slot)].table_of(key.hash) {
            table.prefetch_entry(key.hash);
        }
    }

    /// Gives a key this value and expiry, whatever it held before; true if it did not exist.
    ///
    /// # Panics
    /// If the value is longer than [`MAX_VALUE_BYTES`], which the commands check.
    pub fn put(
        &mut self,
        key: &KeyRef<'_>,
        kind: ValueKind,
        value: NewValue<'_>,
        expires_at_ms: Option<u64>,
    ) -> bool {
        let stored = value.stored();
        let mut replaced = None;
        let created = self.change(key, |old| {
            if let Some(mut entry) = old {
                if let Stored::Inline(bytes) = &stored
                    && entry.try_overwrite(kind, bytes, expires_at_ms)
                {
                    return entry;
                }
                replaced = Some(entry);
            }
            Entry::new(key.db, key.key, kind, expires_at_ms, stored)
        });
        if let Some(entry) = replaced {
            self.bury(entry);
        }
        created
    }

    /// Removes a key; true if it existed.
    pub fn remove(&mut self, key: &KeyRef<'_>) -> bool {
        let index = self.index(key.slot);
        let Some((place, table)) = Self::locate(&mut self.slots[index], key) else { return false };
        if let Some(walk) = &mut self.walk {
            walk.before_change(table, key.hash, self.stamp);
        }
        let before = table.memory_bytes();
        let entry = table.take(place);
        let view = entry.view();
        let freed = view.memory_bytes() + before - table.memory_bytes();
        let expired = view.expires_at_ms().is_some();
        self.memory_bytes -= freed;
        self.bury(entry);
        self.count_removed(index, key.db, expired);
        self.reshape(index, key.hash);
        true
    }

    /// Gives a key another expiry, or takes it away; true if the key exists.
    pub fn set_expiry(&mut self, key: &KeyRef<'_>, expires_at_ms: Option<u64>) -> bool {
        if self.get(key).is_none() {
            return false;
        }
        self.change(key, |old| {
            let mut entry = old.expect("the key exists, as was just seen");
            if entry.try_set_expiry(expires_at_ms) {
                return entry;
            }
            let view = entry.view();
            let value = match view.value() {
                ValueView::Inline(bytes) => Stored::Inline(bytes),
                ValueView::Large(value) => Stored::Large(value.clone()),
            };
            Entry::new(key.db, key.key, view.kind(), expires_at_ms, value)
        });
        true
    }

    /// Puts `bytes` at an offset of a key's string; a gap before them is filled with zeros, a key
    /// that does not exist is made, and the expiry stays. Appending in a loop is amortized. No
    /// bytes change nothing, and make no key.
    ///
    /// # Panics
    /// If the value became longer than [`MAX_VALUE_BYTES`], which the commands check.
    pub fn write_range(&mut self, key: &KeyRef<'_>, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset.saturating_add(bytes.len());
        assert!(end <= MAX_VALUE_BYTES, "a value of {end} bytes");
        self.change(key, |old| {
            let empty =
                || Entry::new(key.db, key.key, ValueKind::String, None, Stored::Inline(&[]));
            write_into(old.unwrap_or_else(empty), key, offset, bytes)
        });
    }

    /// Applies an effect: what replay, images and transactions do.
    ///
    /// # Errors
    /// [`ApplyError`], and nothing changes. Ops that this engine wrote and that are of this shard
    /// never fail; those that come from a store are checked here.
    pub fn apply(&mut self, op: &Op<'_>) -> Result<(), ApplyError> {
        match *op {
            Op::Put { db, key, kind, expires_at_ms, value } => {
                let key = self.owned_key(db, key)?;
                check_length(value.len() as u64)?;
                self.put(&key, kind, NewValue::Bytes(value), expires_at_ms);
            }
            Op::Delete { db, key } => {
                let key = self.owned_key(db, key)?;
                self.remove(&key);
            }
            Op::Expire { db, key, expires_at_ms } => {
                let key = self.owned_key(db, key)?;
                self.set_expiry(&key, expires_at_ms);
            }
            Op::Write { db, key, offset, bytes } => {
                let key = self.owned_key(db, key)?;
                check_length(offset.saturating_add(bytes.len() as u64))?;
                self.write_range(&key, offset as usize, bytes);
            }
            Op::Clear { first, last, db } => self.clear(first, last, db),
        }
        Ok(())
    }

    /// How many keys a database has, expired ones that nobody removed included.
    pub fn len(&self, db: DbIndex) -> u64 {
        self.db_keys[usize::from(db.0)]
    }

    /// Whether there is no key in any database.
    pub fn is_empty(&self) -> bool {
        self.total_len() == 0
    }

    /// How many keys there are in all databases.
    pub fn total_len(&self) -> u64 {
        self.db_keys.iter().sum()
    }

    /// How many keys a slot has, in all databases.
    pub fn slot_len(&self, slot: Slot) -> u64 {
        self.slots[self.index(slot)].keys
    }

    /// How many keys of a database have an expiry.
    pub fn expiring_len(&self, db: DbIndex) -> u64 {
        self.db_expiring[usize::from(db.0)]
    }

    /// Notes the place in the log of the last record that concerns a slot.
    pub fn touch(&mut self, slot: Slot, position: Position) {
        let index = self.index(slot);
        self.slots[index].last_position = position;
    }

    /// What was noted last by [`Self::touch`].
    pub fn last_position(&self, slot: Slot) -> Position {
        self.slots[self.index(slot)].last_position
    }

    /// What entries and tables occupy, in requested bytes: also what waits to be freed, and what a
    /// walk was handed over.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes + self.walk.as_ref().map_or(0, |walk| walk.held_bytes())
    }

    fn owned_key<'k>(&self, db: DbIndex, key: &'k [u8]) -> Result<KeyRef<'k>, ApplyError> {
        let key = self.key(db, key);
        if self.owns(key.slot) {
            Ok(key)
        } else {
            let Range { start: first, end } = self.range;
            Err(ApplyError::ForeignSlot { slot: key.slot, first, end })
        }
    }

    fn index(&self, slot: Slot) -> usize {
        assert!(self.owns(slot), "slot {slot} is not of {:?}", self.range);
        usize::from(slot.0 - self.range.start)
    }

    fn shape(&self) -> Shape {
        Shape { stamp: self.stamp, walking: self.walk.is_some() }
    }

    fn locate<'a>(slot: &'a mut SlotTable, key: &KeyRef<'_>) -> Option<(Place, &'a mut Subtable)> {
        let table = slot.table_of_mut(key.hash)?;
        table.find(key.hash, key.db, key.key).map(|place| (place, table))
    }

    /// Makes or changes the entry of a key: `make` gets the present one and returns the next. True
    /// if there was none. The one way to put something into the tables.
    fn change(&mut self, key: &KeyRef<'_>, make: impl FnOnce(Option<Entry>) -> Entry) -> bool {
        let index = self.index(key.slot);
        let slot = &mut self.slots[index];
        let is_new = slot.keys == 0;
        let table = slot.table_or_new(key.hash, self.stamp);
        let before = if is_new { 0 } else { table.memory_bytes() };
        if let Some(walk) = &mut self.walk {
            walk.before_change(table, key.hash, self.stamp);
        }
        let footprint = |view: EntryView<'_>| (view.memory_bytes(), view.expires_at_ms());
        let (old, new);
        match table.find(key.hash, key.db, key.key) {
            Some(place) => {
                old = Some(footprint(table.view(place)));
                table.update(place, |entry| make(Some(entry)));
                new = footprint(table.view(place));
            }
            None => {
                let entry = make(None);
                (old, new) = (None, footprint(entry.view()));
                table.insert(key.hash, entry);
            }
        }
        let ((new_bytes, expiry), created) = (new, old.is_none());
        let (old_bytes, old_expiry) = old.unwrap_or_default();
        self.memory_bytes += new_bytes + table.memory_bytes() - before;
        self.memory_bytes -= old_bytes;
        if expiry.is_some() != old_expiry.is_some() {
            let expiring = &mut self.db_expiring[usize::from(key.db.0)];
            let change = if expiry.is_some() { 1 } else { u64::MAX };
            slot.expiring = slot.expiring.wrapping_add(change);
            *expiring = expiring.wrapping_add(change);
        }
        if created {
            slot.keys += 1;
            self.db_keys[usize::from(key.db.0)] += 1;
        }
        self.note_expiry(index, expiry);
        if created {
            self.reshape(index, key.hash);
        }
        created
    }

    fn count_removed(&mut self, index: usize, db: DbIndex, expiring: bool) {
        self.db_keys[usize::from(db.0)] -= 1;
        self.db_expiring[usize::from(db.0)] -= u64::from(expiring);
        let slot = &mut self.slots[index];
        slot.keys -= 1;
        slot.expiring -= u64::from(expiring);
        if slot.expiring == 0 {
            self.next_expiry_ms[index] = u64::MAX;
        }
    }

    /// Lets a subtable take its proper shape after its number of entries changed. One that is too
    /// full to wait for the walk is walked here, which is no more than it held at the cut.
    fn reshape(&mut self, index: usize, hash: u64) {
        let slot = &mut self.slots[index];
        if slot.keys == 0 {
            self.memory_bytes -= slot.memory_bytes();
            drop(slot.take_tables());
            return;
        }
        let Some(table) = slot.table_of_mut(hash) else { return };
        if !SlotTable::is_misshapen(table) {
            return;
        }
        if let Some(walk) = &mut self.walk
            && table.walked != self.stamp
            && SlotTable::is_overfull(table)
        {
            walk.walk_table(table, self.stamp);
        }
        let shape = self.shape();
        let slot = &mut self.slots[index];
        self.memory_bytes = self
            .memory_bytes
            .checked_add_signed(slot.reshape(hash, shape, &self.hasher))
            .expect("what is freed was counted");
    }
}

/// An entry with `bytes` at an offset of its value.
fn write_into(mut entry: Entry, key: &KeyRef<'_>, offset: usize, bytes: &[u8]) -> Entry {
    if let Some(value) = entry.large_mut() {
        value.write(offset, bytes);
        return entry;
    }
    let end = offset + bytes.len();
    let view = entry.view();
    if let (ValueView::Inline(old), true) = (view.value(), end > LARGE_VALUE_BYTES) {
        let mut value = LargeValue::from_bytes(old);
        value.write(offset, bytes);
        let (kind, expiry) = (view.kind(), view.expires_at_ms());
        return Entry::new(key.db, key.key, kind, expiry, Stored::Large(value));
    }
    if end > view.value().len() {
        entry = entry.grow_inline(end);
    }
    let value = entry.inline_mut().expect("large values were written above");
    value[offset..end].copy_from_slice(bytes);
    entry
}

fn check_length(len: u64) -> Result<(), ApplyError> {
    if len <= MAX_VALUE_BYTES as u64 { Ok(()) } else { Err(ApplyError::ValueLength { len }) }
}
