//! The parts of a row of the table: flags, categories, key positions, and the row itself.

use super::CommandId;

/// Defines a set of bits of which each has a name, printed in the order of declaration.
macro_rules! bitset {
    ($(#[$doc:meta])* $name:ident($prefix:literal) {
        $($(#[$bit_doc:meta])* $bit:ident = $shift:literal, $text:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name(u32);

        impl $name {
            /// The empty set.
            pub const NONE: Self = Self(0);
            $($(#[$bit_doc])* pub const $bit: Self = Self(1 << $shift);)*
            const NAMES: &[(Self, &str)] = &[$((Self::$bit, concat!($prefix, $text)),)*];

            /// What is in one or the other.
            pub const fn or(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// Whether all of `other` is in this set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// How many are in the set.
            pub const fn len(self) -> usize {
                self.0.count_ones() as usize
            }

            /// Whether the set is empty.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// The names as COMMAND prints them.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                Self::NAMES.iter().filter(move |(bit, _)| self.contains(*bit)).map(|(_, text)| *text)
            }
        }
    };
}

bitset! {
    /// What is checked before a command runs, named as COMMAND INFO names it.
    CommandFlags("") {
        /// May change a key.
        WRITE = 0, "write";
        /// Reads keys and changes none.
        READONLY = 1, "readonly";
        /// Refused when memory is over its limit.
        DENYOOM = 2, "denyoom";
        /// Manages the server.
        ADMIN = 3, "admin";
        /// Not for scripts.
        NOSCRIPT = 4, "noscript";
        /// Runs while the data is being loaded.
        LOADING = 5, "loading";
        /// Runs on a stale replica.
        STALE = 6, "stale";
        /// Kept out of the slow log.
        SKIP_SLOWLOG = 7, "skip_slowlog";
        /// Takes constant or logarithmic time.
        FAST = 8, "fast";
        /// Runs before the client has authenticated.
        NO_AUTH = 9, "no_auth";
        /// Runs while a script blocks the server.
        ALLOW_BUSY = 10, "allow_busy";
        /// Refused while data is loaded in the background.
        NO_ASYNC_LOADING = 11, "no_async_loading";
        /// Refused inside MULTI.
        NO_MULTI = 12, "no_multi";
        /// Its keys cannot be told from their positions alone.
        MOVABLEKEYS = 13, "movablekeys";
    }
}

bitset! {
    /// The ACL categories of a command, named as COMMAND INFO names them.
    AclCategories("@") {
        /// Works on keys of any type.
        KEYSPACE = 0, "keyspace";
        /// Reads values or what is said about them.
        READ = 1, "read";
        /// Changes keys.
        WRITE = 2, "write";
        /// Works on strings.
        STRING = 3, "string";
        /// Manages the server.
        ADMIN = 4, "admin";
        /// Takes constant or logarithmic time.
        FAST = 5, "fast";
        /// Is not fast.
        SLOW = 6, "slow";
        /// Can do harm, or delay others.
        DANGEROUS = 7, "dangerous";
        /// Concerns the connection.
        CONNECTION = 8, "connection";
        /// Concerns transactions.
        TRANSACTION = 9, "transaction";
    }
}

/// The functional group of a command in the documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The connection itself.
    Connection,
    /// Keys of any type.
    Generic,
    /// Strings.
    String,
    /// The server.
    Server,
    /// MULTI and its companions.
    Transactions,
    /// The cluster protocol.
    Cluster,
}

impl Group {
    /// The name that COMMAND DOCS gives.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Generic => "generic",
            Self::String => "string",
            Self::Server => "server",
            Self::Transactions => "transactions",
            Self::Cluster => "cluster",
        }
    }
}

/// Where the keys of a command stand, as the three integers of COMMAND INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key's argument; 0 if there are no keys.
    pub first: i32,
    /// The last key's argument; negative counts from the end, -1 being the last argument.
    pub last: i32,
    /// From one key to the next.
    pub step: i32,
}

impl KeyRange {
    /// No keys.
    pub const NONE: Self = Self { first: 0, last: 0, step: 0 };
}

/// One key specification of COMMAND INFO: a run of keys of which the same is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// The argument of the first key.
    pub index: i32,
    /// The last key: relative to the first, or negative from the end.
    pub last: i32,
    /// From one key to the next.
    pub step: i32,
    /// `RO`, `RW`, `OW` or `RM` first, then what is done with the value.
    pub flags: &'static [&'static str],
    /// A remark, where the flags depend on the arguments.
    pub notes: Option<&'static str>,
}

impl KeySpec {
    /// A run of keys without a remark.
    pub(super) const fn new(
        index: i32,
        last: i32,
        step: i32,
        flags: &'static [&'static str],
    ) -> Self {
        Self { index, last, step, flags, notes: None }
    }

    pub(super) const fn notes(self, notes: &'static str) -> Self {
        Self { notes: Some(notes), ..self }
    }

    /// Whether the command may change these keys.
    pub fn is_write(&self) -> bool {
        self.flags.first() != Some(&"RO")
    }
}

/// One command or subcommand.
#[derive(Clone, Copy, Debug)]
pub struct CommandSpec {
    /// What is run.
    pub id: CommandId,
    /// The name in lowercase; of a subcommand, without its container.
    pub name: &'static str,
    /// As COMMAND and error texts name it: `get`, `config|get`.
    pub full_name: &'static str,
    /// How many arguments with the name (and the container's): exactly so many, or, if negative,
    /// at least.
    pub arity: i32,
    /// What is checked before it runs.
    pub flags: CommandFlags,
    /// Its ACL categories.
    pub acl_categories: AclCategories,
    /// Where its keys stand.
    pub keys: KeyRange,
    /// What is done with its keys.
    pub key_specs: &'static [KeySpec],
    /// Its tips for clients and proxies.
    pub tips: &'static [&'static str],
    /// Its group in the documentation.
    pub group: Group,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// The version that brought it: of Redis, or of Cutwater for its own.
    pub since: &'static str,
    /// How long it takes.
    pub complexity: &'static str,
    /// Its arguments, as one writes them: `key value [NX | XX]`.
    pub syntax: &'static str,
    /// Since when and by what it is replaced, if it is deprecated.
    pub deprecated: Option<(&'static str, &'static str)>,
    /// Its subcommands, if it is a container.
    pub subcommands: &'static [CommandSpec],
}

impl CommandSpec {
    /// Whether a request may have so many arguments, the name included.
    pub fn check_arity(&self, args_len: usize) -> bool {
        let wanted = self.arity.unsigned_abs() as usize;
        if self.arity >= 0 { args_len == wanted } else { args_len >= wanted }
    }

    /// The indexes of the arguments that are keys, in a request of so many arguments. None beyond
    /// the last argument, whatever the table says.
    pub fn keys(&self, args_len: usize) -> impl Iterator<Item = usize> + use<> {
        let KeyRange { first, last, step } = self.keys;
        let from_end = if last < 0 { args_len as i64 } else { 0 };
        let end = (from_end + i64::from(last) + 1).clamp(0, args_len as i64) as usize;
        let end = if first > 0 { end } else { 0 };
        (first.max(0) as usize..end).step_by(step.max(1) as usize)
    }

    /// The subcommand of this name, in any case.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static CommandSpec> {
        self.subcommands.iter().find(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Whether it can run only through a subcommand.
    pub fn is_container(&self) -> bool {
        !self.subcommands.is_empty()
    }
}

impl PartialEq for CommandSpec {
    /// An id belongs to one row.
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for CommandSpec {}
