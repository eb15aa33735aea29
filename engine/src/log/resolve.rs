//! The rule of recovery for commands on several shards, without any I/O.
//!
//! The scan of the logs collects where each part of each transaction stands ([`Parts`]). Then
//! [`Parts::decide`] says which transactions do not count:
//!
//! - A strict one was applied nowhere before it was durable everywhere. So if a participant has its
//!   part neither in its log nor behind the image, nothing can have built on it, and it is dropped
//!   on all.
//! - A relaxed one (`--fsync everysec|never`) was applied at once, and later records may build on
//!   it. So an incomplete one cuts each participant's log from its place on. That can take parts of
//!   others away, so it is repeated until no relaxed one is incomplete.
//!
//! What a published snapshot holds is never cut off. A shard may log a transaction behind others
//! with greater LSNs, since its LSN is fixed before its part is logged: so the log's end at an
//! incomplete one can lie before a part that the snapshot has, and cutting there would leave that
//! transaction on the other shards only. A snapshot is published when every log is durable past its
//! end, so whatever lies at or below that LSN is whole; and it depends on nothing above it, since
//! LSNs respect causality. So a cut takes the records *from a position on and above an LSN*.

use std::collections::{BTreeMap, BTreeSet};

use super::record::Record;
use crate::types::{LogId, Lsn, Position, TxnId};

/// One transaction, as far as the logs hold it.
#[derive(Debug)]
struct Txn {
    relaxed: bool,
    participants: Box<[LogId]>,
    /// The logs that have its part, and where.
    parts: Vec<(LogId, Position)>,
}

/// Where the parts of transactions stand.
#[derive(Debug, Default)]
pub struct Parts {
    txns: BTreeMap<TxnId, Txn>,
}

/// How far logs and images reach.
pub struct Reach<'a> {
    /// Where each log ends.
    pub ends: &'a BTreeMap<LogId, Position>,
    /// Whether the image holds everything of a log up to an LSN: such a part is there.
    pub is_behind: &'a dyn Fn(LogId, Lsn) -> bool,
    /// A published snapshot has everything up to here, inclusive: none of it is cut off.
    pub published: Lsn,
}

/// What does not count.
#[derive(Debug, Default)]
pub struct Decision {
    /// Of these logs everything from the position on that is above [`Reach::published`].
    pub cuts: BTreeMap<LogId, Position>,
    /// These transactions.
    pub dropped: BTreeSet<TxnId>,
}

impl Parts {
    /// Notes a record of `log` that begins at `position`, if it is a part of a transaction.
    pub fn add(&mut self, log: LogId, position: Position, record: &Record<'_>) {
        let (Some(id), Some(part)) = (record.txn_id(), record.txn) else { return };
        let txn = self.txns.entry(id).or_insert_with(|| Txn {
            relaxed: record.relaxed,
            participants: part.participants().collect(),
            parts: Vec::new(),
        });
        txn.relaxed |= record.relaxed;
        txn.parts.push((log, position));
    }

    /// Decides which relaxed transactions cut which logs, and which strict ones are dropped.
    pub fn decide(&self, reach: &Reach<'_>) -> Decision {
        let mut decision = Decision::default();
        // One that a snapshot has and the logs have not is none that a crash leaves behind. It
        // cannot be cut off, but it is not left half there either.
        let cuts = |id: &TxnId, txn: &Txn| txn.relaxed && id.lsn > reach.published;
        loop {
            let mut is_stable = true;
            for (id, txn) in self.txns.iter().filter(|(id, txn)| cuts(id, txn)) {
                if reach.is_complete(&decision.cuts, id.lsn, txn) {
                    continue;
                }
                for &(log, position) in &txn.parts {
                    if !(reach.is_behind)(log, id.lsn)
                        && reach.has(&decision.cuts, log, position, id.lsn)
                    {
                        decision.cuts.insert(log, position);
                        is_stable = false;
                    }
                }
            }
            if is_stable {
                break;
            }
        }
        let is_dropped = |(id, txn): &(&TxnId, &Txn)| {
            let has = |&(log, position)| reach.has(&decision.cuts, log, position, id.lsn);
            !cuts(id, txn)
                && !reach.is_complete(&decision.cuts, id.lsn, txn)
                && txn.parts.iter().any(has)
        };
        decision.dropped = self.txns.iter().filter(is_dropped).map(|(&id, _)| id).collect();
        decision
    }
}

