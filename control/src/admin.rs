//! The commands that the control plane answers: SNAPSHOT and what Redis clients know of it (BGSAVE,
//! SAVE, LASTSAVE), and SHUTDOWN. Arguments in, replies out; the work is the coordinator's.

use cutwater_engine::engine::{AdminCall, AdminReplier};
use cutwater_engine::resp::{Args, Reply};
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::catalog::{Entry, EntryState};
use cutwater_snapshot::manifest::SnapshotKind;
use cutwater_snapshot::verify::VerifyReport;
use tokio::sync::watch;

use crate::coordinator::request::Accepted;
use crate::coordinator::{CoordinatorError, Deleted, Handle, Taken};
use crate::fault::{self, Fault};
use crate::keeping;
use crate::listing::{Field, REMOTE_FIELD, REMOTE_REASON_FIELD, fields};
use crate::status;
use crate::verify::DeepReport;

/// Answers calls until the engine is gone. `shutdown` is set by SHUTDOWN.
pub async fn serve(
    calls: flume::Receiver<AdminCall>,
    handle: Handle,
    shutdown: watch::Sender<bool>,
) {
    while let Ok(call) = calls.recv_async().await {
        tokio::spawn(answer(call, handle.clone(), shutdown.clone()));
    }
}

async fn answer(call: AdminCall, handle: Handle, shutdown: watch::Sender<bool>) {
    let AdminCall { args, client_id, reply, .. } = call;
    let args = args.as_args();
    let word = |index| args.get(index).map(<[u8]>::to_ascii_lowercase).unwrap_or_default();
    let (name, subcommand) = (word(0), word(1));
    match (name.as_slice(), subcommand.as_slice()) {
        (b"shutdown", _) => match refuse_shutdown(args) {
            Some(text) => reply.reply(|reply| reply.error(text)),
            None => {
                reply.silently();
                shutdown.send_replace(true);
            }
        },
        (b"bgsave", option) if !matches!(option, b"" | b"schedule") || args.len() > 2 => {
            reply.reply(|reply| reply.error(SYNTAX));
        }
        (b"bgsave", _) => match handle.begin_for(Some(client_id)).await {
            Ok(Accepted::Begins) => reply.reply(|reply| reply.simple("Background saving started")),
            Ok(Accepted::Waits) => reply.reply(|reply| reply.simple("Background saving scheduled")),
            Err(error) => reply.reply(|reply| refuse(reply, &error)),
        },
        (b"save", _) => match handle.create_for(SnapshotKind::Base, Some(client_id)).await {
            Ok(_) => reply.reply(|reply| reply.ok()),
            Err(error) => reply.reply(|reply| refuse(reply, &error)),
        },
        (b"lastsave", _) => match handle.status().await {
            Ok(status) => {
                let seconds = i64::try_from(status.last_created_at_us / 1_000_000);
                reply.reply(|reply| reply.integer(seconds.unwrap_or_default()));
            }
            Err(error) => reply.reply(|reply| refuse(reply, &error)),
        },
        (b"snapshot", b"create") => create(args, client_id, &handle, reply).await,
        (b"snapshot", b"cancel") => cancel(args, &handle, reply).await,
        (b"snapshot", b"list") => match handle.list().await {
            Ok(entries) => reply.reply(|reply| {
                reply.array(entries.len());
                entries.iter().for_each(|found| entry(reply, found, &handle));
            }),
            Err(error) => reply.reply(|reply| refuse(reply, &error)),
        },
        (b"snapshot", b"status") => match handle.status().await {
            Ok(found) => reply.reply(|reply| map(reply, &status::fields(&found))),
            Err(error) => reply.reply(|reply| refuse(reply, &error)),
        },
        (b"snapshot", b"pin" | b"unpin" | b"prune") => {
            keeping::answer(&subcommand, args, &handle, reply).await;
        }
        (b"snapshot", b"rekey") => {
            let all = args.get(2).is_some_and(|word| word.eq_ignore_ascii_case(b"all"));
            match (all, snapshot_id(args)) {
                (false, None) => reply.reply(|reply| reply.error("ERR syntax error: ALL or an id")),
                (_, id) => match handle.rekey(id).await {
                    Ok(count) => reply.reply(|reply| integer(reply, count)),
                    Err(error) => reply.reply(|reply| refuse(reply, &error)),
                },
            }
        }
        (b"snapshot", b"verify") => verify(args, client_id, &handle, reply).await,
        (b"snapshot", _) => match snapshot_id(args) {
            Some(id) => with_id(&subcommand, id, &handle, reply).await,
            None => reply.reply(|reply| reply.error(NO_ID)),
        },
        _ => reply.reply(|reply| reply.error("ERR unknown administrative command")),
    }
}

