//! Snapshot objects of Cutwater, over any object store and without a server.
//!
//! A snapshot is written by [`writer`] behind a [`claim`], listed by [`catalog`], read back by
//! [`reader`], checked by [`verify`], ended by [`delete`], copied into another store by [`upload`]
//! and brought elsewhere by [`restore`].
//! Underneath lie the formats ([`chunk`], [`decoder`], [`manifest`], [`claim`]; byte by byte in
//! `FORMAT.md`), the names ([`paths`]) and the stores ([`store`], [`local`]).
//!
//! Everything runs on the caller's tokio runtime. Nothing here reads the clock; randomness comes
//! from the constructors of [`ident`] only.

pub mod catalog;
pub mod chunk;
pub mod claim;
pub mod core_writer;
pub mod decoder;
pub mod delete;
pub mod error;
pub mod ident;
pub mod local;
pub mod manifest;
mod msgpack;
pub mod paths;
pub mod reader;
pub mod restore;
pub mod store;
pub mod upload;
pub mod verify;
pub mod writer;

pub use object_store::ObjectStore;
