//! A database: the engine, its coordinator and its store, as one thing to open and close. The
//! server's [`crate::serve`] is one user of it; a program that embeds it is another.
//!
//! | file | what |
//! |---|---|
//! | [`config`] | what it is opened with |
//! | [`error`] | why it did not open, or did not do what it was asked |
//! | `start` | what a start makes of what it finds |

pub mod config;
pub mod error;
mod start;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cutwater_engine::clock::wall_micros;
use cutwater_engine::engine::{Failure, Recovered};
use cutwater_engine::log::LogKeys;
use cutwater_engine::seal::Keyring;
use cutwater_engine::types::SnapshotId;
use cutwater_engine::{Client, Engine};
use cutwater_snapshot::archive::Packing;
use cutwater_snapshot::catalog::{Catalog, Entry};
use cutwater_snapshot::claim::{Claimant, Takeover};
use cutwater_snapshot::delete::sweep_leftovers;
use cutwater_snapshot::ident::WriterNonce;
use cutwater_snapshot::local::LocalStore;
use cutwater_snapshot::manifest::{Manifest, SnapshotKind};
use cutwater_snapshot::plan::Target;
use cutwater_snapshot::throttle::Throttle;
use cutwater_snapshot::verify::VerifyReport;
use object_store::ObjectStore;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin;
use crate::coordinator::archive::file::{self, CursorFile};
use crate::coordinator::archive::{self, ArchiveSetup, Archiver};
use crate::coordinator::behind::Known;
use crate::coordinator::remote;
use crate::coordinator::upload::{LocalView, Uploads};
use crate::coordinator::{self, CoordinatorError, CoordinatorSetup, Deleted, Handle, Taken};
use crate::restore::{self, Destination, Source};
use crate::verify::DeepReport;

pub use config::DatabaseConfig;
pub use error::DatabaseError;
use start::Keys;
use start::{check_keys, distrust_unloaded, images, look_at_history, look_at_unreadable};

/// Calls of the control plane's commands that may wait.
const ADMIN_CALLS: usize = 256;

/// An open database. Close it with [`Database::close`]. Dropping it stops it too, inside or outside
/// of a runtime, and blocks the thread meanwhile; a snapshot under way is then given up at the next
/// start, and nobody learns why the engine had failed.
#[derive(Debug)]
pub struct Database {
    engine: Arc<Engine>,
    coordinator: Handle,
    tasks: Vec<JoinHandle<()>>,
    store: Arc<dyn ObjectStore>,
    uploads: Option<(Uploads, Duration)>,
    local: Option<LocalStore>,
    keys: Keyring,
    archiver: Option<Archiver>,
    shutdown: watch::Receiver<bool>,
}

impl Database {
    /// Opens a database on the caller's tokio runtime; completes when it serves.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn open(config: DatabaseConfig) -> Result<Self, DatabaseError> {
        let DatabaseConfig { mut engine, identity, store, keys, local, remote, .. } = config;
        let keys = Keys { ring: keys, accept_plain: config.accept_plain };
        engine.keys = LogKeys { ring: keys.ring.clone(), accept_plain: keys.accept_plain };
        // Before anything is written, to the remote store either.
        Engine::check_keys(&engine)?;
        check_keys(&mut Catalog::load(&*store, identity.database).await?, &keys)?;
        let answer = match &remote {
            Some(remote) => remote::probe_start(remote, identity).await.map_err(|source| {
                DatabaseError::Remote { url: remote.url.clone(), source: Box::new(source) }
            })?,
            None => None,
        };
        let nonce = WriterNonce::random().map_err(|_| DatabaseError::Random)?;
        let Takeover { claimant, aborted, .. } =
            Claimant::take_over(Arc::clone(&store), identity, nonce, wall_micros()).await?;
        for name in aborted {
            tracing::warn!(%name, "an unfinished snapshot of an earlier start was given up");
        }
        let mut catalog = Catalog::load(&*store, identity.database).await?;
        check_keys(&mut catalog, &keys)?;
        look_at_unreadable(&catalog, engine.log)?;
        sweep_leftovers(&*store, &catalog).await?;

