//! INFO: counters of all shards, added up, in Redis' sections and names; and TIME.
//!
//! Only what is really measured is shown. What the core does not know (snapshots and uploads) the
//! control plane leaves as text in [`super::super::shared::Shared::set_persistence_info`].

use std::fmt::Display;
use std::sync::atomic::Ordering::Relaxed;

use crate::resp::{Args, Reply};
use crate::types::DATABASE_COUNT;

use super::super::core::ShardCore;
use super::super::shared::ShardStats;
use super::{CUTWATER_VERSION, REDIS_VERSION, config};

/// Writes the lines of a section.
type Section = fn(&ShardCore, &mut Lines);

/// The sections, in their order. All belong to `default`.
const SECTIONS: [(&str, Section); 9] = [
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", replication),
    ("CPU", cpu),
    ("Cluster", cluster),
    ("Keyspace", keyspace),
];

/// TIME: seconds, and the microseconds of the second.
pub(super) fn time(now_micros: u64, reply: &mut Reply<'_>) {
    reply.array(2);
    reply.bulk_integer((now_micros / 1_000_000) as i64);
    reply.bulk_integer((now_micros % 1_000_000) as i64);
}

impl ShardCore {
    /// INFO \[section ...\]; sections that do not exist are left out.
    pub(super) fn info(&self, args: Args<'_>, reply: &mut Reply<'_>) {
        let asked = args.skip(1);
        let is_asked = |name: &str| {
            asked.is_empty()
                || asked.iter().any(|section| {
                    ["default", "all", "everything", name]
                        .iter()
                        .any(|known| section.eq_ignore_ascii_case(known.as_bytes()))
                })
        };
        let mut lines = Lines::default();
        for (name, write) in SECTIONS {
            if is_asked(name) {
                lines.section(name);
                write(self, &mut lines);
            }
        }
        reply.verbatim(*b"txt", &lines.text);
    }

    fn uptime_s(&self) -> u64 {
        let started_at_micros = self.shared.identity.started_at_micros;
        self.clock.now_micros().saturating_sub(started_at_micros) / 1_000_000
    }
}

/// The text of INFO as it grows.
#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn section(&mut self, name: &str) {
        if !self.text.is_empty() {
            self.text.push_str("\r\n");
        }
        self.text.push_str(&format!("# {name}\r\n"));
    }

    fn add(&mut self, name: &str, value: impl Display) {
        self.text.push_str(&format!("{name}:{value}\r\n"));
    }
}

fn server(core: &ShardCore, lines: &mut Lines) {
    let shared = &core.shared;
    let uptime_s = core.uptime_s();
    lines.add("redis_version", REDIS_VERSION);
    lines.add("cutwater_version", CUTWATER_VERSION);
    lines.add("redis_mode", "cluster");
    lines.add("os", format_args!("{} {}", std::env::consts::OS, std::env::consts::ARCH));
    lines.add("arch_bits", usize::BITS);
    lines.add("multiplexing_api", "io_uring");
    lines.add("process_id", std::process::id());
    lines.add("run_id", &shared.identity.run_id);
    let common = shared.ports.get().and_then(|ports| ports.common);
    lines.add("tcp_port", common.map_or(0, |address| address.port()));
    lines.add("server_time_usec", core.clock.now_micros());
    lines.add("uptime_in_seconds", uptime_s);
    lines.add("uptime_in_days", uptime_s / 86_400);
    lines.add("shards", shared.slots.shards());
    lines.add("answering_shard", core.id);
    if let Some(name) = &shared.identity.node_name {
        lines.add("node_name", name);
    }
    if let Some(dir) = &shared.identity.data_dir {
        lines.add("data_dir", dir);
    }
}

fn clients(core: &ShardCore, lines: &mut Lines) {
    lines.add("connected_clients", core.shared.sum(|stats| &stats.connections));
    lines.add("maxclients", core.shared.settings().max_clients);
    lines.add("blocked_clients", 0);
}

