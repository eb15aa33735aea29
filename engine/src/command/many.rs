//! Many strings at once: MGET, MSET and MSETNX, here with keys of one shard.

use super::context::Context;
use super::error::{CommandError, Outcome};
use super::string::{reply_range, value_of};
use crate::resp::{Args, Reply};

/// MGET key...: nil for a key that does not exist or holds no string.
pub(super) fn mget(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let keys = args.skip(1);
    reply.array(keys.len());
    for key in keys.iter() {
        let key = context.key(key);
        match context.read(&key).map(value_of) {
            Some(Ok(value)) => reply_range(reply, value, 0, value.len()),
            Some(Err(_)) | None => reply.null(),
        }
    }
    Ok(())
}

/// MSET key value...: of a key that is named twice the last value stays.
pub(super) fn mset(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    check_pairs(args, "mset")?;
    put_pairs(context, args);
    reply.ok();
    Ok(())
}

/// MSETNX key value...: all, or none if one of the keys exists.
pub(super) fn msetnx(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    check_pairs(args, "msetnx")?;
    let any_exists = args.skip(1).iter().step_by(2).any(|key| context.exists(&context.key(key)));
    if !any_exists {
        put_pairs(context, args);
    }
    reply.integer(i64::from(!any_exists));
    Ok(())
}

/// Checks that every key has a value. For whoever splits the command over shards: the parts would
/// not show what is wrong with the whole.
///
/// # Errors
/// [`CommandError::ArgumentCount`] with the command's name.
pub fn check_pairs(args: Args<'_>, command: &'static str) -> Outcome {
    if args.len().is_multiple_of(2) { Err(CommandError::ArgumentCount(command)) } else { Ok(()) }
}

fn put_pairs(context: &mut Context<'_>, args: Args<'_>) {
    let mut rest = args.skip(1).iter();
    while let (Some(key), Some(value)) = (rest.next(), rest.next()) {
        let key = context.key(key);
        context.put_string(&key, value, None);
    }
}
