//! Servers, the store that they archive to, and what can be restored from it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cutwater_control::listing::rfc_3339;
use cutwater_control::restore::text::parse_moment;

use crate::process::ServerProcess;
use crate::server::{ServerOptions, subcommand};
use crate::sim::rng::Rng;

/// A folder with a store and any number of data directories.
pub struct Stage {
    folder: tempfile::TempDir,
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
    /// A new folder.
    ///
    /// # Errors
    /// Those of making it.
    pub fn new() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("remote"))?;
        Ok(Self { folder })
    }

    /// Anything in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The address of the store.
    pub fn url(&self) -> String {
        format!("file://{}", self.path("remote").display())
    }

    /// Serves a data directory and archives it every second.
    ///
    /// # Errors
    /// As for [`ServerOptions::start`].
    pub fn serve(&self, dir: &str, shards: u16) -> io::Result<ServerProcess> {
        let mut options = ServerOptions::new(self.path(dir));
        options.shards = shards;
        options.checkpoint_log_bytes = Some(4 << 20);
        let url = self.url();
        options.more =
            ["--snapshot-store", &url, "--archive-interval", "1s"].map(str::to_owned).to_vec();
        options.start()
    }

    /// Serves a data directory by itself.
    ///
    /// # Errors
    /// As for [`ServerOptions::start`].
    pub fn serve_alone(&self, dir: &Path, shards: u16) -> io::Result<ServerProcess> {
        let mut options = ServerOptions::new(dir);
        options.shards = shards;
        options.start()
    }

    /// Restores a moment into a folder of this name.
    ///
    /// # Errors
    /// If the restore fails; with what it printed.
    pub fn restore(&self, wish: &[&str], name: &str, shards: u16) -> io::Result<PathBuf> {
        let (url, into, shards) = (self.url(), self.path(name), shards.to_string());
        let folder = into.display().to_string();
        let mut arguments = vec!["restore", "--store", &url, "--into", &folder];
        arguments.extend(["--shards", &shards]);
        arguments.extend(wish);
        run(&arguments)?;
        Ok(into)
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
        run(&["restorable", "--store", &self.url()])
    }

    /// Takes the store away for a while: where its folder was lies a file.
    ///
    /// # Errors
    /// Those of renaming.
    pub fn outage(&self, length: Duration) -> io::Result<()> {
        let (here, away) = (self.path("remote"), self.path("remote-away"));
        fs::rename(&here, &away)?;
        fs::write(&here, b"no store")?;
        thread::sleep(length);
        fs::remove_file(&here)?;
        fs::rename(&away, &here)
    }

    /// The numbers of the archive's objects.
    ///
    /// # Errors
    /// Those of listing.
    pub fn wal_objects(&self) -> io::Result<Vec<PathBuf>> {
        let names = fs::read_dir(self.path("remote/wal"))?;
        let mut paths: Vec<PathBuf> =
            names.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        paths.retain(|path| !path.to_string_lossy().contains('#'));
        paths.sort();
        Ok(paths)
    }
}

/// What a subcommand printed, which must not fail.
fn run(arguments: &[&str]) -> io::Result<String> {
    let output = subcommand(arguments)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{} ended with {}: {printed}", arguments[0], output.status)))
}
