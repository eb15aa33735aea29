//! The connections of one shard, by id, and which of them a turn has touched.
//!
//! A connection is taken out while its input is handled, so that commands can change the shard
//! around it, and put back after. Ids come from the shell: the low half is a slot that is used
//! again, the high half tells its users apart, so a late completion never reaches a stranger.

use std::collections::VecDeque;

use crate::net::{ConnId, INDEX_BITS};

use super::connection::Connection;

/// Marks the id of a virtual connection.
const VIRTUAL: u64 = 1 << 63;

impl ConnId {
    /// The id of the `number`th virtual connection.
    pub fn virtual_id(index: u32, generation: u32) -> Self {
        let generation = u64::from(generation) << INDEX_BITS;
        Self(VIRTUAL | generation | u64::from(index))
    }

    /// What [`Self::virtual_id`] made it of.
    pub fn virtual_parts(self) -> (u32, u32) {
        let generation = (self.0 & !VIRTUAL) >> INDEX_BITS;
        (self.index() as u32, generation as u32)
    }

    /// Whether it names a batch of an embedded client.
    pub fn is_virtual(self) -> bool {
        self.0 & VIRTUAL != 0
    }
}

/// The connections of one shard.
#[derive(Debug, Default)]
pub struct Connections {
    sockets: Vec<Place>,
    virtuals: Vec<Place>,
    dirty: VecDeque<ConnId>,
    count: usize,
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    Empty,
    /// Its input is being handled.
    Taken(ConnId),
    Here(Box<Connection>),
}

impl Connections {
    /// Adds a connection whose slot is free.
    pub fn insert(&mut self, connection: Connection) {
        let place = self.place(connection.id);
        assert!(matches!(place, Place::Empty), "an id is used once at a time");
        *place = Place::Here(Box::new(connection));
        self.count += 1;
    }

    /// Takes a connection out, to handle it.
    pub fn take(&mut self, id: ConnId) -> Option<Box<Connection>> {
        let place = self.existing(id)?;
        match std::mem::replace(place, Place::Taken(id)) {
            Place::Here(connection) if connection.id == id => Some(connection),
            other => {
                *place = other;
                None
            }
        }
    }

    /// Puts a connection back that was taken out.
    pub fn put_back(&mut self, connection: Box<Connection>) {
        let place = self.place(connection.id);
        assert!(matches!(place, Place::Taken(id) if *id == connection.id), "it was taken out");
        *place = Place::Here(connection);
    }

    /// Ends a connection that was taken out.
    pub fn forget(&mut self, id: ConnId) {
        *self.place(id) = Place::Empty;
        self.count -= 1;
    }

    /// A connection that is not taken out.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        match self.existing(id)? {
            Place::Here(connection) if connection.id == id => Some(connection),
            _ => None,
        }
    }

    /// All connections with sockets that are not taken out.
    pub fn sockets(&self) -> impl Iterator<Item = &Connection> {
        self.sockets.iter().filter_map(|place| match place {
            Place::Here(connection) => Some(&**connection),
            _ => None,
        })
    }

    /// Whether any connection still has replies to come, or on their way.
    pub fn has_unsent_replies(&self) -> bool {
        let places = self.sockets.iter().chain(&self.virtuals);
        places.into_iter().any(|place| match place {
            Place::Empty => false,
            Place::Taken(_) => true,
            Place::Here(connection) => !connection.replies.is_drained(),
        })
    }

    /// Notes that a connection has to be looked at when the turn ends.
    pub fn mark_dirty(&mut self, id: ConnId) {
        if let Some(connection) = self.get_mut(id)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push_back(id);
        }
    }

    /// The next connection to look at.
    pub fn next_dirty(&mut self) -> Option<ConnId> {
        let id = self.dirty.pop_front()?;
        if let Some(connection) = self.get_mut(id) {
            connection.dirty = false;
        }
        Some(id)
    }

    fn existing(&mut self, id: ConnId) -> Option<&mut Place> {
        let places = if id.is_virtual() { &mut self.virtuals } else { &mut self.sockets };
        places.get_mut(id.index())
    }

    fn place(&mut self, id: ConnId) -> &mut Place {
        let places = if id.is_virtual() { &mut self.virtuals } else { &mut self.sockets };
        if places.len() <= id.index() {
            places.resize_with(id.index() + 1, Place::default);
        }
        &mut places[id.index()]
    }
}
