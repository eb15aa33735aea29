//! CLIENT, and how many clients may stay for how long.

use super::*;

#[test]
fn client_names_and_libraries() {
    let (mut cluster, conn) = with_client(1);
    assert!(cluster.call(conn, &["CLIENT", "GETNAME"]).is_null());
    assert!(cluster.call(conn, &["CLIENT", "SETNAME", "one"]).is_ok());
    assert_eq!(cluster.call(conn, &["CLIENT", "GETNAME"]), bulk("one"));
    let bad = "ERR Client names cannot contain spaces, newlines or special characters.";
    assert_eq!(cluster.error(conn, &["CLIENT", "SETNAME", "a\nb"]), bad);
    assert!(cluster.call(conn, &["CLIENT", "SETNAME", ""]).is_ok());
    assert!(cluster.call(conn, &["CLIENT", "GETNAME"]).is_null());
    assert!(cluster.call(conn, &["CLIENT", "SETINFO", "LIB-VER", "1.2"]).is_ok());
    let error = cluster.error(conn, &["CLIENT", "SETINFO", "lib-name", "a b"]);
    assert_eq!(error, "ERR lib-name cannot contain spaces, newlines or special characters.");
    let error = cluster.error(conn, &["CLIENT", "SETINFO", "x", "y"]);
    assert_eq!(error, "ERR Unrecognized option 'x'");
    let info = cluster.text(conn, &["CLIENT", "INFO"]);
    assert!(info.starts_with("id=1 addr=127.0.0.1:50001 laddr=127.0.0.1:7000 fd="), "{info}");
    assert!(info.contains(" cmd=client|info user=default redir=-1 resp=2 lib-name= lib-ver=1.2 "));
    assert!(info.ends_with('\n'));
    let help = cluster.call(conn, &["CLIENT", "HELP"]).into_array().unwrap();
    let title = "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:";
    assert_eq!(help[0], status(title));
}

#[test]
fn client_list_names_the_clients_of_all_shards() {
    for shards in 1..=3 {
        let (mut cluster, conn) = with_client(shards);
        let others: Vec<TestConn> = (0..shards).map(|shard| cluster.connect(shard)).collect();
        for version in ["2", "3"] {
            cluster.call(conn, &["HELLO", version]);
            let list = cluster.call(conn, &["CLIENT", "LIST"]);
            assert_eq!(matches!(list, Value::Verbatim { .. }), version == "3");
            let list = list.as_str().unwrap();
            assert_eq!(list.lines().count(), 1 + others.len(), "{list}");
            for id in 1..=others.len() + 1 {
                assert_eq!(list.lines().filter(|l| l.starts_with(&format!("id={id} "))).count(), 1);
            }
        }
        let list = cluster.text(conn, &["CLIENT", "LIST", "ID", "2", "77"]);
        assert!(list.starts_with("id=2 ") && list.lines().count() == 1, "{list}");
        assert_eq!(cluster.text(conn, &["CLIENT", "LIST", "TYPE", "pubsub"]), "");
        let normal = cluster.text(conn, &["CLIENT", "LIST", "TYPE", "normal"]);
        assert_eq!(normal.lines().count(), 1 + others.len());
        for (args, text) in [
            (&["CLIENT", "LIST", "ID", "x"][..], "ERR Invalid client ID"),
            (&["CLIENT", "LIST", "TYPE", "x"], "ERR Unknown client type 'x'"),
            (&["CLIENT", "LIST", "x"], "ERR syntax error"),
        ] {
            assert_eq!(cluster.error(conn, args), text);
        }
    }
}

