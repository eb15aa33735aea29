//! The 64 bits that travel with an operation and name it in its completion: what kind in the upper
//! eight bits, whose in the lower 56.

use crate::net::connection::{ConnId, USED_BITS};
use crate::net::event::ListenerId;
use crate::net::file::FileSlot;

/// Whose operation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// Nobody waits for it: a cancellation.
    Ignored,
    /// The multishot accept of a listener.
    Accept(ListenerId),
    /// The multishot receive of a connection.
    Receive(ConnId),
    /// The send of a connection.
    Send(ConnId),
    /// A write to a file.
    Write(FileSlot),
    /// A sync of a file.
    Sync(FileSlot),
    /// The poll of the shard's doorbell.
    Doorbell,
}

const KIND_SHIFT: u32 = USED_BITS;
const OWNER_MASK: u64 = (1 << KIND_SHIFT) - 1;

const _: () = assert!(KIND_SHIFT + 8 == u64::BITS);

impl Tag {
    pub(super) fn encode(self) -> u64 {
        let (kind, owner) = match self {
            Self::Ignored => (0, 0),
            Self::Accept(listener) => (1, u64::from(listener.0)),
            Self::Receive(conn) => (2, conn.0),
            Self::Send(conn) => (3, conn.0),
            Self::Write(slot) => (4, u64::from(slot.0)),
            Self::Sync(slot) => (5, u64::from(slot.0)),
            Self::Doorbell => (6, 0),
        };
        kind << KIND_SHIFT | owner & OWNER_MASK
    }

    /// # Panics
    /// On bits that [`encode`](Self::encode) did not make: the kernel returns what it was given.
    pub(super) fn decode(bits: u64) -> Self {
        let owner = bits & OWNER_MASK;
        let small = || u32::try_from(owner).expect("was a u32");
        match bits >> KIND_SHIFT {
            0 => Self::Ignored,
            1 => Self::Accept(ListenerId(small())),
            2 => Self::Receive(ConnId(owner)),
            3 => Self::Send(ConnId(owner)),
            4 => Self::Write(FileSlot(small())),
            5 => Self::Sync(FileSlot(small())),
            6 => Self::Doorbell,
            kind => unreachable!("no operation was submitted with kind {kind}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back_as_it_went() {
        let conn = ConnId(OWNER_MASK);
        for tag in [
            Tag::Ignored,
            Tag::Accept(ListenerId(u32::MAX)),
            Tag::Receive(conn),
            Tag::Send(ConnId(7)),
            Tag::Write(FileSlot(u32::MAX)),
            Tag::Sync(FileSlot(0)),
            Tag::Doorbell,
        ] {
            assert_eq!(Tag::decode(tag.encode()), tag);
        }
    }
}
