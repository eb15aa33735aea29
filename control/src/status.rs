//! Where the coordinator, the uploads and the archive stand, as named fields: what `SNAPSHOT
//! STATUS` answers and the command line shows, and the lines of `INFO persistence`. Pure.

use std::fmt::Write as _;

use cutwater_engine::types::Lsn;

use crate::coordinator::archive::ArchiveStatus;
use crate::coordinator::work::Running;
use crate::coordinator::{RemoteStatus, Status};
use crate::listing::{Field, kind_name, rfc_3339};
use crate::restore::text::{last_moment, moment};

/// The fields of `SNAPSHOT STATUS`, in their order. Those of the remote store and of the archive
/// are there if these are.
pub fn fields(status: &Status) -> Vec<(&'static str, Field)> {
    let running = status.running.as_ref();
    let progress = running.map(|running| running.progress);
    let number = |number: u64| Field::Number(number);
    let maybe = |number: Option<u64>| number.map_or(Field::Nothing, Field::Number);
    let text = |text: Option<&str>| text.map_or(Field::Nothing, |text| Field::Text(text.into()));
    let mut fields = vec![
        ("running", maybe(running.map(|running| running.id.0))),
        ("running_client", maybe(running.and_then(|running| running.client))),
        ("running_since", text(running.and_then(|r| rfc_3339(r.since_us)).as_deref())),
        ("written_bytes", number(progress.map_or(0, |progress| progress.done_bytes))),
        ("expected_bytes", maybe(progress.and_then(|progress| progress.expected_bytes))),
        ("written_entries", number(progress.map_or(0, |progress| progress.done_entries))),
        ("expected_entries", maybe(progress.and_then(|progress| progress.expected_entries))),
        ("waiting", text(status.waiting.map(|waiting| kind_name(waiting.kind)))),
        ("waiting_client", maybe(status.waiting.and_then(|waiting| waiting.origin.client()))),
        ("last", maybe(status.last.map(|id| id.0))),
        ("last_end_lsn", number(status.last_end_lsn.0)),
        ("last_created_at", text(last_created_at(status).as_deref())),
        ("last_data_bytes", number(status.last_data_bytes)),
        ("last_duration_ms", number(status.last_duration_us / 1_000)),
        ("published", number(status.published)),
        ("failed", number(status.failed)),
        ("cancelled", number(status.cancelled)),
        ("last_error", text(status.last_error.as_deref())),
        ("log_since_checkpoint_bytes", number(status.log_since_checkpoint_bytes)),
        ("checkpoint_at_bytes", number(status.checkpoint_at_bytes)),
        ("reading_back", number(status.reading_back as u64)),
        ("verifications", Field::List(status.verifications.iter().map(verification).collect())),
    ];
    if let Some(remote) = &status.remote {
        fields.push(("remote_store", text(Some(&remote.url))));
        fields.push(("remote_state", text(Some(remote.state))));
        fields.extend(remote_numbers(remote).map(|(name, count)| (name, number(count))));
        fields.push(("remote_uploading", maybe(remote.uploading.map(|upload| upload.id.0))));
        fields.push(("remote_last_error", text(remote.last_error.as_deref())));
        fields.push(("archive", text(Some(archive_word(status)))));
    }
    for (name, line) in status.archive.iter().flat_map(archive_lines) {
        fields.push((name, text(line.as_deref())));
    }
    if let Some(archive) = &status.archive {
        fields.push(("archive_lag_ms", maybe(lag_us(status, archive).map(|lag| lag / 1_000))));
    }
    fields
}

fn last_created_at(status: &Status) -> Option<String> {
    status.last.and_then(|_| rfc_3339(status.last_created_at_us))
}

/// Whether log goes to the remote store.
fn archive_word(status: &Status) -> &'static str {
    match status.archive {
        Some(_) => "on",
        None => "off (no log)",
    }
}

/// How far the archive is behind the present, in microseconds; `None` before its first object.
pub fn lag_us(status: &Status, archive: &ArchiveStatus) -> Option<u64> {
    let archived_to = Some(archive.archived_to).filter(|to| *to > Lsn::ZERO)?;
    Some(status.now_us.saturating_sub(archived_to.micros()))
}

fn verification(running: &Running) -> Vec<(&'static str, Field)> {
    let maybe = |number: Option<u64>| number.map_or(Field::Nothing, Field::Number);
    vec![
        ("id", Field::Number(running.id.0)),
        ("client", maybe(running.client)),
        ("since", rfc_3339(running.since_us).map_or(Field::Nothing, Field::Text)),
        ("verified_bytes", Field::Number(running.progress.done_bytes)),
        ("expected_bytes", maybe(running.progress.expected_bytes)),
    ]
}

/// Where the archive stands.
fn archive_lines(status: &ArchiveStatus) -> [(&'static str, Option<String>); 5] {
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

fn remote_numbers(remote: &RemoteStatus) -> [(&'static str, u64); 9] {
    let uploading = remote.uploading.as_ref();
    [
        ("remote_uploaded", remote.uploaded as u64),
        ("remote_pending", remote.pending as u64),
        ("remote_pending_bytes", remote.pending_bytes),
        ("remote_pending_deletions", remote.pending_deletions as u64),
        ("remote_failed", remote.failed as u64),
        ("remote_orphaned", remote.orphaned as u64),
        ("remote_uploading_percent", uploading.map_or(0, |upload| upload.percent())),
        ("remote_uploading_bytes", uploading.map_or(0, |upload| upload.done_bytes)),
        ("remote_uploading_total_bytes", uploading.map_or(0, |upload| upload.total_bytes)),
    ]
}

/// The snapshot lines of `INFO persistence`, with Redis' names where it has them.
pub fn persistence_info(status: &Status) -> String {
    let mut text = String::new();
    let lines = [
        ("rdb_bgsave_in_progress", u64::from(status.running.is_some())),
        ("rdb_last_save_time", status.last_created_at_us / 1_000_000),
        ("rdb_saves", status.published),
        ("snapshots_failed", status.failed),
        ("snapshots_cancelled", status.cancelled),
        ("snapshot_last_id", status.last.map_or(0, |id| id.0)),
        ("snapshot_last_end_lsn", status.last_end_lsn.0),
        ("snapshot_written_bytes", status.running.map_or(0, |r| r.progress.done_bytes)),
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
        let id = remote.uploading.map_or(0, |upload| upload.id.0);
        // A line is a line, whatever an error of the store consists of.
        let error = remote.last_error.as_deref().unwrap_or("none").replace(['\r', '\n'], " ");
        let _ = write!(text, "remote_uploading:{id}\r\nremote_last_error:{error}\r\n");
        let _ = write!(text, "archive:{}\r\n", archive_word(status));
    }
    for (name, line) in status.archive.iter().flat_map(archive_lines) {
        let line = line.as_deref().unwrap_or("none").replace(['\r', '\n'], " ");
        let _ = write!(text, "{name}:{line}\r\n");
    }
    text
}
