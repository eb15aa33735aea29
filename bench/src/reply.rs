//! A RESP2 or RESP3 reply as a value, its decoding from a stream, and its one-line text form.
//!
//! The text form is what golden scripts compare: it tells every type apart and escapes every byte
//! that is not printable ASCII, so that two replies with one text are the same bytes.

use std::fmt::{self, Write as _};
use std::io::{self, BufRead, ErrorKind, Read as _};

/// The longest bulk string that is read: Redis' own limit.
const BULK_BYTES_MAX: i64 = 512 * 1024 * 1024;
/// The most elements of one aggregate.
const ELEMENTS_MAX: i64 = 16 * 1024 * 1024;
/// The deepest nesting of aggregates.
const DEPTH_MAX: usize = 16;
/// The longest line.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// One reply of a server.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// `+`: a status.
    Simple(String),
    /// `-`: an error, with its code.
    Error(String),
    /// `:`: an integer.
    Integer(i64),
    /// `$`: a byte string.
    Bulk(Vec<u8>),
    /// `$-1` or `*-1` of RESP2, `_` of RESP3.
    Nil(NilKind),
    /// `*`, `~` or `>`: elements; the sigil tells which.
    Array(char, Vec<Reply>),
    /// `%`: keys and values of RESP3.
    Map(Vec<(Reply, Reply)>),
    /// `,`, `#` or `(`: a double, a boolean or a big number of RESP3, as it came.
    Scalar(char, String),
    /// `=`: a verbatim string of RESP3, with its format.
    Verbatim(Vec<u8>),
}

/// How a missing value was spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NilKind {
    /// `$-1`
    Bulk,
    /// `*-1`
    Array,
    /// `_`
    Resp3,
}

impl Reply {
    /// Reads one reply.
    ///
    /// # Errors
    /// Those of the stream; `InvalidData` if the bytes are no RESP or exceed a bound.
    pub fn read(from: &mut impl BufRead) -> io::Result<Self> {
        read_nested(from, 0)
    }

    /// Whether this is `+OK`.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Simple(text) if text == "OK")
    }

    /// The bytes of a bulk or simple string; `None` for every other type.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bulk(bytes) | Self::Verbatim(bytes) => Some(bytes),
            Self::Simple(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    /// An integer, or a bulk string that spells one.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Bulk(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
            _ => None,
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(text) => write!(f, "+{text}"),
            Self::Error(text) => write!(f, "-{text}"),
            Self::Integer(number) => write!(f, ":{number}"),
            Self::Bulk(bytes) => quote(f, bytes),
            Self::Verbatim(bytes) => {
                f.write_char('=')?;
                quote(f, bytes)
            }
            Self::Nil(NilKind::Bulk) => f.write_str("nil"),
            Self::Nil(NilKind::Array) => f.write_str("nil-array"),
            Self::Nil(NilKind::Resp3) => f.write_str("_"),
            Self::Array(sigil, elements) => {
                if *sigil != '*' {
                    f.write_char(*sigil)?;
                }
                f.write_char('[')?;
                for (n, element) in elements.iter().enumerate() {
                    write!(f, "{}{element}", if n == 0 { "" } else { ", " })?;
                }
                f.write_char(']')
            }
            Self::Map(pairs) => {
                f.write_char('{')?;
                for (n, (key, value)) in pairs.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if n == 0 { "" } else { ", " })?;
                }
                f.write_char('}')
            }
            Self::Scalar(sigil, text) => write!(f, "{sigil}{text}"),
        }
    }
}

fn quote(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_char('"')?;
    for byte in bytes {
        match byte {
            b'"' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
            b'\r' => f.write_str("\\r")?,
            b'\n' => f.write_str("\\n")?,
            0x20..=0x7E => f.write_char(char::from(*byte))?,
            _ => write!(f, "\\x{byte:02x}")?,
        }
    }
    f.write_char('"')
}

