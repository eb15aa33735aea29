//! The deep verification: a snapshot is restored into an engine in memory, on any number of shards,
//! and what is there is compared, slot by slot, with the digests that were taken of the shards
//! themselves when they froze. So it finds what no checksum can: an entry that was changed, lost
//! or made up before it was written.
//!
//! The digests are those at each part's watermark, so the snapshot's own tail stays out; the
//! snapshots below a delta are restored whole. Nothing expires meanwhile. It takes as much memory
//! as a server that holds the same keys.

use std::sync::Arc;
use std::time::Duration;

use cutwater_engine::engine::{Failure, OpenError, PartEvent, SnapshotPlan, SnapshotStreams};
use cutwater_engine::seal::Keyring;
use cutwater_engine::types::{Slot, SnapshotId};
use cutwater_engine::{Engine, EngineConfig, SnapshotStreamError};
use cutwater_snapshot::ObjectStore;
use cutwater_snapshot::catalog::{Catalog, database_of};
use cutwater_snapshot::compression::Algorithm;
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::manifest::Manifest;
use cutwater_snapshot::paths::SnapshotName;
use cutwater_snapshot::sealing::Unlocked;
use cutwater_snapshot::verify::{Progress, VerifyReport, verify};
use tokio::runtime::Handle;

use crate::coordinator::gather_digests;
use crate::restore::RestoreError;
use crate::restore::gauge::Gauge;
use crate::restore::image::PlanImage;

/// What a key takes in memory over itself and its value, about, shards' tables included.
const KEY_BYTES: u64 = 64;
/// How many bytes of memory a stored byte of a compressed snapshot stands for, about.
const EXPANSION: u64 = 4;

/// How often it is told how far the loading is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Why a snapshot is not what it was taken of, or cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DeepError {
    /// It, or one that it is on top of, cannot be read or is damaged.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Nothing was recorded to compare it with.
    #[error(
        "snapshot {id} cannot be compared: no digests were recorded when it was taken (it is whole)"
    )]
    NoDigests {
        /// The snapshot.
        id: SnapshotId,
    },
    /// Something else was there when it was taken.
    #[error(
        "{name} does not restore what it was taken of: slot {slot} differs, one of {slots} slots \
         that do"
    )]
    Differs {
        /// The snapshot.
        name: SnapshotName,
        /// The first slot that differs.
        slot: Slot,
        /// How many do.
        slots: usize,
    },
    /// It cannot be loaded.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The engine in memory has failed.
    #[error(transparent)]
    Engine(#[from] Failure),
    /// The engine in memory could not be walked.
    #[error(transparent)]
    Stream(#[from] SnapshotStreamError),
    /// The runtime is going down.
    #[error("the runtime is going down")]
    Runtime,
}

impl DeepError {
    /// Whether the snapshot is wrong, and not only out of reach.
    pub fn is_corruption(&self) -> bool {
        match self {
            Self::Snapshot(error) => error.is_corruption(),
            Self::Differs { .. } => true,
            _ => false,
        }
    }
}

/// What was found to be in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeepReport {
    /// What reading it showed.
    pub read: VerifyReport,
    /// Keys that it restores, before its tail.
    pub keys: u64,
    /// Snapshots that were loaded: it, and what it is on top of.
    pub snapshots: usize,
}

