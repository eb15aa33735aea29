//! From a wish ("as it was at noon") to what has to be read: a base, its deltas, and the log behind
//! them; or why not, with the moments that there are. Pure.
//!
//! Every history is one line of writes; one that began by a restore has everything of its parent up
//! to the fork. So a plan follows one ancestry, each history only up to where its child forks off.
//! On that path lie snapshots, each of them a moment, and spans of archived log. Where spans touch,
//! they make a run; a snapshot inside a run opens a [`Window`] that lasts to the run's end. What
//! lies between two runs is a [`Hole`].

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use cutwater_engine::types::{Lsn, SnapshotId};

use crate::archive::{Archive, WalNumber};
use crate::catalog::Catalog;
use crate::ident::{Fork, HistoryId};

/// The longest chain of deltas that is followed; writers make far shorter ones.
const CHAIN_LIMIT: usize = 1_024;
/// The longest ancestry that is followed.
const ANCESTRY_LIMIT: usize = 10_000;

/// A published snapshot, as far as a plan needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPoint {
    /// Its id.
    pub id: SnapshotId,
    /// What it was taken on top of, if it is a delta.
    pub parent: Option<SnapshotId>,
    /// The history.
    pub history: HistoryId,
    /// The moment that it restores.
    pub end_lsn: Lsn,
}

/// An object of the archive, as far as a plan needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalSpan {
    /// Its number.
    pub number: WalNumber,
    /// The history.
    pub history: HistoryId,
    /// It holds everything above,
    pub from: Lsn,
    /// and at or below.
    pub to: Lsn,
}

/// What a store has to restore from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    /// The published snapshots.
    pub snapshots: Vec<SnapshotPoint>,
    /// The chained objects of each history, oldest first.
    pub wal: Vec<WalSpan>,
    /// Every history that anything belongs to, and where it forked off.
    pub histories: BTreeMap<HistoryId, Option<Fork>>,
}

/// What is to be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Everything at or below this.
    Lsn(Lsn),
    /// The moment of this snapshot.
    Snapshot(SnapshotId),
    /// The last moment that can be restored.
    Latest,
}

impl Target {
    /// Everything of this microsecond (since the Unix epoch), inclusive.
    pub fn at_micros(micros: u64) -> Self {
        let micros = micros.min(u64::MAX >> Lsn::COUNTER_BITS);
        Self::Lsn(Lsn(Lsn::from_micros(micros).0 | ((1 << Lsn::COUNTER_BITS) - 1)))
    }
}

/// What has to be read, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The history to which the moment belongs, and from which a restored one forks off.
    pub history: HistoryId,
    /// The moment: everything at or below it.
    pub target: Lsn,
    /// The base.
    pub base: SnapshotId,
    /// Deltas on top of it, oldest first.
    pub deltas: Vec<SnapshotId>,
    /// What base and deltas restore.
    pub snapshot_lsn: Lsn,
    /// What of the archive makes (`snapshot_lsn`, `target`], oldest first and without a hole.
    pub wal: Vec<WalPiece>,
}

/// What a plan takes of one object of the archive. Of a parent's last object that is less than it
/// holds: only up to the fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalPiece {
    /// The object.
    pub number: WalNumber,
    /// Everything above it,
    pub above: Lsn,
    /// and at or below.
    pub up_to: Lsn,
}

/// Every moment from `first` to `last`, inclusive, can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The moment of a snapshot.
    pub first: Lsn,
    /// Where the log ends that follows it.
    pub last: Lsn,
}

/// The archive lacks everything above `after` and at or below `before`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Where a run of log ends.
    pub after: Lsn,
    /// Where the next begins.
    pub before: Lsn,
}

