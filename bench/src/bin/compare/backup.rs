//! Snapshots and restores of a dataset: plain, sealed, sealed and compressed, beside SAVE and the
//! start of the peer; and by how much memory grows meanwhile. The values are hexadecimal digits at
//! random: half of every byte is information.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cutwater_bench::client::PIPELINE_MAX;
use cutwater_bench::peer::{self, PeerOptions};
use cutwater_bench::process::ServerProcess;
use cutwater_bench::reply::Reply;
use cutwater_bench::report::{Row, table};
use cutwater_bench::server::{self, ServerOptions};
use cutwater_bench::usage;

use super::{Load, SNAPSHOT_LIMIT, STORED_KEY_BYTES, STORED_VALUE_BYTES, expect_ok, peer_name};

/// The forms of a snapshot: name, whether it is sealed, and `--compression`.
const FORMS: [(&str, bool, &str); 4] = [
    ("plain", false, "none"),
    ("sealed", true, "none"),
    ("sealed, lz4", true, "lz4"),
    ("sealed, zstd:1", true, "zstd:1"),
];

/// What one form or the peer took.
#[derive(Default)]
struct Measured {
    save_s: Vec<f64>,
    stored_mb: f64,
    grown_mib: Vec<f64>,
    restore_s: Vec<f64>,
    start_s: Vec<f64>,
}

/// A round is: the peer's SAVE and start, then each form's snapshot, restore and start.
pub fn backup(load: &Load) -> io::Result<()> {
    let dir = std::path::absolute(load.dir.join("backup"))?;
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    let key = dir.join("key").display().to_string();
    succeed(&["keygen", "--out", &key])?;
    let shards = thread::available_parallelism().map_or(1, usize::from).min(64) as u16;
    let mut theirs = Measured::default();
    let mut peer = peer::start(&PeerOptions {
        dir: dir.join("valkey"),
        appendfsync: None,
        cluster: false,
        more: Vec::new(),
    })?;
    let name = peer_name(&peer)?;
    fill(&peer, load.keys)?;
    for _ in 0..load.rounds.max(1) {
        measure_peer(&mut peer, &mut theirs)?;
    }
    theirs.stored_mb = folder_bytes(&dir.join("valkey"))? as f64 / 1e6;
    peer.terminate()?;
    let megabytes = load.keys as f64 * (STORED_KEY_BYTES + STORED_VALUE_BYTES) as f64 / 1e6;
    let mut rows = Vec::new();
    for (form, sealed, compression) in FORMS {
        let key_file = format!("test={key}");
        let keys = if sealed { vec!["--key-file", key_file.as_str()] } else { Vec::new() };
        let ours = measure_form(load, &dir.join("cutwater"), shards, (&keys, compression))?;
        rows.extend(lines(form, load.keys as f64, megabytes, &ours, &theirs));
    }
    println!(
        "{} keys of {STORED_KEY_BYTES} bytes with values of {STORED_VALUE_BYTES}, {shards} shards; \
         a snapshot beside SAVE, a restore beside a start:\n\n{}",
        load.keys,
        table(&name, &rows)
    );
    std::fs::remove_dir_all(&dir)
}

fn lines(form: &str, keys: f64, megabytes: f64, ours: &Measured, theirs: &Measured) -> [Row; 7] {
    let row = |what: &str, of: &dyn Fn(&Measured) -> Vec<f64>| {
        let what = format!("{form}: {what}");
        Row { what, ours: of(ours), theirs: of(theirs) }
    };
    let each = |values: &[f64], total: f64| values.iter().map(|s| total / s).collect();
    [
        row("snapshot, MB of keys and values per second", &|it| each(&it.save_s, megabytes)),
        row("snapshot, MB stored", &|it| vec![it.stored_mb]),
        row("snapshot, memory grown by, MiB", &|it| it.grown_mib.clone()),
        row("restore, MB of keys and values per second", &|it| each(&it.restore_s, megabytes)),
        row("restore, million keys per second", &|it| each(&it.restore_s, keys / 1e6)),
        row("restore and start, seconds", &|it| it.start_s.clone()),
        row("restore and start, million keys per second", &|it| each(&it.start_s, keys / 1e6)),
    ]
}

fn measure_peer(peer: &mut ServerProcess, measured: &mut Measured) -> io::Result<()> {
    let (seconds, grown) = saved(peer, || {
        let mut client = peer.client()?;
        client.set_timeout(SNAPSHOT_LIMIT)?;
        expect_ok(&mut client, &["SAVE"])
    })?;
    measured.save_s.push(seconds);
    measured.grown_mib.push(grown);
    peer.kill9()?;
    let began = Instant::now();
    peer.restart()?;
    let seconds = began.elapsed().as_secs_f64();
    measured.restore_s.push(seconds);
    measured.start_s.push(seconds);
    Ok(())
}

