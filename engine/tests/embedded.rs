//! The embedded engine as its users see it: open, call, close, open again.

use cutwater_engine::resp::Value;
use cutwater_engine::{Engine, EngineConfig};

fn small(mut config: EngineConfig) -> EngineConfig {
    config.segment_bytes = 1 << 20;
    config
}

#[test]
fn commands_in_memory_on_several_shards() {
    let mut config = EngineConfig::memory();
    config.shards = 3;
    let engine = Engine::open(config).unwrap();
    let client = engine.client();
    client.set("a", "1").unwrap();
    assert_eq!(client.get("a").unwrap(), Some(b"1".to_vec()));
    assert_eq!(client.incr("a").unwrap(), 2);
    let pairs: Vec<(String, String)> =
        (0..100).map(|n| (format!("key:{n}"), format!("value:{n}"))).collect();
    client.mset(&pairs).unwrap();
    let keys: Vec<&String> = pairs.iter().map(|(key, _)| key).collect();
    let values = client.mget(&keys).unwrap();
    for ((_, value), found) in pairs.iter().zip(values) {
        assert_eq!(found.as_deref(), Some(value.as_bytes()));
    }
    assert_eq!(client.execute(&["DBSIZE"]).unwrap(), Value::Integer(101));
    assert_eq!(client.del(&keys).unwrap(), 100);
    let error = client.execute(&["INCR"]).unwrap();
    assert!(error.as_error().is_some(), "an error reply is a reply: {error:?}");
    engine.close().unwrap();
    assert!(client.get("a").is_err(), "the engine has stopped");
}

#[test]
fn a_directory_keeps_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..4u32 {
        let mut config = small(EngineConfig::directory(dir.path()));
        config.shards = [2, 1, 3, 2][round as usize];
        let engine = Engine::open(config).unwrap();
        let client = engine.client();
        for earlier in 0..round {
            for n in 0..200 {
                let found = client.get(format!("{earlier}:{n}")).unwrap();
                assert_eq!(found, Some(n.to_string().into_bytes()), "{earlier}:{n} in {round}");
            }
        }
        for n in 0..200 {
            client.set(format!("{round}:{n}"), n.to_string()).unwrap();
        }
        client.mset(&[("x", round.to_string()), ("y", round.to_string())]).unwrap();
        engine.close().unwrap();
    }
}
