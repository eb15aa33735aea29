//! Claims keep writers of one store apart (DESIGN §7, *Claims*): `claims/{n}` is created only if
//! absent and never deleted, so an id belongs to exactly one attempt of one writer.
//!
//! n is always the last known + 1, so an older writer cannot get past a newer one without reading
//! its claim: a higher epoch there fences it. A takeover claims with a new epoch first and only
//! then puts an `aborted` manifest for every open claim below; an older writer that wakes up later
//! finds its manifest's place taken. Tombstones are put here, too, since they follow from claims.
//!
//! A removal is claimed as well ([`Claimant::remove`]). Without that a writer that is stopped
//! between looking whether it still is the writer and putting a tombstone could end a snapshot on
//! which its successor builds. So either the successor's takeover comes first, and the removal is
//! refused; or the removal's claim does, and the takeover carries it out before it goes on.
//!
//! A takeover reads the newest claim, and those that it does not say are settled ([`Settled`]):
//! what the writers of the last two starts left, not what all starts ever did.

mod history;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cutwater_engine::types::{Lsn, SnapshotId};
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::ObjectStore;

use crate::delete::{self, Removed};
use crate::error::SnapshotError;
use crate::ident::{DatabaseId, HistoryId, Identity, SnapshotUuid, WriterNonce};
use crate::manifest::{RawManifest, State};
use crate::paths::{self, Named, SnapshotName};
use crate::store::{self, Created};

pub use self::history::{Settled, WrittenHistory};
use self::record::checked;
pub use self::record::{CLAIM_VERSION, Claim, Removal, read_claim};

/// Claims that a takeover reads at once.
const READS_AT_ONCE: usize = 16;

/// The one writer of a store, as long as nobody takes over.
#[derive(Debug)]
pub struct Claimant {
    store: Arc<dyn ObjectStore>,
    identity: Identity,
    nonce: WriterNonce,
    epoch: u64,
    last: SnapshotId,
    /// What may not be removed yet of what was claimed to be.
    removing: Removal,
    /// What each of its claims tells of those below.
    settled: Settled,
}

/// What a takeover did.
#[derive(Debug)]
pub struct Takeover {
    /// The writer, which may now claim.
    pub claimant: Claimant,
    /// The snapshots for which it put an `aborted` manifest; their objects are still there, until
    /// [`crate::delete::sweep`].
    pub aborted: Vec<SnapshotName>,
    /// The open claims that it left open, for the writer to finish.
    pub kept: Vec<(SnapshotName, SnapshotUuid)>,
    /// Every history that has ever written here.
    pub histories: BTreeMap<HistoryId, WrittenHistory>,
}

impl Claimant {
    /// Becomes the store's writer: fences every earlier one, and aborts what they left open. Load
    /// the catalog only afterwards: until then an earlier writer may still publish.
    ///
    /// # Errors
    /// [`SnapshotError::ForeignDatabase`] if the store belongs to another database,
    /// [`SnapshotError::Damaged`] if a claim that must be read cannot be, or the store's error.
    pub async fn take_over(
        store: Arc<dyn ObjectStore>,
        identity: Identity,
        nonce: WriterNonce,
        now_us: u64,
    ) -> Result<Takeover, SnapshotError> {
        Self::take_over_keeping(store, identity, nonce, now_us, &BTreeSet::new()).await
    }

