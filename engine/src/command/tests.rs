//! The commands against golden scripts, in both versions of RESP, and against the log: what a
//! command writes down as effects must make the same keyspace as the command did.

use super::table::resolve;
use super::*;
use crate::entry::Op;
use crate::keyspace::{Keyspace, LARGE_VALUE_BYTES, OwnedEntry};
use crate::resp::{ArgsBuf, RespVersion};
use crate::slot::SLOT_COUNT;
use crate::types::{DATABASE_COUNT, DbIndex, Slot};

/// When the scripts begin, in milliseconds since the Unix epoch.
const BEGIN_MS: u64 = 1_700_000_000_000;

/// One shard and one connection to it.
struct Client {
    keyspace: Keyspace,
    effects: Effects,
    db: DbIndex,
    now_ms: u64,
    random: u64,
    version: RespVersion,
}

impl Client {
    fn new(version: RespVersion) -> Self {
        Self::on_slots(0..SLOT_COUNT, version)
    }

    fn on_slots(slots: std::ops::Range<u16>, version: RespVersion) -> Self {
        let keyspace = Keyspace::new(slots, 42);
        let effects = Effects::default();
        Self { keyspace, effects, db: DbIndex(0), now_ms: BEGIN_MS, random: 7, version }
    }

    fn call(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let args = ArgsBuf::new(args.iter().copied());
        let args = args.as_args();
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, self.version);
        self.effects.reset(true);
        match resolve(args) {
            Err(error) => reply.error(&error.text()),
            Ok(spec) if spec.id == CommandId::Select => {
                self.db = DbIndex(args[1][0] - b'0');
                if let Some(second) = args[1].get(1) {
                    self.db.0 = self.db.0 * 10 + second - b'0';
                }
                reply.ok();
            }
            Ok(spec) => {
                let (keyspace, effects) = (&mut self.keyspace, &mut self.effects);
                let context = Context::new(self.db, self.now_ms, keyspace, effects);
                execute(spec.id, &mut context.with_random(self.random), args, &mut reply);
            }
        }
        out
    }

    fn text(&mut self, command: &str) -> String {
        let args: Vec<_> = command.split(' ').map(str::as_bytes).collect();
        String::from_utf8(self.call(&args)).unwrap()
    }
}

/// Splits a line at blanks outside of quotes, and puts instants in.
fn arguments(line: &str, now_ms: u64) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, tail) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap(),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(instant(word, now_ms).unwrap_or_else(|| word.to_owned()).into_bytes());
        rest = tail.trim_start();
    }
    words
}

/// `{s+5}` is five seconds from now, `{ms-5}` five milliseconds ago.
fn instant(word: &str, now_ms: u64) -> Option<String> {
    let inner = word.strip_prefix('{')?.strip_suffix('}')?;
    let (unit, offset) = inner.split_at(inner.find(['+', '-'])?);
    let now = match unit {
        "s" => now_ms / 1000,
        _ => now_ms,
    };
    Some(now.checked_add_signed(offset.parse().unwrap()).unwrap().to_string())
}

fn run_script(name: &str, script: &str) {
    for (version, nil) in [(RespVersion::V2, "$-1"), (RespVersion::V3, "_")] {
        let mut client = Client::new(version);
        for (number, line) in script.lines().enumerate() {
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            if let Some(passing_ms) = line.strip_prefix("@ ") {
                client.now_ms += passing_ms.parse::<u64>().unwrap();
                continue;
            }
            let (command, reply) = line.split_once(" => ").unwrap();
            let args = arguments(command, client.now_ms);
            let args: Vec<_> = args.iter().map(Vec::as_slice).collect();
            let expected = reply.replace("nil", nil).replace('|', "\r\n").replace("\\0", "\0");
            let got = String::from_utf8(client.call(&args)).unwrap();
            assert_eq!(got, expected + "\r\n", "{name}, line {}: {line}", number + 1);
        }
    }
}

/// Replies that a Redis 7.0 server gives too (but for `slots`, which needs a cluster there).
#[test]
fn golden_scripts() {
    run_script("string", include_str!("golden/string.txt"));
    run_script("number", include_str!("golden/number.txt"));
    run_script("range", include_str!("golden/range.txt"));
    run_script("expiry", include_str!("golden/expiry.txt"));
    run_script("keys", include_str!("golden/keys.txt"));
    run_script("many", include_str!("golden/many.txt"));
    run_script("scan", include_str!("golden/scan.txt"));
    run_script("flush", include_str!("golden/flush.txt"));
    run_script("slots", include_str!("golden/slots.txt"));
}

