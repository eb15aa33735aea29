//! A disk that is full: writes that come from another shard are refused as local ones are.

use super::*;

/// A cluster whose shard 1 will soon know whether its log has room; a client of shard 0.
fn short_of_room() -> (TestCluster, TestConn) {
    let mut cluster = TestCluster::with_logs(2);
    let (conn, filler) = (cluster.connect(0), cluster.connect(1));
    cluster.withhold_segments(1);
    let key = cluster.key_on(1, "filler", 0);
    let value = "v".repeat(2_000);
    while !cluster.shards[1].journal.awaits_segment() {
        assert!(cluster.call(filler, &["SET", &key, &value]).is_ok());
    }
    (cluster, conn)
}

fn is_misconf(reply: &Value) -> bool {
    reply.as_error().is_some_and(|text| text.contains("MISCONF"))
}

#[test]
fn a_forwarded_write_is_refused_once_it_is_known_that_there_is_no_room() {
    let (mut cluster, conn) = short_of_room();
    let key = cluster.key_on(1, "k", 0);
    cluster.send_command(conn, &["SET", &key, "v"]);
    cluster.send_command(conn, &["GET", &key]);
    cluster.pump();
    assert!(cluster.take_replies(conn).is_empty(), "not known yet");
    cluster.refuse_segment(1);
    let replies = cluster.take_replies(conn);
    assert!(replies.len() == 2 && is_misconf(&replies[0]), "{replies:?}");
    assert_eq!(replies[1], Value::Null, "it was not executed");
    assert!(is_misconf(&cluster.call(conn, &["SET", &key, "v"])));
    cluster.give_segments(1);
    assert!(cluster.call(conn, &["SET", &key, "v"]).is_ok());
}

#[test]
fn a_forwarded_write_is_executed_if_there_is_room_after_all() {
    let (mut cluster, conn) = short_of_room();
    let key = cluster.key_on(1, "k", 0);
    cluster.send_command(conn, &["SET", &key, "v"]);
    cluster.send_command(conn, &["GET", &key]);
    cluster.pump();
    assert!(cluster.take_replies(conn).is_empty(), "not known yet");
    cluster.give_segments(1);
    assert_eq!(cluster.take_replies(conn), [status("OK"), bulk("v")]);
}

#[test]
fn transactions_are_refused_too_and_leave_nothing_held() {
    let (mut cluster, conn) = short_of_room();
    let (here, there) = (cluster.key_on(0, "k", 0), cluster.key_on(1, "k", 0));
    let one_shard = cluster.connect(0);
    let reader = cluster.connect(0);
    cluster.send_command(conn, &["MSET", &here, "1", &there, "1"]);
    for command in [&["MULTI"][..], &["SET", &there, "2"], &["EXEC"]] {
        cluster.send_command(one_shard, command);
    }
    cluster.pump();
    assert!(cluster.take_replies(conn).is_empty(), "not known yet");
    cluster.refuse_segment(1);
    assert!(is_misconf(&cluster.take_replies(conn)[0]));
    let replies = cluster.take_replies(one_shard);
    assert!(is_misconf(&replies[2]), "{replies:?}");
    let text = replies[2].as_error().unwrap();
    assert!(text.starts_with("EXECABORT Transaction discarded because of: MISCONF"), "{text}");
    let both = cluster.call(reader, &["MGET", &here, &there]);
    assert_eq!(both, Value::Array(vec![Value::Null, Value::Null]));
    assert!(cluster.shards.iter().all(|shard| shard.unfinished() == 0), "nothing is held");

    cluster.give_segments(1);
    assert!(cluster.call(conn, &["MSET", &here, "1", &there, "1"]).is_ok());
    assert_eq!(cluster.call(reader, &["MGET", &here, &there]), bulks(&["1", "1"]));
}
