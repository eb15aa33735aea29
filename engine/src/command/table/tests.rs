//! The table is consistent, every name is found in any case, and errors are in Redis' words.

use std::collections::HashSet;

use super::*;
use crate::resp::ArgsBuf;

fn all() -> impl Iterator<Item = &'static CommandSpec> {
    TABLE.iter().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands))
}

fn keys(request: &str) -> Vec<usize> {
    let len = request.split(' ').count();
    lookup(request.split(' ').next().unwrap().as_bytes()).unwrap().keys(len).collect()
}

fn resolved(request: &[&str]) -> Result<&'static str, String> {
    let args: ArgsBuf = request.iter().copied().collect();
    resolve(args.as_args()).map(|spec| spec.full_name).map_err(|error| error.text())
}

#[test]
fn every_name_is_found_in_any_case() {
    for spec in TABLE {
        let upper = spec.name.to_ascii_uppercase();
        let mixed: String = spec
            .name
            .char_indices()
            .map(|(at, letter)| if at % 2 == 0 { letter.to_ascii_uppercase() } else { letter })
            .collect();
        for name in [spec.name, &upper, &mixed] {
            assert_eq!(lookup(name.as_bytes()), Some(spec), "{name}");
        }
        for other in [format!("{upper}x"), upper[1..].to_owned(), format!(" {upper}")] {
            assert!(lookup(other.as_bytes()).is_none_or(|found| found != spec), "{other}");
        }
        for subcommand in spec.subcommands {
            let upper = subcommand.name.to_ascii_uppercase();
            assert_eq!(spec.subcommand(upper.as_bytes()), Some(subcommand));
            assert_eq!(subcommand.full_name, format!("{}|{}", spec.name, subcommand.name));
        }
    }
    for name in [&b""[..], b"\xff\xff", b"nosuch", &[b'g'; 1000]] {
        assert_eq!(lookup(name), None);
    }
}

#[test]
fn rows_are_complete_and_consistent() {
    let ids: HashSet<_> = all().map(|spec| spec.id as usize).collect();
    let names: HashSet<_> = all().map(|spec| spec.full_name).collect();
    assert_eq!(ids.len(), CommandId::COUNT);
    assert_eq!(names.len(), CommandId::COUNT);
    assert!(ids.iter().all(|id| *id < CommandId::COUNT));
    for spec in all() {
        let name = spec.full_name;
        assert_eq!(spec.name, spec.name.to_ascii_lowercase(), "{name}");
        assert!(!spec.summary.is_empty() && !spec.complexity.is_empty(), "{name}");
        assert!(spec.arity != 0 && !spec.since.is_empty(), "{name}");
        let flags = spec.flags;
        assert!(!flags.contains(CommandFlags::WRITE.or(CommandFlags::READONLY)), "{name}");
        assert_eq!(spec.keys == KeyRange::NONE, spec.key_specs.is_empty(), "{name}");
        let writes = spec.key_specs.iter().any(KeySpec::is_write);
        assert!(!writes || flags.contains(CommandFlags::WRITE), "{name}");
        let (fast, slow) = (AclCategories::FAST, AclCategories::SLOW);
        assert!(spec.acl_categories.contains(fast) != spec.acl_categories.contains(slow), "{name}");
        assert!(spec.subcommands.is_empty() || spec.subcommand(b"help").is_some(), "{name}");
    }
}

#[test]
fn keys_stand_where_redis_says() {
    assert_eq!(keys("get a"), [1]);
    assert_eq!(keys("set a b ex 10"), [1]);
    assert_eq!(keys("del a b c"), [1, 2, 3]);
    assert_eq!(keys("mset a 1 b 2"), [1, 3]);
    assert_eq!(keys("mset a 1 b"), [1, 3]);
    assert_eq!(keys("rename a b"), [1, 2]);
    assert_eq!(keys("copy a b replace"), [1, 2]);
    assert_eq!(keys("watch a b"), [1, 2]);
    for request in ["get", "mset", "rename", "ping a", "dbsize", "scan 0"] {
        assert!(keys(request).iter().all(|key| *key < request.split(' ').count()), "{request}");
    }
    assert!(keys("get").is_empty() && keys("ping a").is_empty());
}

#[test]
fn requests_resolve_to_rows_or_to_redis_words() {
    let ok = |request: &[&str], name| assert_eq!(resolved(request), Ok(name));
    let fails = |request: &[&str], text: &str| assert_eq!(resolved(request), Err(text.to_owned()));
    ok(&["GeT", "k"], "get");
    ok(&["COMMAND"], "command");
    ok(&["command", "DOCS", "get", "set"], "command|docs");
    ok(&["Config", "Get", "*"], "config|get");
    fails(&["get"], "ERR wrong number of arguments for 'get' command");
    fails(&["get", "a", "b"], "ERR wrong number of arguments for 'get' command");
    fails(&["CONFIG"], "ERR wrong number of arguments for 'config' command");
    fails(&["CONFIG", "GET"], "ERR wrong number of arguments for 'config|get' command");
    fails(&["CONFIG", "x"], "ERR unknown subcommand 'x'. Try CONFIG HELP.");
    fails(&["COMMAND", "y"], "ERR unknown subcommand 'y'. Try COMMAND HELP.");
    fails(&["foo"], "ERR unknown command 'foo', with args beginning with: ");
    fails(&["foo", "a", "b"], "ERR unknown command 'foo', with args beginning with: 'a' 'b' ");
    let long = "x".repeat(200);
    let cut = "x".repeat(128);
    fails(&[&long], &format!("ERR unknown command '{cut}', with args beginning with: "));
    fails(
        &["foo", &long, "b"],
        &format!("ERR unknown command 'foo', with args beginning with: '{cut}' "),
    );
    assert!(resolved(&[]).is_err());
}
