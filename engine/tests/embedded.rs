//! The embedded engine as its users see it: open, call, close, open again; what happens to calls
//! and snapshots when it stops, or does not start.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cutwater_engine::engine::lock::LockError;
use cutwater_engine::engine::{CallError, OpenError, PartEvent, log_dir};
use cutwater_engine::log::{LogError, LogKeys, RecoveryError, Refusal};
use cutwater_engine::resp::Value;
use cutwater_engine::seal::{Keyring, MasterKey};
use cutwater_engine::types::Fsync;
use cutwater_engine::{Client, Engine, EngineConfig, SnapshotStreamError};
use support::{in_time, memory, small};

fn text(value: &str) -> Value {
    Value::Bulk(value.as_bytes().to_vec())
}

fn ok() -> Value {
    Value::Simple("OK".into())
}

#[test]
fn commands_in_memory_on_several_shards() {
    let engine = Engine::open(memory(3)).unwrap();
    let client = engine.client();
    client.set("a", "1").unwrap();
    assert_eq!(client.get("a").unwrap(), Some(b"1".to_vec()));
    assert_eq!(client.incr("a").unwrap(), 2);
    let pairs: Vec<(String, String)> =
        (0..100).map(|n| (format!("key:{n}"), format!("value:{n}"))).collect();
    client.mset(&pairs).unwrap();
    let keys: Vec<&String> = pairs.iter().map(|(key, _)| key).collect();
    let values = client.mget(&keys).unwrap();
    for ((_, value), found) in pairs.iter().zip(values) {
        assert_eq!(found.as_deref(), Some(value.as_bytes()));
    }
    assert_eq!(client.execute(&["DBSIZE"]).unwrap(), Value::Integer(101));
    assert_eq!(client.del(&keys).unwrap(), 100);
    let error = client.execute(&["INCR"]).unwrap();
    assert!(error.as_error().is_some(), "an error reply is a reply: {error:?}");
    client.set("word", "x").unwrap();
    let error = client.incr("word").unwrap_err();
    assert!(matches!(&error, CallError::Reply(text) if text.starts_with("ERR ")), "{error}");
    assert!(engine.ports().common.is_none(), "no listeners unless asked for");
    engine.close().unwrap();
    let error = client.get("a").unwrap_err();
    assert!(matches!(&error, CallError::Stopped(stopped) if stopped.failure.is_none()), "{error}");
}

#[test]
fn a_directory_keeps_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..4u32 {
        let mut config = small(EngineConfig::directory(dir.path()));
        config.shards = [2, 1, 3, 2][round as usize];
        let engine = Engine::open(config).unwrap();
        let client = engine.client();
        for earlier in 0..round {
            for n in 0..200 {
                let found = client.get(format!("{earlier}:{n}")).unwrap();
                assert_eq!(found, Some(n.to_string().into_bytes()), "{earlier}:{n} in {round}");
            }
        }
        for n in 0..200 {
            client.set(format!("{round}:{n}"), n.to_string()).unwrap();
        }
        client.mset(&[("x", round.to_string()), ("y", round.to_string())]).unwrap();
        engine.close().unwrap();
    }
}

/// Every mode of fsync keeps what was written, when the engine is closed in order.
#[test]
fn every_fsync_mode_keeps_the_data_over_a_close() {
    for fsync in [Fsync::Always, Fsync::Everysec, Fsync::Never] {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..2 {
            let mut config = small(EngineConfig::directory(dir.path()));
            config.fsync = fsync;
            let engine = Engine::open(config).unwrap();
            assert_eq!(engine.client().incr("n").unwrap(), round + 1, "{fsync:?}");
            drop(engine);
        }
    }
}

fn batch(client: &Client, commands: &[&str]) -> Vec<Value> {
    let words = |line: &&str| line.split(' ').map(str::to_owned).collect();
    let commands: Vec<Vec<String>> = commands.iter().map(words).collect();
    let client = client.clone();
    in_time("a batch", move || client.batch(&commands)).unwrap()
}

#[test]
fn a_batch_is_answered_in_its_order_whatever_the_shards() {
    let engine = Engine::open(memory(3)).unwrap();
    let client = engine.client();
    let sets: Vec<String> = (0..2_000).map(|n| format!("SET key:{n} {n}")).collect();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    assert!(batch(&client, &sets).iter().all(|reply| *reply == ok()));
    let gets: Vec<String> = (0..2_000).map(|n| format!("GET key:{n}")).collect();
    let gets: Vec<&str> = gets.iter().map(String::as_str).collect();
    for (n, reply) in batch(&client, &gets).into_iter().enumerate() {
        assert_eq!(reply, text(&n.to_string()));
    }
    let mixed = batch(&client, &["INCR a", "NOSUCH", "INCR a", "MGET a b", "GET"]);
    assert_eq!((&mixed[0], &mixed[2]), (&Value::Integer(1), &Value::Integer(2)));
    assert!(mixed[1].as_error().is_some() && mixed[4].as_error().is_some());
    assert_eq!(mixed[3].as_array().unwrap()[0], text("2"));
    assert!(batch(&client, &[]).is_empty());
}

