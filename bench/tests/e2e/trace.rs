//! What a request costs in system calls: sockets are read and written by the ring, many at a time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cutwater_bench::server;
use cutwater_bench::tools::{self, Tool};

use crate::support::serve;

const REQUESTS: u64 = 100_000;
const CONNECTIONS: &str = "50";
/// Calls by names that stand for one request or one connection at a time: of the control plane, and
/// of connections that come and go.
const OTHER_CALLS_MAX: u64 = REQUESTS / 100;
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_hundred_thousand_gets_need_fewer_system_calls() {
    const NAME: &str = "a_hundred_thousand_gets_need_fewer_system_calls";
    if server::is_stand_in() || !tools::available(NAME, &[Tool::RedisBenchmark, Tool::Strace]) {
        return;
    }
    let (dir, server) = serve(|_| {});
    let (table, said) = (dir.path().join("table"), dir.path().join("said"));
    let mut strace = Command::new("strace")
        .args(["-c", "-f", "-p", &server.pid().to_string(), "-o"])
        .arg(&table)
        .stderr(File::create(&said).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    if !is_attached(&said) {
        tools::wait_within(&mut strace, LIMIT).unwrap();
        panic!("{NAME}: {}", fs::read_to_string(&said).unwrap());
    }
    let port = server.address().port().to_string();
    let (count, requests) = ("-n", REQUESTS.to_string());
    let load = ["-p", &port, "-q", "-c", CONNECTIONS, count, &requests, "-t", "get"];
    let output = tools::run(Command::new("redis-benchmark").args(load), LIMIT).unwrap();
    assert!(output.status.success(), "{output:?}");
    let interrupted = Command::new("kill").args(["-INT", &strace.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    tools::wait_within(&mut strace, LIMIT).unwrap();

    let table = fs::read_to_string(&table).unwrap();
    let calls = calls(&table);
    let one_at_a_time = [
        "recvfrom",
        "recvmsg",
        "recvmmsg",
        "sendto",
        "sendmsg",
        "sendmmsg",
        "poll",
        "ppoll",
        "select",
        "pselect6",
        "epoll_wait",
        "epoll_pwait",
        "epoll_ctl",
    ];
    let others: u64 = one_at_a_time.iter().filter_map(|name| calls.get(*name)).sum();
    assert!(others < OTHER_CALLS_MAX, "{others} calls beside the ring:\n{table}");
    // Reads and writes are of the doorbells between shards: one wakes for many requests.
    let all: u64 = calls.iter().filter(|(name, _)| **name != "total").map(|(_, count)| count).sum();
    assert!(all < REQUESTS, "{all} calls:\n{table}");
    let enters = calls.get("io_uring_enter").copied().unwrap_or_default();
    assert!(0 < enters && enters < REQUESTS, "{enters} calls of the ring:\n{table}");
}

/// Waits until strace watches the process, or has given up.
fn is_attached(said: &Path) -> bool {
    let deadline = Instant::now() + LIMIT;
    loop {
        let text = fs::read_to_string(said).unwrap();
        if text.contains(" attached") || text.contains("attach:") || Instant::now() >= deadline {
            return text.contains(" attached");
        }
        std::thread::yield_now();
    }
}

/// The columns `calls` and `syscall` of `strace -c`.
fn calls(table: &str) -> BTreeMap<&str, u64> {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter_map(|row| Some((*row.last()?, row.get(3)?.parse().ok()?))).collect()
}
