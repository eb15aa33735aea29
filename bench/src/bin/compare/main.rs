//! Cutwater and Valkey side by side on this machine: CPU time and throughput in memory, durable
//! writes, memory per key, snapshots and restarts. Prints Markdown tables.
//!
//! ```text
//! cargo run --release -p cutwater-bench --bin compare -- all
//! cargo run --release -p cutwater-bench --bin compare -- dataset --keys 10000000
//! ```
//!
//! Both servers run at once and are measured in turns (A B A B), so that what else the machine does
//! meets both. The load is that of `redis-benchmark`; the CPU time is the *server's*, from `/proc`.
//! Everything is bounded in time, and both servers end with this program.

#![expect(clippy::print_stdout, reason = "the tables are this program's output")]

mod archive;
mod backup;
mod latency;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use cutwater_bench::client::{Client, PIPELINE_MAX};
use cutwater_bench::peer::{self, PeerOptions};
use cutwater_bench::process::ServerProcess;
use cutwater_bench::report::{Row, table};
use cutwater_bench::server::{self, ServerOptions};
use cutwater_bench::{idle, tools, usage};

/// How long one run of `redis-benchmark` may take.
const RUN_LIMIT: Duration = Duration::from_secs(180);
/// How long a SAVE, or a snapshot, may take.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(600);
/// Value bytes of the throughput parts, as in the measurements of the design.
const VALUE_BYTES: usize = 64;
/// Key and value bytes of the memory part.
const STORED_KEY_BYTES: usize = 16;
const STORED_VALUE_BYTES: usize = 100;
/// Of the idle part.
const IDLE_CONNECTIONS: usize = 1_000;
const IDLE_WATCHED: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(about = "Measures Cutwater beside Valkey and prints Markdown tables")]
struct Cli {
    #[command(subcommand)]
    part: Part,
    #[command(flatten)]
    load: Load,
}

#[derive(Subcommand)]
enum Part {
    /// GET and SET in memory: server CPU per operation and operations per second.
    Memory,
    /// SETs per second when each is on disk before its reply.
    Durable,
    /// Bytes per key, a snapshot, and a restart.
    Dataset,
    /// How long requests at a fixed rate wait, with and without a snapshot under way.
    Latency,
    /// SETs per second and server CPU with and without a continuous archive; not part of `all`.
    Archive,
    /// Snapshots plain, sealed and compressed, restores, and memory meanwhile; not part of `all`.
    Backup,
    /// CPU of a server with 1,000 connections that do nothing for a minute; not part of `all`.
    Idle,
    /// The first four.
    All,
}

#[derive(Args, Clone)]
struct Load {
    /// Rounds of each measurement; the median counts.
    #[arg(long, global = true, default_value_t = 3)]
    rounds: usize,
    /// Connections.
    #[arg(long, global = true, default_value_t = 50)]
    clients: usize,
    /// Requests of one run without pipelining; ten times as many with 16 in a pipeline.
    #[arg(long, global = true, default_value_t = 200_000)]
    requests: u64,
    /// Keys of the dataset part.
    #[arg(long, global = true, default_value_t = 1_000_000)]
    keys: u64,
    /// Requests per second of the latency part.
    #[arg(long, global = true, default_value_t = 20_000)]
    rate: u32,
    /// For at least how many seconds each line of the latency and the archive part is measured.
    #[arg(long, global = true, default_value_t = 10)]
    seconds: u64,
    /// Further arguments of the `cutwater` command line, divided by blanks.
    #[arg(long, global = true, default_value = "")]
    cutwater_args: String,
    /// Where the servers keep their data: on the disk to be measured.
    #[arg(long, global = true, default_value = "target/compare")]
    dir: PathBuf,
}

/// What one run of `redis-benchmark` measured.
struct Run {
    operations_per_s: f64,
    server_cpu_us_per_operation: f64,
}

/// Both servers of one part.
struct Pair {
    ours: ServerProcess,
    theirs: ServerProcess,
}

impl Pair {
    fn start(
        name: &str,
        load: &Load,
        fsync: Option<&'static str>,
        peer_fsync: Option<&'static str>,
    ) -> io::Result<Self> {
        let dir = std::path::absolute(load.dir.join(name))?;
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        let mut options = ServerOptions::new(dir.join("cutwater"));
        options.shards = 1;
        options.fsync = fsync;
        options.more = load.cutwater_args.split_whitespace().map(str::to_owned).collect();
        let peer = PeerOptions {
            dir: dir.join("valkey"),
            appendfsync: peer_fsync,
            cluster: false,
            more: Vec::new(),
        };
        Ok(Self { ours: options.start()?, theirs: peer::start(&peer)? })
    }

    /// Runs a measurement on one and the other, as often as there are rounds.
    fn alternate(
        &mut self,
        rounds: usize,
        mut measure: impl FnMut(&mut ServerProcess, bool) -> io::Result<()>,
    ) -> io::Result<()> {
        for _ in 0..rounds.max(1) {
            measure(&mut self.ours, true)?;
            measure(&mut self.theirs, false)?;
        }
        Ok(())
    }

