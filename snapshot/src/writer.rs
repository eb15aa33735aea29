//! A snapshot on its way into a store: claim, objects core by core, and the manifest last.
//!
//! The manifest is created only if absent and never with fewer parts than cores, so a snapshot is
//! whole or it is not there. Whoever gives up calls [`SnapshotWriter::abort`]; what a crash leaves
//! open, the next takeover aborts. The caller publishes only when every log is durable past the
//! highest watermark.

use std::sync::Arc;

use cutwater_engine::seal::Keyring;
use cutwater_engine::types::{Lsn, ShardId, SnapshotId};
use object_store::ObjectStore;
use serde_bytes::ByteBuf;

use crate::chunk::ObjectHeader;
use crate::claim::Claimant;
use crate::compression::Compression;
use crate::core_writer::{CoreWriter, FinishedCore, PIECE_BYTES};
use crate::delete::sweep;
use crate::error::SnapshotError;
use crate::ident::{self, Identity, Random, SnapshotUuid};
use crate::manifest::{
    MANIFEST_VERSION, Manifest, Meta, PARENT_DIGEST_BYTES, RawManifest, Record, SnapshotKind,
    State, created_by,
};
use crate::msgpack::CrcField;
use crate::paths::SnapshotName;
use crate::sealing::Seal;
use crate::store::{self, Created};

/// What snapshot to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSpec {
    /// The lowest watermark. It is in the name, so the shards have answered the cut before this.
    pub begin_lsn: Lsn,
    /// How many cores take part, at least 1.
    pub num_cores: u16,
    /// This attempt; random, never used twice.
    pub uuid: SnapshotUuid,
    /// Now, in microseconds since the Unix epoch.
    pub created_at_us: u64,
    /// The length at which a core's stream goes on in a further object.
    pub piece_limit_bytes: u64,
    /// How bodies are compressed.
    pub compression: Compression,
    /// Why it was taken, if not because somebody asked for it.
    pub reason: Option<String>,
    /// What it is a delta of; a base has none.
    pub parent: Option<Parent>,
}

/// The snapshot that a delta is taken on top of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its id in the same store.
    pub id: SnapshotId,
    /// [`RawManifest::digest`] of its manifest.
    pub digest: [u8; PARENT_DIGEST_BYTES],
}

impl Parent {
    /// A published snapshot as a parent.
    pub fn of(manifest: &Manifest) -> Self {
        Self { id: manifest.id(), digest: manifest.raw().digest() }
    }
}

/// What is known of all slots together, at the watermarks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotSummary {
    /// Keys of each slot, or nothing.
    pub counts: Vec<u64>,
    /// The seed and the digest of each slot, if they were taken.
    pub digests: Option<(u64, Vec<u128>)>,
}

impl SnapshotSpec {
    /// A base snapshot with pieces of the usual length, not compressed.
    pub fn base(begin_lsn: Lsn, num_cores: u16, uuid: SnapshotUuid, created_at_us: u64) -> Self {
        Self {
            begin_lsn,
            num_cores,
            uuid,
            created_at_us,
            piece_limit_bytes: PIECE_BYTES,
            compression: Compression::None,
            reason: None,
            parent: None,
        }
    }
}

/// A claimed snapshot that is being written.
#[must_use = "a snapshot is published with finish or given up with abort"]
#[derive(Debug)]
pub struct SnapshotWriter {
    store: Arc<dyn ObjectStore>,
    identity: Identity,
    name: SnapshotName,
    spec: SnapshotSpec,
    seal: Option<Seal>,
}

impl SnapshotWriter {
    /// Claims an id for the snapshot. It is sealed under the active key, if there is one.
    ///
    /// # Errors
    /// As for [`Claimant::claim`].
    pub async fn begin(
        claimant: &mut Claimant,
        spec: SnapshotSpec,
        keys: &Keyring,
    ) -> Result<Self, SnapshotError> {
        Self::begin_with(claimant, spec, keys, ident::random).await
    }

    /// [`SnapshotWriter::begin`] with another source of the data key, its nonce and the salts:
    /// what is sealed with bytes that are not random is not secret.
    ///
    /// # Errors
    /// As for [`SnapshotWriter::begin`].
    pub async fn begin_with(
        claimant: &mut Claimant,
        spec: SnapshotSpec,
        keys: &Keyring,
        random: Random,
    ) -> Result<Self, SnapshotError> {
        if spec.num_cores == 0 {
            return Err(SnapshotError::MissingPart { core: ShardId(0) });
        }
        let database = claimant.identity().database;
        let seal = Seal::new(keys, database, spec.uuid, random)?;
        let name = claimant.claim(spec.begin_lsn, spec.uuid, spec.created_at_us).await?;
        let (store, identity) = (claimant.store().clone(), claimant.identity());
        Ok(Self { store, identity, name, spec, seal })
    }

    /// The full name, with the id that was claimed.
    pub fn name(&self) -> SnapshotName {
        self.name
    }

    /// The writer of one core's part; cores are written independently, in any order. Ask once for
    /// each.
    pub fn core(&self, core: ShardId) -> CoreWriter {
        let header = ObjectHeader {
            database: self.identity.database,
            snapshot: self.spec.uuid,
            core,
            piece: 0,
            compression: self.spec.compression.algorithm(),
            salt: None,
        };
        CoreWriter::new(
            self.store.clone(),
            self.name,
            header,
            self.spec.compression,
            self.seal.clone(),
            self.spec.piece_limit_bytes,
        )
    }

