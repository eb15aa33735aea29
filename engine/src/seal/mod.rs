//! Sealing: AES-256-GCM over whatever leaves memory (snapshot objects, archive objects, the log),
//! and the keys for it. Pure: every random byte and every stored byte is given by the caller.
//!
//! Keys lie in three layers, so that a configured key changes without data being rewritten:
//!
//! 1. a configured [`MasterKey`], one of a [`Keyring`], known to the operator by its [`KeyId`]. It
//!    only ever wraps data keys;
//! 2. a random [`DataKey`] for each snapshot (archive object, start of the log), which is stored
//!    [`WrappedKey`], bound to what it belongs to by the context;
//! 3. a [`SealKey`] for each object, derived from the data key, a random salt in the object's
//!    header, and the names of the object. So no nonce is used twice under one key, and an object
//!    opens under its own name only.
//!
//! Objects are sealed piece by piece ([`PieceSealer`], [`PieceOpener`]) in bounded memory; what
//! must be readable without a key, and trusted with it, is authenticated ([`ManifestKey`]).
//!
//! What is not promised: an object replaced by an *older whole one with everything that names it*
//! opens. Only who remembers the newer one can tell.

mod cipher;
mod data_key;
mod keyring;
mod piece;

pub use cipher::{NONCE_BYTES, SealKey, TAG_BYTES};
pub use data_key::{
    AUTH_BYTES, DataKey, ManifestKey, SALT_BYTES, WRAPPED_BYTES, WrappedKey, digest,
};
pub use keyring::{KEY_BYTES, KEY_ID_LIMIT_BYTES, KeyId, Keyring, MasterKey};
pub use piece::{PIECE_BYTES, PieceOpener, PieceSealer, SEALED_PIECE_BYTES, sealed_length};

/// Why something cannot be sealed or opened. Never holds a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A key's name is not one.
    #[error("{found:?} is not a key id: 1 to 64 characters of A-Z a-z 0-9 . _ -")]
    KeyId {
        /// What was given.
        found: String,
    },
    /// A key's text is not one. The text is not repeated: it may be most of a key.
    #[error("not a key: expected one line, `cutwater-key-v1` and 64 lower-case hex digits")]
    KeyText,
    /// A key id was given twice.
    #[error("the key id {id} is given twice")]
    DuplicateKey {
        /// The id.
        id: KeyId,
    },
    /// The key that is needed is not among those configured.
    #[error("it is sealed under the key {id}, which is not configured")]
    MissingKey {
        /// The id of the key that is needed.
        id: KeyId,
    },
    /// The configured key of that id does not open it.
    #[error("the key {id} does not open its data key: another key of that id, or damage")]
    WrongKey {
        /// The id of the key that was tried.
        id: KeyId,
    },
    /// A wrapped key is not as long as one is.
    #[error("a wrapped key of {found} bytes, not of {WRAPPED_BYTES}")]
    WrappedLength {
        /// How many bytes there are.
        found: usize,
    },
    /// A piece is not what was sealed here.
    #[error(
        "piece {piece} does not open: it was altered, moved or cut off, or is of another object"
    )]
    Piece {
        /// The piece, counted from 0 in its object.
        piece: u64,
    },
}

#[cfg(test)]
mod tests;
