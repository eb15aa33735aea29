//! What stays in a store that no server is asked about: pins, and pruning by a policy. Nothing is
//! claimed beforehand: beside a server that writes there, ask the server instead.

use std::pin::pin;

use cutwater_control::restore::RestoreError;
use cutwater_engine::clock::wall_micros;
use cutwater_engine::engine::lock::DataLock;
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::archive::Archive;
use cutwater_snapshot::catalog::{Catalog, database_of};
use cutwater_snapshot::claim::Removal;
use cutwater_snapshot::delete::remove;
use cutwater_snapshot::pin::set_pin;
use cutwater_snapshot::plan::{Restorable, Stock};
use cutwater_snapshot::retention::{Decision, Holdings, Policy, Stay};

use super::super::failure::Failure;
use super::super::progress::follow;
use super::{OfflineError, Store};
use crate::interrupt::Interrupts;

/// What the tombstones of pruned snapshots say.
const PRUNE_REASON: &str = "pruned by cutwater snapshot prune --store";

/// What goes under a policy, and what can be restored of the rest.
pub struct Pruned {
    /// What stays and goes.
    pub decision: Decision,
    /// The windows that stay.
    pub windows: Vec<Restorable>,
}

impl Store {
    /// Pins a snapshot, or unpins it.
    ///
    /// # Errors
    /// As for [`Store::delete`].
    pub fn pin(&self, id: SnapshotId, is_pinned: bool) -> Result<(), OfflineError> {
        let _lock = self.data_dir.as_deref().map(DataLock::acquire).transpose()?;
        let at_us = is_pinned.then(wall_micros);
        self.runtime.block_on(set_pin(&*self.store, id, at_us))?;
        Ok(())
    }

    /// Lets go what a policy does not need, unless it is only asked. In a data directory the two
    /// newest checkpoints stay.
    ///
    /// # Errors
    /// [`OfflineError::Lock`] if a server runs on the store, the store's, or a signal.
    pub fn prune(
        &self,
        policy: &Policy,
        is_dry: bool,
        interrupts: &Interrupts,
    ) -> Result<Pruned, Failure> {
        let lock = self.data_dir.as_deref().filter(|_| !is_dry);
        let _lock = lock.map(DataLock::acquire).transpose().map_err(OfflineError::from)?;
        let pruning = async {
            let store = &*self.store;
            let database = database_of(store).await?;
            let catalog = Catalog::load(store, database).await?;
            let archive = Archive::load(store, database).await.map_err(RestoreError::from)?;
            let mut holdings = Holdings::new(&catalog, &archive);
            if self.data_dir.is_some() {
                let checkpoints = catalog.newest_two_checkpoints();
                holdings.held.extend(checkpoints.into_iter().map(|id| (id, Stay::Checkpoint)));
            }
            let decision = Decision::new(&holdings, &archive, policy, wall_micros());
            let log = decision.superfluous_log();
            if !is_dry {
                let manifests = decision.order.iter().filter_map(|id| catalog.get(*id)?.manifest());
                let snapshots = manifests.map(|m| (m.name(), m.snapshot_uuid())).collect();
                let mut removal =
                    Removal { snapshots, log: Vec::new(), reason: PRUNE_REASON.into() };
                log.iter().for_each(|number| removal.push_log(number.0));
                remove(store, &removal).await?;
            }
            let mut stock = Stock::new(&catalog, &archive);
            stock.snapshots.retain(|point| !decision.order.contains(&point.id));
            stock.wal.retain(|span| !log.contains(&span.number));
            Ok::<_, OfflineError>(Pruned { windows: stock.restorable(), decision })
        };
        let pruned = self.runtime.block_on(follow(pin!(pruning), || None, interrupts));
        let pruned = pruned.map_err(|by| {
            let what = match is_dry {
                true => "nothing was changed",
                false => "what went by then is gone, and the rest is as it was: prune again",
            };
            Failure::Interrupted { by, what: what.to_owned() }
        })?;
        Ok(pruned?)
    }
}
