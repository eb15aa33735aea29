//! RESP decode: requests as clients send them, out of one buffer. `cargo test` runs each once.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use cutwater_engine::resp::encode::request;
use cutwater_engine::resp::{Decoder, Limits, Progress};
use std::hint::black_box;

/// Requests in one buffer, as from a pipeline.
const REQUESTS: usize = 64;

fn decode_all(decoder: &mut Decoder, mut buffer: &[u8]) -> usize {
    let mut arguments = 0;
    while !buffer.is_empty() {
        match decoder.decode(buffer, &Limits::FULL).expect("whole requests") {
            Progress::Request { consumed } => {
                arguments += decoder.args(buffer).len();
                buffer = &buffer[consumed..];
            }
            Progress::Empty { consumed } => buffer = &buffer[consumed..],
            Progress::Incomplete { .. } => unreachable!("the buffer ends with a request"),
        }
    }
    arguments
}

fn pipeline(args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    (0..REQUESTS).for_each(|_| request(&mut bytes, args.iter().copied()));
    bytes
}

fn decode(criterion: &mut Criterion) {
    let value = vec![b'v'; 64];
    let large = vec![b'v'; 16 << 10];
    let many: Vec<&[u8]> = std::iter::once(&b"MSET"[..])
        .chain((0..32).flat_map(|_| [&b"key:000000000001"[..], &value[..]]))
        .collect();
    let cases: [(&str, Vec<u8>); 4] = [
        ("get", pipeline(&[b"GET", b"key:000000000001"])),
        ("set 64 B", pipeline(&[b"SET", b"key:000000000001", &value])),
        ("set 16 KiB", pipeline(&[b"SET", b"key:000000000001", &large])),
        ("mset of 32", pipeline(&many)),
    ];
    let mut group = criterion.benchmark_group("resp decode");
    for (name, buffer) in cases {
        group.throughput(Throughput::Elements(REQUESTS as u64));
        let mut decoder = Decoder::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| decode_all(&mut decoder, black_box(&buffer)));
        });
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
