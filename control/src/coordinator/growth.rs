//! How much log has come since the checkpoints: when the next one is due.

use std::path::Path;
use std::sync::atomic::Ordering;

use cutwater_engine::Engine;
use cutwater_snapshot::catalog::Catalog;
use cutwater_snapshot::ident::HistoryId;
use cutwater_snapshot::manifest::{Manifest, SnapshotKind};

use super::image::start_of;
use super::recycle::{checkpoints, old_log_bytes};

/// The log that is allowed before a checkpoint, where nothing is configured.
const DEFAULT_CHECKPOINT_BYTES: u64 = 1 << 30;

/// Measured when a snapshot is published or log is let go; asked many times a second, so that it
/// does not look through the catalog and the log folder then.
#[derive(Debug, Default)]
pub struct LogGrowth {
    /// Bytes of files of earlier starts.
    old_log_bytes: u64,
    /// What the newest checkpoint covers of this start's logs, by shard; `None` if it is of an
    /// earlier one.
    covered: Option<Vec<u64>>,
    /// The same of the older one.
    kept_behind: Option<Vec<u64>>,
    /// Bytes of the newest base.
    base_bytes: u64,
    /// A failed checkpoint is not tried again before the log has grown by as much again.
    retry_at_bytes: u64,
}

impl LogGrowth {
    /// Looks at the catalog and the log folder.
    pub fn measure(
        &mut self,
        engine: &Engine,
        catalog: &Catalog,
        history: HistoryId,
        data_dir: Option<&Path>,
    ) {
        let checkpoints = checkpoints(catalog, history);
        let places = |at: usize| {
            let manifest = checkpoints.get(at)?;
            let positions = manifest.cores().iter().map(|core| core.position.0);
            (start_of(manifest) == engine.start()).then(|| positions.collect())
        };
        (self.covered, self.kept_behind) = (places(0), places(1));
        self.old_log_bytes = data_dir.map_or(0, |dir| old_log_bytes(dir, engine));
        let is_base = |manifest: &&Manifest| manifest.meta().kind == SnapshotKind::Base;
        let base = catalog.published().rev().find(is_base);
        self.base_bytes = base.map_or(0, |manifest| manifest.meta().data_bytes);
    }

    /// At how many bytes of log a checkpoint is due; the larger of 1 GiB and the newest base, if
    /// nothing is configured.
    pub fn checkpoint_at(&self, configured: Option<u64>) -> u64 {
        configured.unwrap_or(self.base_bytes.max(DEFAULT_CHECKPOINT_BYTES))
    }

    /// Bytes of log that the newest checkpoint does not cover, earlier starts' files whole.
    pub fn since_checkpoint(&self, engine: &Engine) -> u64 {
        self.behind(engine, &self.covered)
    }

    /// Whether so much log has come since the newest checkpoint; or twice as much since the older
    /// one, behind which all of it is kept: deltas bring the newest forward, and never the older.
    pub fn is_checkpoint_due(&self, engine: &Engine, configured: Option<u64>) -> bool {
        let (since, at) = (self.since_checkpoint(engine), self.checkpoint_at(configured));
        let kept = self.behind(engine, &self.kept_behind);
        (since >= at || kept >= at.saturating_mul(2)) && since >= self.retry_at_bytes
    }

    /// A snapshot was published.
    pub fn succeeded(&mut self) {
        self.retry_at_bytes = 0;
    }

    /// A snapshot failed.
    pub fn failed(&mut self, engine: &Engine, configured: Option<u64>) {
        self.retry_at_bytes = self.since_checkpoint(engine) + self.checkpoint_at(configured);
    }

    /// Bytes of log behind these places of this start's logs; without them, all.
    fn behind(&self, engine: &Engine, places: &Option<Vec<u64>>) -> u64 {
        let shared = engine.shared();
        let tails = shared.all_stats().iter().map(|stats| stats.log_tail.load(Ordering::Relaxed));
        match places {
            Some(places) => tails.zip(places).map(|(tail, at)| tail.saturating_sub(*at)).sum(),
            None => tails.sum::<u64>() + self.old_log_bytes,
        }
    }
}
