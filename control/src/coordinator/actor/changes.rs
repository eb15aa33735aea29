//! What the actor changes of snapshots that are there: it deletes them, brings them under another
//! key, and pins them.

use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::catalog::Entry;
use cutwater_snapshot::delete::delete_snapshot;
use cutwater_snapshot::manifest::Manifest;
use cutwater_snapshot::pin::set_pin;
use cutwater_snapshot::rekey::rekey;

use super::super::message::{CoordinatorError, Deleted, Reply};
use super::super::upload::DELETED;
use super::{Actor, REMOTE_DELETE_LIMIT};

impl Actor {
    pub(super) async fn delete(
        &mut self,
        id: SnapshotId,
        reason: &str,
    ) -> Result<(), CoordinatorError> {
        if let Some(job) = self.job.as_ref().filter(|job| job.id == id) {
            return Err(CoordinatorError::Busy(job.id));
        }
        self.catalog.check_childless(id)?;
        let protected = self.catalog.newest_two_checkpoints();
        let (tombstone, _) = delete_snapshot(&*self.store, id, &protected, reason).await?;
        self.catalog.bury(tombstone);
        self.show_uploads();
        Ok(())
    }

    /// Deletes here at once, and in the remote store as soon as that answers; waits a little for
    /// it.
    pub(super) async fn delete_everywhere(&mut self, id: SnapshotId, reply: Reply<Deleted>) {
        let uuid = self.catalog.get(id).and_then(Entry::manifest).map(Manifest::snapshot_uuid);
        let deleted = self.delete(id, DELETED).await;
        let (Ok(()), Some(uuid), Some(uploads)) = (&deleted, uuid, self.uploads.clone()) else {
            return drop(reply.send(deleted.map(|()| Deleted::Everywhere)));
        };
        tokio::spawn(async move {
            let outcome = match uploads.wait_deleted(uuid, REMOTE_DELETE_LIMIT).await {
                true => Deleted::Everywhere,
                false => Deleted::RemotePending,
            };
            drop(reply.send(Ok(outcome)));
        });
    }

    /// Here and not beside the actor: nothing may be deleted meanwhile.
    pub(super) async fn rekey(&mut self, id: Option<SnapshotId>) -> Result<u64, CoordinatorError> {
        let rekeyed = rekey(&*self.store, id, &self.form.keys).await?;
        let count = rekeyed.manifests.len() as u64;
        rekeyed.manifests.into_iter().for_each(|manifest| self.catalog.add(manifest));
        self.show_uploads();
        Ok(count)
    }

    /// Here and not beside the actor: nothing may be deleted meanwhile.
    pub(super) async fn pin(
        &mut self,
        id: SnapshotId,
        at_us: Option<u64>,
    ) -> Result<Manifest, CoordinatorError> {
        let manifest = set_pin(&*self.store, id, at_us).await?;
        self.catalog.add(manifest.clone());
        self.show_uploads();
        Ok(manifest)
    }
}
