//! Chunk encode: the ops of entries into an image, its header with the checksum around it, and the
//! way back that every read takes.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use cutwater_engine::entry::{Op, ValueKind};
use cutwater_engine::types::{DbIndex, ShardId};
use cutwater_snapshot::chunk::{ChunkKind, ChunkPlace, UnverifiedChunk, chunk_header};
use cutwater_snapshot::compression::Algorithm;

/// About what a shard hands over at once.
const CHUNK_BYTES: usize = 1 << 20;
const PLACE: ChunkPlace = ChunkPlace { seed: 7, core: ShardId(0), sequence: 0 };

/// A body of entries with values of this length, and how many there are.
fn body(value_bytes: usize) -> (Vec<u8>, u32) {
    let value = vec![b'v'; value_bytes];
    let (mut body, mut count) = (Vec::with_capacity(2 * CHUNK_BYTES), 0);
    while body.len() < CHUNK_BYTES {
        let key = format!("key:{count:012}");
        let (db, key, kind) = (DbIndex(0), key.as_bytes(), ValueKind::String);
        Op::Put { db, key, kind, expires_at_ms: None, value: &value }.encode(&mut body);
        count += 1;
    }
    (body, count)
}

fn chunks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunk");
    for value_bytes in [64, 4096] {
        let (encoded, count) = body(value_bytes);
        group.throughput(Throughput::Bytes(encoded.len() as u64));
        group.bench_function(format!("encode ops, values of {value_bytes} B"), |bencher| {
            bencher.iter(|| body(black_box(value_bytes)));
        });
        group.bench_function(format!("header and crc, values of {value_bytes} B"), |bencher| {
            bencher.iter(|| {
                let raw_bytes = encoded.len();
                chunk_header(PLACE, ChunkKind::Image, count, raw_bytes, black_box(&encoded))
            });
        });
        let header = chunk_header(PLACE, ChunkKind::Image, count, encoded.len(), &encoded);
        let stored = bytes::Bytes::from(encoded);
        group.bench_function(format!("verify and decode, values of {value_bytes} B"), |bencher| {
            bencher.iter(|| {
                let chunk = UnverifiedChunk { header, body: stored.clone() };
                let chunk = chunk.verify(PLACE, Algorithm::None).expect("what was just encoded");
                let mut entries = 0u32;
                chunk.for_each_op(|_, _| entries += 1).expect("our own ops");
                entries
            });
        });
    }
    group.finish();
}

criterion_group!(benches, chunks);
criterion_main!(benches);
