//! A database: the engine, its coordinator and its store, as one thing to open and close. The
//! server's [`crate::serve`] is one user of it; a program that embeds it is another.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cutwater_engine::clock::wall_micros;
use cutwater_engine::engine::{Failure, OpenError, Recovered};
use cutwater_engine::seal::Keyring;
use cutwater_engine::types::SnapshotId;
use cutwater_engine::{Client, Engine, EngineConfig, ImageSource};
use cutwater_snapshot::archive::{Cursor, Packing};
use cutwater_snapshot::catalog::{Catalog, Entry, EntryState};
use cutwater_snapshot::claim::{Claimant, Takeover};
use cutwater_snapshot::compression::Compression;
use cutwater_snapshot::delete::sweep_leftovers;
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::{Identity, WriterNonce};
use cutwater_snapshot::local::LocalStore;
use cutwater_snapshot::manifest::Manifest;
use cutwater_snapshot::plan::Target;
use cutwater_snapshot::verify::VerifyReport;
use object_store::ObjectStore;
use tokio::runtime::Handle as Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin;
use crate::coordinator::archive::file::CursorError;
use crate::coordinator::archive::{self, ArchiveSetup, Archiver};
use crate::coordinator::image::SnapshotImage;
use crate::coordinator::remote::{self, RemoteConfig};
use crate::coordinator::upload::{LocalView, Uploads};
use crate::coordinator::{self, CoordinatorError, CoordinatorSetup, Deleted, Handle};
use crate::data_dir::{DataDir, DataDirError};
use crate::identity::{self, IdentityError};
use crate::restore::{self, Destination, RestoreError, Source};

/// Calls of the control plane's commands that may wait.
const ADMIN_CALLS: usize = 256;

/// What a database is opened with: [`DatabaseConfig::directory`] or [`DatabaseConfig::memory`],
/// changed where the defaults do not fit.
///
/// ```no_run
/// # async fn run() -> Result<(), cutwater_control::database::DatabaseError> {
/// use cutwater_control::{Database, DatabaseConfig};
///
/// let mut config = DatabaseConfig::directory("/var/lib/things")?;
/// config.engine.shards = 4;
/// let database = Database::open(config).await?;
/// # Ok(())
/// # }
/// ```
pub struct DatabaseConfig {
    /// The engine's part. Its images, its identity and its admin channel are set here.
    pub engine: EngineConfig,
    /// Who the data directory is.
    pub identity: Identity,
    /// Where snapshots go.
    pub store: Arc<dyn ObjectStore>,
    /// At how many bytes of log a checkpoint is taken; `None`: the larger of 1 GiB and the last
    /// snapshot's size.
    pub checkpoint_log_bytes: Option<u64>,
    /// Where published snapshots go as well, if anywhere.
    pub remote: Option<RemoteConfig>,
    /// The keys that seal; empty: nothing is sealed.
    pub keys: Keyring,
    /// Whether to open with keys what is not sealed, as when sealing begins.
    pub accept_plain: bool,
    /// How snapshots are compressed.
    pub compression: Compression,
    /// The data directory's own store, which nobody may write to when the directory is given back.
    local: Option<LocalStore>,
}

impl DatabaseConfig {
    /// A durable database in a directory: made if need be, locked from now on, its identity read
    /// or made, snapshots in its folder `store`. Two shards, not pinned, `fsync` always, no
    /// listeners.
    ///
    /// # Errors
    /// [`DatabaseError::DataDir`] if the directory is in use or is no database's, or
    /// [`DatabaseError::Store`].
    pub fn directory(path: impl AsRef<Path>) -> Result<Self, DatabaseError> {
        Self::data_dir(DataDir::open(path.as_ref(), true)?)
    }

    /// [`Self::directory`] for one that is open already.
    ///
    /// # Errors
    /// [`DatabaseError::Store`].
    pub fn data_dir(mut data_dir: DataDir) -> Result<Self, DatabaseError> {
        let store = LocalStore::open(&store_dir(data_dir.path())).map_err(SnapshotError::from)?;
        store.remove_unfinished_writes().map_err(SnapshotError::from)?;
        let mut engine = EngineConfig::directory(data_dir.path());
        engine.lock = data_dir.take_lock();
        let identity = data_dir.identity().ids();
        let (local, store) = (Some(store.clone()), Arc::new(store));
        Ok(Self { local, ..Self::new(engine, identity, store) })
    }

