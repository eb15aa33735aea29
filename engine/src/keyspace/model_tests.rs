//! The keyspace against a simple model: all operations, several databases, values of all sizes,
//! weak hashes; and what the tables promise beyond that.

use std::collections::{HashMap, HashSet};

use super::entry_layout::live_allocations;
use super::model::{Model, Random, audit, compare, contents, mutate};
use super::*;

fn masks() -> [u64; 5] {
    [u64::MAX, 0, 7 << 61, 0xFF, 0xFFFF << 48]
}

#[test]
fn operations_equal_those_of_the_model() {
    for seed in 0..40u64 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut keys = Keyspace::new(0..SLOT_COUNT, seed);
        keys.hasher.mask = masks()[seed as usize % 5];
        let empty_bytes = keys.memory_bytes();
        let mut model = Model::new();
        let universe = if keys.hasher.mask == 0 { 300 } else { 30 + random.below(3000) };
        for step in 0..4000 {
            mutate(&mut keys, &mut model, &mut random, universe, step / 1000 % 2 == 1);
            if step % 500 == 0 {
                audit(&keys);
                compare(&keys, &model);
            }
        }
        audit(&keys);
        compare(&keys, &model);
        for (db, key) in model.keys() {
            let key = keys.key(*db, key);
            assert!(keys.remove(&key));
        }
        while keys.reclaim_slice(1000) {}
        audit(&keys);
        assert_eq!((keys.memory_bytes(), keys.total_len()), (empty_bytes, 0));
        assert_eq!(live_allocations(), 0);
    }
}

#[test]
fn ops_apply_and_foreign_ones_are_refused() {
    let mut keys = Keyspace::new(0..8192, 1);
    let own = (0..).map(|n| format!("k{n}")).find(|key| keys.owns(slot_of(key.as_bytes())));
    let foreign = (0..).map(|n| format!("k{n}")).find(|key| !keys.owns(slot_of(key.as_bytes())));
    let (own, foreign) = (own.unwrap(), foreign.unwrap());
    let put = |key| Op::Put {
        db: DbIndex(1),
        key,
        kind: ValueKind::String,
        expires_at_ms: Some(9),
        value: b"value",
    };
    let write = |offset| Op::Write { db: DbIndex(1), key: own.as_bytes(), offset, bytes: b"X" };
    assert_eq!(keys.apply(&put(own.as_bytes())), Ok(()));
    assert_eq!(keys.apply(&write(7)), Ok(()));
    assert_eq!(keys.apply(&write(1 << 40)), Err(ApplyError::ValueLength { len: (1 << 40) + 1 }));
    assert!(keys.apply(&write(u64::MAX)).is_err());
    assert!(matches!(keys.apply(&put(foreign.as_bytes())), Err(ApplyError::ForeignSlot { .. })));
    let key = keys.key(DbIndex(1), own.as_bytes());
    let entry = keys.get(&key).unwrap();
    assert_eq!(contents(entry.value()), b"value\0\0X");
    assert_eq!(entry.expires_at_ms(), Some(9));
    let (db, own_key) = (DbIndex(1), own.as_bytes());
    assert_eq!(keys.apply(&Op::Expire { db, key: own_key, expires_at_ms: None }), Ok(()));
    assert_eq!(keys.get(&key).unwrap().expires_at_ms(), None);
    assert_eq!(keys.apply(&Op::Delete { db, key: own_key }), Ok(()));
    assert!(keys.get(&key).is_none());
    let clear = Op::Clear { first: Slot(0), last: Slot(SLOT_COUNT - 1), db: None };
    assert_eq!(keys.apply(&clear), Ok(()));
}

/// Keys that are there all the time are returned by a scan, whatever the tables do meanwhile.
#[test]
fn scans_return_what_was_there_all_the_time() {
    for seed in 0..30u64 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut keys = Keyspace::new(0..SLOT_COUNT, seed);
        keys.hasher.mask = masks()[seed as usize % 5];
        let big = if keys.hasher.mask.count_ones() > 10 { 20_000 } else { 400 };
        let name = |n: u64| format!("{{tag}}{n}").into_bytes();
        let set = |keys: &mut Keyspace, n: u64, there: bool| {
            let name = name(n);
            let key = keys.key(DbIndex(0), &name);
            if there {
                keys.put(&key, ValueKind::String, NewValue::Bytes(b"v"), None);
            } else {
                keys.remove(&key);
            }
        };
        let growing = seed % 2 == 0;
        let stable = 200;
        (0..if growing { stable } else { big }).for_each(|n| set(&mut keys, n, true));
        let (mut cursor, mut seen, mut calls) = (ScanCursor::default(), HashSet::new(), 0);
        let mut changed = stable;
        loop {
            let next = keys.scan(cursor, DbIndex(0), 10, |entry| {
                seen.insert(entry.key().to_vec());
            });
            calls += 1;
            let Some(next) = next else { break };
            assert!(next > cursor, "a scan goes on");
            assert_eq!(ScanCursor::from_u64(next.to_u64()), Some(next));
            cursor = next;
            for _ in 0..random.below(big / 20) {
                if changed < big {
                    set(&mut keys, changed, growing);
                    changed += 1;
                }
            }
        }
        assert!((0..stable).all(|n| seen.contains(&name(n))), "{calls} calls");
        audit(&keys);
    }
}

