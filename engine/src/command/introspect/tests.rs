//! The shapes of COMMAND's replies in both versions.

use super::*;
use crate::resp::{ArgsBuf, RespVersion, Value};

fn answer(version: RespVersion, request: &str) -> Value {
    let args: ArgsBuf = request.split(' ').collect();
    let mut out = Vec::new();
    command(args.as_args(), &mut Reply::new(&mut out, version));
    let (value, len) = Value::parse(&out).unwrap().unwrap();
    assert_eq!(len, out.len(), "one whole reply to {request}");
    value
}

fn both(request: &str) -> [Value; 2] {
    [RespVersion::V2, RespVersion::V3].map(|version| answer(version, request))
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

#[test]
fn all_commands_and_their_count() {
    for request in ["COMMAND", "command info"] {
        for (all, count) in both(request).into_iter().zip(both("COMMAND COUNT")) {
            let all = all.into_array().unwrap();
            assert_eq!(all.len() as i64, count.as_integer().unwrap());
            assert!(all.iter().all(|info| info.as_array().unwrap().len() == INFO_ELEMENTS));
        }
    }
}

#[test]
fn infos_have_the_shape_of_redis() {
    for (version, reply) in [RespVersion::V2, RespVersion::V3]
        .into_iter()
        .zip(both("COMMAND INFO get nosuch config|get mset"))
    {
        let infos = reply.as_array().unwrap();
        assert_eq!(infos.len(), 4);
        let get = infos[0].as_array().unwrap();
        assert_eq!(get[0], Value::Bulk(b"get".to_vec()));
        assert_eq!(get[1], Value::Integer(2));
        assert_eq!(matches!(get[2], Value::Set(_)), version == RespVersion::V3);
        assert_eq!(texts(&get[2]), ["readonly", "fast"]);
        assert_eq!(get[3..6], [Value::Integer(1), Value::Integer(1), Value::Integer(1)]);
        assert_eq!(texts(&get[6]), ["@read", "@string", "@fast"]);
        assert!(get[7].as_array().unwrap().is_empty());
        let key_spec = &get[8].as_array().unwrap()[0];
        assert_eq!(texts(key_spec.field("flags").unwrap()), ["RO", "access"]);
        let begin = key_spec.field("begin_search").unwrap();
        assert_eq!(begin.field("type").unwrap().as_str(), Some("index"));
        assert_eq!(begin.field("spec").unwrap().field("index").unwrap().as_integer(), Some(1));
        let find = key_spec.field("find_keys").unwrap();
        assert_eq!(find.field("type").unwrap().as_str(), Some("range"));
        assert_eq!(find.field("spec").unwrap().field("lastkey").unwrap().as_integer(), Some(0));
        assert!(get[9].as_array().unwrap().is_empty());
        assert!(infos[1].is_null());
        assert_eq!(infos[2].as_array().unwrap()[0].as_str(), Some("config|get"));
        assert_eq!(infos[3].as_array().unwrap()[3..6], [1, -1, 2].map(Value::Integer));
    }
}

#[test]
fn docs_have_the_shape_of_redis() {
    for reply in both("COMMAND DOCS set nosuch config getset quit") {
        assert_eq!(reply.pairs().unwrap().len(), 3);
        let set = reply.field("set").unwrap();
        assert_eq!(set.field("group").unwrap().as_str(), Some("string"));
        assert_eq!(set.field("since").unwrap().as_str(), Some("1.0.0"));
        let arguments = set.field("arguments").unwrap().as_array().unwrap();
        assert_eq!(arguments[0].field("type").unwrap().as_str(), Some("key"));
        assert_eq!(arguments[0].field("key_spec_index").unwrap().as_integer(), Some(0));
        assert_eq!(arguments[2].field("type").unwrap().as_str(), Some("oneof"));
        assert_eq!(texts(arguments[2].field("flags").unwrap()), ["optional"]);
        let config = reply.field("config").unwrap().field("subcommands").unwrap();
        assert!(config.field("config|get").is_some());
        let quit = reply.field("quit").unwrap();
        assert_eq!(texts(quit.field("doc_flags").unwrap()), ["deprecated"]);
        assert_eq!(quit.field("deprecated_since").unwrap().as_str(), Some("7.2.0"));
    }
    for reply in both("COMMAND DOCS") {
        assert_eq!(reply.pairs().unwrap().len(), TABLE.len());
    }
}

#[test]
fn lists_keys_and_errors() {
    for reply in both("COMMAND LIST") {
        assert_eq!(texts(&reply).len(), CommandId::COUNT);
    }
    for reply in both("COMMAND LIST FILTERBY ACLCAT transaction") {
        assert_eq!(texts(&reply), ["multi", "exec", "discard", "watch", "unwatch"]);
    }
    for reply in both("COMMAND GETKEYS mset a 1 b 2") {
        assert_eq!(texts(&reply), ["a", "b"]);
    }
    for (request, text) in [
        ("COMMAND nope", "ERR unknown subcommand 'nope'. Try COMMAND HELP."),
        ("COMMAND COUNT x", "ERR wrong number of arguments for 'command|count' command"),
        ("COMMAND GETKEYS ping", "ERR The command has no key arguments"),
        ("COMMAND GETKEYS nope", "ERR Invalid command specified"),
        ("COMMAND GETKEYS get", "ERR Invalid number of arguments specified for command"),
        ("COMMAND LIST FILTERBY", "ERR syntax error"),
    ] {
        assert_eq!(both(request).each_ref().map(Value::as_error), [Some(text); 2], "{request}");
    }
}

#[test]
fn help_names_every_subcommand() {
    for reply in both("COMMAND HELP") {
        let lines = texts(&reply);
        assert!(lines[0].starts_with("COMMAND <subcommand>"));
        assert!(lines.contains(&"DOCS [command-name [command-name ...]]"));
        assert_eq!(lines.last(), Some(&"    Lists the subcommands."));
    }
}

/// What Redis 7.0.15 answered, byte for byte.
#[test]
fn an_info_is_redis_own_bytes() {
    let info = "$3\r\nget\r\n:2\r\n~2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n\
        ~3\r\n+@read\r\n+@string\r\n+@fast\r\n~0\r\n~1\r\n%3\r\n\
        $5\r\nflags\r\n~2\r\n+RO\r\n+access\r\n\
        $12\r\nbegin_search\r\n%2\r\n$4\r\ntype\r\n$5\r\nindex\r\n\
        $4\r\nspec\r\n%1\r\n$5\r\nindex\r\n:1\r\n\
        $9\r\nfind_keys\r\n%2\r\n$4\r\ntype\r\n$5\r\nrange\r\n\
        $4\r\nspec\r\n%3\r\n\
        $7\r\nlastkey\r\n:0\r\n\
        $7\r\nkeystep\r\n:1\r\n$5\r\nlimit\r\n:0\r\n~0\r\n";
    let config_get = "$10\r\nconfig|get\r\n:-3\r\n\
        ~4\r\n+admin\r\n+noscript\r\n+loading\r\n+stale\r\n\
        :0\r\n:0\r\n:0\r\n~3\r\n+@admin\r\n+@slow\r\n+@dangerous\r\n~0\r\n~0\r\n~0\r\n";
    let expected = format!("*3\r\n_\r\n*10\r\n{info}*10\r\n{config_get}");
    let args: ArgsBuf = ["COMMAND", "INFO", "nosuch", "get", "config|get"].iter().collect();
    let mut out = Vec::new();
    command(args.as_args(), &mut Reply::new(&mut out, RespVersion::V3));
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}
