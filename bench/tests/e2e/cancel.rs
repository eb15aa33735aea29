//! What is begun can be cancelled at any time, by a command or by a signal, and nothing of it is
//! left: no snapshot, no object, no directory, no memory.

use std::fs;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cutwater_bench::client::Client;
use cutwater_bench::process::ServerProcess;
use cutwater_bench::reply::Reply;
use cutwater_bench::server::{self, field};

use crate::support::{serve, snapshot_folder};

/// Bytes of the keys; at a MiB a second a snapshot of them is still being written when it is
/// cancelled.
const DATA_BYTES: usize = 24 << 20;
/// How long a condition may take to come true.
const LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(5);

/// A server whose snapshots take long, with data.
fn slow_server() -> (tempfile::TempDir, ServerProcess) {
    let (dir, server) = serve(|options| options.more = slow());
    let mut client = server.client().unwrap();
    let value = "x".repeat(64 << 10);
    for n in 0..DATA_BYTES / value.len() {
        assert!(client.call(&["SET", &format!("key:{n}"), &value]).unwrap().is_ok());
    }
    (dir, server)
}

fn slow() -> Vec<String> {
    vec!["--snapshot-limit".to_owned(), "1".to_owned()]
}

/// Sends a command on a connection of its own, and waits for its reply beside the test.
fn beside(server: &ServerProcess, command: &[&str]) -> JoinHandle<Reply> {
    let mut client = server.client().unwrap();
    client.set_timeout(LIMIT).unwrap();
    let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    std::thread::spawn(move || client.call(&command).unwrap())
}

fn number(client: &mut Client, name: &str) -> Option<i64> {
    let status = client.call(&["SNAPSHOT", "STATUS"]).unwrap();
    field(&status, name).unwrap().integer()
}

fn verifications(client: &mut Client) -> usize {
    let status = client.call(&["SNAPSHOT", "STATUS"]).unwrap();
    let Some(Reply::Array(_, running)) = field(&status, "verifications") else {
        panic!("{status}")
    };
    running.len()
}

/// Waits until a condition holds.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(POLL);
    }
}

/// What a store without a server tells of a snapshot.
fn show(data: &Path, id: u64) -> String {
    let store = format!("file://{}", data.join("store").display());
    let id = id.to_string();
    let arguments = ["snapshot", "show", &id, "--store", &store, "--json"];
    String::from_utf8(server::subcommand(&arguments).unwrap().stdout).unwrap()
}

/// The files of a snapshot's folder.
fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_snapshot_is_cancelled_and_nothing_of_it_is_left() {
    if server::is_stand_in() {
        return;
    }
    let (dir, server) = slow_server();
    let mut client = server.client().unwrap();
    let none = client.call(&["SNAPSHOT", "CANCEL"]).unwrap().to_string();
    assert!(none.contains("NOTFOUND no snapshot is being taken"), "{none}");

    let create = beside(&server, &["SNAPSHOT", "CREATE"]);
    wait_until("bytes are written", || number(&mut client, "written_bytes").unwrap() > 0);
    let id = number(&mut client, "running").unwrap();
    assert!(number(&mut client, "expected_bytes").unwrap() > DATA_BYTES as i64 / 2);
    assert_eq!(number(&mut client, "expected_entries"), Some((DATA_BYTES / (64 << 10)) as i64));
    let busy = client.call(&["SNAPSHOT", "CREATE"]).unwrap().to_string();
    assert!(busy.contains(&format!("BUSY snapshot {id} is under way")), "{busy}");
    let other = client.call(&["SNAPSHOT", "CANCEL", &(id + 1).to_string()]).unwrap().to_string();
    assert!(other.contains(&format!("NOTFOUND snapshot {} is not being taken", id + 1)), "{other}");

    assert_eq!(client.call(&["SNAPSHOT", "CANCEL"]).unwrap().integer(), Some(id));
    let cancelled = create.join().unwrap().to_string();
    let text = format!("CANCELLED snapshot {id} was cancelled: nothing of it is left");
    assert!(cancelled.contains(&text), "{cancelled}");
    assert_eq!(number(&mut client, "running"), None);
    assert_eq!(
        (number(&mut client, "failed"), number(&mut client, "cancelled")),
        (Some(0), Some(1))
    );

    // What an aborted snapshot leaves is its tombstone, and that no restore takes for a snapshot.
    let folder = snapshot_folder(&dir.path().join("data"), id as u64);
    wait_until("unfinished files are removed", || files(&folder) == ["manifest.msgpack"]);
    let shown = show(&dir.path().join("data"), id as u64);
    assert!(shown.contains("\"state\": \"aborted\""), "{shown}");
    let into = dir.path().join("into");
    let refused = server::restore(&dir.path().join("data"), id as u64, &into).unwrap_err();
    assert!(refused.to_string().contains("there is no snapshot"), "{refused}");

    // The next one begins at once, and with all of the budget for chunks.
    let create = beside(&server, &["SNAPSHOT", "CREATE"]);
    wait_until("the next is written", || number(&mut client, "written_bytes").unwrap() > 0);
    assert_eq!(number(&mut client, "running"), Some(id + 1));
    assert_eq!(client.call(&["SNAPSHOT", "CANCEL"]).unwrap().integer(), Some(id + 1));
    assert!(create.join().unwrap().to_string().contains("CANCELLED"));
}

#[test]
fn a_verification_ends_with_its_client_or_when_it_is_cancelled() {
    if server::is_stand_in() {
        return;
    }
    let (dir, mut server) = serve(|_| {});
    let mut client = server.client().unwrap();
    let value = "x".repeat(DATA_BYTES / 4);
    for name in ["a", "b", "c", "d"] {
        assert!(client.call(&["SET", name, &value]).unwrap().is_ok());
    }
    let id = server::create_snapshot(&server).unwrap().to_string();
    server.terminate().unwrap();

    // Now reading it takes long.
    let mut options = server::ServerOptions::new(dir.path().join("data"));
    options.more = slow();
    let server = options.start().unwrap();
    let mut client = server.client().unwrap();
    let none = client.call(&["SNAPSHOT", "CANCEL", "VERIFY"]).unwrap().to_string();
    assert!(none.contains("NOTFOUND no verification is under way"), "{none}");

    let verify = beside(&server, &["SNAPSHOT", "VERIFY", &id]);
    wait_until("it runs", || verifications(&mut client) == 1);
    assert_eq!(client.call(&["SNAPSHOT", "CANCEL", "VERIFY"]).unwrap().integer(), Some(1));
    let reply = verify.join().unwrap().to_string();
    let text = format!("CANCELLED the verification of snapshot {id} was cancelled");
    assert!(reply.contains(&text), "{reply}");
    assert_eq!(verifications(&mut client), 0);

    let mut leaving = server.client().unwrap();
    leaving.queue(&["SNAPSHOT", "VERIFY", &id]);
    leaving.flush().unwrap();
    wait_until("it runs", || verifications(&mut client) == 1);
    drop(leaving);
    wait_until("it ends with its client", || verifications(&mut client) == 0);
}
