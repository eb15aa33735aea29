//! CLIENT: what a connection says about itself, and the connections of all shards.
//!
//! LIST and KILL are executed on every shard, each for its own connections; [`super::super::plan`]
//! joins the answers. KILL has to know whose it is: the client id of who asks goes with it as the
//! last argument.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use crate::command::CommandError;
use crate::command::parse::{self, is_option};
use crate::net::ConnId;
use crate::resp::{Args, Reply};
use crate::types::ShardId;

use super::super::connection::Connection;
use super::super::core::ShardCore;
use super::connection::DEFAULT_USER;

const BAD_NAME: &str = "Client names cannot contain spaces, newlines or special characters.";

/// Refuses names that would break the lines of CLIENT LIST.
pub(super) fn check_name(name: &[u8]) -> Result<(), String> {
    if is_plain(name) { Ok(()) } else { Err(format!("ERR {BAD_NAME}")) }
}

/// CLIENT SETNAME connection-name; the empty name takes it away.
pub(super) fn set_name(connection: &mut Connection, args: Args<'_>, reply: &mut Reply<'_>) {
    if let Err(text) = check_name(&args[2]) {
        return reply.error(&text);
    }
    connection.session.name = args[2].to_vec();
    reply.ok();
}

/// CLIENT GETNAME
pub(super) fn get_name(connection: &Connection, reply: &mut Reply<'_>) {
    let name = &connection.session.name;
    reply.bulk_or_null((!name.is_empty()).then_some(name));
}

/// CLIENT SETINFO \<LIB-NAME libname | LIB-VER libver\>
pub(super) fn set_info(connection: &mut Connection, args: Args<'_>, reply: &mut Reply<'_>) {
    let (option, value) = (&args[2], &args[3]);
    let place = if is_option(option, "LIB-NAME") {
        &mut connection.session.lib_name
    } else if is_option(option, "LIB-VER") {
        &mut connection.session.lib_version
    } else {
        let option = parse::repeated(option);
        return reply.error(&format!("ERR Unrecognized option '{option}'"));
    };
    if !is_plain(value) {
        let option = parse::repeated(option);
        return reply.error(&format!(
            "ERR {option} cannot contain spaces, newlines or special characters."
        ));
    }
    *place = value.to_vec();
    reply.ok();
}

fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

impl ShardCore {
    /// CLIENT INFO
    pub(super) fn client_info(&self, connection: &Connection, reply: &mut Reply<'_>) {
        let mut text = String::new();
        describe(connection, self.clock.now_micros(), self.id, &mut text);
        reply.verbatim(*b"txt", &text);
    }

    /// CLIENT LIST \[TYPE type\] \[ID client-id ...\], of the connections of this shard.
    pub(in super::super) fn client_list(&self, args: Args<'_>, reply: &mut Reply<'_>) {
        let ids = match ListFilter::parse(args) {
            Ok(ListFilter::All) => None,
            Ok(ListFilter::None) => Some(Vec::new()),
            Ok(ListFilter::Ids(ids)) => Some(ids),
            Err(text) => return reply.error(&text),
        };
        let mut text = String::new();
        for connection in self.connections.sockets() {
            if ids.as_ref().is_none_or(|ids| ids.contains(&connection.client_id)) {
                describe(connection, self.clock.now_micros(), self.id, &mut text);
            }
        }
        reply.verbatim(*b"txt", &text);
    }

    /// CLIENT KILL, of the connections of this shard: how many they were.
    pub(in super::super) fn client_kill(&mut self, args: Args<'_>, reply: &mut Reply<'_>) {
        let filter = match KillFilter::parse(args) {
            Ok(filter) => filter,
            Err(text) => return reply.error(&text),
        };
        let now_micros = self.clock.now_micros();
        let found: Vec<(ConnId, u64)> = self
            .connections
            .sockets()
            .filter(|connection| !connection.dropped && filter.accepts(connection, now_micros))
            .map(|connection| (connection.id, connection.client_id))
            .collect();
        for (conn, client_id) in &found {
            if *client_id == filter.requester {
                // Its reply goes out first.
                self.connections.get_mut(*conn).expect("it was just found").closing = true;
                self.mark_dirty(*conn);
            } else {
                self.drop_connection(*conn);
            }
        }
        reply.integer(found.len() as i64);
    }
}

/// One line of CLIENT LIST, as `catClientInfoString` of Redis writes it; the shard comes last.
fn describe(connection: &Connection, now_micros: u64, shard: ShardId, text: &mut String) {
    let session = &connection.session;
    let address = |address: Option<SocketAddr>| address.map(shown).unwrap_or_default();
    let endpoints = connection.endpoints.as_ref();
    let seconds_since = |micros: u64| now_micros.saturating_sub(micros) / 1_000_000;
    let queued = session.multi.as_ref();
    let multi = queued.map_or(-1, |queued| queued.calls.len() as i64);
    let multi_bytes = queued.map_or(0, |queued| queued.size_bytes);
    let input = &connection.input;
    let unsent_bytes = connection.replies.unsent_bytes();
    let mut flags = String::new();
    flags.extend(queued.map(|_| 'x'));
    flags.extend(connection.closing.then_some('c'));
    let flags = if flags.is_empty() { "N" } else { &flags };
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={flags} db={} sub=0 psub=0 \
         ssub=0 multi={multi} qbuf={} qbuf-free={} argv-mem=0 multi-mem={multi_bytes} rbs=0 rbp=0 \
         obl=0 oll=0 omem={unsent_bytes} tot-mem={} events=r cmd={} user={DEFAULT_USER} redir=-1 \
         resp={} lib-name={} lib-ver={} shard={shard}",
        connection.client_id,
        address(endpoints.map(|endpoints| endpoints.peer)),
        address(endpoints.map(|endpoints| endpoints.local)),
        connection.id.index(),
        String::from_utf8_lossy(&session.name),
        seconds_since(connection.created_at_micros),
        seconds_since(connection.active_at_micros),
        session.db,
        input.len(),
        input.capacity() - input.len(),
        input.capacity() + unsent_bytes + multi_bytes + size_of::<Connection>(),
        connection.last_command,
        session.version as u8,
        String::from_utf8_lossy(&session.lib_name),
        String::from_utf8_lossy(&session.lib_version),
    );
}

