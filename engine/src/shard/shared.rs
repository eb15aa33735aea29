//! What all shards of one engine share: the slot map, settings that CONFIG changes, counters that
//! INFO adds up, and the addresses that CLUSTER names. Nothing on the path of a command writes
//! anything here but its own shard's counters.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use crate::slot::SlotMap;
use crate::types::{DATABASE_COUNT, DbIndex, Fsync, ShardId};

/// What is shared.
#[derive(Debug)]
pub struct Shared {
    /// Who owns which slot.
    pub slots: SlotMap,
    /// What was configured and cannot be changed while running.
    pub identity: ServerIdentity,
    settings: RwLock<Settings>,
    stats: Vec<ShardStats>,
    /// The ports of the listeners, once they are bound.
    pub ports: OnceLock<Ports>,
    next_client_id: AtomicU64,
    load_progress: LoadProgress,
    persistence_info: RwLock<String>,
    /// How many shards have no room for their logs.
    out_of_space: AtomicU64,
    /// The most that keys, values and tables of all shards have occupied, as seen once a second.
    peak_memory_bytes: AtomicU64,
    /// Asks the machine what this process costs; nobody does in a simulation.
    pub usage: OnceLock<fn() -> ProcessUsage>,

    /// Keys past their time are not looked for.
    pub keeps_expired: AtomicBool,
    /// The engine is stopping: shards drain and end.
    pub stopping: AtomicBool,
    /// A shard has failed: the others end at once.
    pub failed: AtomicBool,
}

/// Who this server says it is.
#[derive(Clone, Debug)]
pub struct ServerIdentity {
    /// 40 hexadecimal digits, new for each start.
    pub run_id: String,
    /// 40 hexadecimal digits by which clusters clients know shard `n`: this with `n` added.
    pub node_base: String,
    /// `--node-name`.
    pub node_name: Option<String>,
    /// `--announce-host`.
    pub announce_host: Option<String>,
    /// The data directory, or none.
    pub data_dir: Option<String>,
    /// When replies may leave.
    pub fsync: Fsync,
    /// Whether there is a log.
    pub log: bool,
    /// When the engine started, in microseconds since the Unix epoch.
    pub started_at_micros: u64,
}

/// What CONFIG SET may change.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `requirepass`; empty is none.
    pub password: Vec<u8>,
    /// `maxclients`, of all shards.
    pub max_clients: u64,
    /// Close a client that was idle for longer, in seconds; 0 is never.
    pub timeout_s: u64,
}

impl Settings {
    /// Whether clients have to authenticate.
    pub fn requires_password(&self) -> bool {
        !self.password.is_empty()
    }
}

/// Where the engine listens.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    /// The common port.
    pub common: Option<SocketAddr>,
    /// The port of each shard.
    pub shards: Vec<SocketAddr>,
}

/// What the whole process costs, whoever else lives in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessUsage {
    /// CPU time in user mode since the process began.
    pub user: Duration,
    /// CPU time in the kernel since the process began.
    pub system: Duration,
    /// Memory that is resident.
    pub resident_bytes: u64,
}

/// The counters of one shard. Each is written by its shard alone.
#[derive(Debug, Default)]
pub struct ShardStats {
    /// Keys by database.
    pub keys: [AtomicU64; DATABASE_COUNT as usize],
    /// Keys with an expiry, by database.
    pub expiring: [AtomicU64; DATABASE_COUNT as usize],
    /// Bytes of keys, values and tables.
    pub memory_bytes: AtomicU64,
    /// Commands received from clients; what a transaction has queued counts when it runs.
    pub commands: AtomicU64,
    /// Of those, how many a second in the last one or two.
    pub commands_per_second: AtomicU64,
    /// Look-ups of reading commands that found the key.
    pub keyspace_hits: AtomicU64,
    /// Look-ups of reading commands that did not.
    pub keyspace_misses: AtomicU64,
    /// Of those, how many another shard had to execute.
    pub commands_forwarded: AtomicU64,
    /// Keys removed since they were past their expiry.
    pub expired_keys: AtomicU64,
    /// Open connections.
    pub connections: AtomicU64,
    /// Connections since the start.
    pub connections_received: AtomicU64,
    /// Of those, how many were turned away: too many were open.
    pub connections_rejected: AtomicU64,
    /// The end of the log.
    pub log_tail: AtomicU64,
    /// How much of it is durable.
    pub log_durable: AtomicU64,
    /// Bytes of segment files that are kept.
    pub log_bytes: AtomicU64,
    /// Transactions on several shards that this shard coordinated.
    pub transactions: AtomicU64,
    /// The highest LSN given or seen.
    pub lsn: AtomicU64,
    /// There is no room for its log.
    pub out_of_space: AtomicBool,
    /// The shard is stopping and has answered everybody.
    pub drained: AtomicBool,
}

impl ShardStats {
    /// Counts a command.
    pub fn command(&self) {
        bump(&self.commands, 1);
    }

    /// Counts the commands of a transaction.
    pub fn queued_commands(&self, count: usize) {
        bump(&self.commands, count as u64);
    }

    /// Counts a command that went to another shard.
    pub fn forwarded(&self) {
        bump(&self.commands_forwarded, 1);
    }

    /// Counts a transaction that this shard coordinates.
    pub fn transaction(&self) {
        bump(&self.transactions, 1);
    }

    /// Counts a new connection.
    pub fn accepted(&self) {
        bump(&self.connections, 1);
        bump(&self.connections_received, 1);
    }

    /// Counts the end of a connection.
    pub fn disconnected(&self) {
        bump(&self.connections, u64::MAX);
    }

    /// All keys.
    pub fn total_keys(&self) -> u64 {
        self.keys.iter().map(|keys| keys.load(Ordering::Relaxed)).sum()
    }
}