/// A batch that names what belongs to a connection runs whole on one shard, in order.
#[test]
fn what_depends_on_the_connection_works_within_a_batch() {
    let engine = Engine::open(memory(4)).unwrap();
    let client = engine.client();
    let keys: Vec<String> = (0..16).map(|n| format!("k{n}")).collect();
    let sets: Vec<String> = keys.iter().map(|key| format!("SET {key} 1")).collect();
    let mut commands = vec!["MULTI"];
    commands.extend(sets.iter().map(String::as_str));
    commands.push("EXEC");
    let replies = batch(&client, &commands);
    assert_eq!(replies[0], ok());
    assert!(replies[1..17].iter().all(|reply| *reply == Value::Simple("QUEUED".into())));
    assert_eq!(replies[17].as_array().unwrap(), vec![ok(); 16]);

    let replies = batch(&client, &["SET k1 a", "SELECT 3", "SET k2 b", "GET k1", "SELECT 0"]);
    assert_eq!(replies[3], Value::Null);
    assert_eq!(client.get("k1").unwrap(), Some(b"a".to_vec()));
    assert_eq!(client.get("k2").unwrap(), Some(b"1".to_vec()), "it was set in database 3");

    let replies = batch(&client, &["WATCH k3", "SET k3 9", "MULTI", "INCR k3", "EXEC"]);
    assert_eq!(replies[4], Value::Null, "the watched key was changed");
    let replies = batch(&client, &["EXEC"]);
    assert!(replies[0].as_error().unwrap().contains("EXEC without MULTI"));
    batch(&client, &["MULTI", "SET k4 lost"]);
    assert_eq!(client.get("k4").unwrap(), Some(b"1".to_vec()), "discarded with its batch");

    let replies = batch(&client, &["SET k5 z", "QUIT", "SET k5 y", "GET k5"]);
    assert_eq!(replies[1], ok());
    assert!(replies[2].as_error().is_some() && replies[3].as_error().is_some(), "{replies:?}");
    assert_eq!(client.get("k5").unwrap(), Some(b"z".to_vec()));
}

/// More than a socket's limit of unsent replies: a batch has no reader that it could wait for.
#[test]
fn a_batch_with_very_large_replies() {
    let engine = Engine::open(memory(2)).unwrap();
    let client = engine.client();
    let value = vec![b'v'; 4 << 20];
    client.set("big", &value).unwrap();
    let replies = batch(&client, &["GET big"; 12]);
    assert!(replies.iter().all(|reply| reply.as_bytes() == Some(&value[..])));
}

#[test]
fn clients_on_many_threads() {
    let engine = Engine::open(memory(2)).unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            let client = engine.client();
            scope.spawn(move || (0..500).for_each(|_| assert!(client.incr("n").unwrap() > 0)));
        }
    });
    assert_eq!(engine.client().get("n").unwrap(), Some(b"4000".to_vec()));
}

/// Calls of all kinds are in flight when the engine is closed: each gets its reply or
/// [`cutwater_engine::engine::Stopped`], and the directory can be opened at once.
#[test]
fn a_close_under_load_leaves_no_caller_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..6u64 {
        let path = dir.path().to_owned();
        acknowledged = in_time("a close under load", move || {
            let mut config = small(EngineConfig::directory(path));
            config.fsync = if round % 2 == 0 { Fsync::Always } else { Fsync::Never };
            let engine = Engine::open(config).unwrap();
            let found = engine.client().get("count").unwrap();
            let found = found.map_or(0, |n| String::from_utf8(n).unwrap().parse().unwrap());
            assert!(found >= acknowledged, "{found} of {acknowledged}");
            close_under_load(engine)
        });
    }
}

