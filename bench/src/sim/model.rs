//! What the database should do, without shards, logs or crashes: commands on a small map, one after
//! the other. [`super::search`] asks it whether an order of the commands explains what clients saw.
//!
//! The one thing that it cannot know is when a key expires. A key with an expiry carries the
//! earliest instant at which it may be gone; from then on both answers are right, each time: a
//! transaction judges expiry by the instant at which it asked for its intents, so one that had to
//! wait can still see a key that another has already missed.

use crate::reply::{NilKind, Reply};

/// A key, as an index into the names of the run.
pub type Key = usize;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// GET
    Get(Key),
    /// SET
    Set(Key, Vec<u8>),
    /// SET with PX, in milliseconds.
    SetExpiring(Key, Vec<u8>, u64),
    /// INCRBY
    IncrBy(Key, i64),
    /// APPEND
    Append(Key, Vec<u8>),
    /// SETRANGE
    SetRange(Key, usize, Vec<u8>),
    /// DEL of different keys
    Del(Vec<Key>),
    /// EXISTS of different keys
    Exists(Vec<Key>),
    /// MSET of different keys
    MSet(Vec<(Key, Vec<u8>)>),
    /// MSETNX of different keys
    MSetNx(Vec<(Key, Vec<u8>)>),
    /// MGET
    MGet(Vec<Key>),
    /// RENAME to another key
    Rename(Key, Key),
    /// COPY to another key, with REPLACE or not
    Copy(Key, Key, bool),
    /// FLUSHALL
    FlushAll,
    /// EXPIRE, so far ahead that it does not happen
    ExpireFar(Key),
    /// EXPIRE into the past
    ExpirePast(Key),
    /// PERSIST
    Persist(Key),
}

/// What a client asks for as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A command.
    One(Command),
    /// MULTI, commands, EXEC.
    Exec(Vec<Command>),
    /// WATCH
    Watch(Vec<Key>),
}

/// A key's value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    /// The string.
    pub bytes: Vec<u8>,
    /// The earliest instant at which it may be gone, in milliseconds.
    pub expires_at_ms: Option<u64>,
}

/// Whether a watched key has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Dirty {
    No,
    /// FLUSHALL met a watched key that did not exist: both answers are right.
    Maybe,
    Yes,
}

/// The map, and what each connection watches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// By key.
    pub keys: Vec<Option<Value>>,
    /// By connection: keys as bits, and whether one of them has changed.
    watches: Vec<(u64, Option<Dirty>)>,
}

/// When a request was under way, in milliseconds, and what it was answered with.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// It began no earlier.
    pub invoked_ms: u64,
    /// It ended no later.
    pub replied_ms: u64,
    /// `None` if nobody has seen the reply.
    pub reply: Option<&'a Reply>,
}

/// EXPIRE with this many seconds does not happen within a run.
pub const FAR_S: u64 = 1_000_000;

impl State {
    /// These keys, for so many connections.
    pub fn new(keys: Vec<Option<Value>>, connections: usize) -> Self {
        Self { keys, watches: vec![(0, None); connections] }
    }

    /// Carries a request out; false if its reply is not what was seen.
    pub fn apply(&mut self, connection: usize, request: &Request, seen: Seen<'_>) -> bool {
        if let Some(Reply::Error(text)) = seen.reply
            && (text.starts_with("MISCONF") || text.starts_with("EXECABORT"))
        {
            if matches!(request, Request::Exec(_)) {
                self.watches[connection] = (0, None);
            }
            return true;
        }
        match request {
            Request::One(command) => self.run(command, seen),
            Request::Watch(keys) => {
                let watch = &mut self.watches[connection];
                watch.0 |= keys.iter().fold(0, |bits, key| bits | 1 << key);
                watch.1.get_or_insert(Dirty::No);
                seen.reply.is_none_or(Reply::is_ok)
            }
            Request::Exec(commands) => {
                let dirty = std::mem::take(&mut self.watches[connection]).1.unwrap_or(Dirty::No);
                match seen.reply {
                    None if dirty == Dirty::Yes => true,
                    None => commands.iter().all(|command| self.run(command, seen)),
                    Some(Reply::Nil(NilKind::Array)) => dirty != Dirty::No,
                    Some(Reply::Array('*', replies)) => {
                        dirty != Dirty::Yes
                            && replies.len() == commands.len()
                            && commands.iter().zip(replies).all(|(command, reply)| {
                                self.run(command, Seen { reply: Some(reply), ..seen })
                            })
                    }
                    Some(_) => false,
                }
            }
        }
    }

