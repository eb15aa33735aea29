//! What of a log is written, and what of that is durable: the book that the writer keeps about its
//! commits and syncs in flight.
//!
//! Commits complete in any order; `written` moves over the contiguous prefix. A commit written with
//! dsync is durable when it is written and everything before it is durable; one written without
//! needs a sync that began after it was written. After a failure nothing moves.

use std::collections::VecDeque;
use std::ops::Range;

use super::segment::SegmentIndex;
use super::writer::{MAX_IN_FLIGHT, SyncId, WriteId};
use crate::types::Position;

/// A commit in flight, or completed behind one that is.
#[derive(Debug)]
struct Commit {
    id: WriteId,
    end: Position,
    is_written: bool,
}

/// A sync in flight: it spans every segment that has unsynced bytes.
#[derive(Debug)]
struct SyncRun {
    covers: Position,
    to_issue: VecDeque<SegmentIndex>,
    in_flight: Vec<SyncId>,
}

/// The book. See the module's introduction.
#[derive(Debug)]
pub(super) struct Durability {
    commits: VecDeque<Commit>,
    written: Position,
    durable: Position,
    /// From the first to after the last byte above `durable` that was written without dsync.
    undsynced: Range<Position>,
    sync_target: Position,
    sync: Option<SyncRun>,
    has_failed: bool,
}

impl Durability {
    pub(super) fn new() -> Self {
        Self {
            commits: VecDeque::with_capacity(MAX_IN_FLIGHT),
            written: Position(0),
            durable: Position(0),
            undsynced: Position(0)..Position(0),
            sync_target: Position(0),
            sync: None,
            has_failed: false,
        }
    }

    pub(super) fn durable(&self) -> Position {
        self.durable
    }

    pub(super) fn written(&self) -> Position {
        self.written
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Commits that `written` has not passed, completed or not.
    pub(super) fn open_commits(&self) -> usize {
        self.commits.len()
    }

    /// Writes that have not completed.
    pub(super) fn in_flight(&self) -> usize {
        self.commits.iter().filter(|commit| !commit.is_written).count()
    }

    /// A commit of these positions starts.
    pub(super) fn write_begins(&mut self, id: WriteId, range: Range<Position>, dsync: bool) {
        if !dsync {
            if self.undsynced.end <= self.durable {
                self.undsynced.start = range.start;
            }
            self.undsynced.end = range.end;
        }
        self.commits.push_back(Commit { id, end: range.end, is_written: false });
    }

    /// A commit completed.
    ///
    /// # Panics
    /// If no such commit is in flight.
    pub(super) fn write_ends(&mut self, id: WriteId) {
        let commit = self.commits.iter_mut().find(|commit| commit.id == id && !commit.is_written);
        commit.expect("a write completes once").is_written = true;
        while self.commits.front().is_some_and(|commit| commit.is_written) {
            if let Some(commit) = self.commits.pop_front() {
                self.written = commit.end;
            }
        }
        self.advance();
    }

    /// Something failed: nothing becomes durable any more.
    pub(super) fn fail(&mut self) {
        self.has_failed = true;
    }

    /// Everything before `target` is to be synced once it is written.
    pub(super) fn want_sync(&mut self, target: Position) {
        self.sync_target = target;
    }

    /// Whether a sync is to begin: one at a time, and only once all that was asked for is written.
    pub(super) fn is_sync_due(&self) -> bool {
        self.sync.is_none()
            && self.durable < self.sync_target.min(self.undsynced.end)
            && self.written >= self.sync_target
    }

    /// A sync of these segments begins, which hold all that is written and not durable.
    pub(super) fn sync_begins(&mut self, segments: VecDeque<SegmentIndex>) {
        let covers = self.written;
        self.sync = Some(SyncRun { covers, to_issue: segments, in_flight: Vec::new() });
    }

    /// The next segment of the running sync whose file is to be synced, under this id.
    pub(super) fn next_sync(&mut self, id: SyncId) -> Option<SegmentIndex> {
        let run = self.sync.as_mut()?;
        let segment = run.to_issue.pop_front()?;
        run.in_flight.push(id);
        Some(segment)
    }

    /// The sync of a file completed.
    ///
    /// # Panics
    /// If no such sync is in flight.
    pub(super) fn sync_ends(&mut self, id: SyncId) {
        let run = self.sync.as_mut().expect("a sync completes while one runs");
        let at = run.in_flight.iter().position(|&other| other == id);
        run.in_flight.swap_remove(at.expect("a sync completes once"));
        if run.in_flight.is_empty() && run.to_issue.is_empty() {
            let covers = run.covers;
            self.sync = None;
            if !self.has_failed {
                self.durable = self.durable.max(covers);
            }
            self.advance();
        }
    }

    /// Written bytes are durable up to the first that still needs a sync.
    fn advance(&mut self) {
        if !self.has_failed {
            let needs_sync = self.undsynced.end > self.durable;
            let limit = if needs_sync { self.undsynced.start } else { self.written };
            self.durable = self.durable.max(self.written.min(limit));
        }
        assert!(self.durable <= self.written, "what is durable is written");
    }
}
