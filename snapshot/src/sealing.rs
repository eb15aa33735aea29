//! How a snapshot is sealed: its data key, what that is bound to, and what a reader must hold
//! before any object is read.
//!
//! The data key is random for each snapshot and stored in the manifest, wrapped by a configured key
//! and bound to the database and the snapshot's uuid. Each object has its own key, bound to its
//! file name too. The manifest is plain, and authenticated by the data key over
//! [`RawManifest::body`], in which the wrapped key itself is left out, so that [`crate::rekey`] can
//! change it.
//!
//! Nobody reads objects by a [`Manifest`] alone: [`Manifest::unlock`] gives an [`Unlocked`], which
//! is authentic if keys are configured, and what was written without keys if none are. There is no
//! way in between: with keys a plain snapshot is refused, or who can write to the store could
//! replace a sealed one by it.

use std::ops::Deref;

use cutwater_engine::seal::{DataKey, Keyring, SALT_BYTES, SealError, SealKey, WrappedKey};
use object_store::path::Path;
use serde_bytes::ByteBuf;

use crate::error::{Damage, Flaw, Refusal, SnapshotError};
use crate::ident::{DatabaseId, Random, SnapshotUuid};
use crate::manifest::{Manifest, RawManifest};

/// What the wrapping of a data key is bound to, before the two ids.
const CONTEXT: &[u8] = b"cutwater snapshot v1";

/// A manifest whose objects may be read: authentic, or plain where nothing is sealed.
#[derive(Clone, Debug)]
pub struct Unlocked {
    manifest: Manifest,
    data_key: Option<DataKey>,
}

impl Deref for Unlocked {
    type Target = Manifest;

    fn deref(&self) -> &Manifest {
        &self.manifest
    }
}

impl Manifest {
    /// Opens the snapshot's data key, and authenticates the manifest with it.
    ///
    /// # Errors
    /// [`SnapshotError::Refused`] if it is sealed and its key is not there, or plain although keys
    /// are configured; [`SnapshotError::Damaged`] with [`Flaw::Auth`] if it was altered. Both name
    /// the manifest.
    pub fn unlock(&self, keys: &Keyring) -> Result<Unlocked, SnapshotError> {
        let object = || self.name().manifest().to_string();
        let refused = |reason| SnapshotError::Refused { object: object(), reason };
        let Some((wrapped, auth)) = self.raw().sealing() else {
            return match keys.is_empty() {
                true => Ok(Unlocked { manifest: self.clone(), data_key: None }),
                false => Err(refused(Refusal::Plain)),
            };
        };
        if keys.is_empty() {
            return Err(refused(Refusal::NoKey { id: wrapped.key_id }));
        }
        let context = context(self.identity().database, self.snapshot_uuid());
        let opened = wrapped.unwrap(keys, &context);
        let data_key = opened.map_err(|error| refused(Refusal::Key(error)))?;
        if !data_key.manifest_key().verify(&self.raw().body(), auth) {
            return Err(Damage::whole(object(), Flaw::Auth).into());
        }
        Ok(Unlocked { manifest: self.clone(), data_key: Some(data_key) })
    }

    /// The key that must be configured to read the snapshot; `None` if it is not sealed.
    pub fn wrapped_key(&self) -> Option<WrappedKey> {
        self.raw().sealing().map(|(wrapped, _)| wrapped)
    }
}

impl Unlocked {
    /// Whether its objects are sealed.
    pub fn is_sealed(&self) -> bool {
        self.data_key.is_some()
    }

    /// The key of an object of this snapshot; `None` if it is not sealed.
    pub(crate) fn object_key(&self, salt: &[u8; SALT_BYTES], object: &str) -> Option<SealKey> {
        let (database, uuid) = (self.identity().database, self.snapshot_uuid());
        self.data_key.as_ref().map(|key| object_key(key, salt, database, uuid, object))
    }

    /// The stored fields under another wrapping of the same data key.
    pub(crate) fn rewrapped(
        &self,
        keys: &Keyring,
        random: Random,
    ) -> Result<Option<RawManifest>, SnapshotError> {
        let (Some(data_key), Some(active)) = (&self.data_key, keys.active()) else {
            return Ok(None);
        };
        let mut nonce = [0; 12];
        random(&mut nonce).map_err(SnapshotError::Random)?;
        let context = context(self.identity().database, self.snapshot_uuid());
        let mut raw = self.raw().clone();
        raw.set_wrapped(&data_key.wrap(active, nonce, &context));
        Ok(Some(raw))
    }

