//! Deep verification at a server: by command and by the command line, cancelled, refused where
//! there is not the memory for it, and bounded in number like every verification.

use std::fs;

use cutwater_bench::client::Client;
use cutwater_bench::process::ServerProcess;
use cutwater_bench::reply::Reply;
use cutwater_bench::server::{self, ServerOptions, field};
use cutwater_snapshot::paths::SnapshotName;

use crate::cancel::{LIMIT, beside, wait_until};
use crate::sealing::manifest;
use crate::support::{fill, refused, serve, snapshot_folder};

const KEYS: usize = 1_000;
/// Bytes of the keys of [`slow`]; at a MiB a second reading them takes as many seconds.
const DATA_BYTES: usize = 12 << 20;
/// How many verifications a server has at once.
const VERIFICATIONS_MAX: usize = 4;

fn verifications(client: &mut Client) -> usize {
    let status = client.call(&["SNAPSHOT", "STATUS"]).unwrap();
    match field(&status, "verifications") {
        Some(Reply::Array(_, running)) => running.len(),
        other => panic!("{other:?}"),
    }
}

/// A server that reads slowly, and a snapshot of it.
fn slow() -> (tempfile::TempDir, ServerProcess, String) {
    let (dir, mut server) = serve(|_| {});
    let mut client = server.client().unwrap();
    let value = "x".repeat(1 << 20);
    for n in 0..DATA_BYTES / value.len() {
        assert!(client.call(&["SET", &format!("key:{n}"), &value]).unwrap().is_ok());
    }
    let id = server::create_snapshot(&server).unwrap().to_string();
    server.terminate().unwrap();
    let mut options = ServerOptions::new(dir.path().join("data"));
    options.more = ["--snapshot-limit", "1"].map(str::to_owned).to_vec();
    (dir, options.start().unwrap(), id)
}

#[test]
fn a_deep_verification_by_command_and_by_the_command_line() {
    if server::is_stand_in() {
        return;
    }
    let (dir, server) = serve(|_| {});
    let mut client = server.client().unwrap();
    client.set_timeout(LIMIT).unwrap();
    fill(&mut client, "a", KEYS);
    let base = server::create_snapshot(&server).unwrap();
    fill(&mut client, "b", KEYS);
    let created = client.call(&["SNAPSHOT", "CREATE", "DELTA"]).unwrap();
    assert_eq!(field(&created, "parent_id").unwrap().integer(), Some(base as i64), "{created}");
    let id = field(&created, "id").unwrap().integer().unwrap().to_string();
    let report = client.call(&["SNAPSHOT", "VERIFY", &id, "DEEP"]).unwrap();
    let number = |name: &str| field(&report, name).and_then(Reply::integer);
    assert_eq!(number("keys"), Some(2 * KEYS as i64), "{report}");
    assert_eq!(number("snapshots"), Some(2), "{report}");
    let syntax = client.call(&["SNAPSHOT", "VERIFY", &id, "DEEPER"]).unwrap().to_string();
    assert!(syntax.contains("ERR syntax error: VERIFY id [DEEP]"), "{syntax}");
    let address = server.address().to_string();
    let verify = ["snapshot", "verify", &id, "--deep", "--server", &address];
    let output = server::subcommand(&verify).unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let expected =
        format!("verified snapshot {id}: it is whole, and restores what it was taken of\n");
    assert_eq!(printed, expected, "{}", String::from_utf8_lossy(&output.stderr));

    // What says that it has more keys than any machine has memory is not even begun.
    let folder = snapshot_folder(&dir.path().join("data"), base);
    let name = SnapshotName::parse(&folder.file_name().unwrap().to_string_lossy()).unwrap();
    let mut forged = manifest(&folder, name);
    let more = 1 << 50;
    forged.cores[0].entries += more;
    forged.objects[0].entries += more;
    fs::write(folder.join("manifest.msgpack"), forged.encode()).unwrap();
    let base = base.to_string();
    let needed = client.call(&["SNAPSHOT", "VERIFY", &base, "DEEP"]).unwrap().to_string();
    let expected = format!("ERR a deep verification of snapshot {base} needs about 7205759403");
    assert!(needed.contains(&expected) && needed.contains(" are available: "), "{needed}");
    assert!(needed.contains(&format!("`cutwater snapshot verify {base} --deep")), "{needed}");
    let printed = refused(&["snapshot", "verify", &base, "--deep", "--server", &address], 1);
    assert!(printed.contains(" are available: "), "{printed}");
    assert_eq!(verifications(&mut client), 0);
}

#[test]
fn verifications_are_bounded_and_deep_ones_are_cancelled() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, server, id) = slow();
    let mut client = server.client().unwrap();
    let deep = beside(&server, &["SNAPSHOT", "VERIFY", &id, "DEEP"]);
    wait_until("it runs", || verifications(&mut client) == 1);
    assert_eq!(client.call(&["SNAPSHOT", "CANCEL", "VERIFY"]).unwrap().integer(), Some(1));
    let cancelled = deep.join().unwrap().to_string();
    let expected = format!("CANCELLED the verification of snapshot {id} was cancelled");
    assert!(cancelled.contains(&expected), "{cancelled}");
    assert_eq!(verifications(&mut client), 0);

    let commands = [&["SNAPSHOT", "VERIFY", &id][..], &["SNAPSHOT", "VERIFY", &id, "DEEP"]];
    let running: Vec<_> =
        (0..VERIFICATIONS_MAX).map(|n| beside(&server, commands[n % 2])).collect();
    wait_until("all run", || verifications(&mut client) == VERIFICATIONS_MAX);
    for command in commands {
        let busy = client.call(command).unwrap().to_string();
        assert!(busy.contains("BUSY 4 verifications are under way"), "{busy}");
    }
    let address = server.address().to_string();
    let printed = refused(&["snapshot", "verify", &id, "--server", &address], 6);
    assert!(printed.contains("4 verifications are under way"), "{printed}");
    let all = client.call(&["SNAPSHOT", "CANCEL", "VERIFY", &id]).unwrap().integer();
    assert_eq!(all, Some(VERIFICATIONS_MAX as i64));
    for one in running {
        assert!(one.join().unwrap().to_string().contains("CANCELLED"));
    }
    assert_eq!(verifications(&mut client), 0);
}