    /// [`Claimant::take_over`], but leaves the open claims of these snapshots open: the caller has
    /// all that they consist of and goes on with them. An earlier writer that still works on one
    /// puts the same bytes under the same names, so nothing is lost by its waking up.
    ///
    /// # Errors
    /// As for [`Claimant::take_over`].
    pub async fn take_over_keeping(
        store: Arc<dyn ObjectStore>,
        identity: Identity,
        nonce: WriterNonce,
        now_us: u64,
        keep: &BTreeSet<SnapshotUuid>,
    ) -> Result<Takeover, SnapshotError> {
        let known = KnownIds::list(&*store).await?;
        let last = known.last();
        let newest = match known.claims.last() {
            Some(id) => Some(read_claim(&*store, *id, identity.database).await?),
            None => None,
        };
        let (epoch, settled) =
            newest.as_ref().map_or_else(Default::default, |n| (n.epoch, n.settled.clone()));
        let is_open = |id: &SnapshotId| *id >= settled.below && !known.manifests.contains(id);
        let newest = newest.filter(|newest| is_open(&newest.id));
        let older = known.claims.iter().rev().skip(1).rev().copied();
        let older: Vec<SnapshotId> = older.filter(is_open).collect();
        let mut claimant = Self {
            store,
            identity,
            nonce,
            epoch: epoch.saturating_add(1),
            last,
            removing: Removal::default(),
            settled: Settled::default(),
        };
        let mut open = claimant.read_claims(older).await?;
        open.extend(newest);
        // Only what is so before the claim is there: this takeover may not get to the rest.
        let first = open.iter().find(|claim| claim.snapshot.is_some() || claim.removal.is_some());
        let below = first.map_or(claimant.next_id(), |claim| claim.id);
        claimant.settled = settled.up_to(below, &open);
        // Whoever claims meanwhile is an earlier writer that has not met us, or another takeover.
        let own = loop {
            match claimant.try_claim(Purpose::Nothing, now_us).await? {
                Claimed::Ours(own) => break own,
                Claimed::Theirs(claim) => {
                    claimant.epoch = claimant.epoch.max(claim.epoch.saturating_add(1));
                    open.push(claim);
                }
            }
        };
        let (mut aborted, mut kept) = (Vec::new(), Vec::new());
        for claim in &open {
            if let Some(snapshot) = claim.snapshot.filter(|(_, uuid)| keep.contains(uuid)) {
                kept.push(snapshot);
                continue;
            }
            aborted.extend(claimant.abort_claimed(claim, "its writer was superseded").await?);
        }
        // Each names all that the ones before it of the same writer have left, and a takeover comes
        // between two writers.
        let removal = open.iter().rev().find_map(|claim| claim.removal.as_ref());
        if let Some(removal) = removal {
            delete::remove(&*claimant.store, removal).await?;
        }
        let histories = settled.and_then(open.iter().chain([&own]));
        let below = kept.iter().map(|(name, _)| name.id).min().unwrap_or(own.id);
        claimant.settled = settled.up_to(below, &open);
        if removal.is_some() {
            // No manifest tells the next takeover that this is done: a claim does.
            claimant.fill(SnapshotId(claimant.next_id().0 + 1), now_us).await?;
        }
        Ok(Takeover { claimant, aborted, kept, histories })
    }

    async fn read_claims(&self, ids: Vec<SnapshotId>) -> Result<Vec<Claim>, SnapshotError> {
        // Futures, not a closure that makes them: with one, this future would not be `Send`.
        let database = self.identity.database;
        let reads: Vec<_> = ids.iter().map(|id| read_claim(&*self.store, *id, database)).collect();
        stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await
    }

    /// Takes the next id for a snapshot that begins at `begin_lsn`.
    ///
    /// # Errors
    /// [`SnapshotError::Fenced`] if another writer has taken over, or the store's error; then the
    /// claim may or may not be there, which the next one finds out.
    pub async fn claim(
        &mut self,
        begin_lsn: Lsn,
        uuid: SnapshotUuid,
        now_us: u64,
    ) -> Result<SnapshotName, SnapshotError> {
        loop {
            let claim = match self.try_claim(Purpose::Snapshot(begin_lsn, uuid), now_us).await? {
                Claimed::Ours(claim) => {
                    return Ok(claim.snapshot.expect("this claim names a snapshot").0);
                }
                Claimed::Theirs(claim) => claim,
            };
            // It is ours already: an earlier try, reported as failed, has landed.
            if let Some((name, found)) = claim.snapshot
                && claim.nonce == self.nonce
                && (name.begin_lsn, found) == (begin_lsn, uuid)
            {
                return Ok(name);
            }
            self.pass(&claim).await?;
        }
    }

