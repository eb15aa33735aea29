//! Local first, then up: uploads go on beside the server, whatever the store does; they are cut
//! short by a kill and finished by the next start, and a stop waits for them, but not for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use cutwater_bench::client::Client;
use cutwater_bench::process::ServerProcess;
use cutwater_bench::server::{self, ServerOptions};
use cutwater_bench::usage::resident_bytes;

use crate::remote::{
    Remote, create, files_below, is_uploaded, places, remote_id, run, status, value, wait_for,
};
use crate::s3::Write;
use crate::support::{assert_filled, fill};

/// Bytes of a value of [`fill_large`].
const VALUE_BYTES: usize = 256 << 10;
/// The longest object that goes up in one put, and the length of a part, as FORMAT.md has them not:
/// `cutwater_snapshot::upload` does.
const WHOLE_PUT_BYTES: u64 = cutwater_snapshot::upload::WHOLE_PUT_BYTES;
const PART_BYTES: u64 = cutwater_snapshot::upload::PART_BYTES;
/// What uploads may hold in memory: their stated bound.
const UPLOAD_BYTES: u64 = 64 << 20;
/// What else may come and go meanwhile: buffers of the log, of clients, of the allocator.
const SLACK_BYTES: u64 = 48 << 20;

/// Large values under keys of all slots, `count` of them.
fn fill_large(client: &mut Client, count: usize) {
    let value = vec![b'v'; VALUE_BYTES];
    for n in 0..count {
        let key = format!("large:{n}");
        assert!(client.call(&[&b"SET"[..], key.as_bytes(), &value]).unwrap().is_ok());
    }
}

/// A server that archives only when it stops, so that what goes up is snapshots.
fn options(remote: &Remote, shards: u16) -> ServerOptions {
    let mut options = remote.options();
    options.shards = shards;
    options.fsync = Some("never");
    options.more.extend(["--archive-interval", "1h"].map(str::to_owned));
    options
}

/// The writes of snapshots' objects, by object.
fn by_object(writes: &[Write]) -> BTreeMap<String, Vec<Write>> {
    let mut found: BTreeMap<String, Vec<Write>> = BTreeMap::new();
    for write in writes.iter().filter(|write| write.key.ends_with(".snap")) {
        let name = write.key.strip_prefix("some/prefix/").unwrap();
        found.entry(name.to_owned()).or_default().push(write.clone());
    }
    found
}

/// The objects of a snapshot in the local store, with their lengths.
fn local_objects(remote: &Remote, id: u64) -> BTreeMap<String, u64> {
    let root = remote.dir.path().join("data/store");
    let of_id = format!("snapshots/snap-{id:06}-");
    let named = |file: PathBuf| {
        let name = file.strip_prefix(&root).unwrap().display().to_string();
        let is_it = name.starts_with(&of_id) && name.ends_with(".snap");
        is_it.then(|| (name, fs::metadata(&file).unwrap().len()))
    };
    files_below(&root).into_iter().filter_map(named).collect()
}

#[test]
fn large_objects_go_up_in_parts_and_several_writes_at_once() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let server = options(&remote, 2).start().unwrap();
    fill_large(&mut server.client().unwrap(), 160);
    remote.wait_uploaded(&server);
    remote.s3.take_writes();
    remote.s3.take_most_under_way();
    remote.s3.behaviour().delay_ms.store(30, Ordering::SeqCst);
    let id = create(&server);
    remote.wait_uploaded(&server);
    let writes = by_object(&remote.s3.take_writes());
    let objects = local_objects(&remote, id);
    assert_eq!(objects.len(), 2, "{objects:?}");
    for (name, length) in &objects {
        assert!(*length > WHOLE_PUT_BYTES, "{name} has {length} bytes");
        let writes = &writes[name];
        let parts: BTreeSet<i32> = writes.iter().filter_map(|write| write.part).collect();
        assert_eq!(parts.len() as u64, length.div_ceil(PART_BYTES), "{writes:?}");
        assert_eq!(writes.iter().map(|write| write.bytes).sum::<u64>(), *length);
        assert!(writes.iter().all(|write| write.bytes <= PART_BYTES));
    }
    let most = remote.s3.take_most_under_way();
    assert!((2..=8).contains(&most), "{most} writes at once");
    remote.command(&["snapshot", "verify", &id.to_string()]);
}

