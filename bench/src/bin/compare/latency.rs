//! How long requests wait that come at a fixed rate: calm, during snapshots, and during snapshots
//! while a huge value is being changed.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use cutwater_bench::pace::{self, Pace, Waits};
use cutwater_bench::process::ServerProcess;
use cutwater_bench::report::{Row, table};
use cutwater_bench::{server, usage};

use super::{Load, Pair, STORED_VALUE_BYTES, fill, note, peer_name};

/// Bytes of the huge string.
const HUGE_BYTES: u64 = 100_000_000;

/// Requests at a fixed rate: calm, during snapshots (BGSAVE) one after the other, and during
/// snapshots while one string of 100 MB is being changed.
pub fn latency(load: &Load) -> io::Result<()> {
    let mut pair = Pair::start("latency", load, Some("everysec"), None)?;
    let peer = peer_name(&pair.theirs)?;
    pair.alternate(1, |server, _| fill(server, load.keys))?;
    let mut rows = Vec::new();
    for situation in [Situation::Calm, Situation::Snapshots, Situation::HugeValue] {
        let name = situation.name();
        let [mut p50, mut p99, mut p999, mut longest] = ["p50", "p99", "p99.9", "longest"]
            .map(|figure| Row::new(format!("{name}: {figure}, ms")));
        let mut grown = Row::new(format!("{name}: memory grown by, MiB"));
        pair.alternate(load.rounds, |server, is_ours| {
            let (waits, grown_bytes) = paced(server, load, situation, is_ours)?;
            let ms = |wait: Duration| wait.as_secs_f64() * 1e3;
            note(&mut p50, is_ours, ms(waits.quantile(0.5)));
            note(&mut p99, is_ours, ms(waits.quantile(0.99)));
            note(&mut p999, is_ours, ms(waits.quantile(0.999)));
            note(&mut longest, is_ours, ms(waits.longest()));
            note(&mut grown, is_ours, grown_bytes as f64 / f64::from(1 << 20));
            Ok(())
        })?;
        rows.extend([p50, p99, p999, longest, grown]);
    }
    println!(
        "{} requests per second (half GET, half SET) of {} keys, {} connections:\n\n{}",
        load.rate,
        load.keys,
        load.clients,
        table(&peer, &rows)
    );
    pair.stop(&load.dir.join("latency"))
}

/// What else goes on while requests come at their pace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Situation {
    Calm,
    Snapshots,
    HugeValue,
}

impl Situation {
    fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Snapshots => "snapshots",
            Self::HugeValue => "snapshots, 100 MB string changed",
        }
    }
}

/// One run at the pace, and by how much the server's memory grew at most; that of a child that it
/// forks is not counted.
fn paced(
    server: &ServerProcess,
    load: &Load,
    situation: Situation,
    is_ours: bool,
) -> io::Result<(Waits, u64)> {
    let pace = Pace {
        requests_per_s: load.rate,
        connections: load.clients,
        keys: load.keys,
        value_bytes: STORED_VALUE_BYTES,
        seed: 0x9E37_79B9_7F4A_7C15,
    };
    let over = AtomicBool::new(false);
    let is_over = || over.load(Ordering::Relaxed);
    let least = Duration::from_secs(load.seconds);
    let before = usage::resident_bytes(server.pid())?;
    if situation == Situation::HugeValue {
        let mut client = server.client()?;
        client.call(&["SETRANGE", "huge", &(HUGE_BYTES - 1).to_string(), "x"])?;
    }
    thread::scope(|scope| {
        let snapshots = scope.spawn(|| match situation {
            Situation::Calm => Ok(()),
            _ => snapshots_until(server, is_ours, is_over),
        });
        let changes = scope.spawn(|| match situation {
            Situation::HugeValue => change_huge_until(server, is_over),
            _ => Ok(()),
        });
        let highest = scope.spawn(|| highest_memory_until(server, is_over));
        let waits = pace::run(server.address(), &pace, |elapsed| elapsed < least);
        over.store(true, Ordering::Relaxed);
        let panicked = |_| io::Error::other("a thread panicked");
        snapshots.join().map_err(panicked)??;
        changes.join().map_err(panicked)??;
        let highest_bytes = highest.join().map_err(panicked)??;
        Ok((waits?, highest_bytes.saturating_sub(before)))
    })
}

/// One snapshot after the other.
fn snapshots_until(
    server: &ServerProcess,
    is_ours: bool,
    is_over: impl Fn() -> bool,
) -> io::Result<()> {
    let mut client = server.client()?;
    while !is_over() {
        if is_ours {
            server::create_snapshot(server)?;
            continue;
        }
        client.call(&["BGSAVE"])?;
        loop {
            thread::sleep(Duration::from_millis(20));
            let info = client.call(&["INFO", "persistence"])?;
            let info = String::from_utf8_lossy(info.bytes().unwrap_or_default()).into_owned();
            if info.contains("rdb_bgsave_in_progress:0") {
                break;
            }
        }
    }
    Ok(())
}

/// Changes 100 bytes of the huge string a thousand times a second, here and there.
fn change_huge_until(server: &ServerProcess, is_over: impl Fn() -> bool) -> io::Result<()> {
    let mut client = server.client()?;
    let patch = "y".repeat(100);
    for n in 0u64.. {
        if is_over() {
            break;
        }
        let offset = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (HUGE_BYTES - 100);
        client.call(&["SETRANGE", "huge", &offset.to_string(), &patch])?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn highest_memory_until(server: &ServerProcess, is_over: impl Fn() -> bool) -> io::Result<u64> {
    let mut highest = 0;
    while !is_over() {
        highest = highest.max(usage::resident_bytes(server.pid())?);
        thread::sleep(Duration::from_millis(10));
    }
    Ok(highest)
}
