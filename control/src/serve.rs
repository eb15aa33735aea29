//! A server from its configuration to its end: open the data directory, start the shards and the
//! coordinator, say so, wait for the request to stop or for a failure, and stop in order.
//!
//! Invariants: the data directory is locked before anything reads it and until the shards have
//! stopped; `ready` of [`run`] is called once, after recovery and when every port listens.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cutwater_engine::engine::OpenError;
use cutwater_engine::log::{RecoveryError, Refusal as LogRefusal};
use cutwater_engine::seal::Keyring;
use cutwater_snapshot::error::{Cause, Refusal, SnapshotError, StoreError};
use cutwater_snapshot::store::StoreUrl;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::banner::Banner;
use crate::config::Config;
use crate::coordinator::archive::file::CursorError;
use crate::coordinator::remote::RemoteConfig;
use crate::data_dir::{DataDir, DataDirError};
use crate::database::{Database, DatabaseConfig, DatabaseError, store_dir};
use crate::keys::{KeyError, keyring};
use crate::metrics;
use crate::placement::Placement;

/// Why a server did not start, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The metrics cannot be served.
    #[error("cannot listen on {address} for metrics: {source}")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The database did not open, or has failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl ServeError {
    /// What to do about it, as one sentence.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::DataDir(error) => error.remedy(),
            Self::Keys(error) => error.remedy(),
            Self::Metrics { .. } => "Choose another --metrics-port, or stop what uses it.",
            Self::Database(DatabaseError::DataDir(error)) => error.remedy(),
            Self::Database(DatabaseError::Remote { source, .. }) => remote_remedy(source),
            Self::Database(DatabaseError::Store(SnapshotError::Refused { reason, .. })) => {
                refusal_remedy(reason)
            }
            Self::Database(DatabaseError::Behind(_)) => {
                "Restore the archive into a new directory, or use another --snapshot-store for \
                 this one."
            }
            Self::Database(DatabaseError::Cursor(CursorError::Damaged { .. })) => {
                "Put the file back from a copy of this directory that is as new. Without one, the \
                 directory cannot be told from an old copy: restore the archive into a new \
                 directory, or remove the file and begin another archive with another \
                 --snapshot-store."
            }
            Self::Database(DatabaseError::Store(_)) => {
                "Look at the folder store/ of the data directory and at its disk."
            }
            Self::Database(DatabaseError::Failed(_)) => {
                "Nothing that was acknowledged is lost: mend what is named, and start again."
            }
            Self::Database(DatabaseError::Open(OpenError::Listen(_))) => {
                "Choose another --port or --bind, or stop what uses it."
            }
            Self::Database(DatabaseError::Open(OpenError::Recovery(error))) => log_remedy(error),
            Self::Database(
                DatabaseError::Unreadable { .. } | DatabaseError::Open(OpenError::Image { .. }),
            ) => DAMAGE_REMEDY,
            Self::Database(_) => "Mend what is named, and start again.",
        }
    }
}

const PLAIN_REMEDY: &str = "Start once with --accept-plain too, if this data was never sealed; \
     otherwise somebody has replaced it.";
const KEY_REMEDY: &str =
    "Give that key with --key-file ID=PATH or CUTWATER_KEYS; older keys may follow the active one.";
const DAMAGE_REMEDY: &str =
    "Keep the data directory as it is; `cutwater restore` makes a new one from a snapshot.";

/// What to do about a log that cannot be read.
fn log_remedy(error: &RecoveryError) -> &'static str {
    match error.refusal() {
        Some(LogRefusal::Plain) => PLAIN_REMEDY,
        Some(LogRefusal::Key(_)) => KEY_REMEDY,
        Some(LogRefusal::Altered) | None => DAMAGE_REMEDY,
    }
}

