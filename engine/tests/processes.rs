//! What the embedded engine does to its process: threads, descriptors, limits, a log that cannot
//! be written. Each test runs as a child of this program, alone in its process.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests, and how long they wait at most"
)]

mod support;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use cutwater_engine::engine::{CallError, FailureReason, OpenError};
use cutwater_engine::net::RingError;
use cutwater_engine::net::preflight::PreflightError;
use cutwater_engine::types::Fsync;
use cutwater_engine::{Engine, EngineConfig, SnapshotStreamError};
use support::{in_time, memory, small};

/// Runs one of the ignored tests below alone in a process, whose ways to send `SIGXFSZ` are shut:
/// without that a limit on the size of files would kill it instead of failing its writes.
fn child(test: &str) {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads", "1"]);
    let output = in_time(test, move || command.output().unwrap());
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// Threads and descriptors of this process; threads that have ended may take a moment to go.
fn settled(threads: usize, descriptors: usize) {
    let began = Instant::now();
    loop {
        let now = (count("/proc/self/task"), count("/proc/self/fd"));
        if now.0 <= threads && now.1 <= descriptors {
            return;
        }
        let (waited, patience) = (began.elapsed(), Duration::from_secs(10));
        assert!(waited < patience, "{now:?} of {:?}", (threads, descriptors));
        thread::yield_now();
    }
}

#[test]
fn rounds_of_opening_and_closing_leak_nothing() {
    child("child_opens_and_closes");
}

#[test]
#[ignore = "run by rounds_of_opening_and_closing_leak_nothing, as a process of its own"]
fn child_opens_and_closes() {
    let dir = tempfile::tempdir().unwrap();
    let round = |n: usize| {
        let mut config = small(EngineConfig::directory(dir.path()));
        config.fsync = Fsync::Never;
        config.listen = Some("127.0.0.1:0".parse().unwrap());
        // So that the logs of a hundred starts do not take the time.
        let engine =
            Engine::open(if n.is_multiple_of(10) { config } else { listening_in_memory() })
                .unwrap();
        let client = engine.client();
        client.mset(&[("a", "1"), ("b", "2"), ("c", "3")]).unwrap();
        let streams = futures::executor::block_on(engine.create_snapshot(None)).unwrap();
        match n % 3 {
            0 => engine.close().unwrap(),
            1 => drop(engine),
            _ => {
                drop(streams);
                drop(engine);
            }
        }
        client.get("a").unwrap_err();
    };
    // What the first rounds leave is the process's, once.
    (0..3).for_each(round);
    let (threads, descriptors) = (count("/proc/self/task"), count("/proc/self/fd"));
    (0..100).for_each(round);
    settled(threads, descriptors);
}

fn listening_in_memory() -> EngineConfig {
    let mut config = memory(2);
    config.listen = Some("127.0.0.1:0".parse().unwrap());
    config
}

/// The descriptors run out while shards start: those that run end, and the caller learns why.
#[test]
fn a_shard_that_cannot_start_ends_the_others() {
    child("child_runs_out_of_descriptors");
}

#[test]
#[ignore = "run by a_shard_that_cannot_start_ends_the_others, as a process of its own"]
fn child_runs_out_of_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let config = |shards| {
        let mut config = small(EngineConfig::directory(dir.path()));
        config.shards = shards;
        config
    };
    drop(Engine::open(config(1)).unwrap());
    let (threads, descriptors) = (count("/proc/self/task"), count("/proc/self/fd"));
    let (soft, hard) = rlimit::Resource::NOFILE.get().unwrap();
    // From "not even the doorbells" to "nearly all shards".
    for room in (2..70).step_by(4) {
        rlimit::Resource::NOFILE.set(descriptors as u64 + room, hard).unwrap();
        let outcome = Engine::open(config(12));
        rlimit::Resource::NOFILE.set(soft, hard).unwrap();
        let error = outcome.expect_err("there is no room for twelve shards");
        assert!(!error.to_string().contains("while loading"), "the cause is named: {error}");
        println!("{room}: {error}");
        settled(threads, descriptors);
    }
    let engine = Engine::open(config(2)).unwrap();
    engine.client().set("a", "1").unwrap();
    engine.close().unwrap();
}

