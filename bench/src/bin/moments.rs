//! Restores to random moments of a server that writes, is killed and loses its store for minutes:
//! `moments --minutes 5 --seed 7`. Prints how far it is; fails with the seed. The seed also chooses
//! the store (a folder, or an S3 server on loopback), sealing and compression, unless they are
//! given.

#![expect(clippy::print_stdout, reason = "a report for a person")]
#![expect(clippy::print_stderr, reason = "a report for a person")]

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use cutwater_bench::moments::stage::Setting;
use cutwater_bench::moments::{Options, run};

/// Writes, kills, restores, and checks what every moment holds.
#[derive(Parser)]
struct Arguments {
    /// How long is written, half of it before the restore in the middle.
    #[arg(long, default_value_t = 2)]
    minutes: u64,
    /// How many moments are restored of each history; of the first, half as many again at the end.
    #[arg(long, default_value_t = 20)]
    moments: usize,
    /// The seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The store; without it S3 if the seed is odd.
    #[arg(long)]
    store: Option<Store>,
    /// Whether everything is sealed; without it so if half of the seed is odd.
    #[arg(long)]
    sealed: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Store {
    File,
    S3,
}

fn main() -> ExitCode {
    let Arguments { minutes, moments, seed, store, sealed } = Arguments::parse();
    let setting = Setting {
        s3: store.map_or(seed % 2 == 1, |store| store == Store::S3),
        sealed: sealed.unwrap_or(seed / 2 % 2 == 1),
        compression: ["none", "lz4", "zstd:1"][(seed % 3) as usize],
        interval: "1s",
    };
    println!("seed {seed}: {setting:?}");
    let options = Options { seconds: minutes * 30, moments, outages: true, setting, seed };
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
