//! Commands and transactions whose keys lie on several shards.

use super::*;

/// Runs a test on one, two and three shards, with a client of the first and one of the last.
fn on_clusters(test: impl Fn(&mut TestCluster, TestConn, TestConn)) {
    for shards in 1..=3 {
        let mut cluster = TestCluster::new(shards);
        let first = cluster.connect_to_common_port(0);
        let last = cluster.connect_to_common_port(shards - 1);
        test(&mut cluster, first, last);
    }
}

/// Keys that lie on every shard of a small cluster.
const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn sorted(reply: Value) -> Vec<String> {
    let mut texts: Vec<String> = reply
        .into_array()
        .expect("an array")
        .iter()
        .map(|value| value.as_str().expect("a string").to_owned())
        .collect();
    texts.sort();
    texts
}

#[test]
fn keys_of_other_shards_are_reached() {
    on_clusters(|cluster, first, last| {
        for key in KEYS {
            assert!(cluster.call(first, &["SET", key, key]).is_ok());
            assert_eq!(cluster.call(last, &["GET", key]), bulk(key));
            assert_eq!(cluster.call(last, &["INCRBYFLOAT", key, "x"]).as_error().unwrap(), {
                "ERR value is not a valid float"
            });
        }
    });
}

#[test]
fn many_keys_at_once() {
    on_clusters(|cluster, first, last| {
        assert!(cluster.call(first, &["MSET", "a", "1", "b", "2", "c", "3", "d", "4"]).is_ok());
        let got = cluster.call(last, &["MGET", "d", "x", "a", "c", "b", "a"]);
        let expected = ["4", "", "1", "3", "2", "1"].map(|text| match text {
            "" => Value::Null,
            text => bulk(text),
        });
        assert_eq!(got, Value::Array(expected.to_vec()));
        assert_eq!(cluster.call(last, &["MSETNX", "e", "5", "a", "9"]), Value::Integer(0));
        assert_eq!(cluster.call(last, &["EXISTS", "e", "a", "a", "b"]), Value::Integer(3));
        assert_eq!(cluster.call(last, &["MSETNX", "e", "5", "f", "6"]), Value::Integer(1));
        assert_eq!(cluster.call(first, &["DBSIZE"]), Value::Integer(6));
        assert_eq!(cluster.call(last, &["DEL", "a", "b", "x", "e"]), Value::Integer(3));
        assert_eq!(sorted(cluster.call(first, &["KEYS", "*"])), ["c", "d", "f"]);
        assert_eq!(cluster.call(first, &["UNLINK", "c", "d"]), Value::Integer(2));
        let wrong = cluster.error(first, &["MSET", "a", "1", "b"]);
        assert_eq!(wrong, "ERR wrong number of arguments for 'mset' command");
    });
}

#[test]
fn rename_and_copy_between_all_pairs() {
    on_clusters(|cluster, first, last| {
        for (from, to) in KEYS.iter().flat_map(|from| KEYS.map(|to| (*from, to))) {
            if from == to {
                continue;
            }
            assert!(cluster.call(first, &["FLUSHALL"]).is_ok());
            let error = cluster.error(last, &["RENAME", from, to]);
            assert_eq!(error, "ERR no such key");
            assert_eq!(cluster.call(first, &["COPY", from, to]), Value::Integer(0));
            assert!(cluster.call(first, &["SET", from, "v", "PX", "100000"]).is_ok());
            assert_eq!(cluster.call(last, &["COPY", from, to]), Value::Integer(1));
            assert_eq!(cluster.call(last, &["COPY", from, to]), Value::Integer(0));
            assert!(cluster.call(first, &["SET", to, "old"]).is_ok());
            assert!(cluster.call(last, &["RENAME", from, to]).is_ok());
            assert_eq!(cluster.call(first, &["GET", to]), bulk("v"));
            assert_eq!(cluster.call(first, &["GET", from]), Value::Null);
            let left = cluster.call(first, &["PTTL", to]).as_integer().unwrap();
            assert!((90_000..=100_000).contains(&left), "{left}");
            assert_eq!(cluster.call(last, &["COPY", to, from, "DB", "3"]), Value::Integer(1));
            assert!(cluster.call(last, &["SELECT", "3"]).is_ok());
            assert_eq!(cluster.call(last, &["GET", from]), bulk("v"));
            assert_eq!(sorted(cluster.call(last, &["KEYS", "*"])), [from]);
            assert!(cluster.call(last, &["SELECT", "0"]).is_ok());
            let error = cluster.error(last, &["COPY", to, from, "DB", "16"]);
            assert_eq!(error, "ERR DB index is out of range");
            let error = cluster.error(last, &["COPY", to, from, "NOW"]);
            assert_eq!(error, "ERR syntax error");
        }
    });
}

