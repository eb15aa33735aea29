//! Mistakes that people make at the command line: each is refused with a sentence that says what
//! is wrong and one that says what to do, and leaves nothing behind.

use std::fs;

use cutwater_bench::server;

use crate::support::{fill, refused, serve, size};

#[test]
fn what_cannot_be_served_is_said() {
    if server::is_stand_in() {
        return;
    }
    let (dir, server) = serve(|_| {});
    let path = |name: &str| dir.path().join(name).display().to_string();
    let port = server.address().port().to_string();
    let error = refused(&["serve", "--data-dir", &path("other"), "--port", &port], 1);
    let expected = format!("error: cannot listen on 127.0.0.1:{port}: ");
    assert!(error.starts_with(&expected) && error.contains("another --port"), "{error}");
    fs::write(path("file"), "x").unwrap();
    let error = refused(&["serve", "--data-dir", &path("file")], 1);
    assert!(error.contains("file: not a directory\n  Choose a --data-dir"), "{error}");
    let error = refused(&["serve", "--prot", "1"], 2);
    assert!(error.contains("'--port'"), "{error}");
    let error = refused(&["serve", "--shards", "0"], 2);
    assert!(error.contains("bad value \"0\" for shards (flag --shards)"), "{error}");
}

#[test]
fn data_is_not_served_without_its_log() {
    if server::is_stand_in() {
        return;
    }
    let (dir, mut server) = serve(|_| {});
    fill(&mut server.client().unwrap(), "key", 10);
    server.terminate().unwrap();
    let data = dir.path().join("data").display().to_string();
    let error = refused(&["serve", "--no-log", "--data-dir", &data, "--port", "0"], 1);
    let expected = format!("error: no-log is set, but the data directory {data} holds data (");
    assert!(error.starts_with(&expected), "{error}");
    assert!(error.contains("Start without --no-log to serve that data"), "{error}");
    server.restart().unwrap();
    assert_eq!(size(&mut server.client().unwrap()), 10);
}

/// In the file: what is wrong, where it stands, and what would be right.
#[test]
fn a_bad_configuration_file_is_said_line_by_line() {
    if server::is_stand_in() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cutwater.toml");
    const PORTS: &str = "Allowed: a port from 1 to 65535";
    for (text, what, line, next) in [
        ("port = 7000\nprot = 1\n", "unknown setting \"prot\"", 2, "Did you mean \"port\"?"),
        ("fsync = \"sometimes\"\n", "bad value \"sometimes\" for fsync", 1, "Allowed: always,"),
        ("shards = 2\n\nport = 70000\n", "bad value \"70000\" for port", 3, PORTS),
        ("port 7000\n", "not valid TOML", 1, "Write one setting a line"),
    ] {
        fs::write(&path, text).unwrap();
        let error = refused(&["serve", "--config", &path.display().to_string()], 2);
        for part in [what, &format!("cutwater.toml:{line})"), next] {
            assert!(error.contains(part), "{text:?}: {part:?} is not in {error}");
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing but the file");
}

#[test]
fn what_cannot_be_restored_is_said_and_leaves_nothing() {
    if server::is_stand_in() {
        return;
    }
    let (dir, server) = serve(|_| {});
    fill(&mut server.client().unwrap(), "key", 10);
    let snapshot = server::create_snapshot(&server).unwrap();
    let data = dir.path().join("data");
    let into = dir.path().join("into");
    let error = server::restore(&data, snapshot + 1, &into).unwrap_err().to_string();
    assert!(error.contains(&format!("there is no snapshot {}", snapshot + 1)), "{error}");
    assert!(!into.exists());
    let error = server::restore(&into, snapshot, &into).unwrap_err().to_string();
    assert!(error.contains("error: there is no store at "), "{error}");
    fs::create_dir(&into).unwrap();
    fs::write(into.join("mine"), "x").unwrap();
    let error = server::restore(&data, snapshot, &into).unwrap_err().to_string();
    assert!(error.contains("is not empty; a restore needs a new folder"), "{error}");
    fs::remove_file(into.join("mine")).unwrap();
    // A running server's store can be restored from, into what is empty again.
    server::restore(&data, snapshot, &into).unwrap();
    let copy = cutwater_bench::server::ServerOptions::new(&into).start().unwrap();
    assert_eq!(size(&mut copy.client().unwrap()), 10);
    // What a restart needs is not deleted.
    let mut client = server.client().unwrap();
    let reply = client.call(&["SNAPSHOT", "DELETE", &snapshot.to_string()]).unwrap().to_string();
    assert!(reply.contains("one of the two newest checkpoints"), "{reply}");
}
