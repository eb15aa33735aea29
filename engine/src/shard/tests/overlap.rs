//! Transactions that wait: which others they hold up, what they see when they go on, and what one
//! that comes again leaves behind.

use super::*;

fn ok(replies: &[Value]) {
    assert!(matches!(replies, [reply] if reply.is_ok()), "{replies:?}");
}

/// A transaction on a held key waits; keys that nobody holds are free, on the same shards too.
#[test]
fn one_that_waits_for_its_intents_holds_up_its_own_keys_only() {
    let mut cluster = TestCluster::with_logs(3);
    let conns: Vec<TestConn> = (0..6).map(|n| cluster.connect(n % 3)).collect();
    let [holder, waiting, free, reader, plain, other] = conns[..] else { unreachable!() };
    let a: Vec<String> = (0..3).map(|n| cluster.key_on(0, "a", n)).collect();
    let b: Vec<String> = (0..2).map(|n| cluster.key_on(1, "b", n)).collect();
    let z = cluster.key_on(2, "z", 0);
    // It keeps its intents: the log of shard 2 does not become durable.
    cluster.hold_disk(2);
    cluster.send_command(holder, &["MSET", &a[0], "held", &z, "held"]);
    cluster.pump();
    cluster.send_command(waiting, &["MSET", &a[0], "later", &b[0], "later"]);
    cluster.pump();
    assert!(cluster.take_replies(holder).is_empty() && cluster.take_replies(waiting).is_empty());

    // Other keys of the same shards.
    assert!(cluster.call(free, &["MSET", &a[1], "1", &b[1], "1"]).is_ok());
    assert_eq!(cluster.call(free, &["MGET", &b[1], &a[1]]), bulks(&["1", "1"]));
    assert!(cluster.call(other, &["SET", &a[2], "2"]).is_ok());
    // The same keys: a transaction and a plain command.
    cluster.send_command(reader, &["MGET", &a[0], &b[0]]);
    cluster.send_command(plain, &["GET", &a[0]]);
    cluster.pump();
    assert!(cluster.take_replies(reader).is_empty() && cluster.take_replies(plain).is_empty());

    cluster.release_disk(2);
    ok(&cluster.take_replies(holder));
    ok(&cluster.take_replies(waiting));
    let seen = cluster.take_replies(plain);
    assert!(seen == [bulk("held")] || seen == [bulk("later")], "{seen:?}");
    assert_eq!(cluster.take_replies(reader), [bulks(&["later", "later"])]);
}

/// While the parts of one wait for the disk, a disjoint one is granted, read and logged; one on the
/// same keys is not.
#[test]
fn one_that_waits_for_its_durability_holds_up_its_own_keys_only() {
    let mut cluster = TestCluster::with_logs(2);
    let conns: Vec<TestConn> = (0..4).map(|n| cluster.connect(n % 2)).collect();
    let [first, second, disjoint, reader] = conns[..] else { unreachable!() };
    let keys = |cluster: &TestCluster, n| (cluster.key_on(0, "a", n), cluster.key_on(1, "b", n));
    let ((a, b), (c, d), (e, f)) = (keys(&cluster, 0), keys(&cluster, 1), keys(&cluster, 2));
    assert!(cluster.call(reader, &["MSET", &e, "5", &f, "6"]).is_ok());
    let tails =
        |cluster: &mut TestCluster| [0, 1].map(|shard| cluster.shards[shard].journal().tail());
    cluster.hold_disk(1);
    let before = tails(&mut cluster);
    cluster.send_command(first, &["MSET", &a, "1", &b, "1"]);
    cluster.pump();
    let logged = tails(&mut cluster);
    assert!(logged[0] > before[0] && logged[1] > before[1], "both parts are logged");

    cluster.send_command(second, &["MSET", &a, "2", &b, "2"]);
    cluster.pump();
    assert_eq!(tails(&mut cluster), logged, "the same keys: it waits before it writes anything");
    cluster.send_command(disjoint, &["MSET", &c, "3", &d, "4"]);
    cluster.pump();
    let overlapping = tails(&mut cluster);
    assert!(overlapping[0] > logged[0] && overlapping[1] > logged[1], "other keys: it is logged");
    assert_eq!(cluster.call(reader, &["MGET", &f, &e]), bulks(&["6", "5"]), "a read completes");
    for conn in [first, second, disjoint] {
        assert!(cluster.take_replies(conn).is_empty(), "nothing is acknowledged yet");
    }

    cluster.release_disk(1);
    for conn in [first, second, disjoint] {
        ok(&cluster.take_replies(conn));
    }
    let all = cluster.call(reader, &["MGET", &a, &b, &c, &d]);
    assert_eq!(all, bulks(&["2", "2", "3", "4"]));
}

