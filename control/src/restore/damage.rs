//! What of a store cannot be read, and therefore stands in the way of a restore. A plan knows only
//! what can be read; without a look at the rest, a damaged newest object would make `--latest` an
//! earlier moment in silence, and a damaged snapshot one that never was.

use std::fmt;

use cutwater_snapshot::archive::Archive;
use cutwater_snapshot::catalog::{Catalog, EntryState};
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::plan::{Plan, PlanError, Target};

use super::{RestoreError, text};

/// Objects that are named in one error at most.
const SHOWN: usize = 8;

/// Why there is no plan, with what in the store cannot be read.
#[derive(Debug)]
pub struct Impeded {
    /// Why there is no plan.
    pub plan: PlanError,
    /// What cannot be read and why, each with the name of its object; at least one.
    pub unreadable: Vec<String>,
}

impl fmt::Display for Impeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::explain(&self.plan))?;
        for reason in self.unreadable.iter().take(SHOWN) {
            write!(f, "\n  unreadable  {reason}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Impeded {}

/// Looks at what was planned and at what could not be.
///
/// # Errors
/// [`RestoreError`]: there is no plan, or there may be a later moment than the plan's although the
/// latest was wanted.
pub(super) fn look(
    catalog: &Catalog,
    archive: &Archive,
    target: Target,
    planned: Result<Plan, PlanError>,
) -> Result<Plan, RestoreError> {
    match (target, planned) {
        (Target::Latest, Ok(plan)) => match newer(catalog, archive, &plan) {
            Some(reason) => Err(RestoreError::Latest { reason, found: plan.target }),
            None => Ok(plan),
        },
        (_, Ok(plan)) => Ok(plan),
        (Target::Snapshot(id), Err(plan)) => Err(match catalog.get(id) {
            Some(entry) => match &entry.state {
                EntryState::Unreadable { reason } => impeded(plan, vec![reason.clone()]),
                EntryState::Published(_) => impeded(plan, unreadable(catalog, archive)),
                _ => SnapshotError::NotPublished { id, state: entry.state_name() }.into(),
            },
            None => plan.into(),
        }),
        (_, Err(plan)) => Err(impeded(plan, unreadable(catalog, archive))),
    }
}

fn impeded(plan: PlanError, unreadable: Vec<String>) -> RestoreError {
    match unreadable.is_empty() {
        true => plan.into(),
        false => RestoreError::Impeded(Box::new(Impeded { plan, unreadable })),
    }
}

/// What cannot be read of what may be behind the end of a plan.
fn newer(catalog: &Catalog, archive: &Archive, plan: &Plan) -> Option<String> {
    let snapshot = catalog.entries().iter().find_map(|entry| match &entry.state {
        EntryState::Unreadable { reason } => {
            let is_newer = entry.name.is_none_or(|name| name.begin_lsn > plan.target);
            is_newer.then(|| reason.clone())
        }
        _ => None,
    });
    // Numbers are the store's, and grow with time whatever the history.
    let ends = archive.headers().filter(|header| header.to <= plan.target);
    let last = ends.map(|header| header.link.number).max();
    let newer = archive.entries.iter().filter(|entry| Some(entry.number) > last);
    let object = newer.filter_map(|entry| entry.header.as_ref().err()).next();
    snapshot.or_else(|| object.map(ToString::to_string))
}

/// All that cannot be read, newest first.
fn unreadable(catalog: &Catalog, archive: &Archive) -> Vec<String> {
    let objects = archive.entries.iter().rev().filter_map(|entry| entry.header.as_ref().err());
    let snapshots = catalog.entries().iter().rev().filter_map(|entry| match &entry.state {
        EntryState::Unreadable { reason } => Some(reason.clone()),
        _ => None,
    });
    objects.map(ToString::to_string).chain(snapshots).collect()
}
