//! What clients ask for: few keys, many conflicts.
//!
//! Three kinds of keys. *Accounts* are only ever changed by transfers that keep their sum at 0;
//! the *pair* is only ever changed as a pair; both can be judged after a crash of a database that
//! promises less than `--fsync always`. With the *others* everything happens. One more key expires.

use cutwater_engine::slot::{SlotMap, slot_of};
use cutwater_engine::types::ShardId;

use super::model::{Command, FAR_S, Key, Request};
use super::rng::Rng;

/// How many accounts there are; they are the first keys.
pub const ACCOUNTS: usize = 4;
/// The two keys of the pair.
pub const PAIR: [Key; 2] = [ACCOUNTS, ACCOUNTS + 1];
/// The first of the keys with which everything happens.
const FIRST_OTHER: Key = ACCOUNTS + 2;
/// How many of them there are.
const OTHERS: usize = 5;
/// The key that expires.
const EXPIRING: Key = FIRST_OTHER + OTHERS;
/// All keys.
pub const KEYS: usize = EXPIRING + 1;

/// The names of the keys, and what clients do with them.
#[derive(Clone, Debug)]
pub struct Workload {
    /// By key.
    pub names: Vec<Vec<u8>>,
    /// Makes every value another.
    written: u64,
    /// How often values are large enough to take several sectors, in percent.
    large_percent: u64,
    /// How often FLUSHALL comes, in a thousand.
    flush_permille: u64,
}

impl Workload {
    /// Names that spread over the shards as chance will have it.
    pub fn new(rng: &mut Rng) -> Self {
        let name = |key| {
            let kind = match key {
                0..ACCOUNTS => "account",
                EXPIRING => "expiring",
                _ if PAIR.contains(&key) => "pair",
                _ => "other",
            };
            format!("{kind}:{key}:{}", rng.below(1_000)).into_bytes()
        };
        let names = (0..KEYS).map(name).collect();
        let large_percent = *rng.pick(&[0, 10, 50]);
        let flush_permille = *rng.pick(&[0, 10, 40]);
        Self { names, written: 0, large_percent, flush_permille }
    }

    /// What a client asks next. Virtual clients do not watch.
    pub fn request(&mut self, rng: &mut Rng, may_watch: bool) -> Request {
        match rng.below(100) {
            0..22 => self.transfer(rng),
            22..30 => Request::One(Command::MGet((0..ACCOUNTS).collect())),
            30..40 => Request::One(self.pair_command(rng)),
            40..46 if may_watch => {
                let count = 1 + rng.below(2);
                Request::Watch(distinct(rng, count, OTHERS, FIRST_OTHER))
            }
            46..60 => {
                let count = *rng.pick(&[1, 1, 2, 3, 4]);
                Request::Exec((0..count).map(|_| self.command(rng)).collect())
            }
            _ => Request::One(self.command(rng)),
        }
    }

    /// A request as commands of the protocol.
    pub fn encode(&self, request: &Request) -> Vec<Vec<Vec<u8>>> {
        match request {
            Request::One(command) => vec![self.args(command)],
            Request::Watch(keys) => {
                let mut args = vec![b"WATCH".to_vec()];
                args.extend(keys.iter().map(|key| self.names[*key].clone()));
                vec![args]
            }
            Request::Exec(commands) => {
                let mut all = vec![vec![b"MULTI".to_vec()]];
                all.extend(commands.iter().map(|command| self.args(command)));
                all.push(vec![b"EXEC".to_vec()]);
                all
            }
        }
    }

    /// The shards that own the keys of a request, as bits.
    pub fn shards(&self, request: &Request, slots: SlotMap) -> u64 {
        let bits = |keys: &[Key]| {
            keys.iter().fold(0, |bits, key| bits | 1 << slots.owner(slot_of(&self.names[*key])).0)
        };
        let all = |bits: u64| if bits == 0 { (1 << slots.shards()) - 1 } else { bits };
        match request {
            Request::One(command) => all(bits(&command.keys())),
            Request::Watch(keys) => bits(keys),
            Request::Exec(commands) => {
                commands.iter().fold(0, |mask, command| mask | all(bits(&command.keys())))
            }
        }
    }

    /// The shard of a key.
    pub fn owner(&self, key: Key, slots: SlotMap) -> ShardId {
        slots.owner(slot_of(&self.names[key]))
    }

    fn transfer(&mut self, rng: &mut Rng) -> Request {
        let mut accounts = distinct(rng, 2 + rng.clone().below(2), ACCOUNTS, 0);
        let last = accounts.pop().unwrap_or_default();
        let mut sum = 0;
        let mut commands = Vec::new();
        for account in accounts {
            let by = rng.between(1, 1_000) as i64;
            sum += by;
            commands.push(Command::IncrBy(account, by));
        }
        commands.push(Command::IncrBy(last, -sum));
        if rng.chance(30) {
            commands.push(Command::MGet((0..ACCOUNTS).collect()));
        }
        Request::Exec(commands)
    }

