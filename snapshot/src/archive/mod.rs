//! The archive: the log, piece by piece, in the remote store; with a snapshot, the way to any
//! moment.
//!
//! One object `wal/{n}` holds, for all shards, exactly the resolved and durable records of one
//! history with `from` < LSN <= `to`. The next object of that history begins at `to` and names its
//! predecessor by number and uuid. Where a `from` is above the predecessor's `to`, or a predecessor
//! is gone, the archive has a hole, which shows, and which a later snapshot gets across.
//!
//! | file | what |
//! |---|---|
//! | [`header`] | what an object says of itself in the clear: 512 bytes |
//! | [`body`] | its records, a section for each log |
//! | [`object`] | both together: compressed, sealed, checked |
//! | [`writer`] | one writer's puts, and how another one ends them |
//! | [`chain`] | what a store has: heads, predecessors, orphans |
//! | [`listing`] | what of it may go, without reading all of it |
//! | [`rekey`](mod@rekey) | its objects under another key |
//! | [`cursor`] | how far a data directory has come, over restarts |
//!
//! Numbers are the store's: histories share them. An object is created only if absent, under the
//! number after the last that its writer knows, so a writer that was superseded meets the newer
//! one's object and reads its epoch.

pub mod body;
pub mod chain;
pub mod cursor;
mod error;
pub mod header;
pub mod listing;
pub mod object;
pub mod rekey;
pub mod writer;

pub use body::{Body, BodyBuilder, WalRecord};
pub use chain::{Archive, ChainHead, find_head};
pub use cursor::Cursor;
pub use error::ArchiveError;
pub use header::{Link, WalHeader, WalNumber};
pub use listing::WalListing;
pub use object::{Draft, Packing, Secrets};
pub use writer::{ArchiveWriter, Fence, Put, WalWriterId};

#[cfg(test)]
mod tests;
