//! What of a store may go: snapshots and log that no promise needs. Pure.
//!
//! A [`Policy`] promises moments. `keep_for`: every moment of the last so many days that can be
//! restored now. `keep_last`: the newest so many snapshots, and every moment behind the oldest of
//! them that can be restored now. Whatever either of them needs stays, with the reason:
//!
//! - the snapshots themselves, and the newest one at or before the oldest promised moment, from
//!   which the log leads there; on every ancestry, since a history needs its parent up to the fork;
//! - the log from there on;
//! - the newest restorable snapshot of the current history, however old it is;
//! - what is pinned or otherwise held, without any log;
//! - the parents of all that stays.
//!
//! An old history whose last moment lies before all promised ones may go. Without a policy nothing
//! goes. The order of a removal keeps every state in between consistent: snapshots first, children
//! before their parents, then log, the oldest first; so a crash in the middle leaves nothing worse
//! than a window that begins later.
//!
//! A promise is made of snapshots, histories and their ends alone, without the log: so a server
//! need not know all objects of its archive to say of each whether it may go. It errs on the side
//! of keeping: a snapshot may stay for a moment that a hole in the log has lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use cutwater_engine::types::{Lsn, SnapshotId};

use crate::archive::{Archive, WalNumber};
use crate::catalog::Catalog;
use crate::ident::{Fork, HistoryId};
use crate::plan::{SnapshotPoint, Stock, ancestry, points_on, whole};

/// What is promised. Both are upheld; with neither, nothing is ever removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// How many of the newest snapshots stay, at least 1.
    pub keep_last: Option<u32>,
    /// For how long every moment stays restorable.
    pub keep_for: Option<Duration>,
}

impl Policy {
    /// Whether nothing is ever removed.
    pub fn is_empty(&self) -> bool {
        self.keep_last.is_none() && self.keep_for.is_none()
    }

    /// The oldest moment that `keep_for` promises.
    fn since(&self, now_us: u64) -> Option<Lsn> {
        let keep_us = u64::try_from(self.keep_for?.as_micros()).unwrap_or(u64::MAX);
        Some(Lsn::from_micros(now_us.saturating_sub(keep_us).min(u64::MAX >> Lsn::COUNTER_BITS)))
    }
}

/// Why something stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// There is no policy.
    NoPolicy,
    /// A snapshot that somebody pinned.
    Pinned,
    /// A restart recovers from it.
    Checkpoint,
    /// It was taken by itself as a checkpoint, and goes by the rule for those.
    Automatic,
    /// It is not in the remote store yet.
    NotUploaded,
    /// Another snapshot that is on its way into the store is on top of it.
    Awaited,
    /// One of the newest so many.
    KeepLast,
    /// Its moment is promised.
    KeepFor,
    /// The oldest promised moment is restored from it.
    WindowStart,
    /// The newest state is restored from it.
    Latest,
    /// This snapshot, which stays, is on top of it.
    Parent(SnapshotId),
    /// Log of promised moments, or on the way to them.
    Log,
    /// The newest log object: numbers go on behind it.
    Newest,
    /// Nothing is known of its history.
    UnknownHistory,
}

impl fmt::Display for Stay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPolicy => "there is no policy",
            Self::Pinned => "pinned",
            Self::Checkpoint => "one of the two newest checkpoints",
            Self::Automatic => "taken by itself as a checkpoint",
            Self::NotUploaded => "not in the remote store yet",
            Self::Awaited => "a delta on top of it is on its way",
            Self::KeepLast => "among the newest",
            Self::KeepFor => "within the promised time",
            Self::WindowStart => "the oldest promised moment begins with it",
            Self::Latest => "the newest state begins with it",
            Self::Parent(child) => return write!(f, "snapshot {child} is on top of it"),
            Self::Log => "log of promised moments",
            Self::Newest => "the newest log",
            Self::UnknownHistory => "its history is not known",
        })
    }
}

/// Why what goes may go.
pub const GOES: &str = "before every promised moment";

/// What is known of a store when a promise is made.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    /// The published snapshots.
    pub snapshots: Vec<SnapshotPoint>,
    /// Every history that anything may belong to, and where it forked off.
    pub histories: BTreeMap<HistoryId, Option<Fork>>,
    /// No log of this history lies above; where a history is missing, it may go on.
    pub log_ends: BTreeMap<HistoryId, Lsn>,
    /// The history that is being written, or that has the latest moment.
    pub current: Option<HistoryId>,
    /// Snapshots that stay whatever the policy says, and why. [`Stay::Automatic`] ones are not
    /// counted by `keep_last` either.
    pub held: BTreeMap<SnapshotId, Stay>,
}

