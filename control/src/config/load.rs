//! The three layers of a configuration, merged: the TOML file, then `CUTWATER_*` variables, then
//! flags, each over the one before. A bad value is an error even where a later layer overrides it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::settings::{CONFIG_FILE, SETTINGS, Setting};
use super::{Config, ConfigError, Place};

/// The prefix of the variables that are looked at.
const PREFIX: &str = "CUTWATER_";
/// The prefix of the variables that go to the client of an S3 store as they are.
pub const AWS_PREFIX: &str = "AWS_";
/// The variable that names the TOML file.
const CONFIG_VARIABLE: &str = "CUTWATER_CONFIG";
/// Variables with the prefix that are no settings: the level of diagnostics, and the password that
/// the client commands send.
pub const OTHER_VARIABLES: [&str; 2] = ["CUTWATER_LOG", "CUTWATER_PASSWORD"];
/// The largest TOML file that is read.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

impl Config {
    /// Merges and validates the settings. `flags` are names without dashes and their values
    /// (`yes` for a switch); of `variables` only those that begin with `CUTWATER_` are looked at;
    /// `cpu_count` is how many CPUs the process may use, and so the default number of shards.
    ///
    /// # Errors
    /// [`ConfigError`], which names the setting and the place.
    pub fn load(
        flags: &[(String, String)],
        variables: &BTreeMap<String, String>,
        cpu_count: usize,
    ) -> Result<Self, ConfigError> {
        let mut draft = Draft { config: Self::defaults(cpu_count), places: BTreeMap::new() };
        if let Some(path) = file_path(flags, variables) {
            draft.apply_file(&path)?;
        }
        draft.apply_variables(variables)?;
        draft.apply_flags(flags)?;
        draft.check()
    }
}

/// The file named by the flag, else by the variable.
fn file_path(flags: &[(String, String)], variables: &BTreeMap<String, String>) -> Option<PathBuf> {
    let flag = flags.iter().rfind(|(name, _)| name == CONFIG_FILE).map(|(_, path)| path);
    flag.or_else(|| variables.get(CONFIG_VARIABLE)).map(PathBuf::from)
}

/// A configuration under way, and where each setting that was given came from last.
struct Draft {
    config: Config,
    places: BTreeMap<&'static str, Place>,
}

impl Draft {
    fn apply_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = read_file(path)?;
        let place = |at: usize| Place::File { path: path.to_owned(), line: line_of(&text, at) };
        let table = DeTable::parse(&text).map_err(|error| ConfigError::Syntax {
            message: error.message().to_owned(),
            place: place(error.span().map_or(0, |span| span.start)),
        })?;
        for (key, value) in table.get_ref() {
            let place = place(key.span().start);
            let Some(setting) = find(key.get_ref()) else {
                return Err(ConfigError::UnknownSetting { name: key.get_ref().to_string(), place });
            };
            match plain(value.get_ref()) {
                Some(text) => self.set(setting, &text, place)?,
                None => {
                    let found = value.get_ref().type_str();
                    return Err(ConfigError::NotPlain { setting, found, place });
                }
            }
        }
        Ok(())
    }

    fn apply_variables(&mut self, variables: &BTreeMap<String, String>) -> Result<(), ConfigError> {
        let aws = variables.iter().filter(|(name, _)| name.starts_with(AWS_PREFIX));
        self.config.s3.variables = aws.map(|(name, text)| (name.clone(), text.clone())).collect();
        for (name, text) in variables.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
            if name == CONFIG_VARIABLE || OTHER_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == *name) else {
                return Err(ConfigError::UnknownVariable { name: name.clone() });
            };
            self.set(setting, text, Place::Variable(name.clone()))?;
        }
        Ok(())
    }

    fn apply_flags(&mut self, flags: &[(String, String)]) -> Result<(), ConfigError> {
        for (name, text) in flags.iter().filter(|(name, _)| name != CONFIG_FILE) {
            let place = Place::Flag(name.clone());
            let Some(setting) = find(name) else {
                return Err(ConfigError::UnknownSetting { name: name.clone(), place });
            };
            self.set(setting, text, place)?;
        }
        Ok(())
    }

    fn set(
        &mut self,
        setting: &'static Setting,
        text: &str,
        place: Place,
    ) -> Result<(), ConfigError> {
        if (setting.set)(&mut self.config, text).is_none() {
            let value = (!setting.is_secret).then(|| text.to_owned());
            return Err(ConfigError::BadValue { setting, value, place });
        }
        self.places.insert(setting.name, place);
        Ok(())
    }

    /// The checks that concern more than one setting.
    fn check(mut self) -> Result<Config, ConfigError> {
        let config = &self.config;
        let protected = config.requirepass.is_some() || !config.protected_mode;
        if let Some(place) = self.places.remove("bind").filter(|_| config.is_exposed())
            && !protected
        {
            return Err(ConfigError::Unprotected { bind: config.bind, place });
        }
        if let (Some(base), Some(place)) =
            (config.shard_port_base, self.places.remove("shard-port-base"))
        {
            let shards = config.shards;
            let ports = u32::from(base)..u32::from(base) + u32::from(shards);
            let meets_port = ports.contains(&u32::from(config.port));
            if meets_port || ports.end > u32::from(u16::MAX) + 1 {
                return Err(ConfigError::ShardPorts { base, shards, meets_port, place });
            }
        }
        Ok(self.config)
    }
}

fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(unreadable(std::io::ErrorKind::FileTooLarge.into()));
    }
    Ok(text)
}

/// The line of a byte offset, counted from 1.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
}

/// A TOML value as the text that a flag would have; `None` for lists, tables and dates.
fn plain(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = i128::from_str_radix(number.as_str(), number.radix());
            Some(parsed.map_or_else(|_| number.as_str().to_owned(), |number| number.to_string()))
        }
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(true) => Some("yes".to_owned()),
        DeValue::Boolean(false) => Some("no".to_owned()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::NamedTempFile;

    use super::*;

    fn load(
        file: Option<&str>,
        variables: &[(&str, &str)],
        flags: &[(&str, &str)],
    ) -> Result<Config, String> {
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let mut flags = own(flags);
        let mut folder = String::new();
        let temp = file.map(|text| {
            let mut temp = NamedTempFile::new().unwrap();
            temp.write_all(text.as_bytes()).unwrap();
            temp
        });
        if let Some(temp) = &temp {
            folder = temp.path().display().to_string();
            flags.push((CONFIG_FILE.to_owned(), folder.clone()));
        }
        let variables = own(variables).into_iter().collect();
        Config::load(&flags, &variables, 2).map_err(|error| {
            let text = format!("{error}\n{}", error.remedy());
            if folder.is_empty() { text } else { text.replace(&folder, "FILE") }
        })
    }

    #[test]
    fn flags_override_variables_which_override_the_file() {
        let file = "port = 1001\nshards = 3\nfsync = \"never\"\nno-log = true\n";
        let config = load(
            Some(file),
            &[("CUTWATER_PORT", "1002"), ("CUTWATER_SHARDS", "4"), ("PATH", "/bin")],
            &[("port", "1003")],
        )
        .unwrap();
        assert_eq!((config.port, config.shards, config.log), (1003, 4, false));
        assert_eq!(config.fsync, cutwater_engine::types::Fsync::Never);
    }

    #[test]
    fn the_file_may_be_named_by_variable_and_the_flag_wins() {
        let mut one = NamedTempFile::new().unwrap();
        one.write_all(b"port = 1").unwrap();
        let mut two = NamedTempFile::new().unwrap();
        two.write_all(b"port = 2").unwrap();
        let path = |temp: &NamedTempFile| temp.path().display().to_string();
        let variables = BTreeMap::from([(CONFIG_VARIABLE.to_owned(), path(&one))]);
        assert_eq!(Config::load(&[], &variables, 1).unwrap().port, 1);
        let flags = [(CONFIG_FILE.to_owned(), path(&two))];
        assert_eq!(Config::load(&flags, &variables, 1).unwrap().port, 2);
    }

    #[test]
    fn values_of_every_toml_kind() {
        let file = "# a comment\nport = 0x1F90\nmaxclients = 1_000\ncheckpoint-log = \"64mb\"\n\
                    protected-mode = false\nbind = '0.0.0.0'\n";
        let config = load(Some(file), &[], &[]).unwrap();
        assert_eq!((config.port, config.max_clients), (8080, 1000));
        assert_eq!(config.checkpoint_log_bytes, Some(64 << 20));
        assert!(!config.protected_mode && config.is_exposed());
    }

    #[test]
    fn other_variables_are_left_alone() {
        let variables = [("CUTWATER_LOG", "debug"), ("CUTWATER_PASSWORD", "x")];
        assert_eq!(load(None, &variables, &[]), Ok(Config::defaults(2)));
    }

    #[test]
    fn errors_name_the_setting_the_place_and_what_is_allowed() {
        let port = "Allowed: a port from 1 to 65535, or 0 for one that the kernel chooses.";
        let bad = |place| format!("bad value \"70000\" for port ({place})\n{port}");
        let err = |file, variables, flags| load(file, variables, flags).unwrap_err();
        assert_eq!(err(None, &[], &[("port", "70000")]), bad("flag --port"));
        assert_eq!(err(None, &[("CUTWATER_PORT", "70000")], &[]), bad("variable CUTWATER_PORT"));
        assert_eq!(err(Some("\nport = 70000"), &[], &[("port", "1")]), bad("FILE:2"));
        assert_eq!(
            err(Some("bind='::1'\nport = [1]"), &[], &[]),
            format!("port takes one plain value, not array (FILE:2)\n{port}")
        );
        assert_eq!(
            err(Some("[server]\nport = 1"), &[], &[]).lines().next().unwrap(),
            "unknown setting \"server\" (FILE:1)"
        );
        assert_eq!(
            err(Some("\n\ndata_dir = 'x'"), &[], &[]),
            "unknown setting \"data_dir\" (FILE:3)\nDid you mean \"data-dir\"?"
        );
        assert_eq!(
            err(None, &[], &[("prot", "1")]),
            "unknown setting \"prot\" (flag --prot)\nDid you mean \"port\"?"
        );
        assert_eq!(
            err(None, &[("CUTWATER_FSYCN", "always")], &[]),
            "unknown variable CUTWATER_FSYCN in the environment\nDid you mean CUTWATER_FSYNC?"
        );
        assert_eq!(
            err(None, &[("CUTWATER_port", "1")], &[]),
            "unknown variable CUTWATER_port in the environment\nDid you mean CUTWATER_PORT?"
        );
        let text = err(None, &[("CUTWATER_COLOUR", "red")], &[]);
        assert!(text.contains("Known variables: CUTWATER_BIND, CUTWATER_PORT,"), "{text}");
        assert!(err(Some("zzz = 1"), &[], &[]).contains("Known settings: bind, port,"));
    }

    #[test]
    fn a_file_that_is_not_toml_or_not_there() {
        let text = load(Some("port = 1\nfsync = = 1"), &[], &[]).unwrap_err();
        assert!(text.starts_with("the configuration file is not valid TOML: "), "{text}");
        assert!(text.contains("(FILE:2)"), "{text}");
        let text = load(Some("port = 1\nport = 2"), &[], &[]).unwrap_err();
        assert!(text.contains("duplicate key") && text.contains("(FILE:2)"), "{text}");
        let text = load(None, &[("CUTWATER_CONFIG", "/does/not/exist")], &[]).unwrap_err();
        assert!(text.starts_with("cannot read the configuration file /does/not/exist: No such"));
        let large = "#".repeat(MAX_FILE_BYTES as usize + 1);
        assert!(load(Some(&large), &[], &[]).unwrap_err().contains("file too large"));
    }

    #[test]
    fn a_password_is_never_shown() {
        let config = load(None, &[("CUTWATER_REQUIREPASS", "hunter2")], &[]).unwrap();
        assert_eq!(config.requirepass.unwrap().expose(), "hunter2");
        let config = load(Some("requirepass = 'hunter2'"), &[], &[]).unwrap();
        assert_eq!(config.requirepass.unwrap().expose(), "hunter2");
        assert_eq!(
            load(None, &[], &[("requirepass", "")]).unwrap_err(),
            "bad value for requirepass (flag --requirepass)\n\
             Allowed: a password of at least one character; leave it out for none."
        );
    }

    #[test]
    fn an_open_address_needs_a_password() {
        let text = load(Some("bind = '0.0.0.0'"), &[], &[]).unwrap_err();
        assert!(text.starts_with(
            "bind 0.0.0.0 lets other machines reach a database that has no password (FILE:1)\n"
        ));
        assert!(text.contains("CUTWATER_REQUIREPASS") && text.contains("--protected-mode no"));
        let open = [("bind", "0.0.0.0")];
        assert!(load(None, &[("CUTWATER_REQUIREPASS", "x")], &open).is_ok());
        assert!(load(None, &[("CUTWATER_PROTECTED_MODE", "no")], &open).is_ok());
        assert!(load(None, &[], &[("bind", "127.0.0.2")]).is_ok());
    }

    #[test]
    fn keys_of_a_remote_store_come_from_the_file_or_the_environment_and_are_not_shown() {
        let file = "snapshot-store = 's3://bucket/x'\ns3-access-key-id = 'id'\n\
                    s3-secret-access-key = 'hunter2'\n";
        let variables = [("AWS_REGION", "eu-north-1"), ("AWS_SECRET_ACCESS_KEY", "hunter3")];
        let config = load(Some(file), &variables, &[]).unwrap();
        assert_eq!(config.snapshot_store.as_ref().unwrap().to_string(), "s3://bucket/x");
        let keys = config.s3.credentials.as_ref().unwrap();
        assert_eq!(
            (keys.access_key_id.as_str(), keys.secret_access_key.as_str()),
            ("id", "hunter2")
        );
        assert_eq!(config.s3.variables.len(), 2);
        assert!(!format!("{config:?}").contains("hunter"));
        let text = load(None, &[], &[("snapshot-store", "s3://x")]).unwrap_err();
        assert!(text.contains("Allowed: file:///DIR"), "{text}");
    }

    #[test]
    fn shard_ports_must_fit() {
        let ports = |base, shards| {
            load(None, &[], &[("shard-port-base", base), ("shards", shards), ("port", "7000")])
        };
        assert!(ports("65535", "1").is_ok() && ports("7001", "9").is_ok());
        assert!(ports("6990", "10").is_ok());
        assert!(ports("65535", "2").unwrap_err().starts_with(
            "with 2 shards, shard-port-base 65535 takes the ports 65535 to 65536, which end \
             above 65535 (flag --shard-port-base)\nChoose another"
        ));
        assert!(ports("6990", "11").unwrap_err().contains("which include the common port"));
    }
}
