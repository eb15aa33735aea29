//! The walk against a copy of the model: whatever changes meanwhile, the image is the beginning.

use super::entry_layout::live_allocations;
use super::model::{Model, Random, audit, compare, contents, mutate};
use super::*;

/// Applies encoded ops to an image; a second `Put` of one key is an error.
fn decode_into(image: &mut Model, mut bytes: &[u8]) -> u64 {
    let mut puts = 0;
    while !bytes.is_empty() {
        match Op::decode(&mut bytes).unwrap() {
            Op::Put { db, key, expires_at_ms, value, .. } => {
                puts += 1;
                let entry = (value.to_vec(), expires_at_ms);
                assert!(image.insert((db, key.to_vec()), entry).is_none(), "{key:?} twice");
            }
            Op::Write { db, key, offset, bytes } => {
                let value = &mut image.get_mut(&(db, key.to_vec())).expect("Put is first").0;
                assert_eq!(value.len() as u64, offset, "pieces are in order");
                value.extend_from_slice(bytes);
            }
            op => panic!("{op:?} in an image"),
        }
    }
    puts
}

fn assert_images_equal(image: &Model, expected: &Model) {
    for (at, entry) in expected {
        let found = image.get(at).unwrap_or_else(|| panic!("{at:?} is missing"));
        assert!(found == entry, "{at:?} differs: {} and {} bytes", found.0.len(), entry.0.len());
    }
    assert_eq!(image.len(), expected.len(), "keys that were not there");
}

/// Runs one walk with mutations in between; checks its image, or abandons it half-way.
fn walk_once(keys: &mut Keyspace, model: &mut Model, random: &mut Random, universe: u64) {
    let mut expected = model.clone();
    let excluded: Vec<_> =
        (0..random.below(4)).map(|_| (random.db(), random.key(universe))).collect();
    keys.begin_walk(WalkPlan {
        excluded: excluded.clone(),
        digest_seed: universe,
        serializes: random.below(4) > 0,
    });
    let serializes = keys.walk.as_ref().is_some_and(|walk| walk.serializes);
    let abandon = random.below(4) == 0;
    let (mut image, mut puts) = (Model::new(), 0);
    let budget = 1 + random.below(60_000);
    let mutations = 1 + random.below(60.max(universe / 20));
    let shrinking = random.below(2) == 0;
    loop {
        let progress = keys.walk_slice(random.below(budget) as usize);
        if random.below(2) == 0 {
            puts += decode_into(&mut image, &std::mem::take(&mut keys.walk_output().bytes));
        }
        if progress == WalkProgress::Done {
            break;
        }
        for _ in 0..random.below(mutations) {
            mutate(keys, model, random, universe, shrinking);
        }
        if random.below(40) == 0 {
            audit(keys);
            if abandon {
                keys.abandon_walk();
                return;
            }
        }
    }
    for (db, key) in &excluded {
        expected.remove(&(*db, key.clone()));
        assert!(keys.walk_excludes(&keys.key(*db, key)));
    }
    let mut distinct = excluded;
    distinct.sort();
    distinct.dedup();
    for (db, key) in distinct {
        let found = keys.walk_include(&keys.key(db, &key));
        assert_eq!(found, model.contains_key(&(db, key.clone())));
        if let Some(entry) = model.get(&(db, key.clone())) {
            expected.insert((db, key), entry.clone());
        }
    }
    while keys.walk_slice(1) == WalkProgress::More {}
    puts += decode_into(&mut image, &std::mem::take(&mut keys.walk_output().bytes));
    assert_eq!(puts, if serializes { keys.walk_output().entries } else { 0 });
    assert_eq!(keys.walk_output().entries, expected.len() as u64);
    assert_eq!(keys.walk_pending_bytes(), 0);
    assert_eq!(keys.walk.as_ref().map(|walk| walk.held_bytes()), Some(0));
    if serializes {
        assert_images_equal(&image, &expected);
    }
    assert!(keys.end_walk() == digests_of(&expected, 0..SLOT_COUNT, universe), "digests differ");
}

fn plan() -> WalkPlan {
    WalkPlan { excluded: vec![], digest_seed: 1, serializes: true }
}

/// The digests of a model.
fn digests_of(model: &Model, slots: std::ops::Range<u16>, seed: u64) -> SlotDigests {
    let mut digester = Digester::new(slots.clone(), seed);
    for ((db, key), (value, expires_at_ms)) in model {
        let (kind, slot) = (ValueKind::String, slot_of(key));
        let (db, expires_at_ms, value_len) = (*db, *expires_at_ms, value.len());
        if slots.contains(&slot.0) {
            let head = EntryHead { db, key, kind, expires_at_ms, value_len };
            digester.add(slot, &head, value);
        }
    }
    digester.into_digests()
}