impl Holdings {
    /// What a store has whose log was looked at whole.
    pub fn new(catalog: &Catalog, archive: &Archive) -> Self {
        let stock = Stock::new(catalog, archive);
        let mut log_ends: BTreeMap<HistoryId, Lsn> =
            stock.histories.keys().map(|history| (*history, Lsn::ZERO)).collect();
        for span in &stock.wal {
            let end = log_ends.entry(span.history).or_default();
            *end = span.to.max(*end);
        }
        let current = stock.current();
        let Stock { snapshots, histories, .. } = stock;
        Self { snapshots, histories, log_ends, current, held: held(catalog) }
    }

    /// What a store has of which only the snapshots were looked at.
    pub fn of_snapshots(catalog: &Catalog) -> Self {
        Self::new(catalog, &Archive::default())
    }
}

/// The snapshots of a catalog that are pinned.
fn held(catalog: &Catalog) -> BTreeMap<SnapshotId, Stay> {
    let pinned = catalog.published().filter(|manifest| manifest.pinned_at_us().is_some());
    pinned.map(|manifest| (manifest.id(), Stay::Pinned)).collect()
}

/// What stays under a policy.
#[derive(Clone, Debug, Default)]
pub struct Promise {
    has_policy: bool,
    snapshots: BTreeMap<SnapshotId, Stay>,
    /// All log above it stays.
    since: Option<Lsn>,
    /// For each history the ancestries that need log of it: up to the first LSN, above the second.
    log: BTreeMap<HistoryId, Vec<(Lsn, Lsn)>>,
    histories: BTreeSet<HistoryId>,
}

impl Promise {
    /// What a policy promises of these holdings at `now_us`, in microseconds since the Unix epoch.
    pub fn new(holdings: &Holdings, policy: &Policy, now_us: u64) -> Self {
        let mut promise = Self {
            has_policy: !policy.is_empty(),
            snapshots: holdings.held.clone(),
            since: policy.since(now_us),
            log: BTreeMap::new(),
            histories: holdings.histories.keys().copied().collect(),
        };
        if policy.is_empty() {
            return promise;
        }
        let whole = whole(&holdings.snapshots);
        let counted = |point: &&&SnapshotPoint| {
            holdings.held.get(&point.id).is_none_or(|stay| *stay != Stay::Automatic)
        };
        let count = policy.keep_last.map_or(0, |count| count.max(1) as usize);
        let newest: Vec<_> = whole.iter().rev().filter(counted).take(count).copied().collect();
        for point in &newest {
            promise.keep(point.id, Stay::KeepLast);
        }
        if let Some(since) = promise.since {
            let promised = holdings.snapshots.iter().filter(|point| point.end_lsn >= since);
            promised.for_each(|point| promise.keep(point.id, Stay::KeepFor));
        }
        for &history in holdings.histories.keys() {
            promise.keep_path(holdings, history, &whole, &newest);
        }
        promise.keep_parents(&holdings.snapshots);
        promise
    }

    /// Why a snapshot stays; `None` if it goes.
    pub fn snapshot(&self, id: SnapshotId) -> Option<Stay> {
        let none = (!self.has_policy).then_some(Stay::NoPolicy);
        self.snapshots.get(&id).copied().or(none)
    }

    /// Why log of a history above `from` and at or below `to` stays; `None` if it goes. Whoever
    /// asks keeps the newest object of all in any case.
    pub fn log(&self, history: HistoryId, from: Lsn, to: Lsn) -> Option<Stay> {
        if !self.has_policy {
            return Some(Stay::NoPolicy);
        }
        if !self.histories.contains(&history) {
            return Some(Stay::UnknownHistory);
        }
        let is_promised = self.since.is_some_and(|since| to > since);
        let mut paths = self.log.get(&history).into_iter().flatten();
        let is_needed = paths.any(|&(limit, above)| from < limit && to.min(limit) > above);
        (is_promised || is_needed).then_some(Stay::Log)
    }

    /// All log of known histories that is needed by nobody lies at or below it, or is of a history
    /// that nobody needs at all.
    pub fn horizon(&self) -> Lsn {
        let above = self.log.values().flatten().map(|(_, above)| *above);
        above.chain(self.since).max().unwrap_or_default()
    }

