//! A small blocking client of the Redis protocol, for the command line: one connection, one command
//! at a time, every wait bounded.
//!
//! It speaks no HELLO, so a server answers in RESP2; RESP3 replies are understood as well.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use cutwater_engine::resp::{ReplyError, ReplyReader, Value};

use crate::config::Secret;
use crate::fault::Fault;

/// How long one address may take to accept the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a command may take to be sent, and AUTH to be answered.
const QUICK_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest reply that is read, in bytes.
const MAX_REPLY_BYTES: usize = 64 << 20;
/// How many bytes are read at once.
const READ_BYTES: usize = 16 << 10;

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
        reason: ReplyError,
    },
}

impl ClientError {
    /// What kind of failure it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Address { .. } => Fault::Usage,
            Self::Connect { .. } | Self::Lost { .. } => Fault::Unreachable,
            Self::Refused { message, .. } => Fault::of_reply(message),
            Self::Protocol { .. } => Fault::Failed,
        }
    }

    /// What to do about it, as one sentence.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Address { .. } => "Give --server as HOST:PORT, such as 127.0.0.1:6379.",
            Self::Connect { .. } => "Check that the server runs and that --server names it.",
            Self::Lost { .. } => "Look at the server's diagnostics, and try again.",
            Self::Refused { message, .. } if is_about_password(message) => {
                "Give the server's password with --password or CUTWATER_PASSWORD."
            }
            Self::Refused { message, .. } => match Fault::of_reply(message) {
                Fault::NotFound => "See what there is: cutwater snapshot list, or status.",
                Fault::Busy => {
                    "Wait until it is over (cutwater snapshot status --watch), or cancel it: \
                     cutwater snapshot cancel."
                }
                Fault::Damaged => "Use another snapshot, or the remote store's copy of this one.",
                Fault::Unreachable => "Look at the server's diagnostics, and try again.",
                Fault::Failed | Fault::Usage | Fault::Cancelled => {
                    "See what there is (cutwater snapshot list); the server's diagnostics may say \
                     more."
                }
            },
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
    stream: TcpStream,
    received: Vec<u8>,
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
                    return Ok(Self { server: server.to_owned(), stream, received: Vec::new() });
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
        self.call(&["AUTH", password.expose()], QUICK_TIMEOUT).map(drop)
    }

    /// Sends a command and waits for its reply; the server may be silent for `timeout` at a time.
    /// An error reply is [`ClientError::Refused`], so the value is none.
    ///
    /// # Errors
    /// [`ClientError`]; after any but [`ClientError::Refused`] the connection is of no more use.
    pub fn call(&mut self, words: &[&str], timeout: Duration) -> Result<Value, ClientError> {
        let outcome = self.exchange(words, timeout);
        let server = || self.server.clone();
        match outcome {
            Ok(Value::Error(message)) => Err(ClientError::Refused { server: server(), message }),
            Ok(reply) => Ok(reply),
            Err(ReadError::Io(source)) => Err(ClientError::Lost { server: server(), source }),
            Err(ReadError::Protocol(reason)) => {
                Err(ClientError::Protocol { server: server(), reason })
            }
        }
    }

    fn exchange(&mut self, words: &[&str], timeout: Duration) -> Result<Value, ReadError> {
        self.stream.set_read_timeout(Some(timeout))?;
        self.stream.write_all(encode(words).as_bytes())?;
        let mut reader = ReplyReader::new();
        loop {
            let read = reader.read(&self.received).map_err(ReadError::Protocol)?;
            if let Some((reply, length)) = read {
                self.received.drain(..length);
                return Ok(reply);
            }
            if self.received.len() > MAX_REPLY_BYTES {
                return Err(ReadError::Protocol(ReplyError::TooLarge));
            }
            let mut piece = [0; READ_BYTES];
            match self.stream.read(&mut piece)? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                length => self.received.extend_from_slice(&piece[..length]),
            }
        }
    }
}

fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(QUICK_TIMEOUT))?;
    Ok(stream)
}

/// A command as a list of strings.
fn encode(words: &[&str]) -> String {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        let _ = write!(text, "${}\r\n{word}\r\n", word.len());
    }
    text
}

/// Why no reply could be read.
enum ReadError {
    Io(io::Error),
    Protocol(ReplyError),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

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
        let reply = client.call(&["SNAPSHOT", "LIST"], QUICK_TIMEOUT).unwrap();
        assert_eq!(reply, Value::Array(Vec::new()));
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
    fn a_server_of_another_protocol_or_that_hangs_up() {
        let (address, thread) = server("*1\r\n$4\r\nPING\r\n", "HTTP/1.1 400 Bad\r\n\r\n");
        let mut client = Client::connect(&address).unwrap();
        let error = client.call(&["PING"], QUICK_TIMEOUT).unwrap_err();
        let text = format!("{address} does not speak the Redis protocol: ");
        assert!(error.to_string().starts_with(&text), "{error}");
        drop(client);
        thread.join().unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut client = Client::connect(&address).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let thread = thread::spawn(move || {
            let mut bytes = [0; 14];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(b"*2\r\n:1\r\n").unwrap();
        });
        let error = client.call(&["PING"], QUICK_TIMEOUT).unwrap_err();
        let text = format!("lost the connection to {address}: the server closed it");
        assert_eq!(error.to_string(), text);
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