/// What is said of an id that is none.
const NO_ID: &str = "ERR a snapshot id is a whole number, as SNAPSHOT LIST shows it";

/// SNAPSHOT CANCEL \[id\]: the snapshot that is being taken. SNAPSHOT CANCEL VERIFY \[id\]:
/// verifications. SNAPSHOT CANCEL WAITING \[client\]: the request that waits for its snapshot.
async fn cancel(args: Args<'_>, handle: &Handle, reply: AdminReplier) {
    let is = |known: &[u8]| args.get(2).is_some_and(|word| word.eq_ignore_ascii_case(known));
    let (is_verify, is_waiting) = (is(b"verify"), is(b"waiting"));
    let (at, longest) = if is_verify || is_waiting { (3, 4) } else { (2, 3) };
    let number = match args.get(at).map(parse_number) {
        Some(None) if is_waiting => {
            return reply.reply(|reply| reply.error("ERR a client id is a whole number"));
        }
        Some(None) => return reply.reply(|reply| reply.error(NO_ID)),
        number => number.flatten(),
    };
    if args.len() > longest {
        let text = "ERR syntax error: CANCEL [id] | VERIFY [id] | WAITING [client]";
        return reply.reply(|reply| reply.error(text));
    }
    let id = number.map(SnapshotId);
    let outcome = match is_verify {
        _ if is_waiting => {
            return match handle.cancel_waiting(number).await {
                Ok(()) => reply.reply(|reply| reply.ok()),
                Err(error) => reply.reply(|reply| refuse(reply, &error)),
            };
        }
        true => handle.cancel_verify(id).await,
        false => handle.cancel(id).await.map(|id| id.0),
    };
    match outcome {
        Ok(number) => reply.reply(|reply| integer(reply, number)),
        Err(error) => reply.reply(|reply| refuse(reply, &error)),
    }
}

const SYNTAX: &str = "ERR syntax error";

