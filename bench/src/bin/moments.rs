//! Restores to random moments of a server that writes, is killed and loses its store for minutes:
//! `moments --minutes 5 --seed 7`. Prints how far it is; fails with the seed.

#![expect(clippy::print_stdout, reason = "a report for a person")]
#![expect(clippy::print_stderr, reason = "a report for a person")]

use std::process::ExitCode;

use clap::Parser;
use cutwater_bench::moments::{Options, run};

/// Writes, kills, restores, and checks what every moment holds.
#[derive(Parser)]
struct Arguments {
    /// How long is written, half of it before the restore in the middle.
    #[arg(long, default_value_t = 2)]
    minutes: u64,
    /// How many moments are restored of each history.
    #[arg(long, default_value_t = 20)]
    moments: usize,
    /// The seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let Arguments { minutes, moments, seed } = Arguments::parse();
    let options = Options { seconds: minutes * 30, moments, outages: true, seed };
    match run(&options, &mut |line| println!("{line}")) {
        Ok((report, _)) => {
            println!("{report:?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
