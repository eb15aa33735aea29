//! Every listing, plan and report as JSON, of a real server and of its store: each parses, and has
//! the fields that scripts rely on.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a server may take to start.
const LIMIT: Duration = Duration::from_secs(60);

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutwater"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CUTWATER_") {
            command.env_remove(name);
        }
    }
    command
}

/// A server that ends with its handle.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(data: &Path, remote: &Path) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let remote = format!("file://{}", remote.display());
        let mut command = binary();
        command.args(["serve", "--shards", "2", "--archive-interval", "100ms", "--data-dir"]);
        command.arg(data).args(["--port", &address.port().to_string()]);
        command.args(["--snapshot-store", &remote]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { child, address };
        let deadline = Instant::now() + LIMIT;
        while server.try_call("PING").is_none_or(|reply| reply != "+PONG\r\n") {
            assert!(Instant::now() < deadline, "the server does not serve");
            std::thread::yield_now();
        }
        // The archive begins with a base, and there is one snapshot at a time.
        loop {
            let status = json(&["snapshot", "status", "--server", &address.to_string()]);
            if !status["last"].is_null() && status["running"].is_null() {
                return server;
            }
            assert!(Instant::now() < deadline, "no base: {status:#}");
        }
    }

    /// An inline command; the first line of its reply.
    fn try_call(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(arguments: &[&str]) -> Output {
    binary().args(arguments).output().unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    let output = run(&arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The object has these fields, and none of them is null.
fn has(value: &Value, fields: &[&str]) {
    for field in fields {
        let found = value.get(field).unwrap_or_else(|| panic!("no {field} in {value:#}"));
        assert!(!found.is_null(), "{field} is null in {value:#}");
    }
}

const SNAPSHOT: [&str; 8] =
    ["id", "name", "kind", "state", "begin_lsn", "end_lsn", "created_at", "data_bytes"];
const REPORT: [&str; 7] = ["id", "whole", "objects", "bytes", "chunks", "entries", "tail_records"];

#[test]
fn every_listing_plan_and_report() {
    let dir = tempfile::tempdir().unwrap();
    let (data, remote) = (dir.path().join("data"), dir.path().join("remote"));
    let server = Server::start(&data, &remote);
    let at = server.address.to_string();
    let at = ["--server", &at];
    assert_eq!(server.try_call("SET key value").unwrap(), "+OK\r\n");
    let online = |words: &[&str]| json(&[&["snapshot"], words, &at].concat());

    let created = online(&["create", "--wait-upload"]);
    has(&created, &SNAPSHOT);
    assert_eq!((&created["kind"], &created["state"]), (&"base".into(), &"published".into()));
    assert_eq!(created["remote"], "uploaded");
    let id = created["id"].as_u64().unwrap().to_string();
    let listed = online(&["list"]);
    assert_eq!(listed.as_array().unwrap().last(), Some(&created));
    assert_eq!(online(&["show", &id]), created);
    has(&online(&["verify", &id]), &REPORT);
    let status = online(&["status"]);
    has(&status, &["last", "last_end_lsn", "last_data_bytes", "published", "verifications"]);
    has(&status, &["remote_store", "remote_state", "remote_pending", "archive_backlog_bytes"]);
    assert!(status["running"].is_null() && status["verifications"] == Value::Array(Vec::new()));
    assert_eq!(status["last"].to_string(), id);
    assert!(status["last_end_lsn"].is_u64() && status["archived_to_lsn"].is_u64());
    // The two newest stay, so that there is one to delete.
    online(&["create"]);
    online(&["create", "--wait-upload"]);
    let deleted = online(&["delete", &id]);
    has(&deleted, &["id", "state", "remote_pending"]);
    assert_eq!((&deleted["state"], deleted["id"].to_string()), (&"deleted".into(), id));

    let store = format!("file://{}", remote.display());
    let at = ["--store", &store];
    let offline = |words: &[&str]| json(&[words, &at].concat());
    let listed = offline(&["snapshot", "list"]);
    let last = listed.as_array().unwrap().last().unwrap();
    has(last, &SNAPSHOT);
    let id = last["id"].as_u64().unwrap().to_string();
    assert_eq!(&offline(&["snapshot", "show", &id]), last);
    has(&offline(&["snapshot", "verify", &id]), &REPORT);
    let restorable = offline(&["restorable"]);
    let history = &restorable.as_array().unwrap()[0];
    has(history, &["history", "current", "windows", "holes"]);
    has(&history["windows"][0], &["first_lsn", "last_lsn", "first", "last"]);
    let plan_fields = ["target_lsn", "target", "history", "base", "deltas", "snapshot_lsn", "wal"];
    has(&offline(&["restore", "--latest", "--dry-run"]), &plan_fields);
    let into = dir.path().join("into").display().to_string();
    let restored = offline(&["restore", "--snapshot", &id, "--into", &into]);
    has(&restored, &plan_fields);
    has(&restored["restored"], &["into", "history", "keys", "snapshot"]);
    assert_eq!(restored["restored"]["keys"], 1);
    drop(server);
    assert_eq!(offline(&["snapshot", "delete", &id])["state"], "deleted");
}

#[test]
fn every_kind_of_failure_has_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let (data, remote) = (dir.path().join("data"), dir.path().join("remote"));
    let server = Server::start(&data, &remote);
    let at = server.address.to_string();
    let code = |arguments: &[&str]| {
        let output = run(arguments);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let expect = |arguments: &[&str], expected: i32| {
        let (found, error) = code(arguments);
        assert_eq!(found, Some(expected), "{arguments:?}: {error}");
    };
    assert_eq!(server.try_call("SET key value").unwrap(), "+OK\r\n");
    let create = ["snapshot", "create", "--wait-upload", "--server", &at];
    let created = json(&create);
    let id = created["id"].as_u64().unwrap().to_string();
    expect(&["snapshot", "show", "999", "--server", &at], 3);
    expect(&["snapshot", "verify", "999", "--server", &at], 3);
    expect(&["snapshot", "delete", "999", "--server", &at], 3);
    expect(&["snapshot", "cancel", "--server", &at], 3);
    expect(&["snapshot", "delete", &id, "--server", &at], 1);
    expect(&["snapshot", "list", "--server", &at, "--no-such-flag"], 2);
    let local = format!("file://{}", data.join("store").display());
    // The store of a server that runs.
    expect(&["snapshot", "delete", &id, "--store", &local], 6);
    let store = format!("file://{}", remote.display());
    let into = dir.path().join("into").display().to_string();
    let restore = ["restore", "--store", &store, "--into", &into];
    expect(&[&restore[..], &["--at", "2001-02-03T04:05:06Z"]].concat(), 3);
    expect(&[&restore[..], &["--snapshot", "999"]].concat(), 3);
    expect(&["snapshot", "list", "--store", "file:///no/such/folder"], 3);
    expect(&["snapshot", "list", "--store", "s3://x"], 2);
    expect(&["snapshot", "rekey", "--all", "--store", &store], 4);

    // Damage, found by the server and without one.
    for folder in [data.join("store"), remote.clone()] {
        let name = created["name"].as_str().unwrap();
        let object = folder.join("snapshots").join(name).join("core-0.snap");
        let mut bytes = std::fs::read(&object).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        std::fs::write(&object, bytes).unwrap();
    }
    expect(&["snapshot", "verify", &id, "--server", &at], 4);
    expect(&["snapshot", "verify", &id, "--store", &store], 4);
    expect(&[&restore[..], &["--snapshot", &id]].concat(), 4);
    assert!(!Path::new(&into).exists());
    drop(server);
    expect(&["snapshot", "list", "--server", &at], 5);
}
