//! Takes the snapshots that the rules want, by itself: a task beside the coordinator that asks it
//! as anybody does. What is due follows from the catalog ([`crate::schedule`]), so a restart
//! forgets nothing; a snapshot that somebody takes by hand counts as well, an automatic checkpoint
//! does not.

use std::time::Duration;

use cutwater_engine::clock::wall_micros;
use cutwater_snapshot::catalog::Entry;
use cutwater_snapshot::ident::HistoryId;
use cutwater_snapshot::manifest::SnapshotKind;
use tokio::task::JoinHandle;

use super::job::CHECKPOINT;
use super::message::{CoordinatorError, Handle};
use crate::schedule::{Last, Rule, due};

/// How often it is looked whether one is due: the shortest interval of a rule.
const TICK: Duration = Duration::from_secs(1);
/// How long is waited after one that failed.
const RETRY: Duration = Duration::from_secs(30);

/// Begins to take snapshots by these rules; ends with the coordinator.
pub fn start(rules: Vec<Rule>, history: HistoryId, handle: Handle) -> JoinHandle<()> {
    let started_us = wall_micros();
    tokio::spawn(async move {
        while !rules.is_empty() {
            tokio::time::sleep(TICK).await;
            let entries = match handle.list().await {
                Ok(entries) => entries,
                Err(_) => return,
            };
            let Some(kind) = due(&rules, last(&entries, history, started_us), wall_micros()) else {
                continue;
            };
            match handle.create_by_rule(kind).await {
                Ok(()) | Err(CoordinatorError::Busy(_) | CoordinatorError::BusyBehind(_)) => {}
                Err(CoordinatorError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "a snapshot that is due has failed: again later");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    })
}

/// When the last snapshots of this history were begun that serve a rule.
fn last(entries: &[Entry], history: HistoryId, started_us: u64) -> Last {
    let mut last = Last { started_us, ..Last::default() };
    let published = entries.iter().filter_map(Entry::manifest).filter(|manifest| {
        manifest.identity().history == history
            && manifest.raw().reason.as_deref() != Some(CHECKPOINT)
    });
    for manifest in published {
        let begun_us = Some(manifest.meta().created_at_us);
        last.any_us = last.any_us.max(begun_us);
        if manifest.meta().kind == SnapshotKind::Base {
            last.base_us = last.base_us.max(begun_us);
        }
    }
    last
}
