//! What other threads say to a shard: embedded clients, the control plane, the loader and the
//! segment provider. Bounded: a sender waits while the inbox is full.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::log::{LogMark, SegmentIdentity, SegmentIndex};
use crate::net::ConnId;
use crate::resp::ArgsBuf;
use crate::seal::SealKey;
use crate::shard::cut::{CutEvent, CutRequest};
use crate::types::{Lsn, Position, ShardId, SnapshotId};

/// Messages that wait for one shard.
pub const INBOX_CAPACITY: usize = 1_024;

/// A message to a shard.
#[derive(Debug)]
pub enum ToShard {
    /// Commands of an embedded client, on one virtual connection. Answered with all their replies,
    /// one after the other; the sender is dropped if the engine stops before.
    Submit {
        /// In order.
        commands: Vec<ArgsBuf>,
        /// Where the encoded replies go.
        reply: flume::Sender<Vec<u8>>,
    },
    /// The control plane answers a command.
    AdminReply {
        /// The connection.
        conn: ConnId,
        /// Its reply slot.
        slot: u64,
        /// The encoded reply.
        reply: Vec<u8>,
    },
    /// The loader has ops of this shard's slots. A bad one ends the start.
    Load {
        /// Encoded.
        ops: Vec<u8>,
        /// Answered when they are applied.
        done: Option<flume::Sender<()>>,
    },
    /// Everything is loaded on all shards: serve.
    FinishLoading {
        /// Every LSN from now on is above it.
        floor: Lsn,
        /// Answered when the shard serves.
        done: flume::Sender<()>,
    },
    /// A snapshot wants this shard's part; its events go to the sender.
    BeginCut {
        /// What.
        request: CutRequest,
        /// To whom.
        events: flume::Sender<CutEvent>,
    },
    /// The end of the snapshot is known.
    EndCut {
        /// Which.
        id: SnapshotId,
        /// The highest watermark.
        end: Lsn,
    },
    /// The snapshot is not wanted any more.
    CancelCut {
        /// Which.
        id: SnapshotId,
    },
    /// A segment is prepared and open.
    SegmentReady {
        /// Its number.
        index: SegmentIndex,
        /// This use of the file.
        identity: SegmentIdentity,
        /// Seals its frames, if they are to be sealed.
        key: Option<Box<SealKey>>,
        /// For frames.
        file: Arc<OwnedFd>,
    },
    /// There is no room for the next segment; it is tried again.
    SegmentDelayed,
    /// The next segment cannot be made for another reason: the engine stops.
    SegmentFailed {
        /// Why.
        error: std::io::Error,
    },
    /// The log before this position is not needed any more.
    ReleaseLog {
        /// Exclusive.
        before: Position,
    },
    /// Somebody wants to read the log up to now. Answered when it is durable; the sender is dropped
    /// if the engine stops before.
    Mark {
        /// To whom.
        reply: flume::Sender<LogMark>,
    },
    /// Drain, sync, end.
    Stop,
}

/// What a shard says to the segment provider.
#[derive(Debug)]
pub enum ToProvider {
    /// The shard will need this segment; answered with `SegmentReady` or `SegmentDelayed`.
    Prepare {
        /// For whose log.
        shard: ShardId,
        /// Its number.
        index: SegmentIndex,
    },
    /// These segments are not needed any more: they become spares.
    Retire {
        /// Of whose log.
        shard: ShardId,
        /// Oldest first.
        segments: Vec<SegmentIndex>,
    },
}

/// A file that is shared with the kernel's queue.
pub fn owned(file: File) -> Arc<OwnedFd> {
    Arc::new(file.into())
}
