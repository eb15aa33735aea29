//! Commands about the connection and the server.

use std::time::Duration;

use super::super::shared::ProcessUsage;
use super::*;

#[test]
fn ping_echo_select_time() {
    let (mut cluster, conn) = with_client(2);
    assert_eq!(cluster.call(conn, &["PING"]), status("PONG"));
    assert_eq!(cluster.call(conn, &["PING", "hi"]), bulk("hi"));
    let error = cluster.error(conn, &["PING", "a", "b"]);
    assert_eq!(error, "ERR wrong number of arguments for 'ping' command");
    assert_eq!(cluster.call(conn, &["ECHO", "x"]), bulk("x"));
    assert!(cluster.call(conn, &["SELECT", "15"]).is_ok());
    for (index, text) in [
        ("16", "ERR DB index is out of range"),
        ("-1", "ERR DB index is out of range"),
        ("one", "ERR value is not an integer or out of range"),
        ("9999999999", "ERR value is out of range, value must between -2147483648 and 2147483647"),
    ] {
        assert_eq!(cluster.error(conn, &["SELECT", index]), text);
    }
    let now_micros = cluster.now_micros;
    let time = cluster.call(conn, &["TIME"]).into_array().unwrap();
    assert_eq!(time[0].as_integer().unwrap() as u64, now_micros / 1_000_000);
    assert!(time[1].as_integer().unwrap() < 1_000_000);
}

#[test]
fn hello_chooses_the_protocol_and_describes_the_server() {
    let (mut cluster, conn) = with_client(2);
    let hello = cluster.call(conn, &["HELLO"]);
    assert_eq!(hello.as_array().unwrap().len(), 16, "RESP2 has no maps");
    assert_eq!(hello.field("proto"), Some(&Value::Integer(2)));
    let hello = cluster.call(conn, &["HELLO", "3", "SETNAME", "me"]);
    assert!(matches!(hello, Value::Map(_)));
    for (name, value) in [("server", "redis"), ("version", "7.2.4"), ("role", "master")] {
        assert_eq!(hello.field(name), Some(&bulk(value)));
    }
    assert_eq!(hello.field("proto"), Some(&Value::Integer(3)));
    assert_eq!(hello.field("modules"), Some(&Value::Array(Vec::new())));
    let id = cluster.call(conn, &["CLIENT", "ID"]);
    assert_eq!(hello.field("id"), Some(&id));
    assert_eq!(cluster.call(conn, &["CLIENT", "GETNAME"]), bulk("me"));
    for (args, text) in [
        (&["HELLO", "4"][..], "NOPROTO unsupported protocol version"),
        (&["HELLO", "x"], "ERR Protocol version is not an integer or out of range"),
        (&["HELLO", "2", "NOW"], "ERR Syntax error in HELLO option 'NOW'"),
        (&["HELLO", "2", "AUTH", "x"], "ERR Syntax error in HELLO option 'AUTH'"),
        (
            &["HELLO", "2", "SETNAME", "a b"],
            "ERR Client names cannot contain spaces, newlines or special characters.",
        ),
        (
            &["HELLO", "2", "AUTH", "nobody", "x"],
            "WRONGPASS invalid username-password pair or user is disabled.",
        ),
    ] {
        assert_eq!(cluster.error(conn, args), text);
    }
    assert!(cluster.call(conn, &["GET", "nothing"]).is_null());
    cluster.send_command(conn, &["GET", "nothing"]);
    cluster.pump();
    assert_eq!(cluster.take_output(conn), b"_\r\n", "still version 3");
}