#[test]
fn scan_finds_all_keys_of_all_shards() {
    on_clusters(|cluster, first, _| {
        let expected: BTreeSet<String> = (0..500).map(|n| format!("key:{n}")).collect();
        for key in &expected {
            cluster.call(first, &["SET", key, "x"]);
        }
        let found = scan_all(cluster, first);
        assert_eq!(BTreeSet::from_iter(found), expected);
        assert_eq!(cluster.call(first, &["DBSIZE"]), Value::Integer(500));
        assert_eq!(sorted(cluster.call(first, &["KEYS", "key:1?"])).len(), 10);
        let random = cluster.call(first, &["RANDOMKEY"]);
        assert!(expected.contains(random.as_str().unwrap()), "{random:?}");
        assert!(cluster.call(first, &["FLUSHDB"]).is_ok());
        assert_eq!(cluster.call(first, &["RANDOMKEY"]), Value::Null);
        assert_eq!(cluster.call(first, &["DBSIZE"]), Value::Integer(0));
    });
}

/// The keys that SCAN finds, from 0 to 0.
fn scan_all(cluster: &mut TestCluster, conn: TestConn) -> Vec<String> {
    let (mut cursor, mut found) = ("0".to_owned(), Vec::new());
    loop {
        let reply = cluster.call(conn, &["SCAN", &cursor, "COUNT", "50"]).into_array();
        let [next, keys] = <[Value; 2]>::try_from(reply.unwrap()).unwrap();
        found.extend(sorted(keys));
        cursor = next.as_str().unwrap().to_owned();
        if cursor == "0" {
            return found;
        }
    }
}

#[test]
fn scans_of_the_shards_own_ports_find_every_key_once() {
    let mut cluster = TestCluster::new(3);
    let conn = cluster.connect(0);
    let expected: BTreeSet<String> = (0..500).map(|n| format!("key:{n}")).collect();
    for key in &expected {
        cluster.call(conn, &["SET", key, "x"]);
    }
    let mut found = Vec::new();
    for shard in 0..3 {
        let own = cluster.connect(shard);
        let keys = scan_all(&mut cluster, own);
        assert!(keys.len() < expected.len(), "the keys of one shard");
        found.extend(keys);
    }
    assert_eq!(found.len(), expected.len());
    assert_eq!(BTreeSet::from_iter(found), expected);
}

#[test]
fn flush_takes_one_database_or_all() {
    on_clusters(|cluster, first, last| {
        for db in ["0", "5"] {
            cluster.call(first, &["SELECT", db]);
            KEYS.iter().for_each(|key| drop(cluster.call(first, &["SET", key, db])));
        }
        assert!(cluster.call(first, &["FLUSHDB", "ASYNC"]).is_ok());
        assert_eq!(cluster.call(first, &["DBSIZE"]), Value::Integer(0));
        assert_eq!(cluster.call(last, &["DBSIZE"]), Value::Integer(8));
        assert_eq!(cluster.error(first, &["FLUSHALL", "NOW"]), "ERR syntax error");
        assert_eq!(cluster.call(last, &["DBSIZE"]), Value::Integer(8));
        assert!(cluster.call(first, &["FLUSHALL", "SYNC"]).is_ok());
        assert_eq!(cluster.call(last, &["DBSIZE"]), Value::Integer(0));
    });
}

