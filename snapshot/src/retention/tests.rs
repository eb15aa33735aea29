//! Promises against plans: over random stores, whatever was promised and could be restored can be
//! restored after the removal, and at every step of it.

use super::*;
use crate::archive::WalNumber;
use crate::plan::{Target, WalSpan};

/// Stores that are tried.
const SEEDS: u64 = 3_000;
/// Moments of a store: 0 to this, exclusive.
const MOMENTS: u64 = 70;

/// A small generator of numbers: the same ones for a seed, always.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn at(moment: u64) -> Lsn {
    Lsn::from_micros(moment)
}

fn history(n: u8) -> HistoryId {
    HistoryId([n; 16])
}

/// Up to four histories, each forked off an earlier one; spans that mostly touch; bases and deltas,
/// of which some have lost their parents.
fn random_stock(random: &mut Numbers) -> Stock {
    let mut stock = Stock::default();
    let count = 1 + random.below(4) as u8;
    let mut begins = Vec::new();
    for n in 0..count {
        let fork = (n > 0).then(|| {
            let parent = history(random.below(u64::from(n)) as u8);
            Fork { parent, lsn: at(5 + random.below(40)) }
        });
        begins.push(fork.map_or(0, |fork| fork.lsn.micros()));
        stock.histories.insert(history(n), fork);
    }
    let mut ends = begins.clone();
    for number in 1..=random.below(16) {
        let n = random.below(u64::from(count)) as usize;
        let from = ends[n] + if random.one_in(5) { 3 } else { 0 };
        let to = from + 1 + random.below(10);
        ends[n] = to;
        let (number, history) = (WalNumber(number), history(n as u8));
        stock.wal.push(WalSpan { number, history, from: at(from), to: at(to) });
    }
    for id in 1..=random.below(10) {
        let n = random.below(u64::from(count)) as usize;
        let end = (random.below(MOMENTS - 8)).max(begins[n]);
        let below = id.saturating_sub(1 + random.below(3));
        let parent = (random.one_in(2) && below > 0).then_some(SnapshotId(below));
        let (id, history) = (SnapshotId(id), history(n as u8));
        stock.snapshots.push(SnapshotPoint { id, parent, history, end_lsn: at(end) });
    }
    if random.one_in(4) {
        let lost = random.below(10);
        stock.snapshots.retain(|point| point.id.0 != lost);
    }
    stock
}

fn random_holdings(random: &mut Numbers, stock: &Stock) -> Holdings {
    let mut log_ends = BTreeMap::new();
    for history in stock.histories.keys() {
        let of_history = stock.wal.iter().filter(|span| span.history == *history);
        let end = of_history.map(|span| span.to).max().unwrap_or_default();
        // A bound that is too high, or none at all, may only keep more.
        match random.below(3) {
            0 => {}
            1 => drop(log_ends.insert(*history, at(end.micros() + random.below(9)))),
            _ => drop(log_ends.insert(*history, end)),
        }
    }
    let held = stock.snapshots.iter().filter(|_| random.one_in(6));
    Holdings {
        snapshots: stock.snapshots.clone(),
        histories: stock.histories.clone(),
        log_ends,
        current: stock.current(),
        held: held.map(|point| (point.id, Stay::Pinned)).collect(),
    }
}

fn can_restore(stock: &Stock, history: HistoryId, moment: u64) -> bool {
    stock.plan(Target::Lsn(at(moment)), Some(history)).is_ok()
}

/// What the policy promises, from its own words and not from how it is kept.
fn is_promised(stock: &Stock, policy: &Policy, now: u64, history: HistoryId, moment: u64) -> bool {
    let in_time = policy
        .keep_for
        .is_some_and(|keep| moment >= now.saturating_sub(keep.as_micros() as u64) && moment <= now);
    let mut newest = whole(&stock.snapshots);
    newest.reverse();
    newest.truncate(policy.keep_last.unwrap_or(0) as usize);
    let limits = ancestry(&stock.histories, history);
    let behind_kept = points_on(&limits, &newest).iter().any(|point| point.end_lsn <= at(moment));
    // The last moment of the current history, always.
    let is_current = stock.current() == Some(history);
    let later = (moment + 1..=MOMENTS).any(|later| can_restore(stock, history, later));
    in_time || behind_kept || (is_current && !later)
}

/// The store after the first so many steps of a removal.
fn after(stock: &Stock, snapshots: &[SnapshotId], log: &[WalNumber]) -> Stock {
    let mut left = stock.clone();
    left.snapshots.retain(|point| !snapshots.contains(&point.id));
    left.wal.retain(|span| !log.contains(&span.number));
    left
}

