//! The archiver: sends the log to the remote store, an interval at a time.
//!
//! Every interval it takes a mark of all shards and puts what lies between the cursor and the
//! mark's closed LSN, as one object or several. In this order, so that a crash between any two
//! steps loses nothing and doubles nothing: the ceiling is durable, the object is put (again and
//! again, always the same one, until it is certain), the cursor is durable, and only then may the
//! log go.
//!
//! A store that does not answer costs disk, up to the backlog's limit, which is looked at while a
//! put is under way, too: it may take long on a slow line, or for a store that hangs. Past it the
//! archive goes on at the present: the gap is durable in the cursor before any log goes on its
//! account, and a base is due as soon as objects get through again, since no older one reaches
//! across. It is the same where log is gone that was never archived: the server has run without its
//! remote store.
//!
//! | file | what |
//! |---|---|
//! | `task` | the rounds |
//! | `batch` | records out of the logs |
//! | [`file`](mod@file) | the cursor over restarts |
//! | `problem` | why nothing is archived |

mod batch;
pub mod file;
mod problem;
mod task;

use std::sync::Arc;
use std::time::Duration;

use cutwater_engine::Engine;
use cutwater_engine::log::Coverage;
use cutwater_engine::types::Lsn;
use cutwater_snapshot::archive::{Cursor, Packing};
use cutwater_snapshot::throttle::Throttle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use self::file::CursorFile;
use self::task::Task;
use super::remote::RemoteState;

/// What an archiver works with.
pub struct ArchiveSetup {
    /// The shards.
    pub engine: Arc<Engine>,
    /// Where the cursor is, and beside it the log.
    pub file: CursorFile,
    /// Whether this process may write to the remote store.
    pub remote: watch::Receiver<RemoteState>,
    /// How objects are written.
    pub packing: Packing,
    /// How often.
    pub interval: Duration,
    /// Bytes of log that may wait.
    pub backlog_limit_bytes: u64,
    /// What holds it back, together with the uploads and before them.
    pub throttle: Arc<Throttle>,
    /// How far it has come.
    pub cursor: Cursor,
    /// The newest checkpoint: where it ends, and from where on log is there in any case.
    pub checkpoint: Option<(Lsn, Coverage)>,
}

/// Where the archive stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveStatus {
    /// Everything at or below it is archived.
    pub archived_to: Lsn,
    /// Bytes of log that wait.
    pub backlog_bytes: u64,
    /// Why the last try failed, if none succeeded since.
    pub last_error: Option<String>,
    /// The last gap: above, and at or below.
    pub gap: Option<(Lsn, Lsn)>,
    /// Objects get through, and a base has to be in the remote store that ends at or above it:
    /// before, nothing behind it can be restored.
    pub base_due: Option<Lsn>,
    /// Log behind it is still needed; `None`: all of it.
    pub coverage: Option<Coverage>,
}

/// A running archiver.
#[derive(Debug)]
pub struct Archiver {
    /// Where it stands.
    pub status: watch::Receiver<ArchiveStatus>,
    stop: Option<oneshot::Sender<()>>,
    marked: Option<oneshot::Receiver<()>>,
    file: CursorFile,
    task: JoinHandle<()>,
}

/// How long a stop waits for the shards' last mark.
const LAST_MARK_LIMIT: Duration = Duration::from_secs(2);

impl Archiver {
    /// Tells it to end with what is durable now; completes when the shards are not needed for that
    /// any more.
    pub async fn mark_last(&mut self) {
        if let (Some(stop), Some(marked)) = (self.stop.take(), self.marked.take()) {
            let _ = stop.send(());
            let _ = tokio::time::timeout(LAST_MARK_LIMIT, marked).await;
        }
    }

    /// Waits until it has ended, at most so long; it writes nothing any more afterwards.
    pub async fn finish(&mut self, limit: Duration) {
        let _ = tokio::time::timeout(limit, &mut self.task).await;
        self.close();
    }

    /// It writes nothing to the data directory any more when this returns.
    pub fn close(&self) {
        self.task.abort();
        self.file.close();
    }
}

impl Drop for Archiver {
    fn drop(&mut self) {
        self.close();
    }
}

/// Starts an archiver on the runtime of the caller.
pub fn start(setup: ArchiveSetup) -> Archiver {
    let status = ArchiveStatus {
        archived_to: setup.cursor.to,
        gap: setup.cursor.gap,
        coverage: setup.cursor.coverage.clone(),
        ..ArchiveStatus::default()
    };
    let (sender, status) = watch::channel(status);
    let (stop, stopped) = oneshot::channel();
    let (last_mark, marked) = oneshot::channel();
    let file = setup.file.clone();
    let task = tokio::spawn(Task::new(setup, sender, last_mark).run(stopped));
    Archiver { status, stop: Some(stop), marked: Some(marked), file, task }
}
