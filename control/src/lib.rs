//! Cutwater's control plane as a library: what a server needs around its shards.
//!
//! In the order in which a start uses them: [`config`] merges flags, variables and the TOML file;
//! [`keys`] reads the keys that seal; [`placement`] gives every shard a CPU; [`data_dir`] locks the
//! data directory (a file lock) and finds or makes its [`identity`]; [`database`] opens the engine
//! and starts the [`coordinator`]; [`serve`] runs the shards until it is told to stop, and
//! [`banner`] says in a few lines what was started. [`client`] is the small RESP client of the
//! command line, and [`listing`] what a snapshot looks like in LIST and SHOW, with or without a
//! server.
//!
//! Nothing here prints, exits, reads the environment or installs a handler: that is left to the
//! `cutwater` binary (`main.rs`, `cli/`, `telemetry.rs`, `shutdown.rs`), so that a program that
//! embeds a database keeps its own ways.

mod admin;
pub mod banner;
pub mod client;
pub mod config;
pub mod coordinator;
pub mod data_dir;
pub mod database;
pub mod fault;
pub mod identity;
pub mod keeping;
pub mod keys;
pub mod listing;
pub mod metrics;
pub mod placement;
pub mod restore;
pub mod schedule;
pub mod serve;
pub mod status;
pub mod verify;

pub use database::{Database, DatabaseConfig};
