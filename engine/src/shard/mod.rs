//! The shard actor: one thread's keys, log and connections, and how shards work together.
//!
//! Split in two. [`core::ShardCore`] is the shard without I/O, which the simulation drives; the
//! shell ([`crate::engine`]) feeds it from the network ring, the disk and the mailboxes.
//!
//! A write goes through these files in this order:
//!
//! | step | file |
//! |---|---|
//! | bytes of a connection become commands | [`connection`], [`input`] |
//! | a command goes to the shard that owns its keys | [`dispatch`], [`plan`], [`message`] |
//! | ... where it is applied and recorded | [`execute`], [`journal`] |
//! | ... or prepared on several, then applied | [`coordinate`], [`participate`], [`intent`] |
//! | ... and its reply waits until the log is durable | [`gate`] |
//!
//! Beside it: [`session`] (commands about the connection and the server), [`watch`], [`parked`],
//! [`expire`], [`cut`] (one shard's part of a snapshot), [`load`] (filling a shard at the start),
//! and [`shared`], all that shards have in common.

pub mod connection;
mod connections;
mod coordinate;
pub mod core;
pub mod cut;
mod dispatch;
mod execute;
mod expire;
mod gate;
mod input;
mod intent;
mod join;
pub mod journal;
pub mod load;
pub mod message;
mod parked;
mod participate;
mod plan;
pub mod session;
pub mod shared;
mod watch;

#[cfg(test)]
mod tests;
