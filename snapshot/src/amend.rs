//! One put in place of another: the only three things that ever overwrite an object (a tombstone, a
//! pin, a rewrapped key: manifests, and by a rewrapped key objects of the archive, too) do it only
//! if the object is still the one that was read. So whoever was stopped in between overwrites
//! nothing that it has not seen.
//!
//! Stores compare by ETag (S3's If-Match), a folder on this machine under a lock
//! ([`crate::local`]). Where a store can do neither, the object is read again right before: then a
//! moment is left in which an old decision can land on a new manifest, never on another snapshot's.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};

use crate::error::{Damage, Operation, SnapshotError, StoreError};
use crate::manifest::Record;
use crate::paths::SnapshotName;
use crate::store;

/// An object as it was read.
#[derive(Debug)]
pub(crate) struct Object {
    path: Path,
    bytes: Bytes,
    version: UpdateVersion,
}

impl Object {
    /// Reads an object.
    pub async fn read(store: &dyn ObjectStore, path: Path) -> Result<Self, StoreError> {
        let failed = |e| StoreError::failed(Operation::Get, &path, e);
        let found = store.get(&path).await.map_err(failed)?;
        let (e_tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
        let bytes = found.bytes().await.map_err(failed)?;
        Ok(Self { path, bytes, version: UpdateVersion { e_tag, version } })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Puts other bytes in its place; `false` if it is not there any more as it was read. After an
    /// error it may have been replaced.
    pub async fn replace(&self, store: &dyn ObjectStore, body: Bytes) -> Result<bool, StoreError> {
        let path = &self.path;
        let mode = PutMode::Update(self.version.clone());
        let options = PutOptions { mode, ..PutOptions::default() };
        match store.put_opts(path, body.clone().into(), options).await {
            Ok(_) => Ok(true),
            Err(
                object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. },
            ) => Ok(false),
            Err(
                object_store::Error::NotImplemented { .. }
                | object_store::Error::NotSupported { .. },
            ) => {
                if store::get(store, path).await? != self.bytes {
                    return Ok(false);
                }
                store::put(store, path, body.into()).await?;
                Ok(true)
            }
            Err(error) => Err(StoreError::failed(Operation::Put, path, error)),
        }
    }
}

/// A manifest as it was read.
#[derive(Debug)]
pub(crate) struct Found {
    name: SnapshotName,
    object: Object,
}

impl Found {
    /// Reads the manifest of a snapshot.
    pub async fn read(store: &dyn ObjectStore, name: SnapshotName) -> Result<Self, StoreError> {
        Ok(Self { name, object: Object::read(store, name.manifest()).await? })
    }

    /// What it says.
    pub fn record(&self) -> Result<Record, Damage> {
        Record::decode(self.name, self.object.bytes())
    }

    /// [`Object::replace`].
    pub async fn replace(
        &self,
        store: &dyn ObjectStore,
        body: Bytes,
    ) -> Result<bool, SnapshotError> {
        Ok(self.object.replace(store, body).await?)
    }
}
