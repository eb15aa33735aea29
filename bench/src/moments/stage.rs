//! Servers, the store that they archive to, and what can be restored from it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cutwater_control::listing::rfc_3339;
use cutwater_control::restore::text::parse_moment;
use cutwater_engine::types::Lsn;
use serde_json::Value;

use crate::process::ServerProcess;
use crate::reply::Reply;
use crate::s3::{BUCKET, KEY_ID, S3Server, SECRET};
use crate::server::{ServerOptions, field, subcommand};
use crate::sim::rng::Rng;

/// How long the archive may take to catch up.
const ARCHIVE_LIMIT: Duration = Duration::from_secs(240);
/// How far the clock of LSNs may be from the wall clock: it is slewed, not set.
const CLOCK_SKEW: Duration = Duration::from_millis(2);

/// What kind of store, and how everything is written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// An S3 server on loopback rather than a folder.
    pub s3: bool,
    /// Everything is sealed.
    pub sealed: bool,
    /// `none`, `lz4` or `zstd:1`.
    pub compression: &'static str,
    /// `--archive-interval`.
    pub interval: &'static str,
}

impl Default for Setting {
    fn default() -> Self {
        Self { s3: false, sealed: false, compression: "none", interval: "1s" }
    }
}

/// A folder with a store and any number of data directories.
pub struct Stage {
    folder: tempfile::TempDir,
    setting: Setting,
    s3: Option<Mutex<S3Server>>,
}

/// The windows of a history, in microseconds since the Unix epoch, inclusive.
#[derive(Clone, Debug)]
pub struct Windows {
    /// The history.
    pub id: String,
    /// From, to.
    pub windows: Vec<(u64, u64)>,
    /// Lines about holes.
    pub holes: usize,
}

/// A moment, as `--at` takes it.
#[derive(Clone, Debug)]
pub struct Moment {
    /// In microseconds since the Unix epoch.
    pub micros: u64,
    /// The same, to read.
    pub text: String,
}

impl Moment {
    /// The moment of a microsecond.
    pub fn new(micros: u64) -> Self {
        Self { micros, text: rfc_3339(micros).unwrap_or_default() }
    }
}

impl Windows {
    /// Any moment of any window, longer windows more often.
    pub fn moment(&self, rng: &mut Rng) -> Option<Moment> {
        let total: u64 = self.windows.iter().map(|(from, to)| to - from + 1).sum();
        let mut at = rng.any().checked_rem(total)?;
        for (from, to) in &self.windows {
            let length = to - from + 1;
            if at < length {
                return Some(Moment::new(from + at));
            }
            at -= length;
        }
        None
    }
}

