//! The archive and what is restored from it, on the real binary, with a folder and with an S3
//! server: transactions whole at every moment, every kind of change, what is refused and how that
//! is said, stores that go away.

use std::fs;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cutwater_bench::client::Client;
use cutwater_bench::moments::stage::{self, Moment, Setting, Stage};
use cutwater_bench::process::ServerProcess;
use cutwater_bench::reply::Reply;
use cutwater_bench::server::{self, field};
use cutwater_bench::sim::rng::Rng;
use cutwater_bench::tools;
use cutwater_snapshot::archive::{WalHeader, WalNumber};
use cutwater_snapshot::compression::Algorithm;
use serde_json::Value;

use crate::support::{refused, start_error};

/// How long anything that is waited for may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Accounts between which money moves, on all shards.
const ACCOUNTS: usize = 16;
/// What each of them begins with.
const BALANCE: i64 = 1_000;
/// How far the clock of LSNs may be from the wall clock, in microseconds: it is slewed, not set.
const SKEW_US: u64 = 2_000;

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

/// Waits until it is so.
fn wait(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A field of SNAPSHOT STATUS.
fn status(server: &ServerProcess, name: &str) -> String {
    let reply = server.client().unwrap().call(&["SNAPSHOT", "STATUS"]).unwrap();
    let found = field(&reply, name).unwrap();
    found.bytes().map_or_else(|| found.to_string(), |b| String::from_utf8_lossy(b).into_owned())
}

/// Waits until everything up to now is archived.
fn wait_archived(server: &ServerProcess) {
    stage::wait_archived(server).unwrap();
}

/// Waits until a window has begun.
fn wait_for_window(stage: &Stage) {
    wait("no window", || stage.current().is_ok_and(|found| !found.windows.is_empty()));
}

fn ok(client: &mut Client, command: &[&str]) {
    let reply = client.call(command).unwrap();
    assert!(!matches!(reply, Reply::Error(_)), "{command:?}: {reply}");
}

fn text(client: &mut Client, command: &[&str]) -> Option<String> {
    let reply = client.call(command).unwrap();
    reply.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn balances(client: &mut Client) -> Vec<Option<i64>> {
    let names: Vec<String> = (0..ACCOUNTS).map(|n| format!("account:{n}")).collect();
    let command: Vec<String> = ["MGET".to_owned()].into_iter().chain(names).collect();
    let Reply::Array(_, values) = client.call(&command).unwrap() else { panic!("no array") };
    values.iter().map(Reply::integer).collect()
}

/// Moves money at random, by MSET and by EXEC in turn.
fn move_money(client: &mut Client, balances: &mut [i64], rng: &mut Rng, count: usize) {
    for n in 0..count {
        let (from, to) = (rng.below(ACCOUNTS), rng.below(ACCOUNTS));
        let amount = rng.below(100) as i64;
        balances[from] -= amount;
        balances[to] += amount;
        let [a, b] = [from, to].map(|at| (format!("account:{at}"), balances[at].to_string()));
        if n % 2 == 0 {
            ok(client, &["MSET", &a.0, &a.1, &b.0, &b.1]);
            continue;
        }
        let one = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let commands: Vec<Vec<String>> = vec![
            one(&["MULTI"]),
            one(&["SET", &a.0, &a.1]),
            one(&["SET", &b.0, &b.1]),
            one(&["EXEC"]),
        ];
        let replies = client.pipeline(&commands).unwrap();
        assert!(matches!(replies.last(), Some(Reply::Array(..))), "{replies:?}");
    }
}

#[test]
fn transactions_are_whole_at_every_moment_sealed_and_compressed_in_s3() {
    if server::is_stand_in() {
        return;
    }
    let setting = Setting { s3: true, sealed: true, compression: "zstd:1", interval: "100ms" };
    let stage = Stage::new(setting).unwrap();
    let mut rng = Rng::new(0xA4C1);
    let mut server = stage.serve("data", 5).unwrap();
    wait_for_window(&stage);
    let mut client = server.client().unwrap();
    let mut all = ["MSET".to_owned()].to_vec();
    all.extend((0..ACCOUNTS).flat_map(|n| [format!("account:{n}"), BALANCE.to_string()]));
    assert!(client.call(&all).unwrap().is_ok());
    let begun = now_us() + SKEW_US;
    wait("time passes", || now_us() > begun);
    let mut now = vec![BALANCE; ACCOUNTS];
    move_money(&mut client, &mut now, &mut rng, 600);
    // Puts are done and reported as failed: nothing may be there twice, or not at all.
    let failing = |fails: bool| {
        stage.s3().unwrap().behaviour().failing.store(fails, Ordering::SeqCst);
    };
    failing(true);
    wait("no put fails", || {
        move_money(&mut client, &mut now, &mut rng, 20);
        status(&server, "archive_last_error").contains("failed on purpose")
    });
    failing(false);
    move_money(&mut client, &mut now, &mut rng, 300);
    server.kill9().unwrap();
    server.restart().unwrap();
    let mut client = server.client().unwrap();
    move_money(&mut client, &mut now, &mut rng, 300);
    server.terminate().unwrap();

    let found = stage.current().unwrap();
    let (_, last) = *found.windows.last().unwrap();
    for n in 0..9 {
        let at = Moment::new(begun + rng.any() % (last - begun));
        let (written, served) = (*rng.pick(&[1, 2, 5]), *rng.pick(&[1, 2, 5]));
        let into = stage.restore(&["--at", &at.text], &format!("at-{n}"), written).unwrap();
        let restored = stage.serve_alone(&into, served).unwrap();
        let found = balances(&mut restored.client().unwrap());
        let sum: i64 = found.iter().map(|balance| balance.unwrap()).sum();
        assert_eq!(sum, BALANCE * ACCOUNTS as i64, "{} {found:?}", at.text);
        drop(restored);
        fs::remove_dir_all(into).unwrap();
    }
    // The last object was put on shutdown.
    let into = stage.restore(&["--latest"], "latest", 2).unwrap();
    let restored = stage.serve_alone(&into, 1).unwrap();
    let found: Vec<i64> = balances(&mut restored.client().unwrap()).into_iter().flatten().collect();
    assert_eq!(found, now);
    drop(restored);

    // One chain of objects, sealed, and compressed where that is worth it.
    let (mut last, mut compressed) = (None, 0);
    for path in stage.wal_objects().unwrap() {
        let number = path.file_name().unwrap().to_string_lossy().parse().unwrap();
        let header = WalHeader::decode(WalNumber(number), &fs::read(&path).unwrap()).unwrap();
        assert!(header.sealed.is_some(), "{number} is plain");
        compressed += usize::from(header.compression == Algorithm::Zstd);
        if let Some((link, to)) = last.replace((header.link, header.to)) {
            assert_eq!((header.predecessor, header.from), (Some(link), to), "{number}");
        }
    }
    assert!(compressed > 0, "nothing is compressed");

    // Without the key, and with another.
    let (url, config) = (stage.url(), stage.path("cutwater.toml").display().to_string());
    let other = stage.path("other").display().to_string();
    refused_not(&["keygen", "--out", &other]);
    let into = stage.path("never").display().to_string();
    let begin = ["restore", "--store", &url, "--config", &config, "--into", &into, "--latest"];
    let error = refused(&begin, 4);
    assert!(error.contains("--key-file") && error.contains("test"), "{error}");
    let other = format!("test={other}");
    let error = refused(&[&begin[..], &["--key-file", &other]].concat(), 4);
    assert!(error.contains("snap-") || error.contains("wal/"), "{error}");
    assert!(!stage.path("never").exists());
}

/// Runs the binary, which has to succeed; what it printed.
fn refused_not(arguments: &[&str]) -> String {
    let output = server::subcommand(arguments).unwrap();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {printed}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a database looks like: a few keys of several databases, and a large string.
type Picture = (Vec<Option<String>>, String, Vec<String>);

/// Bytes of the large string.
const LARGE_BYTES: usize = 64 << 20;

fn picture(client: &mut Client) -> Picture {
    let mut found = Vec::new();
    let mut sizes = Vec::new();
    for db in ["0", "3", "15"] {
        ok(client, &["SELECT", db]);
        found.extend(["a", "b", "short"].map(|key| text(client, &["GET", key])));
        sizes.push(client.call(&["DBSIZE"]).unwrap().to_string());
    }
    ok(client, &["SELECT", "0"]);
    let mut large = client.call(&["STRLEN", "large"]).unwrap().to_string();
    for at in [0, 1, LARGE_BYTES / 2, LARGE_BYTES - 8] {
        let (from, to) = (at.to_string(), (at + 7).to_string());
        large.push_str(&text(client, &["GETRANGE", "large", &from, &to]).unwrap());
    }
    (found, large, sizes)
}

/// A change, and the moment behind it.
fn step(client: &mut Client, commands: &[&[&str]]) -> (Moment, Picture) {
    for command in commands {
        ok(client, command);
    }
    let picture = picture(client);
    let moment = Moment::new(now_us() + SKEW_US);
    let next = moment.micros + SKEW_US;
    wait("time passes", || now_us() > next);
    (moment, picture)
}

#[test]
fn every_kind_of_change_comes_back_as_it_was() {
    if server::is_stand_in() {
        return;
    }
    let setting = Setting { compression: "lz4", interval: "300ms", ..Setting::default() };
    let stage = Stage::new(setting).unwrap();
    let mut server = stage.serve("data", 2).unwrap();
    wait_for_window(&stage);
    let mut client = server.client().unwrap();
    let middle = (LARGE_BYTES / 2).to_string();
    let end = (LARGE_BYTES - 1).to_string();
    let mut steps = vec![
        step(&mut client, &[&["SET", "a", "1"], &["SELECT", "3"], &["SET", "a", "3"]]),
        step(
            &mut client,
            &[&["SETRANGE", "large", &end, "z"], &["SELECT", "15"], &["SET", "b", "9"]],
        ),
        step(
            &mut client,
            &[&["SETRANGE", "large", &middle, "middle"], &["SETRANGE", "large", "1", "x"]],
        ),
        step(&mut client, &[&["SELECT", "3"], &["FLUSHDB"], &["SET", "b", "after"]]),
        step(&mut client, &[&["RENAME", "large", "other"], &["RENAME", "other", "large"]]),
        step(&mut client, &[&["FLUSHALL"]]),
        step(&mut client, &[&["SET", "a", "again"], &["APPEND", "large", "new"]]),
    ];
    // A key that expires: before, it is counted; at its end it is deleted.
    ok(&mut client, &["SET", "short", "1", "PX", "500"]);
    let with_key = Moment::new(now_us() + SKEW_US);
    wait("it expires", || client.call(&["DBSIZE"]).unwrap().integer() == Some(2));
    steps.push(step(&mut client, &[&["SET", "b", "last"]]));
    server.terminate().unwrap();

    for (n, (moment, expected)) in steps.iter().enumerate() {
        let shards = [1, 2, 5][n % 3];
        let into = stage.restore(&["--at", &moment.text], &format!("step-{n}"), shards).unwrap();
        let restored = stage.serve_alone(&into, 2).unwrap();
        assert_eq!(&picture(&mut restored.client().unwrap()), expected, "step {n}");
        drop(restored);
        fs::remove_dir_all(into).unwrap();
    }
    let into = stage.path("with-key").display().to_string();
    let command = ["--into", &into, "--at", &with_key.text, "--json"];
    let output = stage.command("restore", &command).unwrap();
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["restored"]["keys"], 3, "{plan}");
}

#[test]
fn both_branches_are_restored_after_a_restore() {
    if server::is_stand_in() {
        return;
    }
    let setting = Setting { s3: true, interval: "100ms", ..Setting::default() };
    let stage = Stage::new(setting).unwrap();
    let mut server = stage.serve("data", 2).unwrap();
    wait_for_window(&stage);
    let mut client = server.client().unwrap();
    ok(&mut client, &["MSET", "trunk", "1", "side", "trunk"]);
    let fork = Moment::new(now_us() + SKEW_US);
    wait("time passes", || now_us() > fork.micros + SKEW_US);
    ok(&mut client, &["MSET", "first", "1", "side", "first"]);
    server.terminate().unwrap();
    let first = stage.current().unwrap().id;

    stage.restore(&["--at", &fork.text], "branch", 5).unwrap();
    let mut server = stage.serve("branch", 1).unwrap();
    let mut client = server.client().unwrap();
    assert_eq!(text(&mut client, &["GET", "side"]).unwrap(), "trunk");
    ok(&mut client, &["MSET", "second", "1", "side", "second"]);
    wait_archived(&server);
    server.terminate().unwrap();
    let second = stage.current().unwrap().id;
    assert_ne!(first, second);

    for (history, side, other) in [(&first, "first", "second"), (&second, "second", "first")] {
        let into = stage.restore(&["--latest", "--history", history], side, 2).unwrap();
        let restored = stage.serve_alone(&into, 2).unwrap();
        let mut client = restored.client().unwrap();
        assert_eq!(text(&mut client, &["GET", "side"]).unwrap(), side);
        assert_eq!(text(&mut client, &["GET", other]), None);
        // The fork itself, from either side.
        let name = format!("fork-{side}");
        let into = stage.restore(&["--at", &fork.text, "--history", history], &name, 2).unwrap();
        let restored = stage.serve_alone(&into, 2).unwrap();
        assert_eq!(text(&mut restored.client().unwrap(), &["GET", "side"]).unwrap(), "trunk");
    }
    let listed = stage.command("restorable", &["--json"]).unwrap();
    let rows: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let row = |id: &str| {
        rows.as_array().unwrap().iter().find(|row| row["history"] == id).unwrap().clone()
    };
    assert_eq!(row(&second)["parent"], first.as_str(), "{rows}");
    assert!(row(&second)["current"] == true && row(&first)["current"] == false, "{rows}");
    assert!(!row(&second)["windows"].as_array().unwrap().is_empty(), "{rows}");
    // A copy of the first directory as it was does not go on with its history.
    let error = start_error(stage.options("branch-old", 2).start().and_then(|_| {
        Err::<ServerProcess, _>(std::io::Error::other("a new directory in a used prefix"))
    }));
    assert!(error.contains("belongs to"), "{error}");
}

/// Copies a folder.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_copied_directory_does_not_start_once_the_original_went_on() {
    if server::is_stand_in() {
        return;
    }
    let stage = Stage::new(Setting { s3: true, interval: "1h", ..Setting::default() }).unwrap();
    let mut server = stage.serve("data", 2).unwrap();
    wait("no base goes up", || stage.restorable().is_ok_and(|printed| printed.contains("window")));
    ok(&mut server.client().unwrap(), &["SET", "a", "1"]);
    server.terminate().unwrap();
    copy(&stage.path("data"), &stage.path("copy"));
    server.restart().unwrap();
    ok(&mut server.client().unwrap(), &["SET", "b", "2"]);
    // Nothing is due for an hour: the write is put by the stop.
    let before = stage.wal_objects().unwrap().len();
    server.terminate().unwrap();
    assert!(stage.wal_objects().unwrap().len() > before);
    let into = stage.restore(&["--latest"], "latest", 2).unwrap();
    let restored = stage.serve_alone(&into, 2).unwrap();
    assert_eq!(text(&mut restored.client().unwrap(), &["GET", "b"]).unwrap(), "2");
    drop(restored);
    let error = start_error(stage.options("copy", 2).start());
    assert!(error.contains("is older than its archive"), "{error}");
    assert!(error.contains("Restore the archive into a new directory"), "{error}");
    server.restart().unwrap();
    assert_eq!(text(&mut server.client().unwrap(), &["GET", "b"]).unwrap(), "2");
}

#[test]
fn a_store_that_goes_away_during_a_restore_leaves_nothing() {
    if server::is_stand_in() {
        return;
    }
    let setting = Setting { s3: true, interval: "200ms", ..Setting::default() };
    let stage = Stage::new(setting).unwrap();
    let mut server = stage.serve("data", 2).unwrap();
    wait_for_window(&stage);
    let mut client = server.client().unwrap();
    for n in 0..30 {
        ok(&mut client, &["SET", &format!("key:{n}"), &"v".repeat(100_000)]);
        wait_archived(&server);
    }
    server.terminate().unwrap();
    let into = stage.path("restored").display().to_string();
    let requests = || stage.s3().unwrap().behaviour().requests.load(Ordering::SeqCst);
    stage.s3().unwrap().behaviour().delay_ms.store(30, Ordering::SeqCst);
    let planned = requests();
    let mut plan = stage.command("restore", &["--latest", "--dry-run", "--json"]).unwrap();
    let heads = requests() - planned;
    let plan: Value = serde_json::from_slice(&std::mem::take(&mut plan.stdout)).unwrap();
    assert!(plan["wal"].as_array().unwrap().len() > 20, "{plan}");

    let (url, access) = (stage.url(), stage.access());
    let mut command = Command::new(server::binary().unwrap());
    tools::hide_variables(&mut command);
    command.args(["restore", "--store", &url, "--into", &into, "--latest"]).args(&access);
    let before = requests();
    let restore = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait("no object is read", || requests() > before + heads + 8);
    stage.s3().unwrap().stop();
    let output = restore.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{printed}");
    assert!(printed.contains("wal/"), "{printed}");
    assert!(!stage.path("restored").exists(), "something is left");
    // Nor in a folder that was there.
    fs::create_dir(stage.path("restored")).unwrap();
    let output = stage.command("restore", &["--into", &into, "--latest"]).unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(fs::read_dir(stage.path("restored")).unwrap().count(), 0);
    stage.s3().unwrap().resume();
    let into = stage.restore(&["--latest"], "restored", 2).unwrap();
    let restored = stage.serve_alone(&into, 5).unwrap();
    assert_eq!(restored.client().unwrap().call(&["DBSIZE"]).unwrap().integer(), Some(30));
}

/// The command line of a restore.
fn restore_from<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["restore", "--store", url], more].concat()
}

