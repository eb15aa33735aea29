//! The one list of commands: what each is called, how many arguments it takes, where its keys
//! stand, and what COMMAND says about it. Pure.
//!
//! On a write's journey this is where the arguments of a request get a meaning: [`resolve`] finds
//! the [`CommandSpec`] (of a subcommand, where there is one), checks the number of arguments and
//! has Redis' error text if either fails. The spec's [`CommandId`] says what to run, its
//! [`CommandSpec::keys`] which slots are touched, its [`CommandFlags`] what is checked before. What
//! a command does is in the files of the families; the rows of the table are in [`rows`].
//!
//! Names, arities, flags, categories and key positions are those of Redis 7.2 (its published
//! `commands.json`), except SNAPSHOT, which is Cutwater's own. No `request_policy` tips are given:
//! they ask a cluster client to split a command over the nodes, and here every port serves every key.

mod build;
mod find;
mod resolve;
mod rows;
mod types;

pub use find::lookup;
pub use resolve::{ResolveError, resolve};
pub use rows::{CommandId, TABLE};
pub use types::{AclCategories, CommandFlags, CommandSpec, Group, KeyRange, KeySpec};

#[cfg(test)]
mod tests;
