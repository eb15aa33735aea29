//! Where snapshots go besides the local store: `s3://` and `file://`, told by flags, variables or
//! the TOML file; keys that never stand on the command line; and a start at a store that refuses,
//! or that does not answer.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cutwater_bench::server::{self, ServerOptions};
use cutwater_bench::tools::{self, Tool};

use crate::remote::{
    Remote, create, files_below, is_uploaded, places, run, status, value, variables, wait_for,
};
use crate::s3::{KEY_ID, SECRET};
use crate::support::{assert_filled, fill, serve, size, start_error};

const KEYS: usize = 500;

#[test]
fn s3_by_flags_and_every_command_works_on_it() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let mut server = remote.options().start().unwrap();
    let mut client = server.client().unwrap();
    let mut ids = Vec::new();
    for prefix in ["one", "two", "three"] {
        fill(&mut client, prefix, KEYS);
        ids.push(create(&server));
    }
    let found = remote.wait_uploaded(&server);
    assert_eq!(value(&found, "remote_store"), remote.url());
    // One id in both stores; the server has taken a base of its own accord, or has not yet.
    let uploaded: u64 = value(&found, "remote_uploaded").parse().unwrap();
    let found = places(&server);
    assert!(uploaded >= 3 && found.iter().all(|(_, place)| place == "uploaded"), "{found:?}");
    let [oldest, middle, newest] = ids[..] else { panic!("three snapshots") };

    let listed = remote.command(&["snapshot", "list", "--json"]);
    assert!(listed.matches("\"published\"").count() >= 3, "{listed}");
    let shown = remote.command(&["snapshot", "show", &middle.to_string()]);
    assert!(shown.contains("published"), "{shown}");
    for id in &ids {
        let verified = remote.command(&["snapshot", "verify", &id.to_string()]);
        assert!(verified.contains("it is whole"), "{verified}");
    }
    let windows = remote.command(&["restorable"]);
    assert!(windows.contains("history"), "{windows}");
    server.terminate().unwrap();
    for (id, keys) in [(oldest, KEYS), (middle, 2 * KEYS), (newest, 3 * KEYS)] {
        let into = remote.path(&format!("restored-{id}"));
        remote.command(&["restore", "--snapshot", &id.to_string(), "--into", &into]);
        let server = ServerOptions::new(&into).start().unwrap();
        let mut client = server.client().unwrap();
        assert_filled(&mut client, "one", KEYS);
        assert_eq!(size(&mut client), keys as i64);
    }
    remote.command(&["restore", "--latest", "--into", &remote.path("latest")]);
    remote.command(&["snapshot", "delete", &oldest.to_string()]);
    let (code, _, error) = remote.try_command(&["snapshot", "verify", &oldest.to_string()], &[]);
    assert!(code == Some(3) && error.contains("is deleted"), "{error}");
    let (code, _, error) = remote.try_command(&["snapshot", "rekey", "--all"], &[]);
    assert!(code == Some(4) && error.contains("no key is configured"), "{error}");
}

#[test]
fn by_the_toml_file_or_by_variables_alone() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let endpoint = remote.s3.endpoint();
    let url = remote.url();
    let file = remote.path("cutwater.toml");
    let text = format!(
        "snapshot-store = {url:?}\ns3-endpoint = {endpoint:?}\ns3-region = \"us-east-1\"\n\
         s3-allow-http = true\ns3-path-style = true\ns3-access-key-id = {KEY_ID:?}\n\
         s3-secret-access-key = {SECRET:?}\n"
    );
    fs::write(&file, text).unwrap();
    let mut options = ServerOptions::new(remote.path("data"));
    options.more = vec!["--config".into(), file.clone()];
    // Keys of the file go before those of the environment, with which nobody is let in.
    options.environment = variables(&[
        ("AWS_ACCESS_KEY_ID", "stranger"),
        ("AWS_SECRET_ACCESS_KEY", "of another store"),
        ("AWS_SESSION_TOKEN", "of another session"),
    ]);
    let mut server = options.start().unwrap();
    fill(&mut server.client().unwrap(), "key", KEYS);
    let id = create(&server).to_string();
    remote.wait_uploaded(&server);
    server.terminate().unwrap();
    let verify = ["snapshot", "verify", &id, "--store", &url];
    let by_file = run(&[&verify[..], &["--config", &file]].concat(), &options.environment);
    assert_eq!(by_file.0, Some(0), "{}", by_file.2);

    let mut environment = remote.keys();
    environment.extend(variables(&[
        ("AWS_ENDPOINT_URL", &endpoint),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ALLOW_HTTP", "true"),
    ]));
    let by_variables = run(&verify, &environment);
    assert_eq!(by_variables.0, Some(0), "{}", by_variables.2);
    let mut options = ServerOptions::new(remote.path("data"));
    environment.extend(variables(&[("CUTWATER_SNAPSHOT_STORE", &url)]));
    options.environment = environment;
    let server = options.start().unwrap();
    remote.wait_uploaded(&server);
    assert!(is_uploaded(&server, id.parse().unwrap()));
}