impl Reach<'_> {
    fn is_complete(&self, cuts: &BTreeMap<LogId, Position>, lsn: Lsn, txn: &Txn) -> bool {
        txn.participants.iter().all(|&participant| {
            let in_log = |&(log, position): &(LogId, Position)| {
                log == participant && self.has(cuts, log, position, lsn)
            };
            (self.is_behind)(participant, lsn) || txn.parts.iter().any(in_log)
        })
    }

    /// Whether a log has the record that begins at `position`.
    fn has(
        &self,
        cuts: &BTreeMap<LogId, Position>,
        log: LogId,
        position: Position,
        lsn: Lsn,
    ) -> bool {
        let is_before = |ends: &BTreeMap<LogId, Position>, otherwise| {
            ends.get(&log).map_or(otherwise, |&end| position < end)
        };
        is_before(self.ends, false) && (lsn <= self.published || is_before(cuts, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::record;
    use crate::types::{ShardId, StartId};

    fn log(shard: u16) -> LogId {
        LogId { start: StartId(1), shard: ShardId(shard) }
    }

    fn id(lsn: u64) -> TxnId {
        TxnId { lsn: Lsn(lsn), coordinator: log(0) }
    }

    /// Each row: LSN, relaxed, participants, and where parts stand (shard, position).
    type Row<'a> = (u64, bool, &'a [u16], &'a [(u16, u64)]);

    fn parts(rows: &[Row<'_>]) -> Parts {
        let mut parts = Parts::default();
        for &(lsn, relaxed, participants, at) in rows {
            let participants: Vec<_> = participants.iter().map(|&shard| log(shard)).collect();
            let mut bytes = Vec::new();
            record::begin_txn(&mut bytes, id(lsn), &participants, relaxed);
            record::patch_len(&mut bytes, 0);
            let record = Record::decode(&mut bytes.as_slice()).unwrap().unwrap();
            for &(shard, position) in at {
                parts.add(log(shard), Position(position), &record);
            }
        }
        parts
    }

    fn decide(rows: &[Row<'_>], ends: &[u64], watermarks: &[u64]) -> (Vec<u64>, Vec<u64>) {
        let numbered = ends.iter().enumerate();
        let ends: BTreeMap<_, _> =
            numbered.map(|(shard, &end)| (log(shard as u16), Position(end))).collect();
        let is_behind = |log: LogId, lsn: Lsn| {
            watermarks.get(usize::from(log.shard.0)).is_some_and(|&mark| lsn.0 <= mark)
        };
        let published = Lsn(watermarks.iter().copied().max().unwrap_or_default());
        let reach = Reach { ends: &ends, is_behind: &is_behind, published };
        let Decision { cuts, dropped } = parts(rows).decide(&reach);
        let ends = ends.iter().map(|(log, end)| cuts.get(log).unwrap_or(end).0).collect();
        (ends, dropped.into_iter().map(|id| id.lsn.0).collect())
    }

    #[test]
    fn a_strict_one_that_lacks_a_part_is_dropped_and_cuts_nothing() {
        let rows: &[Row<'_>] = &[
            (10, false, &[0, 1], &[(0, 5), (1, 7)]),
            (11, false, &[0, 1], &[(0, 20)]),
            (12, false, &[0, 1, 2], &[(0, 30), (1, 30)]),
        ];
        assert_eq!(decide(rows, &[100, 100, 0], &[]), (vec![100, 100, 0], vec![11, 12]));
    }

    #[test]
    fn a_part_behind_the_image_is_there() {
        let rows: &[Row<'_>] = &[(11, false, &[0, 1], &[(0, 20)])];
        assert_eq!(decide(rows, &[100, 0], &[5, 11]).1, []);
        assert_eq!(decide(rows, &[100, 0], &[5, 10]).1, [11]);
    }

    #[test]
    fn a_relaxed_one_cuts_every_participant_from_its_place_on() {
        let rows: &[Row<'_>] = &[(11, true, &[0, 1, 2], &[(0, 20), (1, 40)])];
        assert_eq!(decide(rows, &[100, 100, 100], &[]), (vec![20, 40, 100], vec![]));
    }

    #[test]
    fn cuts_are_repeated_until_none_is_incomplete() {
        // 13 lacks shard 2; cutting shard 1 at 40 takes 12's part at 50; cutting shard 0 at 10 for
        // it takes 11's part at 15, and so shard 2 is cut at 5.
        let rows: &[Row<'_>] = &[
            (11, true, &[0, 2], &[(0, 15), (2, 5)]),
            (12, true, &[0, 1], &[(0, 10), (1, 50)]),
            (13, true, &[1, 2], &[(1, 40)]),
        ];
        assert_eq!(decide(rows, &[100, 100, 100], &[]), (vec![10, 40, 5], vec![]));
    }

    #[test]
    fn a_strict_one_that_a_relaxed_cut_halves_is_dropped() {
        let rows: &[Row<'_>] = &[
            (11, true, &[0, 1], &[(0, 20)]),
            (12, false, &[0, 1], &[(0, 30), (1, 10)]),
            (13, false, &[0, 1], &[(0, 10), (1, 5)]),
        ];
        assert_eq!(decide(rows, &[100, 100], &[]), (vec![20, 100], vec![12]));
    }

    #[test]
    fn one_that_is_cut_off_everywhere_needs_no_mention() {
        let rows: &[Row<'_>] = &[(11, true, &[0, 1], &[(0, 20)]), (12, false, &[0, 1], &[(0, 30)])];
        assert_eq!(decide(rows, &[100, 100], &[]), (vec![20, 100], vec![]));
    }

    /// 20 came to shard 0 before 12 did, and shard 1 lost its part of 20. The snapshot at 15 has 12
    /// in both parts of the image, or in one and in the other's tail.
    #[test]
    fn a_cut_leaves_what_a_published_snapshot_has() {
        let rows: &[Row<'_>] = &[
            (12, true, &[0, 1], &[(0, 30), (1, 10)]),
            (20, true, &[0, 1], &[(0, 20)]),
            (21, true, &[0, 1], &[(0, 40), (1, 20)]),
        ];
        // Without a snapshot all go, the whole one too.
        assert_eq!(decide(rows, &[100, 100], &[]), (vec![20, 10], vec![]));
        // Behind both parts; behind one; behind the other.
        for watermarks in [[15, 15], [11, 15], [15, 11]] {
            assert_eq!(decide(rows, &[100, 100], &watermarks), (vec![20, 20], vec![]));
        }
    }

    /// A disk that lost what it had synced.
    #[test]
    fn a_published_one_that_lacks_a_part_is_dropped() {
        let rows: &[Row<'_>] = &[(12, true, &[0, 1], &[(0, 30)])];
        assert_eq!(decide(rows, &[100, 100], &[15, 11]), (vec![100, 100], vec![12]));
    }
}
