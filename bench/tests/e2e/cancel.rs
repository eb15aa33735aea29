//! What is begun can be cancelled at any time, by a command or by a signal, and nothing of it is
//! left: no snapshot, no object, no directory, no memory.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cutwater_bench::client::Client;
use cutwater_bench::process::ServerProcess;
use cutwater_bench::reply::Reply;
use cutwater_bench::server::{self, ServerOptions, field};
use cutwater_bench::tools;

use crate::s3::{KEY_ID, S3Server, SECRET};
use crate::support::{refused, serve, snapshot_folder};

/// Bytes of the keys; at a MiB a second a snapshot of them is still being written when it is
/// cancelled.
const DATA_BYTES: usize = 24 << 20;
/// How long a condition may take to come true.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(5);

/// A server whose snapshots take long, with data.
fn slow_server() -> (tempfile::TempDir, ServerProcess) {
    let (dir, server) = serve(|options| options.more = slow());
    let mut client = server.client().unwrap();
    let value = "x".repeat(64 << 10);
    for n in 0..DATA_BYTES / value.len() {
        assert!(client.call(&["SET", &format!("key:{n}"), &value]).unwrap().is_ok());
    }
    (dir, server)
}

fn slow() -> Vec<String> {
    vec!["--snapshot-limit".to_owned(), "1".to_owned()]
}

/// Sends a command on a connection of its own, and waits for its reply beside the test.
pub fn beside(server: &ServerProcess, command: &[&str]) -> JoinHandle<Reply> {
    let mut client = server.client().unwrap();
    client.set_timeout(LIMIT).unwrap();
    let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    std::thread::spawn(move || client.call(&command).unwrap())
}

pub fn number(client: &mut Client, name: &str) -> Option<i64> {
    let status = client.call(&["SNAPSHOT", "STATUS"]).unwrap();
    field(&status, name).unwrap().integer()
}

fn verifications(client: &mut Client) -> usize {
    let status = client.call(&["SNAPSHOT", "STATUS"]).unwrap();
    let Some(Reply::Array(_, running)) = field(&status, "verifications") else {
        panic!("{status}")
    };
    running.len()
}

/// Waits until a condition holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(POLL);
    }
}

/// What a store without a server tells of a snapshot.
fn show(data: &Path, id: u64) -> String {
    let store = format!("file://{}", data.join("store").display());
    let id = id.to_string();
    let arguments = ["snapshot", "show", &id, "--store", &store, "--json"];
    String::from_utf8(server::subcommand(&arguments).unwrap().stdout).unwrap()
}