/// What can be restored of one history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restorable {
    /// The history.
    pub history: HistoryId,
    /// Where it forked off.
    pub fork: Option<Fork>,
    /// Whether it is the one that is restored if none is named: that of the latest moment.
    pub is_current: bool,
    /// The windows, oldest first. Of the histories before its fork none is repeated here.
    pub windows: Vec<Window>,
    /// The holes of its archive, oldest first.
    pub holes: Vec<Hole>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nothing in the store belongs to this history.
    #[error("the store knows no history {history}")]
    UnknownHistory {
        /// The history.
        history: HistoryId,
    },
    /// There is no such snapshot, or it is not published.
    #[error("there is no snapshot {id} that is published")]
    NoSnapshot {
        /// The id.
        id: SnapshotId,
    },
    /// The snapshot belongs to another history than the one that was named.
    #[error("snapshot {id} belongs to history {found}, not to {history}")]
    OtherHistory {
        /// The snapshot.
        id: SnapshotId,
        /// What was named.
        history: HistoryId,
        /// Its own.
        found: HistoryId,
    },
    /// A delta whose base, or a delta in between, is gone.
    #[error("snapshot {id} is a delta, and snapshot {missing}, on which it rests, is not there")]
    BrokenChain {
        /// The delta.
        id: SnapshotId,
        /// What is missing.
        missing: SnapshotId,
    },
    /// No snapshot can be restored at all.
    #[error("the store has no snapshot that can be restored{}", of(.history))]
    Nothing {
        /// The history that was asked for, if one was.
        history: Option<HistoryId>,
    },
    /// The moment lies in no window.
    #[error("LSN {target} cannot be restored in history {history}: it lies outside every window")]
    Outside {
        /// What was asked for.
        target: Lsn,
        /// In which history.
        history: HistoryId,
        /// What can be restored instead, oldest first.
        windows: Vec<Window>,
        /// Holes of the archive.
        holes: Vec<Hole>,
        /// The restorable moment that is closest.
        nearest: Lsn,
        /// Another history that can be restored to this moment.
        elsewhere: Option<HistoryId>,
    },
}

fn of(history: &Option<HistoryId>) -> String {
    history.map_or_else(String::new, |history| format!(" in history {history}"))
}

impl Stock {
    /// What a store has.
    pub fn new(catalog: &Catalog, archive: &Archive) -> Self {
        let mut stock = Self::default();
        for manifest in catalog.published() {
            let identity = manifest.identity();
            stock.histories.insert(identity.history, identity.fork);
            stock.snapshots.push(SnapshotPoint {
                id: manifest.id(),
                parent: manifest.meta().parent_id,
                history: identity.history,
                end_lsn: manifest.meta().end_lsn,
            });
        }
        for header in archive.headers() {
            stock.histories.insert(header.identity.history, header.identity.fork);
        }
        let histories: Vec<HistoryId> = stock.histories.keys().copied().collect();
        for history in histories {
            stock.wal.extend(archive.chain(history).into_iter().map(|header| WalSpan {
                number: header.link.number,
                history,
                from: header.from,
                to: header.to,
            }));
        }
        stock
    }

    /// The history that is meant if none is named: that of the latest moment.
    pub fn current(&self) -> Option<HistoryId> {
        let snapshots = self.snapshots.iter().map(|point| (point.end_lsn, point.history));
        let wal = self.wal.iter().map(|span| (span.to, span.history));
        snapshots.chain(wal).max().map(|(_, history)| history)
    }

    /// What can be restored, history by history.
    pub fn restorable(&self) -> Vec<Restorable> {
        let current = self.current();
        let one = |(&history, &fork): (&HistoryId, &Option<Fork>)| {
            let path = Path::new(self, history);
            let begin = fork.map_or(Lsn::ZERO, |fork| fork.lsn);
            let mut windows = path.windows();
            windows.retain(|window| window.last > begin || fork.is_none());
            for window in &mut windows {
                window.first = window.first.max(begin);
            }
            let mut holes = path.holes();
            holes.retain(|hole| hole.before > begin);
            let is_current = current == Some(history);
            Restorable { history, fork, is_current, windows, holes }
        };
        self.histories.iter().map(one).collect()
    }

