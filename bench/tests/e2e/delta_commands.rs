//! Deltas as a person meets them: by the command line and by the schedule, cancelled, in the way of
//! a deletion, damaged at a restart; and the base that is taken when they have kept too much log.

use std::fs;

use cutwater_bench::client::Client;
use cutwater_bench::reply::Reply;
use cutwater_bench::server::{self, ServerOptions, field};

use crate::cancel::{beside, number, wait_until};
use crate::support::{
    assert_filled, fill, flip_byte, refused, serve, size, snapshot_folder, start_error,
};

const KEYS: usize = 500;
const VALUE_BYTES: usize = 64 << 10;

/// Sets `count` keys to large values.
fn fill_large(client: &mut Client, count: usize) {
    let value = "x".repeat(VALUE_BYTES);
    for n in 0..count {
        assert!(client.call(&["SET", &format!("large:{n}"), &value]).unwrap().is_ok());
    }
}

fn delta(client: &mut Client) -> (u64, u64) {
    let created = client.call(&["SNAPSHOT", "CREATE", "DELTA"]).unwrap();
    assert_eq!(field(&created, "kind").and_then(Reply::bytes), Some(&b"delta"[..]), "{created}");
    let number = |name| field(&created, name).unwrap().integer().unwrap() as u64;
    (number("id"), number("parent_id"))
}

/// Id, kind and state of what LIST shows.
fn listed(client: &mut Client) -> Vec<(u64, String, String)> {
    let reply = client.call(&["SNAPSHOT", "LIST"]).unwrap();
    let Reply::Array(_, rows) = &reply else { panic!("{reply}") };
    let text = |row: &Reply, name| {
        let bytes = field(row, name).unwrap().bytes().unwrap_or_default().to_vec();
        String::from_utf8(bytes).unwrap()
    };
    let id = |row: &Reply| field(row, "id").unwrap().integer().unwrap() as u64;
    rows.iter().map(|row| (id(row), text(row, "kind"), text(row, "state"))).collect()
}

#[test]
fn a_delta_by_the_command_line_keeps_its_parent_from_an_offline_deletion() {
    if server::is_stand_in() {
        return;
    }
    let (dir, mut server) = serve(|_| {});
    let mut client = server.client().unwrap();
    let address = server.address().to_string();
    fill(&mut client, "a", KEYS);
    // Without a parent it is a base, and that is said.
    let create = ["snapshot", "create", "--delta", "--server", &address];
    let run = || {
        let output = server::subcommand(&create).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let printed = run();
    assert!(printed.contains("a base, not a delta: there is no snapshot"), "{printed}");
    let ids = |client: &mut Client| listed(client).into_iter().map(|it| it.0).collect::<Vec<_>>();
    let base = ids(&mut client)[0];
    fill(&mut client, "b", KEYS);
    let printed = run();
    let is = |name: &str, value: &str| {
        let mut words = printed.lines().map(str::split_whitespace);
        words.any(|mut line| line.next() == Some(name) && line.next() == Some(value))
    };
    assert!(is("kind", "delta") && is("parent_id", &base.to_string()), "{printed}");
    let child = *ids(&mut client).last().unwrap();
    // Two more bases, so that neither is a checkpoint any more.
    for _ in 0..2 {
        server::create_snapshot(&server).unwrap();
    }
    server.terminate().unwrap();
    let store = format!("file://{}", dir.path().join("data/store").display());
    let delete = |id: u64| {
        ["snapshot".into(), "delete".into(), id.to_string(), "--store".into(), store.clone()]
    };
    let words: Vec<String> = delete(base).into();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let printed = refused(&words, 1);
    let named = format!("snapshot {base} is the parent of delta {child}: delete that first");
    assert!(printed.contains(&named), "{printed}");
    // The child first, and then nothing is in the way.
    for id in [child, base] {
        let words: Vec<String> = delete(id).into();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = server::subcommand(&words).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    server.restart().unwrap();
    assert_eq!(size(&mut server.client().unwrap()), 2 * KEYS as i64);
}

#[test]
fn a_delta_is_cancelled_and_the_next_one_is_on_top_of_the_same_parent() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, server) = serve(|options| {
        options.more = ["--snapshot-limit", "1"].map(str::to_owned).to_vec();
    });
    let mut client = server.client().unwrap();
    client.set_timeout(crate::cancel::LIMIT).unwrap();
    fill_large(&mut client, 128);
    let base = server::create_snapshot(&server).unwrap();
    fill_large(&mut client, 60);
    let create = beside(&server, &["SNAPSHOT", "CREATE", "DELTA"]);
    wait_until("bytes are written", || number(&mut client, "written_bytes").unwrap() > 0);
    let id = number(&mut client, "running").unwrap();
    assert_eq!(client.call(&["SNAPSHOT", "CANCEL"]).unwrap().integer(), Some(id));
    let cancelled = create.join().unwrap().to_string();
    assert!(cancelled.contains(&format!("CANCELLED snapshot {id} was cancelled")), "{cancelled}");
    let found = listed(&mut client);
    let (_, _, state) = found.iter().find(|(of, ..)| *of == id as u64).unwrap();
    assert_eq!(state, "aborted", "{found:?}");
    assert_eq!(delta(&mut client), (id as u64 + 1, base));
}

