//! Random runs of ops, compacted and not, onto random keyspaces: both make the same.

use std::collections::BTreeMap;

use cutwater_engine::entry::{Op, ValueKind};
use cutwater_engine::slot::{SLOT_COUNT, slot_of};
use cutwater_engine::types::{DbIndex, Slot};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;

/// What a keyspace holds: of each database and key the value and its expiry.
type Model = BTreeMap<(u8, Vec<u8>), (Vec<u8>, Option<u64>)>;

/// An op with everything that it needs, of a key that is named by its number.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8, Option<u64>, Vec<u8>),
    Delete(u8, u8),
    Expire(u8, u8, Option<u64>),
    Write(u8, u8, u16, Vec<u8>),
    /// One database or all, every slot or only a half.
    Clear(Option<u8>, u8),
}

fn key(number: u8) -> Vec<u8> {
    format!("key:{number}").into_bytes()
}

fn apply(model: &mut Model, op: &Op<'_>) {
    match *op {
        Op::Put { db, key, expires_at_ms, value, .. } => {
            model.insert((db.0, key.to_vec()), (value.to_vec(), expires_at_ms));
        }
        Op::Delete { db, key } => {
            model.remove(&(db.0, key.to_vec()));
        }
        Op::Expire { db, key, expires_at_ms } => {
            if let Some((_, expiry)) = model.get_mut(&(db.0, key.to_vec())) {
                *expiry = expires_at_ms;
            }
        }
        Op::Write { bytes: [], .. } => {}
        Op::Write { db, key, offset, bytes } => {
            let (value, _) = model.entry((db.0, key.to_vec())).or_default();
            let (at, end) = (offset as usize, offset as usize + bytes.len());
            value.resize(value.len().max(end), 0);
            value[at..end].copy_from_slice(bytes);
        }
        Op::Clear { first, last, db } => model.retain(|(of, key), _| {
            let is_cleared = (first..=last).contains(&slot_of(key));
            !(is_cleared && db.is_none_or(|db| db.0 == *of))
        }),
    }
}

/// The ops of these steps as a shard would log them onto `model`, which they change: what changes
/// nothing is not logged.
fn logged(steps: &[Step], model: &mut Model) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    for step in steps {
        let (name, mut ops) = (|n: &u8| key(*n), Vec::new());
        let names: Vec<u8>;
        let op = match step {
            Step::Put(db, n, expires_at_ms, value) => {
                names = name(n);
                let (db, kind) = (DbIndex(*db), ValueKind::String);
                Op::Put { db, key: &names, kind, expires_at_ms: *expires_at_ms, value }
            }
            Step::Delete(db, n) => {
                names = name(n);
                Op::Delete { db: DbIndex(*db), key: &names }
            }
            Step::Expire(db, n, expires_at_ms) => {
                names = name(n);
                if !model.contains_key(&(*db, names.clone())) {
                    continue;
                }
                Op::Expire { db: DbIndex(*db), key: &names, expires_at_ms: *expires_at_ms }
            }
            Step::Write(db, n, offset, bytes) => {
                names = name(n);
                Op::Write { db: DbIndex(*db), key: &names, offset: u64::from(*offset), bytes }
            }
            Step::Clear(db, half) => {
                let (first, last) = [(0, 16_383), (0, 8_191), (8_192, 16_383)][usize::from(*half)];
                Op::Clear { first: Slot(first), last: Slot(last), db: db.map(DbIndex) }
            }
        };
        apply(model, &op);
        op.encode(&mut ops);
        records.push(ops);
    }
    records
}

/// Compacts these records, a range of slots at a time, with indexes of so many keys.
fn compact(records: &[Vec<u8>], limit_keys: usize) -> Result<Vec<u8>, IndexError> {
    let (mut out, mut from) = (Vec::new(), 0);
    while from < SLOT_COUNT {
        let mut index = Index::with_limit(from..SLOT_COUNT, 7, limit_keys);
        records.iter().try_for_each(|record| index.add(record))?;
        from = index.slots().end;
        let sink = &mut |op: &Op<'_>| {
            op.encode(&mut out);
            Ok::<(), IndexError>(())
        };
        let mut compactor = Compactor::begin(index, sink)?;
        records.iter().try_for_each(|record| compactor.add(record, sink))?;
        compactor.finish();
    }
    Ok(out)
}

fn replay(model: &mut Model, mut ops: &[u8]) -> usize {
    let mut count = 0;
    while !ops.is_empty() {
        apply(model, &Op::decode(&mut ops).unwrap());
        count += 1;
    }
    count
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..2u8, 0..6u8);
    let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most);
    let expiry = || proptest::option::of(1..9u64);
    prop_oneof![
        4 => (place(), expiry(), bytes(8)).prop_map(|((db, n), e, v)| Step::Put(db, n, e, v)),
        2 => place().prop_map(|(db, n)| Step::Delete(db, n)),
        2 => (place(), expiry()).prop_map(|((db, n), e)| Step::Expire(db, n, e)),
        6 => (place(), 0..30u16, bytes(12)).prop_map(|((db, n), at, v)| Step::Write(db, n, at, v)),
        1 => (proptest::option::of(0..2u8), 0..3u8).prop_map(|(db, half)| Step::Clear(db, half)),
    ]
}

