//! Load at a fixed rate, and how long each request waited: measured from the moment at which it was
//! *due*, so that a server that stands still is charged for every request that it kept from being
//! sent too.
//!
//! One thread sends, in ticks of 250 microseconds; one thread for each connection reads the
//! replies. Half of the requests are GETs and half SETs, of random keys of a dataset as `compare`
//! writes it.

use std::io::{self, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::encode;
use crate::reply::Reply;

/// How often requests are sent.
const TICK: Duration = Duration::from_micros(250);
/// How long a reply may take before the run fails.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// What to send.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Requests in a second.
    pub requests_per_s: u32,
    /// Connections, which take turns.
    pub connections: usize,
    /// The keys are `key:000000000000` to this number, exclusive.
    pub keys: u64,
    /// Bytes of the values that are set.
    pub value_bytes: usize,
    /// What the keys are drawn from.
    pub seed: u64,
}

/// How long the requests of a run waited, in ascending order.
#[derive(Clone, Debug)]
pub struct Waits {
    sorted: Vec<Duration>,
}

impl Waits {
    /// The wait that this share of the requests did not exceed: `0.999` for p99.9.
    ///
    /// # Panics
    /// If nothing was sent.
    pub fn quantile(&self, share: f64) -> Duration {
        let at = (self.sorted.len() as f64 * share).ceil() as usize;
        self.sorted[at.clamp(1, self.sorted.len()) - 1]
    }

    /// The longest wait.
    ///
    /// # Panics
    /// If nothing was sent.
    pub fn longest(&self) -> Duration {
        *self.sorted.last().expect("a run sends something")
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.sorted.len()
    }
}

/// One connection as the sending thread sees it.
struct Lane {
    stream: TcpStream,
    due: Sender<Instant>,
}

/// Sends at that pace while `go_on` says so (it is asked once a tick), and waits for every reply.
///
/// # Errors
/// Those of the sockets; a reply that is an error.
pub fn run(
    address: SocketAddr,
    pace: &Pace,
    mut go_on: impl FnMut(Duration) -> bool,
) -> io::Result<Waits> {
    let mut lanes = Vec::with_capacity(pace.connections);
    let mut readers = Vec::with_capacity(pace.connections);
    for _ in 0..pace.connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        let replies = BufReader::new(stream.try_clone()?);
        let (due, received) = mpsc::channel();
        readers.push(thread::spawn(move || read(replies, &received)));
        lanes.push(Lane { stream, due });
    }
    let sent = send(&mut lanes, pace, &mut go_on);
    // Without its sender a reader ends once it has read what was asked for.
    drop(lanes);
    let mut sorted = Vec::new();
    for reader in readers {
        sorted.extend(reader.join().map_err(|_| io::Error::other("a reader panicked"))??);
    }
    sent?;
    sorted.sort_unstable();
    Ok(Waits { sorted })
}

fn send(
    lanes: &mut [Lane],
    pace: &Pace,
    go_on: &mut impl FnMut(Duration) -> bool,
) -> io::Result<()> {
    let began = Instant::now();
    let value = vec![b'p'; pace.value_bytes];
    let (mut sent, mut random, mut bytes) = (0u64, pace.seed | 1, Vec::new());
    for tick in 0u32.. {
        let due = began + TICK * tick;
        if !go_on(due.duration_since(began)) {
            return Ok(());
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let target = u64::from(pace.requests_per_s) * u64::from(tick + 1) * TICK.as_micros() as u64;
        while sent < target / 1_000_000 {
            let lane = (sent % lanes.len() as u64) as usize;
            random = xorshift(random);
            let key = format!("key:{:012}", random % pace.keys);
            bytes.clear();
            match (random >> 60) & 1 {
                0 => encode(&[&b"GET"[..], key.as_bytes()], &mut bytes),
                _ => encode(&[&b"SET"[..], key.as_bytes(), &value], &mut bytes),
            }
            lanes[lane].stream.write_all(&bytes)?;
            let gone = |_| io::Error::other("a reader has ended early");
            lanes[lane].due.send(due).map_err(gone)?;
            sent += 1;
        }
    }
    Ok(())
}

fn read(mut replies: BufReader<TcpStream>, due: &Receiver<Instant>) -> io::Result<Vec<Duration>> {
    let mut waits = Vec::new();
    while let Ok(due) = due.recv() {
        let reply = Reply::read(&mut replies)?;
        waits.push(due.elapsed());
        if let Reply::Error(text) = reply {
            return Err(io::Error::other(text));
        }
    }
    Ok(waits)
}

fn xorshift(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^ (x << 17)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let sorted = (1..=1000).map(Duration::from_micros).collect();
        let waits = Waits { sorted };
        assert_eq!(waits.quantile(0.5), Duration::from_micros(500));
        assert_eq!(waits.quantile(0.999), Duration::from_micros(999));
        assert_eq!(waits.quantile(1.0), waits.longest());
        assert_eq!(waits.requests(), 1000);
    }
}
