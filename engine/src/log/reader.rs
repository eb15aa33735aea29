//! One log of an earlier start, read from a position to its end.
//!
//! [`LogReader`] walks the segments in order, validates every frame against its place (identity,
//! position, predecessor, checksum) and hands out whole records. Where no valid frame follows, it
//! looks at everything behind that place. If some whole frame there says that a position beyond the
//! place was durable, an acknowledged byte is gone: [`LogError::Damaged`]. Otherwise the place is
//! where a commit was under way when the process or the machine stopped: the log ends there, and
//! later commits that happen to be whole go too, since nobody was told about them ([`Cut`]).
//!
//! A log whose end is known is read up to there, and must reach it: one that a later start decided
//! about, or a running one up to what its writer calls durable.
//!
//! A sealed frame that is whole and does not open is damage wherever it stands: no crash leaves
//! one.
//!
//! Memory: one window of a segment, one frame that was opened, and one record.

use std::path::{Path, PathBuf};

use super::disk::LogDisk;
use super::error::Fault;
pub use super::error::LogError;
use super::frame::{BLOCK_BYTES, FrameFault, frame_bytes};
use super::record::{self, Record};
use super::segment::{SEGMENT_HEADER_BYTES, SegmentIndex, segment_name};
pub use super::segment_reader::Expected;
use super::segment_reader::SegmentReader;
use crate::types::{LogId, Position};

/// The segment files of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFiles {
    /// The log.
    pub log: LogId,
    /// Its segments, ascending.
    pub segments: Vec<SegmentIndex>,
}

/// An unfinished commit at the end of a log, which was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The log.
    pub log: LogId,
    /// The file that holds the place.
    pub path: PathBuf,
    /// Where in that file no valid frame follows, in bytes.
    pub offset_bytes: u64,
    /// The end of the last whole record: where the log ends now.
    pub end: Position,
    /// Bytes of a record that is not whole, before that place.
    pub partial_record_bytes: u64,
    /// Payload bytes of frames behind it that are whole all the same.
    pub later_frame_bytes: u64,
    /// What stands there instead of a frame.
    pub fault: FrameFault,
}

/// Reads one log. Opened once, run once.
pub struct LogReader<'d> {
    disk: &'d dyn LogDisk,
    dir: &'d Path,
    files: &'d LogFiles,
    expected: Expected<'d>,
    /// Which of `files.segments` is open.
    at: usize,
    segment: Option<SegmentReader<'d>>,
    offset_bytes: u64,
    /// The position of the next frame.
    position: Position,
    previous_crc: Option<u32>,
    decided_end: Option<Position>,
    /// The bytes of a record that is not whole yet.
    partial: Vec<u8>,
    /// The position of the next record; unknown until a frame says where one begins.
    next_record: Option<Position>,
    cut: Option<Cut>,
}

/// What a run over a log found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// The end of the last whole record.
    pub end: Position,
    /// What was cut off there.
    pub cut: Option<Cut>,
}

impl<'d> LogReader<'d> {
    /// Opens a log so that a run hands out at least every record from `from` on, which is a
    /// record's boundary. Earlier segments are not touched. `decided_end` is the end where it is
    /// known: no record that ends after it is handed out.
    ///
    /// # Errors
    /// [`LogError::Gap`] if the log does not reach back to `from`; those of the disk; a damaged
    /// segment header.
    pub fn open(
        disk: &'d dyn LogDisk,
        dir: &'d Path,
        files: &'d LogFiles,
        expected: Expected<'d>,
        from: Position,
        decided_end: Option<Position>,
    ) -> Result<Self, LogError> {
        let mut reader = Self {
            disk,
            dir,
            files,
            expected,
            at: 0,
            segment: None,
            offset_bytes: SEGMENT_HEADER_BYTES as u64,
            position: Position(0),
            previous_crc: Some(0),
            decided_end,
            partial: Vec::new(),
            next_record: Some(Position(0)),
            cut: None,
        };
        let Some((at, start)) = find_segment(disk, dir, files, &expected, from)? else {
            if files.segments.is_empty() && from == Position(0) {
                return Ok(reader);
            }
            return Err(reader.gap(from));
        };
        reader.at = at;
        reader.position = start;
        if files.segments[at] != SegmentIndex(0) {
            reader.previous_crc = None;
            reader.next_record = None;
        }
        Ok(reader)
    }

    fn gap(&self, needed: Position) -> LogError {
        let (log, end) = (self.files.log, self.position);
        let first = self.files.segments.first().copied().unwrap_or_default();
        let opened = SegmentReader::open(self.disk, self.dir, log, first, &self.expected);
        let oldest = opened.ok().and_then(|mut segment| start_of(&mut segment).ok().flatten());
        let oldest = oldest.unwrap_or(end);
        LogError::Gap { log, needed, oldest, end: end.max(oldest) }
    }

