//! CONFIG GET and SET over a table of parameters that says what is: some can be changed while the
//! server runs, the others tell clients and tools how it was started, or what it does not do.

use std::net::SocketAddr;

use crate::command::glob;
use crate::command::parse;
use crate::resp::decode::{MAX_BULK_BYTES, MAX_REQUEST_BYTES};
use crate::resp::{Args, Reply};
use crate::types::{DATABASE_COUNT, Fsync};

use super::super::shared::{Settings, Shared};

/// One parameter.
struct Parameter {
    name: &'static str,
    value: Value,
}

/// Where the value of a parameter comes from.
enum Value {
    /// Always the same.
    Fixed(&'static str),
    /// Given at the start.
    Started(fn(&Shared) -> String),
    /// Changed by CONFIG SET.
    Setting {
        get: fn(&Settings) -> Vec<u8>,
        /// Refuses with Redis' words.
        set: fn(&mut Settings, &[u8]) -> Result<(), String>,
    },
}

/// By name.
static PARAMETERS: &[Parameter] = &[
    started("appendfsync", |shared| fsync_name(shared.identity.fsync).to_owned()),
    started("appendonly", |shared| yes_no(shared.identity.log).to_owned()),
    started("bind", |shared| common(shared).map_or_else(String::new, |at| at.ip().to_string())),
    started("client-query-buffer-limit", |_| MAX_REQUEST_BYTES.to_string()),
    started("cluster-announce-hostname", |shared| {
        shared.identity.announce_host.clone().unwrap_or_default()
    }),
    fixed("cluster-enabled", "yes"),
    fixed("daemonize", "no"),
    started("databases", |_| DATABASE_COUNT.to_string()),
    started("dir", |shared| shared.identity.data_dir.clone().unwrap_or_default()),
    fixed("io-threads", "1"),
    setting(
        "maxclients",
        |settings| settings.max_clients.to_string().into_bytes(),
        |settings, text| {
            settings.max_clients = number(text, 1, u32::MAX.into())?;
            Ok(())
        },
    ),
    fixed("maxmemory", "0"),
    fixed("maxmemory-policy", "noeviction"),
    fixed("notify-keyspace-events", ""),
    started("port", |shared| common(shared).map_or(0, |at| at.port()).to_string()),
    started("proto-max-bulk-len", |_| MAX_BULK_BYTES.to_string()),
    fixed("protected-mode", "no"),
    fixed("replicaof", ""),
    setting(
        "requirepass",
        |settings| settings.password.clone(),
        |settings, text| {
            settings.password = text.to_vec();
            Ok(())
        },
    ),
    fixed("save", ""),
    setting(
        "timeout",
        |settings| settings.timeout_s.to_string().into_bytes(),
        |settings, text| {
            settings.timeout_s = number(text, 0, i32::MAX as u64)?;
            Ok(())
        },
    ),
    fixed("unixsocket", ""),
];

/// CONFIG GET parameter \[parameter ...\]: a map of all that any pattern matches. As in Redis, who
/// asks for a name gets it back as it was spelled first.
pub(super) fn get(shared: &Shared, args: Args<'_>, reply: &mut Reply<'_>) {
    let mut found: Vec<(&[u8], &Parameter)> = Vec::new();
    for asked in args.skip(2).iter() {
        let is_pattern = asked.iter().any(|byte| b"*?[".contains(byte));
        let lowercase = asked.to_ascii_lowercase();
        for parameter in PARAMETERS {
            let name = parameter.name.as_bytes();
            let shown = match is_pattern {
                true if glob::matches(&lowercase, name) => name,
                false if lowercase == name => asked,
                _ => continue,
            };
            if !found.iter().any(|(_, other)| other.name == parameter.name) {
                found.push((shown, parameter));
            }
        }
    }
    reply.map(found.len());
    for (name, parameter) in found {
        reply.bulk(name);
        reply.bulk(&parameter.get(shared));
    }
}

/// CONFIG SET parameter value \[parameter value ...\]: all or none.
pub(super) fn set(shared: &Shared, args: Args<'_>, reply: &mut Reply<'_>) {
    match try_set(shared, args.skip(2)) {
        Ok(()) => reply.ok(),
        Err(text) => reply.error(&text),
    }
}

fn try_set(shared: &Shared, pairs: Args<'_>) -> Result<(), String> {
    if !pairs.len().is_multiple_of(2) {
        return Err("ERR syntax error".to_owned());
    }
    let mut changes: Vec<(&Parameter, &[u8])> = Vec::new();
    for index in (0..pairs.len()).step_by(2) {
        let (name, value) = (&pairs[index], &pairs[index + 1]);
        let parameter = PARAMETERS.iter().find(|known| parse::is_option(name, known.name));
        let parameter = parameter.ok_or_else(|| {
            let name = parse::repeated(name);
            format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'")
        })?;
        if changes.iter().any(|(other, _)| other.name == parameter.name) {
            return Err(refusal(name, "duplicate parameter"));
        }
        // What is so already may be asked for: tools make sure that nothing is saved, say.
        if !parameter.can_change() && *value != *parameter.get(shared) {
            return Err(refusal(name, "can't set immutable config"));
        }
        changes.push((parameter, value));
    }
    let mut settings = shared.settings_mut();
    let mut changed = settings.clone();
    for (parameter, value) in changes {
        if let Value::Setting { set, .. } = &parameter.value {
            set(&mut changed, value).map_err(|why| refusal(parameter.name.as_bytes(), &why))?;
        }
    }
    *settings = changed;
    Ok(())
}

fn refusal(name: &[u8], why: &str) -> String {
    let name = parse::repeated(name);
    format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}")
}

impl Parameter {
    fn get(&self, shared: &Shared) -> Vec<u8> {
        match &self.value {
            Value::Fixed(value) => value.as_bytes().to_vec(),
            Value::Started(get) => get(shared).into_bytes(),
            Value::Setting { get, .. } => get(&shared.settings()),
        }
    }

    fn can_change(&self) -> bool {
        matches!(self.value, Value::Setting { .. })
    }
}

const fn fixed(name: &'static str, value: &'static str) -> Parameter {
    Parameter { name, value: Value::Fixed(value) }
}

const fn started(name: &'static str, get: fn(&Shared) -> String) -> Parameter {
    Parameter { name, value: Value::Started(get) }
}

const fn setting(
    name: &'static str,
    get: fn(&Settings) -> Vec<u8>,
    set: fn(&mut Settings, &[u8]) -> Result<(), String>,
) -> Parameter {
    Parameter { name, value: Value::Setting { get, set } }
}

fn number(text: &[u8], low: u64, high: u64) -> Result<u64, String> {
    let number = parse::integer(text).ok_or("argument couldn't be parsed into an integer")?;
    let in_range = u64::try_from(number).ok().filter(|number| (low..=high).contains(number));
    in_range.ok_or_else(|| format!("argument must be between {low} and {high} inclusive"))
}

fn common(shared: &Shared) -> Option<SocketAddr> {
    shared.ports.get()?.common
}

pub(super) fn fsync_name(fsync: Fsync) -> &'static str {
    match fsync {
        Fsync::Always => "always",
        Fsync::Everysec => "everysec",
        Fsync::Never => "no",
    }
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}