#[test]
fn the_schedule_takes_deltas() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, server) = serve(|options| {
        options.more = ["--snapshot-schedule", "delta every 1s"].map(str::to_owned).to_vec();
    });
    let mut client = server.client().unwrap();
    let mut round = 0;
    wait_until("a delta by itself", || {
        round += 1;
        fill(&mut client, &format!("round {round}"), 10);
        let found = listed(&mut client);
        found.iter().any(|(_, kind, state)| kind == "delta" && state == "published")
    });
    // Nothing was there to be its parent: the first was a base.
    let found = listed(&mut client);
    assert_eq!((found[0].1.as_str(), found[0].2.as_str()), ("base", "published"), "{found:?}");
}

#[test]
fn a_damaged_delta_leaves_the_way_back_before_it_and_without_any_the_start_is_refused() {
    if server::is_stand_in() {
        return;
    }
    let (dir, mut server) = serve(|_| {});
    let data = dir.path().join("data");
    let mut client = server.client().unwrap();
    fill(&mut client, "a", KEYS);
    let first = server::create_snapshot(&server).unwrap();
    fill(&mut client, "b", KEYS);
    let second = server::create_snapshot(&server).unwrap();
    fill(&mut client, "c", KEYS);
    let (third, parent) = delta(&mut client);
    assert_eq!(parent, second);
    fill(&mut client, "d", KEYS);
    let (fourth, parent) = delta(&mut client);
    assert_eq!(parent, third);
    fill(&mut client, "e", KEYS);
    server.kill9().unwrap();
    let object = |id: u64| snapshot_folder(&data, id).join("core-0.snap");
    let damage = |id: u64| {
        let at = fs::metadata(object(id)).unwrap().len() as usize / 2;
        flip_byte(&object(id), at);
    };
    let name = |id: u64| object(id).strip_prefix(data.join("store")).unwrap().display().to_string();
    // The newest, the one below it, the base of both: each time everything is there.
    for damaged in [fourth, third, second] {
        damage(damaged);
        let mut server = ServerOptions::new(&data).start().unwrap();
        let mut client = server.client().unwrap();
        for prefix in ["a", "b", "c", "d", "e"] {
            assert_filled(&mut client, prefix, KEYS);
        }
        assert_eq!(size(&mut client), 5 * KEYS as i64);
        let printed = server.output_tail();
        assert!(printed.contains(&name(damaged)), "{printed}");
        server.kill9().unwrap();
    }
    // No way back is left: nothing is served, and nothing was changed.
    damage(first);
    let error = start_error(ServerOptions::new(&data).start());
    assert!(error.contains("cannot be loaded: ") && error.contains("core-0.snap"), "{error}");
    assert!(error.contains("`cutwater restore`"), "{error}");
    damage(first);
    let server = ServerOptions::new(&data).start().unwrap();
    assert_eq!(size(&mut server.client().unwrap()), 5 * KEYS as i64);
}

/// Deltas bring the newest way back forward, and the log since the older one stays: at twice
/// `--checkpoint-log` of it a base is taken by itself.
#[test]
fn log_that_deltas_keep_ends_with_a_base_at_twice_the_limit() {
    if server::is_stand_in() {
        return;
    }
    const AT_BYTES: u64 = 4 << 20;
    let (_dir, server) = serve(|options| options.checkpoint_log_bytes = Some(AT_BYTES));
    let mut client = server.client().unwrap();
    client.set_timeout(crate::cancel::LIMIT).unwrap();
    fill_large(&mut client, 32);
    let first = server::create_snapshot(&server).unwrap();
    let bases = |client: &mut Client| {
        let found = listed(client).into_iter();
        let is_base =
            |(_, kind, state): &(u64, String, String)| kind == "base" && state == "published";
        found.filter(is_base).map(|it| it.0).collect::<Vec<_>>()
    };
    // Since the start, at the least: frames and markers come on top.
    let mut log_bytes = 32 * VALUE_BYTES as u64;
    let value = "y".repeat(VALUE_BYTES);
    while bases(&mut client) == [first] {
        assert!(log_bytes < 8 * AT_BYTES, "no base came after {log_bytes} bytes of log");
        for _ in 0..16 {
            assert!(client.call(&["SET", "hot", &value]).unwrap().is_ok());
        }
        log_bytes += 16 * VALUE_BYTES as u64;
        // The newest way back is never so far behind that it is due for a checkpoint itself.
        let since = number(&mut client, "log_since_checkpoint_bytes").unwrap() as u64;
        assert!(since < AT_BYTES, "{since} bytes since the newest");
        delta(&mut client);
    }
    assert!(log_bytes > AT_BYTES * 3 / 2, "too soon, after {log_bytes} bytes of log");
}