    fn stop(mut self, dir: &Path) -> io::Result<()> {
        self.ours.terminate()?;
        self.theirs.terminate()?;
        std::fs::remove_dir_all(dir)
    }
}

fn main() -> io::Result<()> {
    let Cli { part, load } = Cli::parse();
    if server::is_stand_in() {
        println!("Valkey stands in for Cutwater: this measures the measurement.");
    }
    match part {
        Part::Memory => memory(&load),
        Part::Durable => durable(&load),
        Part::Dataset => dataset(&load),
        Part::Latency => latency::latency(&load),
        Part::Archive => archive::archive(&load),
        Part::Backup => backup::backup(&load),
        Part::Idle => idle(&load),
        Part::All => {
            memory(&load)?;
            durable(&load)?;
            dataset(&load)?;
            latency::latency(&load)
        }
    }
}

/// Two shards that sync always, on their own.
fn idle(load: &Load) -> io::Result<()> {
    let dir = std::path::absolute(load.dir.join("idle"))?;
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let mut server = ServerOptions::new(dir.join("cutwater")).start()?;
    let idle = idle::watch(&server, IDLE_CONNECTIONS, IDLE_WATCHED)?;
    println!(
        "{IDLE_CONNECTIONS} connections, idle for {} s: {:.3} % of a CPU (target: under 1 %).",
        IDLE_WATCHED.as_secs(),
        idle.cpu_percent
    );
    server.terminate()?;
    std::fs::remove_dir_all(&dir)
}

/// `--shards 1 --no-log` beside `--save '' --appendonly no --io-threads 1`.
fn memory(load: &Load) -> io::Result<()> {
    let mut pair = Pair::start("memory", load, None, None)?;
    let peer = peer_name(&pair.theirs)?;
    let mut rows = Vec::new();
    // Fills the keys, so that GET finds them, and warms both up.
    pair.alternate(1, |server, _| benchmark(server, load, "set", 16).map(drop))?;
    for pipeline in [1, 16] {
        for test in ["get", "set"] {
            let name = format!("{}, {}", test.to_uppercase(), pipeline_name(pipeline));
            let mut cpu = Row::new(format!("{name}: server CPU, us per operation"));
            let mut speed = Row::new(format!("{name}: operations per second"));
            pair.alternate(load.rounds, |server, is_ours| {
                let run = benchmark(server, load, test, pipeline)?;
                note(&mut cpu, is_ours, run.server_cpu_us_per_operation);
                note(&mut speed, is_ours, run.operations_per_s);
                Ok(())
            })?;
            rows.extend([cpu, speed]);
        }
    }
    println!("In memory, one shard, {} connections:\n\n{}", load.clients, table(&peer, &rows));
    pair.stop(&load.dir.join("memory"))
}

/// `--shards 1 --fsync always` beside `--appendonly yes --appendfsync always`.
fn durable(load: &Load) -> io::Result<()> {
    let mut pair = Pair::start("durable", load, Some("always"), Some("always"))?;
    let peer = peer_name(&pair.theirs)?;
    let mut rows = Vec::new();
    for pipeline in [1, 16] {
        let name = format!("SET, {}", pipeline_name(pipeline));
        let mut speed = Row::new(format!("{name}: operations per second"));
        let mut cpu = Row::new(format!("{name}: server CPU, us per operation"));
        pair.alternate(load.rounds, |server, is_ours| {
            let run = benchmark(server, load, "set", pipeline)?;
            note(&mut speed, is_ours, run.operations_per_s);
            note(&mut cpu, is_ours, run.server_cpu_us_per_operation);
            Ok(())
        })?;
        rows.extend([speed, cpu]);
    }
    println!("On disk before the reply, {} connections:\n\n{}", load.clients, table(&peer, &rows));
    pair.stop(&load.dir.join("durable"))
}

