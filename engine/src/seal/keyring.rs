//! The configured keys: their ids, their text form, and which of them is active.
//!
//! Key bytes are wiped when dropped and never shown, not even by `Debug`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::SealError;

/// Bytes of every key.
pub const KEY_BYTES: usize = 32;
/// The longest key id, inclusive.
pub const KEY_ID_LIMIT_BYTES: usize = 64;
/// What a key file begins with.
const KEY_FILE_PREFIX: &str = "cutwater-key-v1 ";

/// The name of a configured key. It is stored beside what the key wraps, in the clear.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KeyId {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Self, SealError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if text.is_empty() || text.len() > KEY_ID_LIMIT_BYTES || !text.bytes().all(allowed) {
            // Cut, since it may be a whole file by mistake.
            let found = text.chars().take(KEY_ID_LIMIT_BYTES + 1).collect();
            return Err(SealError::KeyId { found });
        }
        Ok(Self(text.into()))
    }
}

/// A configured key. It only wraps data keys.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; KEY_BYTES]>);

impl MasterKey {
    /// A key of these bytes, which must be random.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key that 64 lower-case hex digits spell.
    ///
    /// # Errors
    /// [`SealError::KeyText`] if they do not.
    pub fn from_hex(text: &str) -> Result<Self, SealError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(SealError::KeyText),
        };
        let text = text.as_bytes();
        if text.len() != 2 * KEY_BYTES {
            return Err(SealError::KeyText);
        }
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }

    /// The key in a key file: one line, `cutwater-key-v1 <64 lower-case hex digits>`.
    ///
    /// # Errors
    /// [`SealError::KeyText`] if the text is anything else.
    pub fn from_file_text(text: &str) -> Result<Self, SealError> {
        let line = text.strip_suffix('\n').ok_or(SealError::KeyText)?;
        Self::from_hex(line.strip_prefix(KEY_FILE_PREFIX).ok_or(SealError::KeyText)?)
    }

    /// What a key file of this key holds.
    pub fn to_file_text(&self) -> Zeroizing<String> {
        use fmt::Write;
        // Room for all of it, so that growing leaves no copy behind.
        let mut text = String::with_capacity(KEY_FILE_PREFIX.len() + 2 * KEY_BYTES + 1);
        text.push_str(KEY_FILE_PREFIX);
        for byte in &*self.0 {
            write!(text, "{byte:02x}").expect("a String takes everything");
        }
        text.push('\n');
        Zeroizing::new(text)
    }

    pub(super) fn bytes(&self) -> &Zeroizing<[u8; KEY_BYTES]> {
        &self.0
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// The configured keys in order; the first is active. Empty: nothing is sealed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Keyring(Arc<[(KeyId, MasterKey)]>);

impl Keyring {
    /// A ring of these keys; the first is the one that seals.
    ///
    /// # Errors
    /// [`SealError::DuplicateKey`] if two have one id.
    pub fn new(keys: Vec<(KeyId, MasterKey)>) -> Result<Self, SealError> {
        for (at, (id, _)) in keys.iter().enumerate() {
            if keys[..at].iter().any(|(earlier, _)| earlier == id) {
                return Err(SealError::DuplicateKey { id: id.clone() });
            }
        }
        Ok(Self(keys.into()))
    }

    /// Whether nothing is to be sealed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key that wraps new data keys; `None` if nothing is sealed.
    pub fn active(&self) -> Option<(&KeyId, &MasterKey)> {
        self.0.first().map(|(id, key)| (id, key))
    }

    /// The key of that id.
    pub fn get(&self, id: &KeyId) -> Option<&MasterKey> {
        self.0.iter().find(|(found, _)| found == id).map(|(_, key)| key)
    }

    /// The ids, the active one first.
    pub fn ids(&self) -> impl Iterator<Item = &KeyId> {
        self.0.iter().map(|(id, _)| id)
    }
}