    /// The snapshots that go, children before their parents, old chains first.
    pub fn superfluous(&self, snapshots: &[SnapshotPoint]) -> Vec<SnapshotId> {
        let mut going: Vec<&SnapshotPoint> =
            snapshots.iter().filter(|point| self.snapshot(point.id).is_none()).collect();
        going.sort_by_key(|point| (point.end_lsn, point.id));
        let ids: BTreeSet<SnapshotId> = going.iter().map(|point| point.id).collect();
        let mut children: BTreeMap<SnapshotId, Vec<SnapshotId>> = BTreeMap::new();
        let is_root = |point: &SnapshotPoint| {
            !point.parent.is_some_and(|parent| parent < point.id && ids.contains(&parent))
        };
        for point in going.iter().filter(|point| !is_root(point)) {
            children.entry(point.parent.unwrap_or_default()).or_default().push(point.id);
        }
        let mut order = Vec::with_capacity(going.len());
        for root in going.iter().filter(|point| is_root(point)) {
            // Parents before children, and then the other way round.
            let mut family = vec![root.id];
            let mut at = 0;
            while let Some(&id) = family.get(at) {
                family.extend(children.get(&id).into_iter().flatten());
                at += 1;
            }
            order.extend(family.into_iter().rev());
        }
        order
    }

    fn keep(&mut self, id: SnapshotId, why: Stay) {
        self.snapshots.entry(id).or_insert(why);
    }

    /// What the moments of one history need: of it and of those below it.
    fn keep_path(
        &mut self,
        holdings: &Holdings,
        history: HistoryId,
        whole: &[&SnapshotPoint],
        newest: &[&SnapshotPoint],
    ) {
        let limits = ancestry(&holdings.histories, history);
        let points = points_on(&limits, whole);
        let is_current = holdings.current == Some(history);
        let mut above: Vec<Lsn> = Vec::new();
        // A moment at or above the oldest promised one may be restored from the newest snapshot at
        // or below that.
        let own_end = holdings.log_ends.get(&history).copied().unwrap_or(Lsn(u64::MAX));
        let own_points = points.iter().filter(|point| point.history == history);
        let own_end = own_points.map(|point| point.end_lsn).fold(own_end, Lsn::max);
        if let Some(since) = self.since.filter(|since| own_end >= *since || is_current)
            && let Some(start) = points.iter().rev().find(|point| point.end_lsn <= since)
        {
            self.keep(start.id, Stay::WindowStart);
            above.push(start.end_lsn);
        }
        let kept = |point: &&&SnapshotPoint| newest.iter().any(|newest| newest.id == point.id);
        above.extend(points.iter().find(kept).map(|point| point.end_lsn));
        if is_current {
            // Log without any snapshot is of use as soon as the first one is there.
            let latest = points.last();
            above.push(latest.map_or(Lsn::ZERO, |point| point.end_lsn));
            if let Some(point) = latest {
                self.keep(point.id, Stay::Latest);
            }
        }
        let Some(above) = above.into_iter().min() else { return };
        for (history, limit) in limits {
            self.log.entry(history).or_default().push((limit, above));
        }
    }

    fn keep_parents(&mut self, snapshots: &[SnapshotPoint]) {
        let parents: BTreeMap<SnapshotId, Option<SnapshotId>> =
            snapshots.iter().map(|point| (point.id, point.parent)).collect();
        let kept: Vec<SnapshotId> = self.snapshots.keys().copied().collect();
        for child in kept {
            let mut at = child;
            while let Some(parent) = parents.get(&at).copied().flatten() {
                if self.snapshots.contains_key(&parent) {
                    break;
                }
                self.keep(parent, Stay::Parent(at));
                at = parent;
            }
        }
    }
}

/// Everything of a store, and whether it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The snapshots by `end_lsn`, and why each stays; those without a reason go.
    pub snapshots: Vec<(SnapshotId, Option<Stay>)>,
    /// The objects of the log by number, likewise.
    pub log: Vec<(WalNumber, Option<Stay>)>,
    /// The snapshots that go, in the order in which they may be removed: then the log, by number.
    pub order: Vec<SnapshotId>,
}

impl Decision {
    /// Decides over a store that was looked at whole.
    pub fn new(holdings: &Holdings, archive: &Archive, policy: &Policy, now_us: u64) -> Self {
        let promise = Promise::new(holdings, policy, now_us);
        let mut points = holdings.snapshots.clone();
        points.sort_by_key(|point| (point.end_lsn, point.id));
        let newest = archive.entries.last().map(|entry| entry.number);
        let log = archive.entries.iter().map(|entry| {
            let stay = match &entry.header {
                _ if Some(entry.number) == newest => Some(Stay::Newest),
                Ok(header) => promise.log(header.identity.history, header.from, header.to),
                Err(_) => Some(Stay::UnknownHistory),
            };
            (entry.number, stay)
        });
        Self {
            snapshots: points.iter().map(|point| (point.id, promise.snapshot(point.id))).collect(),
            log: log.collect(),
            order: promise.superfluous(&holdings.snapshots),
        }
    }

    /// The objects of the log that go, in the order in which they may be removed.
    pub fn superfluous_log(&self) -> Vec<WalNumber> {
        let goes = self.log.iter().filter(|(_, stay)| stay.is_none());
        goes.map(|(number, _)| *number).collect()
    }
}

#[cfg(test)]
mod tests;