impl Stage {
    /// A new folder, and an S3 server if one is to be.
    ///
    /// # Errors
    /// Those of making it.
    pub fn new(setting: Setting) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let s3 = setting.s3.then(|| Mutex::new(S3Server::start()));
        let stage = Self { folder, setting, s3 };
        if !setting.s3 {
            fs::create_dir(stage.path("remote"))?;
        }
        let endpoint = stage.s3().map(|server| server.endpoint());
        let settings = endpoint.map(|endpoint| {
            format!(
                "s3-endpoint = \"{endpoint}\"\ns3-region = \"us-east-1\"\ns3-allow-http = true\n\
                 s3-path-style = true\ns3-access-key-id = \"{KEY_ID}\"\n\
                 s3-secret-access-key = \"{SECRET}\"\n"
            )
        });
        fs::write(stage.path("cutwater.toml"), settings.unwrap_or_default())?;
        if setting.sealed {
            let key = stage.path("key").display().to_string();
            run(&["keygen", "--out", &key])?;
        }
        Ok(stage)
    }

    /// Anything in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The S3 server, if it is one.
    pub fn s3(&self) -> Option<MutexGuard<'_, S3Server>> {
        Some(self.s3.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The folder with the store's objects.
    pub fn objects(&self) -> PathBuf {
        match self.s3() {
            Some(server) => server.folder().join("prefix"),
            None => self.path("remote"),
        }
    }

    /// The address of the store.
    pub fn url(&self) -> String {
        match self.setting.s3 {
            true => format!("s3://{BUCKET}/prefix"),
            false => format!("file://{}", self.path("remote").display()),
        }
    }

    /// What a command or a server needs to reach the store and to open what is in it.
    pub fn access(&self) -> Vec<String> {
        let mut access = Vec::new();
        if self.setting.s3 {
            access
                .extend(["--config".to_owned(), self.path("cutwater.toml").display().to_string()]);
        }
        access.extend(self.keys());
        access
    }

    fn keys(&self) -> Vec<String> {
        let key = || format!("test={}", self.path("key").display());
        match self.setting.sealed {
            true => vec!["--key-file".to_owned(), key()],
            false => Vec::new(),
        }
    }

    /// The options of a server that archives a data directory.
    pub fn options(&self, dir: &str, shards: u16) -> ServerOptions {
        let mut options = ServerOptions::new(self.path(dir));
        options.shards = shards;
        options.checkpoint_log_bytes = Some(4 << 20);
        let Setting { compression, interval, .. } = self.setting;
        let url = self.url();
        let more = [
            "--snapshot-store",
            &url,
            "--archive-interval",
            interval,
            "--compression",
            compression,
        ];
        options.more = more.map(str::to_owned).to_vec();
        options.more.extend(self.access());
        options
    }

    /// Serves a data directory and archives it.
    ///
    /// # Errors
    /// As for [`ServerOptions::start`].
    pub fn serve(&self, dir: &str, shards: u16) -> io::Result<ServerProcess> {
        self.options(dir, shards).start()
    }

    /// Serves a data directory by itself.
    ///
    /// # Errors
    /// As for [`ServerOptions::start`].
    pub fn serve_alone(&self, dir: &Path, shards: u16) -> io::Result<ServerProcess> {
        let mut options = ServerOptions::new(dir);
        options.shards = shards;
        options.more = self.keys();
        options.start()
    }

    /// Runs `restore` or another command that works on the store.
    ///
    /// # Errors
    /// If it cannot be started; not if it fails.
    pub fn command(&self, command: &str, more: &[&str]) -> io::Result<Output> {
        let (url, access) = (self.url(), self.access());
        let mut arguments = vec![command, "--store", &url];
        arguments.extend(access.iter().map(String::as_str));
        arguments.extend(more);
        subcommand(&arguments)
    }

    /// Restores a moment into a folder of this name.
    ///
    /// # Errors
    /// If the restore fails; with what it printed.
    pub fn restore(&self, wish: &[&str], name: &str, shards: u16) -> io::Result<PathBuf> {
        let (into, shards) = (self.path(name), shards.to_string());
        let folder = into.display().to_string();
        let mut arguments = vec!["--into", &folder, "--shards", &shards];
        arguments.extend(wish);
        printed("restore", &self.command("restore", &arguments)?)?;
        Ok(into)
    }

    /// [`Self::restore`]; and whether deltas were part of it.
    ///
    /// # Errors
    /// If the restore fails; with what it printed.
    pub fn restore_and_tell(
        &self,
        wish: &[&str],
        name: &str,
        shards: u16,
    ) -> io::Result<(PathBuf, bool)> {
        let (into, shards) = (self.path(name), shards.to_string());
        let folder = into.display().to_string();
        let mut arguments = vec!["--json", "--into", &folder, "--shards", &shards];
        arguments.extend(wish);
        let plan = printed("restore", &self.command("restore", &arguments)?)?;
        let plan: Value = serde_json::from_str(&plan)?;
        let deltas = plan["deltas"].as_array();
        Ok((into, deltas.is_some_and(|deltas| !deltas.is_empty())))
    }

    /// The current history.
    ///
    /// # Errors
    /// If there is none, or the command fails.
    pub fn current(&self) -> io::Result<Windows> {
        let printed = self.restorable()?;
        let line = printed.lines().find(|line| line.ends_with(", current"));
        let id = line.and_then(|line| line.split_whitespace().nth(1));
        let id = id.ok_or_else(|| io::Error::other(format!("no history is current: {printed}")))?;
        self.windows(id.trim_end_matches(','))
    }

    /// What can be restored of a history.
    ///
    /// # Errors
    /// If it is not there, or the command fails.
    pub fn windows(&self, id: &str) -> io::Result<Windows> {
        let printed = self.restorable()?;
        let mut found = Windows { id: id.to_owned(), windows: Vec::new(), holes: 0 };
        let mut is_it = false;
        for line in printed.lines() {
            if let Some(rest) = line.strip_prefix("history ") {
                is_it = rest.starts_with(id);
            } else if let Some(rest) = line.trim().strip_prefix("window ").filter(|_| is_it) {
                // A moment alone, a snapshot's, has no end: --at cannot name it.
                if let Some((from, to)) = rest.trim().split_once(" to ") {
                    let micros = |text| parse_moment(text).map_err(io::Error::other);
                    let (from, to) = (micros(from)?, micros(to)?);
                    found.windows.extend((from <= to).then_some((from, to)));
                }
            } else if is_it {
                found.holes += 1;
            }
        }
        Ok(found)
    }

    /// What `cutwater restorable` prints.
    ///
    /// # Errors
    /// If it fails.
    pub fn restorable(&self) -> io::Result<String> {
        printed("restorable", &self.command("restorable", &[])?)
    }

    /// Takes the store away for a while. A folder: where it was lies a file. A server: it refuses,
    /// does not answer, or does what it is asked and says that it failed.
    ///
    /// # Errors
    /// Those of renaming.
    pub fn outage(&self, length: Duration, kind: u64) -> io::Result<()> {
        use std::sync::atomic::Ordering;
        let Some(mut server) = self.s3() else {
            let (here, away) = (self.path("remote"), self.path("remote-away"));
            fs::rename(&here, &away)?;
            fs::write(&here, b"no store")?;
            thread::sleep(length);
            fs::remove_file(&here)?;
            return fs::rename(&away, &here);
        };
        match kind % 3 {
            0 => {
                server.stop();
                thread::sleep(length);
                server.resume();
            }
            1 => {
                server.freeze();
                thread::sleep(length);
                server.thaw();
            }
            _ => {
                server.behaviour().failing.store(true, Ordering::SeqCst);
                thread::sleep(length);
                server.behaviour().failing.store(false, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    /// The numbers of the archive's objects.
    ///
    /// # Errors
    /// Those of listing.
    pub fn wal_objects(&self) -> io::Result<Vec<PathBuf>> {
        let names = fs::read_dir(self.objects().join("wal"))?;
        let mut paths: Vec<PathBuf> =
            names.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        let is_object = |path: &PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        };
        paths.retain(is_object);
        paths.sort();
        Ok(paths)
    }
}

/// Waits until everything that was written before now is archived.
///
/// # Errors
/// If that takes too long; with what STATUS says.
pub fn wait_archived(server: &ServerProcess) -> io::Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + CLOCK_SKEW;
    let now = Lsn::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX));
    let deadline = Instant::now() + ARCHIVE_LIMIT;
    loop {
        let reply = server.client()?.call(&["SNAPSHOT", "STATUS"])?;
        let found = field(&reply, "archived_to_lsn").and_then(Reply::bytes).unwrap_or_default();
        let archived_to = String::from_utf8_lossy(found).parse().map(Lsn);
        if archived_to.is_ok_and(|to| to > now) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("it is not archived: {reply}")));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// What a subcommand printed, which must not fail.
fn run(arguments: &[&str]) -> io::Result<String> {
    printed(arguments[0], &subcommand(arguments)?)
}

fn printed(command: &str, output: &Output) -> io::Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{command} ended with {}: {printed}", output.status)))
}
