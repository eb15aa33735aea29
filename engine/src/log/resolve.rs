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

    /// Decides: cuts `ends` where relaxed transactions are incomplete, and returns the strict ones
    /// that are dropped. `is_behind` says whether the image holds everything of a log up to an LSN;
    /// a part that it holds is there, and is never cut off.
    pub fn decide(
        &self,
        ends: &mut BTreeMap<LogId, Position>,
        is_behind: &dyn Fn(LogId, Lsn) -> bool,
    ) -> BTreeSet<TxnId> {
        let relaxed = || self.txns.iter().filter(|(_, txn)| txn.relaxed);
        loop {
            let mut is_stable = true;
            for (id, txn) in relaxed() {
                if txn.is_complete(id.lsn, ends, is_behind) {
                    continue;
                }
                for &(log, position) in &txn.parts {
                    if !is_behind(log, id.lsn) && has_part(ends, log, position) {
                        ends.insert(log, position);
                        is_stable = false;
                    }
                }
            }
            if is_stable {
                break;
            }
        }
        let is_dropped = |(id, txn): &(&TxnId, &Txn)| {
            !txn.relaxed
                && !txn.is_complete(id.lsn, ends, is_behind)
                && txn.parts.iter().any(|&(log, position)| has_part(ends, log, position))
        };
        self.txns.iter().filter(is_dropped).map(|(&id, _)| id).collect()
    }
}

impl Txn {
    fn is_complete(
        &self,
        lsn: Lsn,
        ends: &BTreeMap<LogId, Position>,
        is_behind: &dyn Fn(LogId, Lsn) -> bool,
    ) -> bool {
        self.participants.iter().all(|&participant| {
            let in_log = |&(log, position): &(LogId, Position)| {
                log == participant && has_part(ends, log, position)
            };
            is_behind(participant, lsn) || self.parts.iter().any(in_log)
        })
    }
}

/// Whether a record that begins at `position` is before its log's end.
fn has_part(ends: &BTreeMap<LogId, Position>, log: LogId, position: Position) -> bool {
    ends.get(&log).is_some_and(|&end| position < end)
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
        let mut ends: BTreeMap<_, _> =
            numbered.map(|(shard, &end)| (log(shard as u16), Position(end))).collect();
        let is_behind = |log: LogId, lsn: Lsn| {
            watermarks.get(usize::from(log.shard.0)).is_some_and(|&mark| lsn.0 <= mark)
        };
        let dropped = parts(rows).decide(&mut ends, &is_behind);
        let ends = ends.into_values().map(|end| end.0).collect();
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
}