fn removals(stock: &Stock, promise: &Promise) -> (Vec<SnapshotId>, Vec<WalNumber>) {
    let goes = |span: &&WalSpan| promise.log(span.history, span.from, span.to).is_none();
    let log = stock.wal.iter().filter(goes).map(|span| span.number).collect();
    (promise.superfluous(&stock.snapshots), log)
}

fn try_seed(seed: u64) -> (usize, usize) {
    let random = &mut Numbers(seed);
    let stock = random_stock(random);
    let holdings = random_holdings(random, &stock);
    let policy = Policy {
        keep_last: random.one_in(2).then(|| 1 + random.below(4) as u32),
        keep_for: random.one_in(2).then(|| Duration::from_micros(random.below(60))),
    };
    let now = 20 + random.below(60);
    let promise = Promise::new(&holdings, &policy, now);
    let (order, log) = removals(&stock, &promise);
    let what =
        || format!("seed {seed}: {policy:?} at {now} of {stock:#?} removes {order:?} {log:?}");
    if policy.is_empty() {
        assert!(order.is_empty() && log.is_empty(), "{}", what());
    }
    let restorable: Vec<(HistoryId, u64)> = stock
        .histories
        .keys()
        .flat_map(|history| (0..MOMENTS + 20).map(|moment| (*history, moment)))
        .filter(|&(history, moment)| can_restore(&stock, history, moment))
        .filter(|&(history, moment)| is_promised(&stock, &policy, now, history, moment))
        .collect();
    let before: BTreeSet<_> = whole(&stock.snapshots).iter().map(|point| point.id).collect();
    for step in 0..=order.len() + log.len() {
        let snapshots = &order[..step.min(order.len())];
        let left = after(&stock, snapshots, &log[..step.saturating_sub(order.len())]);
        for &(history, moment) in &restorable {
            assert!(can_restore(&left, history, moment), "{moment} after {step}: {}", what());
        }
        let whole: BTreeSet<_> = whole(&left.snapshots).iter().map(|point| point.id).collect();
        for point in &left.snapshots {
            let is_broken = before.contains(&point.id) && !whole.contains(&point.id);
            assert!(!is_broken, "{} after {step}: {}", point.id, what());
        }
        for id in holdings.held.keys() {
            assert!(left.snapshots.iter().any(|point| point.id == *id), "{id}: {}", what());
        }
    }
    assert!(log.is_sorted(), "{}", what());
    for span in stock.wal.iter().filter(|span| log.contains(&span.number)) {
        // A server that reads from the oldest on stops behind the horizon.
        let horizon = promise.horizon();
        let mut paths = promise.log.get(&span.history).into_iter().flatten();
        let is_below =
            paths.all(|(limit, _)| span.from >= *limit || span.to.min(*limit) <= horizon);
        assert!(is_below, "{}", what());
    }
    (order.len(), log.len())
}

#[test]
fn whatever_is_promised_and_restorable_stays_restorable() {
    let (mut snapshots, mut log) = (0, 0);
    for seed in 0..SEEDS {
        let removed = try_seed(seed);
        snapshots += removed.0;
        log += removed.1;
    }
    // Else nothing was shown.
    assert!(snapshots > SEEDS as usize / 2 && log > SEEDS as usize, "{snapshots} {log}");
}

fn base(id: u64, n: u8, end: u64) -> SnapshotPoint {
    SnapshotPoint { id: SnapshotId(id), parent: None, history: history(n), end_lsn: at(end) }
}

fn delta(id: u64, parent: u64, n: u8, end: u64) -> SnapshotPoint {
    SnapshotPoint { parent: Some(SnapshotId(parent)), ..base(id, n, end) }
}

fn span(number: u64, n: u8, from: u64, to: u64) -> WalSpan {
    let (number, history) = (WalNumber(number), history(n));
    WalSpan { number, history, from: at(from), to: at(to) }
}

fn keep_for(micros: u64) -> Policy {
    Policy { keep_for: Some(Duration::from_micros(micros)), keep_last: None }
}

fn holdings(stock: &Stock) -> Holdings {
    let end = |history: &HistoryId| {
        let of_history = stock.wal.iter().filter(|span| span.history == *history);
        of_history.map(|span| span.to).max().unwrap_or_default()
    };
    Holdings {
        snapshots: stock.snapshots.clone(),
        histories: stock.histories.clone(),
        log_ends: stock.histories.keys().map(|history| (*history, end(history))).collect(),
        current: stock.current(),
        held: BTreeMap::new(),
    }
}