/// The sums do not depend on who owns the slots.
#[test]
fn digests_are_the_same_on_any_number_of_shards() {
    let (mut random, mut model) = (Random(5), Model::new());
    let mut whole = Keyspace::new(0..SLOT_COUNT, 3);
    for _ in 0..5_000 {
        mutate(&mut whole, &mut model, &mut random, 2_000, false);
    }
    let all = digests_of(&model, 0..SLOT_COUNT, 9);
    for shards in [1, 2, 5] {
        let map = crate::slot::SlotMap::new(shards);
        for shard in 0..shards {
            let slots = map.range(crate::types::ShardId(shard));
            let mut keys = Keyspace::new(slots.clone(), u64::from(shard));
            for ((db, key), (value, expires_at_ms)) in &model {
                if slots.contains(&slot_of(key).0) {
                    let key = keys.key(*db, key);
                    keys.put(&key, ValueKind::String, NewValue::Bytes(value), *expires_at_ms);
                }
            }
            keys.begin_walk(WalkPlan { excluded: vec![], digest_seed: 9, serializes: false });
            while keys.walk_slice(10_000) == WalkProgress::More {}
            assert!(keys.walk_output().bytes.is_empty());
            let found = keys.end_walk();
            assert_eq!(found.first.0, slots.start);
            let range = usize::from(slots.start)..usize::from(slots.end);
            assert!(found.sums == all.sums[range], "shard {shard} of {shards}");
        }
    }
}

/// What digests cost a walk: `cargo test --release -p cutwater-engine --lib -- --ignored cost_of`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "measures time")]
fn cost_of_digests() {
    const KEYS: u32 = 1_000_000;
    let mut keys = Keyspace::new(0..SLOT_COUNT, 3);
    for n in 0..KEYS {
        let name = format!("key:{n:012}");
        let key = keys.key(DbIndex(0), name.as_bytes());
        keys.put(&key, ValueKind::String, NewValue::Bytes(&[n as u8; 100]), None);
    }
    for round in 0..3 {
        for (digests, serializes) in [(false, true), (true, true), (true, false)] {
            keys.begin_walk(WalkPlan { excluded: vec![], digest_seed: 1, serializes });
            keys.walk.as_mut().unwrap().digester.enabled = digests;
            let began = std::time::Instant::now();
            while keys.walk_slice(64 << 10) == WalkProgress::More {
                keys.walk_output().bytes.clear();
            }
            let nanos = began.elapsed().as_nanos() / u128::from(KEYS);
            println!("{round}: digests {digests}, entries {serializes}: {nanos} ns an entry");
            keys.walk_output().bytes.clear();
            keys.end_walk();
        }
    }
}

#[test]
fn the_image_is_the_beginning() {
    for seed in 0..60u64 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut keys = Keyspace::new(0..SLOT_COUNT, seed);
        let empty_bytes = keys.memory_bytes();
        keys.hasher.mask = [u64::MAX, u64::MAX, 0x1F << 59, 0xF][seed as usize % 4];
        keys.stamp = u16::MAX.wrapping_sub(seed as u16 % 4);
        let mut model = Model::new();
        let weak = keys.hasher.mask != u64::MAX;
        let universe = [50, 500, 3000, if weak { 1000 } else { 40_000 }][seed as usize / 4 % 4];
        for _ in 0..6 {
            let shrinking = random.below(3) == 0;
            for _ in 0..random.below(2 * universe) {
                mutate(&mut keys, &mut model, &mut random, universe, shrinking);
            }
            walk_once(&mut keys, &mut model, &mut random, universe);
            audit(&keys);
            compare(&keys, &model);
        }
        keys.clear(Slot(0), Slot(SLOT_COUNT - 1), None);
        while keys.reclaim_slice(1000) {}
        assert_eq!((keys.memory_bytes(), live_allocations()), (empty_bytes, 0));
    }
}

fn filled(count: u32) -> Keyspace {
    let mut keys = Keyspace::new(0..SLOT_COUNT, 11);
    for n in 0..count {
        let name = format!("{{tag}}{n}");
        let key = keys.key(DbIndex(0), name.as_bytes());
        keys.put(&key, ValueKind::String, NewValue::Bytes(b"before"), None);
    }
    keys
}

