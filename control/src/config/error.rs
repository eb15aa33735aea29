//! What can be wrong with a configuration: which setting, at which place, and what is allowed.
//!
//! `Display` says what is wrong and where; [`ConfigError::remedy`] says what to do. Neither ever
//! shows a password.

use std::fmt;
use std::path::PathBuf;

use super::settings::{SETTINGS, Setting};

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the command line.
    Flag(String),
    /// In the environment.
    Variable(String),
    /// In the TOML file, on this line, counted from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag --{name}"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag or a key of the file that no setting has.
    #[error("unknown setting \"{name}\" ({place})")]
    UnknownSetting {
        /// As it was written.
        name: String,
        /// Where.
        place: Place,
    },
    /// A `CUTWATER_*` variable that no setting has.
    #[error("unknown variable {name} in the environment")]
    UnknownVariable {
        /// As it was written.
        name: String,
    },
    /// A value that the setting does not take. `value` is `None` for a secret.
    #[error("bad value {}for {} ({place})", quoted(.value.as_deref()), .setting.name)]
    BadValue {
        /// The setting.
        setting: &'static Setting,
        /// What was given, unless it is a secret.
        value: Option<String>,
        /// Where.
        place: Place,
    },
    /// The file gives a list, a table or a date where one plain value belongs.
    #[error("{} takes one plain value, not {found} ({place})", .setting.name)]
    NotPlain {
        /// The setting.
        setting: &'static Setting,
        /// What the file holds, in TOML's words.
        found: &'static str,
        /// Where.
        place: Place,
    },
    /// The file is not TOML.
    #[error("the configuration file is not valid TOML: {message} ({place})")]
    Syntax {
        /// What the TOML parser says.
        message: String,
        /// Where.
        place: Place,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The shards' ports do not fit below 65,536, or meet the common port.
    #[error(
        "with {shards} shards, shard-port-base {base} takes the ports {base} to {}, \
         which {} ({place})",
        u32::from(*.base) + u32::from(*.shards) - 1,
        if *.meets_port { "include the common port" } else { "end above 65535" }
    )]
    ShardPorts {
        /// The port of shard 0.
        base: u16,
        /// How many shards.
        shards: u16,
        /// Whether the range is sound but includes the common port.
        meets_port: bool,
        /// Where the base was given.
        place: Place,
    },
    /// Others could reach the server without a password.
    #[error("bind {bind} lets other machines reach a database that has no password ({place})")]
    Unprotected {
        /// The address.
        bind: std::net::IpAddr,
        /// Where it was given.
        place: Place,
    },
}

impl ConfigError {
    /// What to do about it, as one sentence.
    pub fn remedy(&self) -> String {
        match self {
            Self::UnknownSetting { name, .. } => match nearest(&name.replace('_', "-")) {
                Some(setting) => format!("Did you mean \"{}\"?", setting.name),
                None => format!("Known settings: {}.", names(|setting| setting.name.to_owned())),
            },
            Self::UnknownVariable { name } => {
                let bare = name.trim_start_matches("CUTWATER_").replace('_', "-");
                match nearest(&bare.to_lowercase()) {
                    Some(setting) => format!("Did you mean {}?", setting.variable()),
                    None => format!("Known variables: {}.", names(Setting::variable)),
                }
            }
            Self::BadValue { setting, .. } | Self::NotPlain { setting, .. } => {
                format!("Allowed: {}.", setting.allowed)
            }
            Self::Syntax { .. } => "Write one setting a line, such as: port = 6379".to_owned(),
            Self::Unreadable { .. } => {
                "Name a file that exists and that this user may read, of 1 MiB at most.".to_owned()
            }
            Self::ShardPorts { .. } => "Choose another --shard-port-base, or leave it out: \
                 the kernel then chooses the shards' ports."
                .to_owned(),
            Self::Unprotected { .. } => "Set a password (CUTWATER_REQUIREPASS, or requirepass in \
                 the file), or bind 127.0.0.1, or pass --protected-mode no if the network itself \
                 is safe."
                .to_owned(),
        }
    }
}

fn quoted(value: Option<&str>) -> String {
    value.map_or_else(String::new, |value| format!("{value:?} "))
}

fn names(name: impl Fn(&Setting) -> String) -> String {
    SETTINGS.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The setting whose name is at most a third away in letters changed, left out, added or swapped.
fn nearest(name: &str) -> Option<&'static Setting> {
    SETTINGS
        .iter()
        .map(|setting| (strsim::damerau_levenshtein(name, setting.name), setting))
        .filter(|(distance, setting)| *distance <= setting.name.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, setting)| setting)
}
