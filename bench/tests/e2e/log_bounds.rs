//! The log does not grow without end: checkpoints let its segments be recycled, so after writing
//! many times `--checkpoint-log` the folder is still small, and everything is still there.

use std::fs;
use std::path::Path;

use cutwater_bench::server::{self, ServerOptions};

/// `--checkpoint-log` of this test.
const CHECKPOINT_LOG_BYTES: u64 = 8 * 1024 * 1024;
/// How much is written, in those.
const TIMES: u64 = 10;
/// How large the log may be at the end, in those. Two checkpoints are kept, the log since the older
/// one with them; and segments are recycled, not deleted.
const BOUND_TIMES: u64 = 6;
const VALUE_BYTES: usize = 4 * 1024;
const KEYS: u64 = 500;
const RUN: usize = 64;

#[test]
fn the_log_folder_stays_bounded() {
    if server::is_stand_in() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut options = ServerOptions::new(&data);
    options.checkpoint_log_bytes = Some(CHECKPOINT_LOG_BYTES);
    let mut server = options.start().unwrap();
    let mut client = server.client().unwrap();
    let writes = TIMES * CHECKPOINT_LOG_BYTES / VALUE_BYTES as u64;
    let numbers: Vec<u64> = (0..writes).collect();
    let mut largest_bytes = 0;
    for run in numbers.chunks(RUN) {
        let commands: Vec<Vec<String>> = run
            .iter()
            .map(|n| vec!["SET".into(), format!("key:{}", n % KEYS), value(*n)])
            .collect();
        assert!(client.pipeline(&commands).unwrap().iter().all(|reply| reply.is_ok()));
        largest_bytes = largest_bytes.max(size_bytes(&server::log_folder(&data)));
    }
    // A checkpoint that is under way when the last write ends may still hold the log before it.
    let bound_bytes =
        BOUND_TIMES * CHECKPOINT_LOG_BYTES + segments_bytes(&server::log_folder(&data));
    assert!(largest_bytes <= bound_bytes, "the log grew to {largest_bytes} of {bound_bytes} bytes");
    server.kill9().unwrap();
    server.restart().unwrap();
    let mut client = server.client().unwrap();
    for key in 0..KEYS {
        let last = (0..writes).rev().find(|n| n % KEYS == key).expect("every key is written");
        let found = client.call(&["GET".to_owned(), format!("key:{key}")]).unwrap();
        assert_eq!(found.bytes(), Some(value(last).as_bytes()), "key:{key}");
    }
}

fn value(number: u64) -> String {
    let mut text = format!("{number:020}");
    text.extend(std::iter::repeat_n('x', VALUE_BYTES - text.len()));
    text
}

/// The disk space of a folder's files, those below it included.
fn size_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries
        // A segment may be renamed or removed between the listing and the reading.
        .filter_map(|entry| entry.ok())
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, meta)| if meta.is_dir() { size_bytes(&path) } else { meta.blocks() * 512 })
        .sum()
}

/// One segment a shard is open, and one stands ready: these do not depend on `--checkpoint-log`.
fn segments_bytes(folder: &Path) -> u64 {
    fn largest(folder: &Path) -> u64 {
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| entry.ok());
        entries
            .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
            .map(|(path, meta)| if meta.is_dir() { largest(&path) } else { meta.len() })
            .max()
            .unwrap_or(0)
    }
    const SHARDS: u64 = 2;
    2 * SHARDS * largest(folder)
}
