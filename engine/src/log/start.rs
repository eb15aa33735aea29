//! The start record: what one start of the server found and decided, in one small file.
//!
//! It is written durably after recovery and before the start serves, and never changed. From then
//! on the ends and the dropped transactions of earlier starts are final: a later recovery applies
//! them instead of deciding again, whatever is left of those logs by then.
//!
//! The file `{start:06}.start` holds one MessagePack map with field names, then its CRC32C as four
//! little-endian bytes.
//!
//! It holds nothing of users, so it is plain. But who could alter it could leave out a transaction,
//! or the end of one shard's log: so with keys it is authenticated, by the data key of its start.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::disk::LogDisk;
use super::sealing::{LogKeys, Refusal, StartIdentity, StartSeal};
use crate::seal::WrappedKey;
use crate::types::{LogId, Lsn, Position, StartId, TxnId};

/// The version of the start record that this code writes. It reads those from 1 to it.
pub const START_FORMAT_VERSION: u32 = 1;
/// Larger files are refused unread. Room for a hundred thousand dropped transactions.
const MAX_START_RECORD_BYTES: u64 = 16 * 1024 * 1024;
const CRC_BYTES: usize = 4;

/// Where a log of an earlier start ends, as a later one decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEnd {
    /// The log.
    pub log: LogId,
    /// Records from here on do not exist.
    pub end: Position,
    /// Nor do some before it, where a relaxed transaction cut the log below what a published
    /// snapshot has.
    pub kept_below: Option<KeptBelow>,
}

/// From a position on, only records up to an LSN count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptBelow {
    /// The first position of which that is true.
    pub from: Position,
    /// The last LSN that counts.
    pub lsn: Lsn,
}

/// What one start found and decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRecord {
    /// [`START_FORMAT_VERSION`].
    pub format_version: u32,
    /// This start.
    pub start: StartId,
    /// The data directory's database.
    #[serde(with = "hex")]
    pub database_id: u128,
    /// The history that this start continues.
    #[serde(with = "hex")]
    pub history_id: u128,
    /// When it was written, in microseconds since the Unix epoch.
    pub created_at_us: u64,
    /// Shards in this start's layout.
    pub shards: u16,
    /// At least every LSN of earlier starts; every LSN of this one is greater.
    pub lsn_floor: Lsn,
    /// Every log of an earlier start that was still needed.
    pub ends: Vec<LogEnd>,
    /// The transactions in those logs that do not count.
    pub dropped: Vec<TxnId>,
    /// Of a start whose log is sealed.
    pub sealing: Option<StartSealing>,
}

/// What authenticates the record of a start whose log is sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartSealing {
    /// The configured key that wraps the data key.
    pub key_id: String,
    /// The data key of the start.
    pub wrapped_key: ByteBuf,
    /// HMAC-SHA-256 of the record in which this is empty.
    pub auth: ByteBuf,
}

/// Why a file is no start record.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The checksum does not match.
    #[error("the checksum of the start record does not match")]
    Checksum,
    /// Whole, but no start record, or that of another start.
    #[error("no start record: {0}")]
    Content(String),
    /// Written by a version that this one does not read.
    #[error("start record version {0} is not supported")]
    Version(u32),
    /// It does not fit the keys that are configured.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The disk refused.
    #[error("cannot access the start record: {0}")]
    Io(#[from] std::io::Error),
}

impl StartRecord {
    /// The whole file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.map();
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn map(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("a map of integers and strings is encodable")
    }

    /// What is authenticated.
    fn body(&self) -> Vec<u8> {
        let mut record = self.clone();
        record.sealing.iter_mut().for_each(|sealing| sealing.auth.clear());
        record.map()
    }

    /// Makes it that of a start whose log is sealed.
    pub fn seal(&mut self, seal: &StartSeal) {
        let WrappedKey { key_id, bytes } = seal.wrapped();
        let (key_id, wrapped_key) = (key_id.to_string(), ByteBuf::from(*bytes));
        self.sealing = Some(StartSealing { key_id, wrapped_key, auth: ByteBuf::new() });
        let auth = seal.data_key().start_key().sign(&self.body());
        self.sealing.iter_mut().for_each(|sealing| sealing.auth = ByteBuf::from(auth));
    }

