//! The commands that the control plane answers: SNAPSHOT and what Redis clients know of it (BGSAVE,
//! SAVE, LASTSAVE), and SHUTDOWN. Arguments in, replies out; the work is the coordinator's.

use std::fmt::Write as _;

use cutwater_engine::engine::AdminCall;
use cutwater_engine::resp::{Args, Reply};
use cutwater_engine::types::{Lsn, SnapshotId};
use cutwater_snapshot::catalog::Entry;
use cutwater_snapshot::manifest::Manifest;
use tokio::sync::watch;

use crate::coordinator::archive::ArchiveStatus;
use crate::coordinator::{CoordinatorError, Deleted, Handle, RemoteStatus, Status};
use crate::listing::{Field, REMOTE_FIELD, fields};
use crate::restore::text::{last_moment, moment};

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
    let AdminCall { args, reply, .. } = call;
    let args = args.as_args();
    let word = |index| args.get(index).map(<[u8]>::to_ascii_lowercase).unwrap_or_default();
    let (name, subcommand) = (word(0), word(1));
    match (name.as_slice(), subcommand.as_slice()) {
        (b"shutdown", _) => {
            reply.silently();
            shutdown.send_replace(true);
        }
        (b"bgsave", _) => match begin_in_background(&handle).await {
            Ok(()) => reply.reply(|reply| reply.simple("Background saving started")),
            Err(error) => reply.reply(|reply| refuse(reply, &error)),
        },
        (b"save", _) => match handle.create().await {
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
        (b"snapshot", b"create") => match handle.create().await {
            Ok(manifest) => reply.reply(|reply| created(reply, &manifest)),
            Err(error) => reply.reply(|reply| refuse(reply, &error)),
        },
        (b"snapshot", b"list") => match handle.list().await {
            Ok(entries) => reply.reply(|reply| {
                reply.array(entries.len());
                entries.iter().for_each(|found| entry(reply, found, &handle));
            }),
            Err(error) => reply.reply(|reply| refuse(reply, &error)),
        },
        (b"snapshot", b"status") => match handle.status().await {
            Ok(found) => reply.reply(|reply| status(reply, &found)),
            Err(error) => reply.reply(|reply| refuse(reply, &error)),
        },
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
        (b"snapshot", _) => match snapshot_id(args) {
            Some(id) => with_id(&subcommand, id, &handle, reply).await,
            None => reply.reply(|reply| {
                reply.error("ERR a snapshot id is a whole number, as SNAPSHOT LIST shows it");
            }),
        },
        _ => reply.reply(|reply| reply.error("ERR unknown administrative command")),
    }
}

