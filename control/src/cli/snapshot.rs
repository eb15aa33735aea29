//! `cutwater snapshot ...`: asks a server with the SNAPSHOT commands of its protocol, or, with
//! `--store`, works on a store without any server ([`super::offline`]).

use std::time::Duration;

use cutwater_control::client::Client;
use cutwater_control::config::Secret;
use cutwater_engine::resp::Value;
use cutwater_engine::types::SnapshotId;

use super::failure::Failure;
use super::offline::Store;
use super::row::{Row, RowError, table};
use super::s3::S3Args;
use super::{Variables, output};

/// The variable that holds the password, so that it need not be on the command line.
const PASSWORD_VARIABLE: &str = "CUTWATER_PASSWORD";
/// How long a server may take to look something up.
const QUICK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server may take to write or read a whole snapshot.
const LONG_TIMEOUT: Duration = Duration::from_secs(6 * 3600);

/// What to do with snapshots.
#[derive(clap::Subcommand)]
pub enum SnapshotCommand {
    /// Take a snapshot now and wait until it is published
    Create {
        #[command(flatten)]
        server: ServerArgs,
    },
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
    },
    /// Read all of one snapshot and check it
    Verify {
        /// The snapshot's number
        id: u64,
        #[command(flatten)]
        source: SourceArgs,
    },
}

/// Which server to ask.
#[derive(clap::Args)]
pub struct ServerArgs {
    /// The server to ask
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    server: String,
    /// Its password; safer as CUTWATER_PASSWORD, where ps cannot show it
    #[arg(long, value_name = "PASSWORD")]
    password: Option<String>,
}

/// Where the snapshots are.
#[derive(clap::Args)]
pub struct SourceArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Work on this store instead, without a server: file:///DIR or s3://BUCKET/PREFIX
    #[arg(long, value_name = "URL", conflicts_with_all = ["server", "password"])]
    store: Option<String>,
    #[command(flatten)]
    s3: S3Args,
}

/// Runs one of the commands.
pub fn execute(command: SnapshotCommand, variables: &Variables) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Create { server } => {
            let mut server = Server::connect(server, variables)?;
            let reply = server.call(&["CREATE"], LONG_TIMEOUT)?;
            output::print(&format!("created {}", described(&reply)))
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
        SnapshotCommand::Delete { id, source } => {
            match Source::open(source, variables)? {
                Source::Store(store) => store.delete(SnapshotId(id))?,
                Source::Server(mut server) => {
                    let reply = server.call(&["DELETE", &id.to_string()], QUICK_TIMEOUT)?;
                    // The reply is a bare OK unless something is left to be said.
                    if let Some(more) = reply.as_str().and_then(|text| text.strip_prefix("OK: ")) {
                        return output::print(&format!("snapshot {id}: {more}"));
                    }
                }
            }
            output::print(&format!("deleted snapshot {id}"))
        }
        SnapshotCommand::Verify { id, source } => {
            match Source::open(source, variables)? {
                Source::Store(store) => store.verify(SnapshotId(id))?,
                Source::Server(mut server) => {
                    server.call(&["VERIFY", &id.to_string()], LONG_TIMEOUT)?;
                }
            }
            output::print(&format!("verified snapshot {id}: it is whole"))
        }
    }
}

/// Where the snapshots are, opened.
enum Source {
    Server(Server),
    Store(Store),
}

impl Source {
    fn open(args: SourceArgs, variables: &Variables) -> Result<Self, Failure> {
        match args.store {
            Some(url) => Ok(Self::Store(Store::open(&url, &args.s3.options(variables)?)?)),
            None => Server::connect(args.server, variables).map(Self::Server),
        }
    }
}

/// A server that takes SNAPSHOT commands.
struct Server {
    name: String,
    client: Client,
}

impl Server {
    fn connect(args: ServerArgs, variables: &Variables) -> Result<Self, Failure> {
        let mut client = Client::connect(&args.server)?;
        let password = args.password.or_else(|| variables.get(PASSWORD_VARIABLE).cloned());
        if let Some(password) = password {
            client.authenticate(&Secret::new(password))?;
        }
        Ok(Self { name: args.server, client })
    }

    fn call(&mut self, words: &[&str], timeout: Duration) -> Result<Value, Failure> {
        Ok(self.client.call(&[&["SNAPSHOT"], words].concat(), timeout)?)
    }

    fn unexpected(&self, reason: RowError) -> Failure {
        Failure::Reply { server: self.name.clone(), reason }
    }
}

/// The snapshot that CREATE tells of: by its fields, or only by its number.
fn described(reply: &Value) -> String {
    match (Row::from_reply(reply), reply.as_integer()) {
        (Ok(row), _) => format!("snapshot\n{}", row.to_lines()),
        (Err(_), Some(id)) => format!("snapshot {id}"),
        (Err(_), None) => "a snapshot".to_owned(),
    }
}

fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("text, numbers and lists always have a JSON form")
}
