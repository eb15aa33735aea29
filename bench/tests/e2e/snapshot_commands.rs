//! SNAPSHOT and what Redis clients know of it, asked of the real server: replies, refusals, and
//! what INFO says.

use std::time::{Duration, Instant};

use cutwater_bench::client::Client;
use cutwater_bench::process::ServerProcess;
use cutwater_bench::reply::Reply;
use cutwater_bench::server::{self, field};

use crate::support::{fill, serve, size};

/// So much that a snapshot of it is still under way when the next command comes.
const KEYS: usize = 200_000;

fn number(reply: &Reply, name: &str) -> u64 {
    let number = field(reply, name).and_then(Reply::integer);
    u64::try_from(number.unwrap_or_else(|| panic!("no {name} in {reply}"))).unwrap()
}

fn elements(reply: Reply) -> Vec<Reply> {
    match reply {
        Reply::Array(_, elements) => elements,
        other => panic!("not an array: {other}"),
    }
}

fn refusal(client: &mut Client, command: &[&str]) -> String {
    match client.call(command).unwrap() {
        Reply::Error(text) => text,
        other => panic!("{command:?} answers {other}"),
    }
}

/// A line of INFO.
fn info(client: &mut Client, name: &str) -> String {
    let reply = client.call(&["INFO", "persistence"]).unwrap();
    let text = String::from_utf8_lossy(reply.bytes().unwrap()).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}

#[test]
fn created_listed_shown_verified_and_deleted() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, server) = serve(|_| {});
    let mut client = server.client().unwrap();
    let mut created = Vec::new();
    for name in ["a", "b", "c"] {
        fill(&mut client, name, 100);
        created.push(client.call(&["SNAPSHOT", "CREATE"]).unwrap());
    }
    let listed = elements(client.call(&["SNAPSHOT", "LIST"]).unwrap());
    let listed: Vec<&Reply> = listed
        .iter()
        .filter(|row| field(row, "state").unwrap().bytes() == Some(b"published"))
        .collect();
    assert_eq!(listed.len(), created.len());
    for (row, created) in listed.iter().zip(&created) {
        let id = number(created, "id").to_string();
        for name in ["id", "begin_lsn", "end_lsn"] {
            assert_eq!(number(row, name), number(created, name), "{name} of {row}");
        }
        assert!(number(created, "begin_lsn") <= number(created, "end_lsn"), "{created}");
        assert_eq!(&client.call(&["SNAPSHOT", "SHOW", &id]).unwrap(), *row);
        let verified = client.call(&["SNAPSHOT", "VERIFY", &id]).unwrap();
        assert!(!matches!(verified, Reply::Error(_)), "{verified}");
    }
    let status = client.call(&["SNAPSHOT", "STATUS"]).unwrap();
    assert_eq!(number(&status, "published"), 3);
    assert_eq!(number(&status, "last"), number(&created[2], "id"));

    let ids: Vec<String> = created.iter().map(|reply| number(reply, "id").to_string()).collect();
    let error = refusal(&mut client, &["SNAPSHOT", "DELETE", &ids[2]]);
    assert!(error.contains("newest"), "{error}");
    assert!(client.call(&["SNAPSHOT", "DELETE", &ids[0]]).unwrap().is_ok());
    for command in ["SHOW", "VERIFY", "DELETE"] {
        let error = refusal(&mut client, &["SNAPSHOT", command, "999"]);
        assert!(error.contains("no snapshot 999"), "{error}");
        let error = refusal(&mut client, &["SNAPSHOT", command, "x"]);
        assert!(error.starts_with("ERR a snapshot id is a whole number"), "{error}");
    }
    assert_eq!(size(&mut client), 300);
}

#[test]
fn a_second_one_meanwhile_is_told_which_is_under_way() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, server) = serve(|options| options.fsync = Some("never"));
    let mut clients: Vec<Client> = (0..3).map(|_| server.client().unwrap()).collect();
    fill(&mut clients[0], "key", KEYS);
    // All are asked before one is read: one takes the snapshot, and the others are refused.
    for client in &mut clients {
        client.queue(&["SNAPSHOT", "CREATE"]);
        client.flush().unwrap();
    }
    let replies: Vec<Reply> = clients.iter_mut().map(|it| it.receive().unwrap()).collect();
    let (refused, created): (Vec<&Reply>, Vec<&Reply>) =
        replies.iter().partition(|reply| matches!(reply, Reply::Error(_)));
    assert_eq!(created.len(), 1, "{replies:?}");
    let id = number(created[0], "id").to_string();
    for reply in refused {
        let text = reply.to_string();
        assert!(text.split([' ', ',', '.', ':']).any(|word| word == id), "{text}");
    }
}

#[test]
fn what_redis_clients_know_of_it() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, mut server) = serve(|_| {});
    let mut client = server.client().unwrap();
    fill(&mut client, "key", 100);
    let saved = |client: &mut Client| info(client, "rdb_saves").parse::<u64>().unwrap();
    // The control plane is ready a moment after the shards are; it answers when it is.
    client.call(&["SNAPSHOT", "STATUS"]).unwrap();
    assert_eq!(saved(&mut client), 0);
    assert!(client.call(&["SAVE"]).unwrap().is_ok());
    assert_eq!(saved(&mut client), 1);
    let first = client.call(&["LASTSAVE"]).unwrap().integer().unwrap();
    assert_eq!(info(&mut client, "rdb_last_save_time"), first.to_string());
    assert_eq!(info(&mut client, "rdb_last_bgsave_status"), "ok");
    let reply = client.call(&["BGSAVE"]).unwrap();
    assert_eq!(reply.to_string(), "+Background saving started");
    let deadline = Instant::now() + Duration::from_secs(30);
    while saved(&mut client) < 2 {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(info(&mut client, "rdb_bgsave_in_progress"), "0");
    assert!(client.call(&["LASTSAVE"]).unwrap().integer().unwrap() >= first);
    assert_eq!(refusal(&mut client, &["BGSAVE", "now"]), "ERR syntax error");
    assert_eq!(refusal(&mut client, &["SHUTDOWN", "ABORT"]), "ERR No shutdown in progress.");
    assert_eq!(refusal(&mut client, &["SHUTDOWN", "later"]), "ERR syntax error");
    assert_eq!(refusal(&mut client, &["SHUTDOWN", "SAVE", "NOSAVE"]), "ERR syntax error");
    shut_down(&mut server, client);
}

fn shut_down(server: &mut ServerProcess, mut client: Client) {
    assert!(client.call(&["SHUTDOWN", "NOSAVE", "NOW"]).is_err(), "it answers nothing");
    assert!(server.wait(Duration::from_secs(30)).unwrap().success());
}
