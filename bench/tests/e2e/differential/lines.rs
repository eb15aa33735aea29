//! Random command lines over the commands that Cutwater has: most are valid, some just not.
//!
//! What depends on the moment is kept out: times to live are so long, and so far apart, that two
//! servers that read their clocks a little apart decide alike.

use cutwater_bench::sim::rng::Rng;

/// A command line.
pub type Line = Vec<Vec<u8>>;

/// Few, so that commands meet; of several slots, with and without tags.
const KEYS: &[&[u8]] =
    &[b"a", b"b", b"c", b"{t}a", b"{t}b", b"", b"key:1", b"key:2", b"long key", b"\x00\xff\r\n"];

const VALUES: &[&[u8]] = &[
    b"",
    b"0",
    b"1",
    b"-1",
    b"10",
    b"00",
    b"+5",
    b" 1",
    b"1 ",
    b"3.0",
    b"0.1",
    b"-0",
    b"-0.0",
    b"1e3",
    b"5.0e-3",
    b"1e400",
    b"inf",
    b"-inf",
    b"nan",
    b"0x10",
    b"abc",
    b"value",
    b"\x00\xff",
    b"a b",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"1e17",
    b"123456789.123456789",
    b"99999999999999999999999",
    b"0.00000000000000001",
    b"1.5e300",
    b".5",
    b"5.",
    b"1e",
    b"e1",
    b"--1",
    b"1e-20",
    b"3.14159265358979323846264338327950288",
];

/// Offsets: none makes a string of many megabytes.
const OFFSETS: &[&[u8]] = &[
    b"0",
    b"1",
    b"2",
    b"5",
    b"100",
    b"3000",
    b"-1",
    b"-2",
    b"-3",
    b"-100",
    b"536870912",
    b"2147483648",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"x",
    b"",
    b"1.0",
];

/// Times that are over at once or never, and what is none; in any unit, from now on or not.
const TIMES: &[&[u8]] = &[
    b"0",
    b"-1",
    b"-1000",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775",
    b"9223372036854776",
    b"9223372036854775808",
    b"x",
    b"",
    b"1.5",
    b"+1",
    b" 1",
];

const PATTERNS: &[&[u8]] = &[
    b"*", b"a", b"a*", b"?", b"[ab]", b"[^a]", b"[a-c]", b"key:*", b"*y:[12]", b"\\*", b"[", b"[a",
    b"[^", b"", b"**", b"*\xff*", b"{t}*", b"[z-a]", b"\\", b"a\\", b"[\\a]", b"?*", b"key:?",
    b"[]", b"[]]",
];

const COUNTS: &[&[u8]] =
    &[b"1", b"2", b"10", b"1000", b"0", b"-1", b"x", b"", b"9223372036854775808"];

const DATABASES: &[&[u8]] = &[
    b"0",
    b"1",
    b"2",
    b"15",
    b"16",
    b"-1",
    b"x",
    b"",
    b"99999999999",
    b"9223372036854775808",
    b"01",
];

const NAMES: &[&[u8]] = &[b"", b"me", b"with space", b"new\nline", b"caf\xc3\xa9", b"a-b_c.d"];

/// How often, in per cent, a line loses an argument, gains one, or changes one.
const DAMAGE_PERCENT: u64 = 6;

/// Makes a line, for a connection in a transaction or not. There it begins no other and watches
/// nothing, for which Valkey has words of its own; nor does it change the protocol: in Cutwater
/// that goes for what comes behind the EXEC.
pub fn line(rng: &mut Rng, in_multi: bool) -> Line {
    let mut line = match rng.below(100) {
        0..55 => data(rng),
        55..75 => keyspace(rng),
        75..90 => transaction(rng, in_multi),
        _ => server(rng, in_multi),
    };
    // Where Valkey refuses in words of its own, and what the next seed would find changed, is
    // chosen with more care.
    if ![&b"client"[..], b"scan", b"config"].contains(&&line[0][..]) && rng.chance(DAMAGE_PERCENT) {
        damage(rng, &mut line);
    }
    for word in &mut line {
        if rng.chance(3) {
            word.make_ascii_uppercase();
        }
    }
    line
}

