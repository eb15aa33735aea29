//! Brings the remote store to what the local one wants: published snapshots go up (automatic
//! checkpoints do not), deleted ones go away, claims that nobody needs are given up.
//!
//! One task, decoupled from snapshots and writes. It knows no queue: it compares the coordinator's
//! [`LocalView`] with the remote catalog and takes the next step, so a restart goes on by itself,
//! and a store that is away for hours costs a comparison now and then. What it found out is in
//! [`UploadStatus`]. A delta goes up behind its parent, and is *orphaned* when that is gone there:
//! then a base is due. A deletion is wanted as long as the local tombstone says [`DELETED`].

mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use cutwater_engine::seal::Keyring;
use cutwater_engine::types::{Lsn, SnapshotId};
use cutwater_snapshot::ObjectStore;
use cutwater_snapshot::catalog::{Catalog, Entry, EntryState, find_published};
use cutwater_snapshot::delete::sweep_leftovers;
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::SnapshotUuid;
use cutwater_snapshot::manifest::{Manifest, SnapshotKind, State};
use cutwater_snapshot::paths::SnapshotName;
use cutwater_snapshot::throttle::Throttle;
use cutwater_snapshot::upload::Upload;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::remote::{Lease, RemoteConfig, RemoteState, Retry};

pub use self::view::{DELETED, LocalView, UploadStatus, Uploading};

/// How the coordinator and its callers talk to the uploads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Uploads {
    view: watch::Sender<Arc<LocalView>>,
    status: watch::Receiver<Arc<UploadStatus>>,
    state: watch::Receiver<RemoteState>,
    /// Set when the server stops: a step that failed is tried once more, at once.
    hurry: watch::Sender<bool>,
    url: Arc<str>,
}

impl Uploads {
    /// Starts to upload out of `local`, as soon as this process is the remote store's writer, no
    /// faster than `throttle` lets it.
    pub fn start(
        config: &RemoteConfig,
        local: Arc<dyn ObjectStore>,
        keys: Keyring,
        (state, throttle): (watch::Receiver<RemoteState>, Arc<Throttle>),
        view: LocalView,
    ) -> (Self, JoinHandle<()>) {
        let pending = UploadStatus {
            pending: view.published.len(),
            pending_bytes: view.published.iter().map(|manifest| manifest.meta().data_bytes).sum(),
            ..UploadStatus::default()
        };
        let (view, view_receiver) = watch::channel(Arc::new(view));
        let (status_sender, status) = watch::channel(Arc::new(pending));
        let (hurry, hurry_receiver) = watch::channel(false);
        let uploader = Uploader {
            local,
            keys,
            view: view_receiver,
            state: state.clone(),
            status: status_sender,
            throttle,
            remote: None,
            changes: 0,
            claims: BTreeMap::new(),
            failed: BTreeMap::new(),
            last_error: None,
            hurry: hurry_receiver,
            has_given_up: false,
        };
        let url = config.url.as_str().into();
        (Self { view, status, state, hurry, url }, tokio::spawn(uploader.run()))
    }

    /// Tells of a change of the local catalog.
    pub fn show(&self, catalog: &Catalog) {
        self.view.send_replace(Arc::new(LocalView::of(catalog)));
    }

    /// The address of the remote store.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where this process stands as the remote store's writer.
    pub fn state(&self) -> RemoteState {
        self.state.borrow().clone()
    }

    /// What is known of the uploads, and how much is left to do by now: a store that does not
    /// answer holds up the uploads, not what is told of them.
    pub fn status(&self) -> UploadStatus {
        let mut status = UploadStatus::clone(&self.status.borrow());
        status.count(&self.view.borrow());
        status
    }

    /// Up to where deltas reach that cannot go up, if this server uploads.
    pub fn orphaned_to(&self) -> Option<Lsn> {
        // Asked many times a second: what was told last will do.
        let orphaned_to = self.status.borrow().orphaned_to;
        orphaned_to.filter(|_| matches!(&*self.state.borrow(), RemoteState::Writer(_)))
    }

    /// The highest id that the remote store is known to have taken.
    pub fn last_id(&self) -> Option<SnapshotId> {
        match &*self.state.borrow() {
            RemoteState::Writer(lease) => Some(lease.last_id()),
            RemoteState::Connecting { .. } | RemoteState::Superseded { .. } => None,
        }
    }

