//! Strings that are numbers: INCR, DECR, INCRBY, DECRBY and INCRBYFLOAT.

use super::context::Context;
use super::error::{CommandError, Outcome};
use super::long_double::LongDouble;
use super::parse;
use super::string::lookup;
use crate::resp::{Args, Reply};

/// Adds to the integer that a key holds; a key that does not exist counts as 0.
pub(super) fn add(
    context: &mut Context<'_>,
    args: Args<'_>,
    change: i64,
    reply: &mut Reply<'_>,
) -> Outcome {
    let key = context.key(&args[1]);
    let (old, expires_at_ms) = match lookup(context, &key)? {
        None => (0, None),
        Some((value, expires_at_ms)) => {
            let number = value.as_contiguous().and_then(parse::integer);
            (number.ok_or(CommandError::NotInteger)?, expires_at_ms)
        }
    };
    let new = old.checked_add(change).ok_or(CommandError::Overflow)?;
    context.put_string(&key, itoa::Buffer::new().format(new).as_bytes(), expires_at_ms);
    reply.integer(new);
    Ok(())
}

/// INCRBY key increment
pub(super) fn incrby(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let change = parse::integer(&args[2]).ok_or(CommandError::NotInteger)?;
    add(context, args, change, reply)
}

/// DECRBY key decrement
pub(super) fn decrby(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let decrement = parse::integer(&args[2]).ok_or(CommandError::NotInteger)?;
    let change = decrement.checked_neg().ok_or(CommandError::DecrementOverflow)?;
    add(context, args, change, reply)
}

/// INCRBYFLOAT key increment
pub(super) fn incrbyfloat(
    context: &mut Context<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Outcome {
    let key = context.key(&args[1]);
    let (old, expires_at_ms) = match lookup(context, &key)? {
        None => (LongDouble::parse(b"0"), None),
        Some((value, expires_at_ms)) => {
            (value.as_contiguous().and_then(LongDouble::parse), expires_at_ms)
        }
    };
    let old = old.ok_or(CommandError::NotFloat)?;
    let change = LongDouble::parse(&args[2]).ok_or(CommandError::NotFloat)?;
    let new = old.add(change).ok_or(CommandError::NotFinite)?.to_text();
    context.put_string(&key, new.as_bytes(), expires_at_ms);
    reply.bulk(new.as_bytes());
    Ok(())
}
