//! The cursor's file, `DATA/archive.msgpack`: written beside, synced, renamed, and the directory
//! synced, so that it is there whole, as it was or as it is. Blocks.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cutwater_engine::log::Coverage;
use cutwater_engine::types::Lsn;
use cutwater_snapshot::archive::{Cursor, WalNumber};
use cutwater_snapshot::catalog::Catalog;
use cutwater_snapshot::error::Flaw;
use cutwater_snapshot::ident::Identity;

use crate::coordinator::image::coverage;
use crate::coordinator::recycle::checkpoints;

/// The file's name in a data directory.
pub const CURSOR_FILE: &str = "archive.msgpack";
/// What it is called until it is complete.
const CURSOR_DRAFT: &str = "archive.msgpack.new";

/// Why the cursor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// The bytes are not those that were written.
    #[error("{} is damaged: {flaw}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        flaw: Flaw,
    },
    /// The file could not be read or written.
    #[error("cannot {verb} {}: {source}", .path.display())]
    Io {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database is closed: the directory may be somebody else's by now.
    #[error("the database is being closed")]
    Closed,
}

/// The one who writes the cursor of an open data directory.
#[derive(Clone, Debug)]
pub struct CursorFile {
    data_dir: PathBuf,
    is_open: Arc<Mutex<bool>>,
}

impl CursorFile {
    /// That of a directory which this process holds.
    pub fn new(data_dir: PathBuf) -> Self {
        Self { data_dir, is_open: Arc::new(Mutex::new(true)) }
    }

    /// Where it is.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Nothing is written any more when this returns: to be called before the directory is given
    /// back.
    pub fn close(&self) {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Writes the cursor; durable when this returns.
    ///
    /// # Errors
    /// [`CursorError::Io`] or [`CursorError::Closed`].
    pub fn write(&self, cursor: &Cursor) -> Result<(), CursorError> {
        let is_open = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_open {
            return Err(CursorError::Closed);
        }
        write(&self.data_dir, cursor)
    }
}

/// The cursor of a data directory; `None` if nothing of its history was archived yet.
///
/// # Errors
/// [`CursorError`].
pub fn read(data_dir: &Path, identity: Identity) -> Result<Option<Cursor>, CursorError> {
    let path = data_dir.join(CURSOR_FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CursorError::Io { verb: "read", path, source }),
    };
    let cursor = Cursor::decode(&bytes).map_err(|flaw| CursorError::Damaged { path, flaw })?;
    let is_ours = (cursor.database, cursor.history) == (identity.database, identity.history);
    Ok(is_ours.then_some(cursor))
}

fn write(data_dir: &Path, cursor: &Cursor) -> Result<(), CursorError> {
    let path = data_dir.join(CURSOR_FILE);
    let write = || -> io::Result<()> {
        let draft = data_dir.join(CURSOR_DRAFT);
        let mut file = File::create(&draft)?;
        file.write_all(&cursor.encode())?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(data_dir)?.sync_all()
    };
    write().map_err(|source| CursorError::Io { verb: "write", path, source })
}

/// The newest checkpoint: where it ends, and from where on log is there in any case.
pub fn newest_checkpoint(catalog: &Catalog, identity: Identity) -> Option<(Lsn, Coverage)> {
    let checkpoint = checkpoints(catalog, identity.history).first().copied();
    checkpoint.map(|manifest| (manifest.meta().end_lsn, coverage(manifest)))
}

/// Where a history's archive begins: behind `checkpoint`, where that is the first thing that the
/// log continues, else at the history's own beginning. Nothing of the history was archived, so the
/// ceiling is as low as it can be: an object of it in the store means that this directory is old.
pub fn first(identity: Identity, checkpoint: Option<(Lsn, Coverage)>) -> Cursor {
    let begin = identity.fork.map_or(Lsn::ZERO, |fork| fork.lsn);
    let (to, coverage) = match checkpoint {
        Some((end_lsn, coverage)) => (end_lsn, Some(coverage)),
        None => (begin, None),
    };
    Cursor {
        database: identity.database,
        history: identity.history,
        number: WalNumber(0),
        to,
        ceiling: begin,
        run_from: to,
        coverage,
        gap: None,
    }
}
