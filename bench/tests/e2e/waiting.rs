//! What a client asks for while the server takes a snapshot by itself: one request waits for it and
//! is served then, a second one is refused, and one that waits can be cancelled.

use cutwater_bench::client::Client;
use cutwater_bench::process::ServerProcess;
use cutwater_bench::reply::Reply;
use cutwater_bench::server::{self, field};

use crate::cancel::{Beside, LIMIT, beside, number, wait_until};
use crate::support::{refused, serve};

/// Bytes of the keys; at a MiB a second a snapshot of them takes as many seconds.
const DATA_BYTES: usize = 8 << 20;
const VALUE_BYTES: usize = 64 << 10;

fn fill(client: &mut Client, name: &str, bytes: usize) {
    let value = "x".repeat(VALUE_BYTES);
    for n in 0..bytes / VALUE_BYTES {
        assert!(client.call(&["SET", &format!("{name}:{n}"), &value]).unwrap().is_ok());
    }
}

/// A server that is taking a checkpoint, slowly, and the checkpoint's id.
fn with_checkpoint() -> (tempfile::TempDir, ServerProcess, i64) {
    let (dir, server) = serve(|options| {
        options.checkpoint_log_bytes = Some(DATA_BYTES as u64 / 2);
        options.more = ["--snapshot-limit", "1"].map(str::to_owned).to_vec();
    });
    let mut client = server.client().unwrap();
    fill(&mut client, "key", DATA_BYTES);
    wait_until("a checkpoint", || number(&mut client, "running").is_some());
    assert_eq!(number(&mut client, "running_client"), None);
    let id = number(&mut client, "running").unwrap();
    (dir, server, id)
}

fn text(client: &mut Client, name: &str) -> String {
    let status = client.call(&["SNAPSHOT", "STATUS"]).unwrap();
    field(&status, name).unwrap().to_string()
}

fn said(client: &mut Client, command: &[&str]) -> String {
    client.call(command).unwrap().to_string()
}

#[test]
fn one_request_waits_for_the_servers_own_snapshot_and_is_served() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, server, own) = with_checkpoint();
    let mut client = server.client().unwrap();
    assert_eq!(text(&mut client, "waiting"), "nil");
    let mut asking = server.client().unwrap();
    asking.set_timeout(LIMIT).unwrap();
    let asking_id = asking.call(&["CLIENT", "ID"]).unwrap().integer().unwrap();
    asking.queue(&["SNAPSHOT", "CREATE"]);
    asking.flush().unwrap();
    wait_until("it waits", || text(&mut client, "waiting").contains("base"));
    assert_eq!(number(&mut client, "waiting_client"), Some(asking_id));
    // There is room for one.
    for command in [&["SNAPSHOT", "CREATE"][..], &["SNAPSHOT", "CREATE", "DELTA"], &["BGSAVE"]] {
        let refused = said(&mut client, command);
        let expected =
            format!("BUSY snapshot {own} is under way, and another request waits behind it");
        assert!(refused.contains(&expected), "{refused}");
    }
    assert_eq!(number(&mut client, "running"), Some(own));
    // Both are published, one after the other.
    let created = asking.receive().unwrap();
    assert!(!matches!(created, Reply::Error(_)), "{created}");
    assert!(field(&created, "id").unwrap().integer().unwrap() > own, "{created}");
    assert_eq!(text(&mut client, "waiting"), "nil");
    assert_eq!(number(&mut client, "cancelled"), Some(0));
    let shown = client.call(&["SNAPSHOT", "SHOW", &own.to_string()]).unwrap();
    assert!(field(&shown, "state").unwrap().to_string().contains("published"), "{shown}");
}