        let (calls, received) = flume::bounded(ADMIN_CALLS);
        engine.admin = Some(calls);
        engine.identity = Some((
            u128::from_be_bytes(identity.database.0),
            u128::from_be_bytes(identity.history.0),
        ));
        engine.images = images(&store, &catalog, identity, &keys, engine.log);
        let data_dir = engine.data_dir.clone().filter(|_| engine.log);
        let (mut cursor, mut known) = (None, None);
        if let Some(dir) = &data_dir {
            let found = file::read(dir, identity)?;
            engine.kept_lsn = found.as_ref().map_or(engine.kept_lsn, |cursor| cursor.ceiling);
            let checkpoint = file::newest_checkpoint(&catalog, identity);
            let found = found.unwrap_or_else(|| file::first(identity, checkpoint));
            engine.lsn_floor = engine.lsn_floor.max(found.floor()).max(catalog.highest_lsn());
            known = Some(Known::new(identity, found.ceiling, &catalog));
            cursor = Some(found);
        }
        let asked = look_at_history(remote.as_ref(), known.as_ref(), answer).await?;
        // Blocks: on a thread for it, since the images are read on this runtime meanwhile.
        let opened = tokio::task::spawn_blocking(move || Engine::open(engine)).await;
        let engine = Arc::new(opened.map_err(|_| DatabaseError::Runtime)??);
        distrust_unloaded(&mut catalog, engine.recovered());

