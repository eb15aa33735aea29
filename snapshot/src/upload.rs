//! A published snapshot on its way from one store into another, under a claim there: several
//! objects at once, each checked against the manifest while it is copied, and the manifest last.
//!
//! The snapshot is the same (its uuid says so) but may bear another id there: [`manifest_for`]
//! renames it. Objects that are there already with the right length stay, so a copy that was cut
//! short goes on where it stopped. Memory: at most [`OBJECTS_AT_ONCE`] objects of
//! [`WHOLE_PUT_BYTES`], or as many times [`PARTS_AT_ONCE`] parts, 64 MiB either way. Whether and
//! when to try again is the caller's decision.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cutwater_engine::seal::Keyring;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt};
use serde_bytes::ByteBuf;
use tokio::task::JoinSet;

use crate::catalog::read_record;
use crate::error::{Damage, Flaw, Operation, SnapshotError, StoreError};
use crate::manifest::{Manifest, RawManifest, Record, StoredObject, object_path};
use crate::paths::SnapshotName;
use crate::store::{self, Created};
use crate::throttle::Throttle;

/// Objects that are copied at once.
pub const OBJECTS_AT_ONCE: usize = 4;
/// The longest object that goes up in one put, inclusive; a longer one goes up in parts.
pub const WHOLE_PUT_BYTES: u64 = 16 << 20;
/// Bytes of a part.
pub const PART_BYTES: u64 = 8 << 20;
/// Parts of one object that are written at once.
pub const PARTS_AT_ONCE: usize = 2;

/// One snapshot to be copied, and where to.
#[derive(Debug)]
pub struct Upload {
    /// Where it is published.
    pub from: Arc<dyn ObjectStore>,
    /// Where it is to be published.
    pub to: Arc<dyn ObjectStore>,
    /// It, as it is published in `from`.
    pub manifest: Manifest,
    /// The configured keys; a snapshot that they do not open, or that is plain although there are
    /// some, is not copied.
    pub keys: Keyring,
    /// Its name in `to`, as claimed there.
    pub name: SnapshotName,
    /// For a delta, its parent as it is published in `to`.
    pub parent: Option<Manifest>,
    /// What holds it back.
    pub throttle: Arc<Throttle>,
    /// Bytes of objects that are there, counted up while they are sent.
    pub done_bytes: Arc<AtomicU64>,
}

impl Upload {
    /// Copies all objects and then publishes the snapshot; its manifest in the new store.
    ///
    /// # Errors
    /// [`SnapshotError::Refused`] as for [`Manifest::unlock`],
    /// [`SnapshotError::Damaged`] if the source is not what its manifest says,
    /// [`SnapshotError::Superseded`] if another manifest stands in its place,
    /// [`SnapshotError::Chain`] if the parent is not published there any more, or either store's
    /// error, after which all of it can be repeated.
    pub async fn run(&self) -> Result<Manifest, SnapshotError> {
        let raw = manifest_for(&self.manifest, &self.keys, self.name, self.parent.as_ref())?;
        let body = raw.encode();
        let manifest = match Record::decode(self.name, &body)? {
            Record::Published(manifest) => *manifest,
            Record::Tombstone(_) => unreachable!("the source is published"),
        };
        self.check_parent().await?;
        self.done_bytes.store(0, Ordering::Relaxed);
        let pairs = self.manifest.objects().iter().zip(manifest.objects());
        // Futures, not a closure that makes them: with one, this future would not be `Send`.
        let copies: Vec<_> = pairs.map(|(from, to)| self.copy(from, to)).collect();
        let mut copies = stream::iter(copies).buffer_unordered(OBJECTS_AT_ONCE);
        while let Some(()) = copies.try_next().await? {}
        drop(copies);
        // Once more: copying takes its time, and nobody restores a delta without its parent.
        self.check_parent().await?;
        match store::create(&*self.to, &self.name.manifest(), body.into()).await? {
            Created::Ours => Ok(manifest),
            Created::Theirs(_) => Err(SnapshotError::Superseded { name: self.name }),
        }
    }

    /// That the parent is there, as it was: somebody may have deleted it there.
    async fn check_parent(&self) -> Result<(), SnapshotError> {
        let Some(parent) = &self.parent else { return Ok(()) };
        let state = match read_record(&*self.to, parent.name()).await {
            Ok(Record::Published(found)) if found.snapshot_uuid() == parent.snapshot_uuid() => {
                return Ok(());
            }
            Ok(Record::Published(_)) => "another",
            Ok(Record::Tombstone(tombstone)) => tombstone.state.name(),
            Err(SnapshotError::Store(error)) if error.is_not_found() => "missing",
            Err(error) => return Err(error),
        };
        let reason = format!("snapshot {}, which it needs, is {state}", parent.id());
        Err(SnapshotError::Chain { id: self.name.id, reason })
    }