#[test]
fn a_password_is_asked_for() {
    let (mut cluster, early) = with_client(2);
    let error = cluster.error(early, &["AUTH", "x"]);
    assert!(error.starts_with("ERR AUTH <password> called without any password configured"));
    assert!(cluster.call(early, &["AUTH", "default", "anything"]).is_ok());
    assert!(cluster.call(early, &["CONFIG", "SET", "requirepass", "secret"]).is_ok());
    assert_eq!(cluster.call(early, &["PING"]), status("PONG"), "it was in before");

    let conn = cluster.connect(1);
    for args in [&["PING"][..], &["GET", "a"], &["CLIENT", "LIST"], &["MULTI"]] {
        assert_eq!(cluster.error(conn, args), "NOAUTH Authentication required.");
    }
    assert!(cluster.error(conn, &["HELLO", "3"]).starts_with("NOAUTH HELLO must be called"));
    let wrong = "WRONGPASS invalid username-password pair or user is disabled.";
    for args in [
        &["AUTH", "wrong"][..],
        &["AUTH", "nobody", "secret"],
        &["AUTH", "default", ""],
        &["HELLO", "3", "AUTH", "default", "wrong"],
    ] {
        assert_eq!(cluster.error(conn, args), wrong);
    }
    assert_eq!(cluster.error(conn, &["AUTH", "a", "b", "c"]), "ERR syntax error");
    let hello = cluster.call(conn, &["HELLO", "3", "AUTH", "default", "secret"]);
    assert_eq!(hello.field("proto"), Some(&Value::Integer(3)));
    assert!(cluster.call(conn, &["SET", "a", "1"]).is_ok());
    assert_eq!(cluster.call(conn, &["RESET"]), status("RESET"));
    assert_eq!(cluster.error(conn, &["GET", "a"]), "NOAUTH Authentication required.");
    // Inside one pipeline AUTH counts for what follows it.
    cluster.send(conn, b"AUTH secret\r\nGET a\r\nMGET a b\r\n");
    cluster.pump();
    let replies = cluster.take_replies(conn);
    assert_eq!(replies[1..], [bulk("1"), Value::Array(vec![bulk("1"), Value::Null])]);
}

#[test]
fn reset_ends_everything_but_the_library() {
    let (mut cluster, conn) = with_client(3);
    cluster.call(conn, &["HELLO", "3"]);
    cluster.call(conn, &["SELECT", "4"]);
    cluster.call(conn, &["CLIENT", "SETNAME", "me"]);
    cluster.call(conn, &["CLIENT", "SETINFO", "lib-name", "lib"]);
    cluster.call(conn, &["WATCH", "a", "b", "c", "d"]);
    cluster.call(conn, &["MULTI"]);
    cluster.call(conn, &["SET", "a", "1"]);
    assert_eq!(cluster.call(conn, &["RESET"]), status("RESET"));
    assert_eq!(cluster.error(conn, &["EXEC"]), "ERR EXEC without MULTI");
    let info = cluster.text(conn, &["CLIENT", "INFO"]);
    for part in [" db=0 ", " resp=2 ", " multi=-1 ", " name= ", " lib-name=lib "] {
        assert!(info.contains(part), "{part} in {info}");
    }
    assert!(cluster.shards.iter().all(|shard| shard.watches.is_empty()));
}

#[test]
fn a_failed_exec_leaves_the_session_alone() {
    for shards in 1..=3 {
        let (mut cluster, conn) = with_client(shards);
        let other = cluster.connect(0);
        cluster.call(conn, &["WATCH", "a"]);
        cluster.call(other, &["SET", "a", "1"]);
        for args in [
            &["MULTI"][..],
            &["SELECT", "3"],
            &["CLIENT", "SETNAME", "x"],
            &["CONFIG", "SET", "timeout", "9"],
        ] {
            cluster.call(conn, args);
        }
        assert!(cluster.call(conn, &["EXEC"]).is_null());
        assert!(cluster.call(conn, &["CLIENT", "GETNAME"]).is_null());
        assert_eq!(cluster.call(conn, &["GET", "a"]), bulk("1"));
        assert_eq!(cluster.call(conn, &["CONFIG", "GET", "timeout"]), bulks(&["timeout", "0"]));
        // One that succeeds selects for what follows, inside and after it.
        for args in [&["MULTI"][..], &["SET", "b", "0"], &["SELECT", "3"], &["SET", "b", "3"]] {
            cluster.call(conn, args);
        }
        assert_eq!(cluster.call(conn, &["EXEC"]).as_array().unwrap().len(), 3);
        assert_eq!(cluster.call(conn, &["GET", "b"]), bulk("3"));
        assert_eq!(cluster.call(other, &["GET", "b"]), bulk("0"));
    }
}