/// Memory per key, a snapshot beside SAVE, and a restart that loads it. Cutwater keeps its log
/// meanwhile; the peer keeps none.
fn dataset(load: &Load) -> io::Result<()> {
    let mut pair = Pair::start("dataset", load, Some("everysec"), None)?;
    let peer = peer_name(&pair.theirs)?;
    let megabytes = (load.keys as f64) * (STORED_KEY_BYTES + STORED_VALUE_BYTES) as f64 / 1e6;
    let mut overhead = Row::new("memory over key and value, bytes per key");
    pair.alternate(1, |server, is_ours| {
        let empty_bytes = usage::resident_bytes(server.pid())?;
        fill(server, load.keys)?;
        let grown_bytes = usage::resident_bytes(server.pid())?.saturating_sub(empty_bytes) as f64;
        let per_key = grown_bytes / load.keys as f64;
        note(&mut overhead, is_ours, per_key - (STORED_KEY_BYTES + STORED_VALUE_BYTES) as f64);
        Ok(())
    })?;

    let mut snapshot = Row::new("snapshot (SAVE), seconds");
    let mut snapshot_speed = Row::new("snapshot (SAVE), MB of keys and values per second");
    pair.alternate(load.rounds, |server, is_ours| {
        let began = Instant::now();
        if is_ours {
            server::create_snapshot(server)?;
        } else {
            let mut client = server.client()?;
            client.set_timeout(SNAPSHOT_LIMIT)?;
            expect_ok(&mut client, &["SAVE"])?;
        }
        let seconds = began.elapsed().as_secs_f64();
        note(&mut snapshot, is_ours, seconds);
        note(&mut snapshot_speed, is_ours, megabytes / seconds);
        Ok(())
    })?;

    let mut restart = Row::new("restart after a crash until it serves, seconds");
    let mut restart_speed = Row::new("restart, MB of keys and values per second");
    pair.alternate(load.rounds, |server, is_ours| {
        server.kill9()?;
        let began = Instant::now();
        server.restart()?;
        let seconds = began.elapsed().as_secs_f64();
        note(&mut restart, is_ours, seconds);
        note(&mut restart_speed, is_ours, megabytes / seconds);
        let found = server.client()?.call(&["DBSIZE"])?.integer();
        if found == Some(load.keys as i64) {
            return Ok(());
        }
        Err(io::Error::other(format!("{found:?} keys after the restart, not {}", load.keys)))
    })?;
    let rows = [overhead, snapshot, snapshot_speed, restart, restart_speed];
    println!(
        "{} keys of {STORED_KEY_BYTES} bytes with values of {STORED_VALUE_BYTES}:\n\n{}",
        load.keys,
        table(&peer, &rows)
    );
    pair.stop(&load.dir.join("dataset"))
}

/// One run of `redis-benchmark`, and what it cost the server.
fn benchmark(server: &ServerProcess, load: &Load, test: &str, pipeline: u64) -> io::Result<Run> {
    let requests = load.requests * if pipeline > 1 { 10 } else { 1 };
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", "127.0.0.1", "-p", &server.address().port().to_string()]);
    command.args(["-t", test, "-r", "100000", "--csv"]);
    command.args(["-c", &load.clients.to_string(), "-n", &requests.to_string()]);
    command.args(["-d", &VALUE_BYTES.to_string(), "-P", &pipeline.to_string()]);
    let before = usage::cpu_time(server.pid())?;
    let output = tools::run(&mut command, RUN_LIMIT)?;
    let used = usage::cpu_time(server.pid())?.saturating_sub(before);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let operations_per_s = parse_csv(&printed, test)
        .ok_or_else(|| io::Error::other(format!("redis-benchmark {}: {printed}", output.status)))?;
    Ok(Run {
        operations_per_s,
        server_cpu_us_per_operation: used.as_secs_f64() * 1e6 / requests as f64,
    })
}

/// The second column of the line of a test: `"SET","123456.78",...`.
fn parse_csv(printed: &str, test: &str) -> Option<f64> {
    let mark = format!("\"{}\",", test.to_uppercase());
    let line = printed.lines().find_map(|line| line.strip_prefix(&mark))?;
    line.split(',').next()?.trim_matches('"').parse().ok()
}

/// Writes the keys of the dataset, in order: a value differs from the next.
fn fill(server: &ServerProcess, keys: u64) -> io::Result<()> {
    let mut client = server.client()?;
    let numbers: Vec<u64> = (0..keys).collect();
    for run in numbers.chunks(PIPELINE_MAX) {
        for n in run {
            let (key, value) = (format!("key:{n:012}"), format!("{n:0100}"));
            debug_assert_eq!((key.len(), value.len()), (STORED_KEY_BYTES, STORED_VALUE_BYTES));
            client.queue(&["SET", &key, &value]);
        }
        client.flush()?;
        for _ in run {
            let reply = client.receive()?;
            if !reply.is_ok() {
                return Err(io::Error::other(format!("SET answered {reply}")));
            }
        }
    }
    Ok(())
}

fn peer_name(server: &ServerProcess) -> io::Result<String> {
    let info = server.client()?.call(&["INFO", "server"])?;
    let info = String::from_utf8_lossy(info.bytes().unwrap_or_default()).into_owned();
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
    Ok(match (field("valkey_version:"), field("redis_version:")) {
        (Some(version), _) => format!("Valkey {version}"),
        (None, version) => format!("Redis {}", version.unwrap_or("of no version")),
    })
}

fn pipeline_name(pipeline: u64) -> String {
    if pipeline == 1 { "no pipeline".to_owned() } else { format!("pipeline {pipeline}") }
}

fn expect_ok(client: &mut Client, command: &[&str]) -> io::Result<()> {
    let reply = client.call(command)?;
    if reply.is_ok() { Ok(()) } else { Err(io::Error::other(format!("{command:?}: {reply}"))) }
}

fn note(row: &mut Row, is_ours: bool, value: f64) {
    if is_ours { row.ours.push(value) } else { row.theirs.push(value) }
}
