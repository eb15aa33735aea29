//! Requests as bytes: inline and not, in pipelines, in pieces, broken; and the order of replies.

use super::*;

#[test]
fn inline_commands_and_pipelines() {
    for shards in 1..=3 {
        let mut cluster = TestCluster::new(shards);
        let conn = cluster.connect(0);
        cluster.send(conn, b"PING\r\n\r\nset a \"x y\"\nGET a\r\n*0\r\n*1\r\n$4\r\nPING\r\n");
        cluster.pump();
        let expected = b"+PONG\r\n+OK\r\n$3\r\nx y\r\n+PONG\r\n";
        assert_eq!(cluster.take_output(conn), expected);
    }
}

#[test]
fn one_byte_at_a_time_is_the_same() {
    let commands: &[&[&str]] = &[
        &["PING"],
        &["MSET", "a", "1", "b", "2", "c", "3"],
        &["MULTI"],
        &["INCR", "a"],
        &["INCR", "b"],
        &["EXEC"],
        &["MGET", "a", "b", "c"],
        &["NOPE", "x"],
        &["GET", "c"],
    ];
    let bytes: Vec<u8> = commands.iter().flat_map(|args| request(args)).collect();
    for shards in 1..=3 {
        let mut whole = TestCluster::new(shards);
        let conn = whole.connect(0);
        whole.send(conn, &bytes);
        whole.pump();
        let expected = whole.take_output(conn);
        assert!(expected.ends_with(b"$1\r\n3\r\n"));

        for settle in [false, true] {
            let mut pieces = TestCluster::new(shards);
            let conn = pieces.connect(0);
            for byte in &bytes {
                pieces.send(conn, &[*byte]);
                if settle {
                    pieces.pump();
                }
            }
            pieces.pump();
            assert_eq!(pieces.take_output(conn), expected, "{shards} shards");
        }
        for cut in 0..bytes.len() {
            let mut two = TestCluster::new(shards);
            let conn = two.connect(0);
            two.send(conn, &bytes[..cut]);
            two.pump();
            two.send(conn, &bytes[cut..]);
            two.pump();
            assert_eq!(two.take_output(conn), expected, "{shards} shards, cut at {cut}");
        }
    }
}

#[test]
fn replies_of_a_pipeline_keep_their_order() {
    for seed in 1..=20 {
        let mut cluster = TestCluster::new(3);
        let conn = cluster.connect(1);
        let keys: Vec<String> = (0..40).map(|n| format!("key:{n}")).collect();
        let mut expected = Vec::new();
        for (n, key) in keys.iter().enumerate() {
            cluster.send_command(conn, &["SET", key, key]);
            cluster.send_command(conn, &["GET", key]);
            cluster.send_command(conn, &["ECHO", key]);
            expected.extend([Value::Simple("OK".into()), bulk(key), bulk(key)]);
            if n % 10 == 0 {
                cluster.send_command(conn, &["MGET", "key:0", key, "nothing"]);
                expected.push(Value::Array(vec![bulk("key:0"), bulk(key), Value::Null]));
            }
        }
        cluster.pump_seeded(seed);
        assert_eq!(cluster.take_replies(conn), expected, "seed {seed}");
    }
}

#[test]
fn a_protocol_error_is_answered_after_what_came_before_and_closes() {
    for shards in 1..=3 {
        let mut cluster = TestCluster::new(shards);
        for (broken, text) in [
            ("*1\r\n+4\r\n", "-ERR Protocol error: expected '$', got '+'\r\n"),
            ("*x\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
            ("*1\r\n$-5\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
            ("set \"a\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
        ] {
            let conn = cluster.connect(0);
            cluster.send(conn, b"SET b 1\r\nGET b\r\n");
            cluster.send(conn, broken.as_bytes());
            cluster.send(conn, b"PING\r\n");
            cluster.pump();
            let expected = format!("+OK\r\n$1\r\n1\r\n{text}");
            assert_eq!(String::from_utf8(cluster.take_output(conn)).unwrap(), expected);
            assert!(cluster.is_closed(conn));
        }
    }
}

#[test]
fn quit_answers_what_came_before_it_and_nothing_after() {
    for shards in 1..=3 {
        let mut cluster = TestCluster::new(shards);
        let conn = cluster.connect(0);
        cluster.send(conn, b"SET a 1\r\nMSET b 1 c 2 d 3\r\nQUIT\r\nPING\r\n");
        cluster.pump();
        assert_eq!(cluster.take_output(conn), b"+OK\r\n+OK\r\n+OK\r\n");
        assert!(cluster.is_closed(conn));
    }
}

#[test]
fn a_client_that_goes_away_changes_nothing() {
    for seed in 1..=20 {
        let mut cluster = TestCluster::new(3);
        let (conn, other) = (cluster.connect(0), cluster.connect(1));
        cluster.send(conn, b"WATCH a b\r\nMULTI\r\nMSET a 1 b 2 c 3 d 4\r\nEXEC\r\n");
        for turn in 0..seed {
            cluster.turn(ShardId((turn % 3) as u16));
        }
        cluster.disconnect(conn);
        cluster.pump_seeded(seed);
        let found = cluster.call(other, &["EXISTS", "a", "b", "c", "d"]).as_integer();
        assert!(found == Some(0) || found == Some(4), "seed {seed}: {found:?}");
        assert!(cluster.call(other, &["MSET", "a", "5", "b", "6", "c", "7", "d", "8"]).is_ok());
        for shard in &cluster.shards {
            assert!(shard.watches.is_empty() && shard.intents.is_idle(), "seed {seed}");
        }
    }
}
