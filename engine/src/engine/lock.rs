//! One server a data directory: an exclusive lock on `DATA/LOCK`.
//!
//! The lock is flock(2) on an open file, not the file's existence: the kernel gives it back when
//! the process ends, however it ends, so a crash leaves nothing to clean up. It belongs to the open
//! file, not to the process, so two databases of one process exclude each other as well. The file
//! stays when the lock goes: removing it would let a third process lock a new file of that name
//! while a second one holds the old. It holds the process id of the holder, for the message only.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The name of the lock file in a data directory.
pub const LOCK_FILE: &str = "LOCK";
/// A process id and a line end never take more.
const MAX_PID_BYTES: u64 = 32;

/// Why a data directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it open.
    #[error("the data directory {} is in use by {}", .data_dir.display(), holder(*.pid))]
    Held {
        /// The directory.
        data_dir: PathBuf,
        /// The holder's process id, unless it has not written it yet.
        pid: Option<u32>,
    },
    /// The lock file could not be made, locked or written.
    #[error("cannot lock {}: {source}", .path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl LockError {
    /// What to do about it, as one sentence.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Held { .. } => "Stop that server first, or choose another --data-dir.",
            Self::Io { .. } => {
                "Make the directory writable for this user, on a filesystem that has flock."
            }
        }
    }
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) if pid == std::process::id() => format!("this process ({pid}) already"),
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

/// A held lock. Dropping it unlocks the directory at once.
#[derive(Debug)]
pub struct DataLock {
    file: File,
}

impl DataLock {
    /// Locks an existing data directory, without waiting.
    ///
    /// # Errors
    /// [`LockError::Held`] if another holder has it, else [`LockError::Io`].
    #[expect(clippy::disallowed_methods, reason = "the lock is a file")]
    pub fn acquire(data_dir: &Path) -> Result<Self, LockError> {
        let path = data_dir.join(LOCK_FILE);
        let failed = |source| LockError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = read_pid(&mut file);
                return Err(LockError::Held { data_dir: data_dir.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        write_pid(&mut file).map_err(failed)?;
        Ok(Self { file })
    }
}

impl Drop for DataLock {
    fn drop(&mut self) {
        // Unlocked, not only closed: a child that some other thread is just starting holds a copy
        // of this descriptor until its exec, and with it the lock. Errors cannot be acted on here,
        // and closing the file follows anyway.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// The holder's process id, if it is there to be read.
fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(MAX_PID_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    /// Names the directory that the child of the test below is to lock.
    const CHILD_VARIABLE: &str = "LOCK_TEST_DIRECTORY";

    #[test]
    fn two_in_one_process_exclude_each_other_until_the_drop() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let lock = DataLock::acquire(dir.path()).unwrap();
        let _other = DataLock::acquire(other.path()).unwrap();
        let error = DataLock::acquire(dir.path()).unwrap_err();
        let pid = std::process::id();
        assert_eq!(
            error.to_string(),
            format!(
                "the data directory {} is in use by this process ({pid}) already",
                dir.path().display()
            )
        );
        assert!(error.remedy().contains("--data-dir"));
        drop(lock);
        drop(DataLock::acquire(dir.path()).unwrap());
        DataLock::acquire(dir.path()).unwrap();
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the lock is a file")]
    fn a_stale_pid_does_not_lock() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LOCK_FILE), "99999999 and more text than a pid").unwrap();
        let _lock = DataLock::acquire(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(LOCK_FILE)).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_holder_without_a_pid_is_another_process() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DataLock::acquire(dir.path()).unwrap();
        lock.file.set_len(0).unwrap();
        let text = DataLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(text.ends_with("is in use by another process"), "{text}");
    }

    #[test]
    fn a_directory_that_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let error = DataLock::acquire(&dir.path().join("missing")).unwrap_err();
        assert!(error.to_string().starts_with("cannot lock "), "{error}");
        assert!(error.remedy().contains("writable"));
    }

    #[test]
    fn a_killed_holder_leaves_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "engine::lock::tests::child_that_holds", "--ignored", "--nocapture"])
            .env(CHILD_VARIABLE, dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("locked")), "the child did not lock");
        let text = DataLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(text.ends_with(&format!("is in use by process {}", child.id())), "{text}");
        child.kill().unwrap();
        child.wait().unwrap();
        DataLock::acquire(dir.path()).unwrap();
    }

    #[test]
    #[ignore = "run by a_killed_holder_leaves_no_lock, as a process of its own"]
    fn child_that_holds() {
        let Some(dir) = std::env::var_os(CHILD_VARIABLE) else { return };
        let _lock = DataLock::acquire(Path::new(&dir)).unwrap();
        println!("locked");
        // Until it is killed, or the parent is gone.
        let _ = io::stdin().read_line(&mut String::new());
    }
}
