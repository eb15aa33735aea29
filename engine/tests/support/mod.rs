//! What the tests of the embedded engine share.

use std::thread;
use std::time::Duration;

use cutwater_engine::EngineConfig;

/// No test takes longer; a call that hangs fails instead of stopping everything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Segments so small that a test fills several.
pub fn small(mut config: EngineConfig) -> EngineConfig {
    config.segment_bytes = 1 << 20;
    config
}

/// An engine in memory with this many shards.
pub fn memory(shards: u16) -> EngineConfig {
    let mut config = EngineConfig::memory();
    config.shards = shards;
    config
}

/// Runs something that must end.
pub fn in_time<T: Send + 'static>(what: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = flume::bounded(1);
    thread::spawn(move || done.send(run()));
    match result.recv_timeout(PATIENCE) {
        Ok(result) => result,
        Err(error) => panic!("{what}: {error}"),
    }
}
