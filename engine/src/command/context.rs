//! What a command on keys sees: the keyspace of its shard at one instant, and a place where every
//! change that it makes is also written down as an [`Op`].
//!
//! The same commands run on the shard's own keyspace (a command on one shard: applied at once) and
//! on a scratch copy of a transaction's keys (several shards: the ops are logged everywhere first,
//! and applied after). They cannot tell which.
//!
//! Invariants: no command changes the keyspace but through this type, so no change escapes the
//! log; a key past its expiry is absent to every command, whether or not it was removed yet.

use crate::entry::{Op, ValueKind};
use crate::keyspace::{
    EntryView, KeyRef, Keyspace, MAX_VALUE_BYTES, NewValue, OwnedEntry, ValueView,
};
use crate::slot::SLOT_COUNT;
use crate::types::{DbIndex, Slot};

/// The longest string: Redis' proto-max-bulk-len. The decoder lets no longer argument through.
pub const MAX_STRING_BYTES: usize = MAX_VALUE_BYTES;

/// The keyspace of a shard as one command sees it.
pub struct Context<'a> {
    /// The database that the command is for.
    pub db: DbIndex,
    /// The instant by which expiry is judged, in milliseconds since the Unix epoch: the same for
    /// all commands of a transaction, on all shards.
    pub now_ms: u64,
    /// A random number, for RANDOMKEY; 0 unless [`Self::with_random`] gave one.
    pub random: u64,
    /// Whether SCAN ends with this shard's slots, as on a cluster's node.
    pub as_node: bool,
    keyspace: &'a mut Keyspace,
    effects: &'a mut Effects,
}

/// The ops of a command, encoded, in order.
#[derive(Debug, Default)]
pub struct Effects {
    /// The encoded ops; stays empty while nobody needs them.
    pub ops: Vec<u8>,
    /// How many changes were made, whether or not they were encoded.
    pub count: u64,
    /// Whether ops are encoded: false without a log, outside of a snapshot's tail.
    pub encode: bool,
    /// How many look-ups of reading commands have found a key, and how many have not. They go on
    /// over all commands.
    pub lookups: Lookups,
}

/// What INFO calls `keyspace_hits` and `keyspace_misses`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lookups {
    /// The key was there.
    pub hits: u64,
    /// It was not, or had expired.
    pub misses: u64,
}

impl Lookups {
    fn count(&mut self, hit: bool) {
        *if hit { &mut self.hits } else { &mut self.misses } += 1;
    }
}

impl Effects {
    /// Forgets the ops of the last command and keeps the memory.
    pub fn reset(&mut self, encode: bool) {
        /// A buffer that one huge value made is not kept for ever.
        const KEPT_BYTES: usize = 1 << 20;
        self.ops.clear();
        self.ops.shrink_to(KEPT_BYTES);
        self.count = 0;
        self.encode = encode;
    }

    /// Whether nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Notes a change.
    pub fn push(&mut self, op: &Op<'_>) {
        self.count += 1;
        if self.encode {
            op.encode(&mut self.ops);
        }
    }
}

impl<'a> Context<'a> {
    /// A context over a keyspace; changes are written to `effects` too.
    pub fn new(
        db: DbIndex,
        now_ms: u64,
        keyspace: &'a mut Keyspace,
        effects: &'a mut Effects,
    ) -> Self {
        Self { db, now_ms, random: 0, as_node: false, keyspace, effects }
    }

    /// The same with a random number, which only commands that choose a key need.
    pub fn with_random(self, random: u64) -> Self {
        Self { random, ..self }
    }

    /// The same for a client that takes this shard for a node of a cluster.
    pub fn as_node(self, as_node: bool) -> Self {
        Self { as_node, ..self }
    }

    /// The keyspace, to look at. Its entries are physical: see [`Self::is_live`].
    pub fn keyspace(&self) -> &Keyspace {
        self.keyspace
    }

    /// Whether an entry of the keyspace has not expired.
    pub fn is_live(&self, entry: EntryView<'_>) -> bool {
        entry.expires_at_ms().is_none_or(|at_ms| at_ms > self.now_ms)
    }