/// What to do about keys that do not fit the data.
fn refusal_remedy(reason: &Refusal) -> &'static str {
    match reason {
        Refusal::Plain => PLAIN_REMEDY,
        Refusal::NoKey { .. } | Refusal::Key(_) => KEY_REMEDY,
    }
}

/// Serves until `shutdown` completes. `ready` is called once, when clients can connect.
///
/// Runs on a tokio runtime whose threads the caller has placed on `placement.control`.
///
/// # Errors
/// [`ServeError`] if the server cannot start, or fails while it serves or stops.
pub async fn run(
    config: &Config,
    placement: &Placement,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(&Banner),
) -> Result<(), ServeError> {
    // Before anything is made: a key that cannot be read is no reason for a new directory.
    let keys = keyring(&config.key_files, config.keys.as_ref())?;
    let metrics = match metrics::address(config) {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let data_dir = DataDir::open(&config.data_dir, config.log)?;
    let running = start(config, placement, data_dir, keys).await?;
    let _metrics = metrics.map(|listener| Metrics::start(listener, &running.database));
    ready(&banner(config, placement, &running.started()));
    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        () = running.shutdown_requested() => Ok(()),
        error = running.failed() => Err(error),
    };
    // The failure that ended the server is the one to tell, not what it did to the stopping.
    outcome.and(running.stop().await)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let failed = |source| ServeError::Metrics { address, source };
    TcpListener::bind(address).await.map_err(failed)
}

/// The task that answers scrapes; it ends with this.
struct Metrics(JoinHandle<()>);

impl Metrics {
    fn start(listener: TcpListener, database: &Database) -> Self {
        if let Ok(address) = listener.local_addr() {
            tracing::info!("metrics at http://{address}/metrics");
        }
        let shared = Arc::clone(database.engine().shared());
        Self(tokio::spawn(metrics::serve(listener, shared, database.coordinator().clone())))
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a start found and bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// How many keys were recovered.
    pub recovered_keys: u64,
    /// How long that took.
    pub recovery: Duration,
    /// The common port.
    pub port: u16,
    /// The port of each shard, by shard number.
    pub shard_ports: Vec<u16>,
}

fn banner(config: &Config, placement: &Placement, started: &Started) -> Banner {
    Banner {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        placement: placement.clone(),
        data_dir: config.data_dir.clone(),
        recovered_keys: started.recovered_keys,
        recovery: started.recovery,
        fsync: config.log.then_some(config.fsync),
        bind: config.bind,
        port: started.port,
        shard_ports: started.shard_ports.clone(),
        has_password: config.requirepass.is_some(),
    }
}

/// The database of a data directory, serving.
#[derive(Debug)]
struct Running {
    database: Database,
}

impl Running {
    fn started(&self) -> Started {
        let recovered = self.database.recovered();
        let ports = self.database.engine().ports();
        Started {
            recovered_keys: recovered.keys,
            recovery: recovered.elapsed,
            port: ports.common.map_or(0, |address| address.port()),
            shard_ports: ports.shards.iter().map(|address| address.port()).collect(),
        }
    }

    /// Completes with the reason if a shard ends by itself. Never leaves half a database serving.
    async fn failed(&self) -> ServeError {
        ServeError::Database(self.database.failed().await.into())
    }

    /// Completes when a client has sent SHUTDOWN.
    async fn shutdown_requested(&self) {
        self.database.shutdown_requested().await;
    }

