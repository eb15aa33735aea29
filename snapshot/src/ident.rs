//! Who and what a stored thing belongs to: 128-bit random identities, written as 32 lower-case hex
//! digits wherever people read them (manifests, claims) and as 16 raw bytes in object headers.
//!
//! Pure except for [`random`] and the constructors of that name, which callers invoke at the edge
//! and pass in.

use std::fmt;

use cutwater_engine::types::Lsn;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Where random bytes come from: [`random`], or a test's own.
pub type Random = fn(&mut [u8]) -> Result<(), getrandom::Error>;

/// Fills `bytes` from the operating system's random source.
///
/// # Errors
/// If that source fails, which a kernel that has booted does not do.
pub fn random(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    getrandom::fill(bytes)
}

/// Bytes of every identity.
pub const IDENT_BYTES: usize = 16;

/// Defines an opaque 128-bit identity.
macro_rules! ident {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; IDENT_BYTES]);

        impl $name {
            /// A new identity from the operating system's random source.
            ///
            /// # Errors
            /// If that source fails, which a kernel that has booted does not do.
            pub fn random() -> Result<Self, getrandom::Error> {
                let mut bytes = [0; IDENT_BYTES];
                getrandom::fill(&mut bytes)?;
                Ok(Self(bytes))
            }

            /// The identity that these 32 hex digits spell, if they do.
            pub fn parse(text: &str) -> Option<Self> {
                parse_hex(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).ok_or_else(|| de::Error::custom("not 32 lower-case hex digits"))
            }
        }
    };
}

ident! {
    /// One database over all its histories; a store's prefix belongs to one.
    DatabaseId
}
ident! {
    /// One unbroken line of writes; a restore begins a new one.
    HistoryId
}
ident! {
    /// One attempt at one snapshot. Unlike the id it is never used twice, in no store.
    SnapshotUuid
}
ident! {
    /// One run of one writer on one store: tells one's own claims from those of others.
    WriterNonce
}
ident! {
    /// One object of the archive, whatever number it bears; names its data key, and is what its
    /// successor names.
    WalUuid
}

/// Where a history forked off another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// The history that was restored from.
    pub parent: HistoryId,
    /// The last LSN that both have; later ones of the parent are not part of this history.
    pub lsn: Lsn,
}

/// What a data directory is: its database and the history that it continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The database.
    pub database: DatabaseId,
    /// The history.
    pub history: HistoryId,
    /// Where that history forked off another, if it began by a restore.
    pub fork: Option<Fork>,
}

/// Exactly 32 lower-case hex digits as bytes; one spelling per identity, so that a flipped case
/// bit in a stored name is damage too.
fn parse_hex(text: &str) -> Option<[u8; IDENT_BYTES]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != 2 * IDENT_BYTES {
        return None;
    }
    let mut bytes = [0; IDENT_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_only() {
        let id = DatabaseId(*b"0123456789abcdef");
        assert_eq!(DatabaseId::parse(&id.to_string()), Some(id));
        assert_eq!(DatabaseId::parse(&"AB".repeat(16)), None);
        assert_eq!(DatabaseId::parse(&"ab".repeat(15)), None);
        assert_eq!(DatabaseId::parse(&"zz".repeat(16)), None);
        assert_ne!(WriterNonce::random().unwrap(), WriterNonce::random().unwrap());
    }
}