fn memory(core: &ShardCore, lines: &mut Lines) {
    let (used, peak) = core.shared.memory_and_peak_bytes();
    lines.add("used_memory", used);
    lines.add("used_memory_human", human(used));
    if let Some(usage) = core.shared.usage() {
        lines.add("used_memory_rss", usage.resident_bytes);
        lines.add("used_memory_rss_human", human(usage.resident_bytes));
    }
    lines.add("used_memory_peak", peak);
    lines.add("used_memory_peak_human", human(peak));
    lines.add("used_memory_dataset", used);
    lines.add("maxmemory", 0);
    lines.add("maxmemory_human", human(0));
    lines.add("maxmemory_policy", "noeviction");
    for (shard, stats) in core.shared.all_stats().iter().enumerate() {
        lines.add(&format!("used_memory_shard{shard}"), load(&stats.memory_bytes));
    }
}

fn persistence(core: &ShardCore, lines: &mut Lines) {
    let shared = &core.shared;
    lines.add("loading", u8::from(core.is_loading()));
    lines.add("async_loading", 0);
    if core.is_loading() {
        lines.add("loading_loaded_entries", shared.loaded_entries());
    }
    lines.add("aof_enabled", u8::from(shared.identity.log));
    lines.add("aof_rewrite_in_progress", 0);
    let status = if core.journal.is_out_of_space() { "err" } else { "ok" };
    lines.add("aof_last_write_status", status);
    if shared.identity.log {
        lines.add("log_fsync", config::fsync_name(shared.identity.fsync));
        lines.add("log_bytes", shared.sum(|stats| &stats.log_bytes));
        for (shard, stats) in shared.all_stats().iter().enumerate() {
            let ShardStats { log_tail, log_durable, log_bytes, lsn, .. } = stats;
            lines.add(
                &format!("log_shard{shard}"),
                format_args!(
                    "tail={},durable={},bytes={},lsn={}",
                    load(log_tail),
                    load(log_durable),
                    load(log_bytes),
                    load(lsn)
                ),
            );
        }
    }
    for line in shared.persistence_info().lines() {
        lines.text.push_str(line);
        lines.text.push_str("\r\n");
    }
}

fn stats(core: &ShardCore, lines: &mut Lines) {
    let shared = &core.shared;
    lines.add("total_connections_received", shared.sum(|stats| &stats.connections_received));
    lines.add("total_commands_processed", shared.sum(|stats| &stats.commands));
    let per_second = shared.sum(|stats| &stats.commands_per_second);
    lines.add("instantaneous_ops_per_sec", per_second);
    lines.add("rejected_connections", shared.sum(|stats| &stats.connections_rejected));
    lines.add("expired_keys", shared.sum(|stats| &stats.expired_keys));
    lines.add("evicted_keys", 0);
    lines.add("keyspace_hits", shared.sum(|stats| &stats.keyspace_hits));
    lines.add("keyspace_misses", shared.sum(|stats| &stats.keyspace_misses));
    lines.add("commands_forwarded", shared.sum(|stats| &stats.commands_forwarded));
    lines.add("transactions", shared.sum(|stats| &stats.transactions));
}

fn replication(_: &ShardCore, lines: &mut Lines) {
    lines.add("role", "master");
    lines.add("connected_slaves", 0);
}

/// Of the whole process: a host that embeds the engine is in it.
fn cpu(core: &ShardCore, lines: &mut Lines) {
    let Some(usage) = core.shared.usage() else { return };
    lines.add("used_cpu_sys", format_args!("{:.6}", usage.system.as_secs_f64()));
    lines.add("used_cpu_user", format_args!("{:.6}", usage.user.as_secs_f64()));
}

fn cluster(_: &ShardCore, lines: &mut Lines) {
    lines.add("cluster_enabled", 1);
}

fn keyspace(core: &ShardCore, lines: &mut Lines) {
    let shared = &core.shared;
    for db in 0..usize::from(DATABASE_COUNT) {
        let keys = shared.sum(|stats| &stats.keys[db]);
        if keys > 0 {
            let expires = shared.sum(|stats| &stats.expiring[db]);
            lines.add(&format!("db{db}"), format_args!("keys={keys},expires={expires},avg_ttl=0"));
        }
    }
}

fn load(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(Relaxed)
}

/// Bytes as Redis' `bytesToHuman` writes them.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["K", "M", "G", "T", "P"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let power = (bytes.ilog2() / 10).min(UNITS.len() as u32);
    format!("{:.2}{}", bytes as f64 / 1024f64.powi(power as i32), UNITS[power as usize - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_people() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.00K"),
            (1536, "1.50K"),
            (1 << 20, "1.00M"),
            (5 << 30, "5.00G"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