    /// Whether what a shard holds is this state; keys may have expired by `now_ms`.
    pub fn explains(&self, found: &[Option<Value>], now_ms: u64) -> bool {
        let pairs = self.keys.iter().zip(found);
        pairs.into_iter().all(|(key, found)| agrees(key.as_ref(), found.as_ref(), now_ms))
    }

    fn run(&mut self, command: &Command, seen: Seen<'_>) -> bool {
        match command {
            Command::Get(key) => return self.read(*key, seen.reply, seen),
            Command::MGet(keys) => {
                return match seen.reply {
                    None => true,
                    Some(Reply::Array('*', replies)) => {
                        replies.len() == keys.len()
                            && keys
                                .iter()
                                .zip(replies)
                                .all(|(key, r)| self.read(*key, Some(r), seen))
                    }
                    Some(_) => false,
                };
            }
            _ => {}
        }
        let expected = self.write(command, seen.invoked_ms);
        seen.reply.is_none_or(|reply| match (&expected, reply) {
            (Reply::Error(code), Reply::Error(text)) => text.starts_with(code.as_str()),
            (expected, reply) => expected == reply,
        })
    }

    fn read(&self, key: Key, reply: Option<&Reply>, seen: Seen<'_>) -> bool {
        match (reply, &self.keys[key]) {
            (None, _) | (Some(Reply::Nil(NilKind::Bulk)), None) => true,
            (Some(Reply::Bulk(bytes)), Some(value)) => *bytes == value.bytes,
            (Some(Reply::Nil(NilKind::Bulk)), Some(value)) => {
                value.expires_at_ms.is_some_and(|at| at <= seen.replied_ms)
            }
            _ => false,
        }
    }

    fn write(&mut self, command: &Command, invoked_ms: u64) -> Reply {
        match command {
            Command::Get(_) | Command::MGet(_) => unreachable!("reads are answered before"),
            Command::Set(key, bytes) => self.set(*key, bytes, None),
            Command::SetExpiring(key, bytes, ttl_ms) => {
                self.set(*key, bytes, Some(invoked_ms + ttl_ms))
            }
            Command::IncrBy(key, by) => self.increment(*key, *by),
            Command::Append(key, bytes) => self.change(*key, |value| value.extend(bytes)),
            Command::SetRange(key, offset, bytes) => self.change(*key, |value| {
                let end = offset + bytes.len();
                value.resize(value.len().max(end), 0);
                value[*offset..end].copy_from_slice(bytes);
            }),
            Command::Del(keys) => {
                Reply::Integer(keys.iter().map(|key| i64::from(self.delete(*key))).sum())
            }
            Command::Exists(keys) => {
                let count = keys.iter().filter(|key| self.keys[**key].is_some()).count();
                Reply::Integer(count as i64)
            }
            Command::MSet(pairs) => {
                pairs.iter().for_each(|(key, bytes)| drop(self.set(*key, bytes, None)));
                ok()
            }
            Command::MSetNx(pairs) => {
                let free = pairs.iter().all(|(key, _)| self.keys[*key].is_none());
                if free {
                    pairs.iter().for_each(|(key, bytes)| drop(self.set(*key, bytes, None)));
                }
                Reply::Integer(i64::from(free))
            }
            Command::Rename(from, to) => match self.keys[*from].take() {
                None => Reply::Error("ERR no such key".to_owned()),
                Some(value) => {
                    self.touch(*from, Dirty::Yes);
                    self.put(*to, value);
                    ok()
                }
            },
            Command::Copy(from, to, replace) => {
                let value = self.keys[*from].clone();
                let value = value.filter(|_| *replace || self.keys[*to].is_none());
                let copied = value.map(|value| self.put(*to, value)).is_some();
                Reply::Integer(i64::from(copied))
            }
            Command::FlushAll => {
                for key in 0..self.keys.len() {
                    let existed = self.keys[key].take().is_some();
                    self.touch(key, if existed { Dirty::Yes } else { Dirty::Maybe });
                }
                ok()
            }
            Command::ExpireFar(key) => {
                let exists = self.keys[*key].is_some();
                if let Some(value) = &mut self.keys[*key] {
                    value.expires_at_ms = Some(invoked_ms + FAR_S * 1_000);
                    self.touch(*key, Dirty::Yes);
                }
                Reply::Integer(i64::from(exists))
            }
            Command::ExpirePast(key) => Reply::Integer(i64::from(self.delete(*key))),
            Command::Persist(key) => {
                let value = self.keys[*key].as_mut();
                let had = value.and_then(|value| value.expires_at_ms.take()).is_some();
                if had {
                    self.touch(*key, Dirty::Yes);
                }
                Reply::Integer(i64::from(had))
            }
        }
    }

