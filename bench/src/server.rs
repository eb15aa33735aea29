//! How the `cutwater` binary is found, and told what to do: each option and subcommand that tests
//! and comparisons use is spelled here, and nowhere else.
//!
//! With `CUTWATER_STAND_IN=valkey` a Valkey server takes Cutwater's place. That is how the tests
//! themselves are tested: what they expect must hold for the server whose protocol this is.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use crate::peer::{self, PeerOptions};
use crate::process::{Launch, ServerProcess, free_address};
use crate::reply::Reply;
use crate::tools;

/// How long a subcommand (a restore, for instance) may take.
const SUBCOMMAND_LIMIT: Duration = Duration::from_secs(300);
/// How long a build of the binary may take, and a snapshot.
const BUILD_LIMIT: Duration = Duration::from_secs(900);

/// How to start a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The data directory.
    pub dir: PathBuf,
    /// How many shards; the stand-in has one thread whatever this says.
    pub shards: u16,
    /// `always`, `everysec` or `never`; `None` is `--no-log`.
    pub fsync: Option<&'static str>,
    /// After how many bytes of log a checkpoint is taken; `None` leaves the default.
    pub checkpoint_log_bytes: Option<u64>,
    /// The stand-in serves as a one-node cluster; Cutwater always speaks the cluster protocol.
    pub cluster: bool,
    /// Further arguments of the `cutwater` command line.
    pub more: Vec<String>,
    /// Variables of the server's environment.
    pub environment: Vec<(String, String)>,
}

impl ServerOptions {
    /// Two shards that sync always, in this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            shards: 2,
            fsync: Some("always"),
            checkpoint_log_bytes: None,
            cluster: false,
            more: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// The same, but a stand-in keeps no append-only file: with one, it would not load the snapshot
    /// that it is started with.
    pub fn without_log_in_stand_in(mut self) -> Self {
        if is_stand_in() {
            self.fsync = None;
        }
        self
    }

    /// Starts a server on a free port of loopback.
    ///
    /// # Errors
    /// Those of [`ServerProcess::start`], and of building the binary.
    pub fn start(&self) -> io::Result<ServerProcess> {
        fs::create_dir_all(&self.dir)?;
        if is_stand_in() {
            return peer::start(&PeerOptions {
                dir: self.dir.clone(),
                appendfsync: self.fsync.map(|fsync| if fsync == "never" { "no" } else { fsync }),
                cluster: self.cluster,
                more: Vec::new(),
            });
        }
        let address = free_address();
        let mut arguments: Vec<OsString> =
            vec!["serve".into(), "--data-dir".into(), (&self.dir).into()];
        let mut option = |name: &str, value: String| {
            arguments.extend([name.into(), value.into()]);
        };
        option("--bind", address.ip().to_string());
        option("--port", address.port().to_string());
        option("--shards", self.shards.to_string());
        if let Some(fsync) = self.fsync {
            option("--fsync", fsync.to_owned());
        }
        if let Some(bytes) = self.checkpoint_log_bytes {
            option("--checkpoint-log", bytes.to_string());
        }
        if self.fsync.is_none() {
            arguments.push("--no-log".into());
        }
        arguments.extend(self.more.iter().map(OsString::from));
        let output = self.dir.with_extension("output");
        let greeting = Vec::new();
        ServerProcess::start(Launch {
            program: binary()?.to_owned(),
            arguments,
            environment: self.environment.clone(),
            address,
            output,
            greeting,
        })
    }
}

/// Whether a Valkey server takes Cutwater's place in this run.
pub fn is_stand_in() -> bool {
    std::env::var("CUTWATER_STAND_IN").is_ok_and(|value| value == "valkey")
}

