//! Requests: bytes from a socket become the arguments of one command after the other. Pure,
//! incremental, and without an allocation a request.
//!
//! The caller keeps the bytes. It hands over a buffer that begins at the first byte of the current
//! request, appends to it when the request is [`Progress::Incomplete`], and drops `consumed` bytes
//! from its front when the request was run. The [`Decoder`] remembers how far it came, so no byte
//! is looked at twice: neither for a request that comes byte by byte nor for one of 512 MiB.
//!
//! Limits and error texts are those of Redis 7.2. Like Redis, the decoder does not look at the byte
//! after a CR, nor at the two that end an argument. What it answers depends only on the bytes,
//! never on the pieces in which they came: a line that is too long is an error even when its end
//! is already there. After an error the connection is beyond repair and must be closed.

use super::args::{ArgRange, Args};
use super::number::parse_i64;
use super::split::{Unbalanced, split};

/// The most arguments of a request.
pub const MAX_ARGS: usize = 1024 * 1024;
/// The largest argument, in bytes (`proto-max-bulk-len`).
pub const MAX_BULK_BYTES: usize = 512 * 1024 * 1024;
/// The largest request, in bytes with its framing (Redis: `client-query-buffer-limit`).
pub const MAX_REQUEST_BYTES: usize = 1024 * 1024 * 1024;
/// The longest line, in bytes without its end: an inline command, or a count.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// Argument ranges that a decoder keeps room for between requests.
const KEPT_RANGES: usize = 1024;
/// Bytes of inline words that a decoder keeps room for between requests.
const KEPT_INLINE_BYTES: usize = 1024;

const _: () = assert!(MAX_REQUEST_BYTES < u32::MAX as usize, "argument ranges are 32 bits wide");

/// What a client may send. Given with each call, so AUTH takes effect within a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most arguments of a request; at most [`MAX_ARGS`].
    pub args: usize,
    /// The largest argument, in bytes; at most [`MAX_BULK_BYTES`].
    pub bulk_bytes: usize,
    /// Whether exceeding them is answered as to a client that has not authenticated.
    pub unauthenticated: bool,
}

impl Limits {
    /// The limits of a client that may run commands.
    pub const FULL: Self =
        Self { args: MAX_ARGS, bulk_bytes: MAX_BULK_BYTES, unauthenticated: false };
    /// The limits of a client that must authenticate first: enough for AUTH and HELLO.
    pub const UNAUTHENTICATED: Self =
        Self { args: 10, bulk_bytes: 16 * 1024, unauthenticated: true };
}

/// How far a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A request is complete; [`Decoder::args`] has its arguments, at least one.
    Request {
        /// Bytes to drop from the front of the buffer once the arguments are used.
        consumed: usize,
    },
    /// A blank line or an empty array: nothing to run and nothing to answer.
    Empty {
        /// Bytes to drop from the front of the buffer now.
        consumed: usize,
    },
    /// More bytes must come.
    Incomplete {
        /// At least so many more, at least 1. A client's claim: receive towards it, but do not
        /// reserve memory for all of it.
        needed_bytes_hint: usize,
    },
}

/// Why bytes are no request. The connection is answered with `ERR` and this text, and closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The number of arguments is not a number, or too large.
    #[error("Protocol error: invalid multibulk length")]
    MultibulkLength,
    /// Too many arguments for a client that has not authenticated.
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// An argument does not begin with its length.
    #[error("Protocol error: expected '$', got '{}'", char::from(*.0))]
    ExpectedBulk(u8),
    /// The length of an argument is not a number, negative, or too large.
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    /// Too large an argument for a client that has not authenticated.
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// The line of an inline command has no end in sight.
    #[error("Protocol error: too big inline request")]
    InlineTooBig,
    /// The line with the number of arguments has no end in sight.
    #[error("Protocol error: too big mbulk count string")]
    CountTooBig,
    /// The line with the length of an argument has no end in sight.
    #[error("Protocol error: too big bulk count string")]
    LengthTooBig,
    /// The quotes of an inline command do not match.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// All arguments together exceed [`MAX_REQUEST_BYTES`].
    #[error("Protocol error: too big request")]
    RequestTooBig,
}

/// What a request is made of, and which part of it comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No byte was seen, or the last request is complete.
    Start,
    /// The line of an inline command.
    Inline,
    /// The line with the number of arguments.
    Count,
    /// The line with the length of an argument.
    Length,
    /// An argument of this many bytes, and two more.
    Bulk(usize),
}

