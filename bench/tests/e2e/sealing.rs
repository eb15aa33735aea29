//! Sealed snapshots on the real binary: keys and where they come from, what a store without its key
//! gives away, another key, and compression.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cutwater_bench::process::ServerProcess;
use cutwater_bench::server::{self, ServerOptions};
use cutwater_snapshot::manifest::{RawManifest, Record};
use cutwater_snapshot::paths::SnapshotName;

use crate::remote::{
    Remote, create, files_below, is_uploaded, run, status, value, variables, wait_for,
};
use crate::support::{assert_filled, fill};

const KEYS: usize = 300;

/// A new key file.
pub fn key(remote: &Remote, name: &str) -> String {
    let path = remote.path(name);
    let (code, printed, error) = run(&["keygen", "--out", &path], &[]);
    assert_eq!(code, Some(0), "{error}");
    assert!(printed.contains(&path) && printed.contains("--key-file"), "{printed}");
    path
}

/// The text that `CUTWATER_KEYS` wants of a key file.
fn hex(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.trim_end().strip_prefix("cutwater-key-v1 ").unwrap().to_owned()
}

/// Adds `--key-file` flags.
pub fn with_keys(mut options: ServerOptions, files: &[String]) -> ServerOptions {
    for file in files {
        options.more.extend(["--key-file".to_owned(), file.clone()]);
    }
    options
}

/// The folder of a snapshot in the remote store, and its name.
pub fn remote_folder(remote: &Remote, id: u64) -> (PathBuf, SnapshotName) {
    let snapshots = remote.s3.folder().join("some/prefix/snapshots");
    let prefix = format!("snap-{id:06}-lsn");
    let folders = fs::read_dir(snapshots).unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&prefix);
    let folder = folders.into_iter().find(is_it).unwrap();
    let name = SnapshotName::parse(&folder.file_name().unwrap().to_string_lossy()).unwrap();
    (folder, name)
}

/// The manifest that stands in a folder.
pub fn manifest(folder: &Path, name: SnapshotName) -> RawManifest {
    let bytes = fs::read(folder.join("manifest.msgpack")).unwrap();
    match Record::decode(name, &bytes).unwrap() {
        Record::Published(manifest) => manifest.raw().clone(),
        Record::Tombstone(_) => panic!("it is published"),
    }
}

#[test]
fn keygen_makes_a_key_that_only_its_owner_reads_and_never_overwrites_one() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let path = key(&remote, "key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.len(), "cutwater-key-v1 ".len() + 64 + 1);
    let (code, _, error) = run(&["keygen", "--out", &path], &[]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("cannot write the key file") && error.contains("another path"));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    let printed = run(&["keygen"], &[]).1;
    assert!(printed.starts_with("cutwater-key-v1 ") && printed != text, "{printed}");
}

#[test]
fn keys_that_cannot_be_used_are_refused() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let (path, other) = (key(&remote, "key"), key(&remote, "other"));
    let data = remote.path("data");
    let serve = ["serve", "--data-dir", &data, "--port", "0", "--key-file"];
    let store = format!("file://{}", remote.dir.path().display());
    let verify = ["snapshot", "verify", "1", "--store", &store, "--key-file"];
    let file = format!("a={path}");
    let missing = format!("a={path}-missing");
    let twice = format!("a={other}");
    let fails = |more: &[&str], code: i32, what: &str| {
        for command in [&serve[..], &verify[..]] {
            let (found, printed, error) = run(&[command, more].concat(), &[]);
            assert_eq!((found, printed.as_str()), (Some(code), ""), "{error}");
            assert!(error.contains(what), "{error}");
        }
        assert!(!Path::new(&data).exists(), "a directory was made");
    };
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        fails(&[&file], 1, &format!("is open to others: its mode is {mode:04o}"));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fails(&[&missing], 1, "cannot read the key file");
    fails(&[&file, "--key-file", &twice], 1, "a");
    fails(&[&path], 2, "ID=PATH");
    fs::write(&other, "cutwater-key-v1 00\n").unwrap();
    fails(&[&format!("b={other}")], 1, "cutwater keygen");
    let environment = variables(&[("CUTWATER_KEYS", "a=zz")]);
    let (code, _, error) = run(&["serve", "--data-dir", &data], &environment);
    assert!(code == Some(1) && error.contains("variable CUTWATER_KEYS: item 1"), "{error}");
    assert!(!error.contains("zz"), "{error}");
}

#[test]
fn the_first_key_seals_and_keys_come_from_files_or_variables() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let (one, two) = (key(&remote, "one"), key(&remote, "two"));
    let files = [format!("first={one}"), format!("second={two}")];
    let mut server = with_keys(remote.options(), &files).start().unwrap();
    fill(&mut server.client().unwrap(), "key", KEYS);
    let id = create(&server);
    remote.wait_uploaded(&server);
    server.terminate().unwrap();
    let (folder, name) = remote_folder(&remote, id);
    let raw = manifest(&folder, name);
    assert_eq!(raw.key_id.as_deref(), Some("first"));
    // Nothing of it can be read without.
    for file in files_below(&remote.s3.folder()) {
        let bytes = fs::read(&file).unwrap();
        let found = bytes.windows(8).any(|window| window == b"value of");
        assert!(!found, "{} shows a value", file.display());
    }
    let id = id.to_string();
    let verify = ["snapshot", "verify", &id];
    let by = |environment: &[(&str, &str)]| {
        let url = remote.url();
        let flags = remote.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut all = remote.keys();
        all.extend(variables(environment));
        run(&[&verify[..], &["--store", &url], &flags[..]].concat(), &all)
    };
    let inline = format!("first={}", hex(&one));
    let second = format!("second={}", hex(&two));
    let (code, _, error) = by(&[("CUTWATER_KEYS", &inline)]);
    assert_eq!(code, Some(0), "{error}");
    let (code, _, error) = by(&[("CUTWATER_KEYS", &format!("{second},{inline}"))]);
    assert_eq!(code, Some(0), "{error}");
    let (code, _, error) = by(&[("CUTWATER_KEY_FILE", &files.join(","))]);
    assert_eq!(code, Some(0), "{error}");
    let (code, _, error) = by(&[("CUTWATER_KEYS", &second)]);
    assert!(code == Some(4) && error.contains("which is not configured"), "{error}");
}