/// An address as clients write it: IPv4 without the clothes of IPv6.
fn shown(address: SocketAddr) -> String {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => format!("{ip}:{}", address.port()),
        IpAddr::V6(ip) => format!("[{ip}]:{}", address.port()),
    }
}

enum ListFilter {
    All,
    /// Clients of a type that does not exist here.
    None,
    Ids(Vec<u64>),
}

impl ListFilter {
    fn parse(args: Args<'_>) -> Result<Self, String> {
        match args.get(2) {
            None => Ok(Self::All),
            Some(option) if is_option(option, "TYPE") && args.len() == 4 => {
                Ok(if is_normal_type(&args[3])? { Self::All } else { Self::None })
            }
            Some(option) if is_option(option, "ID") && args.len() > 3 => {
                let id = |text| parse::integer(text).and_then(|id| u64::try_from(id).ok());
                let ids: Option<Vec<u64>> = args.skip(3).iter().map(id).collect();
                ids.map(Self::Ids).ok_or_else(|| "ERR Invalid client ID".to_owned())
            }
            Some(_) => Err(CommandError::Syntax.to_string()),
        }
    }
}

/// Whether a type is the one that all clients are of.
fn is_normal_type(name: &[u8]) -> Result<bool, String> {
    if is_option(name, "normal") {
        return Ok(true);
    }
    if ["master", "replica", "slave", "pubsub"].iter().any(|known| is_option(name, known)) {
        return Ok(false);
    }
    Err(format!("ERR Unknown client type '{}'", parse::repeated(name)))
}

/// Which connections CLIENT KILL closes; all conditions must hold.
#[derive(Default)]
struct KillFilter<'a> {
    id: Option<u64>,
    wrong_type: bool,
    addr: Option<&'a [u8]>,
    laddr: Option<&'a [u8]>,
    min_age_s: u64,
    skip_me: bool,
    /// The client id of who asks.
    requester: u64,
}

impl<'a> KillFilter<'a> {
    /// The last argument is the requester's client id, which its shard has added.
    fn parse(args: Args<'a>) -> Result<Self, String> {
        let (requester, count) = (args.len() - 1, args.len() - 3);
        let requester = parse::integer(&args[requester]).unwrap_or_default() as u64;
        if count == 1 {
            // The old form may name the requester.
            return Ok(Self { addr: args.get(2), requester, ..Self::default() });
        }
        let mut filter = Self { skip_me: true, requester, ..Self::default() };
        let mut rest = args.skip(2).iter().take(count);
        while let Some(option) = rest.next() {
            let value = rest.next().ok_or_else(|| CommandError::Syntax.to_string())?;
            filter.add(option, value)?;
        }
        Ok(filter)
    }

    fn add(&mut self, option: &[u8], value: &'a [u8]) -> Result<(), String> {
        let positive = || parse::integer(value).and_then(|number| u64::try_from(number).ok());
        if is_option(option, "ID") {
            let id = positive().filter(|id| *id > 0);
            self.id = Some(id.ok_or("ERR client-id should be greater than 0")?);
        } else if is_option(option, "TYPE") {
            self.wrong_type |= !is_normal_type(value)?;
        } else if is_option(option, "ADDR") {
            self.addr = Some(value);
        } else if is_option(option, "LADDR") {
            self.laddr = Some(value);
        } else if is_option(option, "USER") {
            if value != DEFAULT_USER.as_bytes() {
                return Err(format!("ERR No such user '{}'", parse::repeated(value)));
            }
        } else if is_option(option, "MAXAGE") {
            let age = positive().filter(|age| *age > 0);
            self.min_age_s = age.ok_or("ERR maxage should be greater than 0")?;
        } else if is_option(option, "SKIPME") && is_option(value, "YES") {
            self.skip_me = true;
        } else if is_option(option, "SKIPME") && is_option(value, "NO") {
            self.skip_me = false;
        } else {
            return Err(CommandError::Syntax.to_string());
        }
        Ok(())
    }

    fn accepts(&self, connection: &Connection, now_micros: u64) -> bool {
        let endpoints = connection.endpoints.as_ref();
        let is_at = |wanted: Option<&[u8]>, address: Option<SocketAddr>| {
            wanted.is_none_or(|wanted| {
                address.is_some_and(|address| shown(address).as_bytes() == wanted)
            })
        };
        let age_s = now_micros.saturating_sub(connection.created_at_micros) / 1_000_000;
        !self.wrong_type
            && self.id.is_none_or(|id| id == connection.client_id)
            && is_at(self.addr, endpoints.map(|endpoints| endpoints.peer))
            && is_at(self.laddr, endpoints.map(|endpoints| endpoints.local))
            && age_s >= self.min_age_s
            && !(self.skip_me && connection.client_id == self.requester)
    }
}