    /// Where a snapshot of the local store is remotely: `uploaded` (with its id there, if that is
    /// another), `uploading 34%`, `pending`, `deleted`, `deleting`, `failed`, `orphaned`, `unknown`
    /// or `none`.
    pub fn place(&self, entry: &Entry) -> String {
        let status = self.status();
        let uuid = match &entry.state {
            EntryState::Published(manifest) => manifest.snapshot_uuid(),
            EntryState::Tombstone(tombstone) => tombstone.snapshot_uuid,
            EntryState::Unfinished | EntryState::Unreadable { .. } => return "none".into(),
        };
        let is_wanted = self.view.borrow().has(uuid);
        match status.uploaded.get(&uuid) {
            Some(_) if self.view.borrow().deleted.contains(&uuid) => "deleting".into(),
            Some(id) if *id == entry.id => "uploaded".into(),
            Some(id) => format!("uploaded as {id}"),
            None if status.deleted.contains(&uuid) => "deleted".into(),
            None if status.failed.contains_key(&uuid) => "failed".into(),
            None if status.orphaned.contains_key(&uuid) => "orphaned".into(),
            None if !is_wanted => "none".into(),
            None => match status.uploading.as_ref().filter(|uploading| uploading.uuid == uuid) {
                Some(uploading) => format!("uploading {}%", uploading.progress().percent()),
                None if status.is_known => "pending".into(),
                None => "unknown".into(),
            },
        }
    }

