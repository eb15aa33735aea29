//! The simulation over 1,000 seeds, and that it notices what is broken on purpose. For more seeds:
//! `cargo run --release -p cutwater-bench --bin simulate -- --seeds 100000`.

use std::sync::atomic::{AtomicU64, Ordering};

use cutwater_bench::sim::{Failure, Mutation, Report, run, run_archived};

/// Seeds that every run of the tests goes through.
const SEEDS: u64 = 1_000;
/// Seeds with an archive.
const ARCHIVED_SEEDS: u64 = 150;
/// Seeds among which one has to notice a mutation.
const MUTATED_SEEDS: u64 = 300;
/// Seeds that found a bug once; see the commits that fixed them.
const REGRESSIONS: &[u64] = &[17, 25, 26, 101, 102_352, 104_482];

fn expect_ok(result: Result<Report, Failure>) -> Report {
    result.unwrap_or_else(|Failure { seed, what }| {
        panic!(
            "seed {seed}: {what}\nrepeat it: cargo run --release -p cutwater-bench --bin simulate \
             -- --from {seed} --seeds 1"
        )
    })
}

#[test]
fn a_thousand_seeds() {
    let next = AtomicU64::new(0);
    let (unknown, unknown_losses) = (AtomicU64::new(0), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    let report = expect_ok(run(seed, Mutation::None));
                    unknown.fetch_add(report.unknown, Ordering::Relaxed);
                    unknown_losses.fetch_add(report.unknown_losses, Ordering::Relaxed);
                }
            });
        }
    });
    let unknown = unknown.into_inner();
    assert!(unknown < SEEDS / 100, "{unknown} searches were given up: nothing was checked there");
    // Some 600 crashes of these seeds lose something: one in ten may be too much to search.
    let unknown = unknown_losses.into_inner();
    assert!(unknown < SEEDS * 6 / 100, "{unknown} searches for what may survive were given up");
}

#[test]
fn seeds_that_found_bugs() {
    for seed in REGRESSIONS {
        expect_ok(run(*seed, Mutation::None));
    }
}

#[test]
fn a_seed_repeats_itself() {
    for seed in 0..20 {
        assert_eq!(run(seed, Mutation::None), run(seed, Mutation::None), "seed {seed}");
    }
    let hash = |seed| expect_ok(run(seed, Mutation::None)).hash;
    assert_ne!(hash(0), hash(1), "another seed is another run");
}

/// Breaks the database, and expects a seed to fail because of it.
fn expect_caught(mutation: Mutation) {
    let caught = (0..MUTATED_SEEDS).find_map(|seed| run(seed, mutation).err());
    let Failure { seed, what } = caught.unwrap_or_else(|| panic!("nobody notices {mutation:?}"));
    let whole = run(seed, Mutation::None).err();
    assert_eq!(whole, None, "seed {seed} noticed {mutation:?} ({what}), and now fails without it");
}

#[test]
fn what_is_archived_is_exactly_what_counts_after_a_crash() {
    let mut archived = 0;
    for seed in 0..ARCHIVED_SEEDS {
        match run_archived(seed) {
            Ok(report) => archived += report.archived,
            Err(Failure { seed, what }) => panic!(
                "seed {seed}: {what}\nrepeat it: cargo run --release -p cutwater-bench --bin \
                 simulate -- --from {seed} --seeds 1 --archive"
            ),
        }
    }
    assert!(archived > 10 * ARCHIVED_SEEDS, "only {archived} records were archived");
}

#[test]
fn removing_the_sync_is_caught() {
    expect_caught(Mutation::NoSync);
}

#[test]
fn removing_the_gate_is_caught() {
    expect_caught(Mutation::NoGate);
}

#[test]
fn removing_the_checksum_is_caught() {
    expect_caught(Mutation::NoCrc);
}

#[test]
fn removing_the_seal_is_caught() {
    expect_caught(Mutation::NoSeal);
}
