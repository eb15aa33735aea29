//! Claims keep writers of one store apart (DESIGN §7, *Claims*): `claims/{n}` is created only if
//! absent and never deleted, so an id belongs to exactly one attempt of one writer.
//!
//! n is always the last known + 1, so an older writer cannot get past a newer one without reading
//! its claim: a higher epoch there fences it. A takeover claims with a new epoch first and only
//! then puts an `aborted` manifest for every open claim below; an older writer that wakes up later
//! finds its manifest's place taken. Tombstones are put here, too, since they follow from claims.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use cutwater_engine::types::{Lsn, SnapshotId};
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};

use crate::chunk::mismatch;
use crate::error::{Damage, Flaw, SnapshotError};
use crate::ident::{DatabaseId, Identity, SnapshotUuid, WriterNonce};
use crate::manifest::{RawManifest, State};
use crate::msgpack::{self, CrcField};
use crate::paths::{self, Named, SnapshotName};
use crate::store::{self, Created};

/// The format of claims that this code writes, and the only one that it reads.
pub const CLAIM_VERSION: u32 = 1;

/// A claim as stored. Field order is the stored order; `crc32c` must stay last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RawClaim {
    format_version: u32,
    claim_id: SnapshotId,
    epoch: u64,
    writer_nonce: WriterNonce,
    database_id: DatabaseId,
    snapshot: Option<SnapshotName>,
    snapshot_uuid: Option<SnapshotUuid>,
    created_at_us: u64,
    crc32c: CrcField,
}

/// A claim: who took an id, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The id.
    pub id: SnapshotId,
    /// Counted up by every takeover.
    pub epoch: u64,
    /// The writer.
    pub nonce: WriterNonce,
    /// The database.
    pub database: DatabaseId,
    /// The snapshot for which the id was taken; `None` for a takeover.
    pub snapshot: Option<(SnapshotName, SnapshotUuid)>,
    /// When, in microseconds since the Unix epoch.
    pub created_at_us: u64,
}

impl Claim {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        msgpack::encode(&RawClaim {
            format_version: CLAIM_VERSION,
            claim_id: self.id,
            epoch: self.epoch,
            writer_nonce: self.nonce,
            database_id: self.database,
            snapshot: self.snapshot.map(|(name, _)| name),
            snapshot_uuid: self.snapshot.map(|(_, uuid)| uuid),
            created_at_us: self.created_at_us,
            crc32c: CrcField::default(),
        })
    }

    /// Compares the claim with the manifest of the same id.
    ///
    /// # Errors
    /// [`Damage`] that names the claim, if it is another snapshot's.
    pub fn check_names(&self, name: SnapshotName, uuid: SnapshotUuid) -> Result<(), Damage> {
        if self.snapshot == Some((name, uuid)) {
            return Ok(());
        }
        let found = self.snapshot.map_or("none".into(), |(name, uuid)| format!("{name} {uuid}"));
        let flaw = mismatch("the snapshot", format!("{name} {uuid}"), found);
        Err(Damage::whole(paths::claim(self.id), flaw))
    }

    /// The claim stored at `id`.
    ///
    /// # Errors
    /// [`Damage`] that names the object.
    pub fn decode(id: SnapshotId, bytes: &[u8]) -> Result<Self, Damage> {
        let decoded = msgpack::decode::<RawClaim>(bytes).and_then(|raw| raw.validate(id));
        decoded.map_err(|flaw| Damage::whole(paths::claim(id), flaw))
    }
}

impl RawClaim {
    fn validate(self, id: SnapshotId) -> Result<Claim, Flaw> {
        if self.format_version != CLAIM_VERSION {
            return Err(Flaw::Version(self.format_version.into()));
        }
        if self.claim_id != id {
            return Err(mismatch("claim_id", id, self.claim_id));
        }
        let snapshot = match (self.snapshot, self.snapshot_uuid) {
            (None, None) => None,
            (Some(name), Some(uuid)) if name.id == id => Some((name, uuid)),
            (Some(name), Some(_)) => return Err(mismatch("the snapshot's id", id, name.id)),
            _ => return Err(mismatch("snapshot and snapshot_uuid", "together", "apart")),
        };
        Ok(Claim {
            id,
            epoch: self.epoch,
            nonce: self.writer_nonce,
            database: self.database_id,
            snapshot,
            created_at_us: self.created_at_us,
        })
    }
}

/// The one writer of a store, as long as nobody takes over.
#[derive(Debug)]
pub struct Claimant {
    store: Arc<dyn ObjectStore>,
    identity: Identity,
    nonce: WriterNonce,
    epoch: u64,
    last: SnapshotId,
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
        let epoch = match known.claims.last() {
            Some(id) => read_claim(&*store, *id, identity.database).await?.epoch,
            None => 0,
        };
        let mut claimant = Self { store, identity, nonce, epoch: epoch.saturating_add(1), last };
        let mut open: Vec<SnapshotId> =
            known.claims.difference(&known.manifests).copied().collect();
        // Whoever claims meanwhile is an earlier writer that has not met us, or another takeover.
        loop {
            match claimant.try_claim(None, now_us).await? {
                Claimed::Ours(_) => break,
                Claimed::Theirs(claim) => {
                    claimant.epoch = claimant.epoch.max(claim.epoch.saturating_add(1));
                    open.push(claim.id);
                }
            }
        }
        let (mut aborted, mut kept) = (Vec::new(), Vec::new());
        for id in open {
            let claim = read_claim(&*claimant.store, id, identity.database).await?;
            if let Some(snapshot) = claim.snapshot.filter(|(_, uuid)| keep.contains(uuid)) {
                kept.push(snapshot);
                continue;
            }
            aborted.extend(claimant.abort_claimed(&claim, "its writer was superseded").await?);
        }
        Ok(Takeover { claimant, aborted, kept })
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
            let claim = match self.try_claim(Some((begin_lsn, uuid)), now_us).await? {
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
            if let Claimed::Theirs(claim) = self.try_claim(None, now_us).await? {
                self.pass(&claim).await?;
            }
        }
        Ok(())
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
            database: self.identity.database,
            snapshot: Some(snapshot),
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

    async fn try_claim(
        &mut self,
        snapshot: Option<(Lsn, SnapshotUuid)>,
        now_us: u64,
    ) -> Result<Claimed, SnapshotError> {
        let id = self.next_id();
        let claim = Claim {
            id,
            epoch: self.epoch,
            nonce: self.nonce,
            database: self.identity.database,
            snapshot: snapshot.map(|(begin_lsn, uuid)| (SnapshotName { id, begin_lsn }, uuid)),
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
    match KnownIds::list(store).await?.claims.last() {
        Some(id) => read_claim(store, *id, database).await.map(drop),
        None => Ok(()),
    }
}

/// Reads the claim of an id.
///
/// # Errors
/// As for [`Claimant::take_over`].
pub async fn read_claim(
    store: &dyn ObjectStore,
    id: SnapshotId,
    database: DatabaseId,
) -> Result<Claim, SnapshotError> {
    let bytes = store::get(store, &paths::claim(id)).await?;
    checked(id, &bytes, database)
}

fn checked(id: SnapshotId, bytes: &Bytes, database: DatabaseId) -> Result<Claim, SnapshotError> {
    let claim = Claim::decode(id, bytes)?;
    if claim.database != database {
        let (expected, found) = (database, claim.database);
        let object = paths::claim(id).to_string();
        return Err(SnapshotError::ForeignDatabase { object, expected, found });
    }
    Ok(claim)
}
