//! The commands: one table, and a file a family.

pub mod table;
