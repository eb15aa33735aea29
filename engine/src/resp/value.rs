//! Replies read back: bytes of RESP2 or RESP3 become owned [`Value`]s, for the embedded client, the
//! CLI and the tests. Pure; the bytes are foreign, so depth and memory are bounded.
//!
//! [`Value::parse`] begins anew with each call. A [`ReplyReader`] first searches, each byte once,
//! for the end of a reply that comes in pieces, and parses only a whole one.

use std::str;

/// How deep aggregates may be nested.
pub const MAX_DEPTH: usize = 32;
/// The largest string of a reply, in bytes.
pub const MAX_BULK_BYTES: u64 = 512 * 1024 * 1024;
/// The most elements of an aggregate (a map's pair counts as two).
pub const MAX_ELEMENTS: u64 = 1 << 31;
/// The longest line, in bytes without its end.
pub const MAX_LINE_BYTES: usize = 64 * 1024;
/// Elements that room is made for before any of them was read.
const RESERVED_ELEMENTS: usize = 1024;

/// One reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A status, such as `OK`. Bytes that are not UTF-8 were replaced.
    Simple(String),
    /// An error, with its code in front. Bytes that are not UTF-8 were replaced.
    Error(String),
    /// An integer.
    Integer(i64),
    /// A string of any bytes.
    Bulk(Vec<u8>),
    /// Nil, in any of its three forms.
    Null,
    /// Elements in order.
    Array(Vec<Value>),
    /// Pairs in the order in which they came.
    Map(Vec<(Value, Value)>),
    /// Elements in the order in which they came.
    Set(Vec<Value>),
    /// A message that answers no request.
    Push(Vec<Value>),
    /// A boolean.
    Boolean(bool),
    /// A double.
    Double(f64),
    /// A text for people.
    Verbatim {
        /// `txt`, `mkd`, ...
        format: [u8; 3],
        /// The text.
        text: Vec<u8>,
    },
    /// An integer of any size, as its digits.
    BigNumber(String),
    /// A reply with something said about it.
    Attribute {
        /// What is said.
        attributes: Vec<(Value, Value)>,
        /// The reply itself.
        value: Box<Value>,
    },
}

/// Why bytes are no reply. The connection they came from cannot be used any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// No type of RESP begins with this byte.
    #[error("a reply cannot begin with byte {0:#04x}")]
    Type(u8),
    /// A line holds no valid number, boolean or length.
    #[error("a reply of type '{}' holds no valid value", char::from(*.0))]
    Invalid(u8),
    /// A line has no end in sight.
    #[error("a line of a reply is longer than {MAX_LINE_BYTES} bytes")]
    LineTooLong,
    /// A string does not end where it says.
    #[error("a string of a reply is not ended by CR LF")]
    Unterminated,
    /// Aggregates are nested too deep.
    #[error("a reply is nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// A string or an aggregate says that it is larger than any may be.
    #[error("a reply announces more than is allowed")]
    TooLarge,
}

impl Value {
    /// Takes one reply off the front of `bytes` and says how many of them it takes; `None` if it
    /// is not whole.
    ///
    /// # Errors
    /// [`ReplyError`] if the bytes can be no reply.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, ReplyError> {
        let mut parser = Parser { bytes, position: 0 };
        Ok(parser.value(0)?.map(|value| (value, parser.position)))
    }

    /// Whether this is nil.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether this is the status `OK`.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Simple(text) if text == "OK")
    }

    /// The text of an error.
    pub fn as_error(&self) -> Option<&str> {
        match self {
            Self::Error(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes of a string, status or text.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bulk(bytes) | Self::Verbatim { text: bytes, .. } => Some(bytes),
            Self::Simple(text) | Self::BigNumber(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    /// As [`Value::as_bytes`], if they are UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        self.as_bytes().and_then(|bytes| str::from_utf8(bytes).ok())
    }

    /// An integer, also one that came as a string or a boolean.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            Self::Boolean(value) => Some(i64::from(*value)),
            other => other.as_bytes().and_then(super::number::parse_i64),
        }
    }

    /// A double, also one that came as a string or an integer.
    pub fn as_double(&self) -> Option<f64> {
        match self {
            Self::Double(value) => Some(*value),
            Self::Integer(value) => Some(*value as f64),
            other => other.as_str().and_then(|text| text.parse().ok()),
        }
    }

    /// The elements of an array, a set or a push.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(values) | Self::Set(values) | Self::Push(values) => Some(values),
            _ => None,
        }
    }

    /// The elements of an array, a set or a push, taken.
    pub fn into_array(self) -> Option<Vec<Value>> {
        match self {
            Self::Array(values) | Self::Set(values) | Self::Push(values) => Some(values),
            _ => None,
        }
    }

    /// The pairs of a map, also of one that came as an array of keys and values (RESP2).
    pub fn pairs(&self) -> Option<Vec<(&Value, &Value)>> {
        match self {
            Self::Map(pairs) => Some(pairs.iter().map(|(key, value)| (key, value)).collect()),
            Self::Array(values) if values.len() % 2 == 0 => {
                Some(values.chunks_exact(2).map(|pair| (&pair[0], &pair[1])).collect())
            }
            _ => None,
        }
    }

    /// The value of a key of a map, in either version.
    pub fn field(&self, key: &str) -> Option<&Value> {
        self.pairs()?.into_iter().find(|(name, _)| name.as_str() == Some(key)).map(|pair| pair.1)
    }
}

