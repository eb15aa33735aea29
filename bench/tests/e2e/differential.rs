//! The same random commands to Cutwater and to Valkey, which answers as Redis 7.2 does: replies
//! must be the same, byte by byte, in RESP2 and RESP3.
//!
//! Two connections to each server take turns, so that WATCH meets writes. A failure prints the seed
//! and the lines that led to it; `CUTWATER_DIFFERENTIAL_SEED=n` repeats it alone, and
//! `CUTWATER_DIFFERENTIAL_ROUNDS=n` goes through more seeds than every run of the tests does.

mod lines;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use cutwater_bench::client::{self, Client};
use cutwater_bench::peer::{self, PeerOptions};
use cutwater_bench::process::ServerProcess;
use cutwater_bench::reply::Reply;
use cutwater_bench::server::{self, ServerOptions};
use cutwater_bench::sim::rng::Rng;
use cutwater_bench::tools::{self, Tool};

use lines::Line;

/// Seeds that every run of the tests goes through.
const ROUNDS: u64 = 60;
/// Steps of a round: a line, a pipeline, a line as a person types it, or a whole SCAN.
const STEPS: usize = 300;
/// Connections to each server.
const CONNECTIONS: usize = 2;
/// The longest pipeline.
const PIPELINE_MAX: u64 = 8;
/// How far apart two clocks may be read, in milliseconds, and what that is in seconds.
const CLOCK_SLACK_MS: u64 = 20_000;
const CLOCK_SLACK_S: u64 = CLOCK_SLACK_MS / 1_000;
/// Lines that a failure prints; all of them if the seed runs alone.
const HISTORY: usize = 40;
/// What is shown instead of a reply.
const CLOSED: &str = "closed";
/// Failures that are printed.
const SHOWN: usize = 20;

#[test]
fn replies_are_those_of_redis() {
    if server::is_stand_in() || !tools::available("differential", &[Tool::Valkey]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let peer = peer::start(&PeerOptions {
        dir: dir.path().join("peer"),
        appendfsync: None,
        cluster: false,
        more: Vec::new(),
    })
    .unwrap();
    let variable = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let alone = variable("CUTWATER_DIFFERENTIAL_SEED");
    let rounds = variable("CUTWATER_DIFFERENTIAL_ROUNDS").unwrap_or(ROUNDS);
    let seeds = alone.map_or(0..rounds, |seed| seed..seed + 1);
    let mut failures = Vec::new();
    for shards in [1, 3] {
        let mut options = ServerOptions::new(dir.path().join(format!("{shards}")));
        (options.shards, options.fsync) = (shards, None);
        let subject = options.start().unwrap();
        for seed in seeds.clone() {
            let mut round = Round::begin(seed, &subject, &peer);
            if alone.is_some() {
                round.history_max = usize::MAX;
            }
            if let Err(difference) = round.run() {
                let history = round.history();
                failures.push(format!("seed {seed}, {shards} shards: {difference}\n{history}"));
            }
        }
    }
    let (count, list) = (failures.len(), failures[..failures.len().min(SHOWN)].join("\n"));
    assert_eq!(count, 0, "{count} of {} rounds differ:\n{list}", 2 * (seeds.end - seeds.start));
}

/// CLUSTER, with what is in the slots, and its errors: the same lines to a cluster of one node.
#[test]
fn slots_are_those_of_a_redis_cluster() {
    if server::is_stand_in() || !tools::available("differential_cluster", &[Tool::Valkey]) {
        return;
    }
    let (dir, appendfsync) = (tempfile::tempdir().unwrap(), None);
    let (peer, more) = (dir.path().join("peer"), Vec::new());
    let peer = peer::start(&PeerOptions { dir: peer, appendfsync, cluster: true, more }).unwrap();
    let mut options = ServerOptions::new(dir.path().join("subject"));
    (options.shards, options.fsync) = (3, None);
    let subject = options.start().unwrap();
    let mut clients = [&subject, &peer].map(|server| server.client().unwrap());
    wait_for_cluster(&mut clients[1]);
    for line in lines::cluster() {
        let [got, wanted] = clients.each_mut().map(|client| client.call(&line).unwrap());
        let words: Vec<String> = line.iter().map(|word| quoted(word)).collect();
        assert_eq!(sorted(&got), sorted(&wanted), "{}", words.join(" "));
    }
}

/// A node that was just given its slots needs a moment until it serves them.
fn wait_for_cluster(client: &mut Client) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let info = client.call(&["CLUSTER", "INFO"]).unwrap();
        if String::from_utf8_lossy(info.bytes().unwrap()).contains("cluster_state:ok") {
            return;
        }
        assert!(Instant::now() < deadline, "{info}");
        std::thread::yield_now();
    }
}

