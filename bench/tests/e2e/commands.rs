//! Commands with the exact replies of Redis 7.2: one golden script a family, in `golden/`.
//!
//! With `CUTWATER_STAND_IN=valkey CUTWATER_GOLDEN_UPDATE=1` the scripts are rewritten with what the
//! stand-in replies, for a person to look through.

use std::fs;
use std::path::Path;

use cutwater_bench::golden::{self, Judge};
use cutwater_bench::server::{self, ServerOptions};
use cutwater_bench::tools::{self, Tool};

/// Runs one script; the server has one shard, or several, so that keys meet and are apart.
fn conforms(name: &str, shards: u16) {
    let stand_in = server::is_stand_in();
    if stand_in && !tools::available(name, &[Tool::Valkey]) {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/golden");
    let path = folder.join(format!("{name}.txt"));
    let script = fs::read_to_string(&path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::new(dir.path().join("data"));
    options.shards = shards;
    let server = options.start().unwrap();
    let judge = if stand_in { Judge::StandIn } else { Judge::Subject };
    let outcome = golden::run(name, &script, server.address(), judge).unwrap();
    if stand_in && std::env::var_os("CUTWATER_GOLDEN_UPDATE").is_some() {
        fs::write(&path, outcome.updated).unwrap();
        return;
    }
    let (failed, passed) = (outcome.failures.len(), outcome.passed);
    let list = outcome.failures.join("\n");
    assert_eq!(failed, 0, "{failed} of {} replies differ:\n{list}", failed + passed);
}

macro_rules! scripts {
    ($($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                conforms(stringify!($name), 1);
                conforms(stringify!($name), 3);
            }
        )*
    };
}

scripts!(strings, expiry, keyspace, transactions, connection, protocol);
