//! The one list of settings. Flags, variables, the keys of the file, the help text and the errors
//! are all made from it, so a setting is added in exactly one place.

use std::ops::RangeInclusive;
use std::time::Duration;

use cutwater_engine::types::Fsync;
use cutwater_snapshot::store::{S3Credentials, StoreUrl};

use crate::keys::KeyFile;

use super::units::{parse_duration, parse_keep_for, parse_size_bytes};
use super::{Config, LogFormat, Secret};

/// The most shards that a server may have.
pub const MAX_SHARDS: u16 = 1024;
/// The most clients that `maxclients` may allow.
pub const MAX_CLIENTS_LIMIT: u32 = 1_000_000;
/// The longest `node-name` and `announce-host`, in bytes.
const MAX_NAME_BYTES: usize = 253;
/// The least `checkpoint-log`, in bytes: one block of the log.
const MIN_CHECKPOINT_LOG_BYTES: u64 = 4096;
/// The longest `snapshot-stall-limit`.
const MAX_STALL_LIMIT: Duration = Duration::from_secs(3600);
/// The shortest and the longest `archive-interval`.
const ARCHIVE_INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);
/// The least `archive-backlog`.
const MIN_ARCHIVE_BACKLOG_BYTES: u64 = 1 << 20;
/// The longest `shutdown-timeout`.
const MAX_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3600);
/// The highest `upload-limit` and `snapshot-limit`.
const MAX_LIMIT_MIB: u64 = 1_000_000;
/// The most snapshots that `keep-last` counts.
pub const MAX_KEEP_LAST: u32 = 1_000_000;
/// Names the TOML file; a flag and a variable, but no key of the file itself.
pub const CONFIG_FILE: &str = "config";

/// One thing that can be set.
pub struct Setting {
    /// Its name as a flag (`--name`) and as a key of the file.
    pub name: &'static str,
    /// What its value is called in the help text; empty for a switch.
    pub value_name: &'static str,
    /// What it does, and its default.
    pub help: &'static str,
    /// What values it takes, for errors.
    pub allowed: &'static str,
    /// Whether its value must never be shown.
    pub is_secret: bool,
    /// Whether it can be given on the command line, where `ps` shows it to everybody.
    pub is_flag: bool,
    /// Whether it may be given several times, and as a list in the file. Its text then has a line
    /// for each; in a variable commas stand between them.
    pub is_list: bool,
    /// Sets it from text; `None` if the text is not allowed.
    pub(super) set: fn(&mut Config, &str) -> Option<()>,
}

impl Setting {
    /// Whether it is a switch: as a flag it takes no value, and elsewhere yes or no.
    pub fn is_switch(&self) -> bool {
        self.value_name.is_empty()
    }

