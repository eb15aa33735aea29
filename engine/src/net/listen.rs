//! Binding the ports of the shards.
//!
//! On the common port every shard has a listener of its own in one `SO_REUSEPORT` group, and the
//! kernel spreads connections over them. Such a group would also form, in silence, with another
//! server of the same user that listens there with `SO_REUSEPORT`, and steal half of its
//! connections; so the port is bound once without it first, which fails if anyone listens.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted, per listener. The kernel caps it at
/// net.core.somaxconn.
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
    // Inherited by every accepted socket: a small reply must not wait for an acknowledgement.
    socket.set_tcp_nodelay(true)?;
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    fn any_port() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[test]
    fn a_group_shares_one_port_and_every_connection_reaches_a_member() {
        let group = bind_group(any_port(), 4).unwrap();
        let address = group[0].local_addr().unwrap();
        assert!(group.iter().all(|listener| listener.local_addr().unwrap() == address));
        let clients: Vec<TcpStream> =
            (0..32).map(|_| TcpStream::connect(address).unwrap()).collect();
        let accepted: usize = group
            .iter()
            .map(|listener| std::iter::from_fn(|| listener.accept().ok()).count())
            .sum();
        assert_eq!(accepted, clients.len());
    }

    #[test]
    fn a_group_does_not_join_a_foreign_one() {
        let foreign = bind(any_port(), true, 16).unwrap();
        let address = foreign.local_addr().unwrap();
        let error = bind_group(address, 2).unwrap_err();
        assert!(matches!(error, ListenError::InUse { .. }));
        let message = error.to_string();
        assert!(message.contains(&format!("port {}", address.port())), "{message}");
        drop(foreign);
        assert_eq!(bind_group(address, 2).unwrap().len(), 2);
    }

    #[test]
    fn errors_name_the_address() {
        let error = bind_exclusive("192.0.2.1:7000".parse().unwrap()).unwrap_err();
        assert!(matches!(error, ListenError::NoSuchAddress { .. }));
        assert!(error.to_string().contains("192.0.2.1:7000"));
    }

    #[test]
    fn a_port_is_free_again_at_once_after_connections_were_closed() {
        let listener = bind_exclusive(any_port()).unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (server, _) =
            std::iter::repeat_with(|| listener.accept()).find_map(Result::ok).unwrap();
        // Closed on the server's side first, so that its port is left in TIME_WAIT.
        drop((server, listener));
        drop(client);
        bind_exclusive(address).unwrap();
    }
}
