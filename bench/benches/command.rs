//! Commands on a bare core: one shard without I/O, from the bytes of a request to the bytes of the
//! reply, with the turn around them. No log, no socket, no other shard.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use cutwater_engine::net::ConnId;
use cutwater_engine::resp::encode::request;
use cutwater_engine::shard::connection::Endpoints;
use cutwater_engine::shard::core::{ShardCore, ShardSetup};
use cutwater_engine::shard::journal::Journal;
use cutwater_engine::shard::shared::{ServerIdentity, Settings, Shared};
use cutwater_engine::slot::SlotMap;
use cutwater_engine::types::{Fsync, Lsn, ShardId, StartId};

/// Keys that the shard holds.
const KEYS: usize = 100_000;
/// Requests of one turn.
const PIPELINE: usize = 16;
/// Where the clock begins: some day of 2023.
const START_MICROS: u64 = 1_700_000_000_000_000;

struct Bare {
    core: ShardCore,
    conn: ConnId,
    now_micros: u64,
}

impl Bare {
    fn new() -> Self {
        let identity = ServerIdentity {
            run_id: "0".repeat(40),
            node_base: "0".repeat(40),
            node_name: None,
            announce_host: None,
            data_dir: None,
            fsync: Fsync::Never,
            log: false,
            started_at_micros: START_MICROS,
        };
        let settings = Settings { password: Vec::new(), max_clients: 100, timeout_s: 0 };
        let mut core = ShardCore::new(ShardSetup {
            id: ShardId(0),
            start: StartId(0),
            shared: Arc::new(Shared::new(SlotMap::new(1), identity, settings)),
            floor: Lsn::ZERO,
            now_micros: START_MICROS,
            journal: Journal::none(),
            seed: 1,
        });
        core.finish_loading(Lsn::ZERO);
        let conn = ConnId(0);
        let address = "127.0.0.1:1".parse().expect("an address");
        core.accept(conn, Endpoints { peer: address, local: address });
        let mut bare = Self { core, conn, now_micros: START_MICROS };
        for n in 0..KEYS {
            let mut bytes = Vec::new();
            let key = key(n);
            request(&mut bytes, [&b"SET"[..], key.as_bytes(), &[b'v'; 64]].into_iter());
            bare.turn(&bytes);
        }
        bare
    }

    /// One turn with these bytes from the client; answers the length of the replies.
    fn turn(&mut self, bytes: &[u8]) -> usize {
        self.now_micros += 10;
        self.core.begin_turn(self.now_micros);
        self.core.receive(self.conn, bytes);
        self.core.end_turn();
        let mut length = 0;
        for (conn, reply) in std::mem::take(&mut self.core.effects.sends) {
            length += reply.len();
            self.core.sent(conn, reply);
        }
        assert!(length > 0, "the turn answers");
        length
    }
}

fn key(n: usize) -> String {
    format!("key:{:012}", n % KEYS)
}

fn commands(criterion: &mut Criterion) {
    let mut bare = Bare::new();
    let mut group = criterion.benchmark_group("command on a bare core");
    group.throughput(Throughput::Elements(PIPELINE as u64));
    let cases: [(&str, &[&[u8]]); 4] = [
        ("get", &[b"GET"]),
        ("set", &[b"SET", &[b'w'; 64]]),
        ("append 1 B", &[b"APPEND", b"x"]),
        ("expire", &[b"EXPIRE", b"1000"]),
    ];
    for (name, shape) in cases {
        // Keys in an order that the processor's caches do not foresee.
        let mut next = 0usize;
        group.bench_function(name, |bencher| {
            let requests = || {
                let mut bytes = Vec::new();
                for _ in 0..PIPELINE {
                    next = next.wrapping_mul(1_103_515_245).wrapping_add(12_345) % (1 << 31);
                    let key = key(next);
                    let mut args = vec![shape[0], key.as_bytes()];
                    args.extend(&shape[1..]);
                    request(&mut bytes, args.into_iter());
                }
                bytes
            };
            let run = |bytes: Vec<u8>| black_box(bare.turn(&bytes));
            bencher.iter_batched(requests, run, BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group!(benches, commands);
criterion_main!(benches);