/// Reads the replies of one connection, of which the bytes come in pieces of any size.
#[derive(Debug)]
pub struct ReplyReader {
    /// The first byte of the line or string that comes next.
    position: usize,
    /// Up to where an unfinished line was searched for its end.
    searched: usize,
    /// Values that are still missing.
    missing: u64,
}

impl Default for ReplyReader {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplyReader {
    /// A reader for a new connection.
    pub const fn new() -> Self {
        Self { position: 0, searched: 0, missing: 1 }
    }

    /// Goes on with the reply at the front of `buffer`. After `None` the next buffer must begin
    /// with the same bytes; else with those behind the reply, whose length is returned with it.
    ///
    /// # Errors
    /// [`ReplyError`] if the bytes can be no reply.
    pub fn read(&mut self, buffer: &[u8]) -> Result<Option<(Value, usize)>, ReplyError> {
        if !self.is_whole(buffer)? {
            return Ok(None);
        }
        *self = Self::new();
        Value::parse(buffer)
    }

    fn is_whole(&mut self, buffer: &[u8]) -> Result<bool, ReplyError> {
        while self.missing > 0 {
            let Some(line) = line_at(buffer, self.position, &mut self.searched)? else {
                return Ok(false);
            };
            let content = &buffer[self.position + 1..line.content_end];
            let (mut next, mut children) = (line.end, 0);
            match Shape::of(line.kind, content)? {
                Shape::Line | Shape::Null => {}
                Shape::Text(length) => next += length + 2,
                Shape::Values(count) => children = count,
                Shape::AttributedValue(pairs) => children = 2 * pairs + 1,
            }
            if buffer.len() < next {
                return Ok(false);
            }
            self.position = next;
            self.missing = self.missing - 1 + children;
            if self.missing > MAX_ELEMENTS {
                return Err(ReplyError::TooLarge);
            }
        }
        Ok(true)
    }
}

/// The first line of a value.
struct Line {
    /// The type byte.
    kind: u8,
    /// Where its content ends, at the CR.
    content_end: usize,
    /// The first byte after the line.
    end: usize,
}

/// Finds the line that begins at `position`; `None` if it is not whole. No byte before `searched`
/// is looked at again.
fn line_at(
    bytes: &[u8],
    position: usize,
    searched: &mut usize,
) -> Result<Option<Line>, ReplyError> {
    let Some(kind) = bytes.get(position).copied() else { return Ok(None) };
    let from = (*searched).max(position);
    let to = bytes.len().min(position + MAX_LINE_BYTES + 2);
    let unseen = bytes.get(from..to).unwrap_or_default();
    match unseen.iter().position(|byte| *byte == b'\n') {
        Some(offset) => {
            let newline = from + offset;
            *searched = newline;
            let has_cr = newline > position && bytes[newline - 1] == b'\r';
            // Neither a CR that is the type byte nor one that is missing ends a line.
            if !has_cr || newline - 1 == position {
                return Err(ReplyError::Invalid(kind));
            }
            Ok(Some(Line { kind, content_end: newline - 1, end: newline + 1 }))
        }
        None if to - position >= MAX_LINE_BYTES + 2 => Err(ReplyError::LineTooLong),
        None => {
            *searched = to;
            Ok(None)
        }
    }
}

/// What follows the first line of a value.
enum Shape {
    /// Nothing: the line is the value.
    Line,
    /// Nothing: the value is nil.
    Null,
    /// So many bytes, CR and LF.
    Text(usize),
    /// So many values.
    Values(u64),
    /// So many pairs of values, then one value.
    AttributedValue(u64),
}

impl Shape {
    fn of(kind: u8, content: &[u8]) -> Result<Self, ReplyError> {
        match kind {
            b'+' | b'-' | b':' | b'#' | b',' | b'(' => Ok(Self::Line),
            b'_' => Ok(Self::Null),
            b'$' | b'*' if content == b"-1" => Ok(Self::Null),
            b'$' | b'!' | b'=' => {
                Ok(Self::Text(announced(kind, content, MAX_BULK_BYTES)? as usize))
            }
            b'*' | b'~' | b'>' => Ok(Self::Values(announced(kind, content, MAX_ELEMENTS)?)),
            b'%' => Ok(Self::Values(2 * announced(kind, content, MAX_ELEMENTS / 2)?)),
            b'|' => Ok(Self::AttributedValue(announced(kind, content, MAX_ELEMENTS / 2)?)),
            other => Err(ReplyError::Type(other)),
        }
    }
}

/// The length or count of a header line.
fn announced(kind: u8, content: &[u8], limit: u64) -> Result<u64, ReplyError> {
    let number = super::number::parse_i64(content).and_then(|number| u64::try_from(number).ok());
    match number.ok_or(ReplyError::Invalid(kind))? {
        number if number > limit => Err(ReplyError::TooLarge),
        number => Ok(number),
    }
}

/// One pass over the bytes of one reply.
struct Parser<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Parser<'a> {
    /// The next value, or `None` if the bytes end before it does.
    fn value(&mut self, depth: usize) -> Result<Option<Value>, ReplyError> {
        if depth > MAX_DEPTH {
            return Err(ReplyError::TooDeep);
        }
        let Some(line) = line_at(self.bytes, self.position, &mut 0)? else { return Ok(None) };
        let content = &self.bytes[self.position + 1..line.content_end];
        self.position = line.end;
        match Shape::of(line.kind, content)? {
            Shape::Line => line_value(line.kind, content).map(Some),
            Shape::Null => Ok(Some(Value::Null)),
            Shape::Text(length) => match self.text(length)? {
                Some(text) => text_value(line.kind, text).map(Some),
                None => Ok(None),
            },
            Shape::Values(count) if line.kind == b'%' => {
                Ok(self.pairs(count / 2, depth)?.map(Value::Map))
            }
            Shape::Values(count) => Ok(self.values(count, depth)?.map(|values| match line.kind {
                b'~' => Value::Set(values),
                b'>' => Value::Push(values),
                _ => Value::Array(values),
            })),
            Shape::AttributedValue(pairs) => {
                let Some(attributes) = self.pairs(pairs, depth)? else { return Ok(None) };
                let value = self.value(depth + 1)?.map(Box::new);
                Ok(value.map(|value| Value::Attribute { attributes, value }))
            }
        }
    }