#[test]
fn rekey_beside_a_server_and_without_one() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let (old, new) = (key(&remote, "old"), key(&remote, "new"));
    let old_only = [format!("old={old}")];
    let both = [format!("new={new}"), format!("old={old}")];
    let mut server = with_keys(remote.options(), &old_only).start().unwrap();
    fill(&mut server.client().unwrap(), "key", KEYS);
    let ids = [create(&server), create(&server)];
    remote.wait_uploaded(&server);
    server.terminate().unwrap();

    let local = format!("file://{}/store", remote.path("data"));
    let verify = |url: &str, id: u64, file: &str| {
        let words = ["snapshot", "verify", &id.to_string()].map(str::to_owned);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match url.starts_with("s3") {
            true => remote.try_command(&words, &["--key-file", file]),
            false => run(&[&words[..], &["--store", url, "--key-file", file]].concat(), &[]),
        }
    };
    let objects = || -> BTreeMap<PathBuf, Vec<u8>> {
        let both = [remote.dir.path().join("data/store"), remote.s3.folder()];
        let files = both.iter().flat_map(|folder| files_below(folder));
        let files = files.filter(|file| file.extension().is_some_and(|e| e == "snap"));
        files.map(|file| (file.clone(), fs::read(&file).unwrap())).collect()
    };
    let before = objects();
    // Local ones by the server, remote ones by the command.
    let server = with_keys(remote.options(), &both).start().unwrap();
    wait_for("the writer", || value(&status(&server), "remote_state") == "writer");
    let count = server.client().unwrap().call(&["SNAPSHOT", "REKEY", "ALL"]).unwrap();
    assert!(count.integer().is_some_and(|count| count >= 2), "{count}");
    let flags = ["--key-file", &both[0], "--key-file", &both[1]];
    let (code, printed, error) = remote.try_command(&["snapshot", "rekey", "--all"], &flags);
    assert_eq!(code, Some(0), "{error}");
    assert!(printed.contains("objects of the archive were brought under"), "{printed}");
    for url in [&local, &remote.url()] {
        for id in ids {
            let (code, _, error) = verify(url, id, &both[0]);
            assert_eq!(code, Some(0), "{url} {id}: {error}");
            let (code, _, error) = verify(url, id, &old_only[0]);
            assert!(code == Some(4) && error.contains("which is not configured"), "{error}");
        }
    }
    let after = objects();
    assert!(before.iter().all(|(file, bytes)| after[file] == *bytes), "an object was changed");
    // What comes next is under the new key from the beginning.
    let next = create(&server);
    wait_for("the upload", || is_uploaded(&server, next));
    assert_eq!(verify(&remote.url(), next, &both[0]).0, Some(0));
    // The old key is not needed for a snapshot any more.
    let into = remote.path("restored");
    let restore = ["restore", "--snapshot", &next.to_string(), "--into", &into].map(str::to_owned);
    let restore: Vec<&str> = restore.iter().map(String::as_str).collect();
    let (code, _, error) = remote.try_command(&restore, &["--key-file", &both[0]]);
    assert_eq!(code, Some(0), "{error}");
}

#[test]
fn every_compression_sealed_comes_back_and_is_smaller() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let file = format!("k={}", key(&remote, "key"));
    let mut lengths = Vec::new();
    let start = |compression: &str| -> ServerProcess {
        let mut options = with_keys(remote.options(), std::slice::from_ref(&file));
        options.more.extend(["--compression".to_owned(), compression.to_owned()]);
        options.start().unwrap()
    };
    for (round, compression) in ["none", "lz4", "zstd", "zstd:9"].into_iter().enumerate() {
        let mut server = start(compression);
        if round == 0 {
            fill(&mut server.client().unwrap(), "key", 5_000);
        }
        let id = create(&server);
        wait_for("the upload", || is_uploaded(&server, id));
        server.terminate().unwrap();
        let (folder, name) = remote_folder(&remote, id);
        let raw = manifest(&folder, name);
        assert!(raw.compression.starts_with(compression), "{}", raw.compression);
        lengths.push(raw.meta.data_bytes);
        let into = remote.path(compression);
        let id = id.to_string();
        let restore = ["restore", "--snapshot", &id, "--into", &into];
        let (code, _, error) = remote.try_command(&restore, &["--key-file", &file]);
        assert_eq!(code, Some(0), "{error}");
        let restored = with_keys(ServerOptions::new(&into), std::slice::from_ref(&file));
        assert_filled(&mut restored.start().unwrap().client().unwrap(), "key", 5_000);
    }
    let [none, lz4, zstd, zstd9] = lengths[..] else { panic!("four forms") };
    assert!(lz4 * 3 < none * 2 && zstd < lz4 && zstd9 <= zstd, "{lengths:?}");
    let (code, _, error) = run(&["serve", "--compression", "zip"], &[]);
    assert!(code == Some(2) && error.contains("none, lz4, zstd"), "{error}");
}
