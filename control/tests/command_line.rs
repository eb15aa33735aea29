//! The real binary, run as a user runs it: exit codes, what goes to which stream, and the client
//! commands against a server that answers as the protocol says.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};

/// Runs the binary in an empty directory with no `CUTWATER_*` variables but these.
fn cutwater(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutwater"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CUTWATER_") {
            command.env_remove(name);
        }
    }
    let variables = variables.iter().copied();
    command.args(arguments).envs(variables).current_dir(dir.path()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A server that expects each of these requests on one connection and answers it.
fn server(exchanges: Vec<(&'static str, &'static str)>) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for (request, answer) in exchanges {
            let mut bytes = vec![0; request.len()];
            stream.read_exact(&mut bytes).unwrap();
            assert_eq!(String::from_utf8(bytes).unwrap(), request);
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (address, thread)
}

#[test]
fn help_and_version_succeed_on_standard_output() {
    let output = cutwater(&["--version"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output), format!("cutwater {}\n", env!("CARGO_PKG_VERSION")));
    for arguments in [&["--help"][..], &["serve", "--help"], &["snapshot", "--help"]] {
        let output = cutwater(arguments, &[]);
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
        assert!(stdout(&output).contains("Usage: cutwater"));
    }
}

#[test]
fn a_mistake_on_the_command_line_or_in_the_configuration_is_2() {
    for (arguments, variables, text) in [
        (&["--prot", "1"][..], &[][..], "'--port'"),
        (&["serve", "--port", "x"], &[], "bad value \"x\" for port (flag --port)\n  Allowed: "),
        (&[], &[("CUTWATER_SHARDS", "0")], "for shards (variable CUTWATER_SHARDS)\n  Allowed: "),
        (&[], &[("CUTWATER_PROT", "1")], "unknown variable CUTWATER_PROT"),
        (&[], &[("CUTWATER_LOG", "loud")], "(variable CUTWATER_LOG)\n  Allowed: off"),
        (&["--config", "no.toml"], &[], "cannot read the configuration file no.toml"),
        (&["--bind", "0.0.0.0"], &[], "no password (flag --bind)\n  Set a password"),
        (&["--snapshot-store", "s3://x"], &[], "Allowed: file:///DIR"),
        (&["snapshot", "list", "--server", "x"], &[], "Give --server as HOST:PORT"),
        (&["snapshot", "list", "--store", "/x"], &[], "Give --store as file:///DIR"),
    ] {
        let output = cutwater(arguments, variables);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""));
        let error = stderr(&output);
        assert!(error.starts_with("error: ") && error.contains(text), "{arguments:?}: {error}");
    }
}