    fn text(&mut self, length: usize) -> Result<Option<&'a [u8]>, ReplyError> {
        let end = self.position + length;
        match self.bytes.get(end..end + 2) {
            None => Ok(None),
            Some(b"\r\n") => {
                let text = &self.bytes[self.position..end];
                self.position = end + 2;
                Ok(Some(text))
            }
            Some(_) => Err(ReplyError::Unterminated),
        }
    }

    fn values(&mut self, count: u64, depth: usize) -> Result<Option<Vec<Value>>, ReplyError> {
        // The count is a claim: room is made for what really comes.
        let mut values = Vec::with_capacity((count as usize).min(RESERVED_ELEMENTS));
        for _ in 0..count {
            let Some(value) = self.value(depth + 1)? else { return Ok(None) };
            values.push(value);
        }
        Ok(Some(values))
    }

    fn pairs(
        &mut self,
        count: u64,
        depth: usize,
    ) -> Result<Option<Vec<(Value, Value)>>, ReplyError> {
        let mut pairs = Vec::with_capacity((count as usize).min(RESERVED_ELEMENTS));
        for _ in 0..count {
            let Some(key) = self.value(depth + 1)? else { return Ok(None) };
            let Some(value) = self.value(depth + 1)? else { return Ok(None) };
            pairs.push((key, value));
        }
        Ok(Some(pairs))
    }
}

fn line_value(kind: u8, content: &[u8]) -> Result<Value, ReplyError> {
    let text = || String::from_utf8_lossy(content).into_owned();
    match kind {
        b'+' => Some(Value::Simple(text())),
        b'-' => Some(Value::Error(text())),
        b':' => integer(content).map(Value::Integer),
        b',' => double(content).map(Value::Double),
        b'#' => match content {
            b"t" => Some(Value::Boolean(true)),
            b"f" => Some(Value::Boolean(false)),
            _ => None,
        },
        _ => is_big_number(content).then(|| Value::BigNumber(text())),
    }
    .ok_or(ReplyError::Invalid(kind))
}

fn text_value(kind: u8, bytes: &[u8]) -> Result<Value, ReplyError> {
    match (kind, bytes) {
        (b'!', text) => Ok(Value::Error(String::from_utf8_lossy(text).into_owned())),
        (b'=', [a, b, c, b':', text @ ..]) => {
            Ok(Value::Verbatim { format: [*a, *b, *c], text: text.to_vec() })
        }
        (b'=', _) => Err(ReplyError::Invalid(kind)),
        (_, bytes) => Ok(Value::Bulk(bytes.to_vec())),
    }
}

/// RESP lets an integer begin with `+`.
fn integer(content: &[u8]) -> Option<i64> {
    match content {
        [b'+', digits @ ..] if digits.first() != Some(&b'-') => super::number::parse_i64(digits),
        content => super::number::parse_i64(content),
    }
}

fn double(content: &[u8]) -> Option<f64> {
    str::from_utf8(content).ok()?.parse().ok()
}

fn is_big_number(content: &[u8]) -> bool {
    let digits = content.strip_prefix(b"-").or(content.strip_prefix(b"+")).unwrap_or(content);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests;
