//! What claims tell when they are read from the oldest to the newest: which histories have written
//! to a store. And what a claim says of those below it, so that no later takeover has to read them
//! again, however many servers have been started on the store.

use std::collections::BTreeMap;

use cutwater_engine::types::{Lsn, SnapshotId};

use super::Claim;
use super::record::RawHistory;
use crate::ident::{Fork, HistoryId, Identity};

/// After another history has taken over, log of the one before has no LSN further ahead than this:
/// clocks of two machines do not differ by more.
const CLOCK_SLACK_US: u64 = 24 * 3600 * 1_000_000;

/// What claims tell of a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WrittenHistory {
    /// Where it forked off.
    pub fork: Option<Fork>,
    /// No log of it lies above: another one has taken over. `None` if it may go on.
    pub log_end: Option<Lsn>,
}

/// What is known of the claims below one. It was true when it was written down, and stays so:
/// claims never change, and manifests never go. So it may be older than it could be, never wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Every claim below this id either names no snapshot, or its snapshot has a manifest, and what
    /// it claimed to remove was removed by a takeover or is named by a later claim.
    pub below: SnapshotId,
    /// The histories that they name. The one that wrote last is the one without an end.
    pub histories: BTreeMap<HistoryId, WrittenHistory>,
}

impl Settled {
    /// The histories, and those of claims at or above [`Self::below`], oldest first.
    pub(super) fn and_then<'a>(
        &self,
        claims: impl IntoIterator<Item = &'a Claim>,
    ) -> BTreeMap<HistoryId, WrittenHistory> {
        let mut histories = self.histories.clone();
        for claim in claims {
            write(&mut histories, claim.identity, claim.created_at_us);
        }
        histories
    }

    /// The same once it is known of `claims`, those below `below` that have not been told of yet.
    pub(super) fn up_to<'a>(
        &self,
        below: SnapshotId,
        claims: impl IntoIterator<Item = &'a Claim>,
    ) -> Self {
        let claims = claims.into_iter().filter(|claim| claim.id < below);
        Self { below, histories: self.and_then(claims) }
    }

    /// The stored form of the histories.
    pub(super) fn encode_histories(&self) -> Vec<RawHistory> {
        let raw = |(history, written): (&HistoryId, &WrittenHistory)| {
            let fork = written.fork;
            (*history, fork.map(|fork| fork.parent), fork.map(|fork| fork.lsn), written.log_end)
        };
        self.histories.iter().map(raw).collect()
    }
}

/// A claim of a history, newer than all that are known.
pub(super) fn write(
    histories: &mut BTreeMap<HistoryId, WrittenHistory>,
    Identity { history, fork, .. }: Identity,
    since_us: u64,
) {
    let end_us = since_us.saturating_add(CLOCK_SLACK_US).min(u64::MAX >> Lsn::COUNTER_BITS);
    for (other, before) in histories.iter_mut() {
        if *other != history && before.log_end.is_none() {
            before.log_end = Some(Lsn::from_micros(end_us));
        }
    }
    histories.insert(history, WrittenHistory { fork, log_end: None });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::{DatabaseId, WriterNonce};

    fn claim(id: u64, history: u8, at_us: u64) -> Claim {
        Claim {
            id: SnapshotId(id),
            epoch: 1,
            nonce: WriterNonce([1; 16]),
            identity: Identity {
                database: DatabaseId([1; 16]),
                history: HistoryId([history; 16]),
                fork: (history > 1).then_some(Fork { parent: HistoryId([1; 16]), lsn: Lsn(5) }),
            },
            snapshot: None,
            removal: None,
            settled: Settled::default(),
            created_at_us: at_us,
        }
    }

    #[test]
    fn histories_told_in_parts_are_those_told_at_once() {
        let claims: Vec<Claim> = [(1, 1), (2, 2), (3, 1), (4, 1), (5, 3), (6, 3)]
            .map(|(id, history)| claim(id, history, 1_000 * id))
            .into();
        let whole = Settled::default().and_then(&claims);
        for below in 1..=7 {
            let settled = Settled::default().up_to(SnapshotId(below), &claims);
            let rest = claims.iter().filter(|claim| claim.id.0 >= below);
            assert_eq!(settled.and_then(rest), whole, "{below}");
        }
        let end = |at_us: u64| Some(Lsn::from_micros(at_us + CLOCK_SLACK_US));
        let ends: Vec<_> = whole.values().map(|written| written.log_end).collect();
        assert_eq!(ends, [end(5_000), end(3_000), None]);
    }
}
