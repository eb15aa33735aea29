//! Chains of snapshots: a base, and deltas, each on top of the one before.
//!
//! A delta names its parent by id and by the digest of its manifest, so that another snapshot of
//! that id is not taken for it. A chain can be restored only whole: whoever deletes, protects or
//! plans goes by chains. What does not lead to a base is an error, never a shorter chain.

use cutwater_engine::types::SnapshotId;

use crate::catalog::{CHECKPOINTS, Catalog};
use crate::error::{Damage, Flaw, SnapshotError};
use crate::manifest::Manifest;

/// The most deltas on top of a base, inclusive: then a base is due. Each has to be read at a start.
pub const CHAIN_LIMIT: usize = 32;

impl Catalog {
    /// The base of a published snapshot and the deltas up to it, in the order in which they are
    /// restored; a base alone is its own chain.
    ///
    /// # Errors
    /// [`SnapshotError::NoSnapshot`] and [`SnapshotError::NotPublished`] for the snapshot itself,
    /// [`SnapshotError::Chain`] if one below it is not there or not readable, and
    /// [`SnapshotError::Damaged`] if one of them is not the parent that was meant.
    pub fn chain_of(&self, id: SnapshotId) -> Result<Vec<&Manifest>, SnapshotError> {
        let entry = self.get(id).ok_or(SnapshotError::NoSnapshot { id })?;
        let state = entry.state_name();
        let mut chain = vec![entry.manifest().ok_or(SnapshotError::NotPublished { id, state })?];
        while let Some((parent_id, _)) = chain.last().and_then(|child| child.parent()) {
            let broken = |reason: String| SnapshotError::Chain { id, reason };
            let Some(entry) = self.get(parent_id) else {
                return Err(broken(format!("there is no snapshot {parent_id}, which it needs")));
            };
            let Some(parent) = entry.manifest() else {
                let state = entry.state_name();
                return Err(broken(format!("snapshot {parent_id}, which it needs, is {state}")));
            };
            if let Some(child) = chain.last() {
                check_parent(child, parent)?;
            }
            // A parent ends where its child begins, at the latest: so no chain is a circle. Between
            // two at one LSN the number tells.
            chain.push(parent);
            if chain.len() > self.entries().len() {
                return Err(broken("its parents go round in a circle".to_owned()));
            }
        }
        chain.reverse();
        Ok(chain)
    }

    /// The published deltas on top of a snapshot.
    pub fn children_of(&self, id: SnapshotId) -> impl Iterator<Item = &Manifest> {
        self.published().filter(move |child| child.parent().is_some_and(|(parent, _)| parent == id))
    }

    /// That nothing is on top of a snapshot, so that it may be deleted.
    ///
    /// # Errors
    /// [`SnapshotError::HasChildren`].
    pub fn check_childless(&self, id: SnapshotId) -> Result<(), SnapshotError> {
        match self.children_of(id).next() {
            None => Ok(()),
            Some(child) => Err(SnapshotError::HasChildren { id, child: child.id() }),
        }
    }

    /// The newest ways to the newest state that have no snapshot in common, newest first, at most
    /// two: chains whose last snapshot is `wanted`, each with a base of its own.
    pub fn ways_back(&self, wanted: impl Fn(&Manifest) -> bool) -> Vec<Vec<&Manifest>> {
        let mut ways: Vec<Vec<&Manifest>> = Vec::new();
        for tip in self.published().rev().filter(|tip| wanted(tip)) {
            let Ok(chain) = self.chain_of(tip.id()) else { continue };
            if ways.iter().all(|way| way[0].id() != chain[0].id()) {
                ways.push(chain);
            }
            if ways.len() == CHECKPOINTS {
                break;
            }
        }
        ways
    }
}

/// That a snapshot is the parent that a delta names.
///
/// # Errors
/// [`Damage`] that names the delta.
pub(crate) fn check_parent(child: &Manifest, parent: &Manifest) -> Result<(), Damage> {
    let Some((_, digest)) = child.parent() else { return Ok(()) };
    let found = parent.raw().digest();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if found != digest {
        let (field, expected, found) = ("the digest of its parent", hex(digest), hex(&found));
        return Err(Damage::whole(
            child.name().manifest(),
            Flaw::Mismatch { field, expected, found },
        ));
    }
    if parent.meta().end_lsn > child.meta().end_lsn {
        let (expected, found) =
            (child.meta().end_lsn.to_string(), parent.meta().end_lsn.to_string());
        let field = "the end_lsn of its parent";
        return Err(Damage::whole(
            child.name().manifest(),
            Flaw::Mismatch { field, expected, found },
        ));
    }
    Ok(())
}
