//! The SNAPSHOT commands about what stays: PIN, UNPIN and PRUNE. Arguments in, replies out.

use cutwater_engine::engine::AdminReplier;
use cutwater_engine::resp::{Args, Value};
use cutwater_engine::types::{Lsn, SnapshotId};
use cutwater_snapshot::ident::{Fork, HistoryId};
use cutwater_snapshot::plan::{Hole, Restorable, Window};
use cutwater_snapshot::retention::{GOES, Policy};

use crate::admin::map;
use crate::config::{MAX_KEEP_LAST, parse_keep_for};
use crate::coordinator::Handle;
use crate::coordinator::pins::{PinError, Pinned};
use crate::coordinator::retention::{Kept, PruneError, Pruned, What};
use crate::fault::{Fault, reply_text};
use crate::listing::Field;

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
            Ok(pruned) => reply.reply(|reply| map(reply, &fields(&pruned))),
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

/// The reply of PRUNE: `rows`, and the `windows` that stay, history by history.
fn fields(pruned: &Pruned) -> Vec<(&'static str, Field)> {
    let rows = pruned.kept.iter().map(row).collect();
    let windows = pruned.windows.iter().map(restorable).collect();
    vec![("rows", Field::List(rows)), ("windows", Field::List(windows))]
}

fn row(kept: &Kept) -> Vec<(&'static str, Field)> {
    let what = match kept.what {
        What::Snapshot(id) => format!("snapshot {id}"),
        What::Log(first, last) => format!("log {first} to {last}"),
    };
    let why = kept.stay.map_or_else(|| GOES.to_owned(), |stay| stay.to_string());
    let goes = if kept.stay.is_none() { "goes" } else { "stays" };
    let text = |text: &str| Field::Text(text.to_owned());
    vec![
        ("store", text(kept.store)),
        ("what", Field::Text(what)),
        ("goes", text(goes)),
        ("why", Field::Text(why)),
    ]
}

/// What [`restorable_of`] reads.
fn restorable(one: &Restorable) -> Vec<(&'static str, Field)> {
    let pair = |names: [&'static str; 2], first: Lsn, last: Lsn| {
        vec![(names[0], Field::Number(first.0)), (names[1], Field::Number(last.0))]
    };
    let windows = one.windows.iter().map(|it| pair(WINDOW, it.first, it.last)).collect();
    let holes = one.holes.iter().map(|it| pair(HOLE, it.after, it.before)).collect();
    let fork = |field: fn(Fork) -> Field| one.fork.map_or(Field::Nothing, field);
    vec![
        ("history", Field::Text(one.history.to_string())),
        ("current", Field::Number(one.is_current.into())),
        ("parent", fork(|fork| Field::Text(fork.parent.to_string()))),
        ("fork_lsn", fork(|fork| Field::Number(fork.lsn.0))),
        ("windows", Field::List(windows)),
        ("holes", Field::List(holes)),
    ]
}

const WINDOW: [&str; 2] = ["first_lsn", "last_lsn"];
const HOLE: [&str; 2] = ["after_lsn", "before_lsn"];

/// One of the `windows` of PRUNE's reply; `None` if it is something else.
pub fn restorable_of(value: &Value) -> Option<Restorable> {
    let number = |map: &Value, name: &str| -> Option<u64> {
        let value = map.field(name)?;
        match value.as_integer() {
            Some(number) => number.try_into().ok(),
            // What is beyond the protocol's integers comes as its digits.
            None => value.as_str()?.parse().ok(),
        }
    };
    let pairs = |list: &str, names: [&str; 2]| -> Option<Vec<(Lsn, Lsn)>> {
        let of = |it: &Value| Some((Lsn(number(it, names[0])?), Lsn(number(it, names[1])?)));
        value.field(list)?.as_array()?.iter().map(of).collect()
    };
    let history = |name: &str| HistoryId::parse(value.field(name)?.as_str()?);
    let windows = pairs("windows", WINDOW)?.into_iter();
    let holes = pairs("holes", HOLE)?.into_iter();
    let fork = history("parent").zip(number(value, "fork_lsn"));
    Some(Restorable {
        history: history("history")?,
        fork: fork.map(|(parent, lsn)| Fork { parent, lsn: Lsn(lsn) }),
        is_current: number(value, "current")? > 0,
        windows: windows.map(|(first, last)| Window { first, last }).collect(),
        holes: holes.map(|(after, before)| Hole { after, before }).collect(),
    })
}