/// All that a keyspace holds of the keys that the templates use, in a fixed order; and it must not
/// hold any others.
fn contents(keyspace: &Keyspace) -> Vec<OwnedEntry> {
    let mut entries = Vec::new();
    for db in (0..DATABASE_COUNT).map(DbIndex) {
        for key in KEYS {
            let entry = keyspace.get(&keyspace.key(db, key.as_bytes()));
            entries.extend(entry.map(|entry| entry.to_owned()));
        }
    }
    assert_eq!(entries.len() as u64, keyspace.total_len());
    entries
}

/// Random numbers of a seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.next() as usize % choices.len()]
    }
}

/// What stands for an argument in the templates below: a key, a value, an integer, an offset, a
/// time from now on, an instant in seconds or in milliseconds.
fn fill(template: &str, random: &mut Random, now_ms: u64) -> Vec<u8> {
    let near_ms = [0, 1, 10, 1_000, 60_000][random.next() as usize % 5];
    match template {
        "<k>" => random.one_of(KEYS).into(),
        "<v>" => match random.next() % 8 {
            0 => vec![b'v'; LARGE_VALUE_BYTES + random.next() as usize % 100_000],
            1 => Vec::new(),
            2 => vec![b'w'; random.next() as usize % 300],
            3 => b"12.75".to_vec(),
            _ => (random.next() as i16).to_string().into(),
        },
        "<i>" => random.one_of(&["1", "-7", "300", "9223372036854775807", "x"]).into(),
        "<o>" => random.one_of(&["0", "1", "5", "200", "65530", "131072", "-1"]).into(),
        "<t>" => random.one_of(&["1", "5", "100", "0", "-1", "x", "9223372036854775807"]).into(),
        "<s>" => ((now_ms + near_ms) / 1000).to_string().into(),
        "<ms>" => (now_ms + near_ms).saturating_sub(5).to_string().into(),
        "<c>" => random.one_of(&["NX", "XX", "GT", "LT"]).into(),
        "<d>" => random.one_of(&["0", "1", "15", "16"]).into(),
        literal => literal.into(),
    }
}

/// The keys of the templates.
const KEYS: &[&str] = &["a", "b", "c", "d", "{a}e", ""];

const TEMPLATES: &[&str] = &[
    "SET <k> <v>",
    "SET <k> <v> GET",
    "SET <k> <v> NX",
    "SET <k> <v> XX KEEPTTL",
    "SET <k> <v> PX <t>",
    "SET <k> <v> PXAT <ms> GET",
    "SET <k> <v> NX EX <t>",
    "GET <k>",
    "GETDEL <k>",
    "SETNX <k> <v>",
    "APPEND <k> <v>",
    "STRLEN <k>",
    "SETRANGE <k> <o> <v>",
    "GETRANGE <k> <i> <o>",
    "INCR <k>",
    "DECR <k>",
    "INCRBY <k> <i>",
    "DECRBY <k> <i>",
    "INCRBYFLOAT <k> <v>",
    "DEL <k> <k>",
    "UNLINK <k>",
    "EXISTS <k> <k>",
    "TYPE <k>",
    "EXPIRE <k> <t>",
    "PEXPIRE <k> <t> <c>",
    "EXPIREAT <k> <s>",
    "PEXPIREAT <k> <ms> <c>",
    "TTL <k>",
    "PTTL <k>",
    "PERSIST <k>",
    "MGET <k> <k>",
    "MSET <k> <v> <k> <v>",
    "MSETNX <k> <v> <k> <v>",
    "RENAME <k> <k>",
    "COPY <k> <k>",
    "COPY <k> <k> REPLACE",
    "COPY <k> <k> DB <d> REPLACE",
    "SCAN 0",
    "KEYS *",
    "DBSIZE",
    "RANDOMKEY",
    "FLUSHDB",
    "FLUSHALL",
];

