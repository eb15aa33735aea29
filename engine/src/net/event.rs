//! What a turn of the ring reports to the shard, and the names in it.
//!
//! Every operation that was handed to the ring ends in exactly one event: a send in `Sent` or in
//! the `Closed` of its connection, a write in `Written`, a sync in `Synced`, an accepted connection
//! in one `Closed`, a listener in one `ListenerClosed`.

use std::io;
use std::net::SocketAddr;

use super::connection::ConnId;

/// A listener of one ring, counted from 0, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u32);

/// The caller's name for a write or a sync; comes back with its result. The ring gives it no
/// meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoToken(pub u64);

/// Why a connection is gone.
#[derive(Debug)]
pub enum CloseReason {
    /// [`super::Ring::close`] or [`super::Ring::abort`] was called.
    Requested,
    /// Receiving or sending failed; mostly the peer reset the connection.
    Failed(io::Error),
}

/// One thing that happened. `B` is the buffer type of log writes.
#[derive(Debug)]
pub enum Event<'a, B> {
    /// A client connected; it is being received from already. `local` is the address by which it
    /// came, which CLUSTER SLOTS answers with.
    Accepted {
        /// The listener it came through.
        listener: ListenerId,
        /// Its name until `Closed`.
        conn: ConnId,
        /// The client's address.
        peer: SocketAddr,
        /// Our address, as the client sees it.
        local: SocketAddr,
    },
    /// The process or the machine is out of descriptors or memory, so the listener rests. It goes
    /// on when a connection of this ring closes or at [`super::Ring::retry_listeners`].
    ListenerPaused {
        /// Which.
        listener: ListenerId,
        /// EMFILE, ENFILE, ENOBUFS or ENOMEM.
        error: io::Error,
    },
    /// The listener is closed: asked for (no error), or for an error that will not pass.
    ListenerClosed {
        /// Which.
        listener: ListenerId,
        /// What ended it, unless `stop_listening` did.
        error: Option<io::Error>,
    },
    /// Bytes arrived, in order. They lie in a provided buffer that goes back to the kernel when the
    /// visitor returns. Arrives after `pause_receive` too, for what had been received by then, and
    /// never after `close`.
    Received {
        /// From where.
        conn: ConnId,
        /// At least one byte, at most a receive buffer.
        bytes: &'a [u8],
    },
    /// The peer will send no more (a half close); sending to it still works. The connection stays
    /// until the caller closes it.
    ReceiveEnded {
        /// Which.
        conn: ConnId,
    },
    /// A whole buffer went out; the connection takes the next.
    Sent {
        /// Which.
        conn: ConnId,
        /// The buffer, emptied, its allocation kept.
        buffer: Vec<u8>,
    },
    /// The connection is gone, and its id will not be seen again.
    Closed {
        /// Which.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// A write ended.
    Written {
        /// The caller's name for it.
        token: IoToken,
        /// Bytes written: the whole buffer.
        result: io::Result<usize>,
        /// The buffer.
        buffer: B,
    },
    /// A sync ended.
    Synced {
        /// The caller's name for it.
        token: IoToken,
        /// Everything written to the file before the sync was asked for is durable.
        result: io::Result<()>,
    },
}