    fn set(&mut self, key: Key, bytes: &[u8], expires_at_ms: Option<u64>) -> Reply {
        self.put(key, Value { bytes: bytes.to_vec(), expires_at_ms });
        ok()
    }

    fn put(&mut self, key: Key, value: Value) {
        self.keys[key] = Some(value);
        self.touch(key, Dirty::Yes);
    }

    fn delete(&mut self, key: Key) -> bool {
        let existed = self.keys[key].take().is_some();
        if existed {
            self.touch(key, Dirty::Yes);
        }
        existed
    }

    fn change(&mut self, key: Key, change: impl FnOnce(&mut Vec<u8>)) -> Reply {
        let empty = || Value { bytes: Vec::new(), expires_at_ms: None };
        let value = self.keys[key].get_or_insert_with(empty);
        change(&mut value.bytes);
        let length = value.bytes.len() as i64;
        self.touch(key, Dirty::Yes);
        Reply::Integer(length)
    }

    fn increment(&mut self, key: Key, by: i64) -> Reply {
        let text = self.keys[key].as_ref().map_or(&b"0"[..], |value| &value.bytes);
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok());
        let number = number.filter(|number| number.to_string().as_bytes() == text);
        let Some(number) = number.and_then(|number| number.checked_add(by)) else {
            return Reply::Error("ERR value is not an integer".to_owned());
        };
        self.change(key, |value| *value = number.to_string().into_bytes());
        Reply::Integer(number)
    }

    fn touch(&mut self, key: Key, dirty: Dirty) {
        for (keys, seen) in &mut self.watches {
            if *keys & 1 << key != 0 {
                *seen = (*seen).max(Some(dirty));
            }
        }
    }
}

/// Whether what a shard holds of a key is this; it may have expired by `now_ms`.
pub fn agrees(key: Option<&Value>, found: Option<&Value>, now_ms: u64) -> bool {
    match (key, found) {
        (None, None) => true,
        (Some(value), Some(found)) => {
            value.bytes == found.bytes
                && value.expires_at_ms.is_some() == found.expires_at_ms.is_some()
        }
        (Some(one), None) | (None, Some(one)) => one.expires_at_ms.is_some_and(|at| at <= now_ms),
    }
}

impl Command {
    /// The keys that it names.
    pub fn keys(&self) -> Vec<Key> {
        match self {
            Self::Get(key)
            | Self::Set(key, _)
            | Self::SetExpiring(key, ..)
            | Self::IncrBy(key, _)
            | Self::Append(key, _)
            | Self::SetRange(key, ..)
            | Self::ExpireFar(key)
            | Self::ExpirePast(key)
            | Self::Persist(key) => vec![*key],
            Self::Del(keys) | Self::Exists(keys) | Self::MGet(keys) => keys.clone(),
            Self::MSet(pairs) | Self::MSetNx(pairs) => pairs.iter().map(|(key, _)| *key).collect(),
            Self::Rename(from, to) | Self::Copy(from, to, _) => vec![*from, *to],
            Self::FlushAll => Vec::new(),
        }
    }

    /// Whether it never changes anything.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Get(_) | Self::MGet(_) | Self::Exists(_))
    }
}

impl Request {
    /// The keys that it names, as bits; all, for one that names none.
    pub fn key_bits(&self) -> u64 {
        let bits = |keys: &[Key]| keys.iter().fold(0, |bits, key| bits | 1 << key);
        let of = |command: &Command| match command {
            Command::FlushAll => u64::MAX,
            other => bits(&other.keys()),
        };
        match self {
            Self::One(command) => of(command),
            Self::Exec(commands) => commands.iter().fold(0, |all, command| all | of(command)),
            Self::Watch(keys) => bits(keys),
        }
    }

    /// Whether nothing depends on whether it was carried out.
    pub fn is_read(&self) -> bool {
        match self {
            Self::One(command) => command.is_read(),
            // They begin and end watches.
            Self::Exec(_) | Self::Watch(_) => false,
        }
    }
}

fn ok() -> Reply {
    Reply::Simple("OK".to_owned())
}
