//! The keeper: lets snapshots and log go that the policy does not need, after each publication and
//! once an hour, here and in the remote store; brings pins there; and sweeps orphans there.
//!
//! Here a snapshot goes only when it is in the remote store, if there is one; the two newest
//! checkpoints stay, and automatic ones go by their own rule. In the remote store a removal is
//! claimed first, so that a server that has taken over is never surprised
//! ([`cutwater_snapshot::claim::Removal`]). A task beside the coordinator and the uploads: it asks
//! the one, and tells the others what it changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cutwater_engine::clock::wall_micros;
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::archive::{Archive, ArchiveError, WalListing, WalNumber};
use cutwater_snapshot::catalog::{Catalog, Entry};
use cutwater_snapshot::claim::Removal;
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::SnapshotUuid;
use cutwater_snapshot::manifest::Manifest;
use cutwater_snapshot::orphans::{ORPHAN_GRACE, sweep_orphans};
use cutwater_snapshot::paths::SnapshotName;
use cutwater_snapshot::pin::set_pin;
use cutwater_snapshot::plan::{Restorable, Stock};
use cutwater_snapshot::retention::{Holdings, Policy, Promise, Stay};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::job::CHECKPOINT;
use super::message::{CoordinatorError, Handle};
use super::remote::{Lease, RemoteState};
use super::upload::UploadStatus;

/// The reason in the tombstone of a snapshot that the policy let go; its copy elsewhere stays.
pub const RETIRED: &str = "retention";
/// How often it is looked whether something was published.
const TICK: Duration = Duration::from_secs(1);
/// How often everything is looked at although nothing was published.
const INTERVAL: Duration = Duration::from_secs(3600);
/// How long is waited after a failure.
const RETRY: Duration = Duration::from_secs(60);
/// Snapshots that one removal names.
const SNAPSHOTS_AT_ONCE: usize = 64;
/// Objects of the log that one removal names: claims and checks wait for them.
const LOG_AT_ONCE: usize = 512;
/// The newest objects of the log among which late puts are looked for.
const LATE_AMONG: usize = 1_024;

/// Begins to keep; ends with the coordinator.
pub fn start(handle: Handle) -> JoinHandle<()> {
    tokio::spawn(Keeper { policy: handle.retention, handle, swept_at: None }.run())
}

/// Something that stays or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// `local` or `remote`.
    pub store: &'static str,
    /// A snapshot, or objects of the log from the first to the last number, inclusive.
    pub what: What,
    /// Why it stays; `None` if it goes.
    pub stay: Option<Stay>,
}

/// What stays or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A snapshot.
    Snapshot(SnapshotId),
    /// Objects of the log, first and last.
    Log(u64, u64),
}

/// What goes under a policy, and what can be restored of the rest.
#[derive(Clone, Debug)]
pub struct Pruned {
    /// What stays and goes.
    pub kept: Vec<Kept>,
    /// The windows that stay in the remote store; without one, or while it does not answer, those
    /// of the local store.
    pub windows: Vec<Restorable>,
}

impl Handle {
    /// Says what goes under a policy (`None`: the server's own) and, unless `is_dry`, lets it go.
    /// Of the log only what goes is listed.
    ///
    /// # Errors
    /// [`PruneError`].
    pub async fn prune(&self, policy: Option<Policy>, is_dry: bool) -> Result<Pruned, PruneError> {
        let policy = policy.unwrap_or(self.retention);
        let swept_at = Some(Instant::now());
        let mut keeper = Keeper { policy, handle: self.clone(), swept_at };
        let pruned = keeper.look().await?;
        if !is_dry {
            keeper.round().await?;
        }
        Ok(pruned)
    }
}

/// Why nothing was let go.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The coordinator.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    /// The remote store.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Its archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

struct Keeper {
    policy: Policy,
    handle: Handle,
    swept_at: Option<Instant>,
}

