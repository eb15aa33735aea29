//! The write-ahead log of one shard.
