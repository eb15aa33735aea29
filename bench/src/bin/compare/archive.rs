//! What the continuous archive costs: the same SETs, on disk before their replies, on a server that
//! archives to a folder at the default interval and on one that does not.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use cutwater_bench::process::ServerProcess;
use cutwater_bench::report::{Row, median, table};
use cutwater_bench::server::{self, ServerOptions};
use cutwater_bench::usage;

use super::{Load, Pair, benchmark, note, pipeline_name};

/// How long the archive may take to catch up behind a run.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(120);
/// A run lasts over several intervals of the archive, which is 10 s by default.
const LEAST_SECONDS: u64 = 25;

/// Pairs of runs in turns. The CPU of a run counts until everything that it wrote is archived.
pub fn archive(load: &Load) -> io::Result<()> {
    let dir = std::path::absolute(load.dir.join("archive"))?;
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let start = |name: &str, archives: bool| {
        let mut options = ServerOptions::new(dir.join(name));
        options.shards = 1;
        options.more = load.cutwater_args.split_whitespace().map(str::to_owned).collect();
        if archives {
            let url = format!("file://{}", dir.join("remote").display());
            options.more.extend(["--snapshot-store".to_owned(), url]);
        }
        options.start()
    };
    let mut pair = Pair { ours: start("with", true)?, theirs: start("without", false)? };
    pair.alternate(1, |server, _| benchmark(server, load, "set", 16).map(drop))?;
    let mut rows = Vec::new();
    for pipeline in [1, 16] {
        let name = format!("SET, {}", pipeline_name(pipeline));
        let mut speed = Row::new(format!("{name}: operations per second"));
        let mut cpu = Row::new(format!("{name}: server CPU, us per operation"));
        pair.alternate(load.rounds, |server, archives| {
            let (operations_per_s, cpu_us) = sets(server, load, pipeline, archives)?;
            note(&mut speed, archives, operations_per_s);
            note(&mut cpu, archives, cpu_us);
            Ok(())
        })?;
        rows.extend([speed, cpu]);
    }
    let table = table("without archive", &rows);
    println!("On disk before the reply, {} connections, one shard:\n\n{table}", load.clients);
    for row in rows.iter().step_by(2) {
        let lost_percent = 100.0 * (1.0 - median(&row.ours) / median(&row.theirs));
        println!("{}: {lost_percent:.1} % fewer with the archive", row.what);
    }
    pair.stop(&dir)
}

/// Runs of `redis-benchmark` for long enough: operations per second, and server CPU per operation.
fn sets(
    server: &ServerProcess,
    load: &Load,
    pipeline: u64,
    archives: bool,
) -> io::Result<(f64, f64)> {
    let least = Duration::from_secs(load.seconds.max(LEAST_SECONDS));
    let began = Instant::now();
    let before = usage::cpu_time(server.pid())?;
    let (mut speeds, mut operations) = (Vec::new(), 0);
    while began.elapsed() < least {
        let run = benchmark(server, load, "set", pipeline)?;
        speeds.push(run.operations_per_s);
        operations += load.requests * if pipeline > 1 { 10 } else { 1 };
    }
    if archives {
        catch_up(server)?;
    }
    let used = usage::cpu_time(server.pid())?.saturating_sub(before);
    Ok((median(&speeds), used.as_secs_f64() * 1e6 / operations as f64))
}

/// Waits until nothing waits for the archive but what an idle log makes.
fn catch_up(server: &ServerProcess) -> io::Result<()> {
    const IDLE_BYTES: u64 = 64 << 10;
    let deadline = Instant::now() + CATCH_UP_LIMIT;
    loop {
        let reply = server.client()?.call(&["SNAPSHOT", "STATUS"])?;
        let field = |name: &str| {
            let found = server::field(&reply, name)?;
            String::from_utf8_lossy(found.bytes()?).parse::<u64>().ok()
        };
        if field("archive_backlog_bytes").is_some_and(|bytes| bytes < IDLE_BYTES) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("the archive does not catch up: {reply}")));
        }
        thread::sleep(Duration::from_millis(100));
    }
}
