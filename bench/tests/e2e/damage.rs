//! Damage that a restart meets: of the newest checkpoint, of both, of a manifest, and of the log,
//! at its end and in its middle. Either everything acknowledged is there, or the start is refused
//! with an error that names what is damaged.

use std::fs;
use std::path::{Path, PathBuf};

use cutwater_bench::process::ServerProcess;
use cutwater_bench::server::{self, ServerOptions};

use crate::support::{assert_filled, fill, flip_byte, serve, size, snapshot_folder, start_error};

const KEYS: usize = 2_000;

/// A directory with two checkpoints and log before, between and behind them, with no server.
fn two_checkpoints() -> (tempfile::TempDir, PathBuf, [u64; 2]) {
    let (dir, mut server) = serve(|_| {});
    let data = dir.path().join("data");
    let mut client = server.client().unwrap();
    fill(&mut client, "before", KEYS);
    let older = server::create_snapshot(&server).unwrap();
    fill(&mut client, "between", KEYS);
    let newest = server::create_snapshot(&server).unwrap();
    fill(&mut client, "after", KEYS);
    server.kill9().unwrap();
    (dir, data, [older, newest])
}

fn assert_whole(server: &ServerProcess) {
    let mut client = server.client().unwrap();
    for prefix in ["before", "between", "after"] {
        assert_filled(&mut client, prefix, KEYS);
    }
    assert_eq!(size(&mut client), 3 * KEYS as i64);
}

#[test]
fn another_number_of_shards_reads_checkpoint_and_log() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, data, _) = two_checkpoints();
    for shards in [1, 5, 3] {
        let mut options = ServerOptions::new(&data);
        options.shards = shards;
        let mut server = options.start().unwrap();
        assert_whole(&server);
        server.kill9().unwrap();
    }
}

#[test]
fn a_damaged_newest_checkpoint_leaves_the_older_and_both_damaged_are_an_error() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, data, [older, newest]) = two_checkpoints();
    let object = snapshot_folder(&data, newest).join("core-1.snap");
    flip_byte(&object, fs::metadata(&object).unwrap().len() as usize / 2);
    let mut server = ServerOptions::new(&data).start().unwrap();
    assert_whole(&server);
    let printed = server.output_tail();
    let name = object.strip_prefix(data.join("store")).unwrap().display().to_string();
    assert!(printed.contains(&format!("{name}, offset ")), "{printed}");
    // It does not count as a checkpoint: what the older one needs stays after the next.
    server::create_snapshot(&server).unwrap();
    server.kill9().unwrap();
    let object = snapshot_folder(&data, older).join("core-0.snap");
    assert!(object.exists());

    let (_dir, data, [older, newest]) = two_checkpoints();
    for id in [older, newest] {
        flip_byte(&snapshot_folder(&data, id).join("core-0.snap"), 10_000);
    }
    let error = start_error(ServerOptions::new(&data).start());
    let newest = snapshot_folder(&data, newest);
    let name = newest.file_name().unwrap().to_string_lossy();
    let expected = format!(
        "error: the image {name} cannot be loaded: snapshots/{name}/core-0.snap, offset 0: \
         CRC32C is "
    );
    assert!(error.contains(&expected), "{error}");
    assert!(error.contains("`cutwater restore`"), "{error}");
}

#[test]
fn unreadable_manifests_are_named_and_never_taken_for_an_empty_store() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, data, [older, newest]) = two_checkpoints();
    flip_byte(&snapshot_folder(&data, newest).join("manifest.msgpack"), 60);
    let mut server = ServerOptions::new(&data).start().unwrap();
    assert_whole(&server);
    assert!(server.output_tail().contains("manifest.msgpack: "), "{}", server.output_tail());
    server.kill9().unwrap();
    flip_byte(&snapshot_folder(&data, older).join("manifest.msgpack"), 60);
    let error = start_error(ServerOptions::new(&data).start());
    assert!(error.contains("error: no snapshot of the local store can be read: "), "{error}");
    assert!(error.contains("manifest.msgpack: CRC32C is "), "{error}");
}

/// The one segment of shard 0 of the first start.
fn segment(data: &Path) -> PathBuf {
    data.join("log/000001-000-0000000000.seg")
}

/// One past the last byte of a file that is not zero: the rest of a segment is pre-written.
fn written_bytes(path: &Path) -> usize {
    fs::read(path).unwrap().iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1)
}

#[test]
fn a_flipped_byte_in_the_middle_of_the_log_stops_the_start() {
    if server::is_stand_in() {
        return;
    }
    let (dir, mut server) = serve(|_| {});
    fill(&mut server.client().unwrap(), "key", KEYS);
    server.kill9().unwrap();
    let path = segment(&dir.path().join("data"));
    flip_byte(&path, written_bytes(&path) / 2);
    let error = start_error(ServerOptions::new(dir.path().join("data")).start());
    let named = error.contains(path.file_name().unwrap().to_str().unwrap());
    assert!(named && error.contains("offset "), "{error}");
    // Nothing was changed: undone, the damage leaves no trace.
    flip_byte(&path, written_bytes(&path) / 2);
    server.restart().unwrap();
    assert_filled(&mut server.client().unwrap(), "key", KEYS);
}

#[test]
fn a_torn_end_of_the_log_is_cut_off() {
    if server::is_stand_in() {
        return;
    }
    let (dir, mut server) = serve(|options| options.shards = 1);
    fill(&mut server.client().unwrap(), "key", KEYS);
    server.kill9().unwrap();
    let path = segment(&dir.path().join("data"));
    // As if the last commit had only reached the disk in part; nobody could know that it was
    // acknowledged.
    let end = written_bytes(&path);
    flip_byte(&path, end - 1);
    server.restart().unwrap();
    let keys = size(&mut server.client().unwrap());
    assert!((KEYS as i64 - 200..=KEYS as i64).contains(&keys), "{keys} keys");
    // And what comes after it continues the log.
    fill(&mut server.client().unwrap(), "more", KEYS);
    server.kill9().unwrap();
    server.restart().unwrap();
    let mut client = server.client().unwrap();
    assert_filled(&mut client, "more", KEYS);
    assert_eq!(size(&mut client), keys + KEYS as i64);
}