#[test]
fn a_scan_ends_behind_its_range() {
    let keys = Keyspace::new(100..200, 1);
    let end = keys.scan(ScanCursor::default(), DbIndex(0), 10, |_| {});
    assert_eq!(end, Some(ScanCursor::of_slot(Slot(200))));
    assert_eq!(end.map(ScanCursor::to_u64), Some(200 << 48));
    assert_eq!(ScanCursor::from_u64(u64::MAX), None);
    let last = Keyspace::new(16_000..SLOT_COUNT, 1);
    assert_eq!(last.scan(ScanCursor::default(), DbIndex(0), 10, |_| {}), None);
}

#[test]
fn expired_keys_are_found_once_due_and_bounds_hold() {
    for seed in 0..20u64 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut keys = Keyspace::new(0..SLOT_COUNT, seed);
        let mut model = Model::new();
        for now_ms in (0..1100).step_by(50) {
            let mut left = HashSet::new();
            loop {
                let mut expired = Vec::new();
                let progress = keys.expire_slice(now_ms, 1 + random.below(300) as usize, |entry| {
                    assert!(entry.expires_at_ms().is_some_and(|at| at <= now_ms));
                    let at = (entry.db(), entry.key().to_vec());
                    let take = entry.key().len() % 3 > 0;
                    if take {
                        expired.push(at)
                    } else {
                        left.insert(at);
                    }
                    take
                });
                assert_eq!(progress.expired, expired.len());
                for (db, key) in expired {
                    assert!(keys.remove(&keys.key(db, &key)));
                    model.remove(&(db, key));
                }
                if !progress.more {
                    break;
                }
                mutate(&mut keys, &mut model, &mut random, 3000, false);
                audit(&keys);
            }
            // A whole round without mutations leaves only what the caller wanted left.
            let mut due = HashSet::new();
            while keys
                .expire_slice(now_ms, 1000, |entry| {
                    due.insert((entry.db(), entry.key().to_vec()));
                    false
                })
                .more
            {}
            let expected = model.iter().filter(|(_, (_, at))| at.is_some_and(|at| at <= now_ms));
            assert_eq!(due, expected.map(|(at, _)| at.clone()).collect());
            (0..300).for_each(|_| mutate(&mut keys, &mut model, &mut random, 3000, false));
            audit(&keys);
        }
        compare(&keys, &model);
    }
}

/// An expiry put into the part of a slot that a round has passed already is not forgotten when the
/// round sets the slot's bound.
#[test]
fn expiries_put_behind_a_round_keep_the_bound_low() {
    let mut keys = Keyspace::new(0..SLOT_COUNT, 5);
    for n in 0..500 {
        let name = format!("{{tag}}{n}");
        let key = keys.key(DbIndex(0), name.as_bytes());
        let at = if n == 0 { 5 } else { 100 };
        keys.put(&key, ValueKind::String, NewValue::Bytes(b"v"), Some(at));
    }
    let index = keys.index(slot_of(b"{tag}"));
    while keys.expiry_visit.index != index || keys.expiry_visit.hash < 1 << 63 {
        assert!(keys.expire_slice(5, 1, |_| true).more);
    }
    let mut first = Vec::new();
    keys.keys_in_slot(slot_of(b"{tag}"), 1, |entry| first = entry.key().to_vec());
    assert!(keys.set_expiry(&keys.key(DbIndex(0), &first), Some(7)));
    while keys.expire_slice(5, 1, |_| true).more {}
    // The one that was due and reported.
    assert!(keys.remove(&keys.key(DbIndex(0), b"{tag}0")));
    audit(&keys);
    assert_eq!(keys.next_expiry_ms(), Some(7));
}

#[test]
fn a_keyspace_may_move_to_its_thread() {
    fn is_send<T: Send>(_: T) {}
    is_send(Keyspace::new(0..1, 0));
}