/// The state of one connection's input between two calls.
#[derive(Debug)]
pub struct Decoder {
    stage: Stage,
    /// The first byte of the part that comes next.
    position: usize,
    /// Up to where an unfinished line was searched for its end.
    searched: usize,
    /// Arguments still to come.
    remaining: usize,
    ranges: Vec<ArgRange>,
    /// The words of an inline command without quotes and escapes.
    inline: Vec<u8>,
    /// Whether `ranges` are in `inline`, not in the caller's buffer.
    is_inline: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder for a new connection.
    pub const fn new() -> Self {
        Self {
            stage: Stage::Start,
            position: 0,
            searched: 0,
            remaining: 0,
            ranges: Vec::new(),
            inline: Vec::new(),
            is_inline: false,
        }
    }

    /// Goes on with the request at the front of `buffer`. After [`Progress::Incomplete`] the next
    /// buffer must begin with the same bytes; after the others, with those behind `consumed`.
    ///
    /// # Errors
    /// [`ProtocolError`]: answer it and close the connection.
    pub fn decode(&mut self, buffer: &[u8], limits: &Limits) -> Result<Progress, ProtocolError> {
        if self.stage == Stage::Start {
            let Some(first) = buffer.first() else {
                return Ok(Progress::Incomplete { needed_bytes_hint: 1 });
            };
            self.clear();
            self.is_inline = *first != b'*';
            self.stage = if self.is_inline { Stage::Inline } else { Stage::Count };
        }
        if self.is_inline { self.inline(buffer) } else { self.multibulk(buffer, limits) }
    }

    /// The arguments of the request that the last call completed, in the buffer it was given (or
    /// one that begins with the same bytes).
    pub fn args<'a>(&'a self, buffer: &'a [u8]) -> Args<'a> {
        debug_assert_eq!(self.stage, Stage::Start, "the request is complete");
        Args::new(if self.is_inline { &self.inline } else { buffer }, &self.ranges)
    }

    /// Forgets the last request, and what memory an unusual one took.
    fn clear(&mut self) {
        self.position = 0;
        self.searched = 0;
        self.ranges.clear();
        self.inline.clear();
        if self.ranges.capacity() > KEPT_RANGES {
            self.ranges.shrink_to(KEPT_RANGES);
        }
        if self.inline.capacity() > KEPT_INLINE_BYTES {
            self.inline.shrink_to(KEPT_INLINE_BYTES);
        }
    }

    fn multibulk(&mut self, buffer: &[u8], limits: &Limits) -> Result<Progress, ProtocolError> {
        if self.stage == Stage::Count {
            let Some(line) = self.number_line(buffer, ProtocolError::CountTooBig)? else {
                return Ok(Progress::Incomplete { needed_bytes_hint: 1 });
            };
            self.remaining = args_to_come(line.number, limits)?;
            self.position = line.end;
            if self.remaining == 0 {
                self.stage = Stage::Start;
                return Ok(Progress::Empty { consumed: self.position });
            }
            self.stage = Stage::Length;
        }
        loop {
            let length = match self.stage {
                Stage::Bulk(length) => length,
                _ => match self.length_line(buffer, limits)? {
                    Some(length) => length,
                    None => return Ok(Progress::Incomplete { needed_bytes_hint: 1 }),
                },
            };
            let end = self.position + length;
            if buffer.len() < end + 2 {
                self.stage = Stage::Bulk(length);
                return Ok(Progress::Incomplete { needed_bytes_hint: end + 2 - buffer.len() });
            }
            self.ranges.push(ArgRange { start: self.position as u32, end: end as u32 });
            self.position = end + 2;
            self.remaining -= 1;
            if self.remaining == 0 {
                self.stage = Stage::Start;
                return Ok(Progress::Request { consumed: self.position });
            }
            self.stage = Stage::Length;
        }
    }

