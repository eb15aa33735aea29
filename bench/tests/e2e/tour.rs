//! The five-minute tour of README: a value survives a crash, and a snapshot survives FLUSHALL.

use std::process::Command;
use std::time::Duration;

use cutwater_bench::process::ServerProcess;
use cutwater_bench::server::{self, ServerOptions};
use cutwater_bench::tools::{self, Tool};

const CLI_LIMIT: Duration = Duration::from_secs(20);

fn redis_cli(server: &ServerProcess, command: &[&str]) -> String {
    let mut cli = Command::new("redis-cli");
    cli.args(["-h", "127.0.0.1", "-p", &server.address().port().to_string()]).args(command);
    let output = tools::run(&mut cli, CLI_LIMIT).unwrap();
    assert!(output.status.success(), "redis-cli {command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn a_value_survives_a_crash_and_a_snapshot_survives_flushall() {
    if !tools::available("tour", &[Tool::RedisCli]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = ServerOptions::new(&data).start().unwrap();
    assert_eq!(redis_cli(&server, &["set", "greeting", "hello"]), "OK");
    server.kill9().unwrap();
    server.restart().unwrap();
    assert_eq!(redis_cli(&server, &["get", "greeting"]), "hello");

    let snapshot = server::create_snapshot(&server).unwrap();
    assert_eq!(redis_cli(&server, &["set", "later", "x"]), "OK");
    assert_eq!(redis_cli(&server, &["flushall"]), "OK");
    assert_eq!(redis_cli(&server, &["dbsize"]), "0");
    server.terminate().unwrap();

    let restored = dir.path().join("restored");
    server::restore(&data, snapshot, &restored).unwrap();
    let mut server = ServerOptions::new(&restored).without_log_in_stand_in().start().unwrap();
    assert_eq!(redis_cli(&server, &["get", "greeting"]), "hello");
    assert_eq!(redis_cli(&server, &["exists", "later"]), "0");
    assert_eq!(redis_cli(&server, &["dbsize"]), "1");
    server.terminate().unwrap();
}

#[test]
fn an_orderly_stop_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = ServerOptions::new(dir.path().join("data")).start().unwrap();
    for round in 0..3 {
        let mut client = server.client().unwrap();
        let key = format!("key:{round}");
        assert!(client.call(&["SET", &key, "v"]).unwrap().is_ok());
        server.terminate().unwrap();
        server.restart().unwrap();
        let mut client = server.client().unwrap();
        assert_eq!(client.call(&["DBSIZE"]).unwrap().integer(), Some(round + 1));
    }
}
