//! The configuration of one server: what can be set, its defaults, and the type that the rest of
//! the program reads.
//!
//! Every setting stands once, in [`settings::SETTINGS`]; flags, `CUTWATER_*` variables and the TOML
//! file are three spellings of the same names, merged by [`Config::load`] (flags override
//! variables, which override the file). A [`Config`] that `load` returned is validated: everything
//! that can be checked without the data directory or the network has been.
//!
//! Nothing here reads the process's environment or its arguments: the command line hands them in.
//! Who uses it next: [`crate::placement`], [`crate::data_dir`], [`crate::serve`].

mod error;
mod load;
mod settings;
mod units;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use cutwater_engine::types::Fsync;
use cutwater_snapshot::compression::Compression;
use cutwater_snapshot::retention::Policy;
use cutwater_snapshot::store::{S3Options, StoreUrl};

use crate::keys::KeyFile;
use crate::schedule::Rule;

pub use self::error::{ConfigError, Place};
pub use self::load::{AWS_PREFIX, MAX_FILE_BYTES, OTHER_VARIABLES};
pub use self::settings::{
    CONFIG_FILE, MAX_CLIENTS_LIMIT, MAX_KEEP_LAST, MAX_SHARDS, SETTINGS, Setting,
};
pub use self::units::{parse_duration, parse_keep_for, parse_size_bytes};

/// The settings of one server, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The address that every listener binds.
    pub bind: IpAddr,
    /// The common port, on which any shard takes any key; 0 lets the kernel choose.
    pub port: u16,
    /// The port of the metrics; none are served without.
    pub metrics_port: Option<u16>,
    /// How many shards; at least 1, at most [`MAX_SHARDS`].
    pub shards: u16,
    /// Where the log, the local store, the lock and the identity live.
    pub data_dir: PathBuf,
    /// When a reply to a write may leave.
    pub fsync: Fsync,
    /// Whether mutations are logged; `false` (`--no-log`) keeps the data in memory only.
    pub log: bool,
    /// Whether to start with data that is far ahead of the clock.
    pub accept_clock: bool,
    /// The port of shard 0; shard n listens on this plus n. `None` lets the kernel choose.
    pub shard_port_base: Option<u16>,
    /// The host that CLUSTER commands name, instead of the address by which the client came.
    pub announce_host: Option<String>,
    /// The password that clients must give.
    pub requirepass: Option<Secret>,
    /// Whether an address that others can reach is refused without a password.
    pub protected_mode: bool,
    /// What this server calls itself in INFO and in snapshots.
    pub node_name: String,
    /// How diagnostics are written to standard error.
    pub log_format: LogFormat,
    /// Bytes of log since the last checkpoint after which the next one is taken.
    pub checkpoint_log_bytes: Option<u64>,
    /// How many clients may be connected at once.
    pub max_clients: u32,
    /// How long a write may wait for a snapshot before the snapshot is given up.
    pub snapshot_stall_limit: Duration,
    /// The remote store, to which snapshots go as well.
    pub snapshot_store: Option<StoreUrl>,
    /// How S3 stores are reached, the `AWS_*` variables included.
    pub s3: S3Options,
    /// Whether a remote store that ignores conditional puts is accepted.
    pub single_writer: bool,
    /// Bytes that uploads send in a second at most.
    pub upload_limit_bytes_per_s: Option<u64>,
    /// How often log goes to the archive.
    pub archive_interval: Duration,
    /// Bytes of log that may wait for the archive.
    pub archive_backlog_bytes: u64,
    /// How long a stop waits for uploads at most.
    pub shutdown_timeout: Duration,
    /// When snapshots are taken by themselves.
    pub schedule: Vec<Rule>,
    /// What snapshots and archive keep.
    pub retention: Policy,
    /// The files of the keys that seal; the first is active.
    pub key_files: Vec<KeyFile>,
    /// Further keys, as `CUTWATER_KEYS` holds them.
    pub keys: Option<Secret>,
    /// Whether to start with keys on data that is not sealed.
    pub accept_plain: bool,
    /// How snapshots are compressed.
    pub compression: Compression,
    /// Bytes that snapshots write, and verifications read, in a second at most.
    pub snapshot_limit_bytes_per_s: Option<u64>,
}

impl Config {
    /// The defaults, for a process that may use `cpu_count` CPUs: one shard each.
    pub fn defaults(cpu_count: usize) -> Self {
        let shards = u16::try_from(cpu_count).unwrap_or(MAX_SHARDS).clamp(1, MAX_SHARDS);
        Self {
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 6379,
            metrics_port: None,
            shards,
            data_dir: PathBuf::from("./cutwater-data"),
            fsync: Fsync::Always,
            log: true,
            accept_clock: false,
            shard_port_base: None,
            announce_host: None,
            requirepass: None,
            protected_mode: true,
            node_name: "cutwater".to_owned(),
            log_format: LogFormat::Text,
            checkpoint_log_bytes: None,
            max_clients: 10_000,
            snapshot_stall_limit: Duration::from_secs(1),
            snapshot_store: None,
            s3: S3Options::default(),
            single_writer: false,
            upload_limit_bytes_per_s: None,
            archive_interval: Duration::from_secs(10),
            archive_backlog_bytes: 8 << 30,
            shutdown_timeout: Duration::from_secs(10),
            schedule: Vec::new(),
            retention: Policy::default(),
            key_files: Vec::new(),
            keys: None,
            accept_plain: false,
            compression: Compression::None,
            snapshot_limit_bytes_per_s: None,
        }
    }

    /// Whether clients on other machines can reach [`Config::bind`].
    pub fn is_exposed(&self) -> bool {
        !self.bind.to_canonical().is_loopback()
    }
}

/// How diagnostics are written to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for a person.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A password. Its `Debug` shows nothing of it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The password itself, to be sent or compared and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let config = Config::defaults(3);
        assert_eq!((config.bind.to_string().as_str(), config.port), ("127.0.0.1", 6379));
        assert_eq!(config.data_dir, PathBuf::from("./cutwater-data"));
        assert_eq!((config.shards, config.fsync, config.log), (3, Fsync::Always, true));
        assert!(config.protected_mode && config.requirepass.is_none());
        assert_eq!(Config::defaults(0).shards, 1);
        assert_eq!(Config::defaults(1_000_000).shards, MAX_SHARDS);
    }

    #[test]
    fn a_secret_is_not_shown() {
        let config = Config { requirepass: Some(Secret::new("hunter2")), ..Config::defaults(1) };
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn loopback_in_every_spelling_is_not_exposed() {
        for (bind, exposed) in [
            ("127.0.0.1", false),
            ("127.8.8.8", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("0.0.0.0", true),
            ("::", true),
            ("10.0.0.1", true),
        ] {
            let bind = bind.parse().unwrap();
            assert_eq!(Config { bind, ..Config::defaults(1) }.is_exposed(), exposed, "{bind}");
        }
    }
}