/// Has `commands(a, k)` wait for key `a` of another shard while key `k` expires and another client
/// sees that it has; answers the replies. `watch`: after a WATCH of `k`.
fn replies_after_k_expired(
    watch: bool,
    commands: impl Fn(&str, &str) -> Vec<Vec<String>>,
) -> Vec<Value> {
    let mut cluster = TestCluster::with_logs(2);
    let [holder, waiting, other] = [0, 1, 1].map(|shard| cluster.connect(shard));
    let [a, b, k] =
        [(0, "a"), (1, "b"), (1, "k")].map(|(shard, key)| cluster.key_on(shard, key, 0));
    assert!(cluster.call(other, &["SET", &k, "v", "PX", "50"]).is_ok());
    if watch {
        assert!(cluster.call(waiting, &["WATCH", &k]).is_ok());
    }
    cluster.hold_disk(1);
    cluster.send_command(holder, &["MSET", &a, "1", &b, "1"]);
    cluster.pump();
    for command in commands(&a, &k) {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        cluster.send_command(waiting, &words);
    }
    cluster.pump();
    assert_eq!(cluster.call(other, &["GET", &k]), bulk("v"), "it is there still");
    cluster.advance_ms(60);
    assert_eq!(cluster.call(other, &["GET", &k]), Value::Null, "it has expired");
    cluster.release_disk(1);
    ok(&cluster.take_replies(holder));
    cluster.take_replies(waiting)
}

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|word| (*word).to_owned()).collect()
}

/// Everybody judges expiry at one instant: a key that one client saw expired while a transaction
/// waited is not there for the transaction either, though it asked for the key before.
#[test]
fn what_expires_while_a_transaction_waits_is_expired_to_it() {
    let read = replies_after_k_expired(false, |a, k| vec![words(&["MGET", a, k])]);
    assert_eq!(read, [Value::Array(vec![bulk("1"), Value::Null])]);
    let write = replies_after_k_expired(false, |a, k| {
        vec![words(&["MULTI"]), words(&["GET", k]), words(&["SET", a, "2"]), words(&["EXEC"])]
    });
    assert_eq!(write[3], Value::Array(vec![Value::Null, status("OK")]));
    let watch = replies_after_k_expired(true, |a, _| {
        vec![words(&["MULTI"]), words(&["SET", a, "2"]), words(&["EXEC"])]
    });
    assert_eq!(watch[2], Value::Null, "the watch fails");
}

/// A read on several shards has one instant, also for how long keys will live.
#[test]
fn remaining_times_are_of_one_instant() {
    let mut cluster = TestCluster::with_logs(2);
    let (holder, waiting) = (cluster.connect(0), cluster.connect(1));
    let (a, b, k) =
        (cluster.key_on(0, "a", 0), cluster.key_on(1, "b", 0), cluster.key_on(1, "k", 0));
    assert!(cluster.call(holder, &["SET", &a, "v", "PXAT", "1700000100000"]).is_ok());
    assert!(cluster.call(holder, &["SET", &k, "v", "PXAT", "1700000100000"]).is_ok());
    cluster.hold_disk(1);
    cluster.send_command(holder, &["MULTI"]);
    cluster.send_command(holder, &["EXPIREAT", &a, "1700000100"]);
    cluster.send_command(holder, &["SET", &b, "1"]);
    cluster.send_command(holder, &["EXEC"]);
    cluster.pump();
    for command in [&["MULTI"][..], &["PTTL", &a], &["PTTL", &k], &["EXEC"]] {
        cluster.send_command(waiting, command);
    }
    cluster.advance_ms(60);
    cluster.release_disk(1);
    let replies = cluster.take_replies(waiting);
    let Value::Array(times) = &replies[3] else { panic!("{replies:?}") };
    assert_eq!(times[0], times[1], "{times:?}");
}

/// WATCH asks two shards; one has granted, the other refuses since a later ticket was there first.
/// When it comes again, the first must not count the watcher twice.
#[test]
fn a_watch_that_was_refused_on_one_shard_leaves_no_watcher_on_the_others() {
    let mut cluster = TestCluster::new(3);
    let (writer, watcher) = (cluster.connect(0), cluster.connect(1));
    let (a, b) = (cluster.key_on(0, "a", 0), cluster.key_on(1, "b", 0));
    let z = cluster.key_on(2, "z", 0);
    cluster.send_command(watcher, &["WATCH", &a, &b]);
    cluster.now_micros += 1_000;
    cluster.send_command(writer, &["MSET", &a, "1", &z, "1"]);
    // The writer holds its key of shard 0, the watcher watches its key of shard 1.
    cluster.turn(ShardId(0));
    cluster.turn(ShardId(1));
    assert!(!cluster.shards[1].watches.is_empty(), "granted");
    cluster.pump();
    ok(&cluster.take_replies(writer));
    ok(&cluster.take_replies(watcher));
    assert!(cluster.call(watcher, &["UNWATCH"]).is_ok());
    for shard in &cluster.shards {
        assert!(shard.watches.is_empty(), "a watcher is left on shard {}", shard.id());
    }
}