    /// Its name as a variable of the environment.
    pub fn variable(&self) -> String {
        format!("CUTWATER_{}", self.name.replace('-', "_").to_uppercase())
    }
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A setting that is not secret; the fields in reading order.
const fn setting(
    name: &'static str,
    value_name: &'static str,
    help: &'static str,
    allowed: &'static str,
    set: fn(&mut Config, &str) -> Option<()>,
) -> Setting {
    Setting {
        name,
        value_name,
        help,
        allowed,
        is_secret: false,
        is_flag: true,
        is_list: false,
        set,
    }
}

/// A secret that is never given on the command line.
const fn key(
    name: &'static str,
    help: &'static str,
    set: fn(&mut Config, &str) -> Option<()>,
) -> Setting {
    let setting = setting(name, "KEY", help, "text of at least one character", set);
    Setting { is_secret: true, is_flag: false, ..setting }
}

/// Every setting, in the order of the help text.
pub static SETTINGS: [Setting; 37] = [
    setting(
        "bind",
        "ADDRESS",
        "Address to listen on [default: 127.0.0.1]",
        "an IP address, such as 127.0.0.1, 0.0.0.0 or ::1",
        |config, text| put(&mut config.bind, text.parse().ok()),
    ),
    setting(
        "port",
        "PORT",
        "Common port, on which any shard takes any key [default: 6379]",
        "a port from 1 to 65535, or 0 for one that the kernel chooses",
        |config, text| put(&mut config.port, number(text, 0..=u16::MAX)),
    ),
    setting(
        "metrics-port",
        "PORT",
        "Port for Prometheus metrics over HTTP at /metrics, without a password; on loopback only \
         unless --protected-mode no [default: none]",
        "a port from 1 to 65535",
        |config, text| put(&mut config.metrics_port, number(text, 1..=u16::MAX).map(Some)),
    ),
    setting(
        "shards",
        "N",
        "How many shards [default: one per CPU that the process may use]",
        "a number from 1 to 1024",
        |config, text| put(&mut config.shards, number(text, 1..=MAX_SHARDS)),
    ),
    setting(
        "data-dir",
        "DIR",
        "Where the data is kept [default: ./cutwater-data]",
        "the path of a directory",
        |config, text| put(&mut config.data_dir, (!text.is_empty()).then(|| text.into())),
    ),
    setting(
        "fsync",
        "WHEN",
        "When a write is on disk: always (before its reply), everysec, never [default: always]",
        "always, everysec or never",
        |config, text| put(&mut config.fsync, fsync(text)),
    ),
    setting(
        "no-log",
        "",
        "Keep the data in memory only; refuses a directory that holds data",
        "yes or no",
        |config, text| put(&mut config.log, yes_no(text).map(|no_log| !no_log)),
    ),
    setting(
        "accept-clock",
        "",
        "Start although the data is more than 10 minutes ahead of this machine's clock",
        "yes or no",
        |config, text| put(&mut config.accept_clock, yes_no(text)),
    ),
    setting(
        "shard-port-base",
        "PORT",
        "Port of shard 0; shard n has this plus n [default: the kernel chooses]",
        "a port from 1 to 65535",
        |config, text| put(&mut config.shard_port_base, number(text, 1..=u16::MAX).map(Some)),
    ),
    setting(
        "announce-host",
        "HOST",
        "Host that CLUSTER commands name [default: the address by which the client came]",
        "a host name or an IP address",
        |config, text| put(&mut config.announce_host, host(text).map(Some)),
    ),
    Setting {
        is_secret: true,
        ..setting(
            "requirepass",
            "PASSWORD",
            "Password of clients; safer as CUTWATER_REQUIREPASS or in the file, where ps \
             cannot show it",
            "a password of at least one character; leave it out for none",
            |config, text| {
                let secret = (!text.is_empty()).then(|| Some(Secret::new(text)));
                put(&mut config.requirepass, secret)
            },
        )
    },
    setting(
        "protected-mode",
        "YES|NO",
        "Refuse to let other machines in without a password [default: yes]",
        "yes or no",
        |config, text| put(&mut config.protected_mode, yes_no(text)),
    ),
    setting(
        "node-name",
        "NAME",
        "What the server calls itself in INFO and snapshots [default: cutwater]",
        "letters, digits, '.', '-' and '_', 253 at most",
        |config, text| put(&mut config.node_name, node_name(text)),
    ),
    setting(
        "log-format",
        "FORMAT",
        "Diagnostics on standard error: text or json; CUTWATER_LOG sets the level \
         [default: text]",
        "text or json",
        |config, text| put(&mut config.log_format, log_format(text)),
    ),
    setting(
        "checkpoint-log",
        "SIZE",
        "Bytes of log since the last checkpoint that start the next [default: 1gb, or the size \
         of the last snapshot if that is more]",
        "a size of 4kb or more, such as 64mb, 1GiB or a number of bytes",
        |config, text| {
            let size = parse_size_bytes(text).filter(|size| *size >= MIN_CHECKPOINT_LOG_BYTES);
            put(&mut config.checkpoint_log_bytes, size.map(Some))
        },
    ),
    setting(
        "maxclients",
        "N",
        "How many clients may be connected at once [default: 10000]",
        "a number from 1 to 1000000",
        |config, text| put(&mut config.max_clients, number(text, 1..=MAX_CLIENTS_LIMIT)),
    ),
    setting(
        "snapshot-store",
        "URL",
        "Remote store, to which snapshots go as well: file:///DIR or s3://BUCKET/PREFIX",
        "file:///DIR with an absolute path, or s3://BUCKET or s3://BUCKET/PREFIX",
        |config, text| put(&mut config.snapshot_store, StoreUrl::parse(text).ok().map(Some)),
    ),
    setting(
        "s3-endpoint",
        "URL",
        "Where the S3 service is [default: AWS_ENDPOINT_URL, else AWS]",
        "an address such as https://minio.example:9000",
        |config, text| put(&mut config.s3.endpoint, endpoint(text).map(Some)),
    ),
    setting(
        "s3-region",
        "REGION",
        "Region of the bucket [default: AWS_REGION, else us-east-1]",
        "letters, digits and '-'",
        |config, text| put(&mut config.s3.region, name(text, "-").map(Some)),
    ),
    setting(
        "s3-allow-http",
        "",
        "Accept an S3 endpoint without TLS",
        "yes or no",
        |config, text| put(&mut config.s3.allow_http, yes_no(text)),
    ),
    setting(
        "s3-path-style",
        "",
        "Name the bucket in the path of S3 requests, not in the host name",
        "yes or no",
        |config, text| put(&mut config.s3.path_style, yes_no(text)),
    ),
    key("s3-access-key-id", "Id of the S3 key, instead of AWS_ACCESS_KEY_ID", |config, text| {
        put(&mut s3_keys(config).access_key_id, filled(text))
    }),
    key("s3-secret-access-key", "S3 key, instead of AWS_SECRET_ACCESS_KEY", |config, text| {
        put(&mut s3_keys(config).secret_access_key, filled(text))
    }),
    key(
        "s3-session-token",
        "Session of the S3 key, instead of AWS_SESSION_TOKEN",
        |config, text| put(&mut s3_keys(config).session_token, filled(text).map(Some)),
    ),
    setting(
        "single-writer",
        "",
        "Accept a remote store that ignores conditional puts: no other server writes to it",
        "yes or no",
        |config, text| put(&mut config.single_writer, yes_no(text)),
    ),
    setting(
        "upload-limit",
        "MIB",
        "MiB that uploads and archive send in a second at most [default: no limit]",
        "a number of MiB from 1 to 1000000",
        |config, text| put(&mut config.upload_limit_bytes_per_s, mib_per_s(text)),
    ),
    setting(
        "archive-interval",
        "DURATION",
        "How often log goes to the archive in the remote store [default: 10s]",
        "a duration from 100ms to 1h, such as 500ms or 10s",
        |config, text| {
            let interval = parse_duration(text);
            put(&mut config.archive_interval, interval.filter(|i| ARCHIVE_INTERVALS.contains(i)))
        },
    ),
    setting(
        "archive-backlog",
        "SIZE",
        "Log that waits for an archive out of reach before a gap is accepted [default: 8gb]",
        "a size of at least 1mb, such as 512mb or 8gb",
        |config, text| {
            let bytes = parse_size_bytes(text).filter(|bytes| *bytes >= MIN_ARCHIVE_BACKLOG_BYTES);
            put(&mut config.archive_backlog_bytes, bytes)
        },
    ),
    setting(
        "shutdown-timeout",
        "DURATION",
        "How long a stop waits for uploads at most [default: 10s]",
        "a duration of up to 1h, such as 500ms or 10s",
        |config, text| {
            let limit = parse_duration(text).filter(|limit| *limit <= MAX_SHUTDOWN_TIMEOUT);
            put(&mut config.shutdown_timeout, limit)
        },
    ),
    setting(
        "snapshot-limit",
        "MIB",
        "MiB that a snapshot writes, and a verification reads, in a second at most [default: no \
         limit]",
        "a number of MiB from 1 to 1000000",
        |config, text| put(&mut config.snapshot_limit_bytes_per_s, mib_per_s(text)),
    ),
    setting(
        "snapshot-stall-limit",
        "DURATION",
        "How long a write waits for a snapshot before the snapshot is given up [default: 1s]",
        "a duration of up to 1h, such as 500ms or 10s",
        |config, text| {
            let limit = parse_duration(text).filter(|limit| *limit <= MAX_STALL_LIMIT);
            put(&mut config.snapshot_stall_limit, limit)
        },
    ),
    Setting {
        is_list: true,
        ..setting(
            "snapshot-schedule",
            "RULE",
            "Take snapshots by themselves: 'base every 6h', 'delta every 5m', \
             'base cron 0 3 * * *' (UTC); repeatable",
            "[base|delta] every DURATION (1s to 366d), or [base|delta] cron MIN HOUR DAY MONTH \
             WEEKDAY",
            |config, text| {
                let rules: Option<Vec<_>> = text.lines().map(|rule| rule.parse().ok()).collect();
                put(&mut config.schedule, rules.filter(|rules| !rules.is_empty()))
            },
        )
    },
    setting(
        "keep-last",
        "N",
        "Keep the newest N snapshots and the log behind them; what is older goes by itself \
         [default: all]",
        "a number from 1 to 1000000",
        |config, text| {
            put(&mut config.retention.keep_last, number(text, 1..=MAX_KEEP_LAST).map(Some))
        },
    ),
    setting(
        "keep-for",
        "DURATION",
        "Keep every moment of so long restorable; what is older goes by itself [default: all]",
        "a duration from 1s to 36500d, such as 12h or 30d",
        |config, text| put(&mut config.retention.keep_for, parse_keep_for(text).map(Some)),
    ),
    Setting {
        is_list: true,
        ..setting(
            "key-file",
            "ID=PATH",
            "Seal snapshots and log with the key in this file (cutwater keygen); repeatable, the \
             first is the one that seals",
            "ID=PATH, where the id has 1 to 64 characters of A-Z a-z 0-9 . _ -",
            |config, text| {
                let files: Option<Vec<_>> = text.lines().map(KeyFile::parse).collect();
                put(&mut config.key_files, files)
            },
        )
    },
    setting(
        "accept-plain",
        "",
        "Start with keys on data that is not sealed, as when sealing begins",
        "yes or no",
        |config, text| put(&mut config.accept_plain, yes_no(text)),
    ),
    setting(
        "compression",
        "KIND",
        "How snapshots are compressed: none, lz4 or zstd[:LEVEL] [default: none]",
        "none, lz4, zstd or zstd:LEVEL with a level from 1 to 19",
        |config, text| put(&mut config.compression, text.parse().ok()),
    ),
];

fn put<T>(field: &mut T, value: Option<T>) -> Option<()> {
    *field = value?;
    Some(())
}

fn number<T: std::str::FromStr + PartialOrd>(text: &str, range: RangeInclusive<T>) -> Option<T> {
    text.parse().ok().filter(|number| range.contains(number))
}

/// A limit in MiB a second.
fn mib_per_s(text: &str) -> Option<Option<u64>> {
    number(text, 1..=MAX_LIMIT_MIB).map(|mib| Some(mib << 20))
}

/// The keys of the S3 store, of which each setting gives a part.
fn s3_keys(config: &mut Config) -> &mut S3Credentials {
    config.s3.credentials.get_or_insert_with(|| S3Credentials {
        access_key_id: String::new(),
        secret_access_key: String::new(),
        session_token: None,
    })
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn endpoint(text: &str) -> Option<String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let sound = |c: char| c.is_ascii_graphic() && !"@?#%".contains(c);
    (!host.is_empty() && host.chars().all(sound)).then(|| text.to_owned())
}

fn yes_no(text: &str) -> Option<bool> {
    match text {
        "yes" | "true" => Some(true),
        "no" | "false" => Some(false),
        _ => None,
    }
}

fn fsync(text: &str) -> Option<Fsync> {
    match text {
        "always" => Some(Fsync::Always),
        "everysec" => Some(Fsync::Everysec),
        "never" => Some(Fsync::Never),
        _ => None,
    }
}

fn log_format(text: &str) -> Option<LogFormat> {
    match text {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}

/// A host goes into protocol replies as it is: nothing but the characters of names and addresses.
fn host(text: &str) -> Option<String> {
    name(text, ".-_:")
}

fn node_name(text: &str) -> Option<String> {
    name(text, ".-_")
}

fn name(text: &str, marks: &str) -> Option<String> {
    let sound = |c: char| c.is_ascii_alphanumeric() || marks.contains(c);
    let is_name = !text.is_empty() && text.len() <= MAX_NAME_BYTES && text.chars().all(sound);
    is_name.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_takes_and_refuses() {
        for (name, good, bad) in [
            ("bind", &["0.0.0.0", "::1"][..], &["", "localhost", "1.2.3"][..]),
            ("port", &["0", "65535"], &["65536", "-1", "http", ""]),
            ("metrics-port", &["1", "65535"], &["0", "65536", "on"]),
            ("shards", &["1", "1024"], &["0", "1025", "two"]),
            ("data-dir", &["x", "/var/lib/x y"], &[""]),
            ("fsync", &["always", "everysec", "never"], &["Always", "1", ""]),
            ("no-log", &["yes", "no", "true", "false"], &["", "1", "on"]),
            ("accept-clock", &["yes", "no"], &["", "1"]),
            ("shard-port-base", &["1", "65535"], &["0", "65536"]),
            ("announce-host", &["db-1.example", "::1"], &["", "a b", "x\r\n"]),
            ("requirepass", &["x", "ü "], &[""]),
            ("protected-mode", &["yes", "no"], &["maybe"]),
            ("node-name", &["a", "n_1.x-2"], &["", "a b", "a:b"]),
            ("log-format", &["text", "json"], &["xml"]),
            ("checkpoint-log", &["4kb", "64mb", "1GiB"], &["4095", "0", "big", ""]),
            ("maxclients", &["1", "1000000"], &["0", "1000001"]),
            (
                "snapshot-store",
                &["s3://bucket/x", "file:///x"],
                &["", "s3://x", "/x", "gs://bucket"],
            ),
            ("s3-endpoint", &["https://x", "http://[::1]:9000"], &["x", "https://", "ftp://x"]),
            ("s3-region", &["eu-north-1", "auto"], &["", "a b"]),
            ("s3-allow-http", &["yes", "no"], &["1"]),
            ("s3-path-style", &["yes", "no"], &["1"]),
            ("s3-access-key-id", &["x"], &[""]),
            ("s3-secret-access-key", &["x"], &[""]),
            ("s3-session-token", &["x"], &[""]),
            ("single-writer", &["yes", "no"], &["1"]),
            ("upload-limit", &["1", "1000000"], &["0", "1000001", "1mb"]),
            ("snapshot-limit", &["1", "1000000"], &["0", "1000001", "1mb"]),
            ("archive-interval", &["100ms", "10s", "1h"], &["99ms", "2h", "10", ""]),
            ("archive-backlog", &["1mb", "8gb"], &["1", "1023kb", "", "x"]),
            ("shutdown-timeout", &["0", "10s", "1h"], &["10", "2h", ""]),
            (
                "snapshot-schedule",
                &["every 15m", "base every 1d\ndelta cron */5 * * * *"],
                &["", "every", "hourly", "every 15m\nnever"],
            ),
            ("keep-last", &["1", "1000000"], &["0", "1000001", "all", ""]),
            ("keep-for", &["1s", "12h", "30d", "36500d"], &["0", "0d", "30", "36501d", "", "d"]),
            ("key-file", &["a=b", "a=/x\nb=/y"], &["a", "a b=c", "a=x\nb"]),
            ("accept-plain", &["yes", "no"], &["", "1"]),
            ("compression", &["none", "lz4", "zstd", "zstd:19"], &["", "zip", "zstd:20"]),
            ("snapshot-stall-limit", &["0", "500ms", "10s", "1h"], &["10", "2h", ""]),
        ] {
            let setting = SETTINGS.iter().find(|setting| setting.name == name).unwrap();
            let mut config = Config::defaults(1);
            for text in good {
                assert!((setting.set)(&mut config, text).is_some(), "{name} {text}");
            }
            for text in bad {
                assert!((setting.set)(&mut config, text).is_none(), "{name} {text}");
            }
        }
    }

    #[test]
    fn names_are_distinct_and_spelled_alike() {
        for (i, setting) in SETTINGS.iter().enumerate() {
            assert!(SETTINGS[..i].iter().all(|other| other.name != setting.name));
            assert!(
                setting
                    .name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            );
        }
        assert_eq!(SETTINGS[4].variable(), "CUTWATER_DATA_DIR");
    }
}
