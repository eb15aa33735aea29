//! What the ring remembers of a connection, and the table of them. No system calls here but the
//! close of a dropped socket.
//!
//! A connection has at most two operations in the kernel that can still complete: its multishot
//! receive and one send. Its place in the table is given to another connection only when both are
//! over and the socket is closed; the generation in [`ConnId`] then differs, so a caller's old id
//! finds nothing, and a completion never meets a stranger.

use std::net::TcpStream;

use super::event::CloseReason;

/// A connection of one ring: index into the table in the low [`INDEX_BITS`] bits, above them the
/// generation of that place. Fits [`USED_BITS`] bits. Unique on a ring until the generation wraps,
/// after four billion connections in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Bits of the index, and so the bound on connections of one ring: far above any limit of
/// descriptors. Past it, an accepted socket is closed at once.
pub const INDEX_BITS: u32 = 24;
/// Bits of a [`ConnId`] that can be set.
pub const USED_BITS: u32 = INDEX_BITS + u32::BITS;
/// Connections that one ring can hold.
pub const MAX_CONNECTIONS: usize = 1 << INDEX_BITS;

impl ConnId {
    fn new(index: usize, generation: u32) -> Self {
        let index = u64::try_from(index).expect("indexes are below MAX_CONNECTIONS");
        Self(u64::from(generation) << INDEX_BITS | index)
    }

    /// The place in the table, which later connections use again.
    pub(crate) fn index(self) -> usize {
        usize::try_from(self.0 & ((1 << INDEX_BITS) - 1)).expect("24 bits fit")
    }

    fn generation(self) -> u32 {
        u32::try_from(self.0 >> INDEX_BITS & u64::from(u32::MAX)).expect("masked to 32 bits")
    }
}

/// Where the multishot receive of a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    /// The kernel has none; one can be armed.
    Idle,
    /// The kernel has one.
    Armed,
    /// The kernel has one, and was asked to end it.
    Cancelling,
    /// The peer will send no more; none is armed again.
    Ended,
}

impl Receiving {
    /// A completion of it may still arrive.
    pub(super) fn is_outstanding(self) -> bool {
        matches!(self, Self::Armed | Self::Cancelling)
    }
}

/// A send that the kernel reads from. The allocation of `buffer` does not move while this exists.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) buffer: Vec<u8>,
    /// Bytes of it that are out.
    pub(super) sent: usize,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    pub(super) receiving: Receiving,
    /// The caller has asked for no more bytes for now.
    pub(super) paused: bool,
    pub(super) sending: Option<Sending>,
    /// Set from the moment on at which the connection only waits for its operations to end.
    pub(super) closing: Option<CloseReason>,
    /// The send in flight was asked to end, so its rest does not go out.
    pub(super) aborted: bool,
}

impl Connection {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            receiving: Receiving::Idle,
            paused: false,
            sending: None,
            closing: None,
            aborted: false,
        }
    }

    /// Whether a receive is to be armed now.
    pub(super) fn wants_receive(&self) -> bool {
        self.receiving == Receiving::Idle && !self.paused && self.closing.is_none()
    }

    /// Whether nothing of it can complete any more, and it is to be closed.
    pub(super) fn is_over(&self) -> bool {
        self.closing.is_some() && !self.receiving.is_outstanding() && self.sending.is_none()
    }
}

/// All connections of a ring.
#[derive(Debug, Default)]
pub(super) struct Connections {
    places: Vec<Place>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    connection: Option<Connection>,
}

impl Connections {
    /// Takes a connection in, or gives it back when the table is at its bound.
    pub(super) fn insert(&mut self, connection: Connection) -> Result<ConnId, Connection> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.places.len() < MAX_CONNECTIONS => {
                self.places.push(Place { generation: 0, connection: None });
                self.places.len() - 1
            }
            None => return Err(connection),
        };
        let place = &mut self.places[index];
        place.connection = Some(connection);
        Ok(ConnId::new(index, place.generation))
    }

    pub(super) fn get_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let place = self.places.get_mut(conn.index())?;
        if place.generation == conn.generation() { place.connection.as_mut() } else { None }
    }

    pub(super) fn get(&self, conn: ConnId) -> Option<&Connection> {
        let place = self.places.get(conn.index())?;
        if place.generation == conn.generation() { place.connection.as_ref() } else { None }
    }

    /// Takes a connection out; its id is never given again.
    pub(super) fn remove(&mut self, conn: ConnId) -> Option<Connection> {
        let place = self.places.get_mut(conn.index())?;
        if place.generation != conn.generation() {
            return None;
        }
        let connection = place.connection.take()?;
        assert!(!connection.receiving.is_outstanding() && connection.sending.is_none());
        place.generation = place.generation.wrapping_add(1);
        self.free.push(conn.index());
        Some(connection)
    }

    /// The ids of all, in no order that means anything.
    pub(super) fn ids(&self) -> Vec<ConnId> {
        let occupied =
            self.places.iter().enumerate().filter(|(_, place)| place.connection.is_some());
        occupied.map(|(index, place)| ConnId::new(index, place.generation)).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Takes all sends out, so that they can be kept from being freed.
    pub(super) fn take_sends(&mut self) -> Vec<Sending> {
        let connections = self.places.iter_mut().filter_map(|place| place.connection.as_mut());
        connections.filter_map(|connection| connection.sending.take()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn an_id_is_never_seen_again() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut connections = Connections::default();
        let mut old = Vec::new();
        for _ in 0..100 {
            let connection = Connection::new(socket.try_clone().unwrap());
            let conn = connections.insert(connection).unwrap();
            assert!(!old.contains(&conn));
            assert!(old.iter().all(|old| connections.get(*old).is_none()));
            assert_eq!(connections.ids(), [conn]);
            assert!(conn.0 >> USED_BITS == 0);
            assert!(connections.remove(conn).is_some());
            assert!(connections.remove(conn).is_none());
            assert!(connections.get_mut(conn).is_none());
            old.push(conn);
        }
        assert_eq!(connections.len(), 0);
        assert_eq!(connections.places.len(), 1);
    }

    #[test]
    fn index_and_generation_do_not_mix() {
        let conn = ConnId::new(MAX_CONNECTIONS - 1, u32::MAX);
        assert_eq!((conn.index(), conn.generation()), (MAX_CONNECTIONS - 1, u32::MAX));
        assert_eq!(conn.0, (1 << USED_BITS) - 1);
        assert!(connections_without(conn));
    }

    fn connections_without(conn: ConnId) -> bool {
        Connections::default().get(conn).is_none()
    }
}
