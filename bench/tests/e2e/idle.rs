//! An idle server costs nothing: a thousand open connections, and under one percent of a CPU.

use std::thread;
use std::time::{Duration, Instant};

use cutwater_bench::client::Client;
use cutwater_bench::server::{self, ServerOptions};
use cutwater_bench::usage;

const CONNECTIONS: usize = 1_000;
const SETTLE: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(5);
/// The most that the server may use of one CPU; a debug build, beside other tests, twice that. The
/// stand-in wakes ten times a second per table.
const CPU_PERCENT_MAX: f64 = if cfg!(debug_assertions) { 2.0 } else { 1.0 };

#[test]
fn idle_connections_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerOptions::new(dir.path().join("data")).start().unwrap();
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| server.client().unwrap()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        assert!(client.call(&["SET".to_owned(), format!("key:{n}"), "v".into()]).unwrap().is_ok());
    }
    // What the writes left to do, such as the last sync, is not idling yet.
    thread::sleep(SETTLE);
    let (began, before) = (Instant::now(), usage::cpu_time(server.pid()).unwrap());
    thread::sleep(WATCHED);
    let used = usage::cpu_time(server.pid()).unwrap() - before;
    let percent = 100.0 * used.as_secs_f64() / began.elapsed().as_secs_f64();
    let threads = usage::threads(server.pid()).unwrap();
    let limit = if server::is_stand_in() { 5.0 } else { CPU_PERCENT_MAX };
    assert!(percent < limit, "{percent:.2} % of a CPU while idle: {threads:#?}");
    // All of them still answer.
    for client in &mut clients {
        assert_eq!(client.call(&["PING"]).unwrap().bytes(), Some(b"PONG".as_slice()));
    }
}