#[test]
fn a_folder_is_a_store_as_well() {
    if server::is_stand_in() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}/other disk/store", dir.path().display());
    let mut options = ServerOptions::new(dir.path().join("data"));
    options.more = vec!["--snapshot-store".into(), url.clone()];
    let server = options.start().unwrap();
    fill(&mut server.client().unwrap(), "key", KEYS);
    let id = create(&server);
    wait_for("the upload", || is_uploaded(&server, id));
    let (code, _, error) = run(&["snapshot", "verify", &id.to_string(), "--store", &url], &[]);
    assert_eq!(code, Some(0), "{error}");
}

#[test]
fn keys_are_no_flags_and_are_never_shown() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let url = remote.url();
    for flag in ["--s3-access-key-id", "--s3-secret-access-key", "--s3-session-token"] {
        for command in [
            &["serve"][..],
            &["snapshot", "list", "--store", &url],
            &["restore", "--store", &url, "--latest", "--dry-run"],
            &["restorable", "--store", &url],
        ] {
            let (code, _, error) = run(&[command, &[flag, "x"]].concat(), &[]);
            assert_eq!(code, Some(2), "{command:?} {flag}: {error}");
            assert!(error.contains("unexpected argument"), "{command:?} {flag}: {error}");
        }
    }
    let (code, _, error) = run(&["snapshot", "list", "--store", "s3://a:b@bucket/x"], &[]);
    assert!(code == Some(2) && error.contains("credentials are set apart"), "{error}");
    let mut options = remote.options();
    options.environment.extend(variables(&[("CUTWATER_LOG", "trace")]));
    let mut server = options.start().unwrap();
    remote.wait_uploaded(&server);
    server.terminate().unwrap();
    let printed = fs::read_to_string(remote.path("data.output")).unwrap();
    assert!(printed.contains("writer of the remote store"), "{printed}");
    assert!(!printed.contains(SECRET), "a key was printed");
}

