//! Sockets, doorbells and mailboxes: the I/O under a shard.
//!
//! One task drives a shard (DESIGN §5). Everything that it takes in or gives out passes here:
//!
//! - [`ring`]: one `io_uring` a shard, for its sockets *and* its log; [`event`]: what it reports;
//! - [`connection`] and [`mod@file`]: what the ring remembers of a socket and of a log operation;
//! - [`buffers`]: the provided buffers that bytes arrive in;
//! - [`doorbell`], over an [`eventfd`]: how a parked shard is woken, and a busy one is not;
//!   [`idle`]: waiting for it inside glommio;
//! - [`mailbox`]: batches between shards; [`inbox`]: messages from threads that are no shards;
//! - [`listen`]: binding ports; [`preflight`]: what the machine must allow.
//!
//! A turn of the shell, in this order: `Ring::turn` (submit what the last turn prepared and reap),
//! `MeshEnd::receive`, `Inbox::receive`, the core, the core's effects into the ring and the mesh,
//! `MeshEnd::ring_peers`. With nothing left to do, `Doorbell::park` with a check that ends in
//! `Ring::prepare_to_wait`, and then `Idle::wait`; else `Idle::give_turn_if_due`.
//!
//! No RESP and no commands here, and nothing of ordering between keys: that is the core's.

pub mod buffers;
pub mod connection;
pub mod doorbell;
pub mod event;
pub mod eventfd;
pub mod file;
pub mod idle;
pub mod inbox;
pub mod listen;
pub mod mailbox;
pub mod preflight;
pub mod ring;

pub use connection::{ConnId, INDEX_BITS};
pub use doorbell::Doorbell;
pub use event::{CloseReason, Event, IoToken, ListenerId};
pub use file::{FileSync, StableBuffer, WriteRequest, WriteSync};
pub use idle::Idle;
pub use inbox::{Inbox, InboxSender};
pub use mailbox::{Mesh, MeshEnd};
pub use ring::{Ring, RingConfig, RingError, SendRefused, Wait};
