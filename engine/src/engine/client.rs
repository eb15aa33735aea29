//! The embedded client: commands from any thread or runtime, through the same dispatch and the same
//! durability gate as a socket, never through loopback.
//!
//! A command crosses to the shard that owns its first key; a batch crosses once to each shard that
//! its commands name. An error reply is a reply ([`Value::Error`]); `Err` means that the engine has
//! stopped.

use std::sync::Arc;

use crate::command::table::lookup;
use crate::net::InboxSender;
use crate::resp::{ArgsBuf, Value};
use crate::slot::{SlotMap, slot_of};
use crate::types::ShardId;

use super::error::Stopped;
use super::message::ToShard;

/// A handle to an engine. Cheap to clone; outlives the engine, and then says [`Stopped`].
#[derive(Clone, Debug)]
pub struct Client {
    shards: Arc<[InboxSender<ToShard>]>,
    slots: SlotMap,
}

impl Client {
    pub(super) fn new(shards: Arc<[InboxSender<ToShard>]>, slots: SlotMap) -> Self {
        Self { shards, slots }
    }

    /// Runs one command, the name first, and waits for its reply.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn execute<A: AsRef<[u8]>>(&self, args: &[A]) -> Result<Value, Stopped> {
        let args = to_args(args);
        let replies = self.submit(self.shard_of(&args), vec![args])?.recv();
        first(&replies.map_err(|_| Stopped)?)
    }

    /// Runs one command without blocking the thread; works on any runtime.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn execute_async<A: AsRef<[u8]>>(&self, args: &[A]) -> Result<Value, Stopped> {
        let args = to_args(args);
        let receiver = self.submit_async(self.shard_of(&args), vec![args]).await?;
        first(&receiver.recv_async().await.map_err(|_| Stopped)?)
    }

    /// Runs commands with one crossing for each shard. Commands for one shard keep their order;
    /// those for different shards may overlap. Replies come in the order of the commands.
    ///
    /// # Errors
    /// [`Stopped`]; some of the commands may have run.
    pub fn batch<A: AsRef<[u8]>>(&self, commands: &[Vec<A>]) -> Result<Vec<Value>, Stopped> {
        let mut waiting = Vec::new();
        for (shard, (places, commands)) in self.by_shard(commands) {
            waiting.push((places, self.submit(shard, commands)?));
        }
        let mut replies = vec![Value::Null; commands.len()];
        for (places, receiver) in waiting {
            fill(&mut replies, &places, &receiver.recv().map_err(|_| Stopped)?)?;
        }
        Ok(replies)
    }

    /// [`Self::batch`] without blocking the thread.
    ///
    /// # Errors
    /// As [`Self::batch`].
    pub async fn batch_async<A: AsRef<[u8]>>(
        &self,
        commands: &[Vec<A>],
    ) -> Result<Vec<Value>, Stopped> {
        let mut waiting = Vec::new();
        for (shard, (places, commands)) in self.by_shard(commands) {
            waiting.push((places, self.submit_async(shard, commands).await?));
        }
        let mut replies = vec![Value::Null; commands.len()];
        for (places, receiver) in waiting {
            fill(&mut replies, &places, &receiver.recv_async().await.map_err(|_| Stopped)?)?;
        }
        Ok(replies)
    }

    /// GET: the value, or none.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, CallError> {
        let value = checked(self.execute(&[b"GET", key.as_ref()])?)?;
        Ok(value.as_bytes().map(<[u8]>::to_vec))
    }

    /// SET.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), CallError> {
        checked(self.execute(&[b"SET", key.as_ref(), value.as_ref()])?).map(drop)
    }

    /// DEL: how many of the keys existed.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn del<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<u64, CallError> {
        let value = checked(self.execute(&named(b"DEL", keys))?)?;
        Ok(value.as_integer().unwrap_or_default().max(0) as u64)
    }

    /// MGET: for each key its value, or none.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn mget<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>, CallError> {
        let value = checked(self.execute(&named(b"MGET", keys))?)?;
        let values = value.as_array().unwrap_or_default();
        Ok(values.iter().map(|value| value.as_bytes().map(<[u8]>::to_vec)).collect())
    }

    /// MSET: all pairs, atomically.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn mset<K: AsRef<[u8]>, V: AsRef<[u8]>>(&self, pairs: &[(K, V)]) -> Result<(), CallError> {
        let mut args: Vec<&[u8]> = vec![b"MSET"];
        for (key, value) in pairs {
            args.extend([key.as_ref(), value.as_ref()]);
        }
        checked(self.execute(&args)?).map(drop)
    }

    /// INCR: the number after it.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn incr(&self, key: impl AsRef<[u8]>) -> Result<i64, CallError> {
        let value = checked(self.execute(&[b"INCR", key.as_ref()])?)?;
        Ok(value.as_integer().unwrap_or_default())
    }

    /// The shard that owns the first key of a command; any for one without keys.
    fn shard_of(&self, args: &ArgsBuf) -> ShardId {
        let args = args.as_args();
        let spec = args.get(0).and_then(lookup);
        let first = spec.and_then(|spec| spec.keys(args.len()).next());
        first.map_or(ShardId(0), |index| self.slots.owner(slot_of(&args[index])))
    }

    fn by_shard<A: AsRef<[u8]>>(
        &self,
        commands: &[Vec<A>],
    ) -> std::collections::BTreeMap<ShardId, (Vec<usize>, Vec<ArgsBuf>)> {
        let mut shards: std::collections::BTreeMap<_, (Vec<usize>, Vec<ArgsBuf>)> =
            std::collections::BTreeMap::new();
        for (place, command) in commands.iter().enumerate() {
            let args = to_args(command);
            let (places, commands) = shards.entry(self.shard_of(&args)).or_default();
            places.push(place);
            commands.push(args);
        }
        shards
    }

    fn submit(
        &self,
        shard: ShardId,
        commands: Vec<ArgsBuf>,
    ) -> Result<flume::Receiver<Vec<u8>>, Stopped> {
        let (reply, receiver) = flume::bounded(1);
        let message = ToShard::Submit { commands, reply };
        self.shards[shard.0 as usize].send(message).map_err(|_| Stopped)?;
        Ok(receiver)
    }

    async fn submit_async(
        &self,
        shard: ShardId,
        commands: Vec<ArgsBuf>,
    ) -> Result<flume::Receiver<Vec<u8>>, Stopped> {
        let (reply, receiver) = flume::bounded(1);
        let message = ToShard::Submit { commands, reply };
        self.shards[shard.0 as usize].send_async(message).await.map_err(|_| Stopped)?;
        Ok(receiver)
    }
}