    /// Checks that it is what was written, as far as keys can tell.
    ///
    /// # Errors
    /// [`StartError::Refused`].
    fn authenticate(&self, keys: &LogKeys) -> Result<(), StartError> {
        let &Self { database_id, history_id, start, .. } = self;
        let of = StartIdentity { database_id, history_id, start };
        let Some(StartSealing { key_id, wrapped_key, auth }) = &self.sealing else {
            return Ok(keys.open(of, None).map(drop)?);
        };
        let key_id = key_id.parse().map_err(Refusal::Key)?;
        let wrapped = WrappedKey::new(key_id, wrapped_key).map_err(Refusal::Key)?;
        match keys.open(of, Some(&wrapped))? {
            Some(data_key) if data_key.start_key().verify(&self.body(), auth) => Ok(()),
            _ => Err(Refusal::Altered.into()),
        }
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, StartError> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let (body, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or(StartError::Checksum)?;
        if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
            return Err(StartError::Checksum);
        }
        let content = |error: rmp_serde::decode::Error| StartError::Content(error.to_string());
        let version: Version = rmp_serde::from_slice(body).map_err(content)?;
        if !(1..=START_FORMAT_VERSION).contains(&version.format_version) {
            return Err(StartError::Version(version.format_version));
        }
        rmp_serde::from_slice(body).map_err(content)
    }

    /// Writes it into the log directory, durably.
    ///
    /// # Errors
    /// Those of the disk; the file is then there as a whole or not at all.
    pub fn write(&self, disk: &dyn LogDisk, dir: &Path) -> std::io::Result<()> {
        disk.write_atomically(&start_path(dir, self.start), &self.encode())
    }

    /// Reads that of one start, which must fit the keys.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn read(
        disk: &dyn LogDisk,
        dir: &Path,
        start: StartId,
        keys: &LogKeys,
    ) -> Result<Self, StartError> {
        let bytes = disk.read_file(&start_path(dir, start), MAX_START_RECORD_BYTES)?;
        let record = Self::decode(&bytes)?;
        if record.start != start {
            return Err(StartError::Content(format!("it is that of start {}", record.start)));
        }
        record.authenticate(keys)?;
        Ok(record)
    }
}

/// Where the record of a start is.
pub fn start_path(dir: &Path, start: StartId) -> PathBuf {
    dir.join(start_name(start))
}

/// The file name of a start's record.
pub fn start_name(start: StartId) -> String {
    format!("{:06}.start", start.0)
}

/// The start that a file name names; `None` for the name of anything else.
pub fn parse_start_name(name: &str) -> Option<StartId> {
    let start = StartId(name.strip_suffix(".start")?.parse().ok()?);
    (start_name(start) == name).then_some(start)
}

/// 128-bit ids as 32 hexadecimal digits, since MessagePack has no such integer.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(id: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{id:032x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<u128, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let id = u128::from_str_radix(&digits, 16).map_err(de::Error::custom)?;
        if format!("{id:032x}") != digits {
            return Err(de::Error::custom("an id is 32 lower-case hexadecimal digits"));
        }
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sim_disk::SimDisk;
    use crate::types::ShardId;

    fn sample() -> StartRecord {
        let log = LogId { start: StartId(1), shard: ShardId(1) };
        StartRecord {
            format_version: START_FORMAT_VERSION,
            start: StartId(2),
            database_id: 0x1234,
            history_id: u128::MAX,
            created_at_us: 1_700_000_000_000_000,
            shards: 3,
            lsn_floor: Lsn(99),
            ends: vec![
                LogEnd { log, end: Position(4711), kept_below: None },
                LogEnd {
                    log: LogId { shard: ShardId(2), ..log },
                    end: Position(815),
                    kept_below: Some(KeptBelow { from: Position(700), lsn: Lsn(41) }),
                },
            ],
            dropped: vec![TxnId { lsn: Lsn(42), coordinator: log }],
            sealing: None,
        }
    }

    #[test]
    fn round_trip_and_every_byte() {
        let bytes = sample().encode();
        assert_eq!(StartRecord::decode(&bytes).unwrap(), sample());
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(StartRecord::decode(&changed).is_err());
            assert!(StartRecord::decode(&bytes[..at]).is_err());
        }
    }

    /// To renew it after a change of the format: `BLESS=1 cargo test -p cutwater-engine golden`.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the golden file is no file of the log")]
    fn golden() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/start.v1");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, sample().encode()).unwrap();
        }
        let golden = std::fs::read(path).unwrap();
        assert_eq!(StartRecord::decode(&golden).unwrap(), sample());
        assert_eq!(sample().encode(), golden);
    }

    #[test]
    fn another_version_is_named() {
        let bytes = StartRecord { format_version: 9, ..sample() }.encode();
        assert!(matches!(StartRecord::decode(&bytes), Err(StartError::Version(9))));
    }

    #[test]
    fn a_renamed_record_is_refused() {
        let (disk, dir, keys) = (SimDisk::new(0), Path::new("log"), LogKeys::default());
        disk.create_dir(dir).unwrap();
        sample().write(&disk, dir).unwrap();
        assert_eq!(StartRecord::read(&disk, dir, StartId(2), &keys).unwrap(), sample());
        disk.rename(&start_path(dir, StartId(2)), &start_path(dir, StartId(3))).unwrap();
        assert!(StartRecord::read(&disk, dir, StartId(3), &keys).is_err());
        assert_eq!(parse_start_name("000003.start"), Some(StartId(3)));
        assert_eq!(parse_start_name("3.start"), None);
    }
}
