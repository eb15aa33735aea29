//! `cutwater snapshot ...`: asks a server with the SNAPSHOT commands of its protocol, or, with
//! `--store`, works on a store without any server ([`super::offline`]).

use cutwater_engine::types::SnapshotId;

use super::failure::Failure;
use super::keys::KeyArgs;
use super::offline::Store;
use super::row::{Row, table};
use super::s3::S3Args;
use super::server::{LONG_TIMEOUT, QUICK_TIMEOUT, Server, ServerArgs};
use super::{Variables, create, output, pretty, prune, status, verify};
use crate::interrupt::Interrupts;

/// What to do with snapshots.
#[derive(clap::Subcommand)]
pub enum SnapshotCommand {
    /// Take a snapshot now and wait until it is published
    #[command(after_help = CREATE_HELP)]
    Create(create::CreateArgs),
    /// Cancel the snapshot that a server is taking; nothing of it is left
    Cancel {
        /// Stop verifications instead
        #[arg(long)]
        verify: bool,
        /// Drop the request that waits until the server's own snapshot is over instead
        #[arg(long, conflicts_with = "verify")]
        waiting: bool,
        #[command(flatten)]
        server: ServerArgs,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show what a server is doing: snapshot, verifications, uploads, archive
    Status(status::StatusArgs),
    /// List the snapshots
    List {
        #[command(flatten)]
        source: SourceArgs,
        /// Print a JSON array of objects
        #[arg(long)]
        json: bool,
    },
    /// Show one snapshot
    Show {
        /// The snapshot's number
        id: u64,
        #[command(flatten)]
        source: SourceArgs,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Delete one snapshot; the two newest checkpoints stay
    Delete {
        /// The snapshot's number
        id: u64,
        #[command(flatten)]
        source: SourceArgs,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Pin one snapshot: nothing lets it go, nor what it rests on
    Pin(prune::PinArgs),
    /// Lift the pin of one snapshot
    Unpin(prune::PinArgs),
    /// Let go of the snapshots and the log that a policy does not need
    Prune(prune::PruneArgs),
    /// Bring one snapshot, or all, under the active key; no data is written anew
    Rekey {
        /// The snapshot's number
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        id: Option<u64>,
        /// All snapshots
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        source: SourceArgs,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Read all of one snapshot and check it
    Verify(verify::VerifyArgs),
}

const CREATE_HELP: &str = "\
Ctrl-C (or SIGTERM) cancels the snapshot that this command has begun, and nothing of it is left.";

/// Where the snapshots are.
#[derive(clap::Args)]
pub struct SourceArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Work on this store instead, without a server: file:///DIR or s3://BUCKET/PREFIX
    #[arg(long, value_name = "URL", conflicts_with_all = ["server", "password"])]
    store: Option<String>,
    #[command(flatten)]
    s3: S3Args,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Runs one of the commands.
pub fn execute(command: SnapshotCommand, variables: &Variables) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Create(args) => create::execute(&args, variables),
        SnapshotCommand::Verify(args) => verify::execute(&args, variables),
        SnapshotCommand::Pin(args) => prune::pin(&args, true, variables),
        SnapshotCommand::Unpin(args) => prune::pin(&args, false, variables),
        SnapshotCommand::Prune(args) => prune::execute(&args, variables),
        SnapshotCommand::Status(args) => status::execute(&args, variables),
        SnapshotCommand::Cancel { waiting: true, server, json, .. } => {
            Server::connect(&server, variables)?.call(&["CANCEL", "WAITING"], QUICK_TIMEOUT)?;
            output::print(&match json {
                true => pretty(&serde_json::json!({ "waiting": 0 })),
                false => "cancelled the request that waited: no snapshot was begun for it".into(),
            })
        }
        SnapshotCommand::Cancel { verify, server, json, .. } => {
            let mut server = Server::connect(&server, variables)?;
            let words: &[&str] = if verify { &["CANCEL", "VERIFY"] } else { &["CANCEL"] };
            let reply = server.call(words, LONG_TIMEOUT)?;
            let number = reply.as_integer().unwrap_or_default();
            output::print(&match (verify, json) {
                (true, true) => pretty(&serde_json::json!({ "verifications": number })),
                (false, true) => pretty(&serde_json::json!({ "id": number, "state": "aborted" })),
                (true, false) => format!("cancelled {number} verifications"),
                (false, false) => format!("cancelled snapshot {number}: nothing of it is left"),
            })
        }
        SnapshotCommand::List { source, json } => {
            let rows = match Source::open(source, variables)? {
                Source::Store(store) => store.list()?,
                Source::Server(mut server) => {
                    let reply = server.call(&["LIST"], QUICK_TIMEOUT)?;
                    Row::list_from_reply(&reply).map_err(|reason| server.unexpected(reason))?
                }
            };
            output::print(&if json { pretty(&rows) } else { table(&rows) })
        }
        SnapshotCommand::Show { id, source, json } => {
            let row = match Source::open(source, variables)? {
                Source::Store(store) => store.show(SnapshotId(id))?,
                Source::Server(mut server) => {
                    let reply = server.call(&["SHOW", &id.to_string()], QUICK_TIMEOUT)?;
                    Row::from_reply(&reply).map_err(|reason| server.unexpected(reason))?
                }
            };
            output::print(&if json { pretty(&row) } else { row.to_lines() })
        }
        SnapshotCommand::Delete { id, source, json } => delete(id, source, json, variables),
        SnapshotCommand::Rekey { id, source, json, .. } => {
            let (count, log) = match Source::open(source, variables)? {
                Source::Store(store) => {
                    let (snapshots, log) = store.rekey(id.map(SnapshotId))?;
                    (snapshots as u64, log)
                }
                Source::Server(mut server) => {
                    let which = id.map_or("ALL".to_owned(), |id| id.to_string());
                    let reply = server.call(&["REKEY", &which], LONG_TIMEOUT)?;
                    let count = reply.as_integer().and_then(|count| u64::try_from(count).ok());
                    (count.unwrap_or(0), 0)
                }
            };
            let archived = match log {
                0 => String::new(),
                log => format!(" and {log} objects of the archive"),
            };
            output::print(&match json {
                true => pretty(&serde_json::json!({ "rekeyed": count, "rekeyed_log": log })),
                false => format!("{count} snapshots{archived} were brought under the active key"),
            })
        }
    }
}

fn delete(id: u64, source: SourceArgs, json: bool, variables: &Variables) -> Result<(), Failure> {
    let mut more = None;
    match Source::open(source, variables)? {
        Source::Store(store) => {
            let interrupts = Interrupts::listen().map_err(Failure::Setup)?;
            store.delete(SnapshotId(id), &interrupts)?;
        }
        Source::Server(mut server) => {
            let reply = server.call(&["DELETE", &id.to_string()], QUICK_TIMEOUT)?;
            // The reply is a bare OK unless something is left to be said.
            more = reply.as_str().and_then(|text| text.strip_prefix("OK: ")).map(str::to_owned);
        }
    }
    output::print(&match (json, more) {
        (true, more) => pretty(&serde_json::json!({
            "id": id,
            "state": "deleted",
            "remote_pending": more.is_some(),
        })),
        (false, Some(more)) => format!("snapshot {id}: {more}"),
        (false, None) => format!("deleted snapshot {id}"),
    })
}

/// Where the snapshots are, opened.
enum Source {
    Server(Server),
    Store(Store),
}

impl Source {
    fn open(args: SourceArgs, variables: &Variables) -> Result<Self, Failure> {
        match args.store(variables)? {
            Some(store) => Ok(Self::Store(store)),
            None => Server::connect(&args.server, variables).map(Self::Server),
        }
    }
}

impl SourceArgs {
    /// The store, opened, if one was named.
    pub fn store(&self, variables: &Variables) -> Result<Option<Store>, Failure> {
        let Some(url) = &self.store else { return Ok(None) };
        let keys = self.keys.keyring(variables)?;
        Ok(Some(Store::open(url, &self.s3.options(variables)?, keys)?))
    }
}
