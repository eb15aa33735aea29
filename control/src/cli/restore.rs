//! `cutwater restore`: a moment of a store into a new data directory, which a server then serves.
//! Never over data that is there.

use std::path::PathBuf;

use cutwater_control::restore::text::{self, parse_moment};
use cutwater_control::restore::{Destination, Restored};
use cutwater_engine::types::{Lsn, SnapshotId};
use cutwater_snapshot::ident::HistoryId;
use cutwater_snapshot::plan::{Plan, Target};
use serde_json::{Value, json};

use super::failure::Failure;
use super::keys::KeyArgs;
use super::offline::{OfflineError, Store};
use super::s3::S3Args;
use super::{Variables, output, pretty};
use crate::interrupt::Interrupts;

/// What to restore, and where to.
#[derive(clap::Args)]
pub struct RestoreArgs {
    /// The store to restore from: file:///DIR or s3://BUCKET/PREFIX
    #[arg(long, value_name = "URL")]
    store: String,
    #[command(flatten)]
    s3: S3Args,
    #[command(flatten)]
    target: TargetArgs,
    /// The history to restore; without it the one that has the latest moment
    #[arg(long, value_name = "ID", value_parser = parse_history)]
    history: Option<HistoryId>,
    /// The data directory to make; it must be new or empty
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    into: Option<PathBuf>,
    /// How many shards write the new directory; it can be served with any other number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16_384))]
    shards: Option<u16>,
    /// Only say what would be read
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    keys: KeyArgs,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Which moment: exactly one.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// Everything up to this moment, inclusive: RFC 3339, UTC unless it has an offset
    #[arg(long, value_name = "TIME", value_parser = parse_at)]
    at: Option<u64>,
    /// Everything up to this LSN, inclusive
    #[arg(long, value_name = "LSN")]
    lsn: Option<u64>,
    /// The moment of this snapshot
    #[arg(long, value_name = "ID")]
    snapshot: Option<u64>,
    /// The last moment that there is
    #[arg(long)]
    latest: bool,
}

impl TargetArgs {
    fn target(&self) -> Target {
        match (self.at, self.lsn, self.snapshot) {
            (Some(micros), ..) => Target::at_micros(micros),
            (_, Some(lsn), _) => Target::Lsn(Lsn(lsn)),
            (.., Some(id)) => Target::Snapshot(SnapshotId(id)),
            _ => Target::Latest,
        }
    }
}

fn parse_at(text: &str) -> Result<u64, text::NoMoment> {
    parse_moment(text)
}

fn parse_history(text: &str) -> Result<HistoryId, &'static str> {
    HistoryId::parse(text).ok_or("a history is 32 lower-case hex digits, as restorable shows it")
}

/// Restores, and says how to go on.
pub fn execute(args: &RestoreArgs, variables: &Variables) -> Result<(), Failure> {
    let store =
        Store::open(&args.store, &args.s3.options(variables)?, args.keys.keyring(variables)?)?;
    let source = store.source()?;
    let planned = source.plan(args.target.target(), args.history);
    let plan = planned.map_err(OfflineError::Restore)?;
    let Some(into) = args.into.as_ref().filter(|_| !args.dry_run) else {
        return match args.json {
            true => output::print(&pretty(&plan_json(&plan))),
            false => output::print(&text::plan(&plan)),
        };
    };
    let destination = Destination { into: into.clone(), shards: args.shards };
    let interrupts = Interrupts::listen().map_err(Failure::Setup)?;
    let restored = store.restore(&source, &plan, &destination, &interrupts)?;
    let into = into.display();
    if args.json {
        let mut value = plan_json(&plan);
        value["restored"] = restored_json(&restored, &into.to_string());
        return output::print(&pretty(&value));
    }
    let what = match args.target.snapshot {
        Some(id) => format!("snapshot {id}"),
        None => format!("{} (LSN {})", text::moment(plan.target), plan.target),
    };
    output::print(&format!(
        "restored {what} into {into}\nserve it with: cutwater serve --data-dir {into}"
    ))
}

fn plan_json(plan: &Plan) -> Value {
    json!({
        "target_lsn": plan.target.0,
        "target": text::moment(plan.target),
        "history": plan.history.to_string(),
        "base": plan.base.0,
        "deltas": plan.deltas.iter().map(|id| id.0).collect::<Vec<_>>(),
        "snapshot_lsn": plan.snapshot_lsn.0,
        "wal": plan.wal.iter().map(|piece| piece.number.0).collect::<Vec<_>>(),
    })
}

fn restored_json(restored: &Restored, into: &str) -> Value {
    json!({
        "into": into,
        "history": restored.identity.history.to_string(),
        "keys": restored.keys,
        "snapshot": restored.manifest.id().0,
    })
}