/// What ends a start: how the store is used, and what is then said. Each names the store.
#[test]
fn a_store_that_refuses_ends_the_start() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let (endpoint, url) = (remote.s3.endpoint(), remote.url());
    let data = remote.path("data");
    let start = |url: &str, more: &[&str], environment: &[(String, String)]| {
        let serve = ["serve", "--data-dir", &data, "--port", "0", "--snapshot-store", url];
        let s3 = ["--s3-endpoint", &endpoint, "--s3-allow-http"];
        run(&[&serve[..], &s3, more].concat(), environment)
    };
    let wrong = |id: &str, secret: &str| {
        variables(&[("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)])
    };
    let elsewhere = "s3://no-such-bucket/prefix";
    let good = remote.keys();
    for (url, environment, what, remedy) in [
        (url.as_str(), &wrong(KEY_ID, "wrong"), "check the credentials", "AWS_SECRET_ACCESS_KEY"),
        (&url, &wrong("nobody", SECRET), "check the credentials", "AWS_SECRET_ACCESS_KEY"),
        (elsewhere, &good, "the bucket does not exist", "Create the bucket"),
    ] {
        let (code, printed, error) = start(url, &[], environment);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains(&format!("the remote store {url}")), "{error}");
        assert!(error.contains(what) && error.contains(remedy), "{error}");
        assert!(printed.is_empty() && !error.contains(SECRET), "{printed} {error}");
    }
    // Half a key, and an endpoint without TLS that nobody has allowed: nothing has to be asked.
    let half = variables(&[("AWS_ACCESS_KEY_ID", KEY_ID)]);
    let (code, _, error) = start(&url, &[], &half);
    assert!(code == Some(1) && error.contains("the keys are incomplete"), "{error}");
    let serve = ["serve", "--data-dir", &data, "--port", "0", "--snapshot-store", &url];
    let (code, _, error) = run(&[&serve[..], &["--s3-endpoint", &endpoint]].concat(), &good);
    assert!(code == Some(1) && error.contains("--s3-allow-http"), "{error}");

    // The same keys of an offline command.
    let list = ["snapshot", "list", "--store", &url, "--s3-endpoint", &endpoint];
    let list = [&list[..], &["--s3-allow-http"]].concat();
    let (code, printed, error) = run(&list, &wrong(KEY_ID, "wrong"));
    assert_eq!((code, printed.as_str()), (Some(2), ""), "{error}");
    assert!(error.contains("check the credentials"), "{error}");
    let (code, printed, error) = run(
        &["restorable", "--store", elsewhere, "--s3-endpoint", &endpoint, "--s3-allow-http"],
        &good,
    );
    assert_eq!((code, printed.as_str()), (Some(2), ""), "{error}");
    assert!(error.contains("the bucket does not exist"), "{error}");
}

#[test]
fn conditional_puts_that_are_ignored_need_single_writer() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    remote.s3.behaviour().lax.store(true, Ordering::SeqCst);
    let mut options = remote.options();
    let error = start_error(options.start());
    assert!(error.contains("ended with exit status: 1"), "{error}");
    assert!(error.contains(&format!("the remote store {}", remote.url())), "{error}");
    assert!(error.contains("it ignores conditional puts"), "{error}");
    assert!(error.contains("pass --single-writer if no second server"), "{error}");
    options.more.push("--single-writer".into());
    let server = options.start().unwrap();
    fill(&mut server.client().unwrap(), "key", KEYS);
    let id = create(&server);
    remote.wait_uploaded(&server);
    remote.command(&["snapshot", "verify", &id.to_string()]);
}

#[test]
fn another_databases_prefix_ends_the_start() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let mut server = remote.options().start().unwrap();
    remote.wait_uploaded(&server);
    server.terminate().unwrap();
    let mut options = remote.options();
    options.dir = remote.dir.path().join("other");
    let error = start_error(options.start());
    assert!(error.contains("belongs to database"), "{error}");
    assert!(error.contains("A prefix belongs to one database"), "{error}");
}

/// A store that does not answer: a server that refuses connections, and one that is frozen.
#[test]
fn a_store_that_does_not_answer_does_not_end_the_start() {
    if server::is_stand_in() {
        return;
    }
    for is_frozen in [false, true] {
        let mut remote = Remote::new();
        match is_frozen {
            true => remote.s3.freeze(),
            false => remote.s3.stop(),
        }
        let mut server = remote.options().start().unwrap();
        fill(&mut server.client().unwrap(), "key", KEYS);
        let id = create(&server);
        let found = status(&server);
        assert_eq!(value(&found, "remote_state"), "connecting");
        assert_eq!(
            (value(&found, "remote_pending"), places(&server)[0].1.as_str()),
            ("1", "unknown")
        );
        assert_ne!(value(&found, "remote_last_error"), "nil");
        match is_frozen {
            true => remote.s3.thaw(),
            false => {
                // It goes on asking, and says nothing of it a second time.
                std::thread::sleep(Duration::from_millis(1_500));
                remote.s3.resume();
            }
        }
        wait_for("the upload", || is_uploaded(&server, id));
        remote.command(&["snapshot", "verify", &id.to_string()]);
        server.terminate().unwrap();
        let printed = fs::read_to_string(remote.path("data.output")).unwrap();
        let warnings = printed.matches("the remote store does not answer").count();
        assert_eq!(warnings, 1, "{printed}");
        assert_eq!(printed.matches("WARN").count(), 1, "{printed}");
    }
}