    fn pair_command(&mut self, rng: &mut Rng) -> Command {
        match rng.below(10) {
            0..5 => {
                let value = self.value(rng);
                Command::MSet(PAIR.iter().map(|key| (*key, value.clone())).collect())
            }
            5 => {
                let value = self.value(rng);
                Command::MSetNx(PAIR.iter().map(|key| (*key, value.clone())).collect())
            }
            6 => Command::Del(PAIR.to_vec()),
            _ => Command::MGet(PAIR.to_vec()),
        }
    }

    fn command(&mut self, rng: &mut Rng) -> Command {
        if rng.below(1_000) < self.flush_permille as usize {
            return Command::FlushAll;
        }
        let key = FIRST_OTHER + rng.below(OTHERS);
        let two = distinct(rng, 2, OTHERS, FIRST_OTHER);
        let some = distinct(rng, 1 + rng.clone().below(3), OTHERS, FIRST_OTHER);
        match rng.below(27) {
            0..4 => Command::Get(key),
            4..8 => Command::Set(key, self.value(rng)),
            8 => Command::SetExpiring(EXPIRING, self.value(rng), rng.between(1, 40)),
            9 => Command::Get(EXPIRING),
            10 => Command::MGet(vec![EXPIRING, key]),
            11..14 => Command::IncrBy(key, rng.between(1, 9) as i64),
            14..16 => Command::Append(key, self.value(rng)),
            16 => Command::SetRange(key, rng.below(20), self.value(rng)),
            17 => Command::Del(some),
            18 => Command::Exists(some),
            19 | 20 => Command::MSet(some.iter().map(|key| (*key, self.value(rng))).collect()),
            21 => Command::MSetNx(some.iter().map(|key| (*key, self.value(rng))).collect()),
            22 => Command::MGet(some),
            23 => Command::Rename(two[0], two[1]),
            24 => Command::Copy(two[0], two[1], rng.chance(50)),
            25 => Command::ExpireFar(key),
            _ if rng.chance(50) => Command::Persist(key),
            _ => Command::ExpirePast(key),
        }
    }

    /// A value that nobody else has written; or a number, for INCRBY.
    fn value(&mut self, rng: &mut Rng) -> Vec<u8> {
        self.written += 1;
        if rng.chance(20) {
            return (self.written * 1_000).to_string().into_bytes();
        }
        let mut value = format!("v{}.", self.written).into_bytes();
        if rng.chance(self.large_percent) {
            let length = rng.between(500, 3_000) as usize;
            let letter = b'a' + (self.written % 26) as u8;
            value.resize(length, letter);
        }
        value
    }

    fn args(&self, command: &Command) -> Vec<Vec<u8>> {
        let name = |key: &Key| self.names[*key].clone();
        let text = |text: &str| text.as_bytes().to_vec();
        let names = |verb: &str, keys: &[Key]| {
            let mut args = vec![verb.as_bytes().to_vec()];
            args.extend(keys.iter().map(name));
            args
        };
        let pairs = |verb: &str, pairs: &[(Key, Vec<u8>)]| {
            let mut args = vec![verb.as_bytes().to_vec()];
            pairs.iter().for_each(|(key, value)| args.extend([name(key), value.clone()]));
            args
        };
        match command {
            Command::Get(key) => vec![text("GET"), name(key)],
            Command::Set(key, value) => vec![text("SET"), name(key), value.clone()],
            Command::SetExpiring(key, value, ttl_ms) => {
                vec![text("SET"), name(key), value.clone(), text("PX"), text(&ttl_ms.to_string())]
            }
            Command::IncrBy(key, by) => vec![text("INCRBY"), name(key), text(&by.to_string())],
            Command::Append(key, value) => vec![text("APPEND"), name(key), value.clone()],
            Command::SetRange(key, offset, value) => {
                vec![text("SETRANGE"), name(key), text(&offset.to_string()), value.clone()]
            }
            Command::Del(keys) => names("DEL", keys),
            Command::Exists(keys) => names("EXISTS", keys),
            Command::MSet(list) => pairs("MSET", list),
            Command::MSetNx(list) => pairs("MSETNX", list),
            Command::MGet(keys) => names("MGET", keys),
            Command::Rename(from, to) => vec![text("RENAME"), name(from), name(to)],
            Command::Copy(from, to, false) => vec![text("COPY"), name(from), name(to)],
            Command::Copy(from, to, true) => {
                vec![text("COPY"), name(from), name(to), text("REPLACE")]
            }
            Command::FlushAll => vec![text("FLUSHALL")],
            Command::ExpireFar(key) => vec![text("EXPIRE"), name(key), text(&FAR_S.to_string())],
            Command::ExpirePast(key) => vec![text("EXPIRE"), name(key), text("-1")],
            Command::Persist(key) => vec![text("PERSIST"), name(key)],
        }
    }
}

/// `count` different ones of `of` keys from `first` on.
fn distinct(rng: &mut Rng, count: usize, of: usize, first: Key) -> Vec<Key> {
    let mut keys: Vec<Key> = (first..first + of).collect();
    for at in 0..count {
        let other = at + rng.below(of - at);
        keys.swap(at, other);
    }
    keys.truncate(count);
    keys
}

/// Bytes of a pipeline.
pub fn wire(commands: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let mut out = Vec::new();
    for args in commands {
        out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
        for arg in args {
            out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            out.extend_from_slice(arg);
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}
