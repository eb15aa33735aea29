//! What a snapshot consists of: one checked MessagePack map (FORMAT.md), written last and once.
//!
//! [`RawManifest`] is what was stored, field by field. [`RawManifest::validate`] gives a
//! [`Record`]: a published [`Manifest`], whose parts, objects and counts agree, or a
//! [`Tombstone`], which stays for ever where a snapshot was aborted or deleted. Pure.

use cutwater_engine::seal::digest;
use cutwater_engine::slot::SLOT_COUNT;
use cutwater_engine::types::{LogId, Lsn, Position, ShardId, SnapshotId};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::chunk::mismatch;
use crate::compression::{Algorithm, Compression};
use crate::error::{Damage, Flaw};
use crate::ident::{DatabaseId, Fork, HistoryId, Identity, SnapshotUuid};
use crate::msgpack::{self, CrcField};
use crate::paths::{Named, SnapshotName};

/// The format of manifests that this code writes, and the only one that it reads.
pub const MANIFEST_VERSION: u32 = 1;

/// Bytes of the digest by which a delta names its parent.
pub const PARENT_DIGEST_BYTES: usize = 32;
/// Bytes of the digest of a slot.
pub const SLOT_DIGEST_BYTES: usize = 16;

/// Whether a snapshot stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotKind {
    /// A whole image.
    Base,
    /// Only what changed since its parent.
    Delta,
}

/// What became of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Every object is there.
    Published,
    /// It was given up; objects behind it may be removed.
    Aborted,
    /// It was published once; objects behind it may be removed.
    Deleted,
}

impl State {
    /// The word for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Aborted => "aborted",
            Self::Deleted => "deleted",
        }
    }
}

/// The head of a manifest, the same in every version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// [`MANIFEST_VERSION`].
    pub format_version: u32,
    /// The id in its store.
    pub snapshot_id: SnapshotId,
    /// The lowest watermark.
    pub begin_lsn: Lsn,
    /// The highest watermark: what the snapshot alone restores.
    pub end_lsn: Lsn,
    /// When the writer began, in microseconds since the Unix epoch.
    pub created_at_us: u64,
    /// The program and version that wrote it.
    pub created_by: String,
    /// Base or delta.
    pub kind: SnapshotKind,
    /// The parent of a delta.
    pub parent_id: Option<SnapshotId>,
    /// Bytes of all objects but the manifest.
    pub data_bytes: u64,
}

/// One core's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorePart {
    /// The core, in the layout of the start that wrote the snapshot.
    pub core: ShardId,
    /// The image holds everything of this core at or below, and nothing above.
    pub watermark: Lsn,
    /// The log that goes on behind the image.
    pub log_id: LogId,
    /// Where in that log recovery continues: what lies before is in the image.
    pub position: Position,
    /// Ops in the image.
    pub entries: u64,
    /// Image and tail chunks.
    pub chunks: u64,
    /// Log records in (watermark, end_lsn].
    pub tail_records: u64,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    /// Its full name in the store.
    pub name: String,
    /// The core whose part it is.
    pub core: ShardId,
    /// Which piece of that part, from 0.
    pub piece: u32,
    /// Its length in bytes.
    pub length: u64,
    /// CRC32C over all its bytes.
    pub crc32c: u32,
    /// Ops of the image that it holds.
    pub entries: u64,
}