fn finish(keys: &mut Keyspace) -> Model {
    while keys.walk_slice(1 << 20) == WalkProgress::More {}
    let mut image = Model::new();
    decode_into(&mut image, &std::mem::take(&mut keys.walk_output().bytes));
    keys.end_walk();
    image
}

/// A table that fills up before the walk reaches it neither loses entries nor stays a long chain.
#[test]
fn tables_that_overflow_while_they_wait_are_walked_at_once() {
    let mut keys = filled(20);
    keys.begin_walk(plan());
    for n in 20..20_000 {
        let name = format!("{{tag}}{n}");
        let key = keys.key(DbIndex(0), name.as_bytes());
        keys.put(&key, ValueKind::String, NewValue::Bytes(b"after"), None);
    }
    audit(&keys);
    let slot = &keys.slots[keys.index(slot_of(b"{tag}"))];
    assert!(slot.tables().iter().all(|table| !SlotTable::is_overfull(table)));
    let image = finish(&mut keys);
    assert_eq!(image.len(), 20);
    assert!(image.values().all(|(value, _)| value == b"before"));
}

/// The shape that a subtable put off is made up for when the walk has passed it.
#[test]
fn tables_shrink_once_walked() {
    let mut keys = filled(30_000);
    keys.begin_walk(plan());
    for n in 0..29_990 {
        let name = format!("{{tag}}{n}");
        let key = keys.key(DbIndex(0), name.as_bytes());
        assert!(keys.remove(&key));
    }
    assert_eq!(finish(&mut keys).len(), 30_000);
    audit(&keys);
    let slot = &keys.slots[keys.index(slot_of(b"{tag}"))];
    assert_eq!((slot.tables().len(), slot.keys), (1, 10));
    assert!(slot.memory_bytes() <= 4 * 64, "{} bytes", slot.memory_bytes());
}

/// A stamp that comes round again after 65,535 abandoned walks is not taken for the present one.
#[test]
fn stamps_that_would_come_round_are_renewed() {
    let mut keys = filled(3000);
    keys.begin_walk(plan());
    while keys.walk_output().entries < 1000 {
        assert_eq!(keys.walk_slice(1000), WalkProgress::More);
    }
    let old_stamp = keys.stamp;
    keys.abandon_walk();
    // As if so many more walks had been begun and abandoned before they reached anything.
    keys.stamp = old_stamp.wrapping_sub(1);
    keys.abandoned_walks = u16::MAX - 1;
    keys.begin_walk(plan());
    assert_eq!(keys.stamp, old_stamp);
    assert_eq!(finish(&mut keys).len(), 3000);
    assert_eq!(keys.abandoned_walks, 0);
}

/// A huge value that changes, goes or is renamed while it waits is in the image as it was, and is
/// not copied: a write unshares one piece.
#[test]
fn huge_values_are_handed_over() {
    let mut keys = Keyspace::new(0..SLOT_COUNT, 11);
    let before: Vec<u8> = (0..20 * PIECE_BYTES + 5).map(|at| (at / 251) as u8).collect();
    for name in ["written", "removed", "replaced", "cleared"] {
        let key = keys.key(DbIndex(0), name.as_bytes());
        keys.put(&key, ValueKind::String, NewValue::Bytes(&before), Some(77));
    }
    keys.begin_walk(plan());
    let written = keys.key(DbIndex(0), b"written");
    assert!(keys.walk_contains(&written));
    let bytes_before = keys.memory_bytes();
    keys.write_range(&written, 3 * PIECE_BYTES, b"changed");
    assert!(!keys.walk_contains(&written));
    assert_eq!(keys.walk_pending_bytes(), before.len());
    assert!(keys.memory_bytes() > bytes_before, "what the walk holds is counted");
    keys.remove(&keys.key(DbIndex(0), b"removed"));
    let replaced = keys.key(DbIndex(0), b"replaced");
    keys.put(&replaced, ValueKind::String, NewValue::Bytes(b"short"), None);
    let cleared = keys.key(DbIndex(0), b"cleared");
    keys.clear(cleared.slot, cleared.slot, None);
    audit(&keys);
    let image = finish(&mut keys);
    assert_eq!(image.len(), 4);
    assert!(image.values().all(|entry| *entry == (before.clone(), Some(77))));
    let now = contents(keys.get(&written).unwrap().value());
    assert_eq!(&now[3 * PIECE_BYTES..3 * PIECE_BYTES + 7], b"changed");
    while keys.reclaim_slice(1000) {}
    audit(&keys);
}