    /// Reads the length of the next argument and moves to its first byte; `None` if the line is
    /// not whole.
    fn length_line(
        &mut self,
        buffer: &[u8],
        limits: &Limits,
    ) -> Result<Option<usize>, ProtocolError> {
        match buffer.get(self.position) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => return Err(ProtocolError::ExpectedBulk(*other)),
        }
        let Some(line) = self.number_line(buffer, ProtocolError::LengthTooBig)? else {
            return Ok(None);
        };
        let length = bulk_length(line.number, limits)?;
        if line.end + length + 2 > MAX_REQUEST_BYTES {
            return Err(ProtocolError::RequestTooBig);
        }
        self.position = line.end;
        Ok(Some(length))
    }

    /// Reads the line at `position`: a type byte, a number, CR and one more byte. `None` if it is
    /// not whole.
    #[inline]
    fn number_line(
        &mut self,
        buffer: &[u8],
        too_big: ProtocolError,
    ) -> Result<Option<NumberLine>, ProtocolError> {
        let digits = self.position + 1;
        match short_number(buffer.get(digits..).unwrap_or_default()) {
            Some((number, taken)) => {
                Ok(Some(NumberLine { number: Some(number), end: digits + taken }))
            }
            None => self.unusual_number_line(buffer, too_big),
        }
    }

    /// As [`Decoder::number_line`], for a line that is not whole, not canonical or very long.
    #[cold]
    fn unusual_number_line(
        &mut self,
        buffer: &[u8],
        too_big: ProtocolError,
    ) -> Result<Option<NumberLine>, ProtocolError> {
        let Some(cr) = self.line_end(buffer, b'\r', too_big)? else { return Ok(None) };
        if buffer.len() < cr + 2 {
            return Ok(None);
        }
        let number = parse_i64(buffer.get(self.position + 1..cr).unwrap_or_default());
        Ok(Some(NumberLine { number, end: cr + 2 }))
    }

    /// Where the line at `position` ends, searching each byte once.
    fn line_end(
        &mut self,
        buffer: &[u8],
        terminator: u8,
        too_big: ProtocolError,
    ) -> Result<Option<usize>, ProtocolError> {
        let from = self.searched.max(self.position);
        // One byte more than a line may have, so that the terminator of the longest is found.
        let to = buffer.len().min(self.position + MAX_LINE_BYTES + 1);
        let unseen = buffer.get(from..to).unwrap_or_default();
        match unseen.iter().position(|byte| *byte == terminator) {
            Some(offset) => {
                self.searched = from + offset;
                Ok(Some(from + offset))
            }
            None if to - self.position > MAX_LINE_BYTES => Err(too_big),
            None => {
                self.searched = to;
                Ok(None)
            }
        }
    }

    fn inline(&mut self, buffer: &[u8]) -> Result<Progress, ProtocolError> {
        let Some(newline) = self.line_end(buffer, b'\n', ProtocolError::InlineTooBig)? else {
            return Ok(Progress::Incomplete { needed_bytes_hint: 1 });
        };
        let line = &buffer[..newline];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        split(line, &mut self.inline, &mut self.ranges)
            .map_err(|Unbalanced| ProtocolError::UnbalancedQuotes)?;
        self.stage = Stage::Start;
        let consumed = newline + 1;
        Ok(if self.ranges.is_empty() {
            Progress::Empty { consumed }
        } else {
            Progress::Request { consumed }
        })
    }
}

/// A whole line with a count or a length.
struct NumberLine {
    /// `None` if it is no number.
    number: Option<i64>,
    /// The first byte after the line.
    end: usize,
}

/// The hot path: a canonical number of at most 9 digits, CR and one more byte at the front of
/// `bytes`, and how many bytes they take. `None` says nothing about the rest.
#[inline]
fn short_number(bytes: &[u8]) -> Option<(i64, usize)> {
    let mut number = 0u32;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let canonical = index == 1 || (index > 1 && bytes[0] != b'0');
            let whole = *byte == b'\r' && bytes.len() > index + 1;
            return (canonical && whole).then_some((i64::from(number), index + 2));
        }
        if index == 9 {
            return None;
        }
        number = number * 10 + u32::from(digit);
    }
    None
}

/// How many arguments a request of this count has; 0 for an empty or a null array.
fn args_to_come(count: Option<i64>, limits: &Limits) -> Result<usize, ProtocolError> {
    let count = count.ok_or(ProtocolError::MultibulkLength)?;
    let args = usize::try_from(count).unwrap_or(0);
    if args <= limits.args {
        Ok(args)
    } else if limits.unauthenticated && args <= MAX_ARGS {
        Err(ProtocolError::UnauthenticatedMultibulkLength)
    } else {
        Err(ProtocolError::MultibulkLength)
    }
}

fn bulk_length(length: Option<i64>, limits: &Limits) -> Result<usize, ProtocolError> {
    let length = length.and_then(|length| usize::try_from(length).ok());
    match length {
        Some(length) if length <= limits.bulk_bytes => Ok(length),
        Some(length) if limits.unauthenticated && length <= MAX_BULK_BYTES => {
            Err(ProtocolError::UnauthenticatedBulkLength)
        }
        _ => Err(ProtocolError::BulkLength),
    }
}

#[cfg(test)]
mod tests;