#[test]
fn config_tells_and_changes() {
    let (mut cluster, conn) = with_client(2);
    for (name, value) in [
        ("save", ""),
        ("appendonly", "no"),
        ("appendfsync", "always"),
        ("databases", "16"),
        ("maxmemory", "0"),
        ("maxmemory-policy", "noeviction"),
        ("timeout", "0"),
        ("requirepass", ""),
        ("bind", "0.0.0.0"),
        ("port", "6379"),
        ("maxclients", "10000"),
        ("cluster-enabled", "yes"),
        ("proto-max-bulk-len", "536870912"),
        ("dir", "/data"),
    ] {
        assert_eq!(cluster.call(conn, &["CONFIG", "GET", name]), bulks(&[name, value]));
    }
    let found = cluster.call(conn, &["CONFIG", "GET", "MAX*", "nothing", "maxmemory"]);
    let expected = ["maxclients", "10000", "maxmemory", "0", "maxmemory-policy", "noeviction"];
    assert_eq!(found, bulks(&expected));
    cluster.call(conn, &["HELLO", "3"]);
    assert!(matches!(cluster.call(conn, &["CONFIG", "GET", "*"]), Value::Map(_)));
    assert_eq!(cluster.call(conn, &["CONFIG", "GET", "x"]), Value::Map(Vec::new()));

    let set = |cluster: &mut TestCluster, args: &[&str]| {
        let reply = cluster.call(conn, &[&["CONFIG", "SET"], args].concat());
        reply.as_error().map(str::to_owned)
    };
    assert_eq!(set(&mut cluster, &["timeout", "7", "MaxClients", "99"]), None);
    assert_eq!(set(&mut cluster, &["save", "", "appendonly", "no"]), None, "as it is");
    let get = cluster.call(conn, &["CONFIG", "GET", "timeout", "maxclients"]);
    assert_eq!(get.field("timeout"), Some(&bulk("7")));
    assert_eq!(get.field("maxclients"), Some(&bulk("99")));
    let failed = "ERR CONFIG SET failed (possibly related to argument ";
    for (args, text) in [
        (&["x", "1"][..], "ERR Unknown option or number of arguments for CONFIG SET - 'x'"),
        (&["timeout", "1", "save"], "ERR syntax error"),
        (&["databases", "4"], &format!("{failed}'databases') - can't set immutable config")),
        (&["maxmemory", "1gb"], &format!("{failed}'maxmemory') - can't set immutable config")),
        (&["port", "1"], &format!("{failed}'port') - can't set immutable config")),
        (&["timeout", "1", "TIMEOUT", "2"], &format!("{failed}'TIMEOUT') - duplicate parameter")),
        (
            &["timeout", "1", "maxclients", "x"],
            &format!("{failed}'maxclients') - argument couldn't be parsed into an integer"),
        ),
        (
            &["maxclients", "0"],
            &format!("{failed}'maxclients') - argument must be between 1 and 4294967295 inclusive"),
        ),
    ] {
        assert_eq!(set(&mut cluster, args).as_deref(), Some(text));
    }
    let get = cluster.call(conn, &["CONFIG", "GET", "timeout"]);
    assert_eq!(get.field("timeout"), Some(&bulk("7")), "all or none");
}

#[test]
fn info_has_its_sections() {
    let (mut cluster, conn) = with_client(3);
    for n in 0..30 {
        cluster.call(conn, &["SET", &format!("key:{n}"), "v"]);
    }
    cluster.call(conn, &["SET", "e", "v", "EX", "100"]);
    cluster.shared.set_persistence_info("rdb_bgsave_in_progress:0\nsnapshots:2".to_owned());
    cluster.advance_ms(1_500);
    let info = cluster.text(conn, &["INFO"]);
    let sections: Vec<&str> = info.lines().filter(|line| line.starts_with('#')).collect();
    let expected = [
        "# Server",
        "# Clients",
        "# Memory",
        "# Persistence",
        "# Stats",
        "# Replication",
        "# CPU",
        "# Cluster",
        "# Keyspace",
    ];
    assert_eq!(sections, expected);
    for line in [
        "redis_version:7.2.4",
        "redis_mode:cluster",
        "tcp_port:6379",
        "uptime_in_seconds:1",
        "shards:3",
        "connected_clients:1",
        "loading:0",
        "aof_enabled:0",
        "snapshots:2",
        "total_connections_received:1",
        "total_commands_processed:32",
        "role:master",
        "cluster_enabled:1",
        "db0:keys=31,expires=1,avg_ttl=0",
    ] {
        assert!(info.lines().any(|found| found == line), "{line} in {info}");
    }
    assert!(info.lines().any(|line| line.starts_with("used_memory_human:")));
    assert!(info.contains("\r\n\r\n# Clients\r\n"));
    for section in ["all", "everything", "default", "DEFAULT"] {
        let text = cluster.text(conn, &["INFO", section]);
        assert_eq!(text.matches('#').count(), expected.len());
    }
    let two = cluster.text(conn, &["INFO", "keyspace", "nothing", "Cluster"]);
    assert_eq!(
        two,
        "# Cluster\r\ncluster_enabled:1\r\n\r\n# Keyspace\r\ndb0:keys=31,expires=1,avg_ttl=0\r\n"
    );
    assert_eq!(cluster.text(conn, &["INFO", "nothing"]), "");
}

