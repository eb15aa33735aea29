//! `cutwater restore`: one snapshot of a store into a new data directory, which a server then
//! serves. Never over data that is there.

use std::path::PathBuf;

use cutwater_engine::types::SnapshotId;

use super::failure::Failure;
use super::offline::Store;
use super::s3::S3Args;
use super::{Variables, output};

/// What to restore, and where to.
#[derive(clap::Args)]
pub struct RestoreArgs {
    /// The store that holds the snapshot: file:///DIR or s3://BUCKET/PREFIX
    #[arg(long, value_name = "URL")]
    store: String,
    #[command(flatten)]
    s3: S3Args,
    /// The snapshot's number
    #[arg(long, value_name = "ID")]
    snapshot: u64,
    /// The data directory to make; it must be new or empty
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
}

/// Restores, and says how to go on.
pub fn execute(args: &RestoreArgs, variables: &Variables) -> Result<(), Failure> {
    let options = args.s3.options(variables)?;
    Store::open(&args.store, &options)?.restore(SnapshotId(args.snapshot), &args.into)?;
    let into = args.into.display();
    output::print(&format!(
        "restored snapshot {} into {into}\nserve it with: cutwater serve --data-dir {into}",
        args.snapshot
    ))
}