#[test]
fn exec_runs_all_on_all_shards() {
    on_clusters(|cluster, first, last| {
        assert!(cluster.call(first, &["MULTI"]).is_ok());
        for key in KEYS {
            assert_eq!(cluster.call(first, &["SET", key, "1"]), Value::Simple("QUEUED".into()));
            assert_eq!(cluster.call(last, &["GET", key]), Value::Null, "nothing is visible yet");
            cluster.call(first, &["INCR", key]);
        }
        cluster.call(first, &["MGET", "a", "b", "nothing"]);
        cluster.call(first, &["PING"]);
        cluster.call(first, &["LPUSH", "a", "b"]);
        let error = cluster.error(first, &["EXEC"]);
        assert_eq!(error, "EXECABORT Transaction discarded because of previous errors.");
        assert_eq!(cluster.call(last, &["DBSIZE"]), Value::Integer(0));

        cluster.call(first, &["MULTI"]);
        for key in KEYS {
            cluster.call(first, &["SET", key, "1"]);
            cluster.call(first, &["INCR", key]);
        }
        cluster.call(first, &["MGET", "a", "b", "nothing"]);
        cluster.call(first, &["PING"]);
        cluster.call(first, &["RENAME", "a", "z"]);
        cluster.call(first, &["EXISTS", "a", "z"]);
        cluster.call(first, &["RENAME", "nothing", "z"]);
        cluster.call(first, &["MSETNX", "z", "9", "y", "9"]);
        cluster.call(first, &["GET", "z"]);
        let replies = cluster.call(first, &["EXEC"]).into_array().unwrap();
        assert_eq!(replies.len(), 16 + 7);
        for pair in replies[..16].chunks(2) {
            assert_eq!(pair, [Value::Simple("OK".into()), Value::Integer(2)]);
        }
        let rest = [
            Value::Array(vec![bulk("2"), bulk("2"), Value::Null]),
            Value::Simple("PONG".into()),
            Value::Simple("OK".into()),
            Value::Integer(1),
            Value::Error("ERR no such key".into()),
            Value::Integer(0),
            bulk("2"),
        ];
        assert_eq!(replies[16..], rest);
        assert_eq!(cluster.call(last, &["GET", "z"]), bulk("2"));
        assert_eq!(cluster.call(last, &["EXISTS", "a"]), Value::Integer(0));
    });
}

#[test]
fn exec_reads_its_own_flush_and_writes_after_it() {
    on_clusters(|cluster, first, last| {
        KEYS.iter().for_each(|key| drop(cluster.call(first, &["SET", key, "old"])));
        cluster.call(first, &["MULTI"]);
        cluster.call(first, &["SET", "new-before", "1"]);
        cluster.call(first, &["FLUSHALL"]);
        cluster.call(first, &["GET", "a"]);
        cluster.call(first, &["SET", "a", "new"]);
        cluster.call(first, &["MGET", "a", "b"]);
        let replies = cluster.call(first, &["EXEC"]).into_array().unwrap();
        assert_eq!(replies[2], Value::Null);
        assert_eq!(replies[4], Value::Array(vec![bulk("new"), Value::Null]));
        assert_eq!(sorted(cluster.call(last, &["KEYS", "*"])), ["a"]);
    });
}

#[test]
fn watch_sees_changes_on_every_shard() {
    on_clusters(|cluster, first, last| {
        for key in KEYS {
            cluster.call(first, &["MSET", "a", "0", key, "0"]);
            let watch: Vec<&str> = [&["WATCH"], &KEYS[..]].concat();
            assert!(cluster.call(first, &watch).is_ok());
            cluster.call(last, &["SET", key, "changed"]);
            cluster.call(first, &["MULTI"]);
            cluster.call(first, &["SELECT", "3"]);
            cluster.call(first, &["MSET", "a", "1", "b", "1"]);
            assert_eq!(cluster.call(first, &["EXEC"]), Value::Null, "{key} was changed");
            assert_eq!(cluster.call(first, &["GET", key]), bulk("changed"), "still database 0");
            // The watches are over, whatever EXEC said.
            cluster.call(first, &["MULTI"]);
            cluster.call(first, &["SET", "a", "2"]);
            assert!(cluster.call(first, &["EXEC"]).as_array().is_some());
        }
        for shard in &cluster.shards {
            assert!(shard.watches.is_empty(), "no watch is left over");
        }
    });
}

