//! The sealed log on the real binary: a data directory and a remote store that show nothing of what
//! was written, a start without the key or with another one, going over from a plain directory, and
//! going over to another key.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use cutwater_bench::process::ServerProcess;
use cutwater_bench::server::{self, ServerOptions};

use crate::remote::create;
use crate::support::{assert_filled, fill, refused, size, start_error};

const KEYS: usize = 500;
/// In every key and value; encrypted bytes do not repeat it by chance.
const NEEDLE: &str = "plaintext-needle";
/// How long the server may take to do by itself what a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder for a data directory, its remote store and keys.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("remote")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn url(&self) -> String {
        format!("file://{}", self.path("remote").display())
    }

    /// A new key in a file of this name; the flag's value under an id.
    fn key(&self, id: &str, file: &str) -> String {
        let path = self.path(file).display().to_string();
        let output = server::subcommand(&["keygen", "--out", &path]).unwrap();
        assert!(output.status.success(), "{output:?}");
        format!("{id}={path}")
    }

    /// How to serve the data directory with these keys.
    fn options(&self, keys: &[&str]) -> ServerOptions {
        let mut options = ServerOptions::new(self.path("data"));
        let keys = keys.iter().flat_map(|key| ["--key-file", key]);
        options.more = keys.map(str::to_owned).collect();
        options
    }

    /// With which error, and exit code 1, a start with these arguments is refused; it must not have
    /// changed anything.
    fn refused(&self, more: &[&str]) -> String {
        let before = files_below(&self.path("data"));
        let data = self.path("data").display().to_string();
        let arguments = [&["serve", "--data-dir", &data, "--port", "0"], more].concat();
        let error = refused(&arguments, 1);
        let after = files_below(&self.path("data"));
        let paths = before.keys().chain(after.keys());
        let changed: Vec<_> = paths.filter(|path| before.get(*path) != after.get(*path)).collect();
        assert!(changed.is_empty(), "a refused start has changed {changed:?}");
        error
    }
}

/// All files below a folder with what they hold. The lock holds who had it last.
fn files_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() != "LOCK" {
                let bytes = fs::read(&path).unwrap();
                files.insert(path, bytes);
            }
        }
    }
    files
}

