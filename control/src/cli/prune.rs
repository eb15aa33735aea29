//! `cutwater snapshot pin|unpin|prune`: what stays, and what goes.

use std::time::Duration;

use cutwater_control::config::{MAX_KEEP_LAST, parse_keep_for};
use cutwater_control::keeping::restorable_of;
use cutwater_control::restore::text;
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::plan::Restorable;
use cutwater_snapshot::retention::{GOES, Policy, Stay};
use serde_json::{Value, json};

use super::failure::Failure;
use super::offline::{OfflineError, Pruned};
use super::row::{Row, RowError};
use super::server::{LongCall, QUICK_TIMEOUT, Server};
use super::snapshot::SourceArgs;
use super::{Variables, output, pretty, restorable};
use crate::interrupt::Interrupts;

/// What is pinned, and where.
#[derive(clap::Args)]
pub struct PinArgs {
    /// The snapshot's number
    id: u64,
    #[command(flatten)]
    source: SourceArgs,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// What is pruned, and where.
#[derive(clap::Args)]
pub struct PruneArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Keep the newest N snapshots and the log behind them
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_KEEP_LAST)))]
    keep_last: Option<u32>,
    /// Keep every moment of so long restorable: 12h, 30d
    #[arg(long, value_name = "DURATION", value_parser = keep_for)]
    keep_for: Option<Duration>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

fn keep_for(text: &str) -> Result<Duration, &'static str> {
    parse_keep_for(text).ok_or("a duration from 1s to 36500d, such as 12h or 30d")
}

/// Pins, or unpins.
pub fn pin(args: &PinArgs, is_pinned: bool, variables: &Variables) -> Result<(), Failure> {
    let id = args.id;
    let mut more = None;
    match args.source.store(variables)? {
        Some(store) => store.pin(SnapshotId(id), is_pinned)?,
        None => {
            let mut server = Server::connect(&args.source.server, variables)?;
            let word = if is_pinned { "PIN" } else { "UNPIN" };
            let reply = server.call(&[word, &id.to_string()], QUICK_TIMEOUT)?;
            more = reply.as_str().and_then(|text| text.strip_prefix("OK: ")).map(str::to_owned);
        }
    }
    let what = if is_pinned { "pinned" } else { "unpinned" };
    output::print(&match (args.json, more) {
        (true, more) => {
            pretty(&json!({ "id": id, "pinned": is_pinned, "remote_pending": more.is_some() }))
        }
        (false, Some(more)) => format!("{what} snapshot {id}: {more}"),
        (false, None) => format!("{what} snapshot {id}"),
    })
}

/// One line of what stays or goes.
struct Line {
    store: String,
    what: String,
    goes: String,
    why: String,
}

impl Line {
    fn new(what: String, stay: Option<Stay>) -> Self {
        let goes = if stay.is_none() { "goes" } else { "stays" }.to_owned();
        let why = stay.map_or_else(|| GOES.to_owned(), |stay| stay.to_string());
        Self { store: "store".to_owned(), what, goes, why }
    }

    fn json(&self) -> Value {
        json!({
            "store": self.store,
            "what": self.what,
            "goes": self.goes == "goes",
            "why": self.why,
        })
    }
}

/// Prunes, or says what would go.
pub fn execute(args: &PruneArgs, variables: &Variables) -> Result<(), Failure> {
    let policy = Policy { keep_last: args.keep_last, keep_for: args.keep_for };
    let interrupts = Interrupts::listen().map_err(Failure::Setup)?;
    let (lines, windows) = match args.source.store(variables)? {
        Some(_) if policy.is_empty() => return Err(OfflineError::NoPolicy.into()),
        Some(store) => {
            let pruned = store.prune(&policy, args.dry_run, &interrupts)?;
            (lines(&pruned), pruned.windows)
        }
        None => ask(args, &policy, variables, &interrupts)?,
    };
    output::print(&match args.json {
        true => pretty(&json!({
            "dry_run": args.dry_run,
            "rows": lines.iter().map(Line::json).collect::<Vec<_>>(),
            "windows": windows.iter().map(restorable::row).collect::<Vec<_>>(),
        })),
        false => shown(&lines, &windows, args.dry_run),
    })
}

fn lines(pruned: &Pruned) -> Vec<Line> {
    let snapshots = pruned.decision.snapshots.iter();
    let snapshots = snapshots.map(|(id, stay)| Line::new(format!("snapshot {id}"), *stay));
    let mut runs: Vec<(u64, u64, Option<Stay>)> = Vec::new();
    for (number, stay) in &pruned.decision.log {
        match runs.last_mut() {
            Some((_, last, of_run)) if of_run == stay => *last = number.0,
            _ => runs.push((number.0, number.0, *stay)),
        }
    }
    let log = runs.into_iter();
    let log = log.map(|(first, last, stay)| Line::new(format!("log {first} to {last}"), stay));
    snapshots.chain(log).collect()
}

fn ask(
    args: &PruneArgs,
    policy: &Policy,
    variables: &Variables,
    interrupts: &Interrupts,
) -> Result<(Vec<Line>, Vec<Restorable>), Failure> {
    let mut words = vec!["PRUNE".to_owned()];
    if args.dry_run {
        words.push("DRYRUN".to_owned());
    }
    if let Some(count) = policy.keep_last {
        words.extend(["KEEPLAST".to_owned(), count.to_string()]);
    }
    if let Some(keep_for) = policy.keep_for {
        words.extend(["KEEPFOR".to_owned(), format!("{}ms", keep_for.as_millis())]);
    }
    let call = LongCall::begin(&args.source.server, variables, words)?;
    let reply = loop {
        if let Some(reply) = call.poll() {
            break reply?;
        }
        if let Some(by) = interrupts.received() {
            let what = "the server goes on with it".to_owned();
            return Err(Failure::Interrupted { by, what });
        }
    };
    let line = |value| -> Option<Line> {
        let row = Row::of_map(value)?;
        let text = |name| row.get(name)?.as_str().map(str::to_owned);
        let (store, what) = (text("store")?, text("what")?);
        Some(Line { store, what, goes: text("goes")?, why: text("why")? })
    };
    let list = |name| reply.field(name).and_then(|list| list.as_array());
    let lines = list("rows").and_then(|rows| rows.iter().map(line).collect());
    let windows = list("windows").and_then(|found| found.iter().map(restorable_of).collect());
    lines.zip(windows).ok_or_else(|| call.side.unexpected(RowError::NotMap))
}

fn shown(lines: &[Line], windows: &[Restorable], is_dry: bool) -> String {
    let goes = if is_dry { "would go" } else { "went" };
    let width = |of: fn(&Line) -> usize| lines.iter().map(of).max().unwrap_or(0);
    let (store, what) = (width(|line| line.store.len()), width(|line| line.what.len()));
    let line = |line: &Line| {
        let word = if line.goes == "goes" { goes } else { "stays" };
        format!("{:store$}  {:what$}  {word:8}  {}", line.store, line.what, line.why)
    };
    let mut text = lines.iter().map(line).collect::<Vec<_>>().join("\n");
    if lines.is_empty() {
        text.push_str("there is nothing");
    }
    text.push_str("\n\nwhat can be restored then:\n");
    text.push_str(&text::restorable(windows));
    text
}
