//! What a database is opened with.

use std::path::Path;
use std::sync::Arc;

use cutwater_engine::EngineConfig;
use cutwater_engine::seal::Keyring;
use cutwater_snapshot::compression::Compression;
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::Identity;
use cutwater_snapshot::local::LocalStore;
use cutwater_snapshot::retention::Policy;
use object_store::ObjectStore;

use super::{DatabaseError, store_dir};
use crate::coordinator::remote::RemoteConfig;
use crate::data_dir::DataDir;
use crate::identity;
use crate::schedule::Rule;

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
    /// The engine's part. Its images, identity, keys and admin channel are set when it opens.
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
    /// The keys that seal snapshots, archive and log; empty: nothing is sealed.
    pub keys: Keyring,
    /// Whether to open with keys what is not sealed, as when sealing begins.
    pub accept_plain: bool,
    /// How snapshots are compressed.
    pub compression: Compression,
    /// Bytes that snapshots write, and verifications read, in a second at most; `None`: as many as
    /// the disk takes.
    pub snapshot_limit_bytes_per_s: Option<u64>,
    /// When snapshots are taken by themselves.
    pub schedule: Vec<Rule>,
    /// What stays of snapshots and archive; empty: everything.
    pub retention: Policy,
    /// The data directory's own store, which nobody may write to when the directory is given back.
    pub(super) local: Option<LocalStore>,
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
            snapshot_limit_bytes_per_s: None,
            schedule: Vec::new(),
            retention: Policy::default(),
            local: None,
        }
    }
}
