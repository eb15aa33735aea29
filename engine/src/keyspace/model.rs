//! A simple model of the keyspace, for tests: a map, random changes that both undergo, and what
//! must hold between any two of them. The tests are in `model_tests` and `walk_tests`.

use std::collections::BTreeMap;

use super::*;

/// A key's value and expiry.
pub(super) type Model = BTreeMap<(DbIndex, Vec<u8>), (Vec<u8>, Option<u64>)>;

/// A generator (splitmix64), so that a printed seed repeats a failure.
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let first = self.next() as u8;
        (0..len).map(|at| first.wrapping_add((at / 3) as u8)).collect()
    }

    /// Mostly short, sometimes around the bound of large values, seldom of several pieces.
    pub fn value(&mut self) -> Vec<u8> {
        let len = match self.below(400) {
            0 => self.below(300_000),
            1..3 => 65_000 + self.below(1_000),
            3..20 => self.below(5_000),
            _ => self.below(150),
        };
        self.bytes(len as usize)
    }

    /// Keys of three slots, and some of many.
    pub fn key(&mut self, universe: u64) -> Vec<u8> {
        let number = self.below(universe);
        match number % 8 {
            0 => format!("free{number}").into_bytes(),
            1 => format!("{{b}}{number}").into_bytes(),
            2 => format!("{{c}}{number}").into_bytes(),
            _ => format!("{{a}}{number}").into_bytes(),
        }
    }

    pub fn db(&mut self) -> DbIndex {
        DbIndex([0, 0, 0, 3, 15][self.below(5) as usize])
    }
}

pub(super) fn contents(value: ValueView<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.copy_to(&mut bytes);
    bytes
}

/// One random change of both; `shrinking` makes removals likelier than creations.
pub(super) fn mutate(
    keys: &mut Keyspace,
    model: &mut Model,
    random: &mut Random,
    universe: u64,
    shrinking: bool,
) {
    let (db, key) = (random.db(), random.key(universe));
    let at = (db, key.clone());
    let key = keys.key(db, &key);
    let expiry = (random.below(3) == 0).then(|| 1 + random.below(1000));
    match random.below(if shrinking { 60 } else { 20 }) {
        0..9 => {
            let value = random.value();
            let created = keys.put(&key, ValueKind::String, NewValue::Bytes(&value), expiry);
            assert_eq!(created, model.insert(at, (value, expiry)).is_none());
        }
        9 | 10 => {
            let existed = keys.set_expiry(&key, expiry);
            assert_eq!(existed, model.contains_key(&at));
            model.entry(at).and_modify(|entry| entry.1 = expiry);
        }
        11..14 => {
            let (bytes, old) = (random.value(), model.get(&at).map_or(0, |entry| entry.0.len()));
            let offset = match random.below(4) {
                0 => 0,
                1 => old,
                2 => random.below(old as u64 + 1) as usize,
                _ => old + random.below(100) as usize,
            };
            keys.write_range(&key, offset, &bytes);
            if !bytes.is_empty() {
                let value = &mut model.entry(at).or_default().0;
                value.resize(value.len().max(offset + bytes.len()), 0);
                value[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
        }
        14 => {
            // As RENAME does: the value goes from one entry to another one.
            let other = random.key(universe);
            let Some(entry) = keys.get(&key).map(EntryView::to_owned) else { return };
            let other_key = keys.key(db, &other);
            keys.remove(&key);
            keys.put(&other_key, entry.kind, NewValue::Owned(entry.value), entry.expires_at_ms);
            let moved = model.remove(&at).expect("in the model too");
            model.insert((db, other), moved);
        }
        15 if random.below(100) == 0 => {
            let only = (random.below(2) == 0).then_some(db);
            let (first, last) = match random.below(3) {
                0 => (Slot(0), Slot(SLOT_COUNT - 1)),
                1 => (key.slot, key.slot),
                _ => (Slot(random.below(10_000) as u16), Slot(10_000 + random.below(6_384) as u16)),
            };
            keys.clear(first, last, only);
            model.retain(|(db, key), _| {
                let slot = slot_of(key);
                slot < first || slot > last || only.is_some_and(|only| only != *db)
            });
        }
        15 => {
            keys.reclaim_slice(random.below(50) as usize);
        }
        _ => assert_eq!(keys.remove(&key), model.remove(&at).is_some()),
    }
}

/// Checks what must hold between any two operations.
pub(super) fn audit(keys: &Keyspace) {
    let (mut db_keys, mut db_expiring) = ([0; 16], [0; 16]);
    let mut bytes = keys.slots.len() * (size_of::<SlotTable>() + size_of::<u64>());
    for (index, slot) in keys.slots.iter().enumerate() {
        let (mut count, mut expiring, mut bound, mut next_hash) = (0, 0, u64::MAX, Some(0));
        bytes += slot.memory_bytes();
        for table in slot.tables() {
            assert_eq!(Some(table.prefix()), next_hash, "subtables cover all hashes, in order");
            next_hash = table.end();
            let mut len = 0;
            for bucket in 0..table.bucket_count() {
                table.for_chain(bucket, |entry, expires| {
                    let key = keys.key(entry.db(), entry.key());
                    assert_eq!(usize::from(key.slot.0 - keys.range.start), index);
                    assert_eq!(table.bucket_of(key.hash), bucket);
                    assert!(table.find(key.hash, key.db, key.key).is_some());
                    assert_eq!(expires, entry.expires_at_ms().is_some());
                    bound = bound.min(entry.expires_at_ms().unwrap_or(u64::MAX));
                    expiring += u64::from(expires);
                    db_keys[usize::from(entry.db().0)] += 1;
                    db_expiring[usize::from(entry.db().0)] += u64::from(expires);
                    bytes += entry.memory_bytes();
                    len += 1;
                });
            }
            assert_eq!(len, table.len());
            count += u64::from(len);
        }
        assert!(slot.keys == 0 || next_hash.is_none());
        assert_eq!((slot.keys, slot.expiring), (count, expiring));
        assert_eq!(slot.keys == 0, slot.tables().is_empty());
        assert!(keys.next_expiry_ms[index] <= bound, "a bound above an expiry");
    }
    assert_eq!((db_keys, db_expiring), (keys.db_keys, keys.db_expiring));
    let buried: usize = keys.graveyard.bytes();
    let detached: usize = keys.walk.as_ref().map_or(0, |walk| walk.detached_bytes());
    assert_eq!(bytes + buried + detached, keys.memory_bytes, "memory is counted to the byte");
}

pub(super) fn compare(keys: &Keyspace, model: &Model) {
    assert_eq!(keys.total_len(), model.len() as u64);
    for ((db, key), (value, expiry)) in model {
        let entry = keys.get(&keys.key(*db, key)).expect("the model has the key");
        assert_eq!((entry.db(), entry.key(), entry.expires_at_ms()), (*db, &key[..], *expiry));
        assert!(contents(entry.value()) == *value, "another value");
    }
}