    /// Publishes the snapshot: one put of the manifest, which must be new. `slot_counts` are the
    /// keys per slot at the watermarks, or empty.
    ///
    /// # Errors
    /// [`SnapshotError::MissingPart`] or [`SnapshotError::Parts`] if the parts are not those of
    /// this snapshot, [`SnapshotError::Superseded`] if another writer has aborted it, or the
    /// store's error, after which it may or may not be published, and durably or not: call
    /// [`SnapshotWriter::abort`], and recycle no log on its account.
    pub async fn finish(
        &self,
        cores: Vec<FinishedCore>,
        slot_counts: Vec<u64>,
    ) -> Result<Manifest, SnapshotError> {
        let summary = SlotSummary { counts: slot_counts, digests: None };
        self.finish_with(cores, summary).await
    }

    /// [`SnapshotWriter::finish`] with everything that is known of the slots.
    ///
    /// # Errors
    /// As for [`SnapshotWriter::finish`].
    pub async fn finish_with(
        &self,
        cores: Vec<FinishedCore>,
        slots: SlotSummary,
    ) -> Result<Manifest, SnapshotError> {
        let mut raw = self.manifest(cores, slots)?;
        if let Some(seal) = &self.seal {
            seal.seal(&mut raw);
        }
        let body = raw.encode();
        let manifest = match Record::decode(self.name, &body) {
            Ok(Record::Published(manifest)) => *manifest,
            Ok(Record::Tombstone(_)) => unreachable!("a manifest made to be published"),
            Err(damage) => return Err(SnapshotError::Parts { reason: damage.flaw.to_string() }),
        };
        match store::create(&*self.store, &self.name.manifest(), body.into()).await? {
            Created::Ours => Ok(manifest),
            Created::Theirs(_) => Err(SnapshotError::Superseded { name: self.name }),
        }
    }

    /// Gives the snapshot up: puts an `aborted` manifest, and removes the objects behind it. Every
    /// [`CoreWriter`] must have ended before; what one writes later is swept by the next takeover's
    /// [`crate::delete::sweep_leftovers`].
    ///
    /// # Errors
    /// [`SnapshotError::Published`] if the manifest is in the store already, in which case nothing
    /// is removed; or the store's error.
    pub async fn abort(self, reason: &str) -> Result<(), SnapshotError> {
        let tombstone = RawManifest::tombstone(
            State::Aborted,
            self.name,
            self.identity,
            self.spec.uuid,
            reason.into(),
            self.spec.created_at_us,
        );
        let path = self.name.manifest();
        let body = tombstone.encode().into();
        if let Created::Theirs(found) = store::create(&*self.store, &path, body).await?
            && let Record::Published(_) = Record::decode(self.name, &found)?
        {
            return Err(SnapshotError::Published { name: self.name });
        }
        sweep(&*self.store, self.name).await.map(drop)
    }

    fn manifest(
        &self,
        mut finished: Vec<FinishedCore>,
        slots: SlotSummary,
    ) -> Result<RawManifest, SnapshotError> {
        finished.sort_by_key(|core| core.part.core);
        for core in (0..self.spec.num_cores).map(ShardId) {
            match finished.iter().filter(|finished| finished.part.core == core).count() {
                1 => {}
                0 => return Err(SnapshotError::MissingPart { core }),
                _ => {
                    let reason = format!("core {core} has two parts");
                    return Err(SnapshotError::Parts { reason });
                }
            }
        }
        let end_lsn = finished.iter().map(|core| core.part.watermark).max().unwrap_or_default();
        let (cores, objects): (Vec<_>, Vec<_>) =
            finished.into_iter().map(|core| (core.part, core.objects)).unzip();
        let objects: Vec<_> = objects.into_iter().flatten().collect();
        let first = objects.iter().filter(|object| object.piece == 0);
        let parent = self.spec.parent.as_ref();
        let (digest_seed, slot_digests) = slots.digests.unzip();
        let encoded = |digests: Vec<u128>| {
            ByteBuf::from(
                digests.iter().flat_map(|digest| digest.to_le_bytes()).collect::<Vec<_>>(),
            )
        };
        Ok(RawManifest {
            meta: Meta {
                format_version: MANIFEST_VERSION,
                snapshot_id: self.name.id,
                begin_lsn: self.name.begin_lsn,
                end_lsn,
                created_at_us: self.spec.created_at_us,
                created_by: created_by(),
                kind: parent.map_or(SnapshotKind::Base, |_| SnapshotKind::Delta),
                parent_id: parent.map(|parent| parent.id),
                data_bytes: objects.iter().map(|object| object.length).sum(),
            },
            core_files: first.map(|object| object.name.clone()).collect(),
            num_cores: self.spec.num_cores,
            database_id: self.identity.database,
            history_id: self.identity.history,
            parent_history: self.identity.fork.map(|fork| fork.parent),
            fork_lsn: self.identity.fork.map(|fork| fork.lsn),
            snapshot_uuid: self.spec.uuid,
            state: State::Published,
            reason: self.spec.reason.clone(),
            cores,
            slot_counts: slots.counts,
            objects,
            compression: self.spec.compression.to_string(),
            key_id: None,
            wrapped_key: None,
            auth: None,
            parent_digest: parent.map(|parent| ByteBuf::from(parent.digest)),
            digest_seed,
            slot_digests: slot_digests.map(encoded),
            pinned_at_us: None,
            crc32c: CrcField::default(),
        })
    }
}
