//! A snapshot whose consumer stands still: writes go on, and memory grows by less than the chunk
//! queue's 64 MiB and a constant. Alone in its process, since it looks at the memory of the process.

use std::time::{Duration, Instant};

use cutwater_engine::engine::PartEvent;
use cutwater_engine::engine::snapshot::CHUNK_QUEUE_BYTES;
use cutwater_engine::{Engine, EngineConfig};
use futures::executor::block_on;

/// What may come on top of the queue, beside the data: one unfinished chunk and one run of copies
/// for each shard, records of the tail until the end of the snapshot is known, and what the
/// allocator does not give back.
const CONSTANT_BYTES: usize = 32 << 20;

const KEYS: usize = 60_000;
const VALUE_BYTES: usize = 4_000;

/// Memory of this process that is its own, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[test]
fn a_consumer_that_stands_still_costs_bounded_memory_and_no_write() {
    let mut config = EngineConfig::memory();
    config.shards = 2;
    config.snapshot_stall_limit_ms = 300;
    let engine = Engine::open(config).unwrap();
    let client = engine.client();
    let set_all = |letter: u8| {
        let value = vec![letter; VALUE_BYTES];
        let mut slowest = Duration::ZERO;
        for first in (0..KEYS).step_by(50) {
            let sets: Vec<Vec<Vec<u8>>> = (first..first + 50)
                .map(|n| vec![b"SET".to_vec(), format!("key:{n}").into_bytes(), value.clone()])
                .collect();
            let began = Instant::now();
            let replies = client.batch(&sets).unwrap();
            slowest = slowest.max(began.elapsed());
            assert!(replies.iter().all(|reply| reply.as_error().is_none()));
        }
        slowest
    };
    // Twice, so that what the allocator keeps for overwriting is there before.
    set_all(b'a');
    set_all(b'b');
    let data_bytes = KEYS * VALUE_BYTES;
    assert!(data_bytes > 3 * CHUNK_QUEUE_BYTES, "the queue must be small beside the data");

    let before = resident_bytes();
    let mut streams = block_on(engine.create_snapshot(None)).unwrap();
    let held = streams.parts[0].next_blocking().unwrap();
    assert!(matches!(held, PartEvent::Chunk(_)));
    // Every key is overwritten while nothing is taken: each that was not walked has to be copied.
    let slowest = set_all(b'c');
    let during = resident_bytes();
    let grown = during.saturating_sub(before);
    println!("{} MiB of data, {} MiB more, slowest {slowest:?}", data_bytes >> 20, grown >> 20);
    assert!(grown < CHUNK_QUEUE_BYTES + CONSTANT_BYTES, "{} MiB", grown >> 20);
    assert!(slowest < Duration::from_secs(10), "a write waited for {slowest:?}");
    assert_eq!(client.get("key:7").unwrap(), Some(vec![b'c'; VALUE_BYTES]));

    // What is left of the snapshot ends: it was abandoned, not the writes.
    drop(held);
    let outcome = loop {
        match streams.parts[0].next_blocking() {
            Ok(PartEvent::Chunk(_)) => {}
            Ok(PartEvent::End { .. }) => break None,
            Err(error) => break Some(error),
        }
    };
    println!("the held snapshot: {outcome:?}");
    drop(streams);
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