fn read_nested(from: &mut impl BufRead, depth: usize) -> io::Result<Reply> {
    if depth > DEPTH_MAX {
        return Err(invalid(format!("nested deeper than {DEPTH_MAX}")));
    }
    let line = read_line(from)?;
    let mut chars = line.chars();
    let sigil = chars.next().ok_or_else(|| invalid("an empty line".into()))?;
    let rest = chars.as_str();
    Ok(match sigil {
        '+' => Reply::Simple(rest.to_owned()),
        '-' => Reply::Error(rest.to_owned()),
        ':' => Reply::Integer(parse(rest)?),
        '$' | '=' => match parse(rest)? {
            -1 => Reply::Nil(NilKind::Bulk),
            length if sigil == '=' => Reply::Verbatim(read_bulk(from, length)?),
            length => Reply::Bulk(read_bulk(from, length)?),
        },
        '*' | '~' | '>' => match parse(rest)? {
            -1 => Reply::Nil(NilKind::Array),
            count => Reply::Array(sigil, read_elements(from, count, depth)?),
        },
        '%' => {
            let flat = read_elements(from, parse(rest)?.saturating_mul(2), depth)?;
            let mut flat = flat.into_iter();
            Reply::Map(std::iter::from_fn(|| Some((flat.next()?, flat.next()?))).collect())
        }
        '_' => Reply::Nil(NilKind::Resp3),
        ',' | '#' | '(' => Reply::Scalar(sigil, rest.to_owned()),
        _ => return Err(invalid(format!("a reply that begins with {line:?}"))),
    })
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    if !line.ends_with(b"\r\n") {
        return Err(invalid(format!("a line without its end: {line:?}")));
    }
    line.truncate(line.len() - 2);
    if line.first() == Some(&b'-') {
        // Redis repeats foreign bytes in an error as they came; Cutwater replaces what is no text.
        return Ok(String::from_utf8_lossy(&line).into_owned());
    }
    String::from_utf8(line).map_err(|error| invalid(error.to_string()))
}

fn read_bulk(from: &mut impl BufRead, length: i64) -> io::Result<Vec<u8>> {
    if !(0..=BULK_BYTES_MAX).contains(&length) {
        return Err(invalid(format!("a bulk string of {length} bytes")));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    let mut end = [0; 2];
    from.read_exact(&mut end)?;
    if end == *b"\r\n" { Ok(bytes) } else { Err(invalid("a bulk string without its end".into())) }
}

fn read_elements(from: &mut impl BufRead, count: i64, depth: usize) -> io::Result<Vec<Reply>> {
    if !(0..=ELEMENTS_MAX).contains(&count) {
        return Err(invalid(format!("an aggregate of {count} elements")));
    }
    (0..count).map(|_| read_nested(from, depth + 1)).collect()
}

fn parse(text: &str) -> io::Result<i64> {
    text.parse().map_err(|_| invalid(format!("not a number: {text:?}")))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        Reply::read(&mut &bytes[..]).unwrap().to_string()
    }

    #[test]
    fn every_type_has_its_own_text() {
        assert_eq!(text(b"+OK\r\n"), "+OK");
        assert_eq!(text(b"-ERR no\r\n"), "-ERR no");
        assert_eq!(text(b":-7\r\n"), ":-7");
        assert_eq!(text(b"$4\r\na\"\r\x00\r\n"), "\"a\\\"\\r\\x00\"");
        assert_eq!(text(b"*4\r\n$-1\r\n*-1\r\n*0\r\n_\r\n"), "[nil, nil-array, [], _]");
        assert_eq!(text(b"%1\r\n+a\r\n#t\r\n"), "{+a: #t}");
        assert_eq!(text(b">1\r\n,1.5\r\n"), ">[,1.5]");
    }

    #[test]
    fn truncated_and_foreign_bytes_are_errors() {
        let whole = b"*2\r\n$3\r\nabc\r\n:1\r\n";
        for len in 0..whole.len() {
            assert!(Reply::read(&mut &whole[..len]).is_err(), "cut at {len}");
        }
        assert!(Reply::read(&mut &b"HTTP/1.1 200\r\n"[..]).is_err());
        assert!(Reply::read(&mut &b"*99999999999\r\n"[..]).is_err());
    }
}