/// A manifest as stored. Field order is the stored order; `crc32c` must stay last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawManifest {
    /// The head.
    pub meta: Meta,
    /// The first object of every core; further pieces are in `objects`.
    pub core_files: Vec<String>,
    /// How many cores took part.
    pub num_cores: u16,
    /// The database.
    pub database_id: DatabaseId,
    /// The history.
    pub history_id: HistoryId,
    /// The history that it forked off, if it began by a restore.
    pub parent_history: Option<HistoryId>,
    /// The last LSN that both have.
    pub fork_lsn: Option<Lsn>,
    /// The attempt.
    pub snapshot_uuid: SnapshotUuid,
    /// What became of it.
    pub state: State,
    /// Why it was aborted or deleted.
    pub reason: Option<String>,
    /// One part for every core, in order.
    pub cores: Vec<CorePart>,
    /// Keys per slot at the watermark: none, or one for each of the 16,384.
    pub slot_counts: Vec<u64>,
    /// Every object, by core and piece.
    pub objects: Vec<StoredObject>,
    /// How bodies are compressed, as [`Compression`] is spelled.
    pub compression: String,
    /// Which configured key wraps the data key; nil for plain objects.
    pub key_id: Option<String>,
    /// The wrapped data key.
    pub wrapped_key: Option<ByteBuf>,
    /// The HMAC of [`RawManifest::body`] by the data key.
    pub auth: Option<ByteBuf>,
    /// [`RawManifest::digest`] of the parent.
    pub parent_digest: Option<ByteBuf>,
    /// Keys the digests of the slots.
    pub digest_seed: Option<u64>,
    /// The digest of each slot at its part's watermark, over all its entries
    /// (`cutwater_engine::keyspace::SlotDigests`): 16,384 numbers of 16 bytes.
    pub slot_digests: Option<ByteBuf>,
    /// Since when it is pinned, in microseconds since the Unix epoch. Not authenticated.
    pub pinned_at_us: Option<u64>,
    /// CRC32C of all bytes before it.
    pub crc32c: CrcField,
}

/// A validated manifest, whatever became of the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A whole snapshot.
    Published(Box<Manifest>),
    /// What stands where one was given up or deleted.
    Tombstone(Tombstone),
}

/// What stands where a snapshot was given up or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The snapshot.
    pub name: SnapshotName,
    /// The highest LSN that it held; that of its name if it never was published.
    pub end_lsn: Lsn,
    /// The database.
    pub database: DatabaseId,
    /// The attempt.
    pub snapshot_uuid: SnapshotUuid,
    /// [`State::Aborted`] or [`State::Deleted`].
    pub state: State,
    /// Why.
    pub reason: String,
    /// When the snapshot was begun, in microseconds since the Unix epoch.
    pub created_at_us: u64,
}

/// A published manifest whose parts, objects and counts agree with each other and with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    raw: RawManifest,
    name: SnapshotName,
}

impl Record {
    /// Decodes and validates the manifest stored at `name`.
    ///
    /// # Errors
    /// [`Damage`] that names the object and says what is wrong with it.
    pub fn decode(name: SnapshotName, bytes: &[u8]) -> Result<Self, Damage> {
        msgpack::decode::<RawManifest>(bytes)
            .and_then(|raw| raw.validate(name))
            .map_err(|flaw| Damage::whole(name.manifest(), flaw))
    }
}

impl RawManifest {
    /// The manifest of a snapshot that has no objects any more, or never had them.
    pub fn tombstone(
        state: State,
        name: SnapshotName,
        identity: Identity,
        snapshot_uuid: SnapshotUuid,
        reason: String,
        created_at_us: u64,
    ) -> Self {
        Self {
            meta: Meta {
                format_version: MANIFEST_VERSION,
                snapshot_id: name.id,
                begin_lsn: name.begin_lsn,
                end_lsn: name.begin_lsn,
                created_at_us,
                created_by: created_by(),
                kind: SnapshotKind::Base,
                parent_id: None,
                data_bytes: 0,
            },
            core_files: Vec::new(),
            num_cores: 0,
            database_id: identity.database,
            history_id: identity.history,
            parent_history: identity.fork.map(|fork| fork.parent),
            fork_lsn: identity.fork.map(|fork| fork.lsn),
            snapshot_uuid,
            state,
            reason: Some(reason),
            cores: Vec::new(),
            slot_counts: Vec::new(),
            objects: Vec::new(),
            compression: Compression::None.to_string(),
            key_id: None,
            wrapped_key: None,
            auth: None,
            parent_digest: None,
            digest_seed: None,
            slot_digests: None,
            pinned_at_us: None,
            crc32c: CrcField::default(),
        }
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        msgpack::encode(self)
    }

    /// What is authenticated, and what a child names its parent by: the stored form without the
    /// fields that may change: nil (`key_id`, `wrapped_key`, `auth`, `pinned_at_us`), 0 (`crc32c`).
    pub fn body(&self) -> Vec<u8> {
        let (key_id, wrapped_key, auth, pinned_at_us) = (None, None, None, None);
        let crc32c = CrcField::default();
        let body = Self { key_id, wrapped_key, auth, pinned_at_us, crc32c, ..self.clone() };
        rmp_serde::to_vec_named(&body).expect("plain structs encode into memory")
    }