async fn with_id(
    subcommand: &[u8],
    id: SnapshotId,
    handle: &Handle,
    reply: cutwater_engine::engine::AdminReplier,
) {
    match subcommand {
        b"show" => match handle.list().await {
            Ok(entries) => reply.reply(|reply| match entries.iter().find(|e| e.id == id) {
                Some(found) => entry(reply, found, handle),
                None => reply.error(&format!("ERR there is no snapshot {id}")),
            }),
            Err(error) => reply.reply(|reply| refuse(reply, &error)),
        },
        b"verify" => match handle.verify(id).await {
            Ok(_) => reply.reply(|reply| reply.ok()),
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

/// Starts a snapshot and does not wait for it; an error only if one is under way.
async fn begin_in_background(handle: &Handle) -> Result<(), CoordinatorError> {
    if let Some(running) = handle.status().await?.running {
        return Err(CoordinatorError::Busy(running));
    }
    let handle = handle.clone();
    tokio::spawn(async move {
        // How it ended is in STATUS, INFO and the log.
        let _ = handle.create().await;
    });
    Ok(())
}

fn snapshot_id(args: Args<'_>) -> Option<SnapshotId> {
    let text = std::str::from_utf8(args.get(2)?).ok()?;
    text.parse().ok().map(SnapshotId)
}

fn refuse(reply: &mut Reply<'_>, error: &CoordinatorError) {
    reply.error(&format!("ERR {error}"));
}

/// The reply of CREATE: the id and the LSNs.
fn created(reply: &mut Reply<'_>, manifest: &Manifest) {
    let meta = manifest.meta();
    reply.map(4);
    for (name, number) in [
        ("id", manifest.id().0),
        ("begin_lsn", meta.begin_lsn.0),
        ("end_lsn", meta.end_lsn.0),
        ("data_bytes", meta.data_bytes),
    ] {
        reply.bulk(name.as_bytes());
        integer(reply, number);
    }
}

fn entry(reply: &mut Reply<'_>, entry: &Entry, handle: &Handle) {
    let mut fields = fields(entry);
    if let Some(place) = handle.remote_place(entry) {
        fields.push((REMOTE_FIELD, Field::Text(place)));
    }
    reply.map(fields.len());
    for (name, field) in fields {
        reply.bulk(name.as_bytes());
        match field {
            Field::Number(number) => integer(reply, number),
            Field::Text(text) => reply.bulk(text.as_bytes()),
            Field::Nothing => reply.null(),
        }
    }
}

fn status(reply: &mut Reply<'_>, status: &Status) {
    let remote = if status.remote.is_some() { REMOTE_FIELDS } else { 0 };
    let archive = if status.archive.is_some() { ARCHIVE_FIELDS } else { 0 };
    reply.map(9 + remote + archive);
    let numbers = [
        ("written_bytes", status.written_bytes),
        ("last_end_lsn", status.last_end_lsn.0),
        ("published", status.published),
        ("failed", status.failed),
        ("log_since_checkpoint_bytes", status.log_since_checkpoint_bytes),
        ("checkpoint_at_bytes", status.checkpoint_at_bytes),
    ];
    for (name, number) in numbers {
        reply.bulk(name.as_bytes());
        integer(reply, number);
    }
    for (name, id) in [("running", status.running), ("last", status.last)] {
        reply.bulk(name.as_bytes());
        match id {
            Some(id) => integer(reply, id.0),
            None => reply.null(),
        }
    }
    reply.bulk(b"last_error");
    reply.bulk_or_null(status.last_error.as_deref().map(str::as_bytes));
    if let Some(remote) = &status.remote {
        remote_status(reply, remote);
    }
    if let Some(archive) = &status.archive {
        for (name, text) in archive_lines(archive) {
            reply.bulk(name.as_bytes());
            reply.bulk_or_null(text.as_deref().map(str::as_bytes));
        }
    }
}

/// How many fields [`archive_lines`] gives.
const ARCHIVE_FIELDS: usize = 5;

/// Where the archive stands.
fn archive_lines(status: &ArchiveStatus) -> [(&'static str, Option<String>); ARCHIVE_FIELDS] {
    let gap = status.gap.map(|(after, to)| format!("{} to {}", moment(after), moment(to)));
    let archived_to = (status.archived_to > Lsn::ZERO).then(|| last_moment(status.archived_to));
    [
        ("archived_to", archived_to),
        ("archived_to_lsn", Some(status.archived_to.to_string())),
        ("archive_backlog_bytes", Some(status.backlog_bytes.to_string())),
        ("archive_last_error", status.last_error.clone()),
        ("archive_gap", gap),
    ]
}

/// How many fields [`remote_status`] writes.
const REMOTE_FIELDS: usize = 9;

fn remote_status(reply: &mut Reply<'_>, remote: &RemoteStatus) {
    for (name, text) in [("remote_store", remote.url.as_str()), ("remote_state", remote.state)] {
        reply.bulk(name.as_bytes());
        reply.bulk(text.as_bytes());
    }
    for (name, number) in remote_numbers(remote) {
        reply.bulk(name.as_bytes());
        integer(reply, number);
    }
    reply.bulk(b"remote_uploading");
    match remote.uploading {
        Some((id, _)) => integer(reply, id.0),
        None => reply.null(),
    }
    reply.bulk(b"remote_last_error");
    reply.bulk_or_null(remote.last_error.as_deref().map(str::as_bytes));
}

fn remote_numbers(remote: &RemoteStatus) -> [(&'static str, u64); 5] {
    [
        ("remote_uploaded", remote.uploaded as u64),
        ("remote_pending", remote.pending as u64),
        ("remote_pending_deletions", remote.pending_deletions as u64),
        ("remote_failed", remote.failed as u64),
        ("remote_uploading_percent", remote.uploading.map_or(0, |(_, percent)| percent)),
    ]
}

/// An integer, or its digits where it is beyond RESP's.
fn integer(reply: &mut Reply<'_>, number: u64) {
    match i64::try_from(number) {
        Ok(number) => reply.integer(number),
        Err(_) => reply.bulk(number.to_string().as_bytes()),
    }
}

/// The snapshot lines of `INFO persistence`, with Redis' names where it has them.
pub fn persistence_info(status: &Status) -> String {
    let mut text = String::new();
    let lines = [
        ("rdb_bgsave_in_progress", u64::from(status.running.is_some())),
        ("rdb_last_save_time", status.last_created_at_us / 1_000_000),
        ("rdb_saves", status.published),
        ("snapshots_failed", status.failed),
        ("snapshot_last_id", status.last.map_or(0, |id| id.0)),
        ("snapshot_last_end_lsn", status.last_end_lsn.0),
        ("snapshot_written_bytes", status.written_bytes),
        ("log_since_checkpoint_bytes", status.log_since_checkpoint_bytes),
        ("checkpoint_at_bytes", status.checkpoint_at_bytes),
    ];
    for (name, number) in lines {
        let _ = write!(text, "{name}:{number}\r\n");
    }
    let ok = if status.last_error.is_none() { "ok" } else { "err" };
    let _ = write!(text, "rdb_last_bgsave_status:{ok}\r\n");
    if let Some(remote) = &status.remote {
        let _ = write!(text, "remote_store:{}\r\nremote_state:{}\r\n", remote.url, remote.state);
        for (name, number) in remote_numbers(remote) {
            let _ = write!(text, "{name}:{number}\r\n");
        }
        let id = remote.uploading.map_or(0, |(id, _)| id.0);
        // A line is a line, whatever an error of the store consists of.
        let error = remote.last_error.as_deref().unwrap_or("none").replace(['\r', '\n'], " ");
        let _ = write!(text, "remote_uploading:{id}\r\nremote_last_error:{error}\r\n");
    }
    for (name, line) in status.archive.iter().flat_map(archive_lines) {
        let line = line.as_deref().unwrap_or("none").replace(['\r', '\n'], " ");
        let _ = write!(text, "{name}:{line}\r\n");
    }
    text
}