#[test]
fn watch_survives_what_does_not_touch_its_keys() {
    on_clusters(|cluster, first, last| {
        cluster.call(first, &["MSET", "a", "1", "b", "2", "c", "3"]);
        cluster.call(first, &["WATCH", "a", "b"]);
        cluster.call(last, &["SET", "c", "4"]);
        cluster.call(last, &["GET", "a"]);
        cluster.call(last, &["DEL", "nothing", "x"]);
        cluster.call(first, &["MULTI"]);
        cluster.call(first, &["INCR", "c"]);
        cluster.call(first, &["INCR", "a"]);
        let replies = cluster.call(first, &["EXEC"]);
        assert_eq!(replies, Value::Array(vec![Value::Integer(5), Value::Integer(2)]));
        // One's own change counts too, a flush does, and so does expiry.
        for change in [&["SET", "a", "9"][..], &["FLUSHALL"], &["RENAME", "c", "b"]] {
            cluster.call(first, &["MSET", "a", "1", "b", "2", "c", "3"]);
            cluster.call(first, &["WATCH", "a", "b"]);
            cluster.call(first, change);
            cluster.call(first, &["MULTI"]);
            cluster.call(first, &["PING"]);
            assert_eq!(cluster.call(first, &["EXEC"]), Value::Null, "{change:?}");
        }
        cluster.call(first, &["SET", "a", "1", "PX", "50"]);
        cluster.call(first, &["WATCH", "a"]);
        cluster.advance_ms(60);
        cluster.call(first, &["MULTI"]);
        assert_eq!(cluster.call(first, &["EXEC"]), Value::Null);
        cluster.call(first, &["WATCH", "a"]);
        cluster.call(last, &["SET", "a", "1"]);
        assert!(cluster.call(first, &["UNWATCH"]).is_ok());
        cluster.call(first, &["MULTI"]);
        assert_eq!(cluster.call(first, &["EXEC"]), Value::Array(Vec::new()));
    });
}

#[test]
fn multi_and_its_companions_refuse_as_redis_does() {
    on_clusters(|cluster, first, _| {
        assert_eq!(cluster.error(first, &["EXEC"]), "ERR EXEC without MULTI");
        assert_eq!(cluster.error(first, &["DISCARD"]), "ERR DISCARD without MULTI");
        cluster.call(first, &["MULTI"]);
        assert_eq!(cluster.error(first, &["MULTI"]), "ERR MULTI calls can not be nested");
        let error = cluster.error(first, &["WATCH", "a"]);
        assert_eq!(error, "ERR WATCH inside MULTI is not allowed");
        let error = cluster.error(first, &["SAVE"]);
        assert_eq!(error, "ERR Command not allowed inside a transaction");
        assert!(cluster.call(first, &["DISCARD"]).is_ok());
        cluster.call(first, &["MULTI"]);
        assert_eq!(cluster.call(first, &["EXEC"]), Value::Array(Vec::new()));
        cluster.call(first, &["MULTI"]);
        let error = cluster.error(first, &["GET"]);
        assert_eq!(error, "ERR wrong number of arguments for 'get' command");
        assert!(cluster.error(first, &["EXEC"]).starts_with("EXECABORT"));
    });
}

#[test]
fn concurrent_transfers_keep_the_sum() {
    for seed in 1..=30 {
        let mut cluster = TestCluster::new(3);
        let conns: Vec<TestConn> = (0..6).map(|n| cluster.connect(n % 3)).collect();
        let keys: Vec<String> =
            (0..6).map(|n| cluster.key_on(n % 3, "k", usize::from(n / 3))).collect();
        let set: Vec<&str> = keys.iter().flat_map(|key| [key.as_str(), "100"]).collect();
        assert!(cluster.call(conns[0], &[&["MSET"], &set[..]].concat()).is_ok());
        let mut random: u64 = seed;
        for _ in 0..20 {
            for conn in &conns {
                random = random.wrapping_mul(6_364_136_223_846_793_005) % 1_000_003 + 7;
                let (from, to) = (random as usize % 6, (random / 7) as usize % 6);
                for command in
                    [&["MULTI"][..], &["DECR", &keys[from]], &["INCR", &keys[to]], &["EXEC"]]
                {
                    cluster.send_command(*conn, command);
                }
            }
            cluster.pump_seeded(random);
            for conn in &conns {
                let replies = cluster.take_replies(*conn);
                assert_eq!(replies.len(), 4, "seed {seed}");
                assert!(replies[3].as_array().is_some(), "seed {seed}: {replies:?}");
            }
            let mget: Vec<&str> = keys.iter().map(String::as_str).collect();
            let values = cluster.call(conns[0], &[&["MGET"], &mget[..]].concat());
            let values = values.into_array().unwrap();
            let sum: i64 = values.iter().map(|value| value.as_integer().unwrap()).sum();
            assert_eq!(sum, 600, "seed {seed}");
        }
    }
}
