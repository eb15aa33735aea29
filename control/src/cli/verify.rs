//! `cutwater snapshot verify`: reads all of a snapshot, here or at a server, and shows how far it
//! is. A signal stops it.

use cutwater_engine::types::SnapshotId;
use serde_json::{Value as Json, json};

use super::failure::Failure;
use super::progress::{Meter, Progress};
use super::server::{LongCall, number};
use super::snapshot::SourceArgs;
use super::{Variables, output, pretty};
use crate::interrupt::Interrupts;

/// Which snapshot, and where.
#[derive(clap::Args)]
pub struct VerifyArgs {
    /// The snapshot's number
    id: u64,
    /// Restore it in memory, too, and compare it with what it was taken of
    #[arg(long)]
    deep: bool,
    /// With --deep and --store: on how many shards
    #[arg(long, value_name = "N", default_value_t = 2, requires = "deep")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=16_384))]
    shards: u16,
    #[command(flatten)]
    source: SourceArgs,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// What the report tells, in its order.
const COUNTS: [&str; 5] = ["objects", "bytes", "chunks", "entries", "tail_records"];

/// Verifies a snapshot.
pub fn execute(args: &VerifyArgs, variables: &Variables) -> Result<(), Failure> {
    let interrupts = Interrupts::listen().map_err(Failure::Setup)?;
    let counts: Vec<Option<u64>> = match args.source.store(variables)? {
        Some(store) => {
            let id = SnapshotId(args.id);
            let report = match args.deep {
                true => store.verify_deep(id, args.shards, &interrupts)?.read,
                false => store.verify(id, &interrupts)?,
            };
            let counts =
                [report.objects, report.bytes, report.chunks, report.entries, report.tail_records];
            counts.map(Some).to_vec()
        }
        None => online(args, variables, &interrupts)?,
    };
    let id = args.id;
    if !args.json {
        let compared = if args.deep { ", and restores what it was taken of" } else { "" };
        return output::print(&format!("verified snapshot {id}: it is whole{compared}"));
    }
    let mut report = json!({ "id": id, "whole": true });
    if args.deep {
        report["compared"] = true.into();
    }
    for (name, count) in COUNTS.iter().zip(counts) {
        report[*name] = count.map_or(Json::Null, Json::from);
    }
    output::print(&pretty(&report))
}

fn online(
    args: &VerifyArgs,
    variables: &Variables,
    interrupts: &Interrupts,
) -> Result<Vec<Option<u64>>, Failure> {
    let mut words = vec!["VERIFY".to_owned(), args.id.to_string()];
    if args.deep {
        words.push("DEEP".to_owned());
    }
    let mut call = LongCall::begin(&args.source.server, variables, words)?;
    let mut meter = Meter::new();
    loop {
        if let Some(outcome) = call.poll() {
            let report = outcome?;
            return Ok(COUNTS.iter().map(|name| number(&report, name)).collect());
        }
        if let Some(by) = interrupts.received() {
            // The server stops reading when the connection ends, with this process.
            let what = format!("the verification of snapshot {} was stopped", args.id);
            return Err(Failure::Interrupted { by, what });
        }
        let Ok(status) = call.side.status() else { continue };
        let mine = |one: &&_| call.is_mine(number(one, "client"));
        if let Some(mine) = status.verifications().iter().find(mine) {
            meter.show(&Progress {
                label: format!("verifying snapshot {}", args.id),
                done_bytes: number(mine, "verified_bytes").unwrap_or(0),
                total_bytes: number(mine, "expected_bytes"),
                is_estimate: false,
            });
        }
    }
}
