//! `cutwater snapshot create`: asks a server for a snapshot, shows how far it is, and cancels it,
//! and only it, when a signal comes. With `--wait-upload` it ends when the snapshot is in the
//! remote store too.

use cutwater_control::fault::Fault;
use cutwater_engine::resp::Value;

use super::failure::Failure;
use super::progress::{LOOK_INTERVAL, Meter, Progress};
use super::row::Row;
use super::server::{LONG_TIMEOUT, LongCall, QUICK_TIMEOUT, Server, ServerArgs, Status};
use super::{Variables, output, pretty};
use crate::interrupt::Interrupts;

/// What is wanted of it.
#[derive(clap::Args)]
pub struct CreateArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Store only what changed since the last snapshot, if that is possible; otherwise a base
    #[arg(long)]
    delta: bool,
    /// Return only when the snapshot is in the remote store as well
    #[arg(long)]
    wait_upload: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Creates a snapshot.
pub fn execute(args: &CreateArgs, variables: &Variables) -> Result<(), Failure> {
    let interrupts = Interrupts::listen().map_err(Failure::Setup)?;
    let kind = if args.delta { "DELTA" } else { "BASE" };
    let words = vec!["CREATE".to_owned(), kind.to_owned()];
    let mut call = LongCall::begin(&args.server, variables, words)?;
    if args.wait_upload && call.side.status()?.text("remote_store").is_none() {
        // The snapshot is taken all the same: it was asked for.
        output::note("the server has no remote store: there is nothing to wait for");
    }
    let reply = wait(&mut call, &interrupts)?;
    let mut row = Row::from_reply(&reply).map_err(|reason| call.side.unexpected(reason))?;
    if args.wait_upload {
        row = wait_upload(&mut call.side, row, &interrupts)?;
    }
    match args.json {
        true => output::print(&pretty(&row)),
        false => output::print(&format!("created snapshot\n{}", row.to_lines())),
    }
}

fn wait(call: &mut LongCall, interrupts: &Interrupts) -> Result<Value, Failure> {
    let mut meter = Meter::new();
    let mut cancelled = None;
    loop {
        if let Some(outcome) = call.poll() {
            let Some(by) = interrupts.received() else { return outcome };
            let what = match (&outcome, cancelled) {
                (Err(error), Some(what)) if error.fault() == Fault::Cancelled => what,
                (Err(_), _) => return outcome,
                (Ok(_), _) => "the snapshot was published before it could be cancelled".to_owned(),
            };
            return Err(Failure::Interrupted { by, what });
        }
        // A server that does not answer this does not answer the command either.
        let Ok(status) = call.side.status() else { continue };
        let Some(id) = status.number("running") else { continue };
        let is_running = call.is_mine(status.number("running_client"));
        let is_waiting = call.is_mine(status.number("waiting_client"));
        if interrupts.received().is_some() && cancelled.is_none() {
            // What was over meanwhile, or has begun to run, is an error: then it is looked again.
            cancelled = match (is_running, is_waiting) {
                (true, _) => {
                    let done = call.side.call(&["CANCEL", &id.to_string()], LONG_TIMEOUT);
                    done.is_ok()
                        .then(|| format!("snapshot {id} was cancelled, and nothing of it is left"))
                }
                (false, true) => {
                    let client = call.client_id.to_string();
                    let done = call.side.call(&["CANCEL", "WAITING", &client], QUICK_TIMEOUT);
                    done.is_ok().then(|| {
                        "the request was cancelled while it waited: no snapshot was begun"
                            .to_owned()
                    })
                }
                (false, false) => None,
            };
        } else if is_running {
            meter.show(&Progress {
                label: format!("snapshot {id}"),
                done_bytes: status.number("written_bytes").unwrap_or(0),
                total_bytes: status.number("expected_bytes"),
                is_estimate: true,
            });
        } else if is_waiting {
            meter.show(&Progress {
                label: format!("waiting for snapshot {id}, which the server takes by itself"),
                done_bytes: status.number("written_bytes").unwrap_or(0),
                total_bytes: status.number("expected_bytes"),
                is_estimate: true,
            });
        }
    }
}

/// Waits until a snapshot is in the remote store; its row then.
fn wait_upload(server: &mut Server, row: Row, interrupts: &Interrupts) -> Result<Row, Failure> {
    let Some(id) = row.get("id").and_then(serde_json::Value::as_u64) else { return Ok(row) };
    let mut meter = Meter::new();
    loop {
        let reply = server.call(&["SHOW", &id.to_string()], QUICK_TIMEOUT)?;
        let row = Row::from_reply(&reply).map_err(|reason| server.unexpected(reason))?;
        let Some(place) = row.get("remote").and_then(|place| place.as_str().map(str::to_owned))
        else {
            return Ok(row);
        };
        if place.starts_with("uploaded") {
            return Ok(row);
        }
        let status = server.status()?;
        let why = |word: &str| status.text(word).unwrap_or("no reason is known").to_owned();
        let is_never = ["failed", "orphaned"].contains(&place.as_str());
        if is_never || status.text("remote_state") == Some("superseded") {
            let reason = row.get("remote_reason").and_then(|reason| reason.as_str());
            let reason = reason.map_or_else(|| why("remote_last_error"), str::to_owned);
            return Err(Failure::NotUploaded { id, reason, place });
        }
        if let Some(by) = interrupts.received() {
            let what = format!("snapshot {id} is published here; the server goes on uploading it");
            return Err(Failure::Interrupted { by, what });
        }
        meter.show(&upload(id, &status));
        std::thread::park_timeout(LOOK_INTERVAL);
    }
}

/// How far the upload of a snapshot is.
fn upload(id: u64, status: &Status) -> Progress {
    let is_it = status.number("remote_uploading") == Some(id);
    let number = |name| status.number(name).filter(|_| is_it);
    let label = match (is_it, status.text("remote_last_error")) {
        (true, _) => format!("upload of snapshot {id}"),
        (false, Some(error)) => format!("upload of snapshot {id} waits ({error})"),
        (false, None) => format!("upload of snapshot {id} waits"),
    };
    Progress {
        label,
        done_bytes: number("remote_uploading_bytes").unwrap_or(0),
        total_bytes: number("remote_uploading_total_bytes"),
        is_estimate: false,
    }
}
