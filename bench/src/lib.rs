//! Benchmarks, the simulation and the load harness of Cutwater.
//!
//! What the end-to-end tests (`tests/e2e/`) and the comparison with a peer (`src/bin/compare/`)
//! share. They drive a server from outside, as a process behind a socket:
//!
//! - [`process`]: a server process: start, wait until it serves, kill, stop, start again;
//! - [`server`] and [`peer`]: how Cutwater and Valkey are told what to do; every command line
//!   option that the tests use stands there once;
//! - [`client`] and [`reply`]: a small RESP client with pipelining;
//! - [`pace`]: load at a fixed rate, and how long each request waited;
//! - [`golden`]: scripts of commands and the exact replies that they must get;
//! - [`moments`]: restores to any moment, against what writers know;
//! - [`s3`]: a server of the S3 protocol on loopback, which freezes and fails on demand;
//! - [`report`]: medians, ratios and tables of measurements;
//! - [`usage`]: what a process costs: CPU time and memory;
//! - [`sim`]: the simulation, which embeds shards instead (`src/bin/simulate.rs`);
//! - [`tools`]: the foreign programs that a test drives, and what happens when one is missing.

pub mod client;
pub mod golden;
pub mod idle;
pub mod moments;
pub mod pace;
pub mod peer;
pub mod process;
pub mod reply;
pub mod report;
#[expect(clippy::unwrap_used, reason = "tests of every crate include this file")]
#[path = "../../snapshot/tests/common/s3.rs"]
pub mod s3;
pub mod server;
pub mod sim;
pub mod tools;
pub mod usage;
