//! The rows of MULTI and its companions.

use super::super::{
    AclCategories as Acl, CommandFlags as Flags, CommandId as Id, CommandSpec, Group, KeySpec,
};

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::new(Id::Multi, "multi", 1, Group::Transactions, "1.2.0")
        .flags(
            Flags::NOSCRIPT
                .or(Flags::LOADING)
                .or(Flags::STALE)
                .or(Flags::FAST)
                .or(Flags::ALLOW_BUSY),
        )
        .acl(Acl::TRANSACTION)
        .docs("", "O(1)", "Begins a transaction."),
    CommandSpec::new(Id::Exec, "exec", 1, Group::Transactions, "1.2.0")
        .flags(Flags::NOSCRIPT.or(Flags::LOADING).or(Flags::STALE).or(Flags::SKIP_SLOWLOG))
        .acl(Acl::TRANSACTION)
        .docs(
            "",
            "Depends on the commands of the transaction",
            "Runs the commands of the transaction.",
        ),
    CommandSpec::new(Id::Discard, "discard", 1, Group::Transactions, "2.0.0")
        .flags(
            Flags::NOSCRIPT
                .or(Flags::LOADING)
                .or(Flags::STALE)
                .or(Flags::FAST)
                .or(Flags::ALLOW_BUSY),
        )
        .acl(Acl::TRANSACTION)
        .docs("", "O(N) with the number of queued commands", "Gives the transaction up."),
    CommandSpec::new(Id::Watch, "watch", -2, Group::Transactions, "2.2.0")
        .flags(
            Flags::NOSCRIPT
                .or(Flags::LOADING)
                .or(Flags::STALE)
                .or(Flags::FAST)
                .or(Flags::ALLOW_BUSY),
        )
        .acl(Acl::TRANSACTION)
        .key_specs(&[KeySpec::new(1, -1, 1, &["RO"])])
        .docs(
            "key [key ...]",
            "O(1) for each key",
            "Makes the next transaction depend on keys that do not change.",
        ),
    CommandSpec::new(Id::Unwatch, "unwatch", 1, Group::Transactions, "2.2.0")
        .flags(
            Flags::NOSCRIPT
                .or(Flags::LOADING)
                .or(Flags::STALE)
                .or(Flags::FAST)
                .or(Flags::ALLOW_BUSY),
        )
        .acl(Acl::TRANSACTION)
        .docs("", "O(1)", "Forgets the watched keys."),
];
