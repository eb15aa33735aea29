//! How a server ends: asked to, under load, in the middle of a snapshot; and what the next start
//! finds.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cutwater_bench::client::Client;
use cutwater_bench::reply::Reply;
use cutwater_bench::server::{self, ServerOptions};

use crate::support::{assert_filled, fill, refused, serve, size};

const KEYS: usize = 2_000;
/// How long an orderly end may take to be seen.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Counts a key of its own up until the connection ends; the last acknowledged value.
fn count_up(address: SocketAddr, key: &str) -> i64 {
    let mut client = Client::connect(address).unwrap();
    let mut acknowledged = 0;
    while let Ok(reply) = client.call(&["INCR", key]) {
        match reply {
            Reply::Integer(number) => acknowledged = number,
            // A server that stops may say so before it closes.
            _ => break,
        }
    }
    acknowledged
}

/// Runs counters, ends the server as `end` does, and checks that the next start has what was
/// acknowledged.
fn ends_under_load(end: impl FnOnce(&mut cutwater_bench::process::ServerProcess)) {
    let (_dir, mut server) = serve(|_| {});
    let address = server.address();
    let keys: Vec<String> = (0..4).map(|n| format!("counter:{n}")).collect();
    let acknowledged: Vec<i64> = thread::scope(|scope| {
        let counters: Vec<_> =
            keys.iter().map(|key| scope.spawn(move || count_up(address, key))).collect();
        let mut client = server.client().unwrap();
        while client.call(&["GET", "counter:0"]).unwrap().integer().unwrap_or(0) < 50 {
            thread::yield_now();
        }
        end(&mut server);
        counters.into_iter().map(|counter| counter.join().unwrap()).collect()
    });
    server.restart().unwrap();
    let mut client = server.client().unwrap();
    for (key, acknowledged) in keys.iter().zip(acknowledged) {
        let found = client.call(&["GET", key.as_str()]).unwrap().integer().unwrap_or(0);
        // One more may have been under way.
        assert!((acknowledged..=acknowledged + 1).contains(&found), "{key}: {found}");
    }
}

#[test]
fn sigterm_under_load_loses_nothing() {
    ends_under_load(|server| server.terminate().unwrap());
}

/// As a terminal sends it.
#[test]
fn sigint_under_load_loses_nothing() {
    ends_under_load(|server| {
        let pid = server.pid().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        assert!(server.wait(END_LIMIT).unwrap().success() || server::is_stand_in());
    });
}

#[test]
fn shutdown_under_load_loses_nothing() {
    ends_under_load(|server| {
        // No reply comes: the connection ends.
        assert!(server.client().unwrap().call(&["SHUTDOWN"]).is_err());
        assert!(server.wait(END_LIMIT).unwrap().success());
    });
}

#[test]
fn a_second_server_on_the_directory_is_refused() {
    if server::is_stand_in() {
        return;
    }
    let (dir, mut server) = serve(|_| {});
    let data = dir.path().join("data").display().to_string();
    let error = refused(&["serve", "--data-dir", &data, "--port", "0"], 1);
    let expected = format!(
        "error: the data directory {data} is in use by process {}\n  Stop that server first, or \
         choose another --data-dir.\n",
        server.pid()
    );
    assert_eq!(error, expected);
    assert!(server.client().unwrap().call(&["SET", "k", "v"]).unwrap().is_ok());
    server.terminate().unwrap();
}

/// The ids of the published snapshots, as the listing of the store shows them.
fn published(data: &Path) -> Vec<u64> {
    let store = format!("file://{}", data.join("store").display());
    let output = server::subcommand(&["snapshot", "list", "--store", &store]).unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let rows = printed.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let published = rows.filter(|row| row.get(2) == Some(&"published"));
    published.map(|row| row[0].parse().unwrap()).collect()
}

#[test]
fn killed_in_the_middle_of_a_snapshot() {
    if server::is_stand_in() {
        return;
    }
    let (dir, mut server) = serve(|options| {
        // Checkpoints begin by themselves as well.
        options.checkpoint_log_bytes = Some(4 * 1024 * 1024);
    });
    let data = dir.path().join("data");
    fill(&mut server.client().unwrap(), "key", 100_000);
    for round in 0..6u64 {
        let asked = server.client().unwrap();
        let before = published(&data);
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut asked = asked;
                let _ = asked.call(&["SNAPSHOT", "CREATE"]);
            });
            thread::sleep(Duration::from_millis(round * 8));
            server.kill9().unwrap();
        });
        for id in published(&data).iter().filter(|id| !before.contains(id)) {
            let store = format!("file://{}", data.join("store").display());
            let verified =
                server::subcommand(&["snapshot", "verify", &id.to_string(), "--store", &store]);
            assert!(verified.unwrap().status.success(), "round {round}: snapshot {id}");
        }
        server.restart().unwrap();
        let mut client = server.client().unwrap();
        assert_eq!(size(&mut client), 100_000, "round {round}");
    }
    assert_filled(&mut server.client().unwrap(), "key", 100_000);
    server::create_snapshot(&server).unwrap();
    server.terminate().unwrap();
}

