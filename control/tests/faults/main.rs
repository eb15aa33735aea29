//! A seeded simulation of everything that is written to stores: snapshots into the local one, their
//! uploads beside the server, claims, the writer's role, deletions and the archive, over stores
//! that fail after having done the work, break listings off, answer late or never, while the server
//! is killed and started again, sometimes beside an earlier one that still runs.
//!
//! `CUTWATER_FAULT_SEEDS=1000..100000 cargo test --release -p cutwater-control --test faults` tries
//! other seeds, and one again: `7..8`.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod audit;
mod rng;
mod store;
mod world;

use std::ops::Range;

/// Seeds that every run of the tests tries.
const SEEDS: Range<u64> = 0..1_000;

#[test]
#[expect(clippy::disallowed_methods, reason = "which seeds is a wish of who runs the test")]
fn whatever_stores_do_nothing_is_lost_doubled_or_half_there() {
    let wish = std::env::var("CUTWATER_FAULT_SEEDS").ok();
    let parse = |text: &str| text.parse::<u64>().expect("seeds are FROM..TO");
    let seeds = wish.map_or(SEEDS, |wish| {
        let (from, to) = wish.split_once("..").expect("seeds are FROM..TO");
        parse(from)..parse(to)
    });
    let mut total = world::Done::default();
    for seed in seeds.clone() {
        match world::run(seed) {
            Ok(done) => total.add(&done),
            Err(wrong) => panic!("seed {seed}: {wrong}"),
        }
    }
    println!("{} seeds: {total:?}", seeds.count());
    // So that the simulation does not come to do nothing.
    assert!(total.starts > 0 && total.snapshots > 0 && total.uploads > 0 && total.archived > 0);
    assert!(total.deltas > 0 && total.rekeyed > 0);
}
