//! An idle server costs nothing: a thousand open connections, and under one percent of a CPU.

use std::time::Duration;

use cutwater_bench::idle::{self, Idle};
use cutwater_bench::server::{self, ServerOptions};

const CONNECTIONS: usize = 1_000;
const WATCHED: Duration = Duration::from_secs(60);
/// The most that the server may use of one CPU.
const CPU_PERCENT_MAX: f64 = 1.0;

#[test]
fn idle_connections_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerOptions::new(dir.path().join("data")).start().unwrap();
    let Idle { cpu_percent, threads } = idle::watch(&server, CONNECTIONS, WATCHED).unwrap();
    // The stand-in wakes ten times a second per table.
    let limit = if server::is_stand_in() { 5.0 } else { CPU_PERCENT_MAX };
    assert!(cpu_percent < limit, "{cpu_percent:.2} % of a CPU while idle: {threads:#?}");
}