    /// What has to be read to restore `target`, in `history` or else in the current one.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn plan(&self, target: Target, history: Option<HistoryId>) -> Result<Plan, PlanError> {
        if let Some(history) = history
            && !self.histories.contains_key(&history)
        {
            return Err(PlanError::UnknownHistory { history });
        }
        if let Target::Snapshot(id) = target {
            return self.plan_snapshot(id, history);
        }
        let asked = history;
        let history =
            history.or_else(|| self.current()).ok_or(PlanError::Nothing { history: None })?;
        let path = Path::new(self, history);
        let windows = path.windows();
        let last = windows.last().ok_or(PlanError::Nothing { history: asked })?.last;
        let target = match target {
            Target::Lsn(target) => target,
            Target::Latest | Target::Snapshot(_) => last,
        };
        match path.plan(target) {
            Some(plan) => Ok(plan),
            None => Err(PlanError::Outside {
                target,
                history,
                nearest: nearest(&windows, target),
                holes: path.holes(),
                windows,
                elsewhere: self.elsewhere(target),
            }),
        }
    }

    fn plan_snapshot(&self, id: SnapshotId, asked: Option<HistoryId>) -> Result<Plan, PlanError> {
        let point = self.snapshot(id).ok_or(PlanError::NoSnapshot { id })?;
        let (history, target) = (point.history, point.end_lsn);
        if let Some(asked) = asked.filter(|asked| *asked != history) {
            return Err(PlanError::OtherHistory { id, history: asked, found: history });
        }
        let (base, deltas) =
            self.chain_of(point).map_err(|missing| PlanError::BrokenChain { id, missing })?;
        Ok(Plan { history, target, base, deltas, snapshot_lsn: target, wal: Vec::new() })
    }

    /// Any other history that has this moment.
    fn elsewhere(&self, target: Lsn) -> Option<HistoryId> {
        let has = |history: &&HistoryId| Path::new(self, **history).plan(target).is_some();
        self.histories.keys().find(has).copied()
    }

    fn snapshot(&self, id: SnapshotId) -> Option<&SnapshotPoint> {
        self.snapshots.iter().find(|point| point.id == id)
    }

    /// [`whole`] of all snapshots.
    fn whole(&self) -> Vec<&SnapshotPoint> {
        whole(&self.snapshots)
    }

    /// The base below a snapshot and the deltas on top of it, the snapshot last.
    ///
    /// # Errors
    /// What is missing.
    fn chain_of(&self, point: &SnapshotPoint) -> Result<(SnapshotId, Vec<SnapshotId>), SnapshotId> {
        let (mut point, mut deltas) = (point, Vec::new());
        while let Some(parent) = point.parent {
            deltas.push(point.id);
            // A parent is older: what is not is no parent, and would be followed for ever.
            let below = self.snapshot(parent).filter(|below| below.id < point.id);
            point = below.filter(|_| deltas.len() < CHAIN_LIMIT).ok_or(parent)?;
        }
        deltas.reverse();
        Ok((point.id, deltas))
    }
}

/// One history's ancestry: what of each history counts.
struct Path<'a> {
    stock: &'a Stock,
    /// Each history, and the last LSN of it that counts, the newest history first.
    limits: Vec<(HistoryId, Lsn)>,
    /// The archived log on it that counts, in order, cut off at the forks.
    spans: Vec<WalSpan>,
    /// The snapshots that count and can be restored, oldest moment first.
    points: Vec<&'a SnapshotPoint>,
}

impl<'a> Path<'a> {
    fn new(stock: &'a Stock, history: HistoryId) -> Self {
        let limits = ancestry(&stock.histories, history);
        let mut spans = Vec::new();
        for &(history, limit) in limits.iter().rev() {
            let of_history = stock.wal.iter().filter(|span| span.history == history);
            let counting = of_history.filter(|span| span.from < limit);
            spans.extend(counting.map(|span| WalSpan { to: span.to.min(limit), ..*span }));
        }
        let points = points_on(&limits, &stock.whole());
        Self { stock, limits, spans, points }
    }

    /// The archived log as runs without a hole: (above, up to).
    fn runs(&self) -> Vec<(Lsn, Lsn)> {
        let mut runs: Vec<(Lsn, Lsn)> = Vec::new();
        for span in &self.spans {
            match runs.last_mut() {
                Some((_, end)) if *end == span.from => *end = span.to,
                _ => runs.push((span.from, span.to)),
            }
        }
        runs
    }

    fn holes(&self) -> Vec<Hole> {
        let runs = self.runs();
        let pairs = runs.windows(2).filter(|pair| pair[0].1 < pair[1].0);
        pairs.map(|pair| Hole { after: pair[0].1, before: pair[1].0 }).collect()
    }

    fn windows(&self) -> Vec<Window> {
        let runs = self.runs();
        let mut windows: Vec<Window> = Vec::new();
        for first in self.points.iter().map(|point| point.end_lsn) {
            let last = reach(&runs, first);
            match windows.last_mut() {
                Some(window) if window.last >= first => window.last = window.last.max(last),
                _ => windows.push(Window { first, last }),
            }
        }
        windows
    }