/// Every part of the kill: in the middle of the first objects, of parts of a large one, and between
/// the last object and the manifest.
#[test]
fn an_upload_that_a_kill_cut_short_goes_on_with_what_is_missing() {
    if server::is_stand_in() {
        return;
    }
    for (shards, count, done) in [(6, 24, 2), (6, 24, 6), (1, 100, 2)] {
        let remote = Remote::new();
        let mut server = options(&remote, shards).start().unwrap();
        fill_large(&mut server.client().unwrap(), count);
        fill(&mut server.client().unwrap(), "key", 100);
        remote.wait_uploaded(&server);
        remote.s3.behaviour().freeze_after_writes.store(done, Ordering::SeqCst);
        let id = create(&server);
        wait_for("the store to freeze", || remote.s3.is_frozen());
        let place = places(&server).into_iter().find(|(of, _)| *of == id).unwrap().1;
        assert!(place.starts_with("uploading"), "{place}");
        server.kill9().unwrap();
        // Its requests die with their connections.
        let mut remote = remote;
        remote.s3.stop();
        remote.s3.thaw();
        remote.s3.resume();
        let of_id = |name: &String| name.starts_with(&format!("snapshots/snap-{id:06}-"));
        let before: BTreeSet<String> = remote.objects().into_iter().filter(of_id).collect();
        assert!(before.iter().all(|name| name.ends_with(".snap")), "{before:?}");
        let is_whole = shards == 1 || !before.is_empty();
        assert!(is_whole, "nothing was there");
        // Nothing that looks like a snapshot.
        let (code, _, error) = remote.try_command(&["snapshot", "verify", &id.to_string()], &[]);
        assert!(code == Some(3) && error.contains("there is no snapshot"), "{error}");
        let listed = remote.command(&["snapshot", "list"]);
        assert!(listed.contains("unfinished"), "{listed}");

        remote.s3.take_writes();
        server.restart().unwrap();
        remote.wait_uploaded(&server);
        let writes = by_object(&remote.s3.take_writes());
        let objects = local_objects(&remote, id);
        let missing = |(name, _): &(&String, &u64)| !before.contains(*name);
        let expected: u64 = objects.iter().filter(missing).map(|(_, length)| length).sum();
        let of_id = writes.iter().filter(|(name, _)| of_id(name));
        let received: u64 = of_id.flat_map(|(_, writes)| writes).map(|write| write.bytes).sum();
        assert_eq!(received, expected, "there was {before:?} of {objects:?}");
        remote.command(&["snapshot", "verify", &id.to_string()]);
        assert!(is_uploaded(&server, id));
    }
}

#[test]
fn a_kill_in_the_middle_of_a_snapshot_leaves_none() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let mut server = options(&remote, 2).start().unwrap();
    fill_large(&mut server.client().unwrap(), 160);
    let first = create(&server);
    remote.wait_uploaded(&server);
    server.kill9().unwrap();
    server.restart().unwrap();
    let local = format!("file://{}/store", remote.path("data"));
    let mut cut_short = 0;
    for _ in 0..4 {
        let mut client = server.client().unwrap();
        wait_for("a snapshot to be under way", || {
            let found = status(&server);
            if value(&found, "running") == "nil" {
                client.call(&["BGSAVE"]).unwrap();
            }
            value(&found, "running") != "nil" && value(&found, "written_bytes") != "0"
        });
        server.kill9().unwrap();
        // What is published is whole, and the rest is not published, in both stores.
        for url in [&local, &remote.url()] {
            let (_, listed, error) = match url.starts_with("s3") {
                true => remote.try_command(&["snapshot", "list", "--json"], &[]),
                false => run(&["snapshot", "list", "--json", "--store", url], &[]),
            };
            let rows: serde_json::Value = serde_json::from_str(&listed).expect(&error);
            for row in rows.as_array().unwrap() {
                let id = row["id"].as_u64().unwrap().to_string();
                let verify = ["snapshot", "verify", &id];
                let (code, _, error) = match url.starts_with("s3") {
                    true => remote.try_command(&verify, &[]),
                    false => run(&[&verify[..], &["--store", url]].concat(), &[]),
                };
                let is_published = row["state"] == "published";
                assert_eq!(code == Some(0), is_published, "{row} {error}");
                cut_short += u32::from(row["state"] == "unfinished");
            }
        }
        server.restart().unwrap();
        // The next start sweeps what was begun.
        let root = remote.dir.path().join("data/store");
        for file in
            files_below(&root).iter().filter(|file| file.extension().is_some_and(|e| e == "snap"))
        {
            assert!(file.with_file_name("manifest.msgpack").exists(), "{}", file.display());
        }
        wait_for("the uploads", || {
            let found = status(&server);
            value(&found, "remote_state") == "writer" && value(&found, "remote_pending") == "0"
        });
    }
    assert!(cut_short > 0, "no snapshot was cut short");
    remote.command(&["snapshot", "verify", &first.to_string()]);
}

