//! Parts of strings: APPEND, STRLEN, SETRANGE and GETRANGE. A change is logged as its place and its
//! bytes, so that appending to a large value costs what is appended.

use super::context::Context;
use super::error::{CommandError, Outcome, check_len};
use super::parse;
use super::string::{lookup, read_string, reply_range};
use crate::resp::{Args, Reply};

/// APPEND key value
pub(super) fn append(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (key, tail) = (context.key(&args[1]), &args[2]);
    let old_len = lookup(context, &key)?.map(|(value, _)| value.len());
    check_len(old_len.unwrap_or(0), tail.len())?;
    match old_len {
        // The key comes into being even if nothing is appended.
        None => context.put_string(&key, tail, None),
        // Also if it is empty: who watches the key is told, as in Redis.
        Some(offset) => context.write_range(&key, offset, tail),
    }
    reply.integer((old_len.unwrap_or(0) + tail.len()) as i64);
    Ok(())
}

/// STRLEN key
pub(super) fn strlen(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let key = context.key(&args[1]);
    let value = read_string(context, &key)?;
    reply.integer(value.map_or(0, |value| value.len()) as i64);
    Ok(())
}

/// SETRANGE key offset value
pub(super) fn setrange(
    context: &mut Context<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Outcome {
    let offset = parse::integer(&args[2]).ok_or(CommandError::NotInteger)?;
    let offset = usize::try_from(offset).map_err(|_| CommandError::Offset)?;
    let (key, bytes) = (context.key(&args[1]), &args[3]);
    let old_len = lookup(context, &key)?.map_or(0, |(value, _)| value.len());
    if bytes.is_empty() {
        reply.integer(old_len as i64);
        return Ok(());
    }
    check_len(offset, bytes.len())?;
    context.write_range(&key, offset, bytes);
    reply.integer(old_len.max(offset + bytes.len()) as i64);
    Ok(())
}

/// GETRANGE key start end
pub(super) fn getrange(
    context: &mut Context<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Outcome {
    let start = parse::integer(&args[2]).ok_or(CommandError::NotInteger)?;
    let end = parse::integer(&args[3]).ok_or(CommandError::NotInteger)?;
    let key = context.key(&args[1]);
    let Some(value) = read_string(context, &key)? else {
        reply.bulk(b"");
        return Ok(());
    };
    match inclusive_range(start, end, value.len()) {
        None => reply.bulk(b""),
        Some((offset, len)) => reply_range(reply, value, offset, len),
    }
    Ok(())
}

/// Offset and length of the bytes from `start` to `end`, both inclusive and counted from the end
/// when negative. `None` if there are none.
fn inclusive_range(start: i64, end: i64, len: usize) -> Option<(usize, usize)> {
    if start < 0 && end < 0 && start > end {
        return None;
    }
    let len = len as i64;
    // As in Redis, an end far before the beginning still means the first byte.
    let place = |index: i64| if index < 0 { index.saturating_add(len).max(0) } else { index };
    let (start, end) = (place(start), place(end).min(len - 1));
    (start <= end).then(|| (start as usize, (end - start + 1) as usize))
}