    /// The newest snapshot from which the log reaches the target, and that log.
    fn plan(&self, target: Lsn) -> Option<Plan> {
        let runs = self.runs();
        let reaches = |point: &&&SnapshotPoint| {
            point.end_lsn <= target && reach(&runs, point.end_lsn) >= target
        };
        let point = self.points.iter().rev().find(reaches)?;
        let (base, deltas) = self.stock.chain_of(point).ok()?;
        let piece = |span: &WalSpan| WalPiece {
            number: span.number,
            above: span.from.max(point.end_lsn),
            up_to: span.to.min(target),
        };
        let needed = self.spans.iter().map(piece).filter(|piece| piece.above < piece.up_to);
        Some(Plan {
            history: self.owner(target),
            target,
            base,
            deltas,
            snapshot_lsn: point.end_lsn,
            wal: needed.collect(),
        })
    }

    /// The history on this path to which a moment belongs.
    fn owner(&self, target: Lsn) -> HistoryId {
        let mut owner = self.limits[0].0;
        for &(history, limit) in &self.limits {
            if target <= limit {
                owner = history;
            }
        }
        owner
    }
}

/// A history and those below it, newest first, each with the last LSN of it that counts.
pub(crate) fn ancestry(
    histories: &BTreeMap<HistoryId, Option<Fork>>,
    history: HistoryId,
) -> Vec<(HistoryId, Lsn)> {
    let mut limits = vec![(history, Lsn(u64::MAX))];
    let mut at = (history, Lsn(u64::MAX));
    while let Some(fork) = histories.get(&at.0).copied().flatten() {
        let is_loop = limits.iter().any(|(history, _)| *history == fork.parent);
        if is_loop || limits.len() >= ANCESTRY_LIMIT {
            break;
        }
        at = (fork.parent, at.1.min(fork.lsn));
        limits.push(at);
    }
    limits
}

/// The snapshots whose chains are there down to their bases, oldest moment first.
pub(crate) fn whole(snapshots: &[SnapshotPoint]) -> Vec<&SnapshotPoint> {
    let mut by_id: Vec<&SnapshotPoint> = snapshots.iter().collect();
    by_id.sort_by_key(|point| point.id);
    // How many deltas down to its base; a parent has a lower id than its child.
    let mut depths: BTreeMap<SnapshotId, usize> = BTreeMap::new();
    for point in &by_id {
        let depth = match point.parent {
            None => Some(0),
            Some(parent) if parent < point.id => depths.get(&parent).map(|depth| depth + 1),
            Some(_) => None,
        };
        if let Some(depth) = depth.filter(|depth| *depth < CHAIN_LIMIT) {
            depths.insert(point.id, depth);
        }
    }
    by_id.retain(|point| depths.contains_key(&point.id));
    by_id.sort_by_key(|point| (point.end_lsn, point.id));
    by_id
}

/// Those snapshots that count on a path.
pub(crate) fn points_on<'a>(
    limits: &[(HistoryId, Lsn)],
    whole: &[&'a SnapshotPoint],
) -> Vec<&'a SnapshotPoint> {
    let counts = |point: &&&SnapshotPoint| {
        let limit = limits.iter().find(|(history, _)| *history == point.history);
        limit.is_some_and(|(_, limit)| point.end_lsn <= *limit)
    };
    whole.iter().filter(counts).copied().collect()
}

/// How far the log goes on from a moment.
fn reach(runs: &[(Lsn, Lsn)], from: Lsn) -> Lsn {
    let run = runs.iter().find(|(above, up_to)| *above <= from && from < *up_to);
    run.map_or(from, |(_, up_to)| *up_to)
}

/// The moment in a window that is closest.
fn nearest(windows: &[Window], target: Lsn) -> Lsn {
    let edges = windows.iter().flat_map(|window| [window.first, window.last]);
    edges.min_by_key(|edge| edge.0.abs_diff(target.0)).unwrap_or_default()
}

impl Window {
    /// The moments of it.
    pub fn moments(&self) -> RangeInclusive<Lsn> {
        self.first..=self.last
    }
}

#[cfg(test)]
mod tests;