/// Sends SETs one after the other until it is told to end; how many were acknowledged, and the
/// longest that one took.
fn write_on(server: &ServerProcess, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    let (mut client, stop) = (server.client().unwrap(), Arc::clone(stop));
    std::thread::spawn(move || {
        let mut count = 0;
        while !stop.load(Ordering::SeqCst) {
            let key = format!("written:{count}");
            assert!(client.call(&["SET", &key, &format!("value {count}")]).unwrap().is_ok());
            count += 1;
        }
        count
    })
}

#[test]
fn a_frozen_store_costs_no_write_and_no_memory_and_all_goes_up_later() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let mut more = options(&remote, 2);
    more.fsync = Some("always");
    let server = more.start().unwrap();
    fill_large(&mut server.client().unwrap(), 160);
    create(&server);
    remote.wait_uploaded(&server);
    let uploaded_before: u64 = value(&status(&server), "remote_uploaded").parse().unwrap();
    let before = resident_bytes(server.pid()).unwrap();
    remote.s3.freeze();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2).map(|_| write_on(&server, &stop)).collect();
    let info = || server.client().unwrap().call(&["INFO", "persistence"]).unwrap().to_string();
    let mut ids = Vec::new();
    for pending in 1..=4 {
        ids.push(create(&server));
        // From the reply on it is counted, whatever the uploads are at.
        assert!(info().contains(&format!("remote_pending:{pending}")), "{}", info());
    }
    // While they wait, the first in the store's hands, writes go on.
    let written = |server: &ServerProcess| {
        let count = server.client().unwrap().call(&["DBSIZE"]).unwrap().integer().unwrap();
        usize::try_from(count).unwrap()
    };
    let there = written(&server);
    wait_for("writes", || written(&server) > there + 500);
    let found = status(&server);
    assert_eq!(value(&found, "remote_pending"), "4", "{found:?}");
    assert_eq!(value(&found, "remote_uploading"), ids[0].to_string(), "{found:?}");
    let listed: Vec<String> = places(&server)
        .into_iter()
        .filter(|(id, _)| ids.contains(id))
        .map(|(_, place)| place)
        .collect();
    assert_eq!(listed, ["uploading 0%", "pending", "pending", "pending"]);
    let after = resident_bytes(server.pid()).unwrap();
    assert!(after <= before + UPLOAD_BYTES + SLACK_BYTES, "{before} bytes became {after}");
    remote.s3.thaw();
    let found = remote.wait_uploaded(&server);
    let uploaded: u64 = value(&found, "remote_uploaded").parse().unwrap();
    assert_eq!(uploaded, uploaded_before + 4);
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        assert!(writer.join().unwrap() > 0);
    }
    for id in ids {
        remote.command(&["snapshot", "verify", &id.to_string()]);
    }
}

