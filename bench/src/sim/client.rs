//! A client: it sends pipelines of requests in pieces, takes replies in pieces, and writes down
//! what it saw and when.

use std::collections::VecDeque;
use std::io::Cursor;

use cutwater_engine::net::ConnId;

use super::search::Event;
use crate::reply::Reply;

/// One connection of one client.
#[derive(Debug)]
pub struct Client {
    /// The shard that it is connected to.
    pub shard: usize,
    /// Its name there.
    pub conn: ConnId,
    /// Its number in the history.
    pub connection: usize,
    /// It is a batch of an embedded client: sent whole, answered whole, and over.
    pub is_virtual: bool,
    /// Bytes that the server has not got yet.
    pub to_server: VecDeque<u8>,
    /// The commands of a virtual one that the server has not got yet.
    pub batch: Vec<Vec<Vec<u8>>>,
    /// Sends of the server that have not arrived.
    pub from_server: VecDeque<Vec<u8>>,
    /// Arrived, and no whole reply yet.
    received: Vec<u8>,
    /// What it waits for: an event of the history, and replies until its last.
    awaited: VecDeque<(usize, usize)>,
}

/// A reply that cannot be: not RESP, or not what the protocol says comes there.
#[derive(Debug)]
pub struct BadReply(pub String);

impl Client {
    /// A client that has just connected.
    pub fn new(shard: usize, conn: ConnId, connection: usize, is_virtual: bool) -> Self {
        Self {
            shard,
            conn,
            connection,
            is_virtual,
            to_server: VecDeque::new(),
            batch: Vec::new(),
            from_server: VecDeque::new(),
            received: Vec::new(),
            awaited: VecDeque::new(),
        }
    }

    /// How many requests are not answered.
    pub fn unanswered(&self) -> usize {
        self.awaited.len()
    }

    /// Sends a request; `event` is its place in the history.
    pub fn send(&mut self, commands: Vec<Vec<Vec<u8>>>, event: usize) {
        self.awaited.push_back((event, commands.len()));
        if self.is_virtual {
            self.batch.extend(commands);
        } else {
            self.to_server.extend(super::workload::wire(&commands));
        }
    }

    /// Takes bytes of the server, and notes the replies that are whole now.
    pub fn take(
        &mut self,
        bytes: &[u8],
        now: (u64, u64),
        history: &mut [Event],
    ) -> Result<(), BadReply> {
        self.received.extend_from_slice(bytes);
        loop {
            let Some(length) = reply_length(&self.received) else { return Ok(()) };
            let reply = Reply::read(&mut Cursor::new(&self.received[..length]));
            let reply = reply.map_err(|error| BadReply(error.to_string()))?;
            self.received.drain(..length);
            let Some((event, left)) = self.awaited.front_mut() else {
                return Err(BadReply(format!("a reply to nothing: {reply}")));
            };
            *left -= 1;
            let is_refusal = matches!(&reply, Reply::Error(text) if text.starts_with("MISCONF"));
            let is_interim =
                matches!(&reply, Reply::Simple(text) if text == "OK" || text == "QUEUED");
            if *left > 0 && !is_interim && !is_refusal {
                return Err(BadReply(format!("{reply} to a queued command")));
            }
            if *left == 0 {
                history[*event].replied = Some((now.0, now.1, reply));
                self.awaited.pop_front();
            }
        }
    }
}

/// The length of the reply at the front, if it is whole.
fn reply_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut replies = 1;
    while replies > 0 {
        replies -= 1;
        let rest = bytes.get(at..)?;
        let line = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let number = std::str::from_utf8(rest.get(1..line)?).ok();
        let number = number.and_then(|text| text.parse::<usize>().ok());
        at += line + 2;
        match (rest[0], number) {
            (b'$', Some(length)) => at += length + 2,
            (b'*', Some(count)) => replies += count,
            _ => {}
        }
    }
    (at <= bytes.len()).then_some(at)
}
