//! The data directory, opened: made if need be, locked, and its identity read or made.
//!
//! The first thing that a start does, and what it holds until it has stopped. What the directory
//! holds besides ([`LOCK_FILE`] and [`IDENTITY_FILE`]) belongs to the log and the local store; here
//! it only matters *whether* it holds anything, because `--no-log` refuses to start beside data
//! that it would neither load nor extend, and because data without an identity is not adopted.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::identity::{IDENTITY_DRAFT, IDENTITY_FILE, Identity, IdentityError};
use crate::restore::unfinished;
use cutwater_engine::engine::lock::{DataLock, LOCK_FILE, LockError};

/// Only the user that the server runs as sees the data.
const DIRECTORY_MODE: u32 = 0o700;

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The directory could not be made or listed.
    #[error("cannot use the data directory {}: {source}", .path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else has it open.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Its identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// `--no-log` and a directory that holds data.
    #[error(
        "no-log is set, but the data directory {} holds data ({})",
        .path.display(), .found.display()
    )]
    NoLogOverData {
        /// The directory.
        path: PathBuf,
        /// The first file of data that was found.
        found: PathBuf,
    },
    /// A restore was ended in the middle.
    #[error(
        "{} is what a restore left that was ended in the middle: it is not a database",
        .path.display()
    )]
    Unfinished {
        /// The directory.
        path: PathBuf,
    },
    /// Data, but nothing that says whose.
    #[error(
        "the data directory {} holds data ({}) but no {IDENTITY_FILE}",
        .path.display(), .found.display()
    )]
    NoIdentity {
        /// The directory.
        path: PathBuf,
        /// The first file of data that was found.
        found: PathBuf,
    },
}

impl DataDirError {
    /// What to do about it, as one sentence.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Io { .. } => "Choose a --data-dir that this user may create and write.",
            Self::Lock(error) => error.remedy(),
            Self::Identity(error) => error.remedy(),
            Self::NoLogOverData { .. } => {
                "Start without --no-log to serve that data, or choose another --data-dir."
            }
            Self::Unfinished { .. } => {
                "Remove it, and restore again; or choose another --data-dir."
            }
            Self::NoIdentity { .. } => {
                "Choose another --data-dir, or put the missing file back from a copy of the \
                 directory."
            }
        }
    }
}

/// An open data directory. Dropping it gives the lock back.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    is_new: bool,
    lock: Option<DataLock>,
}

impl DataDir {
    /// Opens the directory for a server that logs (`log`) or keeps everything in memory.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn open(path: &Path, log: bool) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::Io { path: path.to_owned(), source };
        create_durably(path).map_err(failed)?;
        let lock = DataLock::acquire(path)?;
        if unfinished::is_unfinished(path).map_err(failed)? {
            return Err(DataDirError::Unfinished { path: path.to_owned() });
        }
        let found = first_data_file(path).map_err(failed)?;
        if let (false, Some(found)) = (log, &found) {
            return Err(DataDirError::NoLogOverData { path: path.into(), found: found.clone() });
        }
        let known = Identity::read(path)?;
        let identity = match (known, found) {
            (Some(identity), _) => identity,
            (None, Some(found)) => {
                return Err(DataDirError::NoIdentity { path: path.into(), found });
            }
            (None, None) => {
                let identity = Identity::new_database()?;
                identity.create(path)?;
                identity
            }
        };
        Ok(Self { path: path.to_owned(), identity, is_new: known.is_none(), lock: Some(lock) })
    }

    /// Hands the lock over, to the engine that will use the directory.
    pub fn take_lock(&mut self) -> Option<DataLock> {
        self.lock.take()
    }

    /// Where it is, as it was configured.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether this start made the database.
    pub fn is_new(&self) -> bool {
        self.is_new
    }
}

/// Makes the directory and those above it, each synced into its parent: a log that is durable in a
/// directory that a power cut takes away is not durable.
fn create_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if path.exists() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    };
    create_durably(parent)?;
    match fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => {}
        // Another process was faster; the lock decides between the two.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    File::open(parent)?.sync_all()
}

/// The first file below `path`, by name, that is data.
fn first_data_file(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
    entries.retain(|entry| !is_beside_data(&entry.file_name()));
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let found = if entry.file_type()?.is_dir() { first_data_file(&path)? } else { Some(path) };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Names that are no data: the lock and the identity, a configuration file that somebody keeps
/// here, and what mkfs puts into the root of a volume.
fn is_beside_data(name: &OsStr) -> bool {
    name == LOCK_FILE
        || name == IDENTITY_DRAFT
        || name == "lost+found"
        || Path::new(name).extension().is_some_and(|extension| extension == "toml")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn made_at_the_first_start_and_the_same_at_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = DataDir::open(&path, true).unwrap();
        assert!(first.is_new() && first.path() == path);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, DIRECTORY_MODE);
        let identity = *first.identity();
        let error = DataDir::open(&path, true).unwrap_err();
        assert!(matches!(error, DataDirError::Lock(LockError::Held { .. })), "{error}");
        drop(first);
        let second = DataDir::open(&path, true).unwrap();
        assert!(!second.is_new());
        assert_eq!(*second.identity(), identity);
    }

    #[test]
    fn no_log_refuses_data_and_takes_an_empty_directory_again() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), false).unwrap());
        fs::create_dir_all(dir.path().join("store/claims")).unwrap();
        drop(DataDir::open(dir.path(), false).unwrap());
        let segment = dir.path().join("log/000001-000/0.seg");
        fs::create_dir_all(segment.parent().unwrap()).unwrap();
        fs::write(&segment, b"x").unwrap();
        let error = DataDir::open(dir.path(), false).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "no-log is set, but the data directory {} holds data ({})",
                dir.path().display(),
                segment.display()
            )
        );
        assert!(error.remedy().contains("without --no-log"));
        // The refusal gave the lock back.
        DataDir::open(dir.path(), true).unwrap();
    }

    #[test]
    fn data_without_an_identity_is_not_adopted() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("photo.jpg"), b"x").unwrap();
        let error = DataDir::open(dir.path(), true).unwrap_err();
        assert!(error.to_string().contains("photo.jpg) but no database.toml"), "{error}");
        assert!(!dir.path().join(IDENTITY_FILE).exists());
        assert!(error.remedy().contains("another --data-dir"));
    }

    #[test]
    fn a_path_that_is_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = DataDir::open(file.path(), true).unwrap_err();
        assert!(error.to_string().starts_with("cannot use the data directory"), "{error}");
        assert!(error.remedy().contains("--data-dir"));
    }
}
