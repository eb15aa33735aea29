//! The clients that people use: `redis-benchmark`, and redis-py plain, transactional and as a
//! cluster client. What they do at connection time (HELLO, COMMAND, CLIENT SETINFO, CONFIG GET,
//! CLUSTER SLOTS) is part of the test.

use std::process::Command;
use std::time::Duration;

use cutwater_bench::process::ServerProcess;
use cutwater_bench::server::{self, ServerOptions};
use cutwater_bench::tools::{self, Tool};

use crate::support::fill;

const RUN_LIMIT: Duration = Duration::from_secs(120);

/// Starts a server in a folder that goes when the guard goes.
fn serve(cluster: bool) -> (tempfile::TempDir, ServerProcess) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::new(dir.path().join("data"));
    options.cluster = cluster;
    options.fsync = Some("everysec");
    let server = options.start().unwrap();
    (dir, server)
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = tools::run(Command::new(program).args(arguments), RUN_LIMIT).unwrap();
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{program} {arguments:?}: {}: {printed}", output.status);
    printed
}

fn benchmark(server: &ServerProcess, arguments: &[&str], tests: &[&str]) {
    let port = server.address().port().to_string();
    let list = tests.join(",").to_lowercase();
    let common = ["-h", "127.0.0.1", "-p", &port, "-q", "-n", "5000", "-r", "1000", "-t", &list];
    let printed = run("redis-benchmark", &[&common, arguments].concat());
    for test in tests {
        let done = printed
            .split(['\r', '\n'])
            .any(|line| line.starts_with(test) && line.contains("requests per second"));
        assert!(done, "{test} did not finish: {printed}");
    }
    assert!(!printed.to_lowercase().contains("error"), "{printed}");
}

#[test]
fn redis_benchmark() {
    if !tools::available("redis_benchmark", &[Tool::RedisBenchmark]) {
        return;
    }
    let (_dir, server) = serve(false);
    benchmark(&server, &[], &["SET", "GET", "INCR", "MSET"]);
    benchmark(&server, &["-P", "16"], &["SET", "GET", "INCR", "MSET"]);
    benchmark(&server, &[], &["PING_INLINE", "PING_MBULK"]);
}

#[test]
fn redis_benchmark_as_a_cluster_needs_no_forwarding() {
    if !tools::available("redis_benchmark_cluster", &[Tool::RedisBenchmark]) {
        return;
    }
    if server::is_stand_in() {
        // redis-benchmark refuses a cluster of one node; Cutwater names one node a shard.
        return;
    }
    let (_dir, server) = serve(true);
    benchmark(&server, &["--cluster", "-P", "16"], &["SET", "GET"]);
    assert_nothing_was_forwarded(&server);
}

/// Every command came to the shard that owns its key.
fn assert_nothing_was_forwarded(server: &ServerProcess) {
    let info = server.client().unwrap().call(&["INFO"]).unwrap();
    let info = String::from_utf8_lossy(info.bytes().unwrap()).into_owned();
    let forwarded = info.lines().find(|line| line.starts_with("commands_forwarded:"));
    assert_eq!(forwarded, Some("commands_forwarded:0"), "of {info}");
}

/// redis-cli as people use it: one command, a line typed into it, and its own modes.
#[test]
fn redis_cli() {
    if !tools::available("redis_cli", &[Tool::RedisCli]) {
        return;
    }
    let (_dir, server) = serve(true);
    let port = server.address().port().to_string();
    let cli = |arguments: &[&str]| run("redis-cli", &[&["-p", &port], arguments].concat());
    fill(&mut server.client().unwrap(), "key", 1_000);
    assert_eq!(cli(&["set", "big", &"x".repeat(5_000)]), "OK\n");
    for arguments in [&["--scan"][..], &["--scan", "--pattern", "key:*"]] {
        let printed = cli(arguments);
        let mut keys: Vec<&str> = printed.lines().filter(|key| *key != "big").collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 1_000, "{arguments:?}");
    }
    let printed = cli(&["--bigkeys"]);
    assert!(printed.contains("Biggest string found '\"big\"' has 5000 bytes"), "{printed}");
    assert!(printed.contains("Sampled 1001 keys in the keyspace!"), "{printed}");
    let printed = cli(&["--raw", "--latency", "-i", "1"]);
    assert_eq!(printed.split_whitespace().count(), 4, "{printed}");
    // With cluster mode on, and as a cluster's tool.
    for n in 0..20 {
        assert_eq!(cli(&["-c", "incr", &format!("counter:{n}")]), "1\n");
    }
    if !server::is_stand_in() {
        let address = server.address().to_string();
        let printed = run("redis-cli", &["--cluster", "check", &address]);
        assert!(printed.contains("[OK] All 16384 slots covered."), "{printed}");
    }
    assert!(cli(&["-3", "hello"]).contains("proto 3") || cli(&["-3", "hello"]).contains("proto"));
}

