//! `cutwater snapshot status`: what a server is doing about snapshots, uploads and the archive,
//! once or again and again.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use indicatif::HumanBytes;

use super::failure::Failure;
use super::progress::{LiveText, duration};
use super::row::Row;
use super::server::{Server, ServerArgs, Status, number};
use super::{Variables, output, pretty};
use crate::interrupt::Interrupts;

/// How often it is looked again.
const INTERVAL: Duration = Duration::from_secs(1);

/// Which server, and how it is shown.
#[derive(clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Look again every second, until a signal
    #[arg(long)]
    watch: bool,
    /// Print a JSON object, with --watch one a line
    #[arg(long)]
    json: bool,
}

/// Shows the status.
pub fn execute(args: &StatusArgs, variables: &Variables) -> Result<(), Failure> {
    let mut server = Server::connect(&args.server, variables)?;
    if !args.watch {
        let status = server.status()?;
        let shown = match args.json {
            true => pretty(&row(&server, &status)?),
            false => text(&status, None),
        };
        return output::print(&shown);
    }
    let interrupts = Interrupts::listen().map_err(Failure::Setup)?;
    let live = LiveText::new();
    let mut before: Option<(Instant, Status)> = None;
    loop {
        let (now, status) = (Instant::now(), server.status()?);
        match args.json {
            true => {
                let line = serde_json::to_string(&row(&server, &status)?);
                output::print(&line.expect("text, numbers and lists always have a JSON form"))?;
            }
            false => {
                let before = before.as_ref().map(|(at, status)| (now.duration_since(*at), status));
                live.show(&text(&status, before))?;
            }
        }
        before = Some((now, status));
        let deadline = now + INTERVAL;
        while Instant::now() < deadline {
            if let Some(by) = interrupts.received() {
                return Err(Failure::Interrupted { by, what: String::new() });
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

fn row(server: &Server, status: &Status) -> Result<Row, Failure> {
    Row::of_fields(&status.0).map_err(|reason| server.unexpected(reason))
}

/// A line for each thing that goes on; the rates are those since `before`.
fn text(status: &Status, before: Option<(Duration, &Status)>) -> String {
    let count = |name| status.number(name).unwrap_or(0);
    let mut text = String::new();
    match status.number("running") {
        None => text.push_str("snapshot  none is being taken"),
        Some(id) => {
            let part = part(
                (count("written_bytes"), status.number("expected_bytes")),
                "about ",
                before.filter(|(_, old)| old.number("running") == Some(id)),
                |old| old.number("written_bytes"),
            );
            let _ = write!(text, "snapshot  {id}: {part}");
        }
    }
    if let Some(kind) = status.text("waiting") {
        let _ = write!(text, "\nwaiting   a {kind} that was asked for, until that is over");
    }
    match status.number("last") {
        None => text.push_str("\nlast      none"),
        Some(id) => {
            let bytes = HumanBytes(count("last_data_bytes"));
            let _ = write!(text, "\nlast      {id}, {bytes}");
            if let Some(created) = status.text("last_created_at") {
                let _ = write!(text, ", {created}");
            }
        }
    }
    if let Some(error) = status.text("last_error") {
        let _ = write!(text, "\nerror     {error}");
    }
    for one in status.verifications() {
        let bytes = (number(one, "verified_bytes").unwrap_or(0), number(one, "expected_bytes"));
        let id = number(one, "id").unwrap_or(0);
        let _ = write!(text, "\nverify    {id}: {}", part(bytes, "", None, |_| None));
    }
    let (since, at) = (count("log_since_checkpoint_bytes"), count("checkpoint_at_bytes"));
    let _ = write!(
        text,
        "\nlog       {} since the last checkpoint, the next comes at {}",
        HumanBytes(since),
        HumanBytes(at)
    );
    remote(&mut text, status, before);
    text
}

fn remote(text: &mut String, status: &Status, before: Option<(Duration, &Status)>) {
    let count = |name| status.number(name).unwrap_or(0);
    let Some(store) = status.text("remote_store") else { return };
    let state = status.text("remote_state").unwrap_or("unknown");
    let _ = write!(text, "\nremote    {store} ({state})");
    if let Some(error) = status.text("remote_last_error") {
        let _ = write!(text, ": {error}");
    }
    if let Some(id) = status.number("remote_uploading") {
        let total = status.number("remote_uploading_total_bytes");
        let before = before.filter(|(_, old)| old.number("remote_uploading") == Some(id));
        let done = count("remote_uploading_bytes");
        let part = part((done, total), "", before, |old| old.number("remote_uploading_bytes"));
        let _ = write!(text, "\nupload    {id}: {part}");
    }
    let _ = write!(
        text,
        "\nuploads   {} there, {} pending ({}), {} failed, {} orphaned, {} deletions pending",
        count("remote_uploaded"),
        count("remote_pending"),
        HumanBytes(count("remote_pending_bytes")),
        count("remote_failed"),
        count("remote_orphaned"),
        count("remote_pending_deletions")
    );
    if let Some(lag_ms) = status.number("archive_lag_ms") {
        let backlog = HumanBytes(count("archive_backlog_bytes"));
        let lag = duration(lag_ms / 1_000);
        let to = status.text("archived_to").unwrap_or("nothing yet");
        let _ = write!(text, "\narchive   up to {to}, {lag} behind, {backlog} of log wait");
    }
    if status.text("archive").is_some_and(|word| word != "on") {
        text.push_str("\narchive   off: the server keeps no log, so there is nothing to archive");
    }
    for (word, name) in [("error", "archive_last_error"), ("gap", "archive_gap")] {
        if let Some(what) = status.text(name) {
            let _ = write!(text, "\narchive   {word}: {what}");
        }
    }
}

/// How far something is, and how fast if it was seen before.
fn part(
    (done, total): (u64, Option<u64>),
    about: &str,
    before: Option<(Duration, &Status)>,
    done_then: impl Fn(&Status) -> Option<u64>,
) -> String {
    let mut text = match total.filter(|total| *total > 0) {
        Some(total) => {
            let percent = (u128::from(done) * 100 / u128::from(total)).min(100);
            format!("{percent}%, {} of {about}{}", HumanBytes(done), HumanBytes(total))
        }
        None => HumanBytes(done).to_string(),
    };
    let then = before.and_then(|(elapsed, old)| Some((elapsed, done_then(old)?)));
    if let Some((elapsed, then)) = then {
        let rate = (done.saturating_sub(then) as f64 / elapsed.as_secs_f64()) as u64;
        let _ = write!(text, ", {}/s", HumanBytes(rate));
        let left = total.map(|total| total.saturating_sub(done));
        if let Some(seconds) = left.and_then(|left| left.checked_div(rate)) {
            let _ = write!(text, ", {} left", duration(seconds));
        }
    }
    text
}
