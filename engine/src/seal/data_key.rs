//! A data key: random, one for each thing that is sealed as a whole, stored wrapped. Everything
//! else is derived from it: keys for objects ([`SealKey`]) and for authentication
//! ([`ManifestKey`]).

use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::SealError;
use super::cipher::{NONCE_BYTES, SealKey, TAG_BYTES};
use super::keyring::{KEY_BYTES, KeyId, Keyring, MasterKey};

/// Bytes of the random salt in an object's header.
pub const SALT_BYTES: usize = 32;
/// Bytes of a wrapped data key: nonce, sealed key, tag.
pub const WRAPPED_BYTES: usize = NONCE_BYTES + KEY_BYTES + TAG_BYTES;
/// Bytes of what [`ManifestKey`] gives.
pub const AUTH_BYTES: usize = 32;

const OBJECT_INFO: &[u8] = b"cutwater object v1";
const MANIFEST_INFO: &[u8] = b"cutwater manifest v1";
const SEGMENT_INFO: &[u8] = b"cutwater log segment v1";
const START_INFO: &[u8] = b"cutwater start record v1";

/// The key of one snapshot, archive object or start of the log.
#[derive(Clone)]
pub struct DataKey(Zeroizing<[u8; KEY_BYTES]>);

/// A data key as it is stored: under which configured key, and sealed by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// The configured key that wraps it.
    pub key_id: KeyId,
    /// Nonce, sealed key, tag.
    pub bytes: [u8; WRAPPED_BYTES],
}

impl DataKey {
    /// A data key of these bytes, which must be random and used for nothing else.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Wraps the key under a configured one. `nonce` must be random: configured keys wrap many
    /// data keys, from several machines. `context` says what the key is for; it opens with the
    /// same only.
    pub fn wrap(
        &self,
        (key_id, key): (&KeyId, &MasterKey),
        nonce: [u8; NONCE_BYTES],
        context: &[u8],
    ) -> WrappedKey {
        let mut bytes = [0; WRAPPED_BYTES];
        let (head, tag) = bytes.split_at_mut(NONCE_BYTES + KEY_BYTES);
        let (nonce_at, sealed) = head.split_at_mut(NONCE_BYTES);
        nonce_at.copy_from_slice(&nonce);
        sealed.copy_from_slice(&*self.0);
        tag.copy_from_slice(&SealKey::new(key.bytes()).seal(nonce, context, sealed));
        WrappedKey { key_id: key_id.clone(), bytes }
    }

    /// The key of one object. `names` are what it belongs to, each of a fixed length but the last.
    pub fn object_key(&self, salt: &[u8; SALT_BYTES], names: &[&[u8]]) -> SealKey {
        self.seal_key(OBJECT_INFO, salt, names)
    }

    /// The key of one use of a log segment. `names` are what it belongs to, each of a fixed length.
    pub fn segment_key(&self, salt: &[u8; SALT_BYTES], names: &[&[u8]]) -> SealKey {
        self.seal_key(SEGMENT_INFO, salt, names)
    }

    /// The key that authenticates the manifest.
    pub fn manifest_key(&self) -> ManifestKey {
        ManifestKey(self.derive(None, &[MANIFEST_INFO]))
    }

    /// The key that authenticates the record of a start.
    pub fn start_key(&self) -> ManifestKey {
        ManifestKey(self.derive(None, &[START_INFO]))
    }

    fn seal_key(&self, what: &[u8], salt: &[u8; SALT_BYTES], names: &[&[u8]]) -> SealKey {
        let mut info = Vec::with_capacity(1 + names.len());
        info.push(what);
        info.extend_from_slice(names);
        SealKey::new(&self.derive(Some(salt), &info))
    }

    fn derive(&self, salt: Option<&[u8]>, info: &[&[u8]]) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut out = Zeroizing::new([0; KEY_BYTES]);
        let expanded = Hkdf::<Sha256>::new(salt, &*self.0).expand_multi_info(info, &mut out[..]);
        expanded.expect("one block is no more than 255");
        out
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

impl WrappedKey {
    /// A wrapped key as stored.
    ///
    /// # Errors
    /// [`SealError::WrappedLength`] if it is none.
    pub fn new(key_id: KeyId, bytes: &[u8]) -> Result<Self, SealError> {
        let found = bytes.len();
        let bytes = bytes.try_into().map_err(|_| SealError::WrappedLength { found })?;
        Ok(Self { key_id, bytes })
    }

    /// The data key, if the ring has its key and it was wrapped for `context`.
    ///
    /// # Errors
    /// [`SealError::MissingKey`] or [`SealError::WrongKey`].
    pub fn unwrap(&self, keys: &Keyring, context: &[u8]) -> Result<DataKey, SealError> {
        let id = || self.key_id.clone();
        let key = keys.get(&self.key_id).ok_or_else(|| SealError::MissingKey { id: id() })?;
        let (nonce, rest) = self.bytes.split_first_chunk().expect("longer than a nonce");
        let (sealed, tag) = rest.split_first_chunk::<KEY_BYTES>().expect("longer than a key");
        let mut opened = Zeroizing::new(*sealed);
        let tag = tag.try_into().expect("what is left is the tag");
        if !SealKey::new(key.bytes()).open(*nonce, context, &mut opened[..], tag) {
            return Err(SealError::WrongKey { id: id() });
        }
        Ok(DataKey(opened))
    }
}

/// Authenticates what is readable without a key.
#[derive(Clone)]
pub struct ManifestKey(Zeroizing<[u8; KEY_BYTES]>);

impl ManifestKey {
    /// HMAC-SHA-256 of the bytes.
    pub fn sign(&self, bytes: &[u8]) -> [u8; AUTH_BYTES] {
        self.mac(bytes).finalize().into_bytes().into()
    }

    /// Whether these are the bytes that were signed. Takes the same time whatever `auth` is.
    #[must_use]
    pub fn verify(&self, bytes: &[u8], auth: &[u8]) -> bool {
        self.mac(bytes).verify_slice(auth).is_ok()
    }

    fn mac(&self, bytes: &[u8]) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(&*self.0);
        let mut mac = mac.expect("HMAC takes keys of every length");
        mac.update(bytes);
        mac
    }
}

impl fmt::Debug for ManifestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ManifestKey(..)")
    }
}

/// SHA-256, by which sealed things name each other.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
