//! What one writer knows of its keys: every value that it sent, when, and when that was
//! acknowledged. Values of a key only rise, so at a moment a key must lie between the last value
//! acknowledged before it and the last one sent before it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::client::Client;
use crate::reply::Reply;

/// Connections that write at once.
pub const WRITERS: usize = 3;
/// Keys of each writer, so many that they lie on all shards.
const KEYS: usize = 12;
/// Of these, the keys that are written together: the first so many by an MSET, the next so many by
/// an EXEC.
const GROUP: usize = 3;
/// Between two writes, so that minutes of them fit into memory.
const PACE: Duration = Duration::from_micros(300);
/// How far the clock of the server's LSNs may be from the wall clock: it is slewed, not set.
const SKEW_US: u64 = 2_000;

/// One write.
#[derive(Clone, Copy, Debug)]
struct Write {
    value: u64,
    /// Microseconds since the Unix epoch; before it was sent.
    sent_us: u64,
    /// After its reply; `None` if none came.
    acknowledged_us: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    writes: Vec<Vec<Write>>,
    turn: usize,
    count: AtomicU64,
}

impl Clone for Ledger {
    fn clone(&self) -> Self {
        Self { writes: self.writes.clone(), turn: self.turn, count: AtomicU64::new(0) }
    }
}

fn key(writer: usize, key: usize) -> String {
    format!("moment:{writer}:{key}")
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl Ledger {
    /// Acknowledged writes since the last call.
    pub fn take_count(&self) -> u64 {
        self.count.swap(0, Ordering::Relaxed)
    }

    /// What a history knows that forks off at a moment: of what was under way then it is not known
    /// on which side of the fork it is.
    pub fn fork(&self, at_us: u64) -> Self {
        let certain = |write: &Write| Write {
            acknowledged_us: write.acknowledged_us.filter(|when| when + SKEW_US <= at_us),
            ..*write
        };
        let before = |writes: &Vec<Write>| {
            writes.iter().filter(|write| write.sent_us <= at_us + SKEW_US).map(certain).collect()
        };
        let writes = self.writes.iter().map(before).collect();
        Self { writes, turn: self.turn, count: AtomicU64::new(0) }
    }

    /// Makes sure that the server answers; what it has is compared at the end, moment by moment.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn settle(&mut self, client: &mut Client) -> io::Result<()> {
        self.writes.resize(KEYS, Vec::new());
        client.call(&["PING"]).map(drop)
    }

    /// Writes until then, or until the connection breaks.
    pub fn write_until(&mut self, address: SocketAddr, writer: usize, until: Instant) {
        let Ok(mut client) = Client::connect(address) else { return };
        while Instant::now() < until {
            self.turn += 1;
            let keys = match self.turn % 4 {
                0 => 0..GROUP,
                2 => GROUP..2 * GROUP,
                _ => {
                    let single = 2 * GROUP + self.turn / 2 % (KEYS - 2 * GROUP);
                    single..single + 1
                }
            };
            // One value for all keys of a command, above every earlier one of theirs.
            let value = self.turn as u64;
            let pair = |k| [key(writer, k), value.to_string()];
            let sent_us = now_us();
            for k in keys.clone() {
                self.writes[k].push(Write { value, sent_us, acknowledged_us: None });
            }
            let is_done = match self.turn % 4 {
                2 => exec(&mut client, keys.clone().map(pair)),
                _ => {
                    let command = ["MSET".to_owned()].into_iter();
                    let command: Vec<_> = command.chain(keys.clone().flat_map(pair)).collect();
                    client.call(&command).is_ok_and(|reply| reply.is_ok())
                }
            };
            if !is_done {
                return;
            }
            let acknowledged_us = Some(now_us());
            for k in keys {
                if let Some(last) = self.writes[k].last_mut() {
                    last.acknowledged_us = acknowledged_us;
                }
            }
            self.count.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(PACE);
        }
    }

    /// What of a server's keys cannot have been so at the moment.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn compare(
        &self,
        client: &mut Client,
        writer: usize,
        at_us: u64,
    ) -> io::Result<Vec<String>> {
        let mut wrong = Vec::new();
        let mut groups = [Vec::new(), Vec::new()];
        for (k, writes) in self.writes.iter().enumerate() {
            let reply = client.call(&["GET".to_owned(), key(writer, k)])?;
            let found = reply.integer().unwrap_or(0) as u64;
            let acknowledged =
                |write: &&Write| write.acknowledged_us.is_some_and(|when| when + SKEW_US <= at_us);
            let low = writes.iter().rev().find(acknowledged).map_or(0, |write| write.value);
            let sent = |write: &&Write| write.sent_us <= at_us + SKEW_US;
            let high = writes.iter().rev().find(sent).map_or(0, |write| write.value);
            if !(low..=high).contains(&found) {
                wrong.push(format!(
                    "{} is {found}: {low} was acknowledged before, {high} the last sent before",
                    key(writer, k)
                ));
            }
            if let Some(group) = groups.get_mut(k / GROUP) {
                group.push(found);
            }
        }
        for group in groups {
            if group.windows(2).any(|pair| pair[0] != pair[1]) {
                wrong.push(format!("half a transaction of writer {writer}: {group:?}"));
            }
        }
        Ok(wrong)
    }
}

/// Sets keys in one transaction; whether it was acknowledged.
fn exec(client: &mut Client, pairs: impl Iterator<Item = [String; 2]>) -> bool {
    let one = |name: &str| vec![name.to_owned()];
    let set = |[key, value]: [String; 2]| vec!["SET".to_owned(), key, value];
    let mut commands = vec![one("MULTI")];
    commands.extend(pairs.map(set));
    commands.push(one("EXEC"));
    let replies = client.pipeline(&commands);
    replies.is_ok_and(|replies| matches!(replies.last(), Some(Reply::Array(..))))
}
