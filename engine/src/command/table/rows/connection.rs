//! The rows of commands about the connection.

use super::super::{
    AclCategories as Acl, CommandFlags as Flags, CommandId as Id, CommandSpec, Group,
};

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::new(Id::Ping, "ping", -1, Group::Connection, "1.0.0")
        .flags(Flags::FAST)
        .acl(Acl::CONNECTION)
        .docs("[message]", "O(1)", "Answers PONG, or the message."),
    CommandSpec::new(Id::Echo, "echo", 2, Group::Connection, "1.0.0")
        .flags(Flags::LOADING.or(Flags::STALE).or(Flags::FAST))
        .acl(Acl::CONNECTION)
        .docs("message", "O(1)", "Answers the message."),
    CommandSpec::new(Id::Hello, "hello", -1, Group::Connection, "6.0.0")
        .flags(
            Flags::NOSCRIPT
                .or(Flags::LOADING)
                .or(Flags::STALE)
                .or(Flags::FAST)
                .or(Flags::NO_AUTH)
                .or(Flags::ALLOW_BUSY),
        )
        .acl(Acl::CONNECTION)
        .docs(
            "[protover [AUTH username password] [SETNAME clientname]]",
            "O(1)",
            "Chooses the protocol version, and describes the server.",
        ),
    CommandSpec::new(Id::Auth, "auth", -2, Group::Connection, "1.0.0")
        .flags(
            Flags::NOSCRIPT
                .or(Flags::LOADING)
                .or(Flags::STALE)
                .or(Flags::FAST)
                .or(Flags::NO_AUTH)
                .or(Flags::ALLOW_BUSY),
        )
        .acl(Acl::CONNECTION)
        .docs("[username] password", "O(1)", "Authenticates the connection."),
    CommandSpec::new(Id::Select, "select", 2, Group::Connection, "1.0.0")
        .flags(Flags::LOADING.or(Flags::STALE).or(Flags::FAST))
        .acl(Acl::CONNECTION)
        .docs("index", "O(1)", "Chooses the database of the connection."),
    CommandSpec::new(Id::Quit, "quit", -1, Group::Connection, "1.0.0")
        .flags(
            Flags::NOSCRIPT
                .or(Flags::LOADING)
                .or(Flags::STALE)
                .or(Flags::FAST)
                .or(Flags::NO_AUTH)
                .or(Flags::ALLOW_BUSY),
        )
        .acl(Acl::CONNECTION)
        .deprecated("7.2.0", "just closing the connection")
        .docs("", "O(1)", "Closes the connection."),
    CommandSpec::new(Id::Reset, "reset", 1, Group::Connection, "6.2.0")
        .flags(
            Flags::NOSCRIPT
                .or(Flags::LOADING)
                .or(Flags::STALE)
                .or(Flags::FAST)
                .or(Flags::NO_AUTH)
                .or(Flags::ALLOW_BUSY),
        )
        .acl(Acl::CONNECTION)
        .docs("", "O(1)", "Puts the connection back into its first state."),
    CommandSpec::new(Id::Client, "client", -2, Group::Connection, "2.4.0")
        .docs("", "Depends on the subcommand", "Commands about client connections.")
        .subcommands(CLIENT_SUBCOMMANDS),
];

const CLIENT_SUBCOMMANDS: &[CommandSpec] = &[
    CommandSpec::new(Id::ClientId, "client|id", 2, Group::Connection, "5.0.0")
        .flags(Flags::NOSCRIPT.or(Flags::LOADING).or(Flags::STALE))
        .acl(Acl::CONNECTION)
        .docs("", "O(1)", "Answers the id of the connection."),
    CommandSpec::new(Id::ClientSetName, "client|setname", 3, Group::Connection, "2.6.9")
        .flags(Flags::NOSCRIPT.or(Flags::LOADING).or(Flags::STALE))
        .acl(Acl::CONNECTION)
        .docs("connection-name", "O(1)", "Names the connection."),
    CommandSpec::new(Id::ClientGetName, "client|getname", 2, Group::Connection, "2.6.9")
        .flags(Flags::NOSCRIPT.or(Flags::LOADING).or(Flags::STALE))
        .acl(Acl::CONNECTION)
        .docs("", "O(1)", "Answers the name of the connection."),
    CommandSpec::new(Id::ClientSetInfo, "client|setinfo", 4, Group::Connection, "7.2.0")
        .flags(Flags::NOSCRIPT.or(Flags::LOADING).or(Flags::STALE))
        .acl(Acl::CONNECTION)
        .docs("<LIB-NAME libname | LIB-VER libver>", "O(1)", "Says which client library uses the connection."),
    CommandSpec::new(Id::ClientInfo, "client|info", 2, Group::Connection, "6.2.0")
        .flags(Flags::NOSCRIPT.or(Flags::LOADING).or(Flags::STALE))
        .acl(Acl::CONNECTION)
        .tips(&["nondeterministic_output"])
        .docs("", "O(1)", "Describes the connection."),
    CommandSpec::new(Id::ClientList, "client|list", -2, Group::Connection, "2.4.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::LOADING).or(Flags::STALE))
        .acl(Acl::CONNECTION)
        .tips(&["nondeterministic_output"])
        .docs("[TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] [ID client-id [client-id ...]]", "O(N) with the number of connections", "Lists the connections."),
    CommandSpec::new(Id::ClientKill, "client|kill", -3, Group::Connection, "2.4.0")
        .flags(Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::LOADING).or(Flags::STALE))
        .acl(Acl::CONNECTION)
        .docs("<ip:port | <[ID client-id] | [ADDR ip:port] | [LADDR ip:port] | [SKIPME <YES | NO>]> ...>", "O(N) with the number of connections", "Closes connections."),
    CommandSpec::new(Id::ClientHelp, "client|help", 2, Group::Connection, "5.0.0")
        .flags(Flags::LOADING.or(Flags::STALE))
        .acl(Acl::CONNECTION)
        .docs("", "O(1)", "Lists the subcommands."),
];
