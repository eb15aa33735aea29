//! The log as the shard's core sees it: append a record, know what is durable. Or no log at all
//! (`--no-log`), where everything is durable at once and positions stand still.

use crate::log::LogWriter;
use crate::types::{Fsync, LogId, Lsn, Position, TxnId};

/// The part of a transaction that a record is.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Which transaction.
    pub id: TxnId,
    /// The logs of all participants.
    pub participants: &'a [LogId],
    /// Whether replies do not wait for it.
    pub relaxed: bool,
}

/// A log, or none.
#[derive(Debug)]
pub struct Journal {
    writer: Option<LogWriter>,
    fsync: Fsync,
    out_of_space: bool,
    /// See [`Journal::without_gate`].
    without_gate: bool,
}

impl Journal {
    /// A journal that writes a log.
    pub fn new(writer: LogWriter, fsync: Fsync) -> Self {
        Self { writer: Some(writer), fsync, out_of_space: false, without_gate: false }
    }

    /// A journal that calls everything durable as soon as it is appended: so that the simulation
    /// can show that it would notice. It loses data, and is for nothing else.
    #[doc(hidden)]
    pub fn without_gate(writer: LogWriter, fsync: Fsync) -> Self {
        Self { without_gate: true, ..Self::new(writer, fsync) }
    }

    /// No log: a restart loses everything since the last snapshot.
    pub fn none() -> Self {
        Self { writer: None, fsync: Fsync::Never, out_of_space: false, without_gate: false }
    }

    /// Whether there is a log.
    pub fn is_on(&self) -> bool {
        self.writer.is_some()
    }

    /// The writer, for the shell.
    pub fn writer(&mut self) -> Option<&mut LogWriter> {
        self.writer.as_mut()
    }

    /// When replies may leave.
    pub fn fsync(&self) -> Fsync {
        self.fsync
    }

    /// Appends a record of ops and answers the position after it.
    pub fn append(&mut self, lsn: Lsn, part: Option<Part<'_>>, ops: &[u8]) -> Position {
        let Some(writer) = &mut self.writer else { return Position(0) };
        let mut record = match part {
            None => writer.record(lsn),
            Some(Part { id, participants, relaxed }) => {
                writer.txn_record(id, participants, relaxed)
            }
        };
        record.encoded_ops(ops);
        record.finish().unwrap_or_else(|| writer.tail())
    }

    /// The end of everything appended.
    pub fn tail(&self) -> Position {
        self.writer.as_ref().map_or(Position(0), LogWriter::tail)
    }

    /// Everything before this survives a crash.
    pub fn durable(&self) -> Position {
        if self.without_gate {
            return Position(u64::MAX);
        }
        self.writer.as_ref().map_or(Position(u64::MAX), LogWriter::durable)
    }

    /// Bytes of segment files that are kept.
    pub fn retained_bytes(&self) -> u64 {
        self.writer.as_ref().map_or(0, LogWriter::retained_bytes)
    }

    /// Makes everything so far durable; answers the position to wait for.
    pub fn request_sync(&mut self) -> Position {
        self.writer.as_mut().map_or(Position(0), LogWriter::request_sync)
    }

    /// Whether the log has no room, so that writes are refused until it has.
    pub fn is_out_of_space(&self) -> bool {
        self.out_of_space
    }

    /// Whether it will soon be known if there is room for more: a write that is executed now might
    /// get no reply for as long as there is none, where refusing it is what helps.
    pub fn awaits_segment(&self) -> bool {
        !self.out_of_space && self.writer.as_ref().is_some_and(LogWriter::is_short_of_room)
    }

    /// The disk had no room for the next segment, or has it again.
    pub fn set_out_of_space(&mut self, out_of_space: bool) {
        self.out_of_space = out_of_space;
    }

    /// Whether so many bytes wait to be written that no more input should be taken.
    pub fn is_full(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| !writer.has_room(1))
    }
}
