//! What a server with idle connections costs.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::process::ServerProcess;
use crate::usage::{self, ThreadUsage};

/// What the writes left to do, such as the last sync, is not idling yet.
const SETTLE: Duration = Duration::from_secs(2);

/// What was seen.
#[derive(Clone, Debug)]
pub struct Idle {
    /// Of one CPU.
    pub cpu_percent: f64,
    /// Since they began.
    pub threads: Vec<ThreadUsage>,
}

/// Opens so many connections, has each write a key, and watches the server while none does
/// anything. In the end all of them still have to answer.
///
/// # Errors
/// A connection is refused or does not answer, or the server is gone.
pub fn watch(server: &ServerProcess, connections: usize, watched: Duration) -> io::Result<Idle> {
    let mut clients: Vec<Client> =
        (0..connections).map(|_| server.client()).collect::<io::Result<_>>()?;
    for (n, client) in clients.iter_mut().enumerate() {
        let reply = client.call(&["SET".to_owned(), format!("key:{n}"), "v".into()])?;
        if !reply.is_ok() {
            return Err(io::Error::other(format!("SET answered {reply}")));
        }
    }
    thread::sleep(SETTLE);
    let (began, before) = (Instant::now(), usage::cpu_time(server.pid())?);
    thread::sleep(watched);
    let used = usage::cpu_time(server.pid())?.saturating_sub(before);
    let cpu_percent = 100.0 * used.as_secs_f64() / began.elapsed().as_secs_f64();
    let threads = usage::threads(server.pid())?;
    for client in &mut clients {
        let reply = client.call(&["PING"])?;
        if reply.bytes() != Some(b"PONG".as_slice()) {
            return Err(io::Error::other(format!("PING answered {reply}")));
        }
    }
    Ok(Idle { cpu_percent, threads })
}