/// The lines of INFO that begin with one of these names.
fn info_lines(cluster: &mut TestCluster, conn: TestConn, names: &[&str]) -> Vec<String> {
    let info = cluster.text(conn, &["INFO"]);
    let line = |name: &&str| {
        let found = info.lines().find(|line| line.split(':').next() == Some(*name));
        found.unwrap_or_else(|| panic!("{name} in {info}")).to_owned()
    };
    names.iter().map(line).collect()
}

#[test]
fn info_counts_hits_misses_and_expired_keys() {
    for shards in 1..=3 {
        let (mut cluster, conn) = with_client(shards);
        let names = ["keyspace_hits", "keyspace_misses", "expired_keys"];
        cluster.call(conn, &["MSET", "a", "1", "b", "2", "c", "3"]);
        // Writes do not count, whatever they find; reads do, key by key.
        for args in
            [&["SET", "a", "1"][..], &["INCR", "b"], &["DEL", "nothing"], &["SETNX", "a", "x"]]
        {
            cluster.call(conn, args);
        }
        let none = ["keyspace_hits:0", "keyspace_misses:0", "expired_keys:0"];
        assert_eq!(info_lines(&mut cluster, conn, &names), none);
        for args in [
            &["GET", "a"][..],
            &["GET", "x"],
            &["MGET", "a", "b", "x", "y"],
            &["EXISTS", "a", "a"],
            &["STRLEN", "x"],
            &["GETRANGE", "a", "0", "1"],
            &["TTL", "a"],
            &["PTTL", "x"],
            &["TYPE", "a"],
            &["GETDEL", "c"],
            &["SET", "b", "1", "GET"],
            &["SET", "x", "1", "GET", "PX", "50"],
        ] {
            cluster.call(conn, args);
        }
        let some = ["keyspace_hits:10", "keyspace_misses:6", "expired_keys:0"];
        assert_eq!(info_lines(&mut cluster, conn, &names), some);
        cluster.advance_ms(60);
        cluster.advance_ms(200);
        cluster.call(conn, &["GET", "x"]);
        let expired = ["keyspace_hits:10", "keyspace_misses:7", "expired_keys:1"];
        assert_eq!(info_lines(&mut cluster, conn, &names), expired);
    }
}

#[test]
fn info_counts_keys_with_an_expiry_database_by_database() {
    for shards in 1..=3 {
        let (mut cluster, conn) = with_client(shards);
        for (db, all, expiring) in [("0", 30, 3), ("3", 20, 20), ("15", 10, 0)] {
            cluster.call(conn, &["SELECT", db]);
            for n in 0..all {
                let key = format!("key:{n}");
                cluster.call(conn, &["SET", &key, "v"]);
                if n < expiring {
                    cluster.call(conn, &["EXPIRE", &key, "1000"]);
                }
            }
        }
        let text = |cluster: &mut TestCluster| cluster.text(conn, &["INFO", "keyspace"]);
        assert_eq!(
            text(&mut cluster),
            "# Keyspace\r\ndb0:keys=30,expires=3,avg_ttl=0\r\n\
             db3:keys=20,expires=20,avg_ttl=0\r\ndb15:keys=10,expires=0,avg_ttl=0\r\n"
        );
        cluster.call(conn, &["SELECT", "3"]);
        cluster.call(conn, &["PERSIST", "key:0"]);
        cluster.call(conn, &["SET", "key:1", "v"]);
        cluster.call(conn, &["DEL", "key:2"]);
        cluster.call(conn, &["RENAME", "key:3", "key:4"]);
        cluster.call(conn, &["COPY", "key:5", "key:6", "DB", "15"]);
        cluster.call(conn, &["COPY", "key:7", "new", "DB", "0"]);
        assert_eq!(
            text(&mut cluster),
            "# Keyspace\r\ndb0:keys=31,expires=4,avg_ttl=0\r\n\
             db3:keys=18,expires=16,avg_ttl=0\r\ndb15:keys=10,expires=0,avg_ttl=0\r\n"
        );
        cluster.call(conn, &["FLUSHDB"]);
        cluster.call(conn, &["SELECT", "0"]);
        cluster.call(conn, &["FLUSHDB"]);
        let left = "# Keyspace\r\ndb15:keys=10,expires=0,avg_ttl=0\r\n";
        assert_eq!(text(&mut cluster), left);
        cluster.call(conn, &["FLUSHALL"]);
        assert_eq!(text(&mut cluster), "# Keyspace\r\n");
    }
}

