//! Two servers on one remote store: the first is frozen, another one takes over and publishes, and
//! the first wakes up. It is superseded and says so, keeps serving, and destroys nothing.

use std::process::Command;
use std::time::{Duration, Instant};

use cutwater_bench::client::Client;
use cutwater_bench::moments::stage::{Setting, Stage};
use cutwater_bench::process::ServerProcess;
use cutwater_bench::reply::Reply;
use cutwater_bench::server::{self, ServerOptions, field};

use crate::remote::create;
use crate::support::{assert_filled, fill};

/// How long anything that is waited for may take.
const LIMIT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);
const KEYS: usize = 500;

fn signal(server: &ServerProcess, name: &str) {
    let pid = server.pid().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

fn serve(stage: &Stage, dir: &str, more: &[&str]) -> ServerProcess {
    let mut options = ServerOptions::new(stage.path(dir));
    let url = stage.url();
    options.more = ["--snapshot-store", &url, "--archive-interval", "500ms"]
        .iter()
        .chain(more)
        .map(|word| (*word).to_owned())
        .collect();
    options.start().unwrap()
}

/// A field of SNAPSHOT STATUS as text.
fn status(client: &mut Client, name: &str) -> String {
    let reply = client.call(&["SNAPSHOT", "STATUS"]).unwrap();
    match field(&reply, name) {
        Some(Reply::Integer(number)) => number.to_string(),
        Some(other) => String::from_utf8_lossy(other.bytes().unwrap_or_default()).into_owned(),
        None => panic!("{name} in {reply}"),
    }
}

fn wait(client: &mut Client, what: &str, name: &str, so: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = status(client, name);
        if so(&found) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {name} is {found}");
        std::thread::sleep(POLL);
    }
}

/// Waits until a snapshot is published in the remote store: a count of what is pending may not know
/// of it yet.
fn wait_uploaded(client: &mut Client, id: u64) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let reply = client.call(&["SNAPSHOT", "SHOW", &id.to_string()]).unwrap();
        let place = field(&reply, "remote").and_then(Reply::bytes).unwrap_or_default();
        if place.starts_with(b"uploaded") {
            return;
        }
        assert!(Instant::now() < deadline, "snapshot {id} goes nowhere: {reply}");
        std::thread::sleep(POLL);
    }
}

fn run(arguments: &[&str]) -> String {
    let output = server::subcommand(arguments).unwrap();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {printed}");
    String::from_utf8(output.stdout).unwrap()
}

/// Freezes the first server (in the middle of an upload, if so), lets the second live, and thaws.
fn supersede(in_upload: bool) {
    let stage = Stage::new(Setting::default()).unwrap();
    let limit: &[&str] = if in_upload { &["--upload-limit", "1"] } else { &[] };
    let mut first = serve(&stage, "first", limit);
    let mut client = first.client().unwrap();
    fill(&mut client, "before", KEYS);
    let base = create(&first);
    wait_uploaded(&mut client, base);
    stage.restore(&["--latest"], "second", 2).unwrap();
    if in_upload {
        for n in 0..8 {
            let (key, value) = (format!("large:{n}"), "x".repeat(1 << 20));
            assert!(client.call(&["SET", &key, &value]).unwrap().is_ok());
        }
        create(&first);
        wait(&mut client, "an upload is under way", "remote_uploading", |found| !found.is_empty());
    }
    signal(&first, "-STOP");

    let second = serve(&stage, "second", &["--keep-last", "2"]);
    let mut other = second.client().unwrap();
    fill(&mut other, "after", KEYS);
    let mine = create(&second);
    wait_uploaded(&mut other, mine);
    let before = run(&["snapshot", "list", "--store", &stage.url(), "--json"]);
    let name = format!("snap-{mine:06}-");
    assert!(before.contains(&name), "{before}");

    signal(&first, "-CONT");
    wait(&mut client, "superseded", "remote_state", |found| found == "superseded");
    let error = status(&mut client, "remote_last_error");
    assert!(error.contains("another server has taken the remote store over"), "{error}");
    let log = std::fs::read_to_string(stage.path("first").with_extension("output")).unwrap();
    assert!(log.contains("another server has taken the remote store over"), "{log}");
    // It keeps serving, and takes snapshots, which stay where they are.
    assert_filled(&mut client, "before", KEYS);
    fill(&mut client, "alone", KEYS);
    create(&first);
    first.terminate().unwrap();

    // The second writes on, and everything that is published is whole, under ids of its own.
    let last = create(&second);
    wait_uploaded(&mut other, last);
    assert_eq!(status(&mut other, "remote_state"), "writer");
    let listed = run(&["snapshot", "list", "--store", &stage.url(), "--json"]);
    let mut ids: Vec<&str> =
        listed.lines().filter_map(|line| line.trim().strip_prefix("\"id\": ")).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "{listed}");
    assert!(!listed.contains("unreadable"), "{listed}");
    run(&["snapshot", "verify", &mine.to_string(), "--store", &stage.url()]);
    let restored = stage.restore(&["--latest"], "restored", 3).unwrap();
    drop(second);
    let restored = stage.serve_alone(&restored, 1).unwrap();
    let mut client = restored.client().unwrap();
    assert_filled(&mut client, "before", KEYS);
    assert_filled(&mut client, "after", KEYS);
    assert_eq!(client.call(&["EXISTS", "alone:0"]).unwrap().integer(), Some(0));
}

#[test]
fn a_frozen_server_wakes_up_superseded() {
    if !server::is_stand_in() {
        supersede(false);
    }
}

#[test]
fn a_server_frozen_in_an_upload_wakes_up_superseded() {
    if !server::is_stand_in() {
        supersede(true);
    }
}
