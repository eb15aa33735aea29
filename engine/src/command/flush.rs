//! FLUSHALL and FLUSHDB, of one shard's part. Either way tables are handed over whole and freed in
//! slices, so ASYNC and SYNC differ in nothing that a client could see.

use super::context::Context;
use super::error::{CommandError, Outcome};
use super::parse::is_option;
use crate::resp::{Args, Reply};

/// FLUSHALL [ASYNC | SYNC]
pub(super) fn flushall(
    context: &mut Context<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Outcome {
    check_mode(args)?;
    context.clear(None);
    reply.ok();
    Ok(())
}

/// FLUSHDB [ASYNC | SYNC]
pub(super) fn flushdb(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    check_mode(args)?;
    context.clear(Some(context.db));
    reply.ok();
    Ok(())
}

/// Checks the arguments of either, for whoever sends it to all shards.
///
/// # Errors
/// [`CommandError::Syntax`].
pub fn check_mode(args: Args<'_>) -> Outcome {
    match args.get(1) {
        None => Ok(()),
        Some(mode) if args.len() == 2 && (is_option(mode, "ASYNC") || is_option(mode, "SYNC")) => {
            Ok(())
        }
        Some(_) => Err(CommandError::Syntax),
    }
}
