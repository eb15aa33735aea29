//! What the uploads go by: what the local store asks for, and what is known of its coming about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cutwater_engine::types::{Lsn, SnapshotId};
use cutwater_snapshot::catalog::{Catalog, EntryState};
use cutwater_snapshot::ident::SnapshotUuid;
use cutwater_snapshot::manifest::{Manifest, State};

use crate::coordinator::job::CHECKPOINT;
use crate::coordinator::message::UploadProgress;

/// The reason in the tombstone of a snapshot that somebody deleted: it goes in both stores.
pub const DELETED: &str = "deleted";

/// What the local store has and had, as far as it concerns the remote one.
#[derive(Debug, Default)]
pub struct LocalView {
    /// Published and to be uploaded, by `end_lsn`.
    pub(super) published: Vec<Manifest>,
    /// Deleted by somebody, so to be deleted remotely as well.
    pub(super) deleted: BTreeSet<SnapshotUuid>,
}

impl LocalView {
    /// What a catalog of the local store asks for.
    pub fn of(catalog: &Catalog) -> Self {
        // Nor does a delta go up whose base stays here.
        let is_asked = |manifest: &&Manifest| {
            let chain = catalog.chain_of(manifest.id()).unwrap_or_default();
            let is_local = |it: &&Manifest| it.raw().reason.as_deref() == Some(CHECKPOINT);
            !chain.is_empty() && !chain.iter().any(is_local)
        };
        let deleted = catalog.entries().iter().filter_map(|entry| match &entry.state {
            EntryState::Tombstone(t) if t.state == State::Deleted && t.reason == DELETED => {
                Some(t.snapshot_uuid)
            }
            _ => None,
        });
        Self {
            published: catalog.published().filter(is_asked).cloned().collect(),
            deleted: deleted.collect(),
        }
    }

    /// The snapshots that are whole here.
    pub fn uuids(&self) -> BTreeSet<SnapshotUuid> {
        self.published.iter().map(Manifest::snapshot_uuid).collect()
    }

    /// Whether a snapshot is whole here.
    pub(super) fn has(&self, uuid: SnapshotUuid) -> bool {
        self.published.iter().any(|manifest| manifest.snapshot_uuid() == uuid)
    }
}

/// The snapshot that is being uploaded.
#[derive(Clone, Debug)]
pub struct Uploading {
    /// It.
    pub uuid: SnapshotUuid,
    /// Its id in the local store.
    pub id: SnapshotId,
    /// Bytes that are there.
    pub(super) done_bytes: Arc<AtomicU64>,
    /// Bytes of its objects.
    pub(super) total_bytes: u64,
}

impl Uploading {
    /// How far it is.
    pub fn progress(&self) -> UploadProgress {
        let done_bytes = self.done_bytes.load(Ordering::Relaxed).min(self.total_bytes);
        UploadProgress { id: self.id, done_bytes, total_bytes: self.total_bytes }
    }
}

/// What is known of the uploads.
#[derive(Clone, Debug, Default)]
pub struct UploadStatus {
    /// Whether the remote catalog has been read; until then nothing is known to be uploaded.
    pub is_known: bool,
    /// What is published there, and under which id.
    pub uploaded: BTreeMap<SnapshotUuid, SnapshotId>,
    /// What was deleted there.
    pub deleted: BTreeSet<SnapshotUuid>,
    /// What cannot be uploaded, and why: it is damaged here, or the configured keys refuse it.
    pub failed: BTreeMap<SnapshotUuid, String>,
    /// What cannot go up because what it is on top of is not there and never will be, and why.
    pub orphaned: BTreeMap<SnapshotUuid, String>,
    /// Up to where the orphaned ones reach: a base from there on makes up for them.
    pub orphaned_to: Option<Lsn>,
    /// How many snapshots have yet to go up.
    pub pending: usize,
    /// Their bytes.
    pub pending_bytes: u64,
    /// How many have yet to be deleted there.
    pub pending_deletions: usize,
    /// The one that goes up now.
    pub uploading: Option<Uploading>,
    /// Why the last step failed, if none has succeeded since.
    pub last_error: Option<String>,
    /// Whether a step that was begun after [`Uploads::finish`] has failed.
    pub(super) has_given_up: bool,
    /// What it was compared with.
    pub(super) view: Arc<LocalView>,
}

impl UploadStatus {
    /// Whether nothing is left to do of what a view asks for.
    pub(super) fn has_done(&self, view: &Arc<LocalView>) -> bool {
        let is_idle = self.is_known && self.pending == 0 && self.pending_deletions == 0;
        is_idle && Arc::ptr_eq(&self.view, view)
    }

    /// Why a snapshot never gets there, if that is so.
    pub fn why_never(&self, uuid: SnapshotUuid) -> Option<&str> {
        self.failed.get(&uuid).or_else(|| self.orphaned.get(&uuid)).map(String::as_str)
    }

    /// Counts what a view asks for that is not done.
    pub(super) fn count(&mut self, view: &LocalView) {
        self.find_orphans(view);
        let is_over = |uuid: &SnapshotUuid| {
            self.uploaded.contains_key(uuid)
                || self.deleted.contains(uuid)
                || self.why_never(*uuid).is_some()
        };
        let due = view.published.iter().filter(|manifest| !is_over(&manifest.snapshot_uuid()));
        let due: Vec<u64> = due.map(|manifest| manifest.meta().data_bytes).collect();
        (self.pending, self.pending_bytes) = (due.len(), due.iter().sum());
        let deleted = view.deleted.iter();
        self.pending_deletions = deleted.filter(|uuid| self.uploaded.contains_key(uuid)).count();
    }

    /// A delta goes up behind its parent only. One whose parent was deleted there, or cannot get
    /// there, has nothing to wait for. The view is by `end_lsn`, so parents come first.
    fn find_orphans(&mut self, view: &LocalView) {
        (self.orphaned, self.orphaned_to) = (BTreeMap::new(), None);
        let uuids: BTreeMap<SnapshotId, SnapshotUuid> =
            view.published.iter().map(|it| (it.id(), it.snapshot_uuid())).collect();
        for delta in &view.published {
            let uuid = delta.snapshot_uuid();
            let is_over = self.uploaded.contains_key(&uuid)
                || self.deleted.contains(&uuid)
                || self.failed.contains_key(&uuid);
            let Some(id) = delta.meta().parent_id.filter(|_| !is_over) else { continue };
            let Some(&parent) = uuids.get(&id) else { continue };
            let why = match self.why_never(parent) {
                _ if self.uploaded.contains_key(&parent) => continue,
                Some(why) => format!("snapshot {id}, which it is on top of, cannot go up: {why}"),
                None if self.deleted.contains(&parent) => {
                    format!("snapshot {id}, which it is on top of, was deleted there")
                }
                None => continue,
            };
            self.orphaned.insert(uuid, why);
            self.orphaned_to = self.orphaned_to.max(Some(delta.meta().end_lsn));
        }
    }
}
