//! The records of an archive object: a section for each log that has any, by start and shard; in a
//! section the records in the order of the log. That order is what a replay keeps: LSNs of one log
//! need not rise. Pure. FORMAT.md draws it byte by byte.

use cutwater_engine::types::{LogId, Lsn, ShardId, StartId};

use crate::chunk::{mismatch, push_tail_record, take_record};
use crate::error::Flaw;

/// Bytes before a section's records: its log and its length.
const SECTION_HEADER_BYTES: usize = 16;

/// Collects records.
#[derive(Clone, Debug, Default)]
pub struct BodyBuilder {
    bytes: Vec<u8>,
    /// The open section and where it begins.
    open: Option<(LogId, usize)>,
    sections: u32,
    records: u64,
}

/// Records, encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// The sections.
    pub bytes: Vec<u8>,
    /// How many there are.
    pub sections: u32,
    /// Records of all of them.
    pub records: u64,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRecord<'a> {
    /// The log that it was in.
    pub log: LogId,
    /// Its LSN.
    pub lsn: Lsn,
    /// Its encoded ops.
    pub ops: &'a [u8],
}

impl BodyBuilder {
    /// Adds a record. Logs come one after the other, by start and shard.
    ///
    /// # Panics
    /// If the log comes before one that was added.
    pub fn push(&mut self, record: WalRecord<'_>) {
        let WalRecord { log, lsn, ops } = record;
        match self.open {
            Some((open, _)) if open == log => {}
            before => {
                assert!(before.is_none_or(|(open, _)| open < log), "logs come in order");
                self.close_section();
                self.open = Some((log, self.bytes.len()));
                self.sections += 1;
                self.bytes.extend_from_slice(&log.start.0.to_le_bytes());
                self.bytes.extend_from_slice(&u32::from(log.shard.0).to_le_bytes());
                self.bytes.extend_from_slice(&0u64.to_le_bytes());
            }
        }
        push_tail_record(&mut self.bytes, lsn, ops);
        self.records += 1;
    }

    /// Bytes so far.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The body.
    pub fn finish(mut self) -> Body {
        self.close_section();
        Body { bytes: self.bytes, sections: self.sections, records: self.records }
    }

    fn close_section(&mut self) {
        let Some((_, at)) = self.open else { return };
        let length = (self.bytes.len() - at - SECTION_HEADER_BYTES) as u64;
        self.bytes[at + 8..at + SECTION_HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    }
}

impl Body {
    /// Hands out the records, section by section.
    ///
    /// # Errors
    /// What `each` returns, and [`Flaw`] for bytes that are no body; counts and the order of the
    /// sections are compared, too.
    pub fn for_each<E: From<Flaw>>(
        &self,
        each: &mut dyn FnMut(WalRecord<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut rest, mut last) = (self.bytes.as_slice(), None);
        let (mut sections, mut records) = (0u32, 0u64);
        while !rest.is_empty() {
            let (log, mut section) = take_section(&mut rest)?;
            if last.is_some_and(|last| last >= log) {
                return Err(mismatch("the order of the logs", "rising", log).into());
            }
            last = Some(log);
            sections = sections.saturating_add(1);
            while !section.is_empty() {
                let record = take_record(&mut section)?;
                records += 1;
                each(WalRecord { log, lsn: record.lsn, ops: record.ops })?;
            }
        }
        if sections != self.sections {
            return Err(mismatch("sections", self.sections, sections).into());
        }
        if records != self.records {
            return Err(mismatch("records", self.records, records).into());
        }
        Ok(())
    }
}

fn take_section<'a>(input: &mut &'a [u8]) -> Result<(LogId, &'a [u8]), Flaw> {
    let (header, rest) =
        input.split_first_chunk::<SECTION_HEADER_BYTES>().ok_or(Flaw::Truncated)?;
    let word = |at: usize| header[at..].first_chunk::<4>().map_or(0, |b| u32::from_le_bytes(*b));
    let length = header[8..].first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
    let shard = u16::try_from(word(4)).map_err(|_| Flaw::Bound(word(4).into()))?;
    let log = LogId { start: StartId(word(0)), shard: ShardId(shard) };
    let length = usize::try_from(length).map_err(|_| Flaw::Bound(length))?;
    let (section, rest) = rest.split_at_checked(length).ok_or(Flaw::Truncated)?;
    *input = rest;
    Ok((log, section))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(start: u32, shard: u16) -> LogId {
        LogId { start: StartId(start), shard: ShardId(shard) }
    }

    fn sample() -> Vec<(LogId, Lsn, Vec<u8>)> {
        let rows = [(1, 0, 5), (1, 0, 4), (1, 3, 9), (2, 0, 20), (2, 1, 21)];
        rows.iter()
            .map(|&(s, c, lsn)| (log(s, c), Lsn(lsn), vec![lsn as u8; lsn as usize]))
            .collect()
    }

    fn built() -> Body {
        let mut builder = BodyBuilder::default();
        for (log, lsn, ops) in sample() {
            builder.push(WalRecord { log, lsn, ops: &ops });
        }
        builder.finish()
    }

    fn read(body: &Body) -> Result<Vec<(LogId, Lsn, Vec<u8>)>, Flaw> {
        let mut found = Vec::new();
        body.for_each::<Flaw>(&mut |record| {
            found.push((record.log, record.lsn, record.ops.to_vec()));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn records_come_back_in_order() {
        let body = built();
        assert_eq!((body.sections, body.records), (4, 5));
        assert_eq!(read(&body), Ok(sample()));
        assert_eq!(read(&BodyBuilder::default().finish()), Ok(Vec::new()));
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let body = built();
        for length in 0..body.bytes.len() {
            let cut = Body { bytes: body.bytes[..length].to_vec(), ..body.clone() };
            assert!(read(&cut).is_err(), "{length}");
        }
        for (sections, records) in [(3, 5), (4, 6)] {
            assert!(read(&Body { sections, records, ..body.clone() }).is_err());
        }
    }

    #[test]
    fn sections_out_of_order_are_refused() {
        let one = |log: LogId| {
            let mut builder = BodyBuilder::default();
            builder.push(WalRecord { log, lsn: Lsn(1), ops: b"x" });
            builder.finish().bytes
        };
        for pair in [[log(1, 1), log(1, 0)], [log(1, 1), log(1, 1)]] {
            let bytes = pair.map(one).concat();
            assert!(read(&Body { bytes, sections: 2, records: 2 }).is_err());
        }
    }
}