    /// Hands out every whole record with the position at which it begins, in log order, up to the
    /// log's end.
    ///
    /// # Errors
    /// [`LogError`], or what `each` returns.
    pub fn run<E: From<LogError>>(
        mut self,
        each: &mut dyn FnMut(Position, &Record<'_>) -> Result<(), E>,
    ) -> Result<Scanned, E> {
        while self.step(each)? {}
        let end = self.next_record.unwrap_or(self.position);
        let end = self.decided_end.map_or(end, |decided| decided.min(end));
        Ok(Scanned { end, cut: self.cut })
    }

    /// Reads one frame; false at the end.
    fn step<E: From<LogError>>(
        &mut self,
        each: &mut dyn FnMut(Position, &Record<'_>) -> Result<(), E>,
    ) -> Result<bool, E> {
        if self.decided_end.is_some_and(|end| self.position >= end) || !self.enter_segment()? {
            return Ok(false);
        }
        let (expected, previous) = (self.position, self.previous_crc);
        let offset_bytes = self.offset_bytes;
        let Some(segment) = self.segment.as_mut() else { return Ok(false) };
        let path = segment.path().to_owned();
        let frame = segment.frame_at(offset_bytes)?;
        let frame = frame.and_then(|frame| {
            frame.follows(Some(expected), previous)?;
            Ok(frame)
        });
        let frame = match frame {
            Ok(frame) => frame,
            Err(fault) => {
                self.end_at(fault)?;
                return Ok(false);
            }
        };
        let mut payload = frame.payload;
        let damaged = |fault| LogError::Damaged {
            path,
            offset_bytes,
            position: expected,
            durable: frame.end(),
            fault,
        };
        if self.next_record.is_none() {
            // The first segment that is kept may begin inside a record whose start is gone.
            let skip = frame.header.first_record.map_or(payload.len(), |at| at as usize);
            payload = &payload[skip..];
            self.next_record =
                frame.header.first_record.map(|at| Position(expected.0 + u64::from(at)));
        }
        self.position = frame.end();
        self.previous_crc = Some(frame.crc);
        self.offset_bytes += frame_bytes(frame.stored_bytes) as u64;
        if let Some(next) = self.next_record.as_mut() {
            let mut stream = Stream { next, end: self.decided_end, partial: &mut self.partial };
            stream.feed(payload, damaged, each)?;
        }
        Ok(true)
    }

    /// Makes sure that the segment of the next frame is open; false if the log ends before.
    fn enter_segment(&mut self) -> Result<bool, LogError> {
        let wanted = match &self.segment {
            Some(segment) if self.offset_bytes < segment.size_bytes() => return Ok(true),
            Some(segment) => {
                self.at += 1;
                segment.index().next()
            }
            None => self.files.segments.get(self.at).copied().unwrap_or_default(),
        };
        match self.files.segments.get(self.at) {
            Some(&index) if index == wanted => {}
            // No later segment, so no later frame: the log ends with what was read.
            None => {
                if self.decided_end.is_none_or(|end| end <= self.position) {
                    self.report_cut(wanted, FrameFault::Blank, 0);
                    return Ok(false);
                }
                return Err(self.missing(wanted));
            }
            Some(_) => return Err(self.missing(wanted)),
        }
        let opened =
            SegmentReader::open(self.disk, self.dir, self.files.log, wanted, &self.expected);
        self.segment = Some(opened.map_err(|error| self.placed(error))?);
        self.offset_bytes = SEGMENT_HEADER_BYTES as u64;
        Ok(true)
    }

    fn missing(&self, index: SegmentIndex) -> LogError {
        LogError::Damaged {
            path: self.dir.join(segment_name(self.files.log, index)),
            offset_bytes: 0,
            position: self.position,
            durable: self.decided_end.unwrap_or(self.position),
            fault: Fault::Missing,
        }
    }

    /// Says where in the log a damaged header was met.
    fn placed(&self, error: LogError) -> LogError {
        match error {
            LogError::Damaged { path, offset_bytes, fault, .. } => LogError::Damaged {
                path,
                offset_bytes,
                position: self.position,
                durable: self.decided_end.unwrap_or(self.position),
                fault,
            },
            other => other,
        }
    }

    /// No valid frame follows: tells an unfinished commit from damage.
    fn end_at(&mut self, fault: FrameFault) -> Result<(), LogError> {
        let Some(segment) = &self.segment else { return Ok(()) };
        let (path, index) = (segment.path().to_owned(), segment.index());
        let behind = self.look_behind()?;
        let durable = behind.durable.max(self.decided_end.unwrap_or_default());
        if durable > self.position {
            return Err(LogError::Damaged {
                path,
                offset_bytes: self.offset_bytes,
                position: self.position,
                durable,
                fault: Fault::Frame(fault),
            });
        }
        self.report_cut(index, fault, behind.payload_bytes);
        Ok(())
    }

    /// Searches every block from the current place on for whole frames of this log.
    fn look_behind(&mut self) -> Result<Behind, LogError> {
        let mut behind = Behind::default();
        let mut offset_bytes = self.offset_bytes;
        for at in self.at..self.files.segments.len() {
            if at > self.at {
                let (index, log) = (self.files.segments[at], self.files.log);
                let opened = SegmentReader::open(self.disk, self.dir, log, index, &self.expected);
                self.segment = Some(opened.map_err(|error| self.placed(error))?);
                offset_bytes = SEGMENT_HEADER_BYTES as u64;
            }
            let Some(segment) = self.segment.as_mut() else { continue };
            while offset_bytes < segment.size_bytes() {
                offset_bytes += match segment.frame_at(offset_bytes)? {
                    Ok(frame) => {
                        behind.durable = behind.durable.max(frame.header.durable);
                        behind.payload_bytes += frame.payload.len() as u64;
                        frame_bytes(frame.stored_bytes) as u64
                    }
                    Err(_) => BLOCK_BYTES as u64,
                };
            }
        }
        Ok(behind)
    }

    /// Notes what is cut off at the current place, if it is anything.
    fn report_cut(&mut self, index: SegmentIndex, fault: FrameFault, later_frame_bytes: u64) {
        // What was never written, or was written for an earlier use of the file, is no loss.
        let clean = matches!(fault, FrameFault::Blank | FrameFault::Magic | FrameFault::Identity);
        if clean && later_frame_bytes == 0 && self.partial.is_empty() {
            return;
        }
        self.cut = Some(Cut {
            log: self.files.log,
            path: self.dir.join(segment_name(self.files.log, index)),
            offset_bytes: self.offset_bytes,
            end: self.next_record.unwrap_or(self.position),
            partial_record_bytes: self.partial.len() as u64,
            later_frame_bytes,
            fault,
        });
    }
}

/// What stands behind a place without a valid frame.
#[derive(Default)]
struct Behind {
    /// The highest position that any frame there says was durable.
    durable: Position,
    payload_bytes: u64,
}

/// Cuts payloads into records.
struct Stream<'r> {
    next: &'r mut Position,
    end: Option<Position>,
    partial: &'r mut Vec<u8>,
}

impl Stream<'_> {
    fn feed<E: From<LogError>>(
        &mut self,
        payload: &[u8],
        damaged: impl FnOnce(Fault) -> LogError,
        each: &mut dyn FnMut(Position, &Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut input = payload;
        if !self.partial.is_empty() {
            // A record may take hundreds of frames: it is only looked at again once it is whole.
            self.partial.extend_from_slice(payload);
            if record::peek_len(self.partial).is_none_or(|len| len > self.partial.len() as u64) {
                return Ok(());
            }
            let joined = std::mem::take(self.partial);
            input = joined.as_slice();
            self.records(&mut input, damaged, each)?;
            *self.partial = input.to_vec();
            return Ok(());
        }
        self.records(&mut input, damaged, each)?;
        self.partial.extend_from_slice(input);
        Ok(())
    }

    /// Hands out the whole records at the front of `input`, up to the log's end.
    fn records<E: From<LogError>>(
        &mut self,
        input: &mut &[u8],
        damaged: impl FnOnce(Fault) -> LogError,
        each: &mut dyn FnMut(Position, &Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(len) = record::peek_len(input) {
            let after = Position(self.next.0 + len);
            if self.end.is_some_and(|end| after > end) {
                break;
            }
            match Record::decode(input) {
                Ok(Some(record)) => each(*self.next, &record)?,
                Ok(None) => break,
                Err(error) => return Err(damaged(Fault::Record(error)).into()),
            }
            *self.next = after;
        }
        Ok(())
    }
}

/// The newest segment that begins at or before `from`, and where it begins. Going from the newest
/// to the oldest, a segment without a valid first frame is passed over: if it lies before the
/// log's end, reading on from an older one runs into it and says what is wrong.
pub(super) fn find_segment(
    disk: &dyn LogDisk,
    dir: &Path,
    files: &LogFiles,
    expected: &Expected<'_>,
    from: Position,
) -> Result<Option<(usize, Position)>, LogError> {
    for (at, &index) in files.segments.iter().enumerate().rev() {
        if index == SegmentIndex(0) {
            return Ok(Some((at, Position(0))));
        }
        let mut segment = match SegmentReader::open(disk, dir, files.log, index, expected) {
            Ok(segment) => segment,
            Err(LogError::Damaged { .. }) => continue,
            Err(error) => return Err(error),
        };
        match start_of(&mut segment)? {
            Some(start) if start <= from => return Ok(Some((at, start))),
            _ => {}
        }
    }
    Ok(None)
}

/// Where a segment begins in the log, if its first frame is whole.
fn start_of(segment: &mut SegmentReader<'_>) -> Result<Option<Position>, LogError> {
    let frame = segment.frame_at(SEGMENT_HEADER_BYTES as u64)?;
    Ok(frame.ok().map(|frame| frame.header.position))
}