    async fn copy(&self, from: &StoredObject, to: &StoredObject) -> Result<(), SnapshotError> {
        let target = object_path(to);
        match self.to.head(&target).await {
            Ok(found) if found.size == from.length => {
                self.done_bytes.fetch_add(from.length, Ordering::Relaxed);
                return Ok(());
            }
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(StoreError::failed(Operation::Head, &target, error).into()),
        }
        if from.length <= WHOLE_PUT_BYTES {
            let body = self.read(from, 0, from.length).await?;
            check_crc(from, crc32c::crc32c(&body))?;
            self.throttle.pass(from.length).await;
            store::put(&*self.to, &target, body.into()).await?;
            self.done_bytes.fetch_add(from.length, Ordering::Relaxed);
            return Ok(());
        }
        let failed = |error| StoreError::failed(Operation::Multipart, &target, error);
        let mut upload = self.to.put_multipart(&target).await.map_err(failed)?;
        let copied = self.copy_parts(from, &target, &mut *upload).await;
        if copied.is_err() {
            // Parts that nobody completes are paid for; a store that is away keeps them.
            let _ = upload.abort().await;
        }
        copied
    }

    async fn copy_parts(
        &self,
        from: &StoredObject,
        target: &Path,
        upload: &mut dyn MultipartUpload,
    ) -> Result<(), SnapshotError> {
        let failed = |error| StoreError::failed(Operation::Multipart, target, error);
        let mut in_flight: JoinSet<object_store::Result<u64>> = JoinSet::new();
        let (mut at, mut crc) = (0, 0);
        while at < from.length || !in_flight.is_empty() {
            if at == from.length || in_flight.len() >= PARTS_AT_ONCE {
                let joined = in_flight.join_next().await.expect("one is in flight");
                let sent = joined.map_err(object_store::Error::from).flatten().map_err(failed)?;
                self.done_bytes.fetch_add(sent, Ordering::Relaxed);
                continue;
            }
            let end = (at + PART_BYTES).min(from.length);
            let part = self.read(from, at, end).await?;
            crc = crc32c::crc32c_append(crc, &part);
            let length = end - at;
            self.throttle.pass(length).await;
            let put = upload.put_part(part.into());
            in_flight.spawn(async move { put.await.map(|()| length) });
            at = end;
        }
        // Before it appears: an object that is not what it should be never does.
        check_crc(from, crc)?;
        upload.complete().await.map(drop).map_err(|error| failed(error).into())
    }

    /// Bytes of an object of the source, from `at` to `end`, exclusive.
    async fn read(&self, object: &StoredObject, at: u64, end: u64) -> Result<Bytes, SnapshotError> {
        let path = object_path(object);
        let bytes = match self.from.get_range(&path, at..end).await {
            Ok(bytes) => bytes,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(Damage::whole(path, Flaw::Missing).into());
            }
            Err(error) => return Err(StoreError::failed(Operation::Get, &path, error).into()),
        };
        if bytes.len() as u64 != end - at {
            let found = at + bytes.len() as u64;
            let flaw = Flaw::Length { expected: object.length, found };
            return Err(Damage::whole(path, flaw).into());
        }
        Ok(bytes)
    }
}

fn check_crc(object: &StoredObject, found: u32) -> Result<(), Damage> {
    if found == object.crc32c {
        return Ok(());
    }
    let flaw = Flaw::Crc { expected: object.crc32c, found };
    Err(Damage::whole(object_path(object), flaw))
}

/// The manifest of a published snapshot under its name in another store: id and object names are
/// those of that store, everything else is the same. A sealed one is authenticated anew, and a
/// delta names its parent (`parent`, of that store) by the digest that it has there.
///
/// # Errors
/// As for [`Manifest::unlock`].
pub fn manifest_for(
    manifest: &Manifest,
    keys: &Keyring,
    name: SnapshotName,
    parent: Option<&Manifest>,
) -> Result<RawManifest, SnapshotError> {
    let unlocked = manifest.unlock(keys)?;
    let mut raw = manifest.raw().clone();
    raw.meta.snapshot_id = name.id;
    // A pin comes later, so that whoever goes on with an upload publishes the same bytes.
    raw.pinned_at_us = None;
    if let Some(parent) = parent.filter(|_| manifest.parent().is_some()) {
        raw.meta.parent_id = Some(parent.id());
        raw.parent_digest = Some(ByteBuf::from(parent.raw().digest()));
    }
    for object in &mut raw.objects {
        object.name = name.core_object(object.core, object.piece).to_string();
    }
    raw.core_files =
        raw.objects.iter().filter(|object| object.piece == 0).map(|o| o.name.clone()).collect();
    unlocked.authenticate(&mut raw);
    Ok(raw)
}
