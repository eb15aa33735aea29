//! A small blocking client of the Redis protocol, for the command line: one connection, one command
//! at a time, every wait bounded.
//!
//! It speaks no HELLO, so a server answers in RESP2; RESP3 replies are understood as well.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::config::Secret;

/// How long one address may take to accept the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a command may take to be sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest string in a reply, in bytes.
const MAX_STRING_BYTES: usize = 64 << 20;
/// The most elements in one list or map of a reply.
const MAX_ELEMENTS: usize = 1 << 20;
/// How deep lists in a reply may be nested.
const MAX_DEPTH: usize = 16;
/// The longest line that begins an element.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// A reply of the server, except for errors, which are a [`ClientError::Refused`].
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// No value.
    Null,
    /// An integer.
    Integer(i64),
    /// A floating-point number.
    Double(f64),
    /// A boolean.
    Boolean(bool),
    /// A string, simple or bulk; bytes that are not UTF-8 are replaced.
    Text(String),
    /// A list or a set.
    List(Vec<Reply>),
    /// A map (only RESP3 has them).
    Map(Vec<(Reply, Reply)>),
}

/// Why a command had no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none, or its host has no address.
    #[error("\"{server}\" is not an address that can be connected to: {source}")]
    Address {
        /// As it was given.
        server: String,
        /// Why.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("cannot connect to {server}: {source}")]
    Connect {
        /// Where.
        server: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke, or the server was silent for too long.
    #[error("lost the connection to {server}: {}", describe(.source))]
    Lost {
        /// Where.
        server: String,
        /// Why.
        source: io::Error,
    },
    /// The server answered with an error.
    #[error("{server} refused: {message}")]
    Refused {
        /// Where.
        server: String,
        /// The error reply.
        message: String,
    },
    /// What came back is not the Redis protocol.
    #[error("{server} does not speak the Redis protocol: {reason}")]
    Protocol {
        /// Where.
        server: String,
        /// What does not fit.
        reason: &'static str,
    },
}

impl ClientError {
    /// What to do about it, as one sentence.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Address { .. } => "Give --server as HOST:PORT, such as 127.0.0.1:6379.",
            Self::Connect { .. } => "Check that the server runs and that --server names it.",
            Self::Lost { .. } => "Look at the server's diagnostics, and try again.",
            Self::Refused { message, .. } if is_about_password(message) => {
                "Give the server's password with --password or CUTWATER_PASSWORD."
            }
            Self::Refused { .. } => "Look at the message above.",
            Self::Protocol { .. } => "Check that --server names a Cutwater server.",
        }
    }
}

fn is_about_password(message: &str) -> bool {
    ["NOAUTH", "WRONGPASS", "ERR AUTH"].iter().any(|code| message.starts_with(code))
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        io::ErrorKind::UnexpectedEof => "the server closed it".to_owned(),
        _ => error.to_string(),
    }
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    server: String,
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects to `HOST:PORT`, trying each of the host's addresses.
    ///
    /// # Errors
    /// [`ClientError::Address`] or [`ClientError::Connect`].
    pub fn connect(server: &str) -> Result<Self, ClientError> {
        let no_address = |source| ClientError::Address { server: server.to_owned(), source };
        let addresses = server.to_socket_addrs().map_err(no_address)?;
        let mut last_error = None;
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).and_then(prepare) {
                Ok(stream) => {
                    return Ok(Self { server: server.to_owned(), stream: BufReader::new(stream) });
                }
                Err(error) => last_error = Some(error),
            }
        }
        Err(match last_error {
            Some(source) => ClientError::Connect { server: server.to_owned(), source },
            None => no_address(io::ErrorKind::NotFound.into()),
        })
    }

    /// Gives the password.
    ///
    /// # Errors
    /// [`ClientError`], [`ClientError::Refused`] if it is the wrong one.
    pub fn authenticate(&mut self, password: &Secret) -> Result<(), ClientError> {
        self.call(&["AUTH", password.expose()], WRITE_TIMEOUT).map(drop)
    }

    /// Sends a command and waits for its reply, each part of which may take `timeout`.
    ///
    /// # Errors
    /// [`ClientError`]; after any but [`ClientError::Refused`] the connection is of no more use.
    pub fn call(&mut self, words: &[&str], timeout: Duration) -> Result<Reply, ClientError> {
        let outcome = self.send(words, timeout).map_err(ReadError::Io);
        match outcome.and_then(|()| read_reply(&mut self.stream, 0)) {
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.error(error)),
        }
    }

    fn send(&mut self, words: &[&str], timeout: Duration) -> io::Result<()> {
        let mut bytes = format!("*{}\r\n", words.len());
        for word in words {
            bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        let stream = self.stream.get_mut();
        stream.set_read_timeout(Some(timeout))?;
        stream.write_all(bytes.as_bytes())
    }

    fn error(&self, error: ReadError) -> ClientError {
        let server = self.server.clone();
        match error {
            ReadError::Io(source) => ClientError::Lost { server, source },
            ReadError::Refused(message) => ClientError::Refused { server, message },
            ReadError::Protocol(reason) => ClientError::Protocol { server, reason },
        }
    }
}

fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    Ok(stream)
}

/// Why no reply could be read.
#[derive(Debug)]
enum ReadError {
    Io(io::Error),
    Refused(String),
    Protocol(&'static str),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn read_reply(input: &mut impl BufRead, depth: usize) -> Result<Reply, ReadError> {
    if depth > MAX_DEPTH {
        return Err(ReadError::Protocol("lists are nested too deep"));
    }
    let line = read_line(input)?;
    let mut chars = line.chars();
    let kind = chars.next().ok_or(ReadError::Protocol("an empty line"))?;
    let rest = chars.as_str();
    match kind {
        '+' | '(' => Ok(Reply::Text(rest.to_owned())),
        '-' => Err(ReadError::Refused(rest.to_owned())),
        '!' => match read_string(input, rest)? {
            Some(message) => Err(ReadError::Refused(message)),
            None => Err(ReadError::Protocol("an error without a message")),
        },
        ':' => rest.parse().map(Reply::Integer).map_err(|_| ReadError::Protocol("no integer")),
        ',' => rest.parse().map(Reply::Double).map_err(|_| ReadError::Protocol("no number")),
        '_' => Ok(Reply::Null),
        '#' => Ok(Reply::Boolean(rest == "t")),
        '$' => Ok(read_string(input, rest)?.map_or(Reply::Null, Reply::Text)),
        // A verbatim string: its first four bytes name the format.
        '=' => Ok(read_string(input, rest)?
            .map_or(Reply::Null, |text| Reply::Text(text.get(4..).unwrap_or_default().to_owned()))),
        '*' | '~' => match length(rest, MAX_ELEMENTS)? {
            None => Ok(Reply::Null),
            Some(len) => (0..len)
                .map(|_| read_reply(input, depth + 1))
                .collect::<Result<_, _>>()
                .map(Reply::List),
        },
        '%' => {
            let len = length(rest, MAX_ELEMENTS)?.unwrap_or(0);
            let pair = |_| Ok((read_reply(input, depth + 1)?, read_reply(input, depth + 1)?));
            (0..len).map(pair).collect::<Result<_, _>>().map(Reply::Map)
        }
        _ => Err(ReadError::Protocol("an unknown kind of reply")),
    }
}

/// A line without its end.
fn read_line(input: &mut impl BufRead) -> Result<String, ReadError> {
    let mut line = Vec::new();
    input.take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
        None if line.len() as u64 == MAX_LINE_BYTES => Err(ReadError::Protocol("an endless line")),
        None if line.ends_with(b"\n") => Err(ReadError::Protocol("a line that ends without CR")),
        None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

/// The string after its length line; `None` for a null.
fn read_string(input: &mut impl BufRead, rest: &str) -> Result<Option<String>, ReadError> {
    let Some(len) = length(rest, MAX_STRING_BYTES)? else { return Ok(None) };
    let mut bytes = Vec::new();
    input.take(len as u64 + 2).read_to_end(&mut bytes)?;
    if bytes.len() < len + 2 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    if bytes.split_off(len) != b"\r\n" {
        return Err(ReadError::Protocol("a string longer than its length"));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// A length up to and including `limit`; `None` for the -1 of a null.
fn length(text: &str, limit: usize) -> Result<Option<usize>, ReadError> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(len) => match usize::try_from(len) {
            Ok(len) if len <= limit => Ok(Some(len)),
            _ => Err(ReadError::Protocol("a length out of bounds")),
        },
        Err(_) => Err(ReadError::Protocol("no length")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn parse(bytes: &[u8]) -> Result<Reply, String> {
        read_reply(&mut io::Cursor::new(bytes), 0).map_err(|error| format!("{error:?}"))
    }

    fn text(text: &str) -> Reply {
        Reply::Text(text.to_owned())
    }

    #[test]
    fn replies_of_both_protocols() {
        for (bytes, reply) in [
            (&b"+OK\r\n"[..], text("OK")),
            (b":-7\r\n", Reply::Integer(-7)),
            (b"$3\r\na\rb\r\n", text("a\rb")),
            (b"$0\r\n\r\n", text("")),
            (b"$-1\r\n", Reply::Null),
            (b"*-1\r\n", Reply::Null),
            (b"_\r\n", Reply::Null),
            (b"#t\r\n", Reply::Boolean(true)),
            (b",1.5\r\n", Reply::Double(1.5)),
            (b"=6\r\ntxt:ab\r\n", text("ab")),
            (
                b"*2\r\n:1\r\n*1\r\n+x\r\n",
                Reply::List(vec![Reply::Integer(1), Reply::List(vec![text("x")])]),
            ),
            (b"%1\r\n+id\r\n:3\r\n", Reply::Map(vec![(text("id"), Reply::Integer(3))])),
        ] {
            assert_eq!(parse(bytes), Ok(reply));
            for len in 0..bytes.len() {
                assert!(parse(&bytes[..len]).is_err(), "{bytes:?} cut at {len}");
            }
        }
    }

    #[test]
    fn foreign_bytes_are_errors() {
        let deep = b"*1\r\n".repeat(100);
        let line = vec![b'+'; 1 << 20];
        for bytes in [
            &b"HTTP/1.1 400\r\n"[..],
            b"\r\n",
            b"+OK\n",
            b"$99999999999\r\n",
            b"$-2\r\n",
            b"*x\r\n",
            b":1.5\r\n",
            b"$1\r\nabc\r\n",
            b"*9999999\r\n",
            &deep,
            &line,
        ] {
            assert!(parse(bytes).unwrap_err().starts_with("Protocol"), "{bytes:?}");
        }
        assert_eq!(parse(b"-ERR no\r\n"), Err("Refused(\"ERR no\")".to_owned()));
        assert_eq!(parse(b"!6\r\nERR no\r\n"), Err("Refused(\"ERR no\")".to_owned()));
    }

    /// A server that answers one connection with these bytes, once it has read `expected`, and
    /// then keeps it open until the client has gone.
    fn server(expected: &'static str, answer: &'static str) -> (String, thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = vec![0; expected.len()];
            stream.read_exact(&mut bytes).unwrap();
            assert_eq!(String::from_utf8(bytes).unwrap(), expected);
            stream.write_all(answer.as_bytes()).unwrap();
            let _ = stream.read(&mut [0]);
        });
        (address, thread)
    }

    #[test]
    fn a_call_sends_and_receives() {
        let (address, thread) = server("*2\r\n$8\r\nSNAPSHOT\r\n$4\r\nLIST\r\n", "*0\r\n");
        let mut client = Client::connect(&address).unwrap();
        let reply = client.call(&["SNAPSHOT", "LIST"], WRITE_TIMEOUT).unwrap();
        assert_eq!(reply, Reply::List(Vec::new()));
        drop(client);
        thread.join().unwrap();
    }

    #[test]
    fn a_wrong_password_names_server_and_remedy_but_not_itself() {
        let (address, thread) =
            server("*2\r\n$4\r\nAUTH\r\n$7\r\nhunter2\r\n", "-WRONGPASS invalid password\r\n");
        let mut client = Client::connect(&address).unwrap();
        let error = client.authenticate(&Secret::new("hunter2")).unwrap_err();
        assert_eq!(error.to_string(), format!("{address} refused: WRONGPASS invalid password"));
        assert!(error.remedy().contains("CUTWATER_PASSWORD"));
        drop(client);
        thread.join().unwrap();
    }

    #[test]
    fn silence_and_absence_are_told_with_the_address() {
        let (address, thread) = server("*1\r\n$4\r\nPING\r\n", "");
        let mut client = Client::connect(&address).unwrap();
        let error = client.call(&["PING"], Duration::from_millis(10)).unwrap_err();
        let lost = format!("lost the connection to {address}: no answer in time");
        assert_eq!(error.to_string(), lost);
        drop(client);
        thread.join().unwrap();

        let error = Client::connect(&address).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot connect to {address}: ")));
        let error = Client::connect("nowhere").unwrap_err();
        assert!(error.to_string().starts_with("\"nowhere\" is not an address"), "{error}");
        assert!(error.remedy().contains("HOST:PORT"));
    }
}