/// The files of a snapshot's folder.
fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_snapshot_is_cancelled_and_nothing_of_it_is_left() {
    if server::is_stand_in() {
        return;
    }
    let (dir, server) = slow_server();
    let mut client = server.client().unwrap();
    let none = client.call(&["SNAPSHOT", "CANCEL"]).unwrap().to_string();
    assert!(none.contains("NOTFOUND no snapshot is being taken"), "{none}");

    let create = beside(&server, &["SNAPSHOT", "CREATE"]);
    wait_until("bytes are written", || number(&mut client, "written_bytes").unwrap() > 0);
    let id = number(&mut client, "running").unwrap();
    assert!(number(&mut client, "expected_bytes").unwrap() > DATA_BYTES as i64 / 2);
    assert_eq!(number(&mut client, "expected_entries"), Some((DATA_BYTES / (64 << 10)) as i64));
    let busy = client.call(&["SNAPSHOT", "CREATE"]).unwrap().to_string();
    assert!(busy.contains(&format!("BUSY snapshot {id} is under way")), "{busy}");
    let other = client.call(&["SNAPSHOT", "CANCEL", &(id + 1).to_string()]).unwrap().to_string();
    assert!(other.contains(&format!("NOTFOUND snapshot {} is not being taken", id + 1)), "{other}");

    assert_eq!(client.call(&["SNAPSHOT", "CANCEL"]).unwrap().integer(), Some(id));
    let cancelled = create.join().unwrap().to_string();
    let text = format!("CANCELLED snapshot {id} was cancelled: nothing of it is left");
    assert!(cancelled.contains(&text), "{cancelled}");
    assert_eq!(number(&mut client, "running"), None);
    assert_eq!(
        (number(&mut client, "failed"), number(&mut client, "cancelled")),
        (Some(0), Some(1))
    );

    // The list says so at once.
    let listed = client.call(&["SNAPSHOT", "LIST"]).unwrap();
    let Reply::Array(_, rows) = &listed else { panic!("{listed}") };
    let row = rows.iter().find(|row| field(row, "id").unwrap().integer() == Some(id)).unwrap();
    assert_eq!(field(row, "state").unwrap().bytes(), Some(&b"aborted"[..]), "{row}");
    assert!(field(row, "reason").unwrap().to_string().contains("was cancelled"), "{row}");

    // What an aborted snapshot leaves is its tombstone, and that no restore takes for a snapshot.
    let folder = snapshot_folder(&dir.path().join("data"), id as u64);
    wait_until("unfinished files are removed", || files(&folder) == ["manifest.msgpack"]);
    let shown = show(&dir.path().join("data"), id as u64);
    assert!(shown.contains("\"state\": \"aborted\""), "{shown}");
    let into = dir.path().join("into");
    let refused = server::restore(&dir.path().join("data"), id as u64, &into).unwrap_err();
    assert!(refused.to_string().contains(&format!("snapshot {id} is aborted")), "{refused}");

    // The next one begins at once, and with all of the budget for chunks.
    let create = beside(&server, &["SNAPSHOT", "CREATE"]);
    wait_until("the next is written", || number(&mut client, "written_bytes").unwrap() > 0);
    assert_eq!(number(&mut client, "running"), Some(id + 1));
    assert_eq!(client.call(&["SNAPSHOT", "CANCEL"]).unwrap().integer(), Some(id + 1));
    assert!(create.join().unwrap().to_string().contains("CANCELLED"));
}

#[test]
fn a_verification_ends_with_its_client_or_when_it_is_cancelled() {
    if server::is_stand_in() {
        return;
    }
    let (dir, mut server) = serve(|_| {});
    let mut client = server.client().unwrap();
    let value = "x".repeat(DATA_BYTES / 4);
    for name in ["a", "b", "c", "d"] {
        assert!(client.call(&["SET", name, &value]).unwrap().is_ok());
    }
    let id = server::create_snapshot(&server).unwrap().to_string();
    server.terminate().unwrap();

    // Now reading it takes long.
    let mut options = ServerOptions::new(dir.path().join("data"));
    options.more = slow();
    let server = options.start().unwrap();
    let mut client = server.client().unwrap();
    let none = client.call(&["SNAPSHOT", "CANCEL", "VERIFY"]).unwrap().to_string();
    assert!(none.contains("NOTFOUND no verification is under way"), "{none}");

    let verify = beside(&server, &["SNAPSHOT", "VERIFY", &id]);
    wait_until("it runs", || verifications(&mut client) == 1);
    assert_eq!(client.call(&["SNAPSHOT", "CANCEL", "VERIFY"]).unwrap().integer(), Some(1));
    let reply = verify.join().unwrap().to_string();
    let text = format!("CANCELLED the verification of snapshot {id} was cancelled");
    assert!(reply.contains(&text), "{reply}");
    assert_eq!(verifications(&mut client), 0);

    let mut leaving = server.client().unwrap();
    leaving.queue(&["SNAPSHOT", "VERIFY", &id]);
    leaving.flush().unwrap();
    wait_until("it runs", || verifications(&mut client) == 1);
    drop(leaving);
    wait_until("it ends with its client", || verifications(&mut client) == 0);
}

/// A command of the binary beside the test.
pub struct Beside {
    /// The process.
    pub child: Child,
}

impl Beside {
    pub fn begin(arguments: &[&str]) -> Self {
        let mut command = Command::new(server::binary().unwrap());
        tools::hide_variables(&mut command);
        command.args(arguments).stdin(Stdio::null());
        Self { child: command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap() }
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Its exit code, and what it printed on standard error.
    pub fn end(mut self) -> (Option<i32>, String) {
        let status = tools::wait_within(&mut self.child, LIMIT).unwrap();
        let mut printed = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut printed).unwrap();
        (status.code(), printed)
    }
}

