//! `cutwater restore`: one snapshot of a store into a new data directory, which a server then
//! serves. Never over data that is there.

use std::path::PathBuf;

use cutwater_engine::types::SnapshotId;

use super::failure::Failure;
use super::keys::KeyArgs;
use super::offline::Store;
use super::{Variables, output};

/// What to restore, and where to.
#[derive(clap::Args)]
pub struct RestoreArgs {
    /// The store that holds the snapshot: file:///DIR
    #[arg(long, value_name = "URL")]
    store: String,
    /// The snapshot's number
    #[arg(long, value_name = "ID")]
    snapshot: u64,
    /// The data directory to make; it must be new or empty
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Restores, and says how to go on.
pub fn execute(args: &RestoreArgs, variables: &Variables) -> Result<(), Failure> {
    let keys = args.keys.keyring(variables)?;
    Store::open(&args.store, keys)?.restore(SnapshotId(args.snapshot), &args.into)?;
    let into = args.into.display();
    output::print(&format!(
        "restored snapshot {} into {into}\nserve it with: cutwater serve --data-dir {into}",
        args.snapshot
    ))
}