/// Ids and numbers that go.
fn gone(stock: &Stock, holdings: &Holdings, policy: Policy, now: u64) -> (Vec<u64>, Vec<u64>) {
    let (snapshots, log) = removals(stock, &Promise::new(holdings, &policy, now));
    (snapshots.iter().map(|id| id.0).collect(), log.iter().map(|number| number.0).collect())
}

/// One history from 0 to 100: two chains, and a base.
fn two_chains() -> Stock {
    Stock {
        snapshots: vec![
            base(1, 0, 10),
            delta(2, 1, 0, 20),
            delta(3, 2, 0, 30),
            base(4, 0, 40),
            delta(5, 4, 0, 50),
            base(6, 0, 90),
        ],
        wal: (0..10).map(|n| span(n + 1, 0, n * 10, n * 10 + 10)).collect(),
        histories: BTreeMap::from([(history(0), None)]),
    }
}

#[test]
fn the_window_begins_with_the_snapshot_before_it() {
    let stock = two_chains();
    let holdings = holdings(&stock);
    assert_eq!(gone(&stock, &holdings, Policy::default(), 100), (vec![], vec![]));
    // From 55 on: snapshot 5 and its base, and the log behind it.
    assert_eq!(gone(&stock, &holdings, keep_for(45), 100), (vec![3, 2, 1], vec![1, 2, 3, 4, 5]));
    // From 25 on: 3 goes nowhere, and 2 begins the window.
    assert_eq!(gone(&stock, &holdings, keep_for(75), 100), (vec![], vec![1, 2]));
    // All of it is too old: the newest state stays.
    let late = gone(&stock, &holdings, keep_for(5), 1_000);
    assert_eq!(late, (vec![3, 2, 1, 5, 4], (1..=9).collect()));
    let promise = Promise::new(&holdings, &keep_for(45), 100);
    assert_eq!(promise.snapshot(SnapshotId(5)), Some(Stay::WindowStart));
    assert_eq!(promise.snapshot(SnapshotId(4)), Some(Stay::Parent(SnapshotId(5))));
    assert_eq!(promise.snapshot(SnapshotId(6)), Some(Stay::KeepFor));
}

#[test]
fn the_newest_so_many_stay_with_their_log() {
    let stock = two_chains();
    let mut holdings = holdings(&stock);
    let keep = |count| Policy { keep_last: Some(count), keep_for: None };
    assert_eq!(gone(&stock, &holdings, keep(1), 100), (vec![3, 2, 1, 5, 4], (1..=9).collect()));
    assert_eq!(gone(&stock, &holdings, keep(2), 100), (vec![3, 2, 1], (1..=5).collect()));
    // One that is no promise does not count.
    holdings.held.insert(SnapshotId(6), Stay::Automatic);
    let promise = Promise::new(&holdings, &keep(1), 100);
    assert_eq!(promise.snapshot(SnapshotId(5)), Some(Stay::KeepLast));
    // A pin keeps its chain, and no log.
    holdings.held.insert(SnapshotId(2), Stay::Pinned);
    assert_eq!(gone(&stock, &holdings, keep(1), 100), (vec![3], (1..=5).collect()));
    let promise = Promise::new(&holdings, &keep(1), 100);
    assert_eq!(promise.snapshot(SnapshotId(1)), Some(Stay::Parent(SnapshotId(2))));
}

#[test]
fn a_child_history_needs_its_parent_and_an_old_one_goes() {
    let fork = |parent, lsn| Some(Fork { parent: history(parent), lsn: at(lsn) });
    let stock = Stock {
        snapshots: vec![base(1, 0, 10), base(2, 1, 45), base(3, 2, 95)],
        wal: vec![span(1, 0, 0, 20), span(2, 0, 20, 40), span(3, 1, 15, 50), span(4, 2, 20, 99)],
        histories: BTreeMap::from([
            (history(0), None),
            (history(1), fork(0, 15)),
            (history(2), fork(0, 20)),
        ]),
    };
    // 60 to 99 of history 2 begin in history 0; 1 ended before.
    let holdings = holdings(&stock);
    assert_eq!(gone(&stock, &holdings, keep_for(40), 100), (vec![2], vec![2, 3]));
    // If it were not known that it ended, it would stay.
    let unsure = Holdings { log_ends: BTreeMap::new(), ..holdings };
    assert_eq!(gone(&stock, &unsure, keep_for(40), 100), (vec![], vec![]));
}

#[test]
fn log_waits_for_the_first_base() {
    let stock = Stock {
        wal: vec![span(1, 0, 0, 20), span(2, 0, 20, 40)],
        histories: BTreeMap::from([(history(0), None)]),
        ..Stock::default()
    };
    assert_eq!(gone(&stock, &holdings(&stock), keep_for(1), 100), (vec![], vec![]));
}
