//! What a monitoring system reads: counters of the shards, and where snapshots, uploads and the
//! archive stand, as Prometheus text over HTTP.
//!
//! Off unless `--metrics-port` is given. It has no password, so with `--protected-mode yes` it
//! listens on loopback only, whatever `--bind` says. Nothing here waits for a store: a scrape is
//! answered from memory, also while the remote store is frozen.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cutwater_engine::shard::shared::Shared;
use cutwater_engine::types::DATABASE_COUNT;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::coordinator::{Handle, RemoteStatus, Status};
use crate::status::lag_us;

/// Scrapes that are answered at once; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 8;
/// The longest request, in bytes: a path and some headers.
const REQUEST_BYTES: usize = 8 << 10;
/// How long one scrape may take.
const SCRAPE_LIMIT: Duration = Duration::from_secs(5);
/// The path of the metrics.
const PATH: &str = "/metrics";
/// The version of the text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where metrics are served, if they are.
pub fn address(config: &Config) -> Option<SocketAddr> {
    let ip = match (config.is_exposed() && config.protected_mode, config.bind) {
        (false, bind) => bind,
        (true, IpAddr::V4(_)) => Ipv4Addr::LOCALHOST.into(),
        (true, IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
    };
    config.metrics_port.map(|port| SocketAddr::new(ip, port))
}

/// Answers scrapes until the task is aborted.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, coordinator: Handle) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Too many open files, say: no reason to spin.
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(SCRAPE_LIMIT).await;
                continue;
            }
        };
        let (shared, coordinator) = (Arc::clone(&shared), coordinator.clone());
        tokio::spawn(async move {
            let answered = answer(stream, &shared, &coordinator);
            let _ = tokio::time::timeout(SCRAPE_LIMIT, answered).await;
            drop(permit);
        });
    }
}

