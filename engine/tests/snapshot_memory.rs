//! A snapshot whose consumer stands still: writes go on, memory grows by less than the chunk
//! queue's 64 MiB and a constant, and the snapshot is what is given up. Alone in its process, since
//! it looks at the memory of the process.

#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "it measures how long a write waits")]

use std::time::{Duration, Instant};

use cutwater_engine::engine::snapshot::CHUNK_QUEUE_BYTES;
use cutwater_engine::engine::{PartEvent, SnapshotError};
use cutwater_engine::{Client, Engine, EngineConfig};
use futures::executor::block_on;

/// What may come on top of the queue, beside the data. For each of the two shards: the chunk that
/// is being filled and the copies of one group that go over the queue's end, a few MiB; records of
/// the tail until the end of the snapshot is known, and the batch under way, less than one MiB; the
/// rest is for what the allocator does not give back while values of one size come and go.
const CONSTANT_BYTES: usize = 32 << 20;

const KEYS: usize = 52_000;
const VALUE_BYTES: usize = 4 << 10;
const BATCH: usize = 50;
const STALL_LIMIT_MS: u64 = 300;

/// Memory of this process that is its own, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// How a pass over all keys went.
#[derive(Default)]
struct Pass {
    slowest: Duration,
    /// The most memory seen after any batch.
    peak_bytes: usize,
}

/// Sets every key; no write may fail.
fn set_all(client: &Client, letter: u8) -> Pass {
    let value = vec![letter; VALUE_BYTES];
    let mut pass = Pass::default();
    for first in (0..KEYS).step_by(BATCH) {
        let sets: Vec<Vec<Vec<u8>>> = (first..first + BATCH)
            .map(|n| vec![b"SET".to_vec(), format!("key:{n}").into_bytes(), value.clone()])
            .collect();
        let began = Instant::now();
        let replies = client.batch(&sets).unwrap();
        pass.slowest = pass.slowest.max(began.elapsed());
        pass.peak_bytes = pass.peak_bytes.max(resident_bytes());
        assert!(replies.iter().all(|reply| reply.as_error().is_none()));
    }
    pass
}

#[test]
fn a_consumer_that_stands_still_costs_bounded_memory_and_no_write() {
    let mut config = EngineConfig::memory();
    config.shards = 2;
    config.snapshot_stall_limit_ms = STALL_LIMIT_MS;
    let engine = Engine::open(config).unwrap();
    let client = engine.client();
    // Twice, so that what the allocator keeps for overwriting is there before.
    set_all(&client, b'a');
    set_all(&client, b'b');
    let data_bytes = KEYS * VALUE_BYTES;
    const { assert!(KEYS * VALUE_BYTES > 3 * CHUNK_QUEUE_BYTES, "the queue is small beside it") };

    let before_bytes = resident_bytes();
    let mut streams = block_on(engine.create_snapshot(None)).unwrap();
    let held = streams.parts[0].next_blocking().unwrap();
    assert!(matches!(held, PartEvent::Chunk(_)));
    // Every key is overwritten while nothing is taken: each that was not walked has to be copied.
    let Pass { slowest, peak_bytes } = set_all(&client, b'c');
    let grown_bytes = peak_bytes.saturating_sub(before_bytes);
    println!(
        "{} MiB of data, {} MiB more, slowest batch {slowest:?}",
        data_bytes >> 20,
        grown_bytes >> 20
    );
    assert!(grown_bytes < CHUNK_QUEUE_BYTES + CONSTANT_BYTES, "{} MiB", grown_bytes >> 20);
    assert!(
        grown_bytes > CHUNK_QUEUE_BYTES / 2,
        "the queue was not even filled: {} MiB",
        grown_bytes >> 20
    );
    // The wait is counted from the turn in which the queue was found full, a little earlier.
    assert!(slowest >= Duration::from_millis(STALL_LIMIT_MS / 2), "no write met the full queue");
    assert!(slowest < Duration::from_secs(20), "a write waited for {slowest:?}");
    assert_eq!(client.get("key:7").unwrap(), Some(vec![b'c'; VALUE_BYTES]));

    // The snapshot was given up, on both shards.
    drop(held);
    for part in &mut streams.parts {
        let outcome = loop {
            match part.next_blocking() {
                Ok(PartEvent::Chunk(_)) => {}
                Ok(PartEvent::End { .. }) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        assert_eq!(outcome, Err(SnapshotError::Stalled));
    }
    drop(streams);

    // And the next one is whole.
    let streams = block_on(engine.create_snapshot(None)).unwrap();
    let mut entries = 0;
    for mut part in streams.parts {
        while let PartEvent::Chunk(chunk) = part.next_blocking().unwrap() {
            entries += chunk.entries;
        }
    }
    assert_eq!(entries, KEYS as u64);
    engine.close().unwrap();
}