#[test]
fn a_signal_cancels_the_snapshot_that_the_command_began_and_no_other() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, server) = slow_server();
    let mut client = server.client().unwrap();
    let address = server.address().to_string();
    let create = ["snapshot", "create", "--server", &address];
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let command = Beside::begin(&create);
        wait_until("bytes are written", || number(&mut client, "written_bytes").unwrap() > 0);
        let id = number(&mut client, "running").unwrap();
        command.signal(signal);
        let (found, printed) = command.end();
        assert_eq!(found, Some(code), "{printed}");
        let text = format!("interrupted: snapshot {id} was cancelled, and nothing of it is left\n");
        assert!(printed.ends_with(&text), "{printed}");
        assert_eq!(number(&mut client, "running"), None);
    }
    assert_eq!(number(&mut client, "cancelled"), Some(2));

    // Another's goes on: the command was busy with nothing of its own.
    let other = beside(&server, &["SNAPSHOT", "CREATE"]);
    wait_until("another's is written", || number(&mut client, "written_bytes").unwrap() > 0);
    let id = number(&mut client, "running").unwrap();
    let printed = refused(&create, 6);
    assert!(printed.contains(&format!("BUSY snapshot {id} is under way")), "{printed}");
    assert_eq!(number(&mut client, "running"), Some(id));

    // A command that only waits for the reply of a server that is stopped by somebody else.
    let (_, stopped) = (refused(&["snapshot", "cancel", "--server", &address, "--verify"], 3), id);
    let output = server::subcommand(&["snapshot", "cancel", "--server", &address]).unwrap();
    let text = format!("cancelled snapshot {stopped}: nothing of it is left\n");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
    assert!(other.join().unwrap().to_string().contains("CANCELLED"));
}

#[test]
fn a_signal_stops_a_verification_at_a_server() {
    if server::is_stand_in() {
        return;
    }
    let (_dir, server) = slow_server();
    let mut client = server.client().unwrap();
    let value = "x".repeat(DATA_BYTES);
    assert!(client.call(&["FLUSHALL"]).unwrap().is_ok());
    assert!(client.call(&["SET", "key", &value[..8 << 20]]).unwrap().is_ok());
    client.set_timeout(LIMIT).unwrap();
    let id = server::create_snapshot(&server).unwrap().to_string();
    let address = server.address().to_string();
    let command = Beside::begin(&["snapshot", "verify", &id, "--server", &address]);
    wait_until("it runs", || verifications(&mut client) == 1);
    command.signal("-INT");
    let (code, printed) = command.end();
    let text = format!("interrupted: the verification of snapshot {id} was stopped\n");
    assert!(code == Some(130) && printed.ends_with(&text), "{code:?} {printed}");
    wait_until("it ends with its client", || verifications(&mut client) == 0);
}

/// A snapshot in an S3 store, and how commands reach it.
pub struct InS3 {
    /// The store.
    pub s3: S3Server,
    /// Where directories and files lie.
    pub dir: tempfile::TempDir,
    /// The snapshot.
    pub id: String,
}

impl InS3 {
    /// A server was filled, its snapshot went up, and it has stopped.
    pub fn new() -> Self {
        let (s3, dir) = (S3Server::start(), tempfile::tempdir().unwrap());
        let config = format!(
            "s3-endpoint = \"{}\"\ns3-region = \"us-east-1\"\ns3-allow-http = true\n\
             s3-path-style = true\ns3-access-key-id = \"{KEY_ID}\"\n\
             s3-secret-access-key = \"{SECRET}\"\n",
            s3.endpoint()
        );
        let file = dir.path().join("cutwater.toml");
        fs::write(&file, config).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let mut options = ServerOptions::new(dir.path().join("data"));
        options.more = ["--config", &file.display().to_string(), "--snapshot-store", Self::URL]
            .map(str::to_owned)
            .to_vec();
        let mut server = options.start().unwrap();
        let mut client = server.client().unwrap();
        let value = "x".repeat(1 << 20);
        for n in 0..DATA_BYTES / value.len() {
            assert!(client.call(&["SET", &format!("key:{n}"), &value]).unwrap().is_ok());
        }
        let address = server.address().to_string();
        let create = ["snapshot", "create", "--wait-upload", "--server", &address];
        // The archive's base may be under way.
        let mut created = server::subcommand(&create).unwrap();
        wait_until("it is not busy", || {
            let is_busy = created.status.code() == Some(6);
            if is_busy {
                created = server::subcommand(&create).unwrap();
            }
            !is_busy
        });
        let printed = String::from_utf8(created.stdout).unwrap();
        assert!(printed.contains("\nremote      uploaded"), "{printed}");
        let id = printed.lines().nth(1).unwrap().trim_start_matches("id").trim().to_owned();
        server.terminate().unwrap();
        Self { s3, dir, id }
    }

