//! New snapshots are read whole before log goes on their account, or an older snapshot does; one
//! after the other, so that snapshots in quick succession do not add up.

use std::collections::BTreeMap;
use std::sync::Arc;

use cutwater_engine::seal::Keyring;
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::ObjectStore;
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::verify::{VerifyReport, verify};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// What came of reading one.
type Outcome = Result<VerifyReport, SnapshotError>;

/// Those that have yet to be read, or are being read.
#[derive(Debug, Default)]
pub struct ReadBacks {
    tasks: JoinSet<(SnapshotId, Outcome)>,
    /// Held by the one that is being read.
    turn: Arc<Mutex<()>>,
    /// Whether each is being read: one that could not be reached is tried again with the next.
    unread: BTreeMap<SnapshotId, bool>,
}

impl ReadBacks {
    /// Begins to read a new one, and those again that could not be reached.
    pub fn begin(&mut self, id: SnapshotId, store: &Arc<dyn ObjectStore>, keys: &Keyring) {
        self.unread.insert(id, false);
        for (&id, is_running) in self.unread.iter_mut().filter(|(_, is_running)| !**is_running) {
            *is_running = true;
            let (store, keys, turn) = (Arc::clone(store), keys.clone(), Arc::clone(&self.turn));
            self.tasks.spawn(async move {
                let _turn = turn.lock().await;
                (id, verify(&store, id, &keys, &|_| {}).await)
            });
        }
    }

    /// The next that is over; `None` if none is being read.
    pub async fn next(&mut self) -> Option<(SnapshotId, Outcome)> {
        loop {
            // One that has panicked stays unread.
            let Ok((id, outcome)) = self.tasks.join_next().await? else { continue };
            let is_over = match &outcome {
                Ok(_)
                | Err(SnapshotError::NoSnapshot { .. } | SnapshotError::NotPublished { .. }) => {
                    true
                }
                Err(error) => error.is_corruption(),
            };
            if is_over {
                self.unread.remove(&id);
            } else if let Some(is_running) = self.unread.get_mut(&id) {
                *is_running = false;
            }
            return Some((id, outcome));
        }
    }

    /// Whether all that are there were read and are whole.
    pub fn are_done(&self) -> bool {
        self.unread.is_empty()
    }

    /// How many have yet to be read.
    pub fn unread(&self) -> usize {
        self.unread.len()
    }
}
