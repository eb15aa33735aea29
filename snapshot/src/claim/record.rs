//! A claim as it is stored: one checked MessagePack map (FORMAT.md).

use bytes::Bytes;
use cutwater_engine::types::{Lsn, SnapshotId};
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};

use crate::chunk::mismatch;
use crate::error::{Damage, Flaw, SnapshotError};
use crate::ident::{DatabaseId, Fork, HistoryId, Identity, SnapshotUuid, WriterNonce};
use crate::msgpack::{self, CrcField};
use crate::paths::{self, SnapshotName};
use crate::store;

use super::history::{Settled, WrittenHistory};

/// The format of claims that this code writes, and the only one that it reads.
pub const CLAIM_VERSION: u32 = 1;

/// A claim as stored. Field order is the stored order; `crc32c` must stay last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RawClaim {
    format_version: u32,
    claim_id: SnapshotId,
    epoch: u64,
    writer_nonce: WriterNonce,
    database_id: DatabaseId,
    history_id: HistoryId,
    parent_history: Option<HistoryId>,
    fork_lsn: Option<Lsn>,
    snapshot: Option<SnapshotName>,
    snapshot_uuid: Option<SnapshotUuid>,
    removes: Vec<(SnapshotName, SnapshotUuid)>,
    removes_log: Vec<(u64, u64)>,
    reason: Option<String>,
    settled_below: SnapshotId,
    settled_histories: Vec<RawHistory>,
    created_at_us: u64,
    crc32c: CrcField,
}

/// A history: its id, its parent, where it forked off, and where its log ends.
pub(super) type RawHistory = (HistoryId, Option<HistoryId>, Option<Lsn>, Option<Lsn>);

/// A claim: who took an id, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The id.
    pub id: SnapshotId,
    /// Counted up by every takeover.
    pub epoch: u64,
    /// The writer.
    pub nonce: WriterNonce,
    /// The writer's database and history.
    pub identity: Identity,
    /// The snapshot for which the id was taken; `None` for a takeover or a removal.
    pub snapshot: Option<(SnapshotName, SnapshotUuid)>,
    /// What the id was taken to remove, if it was.
    pub removal: Option<Removal>,
    /// What the claims below are known to have come to.
    pub settled: Settled,
    /// When, in microseconds since the Unix epoch.
    pub created_at_us: u64,
}

impl Claim {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        msgpack::encode(&RawClaim {
            format_version: CLAIM_VERSION,
            claim_id: self.id,
            epoch: self.epoch,
            writer_nonce: self.nonce,
            database_id: self.identity.database,
            history_id: self.identity.history,
            parent_history: self.identity.fork.map(|fork| fork.parent),
            fork_lsn: self.identity.fork.map(|fork| fork.lsn),
            snapshot: self.snapshot.map(|(name, _)| name),
            snapshot_uuid: self.snapshot.map(|(_, uuid)| uuid),
            removes: self.removal.iter().flat_map(|removal| &removal.snapshots).copied().collect(),
            removes_log: self.removal.iter().flat_map(|removal| &removal.log).copied().collect(),
            reason: self.removal.as_ref().map(|removal| removal.reason.clone()),
            settled_below: self.settled.below,
            settled_histories: self.settled.encode_histories(),
            created_at_us: self.created_at_us,
            crc32c: CrcField::default(),
        })
    }

    /// Compares the claim with the manifest of the same id.
    ///
    /// # Errors
    /// [`Damage`] that names the claim, if it is another snapshot's.
    pub fn check_names(&self, name: SnapshotName, uuid: SnapshotUuid) -> Result<(), Damage> {
        if self.snapshot == Some((name, uuid)) {
            return Ok(());
        }
        let found = self.snapshot.map_or("none".into(), |(name, uuid)| format!("{name} {uuid}"));
        let flaw = mismatch("the snapshot", format!("{name} {uuid}"), found);
        Err(Damage::whole(paths::claim(self.id), flaw))
    }

    /// The claim stored at `id`.
    ///
    /// # Errors
    /// [`Damage`] that names the object.
    pub fn decode(id: SnapshotId, bytes: &[u8]) -> Result<Self, Damage> {
        let decoded = msgpack::decode::<RawClaim>(bytes).and_then(|raw| raw.validate(id));
        decoded.map_err(|flaw| Damage::whole(paths::claim(id), flaw))
    }
}

