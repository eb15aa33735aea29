//! Keys whatever they hold: DEL, UNLINK, EXISTS, TYPE, RENAME and COPY.

use super::context::Context;
use super::error::{CommandError, Outcome};
use super::parse::{self, is_option};
use crate::resp::{Args, Reply};
use crate::types::{DATABASE_COUNT, DbIndex};

/// DEL | UNLINK key...: how many there were. Large values are freed in slices either way.
pub(super) fn del(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let removed = args.skip(1).iter().filter(|key| context.remove(&context.key(key))).count();
    reply.integer(removed as i64);
    Ok(())
}

/// EXISTS key...: a key that is named twice counts twice.
pub(super) fn exists(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let keys = args.skip(1);
    let found = keys.iter().filter(|key| context.read(&context.key(key)).is_some()).count();
    reply.integer(found as i64);
    Ok(())
}

/// TYPE key
pub(super) fn type_of(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let key = context.key(&args[1]);
    let entry = context.read(&key);
    reply.simple(entry.map_or("none", |entry| entry.kind().name()));
    Ok(())
}

/// RENAME key newkey: value and expiry move, whatever newkey held.
pub(super) fn rename(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (source, target) = (context.key(&args[1]), context.key(&args[2]));
    if args[1] == args[2] {
        if !context.exists(&source) {
            return Err(CommandError::NoSuchKey);
        }
    } else {
        let entry = context.get_owned(&source).ok_or(CommandError::NoSuchKey)?;
        context.remove(&source);
        context.put_entry(&target, entry);
    }
    reply.ok();
    Ok(())
}

/// The options of COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyOptions {
    /// The database that is written to.
    pub db: DbIndex,
    /// Whether the destination may exist.
    pub replace: bool,
}

/// COPY source destination [DB destination-db] [REPLACE]
pub(super) fn copy(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let options = CopyOptions::parse(args, context.db)?;
    if options.db == context.db && args[1] == args[2] {
        return Err(CommandError::SameObject);
    }
    let (source, target) = (context.key(&args[1]), context.key_in(options.db, &args[2]));
    let entry = match context.get_owned(&source) {
        Some(entry) if options.replace || !context.exists(&target) => entry,
        _ => {
            reply.integer(0);
            return Ok(());
        }
    };
    context.put_entry(&target, entry);
    reply.integer(1);
    Ok(())
}

impl CopyOptions {
    /// Reads the options behind `COPY source destination` of a client in the database `current`;
    /// also for whoever must know where the command writes before it runs.
    ///
    /// # Errors
    /// What the command answers: [`CommandError::Syntax`], or one that says what is wrong with the
    /// database.
    pub fn parse(args: Args<'_>, current: DbIndex) -> Result<Self, CommandError> {
        let mut options = Self { db: current, replace: false };
        let mut rest = args.skip(3).iter();
        while let Some(option) = rest.next() {
            if is_option(option, "REPLACE") {
                options.replace = true;
            } else if is_option(option, "DB") {
                options.db = parse_db(rest.next().ok_or(CommandError::Syntax)?)?;
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(options)
    }
}

fn parse_db(text: &[u8]) -> Result<DbIndex, CommandError> {
    let number = parse::integer(text).ok_or(CommandError::NotInteger)?;
    let number = i32::try_from(number).map_err(|_| CommandError::NotInteger32)?;
    match u8::try_from(number) {
        Ok(db) if db < DATABASE_COUNT => Ok(DbIndex(db)),
        _ => Err(CommandError::Database),
    }
}
