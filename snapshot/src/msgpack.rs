//! Checked MessagePack: one map with field names that any MessagePack tool opens, whose last field
//! `crc32c` is a 4-byte binary. So the object's last four bytes are the CRC32C (little-endian) of
//! everything before them, and a reader checks it before it decodes anything. Pure.

use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteArray;

use crate::error::Flaw;

/// The bytes of the checksum at the end.
const CRC_BYTES: usize = 4;

/// The last field of every checked map; filled in by [`encode`].
pub(crate) type CrcField = ByteArray<CRC_BYTES>;

/// The bytes of `value`, whose last field must be a [`CrcField`].
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = rmp_serde::to_vec_named(value).expect("plain structs encode into memory");
    let body = bytes.len() - CRC_BYTES;
    let crc = crc32c::crc32c(&bytes[..body]);
    bytes[body..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The value that these bytes hold.
///
/// # Errors
/// [`Flaw::Truncated`], [`Flaw::Crc`], [`Flaw::Trailing`] or [`Flaw::MessagePack`].
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Flaw> {
    let (body, stored) = bytes.split_last_chunk::<CRC_BYTES>().ok_or(Flaw::Truncated)?;
    let (expected, found) = (u32::from_le_bytes(*stored), crc32c::crc32c(body));
    if expected != found {
        return Err(Flaw::Crc { expected, found });
    }
    let mut rest = bytes;
    let value = rmp_serde::from_read(&mut rest).map_err(|e| Flaw::MessagePack(e.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(Flaw::Trailing) }
}