/// The files below a folder that show what was written.
fn showing(folder: &Path) -> Vec<PathBuf> {
    let shows =
        |bytes: &Vec<u8>| bytes.windows(NEEDLE.len()).any(|window| window == NEEDLE.as_bytes());
    files_below(folder)
        .into_iter()
        .filter(|(_, bytes)| shows(bytes))
        .map(|(path, _)| path)
        .collect()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn prefix(n: u32) -> String {
    format!("{NEEDLE}-{n}")
}

fn fill_all(server: &ServerProcess, n: u32) {
    let mut client = server.client().unwrap();
    fill(&mut client, &prefix(n), KEYS);
    // One record over several frames.
    let value = NEEDLE.repeat(200_000);
    assert!(client.call(&["SET", &format!("{NEEDLE}-large-{n}"), &value]).unwrap().is_ok());
}

fn assert_all(server: &ServerProcess, fills: u32) {
    let mut client = server.client().unwrap();
    for n in 1..=fills {
        assert_filled(&mut client, &prefix(n), KEYS);
        let value = client.call(&["GET", &format!("{NEEDLE}-large-{n}")]).unwrap();
        assert!(value.bytes().is_some_and(|bytes| bytes == NEEDLE.repeat(200_000).as_bytes()));
    }
    assert_eq!(size(&mut client), i64::from(fills) * (KEYS as i64 + 1));
}

/// Whether files of a start's log are there, its record included.
fn has_start(place: &Place, start: u32) -> bool {
    let prefix = format!("{start:06}");
    let names = fs::read_dir(place.path("data/log")).unwrap();
    names
        .map(|entry| entry.unwrap().file_name())
        .any(|name| name.to_string_lossy().starts_with(&prefix))
}

#[test]
fn a_sealed_database_shows_nothing_and_comes_back_with_its_key_only() {
    if server::is_stand_in() {
        return;
    }
    let place = Place::new();
    let (key, other) = (place.key("mine", "key"), place.key("mine", "other"));
    let mut options = place.options(&[&key]);
    let url = place.url();
    options
        .more
        .extend(["--snapshot-store", &url, "--archive-interval", "200ms"].map(String::from));
    let mut server = options.start().unwrap();
    fill_all(&server, 1);
    let log_only = files_below(&place.path("data/log"));
    create(&server);
    fill_all(&server, 2);
    let archived = || {
        let wal = place.path("remote/wal");
        let snapshots = place.path("remote/snapshots");
        let count = |folder: &Path| fs::read_dir(folder).map_or(0, Iterator::count);
        count(&wal) > 0 && count(&snapshots) > 0
    };
    wait_until("nothing is archived", archived);
    fill_all(&server, 3);
    server.kill9().unwrap();
    assert!(log_only.len() >= 3, "{:?}", log_only.keys());
    assert_eq!(showing(&place.path("data")), [] as [PathBuf; 0]);
    assert_eq!(showing(&place.path("remote")), [] as [PathBuf; 0]);

    // No key, another one under its name, and another name.
    let error = place.refused(&[]);
    assert!(error.contains("sealed under the key mine, which is not configured"), "{error}");
    assert!(error.contains("\n  Give that key with --key-file ID=PATH"), "{error}");
    let error = place.refused(&["--key-file", &other]);
    assert!(error.contains("another key of that id"), "{error}");
    let renamed = key.replacen("mine=", "yours=", 1);
    let error = place.refused(&["--key-file", &renamed]);
    assert!(error.contains("sealed under the key mine, which is not configured"), "{error}");

    server.restart().unwrap();
    assert_all(&server, 3);
    server.terminate().unwrap();
    for shards in [1, 3] {
        let mut options = place.options(&[&key]);
        options.shards = shards;
        let mut server = options.start().unwrap();
        assert_all(&server, 3);
        server.kill9().unwrap();
    }

    // Restored into a new directory, which is sealed from its first byte on.
    let into = place.path("restored").display().to_string();
    let restore = ["restore", "--store", &url, "--latest", "--into", &into, "--key-file", &key];
    let output = server::subcommand(&restore).unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut options = ServerOptions::new(place.path("restored"));
    let error = start_error(options.start());
    assert!(error.contains("sealed under the key mine, and no key is configured"), "{error}");
    options.more = vec!["--key-file".to_owned(), key];
    let mut server = options.start().unwrap();
    fill_all(&server, 4);
    assert_all(&server, 4);
    server.kill9().unwrap();
    assert_eq!(showing(&place.path("restored")), [] as [PathBuf; 0]);
}

/// Without any snapshot only the log can refuse.
#[test]
fn a_log_alone_is_refused_without_its_key() {
    if server::is_stand_in() {
        return;
    }
    let place = Place::new();
    let (key, other) = (place.key("mine", "key"), place.key("mine", "other"));
    let mut server = place.options(&[&key]).start().unwrap();
    fill_all(&server, 1);
    server.kill9().unwrap();
    let record = place.path("data/log/000001.start").display().to_string();
    let expected = format!(
        "error: {record}: it is sealed under the key mine, which is not configured\n  Give that \
         key with --key-file ID=PATH or CUTWATER_KEYS; older keys may follow the active one.\n"
    );
    assert_eq!(place.refused(&[]), expected);
    let error = place.refused(&["--key-file", &other]);
    assert!(error.starts_with(&format!("error: {record}: the key mine does not open")), "{error}");
    assert!(error.contains("--key-file ID=PATH"), "{error}");
    // Accepting plain data opens nothing that is sealed.
    let error = place.refused(&["--key-file", &other, "--accept-plain"]);
    assert!(error.contains("the key mine does not open"), "{error}");
    server.restart().unwrap();
    assert_all(&server, 1);
}

#[test]
fn sealing_begins_with_accept_plain_and_needs_it_until_the_plain_log_is_recycled() {
    if server::is_stand_in() {
        return;
    }
    let place = Place::new();
    let key = place.key("mine", "key");
    let mut plain = place.options(&[]).start().unwrap();
    fill_all(&plain, 1);
    plain.kill9().unwrap();
    assert!(!showing(&place.path("data/log")).is_empty(), "the needle is not looked for rightly");

    let error = place.refused(&["--key-file", &key]);
    let record = place.path("data/log/000001.start").display().to_string();
    assert!(error.contains(&format!("{record}: it is not sealed, although keys are")), "{error}");
    assert!(error.contains("--accept-plain"), "{error}");

    let mut accepting = place.options(&[&key]);
    accepting.more.push("--accept-plain".to_owned());
    let mut server = accepting.start().unwrap();
    assert_all(&server, 1);
    fill_all(&server, 2);
    server.kill9().unwrap();
    let error = place.refused(&["--key-file", &key]);
    assert!(error.contains(&record) && error.contains("--accept-plain"), "{error}");

    let mut server = accepting.start().unwrap();
    assert_all(&server, 2);
    create(&server);
    fill_all(&server, 3);
    create(&server);
    wait_until("the plain log stays", || !has_start(&place, 1));
    server.terminate().unwrap();
    assert_eq!(showing(&place.path("data")), [] as [PathBuf; 0]);
    let mut server = place.options(&[&key]).start().unwrap();
    assert_all(&server, 3);
    server.terminate().unwrap();
}

#[test]
fn a_key_is_retired_after_two_snapshots_under_the_next() {
    if server::is_stand_in() {
        return;
    }
    let place = Place::new();
    let (old, new) = (place.key("old", "old"), place.key("new", "new"));
    let mut server = place.options(&[&old]).start().unwrap();
    fill_all(&server, 1);
    create(&server);
    server.terminate().unwrap();

    let mut server = place.options(&[&new, &old]).start().unwrap();
    assert_all(&server, 1);
    fill_all(&server, 2);
    create(&server);
    server.terminate().unwrap();
    // Too early: the older checkpoint needs log of the old key.
    let error = place.refused(&["--key-file", &new]);
    assert!(error.contains("log/000001.start: it is sealed under the key old"), "{error}");
    assert!(error.contains("--key-file ID=PATH"), "{error}");

    let mut server = place.options(&[&new, &old]).start().unwrap();
    create(&server);
    fill_all(&server, 3);
    create(&server);
    wait_until("the old log stays", || !has_start(&place, 1));
    server.terminate().unwrap();
    let store = format!("file://{}", place.path("data/store").display());
    let rekey = ["snapshot", "rekey", "--all", "--store", &store];
    let output =
        server::subcommand(&[&rekey[..], &["--key-file", &new, "--key-file", &old]].concat());
    assert!(output.as_ref().unwrap().status.success(), "{output:?}");
    let mut server = place.options(&[&new]).start().unwrap();
    assert_all(&server, 3);
    server.terminate().unwrap();
}
