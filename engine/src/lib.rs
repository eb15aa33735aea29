//! The shards of Cutwater: keyspace, log, network and the embeddable engine.

pub mod clock;
pub mod command;
pub mod engine;
pub mod entry;
pub mod keyspace;
pub mod log;
pub mod net;
pub mod resp;
pub mod shard;
pub mod slot;
pub mod types;

pub use engine::{Client, Engine, EngineConfig, ImageSource, SnapshotError as SnapshotStreamError};
