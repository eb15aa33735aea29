//! What stays and what goes, on the real binary: schedules, policies, pins, pruning; and a store
//! that cannot be listed is an error, never an empty one.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cutwater_bench::client::Client;
use cutwater_bench::moments::stage::{Setting, Stage};
use cutwater_bench::server::{self, ServerOptions};

use crate::remote::create;
use crate::support::{assert_filled, fill, refused, start_error};

/// How long anything that is waited for may take.
const LIMIT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);

fn wait(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(POLL);
    }
}

fn run(arguments: &[&str]) -> String {
    let output = server::subcommand(arguments).unwrap();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {printed}");
    String::from_utf8(output.stdout).unwrap()
}

/// Ids of the published snapshots in a folder, by their manifests' states.
fn published(store: &Path) -> Vec<u64> {
    let url = format!("file://{}", store.display());
    let listed = run(&["snapshot", "list", "--store", &url]);
    let rows = listed.lines().filter(|line| line.contains(" published "));
    rows.map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect()
}

/// Numbers of the objects of the archive.
fn log(store: &Path) -> Vec<u64> {
    let names = fs::read_dir(store.join("wal")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut numbers: Vec<u64> =
        names.filter_map(|name| name.to_string_lossy().parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

fn set(client: &mut Client, key: &str) {
    assert!(client.call(&["SET", key, "1"]).unwrap().is_ok());
}

#[test]
fn snapshots_come_and_go_by_themselves() {
    if server::is_stand_in() {
        return;
    }
    let stage = Stage::new(Setting::default()).unwrap();
    let (url, remote) = (stage.url(), stage.path("remote"));
    let local = stage.path("data").join("store");
    let mut options = ServerOptions::new(stage.path("data"));
    options.more = [
        "--snapshot-store",
        &url,
        "--archive-interval",
        "200ms",
        "--snapshot-schedule",
        "base every 1s",
        "--keep-last",
        "2",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut server = options.start().unwrap();
    let mut client = server.client().unwrap();
    fill(&mut client, "a", 100);
    wait("a first snapshot by itself", || !published(&remote).is_empty());
    let first = published(&remote)[0];
    let address = server.address().to_string();
    let word = first.to_string();
    run(&["snapshot", "pin", &word, "--server", &address]);
    let shown = run(&["snapshot", "show", &word, "--server", &address]);
    assert!(shown.contains("pinned_at"), "{shown}");
    wait("it is pinned in the remote store too", || {
        run(&["snapshot", "show", &word, "--store", &url]).contains("pinned_at")
    });

    // Two stay, and the pinned one; the log begins later and later.
    let kept = |store: &Path| {
        let ids = published(store);
        ids.len() == 3 && ids[0] == first && ids[1] > first + 1
    };
    wait("older snapshots go there", || {
        set(&mut server.client().unwrap(), "tick");
        kept(&remote)
    });
    wait("older snapshots go here", || kept(&local));
    let error = refused(&["snapshot", "delete", &word, "--server", &address], 1);
    assert!(error.contains("is pinned"), "{error}");
    wait("older log goes", || log(&remote).first().is_some_and(|first| *first > 1));
    run(&["restorable", "--store", &url]);
    server.terminate().unwrap();
    stage.restore(&["--snapshot", &word], "pinned", 2).unwrap();
    let latest = stage.restore(&["--latest"], "latest", 2).unwrap();
    let restored = stage.serve_alone(&latest, 2).unwrap();
    assert_filled(&mut restored.client().unwrap(), "a", 100);

    // A restart knows the pin; lifted, it goes like the others.
    server.restart().unwrap();
    let shown = run(&["snapshot", "show", &word, "--server", &address]);
    assert!(shown.contains("pinned_at"), "{shown}");
    wait("unpinned in both stores", || {
        let unpin = ["snapshot", "unpin", &word, "--server", &address];
        server::subcommand(&unpin).unwrap().status.success()
    });
    wait("it goes there", || !published(&remote).contains(&first));
    wait("it goes here", || !published(&local).contains(&first));
    server.terminate().unwrap();
}

#[test]
fn pruning_says_what_goes_and_lets_it_go() {
    if server::is_stand_in() {
        return;
    }
    let stage = Stage::new(Setting::default()).unwrap();
    let (url, remote) = (stage.url(), stage.path("remote"));
    let mut server = stage.serve("data", 2).unwrap();
    for n in 0..4 {
        fill(&mut server.client().unwrap(), &format!("key{n}"), 50);
        create(&server);
    }
    let address = server.address().to_string();
    wait("all are there", || published(&remote).len() >= 4);
    let all = published(&remote);
    let dry = ["snapshot", "prune", "--dry-run", "--keep-last", "1", "--server", &address];
    let shown = run(&dry);
    assert!(shown.contains("remote  snapshot") && shown.contains("would go"), "{shown}");
    assert_eq!(published(&remote), all);
    // It says what can be restored then, as it does without a server.
    let windows = |shown: &str| {
        let (_, found) = shown.split_once("\n\nwhat can be restored then:\n").unwrap();
        found.to_owned()
    };
    assert!(windows(&shown).contains("  window  "), "{shown}");
    // Without a policy of the server, and none given, nothing goes.
    let shown = run(&["snapshot", "prune", "--server", &address]);
    assert!(!shown.contains("went") && shown.contains("there is no policy"), "{shown}");
    assert_eq!(published(&remote), all);
    run(&["snapshot", "prune", "--keep-last", "3", "--server", &address]);
    assert_eq!(published(&remote), all[all.len() - 3..]);
    let dry = ["snapshot", "prune", "--dry-run", "--keep-last", "2", "--json"];
    let online = run(&[&dry[..], &["--server", &address]].concat());
    server.terminate().unwrap();

    // Without a server. The last of the log came with its end.
    let offline = run(&[&dry[..], &["--store", &url]].concat());
    let first = |shown: &str| {
        let at = shown.find("\"first_lsn\"").unwrap_or_else(|| panic!("{shown}"));
        shown[at..].lines().next().unwrap().to_owned()
    };
    assert_eq!(first(&online), first(&offline), "{online}\n{offline}");
    let error = refused(&["snapshot", "prune", "--store", &url], 2);
    assert!(error.contains("--keep-last"), "{error}");
    let dry = ["snapshot", "prune", "--dry-run", "--keep-for", "36500d", "--store", &url];
    let shown = run(&dry);
    assert!(!shown.contains("would go") && shown.contains("window"), "{shown}");
    let pinned = all[all.len() - 3].to_string();
    run(&["snapshot", "pin", &pinned, "--store", &url]);
    let error = refused(&["snapshot", "delete", &pinned, "--store", &url], 1);
    assert!(error.contains("is pinned") && error.contains("unpin"), "{error}");
    let shown = run(&["snapshot", "prune", "--keep-last", "1", "--store", &url, "--json"]);
    assert!(shown.contains("\"why\": \"pinned\"") && shown.contains("windows"), "{shown}");
    assert_eq!(published(&remote), [all[all.len() - 3], all[all.len() - 1]]);
    run(&["snapshot", "unpin", &pinned, "--store", &url]);
    run(&["snapshot", "delete", &pinned, "--store", &url]);
    let latest = stage.restore(&["--latest"], "latest", 1).unwrap();
    let restored = stage.serve_alone(&latest, 2).unwrap();
    assert_filled(&mut restored.client().unwrap(), "key3", 50);
    drop(restored);
    // The server goes on with what is left.
    server.restart().unwrap();
    create(&server);
    wait("it is there", || published(&remote).len() == 2);
}

#[test]
fn a_store_that_cannot_be_listed_is_an_error_and_never_empty() {
    if server::is_stand_in() {
        return;
    }
    let stage = Stage::new(Setting::default()).unwrap();
    let url = stage.url();
    let mut server = stage.serve("data", 2).unwrap();
    fill(&mut server.client().unwrap(), "a", 50);
    create(&server);
    wait("it is there", || !published(&stage.path("remote")).is_empty());
    server.terminate().unwrap();

    // Both stores, whatever the name that cannot be looked at.
    let data = stage.path("data").join("store");
    for (store, folder) in [(data.clone(), "snapshots"), (data, "claims")] {
        let loop_of_links = store.join(folder).join("loop");
        std::os::unix::fs::symlink("loop", &loop_of_links).unwrap();
        let error = start_error(server_of(&stage).start());
        assert!(error.contains("list") && !error.contains("no snapshot"), "{error}");
        let local = format!("file://{}", store.display());
        for arguments in
            [["snapshot", "list", "--store", &local], ["restorable", "--store", &local, "--json"]]
        {
            let output = server::subcommand(&arguments).unwrap();
            assert!(!output.status.success(), "{arguments:?}");
        }
        fs::remove_file(loop_of_links).unwrap();
    }
    let links = stage.path("remote").join("wal/loop");
    std::os::unix::fs::symlink("loop", &links).unwrap();
    for arguments in [
        vec!["restorable", "--store", &url],
        vec!["restore", "--store", &url, "--latest", "--dry-run"],
        vec!["snapshot", "prune", "--dry-run", "--keep-last", "1", "--store", &url],
    ] {
        assert!(!server::subcommand(&arguments).unwrap().status.success(), "{arguments:?}");
    }
    fs::remove_file(links).unwrap();
    let server = server_of(&stage).start().unwrap();
    assert_filled(&mut server.client().unwrap(), "a", 50);
}

fn server_of(stage: &Stage) -> ServerOptions {
    ServerOptions::new(stage.path("data"))
}
