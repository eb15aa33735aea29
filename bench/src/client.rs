//! A blocking RESP client: one connection, requests collected and sent together, replies in order.

use std::io::{self, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::reply::Reply;

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a reply may take, unless [`Client::set_timeout`] says otherwise.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// How many replies may be outstanding: more, and both sides could wait for each other's buffers.
pub const PIPELINE_MAX: usize = 1_000;

/// One connection.
pub struct Client {
    stream: TcpStream,
    replies: BufReader<TcpStream>,
    requests: Vec<u8>,
    outstanding: usize,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        let replies = BufReader::with_capacity(64 * 1024, stream.try_clone()?);
        Ok(Self { stream, replies, requests: Vec::new(), outstanding: 0 })
    }

    /// Changes how long a reply may take.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(timeout))
    }

    /// Sends one command and reads its reply. Nothing may be outstanding.
    ///
    /// # Errors
    /// Those of the socket; `InvalidData` for bytes that are no RESP. An error *reply* is no error.
    ///
    /// # Panics
    /// If replies of a pipeline have not been read.
    pub fn call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> io::Result<Reply> {
        assert_eq!(self.outstanding, 0, "the replies of a pipeline were not read");
        self.queue(command);
        self.flush()?;
        self.receive()
    }

    /// Sends commands together and reads their replies.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn pipeline<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> io::Result<Vec<Reply>> {
        let mut replies = Vec::with_capacity(commands.len());
        for run in commands.chunks(PIPELINE_MAX) {
            run.iter().for_each(|command| self.queue(command));
            self.flush()?;
            for _ in run {
                replies.push(self.receive()?);
            }
        }
        Ok(replies)
    }

    /// Collects a command for the next [`Client::flush`].
    ///
    /// # Panics
    /// If more than [`PIPELINE_MAX`] replies are outstanding.
    pub fn queue<A: AsRef<[u8]>>(&mut self, command: &[A]) {
        assert!(self.outstanding < PIPELINE_MAX, "at most {PIPELINE_MAX} replies outstanding");
        encode(command, &mut self.requests);
        self.outstanding += 1;
    }

    /// Sends what was collected.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.requests)?;
        self.requests.clear();
        Ok(())
    }

    /// Reads the next reply.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn receive(&mut self) -> io::Result<Reply> {
        let reply = Reply::read(&mut self.replies)?;
        self.outstanding = self.outstanding.saturating_sub(1);
        Ok(reply)
    }

    /// Sends bytes as they are; their replies are then read with [`Client::receive`].
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }
}

/// Appends a command as an array of bulk strings.
pub fn encode<A: AsRef<[u8]>>(command: &[A], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
    for part in command {
        let part = part.as_ref();
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}
