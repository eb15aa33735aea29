//! What the actor changes of snapshots that are there: it deletes them, brings them under another
//! key, and pins them.

use std::sync::Arc;
use std::time::Duration;

use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::catalog::{Entry, read_record};
use cutwater_snapshot::delete::{delete_snapshot, sweep};
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::manifest::{Manifest, Record};
use cutwater_snapshot::paths::SnapshotName;
use cutwater_snapshot::pin::set_pin;
use cutwater_snapshot::rekey::rekey;
use tokio::time::Instant;

use super::super::message::{CoordinatorError, Deleted, Reply};
use super::super::upload::DELETED;
use super::{Actor, REMOTE_DELETE_LIMIT};

/// After how long the store is asked again about what was given up or deleted.
const SETTLE_RETRY: Duration = Duration::from_secs(5);

/// What is left of a snapshot that was given up or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// Its tombstone.
    Gone,
    /// Objects behind its tombstone.
    Left,
    /// Nobody knows, or it has no tombstone.
    Unknown,
}

impl Actor {
    pub(super) async fn delete(
        &mut self,
        id: SnapshotId,
        reason: &str,
    ) -> Result<(), CoordinatorError> {
        if let Some(job) = self.job.as_ref().filter(|job| job.id() == id) {
            return Err(CoordinatorError::Busy(job.id()));
        }
        self.catalog.check_childless(id)?;
        let protected = self.catalog.newest_two_checkpoints();
        let deleted = match delete_snapshot(&*self.store, id, &protected, reason).await {
            Ok((tombstone, _)) => {
                self.catalog.bury(tombstone);
                Ok(())
            }
            Err(error) => self.failed_delete(id, error).await,
        };
        self.show_uploads();
        deleted
    }

    /// Finds out whether a deletion failed before its tombstone was put or behind it.
    async fn failed_delete(
        &mut self,
        id: SnapshotId,
        error: SnapshotError,
    ) -> Result<(), CoordinatorError> {
        let name = self.catalog.get(id).and_then(|entry| entry.name);
        let Some(name) = name.filter(|_| matches!(error, SnapshotError::Store(_))) else {
            return Err(error.into());
        };
        match self.settle(name).await {
            Settled::Gone => Ok(()),
            Settled::Left => Err(CoordinatorError::Leftovers { id, reason: Arc::new(error) }),
            Settled::Unknown => Err(error.into()),
        }
    }

    /// Takes over what the store says of a snapshot that was given up or deleted, and removes what
    /// lies behind its tombstone. What fails is tried again later ([`Self::settle_again`]).
    pub(super) async fn settle(&mut self, name: SnapshotName) -> Settled {
        self.unsettled.insert(name);
        self.settle_at = Instant::now() + SETTLE_RETRY;
        match read_record(&*self.store, name).await {
            Ok(Record::Tombstone(tombstone)) => self.catalog.bury(tombstone),
            // A deletion that did not begin, or a snapshot that is published, but nobody knows
            // whether durably: the next start finds it.
            Ok(Record::Published(_)) => {
                self.unsettled.remove(&name);
                return Settled::Unknown;
            }
            Err(error) => {
                let is_open = matches!(&error, SnapshotError::Store(error) if error.is_not_found());
                if is_open {
                    // The next start puts its tombstone.
                    self.unsettled.remove(&name);
                    self.catalog.leave_open(name);
                }
                return Settled::Unknown;
            }
        }
        match sweep(&*self.store, name).await {
            Ok(_) => {
                self.unsettled.remove(&name);
                Settled::Gone
            }
            Err(error) => {
                tracing::warn!(snapshot = name.id.0, %error, "objects of it stay for now");
                Settled::Left
            }
        }
    }

    /// [`Self::settle`] for what failed before.
    pub(super) async fn settle_again(&mut self) {
        for name in std::mem::take(&mut self.unsettled) {
            self.settle(name).await;
        }
        self.show_uploads();
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
