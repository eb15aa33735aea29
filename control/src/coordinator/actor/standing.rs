//! Where the actor stands: how much log has come since the last checkpoint, and what STATUS and
//! INFO tell of all of it.

use std::sync::atomic::Ordering;

use cutwater_engine::clock::wall_micros;
use cutwater_snapshot::manifest::Manifest;

use super::super::image::start_of;
use super::super::message::{RemoteStatus, Status};
use super::super::recycle::{checkpoints, old_log_bytes};
use super::{Actor, Job};
use crate::status::persistence_info;

/// The log that is allowed before a checkpoint, where nothing is configured.
const DEFAULT_CHECKPOINT_BYTES: u64 = 1 << 30;

impl Actor {
    pub(super) fn checkpoint_at(&self) -> u64 {
        self.checkpoint_log_bytes.unwrap_or_else(|| {
            let last = self.catalog.published().next_back();
            last.map_or(0, |manifest| manifest.meta().data_bytes).max(DEFAULT_CHECKPOINT_BYTES)
        })
    }

    /// Bytes of log that the newest checkpoint does not cover, earlier starts' files whole.
    pub(super) fn log_since_checkpoint(&self) -> u64 {
        let shared = self.engine.shared();
        let tails = shared.all_stats().iter().map(|stats| stats.log_tail.load(Ordering::Relaxed));
        match &self.covered {
            Some(covered) => {
                tails.zip(covered).map(|(tail, covered)| tail.saturating_sub(*covered)).sum()
            }
            None => tails.sum::<u64>() + self.old_log_bytes,
        }
    }

    /// What [`Self::log_since_checkpoint`] goes by. It is asked many times a second, so that it
    /// does not look through the catalog and the log folder itself.
    pub(super) fn measure_old_logs(&mut self) {
        let newest = checkpoints(&self.catalog, self.history).first().copied();
        let of_this_start = newest.filter(|manifest| start_of(manifest) == self.engine.start());
        self.covered = of_this_start
            .map(|manifest| manifest.cores().iter().map(|core| core.position.0).collect());
        self.old_log_bytes =
            self.data_dir.as_ref().map_or(0, |dir| old_log_bytes(dir, &self.engine));
    }

    pub(super) fn status(&self) -> Status {
        let last = self.catalog.published().next_back();
        Status {
            now_us: wall_micros(),
            running: self.job.as_ref().map(Job::running),
            verifications: self.verifications.running(),
            last: last.map(Manifest::id),
            last_end_lsn: last.map(|manifest| manifest.meta().end_lsn).unwrap_or_default(),
            last_created_at_us: last.map_or(0, |manifest| manifest.meta().created_at_us),
            published: self.published,
            failed: self.failed,
            cancelled: self.cancelled,
            last_duration_us: self.last_duration_us,
            last_data_bytes: last.map_or(0, |manifest| manifest.meta().data_bytes),
            last_error: self.last_error.clone(),
            log_since_checkpoint_bytes: self.log_since_checkpoint(),
            checkpoint_at_bytes: self.checkpoint_at(),
            remote: self.uploads.as_ref().map(RemoteStatus::of),
            archive: self.archive.as_ref().map(|archive| archive.borrow().clone()),
        }
    }

    /// Renews the lines that `INFO persistence` shows.
    pub(super) fn publish_info(&mut self) {
        self.ticks = 0;
        self.engine.shared().set_persistence_info(persistence_info(&self.status()));
    }
}
