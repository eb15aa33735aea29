//! The segment provider: one thread that makes log segments ahead of their use, so that no shard
//! ever waits for a file to be created, filled with zeros or renamed.
//!
//! Released segments become spares, which the next segments are made from. "No space left" is not
//! final: the shard is told, refuses writes, and gets its segment when there is room again.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::log::segment::{prepare_segment, retire_segment, segment_name, was_sealed};
use crate::log::{FileDisk, LogDisk, SegmentHeader, SegmentIdentity, SegmentIndex, StartSeal};
use crate::net::InboxSender;
use crate::seal::SALT_BYTES;
use crate::types::{Fsync, LogId, ShardId, StartId};

use super::message::{ToProvider, ToShard, owned};

/// How long to wait before trying again to make a segment for which there was no room.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Spares that are kept for each shard; more are removed.
const SPARES_PER_SHARD: usize = 2;

/// What all segments of a start have in common.
#[derive(Clone, Debug)]
pub struct SegmentPlan {
    /// The log folder.
    pub dir: PathBuf,
    /// The database.
    pub database_id: u128,
    /// The history.
    pub history_id: u128,
    /// The start.
    pub start: StartId,
    /// Its shards.
    pub shards: u16,
    /// The size of a segment file.
    pub segment_bytes: u64,
    /// Whether completed writes have to be durable.
    pub fsync: Fsync,
    /// What seals the logs of the start, if anything does.
    pub seal: Option<StartSeal>,
}

/// The provider's thread; it ends when every sender is gone.
pub struct Provider {
    plan: SegmentPlan,
    requests: flume::Receiver<ToProvider>,
    shards: Vec<InboxSender<ToShard>>,
    spares: VecDeque<String>,
    /// Segments of earlier starts that nobody reads any more.
    leftovers: Vec<(LogId, SegmentIndex)>,
    delayed: VecDeque<(ShardId, SegmentIndex)>,
    said_buffered: bool,
}

impl Provider {
    /// A provider for the shards of one start.
    pub fn new(
        plan: SegmentPlan,
        requests: flume::Receiver<ToProvider>,
        shards: Vec<InboxSender<ToShard>>,
        leftovers: Vec<(LogId, SegmentIndex)>,
    ) -> Self {
        let (spares, delayed) = (VecDeque::new(), VecDeque::new());
        Self { plan, requests, shards, spares, leftovers, delayed, said_buffered: false }
    }

    /// Serves until every shard is gone.
    pub fn run(mut self) {
        self.find_spares();
        for (log, index) in std::mem::take(&mut self.leftovers) {
            self.retire(log, index);
        }
        if self.plan.seal.is_some() {
            self.remove_plain_spares();
        }
        loop {
            let request = if self.delayed.is_empty() {
                self.requests.recv().map_err(|_| flume::RecvTimeoutError::Disconnected)
            } else {
                self.requests.recv_timeout(RETRY_INTERVAL)
            };
            match request {
                Ok(ToProvider::Prepare { shard, index }) => self.provide(shard, index),
                Ok(ToProvider::Retire { shard, segments }) => {
                    let log = LogId { start: self.plan.start, shard };
                    segments.into_iter().for_each(|index| self.retire(log, index));
                }
                Err(flume::RecvTimeoutError::Timeout) => {}
                Err(flume::RecvTimeoutError::Disconnected) => return,
            }
            for _ in 0..self.delayed.len() {
                let Some((shard, index)) = self.delayed.pop_front() else { break };
                self.provide(shard, index);
            }
        }
    }

    fn provide(&mut self, shard: ShardId, index: SegmentIndex) {
        let message = match self.prepare(shard, index) {
            Ok(message) => message,
            Err(error) if is_no_room(&error) => {
                self.delayed.push_back((shard, index));
                ToShard::SegmentDelayed
            }
            Err(error) => ToShard::SegmentFailed { error },
        };
        // A shard that is gone needs no segment.
        let _ = self.shards[shard.0 as usize].send(message);
    }

    fn prepare(&mut self, shard: ShardId, index: SegmentIndex) -> io::Result<ToShard> {
        let plan = &self.plan;
        let log = LogId { start: plan.start, shard };
        let identity = SegmentIdentity(random_u64()?);
        let mut header = SegmentHeader {
            database_id: plan.database_id,
            history_id: plan.history_id,
            log,
            shards: plan.shards,
            index,
            identity,
            size_bytes: plan.segment_bytes,
            sealing: None,
        };
        let mut key = None;
        if let Some(seal) = &plan.seal {
            let mut salt = [0; SALT_BYTES];
            fill_random(&mut salt)?;
            key = Some(Box::new(seal.seal_segment(&mut header, salt)));
        }
        let spare = self.spares.pop_front();
        prepare_segment(&FileDisk, &plan.dir, &header, spare.as_deref())?;
        let path = plan.dir.join(segment_name(log, index));
        let opened = FileDisk.open_for_frames(&path, plan.fsync == Fsync::Always)?;
        if !opened.direct && !self.said_buffered {
            self.said_buffered = true;
            tracing::warn!(
                dir = %plan.dir.display(),
                "the file system of the log has no O_DIRECT: commits go through the page cache, \
                 as durable but slower"
            );
        }
        Ok(ToShard::SegmentReady { index, identity, key, file: owned(opened.file) })
    }

    /// Makes a spare of a segment, if more are wanted, or removes it.
    fn retire(&mut self, log: LogId, index: SegmentIndex) {
        let result = if self.spares.len() < SPARES_PER_SHARD * self.shards.len() {
            retire_segment(&FileDisk, &self.plan.dir, log, index)
                .map(|spare| self.spares.push_back(spare))
        } else {
            FileDisk.remove(&self.plan.dir.join(segment_name(log, index)))
        };
        if let Err(error) = result {
            tracing::warn!(%log, segment = index.0, %error, "a released segment stays");
        }
    }

    /// Takes over the spares of earlier starts.
    fn find_spares(&mut self) {
        let Ok(files) = FileDisk.list(&self.plan.dir) else { return };
        let spares = files.into_iter().map(|file| file.name);
        self.spares = spares.filter(|name| crate::log::segment::is_spare_name(name)).collect();
    }

    /// Removes the spares that still show what was written before sealing began.
    fn remove_plain_spares(&mut self) {
        let dir = &self.plan.dir;
        self.spares.retain(|spare| {
            let path = dir.join(spare);
            if was_sealed(&FileDisk, &path).unwrap_or(false) {
                return true;
            }
            if let Err(error) = FileDisk.remove(&path) {
                tracing::warn!(spare, %error, "a file that is not sealed stays");
            }
            false
        });
    }
}

fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A random number from the kernel.
pub(super) fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fill_random(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Random bytes from the kernel.
#[expect(clippy::disallowed_methods, reason = "identities, salts, seeds, ids and keys begin here")]
pub(super) fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()))
}