impl RawClaim {
    fn validate(self, id: SnapshotId) -> Result<Claim, Flaw> {
        if self.format_version != CLAIM_VERSION {
            return Err(Flaw::Version(self.format_version.into()));
        }
        if self.claim_id != id {
            return Err(mismatch("claim_id", id, self.claim_id));
        }
        let snapshot = match (self.snapshot, self.snapshot_uuid) {
            (None, None) => None,
            (Some(name), Some(uuid)) if name.id == id => Some((name, uuid)),
            (Some(name), Some(_)) => return Err(mismatch("the snapshot's id", id, name.id)),
            _ => return Err(mismatch("snapshot and snapshot_uuid", "together", "apart")),
        };
        let fork = match (self.parent_history, self.fork_lsn) {
            (None, None) => None,
            (Some(parent), Some(lsn)) => Some(Fork { parent, lsn }),
            _ => return Err(mismatch("parent_history and fork_lsn", "together", "apart")),
        };
        let (snapshots, log) = (self.removes, self.removes_log);
        if let Some(run) = log.iter().find(|(first, last)| !(*first..=*last).contains(last)) {
            return Err(mismatch("a run of log", "in order", format!("{run:?}")));
        }
        if let Some((first, last)) = log.iter().find(|(first, last)| last - first >= RUN_LIMIT) {
            return Err(Flaw::Bound(last - first));
        }
        let removal = match self.reason {
            Some(reason) => Some(Removal { snapshots, log, reason }),
            None if snapshots.is_empty() && log.is_empty() => None,
            None => return Err(mismatch("the reason of a removal", "there", "not there")),
        };
        if self.settled_below > id {
            return Err(mismatch("settled_below", format!("at or below {id}"), self.settled_below));
        }
        let histories = self.settled_histories.into_iter().map(decode_history);
        let histories = histories.collect::<Result<_, _>>()?;
        let settled = Settled { below: self.settled_below, histories };
        Ok(Claim {
            id,
            epoch: self.epoch,
            nonce: self.writer_nonce,
            identity: Identity { database: self.database_id, history: self.history_id, fork },
            snapshot,
            removal,
            settled,
            created_at_us: self.created_at_us,
        })
    }
}

fn decode_history(raw: RawHistory) -> Result<(HistoryId, WrittenHistory), Flaw> {
    let (history, parent, fork_lsn, log_end) = raw;
    let fork = match (parent, fork_lsn) {
        (None, None) => None,
        (Some(parent), Some(lsn)) => Some(Fork { parent, lsn }),
        _ => return Err(mismatch("a history's parent and fork", "together", "apart")),
    };
    Ok((history, WrittenHistory { fork, log_end }))
}

/// Objects of the log that one run of a removal may name: more is damage.
const RUN_LIMIT: u64 = 1 << 24;

/// What a writer has decided to remove. It claims an id for that first: so a takeover either comes
/// before, and the writer learns of it, or after, and then finishes what was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Snapshots, children before their parents.
    pub snapshots: Vec<(SnapshotName, SnapshotUuid)>,
    /// Objects of the log: first and last number of each run, both inclusive.
    pub log: Vec<(u64, u64)>,
    /// What the tombstones say.
    pub reason: String,
}

impl Removal {
    /// Whether there is nothing to be removed.
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.log.is_empty()
    }

    /// Adds an object of the log; numbers come in order.
    pub fn push_log(&mut self, number: u64) {
        match self.log.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => self.log.push((number, number)),
        }
    }

    /// This and what an earlier one may have left, which comes first.
    pub(super) fn behind(self, earlier: &Self) -> Self {
        let mut all = Self { log: Vec::new(), reason: self.reason, ..earlier.clone() };
        let is_new =
            |snapshot: &(SnapshotName, SnapshotUuid)| !earlier.snapshots.contains(snapshot);
        all.snapshots.extend(self.snapshots.into_iter().filter(is_new));
        let mut runs: Vec<(u64, u64)> = earlier.log.iter().chain(&self.log).copied().collect();
        runs.sort_unstable();
        for (first, last) in runs {
            match all.log.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => all.log.push((first, last)),
            }
        }
        all
    }
}

/// Reads the claim of an id.
///
/// # Errors
/// As for [`crate::claim::Claimant::take_over`].
pub async fn read_claim(
    store: &dyn ObjectStore,
    id: SnapshotId,
    database: DatabaseId,
) -> Result<Claim, SnapshotError> {
    let bytes = store::get(store, &paths::claim(id)).await?;
    checked(id, &bytes, database)
}

pub(super) fn checked(
    id: SnapshotId,
    bytes: &Bytes,
    database: DatabaseId,
) -> Result<Claim, SnapshotError> {
    let claim = Claim::decode(id, bytes)?;
    if claim.identity.database != database {
        let (expected, found) = (database, claim.identity.database);
        let object = paths::claim(id).to_string();
        return Err(SnapshotError::ForeignDatabase { object, expected, found });
    }
    Ok(claim)
}
