//! Where the actor stands: what STATUS and INFO tell of it.

use cutwater_engine::clock::wall_micros;
use cutwater_snapshot::manifest::Manifest;

use super::super::message::{RemoteStatus, Status};
use super::requests::Request;
use super::{Actor, Job};
use crate::status::persistence_info;

impl Actor {
    /// After a change of the catalog or of the log folder.
    pub(super) fn measure_old_logs(&mut self) {
        let (engine, data_dir) = (&self.engine, self.data_dir.as_deref());
        self.growth.measure(engine, &self.catalog, self.history, data_dir);
    }

    pub(super) fn status(&self) -> Status {
        let last = self.catalog.published().next_back();
        Status {
            now_us: wall_micros(),
            running: self.job.as_ref().map(Job::running),
            waiting: self.waiting.as_ref().map(Request::shown),
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
            reading_back: self.readbacks.unread(),
            log_since_checkpoint_bytes: self.growth.since_checkpoint(&self.engine),
            checkpoint_at_bytes: self.growth.checkpoint_at(self.checkpoint_log_bytes),
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
