//! The `cutwater` binary from outside: a process, over sockets, with the clients that people use.
//!
//! One binary with a module a concern; each test has its own server, port and folder. Tests whose
//! foreign tools are missing print `SKIPPED` (see `cutwater_bench::tools`). With
//! `CUTWATER_STAND_IN=valkey` all of them run against Valkey, which tests the tests.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod archive;
mod cancel;
mod clients;
mod commands;
mod damage;
mod deep;
mod delta_commands;
mod deltas;
mod differential;
mod durability;
mod forgeries;
mod idle;
mod keeping;
mod limits;
mod log_bounds;
mod machine;
mod metrics;
mod mistakes;
mod orphans;
mod point_in_time;
mod progress;
mod remote;
mod sealed_log;
mod sealing;
mod snapshot_commands;
mod snapshot_consistency;
mod stops;
mod stores;
mod support;
mod tour;
mod trace;
mod two_servers;
mod uploads;
mod waiting;
mod watching;

use cutwater_bench::s3;
