//! The keys and values of one shard.
