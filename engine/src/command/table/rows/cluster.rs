//! The rows of the cluster protocol.

use super::super::{CommandFlags as Flags, CommandId as Id, CommandSpec, Group};

pub(super) const ROWS: &[CommandSpec] =
    &[CommandSpec::new(Id::Cluster, "cluster", -2, Group::Cluster, "3.0.0")
        .docs("", "Depends on the subcommand", "Commands about slots and shards.")
        .subcommands(CLUSTER_SUBCOMMANDS)];

const CLUSTER_SUBCOMMANDS: &[CommandSpec] = &[
    CommandSpec::new(Id::ClusterSlots, "cluster|slots", 2, Group::Cluster, "3.0.0")
        .flags(Flags::LOADING.or(Flags::STALE))
        .tips(&["nondeterministic_output"])
        .deprecated("7.0.0", "CLUSTER SHARDS")
        .docs("", "O(N) with the number of shards", "Answers which ports serve which slots."),
    CommandSpec::new(Id::ClusterShards, "cluster|shards", 2, Group::Cluster, "7.0.0")
        .flags(Flags::LOADING.or(Flags::STALE))
        .tips(&["nondeterministic_output"])
        .docs(
            "",
            "O(N) with the number of shards",
            "Answers the shards with their slots and ports.",
        ),
    CommandSpec::new(Id::ClusterNodes, "cluster|nodes", 2, Group::Cluster, "3.0.0")
        .flags(Flags::STALE)
        .tips(&["nondeterministic_output"])
        .docs("", "O(N) with the number of shards", "Answers the shards as text, a line each."),
    CommandSpec::new(Id::ClusterKeySlot, "cluster|keyslot", 3, Group::Cluster, "3.0.0")
        .flags(Flags::STALE)
        .docs("key", "O(N) with the length of the key", "Answers the slot of a key."),
    CommandSpec::new(Id::ClusterInfo, "cluster|info", 2, Group::Cluster, "3.0.0")
        .flags(Flags::STALE)
        .tips(&["nondeterministic_output"])
        .docs("", "O(1)", "Describes the state of the cluster."),
    CommandSpec::new(Id::ClusterMyId, "cluster|myid", 2, Group::Cluster, "3.0.0")
        .flags(Flags::STALE)
        .docs("", "O(1)", "Answers the id of the shard that took the command."),
    CommandSpec::new(
        Id::ClusterCountKeysInSlot,
        "cluster|countkeysinslot",
        3,
        Group::Cluster,
        "3.0.0",
    )
    .flags(Flags::STALE)
    .docs("slot", "O(1)", "Counts the keys of a slot."),
    CommandSpec::new(Id::ClusterGetKeysInSlot, "cluster|getkeysinslot", 4, Group::Cluster, "3.0.0")
        .flags(Flags::STALE)
        .tips(&["nondeterministic_output"])
        .docs("slot count", "O(N) with the number of keys asked for", "Answers keys of a slot."),
    CommandSpec::new(Id::ClusterHelp, "cluster|help", 2, Group::Cluster, "5.0.0")
        .flags(Flags::LOADING.or(Flags::STALE))
        .docs("", "O(1)", "Lists the subcommands."),
];