/// Takes a snapshot and waits until it is published; its id, which the stand-in does not have.
///
/// # Errors
/// If the server refuses, or the snapshot fails.
pub fn create_snapshot(server: &ServerProcess) -> io::Result<u64> {
    let mut client = server.client()?;
    client.set_timeout(SUBCOMMAND_LIMIT)?;
    let command: &[&str] = if is_stand_in() { &["SAVE"] } else { &["SNAPSHOT", "CREATE"] };
    match client.call(command)? {
        Reply::Error(text) => Err(io::Error::other(format!("{command:?} answered {text}"))),
        _ if is_stand_in() => Ok(0),
        reply => field(&reply, "id")
            .and_then(Reply::integer)
            .and_then(|id| u64::try_from(id).ok())
            .ok_or_else(|| io::Error::other(format!("{command:?} answered {reply}"))),
    }
}

/// A field of a reply that is a map, as RESP2 gives it: names and values in turn.
pub fn field<'a>(reply: &'a Reply, name: &str) -> Option<&'a Reply> {
    let Reply::Array(_, items) = reply else { return None };
    let pair = items.chunks_exact(2).find(|pair| pair[0].bytes() == Some(name.as_bytes()))?;
    Some(&pair[1])
}

/// Restores a snapshot of a data directory's local store into a new directory.
///
/// # Errors
/// If the restore fails; with what it printed.
pub fn restore(from: &Path, snapshot: u64, into: &Path) -> io::Result<()> {
    if is_stand_in() {
        fs::create_dir_all(into)?;
        return fs::copy(from.join("dump.rdb"), into.join("dump.rdb")).map(drop);
    }
    let store = format!("file://{}", from.join("store").display());
    let into = into.display().to_string();
    let snapshot = snapshot.to_string();
    let output =
        subcommand(&["restore", "--store", &store, "--snapshot", &snapshot, "--into", &into])?;
    if output.status.success() {
        return Ok(());
    }
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("restore ended with {}: {printed}", output.status)))
}

/// Runs the binary with these arguments to its end.
///
/// # Errors
/// If it cannot be started or does not end in time; not if it fails.
pub fn subcommand(arguments: &[&str]) -> io::Result<Output> {
    subcommand_with(arguments, &[])
}

/// The same, with these variables in its environment.
///
/// # Errors
/// As for [`subcommand`].
pub fn subcommand_with(arguments: &[&str], environment: &[(String, String)]) -> io::Result<Output> {
    let mut command = Command::new(binary()?);
    tools::hide_variables(&mut command);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    tools::run(command.args(arguments), SUBCOMMAND_LIMIT)
}

/// The folder in which a data directory keeps its log.
pub fn log_folder(dir: &Path) -> PathBuf {
    if is_stand_in() { dir.join("appendonlydir") } else { dir.join("log") }
}

/// The `cutwater` binary of this build profile: `CUTWATER_BIN`, or the one in the target directory
/// in which this program lies, built first if it is missing or older than its sources.
///
/// # Errors
/// If it has to be built and that fails.
pub fn binary() -> io::Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| match std::env::var_os("CUTWATER_BIN") {
        Some(path) => Ok(path.into()),
        None => find_or_build().map_err(|error| error.to_string()),
    });
    found.as_deref().map_err(|error| io::Error::other(error.clone()))
}

fn find_or_build() -> io::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let is_profile = |folder: &&Path| folder.join("deps").is_dir();
    let folder = this.ancestors().skip(1).find(is_profile);
    let folder =
        folder.ok_or_else(|| io::Error::other("this program is not in a target folder"))?;
    let binary = folder.join("cutwater");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("bench lies in the root");
    let sources = newest(root)?;
    if fs::metadata(&binary).and_then(|meta| meta.modified()).is_ok_and(|built| built >= sources) {
        return Ok(binary);
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args(["build", "--package", "cutwater-control", "--bin", "cutwater"]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let output = tools::run(&mut cargo, BUILD_LIMIT)?;
    if output.status.success() {
        return Ok(binary);
    }
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("cargo build ended with {}: {printed}", output.status)))
}

/// When the newest source of the binary was changed.
fn newest(root: &Path) -> io::Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    let mut folders: Vec<PathBuf> =
        ["engine/src", "snapshot/src", "control/src"].map(|folder| root.join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                newest = newest.max(meta.modified()?);
            }
        }
    }
    Ok(newest)
}
