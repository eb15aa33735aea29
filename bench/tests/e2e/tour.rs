//! The five-minute tour of README: a value survives a crash, and a snapshot survives FLUSHALL.

use std::process::Command;
use std::time::Duration;

use cutwater_bench::process::free_address;
use cutwater_bench::server::{self, ServerOptions};
use cutwater_bench::tools::{self, Tool};

/// How long the whole tour may take.
const TOUR_LIMIT: Duration = Duration::from_secs(60);

/// README, of this repository.
const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");

/// The text between a line that is `begin` and the next fence.
fn block<'a>(readme: &'a str, begin: &str) -> &'a str {
    let (_, rest) = readme.split_once(begin).expect("README has the block");
    rest.split_once("```").expect("a block ends").0
}

#[test]
fn the_tour_of_readme_prints_what_readme_says() {
    if server::is_stand_in() || !tools::available("tour", &[Tool::RedisCli]) {
        return;
    }
    let readme = std::fs::read_to_string(README).unwrap();
    let script = block(&readme, "```bash\n");
    let expected = block(&readme, "It prints:\n\n```text\n");
    let dir = tempfile::tempdir().unwrap();
    let port = free_address().port().to_string();
    let binary = server::binary().unwrap();
    let folder = binary.parent().expect("the binary is in a folder").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path)));
    let mut bash = Command::new("bash");
    tools::hide_variables(&mut bash);
    bash.arg("-c")
        .arg(script.replace("redis-cli ", &format!("redis-cli -p {port} ")))
        .current_dir(dir.path())
        .env("PATH", path.unwrap())
        .env("CUTWATER_PORT", &port)
        .env("CUTWATER_SHARDS", "2");
    let output = tools::run(&mut bash, TOUR_LIMIT).unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let log = std::fs::read_to_string(dir.path().join("server.log")).unwrap_or_default();
    assert_eq!(printed.trim_end(), expected.trim_end(), "the server said:\n{log}");
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
