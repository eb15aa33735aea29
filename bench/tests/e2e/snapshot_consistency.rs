//! A snapshot taken while money moves: transfers between accounts on different shards keep the sum,
//! and so must every snapshot, whatever moment it froze.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use cutwater_bench::client::Client;
use cutwater_bench::process::ServerProcess;
use cutwater_bench::server::{self, ServerOptions};

/// How many accounts; `CUTWATER_ACCOUNTS` overrides it (1,000,000 in a release build).
const ACCOUNTS: u64 = 100_000;
/// What each holds at first.
const BALANCE: i64 = 1_000;
/// How many connections move money, each between accounts of its own.
const WRITERS: u64 = 3;
/// Transfers, or reads and writes of accounts, in one pipeline.
const RUN: usize = 100;

fn account(number: u64) -> String {
    format!("account:{number}")
}

fn open_accounts(server: &ServerProcess, count: u64) {
    let mut client = server.client().unwrap();
    let numbers: Vec<u64> = (0..count).collect();
    for run in numbers.chunks(RUN * RUN) {
        let commands: Vec<Vec<String>> = run
            .chunks(RUN)
            .map(|keys| {
                let pairs = keys.iter().flat_map(|n| [account(*n), BALANCE.to_string()]);
                ["MSET".to_owned()].into_iter().chain(pairs).collect()
            })
            .collect();
        assert!(client.pipeline(&commands).unwrap().iter().all(|reply| reply.is_ok()));
    }
}

/// Moves money between pairs of accounts; nobody else touches those of this writer, so it knows
/// their balances. A pair is two keys, most often on two shards, changed by one MSET.
fn transfer(address: SocketAddr, writer: u64, count: u64, stop: &AtomicBool, moved: &AtomicU64) {
    let mut client = Client::connect(address).unwrap();
    let own: Vec<u64> = (0..count).filter(|n| n % WRITERS == writer).collect();
    let mut balances = vec![BALANCE; own.len()];
    // An xorshift generator with the writer's number as its seed.
    let mut random = 0x9E37_79B9_7F4A_7C15 ^ (writer + 1);
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..RUN / 10 {
            let (from, to) = (next(own.len()), next(own.len()));
            if from == to {
                continue;
            }
            let amount = next(50) as i64;
            balances[from] -= amount;
            balances[to] += amount;
            client.queue(&[
                "MSET".to_owned(),
                account(own[from]),
                balances[from].to_string(),
                account(own[to]),
                balances[to].to_string(),
            ]);
            let reply = client.flush().and_then(|()| client.receive()).unwrap();
            assert!(reply.is_ok(), "{reply}");
            moved.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn sum(server: &ServerProcess, count: u64) -> i64 {
    let mut client = server.client().unwrap();
    let numbers: Vec<u64> = (0..count).collect();
    let mut sum = 0;
    for run in numbers.chunks(RUN * RUN) {
        let commands: Vec<Vec<String>> = run
            .chunks(RUN)
            .map(|keys| ["MGET".to_owned()].into_iter().chain(keys.iter().map(|n| account(*n))))
            .map(Iterator::collect)
            .collect();
        for reply in client.pipeline(&commands).unwrap() {
            let cutwater_bench::reply::Reply::Array(_, values) = reply else {
                panic!("MGET answered {reply}");
            };
            sum += values.iter().map(|v| v.integer().expect("a balance")).sum::<i64>();
        }
    }
    sum
}

#[test]
fn a_snapshot_under_transfers_keeps_the_sum() {
    let count = std::env::var("CUTWATER_ACCOUNTS").ok().and_then(|text| text.parse().ok());
    let count = count.unwrap_or(if cfg!(debug_assertions) { ACCOUNTS } else { 10 * ACCOUNTS });
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut options = ServerOptions::new(&data);
    options.shards = 3;
    options.fsync = Some("everysec");
    let mut server = options.without_log_in_stand_in().start().unwrap();
    open_accounts(&server, count);
    let whole = count as i64 * BALANCE;
    assert_eq!(sum(&server, count), whole);

    let (stop, moved) = (AtomicBool::new(false), AtomicU64::new(0));
    let address = server.address();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (stop, moved) = (&stop, &moved);
            scope.spawn(move || transfer(address, writer, count, stop, moved));
        }
        // Ends the writers also when an assertion below fails.
        let _guard = StopOnDrop(&stop);
        for round in 0..3 {
            let before = moved.load(Ordering::Relaxed);
            while moved.load(Ordering::Relaxed) < before + 100 {
                thread::yield_now();
            }
            let snapshot = server::create_snapshot(&server).unwrap();
            let restored = dir.path().join(format!("restored-{round}"));
            server::restore(&data, snapshot, &restored).unwrap();
            // Other numbers of shards than the snapshot was taken on.
            let mut options = ServerOptions::new(&restored);
            options.shards = [3, 1, 5][round];
            let copy = options.without_log_in_stand_in().start().unwrap();
            let keys = copy.client().unwrap().call(&["DBSIZE"]).unwrap().integer();
            assert_eq!(keys, Some(count as i64), "round {round}");
            assert_eq!(sum(&copy, count), whole, "round {round}");
        }
    });
    assert_eq!(sum(&server, count), whole);
    server.terminate().unwrap();
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
