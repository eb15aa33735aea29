//! The mark of a directory into which a restore is writing. It is there before anything else, and
//! goes when the restore is over: so what a kill leaves says what it is, to a person as well as to
//! the next restore, and no server starts on it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::identity::IDENTITY_FILE;

/// The name of the mark in a data directory.
pub const UNFINISHED_FILE: &str = "restore.unfinished";
/// What it says.
const TEXT: &str = "\
cutwater restore was writing this directory. If none is running any more, it was ended in the
middle: what is here is not a database. Remove the directory and restore again.
";

/// Puts the mark, durably.
///
/// # Errors
/// The system's.
pub fn mark(folder: &Path) -> io::Result<()> {
    let mut file = File::create(folder.join(UNFINISHED_FILE))?;
    file.write_all(TEXT.as_bytes())?;
    file.sync_all()?;
    File::open(folder)?.sync_all()
}

/// Takes the mark away, durably; the restore is over.
///
/// # Errors
/// The system's.
pub fn unmark(folder: &Path) -> io::Result<()> {
    fs::remove_file(folder.join(UNFINISHED_FILE))?;
    File::open(folder)?.sync_all()
}

/// Whether a directory is what an ended restore left. The identity comes last: with it the restore
/// had all but ended, and only the mark is left to be taken away.
///
/// # Errors
/// The system's.
pub fn is_unfinished(folder: &Path) -> io::Result<bool> {
    if !folder.join(UNFINISHED_FILE).try_exists()? {
        return Ok(false);
    }
    if folder.join(IDENTITY_FILE).try_exists()? {
        unmark(folder)?;
        return Ok(false);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_ends_a_restore() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_unfinished(dir.path()).unwrap());
        mark(dir.path()).unwrap();
        assert!(is_unfinished(dir.path()).unwrap());
        fs::write(dir.path().join(IDENTITY_FILE), "x").unwrap();
        assert!(!is_unfinished(dir.path()).unwrap());
        assert!(!dir.path().join(UNFINISHED_FILE).exists());
    }
}
