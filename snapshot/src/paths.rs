//! Every object name of a store, in one place and in both directions (DESIGN §7, *Names*).
//!
//! Numbers are decimal with a fixed least width, so names sort as numbers do. Parsing accepts only
//! what formatting writes: a name with another width, sign or suffix is not ours.

use std::fmt;

use cutwater_engine::types::{Lsn, ShardId, SnapshotId};
use object_store::path::Path;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The folder of the snapshots.
pub const SNAPSHOTS: &str = "snapshots";
/// The folder of the claims.
pub const CLAIMS: &str = "claims";
/// The folder of the archive's log objects.
pub const WAL: &str = "wal";
/// The last object of a snapshot to be written, in the snapshot's folder.
pub const MANIFEST: &str = "manifest.msgpack";

/// The highest id that a name may hold, inclusive: a name above it was not given by counting, and
/// counting on from it must not overflow.
pub const ID_LIMIT: u64 = 999_999_999_999;

/// A snapshot's full name: its id in the store and its begin LSN, `snap-000007-lsn0...`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName {
    /// The id that the claim gave.
    pub id: SnapshotId,
    /// The lowest watermark.
    pub begin_lsn: Lsn,
}

impl SnapshotName {
    /// The name that this folder has below [`SNAPSHOTS`], if it is a snapshot's.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, lsn) = text.strip_prefix("snap-")?.split_once("-lsn")?;
        Some(Self { id: snapshot_id(id)?, begin_lsn: Lsn(number(lsn, 20)?) })
    }

    /// The folder that holds the snapshot.
    pub fn folder(self) -> Path {
        Path::from(format!("{SNAPSHOTS}/{self}"))
    }

    /// The manifest.
    pub fn manifest(self) -> Path {
        Path::from(format!("{SNAPSHOTS}/{self}/{MANIFEST}"))
    }

    /// One piece of one core's part, counted from 0.
    pub fn core_object(self, core: ShardId, piece: u32) -> Path {
        Path::from(match piece {
            0 => format!("{SNAPSHOTS}/{self}/core-{core}.snap"),
            _ => format!("{SNAPSHOTS}/{self}/core-{core}.{piece}.snap"),
        })
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snap-{:06}-lsn{:020}", self.id.0, self.begin_lsn.0)
    }
}

impl Serialize for SnapshotName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SnapshotName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("not a snapshot's name"))
    }
}

/// What a path in a store names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A snapshot's manifest.
    Manifest(SnapshotName),
    /// A piece of one core's part.
    Core {
        /// The snapshot.
        name: SnapshotName,
        /// The core.
        core: ShardId,
        /// The piece, from 0.
        piece: u32,
    },
    /// A claim.
    Claim(SnapshotId),
    /// An object of the archive.
    Wal(u64),
}

impl Named {
    /// What this path names; `None` for a path that is not Cutwater's.
    pub fn parse(path: &Path) -> Option<Self> {
        let text = path.as_ref();
        let (folder, rest) = text.split_once('/')?;
        match folder {
            CLAIMS => Some(Self::Claim(snapshot_id(rest)?)),
            WAL => Some(Self::Wal(number(rest, 12)?)),
            SNAPSHOTS => {
                let (name, file) = rest.split_once('/')?;
                let name = SnapshotName::parse(name)?;
                if file == MANIFEST {
                    return Some(Self::Manifest(name));
                }
                let (core, piece) = core_file(file)?;
                Some(Self::Core { name, core, piece })
            }
            _ => None,
        }
    }
}

/// The folder of all snapshots.
pub fn snapshots() -> Path {
    Path::from(SNAPSHOTS)
}

/// The folder of all claims.
pub fn claims() -> Path {
    Path::from(CLAIMS)
}

/// The claim of an id.
pub fn claim(id: SnapshotId) -> Path {
    Path::from(format!("{CLAIMS}/{:06}", id.0))
}

/// The folder of all objects of the archive.
pub fn wal_folder() -> Path {
    Path::from(WAL)
}

/// An object of the archive.
pub fn wal(n: u64) -> Path {
    Path::from(format!("{WAL}/{n:012}"))
}

/// `core-{core}.snap` or `core-{core}.{piece}.snap`.
fn core_file(file: &str) -> Option<(ShardId, u32)> {
    let inner = file.strip_prefix("core-")?.strip_suffix(".snap")?;
    let (core, piece) = match inner.split_once('.') {
        None => (inner, 0),
        Some((core, piece)) => match u32::try_from(number(piece, 1)?).ok()? {
            0 => return None,
            piece => (core, piece),
        },
    };
    Some((ShardId(u16::try_from(number(core, 1)?).ok()?), piece))
}

fn snapshot_id(text: &str) -> Option<SnapshotId> {
    number(text, 6).filter(|id| *id <= ID_LIMIT).map(SnapshotId)
}

/// A decimal number of at least `width` digits, padded with zeros only up to that width.
fn number(text: &str, width: usize) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = text.len() > width && text.starts_with('0');
    if !digits || text.len() < width || padded { None } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        let name = SnapshotName { id: SnapshotId(7), begin_lsn: Lsn(u64::MAX) };
        assert_eq!(name.to_string(), "snap-000007-lsn18446744073709551615");
        assert_eq!(
            name.core_object(ShardId(3), 0).as_ref(),
            "snapshots/snap-000007-lsn18446744073709551615/core-3.snap"
        );
        let core = |core, piece| Named::Core { name, core: ShardId(core), piece };
        for (path, named) in [
            (name.manifest(), Named::Manifest(name)),
            (name.core_object(ShardId(0), 0), core(0, 0)),
            (name.core_object(ShardId(65535), 12), core(65535, 12)),
            (claim(SnapshotId(1_234_567)), Named::Claim(SnapshotId(1_234_567))),
            (claim(SnapshotId(1)), Named::Claim(SnapshotId(1))),
            (wal(9), Named::Wal(9)),
        ] {
            assert_eq!(Named::parse(&path), Some(named), "{path}");
        }
    }

    #[test]
    fn other_names_are_not_ours() {
        for text in [
            "claims/1",
            "claims/0000001",
            "claims/+00001",
            "claims/00000a",
            "claims/18446744073709551615",
            "snapshots/snap-000001-lsn5/manifest.msgpack",
            "snapshots/snap-000001-lsn00000000000000000005/core-0.0.snap",
            "snapshots/snap-000001-lsn00000000000000000005/core-00.snap",
            "snapshots/snap-000001-lsn00000000000000000005/core-65536.snap",
            "snapshots/snap-000001-lsn00000000000000000005/x/core-1.snap",
            "other",
        ] {
            assert_eq!(Named::parse(&Path::from(text)), None, "{text}");
        }
    }
}
