//! The rows of commands about the server, its configuration and its snapshots.

use super::super::{
    AclCategories as Acl, CommandFlags as Flags, CommandId as Id, CommandSpec, Group,
};

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::new(Id::DbSize, "dbsize", 1, Group::Server, "1.0.0")
        .flags(Flags::READONLY.or(Flags::FAST))
        .acl(Acl::KEYSPACE)
        .docs("", "O(N) with the number of shards", "Counts the keys of the database."),
    CommandSpec::new(Id::FlushAll, "flushall", -1, Group::Server, "1.0.0")
        .flags(Flags::WRITE)
        .acl(Acl::KEYSPACE.or(Acl::DANGEROUS))
        .docs(
            "[ASYNC | SYNC]",
            "O(N) with the number of shards",
            "Deletes all keys of all databases.",
        ),
    CommandSpec::new(Id::FlushDb, "flushdb", -1, Group::Server, "1.0.0")
        .flags(Flags::WRITE)
        .acl(Acl::KEYSPACE.or(Acl::DANGEROUS))
        .docs(
            "[ASYNC | SYNC]",
            "O(N) with the number of shards",
            "Deletes all keys of the database.",
        ),
    CommandSpec::new(Id::Info, "info", -1, Group::Server, "1.0.0")
        .flags(Flags::LOADING.or(Flags::STALE))
        .acl(Acl::DANGEROUS)
        .tips(&["nondeterministic_output"])
        .docs("[section [section ...]]", "O(1)", "Describes the state of the server."),
    CommandSpec::new(Id::Config, "config", -2, Group::Server, "2.0.0")
        .docs("", "Depends on the subcommand", "Commands about the configuration.")
        .subcommands(CONFIG_SUBCOMMANDS),
    CommandSpec::new(Id::Command, "command", -1, Group::Server, "2.8.13")
        .flags(Flags::LOADING.or(Flags::STALE))
        .acl(Acl::CONNECTION)
        .tips(&["nondeterministic_output_order"])
        .docs("", "O(N) with the number of commands", "Describes all commands.")
        .subcommands(COMMAND_SUBCOMMANDS),
    CommandSpec::new(Id::Time, "time", 1, Group::Server, "2.6.0")
        .flags(Flags::LOADING.or(Flags::STALE).or(Flags::FAST))
        .tips(&["nondeterministic_output"])
        .docs("", "O(1)", "Answers the time of the server."),
    CommandSpec::new(Id::Shutdown, "shutdown", -1, Group::Server, "1.0.0")
        .flags(
            Flags::ADMIN
                .or(Flags::NOSCRIPT)
                .or(Flags::LOADING)
                .or(Flags::STALE)
                .or(Flags::ALLOW_BUSY)
                .or(Flags::NO_MULTI),
        )
        .docs(
            "[NOSAVE | SAVE] [NOW] [FORCE] [ABORT]",
            "O(1)",
            "Makes everything durable and stops the server.",
        ),
    CommandSpec::new(Id::BgSave, "bgsave", -1, Group::Server, "1.0.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::NO_ASYNC_LOADING))
        .docs("[SCHEDULE]", "O(1)", "Begins a snapshot."),
    CommandSpec::new(Id::Save, "save", 1, Group::Server, "1.0.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::NO_ASYNC_LOADING).or(Flags::NO_MULTI))
        .docs(
            "",
            "O(N) with the number of keys in all databases",
            "Takes a snapshot and waits for it.",
        ),
    CommandSpec::new(Id::LastSave, "lastsave", 1, Group::Server, "1.0.0")
        .flags(Flags::LOADING.or(Flags::STALE).or(Flags::FAST))
        .acl(Acl::ADMIN.or(Acl::DANGEROUS))
        .tips(&["nondeterministic_output"])
        .docs("", "O(1)", "Answers the time of the last snapshot."),
    CommandSpec::new(Id::Snapshot, "snapshot", -2, Group::Server, "0.1.0")
        .docs("", "Depends on the subcommand", "Commands about snapshots.")
        .subcommands(SNAPSHOT_SUBCOMMANDS),
];

const CONFIG_SUBCOMMANDS: &[CommandSpec] = &[
    CommandSpec::new(Id::ConfigGet, "config|get", -3, Group::Server, "2.0.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::LOADING).or(Flags::STALE))
        .docs(
            "parameter [parameter ...]",
            "O(N) with the number of parameters",
            "Answers configuration parameters.",
        ),
    CommandSpec::new(Id::ConfigSet, "config|set", -4, Group::Server, "2.0.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::LOADING).or(Flags::STALE))
        .docs(
            "parameter value [parameter value ...]",
            "O(N) with the number of parameters",
            "Changes configuration parameters.",
        ),
    CommandSpec::new(Id::ConfigHelp, "config|help", 2, Group::Server, "5.0.0")
        .flags(Flags::LOADING.or(Flags::STALE))
        .docs("", "O(1)", "Lists the subcommands."),
];

const COMMAND_SUBCOMMANDS: &[CommandSpec] = &[
    CommandSpec::new(Id::CommandCount, "command|count", 2, Group::Server, "2.8.13")
        .flags(Flags::LOADING.or(Flags::STALE))
        .acl(Acl::CONNECTION)
        .docs("", "O(1)", "Counts the commands."),
    CommandSpec::new(Id::CommandDocs, "command|docs", -2, Group::Server, "7.0.0")
        .flags(Flags::LOADING.or(Flags::STALE))
        .acl(Acl::CONNECTION)
        .tips(&["nondeterministic_output_order"])
        .docs(
            "[command-name [command-name ...]]",
            "O(N) with the number of commands",
            "Documents commands.",
        ),
    CommandSpec::new(Id::CommandInfo, "command|info", -2, Group::Server, "2.8.13")
        .flags(Flags::LOADING.or(Flags::STALE))
        .acl(Acl::CONNECTION)
        .tips(&["nondeterministic_output_order"])
        .docs(
            "[command-name [command-name ...]]",
            "O(N) with the number of commands",
            "Describes some commands.",
        ),
    CommandSpec::new(Id::CommandList, "command|list", -2, Group::Server, "7.0.0")
        .flags(Flags::LOADING.or(Flags::STALE))
        .acl(Acl::CONNECTION)
        .tips(&["nondeterministic_output_order"])
        .docs(
            "[FILTERBY <MODULE module-name | ACLCAT category>]",
            "O(N) with the number of commands",
            "Lists the names of commands.",
        ),
    CommandSpec::new(Id::CommandGetKeys, "command|getkeys", -3, Group::Server, "2.8.13")
        .flags(Flags::LOADING.or(Flags::STALE))
        .acl(Acl::CONNECTION)
        .docs(
            "command [arg [arg ...]]",
            "O(N) with the number of arguments",
            "Answers which arguments of a command are keys.",
        ),
    CommandSpec::new(Id::CommandHelp, "command|help", 2, Group::Server, "5.0.0")
        .flags(Flags::LOADING.or(Flags::STALE))
        .acl(Acl::CONNECTION)
        .docs("", "O(1)", "Lists the subcommands."),
];

const SNAPSHOT_SUBCOMMANDS: &[CommandSpec] = &[
    CommandSpec::new(Id::SnapshotCreate, "snapshot|create", -2, Group::Server, "0.1.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::NO_ASYNC_LOADING).or(Flags::NO_MULTI))
        .docs(
            "[arg [arg ...]]",
            "O(N) with the number of keys in all databases",
            "Takes a snapshot.",
        ),
    CommandSpec::new(Id::SnapshotList, "snapshot|list", -2, Group::Server, "0.1.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::NO_MULTI))
        .docs("[arg [arg ...]]", "O(N) with the number of snapshots", "Lists the snapshots."),
    CommandSpec::new(Id::SnapshotShow, "snapshot|show", 3, Group::Server, "0.1.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::NO_MULTI))
        .docs("id", "O(1)", "Describes a snapshot."),
    CommandSpec::new(Id::SnapshotVerify, "snapshot|verify", -3, Group::Server, "0.1.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::NO_MULTI))
        .docs("id [DEEP]", "O(N) with the size of the snapshot", "Reads and checks a snapshot."),
    CommandSpec::new(Id::SnapshotDelete, "snapshot|delete", 3, Group::Server, "0.1.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::NO_MULTI))
        .docs("id", "O(1)", "Deletes a snapshot."),
    CommandSpec::new(Id::SnapshotCancel, "snapshot|cancel", -2, Group::Server, "0.1.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::NO_MULTI))
        .docs(
            "[VERIFY] [id]",
            "O(1)",
            "Cancels the snapshot that is being taken, or verifications.",
        ),
    CommandSpec::new(Id::SnapshotRekey, "snapshot|rekey", 3, Group::Server, "0.1.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::NO_MULTI))
        .docs(
            "id | ALL",
            "O(N) with the number of snapshots",
            "Brings snapshots under the active key.",
        ),
    CommandSpec::new(Id::SnapshotPin, "snapshot|pin", 3, Group::Server, "0.1.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::NO_MULTI))
        .docs("id", "O(1)", "Pins a snapshot: nothing lets it go."),
    CommandSpec::new(Id::SnapshotUnpin, "snapshot|unpin", 3, Group::Server, "0.1.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::NO_MULTI))
        .docs("id", "O(1)", "Lifts the pin of a snapshot."),
    CommandSpec::new(Id::SnapshotPrune, "snapshot|prune", -2, Group::Server, "0.1.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::NO_MULTI))
        .docs(
            "[DRYRUN] [KEEPLAST number] [KEEPFOR duration]",
            "O(N) with the number of snapshots and log objects",
            "Lets go what the policy does not need.",
        ),
    CommandSpec::new(Id::SnapshotStatus, "snapshot|status", 2, Group::Server, "0.1.0")
        .flags(
            Flags::ADMIN
                .or(Flags::NOSCRIPT)
                .or(Flags::LOADING)
                .or(Flags::STALE)
                .or(Flags::NO_MULTI),
        )
        .docs("", "O(1)", "Answers how far running snapshots and uploads are."),
    CommandSpec::new(Id::SnapshotHelp, "snapshot|help", 2, Group::Server, "0.1.0")
        .flags(Flags::LOADING.or(Flags::STALE))
        .docs("", "O(1)", "Lists the subcommands."),
];
