//! Bases and deltas of a server under load that is killed and started again on other numbers of
//! shards: each restores exactly what it was taken of, on one, two and five shards, which the
//! digests tell that were taken of the shards when they froze; and of what is restored the money is
//! all there.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use cutwater_bench::client::Client;
use cutwater_bench::process::ServerProcess;
use cutwater_bench::reply::Reply;
use cutwater_bench::server::{self, ServerOptions, field};
use cutwater_bench::sim::rng::Rng;

/// Accounts whose sum never changes, in database 0.
const ACCOUNTS: usize = 60;
const BALANCE: i64 = 100;
/// Keys of everything else, in both databases.
const KEYS: usize = 400;
const WRITERS: u64 = 3;
/// The longest large value, about.
const LARGE_BYTES: usize = 300_000;

fn account(number: usize) -> String {
    format!("account:{number}")
}

fn opening() -> Vec<String> {
    let pairs = (0..ACCOUNTS).flat_map(|n| [account(n), BALANCE.to_string()]);
    ["MSET".to_owned()].into_iter().chain(pairs).collect()
}

/// Commands of one writer until it is told to stop or the server is gone.
fn write(address: SocketAddr, seed: u64, stop: &AtomicBool, written: &AtomicU64) {
    let mut rng = Rng::new(seed);
    let Ok(mut client) = Client::connect(address) else { return };
    while !stop.load(Ordering::Relaxed) {
        let commands: Vec<Vec<String>> = command(&mut rng);
        for command in &commands {
            client.queue(command);
        }
        // A server that was killed answers nothing more.
        if client.flush().is_err() || commands.iter().any(|_| client.receive().is_err()) {
            return;
        }
        written.fetch_add(1, Ordering::Relaxed);
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// One command, or one transaction.
fn command(rng: &mut Rng) -> Vec<Vec<String>> {
    let key = |rng: &mut Rng| format!("key:{}", rng.below(KEYS));
    let value = |rng: &mut Rng| "v".repeat(rng.below(200)) + &rng.any().to_string();
    let large = |rng: &mut Rng| format!("large:{}", rng.below(5));
    let one = match rng.below(100) {
        0..20 => words(&format!("SET {} {}", key(rng), value(rng))),
        20..35 => {
            let pairs = (0..5).flat_map(|_| [key(rng), value(rng)]);
            ["MSET".to_owned()].into_iter().chain(pairs).collect()
        }
        35..45 => words(&format!("DEL {} {}", key(rng), key(rng))),
        45..55 => words(&format!("APPEND {} {}", large(rng), value(rng).repeat(20))),
        55..65 => {
            let at = rng.below(LARGE_BYTES);
            words(&format!("SETRANGE {} {at} {}", large(rng), value(rng)))
        }
        65..70 => words(&format!("SET {} {}", large(rng), value(rng).repeat(rng.below(300)))),
        70..76 => words(&format!("SET {} {} PX {}", key(rng), value(rng), rng.between(1, 300))),
        76..80 => words(&format!("PEXPIRE {} {}", key(rng), rng.between(1, 100_000))),
        80..82 => words(&format!("PERSIST {}", key(rng))),
        82..88 => words(&format!("RENAME {} {}", key(rng), key(rng))),
        88..90 => words(&format!("COPY {} {} REPLACE", large(rng), key(rng))),
        // Money moves: what one loses another gains, on two shards or one.
        90..98 => {
            let (from, to) = (account(rng.below(ACCOUNTS)), account(rng.below(ACCOUNTS)));
            let (out, back) = (format!("INCRBY {from} -7"), format!("INCRBY {to} 7"));
            return ["MULTI", &out, &back, "EXEC"].into_iter().map(words).collect();
        }
        98 => {
            let other = format!("SET {} {}", key(rng), value(rng));
            return ["SELECT 1", "FLUSHDB", &other, "SELECT 0"].into_iter().map(words).collect();
        }
        _ if rng.chance(20) => {
            return vec![words("MULTI"), words("FLUSHALL"), opening(), words("EXEC")];
        }
        _ => words(&format!("INCR counter:{}", rng.below(3))),
    };
    vec![one]
}

/// Takes a snapshot; its id, and whether it is a delta. `None` if the server refused.
fn take(server: &ServerProcess, kind: &str) -> Option<(u64, bool)> {
    let mut client = server.client().unwrap();
    let reply = client.call(&["SNAPSHOT", "CREATE", kind]).unwrap();
    let id = field(&reply, "id").and_then(Reply::integer)?;
    let kind = field(&reply, "kind").and_then(Reply::bytes).unwrap();
    Some((id as u64, kind == b"delta"))
}

fn wait_for_writes(written: &AtomicU64, count: u64) {
    let until = written.load(Ordering::Relaxed) + count;
    while written.load(Ordering::Relaxed) < until {
        thread::yield_now();
    }
}

fn check(data: &str, dir: &tempfile::TempDir, id: u64, n: usize) {
    let store = format!("file://{data}/store");
    for shards in ["1", "2", "5"] {
        let id = id.to_string();
        let arguments =
            ["snapshot", "verify", &id, "--deep", "--shards", shards, "--store", &store];
        let output = server::subcommand(&arguments).unwrap();
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "snapshot {id} on {shards}: {printed}");
    }
    let into = dir.path().join(format!("restored-{id}"));
    server::restore(data.as_ref(), id, &into).unwrap();
    let mut options = ServerOptions::new(&into);
    options.shards = [1, 2, 5][n % 3];
    let copy = options.start().unwrap();
    let keys = (0..ACCOUNTS).map(account);
    let command: Vec<String> = ["MGET".to_owned()].into_iter().chain(keys).collect();
    let reply = copy.client().unwrap().call(&command).unwrap();
    let Reply::Array(_, values) = reply else { panic!("MGET answered {reply}") };
    let sum: i64 = values.iter().map(|value| value.integer().unwrap()).sum();
    assert_eq!(sum, ACCOUNTS as i64 * BALANCE, "snapshot {id}");
}

#[test]
fn deltas_under_load_and_kills_restore_what_they_were_taken_of() {
    if server::is_stand_in() {
        return;
    }
    let seed = std::env::var("CUTWATER_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or(20_261_125);
    println!("CUTWATER_SEED={seed}");
    let mut rng = Rng::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").display().to_string();
    let (mut taken, mut deltas) = (Vec::new(), 0);
    for (round, shards) in [2, 3, 1, 5, 2].into_iter().enumerate() {
        let mut options = ServerOptions::new(&data);
        options.shards = shards;
        options.fsync = Some(if round % 2 == 0 { "always" } else { "everysec" });
        let mut server = options.start().unwrap();
        if round == 0 {
            assert!(server.client().unwrap().call(&opening()).unwrap().is_ok());
        }
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        let address = server.address();
        thread::scope(|scope| {
            let _guard = StopOnDrop(&stop);
            for _ in 0..WRITERS {
                let (seed, stop, written) = (rng.any(), &stop, &written);
                scope.spawn(move || write(address, seed, stop, written));
            }
            for _ in 0..3 {
                wait_for_writes(&written, rng.between(100, 600));
                let kind = if taken.is_empty() { "BASE" } else { "DELTA" };
                let (id, is_delta) = take(&server, kind).unwrap();
                deltas += usize::from(is_delta);
                taken.push(id);
            }
            wait_for_writes(&written, rng.between(10, 200));
            if round == 3 {
                server.terminate().unwrap();
            } else {
                server.kill9().unwrap();
            }
        });
    }
    // Where much was written in between, which a busy machine decides, a base was due.
    assert!(deltas >= 3, "{deltas} of {} are deltas", taken.len());
    for (n, id) in taken.iter().enumerate() {
        check(&data, &dir, *id, n);
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