    /// A new database in memory only, whose snapshots go to `store`. Two shards, not pinned, no
    /// listeners.
    ///
    /// # Errors
    /// [`DatabaseError::Identity`] if the kernel gives no random bytes.
    pub fn memory(store: Arc<dyn ObjectStore>) -> Result<Self, DatabaseError> {
        let identity = identity::Identity::new_database()?.ids();
        Ok(Self::new(EngineConfig::memory(), identity, store))
    }

    fn new(engine: EngineConfig, identity: Identity, store: Arc<dyn ObjectStore>) -> Self {
        Self {
            engine,
            identity,
            store,
            checkpoint_log_bytes: None,
            remote: None,
            keys: Keyring::default(),
            accept_plain: false,
            compression: Compression::None,
            local: None,
        }
    }
}

/// Why a database did not open, or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The engine did not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The engine has stopped by itself.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The store, or something in it, is not as it has to be.
    #[error(transparent)]
    Store(#[from] SnapshotError),
    /// The remote store refuses definitely.
    #[error("the remote store {url} cannot be used: {source}")]
    Remote {
        /// Its address.
        url: String,
        /// What it said.
        source: Box<SnapshotError>,
    },
    /// The data directory is older than its archive.
    #[error("{reason}")]
    BehindArchive {
        /// How far each of them reaches.
        reason: String,
    },
    /// What is remembered of the archive cannot be used.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// The coordinator did not do what it was asked.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    /// There are snapshots, and not one of them can be read.
    #[error("no snapshot of the local store can be read: {reason}")]
    Unreadable {
        /// What is wrong with the newest, naming the object.
        reason: String,
    },
    /// The identity of a restored directory could not be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Nothing was restored.
    #[error(transparent)]
    Restore(Box<RestoreError>),
    /// The kernel gave no random bytes.
    #[error("the kernel gives no random bytes")]
    Random,
    /// The runtime is going down.
    #[error("the runtime is going down")]
    Runtime,
}

impl From<RestoreError> for DatabaseError {
    fn from(error: RestoreError) -> Self {
        Self::Restore(Box::new(error))
    }
}

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
        let keys = Keys { ring: keys, accept_plain: config.accept_plain };
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
        let is_answering = remote.is_some() && answer.is_none();
        let cursor = match &data_dir {
            Some(dir) => Some(archive::file::find(dir, identity, &catalog)?),
            None => None,
        };
        if let Some(cursor) = &cursor {
            engine.lsn_floor = cursor.ceiling;
            if let Some(remote) = remote.as_ref().filter(|_| is_answering) {
                look_at_archive(remote, identity, cursor).await?;
            }
        }
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
            let (state, seeker) = remote::start(remote.clone(), identity, keep, answer).await;
            archiver = cursor.zip(data_dir.clone()).map(|(cursor, data_dir)| {
                archive::start(ArchiveSetup {
                    engine: Arc::clone(&engine),
                    data_dir,
                    remote: state.clone(),
                    packing: Packing { keys: keys.ring.clone(), ..Packing::default() },
                    interval: remote.archive_interval,
                    backlog_limit_bytes: remote.archive_backlog_bytes,
                    cursor,
                })
            });
            let (handle, uploader) =
                Uploads::start(&remote, Arc::clone(&store), keys.ring.clone(), state, view);
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
            archive: archiver.as_ref().map(|archiver| archiver.status.clone()),
        });
        let (shutdown_sender, shutdown) = watch::channel(false);
        let admin = tokio::spawn(admin::serve(received, coordinator.clone(), shutdown_sender));
        tasks.extend([actor, admin]);
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
    /// As for [`restore`].
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
    /// ([`RemoteConfig::shutdown_timeout`]), and ends. The directory can be opened again
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
            engine.shut_down()
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
        let _ = self.engine.shut_down();
    }
}

