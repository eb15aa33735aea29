//! What tests with a store of the S3 protocol share: a server that uploads to one, commands that
//! work on it, and waiting for what is to come about.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cutwater_bench::process::ServerProcess;
use cutwater_bench::reply::Reply;
use cutwater_bench::server::{self, ServerOptions};

use crate::s3::{BUCKET, KEY_ID, S3Server, SECRET};

/// How long anything may take to come about.
const LIMIT: Duration = Duration::from_secs(90);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(10);

/// A store of the S3 protocol, and folders of servers that upload to it.
pub struct Remote {
    /// The store.
    pub s3: S3Server,
    /// Where data directories and files lie.
    pub dir: tempfile::TempDir,
}

impl Remote {
    /// An empty store.
    pub fn new() -> Self {
        Self { s3: S3Server::start(), dir: tempfile::tempdir().unwrap() }
    }

    /// The address of the prefix that is used.
    pub fn url(&self) -> String {
        format!("s3://{BUCKET}/some/prefix")
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// The flags that say where the store is.
    pub fn flags(&self) -> Vec<String> {
        let endpoint = self.s3.endpoint();
        ["--s3-endpoint", &endpoint, "--s3-region", "us-east-1", "--s3-allow-http"]
            .map(str::to_owned)
            .into_iter()
            .chain(["--s3-path-style".to_owned()])
            .collect()
    }

    /// The variables with the right keys.
    pub fn keys(&self) -> Vec<(String, String)> {
        variables(&[("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET)])
    }

    /// A server that uploads to the store; not started.
    pub fn options(&self) -> ServerOptions {
        let mut options = ServerOptions::new(self.dir.path().join("data"));
        options.more = vec!["--snapshot-store".to_owned(), self.url()];
        options.more.extend(self.flags());
        options.environment = self.keys();
        options
    }

    /// Runs a command on the store, which has to succeed; what it printed.
    pub fn command(&self, words: &[&str]) -> String {
        let (code, printed, error) = self.try_command(words, &[]);
        assert_eq!(code, Some(0), "{words:?}: {error}");
        printed
    }

    /// Runs a command on the store: its exit code, what it printed, and its error.
    pub fn try_command(&self, words: &[&str], more: &[&str]) -> (Option<i32>, String, String) {
        let url = self.url();
        let flags = self.flags();
        let mut arguments = words.to_vec();
        arguments.extend(["--store", &url]);
        arguments.extend(flags.iter().map(String::as_str));
        arguments.extend(more);
        run(&arguments, &self.keys())
    }

    /// The names of the objects in the store, below the prefix.
    pub fn objects(&self) -> Vec<String> {
        let root = self.s3.folder().join("some/prefix");
        let files = files_below(&root);
        let name = |file: &PathBuf| file.strip_prefix(&root).unwrap().display().to_string();
        files.iter().map(name).collect()
    }

    /// Waits until nothing is left to be uploaded, and says what STATUS tells then.
    pub fn wait_uploaded(&self, server: &ServerProcess) -> Vec<(String, String)> {
        let mut found = Vec::new();
        wait_for("the uploads", || {
            found = status(server);
            let is = |name: &str, text: &str| value(&found, name) == text;
            is("remote_state", "writer") && is("remote_pending", "0") && is("running", "nil")
        });
        found
    }
}

/// Takes a snapshot; its id. A base that the archive needs may be under way by itself: then that
/// has to end first.
pub fn create(server: &ServerProcess) -> u64 {
    let mut id = 0;
    wait_for("a snapshot", || match server::create_snapshot(server) {
        Ok(created) => {
            id = created;
            true
        }
        Err(error) => {
            assert!(error.to_string().contains("is under way"), "{error}");
            false
        }
    });
    id
}

/// Runs the binary: its exit code, what it printed, and its error.
pub fn run(arguments: &[&str], environment: &[(String, String)]) -> (Option<i32>, String, String) {
    let output = server::subcommand_with(arguments, environment).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Variables of an environment.
pub fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Waits until something is so.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(POLL);
    }
}

/// The fields of SNAPSHOT STATUS as text.
pub fn status(server: &ServerProcess) -> Vec<(String, String)> {
    fields(&server.client().unwrap().call(&["SNAPSHOT", "STATUS"]).unwrap())
}

/// The fields of a map as text; nil is `nil`.
pub fn fields(reply: &Reply) -> Vec<(String, String)> {
    let Reply::Array(_, items) = reply else { panic!("no map: {reply}") };
    let text = |reply: &Reply| match (reply.bytes(), reply.integer()) {
        (Some(bytes), _) => String::from_utf8_lossy(bytes).into_owned(),
        (None, Some(number)) => number.to_string(),
        (None, None) => reply.to_string(),
    };
    items.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

/// One of these fields.
pub fn value<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    let found = fields.iter().find(|(field, _)| field == name);
    &found.unwrap_or_else(|| panic!("no field {name} in {fields:?}")).1
}

/// Whether SNAPSHOT LIST says that this one is in the remote store.
pub fn is_uploaded(server: &ServerProcess, id: u64) -> bool {
    places(server).iter().any(|(of, place)| *of == id && place.starts_with("uploaded"))
}

/// The id that an uploaded snapshot bears in the remote store: its own, unless that was taken
/// when the upload began.
pub fn remote_id(server: &ServerProcess, id: u64) -> u64 {
    let places = places(server);
    let (_, place) = places.iter().find(|(of, _)| *of == id).unwrap();
    assert!(place.starts_with("uploaded"), "{places:?}");
    place.strip_prefix("uploaded as ").map_or(id, |other| other.parse().unwrap())
}

/// Every file below a folder; none where it is missing.
pub fn files_below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false => _ = found.insert(path),
        }
    }
    found
}

/// Where SNAPSHOT LIST says that each snapshot is in the remote store, by id.
pub fn places(server: &ServerProcess) -> Vec<(u64, String)> {
    let reply = server.client().unwrap().call(&["SNAPSHOT", "LIST"]).unwrap();
    let Reply::Array(_, rows) = &reply else { panic!("no list: {reply}") };
    let place = |row: &Reply| {
        let row = fields(row);
        (value(&row, "id").parse().unwrap(), value(&row, "remote").to_owned())
    };
    rows.iter().map(place).collect()
}