#[test]
fn a_failure_says_what_to_do() {
    let output = cutwater(&["snapshot", "list", "--store", "file:///does/not/exist"], &[]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        stderr(&output),
        "error: there is no store at /does/not/exist\n  \
         Name the folder that holds claims/ and snapshots/.\n"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = cutwater(&["--data-dir", file.path().to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("error: cannot use the data directory "));
}

#[test]
fn the_list_of_a_server_as_table_and_as_json() {
    const LIST: &str = "*2\r\n$8\r\nSNAPSHOT\r\n$4\r\nLIST\r\n";
    const ROWS: &str = "*1\r\n*10\r\n$2\r\nid\r\n:3\r\n$9\r\nbegin_lsn\r\n:10\r\n\
                        $7\r\nend_lsn\r\n$2\r\n12\r\n$4\r\nkind\r\n$4\r\nbase\r\n\
                        $5\r\nstate\r\n$9\r\npublished\r\n";
    let (address, thread) = server(vec![(LIST, ROWS)]);
    let output = cutwater(&["snapshot", "list", "--server", &address, "--json"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        rows,
        serde_json::json!([
            { "id": 3, "begin_lsn": 10, "end_lsn": 12, "kind": "base", "state": "published" }
        ])
    );
    thread.join().unwrap();

    let auth = ("*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n", "+OK\r\n");
    let (address, thread) = server(vec![auth, (LIST, ROWS)]);
    let variables = [("CUTWATER_PASSWORD", "pw")];
    let output = cutwater(&["snapshot", "list", "--server", &address], &variables);
    let text = stdout(&output);
    assert!(text.starts_with("ID  KIND  STATE      ") && text.contains("\n3   base"), "{text}");
    thread.join().unwrap();
}

/// What a long command asks first.
const CLIENT_ID: (&str, &str) = ("*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n", ":5\r\n");
const CREATE: &str = "*3\r\n$8\r\nSNAPSHOT\r\n$6\r\nCREATE\r\n$4\r\nBASE\r\n";
const VERIFY: &str = "*3\r\n$8\r\nSNAPSHOT\r\n$6\r\nVERIFY\r\n$1\r\n7\r\n";
const SHOW: &str = "*3\r\n$8\r\nSNAPSHOT\r\n$4\r\nSHOW\r\n$1\r\n7\r\n";
const ROW: &str = "*10\r\n$2\r\nid\r\n:7\r\n$9\r\nbegin_lsn\r\n:10\r\n$7\r\nend_lsn\r\n\
                   $2\r\n12\r\n$4\r\nkind\r\n$4\r\nbase\r\n$5\r\nstate\r\n\
                   $9\r\npublished\r\n";

#[test]
fn the_other_commands_of_a_server() {
    let delete = ("*3\r\n$8\r\nSNAPSHOT\r\n$6\r\nDELETE\r\n$1\r\n7\r\n", "+OK\r\n");
    let cancel = ("*2\r\n$8\r\nSNAPSHOT\r\n$6\r\nCANCEL\r\n", ":7\r\n");
    let report = "*4\r\n$2\r\nid\r\n:7\r\n$5\r\nbytes\r\n:9\r\n";
    for (arguments, exchanges, text) in [
        (&["create"][..], vec![CLIENT_ID, (CREATE, ROW)], "created snapshot\nid         7\n"),
        (&["create", "--json"], vec![CLIENT_ID, (CREATE, ROW)], "{\n  \"id\": 7,\n"),
        (&["delete", "7"], vec![delete], "deleted snapshot 7\n"),
        (&["delete", "7", "--json"], vec![delete], "{\n  \"id\": 7,\n  \"remote_pending\": false,"),
        (&["verify", "7"], vec![CLIENT_ID, (VERIFY, report)], "verified snapshot 7: it is whole\n"),
        (&["cancel"], vec![cancel], "cancelled snapshot 7: nothing of it is left\n"),
    ] {
        let (address, thread) = server(exchanges);
        let arguments = [&["snapshot"], arguments, &["--server", &address]].concat();
        let output = cutwater(&arguments, &[]);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        assert!(stdout(&output).starts_with(text), "{arguments:?}: {}", stdout(&output));
        thread.join().unwrap();
    }
}

#[test]
fn what_a_server_refuses_has_an_exit_code_of_its_kind() {
    for (reply, code) in [
        ("-ERR something\r\n", 1),
        ("-NOTFOUND there is no snapshot 7\r\n", 3),
        ("-DAMAGED snapshots/x: the object is missing\r\n", 4),
        ("-STORE cannot get x\r\n", 5),
        ("-CLOSING the database is being closed\r\n", 5),
        ("-LOADING Cutwater is loading the dataset in memory\r\n", 5),
        ("-BUSY snapshot 8 is under way\r\n", 6),
        ("-NOAUTH Authentication required.\r\n", 2),
    ] {
        let (address, thread) = server(vec![(SHOW, reply)]);
        let output = cutwater(&["snapshot", "show", "7", "--server", &address], &[]);
        assert_eq!(output.status.code(), Some(code), "{reply}");
        let text = format!("error: {address} refused: {}\n", reply[1..].trim_end());
        assert!(stderr(&output).starts_with(&text), "{}", stderr(&output));
        thread.join().unwrap();
    }
    // Nobody listens on a port that was just given back.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = cutwater(&["snapshot", "list", "--server", &address.to_string()], &[]);
    assert_eq!(output.status.code(), Some(5));
}
