//! Compression of chunk bodies, one by one: what may be configured, and the way there and back.
//!
//! A body that would not become shorter is stored as it is, which its header tells: both lengths
//! are the same. So data that does not compress costs the try, and never a byte. Pure.

use std::fmt;
use std::str::FromStr;

use crate::error::Flaw;

/// The level of `zstd` without one, as in zstd itself.
const ZSTD_DEFAULT_LEVEL: u8 = 3;
/// The highest level, inclusive; those above need hundreds of megabytes.
const ZSTD_HIGHEST_LEVEL: u8 = 19;
/// Bodies shorter than this are stored as they are.
const SHORTEST_BYTES: usize = 64;

/// How the bodies of a snapshot that is being written are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// LZ4 blocks: fast.
    Lz4,
    /// Zstandard frames of this level, 1 to 19: small.
    Zstd(u8),
}

/// How the bodies of an object are to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Algorithm {
    /// As they are.
    #[default]
    None = 0,
    /// LZ4 blocks.
    Lz4 = 1,
    /// Zstandard frames.
    Zstd = 2,
}

impl Compression {
    /// What a reader has to know of it.
    pub fn algorithm(self) -> Algorithm {
        match self {
            Self::None => Algorithm::None,
            Self::Lz4 => Algorithm::Lz4,
            Self::Zstd(_) => Algorithm::Zstd,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Lz4 => f.write_str("lz4"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

/// The text is no compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected none, lz4, zstd or zstd:LEVEL with a level from 1 to 19")]
pub struct NoCompression;

impl FromStr for Compression {
    type Err = NoCompression;

    fn from_str(text: &str) -> Result<Self, NoCompression> {
        match text {
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd(ZSTD_DEFAULT_LEVEL)),
            _ => {
                let level = text.strip_prefix("zstd:").ok_or(NoCompression)?;
                let parsed = level.parse().map_err(|_| NoCompression)?;
                let sound = (1..=ZSTD_HIGHEST_LEVEL).contains(&parsed);
                // One spelling: what is stored is compared as text.
                if sound && level == parsed.to_string() {
                    Ok(Self::Zstd(parsed))
                } else {
                    Err(NoCompression)
                }
            }
        }
    }
}

impl Algorithm {
    /// The algorithm of this tag.
    ///
    /// # Errors
    /// [`Flaw::Tag`] if it is none.
    pub fn from_tag(tag: u8) -> Result<Self, Flaw> {
        match tag {
            0 => Ok(Self::None),
            1 => Ok(Self::Lz4),
            2 => Ok(Self::Zstd),
            other => Err(Flaw::Tag { field: "compression", value: other.into() }),
        }
    }

    /// The `raw_bytes` that were compressed into `stored`.
    pub(crate) fn decompress(self, stored: &[u8], raw_bytes: usize) -> Result<Vec<u8>, Flaw> {
        let raw = match self {
            // Only a writer that compresses stores fewer bytes than there are.
            Self::None => None,
            Self::Lz4 => lz4_flex::block::decompress(stored, raw_bytes).ok(),
            Self::Zstd => zstd::bulk::decompress(stored, raw_bytes).ok(),
        };
        raw.filter(|raw| raw.len() == raw_bytes).ok_or(Flaw::Compressed)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// Compresses bodies one after the other, and keeps what a compressor can use again.
pub(crate) enum Compressor {
    None,
    Lz4,
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

impl Compressor {
    pub(crate) fn new(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd(level) => {
                let compressor = zstd::bulk::Compressor::new(level.into());
                Self::Zstd(Box::new(compressor.expect("a level that zstd has")))
            }
        }
    }

    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The compressed body, if it is shorter.
    pub(crate) fn compress(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        if body.len() < SHORTEST_BYTES {
            return None;
        }
        let compressed = match self {
            Self::None => return None,
            Self::Lz4 => lz4_flex::block::compress(body),
            // It fails only for want of room, which it makes itself.
            Self::Zstd(compressor) => compressor.compress(body).ok()?,
        };
        (compressed.len() < body.len()).then_some(compressed)
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compressor")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_only() {
        for text in ["none", "lz4", "zstd:1", "zstd:19"] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        assert_eq!("zstd".parse(), Ok(Compression::Zstd(3)));
        for bad in ["", "zip", "LZ4", "lz4:1", "zstd:", "zstd:0", "zstd:20", "zstd:+3", "zstd:03"] {
            assert_eq!(bad.parse::<Compression>(), Err(NoCompression), "{bad}");
        }
        for algorithm in [Algorithm::None, Algorithm::Lz4, Algorithm::Zstd] {
            assert_eq!(Algorithm::from_tag(algorithm as u8), Ok(algorithm));
        }
        assert!(Algorithm::from_tag(3).is_err());
    }

    #[test]
    fn there_and_back_and_never_longer() {
        let text: Vec<u8> = b"key:000001 value value value ".repeat(400);
        let mut state = 1u64;
        let noise: Vec<u8> = (0..10_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        for compression in [Compression::Lz4, Compression::Zstd(1), Compression::Zstd(19)] {
            let mut compressor = Compressor::new(compression);
            let stored = compressor.compress(&text).unwrap();
            assert!(stored.len() < text.len() / 5);
            let algorithm = compression.algorithm();
            assert_eq!(algorithm.decompress(&stored, text.len()).unwrap(), text);
            for length in [0, text.len() - 1, text.len() + 1] {
                assert_eq!(algorithm.decompress(&stored, length), Err(Flaw::Compressed));
            }
            for cut in [0, 1, stored.len() / 2, stored.len() - 1] {
                assert!(algorithm.decompress(&stored[..cut], text.len()).is_err());
            }
            for at in 0..stored.len() {
                let mut bad = stored.clone();
                bad[at] ^= 0x55;
                // Not every change shows here (chunks have a checksum); none may panic.
                let _ = algorithm.decompress(&bad, text.len());
            }
            assert_eq!(compressor.compress(&noise), None);
            assert_eq!(compressor.compress(b"short"), None);
        }
        assert_eq!(Compressor::new(Compression::None).compress(&text), None);
        assert_eq!(Algorithm::None.decompress(b"x", 2), Err(Flaw::Compressed));
    }
}
