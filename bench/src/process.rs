//! A server process: started, waited for until it serves, killed, stopped, started again.
//!
//! Which program and with which options is the business of [`crate::server`] and [`crate::peer`].
//! The process ends with its handle, however the test ends.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::tools;

/// How long a server may take until it serves, recovery included.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long an orderly stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How often a server that does not serve yet is asked again.
const READY_POLL: Duration = Duration::from_millis(5);
/// How much of the server's output an error shows.
const OUTPUT_TAIL_BYTES: usize = 4 * 1024;

/// What to start, and where it will serve.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables of its environment, beside those of the test that are no server's business.
    pub environment: Vec<(String, String)>,
    /// Where it will accept clients.
    pub address: SocketAddr,
    /// The file that collects what it prints, over all its starts.
    pub output: PathBuf,
    /// Commands to send once it serves.
    pub greeting: Vec<Vec<String>>,
}

/// A running server.
pub struct ServerProcess {
    launch: Launch,
    child: Child,
}

impl ServerProcess {
    /// Starts a server and waits until it answers PING.
    ///
    /// # Errors
    /// If it cannot be started, ends, or does not serve in time; with the end of its output.
    pub fn start(launch: Launch) -> io::Result<Self> {
        let child = spawn(&launch)?;
        let mut server = Self { launch, child };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.launch.address
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A new connection.
    ///
    /// # Errors
    /// Those of [`Client::connect`].
    pub fn client(&self) -> io::Result<Client> {
        Client::connect(self.address())
    }

    /// Ends the process at once, as a crash would (`SIGKILL`).
    ///
    /// # Errors
    /// If it cannot be signalled.
    pub fn kill9(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Asks the process to stop (`SIGTERM`) and waits until it has.
    ///
    /// # Errors
    /// If it fails, or does not stop in time.
    pub fn terminate(&mut self) -> io::Result<()> {
        let pid = self.pid().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        let status = tools::wait_within(&mut self.child, STOP_LIMIT)?;
        if status.success() { Ok(()) } else { Err(self.failure(format!("ended with {status}"))) }
    }

    /// Starts a server that was killed or stopped again, with the same options.
    ///
    /// # Errors
    /// Those of [`ServerProcess::start`].
    pub fn restart(&mut self) -> io::Result<()> {
        self.restart_without_waiting()?;
        self.wait_until_ready()
    }

    /// The same, but returns at once: it may not serve yet, or never.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn restart_without_waiting(&mut self) -> io::Result<()> {
        assert!(self.child.try_wait()?.is_some(), "the server still runs");
        self.child = spawn(&self.launch)?;
        Ok(())
    }

    /// Waits until a process that was told to end has.
    ///
    /// # Errors
    /// `TimedOut` if it does not (it is then killed).
    pub fn wait(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        tools::wait_within(&mut self.child, limit)
    }

    /// The end of what the server has printed.
    pub fn output_tail(&self) -> String {
        let bytes = std::fs::read(&self.launch.output).unwrap_or_default();
        let tail = &bytes[bytes.len().saturating_sub(OUTPUT_TAIL_BYTES)..];
        String::from_utf8_lossy(tail).into_owned()
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.failure(format!("ended with {status}")));
            }
            if let Ok(mut client) = self.client()
                && client.call(&["PING"]).is_ok_and(|reply| reply.bytes() == Some(b"PONG"))
            {
                for command in &self.launch.greeting {
                    client.call(command)?;
                }
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.failure(format!("did not serve within {START_LIMIT:?}")));
            }
            std::thread::sleep(READY_POLL);
        }
    }

    fn failure(&self, what: String) -> io::Error {
        let program = self.launch.program.display();
        io::Error::other(format!("{program} {what}; it printed:\n{}", self.output_tail()))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Both fail when the process has ended already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(launch: &Launch) -> io::Result<Child> {
    let output: File = OpenOptions::new().create(true).append(true).open(&launch.output)?;
    let mut command = Command::new(&launch.program);
    tools::hide_variables(&mut command);
    command
        .args(&launch.arguments)
        .envs(launch.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", launch.program.display()))
        })
}

/// A loopback address on which nothing listens. Taken from below the range from which the kernel
/// gives ports to outgoing connections, each once per process, beginning at a place that differs
/// from process to process.
///
/// # Panics
/// If no port is free.
pub fn free_address() -> SocketAddr {
    const FIRST: u16 = 12_000;
    // So that the ports above, which are tried here, are nobody's who restarts on one of these.
    const COUNT: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + ((u32::from(start) + u32::from(step)) % u32::from(COUNT)) as u16;
        // The cluster bus of a peer, if it has one, takes the port above by 10,000.
        let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free(port) && free(port + 10_000) {
            return SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        }
    }
    panic!("no free port from {FIRST} on");
}