/// One connection to each server.
struct Pair<'s> {
    subject: Client,
    peer: Client,
    servers: [&'s ServerProcess; 2],
    /// The commands that a transaction has queued; `None` outside of one.
    queued: Option<Vec<Line>>,
    /// Whether a line that was made has begun a transaction: the one that follows a MULTI in a
    /// pipeline is made before any reply.
    in_multi: bool,
}

struct Round<'s> {
    seed: u64,
    rng: Rng,
    pairs: Vec<Pair<'s>>,
    lines: VecDeque<String>,
    history_max: usize,
}

impl<'s> Round<'s> {
    fn begin(seed: u64, subject: &'s ServerProcess, peer: &'s ServerProcess) -> Self {
        for server in [subject, peer] {
            assert!(server.client().unwrap().call(&["FLUSHALL"]).unwrap().is_ok());
        }
        let pairs = (0..CONNECTIONS).map(|_| Pair::connect([subject, peer])).collect();
        Self { seed, rng: Rng::new(seed), pairs, lines: VecDeque::new(), history_max: HISTORY }
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..STEPS {
            let at = self.rng.below(CONNECTIONS);
            match self.rng.below(20) {
                0 => self.pipeline(at)?,
                1 => self.typed(at)?,
                2 => self.whole_scan(at)?,
                _ => {
                    let line = self.line(at);
                    self.send(at, &[line])?;
                }
            }
        }
        self.compare_all_keys()
    }