#[test]
fn too_little_locked_memory_is_told() {
    child("child_may_lock_no_memory");
}

#[test]
#[ignore = "run by too_little_locked_memory_is_told, as a process of its own"]
fn child_may_lock_no_memory() {
    rlimit::Resource::MEMLOCK.set(64 << 10, 64 << 10).unwrap();
    let error = Engine::open(memory(1)).unwrap_err();
    let machine = OpenError::Machine(PreflightError::LockedMemory { limit_bytes: 64 << 10 });
    assert_eq!(error.to_string(), machine.to_string());
    // What a shard finds out later is told in the same way.
    let late = cutwater_engine::engine::Failure {
        shard: cutwater_engine::types::ShardId(3),
        reason: FailureReason::from(RingError::LockedMemory),
    };
    let told = OpenError::from(late);
    let expected = |error: &OpenError| {
        matches!(error, OpenError::Machine(PreflightError::Ring(RingError::LockedMemory)))
    };
    assert!(expected(&told), "{told}");
}

/// The disk refuses a write of the log (here: files may not grow that far, so the kernel answers
/// EFBIG): every caller learns it, nothing unacknowledged is taken for written, and the directory
/// opens again with all that was acknowledged.
#[test]
fn a_failed_write_of_the_log_stops_the_engine() {
    child("child_cannot_write_its_log");
}

#[test]
#[ignore = "run by a_failed_write_of_the_log_stops_the_engine, as a process of its own"]
fn child_cannot_write_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(small(EngineConfig::directory(dir.path()))).unwrap();
    let acknowledged = thread::scope(|scope| {
        let mut callers = Vec::new();
        for caller in 0..4 {
            let client = engine.client();
            callers.push(scope.spawn(move || {
                for n in 0u64.. {
                    if n == 10 && caller == 0 {
                        // What is written from here on ends in the middle of the first segment.
                        let (_, hard) = rlimit::Resource::FSIZE.get().unwrap();
                        rlimit::Resource::FSIZE.set(200 << 10, hard).unwrap();
                    }
                    match client.set(format!("{caller}:{n}"), vec![b'v'; 500]) {
                        Ok(()) => {}
                        Err(CallError::Stopped(stopped)) => return (n, stopped),
                        Err(error) => panic!("{error}"),
                    }
                }
                unreachable!("the log has an end")
            }));
        }
        let ends: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        for (_, stopped) in &ends {
            let failure = stopped.failure.as_ref().expect("every caller learns why");
            assert!(matches!(failure.reason, FailureReason::Log(_)), "{stopped}");
            assert!(stopped.to_string().contains("log cannot be written"), "{stopped}");
        }
        ends.into_iter().map(|(n, _)| n).collect::<Vec<_>>()
    });
    let failure = engine.failure().expect("the engine has failed");
    assert!(matches!(failure.reason, FailureReason::Log(_)), "{failure}");
    let told = futures::executor::block_on(engine.failed());
    assert_eq!(told.to_string(), failure.to_string());
    let snapshot = futures::executor::block_on(engine.create_snapshot(None));
    assert_eq!(snapshot.unwrap_err(), SnapshotStreamError::Stopped);
    engine.close().unwrap_err();
    let (_, hard) = rlimit::Resource::FSIZE.get().unwrap();
    rlimit::Resource::FSIZE.set(hard, hard).unwrap();
    check_recovered(dir.path(), &acknowledged);
}

fn check_recovered(dir: &Path, acknowledged: &[u64]) {
    let engine = Engine::open(small(EngineConfig::directory(dir))).unwrap();
    let client = engine.client();
    for (caller, count) in acknowledged.iter().enumerate() {
        assert!(*count > 0);
        for n in 0..*count {
            assert!(client.get(format!("{caller}:{n}")).unwrap().is_some(), "{caller}:{n}");
        }
    }
}