impl Keeper {
    async fn run(mut self) {
        // What was published when it was last looked at, here and there, and when.
        let mut seen: Option<((u64, usize), Instant)> = None;
        loop {
            tokio::time::sleep(TICK).await;
            let Ok(status) = self.handle.status().await else { return };
            let uploaded = self.handle.uploads.as_ref().map_or(0, |u| u.status().uploaded.len());
            let now = (status.published, uploaded);
            if seen.is_some_and(|(before, at)| before == now && at.elapsed() < INTERVAL) {
                continue;
            }
            match self.round().await {
                Ok(()) => seen = Some((now, Instant::now())),
                Err(PruneError::Coordinator(CoordinatorError::Closed)) => return,
                Err(error) => {
                    tracing::warn!(%error, "what the policy lets go stays for now");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn round(&mut self) -> Result<(), PruneError> {
        let entries = self.handle.list().await?;
        self.retire_here(&entries).await?;
        let Some(uploads) = self.handle.uploads.clone() else { return Ok(()) };
        let RemoteState::Writer(lease) = uploads.state() else { return Ok(()) };
        if !uploads.status().is_known {
            return Ok(());
        }
        match self.keep_there(&lease, &entries, &uploads.status()).await {
            Err(PruneError::Snapshot(SnapshotError::Fenced { found, .. })) => {
                lease.fenced(found);
                Ok(())
            }
            kept => kept,
        }
    }

    /// What would go.
    async fn look(&self) -> Result<Pruned, PruneError> {
        let entries = self.handle.list().await?;
        let uploads = self.handle.uploads.clone();
        let status = uploads.as_ref().map(|uploads| uploads.status());
        let (holdings, promise) = promise_here(&entries, status.as_ref(), &self.policy);
        let mut kept = snapshots_of("local", &holdings, &promise);
        let lease = uploads.and_then(|uploads| match uploads.state() {
            RemoteState::Writer(lease) => Some(lease),
            RemoteState::Connecting { .. } | RemoteState::Superseded { .. } => None,
        });
        let Some((lease, status)) = lease.zip(status) else {
            // The log beside it is in no archive.
            let (catalog, archive) = (Catalog::of_entries(entries), Archive::default());
            let order = promise.superfluous(&holdings.snapshots);
            let windows = windows(Stock::new(&catalog, &archive), &order, &[]);
            return Ok(Pruned { kept, windows });
        };
        let database = lease.identity.database;
        let catalog = Catalog::load(&*lease.store, database).await?;
        let holdings = holdings_there(&lease, &catalog, &entries, &status);
        let promise = Promise::new(&holdings, &self.policy, wall_micros());
        kept.extend(snapshots_of("remote", &holdings, &promise));
        let listing = WalListing::load(&*lease.store).await?;
        let going = listing.superfluous(&*lease.store, database, &promise, usize::MAX).await?;
        let mut runs = Removal::default();
        going.iter().for_each(|number| runs.push_log(number.0));
        let log = runs.log.iter().map(|&(first, last)| What::Log(first, last));
        kept.extend(log.map(|what| Kept { store: "remote", what, stay: None }));
        let archive = Archive::load(&*lease.store, database).await?;
        let order = promise.superfluous(&holdings.snapshots);
        let windows = windows(Stock::new(&catalog, &archive), &order, &going);
        Ok(Pruned { kept, windows })
    }

    /// Lets snapshots of the local store go.
    async fn retire_here(&self, entries: &[Entry]) -> Result<(), PruneError> {
        let uploaded = self.handle.uploads.as_ref().map(|uploads| uploads.status());
        let (holdings, promise) = promise_here(entries, uploaded.as_ref(), &self.policy);
        for id in promise.superfluous(&holdings.snapshots) {
            match self.handle.retire(id).await {
                Ok(()) => tracing::info!(snapshot = id.0, "let go by the policy"),
                Err(CoordinatorError::Closed) => return Err(CoordinatorError::Closed.into()),
                Err(error) => tracing::warn!(snapshot = id.0, %error, "a snapshot stays"),
            }
        }
        Ok(())
    }

    /// Pins, lets go and sweeps in the remote store.
    async fn keep_there(
        &mut self,
        lease: &Arc<Lease>,
        entries: &[Entry],
        status: &UploadStatus,
    ) -> Result<(), PruneError> {
        let (store, database) = (&*lease.store, lease.identity.database);
        let pinned = entries.iter().filter_map(Entry::manifest);
        let pinned: Vec<_> = pinned.filter(|m| m.pinned_at_us().is_some()).collect();
        let is_time = self.swept_at.is_none_or(|at| at.elapsed() >= INTERVAL);
        if self.policy.is_empty() && pinned.is_empty() && !is_time {
            return Ok(());
        }
        let mut catalog = Catalog::load(store, database).await?;
        let is_there = |(uuid, id): (&SnapshotUuid, &SnapshotId)| {
            let there = catalog.get(*id).and_then(Entry::manifest);
            there.is_some_and(|there| there.snapshot_uuid() == *uuid)
        };
        if !status.uploaded.iter().all(is_there) {
            // Somebody has deleted there by hand.
            lease.tell_change();
        }
        for manifest in pinned {
            let Some(id) = status.uploaded.get(&manifest.snapshot_uuid()) else { continue };
            let there = catalog.get(*id).and_then(Entry::manifest);
            if there.is_some_and(|there| there.pinned_at_us().is_none()) {
                let at_us = manifest.pinned_at_us();
                catalog.add(set_pin(store, *id, at_us).await?);
                lease.tell_change();
            }
        }
        if !self.policy.is_empty() {
            let holdings = holdings_there(lease, &catalog, entries, status);
            let promise = Promise::new(&holdings, &self.policy, wall_micros());
            self.remove_there(lease, &catalog, &holdings, &promise).await?;
        }
        if is_time {
            self.sweep_there(lease, &catalog).await?;
            self.swept_at = Some(Instant::now());
        }
        Ok(())
    }

    async fn remove_there(
        &self,
        lease: &Arc<Lease>,
        catalog: &Catalog,
        holdings: &Holdings,
        promise: &Promise,
    ) -> Result<(), PruneError> {
        let order = promise.superfluous(&holdings.snapshots);
        for ids in order.chunks(SNAPSHOTS_AT_ONCE) {
            let manifests = ids.iter().filter_map(|id| catalog.get(*id)?.manifest());
            let snapshots = manifests.map(|m| (m.name(), m.snapshot_uuid())).collect();
            let removal = Removal { snapshots, log: Vec::new(), reason: RETIRED.into() };
            let removed = lease.remove(removal).await?;
            lease.tell_change();
            tracing::info!(snapshots = removed.snapshots, "the remote store let go by the policy");
        }
        let listing = WalListing::load(&*lease.store).await?;
        let database = lease.identity.database;
        let going = listing.superfluous(&*lease.store, database, promise, usize::MAX).await?;
        for numbers in going.chunks(LOG_AT_ONCE) {
            let mut removal = Removal { reason: RETIRED.into(), ..Removal::default() };
            numbers.iter().for_each(|number| removal.push_log(number.0));
            let removed = lease.remove(removal).await?;
            tracing::info!(objects = removed.log_objects, "archived log let go by the policy");
        }
        Ok(())
    }

    async fn sweep_there(&self, lease: &Arc<Lease>, catalog: &Catalog) -> Result<(), PruneError> {
        let (store, database) = (&*lease.store, lease.identity.database);
        let published: BTreeSet<_> = catalog.published().map(Manifest::name).collect();
        let is_known = |name: SnapshotName| published.contains(&name);
        let removed = sweep_orphans(store, database, &is_known, ORPHAN_GRACE).await?;
        if removed.objects > 0 {
            tracing::info!(objects = removed.objects, "orphans of the remote store were removed");
        }
        let listing = WalListing::load(store).await?;
        let late = listing.late(store, database, LATE_AMONG, ORPHAN_GRACE).await?;
        let mut removal = Removal { reason: RETIRED.into(), ..Removal::default() };
        late.iter().for_each(|number| removal.push_log(number.0));
        lease.remove(removal).await?;
        Ok(())
    }
}

/// What can be restored when these snapshots and objects of the log are gone.
fn windows(mut stock: Stock, snapshots: &[SnapshotId], log: &[WalNumber]) -> Vec<Restorable> {
    stock.snapshots.retain(|point| !snapshots.contains(&point.id));
    stock.wal.retain(|span| !log.contains(&span.number));
    stock.restorable()
}

fn snapshots_of(store: &'static str, holdings: &Holdings, promise: &Promise) -> Vec<Kept> {
    let mut points = holdings.snapshots.clone();
    points.sort_by_key(|point| (point.end_lsn, point.id));
    let kept = |id| Kept { store, what: What::Snapshot(id), stay: promise.snapshot(id) };
    points.iter().map(|point| kept(point.id)).collect()
}

/// What the policy promises of the local store; `uploaded` of a server that has a remote one.
pub fn promise_here(
    entries: &[Entry],
    uploaded: Option<&UploadStatus>,
    policy: &Policy,
) -> (Holdings, Promise) {
    let catalog = Catalog::of_entries(entries.to_vec());
    let mut holdings = Holdings::of_snapshots(&catalog);
    for manifest in catalog.published() {
        // What is orphaned never gets there: waiting for it would keep it for ever.
        let is_there = |status: &UploadStatus| {
            let uuid = manifest.snapshot_uuid();
            status.uploaded.contains_key(&uuid) || status.orphaned.contains_key(&uuid)
        };
        if manifest.raw().reason.as_deref() == Some(CHECKPOINT) {
            holdings.held.insert(manifest.id(), Stay::Automatic);
        } else if uploaded.is_some_and(|status| !is_there(status)) {
            holdings.held.entry(manifest.id()).or_insert(Stay::NotUploaded);
        }
    }
    for id in catalog.newest_two_checkpoints() {
        holdings.held.entry(id).or_insert(Stay::Checkpoint);
    }
    let promise = Promise::new(&holdings, policy, wall_micros());
    (holdings, promise)
}

/// What there is in the remote store, and what has to stay there for snapshots on their way to it.
fn holdings_there(
    lease: &Lease,
    catalog: &Catalog,
    entries: &[Entry],
    status: &UploadStatus,
) -> Holdings {
    let mut holdings = Holdings::of_snapshots(catalog);
    holdings.current = Some(lease.identity.history);
    holdings.log_ends = BTreeMap::new();
    for (history, written) in &lease.histories {
        holdings.histories.insert(*history, written.fork);
        holdings.log_ends.extend(written.log_end.map(|end| (*history, end)));
    }
    holdings.histories.insert(lease.identity.history, lease.identity.fork);
    holdings.log_ends.remove(&lease.identity.history);
    let published = || entries.iter().filter_map(Entry::manifest);
    let uuid_of = |id: SnapshotId| -> Option<SnapshotUuid> {
        published().find(|manifest| manifest.id() == id).map(Manifest::snapshot_uuid)
    };
    for manifest in published() {
        let uuid = manifest.snapshot_uuid();
        if status.uploaded.contains_key(&uuid) {
            continue;
        }
        let parent = manifest.meta().parent_id.and_then(uuid_of);
        if let Some(id) = parent.and_then(|parent| status.uploaded.get(&parent)) {
            holdings.held.entry(*id).or_insert(Stay::Awaited);
        }
    }
    holdings
}