#[test]
fn flushall_and_what_came_after_it_survive() {
    let (_dir, mut server) = serve(|_| {});
    fill(&mut server.client().unwrap(), "gone", KEYS);
    if !server::is_stand_in() {
        server::create_snapshot(&server).unwrap();
    }
    let mut client = server.client().unwrap();
    assert!(client.call(&["FLUSHALL"]).unwrap().is_ok());
    fill(&mut client, "kept", 300);
    for round in 0..2 {
        if round == 0 {
            server.kill9().unwrap()
        } else {
            server.terminate().unwrap()
        }
        server.restart().unwrap();
        let mut client = server.client().unwrap();
        assert_eq!(size(&mut client), 300);
        assert_filled(&mut client, "kept", 300);
    }
}

/// Transactions over several shards, until the connection ends; the last value sent.
fn transact(address: SocketAddr, keys: &[String], from: i64, stop: &AtomicBool) -> i64 {
    let Ok(mut client) = Client::connect(address) else { return from };
    let mut value = from;
    while !stop.load(Ordering::Relaxed) {
        value += 1;
        client.queue(&["MULTI"]);
        keys.iter().for_each(|key| client.queue(&["SET", key, &value.to_string()]));
        client.queue(&["EXEC"]);
        if client.flush().is_err() || (0..keys.len() + 2).any(|_| client.receive().is_err()) {
            break;
        }
    }
    value
}

#[test]
fn a_transaction_survives_a_crash_whole_or_not_at_all() {
    let (_dir, mut server) = serve(|options| options.shards = 3);
    let groups: Vec<Vec<String>> =
        (0..3).map(|group| (0..5).map(|n| format!("{group}:{n}")).collect()).collect();
    let mut sent = [0; 3];
    for round in 0..10u64 {
        let stop = AtomicBool::new(false);
        let address = server.address();
        thread::scope(|scope| {
            let pairs = groups.iter().zip(sent.iter_mut());
            for (keys, sent) in pairs {
                let stop = &stop;
                scope.spawn(move || *sent = transact(address, keys, *sent, stop));
            }
            thread::sleep(Duration::from_millis(20 + round * 13));
            server.kill9().unwrap();
            stop.store(true, Ordering::Relaxed);
        });
        server.restart().unwrap();
        let mut client = server.client().unwrap();
        for (keys, sent) in groups.iter().zip(sent) {
            let command: Vec<&str> =
                ["MGET"].into_iter().chain(keys.iter().map(String::as_str)).collect();
            let Reply::Array(_, values) = client.call(&command).unwrap() else { panic!() };
            assert!(values.iter().all(|v| *v == values[0]), "round {round}: half of {values:?}");
            assert!(values[0].integer().unwrap_or(0) <= sent, "round {round}: {values:?}");
        }
    }
    assert!(sent.iter().all(|sent| *sent > 0), "not a transaction: {sent:?}");
}

#[test]
fn a_server_that_loads_says_so() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, mut server) = serve(|options| options.fsync = Some("never"));
    let keys = 400_000;
    let mut client = server.client().unwrap();
    for n in (0..keys).step_by(1_000) {
        let pairs = (n..n + 1_000).flat_map(|n| [format!("key:{n}"), "v".to_owned()]);
        let command: Vec<String> = ["MSET".to_owned()].into_iter().chain(pairs).collect();
        assert!(client.call(&command).unwrap().is_ok());
    }
    server.terminate().unwrap();
    // Until it serves, every reply is a refused connection or this error; never a missing key.
    server.restart_without_waiting().unwrap();
    let began = Instant::now();
    let mut loading = 0;
    loop {
        assert!(began.elapsed() < END_LIMIT, "it does not serve");
        let reply = server.client().and_then(|mut client| client.call(&["GET", "key:399999"]));
        match reply {
            Ok(Reply::Error(text)) => {
                let expected = "LOADING Cutwater is loading the dataset in memory";
                assert!(text.starts_with(expected), "{text}");
                loading += 1;
            }
            Ok(reply) => {
                assert_eq!(reply.bytes(), Some(b"v".as_slice()));
                break;
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    assert!(loading > 0, "it was never seen loading");
    assert_eq!(size(&mut server.client().unwrap()), keys);
}

#[test]
fn without_a_log_snapshots_are_taken_and_restored() {
    if server::is_stand_in() {
        return;
    }
    let (dir, mut server) = serve(|options| options.fsync = None);
    fill(&mut server.client().unwrap(), "key", KEYS);
    let snapshot = server::create_snapshot(&server).unwrap();
    fill(&mut server.client().unwrap(), "later", KEYS);
    server.terminate().unwrap();
    let restored = dir.path().join("restored");
    server::restore(&dir.path().join("data"), snapshot, &restored).unwrap();
    let mut server = ServerOptions::new(&restored).start().unwrap();
    for _ in 0..2 {
        let mut client = server.client().unwrap();
        assert_eq!(size(&mut client), KEYS as i64);
        assert_filled(&mut client, "key", KEYS);
        server.kill9().unwrap();
        server.restart().unwrap();
    }
}
