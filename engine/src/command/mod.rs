//! The commands: one table, and a file a family.

pub mod introspect;
mod syntax;
pub mod table;
