//! The rows of commands on strings.

use super::super::{
    AclCategories as Acl, CommandFlags as Flags, CommandId as Id, CommandSpec, Group, KeySpec,
};

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::new(Id::Set, "set", -3, Group::String, "1.0.0")
        .flags(Flags::WRITE.or(Flags::DENYOOM))
        .acl(Acl::STRING)
        .key_specs(&[SET_KEY])
        .docs("key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]", "O(1)", "Sets a key to a string, whatever it held."),
    CommandSpec::new(Id::Get, "get", 2, Group::String, "1.0.0")
        .flags(Flags::READONLY.or(Flags::FAST))
        .acl(Acl::STRING)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RO", "access"])])
        .docs("key", "O(1)", "Answers the string at a key."),
    CommandSpec::new(Id::GetDel, "getdel", 2, Group::String, "6.2.0")
        .flags(Flags::WRITE.or(Flags::FAST))
        .acl(Acl::STRING)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RW", "access", "delete"])])
        .docs("key", "O(1)", "Answers the string at a key and deletes the key."),
    CommandSpec::new(Id::SetNx, "setnx", 3, Group::String, "1.0.0")
        .flags(Flags::WRITE.or(Flags::DENYOOM).or(Flags::FAST))
        .acl(Acl::STRING)
        .key_specs(&[KeySpec::new(1, 0, 1, &["OW", "insert"])])
        .deprecated("2.6.12", "SET with the NX argument")
        .docs("key value", "O(1)", "Sets a key that does not exist to a string."),
    CommandSpec::new(Id::Append, "append", 3, Group::String, "2.0.0")
        .flags(Flags::WRITE.or(Flags::DENYOOM).or(Flags::FAST))
        .acl(Acl::STRING)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RW", "insert"])])
        .docs("key value", "O(M) with the bytes appended", "Appends to the string at a key."),
    CommandSpec::new(Id::StrLen, "strlen", 2, Group::String, "2.2.0")
        .flags(Flags::READONLY.or(Flags::FAST))
        .acl(Acl::STRING)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RO"])])
        .docs("key", "O(1)", "Answers the length of the string at a key."),
    CommandSpec::new(Id::SetRange, "setrange", 4, Group::String, "2.2.0")
        .flags(Flags::WRITE.or(Flags::DENYOOM))
        .acl(Acl::STRING)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RW", "update"])])
        .docs("key offset value", "O(M) with the bytes written", "Overwrites a part of the string at a key."),
    CommandSpec::new(Id::GetRange, "getrange", 4, Group::String, "2.4.0")
        .flags(Flags::READONLY)
        .acl(Acl::STRING)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RO", "access"])])
        .docs("key start end", "O(N) with the bytes returned", "Answers a part of the string at a key."),
    CommandSpec::new(Id::Incr, "incr", 2, Group::String, "1.0.0")
        .flags(Flags::WRITE.or(Flags::DENYOOM).or(Flags::FAST))
        .acl(Acl::STRING)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RW", "access", "update"])])
        .docs("key", "O(1)", "Adds 1 to the integer at a key."),
    CommandSpec::new(Id::Decr, "decr", 2, Group::String, "1.0.0")
        .flags(Flags::WRITE.or(Flags::DENYOOM).or(Flags::FAST))
        .acl(Acl::STRING)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RW", "access", "update"])])
        .docs("key", "O(1)", "Subtracts 1 from the integer at a key."),
    CommandSpec::new(Id::IncrBy, "incrby", 3, Group::String, "1.0.0")
        .flags(Flags::WRITE.or(Flags::DENYOOM).or(Flags::FAST))
        .acl(Acl::STRING)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RW", "access", "update"])])
        .docs("key increment", "O(1)", "Adds to the integer at a key."),
    CommandSpec::new(Id::DecrBy, "decrby", 3, Group::String, "1.0.0")
        .flags(Flags::WRITE.or(Flags::DENYOOM).or(Flags::FAST))
        .acl(Acl::STRING)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RW", "access", "update"])])
        .docs("key decrement", "O(1)", "Subtracts from the integer at a key."),
    CommandSpec::new(Id::IncrByFloat, "incrbyfloat", 3, Group::String, "2.6.0")
        .flags(Flags::WRITE.or(Flags::DENYOOM).or(Flags::FAST))
        .acl(Acl::STRING)
        .key_specs(&[KeySpec::new(1, 0, 1, &["RW", "access", "update"])])
        .docs("key increment", "O(1)", "Adds to the floating-point number at a key."),
    CommandSpec::new(Id::MGet, "mget", -2, Group::String, "1.0.0")
        .flags(Flags::READONLY.or(Flags::FAST))
        .acl(Acl::STRING)
        .key_specs(&[KeySpec::new(1, -1, 1, &["RO", "access"])])
        .docs("key [key ...]", "O(N) with the number of keys", "Answers the strings at several keys, as of one instant."),
    CommandSpec::new(Id::MSet, "mset", -3, Group::String, "1.0.1")
        .flags(Flags::WRITE.or(Flags::DENYOOM))
        .acl(Acl::STRING)
        .key_specs(&[KeySpec::new(1, -1, 2, &["OW", "update"])])
        .docs("key value [key value ...]", "O(N) with the number of keys", "Sets several keys at one instant."),
    CommandSpec::new(Id::MSetNx, "msetnx", -3, Group::String, "1.0.1")
        .flags(Flags::WRITE.or(Flags::DENYOOM))
        .acl(Acl::STRING)
        .key_specs(&[KeySpec::new(1, -1, 2, &["OW", "insert"])])
        .docs("key value [key value ...]", "O(N) with the number of keys", "Sets several keys at one instant, if none of them exists."),
];

/// Of all commands, only SET does more or less to its key depending on its other arguments.
const SET_KEY: KeySpec = KeySpec::new(1, 0, 1, &["RW", "access", "update", "variable_flags"])
    .notes("reads the old value only with GET");
