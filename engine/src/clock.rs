//! The hybrid clock of a shard.