/// Writes that fail before or after they were done, and answers that take their time: all of it is
/// tried again, and leaves nothing twice.
#[test]
fn failures_of_the_store_are_tried_again() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let behaviour = remote.s3.behaviour();
    let server = options(&remote, 3).start().unwrap();
    remote.wait_uploaded(&server);
    for (round, failure) in [&behaviour.failing, &behaviour.refusing].into_iter().enumerate() {
        fill(&mut server.client().unwrap(), &format!("round {round}"), 500);
        failure.store(true, Ordering::SeqCst);
        let id = create(&server);
        let mut found = Vec::new();
        wait_for("a failure", || {
            found = status(&server);
            value(&found, "remote_last_error") != "nil"
        });
        assert!(value(&found, "remote_last_error").contains("on purpose"), "{found:?}");
        assert_ne!(value(&found, "remote_pending"), "0", "{found:?}");
        fill(&mut server.client().unwrap(), "meanwhile", 100);
        failure.store(false, Ordering::SeqCst);
        let found = remote.wait_uploaded(&server);
        assert_eq!(value(&found, "remote_last_error"), "nil");
        assert!(is_uploaded(&server, id));
        remote.command(&["snapshot", "verify", &id.to_string()]);
    }
    behaviour.delay_ms.store(150, Ordering::SeqCst);
    let id = create(&server);
    remote.wait_uploaded(&server);
    behaviour.delay_ms.store(0, Ordering::SeqCst);
    remote.command(&["snapshot", "verify", &id.to_string()]);
    // Every claim is a takeover's or a snapshot's, and nothing is left of any try.
    let listed = remote.command(&["snapshot", "list", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert!(rows.as_array().unwrap().iter().all(|row| row["state"] == "published"), "{listed}");
    let multipart = files_below(&remote.s3.folder().join(".."));
    let left = multipart.iter().filter(|file| file.to_string_lossy().contains(".upload"));
    assert_eq!(left.count(), 0);
}

#[test]
fn the_upload_limit_holds() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let mut limited = options(&remote, 8);
    limited.more.extend(["--upload-limit", "2"].map(str::to_owned));
    let server = limited.start().unwrap();
    fill_large(&mut server.client().unwrap(), 24);
    remote.wait_uploaded(&server);
    remote.s3.take_writes();
    let began = Instant::now();
    let id = create(&server);
    remote.wait_uploaded(&server);
    let objects = local_objects(&remote, id);
    let writes = by_object(&remote.s3.take_writes());
    let writes: Vec<&Write> =
        writes.iter().filter(|(n, _)| objects.contains_key(*n)).flat_map(|(_, w)| w).collect();
    let total: u64 = writes.iter().map(|write| write.bytes).sum();
    let largest = writes.iter().map(|write| write.bytes).max().unwrap();
    assert_eq!(total, objects.values().sum::<u64>());
    // By the store's own account: what came until the last one came, the last one's time not
    // counted, was not faster. A slow machine only makes it later.
    let last = writes.iter().map(|write| write.at).max().unwrap();
    let allowed = last.duration_since(began).as_secs_f64() * f64::from(2 << 20);
    assert!((total - largest) as f64 <= allowed, "{total} bytes, {allowed} were allowed");
}

#[test]
fn a_stop_waits_for_uploads_and_not_for_ever() {
    if server::is_stand_in() {
        return;
    }
    let mut remote = Remote::new();
    let warning = "uploads are not over: the next start goes on with them";
    let output = |remote: &Remote| fs::read_to_string(remote.path("data.output")).unwrap();
    // A slow store: the stop waits until it has all.
    let mut more = options(&remote, 2);
    more.more.extend(["--shutdown-timeout", "60s"].map(str::to_owned));
    let mut server = more.start().unwrap();
    fill(&mut server.client().unwrap(), "key", 200);
    remote.wait_uploaded(&server);
    remote.s3.behaviour().delay_ms.store(200, Ordering::SeqCst);
    let slow = create(&server);
    server.terminate().unwrap();
    remote.s3.behaviour().delay_ms.store(0, Ordering::SeqCst);
    let (code, _, error) = remote.try_command(&["snapshot", "verify", &slow.to_string()], &[]);
    assert_eq!(code, Some(0), "{error} {}", output(&remote));
    assert!(!output(&remote).contains(warning), "{}", output(&remote));

    // A frozen one: until the time is up, and the next start finishes.
    let limit = ["--shutdown-timeout", "1s"].map(str::to_owned);
    let mut more = options(&remote, 2);
    more.more.extend(limit.clone());
    let mut server = more.start().unwrap();
    remote.wait_uploaded(&server);
    remote.s3.freeze();
    let frozen = create(&server);
    server.terminate().unwrap();
    assert_eq!(output(&remote).matches(warning).count(), 1, "{}", output(&remote));
    remote.s3.stop();
    remote.s3.thaw();
    remote.s3.resume();
    server.restart().unwrap();
    remote.wait_uploaded(&server);
    remote.command(&["snapshot", "verify", &remote_id(&server, frozen).to_string()]);

    // One that is gone: it is tried once more, and said.
    remote.s3.stop();
    let gone = create(&server);
    wait_for("a failure", || value(&status(&server), "remote_last_error") != "nil");
    server.terminate().unwrap();
    assert_eq!(output(&remote).matches(warning).count(), 2, "{}", output(&remote));
    remote.s3.resume();
    server.restart().unwrap();
    remote.wait_uploaded(&server);
    remote.command(&["snapshot", "verify", &remote_id(&server, gone).to_string()]);
    assert_filled(&mut server.client().unwrap(), "key", 200);
}
