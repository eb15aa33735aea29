//! A server from its configuration to its end: open the data directory, start the shards and the
//! coordinator, say so, wait for the request to stop or for a failure, and stop in order.
//!
//! Invariants: the data directory is locked before anything reads it and until the shards have
//! stopped; `ready` of [`run`] is called once, after recovery and when every port listens.

use std::future::Future;
use std::time::Duration;

use crate::banner::Banner;
use crate::config::Config;
use crate::data_dir::{DataDir, DataDirError};
use crate::placement::Placement;

/// Why a server did not start, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// This build has no shards to start.
    #[error("this build of cutwater has no storage engine")]
    NoEngine,
}

impl ServeError {
    /// What to do about it, as one sentence.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::DataDir(error) => error.remedy(),
            Self::NoEngine => "Use a later build.",
        }
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
    let data_dir = DataDir::open(&config.data_dir, config.log)?;
    let mut running = start(config, placement, &data_dir).await?;
    ready(&banner(config, placement, &running.started()));
    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        error = running.failed() => Err(error),
    };
    // The failure that ended the server is the one to tell, not what it did to the stopping.
    outcome.and(running.stop().await)
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

/// The shards and the coordinator, serving.
#[derive(Debug)]
enum Running {}

impl Running {
    fn started(&self) -> Started {
        match *self {}
    }

    /// Completes with the reason if a shard ends by itself. Never leaves half a database serving.
    async fn failed(&mut self) -> ServeError {
        match *self {}
    }

    /// Stops accepting, drains, flushes, syncs and closes.
    async fn stop(self) -> Result<(), ServeError> {
        match self {}
    }
}

/// Recovers the data directory and starts serving it.
async fn start(
    _config: &Config,
    _placement: &Placement,
    _data_dir: &DataDir,
) -> Result<Running, ServeError> {
    Err(ServeError::NoEngine)
}