/// The keyspace before, what is logged, and how much of it the parent's tail has.
fn check(before: &[Step], steps: &[Step], had: usize, keys: usize) -> Result<(), TestCaseError> {
    let mut parent = Model::new();
    logged(before, &mut parent);
    let mut expected = parent.clone();
    let records = logged(steps, &mut expected);
    let compacted = compact(&records, keys).unwrap();
    let mut found = parent.clone();
    replay(&mut found, &compacted);
    prop_assert_eq!(&found, &expected);
    // What the parent's tail holds may be done twice, and so may all of it.
    for record in &records[..had.min(records.len())] {
        replay(&mut parent, record);
    }
    replay(&mut parent, &compacted);
    prop_assert_eq!(&parent, &expected);
    replay(&mut parent, &compacted);
    prop_assert_eq!(&parent, &expected);
    // Compacting what is compacted changes nothing either.
    let again = compact(&[compacted], keys).unwrap();
    replay(&mut parent, &again);
    prop_assert_eq!(&parent, &expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn compacted_and_not_make_the_same(
        before in proptest::collection::vec(step(), 0..20),
        steps in proptest::collection::vec(step(), 0..60),
        had in 0..60usize,
        keys in 2..14usize,
    ) {
        check(&before, &steps, had, keys)?;
    }
}

fn compacted(steps: &[Step]) -> (usize, Model) {
    let mut model = Model::new();
    let records = logged(steps, &mut Model::new());
    let ops = compact(&records, 100).unwrap();
    let count = replay(&mut model, &ops);
    (count, model)
}

#[test]
fn the_size_follows_the_change_and_not_the_writes() {
    let puts: Vec<Step> = (0..200u8).map(|n| Step::Put(0, 1, None, vec![n])).collect();
    assert_eq!(compacted(&puts).0, 1);
    let appends: Vec<Step> = (0..200u16).map(|n| Step::Write(0, 1, n, vec![1])).collect();
    assert_eq!(compacted(&appends).0, 1);
    let there_and_back: Vec<Step> =
        (0..200u16).map(|n| Step::Write(0, 1, n * 77 % 200, vec![n as u8; 2])).collect();
    assert_eq!(compacted(&there_and_back).0, 1);
    let mut all = puts;
    all.extend(appends);
    all.extend((1..50).map(|at| Step::Expire(0, 1, Some(at))));
    let (count, model) = compacted(&all);
    assert_eq!((count, model.values().next().unwrap().1), (1, Some(49)));
    all.push(Step::Delete(0, 1));
    assert_eq!(compacted(&all).0, 1);
    // Nothing is left of what was cleared, nor is it deleted again.
    all.push(Step::Clear(None, 0));
    all.extend([Step::Put(0, 2, None, vec![1]), Step::Delete(0, 2)]);
    assert_eq!(compacted(&all).0, 1);
}

/// Long values pass through as they are, in order with what is folded around them.
#[test]
fn long_values_and_many_changes_at_once() {
    let long = |n: u8| vec![n; 3 << 20];
    let steps = [
        Step::Write(0, 1, 5, vec![1; 10]),
        Step::Write(0, 1, 0, long(2)),
        Step::Write(0, 1, 7, vec![3; 10]),
        Step::Put(0, 2, Some(3), long(4)),
        Step::Expire(0, 2, Some(5)),
        Step::Write(0, 2, 60_000, vec![6; 10]),
        Step::Put(0, 3, None, vec![1]),
        Step::Write(0, 3, 60_000, long(7)),
        Step::Write(0, 3, 0, vec![8]),
        Step::Delete(0, 4),
        Step::Write(0, 4, 50_000, long(9)),
        Step::Expire(0, 4, Some(9)),
    ];
    check(&[Step::Put(0, 1, None, vec![9; 100])], &steps, 3, 10).unwrap();
    // More than is folded at once: all keys change, then all again.
    let mut many = Vec::new();
    for round in 0..3u8 {
        many.extend((0..60u8).map(|n| Step::Put(0, n, None, vec![round; 900_000])));
        many.extend((0..60u8).map(|n| Step::Write(0, n, 3, vec![round; 10])));
    }
    check(&[], &many, 70, 100).unwrap();
}

#[test]
fn more_keys_of_one_slot_than_an_index_holds() {
    let mut ops = Vec::new();
    for n in 0..5 {
        let key = format!("{{tag}}{n}");
        Op::Delete { db: DbIndex(0), key: key.as_bytes() }.encode(&mut ops);
    }
    let slot = slot_of(b"tag");
    let error = compact(std::slice::from_ref(&ops), 4).unwrap_err();
    assert_eq!(error, IndexError::Keys { slot, keys: 4 });
    assert!(compact(&[ops], 5).is_ok());
    assert!(matches!(compact(&[vec![99]], 5), Err(IndexError::Decode(_))));
}