    /// Authenticates another form of this snapshot's manifest: one that bears the id of another
    /// store. The key stays the same.
    pub fn authenticate(&self, raw: &mut RawManifest) {
        if let Some(data_key) = &self.data_key {
            let sealing = self.raw().sealing().expect("a sealed manifest has a wrapped key");
            raw.set_wrapped(&sealing.0);
            raw.auth = Some(sign(data_key, raw));
        }
    }
}

/// The sealing of a snapshot that is being written.
#[derive(Clone, Debug)]
pub(crate) struct Seal {
    data_key: DataKey,
    wrapped: WrappedKey,
    database: DatabaseId,
    uuid: SnapshotUuid,
    random: Random,
}

impl Seal {
    /// A new data key under the active key; `None` if no key is configured.
    pub fn new(
        keys: &Keyring,
        database: DatabaseId,
        uuid: SnapshotUuid,
        random: Random,
    ) -> Result<Option<Self>, SnapshotError> {
        let Some(active) = keys.active() else { return Ok(None) };
        let (mut key, mut nonce) = ([0; 32], [0; 12]);
        random(&mut key).and_then(|()| random(&mut nonce)).map_err(SnapshotError::Random)?;
        let data_key = DataKey::new(key);
        let wrapped = data_key.wrap(active, nonce, &context(database, uuid));
        Ok(Some(Self { data_key, wrapped, database, uuid, random }))
    }

    /// A new salt for an object, and its key. Every try to write an object takes a new one.
    pub fn object(&self, object: &Path) -> Result<([u8; SALT_BYTES], SealKey), SnapshotError> {
        let mut salt = [0; SALT_BYTES];
        (self.random)(&mut salt).map_err(SnapshotError::Random)?;
        let key = object_key(&self.data_key, &salt, self.database, self.uuid, object.as_ref());
        Ok((salt, key))
    }

    /// Makes a manifest of this snapshot whole.
    pub fn seal(&self, raw: &mut RawManifest) {
        raw.set_wrapped(&self.wrapped);
        raw.auth = Some(sign(&self.data_key, raw));
    }
}

impl RawManifest {
    /// The wrapped key and the authentication of a sealed snapshot.
    fn sealing(&self) -> Option<(WrappedKey, &[u8])> {
        let (id, wrapped) = (self.key_id.as_deref()?, self.wrapped_key.as_deref()?);
        let wrapped = WrappedKey::new(id.parse().ok()?, wrapped).ok()?;
        Some((wrapped, self.auth.as_deref()?))
    }

    /// Whether it says of itself that it is sealed, or not, and no half of it.
    pub(crate) fn check_sealing(&self) -> Result<(), Flaw> {
        match (&self.key_id, &self.wrapped_key, &self.auth) {
            (None, None, None) => Ok(()),
            (Some(id), Some(wrapped), Some(_)) => {
                let id = id.parse().map_err(Flaw::Seal)?;
                WrappedKey::new(id, wrapped).map(drop).map_err(Flaw::Seal)
            }
            _ => Err(Flaw::Auth),
        }
    }

    fn set_wrapped(&mut self, wrapped: &WrappedKey) {
        self.key_id = Some(wrapped.key_id.to_string());
        self.wrapped_key = Some(ByteBuf::from(wrapped.bytes));
    }
}

/// The damage of a sealed object one of whose pieces does not open.
pub(crate) fn flaw(error: SealError) -> Flaw {
    Flaw::Seal(error)
}

fn sign(data_key: &DataKey, raw: &RawManifest) -> ByteBuf {
    ByteBuf::from(data_key.manifest_key().sign(&raw.body()))
}

fn context(database: DatabaseId, uuid: SnapshotUuid) -> Vec<u8> {
    [CONTEXT, &database.0, &uuid.0].concat()
}

/// The key of an object by its last name: a snapshot bears another id in another store, and its
/// uuid everywhere.
fn object_key(
    data_key: &DataKey,
    salt: &[u8; SALT_BYTES],
    database: DatabaseId,
    uuid: SnapshotUuid,
    object: &str,
) -> SealKey {
    let file = object.rsplit('/').next().unwrap_or(object);
    data_key.object_key(salt, &[&database.0, &uuid.0, file.as_bytes()])
}
