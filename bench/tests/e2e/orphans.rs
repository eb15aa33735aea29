//! A delta whose parent somebody deleted in the remote store by hand: it never goes up, which is
//! said, and a base goes up in its place by itself.

use cutwater_bench::moments::stage::{Setting, Stage};
use cutwater_bench::reply::Reply;
use cutwater_bench::server::{self, field};

use crate::remote::{create, fields, places, status, value, wait_for};
use crate::support::{assert_filled, fill, refused};

#[test]
fn a_delta_without_its_parent_in_the_remote_store_is_told_and_made_up_for() {
    if server::is_stand_in() {
        return;
    }
    let stage = Stage::new(Setting::default()).unwrap();
    let url = stage.url();
    let server = stage.serve("data", 2).unwrap();
    fill(&mut server.client().unwrap(), "a", 300);
    // The archive's own base first, so that none is due when the delta comes.
    wait_for("the first base", || {
        let found = status(&server);
        value(&found, "last") != "nil" && value(&found, "remote_pending") == "0"
    });
    let parent = create(&server);
    let uploaded = |id: u64| {
        let place = places(&server).into_iter().find(|(of, _)| *of == id).unwrap().1;
        place.starts_with("uploaded").then_some(place)
    };
    wait_for("the parent is there", || uploaded(parent).is_some());
    let place = uploaded(parent).unwrap();
    let there = place.strip_prefix("uploaded as ").map_or(parent.to_string(), str::to_owned);
    let gone = server::subcommand(&["snapshot", "delete", &there, "--store", &url]).unwrap();
    assert!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));

    // The server does not know of it yet: a delta is taken, and its upload finds out.
    fill(&mut server.client().unwrap(), "b", 100);
    let address = server.address().to_string();
    let command = ["snapshot", "create", "--delta", "--wait-upload", "--server", &address];
    let printed = refused(&command, 1);
    let reason = format!("snapshot {parent}, which it is on top of, was deleted there");
    assert!(printed.contains("(orphaned)") && printed.contains(&reason), "{printed}");
    let delta = parent + 1;
    let shown = server.client().unwrap().call(&["SNAPSHOT", "SHOW", &delta.to_string()]).unwrap();
    let shown_fields = fields(&shown);
    assert_eq!(field(&shown, "kind").and_then(Reply::bytes), Some(&b"delta"[..]), "{shown}");
    assert_eq!(value(&shown_fields, "remote"), "orphaned", "{shown}");
    assert_eq!(value(&shown_fields, "remote_reason"), reason, "{shown}");

    // The store heals by itself, and nothing waits for ever.
    wait_for("a base in its place", || {
        let found = status(&server);
        let last = value(&found, "last").parse::<u64>().unwrap();
        last > delta && uploaded(last).is_some() && value(&found, "remote_pending") == "0"
    });
    let found = status(&server);
    assert_eq!(value(&found, "remote_orphaned"), "1", "{found:?}");
    let base = value(&found, "last").to_owned();
    let shown = server.client().unwrap().call(&["SNAPSHOT", "SHOW", &base]).unwrap();
    assert_eq!(field(&shown, "kind").and_then(Reply::bytes), Some(&b"base"[..]), "{shown}");
    // One is enough, and the next delta is on top of it.
    fill(&mut server.client().unwrap(), "c", 100);
    let created = server.client().unwrap().call(&["SNAPSHOT", "CREATE", "DELTA"]).unwrap();
    assert_eq!(field(&created, "parent_id").unwrap().to_string(), format!(":{base}"), "{created}");
    let id = u64::try_from(field(&created, "id").unwrap().integer().unwrap()).unwrap();
    wait_for("the next delta is there", || uploaded(id).is_some());
    drop(server);
    let latest = stage.restore(&["--latest"], "latest", 1).unwrap();
    let restored = stage.serve_alone(&latest, 1).unwrap();
    let mut client = restored.client().unwrap();
    for (name, count) in [("a", 300), ("b", 100), ("c", 100)] {
        assert_filled(&mut client, name, count);
    }
}
