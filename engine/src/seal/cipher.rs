//! AES-256-GCM under one derived key: the one place that calls the cipher.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use zeroize::Zeroizing;

/// Bytes of a nonce, which is never used twice under one key.
pub const NONCE_BYTES: usize = 12;
/// Bytes that sealing adds: the tag.
pub const TAG_BYTES: usize = 16;

/// A key that seals, ready for use.
#[derive(Clone)]
pub struct SealKey(Aes256Gcm);

impl SealKey {
    pub(super) fn new(key: &Zeroizing<[u8; 32]>) -> Self {
        Self(Aes256Gcm::new((&**key).into()))
    }

    /// Seals `bytes` where they lie, and gives their tag. The nonce must be new under this key.
    /// Allocates nothing.
    ///
    /// # Panics
    /// If there are more than 64 GiB of them: nothing that is sealed at once is a thousandth of it.
    pub fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        bytes: &mut [u8],
    ) -> [u8; TAG_BYTES] {
        let sealed = self.0.encrypt_inout_detached(&Nonce::from(nonce), associated, bytes.into());
        sealed.expect("shorter than 64 GiB").into()
    }

    /// Opens `bytes` where they lie. If this is `false`, they are not what was sealed with this
    /// key, nonce and associated data, and hold nothing of use.
    #[must_use]
    pub fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        bytes: &mut [u8],
        tag: [u8; TAG_BYTES],
    ) -> bool {
        let (nonce, tag) = (Nonce::from(nonce), tag.into());
        self.0.decrypt_inout_detached(&nonce, associated, bytes.into(), &tag).is_ok()
    }
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(..)")
    }
}
