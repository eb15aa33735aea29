//! Commands that look and wait, and the signal that ends them: what they waited for goes on.

use std::io::{BufRead as _, BufReader};

use cutwater_bench::server;

use crate::cancel::{Beside, wait_until};
use crate::remote::{Remote, create, is_uploaded, places, status, value};
use crate::support::{fill, serve};

#[test]
fn status_is_watched_until_a_signal() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, server) = serve(|_| {});
    fill(&mut server.client().unwrap(), "key", 100);
    let id = create(&server);
    let address = server.address().to_string();
    let watch = ["snapshot", "status", "--watch", "--json", "--server", &address];
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut command = Beside::begin(&watch);
        let mut lines = BufReader::new(command.child.stdout.take().unwrap()).lines();
        for _ in 0..2 {
            let line = lines.next().unwrap().unwrap();
            let found: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(found["last"], id, "{line}");
            assert!(found["running"].is_null() && found["waiting"].is_null(), "{line}");
        }
        command.signal(signal);
        let (found, printed) = command.end();
        assert_eq!(found, Some(code), "{printed}");
    }
    // For people, and without a look that ends.
    let mut command = Beside::begin(&["snapshot", "status", "--watch", "--server", &address]);
    let mut lines = BufReader::new(command.child.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains("snapshot  none is being taken"), "{line}");
    command.signal("-INT");
    assert_eq!(command.end().0, Some(130));
}

#[test]
fn a_signal_ends_the_waiting_for_an_upload_and_not_the_upload() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let server = remote.options().start().unwrap();
    fill(&mut server.client().unwrap(), "key", 1_000);
    create(&server);
    remote.wait_uploaded(&server);
    remote.s3.freeze();
    let address = server.address().to_string();
    let command = Beside::begin(&["snapshot", "create", "--wait-upload", "--server", &address]);
    let before = value(&status(&server), "last").parse::<u64>().unwrap();
    let mut id = before;
    wait_until("it is published here", || {
        let found = status(&server);
        id = value(&found, "last").parse().unwrap();
        value(&found, "running") == "nil" && value(&found, "remote_pending") == "1"
    });
    command.signal("-INT");
    let (code, printed) = command.end();
    let expected =
        format!("interrupted: snapshot {id} is published here; the server goes on uploading it\n");
    assert!(code == Some(130) && printed.ends_with(&expected), "{code:?} {printed}");
    assert!(!is_uploaded(&server, id), "{:?}", places(&server));
    remote.s3.thaw();
    wait_until("it is uploaded", || is_uploaded(&server, id));
    assert_eq!(value(&status(&server), "cancelled"), "0");
}