/// Why a typed call has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The engine has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The engine's error reply, with its code.
    #[error("{0}")]
    Reply(String),
}

fn checked(value: Value) -> Result<Value, CallError> {
    match value.as_error() {
        Some(text) => Err(CallError::Reply(text.to_string())),
        None => Ok(value),
    }
}

fn named<'a, K: AsRef<[u8]>>(name: &'a [u8], keys: &'a [K]) -> Vec<&'a [u8]> {
    std::iter::once(name).chain(keys.iter().map(AsRef::as_ref)).collect()
}

fn to_args<A: AsRef<[u8]>>(args: &[A]) -> ArgsBuf {
    ArgsBuf::new(args.iter().map(AsRef::as_ref))
}

fn first(replies: &[u8]) -> Result<Value, Stopped> {
    next(&mut &*replies)
}

fn fill(replies: &mut [Value], places: &[usize], mut encoded: &[u8]) -> Result<(), Stopped> {
    for place in places {
        replies[*place] = next(&mut encoded)?;
    }
    Ok(())
}

/// Takes one reply of our own encoder off the front.
fn next(encoded: &mut &[u8]) -> Result<Value, Stopped> {
    if encoded.is_empty() {
        // A connection that QUIT has no more replies.
        return Err(Stopped);
    }
    let parsed = Value::parse(encoded).expect("our own encoder wrote the reply");
    let (value, length) = parsed.expect("a reply is whole");
    *encoded = &encoded[length..];
    Ok(value)
}