    /// Waits until a snapshot is not published remotely any more; whether that came true in time.
    pub async fn wait_deleted(&self, uuid: SnapshotUuid, limit: Duration) -> bool {
        if !matches!(self.state(), RemoteState::Writer(_)) {
            return false;
        }
        let mut status = self.status.clone();
        let gone = status.wait_for(|status| {
            let is_there = status.uploaded.contains_key(&uuid);
            (status.is_known && !is_there) || status.last_error.is_some()
        });
        match tokio::time::timeout(limit, gone).await {
            Ok(Ok(status)) => status.is_known && !status.uploaded.contains_key(&uuid),
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Waits until nothing is left to be done, the store fails once more, or the time is up; and
    /// says so if something is left.
    pub async fn finish(&self, limit: Duration) {
        let mut status = self.status.clone();
        let mut state = self.state.clone();
        let view = Arc::clone(&self.view.borrow());
        self.hurry.send_replace(true);
        let is_over = |s: &Arc<UploadStatus>| s.has_done(&view) || s.has_given_up;
        let done = status.wait_for(is_over);
        let lost = state.wait_for(|state| !matches!(state, RemoteState::Writer(_)));
        let either = async {
            tokio::select! {
                _ = done => {}
                _ = lost => {}
            }
        };
        let _ = tokio::time::timeout(limit, either).await;
        let left = self.status();
        if left.pending + left.pending_deletions == 0
            || matches!(self.state(), RemoteState::Superseded { .. })
        {
            return;
        }
        tracing::warn!(
            snapshots = left.pending,
            deletions = left.pending_deletions,
            "uploads are not over: the next start goes on with them"
        );
    }
}

/// Completes when another server has taken over.
async fn superseded(mut state: watch::Receiver<RemoteState>) -> SnapshotError {
    loop {
        if let RemoteState::Superseded { own, found } = *state.borrow_and_update() {
            return SnapshotError::Fenced { own, found };
        }
        if state.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// The newest snapshot there that was deleted here. What is on top of it, and is wanted, keeps it
/// there.
fn unwanted<'r>(remote: &'r Catalog, view: &LocalView) -> Option<&'r Manifest> {
    remote.published().rev().find(|manifest| {
        view.deleted.contains(&manifest.snapshot_uuid())
            && manifest.pinned_at_us().is_none()
            && remote.check_childless(manifest.id()).is_ok()
    })
}

struct Uploader {
    local: Arc<dyn ObjectStore>,
    keys: Keyring,
    view: watch::Receiver<Arc<LocalView>>,
    state: watch::Receiver<RemoteState>,
    status: watch::Sender<Arc<UploadStatus>>,
    throttle: Arc<Throttle>,
    /// What is there, once it has been read.
    remote: Option<Catalog>,
    /// [`Lease::changes`] when it was read.
    changes: u64,
    /// Claims of ours there that have no manifest yet.
    claims: BTreeMap<SnapshotUuid, SnapshotName>,
    failed: BTreeMap<SnapshotUuid, String>,
    last_error: Option<String>,
    hurry: watch::Receiver<bool>,
    has_given_up: bool,
}

impl Uploader {
    async fn run(mut self) {
        let mut retry = Retry::default();
        while let Some(lease) = self.writer().await {
            let is_last_try = *self.hurry.borrow();
            match self.step(&lease).await {
                Ok(true) => {
                    retry.reset();
                    self.last_error = None;
                    self.tell(None);
                }
                Ok(false) => {
                    retry.reset();
                    self.last_error = None;
                    self.tell(None);
                    if !self.something_changed().await {
                        return;
                    }
                }
                Err(SnapshotError::Fenced { found, .. }) => {
                    lease.fenced(found);
                    self.tell(None);
                }
                Err(error) => {
                    let text = error.to_string();
                    if self.last_error.is_none() {
                        tracing::warn!(error = text, "an upload failed and is tried again");
                    }
                    self.last_error = Some(text);
                    self.has_given_up = is_last_try;
                    self.tell(None);
                    self.wait(retry.next(), is_last_try).await;
                }
            }
        }
    }

    /// Waits before a step is tried again; not so long when the server stops meanwhile.
    async fn wait(&mut self, retry: Duration, is_last_try: bool) {
        let hurried = async {
            if is_last_try || self.hurry.wait_for(|hurry| *hurry).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout(retry, hurried).await;
    }

    /// The lease, as soon as there is one; `None` when there will be none.
    async fn writer(&mut self) -> Option<Arc<Lease>> {
        let state = self.state.wait_for(|s| !matches!(s, RemoteState::Connecting { .. })).await;
        match &*state.ok()? {
            RemoteState::Writer(lease) => Some(Arc::clone(lease)),
            _ => None,
        }
    }

    async fn something_changed(&mut self) -> bool {
        tokio::select! {
            changed = self.view.changed() => changed.is_ok(),
            changed = self.state.changed() => changed.is_ok(),
        }
    }

    /// Does the next thing; `false` if there is none.
    async fn step(&mut self, lease: &Lease) -> Result<bool, SnapshotError> {
        let view = Arc::clone(&self.view.borrow_and_update());
        if self.changes != lease.changes() {
            (self.changes, self.remote) = (lease.changes(), None);
        }
        let Some(remote) = &mut self.remote else {
            let catalog = match lease.take_catalog().filter(|_| self.changes == 0) {
                Some(catalog) => catalog,
                None => Catalog::load(&*lease.store, lease.identity.database).await?,
            };
            sweep_leftovers(&*lease.store, &catalog).await?;
            self.claims.extend(lease.kept.iter().map(|(name, uuid)| (*uuid, *name)));
            self.claims.retain(|_, name| {
                catalog.get(name.id).is_none_or(|entry| entry.state == EntryState::Unfinished)
            });
            self.remote = Some(catalog);
            return Ok(true);
        };
        // Children before parents: a delta ends after what it is on top of.
        if let Some(manifest) = unwanted(remote, &view).cloned() {
            match lease.delete(&manifest, DELETED).await {
                Ok(tombstone) => remote.bury(tombstone),
                Err(SnapshotError::Pinned { .. }) => self.remote = None,
                Err(error) => return Err(error),
            }
            return Ok(true);
        }
        let orphaned = &self.compare(&view, None).orphaned;
        let unwanted = self.claims.iter().find_map(|(uuid, name)| match orphaned.get(uuid) {
            Some(why) => Some((*uuid, *name, why.clone())),
            None if view.has(*uuid) => None,
            None => {
                let why = "the snapshot was deleted before it was uploaded".to_owned();
                Some((*uuid, *name, why))
            }
        });
        if let Some((uuid, name, why)) = unwanted {
            lease.abandon(name, uuid, &why).await?;
            self.claims.remove(&uuid);
            return Ok(true);
        }
        match self.next_upload(&view) {
            Some((manifest, parent)) => self.upload(lease, manifest, parent).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// The oldest snapshot that is not there and whose parent is.
    fn next_upload(&self, view: &LocalView) -> Option<(Manifest, Option<Manifest>)> {
        let remote = self.remote.as_ref()?;
        let there = |uuid| remote.published().find(|other| other.snapshot_uuid() == uuid).cloned();
        view.published.iter().filter(|manifest| self.is_due(manifest.snapshot_uuid())).find_map(
            |manifest| match manifest.meta().kind {
                SnapshotKind::Base => Some((manifest.clone(), None)),
                SnapshotKind::Delta => {
                    let parent = manifest.meta().parent_id?;
                    let parent = view.published.iter().find(|other| other.id() == parent)?;
                    Some((manifest.clone(), Some(there(parent.snapshot_uuid())?)))
                }
            },
        )
    }

    fn is_due(&self, uuid: SnapshotUuid) -> bool {
        let is_known = |entry: &Entry| match &entry.state {
            EntryState::Published(manifest) => manifest.snapshot_uuid() == uuid,
            EntryState::Tombstone(tombstone) => {
                tombstone.state == State::Deleted && tombstone.snapshot_uuid == uuid
            }
            EntryState::Unfinished | EntryState::Unreadable { .. } => false,
        };
        let remote = self.remote.as_ref();
        !self.failed.contains_key(&uuid)
            && !remote.is_some_and(|catalog| catalog.entries().iter().any(is_known))
    }

    async fn upload(
        &mut self,
        lease: &Lease,
        manifest: Manifest,
        parent: Option<Manifest>,
    ) -> Result<(), SnapshotError> {
        let (id, uuid) = (manifest.id(), manifest.snapshot_uuid());
        let done_bytes = Arc::new(AtomicU64::new(0));
        let total_bytes = manifest.meta().data_bytes;
        let uploading = Uploading { uuid, id, done_bytes: Arc::clone(&done_bytes), total_bytes };
        self.tell(Some(uploading));
        let name = match self.claims.get(&uuid) {
            Some(name) => *name,
            None => {
                let name = lease.claim(id, manifest.name().begin_lsn, uuid).await?;
                self.claims.insert(uuid, name);
                name
            }
        };
        tracing::info!(snapshot = id.0, remote = name.id.0, "upload begins");
        let (from, to) = (Arc::clone(&self.local), Arc::clone(&lease.store));
        let throttle = Arc::clone(&self.throttle);
        let keys = self.keys.clone();
        let upload = Upload { from, to, manifest, keys, name, parent, throttle, done_bytes };
        let result = tokio::select! {
            result = upload.run() => result,
            error = superseded(self.state.clone()) => Err(error),
            error = lease.silence() => Err(error),
        };
        match result {
            Ok(manifest) => {
                tracing::info!(snapshot = id.0, remote = name.id.0, "upload published");
                self.claims.remove(&uuid);
                self.remote.as_mut().expect("read before").add(manifest);
                Ok(())
            }
            Err(error) => self.upload_failed(lease, id, name, uuid, error).await,
        }
    }

    async fn upload_failed(
        &mut self,
        lease: &Lease,
        id: SnapshotId,
        name: SnapshotName,
        uuid: SnapshotUuid,
        error: SnapshotError,
    ) -> Result<(), SnapshotError> {
        match &error {
            // By whoever took over; or somebody has deleted it there, and then it is left at that.
            SnapshotError::Superseded { .. } => {
                lease.check().await?;
                self.claims.remove(&uuid);
                self.remote = None;
                Err(error)
            }
            // Its parent was deleted there: the catalog has it when it is read again.
            SnapshotError::Chain { .. } => {
                self.remote = None;
                Ok(())
            }
            SnapshotError::Damaged(_) | SnapshotError::Refused { .. } => {
                // A deletion removes objects, too, and is seen in the store before it is told.
                find_published(&*self.local, id).await?;
                tracing::error!(snapshot = id.0, %error, "a local snapshot cannot be uploaded");
                self.failed.insert(uuid, error.to_string());
                lease.abandon(name, uuid, "its source cannot be read").await?;
                self.claims.remove(&uuid);
                Ok(())
            }
            _ => Err(error),
        }
    }

    fn tell(&self, uploading: Option<Uploading>) {
        let view = Arc::clone(&self.view.borrow());
        let status = self.compare(&view, uploading);
        let before = self.status.send_replace(Arc::new(status));
        let now = self.status.borrow();
        for (uuid, why) in &now.orphaned {
            if !before.orphaned.contains_key(uuid) {
                tracing::warn!(%uuid, why, "a delta cannot go up: a base is due in its place");
            }
        }
    }

    /// What the remote store has of what a view asks for.
    fn compare(&self, view: &Arc<LocalView>, uploading: Option<Uploading>) -> UploadStatus {
        let (mut uploaded, mut deleted) = (BTreeMap::new(), BTreeSet::new());
        for entry in self.remote.iter().flat_map(Catalog::entries) {
            match &entry.state {
                EntryState::Published(manifest) => {
                    uploaded.insert(manifest.snapshot_uuid(), entry.id);
                }
                EntryState::Tombstone(tombstone) if tombstone.state == State::Deleted => {
                    deleted.insert(tombstone.snapshot_uuid);
                }
                _ => {}
            }
        }
        let mut status = UploadStatus {
            is_known: self.remote.is_some(),
            pending: 0,
            pending_bytes: 0,
            pending_deletions: 0,
            uploaded,
            deleted,
            failed: self.failed.clone(),
            orphaned: BTreeMap::new(),
            orphaned_to: None,
            uploading,
            last_error: self.last_error.clone(),
            has_given_up: self.has_given_up,
            view: Arc::clone(view),
        };
        status.count(view);
        status
    }
}