#[test]
fn client_kill_closes_on_all_shards() {
    for shards in 1..=3 {
        let (mut cluster, conn) = with_client(shards);
        let last = shards - 1;
        // The old form.
        let victim = cluster.connect(last);
        let error = cluster.error(conn, &["CLIENT", "KILL", "127.0.0.1:1"]);
        assert_eq!(error, "ERR No such client");
        assert!(cluster.call(conn, &["CLIENT", "KILL", "127.0.0.1:50002"]).is_ok());
        assert!(cluster.is_closed(victim));
        // By id, by local address, all but oneself.
        let (one, two, three) = (cluster.connect(last), cluster.connect(last), cluster.connect(0));
        let kill = |cluster: &mut TestCluster, args: &[&str]| {
            cluster.call(conn, &[&["CLIENT", "KILL"], args].concat()).as_integer().unwrap()
        };
        assert_eq!(kill(&mut cluster, &["ID", "3"]), 1);
        assert_eq!(kill(&mut cluster, &["ID", "3"]), 0);
        assert!(cluster.is_closed(one) && !cluster.is_closed(two));
        assert_eq!(kill(&mut cluster, &["ID", "4", "TYPE", "pubsub"]), 0);
        assert_eq!(kill(&mut cluster, &["MAXAGE", "10"]), 0);
        let laddr = format!("127.0.0.1:{}", FIRST_PORT + last);
        assert_eq!(kill(&mut cluster, &["LADDR", &laddr, "ID", "4"]), 1);
        assert!(cluster.is_closed(two) && !cluster.is_closed(three));
        cluster.advance_ms(10_000);
        assert_eq!(kill(&mut cluster, &["TYPE", "normal", "USER", "default", "MAXAGE", "10"]), 1);
        assert!(cluster.is_closed(three) && !cluster.is_closed(conn));
        for (args, text) in [
            (&["CLIENT", "KILL", "ID", "0"][..], "ERR client-id should be greater than 0"),
            (&["CLIENT", "KILL", "ID", "x"], "ERR client-id should be greater than 0"),
            (&["CLIENT", "KILL", "TYPE", "x"], "ERR Unknown client type 'x'"),
            (&["CLIENT", "KILL", "USER", "x"], "ERR No such user 'x'"),
            (&["CLIENT", "KILL", "SKIPME", "x"], "ERR syntax error"),
            (&["CLIENT", "KILL", "ID", "1", "ADDR"], "ERR syntax error"),
        ] {
            assert_eq!(cluster.error(conn, args), text);
        }
        // Oneself: the reply comes first, and nothing of the pipeline after it.
        cluster.send(conn, b"SET a 1\r\nCLIENT KILL ID 1 SKIPME no\r\nPING\r\n");
        cluster.pump();
        assert_eq!(cluster.take_output(conn), b"+OK\r\n:1\r\n");
        assert!(cluster.is_closed(conn));
    }
}

#[test]
fn client_list_and_kill_inside_exec() {
    for shards in 1..=3 {
        let (mut cluster, conn) = with_client(shards);
        let victim = cluster.connect(shards - 1);
        for args in [
            &["MULTI"][..],
            &["MSET", "a", "1", "b", "2", "c", "3"],
            &["CLIENT", "LIST"],
            &["CLIENT", "KILL", "ID", "2"],
            &["CLIENT", "ID"],
            &["UNWATCH"],
        ] {
            cluster.call(conn, args);
        }
        let replies = cluster.call(conn, &["EXEC"]).into_array().unwrap();
        assert_eq!(replies[1].as_str().unwrap().lines().count(), 2);
        let ok = status("OK");
        assert_eq!(replies[2..], [Value::Integer(1), Value::Integer(1), ok]);
        assert!(cluster.is_closed(victim));
    }
}

#[test]
fn too_many_clients_are_turned_away() {
    for shards in 1..=2 {
        let (mut cluster, conn) = with_client(shards);
        cluster.call(conn, &["CONFIG", "SET", "maxclients", "2"]);
        let second = cluster.connect(shards - 1);
        let third = cluster.connect(0);
        cluster.pump();
        assert_eq!(cluster.take_output(third), b"-ERR max number of clients reached\r\n");
        assert!(cluster.is_closed(third) && !cluster.is_closed(second));
        cluster.disconnect(second);
        let fourth = cluster.connect(shards - 1);
        assert_eq!(cluster.call(fourth, &["PING"]), status("PONG"));
        let info = cluster.text(conn, &["INFO"]);
        for line in ["connected_clients:2", "rejected_connections:1", "maxclients:2"] {
            assert!(info.lines().any(|found| found == line), "{line} in {info}");
        }
    }
}

#[test]
fn idle_clients_are_closed() {
    let (mut cluster, conn) = with_client(2);
    let idle = cluster.connect(1);
    cluster.call(conn, &["CONFIG", "SET", "timeout", "30"]);
    cluster.advance_ms(20_000);
    cluster.call(conn, &["PING"]);
    cluster.advance_ms(9_000);
    assert!(!cluster.is_closed(idle));
    cluster.advance_ms(2_500);
    assert!(cluster.is_closed(idle) && !cluster.is_closed(conn));
}
