//! Replies: values become RESP2 or RESP3 bytes at the end of a connection's output. Pure.
//!
//! [`Reply`] is written to in order, aggregates by their header first and then each element, and
//! never looks back. Where RESP2 has no type of its own, the reply takes the form that Redis 7.2
//! gives it there. Numbers of one or two digits, which is what nearly all headers are, are written
//! without a conversion.

/// Which version of the protocol a connection speaks; HELLO changes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RespVersion {
    /// RESP2, as every connection begins.
    #[default]
    V2 = 2,
    /// RESP3: maps, sets, doubles, booleans, one null.
    V3 = 3,
}

/// Writes replies to the end of `out`.
#[derive(Debug)]
pub struct Reply<'a> {
    out: &'a mut Vec<u8>,
    version: RespVersion,
}

impl<'a> Reply<'a> {
    /// Replies in this version are appended to `out`.
    pub fn new(out: &'a mut Vec<u8>, version: RespVersion) -> Self {
        Self { out, version }
    }

    /// The version that is spoken.
    pub fn version(&self) -> RespVersion {
        self.version
    }

    /// Bytes written so far, also before this reply.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing was written to the output yet.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A status; CR and LF in it become blanks.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text);
    }

    /// An error, with its code in front (`ERR ...`, `WRONGTYPE ...`); CR and LF become blanks.
    pub fn error(&mut self, text: &str) {
        self.line(b'-', text);
    }

    /// A string of any bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len());
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A string, or nil.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// An integer as a string.
    pub fn bulk_integer(&mut self, value: i64) {
        self.bulk(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Nil: in RESP2 the null string.
    pub fn null(&mut self) {
        self.out.extend_from_slice(match self.version {
            RespVersion::V2 => b"$-1\r\n",
            RespVersion::V3 => b"_\r\n",
        });
    }

    /// Nil where an array would stand (an aborted EXEC): in RESP2 the null array.
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(match self.version {
            RespVersion::V2 => b"*-1\r\n",
            RespVersion::V3 => b"_\r\n",
        });
    }

    /// An integer.
    pub fn integer(&mut self, value: i64) {
        match u8::try_from(value) {
            Ok(value) if value < 100 => self.small(b':', value),
            _ => self.number(b':', value),
        }
    }

    /// The header of an array; `len` elements follow.
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len);
    }

    /// The header of a map; `len` pairs follow, each a key and a value. In RESP2 an array of both.
    pub fn map(&mut self, len: usize) {
        match self.version {
            RespVersion::V2 => self.header(b'*', 2 * len),
            RespVersion::V3 => self.header(b'%', len),
        }
    }

    /// The header of a set; `len` elements follow. In RESP2 an array.
    pub fn set(&mut self, len: usize) {
        match self.version {
            RespVersion::V2 => self.header(b'*', len),
            RespVersion::V3 => self.header(b'~', len),
        }
    }

    /// The header of a message that answers no request; `len` elements follow. In RESP2 an array.
    pub fn push(&mut self, len: usize) {
        match self.version {
            RespVersion::V2 => self.header(b'*', len),
            RespVersion::V3 => self.header(b'>', len),
        }
    }

    /// A boolean; in RESP2 the integer 1 or 0.
    pub fn boolean(&mut self, value: bool) {
        match (self.version, value) {
            (RespVersion::V2, value) => self.small(b':', u8::from(value)),
            (RespVersion::V3, true) => self.out.extend_from_slice(b"#t\r\n"),
            (RespVersion::V3, false) => self.out.extend_from_slice(b"#f\r\n"),
        }
    }

    /// A double, in the shortest form that reads back as the same; in RESP2 a string.
    pub fn double(&mut self, value: f64) {
        let text = double_text(value);
        match self.version {
            RespVersion::V2 => self.bulk(text.as_bytes()),
            RespVersion::V3 => self.line(b',', &text),
        }
    }

    /// A text for people, with the three letters of its format (`txt`, `mkd`); in RESP2 a string.
    pub fn verbatim(&mut self, format: [u8; 3], text: &str) {
        match self.version {
            RespVersion::V2 => self.bulk(text.as_bytes()),
            RespVersion::V3 => {
                self.header(b'=', text.len() + 4);
                self.out.extend_from_slice(&format);
                self.out.push(b':');
                self.out.extend_from_slice(text.as_bytes());
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Bytes that are already a reply in this version.
    pub fn raw(&mut self, encoded: &[u8]) {
        self.out.extend_from_slice(encoded);
    }

    fn line(&mut self, kind: u8, text: &str) {
        self.out.push(kind);
        let begin = self.out.len();
        self.out.extend_from_slice(text.as_bytes());
        for byte in &mut self.out[begin..] {
            if matches!(*byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.out.extend_from_slice(b"\r\n");
    }

    fn header(&mut self, kind: u8, len: usize) {
        if len < 100 { self.small(kind, len as u8) } else { self.number(kind, len as i64) }
    }

    /// A line with a number below 100.
    #[inline]
    fn small(&mut self, kind: u8, value: u8) {
        if value < 10 {
            self.out.extend_from_slice(&[kind, b'0' + value, b'\r', b'\n']);
        } else {
            let (tens, ones) = (b'0' + value / 10, b'0' + value % 10);
            self.out.extend_from_slice(&[kind, tens, ones, b'\r', b'\n']);
        }
    }

    fn number(&mut self, kind: u8, value: i64) {
        self.out.push(kind);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Appends a request as clients send it: an array of strings.
pub fn request<'a>(out: &mut Vec<u8>, args: impl ExactSizeIterator<Item = &'a [u8]>) {
    let mut writer = Reply::new(out, RespVersion::V2);
    writer.array(args.len());
    args.for_each(|arg| writer.bulk(arg));
}

/// A double as Redis writes it: `inf`, `-inf`, `nan`, an integer without a point, and an exponent
/// only where digits alone would be long.
pub fn double_text(value: f64) -> String {
    let magnitude = value.abs();
    if value.is_nan() {
        "nan".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "inf".to_owned() } else { "-inf".to_owned() }
    } else if magnitude == 0.0 || (1e-4..1e17).contains(&magnitude) {
        value.to_string()
    } else {
        let text = format!("{value:e}");
        match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => {
                format!("{digits}e+{exponent}")
            }
            _ => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(write: impl Fn(&mut Reply<'_>)) -> (String, String) {
        let written = |version| {
            let mut out = Vec::new();
            write(&mut Reply::new(&mut out, version));
            String::from_utf8(out).unwrap()
        };
        (written(RespVersion::V2), written(RespVersion::V3))
    }

    fn same(write: impl Fn(&mut Reply<'_>), expected: &str) {
        assert_eq!(both(write), (expected.to_owned(), expected.to_owned()));
    }

    fn differ(write: impl Fn(&mut Reply<'_>), v2: &str, v3: &str) {
        assert_eq!(both(write), (v2.to_owned(), v3.to_owned()));
    }

    #[test]
    fn what_both_versions_write_alike() {
        same(Reply::ok, "+OK\r\n");
        same(|reply| reply.simple("PONG"), "+PONG\r\n");
        same(|reply| reply.error("ERR a\r\nb"), "-ERR a  b\r\n");
        same(|reply| reply.bulk(b""), "$0\r\n\r\n");
        same(|reply| reply.bulk(b"a\r\nb"), "$4\r\na\r\nb\r\n");
        same(|reply| reply.bulk_integer(-12), "$3\r\n-12\r\n");
        same(|reply| reply.array(1_048_576), "*1048576\r\n");
        same(|reply| reply.raw(b":1\r\n"), ":1\r\n");
        for value in [0, 1, 9, 10, 42, 99, 100, 255, 256, 355, -1, -100, i64::MAX, i64::MIN] {
            same(|reply| reply.integer(value), &format!(":{value}\r\n"));
        }
        for len in [0, 9, 10, 99, 100, 101, 1000] {
            same(|reply| reply.array(len), &format!("*{len}\r\n"));
        }
    }

    #[test]
    fn what_only_resp3_has() {
        differ(Reply::null, "$-1\r\n", "_\r\n");
        differ(Reply::null_array, "*-1\r\n", "_\r\n");
        differ(|reply| reply.bulk_or_null(None), "$-1\r\n", "_\r\n");
        differ(|reply| reply.map(3), "*6\r\n", "%3\r\n");
        differ(|reply| reply.map(60), "*120\r\n", "%60\r\n");
        differ(|reply| reply.set(3), "*3\r\n", "~3\r\n");
        differ(|reply| reply.push(2), "*2\r\n", ">2\r\n");
        differ(|reply| reply.boolean(true), ":1\r\n", "#t\r\n");
        differ(|reply| reply.boolean(false), ":0\r\n", "#f\r\n");
        differ(|reply| reply.double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n");
        differ(|reply| reply.double(f64::INFINITY), "$3\r\ninf\r\n", ",inf\r\n");
        differ(|reply| reply.verbatim(*b"txt", "hi"), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n");
    }

    #[test]
    fn doubles_are_short_and_read_back() {
        for (value, text) in [
            (0.0, "0"),
            (3.0, "3"),
            (-0.1, "-0.1"),
            (1e16, "10000000000000000"),
            (1e300, "1e+300"),
            (1.5e-7, "1.5e-7"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(double_text(value), text);
            assert_eq!(text.parse::<f64>().unwrap(), value);
        }
        assert_eq!(double_text(f64::NAN), "nan");
    }

    #[test]
    fn a_request() {
        let mut out = Vec::new();
        request(&mut out, [b"GET".as_slice(), b"k"].into_iter());
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    }
}