fn damage(rng: &mut Rng, line: &mut Line) {
    let at = rng.below(line.len());
    match rng.below(4) {
        0 if line.len() > 1 => drop(line.remove(at.max(1))),
        1 => line.push(any_word(rng)),
        // A time stays none that is over in a moment.
        2 if line[at].len() > 4 && line[at].iter().all(u8::is_ascii_digit) => {
            line[at] = b"x".into()
        }
        2 if at > 0 => line[at] = any_word(rng),
        // An option that is given twice, or a key.
        _ => line.push(line[at].clone()),
    }
}

fn any_word(rng: &mut Rng) -> Vec<u8> {
    let pools =
        [KEYS, VALUES, COUNTS, &[&b"NX"[..], b"XX", b"GET", b"EX", b"KEEPTTL", b"DB", b"MATCH"]];
    let pool = *rng.pick(&pools);
    rng.pick(pool).to_vec()
}

/// A line under construction.
struct Words<'r> {
    rng: &'r mut Rng,
    line: Line,
}

impl Words<'_> {
    fn word(mut self, word: &str) -> Self {
        self.line.extend(word.split(' ').map(|word| word.as_bytes().to_vec()));
        self
    }

    fn of(mut self, pool: &[&[u8]]) -> Self {
        self.line.push(self.rng.pick(pool).to_vec());
        self
    }

    fn key(self) -> Self {
        self.of(KEYS)
    }

    fn value(self) -> Self {
        self.of(VALUES)
    }

    /// One of these words, or none.
    fn perhaps(self, percent: u64, words: &[&str]) -> Self {
        if self.rng.chance(percent) {
            let word = *self.rng.pick(words);
            return self.word(word);
        }
        self
    }

    /// A time to live or an instant, mostly a good one.
    fn time(mut self, absolute: bool, seconds: bool) -> Self {
        if self.rng.chance(25) {
            return self.of(TIMES);
        }
        if absolute && self.rng.chance(10) {
            // Long ago.
            return self.of(&[b"1", b"1000", b"1700000000"]);
        }
        // No two of these are within what two clocks may differ by; instants come after them all.
        let mut number = self.rng.between(10_000, 1_000_000_000);
        if absolute {
            number += 4_000_000_000;
        }
        if !seconds {
            number *= 1_000;
        }
        self.line.push(number.to_string().into_bytes());
        self
    }

    fn expiry(self) -> Self {
        let (name, absolute, seconds) = *self.rng.pick(&[
            ("EX", false, true),
            ("PX", false, false),
            ("EXAT", true, true),
            ("PXAT", true, false),
        ]);
        self.word(name).time(absolute, seconds)
    }

    fn several(mut self, f: impl Fn(Self) -> Self) -> Self {
        for _ in 0..self.rng.between(1, 4) {
            self = f(self);
        }
        self
    }
}

fn words(rng: &mut Rng) -> Words<'_> {
    Words { rng, line: Line::new() }
}

fn data(rng: &mut Rng) -> Line {
    let choice = rng.below(20);
    let w = words(rng);
    let w = match choice {
        0 | 1 => w.word("set").key().value(),
        2..5 => set_with_options(w),
        5 => w.word("get").key(),
        6 => w.word("getdel").key(),
        7 => w.word("setnx").key().value(),
        8 => w.word("append").key().value(),
        9 => w.word("strlen").key(),
        10 => w.word("setrange").key().of(OFFSETS).value(),
        11 => w.word("getrange").key().of(OFFSETS).of(OFFSETS),
        12 => w.word("incr").key(),
        13 => w.word("decr").key(),
        14 => w.word("incrby").key().value(),
        15 => w.word("decrby").key().value(),
        16 => w.word("incrbyfloat").key().value(),
        17 => w.word("mget").several(Words::key),
        18 => w.word("mset").several(|w| w.key().value()),
        _ => w.word("msetnx").several(|w| w.key().value()),
    };
    w.line
}

