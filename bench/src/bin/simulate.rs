//! Runs the simulation over many seeds: `simulate --seeds 100000 [--from N] [--verbose]`. Prints
//! how far it is, and for every failure the seed and how to repeat it.

#![expect(clippy::print_stdout, reason = "a report for a person")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use cutwater_bench::sim::{Mutation, run, run_archived};

/// How often progress is printed.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Simulates shards, disks and crashes, and checks what clients saw.
#[derive(Parser)]
struct Options {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
    /// An archive takes records out of the logs meanwhile.
    #[arg(long)]
    archive: bool,
    /// Break something: `no-sync`, `no-gate` or `no-crc`.
    #[arg(long)]
    mutation: Option<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mutation = match options.mutation.as_deref() {
        Some("no-sync") => Mutation::NoSync,
        Some("no-gate") => Mutation::NoGate,
        Some("no-crc") => Mutation::NoCrc,
        _ => Mutation::None,
    };
    let began = Instant::now();
    let mut printed = began;
    let (mut requests, mut starts, mut snapshots, mut failures) = (0, 0, 0, 0u64);
    let (mut unknown, mut unknown_losses) = (0, 0);
    for seed in options.from..options.from.saturating_add(options.seeds) {
        let result = if options.archive { run_archived(seed) } else { run(seed, mutation) };
        match result {
            Ok(report) => {
                requests += report.requests;
                starts += report.starts;
                snapshots += report.snapshots;
                unknown += report.unknown;
                unknown_losses += report.unknown_losses;
            }
            Err(failure) => {
                failures += 1;
                println!("seed {seed} fails: {}", failure.what);
                println!(
                    "repeat it: cargo run --release -p cutwater-bench --bin simulate -- \
                     --from {seed} --seeds 1{}",
                    if options.archive { " --archive" } else { "" }
                );
                if !options.keep_going {
                    return ExitCode::FAILURE;
                }
            }
        }
        if printed.elapsed() > PROGRESS_INTERVAL {
            printed = Instant::now();
            println!("seed {seed}: {requests} requests, {starts} starts, {failures} failures");
        }
    }
    println!(
        "{} seeds, {requests} requests, {starts} starts, {snapshots} snapshots, {unknown} searches \
         given up ({unknown_losses} for what may survive), {failures} failures, {:.1} s",
        options.seeds,
        began.elapsed().as_secs_f64()
    );
    if failures > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