    /// Stops accepting, drains, flushes, syncs and closes.
    async fn stop(self) -> Result<(), ServeError> {
        Ok(self.database.close().await?)
    }
}

/// Recovers the data directory and starts serving it.
async fn start(
    config: &Config,
    placement: &Placement,
    data_dir: DataDir,
    keys: Keyring,
) -> Result<Running, ServeError> {
    let mut database = DatabaseConfig::data_dir(data_dir)?;
    database.remote = remote(config)?;
    let engine = &mut database.engine;
    engine.log = config.log;
    engine.fsync = config.fsync;
    engine.accept_clock = config.accept_clock;
    engine.shards = config.shards;
    engine.cpus = Some(placement.shards.iter().map(|cpu| cpu.0).collect());
    engine.listen = Some(SocketAddr::new(config.bind, config.port));
    engine.shard_port_base = config.shard_port_base;
    engine.announce_host.clone_from(&config.announce_host);
    engine.node_name = Some(config.node_name.clone());
    engine.password =
        config.requirepass.as_ref().map(|pass| pass.expose().into()).unwrap_or_default();
    engine.max_clients = config.max_clients.into();
    engine.segment_bytes = segment_bytes(config.checkpoint_log_bytes, config.shards);
    let stall_limit_ms = u64::try_from(config.snapshot_stall_limit.as_millis());
    engine.snapshot_stall_limit_ms = stall_limit_ms.unwrap_or(u64::MAX);
    database.checkpoint_log_bytes = config.checkpoint_log_bytes;
    database.keys = keys;
    database.accept_plain = config.accept_plain;
    database.compression = config.compression;
    database.snapshot_limit_bytes_per_s = config.snapshot_limit_bytes_per_s;
    database.schedule.clone_from(&config.schedule);
    database.retention = config.retention;
    Ok(Running { database: Database::open(database).await? })
}

/// The remote store, opened; nothing is asked of it yet.
fn remote(config: &Config) -> Result<Option<RemoteConfig>, ServeError> {
    let Some(url) = &config.snapshot_store else { return Ok(None) };
    let refused = |source: StoreError| DatabaseError::Remote {
        url: url.to_string(),
        source: Box::new(source.into()),
    };
    let local = store_dir(&config.data_dir);
    if let StoreUrl::File(folder) = url
        && let (Ok(local), Ok(folder)) = (local.canonicalize(), folder.canonicalize())
        && local == folder
    {
        let reason = "it is the local store itself, which is used in any case";
        return Err(refused(StoreError::Url { url: url.to_string(), reason }).into());
    }
    Ok(Some(RemoteConfig {
        store: url.open(&config.s3).map_err(refused)?,
        url: url.to_string(),
        single_writer: config.single_writer,
        upload_limit_bytes_per_s: config.upload_limit_bytes_per_s,
        archive_interval: config.archive_interval,
        archive_backlog_bytes: config.archive_backlog_bytes,
        shutdown_timeout: config.shutdown_timeout,
    }))
}

/// What to do about a remote store that refuses.
fn remote_remedy(error: &SnapshotError) -> &'static str {
    match error {
        SnapshotError::ForeignDatabase { .. } => {
            "A prefix belongs to one database: choose another in --snapshot-store."
        }
        SnapshotError::Store(StoreError::CreateNotExclusive { .. }) => {
            "Use a store that honours If-None-Match, or pass --single-writer if no second server \
             will ever write to this prefix."
        }
        SnapshotError::Store(StoreError::Failed { cause: Cause::Credentials, .. }) => {
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or s3-access-key-id and \
             s3-secret-access-key in the file that --config names, to keys that may list, read, \
             write and delete there."
        }
        SnapshotError::Store(StoreError::Failed { cause: Cause::NoBucket, .. }) => {
            "Create the bucket, or correct --snapshot-store."
        }
        _ => "Check --snapshot-store, --s3-endpoint, --s3-region and --s3-allow-http.",
    }
}

/// Log segments so small that several of each shard fit into what a checkpoint covers.
fn segment_bytes(checkpoint_log_bytes: Option<u64>, shards: u16) -> u64 {
    const SMALLEST: u64 = 1 << 20;
    const LARGEST: u64 = 32 << 20;
    let covered = checkpoint_log_bytes.unwrap_or(u64::MAX);
    let fitting = covered / u64::from(shards) / 4;
    fitting.clamp(SMALLEST, LARGEST) / SMALLEST * SMALLEST
}