/// Offline commands say so as well, and an unanswered listing is no empty store.
#[test]
fn a_listing_that_fails_never_reads_as_empty() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let mut server = remote.options().start().unwrap();
    fill(&mut server.client().unwrap(), "key", KEYS);
    create(&server);
    remote.wait_uploaded(&server);
    server.terminate().unwrap();
    remote.s3.behaviour().listing_fails.store(true, Ordering::SeqCst);
    for words in [&["snapshot", "list"][..], &["restorable"], &["restore", "--latest", "--dry-run"]]
    {
        let (code, printed, error) = remote.try_command(words, &[]);
        assert_eq!((code, printed.as_str()), (Some(5), ""), "{words:?} {error}");
        assert!(error.contains("cannot list"), "{words:?} {error}");
    }
    // Nor does a start take it for one, and a policy removes nothing on its account.
    let objects = || files_below(&remote.s3.folder());
    let before = objects();
    let mut options = remote.options();
    options.more.extend(["--keep-last", "1"].map(str::to_owned));
    let server = options.start().unwrap();
    let found = status(&server);
    assert_eq!(value(&found, "remote_state"), "connecting");
    assert!(value(&found, "remote_last_error").contains("cannot list"), "{found:?}");
    let ids: Vec<u64> = places(&server).into_iter().map(|(id, _)| id).collect();
    drop(server.client().unwrap().call(&["SNAPSHOT", "PRUNE"]).unwrap());
    assert_eq!(places(&server).into_iter().map(|(id, _)| id).collect::<Vec<u64>>(), ids);
    assert_eq!(objects(), before);
    remote.s3.behaviour().listing_fails.store(false, Ordering::SeqCst);
    let found = remote.wait_uploaded(&server);
    assert_ne!(value(&found, "remote_uploaded"), "0");
}

/// Without any keys the instance is asked, here one on loopback that plays EC2's metadata service;
/// it says nothing at first, as where packets to its address are dropped.
#[test]
fn keys_of_the_instance() {
    if server::is_stand_in() {
        return;
    }
    let remote = Remote::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answers = Arc::new(AtomicBool::new(false));
    let does_answer = Arc::clone(&answers);
    std::thread::spawn(move || {
        let mut unanswered = Vec::new();
        for socket in listener.incoming().flatten() {
            match does_answer.load(Ordering::SeqCst) {
                true => drop(play_metadata(socket)),
                false => unanswered.push(socket),
            }
        }
    });
    let mut options = remote.options();
    options.environment = variables(&[("AWS_METADATA_ENDPOINT", &endpoint)]);
    let server = options.start().unwrap();
    fill(&mut server.client().unwrap(), "key", KEYS);
    let id = create(&server);
    assert_eq!(value(&status(&server), "remote_state"), "connecting");
    answers.store(true, Ordering::SeqCst);
    wait_for("the upload", || is_uploaded(&server, id));
}