#[test]
fn info_counts_commands_and_how_many_a_second() {
    let (mut cluster, conn) = with_client(2);
    let names = ["total_commands_processed", "instantaneous_ops_per_sec"];
    cluster.advance_ms(1_500);
    for n in 0..500 {
        cluster.call(conn, &["SET", &format!("key:{n}"), "v"]);
    }
    for args in [&["MULTI"][..], &["SET", "a", "1"], &["SET", "b", "1"], &["EXEC"]] {
        cluster.call(conn, args);
    }
    cluster.advance_ms(1_000);
    let lines = info_lines(&mut cluster, conn, &names);
    // MULTI, EXEC, what they hold, and this INFO.
    assert_eq!(lines[0], "total_commands_processed:505");
    let rate: u64 = lines[1].rsplit(':').next().unwrap().parse().unwrap();
    assert!((400..=504).contains(&rate), "{rate}");
    cluster.advance_ms(2_000);
    assert_eq!(info_lines(&mut cluster, conn, &names)[1], "instantaneous_ops_per_sec:0");
}

#[test]
fn info_tells_what_the_process_costs_and_the_peak_of_memory() {
    let (mut cluster, conn) = with_client(2);
    assert!(!cluster.text(conn, &["INFO"]).contains("used_cpu_sys"), "nobody measures");
    let usage = || ProcessUsage {
        user: Duration::from_micros(2_500_000),
        system: Duration::from_micros(1_000_001),
        resident_bytes: 3 << 20,
    };
    cluster.shared.usage.set(usage).expect("set once");
    assert_eq!(
        cluster.text(conn, &["INFO", "cpu"]),
        "# CPU\r\nused_cpu_sys:1.000001\r\nused_cpu_user:2.500000\r\n"
    );
    for n in 0..100 {
        cluster.call(conn, &["SET", &format!("key:{n}"), &"v".repeat(1_000)]);
    }
    cluster.advance_ms(1_100);
    let names = ["used_memory", "used_memory_peak", "used_memory_rss", "used_memory_rss_human"];
    let number = |line: &String| line.rsplit(':').next().unwrap().parse::<u64>().unwrap();
    let full = info_lines(&mut cluster, conn, &names);
    assert!(number(&full[0]) > 100_000 && number(&full[1]) >= number(&full[0]), "{full:?}");
    assert_eq!(full[2..], ["used_memory_rss:3145728", "used_memory_rss_human:3.00M"]);
    cluster.call(conn, &["FLUSHALL"]);
    cluster.advance_ms(1_100);
    let empty = info_lines(&mut cluster, conn, &names);
    assert!(number(&empty[0]) + 100_000 < number(&empty[1]), "{empty:?}");
    assert!(number(&empty[1]) >= number(&full[1]), "{empty:?} {full:?}");
}

#[test]
fn command_is_answered_from_the_table() {
    let (mut cluster, conn) = with_client(2);
    let count = cluster.call(conn, &["COMMAND", "COUNT"]).as_integer().unwrap();
    let all = cluster.call(conn, &["COMMAND"]);
    assert_eq!(all.as_array().unwrap().len() as i64, count);
    let keys = cluster.call(conn, &["COMMAND", "GETKEYS", "MSET", "a", "1", "b", "2"]);
    assert_eq!(keys, bulks(&["a", "b"]));
    let error = cluster.error(conn, &["CONFIG", "NOPE"]);
    assert_eq!(error, "ERR unknown subcommand 'NOPE'. Try CONFIG HELP.");
    let error = cluster.error(conn, &["NOPE", "a"]);
    assert_eq!(error, "ERR unknown command 'NOPE', with args beginning with: 'a' ");
}

#[test]
fn a_loading_server_says_so_and_talks_about_itself() {
    let mut cluster = TestCluster::loading(2, |_| Journal::none());
    let conn = cluster.connect(0);
    let error = cluster.error(conn, &["GET", "a"]);
    assert!(error.starts_with("LOADING "), "{error}");
    assert!(cluster.error(conn, &["PING"]).starts_with("LOADING "));
    assert!(cluster.text(conn, &["INFO", "persistence"]).contains("loading:1\r\n"));
    assert!(cluster.call(conn, &["HELLO", "3"]).field("server").is_some());
    assert_eq!(cluster.text(conn, &["CLIENT", "LIST"]).lines().count(), 1);
    assert!(cluster.call(conn, &["CLUSTER", "SLOTS"]).as_array().is_some());
    cluster.shards.iter_mut().for_each(|shard| shard.finish_loading(Lsn::ZERO));
    assert!(cluster.call(conn, &["GET", "a"]).is_null());
}
