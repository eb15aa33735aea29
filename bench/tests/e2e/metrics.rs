//! What a monitoring system sees: metrics over HTTP, also while the remote store is frozen.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use cutwater_bench::process::free_address;
use cutwater_bench::server::{self, ServerOptions};

use crate::s3::{KEY_ID, S3Server, SECRET};

/// How long a condition may take to come true.
const LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(20);

/// A request, and the whole answer.
fn request(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The metrics, by name and labels; every line has to be one.
fn scrape(address: SocketAddr) -> BTreeMap<String, f64> {
    let answer = request(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"));
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    let mut found = BTreeMap::new();
    let mut family = String::new();
    for line in body.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            family = name.to_owned();
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert_eq!(name.split('{').next(), Some(family.as_str()), "{line}");
            assert!(found.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{line}");
        }
    }
    found
}

#[test]
fn metrics_tell_of_the_shards_and_of_what_is_pending() {
    if server::is_stand_in() {
        return;
    }
    let (s3, dir) = (S3Server::start(), tempfile::tempdir().unwrap());
    let metrics = free_address();
    let file = dir.path().join("cutwater.toml");
    let config = format!(
        "metrics-port = {}\nsnapshot-store = \"s3://bucket/x\"\ns3-endpoint = \"{}\"\n\
         s3-allow-http = true\ns3-path-style = true\narchive-interval = \"100ms\"\n\
         s3-access-key-id = \"{KEY_ID}\"\ns3-secret-access-key = \"{SECRET}\"\n",
        metrics.port(),
        s3.endpoint()
    );
    std::fs::write(&file, config).unwrap();
    let mut options = ServerOptions::new(dir.path().join("data"));
    options.more = vec!["--config".to_owned(), file.display().to_string()];
    let server = options.start().unwrap();
    let mut client = server.client().unwrap();
    for n in 0..10 {
        assert!(client.call(&["SET", &format!("key:{n}"), "value"]).unwrap().is_ok());
    }
    let wait = |what: &str, holds: &dyn Fn(&BTreeMap<String, f64>) -> bool| {
        let deadline = Instant::now() + LIMIT;
        loop {
            let found = scrape(metrics);
            if holds(&found) {
                return found;
            }
            assert!(Instant::now() < deadline, "{what}: {found:#?}");
            std::thread::sleep(POLL);
        }
    };
    let found = wait("counted", &|m| m["cutwater_keys{db=\"0\"}"] == 10.0);
    assert!(found["cutwater_commands_total"] >= 10.0 && found["cutwater_connections"] >= 1.0);
    assert!(found["cutwater_memory_bytes"] > 0.0);
    assert!(found["cutwater_log_durable_bytes{shard=\"0\"}"] > 0.0);
    // The archive begins with a base.
    wait("a base is uploaded", &|m| m["cutwater_uploads_published"] == 1.0);

    let id = server::create_snapshot(&server).unwrap() as f64;
    let found = wait("uploaded", &|m| m["cutwater_uploads_published"] == 2.0);
    assert_eq!(found["cutwater_snapshot_last_id"], id);
    assert_eq!(found["cutwater_snapshots_published_total"], 2.0);
    assert!(found["cutwater_snapshot_last_bytes"] > 0.0);
    assert_eq!(found["cutwater_upload_state{state=\"writer\"}"], 1.0);
    assert_eq!(found["cutwater_uploads_pending"], 0.0);

    // The store freezes: what cannot leave is pending, and the scrape does not wait for it.
    s3.freeze();
    let id = server::create_snapshot(&server).unwrap() as f64;
    assert!(client.call(&["SET", "more", "value"]).unwrap().is_ok());
    let found = wait("pending", &|m| {
        m["cutwater_uploads_pending"] == 1.0 && m["cutwater_upload_running"] == 1.0
    });
    assert_eq!(found["cutwater_snapshot_last_id"], id);
    assert_eq!(found["cutwater_uploads_published"], 2.0);
    assert!(found["cutwater_uploads_pending_bytes"] > 0.0);
    assert_eq!(found["cutwater_upload_running_bytes"], 0.0);
    let lag = found["cutwater_archive_lag_seconds"];
    wait("the archive falls behind", &|m| m["cutwater_archive_lag_seconds"] > lag);
    s3.thaw();
    wait("all is there", &|m| {
        m["cutwater_uploads_published"] == 3.0 && m["cutwater_uploads_pending"] == 0.0
    });

    let elsewhere = request(metrics, "GET / HTTP/1.1\r\n\r\n");
    assert!(elsewhere.starts_with("HTTP/1.1 404 Not Found"), "{elsewhere}");
    let post = request(metrics, "POST /metrics HTTP/1.1\r\n\r\n");
    assert!(post.starts_with("HTTP/1.1 405 Method Not Allowed"), "{post}");
}
