//! The rows of the table, a file a group, and the ids that they carry.

mod cluster;
mod connection;
mod keys;
mod server;
mod strings;
mod transactions;

use super::CommandSpec;

/// All rows, in the order of [`CommandId`].
const GROUPS: [&[CommandSpec]; 6] =
    [connection::ROWS, transactions::ROWS, strings::ROWS, keys::ROWS, server::ROWS, cluster::ROWS];

/// How many commands there are, subcommands not counted.
const ROW_COUNT: usize = {
    let (mut count, mut group) = (0, 0);
    while group < GROUPS.len() {
        count += GROUPS[group].len();
        group += 1;
    }
    count
};

/// Every command; subcommands are in the rows of their containers. Indexed by [`CommandId`].
pub static TABLE: &[CommandSpec] = &{
    let mut table = [GROUPS[0][0]; ROW_COUNT];
    let (mut row, mut group) = (0, 0);
    while group < GROUPS.len() {
        let mut at = 0;
        while at < GROUPS[group].len() {
            table[row] = GROUPS[group][at];
            assert!(table[row].id as usize == row, "ids are declared in the order of the rows");
            row += 1;
            at += 1;
        }
        group += 1;
    }
    table
};

/// What is run: a command, or a subcommand of one. Not stored and not sent, so the numbers may
/// change from one version to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum CommandId {
    /// `PING`
    Ping,
    /// `ECHO`
    Echo,
    /// `HELLO`
    Hello,
    /// `AUTH`
    Auth,
    /// `SELECT`
    Select,
    /// `QUIT`
    Quit,
    /// `RESET`
    Reset,
    /// `CLIENT`
    Client,
    /// `MULTI`
    Multi,
    /// `EXEC`
    Exec,
    /// `DISCARD`
    Discard,
    /// `WATCH`
    Watch,
    /// `UNWATCH`
    Unwatch,
    /// `SET`
    Set,
    /// `GET`
    Get,
    /// `GETDEL`
    GetDel,
    /// `SETNX`
    SetNx,
    /// `APPEND`
    Append,
    /// `STRLEN`
    StrLen,
    /// `SETRANGE`
    SetRange,
    /// `GETRANGE`
    GetRange,
    /// `INCR`
    Incr,
    /// `DECR`
    Decr,
    /// `INCRBY`
    IncrBy,
    /// `DECRBY`
    DecrBy,
    /// `INCRBYFLOAT`
    IncrByFloat,
    /// `MGET`
    MGet,
    /// `MSET`
    MSet,
    /// `MSETNX`
    MSetNx,
    /// `DEL`
    Del,
    /// `UNLINK`
    Unlink,
    /// `EXISTS`
    Exists,
    /// `TYPE`
    Type,
    /// `EXPIRE`
    Expire,
    /// `PEXPIRE`
    PExpire,
    /// `EXPIREAT`
    ExpireAt,
    /// `PEXPIREAT`
    PExpireAt,
    /// `TTL`
    Ttl,
    /// `PTTL`
    PTtl,
    /// `PERSIST`
    Persist,
    /// `RENAME`
    Rename,
    /// `COPY`
    Copy,
    /// `SCAN`
    Scan,
    /// `KEYS`
    Keys,
    /// `RANDOMKEY`
    RandomKey,
    /// `DBSIZE`
    DbSize,
    /// `FLUSHALL`
    FlushAll,
    /// `FLUSHDB`
    FlushDb,
    /// `INFO`
    Info,
    /// `CONFIG`
    Config,
    /// `COMMAND`
    Command,
    /// `TIME`
    Time,
    /// `SHUTDOWN`
    Shutdown,
    /// `BGSAVE`
    BgSave,
    /// `SAVE`
    Save,
    /// `LASTSAVE`
    LastSave,
    /// `SNAPSHOT`
    Snapshot,
    /// `CLUSTER`
    Cluster,
    /// `CLIENT ID`
    ClientId,
    /// `CLIENT SETNAME`
    ClientSetName,
    /// `CLIENT GETNAME`
    ClientGetName,
    /// `CLIENT SETINFO`
    ClientSetInfo,
    /// `CLIENT INFO`
    ClientInfo,
    /// `CLIENT LIST`
    ClientList,
    /// `CLIENT KILL`
    ClientKill,
    /// `CLIENT HELP`
    ClientHelp,
    /// `CONFIG GET`
    ConfigGet,
    /// `CONFIG SET`
    ConfigSet,
    /// `CONFIG HELP`
    ConfigHelp,
    /// `COMMAND COUNT`
    CommandCount,
    /// `COMMAND DOCS`
    CommandDocs,
    /// `COMMAND INFO`
    CommandInfo,
    /// `COMMAND LIST`
    CommandList,
    /// `COMMAND GETKEYS`
    CommandGetKeys,
    /// `COMMAND HELP`
    CommandHelp,
    /// `SNAPSHOT CREATE`
    SnapshotCreate,
    /// `SNAPSHOT LIST`
    SnapshotList,
    /// `SNAPSHOT SHOW`
    SnapshotShow,
    /// `SNAPSHOT VERIFY`
    SnapshotVerify,
    /// `SNAPSHOT DELETE`
    SnapshotDelete,
    /// `SNAPSHOT CANCEL`
    SnapshotCancel,
    /// `SNAPSHOT REKEY`
    SnapshotRekey,
    /// `SNAPSHOT PIN`
    SnapshotPin,
    /// `SNAPSHOT UNPIN`
    SnapshotUnpin,
    /// `SNAPSHOT PRUNE`
    SnapshotPrune,
    /// `SNAPSHOT STATUS`
    SnapshotStatus,
    /// `SNAPSHOT HELP`
    SnapshotHelp,
    /// `CLUSTER SLOTS`
    ClusterSlots,
    /// `CLUSTER SHARDS`
    ClusterShards,
    /// `CLUSTER NODES`
    ClusterNodes,
    /// `CLUSTER KEYSLOT`
    ClusterKeySlot,
    /// `CLUSTER INFO`
    ClusterInfo,
    /// `CLUSTER MYID`
    ClusterMyId,
    /// `CLUSTER COUNTKEYSINSLOT`
    ClusterCountKeysInSlot,
    /// `CLUSTER GETKEYSINSLOT`
    ClusterGetKeysInSlot,
    /// `CLUSTER HELP`
    ClusterHelp,
}

impl CommandId {
    /// How many ids there are, subcommands included: the length of a table by id.
    pub const COUNT: usize = CommandId::ClusterHelp as usize + 1;
}