/// Answers the highest count that a client was told.
fn close_under_load(engine: Engine) -> i64 {
    let (warm, is_warm) = flume::bounded(0);
    let mut callers = Vec::new();
    for n in 0..6 {
        let (client, warm) = (engine.client(), warm.clone());
        callers.push(thread::spawn(move || {
            let mut last = 0;
            for turn in 0u64.. {
                if turn == 20 {
                    warm.send(()).unwrap();
                }
                let outcome = match n % 3 {
                    0 => client.incr("count").map(|count| last = count),
                    1 => client.mset(&[(format!("a{turn}"), "1"), (format!("b{turn}"), "2")]),
                    _ => {
                        let commands = vec![vec!["MULTI"], vec!["INCR", "x"], vec!["EXEC"]];
                        client.batch(&commands).map(drop).map_err(CallError::from)
                    }
                };
                match outcome {
                    Ok(()) => {}
                    Err(CallError::Stopped(stopped)) => {
                        assert!(stopped.failure.is_none(), "{stopped}");
                        break;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            last
        }));
    }
    callers.iter().for_each(|_| is_warm.recv().unwrap());
    engine.close().unwrap();
    callers.into_iter().map(|caller| caller.join().unwrap()).max().unwrap()
}

#[test]
fn a_directory_that_is_open_is_locked_until_the_drop() {
    let dir = tempfile::tempdir().unwrap();
    let config = || small(EngineConfig::directory(dir.path()));
    let engine = Engine::open(config()).unwrap();
    let idle = engine.client();
    let error = Engine::open(config()).unwrap_err();
    assert!(matches!(error, OpenError::Locked(LockError::Held { .. })), "{error}");
    // Shared, and closed while others hold it: the directory is free at once.
    let shared = Arc::new(engine);
    shared.shut_down().unwrap();
    let second = Engine::open(config()).unwrap();
    assert!(idle.get("a").is_err(), "a handle of the first is not one of the second");
    shared.shut_down().unwrap();
    drop(second);
    drop(Engine::open(config()).unwrap());
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let mut unpinned = memory(2);
    unpinned.cpus = Some(Vec::new());
    let mut no_place = memory(2);
    no_place.log = true;
    for config in [memory(0), memory(16_385), unpinned, no_place] {
        let error = Engine::open(config).unwrap_err();
        assert!(matches!(error, OpenError::Config(_)), "{error}");
    }
}

/// A flipped bit below what was durable: the error names the file and the place, and the directory
/// is not locked by the attempt.
#[test]
fn a_damaged_log_is_named_with_file_and_offset() {
    let dir = tempfile::tempdir().unwrap();
    let config = || {
        let mut config = small(EngineConfig::directory(dir.path()));
        config.shards = 1;
        config
    };
    let engine = Engine::open(config()).unwrap();
    (0..50).for_each(|n| engine.client().set(format!("k{n}"), "some value").unwrap());
    engine.close().unwrap();
    let log = log_dir(dir.path());
    let mut files: Vec<_> =
        std::fs::read_dir(&log).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with("0.seg"));
    files.sort();
    let segment = &files[0];
    let mut bytes = std::fs::read(segment).unwrap();
    // In the second frame after the header's block.
    bytes[2 * 4096 + 40] ^= 1;
    std::fs::write(segment, bytes).unwrap();
    for _ in 0..2 {
        let error = Engine::open(config()).unwrap_err();
        let OpenError::Recovery(RecoveryError::Log(LogError::Damaged {
            path, offset_bytes, ..
        })) = &error
        else {
            panic!("{error:?}")
        };
        assert!(path.ends_with(segment.file_name().unwrap()), "{error}");
        assert_eq!(*offset_bytes, 2 * 4096, "{error}");
    }
}

#[test]
fn a_sealed_directory_opens_with_its_key_only() {
    let ring =
        |fill: u8| Keyring::new(vec![("k".parse().unwrap(), MasterKey::new([fill; 32]))]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = |keys: LogKeys| {
        let mut config = small(EngineConfig::directory(dir.path()));
        config.keys = keys;
        config
    };
    for round in 0..3 {
        let engine = Engine::open(config(LogKeys::strict(ring(1)))).unwrap();
        for earlier in 0..round {
            let found = engine.client().get(format!("key {earlier}")).unwrap();
            assert_eq!(found, Some(vec![b'v'; 3_000_000]));
        }
        // Over several segments.
        engine.client().set(format!("key {round}"), vec![b'v'; 3_000_000]).unwrap();
        engine.close().unwrap();
        for (keys, expected) in [(Keyring::default(), "not configured"), (ring(2), "another key")] {
            let error = Engine::open(config(LogKeys::strict(keys))).unwrap_err();
            let OpenError::Recovery(recovery) = &error else { panic!("{error}") };
            assert!(matches!(recovery.refusal(), Some(Refusal::Key(_))), "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
    for file in std::fs::read_dir(log_dir(dir.path())).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(16).any(|window| window == [b'v'; 16]));
    }
}

/// The caller's thread stays where it was, and a pinned shard is elsewhere only by its own thread.
#[test]
fn the_calling_thread_is_not_pinned() {
    let before = core_affinity::get_core_ids().unwrap();
    let mut config = memory(2);
    config.cpus = Some(vec![before[0].id]);
    let engine = Engine::open(config).unwrap();
    engine.client().set("a", "1").unwrap();
    engine.close().unwrap();
    assert_eq!(core_affinity::get_core_ids().unwrap(), before);
}

#[test]
fn several_engines_in_one_process_with_listeners() {
    let listening = || {
        let mut config = memory(2);
        config.listen = Some("127.0.0.1:0".parse().unwrap());
        Engine::open(config).unwrap()
    };
    let (one, two) = (listening(), listening());
    let quiet = Engine::open(memory(1)).unwrap();
    let (a, b) = (one.ports().common.unwrap(), two.ports().common.unwrap());
    assert_ne!(a, b);
    for (n, engine) in [&one, &two, &quiet].into_iter().enumerate() {
        engine.client().set("who", n.to_string()).unwrap();
    }
    for (address, who) in [(a, "0"), (b, "1")] {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"GET who\r\n").unwrap();
        let mut reply = [0; 7];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply, format!("$1\r\n{who}\r\n").as_bytes());
    }
    let mut taken = memory(1);
    taken.listen = Some(a);
    one.close().unwrap();
    let again = Engine::open(taken).unwrap();
    assert_eq!(again.ports().common, Some(a), "the port is free when close returns");
    assert_eq!(quiet.client().get("who").unwrap(), Some(b"2".to_vec()));
    assert_eq!(two.client().get("who").unwrap(), Some(b"1".to_vec()));
}

/// A snapshot is cancelled by dropping it, whatever stage it is in, and another begins at once.
#[test]
fn a_dropped_snapshot_is_cancelled_and_the_next_begins_at_once() {
    let engine = Arc::new(Engine::open(memory(3)).unwrap());
    let client = engine.client();
    let value = vec![b'v'; 10_000];
    for n in 0..2_000 {
        client.set(format!("k{n}"), &value).unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writer = thread::spawn({
        let (client, stop, value) = (client.clone(), Arc::clone(&stop), value.clone());
        move || {
            let mut writes = 0u64;
            while !stop.load(Ordering::Relaxed) {
                client.set(format!("k{}", writes % 2_000), &value).unwrap();
                writes += 1;
            }
            writes
        }
    });
    let snapshots = Arc::clone(&engine);
    in_time("snapshots", move || {
        for round in 0..20 {
            let mut streams = futures::executor::block_on(snapshots.create_snapshot(None)).unwrap();
            let busy = futures::executor::block_on(snapshots.create_snapshot(None));
            assert_eq!(busy.unwrap_err(), SnapshotStreamError::Busy);
            for _ in 0..round {
                let part = &mut streams.parts[round % 3];
                if matches!(part.next_blocking().unwrap(), PartEvent::End { .. }) {
                    break;
                }
            }
            drop(streams);
            // A begin that is dropped before the shards have answered.
            let mut begin = Box::pin(snapshots.create_snapshot(None));
            let waker = std::task::Waker::noop();
            let polled = begin.as_mut().poll(&mut std::task::Context::from_waker(waker));
            drop((polled.is_ready(), begin));
        }
        let streams = futures::executor::block_on(snapshots.create_snapshot(None)).unwrap();
        for mut part in streams.parts {
            while !matches!(part.next_blocking().unwrap(), PartEvent::End { .. }) {}
        }
    });
    stop.store(true, Ordering::Relaxed);
    assert!(writer.join().unwrap() > 0);
}

/// The engine is closed while a snapshot is under way and its consumer waits.
#[test]
fn a_close_ends_the_streams_of_a_snapshot() {
    let engine = Engine::open(memory(2)).unwrap();
    let client = engine.client();
    for n in 0..5_000 {
        client.set(format!("k{n}"), vec![b'v'; 10_000]).unwrap();
    }
    let mut streams = futures::executor::block_on(engine.create_snapshot(None)).unwrap();
    let chunk = streams.parts[0].next_blocking().unwrap();
    assert!(matches!(chunk, PartEvent::Chunk(_)));
    in_time("a close with a snapshot under way", move || {
        engine.close().unwrap();
        for mut part in streams.parts {
            let end = loop {
                match part.next_blocking() {
                    Ok(PartEvent::Chunk(_)) => {}
                    Ok(PartEvent::End { .. }) => break None,
                    Err(error) => break Some(error),
                }
            };
            assert!(matches!(end, None | Some(SnapshotStreamError::Stopped)), "{end:?}");
        }
    });
}