#[test]
fn effects_replay_to_the_same_keyspace() {
    const SEEDS: u64 = 40;
    const COMMANDS: u64 = 400;
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut client = Client::new(RespVersion::V2);
        // Another hash seed: replay must not depend on it.
        let mut replayed = Keyspace::new(0..SLOT_COUNT, seed);
        for step in 0..COMMANDS {
            client.now_ms += random.one_of(&[0, 0, 1, 3, 50]);
            client.db = random.one_of(&[DbIndex(0), DbIndex(0), DbIndex(1)]);
            client.random = random.next();
            let template = random.one_of(TEMPLATES);
            if template.starts_with("FLUSH") && !random.next().is_multiple_of(4) {
                continue;
            }
            let args: Vec<_> =
                template.split(' ').map(|part| fill(part, &mut random, client.now_ms)).collect();
            let args: Vec<_> = args.iter().map(Vec::as_slice).collect();
            let reply = client.call(&args);
            if reply.starts_with(b"-") {
                assert!(client.effects.is_empty(), "seed {seed}, step {step}: {template}");
            }
            let mut ops = client.effects.ops.as_slice();
            let mut count = 0;
            while !ops.is_empty() {
                replayed.apply(&Op::decode(&mut ops).unwrap()).unwrap();
                count += 1;
            }
            assert_eq!(count, client.effects.count);
            let same = contents(&replayed) == contents(&client.keyspace);
            assert!(same, "seed {seed}, step {step}: {template}");
        }
    }
}

#[test]
fn without_a_log_commands_do_the_same() {
    let mut random = Random(1);
    let mut client = Client::new(RespVersion::V2);
    for _ in 0..500 {
        let template = random.one_of(TEMPLATES);
        let args: Vec<_> =
            template.split(' ').map(|part| fill(part, &mut random, client.now_ms)).collect();
        let args = ArgsBuf::new(args.iter().map(Vec::as_slice));
        let id = resolve(args.as_args()).unwrap().id;
        let mut plain = Keyspace::new(0..SLOT_COUNT, 42);
        contents(&client.keyspace).iter().for_each(|entry| {
            let mut value = Vec::new();
            entry.value.view().copy_to(&mut value);
            let OwnedEntry { db, ref key, kind, expires_at_ms, .. } = *entry;
            let put = Op::Put { db, key, kind, expires_at_ms, value: &value };
            plain.apply(&put).unwrap();
        });
        let mut unlogged = Effects::default();
        let mut context = Context::new(client.db, client.now_ms, &mut plain, &mut unlogged);
        let mut out = Vec::new();
        execute(id, &mut context, args.as_args(), &mut Reply::new(&mut out, RespVersion::V2));
        client.call(&args.as_args().iter().collect::<Vec<_>>());
        assert!(contents(&plain) == contents(&client.keyspace), "{template}");
        assert_eq!((unlogged.ops.len(), unlogged.count), (0, client.effects.count), "{template}");
    }
}

