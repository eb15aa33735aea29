//! Plans against a model that asks of every single LSN whether something holds it.

use proptest::prelude::*;

use super::*;

fn history(n: u8) -> HistoryId {
    HistoryId([n; 16])
}

/// A stock over LSNs 0 to 60: up to three histories, each forked off an earlier one.
#[derive(Clone, Debug)]
struct Seed {
    forks: Vec<(u8, u64)>,
    /// History, from, length, and whether it touches the span before it.
    spans: Vec<(u8, u64, u64)>,
    /// History, end LSN, and how far back the parent is (0: a base).
    snapshots: Vec<(u8, u64, u64)>,
    /// A snapshot that was deleted.
    deleted: Option<u64>,
}

fn seeds() -> impl Strategy<Value = Seed> {
    (
        prop::collection::vec((0u8..3, 5u64..40), 2),
        prop::collection::vec((0u8..3, 0u64..3, 1u64..12), 0..14),
        prop::collection::vec((0u8..3, 1u64..60, 0u64..3), 1..8),
        prop::option::of(0u64..8),
    )
        .prop_map(|(forks, spans, snapshots, deleted)| Seed {
            forks,
            spans,
            snapshots,
            deleted,
        })
}

fn stock(seed: &Seed) -> Stock {
    let mut stock = Stock::default();
    stock.histories.insert(history(0), None);
    for (n, &(parent, lsn)) in (1u8..).zip(&seed.forks) {
        let fork = Fork { parent: history(parent % n), lsn: Lsn(lsn) };
        stock.histories.insert(history(n), Some(fork));
    }
    let begin = |n: u8| stock.histories[&history(n)].map_or(0, |fork| fork.lsn.0);
    let mut ends = [begin(0), begin(1), begin(2)];
    for (number, &(n, gap, length)) in (1..).zip(&seed.spans) {
        // Most neighbours touch.
        let from = ends[usize::from(n)] + if gap == 2 { 3 } else { 0 };
        let to = from + length;
        ends[usize::from(n)] = to;
        let (from, to) = (Lsn(from), Lsn(to));
        stock.wal.push(WalSpan { number: WalNumber(number), history: history(n), from, to });
    }
    for (id, &(n, end, back)) in (1..).zip(&seed.snapshots) {
        let parent = (back > 0 && id > back).then(|| SnapshotId(id - back));
        let end_lsn = Lsn(end.max(begin(n)));
        let point = SnapshotPoint { id: SnapshotId(id), parent, history: history(n), end_lsn };
        stock.snapshots.push(point);
    }
    stock.snapshots.retain(|point| Some(point.id.0) != seed.deleted);
    stock
}

/// The last LSN of `of` that counts for `history`; `None` if it is no ancestor.
fn limit(stock: &Stock, mut history: HistoryId, of: HistoryId) -> Option<u64> {
    let mut limit = u64::MAX;
    while history != of {
        let fork = stock.histories[&history]?;
        limit = limit.min(fork.lsn.0);
        history = fork.parent;
    }
    Some(limit)
}

/// Whether a snapshot's chain is there.
fn is_whole(stock: &Stock, id: SnapshotId) -> bool {
    let Some(point) = stock.snapshots.iter().find(|point| point.id == id) else { return false };
    point.parent.is_none_or(|parent| is_whole(stock, parent))
}

/// Whether an object on the path holds this LSN.
fn is_held(stock: &Stock, history: HistoryId, lsn: u64) -> bool {
    stock.wal.iter().any(|span| {
        span.from.0 < lsn
            && lsn <= span.to.0
            && limit(stock, history, span.history).is_some_and(|limit| lsn <= limit)
    })
}