    const URL: &str = "s3://bucket/backups";

    /// A command with the store's arguments.
    pub fn command<'a>(&'a self, words: &[&'a str], config: &'a str) -> Vec<&'a str> {
        [words, &["--store", Self::URL, "--config", config]].concat()
    }

    /// The file that says where the store is, and with which keys.
    pub fn config(&self) -> String {
        self.dir.path().join("cutwater.toml").display().to_string()
    }
}

#[test]
fn a_restore_that_is_stopped_or_killed_leaves_nothing_that_looks_like_a_database() {
    if server::is_stand_in() {
        return;
    }
    let store = InS3::new();
    let config = store.config();
    let into = store.dir.path().join("into");
    let into_text = into.display().to_string();
    let words = ["restore", "--snapshot", &store.id, "--into", &into_text];
    let restore = store.command(&words[..], &config);
    let mark = into.join("restore.unfinished");
    // Slow enough to be met in the middle, and then frozen.
    let begin = || {
        store.s3.behaviour().delay_ms.store(300, Ordering::SeqCst);
        let command = Beside::begin(&restore);
        wait_until("it has begun to write", || mark.exists());
        store.s3.freeze();
        command
    };
    let thaw = || {
        store.s3.behaviour().delay_ms.store(0, Ordering::SeqCst);
        store.s3.thaw();
    };

    let command = begin();
    command.signal("-INT");
    let (code, printed) = command.end();
    let text = "interrupted: the restore was stopped, and nothing of it is left\n";
    assert!(code == Some(130) && printed.ends_with(text), "{code:?} {printed}");
    assert!(!into.exists());
    thaw();

    let command = begin();
    // (From another store: this one does not answer.)
    let local = format!("file://{}", store.dir.path().join("data/store").display());
    let busy = refused(&[&words[..], &["--store", &local]].concat(), 6);
    assert!(busy.contains("is in use by"), "{busy}");
    command.signal("-KILL");
    assert_eq!(command.end().0, None);
    thaw();
    assert!(mark.exists());
    let error = refused(&["serve", "--data-dir", &into_text, "--port", "0"], 1);
    assert!(error.contains("is what a restore left that was ended in the middle"), "{error}");
    let error = refused(&restore, 1);
    assert!(error.contains("is what a restore left that was ended in the middle"), "{error}");
    assert!(error.contains("Remove the directory"), "{error}");

    fs::remove_dir_all(&into).unwrap();
    let output = server::subcommand(&restore).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!mark.exists());
    let copy = ServerOptions::new(&into).start().unwrap();
    let keys = copy.client().unwrap().call(&["DBSIZE"]).unwrap().integer();
    assert_eq!(keys, Some((DATA_BYTES >> 20) as i64));
}

#[test]
fn a_signal_stops_work_on_a_store_that_does_not_answer() {
    if server::is_stand_in() {
        return;
    }
    let store = InS3::new();
    let config = store.config();
    let prune = ["snapshot", "prune", "--keep-last", "1"];
    let words =
        [&["snapshot", "verify", &store.id][..], &["snapshot", "delete", &store.id], &prune];
    for words in words {
        store.s3.freeze();
        let before = store.s3.behaviour().requests.load(Ordering::SeqCst);
        let command = Beside::begin(&store.command(words, &config));
        let asked = || store.s3.behaviour().requests.load(Ordering::SeqCst) > before;
        wait_until("the store is asked", asked);
        command.signal("-TERM");
        let (code, printed) = command.end();
        assert!(code == Some(143) && printed.contains("interrupted: "), "{code:?} {printed}");
        store.s3.thaw();
        // The store is as it was.
        let output = server::subcommand(&store.command(&["snapshot", "list"], &config)).unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        assert!(listed.contains("published") && !listed.contains("deleted"), "{listed}");
    }
}