#[test]
fn a_random_key_is_about_any_key() {
    let mut keys = Keyspace::new(0..SLOT_COUNT, 7);
    assert!(keys.random(DbIndex(0), 1).is_none());
    for n in 0..1000u64 {
        // Half of the keys share a slot.
        let name = if n % 2 == 0 { format!("{{tag}}{n}") } else { format!("key{n}") };
        let key = keys.key(DbIndex(0), name.as_bytes());
        keys.put(&key, ValueKind::String, NewValue::Bytes(b"v"), None);
    }
    let lonely = keys.key(DbIndex(9), b"lonely");
    keys.put(&lonely, ValueKind::String, NewValue::Bytes(b"v"), None);
    let mut counts: HashMap<Vec<u8>, u32> = HashMap::new();
    let mut random = Random(1);
    for _ in 0..50_000 {
        let entry = keys.random(DbIndex(0), random.next()).unwrap();
        *counts.entry(entry.key().to_vec()).or_default() += 1;
    }
    assert_eq!(counts.len(), 1000);
    assert!(counts.values().all(|count| (10..250).contains(count)), "{counts:?}");
    for _ in 0..20 {
        assert_eq!(keys.random(DbIndex(9), random.next()).unwrap().key(), b"lonely");
    }
}

#[test]
fn a_slot_of_a_million_keys_grows_and_goes() {
    let mut keys = Keyspace::new(0..SLOT_COUNT, 3);
    let empty_bytes = keys.memory_bytes();
    let name = |n: u32| format!("{{tag}}{n}");
    for n in 0..1_000_000 {
        let name = name(n);
        let key = keys.key(DbIndex(0), name.as_bytes());
        keys.put(&key, ValueKind::String, NewValue::Bytes(b""), None);
    }
    let slot = slot_of(b"{tag}");
    assert_eq!(keys.slot_len(slot), 1_000_000);
    let tables = keys.slots[keys.index(slot)].tables();
    assert!(tables.len() > 250, "{} subtables", tables.len());
    assert!(tables.iter().all(|table| table.len() < 3_500));
    audit(&keys);
    let mut listed = 0;
    keys.keys_in_slot(slot, 777, |_| listed += 1);
    assert_eq!(listed, 777);
    for n in 0..999_990 {
        let name = name(n);
        let key = keys.key(DbIndex(0), name.as_bytes());
        assert!(keys.remove(&key));
    }
    audit(&keys);
    assert_eq!(keys.slots[keys.index(slot)].tables().len(), 1, "all halves have merged");
    keys.clear(Slot(0), Slot(SLOT_COUNT - 1), None);
    while keys.reclaim_slice(100) {}
    assert_eq!((keys.memory_bytes(), live_allocations()), (empty_bytes, 0));
}

#[test]
fn clearing_frees_in_slices_and_counts_until_then() {
    let mut keys = Keyspace::new(0..SLOT_COUNT, 3);
    let empty_bytes = keys.memory_bytes();
    for n in 0..20_000u32 {
        let name = format!("key{n}");
        let key = keys.key(DbIndex((n % 2) as u8), name.as_bytes());
        keys.put(&key, ValueKind::String, NewValue::Bytes(&[1; 50]), Some(5));
    }
    let huge = keys.key(DbIndex(0), b"huge");
    keys.write_range(&huge, 40 << 20, b"end");
    let full_bytes = keys.memory_bytes();
    assert!(keys.remove(&huge));
    keys.clear(Slot(0), Slot(SLOT_COUNT - 1), None);
    audit(&keys);
    assert_eq!(keys.total_len(), 0);
    assert!(keys.memory_bytes() > full_bytes - (1 << 20));
    let mut slices = 1;
    while keys.reclaim_slice(100) {
        audit(&keys);
        slices += 1;
    }
    assert!(slices > 200, "{slices} slices");
    assert_eq!((keys.memory_bytes(), live_allocations()), (empty_bytes, 0));
}

#[test]
fn appending_in_a_loop_is_amortized() {
    let mut keys = Keyspace::new(0..SLOT_COUNT, 3);
    let key = keys.key(DbIndex(0), b"log");
    let mut sizes = HashSet::new();
    for n in 0..100_000 {
        keys.write_range(&key, n, b"x");
        sizes.insert(keys.memory_bytes());
    }
    // Each distinct size stands for one move of at most one allocation.
    assert!(sizes.len() < 80, "{} moves", sizes.len());
    assert_eq!(keys.get(&key).map(|entry| entry.value().len()), Some(100_000));
}

/// Prints what five million keys cost. Run it alone, in release, with
/// `--ignored --nocapture five_million`.
#[test]
#[ignore = "a measurement"]
fn memory_of_five_million_keys() {
    fn resident_bytes() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }
    const KEYS: usize = 5_000_000;
    let before = resident_bytes();
    let mut keys = Keyspace::new(0..SLOT_COUNT, 3);
    for n in 0..KEYS {
        let name = format!("key:{n:012}");
        let key = keys.key(DbIndex(0), name.as_bytes());
        keys.put(&key, ValueKind::String, NewValue::Bytes(&[7; 100]), None);
    }
    let resident = (resident_bytes() - before) as f64 / KEYS as f64 - 116.0;
    let requested = keys.memory_bytes() as f64 / KEYS as f64 - 116.0;
    println!("beyond key and value: {requested:.1} bytes requested, {resident:.1} resident");
    assert!(requested < 35.0);
}
