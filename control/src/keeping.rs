//! The SNAPSHOT commands about what stays: PIN, UNPIN and PRUNE. Arguments in, replies out.

use cutwater_engine::engine::AdminReplier;
use cutwater_engine::resp::{Args, Reply};
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::retention::{GOES, Policy};

use crate::config::{MAX_KEEP_LAST, parse_keep_for};
use crate::coordinator::Handle;
use crate::coordinator::pins::{PinError, Pinned};
use crate::coordinator::retention::{Kept, PruneError, What};
use crate::fault::{Fault, reply_text};

/// Answers `SNAPSHOT PIN id`, `SNAPSHOT UNPIN id` and
/// `SNAPSHOT PRUNE [DRYRUN] [KEEPLAST number] [KEEPFOR duration]`.
pub async fn answer(subcommand: &[u8], args: Args<'_>, handle: &Handle, reply: AdminReplier) {
    if subcommand == b"prune" {
        let Some((policy, is_dry)) = prune_args(args) else {
            return reply.reply(|reply| {
                reply.error("ERR syntax error: [DRYRUN] [KEEPLAST number] [KEEPFOR duration]");
            });
        };
        return match handle.prune(policy, is_dry).await {
            Ok(kept) => reply.reply(|reply| {
                reply.array(kept.len());
                kept.iter().for_each(|kept| write(reply, kept));
            }),
            Err(error) => reply.reply(|reply| reply.error(&prune_error(&error))),
        };
    }
    let text = args.get(2).and_then(|text| std::str::from_utf8(text).ok());
    let Some(id) = text.and_then(|text| text.parse().ok()).map(SnapshotId) else {
        return reply.reply(|reply| {
            reply.error("ERR a snapshot id is a whole number, as SNAPSHOT LIST shows it");
        });
    };
    let outcome = match subcommand {
        b"pin" => handle.pin(id).await,
        _ => handle.unpin(id).await.map(|()| Pinned::Everywhere),
    };
    match outcome {
        Ok(Pinned::Everywhere) => reply.reply(|reply| reply.ok()),
        Ok(Pinned::RemotePending) => reply.reply(|reply| {
            reply.simple("OK: pinned here; the remote store's copy when it is there and answers");
        }),
        Err(error) => reply.reply(|reply| reply.error(&pin_error(&error))),
    }
}

fn prune_error(error: &PruneError) -> String {
    let fault = match error {
        PruneError::Coordinator(error) => return reply_text(error),
        PruneError::Snapshot(error) => Fault::from(error),
        PruneError::Archive(error) => Fault::from(error),
    };
    format!("{} {error}", fault.word())
}

fn pin_error(error: &PinError) -> String {
    let fault = match error {
        PinError::Coordinator(error) => return reply_text(error),
        PinError::Remote(error) => Fault::from(error),
        PinError::NoAnswer => Fault::Unreachable,
    };
    format!("{} {error}", fault.word())
}

/// The policy, if one is given, and whether it is only asked.
fn prune_args(args: Args<'_>) -> Option<(Option<Policy>, bool)> {
    let (mut policy, mut is_given, mut is_dry) = (Policy::default(), false, false);
    let mut at = 2;
    while let Some(word) = args.get(at) {
        let value = || std::str::from_utf8(args.get(at + 1)?).ok();
        if word.eq_ignore_ascii_case(b"dryrun") {
            is_dry = true;
            at += 1;
            continue;
        } else if word.eq_ignore_ascii_case(b"keeplast") {
            let count: u32 = value()?.parse().ok()?;
            policy.keep_last = Some(count).filter(|count| (1..=MAX_KEEP_LAST).contains(count));
            policy.keep_last?;
        } else if word.eq_ignore_ascii_case(b"keepfor") {
            policy.keep_for = Some(parse_keep_for(value()?)?);
        } else {
            return None;
        }
        is_given = true;
        at += 2;
    }
    Some((is_given.then_some(policy), is_dry))
}

fn write(reply: &mut Reply<'_>, kept: &Kept) {
    reply.map(4);
    let what = match kept.what {
        What::Snapshot(id) => format!("snapshot {id}"),
        What::Log(first, last) => format!("log {first} to {last}"),
    };
    let why = kept.stay.map_or_else(|| GOES.to_owned(), |stay| stay.to_string());
    let goes = if kept.stay.is_none() { "goes" } else { "stays" };
    for (name, text) in [("store", kept.store), ("what", &what), ("goes", goes), ("why", &why)] {
        reply.bulk(name.as_bytes());
        reply.bulk(text.as_bytes());
    }
}