/// Reads a snapshot whole, as [`verify`] does, and then compares it with what it was taken of.
///
/// # Errors
/// [`DeepError`].
pub async fn verify_deep(
    store: &Arc<dyn ObjectStore>,
    id: SnapshotId,
    keys: &Keyring,
    shards: u16,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<DeepReport, DeepError> {
    let read = verify(store, id, keys, progress).await?;
    let catalog = Catalog::load(&**store, database_of(&**store).await?).await?;
    let chain = catalog.chain_of(id)?;
    let last = chain.last().expect("a chain has a base");
    let (seed, recorded) = last.slot_digests().ok_or(DeepError::NoDigests { id })?;
    let recorded: Vec<u128> = recorded.collect();
    let (name, target) = (last.name(), last.meta().end_lsn);
    let unlocked: Result<Vec<Unlocked>, _> = chain.iter().map(|it| it.unlock(keys)).collect();
    let gauge = Arc::new(Gauge::default());
    gauge.snapshots.expect(chain.iter().map(|manifest| manifest.meta().data_bytes).sum());
    let image = PlanImage {
        runtime: Handle::current(),
        store: Arc::clone(store),
        keys: keys.clone(),
        snapshots: unlocked?,
        with_last_tail: false,
        wal: Vec::new(),
        target,
        gauge: Arc::clone(&gauge),
    };

    let mut config = EngineConfig::memory();
    config.shards = shards.max(1);
    config.keep_expired = true;
    config.accept_clock = true;
    config.images = vec![Box::new(image)];
    let opened = open(config, gauge, read.bytes, progress).await?;
    let engine = Arc::new(opened);
    let plan = SnapshotPlan { cut: None, digest_seed: seed, only_digests: true };
    let found = match engine.create_snapshot(plan).await {
        Ok(streams) => digests(streams).await,
        Err(error) => Err(error),
    };
    let loaded = engine.recovered().keys;
    // Joining the shards' threads blocks.
    let closed = tokio::task::spawn_blocking(move || engine.shut_down()).await;
    let found = found?;
    closed.map_err(|_| DeepError::Runtime)??;
    compare(name, &recorded, &found)?;
    Ok(DeepReport { read, keys: loaded, snapshots: chain.len() })
}

/// How much memory the deep verification of a snapshot takes, about, by what the manifests of its
/// chain say.
///
/// # Errors
/// [`DeepError::Snapshot`].
pub async fn memory_needed(store: &Arc<dyn ObjectStore>, id: SnapshotId) -> Result<u64, DeepError> {
    let catalog = Catalog::load(&**store, database_of(&**store).await?).await?;
    let of_one = |manifest: &&Manifest| {
        let expansion = if manifest.compression() == Algorithm::None { 1 } else { EXPANSION };
        let entries = manifest.cores().iter().fold(0, |sum, part| part.entries.saturating_add(sum));
        let bytes = manifest.meta().data_bytes.saturating_mul(expansion);
        bytes.saturating_add(entries.saturating_mul(KEY_BYTES))
    };
    Ok(catalog.chain_of(id)?.iter().map(of_one).fold(0, u64::saturating_add))
}

/// How much memory this machine can still give, as Linux says it.
pub fn available_bytes() -> Option<u64> {
    parse_available(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Loads on a thread for it, since the image is read on this runtime meanwhile; dropped, it stops.
async fn open(
    config: EngineConfig,
    gauge: Arc<Gauge>,
    read_bytes: u64,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Engine, DeepError> {
    let stop = StopOnDrop(gauge);
    let mut opening = tokio::task::spawn_blocking(move || Engine::open(config));
    let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
    let opened = loop {
        tokio::select! {
            opened = &mut opening => break opened.map_err(|_| DeepError::Runtime)?,
            _ = tick.tick() => {
                let (done, total) = stop.0.snapshots.parts();
                let (done_bytes, total_bytes) = (read_bytes + done, read_bytes + total);
                progress(Progress { done_bytes, total_bytes });
            }
        }
    };
    match (opened, stop.0.take_failure()) {
        (Err(OpenError::Image { .. }), Some(RestoreError::Snapshot(error))) => Err(error.into()),
        (opened, _) => Ok(opened?),
    }
}

/// Stops the reading of an image when nobody waits for it any more.
struct StopOnDrop(Arc<Gauge>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

async fn digests(streams: SnapshotStreams) -> Result<Vec<u128>, SnapshotStreamError> {
    let mut found = Vec::with_capacity(streams.parts.len());
    for mut part in streams.parts {
        loop {
            if let PartEvent::End { digests, .. } = part.next().await? {
                break found.push(digests);
            }
        }
    }
    Ok(gather_digests(found))
}

fn compare(name: SnapshotName, recorded: &[u128], found: &[u128]) -> Result<(), DeepError> {
    let pairs = recorded.iter().zip(found);
    let differing: Vec<usize> =
        pairs.enumerate().filter(|(_, (was, is))| was != is).map(|(slot, _)| slot).collect();
    match differing.first() {
        None => Ok(()),
        Some(&slot) => {
            let (slot, slots) = (Slot(slot as u16), differing.len());
            Err(DeepError::Differs { name, slot, slots })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_says_of_its_memory() {
        let text = "MemTotal:       8039472 kB\nMemFree:  1 kB\nMemAvailable:    6154320 kB\n";
        assert_eq!(parse_available(text), Some(6_154_320 * 1024));
        for bad in ["", "MemAvailable: 7 MB", "MemAvailable: x kB"] {
            assert_eq!(parse_available(bad), None, "{bad}");
        }
        assert!(available_bytes().is_some_and(|bytes| bytes > 0));
    }
}
