//! At the limits: values of 100 MB, a client that does not read its replies, and a disk without
//! room for the log.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cutwater_bench::reply::Reply;
use cutwater_bench::server::{self, ServerOptions};
use cutwater_bench::{tools, usage};

use crate::support::{fill, serve};

const MIB: usize = 1024 * 1024;
const HUGE_BYTES: usize = 100 * MIB;

#[test]
fn huge_values_are_written_changed_and_recovered() {
    let (_dir, mut server) = serve(|_| {});
    let mut client = server.client().unwrap();
    let mut expected: Vec<u8> = (0..HUGE_BYTES).map(|n| (n / 251) as u8).collect();
    assert!(client.call(&[b"SET", b"huge".as_slice(), &expected]).unwrap().is_ok());
    let end = vec![b'e'; MIB];
    let length = client.call(&[b"APPEND", b"huge".as_slice(), &end]).unwrap().integer();
    expected.extend_from_slice(&end);
    assert_eq!(length, Some(expected.len() as i64));
    let middle = [b'm'; 1_000];
    let offset = 50_000_000;
    let command: [&[u8]; 4] = [b"SETRANGE", b"huge", b"50000000", &middle];
    assert_eq!(client.call(&command).unwrap().integer(), Some(expected.len() as i64));
    expected[offset..offset + middle.len()].copy_from_slice(&middle);
    let check = |server: &cutwater_bench::process::ServerProcess| {
        let found = server.client().unwrap().call(&["GET", "huge"]).unwrap();
        // Not `assert_eq`, which would print them.
        assert!(found.bytes() == Some(expected.as_slice()));
    };
    check(&server);
    server.kill9().unwrap();
    server.restart().unwrap();
    check(&server);
    if !server::is_stand_in() {
        server::create_snapshot(&server).unwrap();
        server.kill9().unwrap();
        server.restart().unwrap();
        check(&server);
    }
}

#[test]
fn a_client_that_does_not_read_costs_bounded_memory() {
    /// Replies that it asks for, in MiB: far more than a connection may hold.
    const ASKED: usize = 896;
    const GROWTH_MAX: u64 = 160 * 1024 * 1024;
    if server::is_stand_in() {
        return;
    }
    let (_dir, server) = serve(|_| {});
    let mut client = server.client().unwrap();
    assert!(client.call(&[b"SET".as_slice(), b"key", &vec![b'x'; MIB]]).unwrap().is_ok());
    let before = usage::resident_bytes(server.pid()).unwrap();
    let mut slow = server.client().unwrap();
    for run in 0..ASKED / 128 {
        for _ in 0..128 {
            slow.queue(&["GET", "key"]);
        }
        slow.flush().unwrap();
        // Others are served meanwhile.
        let key = format!("other:{run}");
        assert!(client.call(&["SET", &key, "v"]).unwrap().is_ok());
        let grown = usage::resident_bytes(server.pid()).unwrap().saturating_sub(before);
        assert!(grown < GROWTH_MAX, "{grown} bytes after {} replies", run * 128);
    }
    std::thread::sleep(Duration::from_millis(300));
    let grown = usage::resident_bytes(server.pid()).unwrap().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{grown} bytes");
    // It gets all of them when it reads.
    for _ in 0..ASKED / 128 * 128 {
        assert_eq!(slow.receive().unwrap().bytes().map(<[u8]>::len), Some(MIB));
    }
}

/// A file system of a fixed size, unmounted with its guard.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at);
        let mounted = tools::run(&mut mount, Duration::from_secs(10));
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = tools::run(Command::new("umount").arg("-l").arg(&self.0), Duration::from_secs(10));
    }
}

#[test]
fn without_room_for_the_log_writes_are_refused_and_resume_by_themselves() {
    if server::is_stand_in() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("disk");
    let Some(disk) = SmallDisk::mount(&data, "96m") else {
        return tools::skip("no_room", "tmpfs cannot be mounted");
    };
    let ballast = data.join("ballast.toml");
    std::fs::write(&ballast, vec![1; 40 * MIB]).unwrap();
    let mut options = ServerOptions::new(&data);
    options.shards = 1;
    let mut server = options.start().unwrap();
    let mut client = server.client().unwrap();
    fill(&mut client, "before", 100);
    let value = "x".repeat(64 * 1024);
    let mut acknowledged = 0;
    let refusal = loop {
        let key = format!("key:{acknowledged}");
        match client.call(&["SET", &key, &value]).unwrap() {
            Reply::Error(text) => break text,
            _ => acknowledged += 1,
        }
        assert!(acknowledged < 4_000, "the disk is never full");
    };
    assert!(refusal.starts_with("MISCONF "), "{refusal}");
    assert!(refusal.contains(&data.display().to_string()), "{refusal}");
    // Reads go on.
    let last = format!("key:{}", acknowledged - 1);
    assert_eq!(client.call(&["GET", &last]).unwrap().bytes(), Some(value.as_bytes()));
    // A transaction that writes is refused as well, and leaves nothing.
    assert!(client.call(&["MULTI"]).unwrap().is_ok());
    let queued = client.call(&["SET", "tx", "1"]).unwrap().to_string();
    let exec = client.call(&["EXEC"]).unwrap().to_string();
    assert!(queued.contains("MISCONF") || exec.contains("MISCONF"), "{queued} {exec}");
    // Room comes, and with it the writes.
    std::fs::remove_file(&ballast).unwrap();
    let began = Instant::now();
    while !client.call(&["SET", "again", "1"]).unwrap().is_ok() {
        assert!(began.elapsed() < Duration::from_secs(15), "writes do not resume");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.kill9().unwrap();
    server.restart().unwrap();
    let mut client = server.client().unwrap();
    assert_eq!(client.call(&["GET", &last]).unwrap().bytes(), Some(value.as_bytes()));
    assert_eq!(client.call(&["GET", "again"]).unwrap().bytes(), Some(b"1".as_slice()));
    assert_eq!(client.call(&["EXISTS", "tx"]).unwrap().integer(), Some(0));
    drop(server);
    drop(disk);
}
