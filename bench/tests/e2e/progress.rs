//! How far a long command is: a bar where there is a terminal, plain lines where there is none, and
//! the result on standard output either way.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cutwater_bench::server::{self, ServerOptions};
use cutwater_bench::tools;

use crate::cancel::InS3;
use crate::support::serve;

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Runs a command on a pseudo terminal, of which everything comes on standard output.
const ON_TERMINAL: &str = "import os, pty, sys; \
                           sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
/// Bytes of the keys; at 1 MiB a second a snapshot of them takes some seconds.
const DATA_BYTES: usize = 4 << 20;

/// A server whose snapshots take a while, with data; its `--server` arguments.
fn slow_server() -> (tempfile::TempDir, cutwater_bench::process::ServerProcess, String) {
    let (dir, server) = serve(|options: &mut ServerOptions| {
        options.more = vec!["--snapshot-limit".to_owned(), "1".to_owned()];
    });
    let mut client = server.client().unwrap();
    let value = "x".repeat(64 << 10);
    for n in 0..DATA_BYTES / value.len() {
        assert!(client.call(&["SET", &format!("key:{n}"), &value]).unwrap().is_ok());
    }
    let address = server.address().to_string();
    (dir, server, address)
}

fn on_terminal(arguments: &[&str]) -> String {
    let mut command = Command::new("python3");
    tools::hide_variables(&mut command);
    command.env("TERM", "xterm").args(["-c", ON_TERMINAL]).arg(server::binary().unwrap());
    let output = tools::run(command.args(arguments), LIMIT).unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {printed}");
    printed
}

fn plain(arguments: &[&str]) -> (String, String) {
    let output = server::subcommand(arguments).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    (stdout, stderr)
}

/// A bar was drawn in place, and told bytes, rate and time left.
fn check_bar(printed: &str, label: &str) {
    assert!(printed.contains("\u{1b}[") && printed.contains('\r'), "{printed:?}");
    for part in [label, "[=", "% ", "/s", " left"] {
        let part = if part == "% " { "%, " } else { part };
        assert!(printed.contains(part), "no {part:?} in {printed:?}");
    }
}

/// Lines came one below the other, without codes for a terminal.
fn check_lines(printed: &str, label: &str) {
    assert!(!printed.contains('\u{1b}') && !printed.contains('\r'), "{printed:?}");
    let lines: Vec<&str> = printed.lines().filter(|line| line.contains(label)).collect();
    assert!(lines.len() >= 2, "{printed:?}");
    assert!(lines.iter().any(|line| line.contains("/s, ") && line.ends_with("left")), "{lines:?}");
}

#[test]
fn a_snapshot_and_a_verification_at_a_server() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, _server, address) = slow_server();
    let (json, progress) = plain(&["snapshot", "create", "--server", &address, "--json"]);
    check_lines(&progress, "snapshot ");
    assert!(progress.contains(" of about "), "{progress}");
    let id = json.split("\"id\": ").nth(1).unwrap().split(',').next().unwrap().to_owned();

    let verify = ["snapshot", "verify", &id, "--server", &address];
    let (verified, progress) = plain(&[&verify[..], &["--json"]].concat());
    check_lines(&progress, &format!("verifying snapshot {id}: "));
    assert!(verified.contains("\"whole\": true") && verified.contains("\"entries\": 64"));

    let name = "a_snapshot_and_a_verification_at_a_server";
    if !tools::available(name, &[tools::Tool::Python]) {
        return;
    }
    let printed = on_terminal(&["snapshot", "create", "--server", &address]);
    check_bar(&printed, "snapshot ");
    // What is left when the bar is gone is the result.
    assert!(printed.contains("created snapshot"), "{printed:?}");
    check_bar(&on_terminal(&verify), &format!("verifying snapshot {id}"));
}

#[test]
fn a_verification_and_a_restore_out_of_a_slow_store() {
    if server::is_stand_in() {
        return;
    }
    let store = InS3::new();
    let config = store.config();
    store.s3.behaviour().delay_ms.store(1_000, Ordering::SeqCst);
    let words = ["snapshot", "verify", &store.id];
    let (_, progress) = plain(&store.command(&words[..], &config));
    check_lines(&progress, &format!("verifying snapshot {}: ", store.id));
    let into = |name: &str| store.dir.path().join(name).display().to_string();
    let (first, second) = (into("first"), into("second"));
    let words = ["restore", "--snapshot", &store.id, "--into", &first];
    let (restored, progress) = plain(&store.command(&words[..], &config));
    check_lines(&progress, "reading snapshots: ");
    assert!(restored.starts_with(&format!("restored snapshot {}", store.id)), "{restored}");
    let name = "a_verification_and_a_restore_out_of_a_slow_store";
    if tools::available(name, &[tools::Tool::Python]) {
        let words = ["restore", "--snapshot", &store.id, "--into", &second];
        let printed = on_terminal(&store.command(&words[..], &config));
        check_bar(&printed, "reading snapshots");
        assert!(printed.contains("restored snapshot"), "{printed:?}");
    }
}
