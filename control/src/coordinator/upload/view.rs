//! What the uploads go by: what the local store asks for, and what is known of its coming about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cutwater_engine::types::SnapshotId;
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

    /// Counts what a view asks for that is not done.
    pub(super) fn count(&mut self, view: &LocalView) {
        let is_over = |uuid: &SnapshotUuid| {
            self.uploaded.contains_key(uuid)
                || self.deleted.contains(uuid)
                || self.failed.contains_key(uuid)
        };
        let due = view.published.iter().filter(|manifest| !is_over(&manifest.snapshot_uuid()));
        let due: Vec<u64> = due.map(|manifest| manifest.meta().data_bytes).collect();
        (self.pending, self.pending_bytes) = (due.len(), due.iter().sum());
        let deleted = view.deleted.iter();
        self.pending_deletions = deleted.filter(|uuid| self.uploaded.contains_key(uuid)).count();
    }
}