    /// Goes past a claim that stands where ours was to be. One of our own that was reported as
    /// failed has landed, and nobody works on it. One of an older epoch cannot publish any more
    /// once its place is taken.
    async fn pass(&self, claim: &Claim) -> Result<(), SnapshotError> {
        self.check_fence(claim)?;
        self.abort_claimed(claim, "its claim was given up").await.map(drop)
    }

    fn check_fence(&self, claim: &Claim) -> Result<(), SnapshotError> {
        if claim.nonce != self.nonce && claim.epoch >= self.epoch {
            return Err(SnapshotError::Fenced { own: self.epoch, found: claim.epoch });
        }
        Ok(())
    }

    /// Makes the next claim take at least the id after this one. Only for a store that has no other
    /// writer (a local one, under its directory's lock): elsewhere claims must be contiguous, so
    /// that a stale writer meets them.
    pub fn skip_past(&mut self, id: SnapshotId) {
        let id = SnapshotId(id.0.min(paths::ID_LIMIT / 2));
        self.last = self.last.max(id);
    }

    /// Takes ids up to `before`, exclusive, for nothing: with claims that name no snapshot, as a
    /// takeover's. So a snapshot can bear the id that it has in another store.
    ///
    /// # Errors
    /// As for [`Claimant::claim`].
    pub async fn fill(&mut self, before: SnapshotId, now_us: u64) -> Result<(), SnapshotError> {
        while self.next_id() < before {
            if let Claimed::Theirs(claim) = self.try_claim(Purpose::Nothing, now_us).await? {
                self.pass(&claim).await?;
            }
        }
        Ok(())
    }

    /// Removes snapshots and log, once a claim for it is there. What is pinned stays. After an
    /// error it can be repeated; the next removal includes it in any case.
    ///
    /// # Errors
    /// As for [`Claimant::claim`].
    pub async fn remove(
        &mut self,
        removal: Removal,
        now_us: u64,
    ) -> Result<Removed, SnapshotError> {
        let removal = removal.behind(&self.removing);
        if removal.is_empty() {
            return Ok(Removed::default());
        }
        // Before it is known whether the claim has landed.
        self.removing = removal.clone();
        loop {
            match self.try_claim(Purpose::Removal(removal.clone()), now_us).await? {
                Claimed::Ours(_) => break,
                Claimed::Theirs(claim) => self.pass(&claim).await?,
            }
        }
        let removed = delete::remove(&*self.store, &removal).await?;
        self.removing = Removal::default();
        Ok(removed)
    }