fn python(name: &str, script: &str, cluster: bool) {
    if !tools::available(name, &[Tool::RedisPy]) {
        return;
    }
    let (_dir, server) = serve(cluster);
    let port = server.address().port().to_string();
    assert!(run("python3", &["-c", script, &port]).ends_with("done\n"));
    if cluster && !server::is_stand_in() {
        assert_nothing_was_forwarded(&server);
    }
}

#[test]
fn redis_py() {
    let script = r#"
import sys, redis
for protocol in (2, 3):
    r = redis.Redis(port=int(sys.argv[1]), decode_responses=True, protocol=protocol)
    r.flushall()
    assert r.ping() is True
    assert r.set("k", "v", ex=100) is True and r.get("k") == "v" and r.ttl("k") == 100
    assert r.set("k", "w", nx=True) is None and r.set("k", "w", get=True) == "v"
    assert r.mset({"a": 1, "b": 2}) is True and r.mget("a", "b", "none") == ["1", "2", None]
    assert r.incr("n") == 1 and r.incrby("n", 5) == 6 and r.decr("n") == 5
    assert r.incrbyfloat("f", "0.5") == 0.5
    assert r.append("s", "abc") == 3 and r.getrange("s", 1, 2) == "bc" and r.strlen("s") == 3
    assert r.expire("n", 50) is True and r.persist("n") is True and r.ttl("n") == -1
    assert r.exists("a", "b", "none") == 2 and r.delete("a", "none") == 1
    assert r.type("b") == "string"
    assert r.rename("b", "c") is True and r.get("c") == "2"
    for n in range(500):
        r.set(f"scan:{n}", n)
    assert len(set(r.scan_iter("scan:*", count=50))) == 500
    assert sorted(r.keys("scan:49?")) == [f"scan:49{n}" for n in range(10)]
    assert r.dbsize() == 505, r.dbsize()
    # A pipeline without and with a transaction, over keys of several shards.
    for transaction in (False, True):
        p = r.pipeline(transaction=transaction)
        for n in range(100):
            p.set(f"p:{n}", n).get(f"p:{n}").incr(f"p:{n}")
        result = p.execute()
        assert result == [x for n in range(100) for x in (True, str(n), n + 1)], result[:9]
    # Optimistic locking, with and without a conflict.
    with r.pipeline() as p:
        p.watch("k")
        value = p.get("k")
        p.multi()
        p.set("k", value + "!")
        assert p.execute() == [True]
        p.watch("k")
        r.set("k", "changed")
        p.multi()
        p.set("k", "lost")
        try:
            p.execute()
            raise SystemExit("a conflict went unseen")
        except redis.WatchError:
            pass
    assert r.get("k") == "changed"
    try:
        r.set("text", "x"); r.incr("text")
        raise SystemExit("no error")
    except redis.ResponseError as error:
        assert str(error) == "value is not an integer or out of range", error
    assert r.info()["redis_version"].startswith("7.2"), r.info("server")
    assert isinstance(r.client_id(), int) and r.client_list()
    assert r.config_get("maxmemory") is not None and r.command_count() > 20
    assert len(r.command()) > 20 and len(r.time()) == 2
    binary = redis.Redis(port=int(sys.argv[1]), protocol=protocol)
    blob = bytes(range(256)) * 4096
    assert binary.set(b"\x00\r\n", blob) and binary.get(b"\x00\r\n") == blob
    other = redis.Redis(port=int(sys.argv[1]), db=3, protocol=protocol)
    assert other.get("k") is None and other.set("k", "3") and other.flushdb()
    assert r.get("k") == "changed"
print("done")
"#;
    python("redis_py", script, false);
}

#[test]
fn redis_py_as_a_cluster() {
    let script = r#"
import sys
from redis.cluster import RedisCluster
r = RedisCluster(host="127.0.0.1", port=int(sys.argv[1]), decode_responses=True)
assert r.get_nodes()
for n in range(1000):
    assert r.set(f"key:{n}", n)
for n in range(1000):
    assert r.get(f"key:{n}") == str(n)
assert r.mset_nonatomic({f"m:{n}": n for n in range(100)})
assert r.mget_nonatomic([f"m:{n}" for n in range(100)]) == [str(n) for n in range(100)]
p = r.pipeline()
for n in range(100):
    p.incr(f"counter:{n}")
assert p.execute() == [1] * 100
assert r.incr("{tag}a") == 1 and r.mset({"{tag}b": 1, "{tag}c": 2})
assert r.delete("{tag}b", "{tag}c") == 2
assert r.cluster_keyslot("foo") == 12182 and r.cluster_info()["cluster_state"] == "ok"
print("done")
"#;
    python("redis_py_cluster", script, true);
}
