//! The sealing of a log: what its files are sealed and opened with, and what binds them to their
//! place. Pure; random bytes come from the caller.
//!
//! Each start has one random data key ([`StartSeal`]). It lies wrapped in the start's record, which
//! it authenticates, and again in the header of each of the start's segments, so that every file
//! says by itself which configured key it needs. It is bound to database, history and start. Each
//! use of a segment file has a key of its own, derived from the data key, a random salt and all
//! that the file is: so a frame opens in its own segment only, and the stream position is a nonce
//! that never comes twice.
//!
//! What sealing does not show: a log whose newest frames, segments or starts are gone, as if they
//! had never been written. Without the key nobody can make any of them, or leave out one in the
//! middle.

use std::io;

use super::segment::{SegmentHeader, TAG_AT};
use crate::seal::{
    DataKey, KEY_BYTES, Keyring, NONCE_BYTES, SALT_BYTES, SealError, SealKey, TAG_BYTES, WrappedKey,
};
use crate::types::{Position, StartId};

/// What a wrapped data key of a start is bound to begins with this.
const CONTEXT: &[u8] = b"cutwater log v1";
/// The nonce of a segment header's tag: no position, since the stream ends far below.
const HEADER_NONCE: [u8; NONCE_BYTES] = [0xFF; NONCE_BYTES];

/// The keys that a log folder is opened with, and how strictly they are meant. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LogKeys {
    /// The configured keys; the first seals. Empty: nothing is sealed.
    pub ring: Keyring,
    /// Whether to read, with keys, what is not sealed, as when sealing begins.
    pub accept_plain: bool,
}

/// Why a file of the log is not read with the keys that are configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is plain, and keys are configured.
    #[error("it is not sealed, although keys are configured")]
    Plain,
    /// Its key is not there, or another one.
    #[error(transparent)]
    Key(#[from] SealError),
    /// Its key is there, and its checksum fits, but it is not what was sealed.
    #[error("it was altered: it does not open with its key")]
    Altered,
}

/// What the data key of a start is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartIdentity {
    /// The data directory's database.
    pub database_id: u128,
    /// The history that the start continues.
    pub history_id: u128,
    /// The start.
    pub start: StartId,
}

/// How a segment is sealed, as its header says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSealing {
    /// The data key of the start.
    pub wrapped: WrappedKey,
    /// Random for each use of a file.
    pub salt: [u8; SALT_BYTES],
    /// Authenticates the header.
    pub tag: [u8; TAG_BYTES],
}

impl LogKeys {
    /// Keys that are meant strictly.
    pub fn strict(ring: Keyring) -> Self {
        Self { ring, accept_plain: false }
    }

    /// The data key of a start, as one of its files holds it; `None` if the file is plain, and may
    /// be.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn open(
        &self,
        of: StartIdentity,
        wrapped: Option<&WrappedKey>,
    ) -> Result<Option<DataKey>, Refusal> {
        match wrapped {
            Some(wrapped) => Ok(Some(wrapped.unwrap(&self.ring, &of.context())?)),
            None if self.ring.is_empty() || self.accept_plain => Ok(None),
            None => Err(Refusal::Plain),
        }
    }
}

impl StartIdentity {
    fn context(&self) -> Vec<u8> {
        let ids = [self.database_id.to_le_bytes(), self.history_id.to_le_bytes()];
        [CONTEXT, ids.as_flattened(), &self.start.0.to_le_bytes()].concat()
    }
}

/// What seals the log of one start.
#[derive(Clone, Debug)]
pub struct StartSeal {
    data_key: DataKey,
    wrapped: WrappedKey,
}

impl StartSeal {
    /// A new data key under the active key; `None` if no key is configured. `random` fills with
    /// random bytes.
    ///
    /// # Errors
    /// Those of `random`.
    pub fn new(
        keys: &LogKeys,
        of: StartIdentity,
        random: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<Option<Self>> {
        let Some(active) = keys.ring.active() else { return Ok(None) };
        let (mut key, mut nonce) = ([0; KEY_BYTES], [0; NONCE_BYTES]);
        random(&mut key)?;
        random(&mut nonce)?;
        let data_key = DataKey::new(key);
        let wrapped = data_key.wrap(active, nonce, &of.context());
        Ok(Some(Self { data_key, wrapped }))
    }

    /// The data key.
    pub fn data_key(&self) -> &DataKey {
        &self.data_key
    }

    /// The data key as it is stored.
    pub fn wrapped(&self) -> &WrappedKey {
        &self.wrapped
    }

    /// Makes the header that of a sealed segment, and gives the key of its frames. `salt` is
    /// random, and used for no other.
    pub fn seal_segment(&self, header: &mut SegmentHeader, salt: [u8; SALT_BYTES]) -> SealKey {
        let (wrapped, tag) = (self.wrapped.clone(), [0; TAG_BYTES]);
        header.sealing = Some(SegmentSealing { wrapped, salt, tag });
        let key = header.key(&self.data_key, &salt);
        let tag = key.seal(HEADER_NONCE, &header.encode()[..TAG_AT], &mut []);
        if let Some(sealing) = &mut header.sealing {
            sealing.tag = tag;
        }
        key
    }
}

impl SegmentHeader {
    /// What the segment's data key is bound to.
    pub fn start_identity(&self) -> StartIdentity {
        let Self { database_id, history_id, .. } = *self;
        StartIdentity { database_id, history_id, start: self.log.start }
    }

    /// The key of the segment's frames; `None` if they are plain, and may be. `block` is what this
    /// header was decoded from.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) fn open(&self, block: &[u8], keys: &LogKeys) -> Result<Option<SealKey>, Refusal> {
        let sealing = self.sealing.as_ref();
        let data_key = keys.open(self.start_identity(), sealing.map(|sealing| &sealing.wrapped))?;
        let (Some(data_key), Some(sealing)) = (data_key, sealing) else { return Ok(None) };
        let key = self.key(&data_key, &sealing.salt);
        match key.open(HEADER_NONCE, &block[..TAG_AT], &mut [], sealing.tag) {
            true => Ok(Some(key)),
            false => Err(Refusal::Altered),
        }
    }

    fn key(&self, data_key: &DataKey, salt: &[u8; SALT_BYTES]) -> SealKey {
        data_key.segment_key(
            salt,
            &[
                &self.database_id.to_le_bytes(),
                &self.history_id.to_le_bytes(),
                &self.log.start.0.to_le_bytes(),
                &self.log.shard.0.to_le_bytes(),
                &self.index.0.to_le_bytes(),
                &self.identity.0.to_le_bytes(),
            ],
        )
    }
}

/// The nonce of the frame that begins at this position.
pub(super) fn frame_nonce(position: Position) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[4..].copy_from_slice(&position.0.to_le_bytes());
    nonce
}
