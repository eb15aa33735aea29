//! The vocabulary of the engine as types: one newtype for each number that must not be mixed up
//! with another (DESIGN: "one word for one thing"). Pure; every crate above uses these.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Defines a transparent, ordered newtype over an integer.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A log sequence number: microseconds since the Unix epoch << 12 | counter. Totally ordered
    /// on a shard, respects causality across shards, and *is* wall-clock time.
    Lsn(u64)
}
id! {
    /// One shard of a running engine, `0..shards`. In stored names and metadata also `core`.
    ShardId(u16)
}
id! {
    /// One of the [`crate::slot::SLOT_COUNT`] key partitions of Redis Cluster.
    Slot(u16)
}
id! {
    /// A logical database, `0..DATABASE_COUNT`, as chosen by SELECT.
    DbIndex(u8)
}
id! {
    /// A place in one shard's log: bytes of records appended before it since that log began
    /// (frame headers and padding are not counted). Durability, gating and coverage go by it.
    Position(u64)
}
id! {
    /// One start of the server on one data directory, counted from 1.
    StartId(u32)
}
id! {
    /// A snapshot of one store, counted from 1 by claims.
    SnapshotId(u64)
}

/// How many logical databases exist, as in Redis' default configuration.
pub const DATABASE_COUNT: u8 = 16;

impl Lsn {
    /// Bits below the microseconds that hold the counter.
    pub const COUNTER_BITS: u32 = 12;
    /// Nothing has happened yet.
    pub const ZERO: Self = Self(0);

    /// The first LSN of a microsecond since the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros << Self::COUNTER_BITS)
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// The LSN that follows immediately.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One log: one start of the server and one shard. Participants of a command on several shards are
/// named by it, so a log's records keep their meaning when the number of shards changes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LogId {
    /// The start that wrote the log.
    pub start: StartId,
    /// The shard, in the layout of that start.
    pub shard: ShardId,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}-{:03}", self.start.0, self.shard.0)
    }
}

/// The identity of a command on several shards: LSNs order, they do not identify.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct TxnId {
    /// The one LSN of all its records.
    pub lsn: Lsn,
    /// The log of the shard that coordinated it.
    pub coordinator: LogId,
}

/// When a reply to a write may leave, as Redis' `appendfsync` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fsync {
    /// A reply waits until the log position it depends on is durable.
    #[default]
    Always,
    /// Replies do not wait; the log is synced once a second.
    Everysec,
    /// Replies do not wait; the kernel decides when the log reaches the disk.
    Never,
}