#[test]
fn large_values_are_read_across_their_pieces() {
    let value: Vec<u8> = (0..300_000u32).map(|index| (index % 251) as u8).collect();
    let mut client = Client::new(RespVersion::V2);
    client.call(&[b"SET", b"k", &value]);
    let bulk = |bytes: &[u8]| {
        [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n".as_slice()].concat()
    };
    assert_eq!(client.call(&[b"GET", b"k"]), bulk(&value));
    assert_eq!(client.text("STRLEN k"), ":300000\r\n");
    for (start, end) in
        [(0, 0), (65_535, 65_536), (1, 299_999), (65_536, 131_071), (131_072, 131_072)]
    {
        let (first, last) = (start.to_string(), end.to_string());
        let got = client.call(&[b"GETRANGE", b"k", first.as_bytes(), last.as_bytes()]);
        assert_eq!(got, bulk(&value[start..=end]), "{start} to {end}");
    }
    assert_eq!(client.call(&[b"GETRANGE", b"k", b"-2", b"-1"]), bulk(&value[299_998..]));
    assert_eq!(client.call(&[b"MGET", b"k"]), [b"*1\r\n".as_slice(), &bulk(&value)].concat());
    let integer = "-ERR value is not an integer or out of range\r\n";
    assert_eq!(client.text("INCR k"), integer);
    assert_eq!(client.text("INCRBYFLOAT k 1"), "-ERR value is not a valid float\r\n");
    assert_eq!(client.text("RENAME k m"), "+OK\r\n");
    assert_eq!(client.text("COPY m n"), ":1\r\n");
    assert_eq!(client.call(&[b"GETDEL", b"n"]), bulk(&value));
    assert_eq!(client.call(&[b"SET", b"m", b"", b"GET"]), bulk(&value));
}

#[test]
fn an_append_is_logged_as_what_it_appends() {
    let mut client = Client::new(RespVersion::V2);
    client.call(&[b"SET", b"k", &vec![b'x'; 1_000_000]]);
    client.text("APPEND k tail");
    assert!(client.effects.ops.len() < 20);
    client.text("SETRANGE k 500000 mid");
    assert!(client.effects.ops.len() < 20);
    for command in ["SETRANGE k 3 ", "GET k", "SET k v NX", "EXPIRE k 9 GT", "DEL q"] {
        client.text(command);
        assert!(client.effects.is_empty(), "{command} changes nothing");
    }
}

/// The first element of a SCAN reply, and the keys behind it.
fn scan_reply(reply: &str) -> (String, Vec<String>) {
    let mut lines = reply.split("\r\n").filter(|line| !line.starts_with(['$', '*']));
    let cursor = lines.next().unwrap().to_owned();
    (cursor, lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

#[test]
fn a_scan_goes_from_shard_to_shard() {
    let ranges = [0..3, 3..8192, 8192..8192, 8192..SLOT_COUNT];
    let mut shards = ranges.clone().map(|range| Client::on_slots(range, RespVersion::V2));
    let owner =
        |slot: Slot| ranges.iter().position(|range| range.contains(&slot.0)).expect("an owner");
    let mut expected = std::collections::BTreeSet::new();
    for number in 0..3000 {
        let key = format!("key{number}");
        let shard = owner(crate::slot::slot_of(key.as_bytes()));
        let expiry = if number % 10 == 0 { " PX 5" } else { "" };
        shards[shard].text(&format!("SET {key} v{expiry}"));
        if expiry.is_empty() {
            expected.insert(key);
        }
    }
    shards.iter_mut().for_each(|shard| shard.now_ms += 10);
    for count in ["1", "10", "1000", "1000000"] {
        let mut found = std::collections::BTreeSet::new();
        let mut cursor = "0".to_owned();
        let mut calls = 0;
        loop {
            let shard = owner(scan::cursor_slot(cursor.as_bytes()).unwrap());
            let reply = shards[shard].text(&format!("SCAN {cursor} COUNT {count}"));
            let (next, keys) = scan_reply(&reply);
            found.extend(keys);
            calls += 1;
            cursor = next;
            if cursor == "0" {
                break;
            }
            assert!(calls < 20_000, "COUNT {count} does not end");
        }
        assert_eq!(found, expected, "COUNT {count}");
    }
    let foreign = shards[0].text("SCAN 18446744073709551615");
    assert_eq!(foreign, "*2\r\n$1\r\n0\r\n*0\r\n", "a cursor that nobody answered ends the scan");
    let mut named = 0;
    for shard in &mut shards {
        named += scan_reply(&format!("x\r\n{}", shard.text("KEYS key*"))).1.len();
    }
    assert_eq!(named, expected.len());
}

#[test]
fn a_random_key_is_never_an_expired_one() {
    let mut client = Client::new(RespVersion::V2);
    for number in 0..2000 {
        client.text(&format!("SET dead{number} v PX 5"));
    }
    client.text("SET alive v");
    client.now_ms += 10;
    for random in 0..20 {
        client.random = Random(random).next();
        assert_eq!(client.text("RANDOMKEY"), "$5\r\nalive\r\n");
    }
    client.text("SELECT 1");
    assert_eq!(client.text("RANDOMKEY"), "$-1\r\n");
}

#[test]
fn every_random_key_comes_up() {
    let mut client = Client::new(RespVersion::V2);
    (0..10).for_each(|number| drop(client.text(&format!("SET key{number} v"))));
    let mut seen = std::collections::BTreeSet::new();
    for random in 0..400 {
        client.random = Random(random).next();
        seen.insert(client.text("RANDOMKEY"));
    }
    assert_eq!(seen.len(), 10);
}
