//! From a run of log to what a delta holds: the changes of each key folded into one, so that the
//! size follows what changed and not how often it did.
//!
//! The log is gone through twice. The first time an [`Index`] notes, for each key that changes,
//! the last change that replaces it whole and the last change of all. The second time a
//! [`Compactor`] passes over what was replaced later, folds what several changes make together,
//! and hands out the rest. Values are never all in memory: an index is at most [`INDEX_KEYS`] keys
//! (about 48 MiB), and half-folded changes are at most [`FOLD_BYTES`]. A part that changed in more
//! keys is compacted a range of slots at a time: a full index narrows itself to the lower half of
//! its slots, and the next one begins where it ends.
//!
//! What comes out, in this order: a `Clear` for each range of slots that was cleared, then for
//! each key (in no promised order) one of
//!
//! - `Put` or `Delete`: whatever it was before;
//! - `Write`s and then at most one `Expire`: onto the value that the parent has; or behind a
//!   `Put` or `Delete`, where that and the writes are too long to be one value.
//!
//! Every run of ops is such that doing it again changes nothing more: each op sets something to
//! what it is then, and what is undone in between is done again. So a delta may hold changes that
//! the parent's tail has as well. Pure.

mod clears;
mod fold;
mod index;
mod patch;
#[cfg(test)]
mod tests;

pub use fold::{Compactor, FOLD_BYTES, Sink};
pub use index::{INDEX_KEYS, Index, IndexError};
