//! The embedded engine, from the caller's thread and back: GET, SET, MSET and batches of 16; in
//! memory, with a log that is synced never and always, and while a snapshot is being taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use cutwater_engine::engine::PartEvent;
use cutwater_engine::types::Fsync;
use cutwater_engine::{Client, Engine, EngineConfig};
use futures::executor::block_on;

/// Keys that the engine holds.
const KEYS: usize = 20_000;
/// Commands of a batch.
const BATCH: usize = 16;

fn key(n: usize) -> String {
    format!("key:{:012}", n % KEYS)
}

fn fill(client: &Client) {
    for first in (0..KEYS).step_by(500) {
        let pairs: Vec<_> = (first..first + 500).map(|n| (key(n), [b'v'; 64])).collect();
        client.mset(&pairs).expect("the engine runs");
    }
}

fn bench_calls(criterion: &mut Criterion, name: &str, client: &Client) {
    let mut group = criterion.benchmark_group(format!("embedded, {name}"));
    let value = [b'w'; 64];
    let mut n = 0;
    let mut next = || {
        n += 7_919;
        n
    };
    group.throughput(Throughput::Elements(1));
    group.bench_function("get", |bencher| {
        bencher.iter(|| client.get(key(next())).expect("the engine runs"));
    });
    group.bench_function("set", |bencher| {
        bencher.iter(|| client.set(key(next()), value).expect("the engine runs"));
    });
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(format!("mset of {BATCH}"), |bencher| {
        bencher.iter(|| {
            let pairs: Vec<_> = (0..BATCH).map(|_| (key(next()), value)).collect();
            client.mset(&pairs).expect("the engine runs");
        });
    });
    group.bench_function(format!("batch of {BATCH} sets"), |bencher| {
        bencher.iter(|| {
            let sets: Vec<Vec<Vec<u8>>> = (0..BATCH)
                .map(|_| vec![b"SET".to_vec(), key(next()).into_bytes(), value.to_vec()])
                .collect();
            client.batch(&sets).expect("the engine runs")
        });
    });
    group.finish();
}

/// Takes one snapshot after another, and drops the chunks, until told to stop.
fn take_snapshots(engine: &Engine, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let streams = block_on(engine.create_snapshot(None)).expect("the engine runs");
        let parts = streams.parts.into_iter().map(|mut part| {
            move || while !matches!(part.next_blocking(), Ok(PartEvent::End { .. }) | Err(_)) {}
        });
        thread::scope(|scope| parts.for_each(|part| drop(scope.spawn(part))));
    }
}

fn embedded(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, fsync) in [
        ("memory", None),
        ("fsync never", Some(Fsync::Never)),
        ("fsync always", Some(Fsync::Always)),
    ] {
        let config = match fsync {
            None => EngineConfig::memory(),
            Some(fsync) => {
                let mut config = EngineConfig::directory(folder.path().join(name));
                config.fsync = fsync;
                config.segment_bytes = 16 << 20;
                config
            }
        };
        let engine = Arc::new(Engine::open(config).expect("the engine opens"));
        fill(&engine.client());
        bench_calls(criterion, name, &engine.client());
        if fsync == Some(Fsync::Never) {
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| take_snapshots(&engine, &stop));
                bench_calls(criterion, "fsync never, during snapshots", &engine.client());
                stop.store(true, Ordering::Relaxed);
            });
        }
        engine.shut_down().expect("the engine has not failed");
    }
}

criterion_group!(benches, embedded);
criterion_main!(benches);