    /// SHA-256 of [`RawManifest::body`].
    pub fn digest(&self) -> [u8; 32] {
        digest(&self.body())
    }

    /// Believes what agrees with itself and with the name under which it is stored.
    ///
    /// # Errors
    /// The first [`Flaw`].
    pub fn validate(self, name: SnapshotName) -> Result<Record, Flaw> {
        let meta = &self.meta;
        if meta.format_version != MANIFEST_VERSION {
            return Err(Flaw::Version(meta.format_version.into()));
        }
        equal("snapshot_id", name.id, meta.snapshot_id)?;
        equal("begin_lsn", name.begin_lsn, meta.begin_lsn)?;
        if self.state != State::Published {
            if meta.end_lsn < meta.begin_lsn {
                return Err(mismatch("end_lsn", "at or above begin_lsn", meta.end_lsn));
            }
            return Ok(Record::Tombstone(Tombstone {
                name,
                end_lsn: self.meta.end_lsn,
                database: self.database_id,
                snapshot_uuid: self.snapshot_uuid,
                state: self.state,
                reason: self.reason.unwrap_or_default(),
                created_at_us: self.meta.created_at_us,
            }));
        }
        self.check_kind()?;
        self.check_parts()?;
        self.check_objects(name)?;
        Ok(Record::Published(Box::new(Manifest { raw: self, name })))
    }

    fn check_kind(&self) -> Result<(), Flaw> {
        let parent = self.meta.parent_id.is_some();
        let is_delta = self.meta.kind == SnapshotKind::Delta;
        equal("parent_id is there", is_delta, parent)?;
        let digest_bytes = self.parent_digest.as_ref().map_or(0, |digest| digest.len());
        equal(
            "bytes of parent_digest",
            if is_delta { PARENT_DIGEST_BYTES } else { 0 },
            digest_bytes,
        )?;
        let digests_bytes = self.slot_digests.as_ref().map(|digests| digests.len());
        let expected = self.digest_seed.map(|_| usize::from(SLOT_COUNT) * SLOT_DIGEST_BYTES);
        equal("bytes of slot_digests", expected.unwrap_or(0), digests_bytes.unwrap_or(0))?;
        let fork = self.parent_history.is_some();
        equal("parent_history and fork_lsn are there", fork, self.fork_lsn.is_some())?;
        self.compression()?;
        self.check_sealing()?;
        match self.slot_counts.len() {
            0 => Ok(()),
            len => equal("slots counted", usize::from(SLOT_COUNT), len),
        }
    }

    fn compression(&self) -> Result<Compression, Flaw> {
        let known = self.compression.parse();
        known.map_err(|error| mismatch("compression", error, &self.compression))
    }

    /// One part for every core, in order; LSNs are those of the parts.
    fn check_parts(&self) -> Result<(), Flaw> {
        for core in 0..self.num_cores {
            match self.cores.get(usize::from(core)) {
                Some(part) if part.core.0 == core => {}
                _ => return Err(Flaw::MissingPart(ShardId(core))),
            }
        }
        equal("number of parts", usize::from(self.num_cores), self.cores.len())?;
        let watermarks = || self.cores.iter().map(|part| part.watermark);
        let (Some(lowest), Some(highest)) = (watermarks().min(), watermarks().max()) else {
            return Err(Flaw::MissingPart(ShardId(0)));
        };
        equal("begin_lsn", lowest, self.meta.begin_lsn)?;
        equal("end_lsn", highest, self.meta.end_lsn)?;
        // A part at the end has nothing behind it that belongs to the snapshot.
        match self.cores.iter().find(|part| part.watermark == highest && part.tail_records > 0) {
            Some(part) => Err(mismatch("tail records at end_lsn", 0, part.tail_records)),
            None => Ok(()),
        }
    }