fn set_with_options(w: Words<'_>) -> Words<'_> {
    let mut w = w.word("set").key().value();
    for _ in 0..w.rng.between(1, 3) {
        w = match w.rng.below(5) {
            0 => w.word("NX"),
            1 => w.word("XX"),
            2 => w.word("GET"),
            3 => w.word("KEEPTTL"),
            _ => w.expiry(),
        };
    }
    w
}

fn keyspace(rng: &mut Rng) -> Line {
    let choice = rng.below(20);
    let w = words(rng);
    let w = match choice {
        0 => w.word("del").several(Words::key),
        1 => w.word("unlink").several(Words::key),
        2 => w.word("exists").several(Words::key),
        3 => w.word("type").key(),
        4..8 => {
            let (name, absolute, seconds) = *w.rng.pick(&[
                ("expire", false, true),
                ("pexpire", false, false),
                ("expireat", true, true),
                ("pexpireat", true, false),
            ]);
            let w = w.word(name).key().time(absolute, seconds);
            let options = ["NX", "XX", "GT", "LT", "xx gt", "lt xx", "NX GT", "GT LT", "nx nx"];
            w.perhaps(60, &options)
        }
        8 => w.word("ttl").key(),
        9 => w.word("pttl").key(),
        10 => w.word("persist").key(),
        11 => w.word("rename").key().key(),
        12 | 13 => {
            let w = w.word("copy").key().key().perhaps(40, &["REPLACE"]);
            let w = if w.rng.chance(40) { w.word("DB").of(DATABASES) } else { w };
            w.perhaps(10, &["REPLACE"])
        }
        14 => w.word("keys").of(PATTERNS),
        15 => w.word("scan 0 COUNT").of(COUNTS),
        16 => {
            let w = w.word("scan").of(&[b"0", b"0", b"x", b"18446744073709551616"]);
            let w = w.word("match").of(PATTERNS).word("count 1000");
            w.perhaps(50, &["type string", "type list", "type hash", "type", "TYPE STRING"])
        }
        17 => w.word("dbsize"),
        18 => w.word("randomkey"),
        _ => w.word("select").of(DATABASES),
    };
    w.line
}

fn transaction(rng: &mut Rng, in_multi: bool) -> Line {
    let choice = if in_multi { rng.between(4, 8) } else { rng.between(0, 11) };
    let w = words(rng);
    let w = match choice {
        0..4 => w.word("multi"),
        4..8 => w.word("exec"),
        8 => w.word("discard"),
        9 | 10 => w.word("watch").several(Words::key),
        _ => w.word("unwatch"),
    };
    w.line
}

fn server(rng: &mut Rng, in_multi: bool) -> Line {
    let choice = if in_multi { rng.between(3, 19) } else { rng.between(0, 19) };
    let w = words(rng);
    let w = match choice {
        0..3 => w.word("hello").of(&[b"2", b"3", b"4", b"x", b"", b"1"]).perhaps(
            30,
            &["SETNAME me", "AUTH default x", "AUTH nobody x", "SETNAME", "AUTH a", "nosuch"],
        ),
        3 => w.word("auth").perhaps(50, &["default", "nobody"]).value(),
        4 => w.word("reset"),
        5 => w.word("client setname").of(NAMES),
        6 => w.word("client getname"),
        7 => w.word("client setinfo").of(&[b"LIB-NAME", b"lib-ver", b"x"]).of(NAMES),
        8 => w.word("client").of(&[b"id", b"info", b"list", b"nosuch", b"kill", b""]),
        9 => {
            let filters = ["TYPE normal", "type MASTER", "TYPE x", "ID 1", "ID 1 2", "x y", "ID"];
            w.word("client list").perhaps(90, &filters)
        }
        10 => client_kill(w),
        11 => w.word("config get").of(&[
            b"maxmemory",
            b"MAXMEMORY",
            b"databases",
            b"appendonly",
            b"nosuch",
            b"databas?s",
            b"save",
            b"maxmemory-pol*",
            b"timeout",
            b"requirepass",
        ]),
        12 => w.word("config").of(&[b"nosuch", b"get", b"set", b""]),
        13 => {
            w.word("config set").of(&[b"nosuch", b"timeout", b"maxclients"]).of(&[b"x", b"-1", b""])
        }
        14 if w.rng.chance(50) => w.word("ping").perhaps(50, &["hello"]),
        16 if w.rng.chance(50) => w.word("echo").value(),
        14 => w.word("command").of(&[b"count", b"nosuch", b"getkeys", b""]),
        15 => {
            w.word("command getkeys").several(|w| w.of(&[b"get", b"mset", b"copy", b"ping", b"a"]))
        }
        16 => w.word("time"),
        17 => w.word("info").of(&[b"nosuch", b"server", b""]),
        18 => w.word("nosuch").several(Words::value),
        _ => {
            let flush = *w.rng.pick(&["flushdb", "flushall"]);
            w.word(flush).perhaps(40, &["ASYNC", "sync", "now", "sync async"])
        }
    };
    w.line
}

/// Conditions that no connection meets, and what is none. Valkey's own words for a bad id and a bad
/// age are left out.
fn client_kill(w: Words<'_>) -> Words<'_> {
    let conditions = [
        "ID 999999",
        "ID 0",
        "ID -1",
        "ADDR 127.0.0.1:1",
        "LADDR x",
        "TYPE replica",
        "TYPE x",
        "USER nobody",
        "USER default ID 999999",
        "SKIPME maybe",
        "SKIPME yes TYPE pubsub",
        "MAXAGE 0",
        "MAXAGE 999999",
        "nosuch x",
        "127.0.0.1:1",
        "x",
        "ADDR",
        "ID 999999 ADDR",
    ];
    w.word("client kill").perhaps(100, &conditions)
}

/// Lines about slots: tags, the keys of a slot, and arguments that are none.
pub fn cluster() -> Vec<Line> {
    const TAGS: &[&str] = &[
        "",
        "a",
        "{",
        "{}",
        "{}x",
        "{a}",
        "x{a}y",
        "{a}{b}",
        "{{a}}",
        "a}b{c",
        "\0",
        "foo{}{bar}",
        "foo{{bar}}zap",
        "{user1000}.x",
        "{a",
        "a}",
    ];
    const SLOTS: &[&str] =
        &["0", "15495", "16287", "16383", "16384", "-1", "x", "", "99999999999", "+1", "1.0"];
    const COUNTS: &[&str] = &["0", "1", "10", "-1", "x", ""];
    let line =
        |words: &[&str]| -> Line { words.iter().map(|word| word.as_bytes().to_vec()).collect() };
    let mut lines: Vec<Line> = TAGS.iter().map(|key| line(&["CLUSTER", "KEYSLOT", key])).collect();
    // In the slots 15495, 3300 and 16287.
    lines.extend(["a", "b", "{x}1"].map(|key| line(&["SET", key, "1"])));
    for slot in SLOTS {
        lines.push(line(&["CLUSTER", "COUNTKEYSINSLOT", slot]));
        let of_slot = COUNTS.iter().map(|count| line(&["CLUSTER", "GETKEYSINSLOT", slot, count]));
        lines.extend(of_slot);
    }
    for subcommand in ["KEYSLOT", "COUNTKEYSINSLOT", "nosuch", ""] {
        lines.push(line(&["CLUSTER", subcommand]));
    }
    for subcommand in ["MYID", "INFO", "SLOTS", "NODES", "SHARDS", "GETKEYSINSLOT"] {
        lines.push(line(&["CLUSTER", subcommand, "1"]));
    }
    lines.push(line(&["CLUSTER"]));
    lines
}
