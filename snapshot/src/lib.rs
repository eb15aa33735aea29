//! Snapshot objects of Cutwater, over any object store and without a server.
//!
//! A snapshot is written by [`writer`] behind a [`claim`], listed by [`catalog`], read back by
//! [`reader`], checked by [`verify`], ended by [`delete`], copied into another store by [`upload`]
//! and brought elsewhere by [`restore`]; the log behind it is in the [`archive`], [`plan`] says
//! what of both makes a moment, and [`retention`] what of both may go, but for what has a [`pin`];
//! [`orphans`] nobody needs. Deltas and the base below them are a [`chain`]; what a delta holds is
//! [`compact`]ed log.
//! With keys configured it is sealed ([`sealing`]), and [`rekey`] brings it under another key.
//! Underneath lie the formats ([`chunk`], [`compression`], [`decoder`], [`manifest`], [`claim`];
//! byte by byte in `FORMAT.md`), the names ([`paths`]) and the stores ([`store`], [`local`]).
//!
//! Everything runs on the caller's tokio runtime. Nothing here reads the clock; randomness comes
//! from [`ident`] only.

mod amend;
pub mod archive;
pub mod catalog;
pub mod chain;
pub mod chunk;
pub mod claim;
pub mod compact;
pub mod compression;
pub mod core_writer;
pub mod decoder;
pub mod delete;
pub mod error;
pub mod ident;
pub mod local;
pub mod manifest;
mod msgpack;
mod object_writer;
pub mod orphans;
mod pack;
pub mod paths;
pub mod pin;
pub mod plan;
pub mod reader;
pub mod rekey;
pub mod restore;
pub mod retention;
pub mod sealing;
pub mod store;
pub mod throttle;
pub mod upload;
pub mod verify;
pub mod writer;

pub use object_store::ObjectStore;