#[test]
fn what_cannot_be_restored_is_said_and_changes_nothing() {
    if server::is_stand_in() {
        return;
    }
    let setting = Setting { interval: "100ms", ..Setting::default() };
    let stage = Stage::new(setting).unwrap();
    let mut server = stage.serve("data", 2).unwrap();
    wait_for_window(&stage);
    ok(&mut server.client().unwrap(), &["SET", "a", "1"]);
    wait_archived(&server);
    let url = stage.url();
    let into = |name: &str| stage.path(name).display().to_string();
    let refused = |code: i32, more: &[&str], said: &[&str]| {
        let error = refused(&restore_from(&url, more), code);
        assert!(said.iter().all(|said| error.contains(said)), "{more:?}: {error}");
    };
    let new = into("new");
    let served = into("data");
    refused(1, &["--into", &served, "--latest"], &["data", "not empty"]);
    refused(2, &["--into", &new], &["--at", "--latest"]);
    refused(2, &["--into", &new, "--latest", "--lsn", "1"], &["--latest", "--lsn"]);
    refused(2, &["--into", &new, "--at", "yesterday"], &["yesterday", "2026-"]);
    refused(2, &["--into", &new, "--latest", "--shards", "0"], &["0"]);
    refused(2, &["--latest"], &["--into"]);
    refused(2, &["--into", &new, "--latest", "--history", "xyz"], &["32 lower-case hex"]);
    let unknown = "0".repeat(32);
    refused(3, &["--into", &new, "--latest", "--history", &unknown], &["knows no history"]);
    refused(3, &["--into", &new, "--snapshot", "999"], &["no snapshot 999", "snapshot list"]);
    for moment in ["1999-01-01T00:00:00Z", "2999-01-01T00:00:00Z"] {
        refused(3, &["--into", &new, "--at", moment], &["outside every window", "nearest"]);
    }
    refused(3, &["--into", &new, "--lsn", "5"], &["outside every window", "nearest"]);
    // Below a file no folder can be made.
    fs::write(stage.path("file"), "x").unwrap();
    for place in ["file/below", "file"] {
        let place = into(place);
        let restore = restore_from(&url, &["--into", &place, "--latest"]);
        let output = server::subcommand(&restore).unwrap();
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && printed.contains(&place), "{printed}");
    }
    assert_eq!(fs::read(stage.path("file")).unwrap(), b"x");
    assert!(!stage.path("new").exists());

    // Everything that may be asked, as JSON; nothing is made of it.
    let plan =
        refused_not(&restore_from(&url, &["--latest", "--dry-run", "--json", "--into", &new]));
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert!(plan["base"].is_u64() && plan["target"].is_string(), "{plan}");
    assert!(!stage.path("new").exists());
    let lsn = plan["target_lsn"].to_string();
    fs::create_dir(stage.path("empty")).unwrap();
    let empty = into("empty");
    let made = refused_not(&restore_from(&url, &["--lsn", &lsn, "--json", "--into", &empty]));
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["restored"]["keys"], 1, "{made}");
    server.kill9().unwrap();
}
