//! The rows of commands on keys of any type.

use super::super::{
    AclCategories as Acl, CommandFlags as Flags, CommandId as Id, CommandSpec, Group, KeySpec,
};

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::new(Id::Del, "del", -2, Group::Generic, "1.0.0")
        .flags(Flags::WRITE)
        .acl(Acl::KEYSPACE)
        .key_specs(&[KeySpec::new(1, -1, 1, &["RM", "delete"])])
        .docs("key [key ...]", "O(N) with the number of keys", "Deletes keys."),
    CommandSpec::new(Id::Unlink, "unlink", -2, Group::Generic, "4.0.0")
        .flags(Flags::WRITE.or(Flags::FAST))
        .acl(Acl::KEYSPACE)
        .key_specs(&[KeySpec::new(1, -1, 1, &["RM", "delete"])])
        .docs(
            "key [key ...]",
            "O(N) with the number of keys",
            "Deletes keys, and frees large values later.",
        ),
    CommandSpec::new(Id::Exists, "exists", -2, Group::Generic, "1.0.0")
        .flags(Flags::READONLY.or(Flags::FAST))
        .acl(Acl::KEYSPACE)
        .key_specs(&[KeySpec::new(1, -1, 1, &["RO"])])
        .docs("key [key ...]", "O(N) with the number of keys", "Counts which of the keys exist."),
    CommandSpec::new(Id::Type, "type", 2, Group::Generic, "1.0.0")
        .flags(Flags::READONLY.or(Flags::FAST))
        .acl(Acl::KEYSPACE)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RO"])])
        .docs("key", "O(1)", "Answers the type of the value at a key."),
    CommandSpec::new(Id::Expire, "expire", -3, Group::Generic, "1.0.0")
        .flags(Flags::WRITE.or(Flags::FAST))
        .acl(Acl::KEYSPACE)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RW", "update"])])
        .docs("key seconds [NX | XX | GT | LT]", "O(1)", "Lets a key expire after some seconds."),
    CommandSpec::new(Id::PExpire, "pexpire", -3, Group::Generic, "2.6.0")
        .flags(Flags::WRITE.or(Flags::FAST))
        .acl(Acl::KEYSPACE)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RW", "update"])])
        .docs(
            "key milliseconds [NX | XX | GT | LT]",
            "O(1)",
            "Lets a key expire after some milliseconds.",
        ),
    CommandSpec::new(Id::ExpireAt, "expireat", -3, Group::Generic, "1.2.0")
        .flags(Flags::WRITE.or(Flags::FAST))
        .acl(Acl::KEYSPACE)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RW", "update"])])
        .docs(
            "key unix-time-seconds [NX | XX | GT | LT]",
            "O(1)",
            "Lets a key expire at a Unix time in seconds.",
        ),
    CommandSpec::new(Id::PExpireAt, "pexpireat", -3, Group::Generic, "2.6.0")
        .flags(Flags::WRITE.or(Flags::FAST))
        .acl(Acl::KEYSPACE)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RW", "update"])])
        .docs(
            "key unix-time-milliseconds [NX | XX | GT | LT]",
            "O(1)",
            "Lets a key expire at a Unix time in milliseconds.",
        ),
    CommandSpec::new(Id::Ttl, "ttl", 2, Group::Generic, "1.0.0")
        .flags(Flags::READONLY.or(Flags::FAST))
        .acl(Acl::KEYSPACE)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RO", "access"])])
        .tips(&["nondeterministic_output"])
        .docs("key", "O(1)", "Answers how many seconds a key has left."),
    CommandSpec::new(Id::PTtl, "pttl", 2, Group::Generic, "2.6.0")
        .flags(Flags::READONLY.or(Flags::FAST))
        .acl(Acl::KEYSPACE)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RO", "access"])])
        .tips(&["nondeterministic_output"])
        .docs("key", "O(1)", "Answers how many milliseconds a key has left."),
    CommandSpec::new(Id::Persist, "persist", 2, Group::Generic, "2.2.0")
        .flags(Flags::WRITE.or(Flags::FAST))
        .acl(Acl::KEYSPACE)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RW", "update"])])
        .docs("key", "O(1)", "Takes the expiry of a key away."),
    CommandSpec::new(Id::Rename, "rename", 3, Group::Generic, "1.0.0")
        .flags(Flags::WRITE)
        .acl(Acl::KEYSPACE)
        .key_specs(&[
            KeySpec::new(1, 0, 1, &["RW", "access", "delete"]),
            KeySpec::new(2, 0, 1, &["OW", "update"]),
        ])
        .docs("key newkey", "O(1)", "Moves a value to another key, whatever that held."),
    CommandSpec::new(Id::Copy, "copy", -3, Group::Generic, "6.2.0")
        .flags(Flags::WRITE.or(Flags::DENYOOM))
        .acl(Acl::KEYSPACE)
        .key_specs(&[
            KeySpec::new(1, 0, 1, &["RO", "access"]),
            KeySpec::new(2, 0, 1, &["OW", "update"]),
        ])
        .docs(
            "source destination [DB destination-db] [REPLACE]",
            "O(N) with the size of the value",
            "Copies a value to another key.",
        ),
    CommandSpec::new(Id::Scan, "scan", -2, Group::Generic, "2.8.0")
        .flags(Flags::READONLY)
        .acl(Acl::KEYSPACE)
        .tips(&["nondeterministic_output"])
        .docs(
            "cursor [MATCH pattern] [COUNT count] [TYPE type]",
            "O(1) for each call",
            "Walks over the keys, some with each call.",
        ),
    CommandSpec::new(Id::Keys, "keys", 2, Group::Generic, "1.0.0")
        .flags(Flags::READONLY)
        .acl(Acl::KEYSPACE.or(Acl::DANGEROUS))
        .tips(&["nondeterministic_output_order"])
        .docs(
            "pattern",
            "O(N) with the number of keys in the database",
            "Answers all keys that match a pattern.",
        ),
    CommandSpec::new(Id::RandomKey, "randomkey", 1, Group::Generic, "1.0.0")
        .flags(Flags::READONLY)
        .acl(Acl::KEYSPACE)
        .tips(&["nondeterministic_output"])
        .docs("", "O(1)", "Answers some key."),
];