/// Answers one request as the metadata service of an instance does.
fn play_metadata(mut socket: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(socket.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let has_token = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .any(|line| line.eq_ignore_ascii_case("x-aws-ec2-metadata-token: the-token"));
    let credentials = "/latest/meta-data/iam/security-credentials/";
    let mut words = first.split(' ');
    let body = match (words.next(), words.next()) {
        (Some("PUT"), Some("/latest/api/token")) => "the-token".to_owned(),
        (Some("GET"), Some(path)) if has_token && path == credentials => "role".to_owned(),
        (Some("GET"), Some(path)) if has_token && path == format!("{credentials}role") => format!(
            "{{\"AccessKeyId\":{KEY_ID:?},\"SecretAccessKey\":{SECRET:?},\"Token\":\"session\",\
             \"Expiration\":\"2999-01-01T00:00:00Z\",\"Code\":\"Success\"}}"
        ),
        _ => return socket.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    socket.write_all((head + &body).as_bytes())
}

/// Every file that a restore leaves in a local store was synced under its last name or the one
/// before, and then the folder that names it; and a deletion ends with its folder synced.
#[test]
fn local_writes_are_synced_folders_too() {
    if server::is_stand_in() || !tools::available("local_writes_are_synced", &[Tool::Strace]) {
        return;
    }
    let (dir, mut server) = serve(|_| {});
    fill(&mut server.client().unwrap(), "key", KEYS);
    let id = create(&server).to_string();
    server.terminate().unwrap();
    let store = format!("file://{}", dir.path().join("data/store").display());
    let into = dir.path().join("restored");
    let restore = ["restore", "--store", &store, "--snapshot", &id, "--into"];
    let calls = traced(&dir, &[&restore[..], &[&into.display().to_string()]].concat());
    let files = files_below(&into.join("store"));
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let name = file.display().to_string();
        // Written under a name of its own, then linked or renamed to where it stays.
        let named =
            calls.iter().position(|call| call.contains(&format!("\"{name}\"")) && is_naming(call));
        let named = named.unwrap_or_else(|| panic!("{name} got no name in {calls:#?}"));
        let synced = |call: &String, path: &str| {
            call.contains("fsync(") && call.contains(&format!("<{path}>"))
        };
        let is_staged = |call: &String| {
            synced(call, &name) || call.contains("fsync(") && call.contains(&format!("<{name}#"))
        };
        assert!(calls[..named].iter().any(is_staged), "{name} was not synced before it was named");
        let folder = file.parent().unwrap().display().to_string();
        assert!(calls[named..].iter().any(|call| synced(call, &folder)), "{folder} was not synced");
    }
    // The folders themselves, each in the one above.
    for (folder, above) in [("store/snapshots", "store"), ("store", "")] {
        let (folder, above) = (into.join(folder), into.join(above));
        let made = calls.iter().position(|call| {
            call.contains("mkdir")
                && call.contains(&format!("\"{}\"", folder.display()))
                && call.ends_with("= 0")
        });
        let above = above.display().to_string();
        let above = above.trim_end_matches('/');
        let is_synced =
            |call: &String| call.contains("fsync(") && call.contains(&format!("<{above}>"));
        assert!(calls[made.unwrap()..].iter().any(is_synced), "{above} was not synced");
    }

    let identity = into.join("database.toml");
    fs::remove_file(identity).unwrap();
    let copy = format!("file://{}", into.join("store").display());
    let listed = run(&["snapshot", "list", "--store", &copy], &[]).1;
    let id = listed.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let calls = traced(&dir, &["snapshot", "delete", &id, "--store", &copy]);
    let removed: Vec<usize> = (0..calls.len())
        .filter(|at| calls[*at].contains("unlink") && calls[*at].contains(".snap\""))
        .collect();
    assert!(!removed.is_empty(), "{calls:#?}");
    for at in removed {
        let path = calls[at].split('"').nth(1).unwrap();
        let folder = path.rsplit_once('/').unwrap().0;
        let is_synced =
            |call: &String| call.contains("fsync(") && call.contains(&format!("<{folder}>"));
        assert!(calls[at..].iter().any(is_synced), "{folder} was not synced");
    }
}

fn is_naming(call: &str) -> bool {
    (call.contains("rename") || call.contains("link"))
        && !call.contains("unlink")
        && call.ends_with("= 0")
}

/// What a command asked of the file system, in order of the calls' ends.
fn traced(dir: &tempfile::TempDir, arguments: &[&str]) -> Vec<String> {
    let output = dir.path().join("trace");
    let mut command = Command::new("strace");
    tools::hide_variables(&mut command);
    command.args(["-f", "-y", "-qq", "-s", "4096", "-o"]).arg(&output);
    command.args([
        "-e",
        "trace=fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat",
    ]);
    command.arg(server::binary().unwrap()).args(arguments);
    let done = tools::run(&mut command, Duration::from_secs(120)).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    // A call that another thread's interrupts stands in two lines; its end alone counts, with what
    // its beginning told.
    let text = fs::read_to_string(&output).unwrap();
    let mut open: std::collections::BTreeMap<&str, &str> = Default::default();
    let mut calls = Vec::new();
    for line in text.lines() {
        let (thread, call) = line.split_once(' ').unwrap();
        let call = call.trim();
        if let Some(begun) = call.strip_suffix("<unfinished ...>") {
            open.insert(thread, begun);
        } else if let Some((_, end)) = call.split_once(" resumed>") {
            calls.push(format!("{}{end}", open.remove(thread).unwrap_or_default()));
        } else {
            calls.push(call.to_owned());
        }
    }
    calls
}