    fn history(&self) -> String {
        let mut text = format!("the last lines of seed {}:\n", self.seed);
        for line in &self.lines {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    fn line(&mut self, at: usize) -> Line {
        let in_multi = &mut self.pairs[at].in_multi;
        let line = lines::line(&mut self.rng, *in_multi);
        match (&line[0].to_ascii_lowercase()[..], line.len()) {
            (b"multi", _) => *in_multi = true,
            (b"exec" | b"discard" | b"reset", 1) => *in_multi = false,
            _ => {}
        }
        line
    }

    fn note(&mut self, line: String) {
        if self.lines.len() == self.history_max {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    fn pipeline(&mut self, at: usize) -> Result<(), String> {
        let count = self.rng.between(2, PIPELINE_MAX);
        let lines: Vec<Line> = (0..count).map(|_| self.line(at)).collect();
        self.send(at, &lines)
    }

    fn send(&mut self, at: usize, lines: &[Line]) -> Result<(), String> {
        let mut bytes = Vec::new();
        lines.iter().for_each(|line| client::encode(line, &mut bytes));
        self.exchange(at, &bytes, lines)
    }

    /// A line without the framing of RESP, quoted as redis-cli's users quote.
    fn typed(&mut self, at: usize) -> Result<(), String> {
        let was_in_multi = self.pairs[at].in_multi;
        let line = self.line(at);
        let mut text: Vec<String> = line.iter().map(|word| quoted(word)).collect();
        if self.rng.chance(10) {
            // Unbalanced, which closes the connection, or a word, with which it is another line.
            self.pairs[at].in_multi |= was_in_multi;
            text.push(self.rng.pick(&["\"a", "'b", "\\"]).to_string());
        }
        let text = text.join(if self.rng.chance(20) { "  " } else { " " });
        let end = if self.rng.chance(50) { "\r\n" } else { "\n" };
        let text = format!("{text}{end}");
        self.note(format!("{at}: as bytes: {text:?}"));
        self.exchange(at, text.as_bytes(), &[line])
    }

    /// Sends the same bytes to both, and compares a reply a line.
    fn exchange(&mut self, at: usize, bytes: &[u8], lines: &[Line]) -> Result<(), String> {
        let pair = &mut self.pairs[at];
        // Where a server has closed the connection, the reply says so.
        let _ = pair.subject.send_raw(bytes);
        let _ = pair.peer.send_raw(bytes);
        for line in lines {
            let pair = &mut self.pairs[at];
            let replies = [pair.subject.receive(), pair.peer.receive()];
            let [got, wanted] = replies.each_ref().map(shown);
            let same = match &replies {
                [Ok(subject), Ok(peer)] => pair.is_same(line, subject, peer),
                _ => got == wanted,
            };
            let words: Vec<String> = line.iter().map(|word| quoted(word)).collect();
            let words = words.join(" ");
            self.note(format!("{at}> {words}\n   {wanted}"));
            if !same {
                return Err(format!("{words}: Cutwater answers\n{got}\nand not\n{wanted}"));
            }
            if wanted == CLOSED {
                self.pairs[at] = Pair::connect(self.pairs[at].servers);
                return Ok(());
            }
        }
        Ok(())
    }

    /// All calls of a SCAN together: the order and the cursors are each server's own.
    fn whole_scan(&mut self, at: usize) -> Result<(), String> {
        // The others may be in a transaction, or about to be closed.
        let servers = self.pairs[at].servers;
        let pair = &mut Pair::connect(servers);
        let count = self.rng.between(1, 20).to_string();
        let options = ["COUNT", &count];
        let keys = [&mut pair.subject, &mut pair.peer].map(|client| scan(client, &options));
        if keys[0] == keys[1] { Ok(()) } else { Err(format!("SCAN {options:?}: {keys:?}")) }
    }

    fn compare_all_keys(&mut self) -> Result<(), String> {
        self.pairs = vec![Pair::connect(self.pairs[0].servers)];
        for db in 0..16 {
            let words = |text: &str| text.split(' ').map(|word| word.as_bytes().to_vec()).collect();
            self.send(0, &[words(&format!("SELECT {db}")), words("DBSIZE"), words("KEYS *")])?;
            for key in scan(&mut self.pairs[0].peer, &[]) {
                let line = |name: &str| vec![name.as_bytes().to_vec(), key.clone()];
                self.send(0, &[line("GET"), line("PTTL"), line("TYPE")])?;
            }
        }
        Ok(())
    }
}

impl<'s> Pair<'s> {
    fn connect(servers: [&'s ServerProcess; 2]) -> Self {
        let [subject, peer] = servers.map(|server| server.client().unwrap());
        Self { subject, peer, servers, queued: None, in_multi: false }
    }

    /// Whether both replies to a line agree; follows what the line does to a transaction.
    fn is_same(&mut self, line: &Line, subject: &Reply, peer: &Reply) -> bool {
        let name = String::from_utf8_lossy(&line[0]).to_ascii_lowercase();
        match (name.as_str(), peer) {
            ("multi", reply) if reply.is_ok() => self.queued = Some(Vec::new()),
            ("exec", Reply::Array(_, wanted)) => {
                let queued = self.queued.take().unwrap_or_default();
                let Reply::Array(_, got) = subject else { return false };
                return wanted.len() == got.len()
                    && queued.len() == wanted.len()
                    && queued.iter().zip(got.iter().zip(wanted)).all(|(line, (got, wanted))| {
                        // Behind writes to several shards it does not look at what they changed.
                        let is_blind = line[0].eq_ignore_ascii_case(b"randomkey");
                        is_blind || agree(line, got, wanted)
                    });
            }
            ("exec" | "discard" | "reset", _) => self.queued = None,
            (_, Reply::Simple(text)) if text == "QUEUED" => {
                self.queued.get_or_insert_default().push(line.clone());
            }
            _ => {}
        }
        agree(line, subject, peer)
    }
}

/// A reply, or that the connection was closed: with bytes that the server has not read, it is
/// reset.
fn shown(reply: &io::Result<Reply>) -> String {
    match reply {
        Ok(reply) => reply.to_string(),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => CLOSED.to_owned(),
            _ => panic!("{error}"),
        },
    }
}

/// Whether two replies to a line are the same, but for what cannot be: order, time, and what
/// belongs to the process.
fn agree(line: &Line, got: &Reply, wanted: &Reply) -> bool {
    let name = String::from_utf8_lossy(&line[0]).to_ascii_lowercase();
    let subcommand = line.get(1).map(|word| String::from_utf8_lossy(word).to_ascii_lowercase());
    let near = |slack: u64| match (got, wanted) {
        (Reply::Integer(got), Reply::Integer(wanted)) => {
            got == wanted || *got >= 0 && *wanted >= 0 && got.abs_diff(*wanted) <= slack
        }
        _ => got == wanted,
    };
    match (name.as_str(), subcommand.as_deref().unwrap_or_default()) {
        ("ttl", _) => near(CLOCK_SLACK_S),
        ("pttl", _) => near(CLOCK_SLACK_MS),
        ("keys", _) => sorted(got) == sorted(wanted),
        ("scan", _) => match (got, wanted) {
            // Redis 7.2 finds no key of a type that does not exist.
            (Reply::Array(..), Reply::Error(text)) => text.starts_with("ERR unknown type name"),
            (Reply::Array(_, got), Reply::Array(_, wanted)) => got.len() == 2 && wanted.len() == 2,
            _ => got == wanted,
        },
        // Valkey has more filters, and looks at their values in another order.
        ("client", "list") if matches!(got, Reply::Error(_)) => matches!(wanted, Reply::Error(_)),
        ("randomkey" | "time" | "hello" | "info", _)
        | ("client", "id" | "info" | "list")
        | ("command", "count" | "") => is_alike(got, wanted),
        _ => got == wanted,
    }
}

/// Whether both are of one kind; errors have to be the same.
fn is_alike(got: &Reply, wanted: &Reply) -> bool {
    match (got, wanted) {
        (Reply::Error(_), _) | (_, Reply::Error(_)) => got == wanted,
        _ => std::mem::discriminant(got) == std::mem::discriminant(wanted),
    }
}

fn sorted(reply: &Reply) -> Vec<String> {
    let mut texts = match reply {
        Reply::Array(_, items) => items.iter().map(Reply::to_string).collect(),
        other => vec![other.to_string()],
    };
    texts.sort();
    texts
}

/// The keys that a whole SCAN names, each once, in order.
fn scan(client: &mut Client, options: &[&str]) -> Vec<Vec<u8>> {
    let (mut cursor, mut keys) = ("0".to_owned(), Vec::new());
    loop {
        let command = [&["SCAN", &cursor], options].concat();
        let reply = client.call(&command).unwrap();
        let Reply::Array(_, parts) = &reply else { panic!("SCAN answers {reply}") };
        let [next, Reply::Array(_, found)] = &parts[..] else { panic!("SCAN answers {reply}") };
        keys.extend(found.iter().map(|key| key.bytes().unwrap().to_vec()));
        cursor = String::from_utf8_lossy(next.bytes().unwrap()).into_owned();
        if cursor == "0" {
            break;
        }
    }
    keys.sort();
    keys.dedup();
    keys
}

fn quoted(word: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"'\\".contains(byte);
    if !word.is_empty() && word.iter().all(is_plain) {
        return String::from_utf8_lossy(word).into_owned();
    }
    Reply::Bulk(word.to_vec()).to_string()
}
