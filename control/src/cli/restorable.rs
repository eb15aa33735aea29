//! `cutwater restorable`: the moments that a store can be restored to, history by history.

use cutwater_control::restore::text;
use cutwater_snapshot::plan::{Hole, Restorable, Window};
use serde_json::{Value, json};

use super::failure::Failure;
use super::keys::KeyArgs;
use super::offline::Store;
use super::s3::S3Args;
use super::{Variables, output, pretty};

/// Which store.
#[derive(clap::Args)]
pub struct RestorableArgs {
    /// The store: file:///DIR or s3://BUCKET/PREFIX
    #[arg(long, value_name = "URL")]
    store: String,
    #[command(flatten)]
    s3: S3Args,
    #[command(flatten)]
    keys: KeyArgs,
    /// Print a JSON array of objects
    #[arg(long)]
    json: bool,
}

/// Prints the windows.
pub fn execute(args: &RestorableArgs, variables: &Variables) -> Result<(), Failure> {
    let keys = args.keys.keyring(variables)?;
    let found =
        Store::open(&args.store, &args.s3.options(variables)?, keys)?.source()?.restorable();
    if !args.json {
        return output::print(&text::restorable(&found));
    }
    let rows: Vec<Value> = found.iter().map(row).collect();
    output::print(&pretty(&rows))
}

/// One history as JSON.
pub fn row(one: &Restorable) -> Value {
    let window = |window: &Window| {
        json!({
            "first_lsn": window.first.0,
            "last_lsn": window.last.0,
            "first": text::moment(window.first),
            "last": text::last_moment(window.last),
        })
    };
    let hole = |hole: &Hole| {
        json!({
            "after_lsn": hole.after.0,
            "before_lsn": hole.before.0,
            "after": text::moment(hole.after),
            "before": text::moment(hole.before),
        })
    };
    json!({
        "history": one.history.to_string(),
        "current": one.is_current,
        "parent": one.fork.map(|fork| fork.parent.to_string()),
        "fork_lsn": one.fork.map(|fork| fork.lsn.0),
        "windows": one.windows.iter().map(window).collect::<Vec<_>>(),
        "holes": one.holes.iter().map(hole).collect::<Vec<_>>(),
    })
}
