//! `kill -9` under load, again and again on one data directory: no acknowledged write is lost, no
//! value goes back, and an MSET over several shards is there whole or not at all.
//!
//! This proves recovery, not fsync: the page cache survives the process. Lost syncs are the
//! business of the simulation.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cutwater_bench::client::Client;
use cutwater_bench::process::ServerProcess;
use cutwater_bench::server::{self, ServerOptions};

/// How often the server is killed; `CUTWATER_KILL_ROUNDS` overrides it.
const ROUNDS: u64 = 50;
/// How many connections write at once.
const WRITERS: usize = 4;
/// The counters of each writer; each is a key of its own, so they lie on all shards.
const KEYS: usize = 16;
/// Of these, the keys that one MSET writes together.
const GROUP: usize = 4;
/// Commands that a writer has under way.
const PIPELINE: usize = 8;

/// What one writer knows: a counter goes up by one with each write.
#[derive(Clone, Default)]
struct Ledger {
    /// The last value of each key that the server acknowledged.
    acknowledged: [u64; KEYS],
    /// The last value of each key that was sent.
    sent: [u64; KEYS],
    /// How many replies came.
    replies: u64,
}

fn key(writer: usize, key: usize) -> String {
    format!("writer:{writer}:{key}")
}

/// Sends single SETs to the keys from `GROUP` on and MSETs to those below, until the connection
/// breaks.
fn write(address: SocketAddr, writer: usize, ledger: &mut Ledger, stop: &AtomicBool) {
    let Ok(mut client) = Client::connect(address) else { return };
    let mut turn = ledger.replies as usize;
    while !stop.load(Ordering::Relaxed) {
        let run: Vec<usize> = (0..PIPELINE).map(|n| turn + n).collect();
        turn += PIPELINE;
        for n in &run {
            client.queue(&command(writer, *n, ledger));
        }
        if client.flush().is_err() {
            return;
        }
        for n in &run {
            match client.receive() {
                Ok(reply) if reply.is_ok() => acknowledge(*n, ledger),
                Ok(reply) => panic!("writer {writer}: {reply}"),
                Err(_) => return,
            }
        }
    }
}

/// The n-th command of a writer, and a note of what it sends.
fn command(writer: usize, n: usize, ledger: &mut Ledger) -> Vec<String> {
    if n.is_multiple_of(4) {
        let value = ledger.sent[0] + 1;
        ledger.sent[..GROUP].fill(value);
        let pairs = (0..GROUP).flat_map(|k| [key(writer, k), value.to_string()]);
        return ["MSET".to_owned()].into_iter().chain(pairs).collect();
    }
    let k = GROUP + n % (KEYS - GROUP);
    ledger.sent[k] += 1;
    vec!["SET".to_owned(), key(writer, k), ledger.sent[k].to_string()]
}

fn acknowledge(n: usize, ledger: &mut Ledger) {
    ledger.replies += 1;
    if n.is_multiple_of(4) {
        ledger.acknowledged[..GROUP].iter_mut().for_each(|value| *value += 1);
    } else {
        ledger.acknowledged[GROUP + n % (KEYS - GROUP)] += 1;
    }
}

/// Compares the server with a ledger, and makes the ledger agree: what was sent and not
/// acknowledged may be there or not.
fn check(server: &ServerProcess, writer: usize, ledger: &mut Ledger, round: u64) {
    let mut client = server.client().unwrap();
    let commands: Vec<_> = (0..KEYS).map(|k| vec!["GET".to_owned(), key(writer, k)]).collect();
    let replies = client.pipeline(&commands).unwrap();
    let found: Vec<u64> = replies.iter().map(|reply| reply.integer().unwrap_or(0) as u64).collect();
    for (k, value) in found.iter().enumerate() {
        let (low, high) = (ledger.acknowledged[k], ledger.sent[k]);
        assert!(
            (low..=high).contains(value),
            "round {round}, {}: {value}, but {low} was acknowledged and {high} the last sent",
            key(writer, k)
        );
    }
    let group = &found[..GROUP];
    assert!(group.iter().all(|v| *v == group[0]), "round {round}: half an MSET: {group:?}");
    ledger.acknowledged.copy_from_slice(&found);
    ledger.sent = ledger.acknowledged;
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let rounds = std::env::var("CUTWATER_KILL_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    let dir = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::new(dir.path().join("data"));
    options.shards = 3;
    // Small, so that checkpoints begin, end and are cut off by a crash in this test.
    options.checkpoint_log_bytes = Some(4 * 1024 * 1024);
    let mut server = options.start().unwrap();
    let mut ledgers: Vec<Ledger> = vec![Ledger::default(); WRITERS];
    for round in 0..rounds {
        let stop = AtomicBool::new(false);
        let address = server.address();
        thread::scope(|scope| {
            for (writer, ledger) in ledgers.iter_mut().enumerate() {
                let stop = &stop;
                scope.spawn(move || write(address, writer, ledger, stop));
            }
            // A different moment each round, from the first writes on to a while under load.
            let until = Instant::now() + Duration::from_millis(20 + round * 37 % 280);
            while Instant::now() < until {
                thread::yield_now();
                thread::sleep(Duration::from_millis(1));
            }
            server.kill9().unwrap();
            stop.store(true, Ordering::Relaxed);
        });
        server.restart().unwrap();
        for (writer, ledger) in ledgers.iter_mut().enumerate() {
            check(&server, writer, ledger, round);
        }
    }
    let total: u64 = ledgers.iter().map(|ledger| ledger.replies).sum();
    assert!(total > rounds * WRITERS as u64, "only {total} writes in {rounds} rounds");
    server.terminate().unwrap();
    if !server::is_stand_in() {
        // Another number of shards reads the same logs.
        let mut options = ServerOptions::new(dir.path().join("data"));
        options.shards = 2;
        let server = options.start().unwrap();
        for (writer, ledger) in ledgers.iter_mut().enumerate() {
            check(&server, writer, ledger, rounds);
        }
    }
}
