//! Binding the ports of the shards.
//!
//! On the common port every shard has a listener of its own in one `SO_REUSEPORT` group, and the
//! kernel spreads connections over them. Such a group would also form, in silence, with another
//! server of the same user that listens there with `SO_REUSEPORT`, and steal half of its
//! connections; so the port is bound once without it first, which fails if anyone listens.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted, per listener. The kernel caps it at net.core.somaxconn.
pub const BACKLOG: u32 = 4096;

/// How often a group on port 0 is tried, should another process take the chosen port between the
/// probe and the group.
const PORT_ATTEMPTS: usize = 8;

/// Why a port could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another server listens there.
    #[error("cannot listen on {address}: another process listens on port {}", .address.port())]
    InUse {
        /// Where.
        address: SocketAddr,
    },
    /// The address is none of this machine's.
    #[error("cannot listen on {address}: this machine has no such address")]
    NoSuchAddress {
        /// Where.
        address: SocketAddr,
    },
    /// A port below 1024, mostly.
    #[error("cannot listen on {address}: no permission for port {}", .address.port())]
    Forbidden {
        /// Where.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl ListenError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address },
            io::ErrorKind::AddrNotAvailable => Self::NoSuchAddress { address },
            io::ErrorKind::PermissionDenied => Self::Forbidden { address },
            _ => Self::Other { address, source },
        }
    }
}

/// A non-blocking listening socket with SO_REUSEADDR, so that a restart need not wait for old
/// connections; with `reuse_port` as a member of the port's group.
///
/// # Errors
/// Those of socket(2), bind(2) and listen(2).
pub fn bind(address: SocketAddr, reuse_port: bool, backlog: u32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // Else `[::]` would collide with a listener on `0.0.0.0`, depending on a sysctl.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// A listener that shares its port with nobody: a shard's own port.
///
/// # Errors
/// See [`ListenError`].
pub fn bind_exclusive(address: SocketAddr) -> Result<TcpListener, ListenError> {
    bind(address, false, BACKLOG).map_err(|source| ListenError::new(address, source))
}

/// One listener for each of `shards` on the same port. On port 0 the kernel chooses one.
///
/// # Errors
/// See [`ListenError`]; in particular when anyone else listens on the port.
pub fn bind_group(address: SocketAddr, shards: u16) -> Result<Vec<TcpListener>, ListenError> {
    let mut attempts = if address.port() == 0 { PORT_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        match try_bind_group(address, shards) {
            Err(ListenError::InUse { .. }) if attempts > 0 => {}
            result => return result,
        }
    }
}

fn try_bind_group(address: SocketAddr, shards: u16) -> Result<Vec<TcpListener>, ListenError> {
    let probe = bind_exclusive(address)?;
    let chosen = probe.local_addr().map_err(|source| ListenError::new(address, source))?;
    drop(probe);
    (0..shards)
        .map(|_| bind(chosen, true, BACKLOG).map_err(|source| ListenError::new(chosen, source)))
        .collect()
}