/// Why a SHUTDOWN is none. Its options change nothing, for a stop never loses anything; but ABORT
/// asks for the contrary.
fn refuse_shutdown(args: Args<'_>) -> Option<&'static str> {
    let is = |word: &[u8], known: &str| word.eq_ignore_ascii_case(known.as_bytes());
    if args.len() == 2 && is(&args[1], "ABORT") {
        return Some("ERR No shutdown in progress.");
    }
    let known =
        |word: &[u8]| ["NOSAVE", "SAVE", "NOW", "FORCE"].iter().any(|known| is(word, known));
    let options = args.skip(1);
    let both = ["SAVE", "NOSAVE"].iter().all(|known| options.iter().any(|word| is(word, known)));
    (both || !options.iter().all(known)).then_some(SYNTAX)
}

/// SNAPSHOT CREATE \[BASE | DELTA\].
async fn create(args: Args<'_>, client: u64, handle: &Handle, reply: AdminReplier) {
    let kind = match args.get(2).map(<[u8]>::to_ascii_lowercase).as_deref() {
        None => Some(SnapshotKind::Base),
        Some(b"base") => Some(SnapshotKind::Base),
        Some(b"delta") => Some(SnapshotKind::Delta),
        Some(_) => None,
    };
    let Some(kind) = kind.filter(|_| args.len() <= 3) else {
        return reply.reply(|reply| reply.error("ERR syntax error: CREATE [BASE | DELTA]"));
    };
    match handle.create_for(kind, Some(client)).await {
        Ok(taken) => reply.reply(|reply| created(reply, &taken, handle)),
        Err(error) => reply.reply(|reply| refuse(reply, &error)),
    }
}

/// SNAPSHOT VERIFY id \[DEEP\].
async fn verify(args: Args<'_>, client: u64, handle: &Handle, reply: AdminReplier) {
    let Some(id) = snapshot_id(args) else {
        return reply.reply(|reply| reply.error(NO_ID));
    };
    let is_deep = args.get(3).is_some_and(|word| word.eq_ignore_ascii_case(b"deep"));
    if args.len() > 4 || (args.len() == 4 && !is_deep) {
        return reply.reply(|reply| reply.error("ERR syntax error: VERIFY id [DEEP]"));
    }
    let verified = async {
        match is_deep {
            true => handle.verify_deep(id, Some(client)).await.map(|deep| (deep.read, Some(deep))),
            false => handle.verify_for(id, Some(client)).await.map(|read| (read, None)),
        }
    };
    // A client that goes away does not wait for the answer, and then nobody reads on.
    let outcome = tokio::select! {
        outcome = verified => outcome,
        () = reply.client_gone() => Err(CoordinatorError::VerifyCancelled(id)),
    };
    match outcome {
        Ok((read, deep)) => reply.reply(|reply| whole(reply, id, &read, deep)),
        Err(error) => reply.reply(|reply| refuse(reply, &error)),
    }
}

async fn with_id(subcommand: &[u8], id: SnapshotId, handle: &Handle, reply: AdminReplier) {
    match subcommand {
        b"show" => match handle.list().await {
            Ok(entries) => reply.reply(|reply| match entries.iter().find(|e| e.id == id) {
                Some(found) => entry(reply, found, handle),
                None => {
                    reply.error(&format!("{} there is no snapshot {id}", Fault::NotFound.word()))
                }
            }),
            Err(error) => reply.reply(|reply| refuse(reply, &error)),
        },
        b"delete" => match handle.delete(id).await {
            Ok(Deleted::Everywhere) => reply.reply(|reply| reply.ok()),
            Ok(Deleted::RemotePending) => reply.reply(|reply| {
                reply.simple("OK: deleted here; the remote store's copy goes when it answers");
            }),
            Err(error) => reply.reply(|reply| refuse(reply, &error)),
        },
        _ => reply.reply(|reply| reply.error("ERR unknown subcommand. Try SNAPSHOT HELP.")),
    }
}

fn snapshot_id(args: Args<'_>) -> Option<SnapshotId> {
    parse_number(args.get(2)?).map(SnapshotId)
}

fn parse_number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn refuse(reply: &mut Reply<'_>, error: &CoordinatorError) {
    reply.error(&fault::reply_text(error));
}

/// The reply of CREATE: what SHOW says of it, and why it is a base if a delta was asked for.
fn created(reply: &mut Reply<'_>, taken: &Taken, handle: &Handle) {
    let manifest = &taken.manifest;
    let found = Entry {
        id: manifest.id(),
        name: Some(manifest.name()),
        state: EntryState::Published(Box::new(manifest.clone())),
        stored_bytes: manifest.meta().data_bytes,
    };
    let mut fields = entry_fields(&found, handle);
    if let Some(due) = &taken.instead {
        fields.push(("reason", Field::Text(format!("a base, not a delta: {due}"))));
    }
    map(reply, &fields);
}

/// The reply of VERIFY: what was read and found to be in order.
fn whole(reply: &mut Reply<'_>, id: SnapshotId, report: &VerifyReport, deep: Option<DeepReport>) {
    let mut fields = vec![
        ("id", id.0),
        ("objects", report.objects),
        ("bytes", report.bytes),
        ("chunks", report.chunks),
        ("entries", report.entries),
        ("tail_records", report.tail_records),
    ];
    if let Some(deep) = deep {
        fields.extend([("keys", deep.keys), ("snapshots", deep.snapshots as u64)]);
    }
    let fields: Vec<_> =
        fields.into_iter().map(|(name, number)| (name, Field::Number(number))).collect();
    map(reply, &fields);
}

fn entry(reply: &mut Reply<'_>, entry: &Entry, handle: &Handle) {
    map(reply, &entry_fields(entry, handle));
}

fn entry_fields(entry: &Entry, handle: &Handle) -> Vec<(&'static str, Field)> {
    let mut fields = fields(entry);
    if let Some(place) = handle.remote_place(entry) {
        fields.push((REMOTE_FIELD, Field::Text(place)));
    }
    if let Some(why) = handle.why_not_remote(entry) {
        fields.push((REMOTE_REASON_FIELD, Field::Text(why)));
    }
    fields
}

/// A map of fields.
pub(crate) fn map(reply: &mut Reply<'_>, fields: &[(&'static str, Field)]) {
    reply.map(fields.len());
    for (name, field) in fields {
        reply.bulk(name.as_bytes());
        value(reply, field);
    }
}

fn value(reply: &mut Reply<'_>, field: &Field) {
    match field {
        Field::Number(number) => integer(reply, *number),
        Field::Text(text) => reply.bulk(text.as_bytes()),
        Field::Nothing => reply.null(),
        Field::List(rows) => {
            reply.array(rows.len());
            rows.iter().for_each(|row| map(reply, row));
        }
    }
}

/// An integer, or its digits where it is beyond RESP's.
fn integer(reply: &mut Reply<'_>, number: u64) {
    match i64::try_from(number) {
        Ok(number) => reply.integer(number),
        Err(_) => reply.bulk(number.to_string().as_bytes()),
    }
}