        let mut tasks = Vec::new();
        let (mut uploads, mut archiver) = (None, None);
        if let Some(remote) = remote {
            // Only now: a start that fails takes nothing over from a server that runs.
            let view = LocalView::of(&catalog);
            let keep = view.uuids();
            let throttle = Arc::new(Throttle::new(remote.upload_limit_bytes_per_s));
            let (state, seeker) = remote::start(remote.clone(), identity, keep, known, asked).await;
            archiver = cursor.zip(data_dir.clone()).map(|(cursor, data_dir)| {
                archive::start(ArchiveSetup {
                    engine: Arc::clone(&engine),
                    file: CursorFile::new(data_dir),
                    remote: state.clone(),
                    packing: Packing { keys: keys.ring.clone(), compression: config.compression },
                    interval: remote.archive_interval,
                    backlog_limit_bytes: remote.archive_backlog_bytes,
                    throttle: Arc::clone(&throttle),
                    cursor,
                    checkpoint: file::newest_checkpoint(&catalog, identity),
                })
            });
            let (ring, state) = (keys.ring.clone(), (state, throttle));
            let (handle, uploader) = Uploads::start(&remote, Arc::clone(&store), ring, state, view);
            tasks.extend([seeker, uploader]);
            uploads = Some((handle, remote.shutdown_timeout));
        }
        let (coordinator, actor) = coordinator::start(CoordinatorSetup {
            engine: Arc::clone(&engine),
            store: Arc::clone(&store),
            claimant,
            catalog,
            data_dir,
            history: identity.history,
            checkpoint_log_bytes: config.checkpoint_log_bytes,
            uploads: uploads.as_ref().map(|(uploads, _)| uploads.clone()),
            keys: keys.ring.clone(),
            compression: config.compression,
            snapshot_limit_bytes_per_s: config.snapshot_limit_bytes_per_s,
            archive: archiver.as_ref().map(|archiver| archiver.status.clone()),
            retention: config.retention,
        });
        let (shutdown_sender, shutdown) = watch::channel(false);
        let admin = tokio::spawn(admin::serve(received, coordinator.clone(), shutdown_sender));
        tasks.extend([actor, admin]);
        let (rules, handle) = (config.schedule, coordinator.clone());
        tasks.push(coordinator::schedule::start(rules, identity.history, handle));
        tasks.push(coordinator::retention::start(coordinator.clone()));
        let keys = keys.ring;
        Ok(Self { engine, coordinator, tasks, store, uploads, archiver, local, keys, shutdown })
    }

    /// Opens the database of a directory, as [`DatabaseConfig::directory`] describes it.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn open_dir(path: impl AsRef<Path>) -> Result<Self, DatabaseError> {
        Self::open(DatabaseConfig::directory(path)?).await
    }

    /// A handle for commands.
    pub fn client(&self) -> Client {
        self.engine.client()
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The coordinator.
    pub fn coordinator(&self) -> &Handle {
        &self.coordinator
    }

    /// What the start found.
    pub fn recovered(&self) -> &Recovered {
        self.engine.recovered()
    }

    /// Takes a snapshot; completes when it is published.
    ///
    /// # Errors
    /// As for [`Handle::create`].
    pub async fn snapshot(&self) -> Result<Manifest, CoordinatorError> {
        self.coordinator.create().await
    }

    /// Takes a delta; completes when it is published. Where a base is due that is taken instead,
    /// and [`Taken::instead`] says why.
    ///
    /// # Errors
    /// As for [`Handle::create_kind`].
    pub async fn snapshot_delta(&self) -> Result<Taken, CoordinatorError> {
        self.coordinator.create_kind(SnapshotKind::Delta).await
    }

    /// The snapshots of the store.
    ///
    /// # Errors
    /// As for [`Handle::list`].
    pub async fn list(&self) -> Result<Vec<Entry>, CoordinatorError> {
        self.coordinator.list().await
    }

    /// Reads a snapshot whole and checks everything.
    ///
    /// # Errors
    /// As for [`Handle::verify`].
    pub async fn verify(&self, id: SnapshotId) -> Result<VerifyReport, CoordinatorError> {
        self.coordinator.verify(id).await
    }

    /// Reads a snapshot whole, restores it in memory, and compares it with what it was taken of.
    ///
    /// # Errors
    /// As for [`Handle::verify_deep`].
    pub async fn verify_deep(&self, id: SnapshotId) -> Result<DeepReport, CoordinatorError> {
        self.coordinator.verify_deep(id, None).await
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// As for [`Handle::delete`].
    pub async fn delete(&self, id: SnapshotId) -> Result<Deleted, CoordinatorError> {
        self.coordinator.delete(id).await
    }

    /// Restores a snapshot of this database's store into a new data directory.
    ///
    /// # Errors
    /// As for [`fn@restore`].
    pub async fn restore(&self, id: SnapshotId, into: &Path) -> Result<Manifest, DatabaseError> {
        restore(&self.store, id, &self.keys, into).await
    }

    /// Completes when a client has sent SHUTDOWN.
    pub async fn shutdown_requested(&self) {
        let mut shutdown = self.shutdown.clone();
        if shutdown.wait_for(|requested| *requested).await.is_err() {
            std::future::pending().await
        }
    }

    /// Completes when the engine has stopped by itself.
    pub async fn failed(&self) -> Failure {
        self.engine.failed().await
    }

    /// Gives a snapshot under way up, drains, syncs, lets uploads end if they do so in time
    /// ([`remote::RemoteConfig::shutdown_timeout`]), and ends. The directory can be opened again
    /// when this completes.
    ///
    /// # Errors
    /// Why the engine had stopped before.
    pub async fn close(mut self) -> Result<(), DatabaseError> {
        self.coordinator.close().await;
        let mut archiver = self.archiver.take();
        if let Some(archiver) = &mut archiver {
            archiver.mark_last().await;
        }
        let (engine, local) = (Arc::clone(&self.engine), self.local.clone());
        // Waiting for files and joining the shards' threads blocks.
        let closed = tokio::task::spawn_blocking(move || {
            local.iter().for_each(LocalStore::close);
            engine.stop()
        })
        .await;
        // Clients do not wait for uploads: the shards have ended.
        if let Some((uploads, limit)) = &self.uploads {
            let archived = async {
                if let Some(archiver) = &mut archiver {
                    archiver.finish(*limit).await;
                }
            };
            tokio::join!(uploads.finish(*limit), archived);
        }
        for task in self.tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
        // Only now the directory is given back: the archiver wrote down how far it has come.
        drop(archiver);
        let _ = self.engine.shut_down();
        Ok(closed.map_err(|_| DatabaseError::Runtime)??)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // The tasks hold the engine; they end when their runtime gets to it. The engine must not
        // wait for that: the directory is free when this returns. So what they write to the
        // directory's store ends here, before the engine gives the lock back.
        self.tasks.iter().for_each(JoinHandle::abort);
        self.local.iter().for_each(LocalStore::close);
        self.archiver.iter().for_each(Archiver::close);
        let _ = self.engine.shut_down();
    }
}

/// Restores a snapshot into a new data directory, which begins a new history; gives the manifest of
/// its base. Any other moment: [`crate::restore`].
///
/// # Errors
/// [`DatabaseError::Restore`] if the snapshot is not there or not whole, or the directory not new.
pub async fn restore(
    store: &Arc<dyn ObjectStore>,
    id: SnapshotId,
    keys: &Keyring,
    into: &Path,
) -> Result<Manifest, DatabaseError> {
    let source = Source::load(Arc::clone(store), keys.clone()).await?;
    let plan = source.plan(Target::Snapshot(id), None)?;
    let destination = Destination { into: into.to_owned(), shards: None };
    Ok(restore::restore(&source, &plan, &destination).await?.manifest)
}

/// The folder of the local store in a data directory.
pub fn store_dir(data_dir: &Path) -> PathBuf {
    data_dir.join(cutwater_snapshot::restore::STORE_FOLDER)
}
