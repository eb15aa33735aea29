//! What several of these tests do: fill a server and look whether all of it is there, and damage
//! what a stopped server has written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cutwater_bench::client::Client;
use cutwater_bench::process::ServerProcess;
use cutwater_bench::reply::Reply;
use cutwater_bench::server::{self, ServerOptions};

/// Keys that a command of [`fill`] or [`assert_filled`] names.
const RUN: usize = 100;

/// A server on a data directory of its own, which goes with the guard.
pub fn serve(change: impl FnOnce(&mut ServerOptions)) -> (tempfile::TempDir, ServerProcess) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::new(dir.path().join("data"));
    change(&mut options);
    let server = options.start().unwrap();
    (dir, server)
}

/// Sets `count` keys with this prefix to values that name them.
pub fn fill(client: &mut Client, prefix: &str, count: usize) {
    let numbers: Vec<usize> = (0..count).collect();
    for run in numbers.chunks(RUN) {
        let pairs = run.iter().flat_map(|n| [key(prefix, *n), value(prefix, *n)]);
        let command: Vec<String> = ["MSET".to_owned()].into_iter().chain(pairs).collect();
        assert!(client.call(&command).unwrap().is_ok());
    }
}

/// Checks that all of [`fill`] is there.
pub fn assert_filled(client: &mut Client, prefix: &str, count: usize) {
    let numbers: Vec<usize> = (0..count).collect();
    for run in numbers.chunks(RUN) {
        let keys = run.iter().map(|n| key(prefix, *n));
        let command: Vec<String> = ["MGET".to_owned()].into_iter().chain(keys).collect();
        let Reply::Array(_, values) = client.call(&command).unwrap() else { panic!("no array") };
        for (n, found) in run.iter().zip(values) {
            let expected = value(prefix, *n);
            assert_eq!(found.bytes(), Some(expected.as_bytes()), "{}", key(prefix, *n));
        }
    }
}

fn key(prefix: &str, n: usize) -> String {
    format!("{prefix}:{n}")
}

fn value(prefix: &str, n: usize) -> String {
    format!("value of {prefix}:{n}")
}

/// How many keys there are.
pub fn size(client: &mut Client) -> i64 {
    client.call(&["DBSIZE"]).unwrap().integer().unwrap()
}

/// The folder of a snapshot in the local store.
pub fn snapshot_folder(data: &Path, id: u64) -> PathBuf {
    let prefix = format!("snap-{id:06}-");
    let names = fs::read_dir(data.join("store/snapshots")).unwrap().map(|entry| entry.unwrap());
    let is_it = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&prefix);
    names.map(|entry| entry.path()).find(is_it).unwrap()
}

/// Changes every bit of one byte of a file.
pub fn flip_byte(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 0xFF;
    fs::write(path, bytes).unwrap();
}

/// The error with which a server does not start: all that it printed.
pub fn start_error(server: io::Result<ServerProcess>) -> String {
    match server {
        Ok(_) => panic!("the server has started"),
        Err(error) => error.to_string(),
    }
}

/// Runs the binary, which has to fail with this code; what it printed on standard error.
pub fn refused(arguments: &[&str], code: i32) -> String {
    let output = server::subcommand(arguments).unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {printed}");
    printed
}