fn restorable(stock: &Stock, history: HistoryId, target: u64) -> bool {
    stock.snapshots.iter().any(|point| {
        let limit = limit(stock, history, point.history);
        limit.is_some_and(|limit| point.end_lsn.0 <= limit)
            && point.end_lsn.0 <= target
            && is_whole(stock, point.id)
            && (point.end_lsn.0 + 1..=target).all(|lsn| is_held(stock, history, lsn))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn plans_are_those_of_the_model(seed in seeds()) {
        let stock = stock(&seed);
        for n in 0..3 {
            let history = history(n);
            let path = Path::new(&stock, history);
            for target in 0..100 {
                let expected = restorable(&stock, history, target);
                let planned = stock.plan(Target::Lsn(Lsn(target)), Some(history));
                prop_assert_eq!(planned.is_ok(), expected, "{} {:?}", target, planned);
                let in_window =
                    path.windows().iter().any(|window| window.moments().contains(&Lsn(target)));
                prop_assert_eq!(in_window, expected, "{} {:?}", target, path.windows());
                match planned {
                    Ok(plan) => check(&stock, history, &plan)?,
                    Err(PlanError::Outside { nearest, .. }) => {
                        prop_assert!(restorable(&stock, history, nearest.0));
                        let nearer = nearest.0.abs_diff(target);
                        let around = target.saturating_sub(nearer.saturating_sub(1))
                            ..target + nearer;
                        for other in around {
                            prop_assert!(!restorable(&stock, history, other), "{}", other);
                        }
                    }
                    Err(PlanError::Nothing { .. }) => {}
                    Err(other) => prop_assert!(false, "{}", other),
                }
            }
        }
    }
}

/// The plan's objects hold exactly what is missing behind its snapshot.
fn check(stock: &Stock, history: HistoryId, plan: &Plan) -> Result<(), TestCaseError> {
    let newest = plan.deltas.last().copied().unwrap_or(plan.base);
    let point = stock.snapshots.iter().find(|point| point.id == newest).unwrap();
    prop_assert_eq!(point.end_lsn, plan.snapshot_lsn);
    let mut at = plan.snapshot_lsn;
    for piece in &plan.wal {
        prop_assert!(piece.above == at && piece.up_to > at, "{:?}", plan);
        at = piece.up_to;
        let span = stock.wal.iter().find(|span| span.number == piece.number).unwrap();
        let limit = limit(stock, history, span.history).unwrap();
        prop_assert!(span.from <= piece.above && piece.up_to.0 <= span.to.0.min(limit));
    }
    prop_assert_eq!(at, plan.target);
    let limit = limit(stock, history, plan.history).unwrap();
    prop_assert!(plan.target.0 <= limit);
    let fork = stock.histories[&plan.history];
    prop_assert!(fork.is_none_or(|fork| fork.lsn < plan.target || plan.history == history));
    Ok(())
}

fn base(id: u64, n: u8, end: u64) -> SnapshotPoint {
    SnapshotPoint { id: SnapshotId(id), parent: None, history: history(n), end_lsn: Lsn(end) }
}

fn span(number: u64, n: u8, from: u64, to: u64) -> WalSpan {
    let (number, history) = (WalNumber(number), history(n));
    WalSpan { number, history, from: Lsn(from), to: Lsn(to) }
}

/// History 1 from 0 to 30 with a hole from 20 to 25; history 2 forked off it at 10.
fn two_histories() -> Stock {
    let fork = Fork { parent: history(1), lsn: Lsn(10) };
    Stock {
        snapshots: vec![base(1, 1, 5), base(2, 1, 27), base(3, 2, 100)],
        wal: vec![span(1, 1, 0, 20), span(2, 1, 25, 30), span(3, 2, 10, 90), span(4, 2, 90, 120)],
        histories: BTreeMap::from([(history(1), None), (history(2), Some(fork))]),
    }
}

#[test]
fn a_fork_goes_on_from_its_parent() {
    let stock = two_histories();
    let plan = stock.plan(Target::Lsn(Lsn(95)), None).unwrap();
    assert_eq!((plan.history, plan.base, plan.snapshot_lsn), (history(2), SnapshotId(1), Lsn(5)));
    // Of the parent's object only what lies before the fork.
    let piece = |number, above, up_to| {
        let number = WalNumber(number);
        WalPiece { number, above: Lsn(above), up_to: Lsn(up_to) }
    };
    assert_eq!(plan.wal, [piece(1, 5, 10), piece(3, 10, 90), piece(4, 90, 95)]);
    let plan = stock.plan(Target::Lsn(Lsn(8)), None).unwrap();
    assert_eq!((plan.history, plan.wal), (history(1), vec![piece(1, 5, 8)]));
    let plan = stock.plan(Target::Latest, None).unwrap();
    assert_eq!(
        (plan.target, plan.base, plan.wal),
        (Lsn(120), SnapshotId(3), vec![piece(4, 100, 120)])
    );
    let plan = stock.plan(Target::Latest, Some(history(1))).unwrap();
    assert_eq!(
        (plan.target, plan.base, plan.wal),
        (Lsn(30), SnapshotId(2), vec![piece(2, 27, 30)])
    );
    let plan = stock.plan(Target::Snapshot(SnapshotId(2)), None).unwrap();
    assert_eq!((plan.target, plan.wal), (Lsn(27), vec![]));
}

#[test]
fn a_hole_is_named_with_the_windows_around_it() {
    let stock = two_histories();
    let error = stock.plan(Target::Lsn(Lsn(22)), Some(history(1))).unwrap_err();
    let PlanError::Outside { windows, holes, nearest, elsewhere, .. } = error else { panic!() };
    let window = |first, last| Window { first: Lsn(first), last: Lsn(last) };
    assert_eq!(windows, [window(5, 20), window(27, 30)]);
    assert_eq!(holes, [Hole { after: Lsn(20), before: Lsn(25) }]);
    assert_eq!((nearest, elsewhere), (Lsn(20), Some(history(2))));
    let shown = stock.restorable();
    assert_eq!(shown[0].windows, windows);
    assert_eq!(shown[1].windows, [window(10, 120)]);
    assert!(shown[1].is_current && !shown[0].is_current);
}

#[test]
fn what_is_not_there_is_said() {
    let stock = two_histories();
    let error = |target, history| stock.plan(target, history).unwrap_err();
    let unknown = error(Target::Latest, Some(history(9)));
    assert_eq!(unknown, PlanError::UnknownHistory { history: history(9) });
    let none = error(Target::Snapshot(SnapshotId(9)), None);
    assert_eq!(none, PlanError::NoSnapshot { id: SnapshotId(9) });
    let other = error(Target::Snapshot(SnapshotId(1)), Some(history(2)));
    assert!(matches!(other, PlanError::OtherHistory { .. }));
    let nothing = Stock::default().plan(Target::Latest, None).unwrap_err();
    assert_eq!(nothing, PlanError::Nothing { history: None });
    let mut broken = two_histories();
    broken.snapshots.push(SnapshotPoint { parent: Some(SnapshotId(7)), ..base(8, 1, 28) });
    let missing = broken.plan(Target::Snapshot(SnapshotId(8)), None).unwrap_err();
    let (id, missing_id) = (SnapshotId(8), SnapshotId(7));
    assert_eq!(missing, PlanError::BrokenChain { id, missing: missing_id });
}

#[test]
fn a_moment_is_the_whole_microsecond() {
    assert_eq!(Target::at_micros(5), Target::Lsn(Lsn(5 << 12 | 0xFFF)));
    assert_eq!(Target::at_micros(u64::MAX), Target::Lsn(Lsn(u64::MAX)));
}