async fn answer(mut stream: TcpStream, shared: &Shared, coordinator: &Handle) -> io::Result<()> {
    let Some(head) = read_head(&mut stream).await? else { return Ok(()) };
    let (status, content_type, body) = match route(&head) {
        Route::Metrics => match coordinator.status().await {
            Ok(status) => ("200 OK", CONTENT_TYPE, render(shared, &status)),
            Err(error) => ("503 Service Unavailable", "text/plain", format!("{error}\n")),
        },
        Route::Elsewhere => ("404 Not Found", "text/plain", format!("see {PATH}\n")),
        Route::Method => ("405 Method Not Allowed", "text/plain", "only GET\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// The request up to its empty line; `None` if it ends before, or is too long.
async fn read_head(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while head.len() <= REQUEST_BYTES {
        let length = stream.read(&mut piece).await?;
        if length == 0 {
            return Ok(None);
        }
        head.extend_from_slice(&piece[..length]);
        if head.windows(4).any(|end| end == b"\r\n\r\n") {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Metrics,
    Elsewhere,
    Method,
}

fn route(head: &[u8]) -> Route {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    if words.next() != Some(b"GET") {
        return Route::Method;
    }
    let target = words.next().unwrap_or_default();
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    if path == PATH.as_bytes() { Route::Metrics } else { Route::Elsewhere }
}

/// All metrics.
pub fn render(shared: &Shared, status: &Status) -> String {
    let mut page = Page::default();
    shards(&mut page, shared, status.now_us);
    snapshots(&mut page, status);
    if let Some(remote) = &status.remote {
        uploads(&mut page, remote);
    }
    archive(&mut page, status);
    page.text
}

/// The text as it grows.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, help: &str) {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let _ = write!(self.text, "# HELP cutwater_{name} {help}\n# TYPE cutwater_{name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.text, "cutwater_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, help: &str, value: u64) {
        self.real(name, help, value as f64);
    }

    fn real(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, help);
        self.sample(name, "", value);
    }

    fn flag(&mut self, name: &str, help: &str, is_set: bool) {
        self.one(name, help, is_set.into());
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn shards(page: &mut Page, shared: &Shared, now_us: u64) {
    page.family("info", "What serves.");
    page.sample("info", &format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0);
    let up_us = now_us.saturating_sub(shared.identity.started_at_micros);
    page.real("uptime_seconds", "Since the start.", seconds(up_us));
    page.one("shards", "Shards.", shared.slots.shards().into());
    let totals = [
        ("commands_total", "Commands.", shared.sum(|stats| &stats.commands)),
        (
            "commands_forwarded_total",
            "Commands that another shard had to execute.",
            shared.sum(|stats| &stats.commands_forwarded),
        ),
        (
            "transactions_total",
            "Transactions on several shards.",
            shared.sum(|stats| &stats.transactions),
        ),
        ("connections", "Open connections.", shared.sum(|stats| &stats.connections)),
        (
            "connections_received_total",
            "Connections since the start.",
            shared.sum(|stats| &stats.connections_received),
        ),
        (
            "connections_rejected_total",
            "Connections that were turned away.",
            shared.sum(|stats| &stats.connections_rejected),
        ),
        ("expired_keys_total", "Keys that expired.", shared.sum(|stats| &stats.expired_keys)),
        ("keyspace_hits_total", "Reads of keys.", shared.sum(|stats| &stats.keyspace_hits)),
        (
            "keyspace_misses_total",
            "Reads of keys that are not there.",
            shared.sum(|stats| &stats.keyspace_misses),
        ),
    ];
    for (name, help, value) in totals {
        page.one(name, help, value);
    }
    page.family("keys", "Keys by database.");
    for db in 0..usize::from(DATABASE_COUNT) {
        let keys = shared.sum(|stats| &stats.keys[db]);
        if keys > 0 || db == 0 {
            page.sample("keys", &format!("{{db=\"{db}\"}}"), keys as f64);
        }
    }
    let (memory_bytes, peak_bytes) = shared.memory_and_peak_bytes();
    page.one("memory_bytes", "Keys, values and tables.", memory_bytes);
    page.one("memory_peak_bytes", "The most of it that was seen.", peak_bytes);
    if let Some(usage) = shared.usage() {
        page.one("resident_memory_bytes", "Memory of the process.", usage.resident_bytes);
        page.family("cpu_seconds_total", "CPU time of the process.");
        for (mode, time) in [("user", usage.user), ("system", usage.system)] {
            page.sample("cpu_seconds_total", &format!("{{mode=\"{mode}\"}}"), time.as_secs_f64());
        }
    }
    log(page, shared);
}

fn log(page: &mut Page, shared: &Shared) {
    if !shared.identity.log {
        return;
    }
    page.flag("log_out_of_space", "Whether writes wait for room.", shared.is_out_of_space());
    let families = [
        ("log_bytes", "Bytes of log that are kept."),
        ("log_tail_bytes", "The end of the log, as a position."),
        ("log_durable_bytes", "Up to where the log is durable, as a position."),
    ];
    for (at, (name, help)) in families.into_iter().enumerate() {
        page.family(name, help);
        for (shard, stats) in shared.all_stats().iter().enumerate() {
            let counter = [&stats.log_bytes, &stats.log_tail, &stats.log_durable][at];
            let value = counter.load(Ordering::Relaxed) as f64;
            page.sample(name, &format!("{{shard=\"{shard}\"}}"), value);
        }
    }
}

fn snapshots(page: &mut Page, status: &Status) {
    let totals = [
        ("snapshots_published_total", "Snapshots that were published.", status.published),
        ("snapshots_failed_total", "Snapshots that failed.", status.failed),
        ("snapshots_cancelled_total", "Snapshots that were cancelled.", status.cancelled),
    ];
    for (name, help, value) in totals {
        page.one(name, help, value);
    }
    page.flag(
        "snapshot_last_failed",
        "Whether the last snapshot failed.",
        status.last_error.is_some(),
    );
    if let Some(last) = status.last {
        let age_us = status.now_us.saturating_sub(status.last_created_at_us);
        page.one("snapshot_last_id", "The newest snapshot.", last.0);
        page.one("snapshot_last_end_lsn", "Where it ends.", status.last_end_lsn.0);
        page.one("snapshot_last_bytes", "Its objects.", status.last_data_bytes);
        page.real("snapshot_last_age_seconds", "Since it was begun.", seconds(age_us));
    }
    if status.last_duration_us > 0 {
        let took = seconds(status.last_duration_us);
        page.real("snapshot_last_duration_seconds", "How long the last one took.", took);
    }
    page.flag("snapshot_running", "Whether one is being taken.", status.running.is_some());
    let progress = status.running.map(|running| running.progress).unwrap_or_default();
    page.one("snapshot_running_bytes", "What it has written.", progress.done_bytes);
    page.one(
        "snapshot_running_expected_bytes",
        "What it will have written, about.",
        progress.expected_bytes.unwrap_or(0),
    );
    page.one(
        "verifications_running",
        "Snapshots that are being verified.",
        status.verifications.len() as u64,
    );
    page.one(
        "log_since_checkpoint_bytes",
        "Log since the newest checkpoint.",
        status.log_since_checkpoint_bytes,
    );
    page.one(
        "checkpoint_at_bytes",
        "At how many the next checkpoint is taken.",
        status.checkpoint_at_bytes,
    );
}

fn uploads(page: &mut Page, remote: &RemoteStatus) {
    page.family("upload_state", "Where this server stands as the remote store's writer.");
    for state in ["connecting", "writer", "superseded"] {
        let value = f64::from(u8::from(remote.state == state));
        page.sample("upload_state", &format!("{{state=\"{state}\"}}"), value);
    }
    let upload = remote.uploading;
    let gauges = [
        ("uploads_published", "Snapshots in the remote store.", remote.uploaded as u64),
        ("uploads_pending", "Snapshots that have yet to go up.", remote.pending as u64),
        ("uploads_pending_bytes", "Their objects.", remote.pending_bytes),
        ("uploads_failed", "Snapshots that cannot go up.", remote.failed as u64),
        (
            "uploads_orphaned",
            "Deltas that cannot go up without their parent.",
            remote.orphaned as u64,
        ),
        (
            "uploads_pending_deletions",
            "Snapshots that have yet to be deleted there.",
            remote.pending_deletions as u64,
        ),
        ("upload_running", "Whether one goes up.", upload.is_some().into()),
        ("upload_running_bytes", "What of it is there.", upload.map_or(0, |u| u.done_bytes)),
        ("upload_running_total_bytes", "All of it.", upload.map_or(0, |u| u.total_bytes)),
        ("upload_last_failed", "Whether the last step failed.", remote.last_error.is_some().into()),
    ];
    for (name, help, value) in gauges {
        page.one(name, help, value);
    }
}

fn archive(page: &mut Page, status: &Status) {
    let Some(archive) = &status.archive else { return };
    if let Some(lag) = lag_us(status, archive) {
        page.real("archive_lag_seconds", "How far the archive is behind.", seconds(lag));
        let to = seconds(archive.archived_to.micros());
        page.real("archive_timestamp_seconds", "Up to where it reaches.", to);
    }
    page.one("archive_backlog_bytes", "Log that waits for the archive.", archive.backlog_bytes);
    page.flag("archive_last_failed", "Whether the last try failed.", archive.last_error.is_some());
    page.flag("archive_gap", "Whether there is a gap.", archive.gap.is_some());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_path_and_one_method() {
        for (request, found) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", Route::Metrics),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", Route::Metrics),
            ("GET / HTTP/1.1\r\n\r\n", Route::Elsewhere),
            ("GET /metricsx HTTP/1.1\r\n\r\n", Route::Elsewhere),
            ("POST /metrics HTTP/1.1\r\n\r\n", Route::Method),
            ("\r\n\r\n", Route::Method),
        ] {
            assert_eq!(route(request.as_bytes()), found, "{request}");
        }
    }

    #[test]
    fn others_see_metrics_only_without_protected_mode() {
        let config = |bind: &str, protected_mode| Config {
            bind: bind.parse().unwrap(),
            protected_mode,
            metrics_port: Some(9100),
            ..Config::defaults(1)
        };
        let at = |config: Config| address(&config).unwrap().to_string();
        assert_eq!(at(config("127.0.0.2", true)), "127.0.0.2:9100");
        assert_eq!(at(config("0.0.0.0", true)), "127.0.0.1:9100");
        assert_eq!(at(config("::", true)), "[::1]:9100");
        assert_eq!(at(config("0.0.0.0", false)), "0.0.0.0:9100");
        assert_eq!(address(&Config::defaults(1)), None);
    }
}