    /// Looks whether another writer has taken over, by reading the claim that would be ours next.
    ///
    /// # Errors
    /// [`SnapshotError::Fenced`] if it has, or the store's error.
    pub async fn check(&self) -> Result<(), SnapshotError> {
        match read_claim(&*self.store, self.next_id(), self.identity.database).await {
            Ok(claim) => self.check_fence(&claim),
            Err(SnapshotError::Store(error)) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The id that the next claim takes, unless another writer is there first.
    pub fn next_id(&self) -> SnapshotId {
        SnapshotId(self.last.0 + 1)
    }

    /// The epoch under which this writer claims.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Puts an `aborted` manifest for a claimed snapshot, unless it has a manifest.
    ///
    /// # Errors
    /// The store's error.
    pub async fn abort(
        &self,
        snapshot: (SnapshotName, SnapshotUuid),
        reason: &str,
        now_us: u64,
    ) -> Result<(), SnapshotError> {
        let claim = Claim {
            id: snapshot.0.id,
            epoch: self.epoch,
            nonce: self.nonce,
            identity: self.identity,
            snapshot: Some(snapshot),
            removal: None,
            settled: Settled::default(),
            created_at_us: now_us,
        };
        self.abort_claimed(&claim, reason).await.map(drop)
    }

    /// The last id that is known to be taken.
    pub fn last_id(&self) -> SnapshotId {
        self.last
    }

    /// The writer, as its claims name it.
    pub fn nonce(&self) -> WriterNonce {
        self.nonce
    }

    /// The store that is written.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The database and history that are written.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    async fn try_claim(&mut self, purpose: Purpose, now_us: u64) -> Result<Claimed, SnapshotError> {
        let id = self.next_id();
        let (snapshot, removal) = match purpose {
            Purpose::Nothing => (None, None),
            Purpose::Snapshot(begin_lsn, uuid) => {
                (Some((SnapshotName { id, begin_lsn }, uuid)), None)
            }
            Purpose::Removal(removal) => (None, Some(removal)),
        };
        let claim = Claim {
            id,
            epoch: self.epoch,
            nonce: self.nonce,
            identity: self.identity,
            snapshot,
            removal,
            settled: self.settled.clone(),
            created_at_us: now_us,
        };
        let body = claim.encode().into();
        let claimed = match store::create(&*self.store, &paths::claim(id), body).await? {
            Created::Ours => Claimed::Ours(claim),
            Created::Theirs(bytes) => Claimed::Theirs(checked(id, &bytes, self.identity.database)?),
        };
        self.last = id;
        Ok(claimed)
    }

    /// Puts an `aborted` manifest for a claim, unless it has a manifest; says for which snapshot.
    async fn abort_claimed(
        &self,
        claim: &Claim,
        reason: &str,
    ) -> Result<Option<SnapshotName>, SnapshotError> {
        let Some((name, uuid)) = claim.snapshot else { return Ok(None) };
        let state = State::Aborted;
        let identity = self.identity;
        let at = claim.created_at_us;
        let tombstone = RawManifest::tombstone(state, name, identity, uuid, reason.into(), at);
        let body = tombstone.encode().into();
        let created = store::create(&*self.store, &name.manifest(), body).await?;
        Ok((created == Created::Ours).then_some(name))
    }
}

/// What an id is taken for.
enum Purpose {
    /// A takeover, or to be filled.
    Nothing,
    Snapshot(Lsn, SnapshotUuid),
    Removal(Removal),
}

/// What came of a try to claim an id.
enum Claimed {
    Ours(Claim),
    Theirs(Claim),
}

/// Which ids a store's names show.
#[derive(Debug, Default)]
struct KnownIds {
    claims: BTreeSet<SnapshotId>,
    /// Ids of which a manifest is there, in whatever state.
    manifests: BTreeSet<SnapshotId>,
    /// Ids of which any object is there.
    objects: BTreeSet<SnapshotId>,
}

impl KnownIds {
    async fn list(store: &dyn ObjectStore) -> Result<Self, SnapshotError> {
        let mut known = Self::default();
        // Claims first: a manifest put between the two listings must not look like an open claim.
        for folder in [paths::claims(), paths::snapshots()] {
            for object in store::list(store, &folder).await? {
                match Named::parse(&object.location) {
                    Some(Named::Claim(id)) => {
                        known.claims.insert(id);
                    }
                    Some(Named::Manifest(name)) => {
                        known.manifests.insert(name.id);
                        known.objects.insert(name.id);
                    }
                    Some(Named::Core { name, .. }) => {
                        known.objects.insert(name.id);
                    }
                    Some(Named::Wal(_)) | None => {}
                }
            }
        }
        Ok(known)
    }

    fn last(&self) -> SnapshotId {
        let last = self.claims.last().max(self.objects.last());
        last.copied().unwrap_or_default()
    }
}

/// Makes sure that a store is not another database's, by its newest claim.
///
/// # Errors
/// [`SnapshotError::ForeignDatabase`] if it is, or as for [`Claimant::take_over`].
pub async fn require_database(
    store: &dyn ObjectStore,
    database: DatabaseId,
) -> Result<(), SnapshotError> {
    let found = store::list(store, &paths::claims()).await?;
    let ids = found.iter().filter_map(|object| match Named::parse(&object.location) {
        Some(Named::Claim(id)) => Some(id),
        _ => None,
    });
    match ids.max() {
        Some(id) => read_claim(store, id, database).await.map(drop),
        None => Ok(()),
    }
}