/// Adds to a counter that only this thread writes: no locked instruction is needed.
pub fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// How far loading is.
#[derive(Debug, Default)]
struct LoadProgress {
    entries: AtomicU64,
    /// Shards that are done.
    shards: AtomicU64,
}

impl Shared {
    /// The shared state of an engine that begins.
    pub fn new(slots: SlotMap, identity: ServerIdentity, settings: Settings) -> Self {
        Self {
            slots,
            identity,
            settings: RwLock::new(settings),
            stats: (0..slots.shards()).map(|_| ShardStats::default()).collect(),
            ports: OnceLock::new(),
            next_client_id: AtomicU64::new(1),
            load_progress: LoadProgress::default(),
            persistence_info: RwLock::default(),
            out_of_space: AtomicU64::new(0),
            peak_memory_bytes: AtomicU64::new(0),
            usage: OnceLock::new(),

            keeps_expired: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }

    /// The settings as they are.
    pub fn settings(&self) -> RwLockReadGuard<'_, Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings, to change them.
    pub fn settings_mut(&self) -> RwLockWriteGuard<'_, Settings> {
        self.settings.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counters of a shard.
    pub fn stats(&self, shard: ShardId) -> &ShardStats {
        &self.stats[shard.0 as usize]
    }

    /// The counters of all shards.
    pub fn all_stats(&self) -> &[ShardStats] {
        &self.stats
    }

    /// The sum of one counter over all shards.
    pub fn sum(&self, counter: impl Fn(&ShardStats) -> &AtomicU64) -> u64 {
        let value = |stats| counter(stats).load(Ordering::Relaxed);
        self.stats.iter().map(value).fold(0, u64::wrapping_add)
    }

    /// Bytes of keys, values and tables now, and the most that was ever seen.
    pub fn memory_and_peak_bytes(&self) -> (u64, u64) {
        let now_bytes = self.sum(|stats| &stats.memory_bytes);
        let before_bytes = self.peak_memory_bytes.fetch_max(now_bytes, Ordering::Relaxed);
        (now_bytes, now_bytes.max(before_bytes))
    }

    /// What the process costs; `None` where nobody measures it.
    pub fn usage(&self) -> Option<ProcessUsage> {
        self.usage.get().map(|measure| measure())
    }

    /// Notes whether a stopping shard has nothing left to say, and answers whether none has: until
    /// then each may still be asked by the others.
    pub fn all_drained(&self, shard: ShardId, drained: bool) -> bool {
        self.stats(shard).drained.store(drained, Ordering::Release);
        drained && self.stats.iter().all(|stats| stats.drained.load(Ordering::Acquire))
    }

    /// Notes whether there is room for a shard's log.
    pub fn set_out_of_space(&self, shard: ShardId, out_of_space: bool) {
        let known = &self.stats(shard).out_of_space;
        if known.load(Ordering::Relaxed) != out_of_space {
            known.store(out_of_space, Ordering::Relaxed);
            let change = if out_of_space { 1 } else { u64::MAX };
            self.out_of_space.fetch_add(change, Ordering::Relaxed);
        }
    }

    /// Whether any shard's log has no room.
    pub fn is_out_of_space(&self) -> bool {
        self.out_of_space.load(Ordering::Relaxed) > 0
    }

    /// A number for CLIENT ID.
    pub fn next_client_id(&self) -> u64 {
        self.next_client_id.fetch_add(1, Ordering::Relaxed)
    }

    /// A shard, chosen by its share of a database's keys.
    pub fn shard_by_keys(&self, db: DbIndex, random: u64) -> ShardId {
        let keys = |stats: &ShardStats| stats.keys[usize::from(db.0)].load(Ordering::Relaxed);
        let total: u64 = self.stats.iter().map(keys).sum();
        if total == 0 {
            return ShardId(0);
        }
        let mut rest = random % total;
        for (shard, stats) in self.stats.iter().enumerate() {
            let keys = keys(stats);
            if rest < keys {
                return ShardId(shard as u16);
            }
            rest -= keys;
        }
        ShardId(0)
    }

    /// A shard has everything that it will load.
    pub fn loaded_shard(&self) {
        self.load_progress.shards.fetch_add(1, Ordering::Release);
    }

    /// Whether every shard has.
    pub fn all_loaded(&self) -> bool {
        self.load_progress.shards.load(Ordering::Acquire) >= u64::from(self.slots.shards())
    }

    /// Notes how many entries and records were loaded so far.
    pub fn loaded(&self, entries: u64) {
        self.load_progress.entries.fetch_add(entries, Ordering::Relaxed);
    }

    /// How many entries and records were loaded so far.
    pub fn loaded_entries(&self) -> u64 {
        self.load_progress.entries.load(Ordering::Relaxed)
    }

    /// Leaves what the control plane knows of snapshots and uploads, as lines of `name:value`, for
    /// `INFO persistence`.
    pub fn set_persistence_info(&self, lines: String) {
        *self.persistence_info.write().unwrap_or_else(PoisonError::into_inner) = lines;
    }

    /// What was left by [`Self::set_persistence_info`].
    pub fn persistence_info(&self) -> String {
        self.persistence_info.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The reply to commands while the keyspace is loaded.
    pub fn loading_error(&self) -> String {
        format!(
            "LOADING Cutwater is loading the dataset in memory ({} entries so far)",
            self.loaded_entries()
        )
    }

    /// The reply to writes while the log has no room.
    pub fn out_of_space_error(&self) -> String {
        let dir = self.identity.data_dir.as_deref().unwrap_or("the data directory");
        format!(
            "MISCONF The log has no room left under {dir}: free some space, writes then resume by \
             themselves"
        )
    }
}
