//! Sockets, doorbells and mailboxes: the I/O under a shard.
