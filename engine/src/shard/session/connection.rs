//! The connection itself: PING, ECHO, HELLO, AUTH, SELECT, QUIT and RESET.
//!
//! There is one user, `default`, with one password or none (`requirepass`). A connection that was
//! open when the password changed keeps what it had, as in Redis.

use crate::command::CommandError;
use crate::command::parse::{self, is_option};
use crate::resp::{Args, Reply, RespVersion};
use crate::types::{DATABASE_COUNT, DbIndex};

use super::super::connection::Connection;
use super::super::core::ShardCore;
use super::{CUTWATER_VERSION, REDIS_VERSION, client};

/// The only user.
pub(super) const DEFAULT_USER: &str = "default";

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD_CONFIGURED: &str = "ERR AUTH <password> called without any password configured \
     for the default user. Are you sure your configuration is correct?";
const HELLO_UNAUTHENTICATED: &str = "NOAUTH HELLO must be called with the client already \
     authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to \
     authenticate the client and select the RESP protocol version at the same time";

/// PING \[message\]
pub(super) fn ping(args: Args<'_>, reply: &mut Reply<'_>) {
    match args.len() {
        1 => reply.simple("PONG"),
        2 => reply.bulk(&args[1]),
        _ => reply.error(&CommandError::ArgumentCount("ping").to_string()),
    }
}

/// The database that a SELECT names.
///
/// # Errors
/// The text of the refusal.
pub fn database(args: Args<'_>) -> Result<DbIndex, String> {
    let number = parse::integer(&args[1]).ok_or_else(|| CommandError::NotInteger.to_string())?;
    let number = i32::try_from(number).map_err(|_| CommandError::NotInteger32.to_string())?;
    match u8::try_from(number) {
        Ok(number) if number < DATABASE_COUNT => Ok(DbIndex(number)),
        _ => Err("ERR DB index is out of range".to_owned()),
    }
}

/// SELECT index
pub(super) fn select(connection: &mut Connection, args: Args<'_>, reply: &mut Reply<'_>) {
    match database(args) {
        Ok(db) => {
            connection.session.db = db;
            reply.ok();
        }
        Err(text) => reply.error(&text),
    }
}

/// QUIT
pub(super) fn quit(connection: &mut Connection, reply: &mut Reply<'_>) {
    connection.closing = true;
    reply.ok();
}

/// The options of HELLO.
#[derive(Default)]
struct HelloOptions<'a> {
    version: Option<RespVersion>,
    credentials: Option<(&'a [u8], &'a [u8])>,
    name: Option<&'a [u8]>,
}

impl<'a> HelloOptions<'a> {
    fn parse(args: Args<'a>) -> Result<Self, String> {
        let mut options = Self::default();
        if let Some(version) = args.get(1) {
            options.version = match parse::integer(version) {
                None => return Err("ERR Protocol version is not an integer or out of range".into()),
                Some(2) => Some(RespVersion::V2),
                Some(3) => Some(RespVersion::V3),
                Some(_) => return Err("NOPROTO unsupported protocol version".into()),
            };
        }
        let mut rest = args.skip(2).iter();
        while let Some(option) = rest.next() {
            if is_option(option, "AUTH") && rest.len() >= 2 {
                options.credentials = rest.next().zip(rest.next());
            } else if is_option(option, "SETNAME") && rest.len() >= 1 {
                let name = rest.next().unwrap_or_default();
                client::check_name(name)?;
                options.name = Some(name);
            } else {
                let option = parse::repeated(option);
                return Err(format!("ERR Syntax error in HELLO option '{option}'"));
            }
        }
        Ok(options)
    }
}

impl ShardCore {
    /// HELLO \[protover \[AUTH username password\] \[SETNAME clientname\]\]
    pub(super) fn hello(&mut self, connection: &mut Connection, args: Args<'_>, out: &mut Vec<u8>) {
        if let Err(text) = self.begin_session(connection, args) {
            return Reply::new(out, connection.session.version).error(&text);
        }
        let mut reply = Reply::new(out, connection.session.version);
        reply.map(8);
        let pairs = |pairs: &[(&str, &str)], reply: &mut Reply<'_>| {
            for (name, value) in pairs {
                reply.bulk(name.as_bytes());
                reply.bulk(value.as_bytes());
            }
        };
        let versions = [("version", REDIS_VERSION), ("cutwater_version", CUTWATER_VERSION)];
        pairs(&[("server", "redis"), versions[0], versions[1]], &mut reply);
        reply.bulk(b"proto");
        reply.integer(connection.session.version as i64);
        reply.bulk(b"id");
        reply.integer(connection.client_id as i64);
        pairs(&[("mode", "cluster"), ("role", "master")], &mut reply);
        reply.bulk(b"modules");
        reply.array(0);
    }

    /// AUTH \[username\] password
    pub(super) fn auth(
        &mut self,
        connection: &mut Connection,
        args: Args<'_>,
        reply: &mut Reply<'_>,
    ) {
        let (user, password) = match args.len() {
            2 if !self.shared.settings().requires_password() => {
                return reply.error(NO_PASSWORD_CONFIGURED);
            }
            2 => (DEFAULT_USER.as_bytes(), &args[1]),
            3 => (&args[1], &args[2]),
            _ => return reply.error(&CommandError::Syntax.to_string()),
        };
        if self.authenticate(connection, user, password) {
            reply.ok();
        } else {
            reply.error(WRONG_PASSWORD);
        }
    }

    /// RESET
    pub(super) fn reset(&mut self, connection: &mut Connection, reply: &mut Reply<'_>) {
        self.unwatch(connection);
        connection.session.multi = None;
        connection.session.db = DbIndex(0);
        connection.session.version = RespVersion::V2;
        connection.session.authenticated = !self.shared.settings().requires_password();
        connection.session.name.clear();
        reply.simple("RESET");
    }

    /// Carries out what HELLO asks for: all of it, or nothing but the authentication.
    fn begin_session(&self, connection: &mut Connection, args: Args<'_>) -> Result<(), String> {
        let options = HelloOptions::parse(args)?;
        if let Some((user, password)) = options.credentials
            && !self.authenticate(connection, user, password)
        {
            return Err(WRONG_PASSWORD.to_owned());
        }
        if !connection.session.authenticated {
            return Err(HELLO_UNAUTHENTICATED.to_owned());
        }
        if let Some(name) = options.name {
            connection.session.name = name.to_vec();
        }
        if let Some(version) = options.version {
            connection.session.version = version;
        }
        Ok(())
    }

    /// Without a password, every one is right.
    fn authenticate(&self, connection: &mut Connection, user: &[u8], password: &[u8]) -> bool {
        let settings = self.shared.settings();
        let password_is_right =
            !settings.requires_password() | is_same(&settings.password, password);
        let is_right = (user == DEFAULT_USER.as_bytes()) & password_is_right;
        connection.session.authenticated |= is_right;
        is_right
    }
}

/// Compares in a time that tells nothing about where the two differ.
fn is_same(secret: &[u8], given: &[u8]) -> bool {
    let mut difference = secret.len() ^ given.len();
    for (index, byte) in given.iter().enumerate() {
        let expected = secret.get(index % secret.len().max(1)).copied().unwrap_or_default();
        difference |= std::hint::black_box(usize::from(expected ^ byte));
    }
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_is_the_same() {
        assert!(is_same(b"", b"") && is_same(b"secret", b"secret"));
        for given in [&b""[..], b"s", b"secre", b"secres", b"secretsecret", b"xecret"] {
            assert!(!is_same(b"secret", given), "{given:?}");
        }
        assert!(!is_same(b"", b"a"));
    }
}