#[test]
fn a_request_that_waits_is_cancelled_and_begins_nothing() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, server, own) = with_checkpoint();
    let mut client = server.client().unwrap();
    let none = said(&mut client, &["SNAPSHOT", "CANCEL", "WAITING"]);
    assert!(none.contains("NOTFOUND no such request"), "{none}");
    let create = beside(&server, &["SNAPSHOT", "CREATE"]);
    wait_until("it waits", || text(&mut client, "waiting") != "nil");
    let other = said(&mut client, &["SNAPSHOT", "CANCEL", "WAITING", "999999"]);
    assert!(other.contains("NOTFOUND no such request"), "{other}");
    assert!(client.call(&["SNAPSHOT", "CANCEL", "WAITING"]).unwrap().is_ok());
    let cancelled = create.join().unwrap().to_string();
    assert!(
        cancelled.contains("CANCELLED the request was cancelled while it waited"),
        "{cancelled}"
    );
    let syntax = said(&mut client, &["SNAPSHOT", "CANCEL", "WAITING", "x"]);
    assert!(syntax.contains("ERR a client id"), "{syntax}");

    // So does a signal with the command's own request, and with no other.
    let address = server.address().to_string();
    let create = ["snapshot", "create", "--server", &address];
    let command = Beside::begin(&create);
    wait_until("it waits", || text(&mut client, "waiting") != "nil");
    let printed = refused(&create, 6);
    assert!(printed.contains("another request waits behind it"), "{printed}");
    command.signal("-INT");
    let (code, printed) = command.end();
    assert_eq!(code, Some(130), "{printed}");
    let expected =
        "interrupted: the request was cancelled while it waited: no snapshot was begun\n";
    assert!(printed.ends_with(expected), "{printed}");
    assert_eq!(
        (text(&mut client, "waiting"), number(&mut client, "running")),
        ("nil".into(), Some(own))
    );

    // Redis' word for it; when the server's own snapshot is cancelled, it is this one's turn.
    assert_eq!(said(&mut client, &["BGSAVE"]), "+Background saving scheduled");
    assert_eq!(client.call(&["SNAPSHOT", "CANCEL"]).unwrap().integer(), Some(own));
    assert_eq!(number(&mut client, "running"), Some(own + 1));
    assert!(number(&mut client, "running_client").is_some());
    let busy = said(&mut client, &["SNAPSHOT", "CREATE"]);
    assert!(busy.contains(&format!("BUSY snapshot {} is under way: wait", own + 1)), "{busy}");
    assert_eq!(client.call(&["SNAPSHOT", "CANCEL"]).unwrap().integer(), Some(own + 1));
}

/// A delta that turns out too large is given up, and the base in its place has the next number:
/// STATUS follows it, the reply names it, and the list has both.
#[test]
fn status_follows_the_base_that_is_taken_in_place_of_a_delta() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, server) = serve(|options| {
        options.more = ["--snapshot-limit", "4"].map(str::to_owned).to_vec();
    });
    let mut client = server.client().unwrap();
    fill(&mut client, "key", DATA_BYTES);
    let base = server::create_snapshot(&server).unwrap() as i64;
    fill(&mut client, "key", DATA_BYTES);
    let create = beside(&server, &["SNAPSHOT", "CREATE", "DELTA"]);
    wait_until("the delta runs", || number(&mut client, "running") == Some(base + 1));
    wait_until("the base runs", || number(&mut client, "running") == Some(base + 2));
    assert_eq!(number(&mut client, "expected_entries"), Some((DATA_BYTES / VALUE_BYTES) as i64));
    let created = create.join().unwrap();
    assert_eq!(field(&created, "id").unwrap().integer(), Some(base + 2), "{created}");
    let reason = field(&created, "reason").unwrap().to_string();
    assert!(reason.contains("a base, not a delta: too much has changed"), "{reason}");
    let states = |id: i64| {
        let shown = server.client().unwrap().call(&["SNAPSHOT", "SHOW", &id.to_string()]).unwrap();
        field(&shown, "state").unwrap().to_string()
    };
    assert!(states(base + 1).contains("aborted") && states(base + 2).contains("published"));
    assert_eq!(number(&mut client, "last"), Some(base + 2));
}