    /// Every core's pieces in order, under the names that they must have, with sums that agree.
    fn check_objects(&self, name: SnapshotName) -> Result<(), Flaw> {
        let mut objects = self.objects.iter().peekable();
        for part in &self.cores {
            let (mut piece, mut entries) = (0, 0u64);
            while let Some(object) = objects.next_if(|object| object.core == part.core) {
                equal("piece", piece, object.piece)?;
                let expected = name.core_object(part.core, piece);
                equal("object name", expected.as_ref(), object.name.as_str())?;
                entries = entries.saturating_add(object.entries);
                piece += 1;
            }
            if piece == 0 {
                return Err(Flaw::MissingPart(part.core));
            }
            equal("entries of the objects", part.entries, entries)?;
        }
        equal("objects beyond the parts", 0, objects.count())?;
        let first: Vec<&str> = self
            .objects
            .iter()
            .filter(|object| object.piece == 0)
            .map(|object| object.name.as_str())
            .collect();
        if first != self.core_files {
            return Err(mismatch("core_files", first.join(" "), self.core_files.join(" ")));
        }
        let length = self.objects.iter().fold(0u64, |sum, o| sum.saturating_add(o.length));
        equal("data_bytes", length, self.meta.data_bytes)
    }
}

impl Manifest {
    /// The full name.
    pub fn name(&self) -> SnapshotName {
        self.name
    }

    /// The id in its store.
    pub fn id(&self) -> SnapshotId {
        self.name.id
    }

    /// The head: LSNs, kind, size, origin.
    pub fn meta(&self) -> &Meta {
        &self.raw.meta
    }

    /// The database and the history.
    pub fn identity(&self) -> Identity {
        let fork = self.raw.parent_history.zip(self.raw.fork_lsn);
        Identity {
            database: self.raw.database_id,
            history: self.raw.history_id,
            fork: fork.map(|(parent, lsn)| Fork { parent, lsn }),
        }
    }

    /// The attempt.
    pub fn snapshot_uuid(&self) -> SnapshotUuid {
        self.raw.snapshot_uuid
    }

    /// The parts, one for every core, in order.
    pub fn cores(&self) -> &[CorePart] {
        &self.raw.cores
    }

    /// Every object, by core and piece.
    pub fn objects(&self) -> &[StoredObject] {
        &self.raw.objects
    }

    /// The objects of one core, in order.
    pub fn objects_of(&self, core: ShardId) -> impl Iterator<Item = &StoredObject> {
        self.raw.objects.iter().filter(move |object| object.core == core)
    }

    /// Keys per slot at the watermark, if the writer counted them; empty otherwise.
    pub fn slot_counts(&self) -> &[u64] {
        &self.raw.slot_counts
    }

    /// The parent of a delta: its id, and the digest of its manifest.
    pub fn parent(&self) -> Option<(SnapshotId, &[u8])> {
        Some((self.raw.meta.parent_id?, self.raw.parent_digest.as_ref()?.as_slice()))
    }

    /// The digests of the slots at the parts' watermarks, in order, and the seed that keys them.
    pub fn slot_digests(&self) -> Option<(u64, impl ExactSizeIterator<Item = u128>)> {
        let (digests, _) = self.raw.slot_digests.as_ref()?.as_chunks::<SLOT_DIGEST_BYTES>();
        Some((self.raw.digest_seed?, digests.iter().map(|digest| u128::from_le_bytes(*digest))))
    }

    /// How the bodies are compressed.
    pub fn compression(&self) -> Algorithm {
        self.raw.compression().map(Compression::algorithm).unwrap_or_default()
    }

    /// Since when it is pinned, in microseconds since the Unix epoch, if it is.
    pub fn pinned_at_us(&self) -> Option<u64> {
        self.raw.pinned_at_us
    }

    /// The fields as stored.
    pub fn raw(&self) -> &RawManifest {
        &self.raw
    }
}

/// The store's path of an object that a validated manifest names.
pub(crate) fn object_path(object: &StoredObject) -> Path {
    let path = Path::from(object.name.as_str());
    debug_assert!(matches!(Named::parse(&path), Some(Named::Core { .. })));
    path
}

/// The program and version that this code is, for `created_by`.
pub(crate) fn created_by() -> String {
    concat!("cutwater ", env!("CARGO_PKG_VERSION")).into()
}

fn equal<T: PartialEq + ToString>(field: &'static str, expected: T, found: T) -> Result<(), Flaw> {
    if expected == found { Ok(()) } else { Err(mismatch(field, expected, found)) }
}
