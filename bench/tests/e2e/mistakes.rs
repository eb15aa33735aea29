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