fn measure_form(
    load: &Load,
    dir: &Path,
    shards: u16,
    (keys, compression): (&[&str], &str),
) -> io::Result<Measured> {
    let mut measured = Measured::default();
    let data = dir.join("data");
    let mut options = ServerOptions::new(&data);
    options.shards = shards;
    options.fsync = Some("everysec");
    // None but those that are measured.
    options.checkpoint_log_bytes = Some(1 << 40);
    options.more = ["--compression", compression].map(str::to_owned).to_vec();
    options.more.extend(keys.iter().map(|&word| word.to_owned()));
    let mut server = options.start()?;
    fill(&server, load.keys)?;
    let store = format!("file://{}", data.join("store").display());
    let mut snapshot = 0;
    for _ in 0..load.rounds.max(1) {
        let (seconds, grown) = saved(&server, || {
            snapshot = server::create_snapshot(&server)?;
            Ok(())
        })?;
        measured.save_s.push(seconds);
        measured.grown_mib.push(grown);
        wait_read_back(&server)?;
    }
    let name = format!("snap-{snapshot:06}-");
    for entry in std::fs::read_dir(data.join("store/snapshots"))? {
        let path = entry?.path();
        if path.to_string_lossy().contains(&name) {
            measured.stored_mb = folder_bytes(&path)? as f64 / 1e6;
        }
    }
    server.kill9()?;
    let (id, count) = (snapshot.to_string(), shards.to_string());
    for round in 0..load.rounds.max(1) {
        let into = dir.join(format!("restored-{round}"));
        let folder = into.display().to_string();
        let mut command = vec!["restore", "--store", &store, "--snapshot", &id, "--into", &folder];
        command.extend(["--shards", &count]);
        command.extend(keys);
        let began = Instant::now();
        succeed(&command)?;
        measured.restore_s.push(began.elapsed().as_secs_f64());
        let mut served = ServerOptions { dir: into.clone(), ..options.clone() }.start()?;
        measured.start_s.push(began.elapsed().as_secs_f64());
        let found = served.client()?.call(&["DBSIZE"])?.integer();
        if found != Some(load.keys as i64) {
            return Err(io::Error::other(format!("{found:?} keys are restored")));
        }
        served.kill9()?;
        std::fs::remove_dir_all(&into)?;
    }
    std::fs::remove_dir_all(dir)?;
    Ok(measured)
}

/// Waits until the server has read its new snapshots back, which nobody who asks for one waits for,
/// and which would be measured with the next.
fn wait_read_back(server: &ServerProcess) -> io::Result<()> {
    let mut client = server.client()?;
    let began = Instant::now();
    while began.elapsed() < SNAPSHOT_LIMIT {
        let status = client.call(&["SNAPSHOT", "STATUS"])?;
        if server::field(&status, "reading_back").and_then(Reply::integer) == Some(0) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(io::Error::other("the snapshot is not read back"))
}

/// How long it took, in seconds, and by how much the server's memory grew meanwhile, in MiB.
fn saved(server: &ServerProcess, save: impl FnOnce() -> io::Result<()>) -> io::Result<(f64, f64)> {
    let before = usage::resident_bytes(server.pid())?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let highest = scope.spawn(|| -> io::Result<u64> {
            let mut highest = before;
            while !over.load(Ordering::Relaxed) {
                highest = highest.max(usage::resident_bytes(server.pid())?);
                thread::sleep(Duration::from_millis(5));
            }
            Ok(highest)
        });
        let began = Instant::now();
        let outcome = save();
        let seconds = began.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        let highest = highest.join().map_err(|_| io::Error::other("a thread panicked"))??;
        outcome?;
        Ok((seconds, (highest - before) as f64 / f64::from(1 << 20)))
    })
}

/// Keys as in the dataset part, with values that do not repeat themselves.
fn fill(server: &ServerProcess, keys: u64) -> io::Result<()> {
    let mut client = server.client()?;
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let numbers: Vec<u64> = (0..keys).collect();
    for run in numbers.chunks(PIPELINE_MAX) {
        for n in run {
            let mut value = String::with_capacity(STORED_VALUE_BYTES + 16);
            while value.len() < STORED_VALUE_BYTES {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                value.push_str(&format!("{random:016x}"));
            }
            value.truncate(STORED_VALUE_BYTES);
            client.queue(&["SET", &format!("key:{n:012}"), &value]);
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

fn succeed(arguments: &[&str]) -> io::Result<()> {
    let output = server::subcommand(arguments)?;
    if output.status.success() {
        return Ok(());
    }
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{arguments:?} ended with {}: {printed}", output.status)))
}

/// Bytes of the files in a folder, however deep.
fn folder_bytes(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { folder_bytes(&entry.path())? } else { meta.len() };
    }
    Ok(bytes)
}
