//! The embedded client: commands from any thread or runtime, through the same dispatch and the same
//! durability gate as a socket, never through loopback.
//!
//! A command crosses to the shard that owns its first key; a batch crosses once to each shard that
//! its commands name. An error reply is a reply ([`Value::Error`]); `Err` means that the engine has
//! stopped.
//!
//! Every call is a connection of its own: it begins in database 0 and ends with its replies. What a
//! command sets up for those after it (MULTI, WATCH, SELECT, HELLO ...) therefore works *within one
//! batch*: a batch that names such a command goes whole to one shard, and runs in order, as if it
//! had come through one socket. A MULTI without its EXEC is discarded at the end of the batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::command::table::{CommandId, resolve};
use crate::net::InboxSender;
use crate::resp::{Args, ArgsBuf, Value};
use crate::slot::{SlotMap, slot_of};
use crate::types::ShardId;

use super::error::{FailureCell, Stopped};
use super::message::ToShard;

/// A handle to an engine. Cheap to clone; outlives the engine, and then says [`Stopped`].
#[derive(Clone, Debug)]
pub struct Client {
    shards: Arc<[InboxSender<ToShard>]>,
    slots: SlotMap,
    failure: FailureCell,
}

/// Commands for one shard, and where in the batch each stands.
#[derive(Default)]
struct Crossing {
    places: Vec<usize>,
    commands: Vec<ArgsBuf>,
}

impl Client {
    pub(super) fn new(
        shards: Arc<[InboxSender<ToShard>]>,
        slots: SlotMap,
        failure: FailureCell,
    ) -> Self {
        Self { shards, slots, failure }
    }

    /// Runs one command, the name first, and waits for its reply.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn execute<A: AsRef<[u8]>>(&self, args: &[A]) -> Result<Value, Stopped> {
        let args = to_args(args);
        let replies = self.submit(self.shard_of(&args), vec![args])?.recv();
        Ok(next(&mut &*replies.map_err(|_| self.failure.stopped())?))
    }

    /// Runs one command without blocking the thread; works on any runtime.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn execute_async<A: AsRef<[u8]>>(&self, args: &[A]) -> Result<Value, Stopped> {
        let args = to_args(args);
        let receiver = self.submit_async(self.shard_of(&args), vec![args]).await?;
        let replies = receiver.recv_async().await;
        Ok(next(&mut &*replies.map_err(|_| self.failure.stopped())?))
    }

    /// Runs commands with one crossing for each shard, and answers their replies in order. Commands
    /// for one shard keep their order; those for different shards may overlap, unless one of them
    /// is about the connection (MULTI, SELECT ...): then the whole batch runs in order on one.
    ///
    /// # Errors
    /// [`Stopped`]; some of the commands may have run.
    pub fn batch<A: AsRef<[u8]>>(&self, commands: &[Vec<A>]) -> Result<Vec<Value>, Stopped> {
        let mut waiting = Vec::new();
        for (shard, crossing) in self.by_shard(commands) {
            waiting.push((crossing.places, self.submit(shard, crossing.commands)?));
        }
        let mut replies = vec![Value::Null; commands.len()];
        for (places, receiver) in waiting {
            let encoded = receiver.recv().map_err(|_| self.failure.stopped())?;
            fill(&mut replies, &places, &encoded);
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
        for (shard, crossing) in self.by_shard(commands) {
            waiting.push((crossing.places, self.submit_async(shard, crossing.commands).await?));
        }
        let mut replies = vec![Value::Null; commands.len()];
        for (places, receiver) in waiting {
            let encoded = receiver.recv_async().await.map_err(|_| self.failure.stopped())?;
            fill(&mut replies, &places, &encoded);
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

    /// The shard that owns the first key of a command; the first for one without keys.
    fn shard_of(&self, args: &ArgsBuf) -> ShardId {
        self.key_owner(args.as_args()).unwrap_or(ShardId(0))
    }

    fn key_owner(&self, args: Args<'_>) -> Option<ShardId> {
        // A request that is wrong has no keys: any shard can say so.
        let first = resolve(args).ok()?.keys(args.len()).next()?;
        Some(self.slots.owner(slot_of(&args[first])))
    }

    fn by_shard<A: AsRef<[u8]>>(&self, commands: &[Vec<A>]) -> BTreeMap<ShardId, Crossing> {
        let commands: Vec<ArgsBuf> = commands.iter().map(|command| to_args(command)).collect();
        let together = commands.iter().any(|args| is_about_connection(args.as_args()));
        let home = together.then(|| {
            let owner = commands.iter().find_map(|args| self.key_owner(args.as_args()));
            owner.unwrap_or(ShardId(0))
        });
        let mut shards = BTreeMap::<ShardId, Crossing>::new();
        for (place, args) in commands.into_iter().enumerate() {
            let shard = home.unwrap_or_else(|| self.shard_of(&args));
            let crossing = shards.entry(shard).or_default();
            crossing.places.push(place);
            crossing.commands.push(args);
        }
        shards
    }

    fn submit(
        &self,
        shard: ShardId,
        commands: Vec<ArgsBuf>,
    ) -> Result<flume::Receiver<Vec<u8>>, Stopped> {
        let (message, receiver) = submission(commands);
        self.shards[shard.0 as usize].send(message).map_err(|_| self.failure.stopped())?;
        Ok(receiver)
    }

    async fn submit_async(
        &self,
        shard: ShardId,
        commands: Vec<ArgsBuf>,
    ) -> Result<flume::Receiver<Vec<u8>>, Stopped> {
        let (message, receiver) = submission(commands);
        let sent = self.shards[shard.0 as usize].send_async(message).await;
        sent.map_err(|_| self.failure.stopped())?;
        Ok(receiver)
    }
}

/// Why a typed call has no result.
#[derive(Clone, Debug, thiserror::Error)]
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

/// A message with commands, and where their replies will be.
fn submission(commands: Vec<ArgsBuf>) -> (ToShard, flume::Receiver<Vec<u8>>) {
    let (reply, receiver) = flume::bounded(1);
    (ToShard::Submit { commands, reply }, receiver)
}

fn to_args<A: AsRef<[u8]>>(args: &[A]) -> ArgsBuf {
    ArgsBuf::new(args.iter().map(AsRef::as_ref))
}

/// Whether a command changes or asks for what its connection was told before.
fn is_about_connection(args: Args<'_>) -> bool {
    use CommandId as C;
    resolve(args).is_ok_and(|spec| {
        spec.full_name.starts_with("client|")
            || matches!(
                spec.id,
                C::Multi
                    | C::Exec
                    | C::Discard
                    | C::Watch
                    | C::Unwatch
                    | C::Select
                    | C::Hello
                    | C::Auth
                    | C::Reset
                    | C::Quit
            )
    })
}

fn fill(replies: &mut [Value], places: &[usize], mut encoded: &[u8]) {
    for place in places {
        replies[*place] = next(&mut encoded);
    }
}

/// Takes one reply of our own encoder off the front.
fn next(encoded: &mut &[u8]) -> Value {
    if encoded.is_empty() {
        // What stands behind a QUIT is not run.
        return Value::Error("ERR the connection of this batch was closed".into());
    }
    let parsed = Value::parse(encoded).expect("our own encoder wrote the reply");
    let (value, length) = parsed.expect("a reply is whole");
    *encoded = &encoded[length..];
    value
}
