//! A shard with what the real shell has around it: its disk operations, its mail, its clients'
//! bytes, all under way until the world lets them arrive.

use std::collections::VecDeque;
use std::path::PathBuf;

use cutwater_engine::log::sim_disk::WriteOp;
use cutwater_engine::log::{AlignedBuffer, SegmentIndex, SyncId, WriteId};
use cutwater_engine::net::{ConnId, INDEX_BITS};
use cutwater_engine::shard::core::ShardCore;
use cutwater_engine::shard::cut::CutRequest;
use cutwater_engine::shard::message::Mail;
use cutwater_engine::types::{Lsn, Position, SnapshotId};

/// A shard in the world.
#[derive(Debug)]
pub struct Node {
    /// The shard.
    pub core: ShardCore,
    /// Disk operations that were begun and did not end.
    pub io: Vec<Io>,
    /// Mail on its way, by sender; each batch is one turn's.
    pub mail: Vec<VecDeque<Vec<Mail>>>,
    /// What the control plane has said.
    pub control: VecDeque<Control>,
    /// Sends that the network has not reported.
    pub sending: Vec<(ConnId, Vec<u8>)>,
    /// When the shard was last told that a second is over.
    pub second_at_micros: u64,
    generation: u64,
}

/// A disk operation under way.
#[derive(Debug)]
pub enum Io {
    /// A block is written.
    Write {
        /// The operation of the disk.
        op: WriteOp,
        /// Its name in the log.
        id: WriteId,
        /// Goes back to the log.
        block: AlignedBuffer,
    },
    /// A file is synced.
    Sync {
        /// Its name in the log.
        id: SyncId,
        /// The file.
        path: PathBuf,
    },
    /// A segment is made.
    Prepare {
        /// Which.
        index: SegmentIndex,
    },
}

/// What the control plane says to a shard.
#[derive(Debug)]
pub enum Control {
    /// Freeze.
    Begin(CutRequest),
    /// The end is known.
    End(SnapshotId, Lsn),
    /// Nobody wants it.
    Cancel(SnapshotId),
    /// The log before this is not needed.
    Release(Position),
    /// The archive asks how far the log is closed.
    Mark,
}

impl Node {
    /// A shard of so many.
    pub fn new(core: ShardCore, shards: usize) -> Self {
        Self {
            core,
            io: Vec::new(),
            mail: (0..shards).map(|_| VecDeque::new()).collect(),
            control: VecDeque::new(),
            sending: Vec::new(),
            second_at_micros: 0,
            generation: 0,
        }
    }

    /// A name for a connection in the place of the `index`th client.
    pub fn conn(&mut self, index: usize, is_virtual: bool) -> ConnId {
        self.generation += 1;
        if is_virtual {
            ConnId::virtual_id(index as u32, self.generation as u32)
        } else {
            ConnId(self.generation << INDEX_BITS | index as u64)
        }
    }
}