    /// Prepares a key of this command's database for look-ups: slot and hash, once.
    pub fn key<'k>(&self, key: &'k [u8]) -> KeyRef<'k> {
        self.keyspace.key(self.db, key)
    }

    /// Prepares a key of another database (COPY ... DB).
    pub fn key_in<'k>(&self, db: DbIndex, key: &'k [u8]) -> KeyRef<'k> {
        self.keyspace.key(db, key)
    }

    /// The entry of a key, if there is one and it has not expired.
    pub fn get(&self, key: &KeyRef<'_>) -> Option<EntryView<'_>> {
        self.keyspace.get(key).filter(|entry| self.is_live(*entry))
    }

    /// The same for a command that reads: it counts as a hit or a miss.
    pub fn read(&mut self, key: &KeyRef<'_>) -> Option<EntryView<'_>> {
        let now_ms = self.now_ms;
        let found = self.keyspace.get(key);
        let found = found.filter(|entry| entry.expires_at_ms().is_none_or(|at_ms| at_ms > now_ms));
        self.effects.lookups.count(found.is_some());
        found
    }

    /// Counts a hit or a miss of a command that reads and writes.
    pub fn count_lookup(&mut self, hit: bool) {
        self.effects.lookups.count(hit);
    }

    /// Whether the key exists.
    pub fn exists(&self, key: &KeyRef<'_>) -> bool {
        self.get(key).is_some()
    }

    /// An owned copy of the entry; pieces of large values are shared, not copied.
    pub fn get_owned(&self, key: &KeyRef<'_>) -> Option<OwnedEntry> {
        self.get(key).map(EntryView::to_owned)
    }

    /// Sets a key to a string value and an expiry.
    pub fn put_string(&mut self, key: &KeyRef<'_>, value: &[u8], expires_at_ms: Option<u64>) {
        let kind = ValueKind::String;
        self.effects.push(&Op::Put { db: key.db, key: key.key, kind, expires_at_ms, value });
        self.keyspace.put(key, kind, NewValue::Bytes(value), expires_at_ms);
    }

    /// Sets a key to an entry taken from another key (RENAME, COPY).
    pub fn put_entry(&mut self, key: &KeyRef<'_>, entry: OwnedEntry) {
        let OwnedEntry { kind, expires_at_ms, value, .. } = entry;
        let mut bytes = Vec::new();
        let view = value.view();
        let encoded = match view {
            ValueView::Inline(inline) => inline,
            ValueView::Large(_) if !self.effects.encode => &[],
            ValueView::Large(_) => {
                view.copy_to(&mut bytes);
                &bytes
            }
        };
        self.effects.push(&Op::Put {
            db: key.db,
            key: key.key,
            kind,
            expires_at_ms,
            value: encoded,
        });
        self.keyspace.put(key, kind, NewValue::Owned(value), expires_at_ms);
    }

    /// Writes bytes at an offset of a string that may not exist; a gap is filled with zeros, the
    /// expiry stays. The length of the result is at most [`MAX_STRING_BYTES`]: the caller checked.
    pub fn write_range(&mut self, key: &KeyRef<'_>, offset: usize, bytes: &[u8]) {
        debug_assert!(offset + bytes.len() <= MAX_STRING_BYTES);
        self.purge_expired(key);
        self.effects.push(&Op::Write { db: key.db, key: key.key, offset: offset as u64, bytes });
        self.keyspace.write_range(key, offset, bytes);
    }

    /// Removes a key; false if there was none, or an expired one.
    pub fn remove(&mut self, key: &KeyRef<'_>) -> bool {
        if !self.exists(key) {
            return false;
        }
        self.remove_physically(key);
        true
    }

    /// Sets or takes away the expiry of a key that exists.
    pub fn set_expiry(&mut self, key: &KeyRef<'_>, expires_at_ms: Option<u64>) {
        debug_assert!(self.exists(key));
        self.effects.push(&Op::Expire { db: key.db, key: key.key, expires_at_ms });
        self.keyspace.set_expiry(key, expires_at_ms);
    }

    /// Removes every key of this shard, in one database or in all.
    pub fn clear(&mut self, db: Option<DbIndex>) {
        let slots = self.keyspace.slots();
        let (first, last) = (Slot(slots.start), Slot(slots.end.clamp(1, SLOT_COUNT) - 1));
        self.effects.push(&Op::Clear { first, last, db });
        self.keyspace.clear(first, last, db);
    }

    /// Removes a key that is past its expiry, so that what is written now does not build on it.
    fn purge_expired(&mut self, key: &KeyRef<'_>) {
        if self.keyspace.get(key).is_some() && !self.exists(key) {
            self.remove_physically(key);
        }
    }

    fn remove_physically(&mut self, key: &KeyRef<'_>) {
        self.effects.push(&Op::Delete { db: key.db, key: key.key });
        self.keyspace.remove(key);
    }
}
