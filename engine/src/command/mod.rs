//! The commands: one table, and a file a family.
//!
//! On a write's journey this is the stage between the decoded request and the record. [`table`]
//! says what a request is and which keys it touches; the caller routes it to the shards that own
//! them, checks its number of arguments and what its flags demand, and has it run here by
//! [`execute`], on the keys of one shard and through a [`Context`]: the keyspace at one instant,
//! and the place where each change is written down as the [`crate::entry::Op`] that goes to the
//! log.
//!
//! | file | commands |
//! |---|---|
//! | `string` | SET GET GETDEL SETNX |
//! | `number` | INCR DECR INCRBY DECRBY INCRBYFLOAT, the last on `long_double` and `natural` |
//! | `range` | APPEND STRLEN SETRANGE GETRANGE |
//! | `expiry` | EXPIRE PEXPIRE EXPIREAT PEXPIREAT TTL PTTL PERSIST |
//! | [`keys`] | DEL UNLINK EXISTS TYPE RENAME COPY |
//! | [`many`] | MGET MSET MSETNX |
//! | [`scan`] | SCAN KEYS DBSIZE RANDOMKEY, the keys of a slot; patterns are read by [`glob`] |
//! | [`flush`] | FLUSHALL FLUSHDB |
//! | [`introspect`] | COMMAND, which needs no key; its syntaxes are read by `syntax` |
//!
//! [`parse`] reads arguments, [`error`] has the words of every refusal. Commands on the connection,
//! the server and transactions belong to [`crate::shard`]; so does a command whose keys lie on
//! several shards: it runs here too, on a scratch keyspace that holds just those keys.
//!
//! Invariants: a command that is refused has changed nothing; it checks first, in Redis' order, and
//! then changes. Commands read no clock and no random source but the context's.

pub mod context;
pub mod error;
mod expiry;
pub mod flush;
pub mod glob;
pub mod introspect;
pub mod keys;
mod long_double;
pub mod many;
mod natural;
mod number;
pub mod parse;
mod range;
pub mod scan;
mod string;
mod syntax;
pub mod table;

#[cfg(test)]
mod tests;

pub use context::{Context, Effects, Lookups, MAX_STRING_BYTES};
pub use error::CommandError;
pub use table::CommandId;

use error::Outcome;
use expiry::TimeForm;

use crate::resp::{Args, Reply};

/// Runs a command on the keys of one shard, and writes its reply. `args[0]` is the name as the
/// client gave it; the number of arguments is one that the table allows.
///
/// # Panics
/// If the arguments are fewer than the table allows, if a key is not of the context's keyspace, or
/// if the command is none on keys: all three are mistakes of the caller.
pub fn execute(id: CommandId, context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) {
    if let Err(error) = run(id, context, args, reply) {
        reply.error(&error.to_string());
    }
}

#[inline]
fn run(id: CommandId, context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match id {
        CommandId::Set => string::set(context, args, reply),
        CommandId::Get => string::get(context, args, reply),
        CommandId::GetDel => string::getdel(context, args, reply),
        CommandId::SetNx => string::setnx(context, args, reply),
        CommandId::Append => range::append(context, args, reply),
        CommandId::StrLen => range::strlen(context, args, reply),
        CommandId::SetRange => range::setrange(context, args, reply),
        CommandId::GetRange => range::getrange(context, args, reply),
        CommandId::Incr => number::add(context, args, 1, reply),
        CommandId::Decr => number::add(context, args, -1, reply),
        CommandId::IncrBy => number::incrby(context, args, reply),
        CommandId::DecrBy => number::decrby(context, args, reply),
        CommandId::IncrByFloat => number::incrbyfloat(context, args, reply),
        CommandId::MGet => many::mget(context, args, reply),
        CommandId::MSet => many::mset(context, args, reply),
        CommandId::MSetNx => many::msetnx(context, args, reply),
        CommandId::Del | CommandId::Unlink => keys::del(context, args, reply),
        CommandId::Exists => keys::exists(context, args, reply),
        CommandId::Type => keys::type_of(context, args, reply),
        CommandId::Rename => keys::rename(context, args, reply),
        CommandId::Copy => keys::copy(context, args, reply),
        CommandId::Expire => expiry::expire(context, args, TimeForm::IN_SECONDS, "expire", reply),
        CommandId::PExpire => {
            expiry::expire(context, args, TimeForm::IN_MILLISECONDS, "pexpire", reply)
        }
        CommandId::ExpireAt => {
            expiry::expire(context, args, TimeForm::AT_SECOND, "expireat", reply)
        }
        CommandId::PExpireAt => {
            expiry::expire(context, args, TimeForm::AT_MILLISECOND, "pexpireat", reply)
        }
        CommandId::Ttl => expiry::ttl(context, args, reply),
        CommandId::PTtl => expiry::pttl(context, args, reply),
        CommandId::Persist => expiry::persist(context, args, reply),
        CommandId::Scan => scan::scan(context, args, reply),
        CommandId::Keys => scan::keys(context, args, reply),
        CommandId::DbSize => scan::dbsize(context, reply),
        CommandId::RandomKey => scan::randomkey(context, reply),
        CommandId::ClusterCountKeysInSlot => scan::countkeysinslot(context, args, reply),
        CommandId::ClusterGetKeysInSlot => scan::getkeysinslot(context, args, reply),
        CommandId::FlushAll => flush::flushall(context, args, reply),
        CommandId::FlushDb => flush::flushdb(context, args, reply),
        other => unreachable!("{other:?} does not work on keys"),
    }
}