/// The keys, and how strictly they are meant.
struct Keys {
    ring: Keyring,
    accept_plain: bool,
}

impl Keys {
    /// What this snapshot is read with.
    fn for_reading(&self, manifest: &Manifest) -> Keyring {
        let is_accepted = self.accept_plain && manifest.wrapped_key().is_none();
        if is_accepted { Keyring::default() } else { self.ring.clone() }
    }
}

/// Refuses to start without the key of the newest snapshot, rather than with an older one that
/// happens to open; and trusts no manifest that was altered.
fn check_keys(catalog: &mut Catalog, keys: &Keys) -> Result<(), DatabaseError> {
    if let Some(newest) = catalog.published().next_back()
        && let Err(refused @ SnapshotError::Refused { .. }) =
            newest.unlock(&keys.for_reading(newest))
    {
        return Err(refused.into());
    }
    catalog.authenticate(&keys.ring, keys.accept_plain);
    Ok(())
}

/// Refuses a directory that is older than its archive. A store that does not answer now is asked
/// again by the archiver, which then archives nothing.
async fn look_at_archive(
    remote: &RemoteConfig,
    identity: Identity,
    cursor: &Cursor,
) -> Result<(), DatabaseError> {
    let looked = archive::check_start(&*remote.store, identity, cursor.ceiling);
    match tokio::time::timeout(remote::START_LIMIT, looked).await {
        Ok(Ok(Some(reason))) => Err(DatabaseError::BehindArchive { reason }),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the archive cannot be looked at yet");
            Ok(())
        }
        Ok(Ok(None)) | Err(_) => Ok(()),
    }
}

/// Says which snapshots cannot be read. If that is all of them, then starting from nothing would
/// hide it, and end in a new log beside the only copy.
fn look_at_unreadable(catalog: &Catalog, log: bool) -> Result<(), DatabaseError> {
    let mut newest = None;
    for entry in catalog.entries() {
        let (Some(name), EntryState::Unreadable { reason }) = (entry.name, &entry.state) else {
            continue;
        };
        tracing::error!(%name, reason, "a snapshot cannot be read");
        newest = Some(reason.clone());
    }
    match newest {
        Some(reason) if log && catalog.published().next().is_none() => {
            Err(DatabaseError::Unreadable { reason })
        }
        _ => Ok(()),
    }
}

/// Snapshots newer than the one that was loaded could not be: they are no checkpoints, on whose
/// account log or older snapshots may go.
fn distrust_unloaded(catalog: &mut Catalog, recovered: &Recovered) {
    let Some(loaded) = &recovered.image else { return };
    let is_newer = |manifest: &&Manifest| manifest.name().to_string() != *loaded;
    let newer: Vec<_> =
        catalog.published().rev().take_while(is_newer).map(Manifest::name).collect();
    for name in newer {
        catalog.distrust(name, "this start could not load it, and took an older one");
    }
}

/// The images that a start may load, newest first.
fn images(
    store: &Arc<dyn ObjectStore>,
    catalog: &Catalog,
    identity: Identity,
    keys: &Keys,
    log: bool,
) -> Vec<Box<dyn ImageSource>> {
    if !log {
        return Vec::new();
    }
    let image = |manifest: &Manifest| {
        let (runtime, store) = (Runtime::current(), Arc::clone(store));
        let image = SnapshotImage::new(
            runtime,
            store,
            manifest.clone(),
            identity.history,
            keys.for_reading(manifest),
        );
        Box::new(image) as Box<dyn ImageSource>
    };
    catalog.published().rev().take(2).map(image).collect()
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
    let plan = source.plan(Target::Snapshot(id), None).map_err(RestoreError::from)?;
    let destination = Destination { into: into.to_owned(), shards: None };
    Ok(restore::restore(&source, &plan, &destination).await?.manifest)
}

/// The folder of the local store in a data directory.
pub fn store_dir(data_dir: &Path) -> PathBuf {
    data_dir.join(cutwater_snapshot::restore::STORE_FOLDER)
}
