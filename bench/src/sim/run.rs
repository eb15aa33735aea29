//! One seed from its first start to its last check: serve, crash, recover, compare, several times.

use std::hash::{DefaultHasher, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use cutwater_engine::log::segment::is_spare_name;
use cutwater_engine::log::{LogDisk, SimDisk};
use cutwater_engine::slot::SlotMap;
use cutwater_engine::types::{DbIndex, Fsync, Lsn, StartId};

use super::archive::Archive;
use super::boot::{self, Booted, Plan};
use super::drive::{settle, step_until_writing, tempo};
use super::image::Image;
use super::lossy::Survivors;
use super::model::{State, Value};
use super::mutation::{Mutation, NoCrcDisk};
use super::rng::Rng;
use super::sealing::Sealing;
use super::search::{End, MAX_REQUESTS, Verdict, explain};
use super::workload::{ACCOUNTS, KEYS, PAIR, Workload};
use super::world::World;

/// Where the clock of every run begins, in microseconds since the Unix epoch.
const BEGIN_MICROS: u64 = 1_700_000_000_000_000;

/// What a run was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Of everything that happened: two runs of a seed have the same.
    pub hash: u64,
    /// Requests of clients.
    pub requests: u64,
    /// Starts.
    pub starts: u64,
    /// Snapshots that were completed.
    pub snapshots: u64,
    /// Records that were archived.
    pub archived: u64,
    /// Searches that were given up.
    pub unknown: u64,
    /// Searches for what may survive that were given up; the replies alone were then explained.
    pub unknown_losses: u64,
}

/// A run that found something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed that repeats it.
    pub seed: u64,
    /// What was found.
    pub what: String,
}

/// Runs a seed.
///
/// # Errors
/// What must not be: the database has lost, taken back or halved something, waits for ever, or has
/// stopped at an assertion.
pub fn run(seed: u64, mutation: Mutation) -> Result<Report, Failure> {
    caught(seed, || Run::new(seed, mutation))
}

/// [`run`], with an archive beside it.
///
/// # Errors
/// As for [`run`]; or the archive has not exactly what counts.
pub fn run_archived(seed: u64) -> Result<Report, Failure> {
    caught(seed, || {
        let mut run = Run::new(seed, Mutation::None);
        run.world.archive.is_on = true;
        // Log waits for the archive.
        run.world.recycles = false;
        run
    })
}

fn caught(seed: u64, new: impl FnOnce() -> Run) -> Result<Report, Failure> {
    let result = catch_unwind(AssertUnwindSafe(|| new().all()));
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    });
    result.map_err(|what| Failure { seed, what })
}

struct Run {
    world: World,
    report: Report,
    /// What the shards held when they began to serve.
    initial: Vec<Option<Value>>,
    /// The shard of each key while they served.
    owners: Vec<u16>,
    hash_seed: u64,
}

impl Run {
    fn new(seed: u64, mutation: Mutation) -> Self {
        let mut rng = Rng::new(seed);
        let fsync = match rng.below(10) {
            0 => Fsync::Everysec,
            1 => Fsync::Never,
            _ => Fsync::Always,
        };
        let fsync = if mutation == Mutation::None { fsync } else { Fsync::Always };
        let tempo = tempo(&mut rng);
        // A checksum that is mended does not open what is sealed: runs without one are plain.
        let sealing = match mutation {
            Mutation::NoCrc | Mutation::NoSeal => Sealing::off(seed),
            _ => Sealing::new(seed),
        };
        let world = World {
            hash: DefaultHasher::new(),
            disk: SimDisk::new(rng.any()),
            dir: PathBuf::from("log"),
            workload: Workload::new(&mut rng),
            fsync,
            segment_bytes: *rng.pick(&[8 << 10, 16 << 10, 64 << 10]),
            mutation,
            tempo,
            now_micros: BEGIN_MICROS,
            step: 0,
            start: StartId(0),
            nodes: Vec::new(),
            clients: Vec::new(),
            connections: 0,
            history: Vec::new(),
            quota: 0,
            shot: None,
            complete: Vec::new(),
            snapshots: 0,
            completed: 0,
            recycles: rng.chance(40),
            whole_log: true,
            refused: false,
            spares: Vec::new(),
            archive: Archive::default(),
            sealing,
            rng,
        };
        let (report, initial, owners) = (Report::default(), vec![None; KEYS], vec![0; KEYS]);
        Self { world, report, initial, owners, hash_seed: seed }
    }

    fn all(mut self) -> Result<Report, String> {
        let periods = 2 + self.world.rng.below(3);
        for _ in 0..periods {
            self.start()?;
            self.serve()?;
            self.crash();
        }
        self.start()?;
        self.report.archived = self.world.archive.records() as u64;
        self.report.hash = self.world.hash.finish();
        Ok(self.report)
    }

    /// Serves for a while, mostly not until the end.
    fn serve(&mut self) -> Result<(), String> {
        let world = &mut self.world;
        world.quota = 8 + world.rng.below(MAX_REQUESTS - 16);
        let steps = if world.rng.chance(70) { 20 + world.rng.below(600) } else { usize::MAX };
        for _ in 0..steps {
            if !world.step()? {
                world.idle(1_000);
                if world.clients.iter().all(|client| client.unanswered() == 0) && world.quota == 0 {
                    break;
                }
                if steps == usize::MAX {
                    break;
                }
            }
        }
        if steps == usize::MAX {
            self.come_to_rest()?;
        } else if world.rng.chance(60) {
            step_until_writing(world)?;
        }
        self.report.snapshots += std::mem::take(&mut self.world.completed);
        self.report.requests += self.world.history.len() as u64;
        Ok(())
    }

    /// Lets everything end that is under way; it has to.
    fn come_to_rest(&mut self) -> Result<(), String> {
        let world = &mut self.world;
        world.quota = 0;
        settle(world)?;
        for (at, client) in world.clients.iter().enumerate() {
            if client.unanswered() > 0 {
                let open: Vec<_> = world.nodes.iter().map(|node| node.core.unfinished()).collect();
                let (shard, count) = (client.shard, client.unanswered());
                let waits = world.history.iter().filter(|event| {
                    event.connection == client.connection && event.replied.is_none()
                });
                let mut first = waits.map(|event| format!("{:?}", event.request));
                return Err(format!(
                    "client {at} of shard {shard} waits for {count} replies for ever; open: \
                     {open:?}; in {}, out {}; virtual {} batch {} conn {:x}; first {:?}",
                    client.to_server.len(),
                    client.from_server.len(),
                    client.is_virtual,
                    client.batch.len(),
                    client.conn.0,
                    first.next()
                ));
            }
        }
        if let Some(shot) = &mut world.shot {
            shot.stuck = false;
        }
        settle(world)?;
        if world.shot.is_some() {
            return Err("a snapshot does not end".to_owned());
        }
        for (at, node) in world.nodes.iter().enumerate() {
            if node.core.unfinished() > 0 {
                return Err(format!("shard {at} has {} things open", node.core.unfinished()));
            }
        }
        let found = self.found()?;
        self.check(&found, true)
    }

    fn crash(&mut self) {
        let world = &mut self.world;
        world.nodes.clear();
        world.forget_marks();
        if world.rng.chance(20) { world.disk.kill() } else { world.disk.crash() }
    }

    /// Recovers, after some failed attempts; then everything has to be there.
    fn start(&mut self) -> Result<(), String> {
        while self.world.rng.chance(30) {
            let operations = self.world.rng.below(12) as u64;
            self.world.disk.fail_after(operations);
            let attempt = self.boot();
            if attempt.is_ok() && self.world.rng.chance(50) {
                break;
            }
            self.world.disk.crash();
        }
        self.world.disk.fail_after(u64::MAX / 2);
        self.compare()?;
        let booted = self.boot()?;
        let world = &mut self.world;
        let files = world.disk.list(&world.dir).map_err(|error| error.to_string())?;
        let names = files.into_iter().map(|file| file.name);
        world.spares = names.filter(|name| is_spare_name(name)).collect();
        world.start = booted.start;
        world.now_micros = booted.now_micros;
        self.report.starts += 1;
        let first = world.history.is_empty() && booted.start == StartId(1);
        let clients = 1 + world.rng.below(4);
        let history = std::mem::take(&mut world.history);
        let connections = world.connections;
        world.serve(booted.cores, clients);
        let (history, connections) = (
            std::mem::replace(&mut world.history, history),
            std::mem::replace(&mut world.connections, connections),
        );
        let found = self.found()?;
        if !first {
            self.check(&found, self.world.fsync == Fsync::Always)?;
        }
        self.initial = found;
        let slots = SlotMap::new(self.world.nodes.len() as u16);
        self.owners = (0..KEYS).map(|key| self.world.workload.owner(key, slots).0).collect();
        self.world.history = history;
        self.world.connections = connections;
        Ok(())
    }

    fn boot(&mut self) -> Result<Booted, String> {
        let world = &mut self.world;
        let disk = disk(world);
        let plan = Plan {
            dir: &world.dir,
            shards: 1 + world.rng.below(4) as u16,
            fsync: world.fsync,
            segment_bytes: world.segment_bytes,
            mutation: world.mutation,
            seed: self.hash_seed,
            now_micros: world.now_micros,
            published: world.kept_lsn(),
        };
        let count = world.complete.len();
        let choices = if world.whole_log { count + 1 } else { count };
        let from_end = if choices > 0 { world.rng.below(choices) } else { 0 };
        let image = count.checked_sub(from_end + 1).map(|at| &world.complete[at]);
        boot::boot(disk, &plan, image, &mut world.sealing)
    }

    /// Every way to the state leads to the same, and every snapshot holds the state at its end.
    fn compare(&mut self) -> Result<(), String> {
        let world = &self.world;
        let place = (world.dir.as_path(), &world.sealing.keys);
        if world.start == StartId(0) {
            return Ok(());
        }
        let published = world.kept_lsn();
        world.compare_archive(&disk(world))?;
        let whole = world.whole_log.then_some(None);
        let bases: Vec<_> = whole.into_iter().chain(world.complete.iter().map(Some)).collect();
        let mut first = None;
        for (at, base) in bases.iter().enumerate() {
            let state = boot::replayed(disk(world), place, *base, published, None)?;
            if first.get_or_insert_with(|| state.clone()) != &state {
                return Err(format!("base {at} of {} leads to another state", bases.len()));
            }
            for later in bases[at + 1..].iter().flatten() {
                let limit = Some((later.coverage.start, later.end));
                let state = boot::replayed(disk(world), place, *base, published, limit)?;
                if state != later.at_end {
                    return Err(format!(
                        "the snapshot that ends at {} holds {:?}, and the log from base {at} {:?}",
                        later.end,
                        later.at_end.values(&world.workload.names),
                        state.values(&world.workload.names),
                    ));
                }
            }
        }
        first.map_or(Ok(()), |state| self.tamper(published, &state))
    }

    /// What is sealed is not believed once somebody has changed it, not even what was written last:
    /// the start is refused, or needs none of it.
    fn tamper(&mut self, published: Lsn, state: &Image) -> Result<(), String> {
        let world = &mut self.world;
        if !world.sealing.is_on() && world.mutation != Mutation::NoSeal {
            return Ok(());
        }
        let forged = world.disk.fork(world.step);
        let Some(what) = world.sealing.tamper(&forged, &world.dir) else { return Ok(()) };
        let place = (world.dir.as_path(), &world.sealing.keys);
        let base = if world.whole_log { None } else { world.complete.first() };
        match boot::replayed(Arc::new(forged), place, base, published, None) {
            Ok(found) if found != *state => Err(format!("{what} was altered, and is believed")),
            _ => Ok(()),
        }
    }

    /// What the shards hold.
    fn found(&self) -> Result<Vec<Option<Value>>, String> {
        let world = &self.world;
        let slots = SlotMap::new(world.nodes.len() as u16);
        let mut found = Vec::new();
        for (key, name) in world.workload.names.iter().enumerate() {
            let owner = world.workload.owner(key, slots);
            let keyspace = world.nodes[owner.0 as usize].core.keyspace();
            let entry = keyspace.get(&keyspace.key(DbIndex(0), name));
            found.push(entry.map(|entry| {
                let mut bytes = Vec::new();
                entry.value().copy_to(&mut bytes);
                Value { bytes, expires_at_ms: entry.expires_at_ms() }
            }));
        }
        let held: u64 = world.nodes.iter().map(|node| node.core.keyspace().total_len()).sum();
        let count = found.iter().flatten().count() as u64;
        if held == count {
            return Ok(found);
        }
        Err(format!("the shards hold {held} keys, of which {count} were ever named"))
    }

    /// Whether what clients saw explains what is found; without `exact` that may lack what was done
    /// last, if nothing is left that was built on it.
    fn check(&mut self, found: &[Option<Value>], exact: bool) -> Result<(), String> {
        let world = &self.world;
        let now_ms = world.now_micros / 1_000;
        let number = |value: &Value| {
            std::str::from_utf8(&value.bytes).ok().and_then(|text| text.parse::<i64>().ok())
        };
        let sum: Option<i64> = found[..ACCOUNTS].iter().flatten().map(number).sum();
        if sum != Some(0) {
            return Err(format!("the accounts do not add up: {:?}", &found[..ACCOUNTS]));
        }
        let bytes = |key: usize| found[key].as_ref().map(|value| &value.bytes);
        if bytes(PAIR[0]) != bytes(PAIR[1]) {
            return Err(format!("half a pair: {:?}", &found[PAIR[0]..=PAIR[1]]));
        }
        let initial = State::new(self.initial.clone(), world.connections);
        let accepts = |state: &State| state.explains(found, now_ms);
        let end = match exact {
            true => End::Whole(&accepts),
            false => End::Lossy(Survivors { found, now_ms, owners: &self.owners }),
        };
        let mut history = world.history.clone();
        if world.refused {
            // One that nobody saw answered may have been refused, and a later one not.
            let unanswered = history.iter_mut().filter(|event| event.replied.is_none());
            unanswered.for_each(|event| event.shards = 0);
        }
        match explain(&history, &initial, &end) {
            Verdict::Explained => Ok(()),
            Verdict::Impossible => Err(self.story(found)),
            Verdict::Unknown if exact => {
                self.report.unknown += 1;
                Ok(())
            }
            Verdict::Unknown => {
                self.report.unknown_losses += 1;
                match explain(&history, &initial, &End::Whole(&|_| true)) {
                    Verdict::Impossible => return Err(self.story(found)),
                    Verdict::Unknown => self.report.unknown += 1,
                    Verdict::Explained => {}
                }
                Ok(())
            }
        }
    }

    fn story(&self, found: &[Option<Value>]) -> String {
        use std::fmt::Write as _;
        let mut text = String::from("no order explains what clients saw");
        let short = |value: &Option<Value>| {
            value.as_ref().map(|value| {
                let bytes = &value.bytes[..value.bytes.len().min(12)];
                format!("{}{}", bytes.escape_ascii(), value.expires_at_ms.map_or("", |_| "!"))
            })
        };
        for (key, name) in self.world.workload.names.iter().enumerate() {
            let (before, after) = (short(&self.initial[key]), short(&found[key]));
            let _ = write!(text, "\n  {key} {} {before:?} -> {after:?}", name.escape_ascii());
        }
        for event in &self.world.history {
            let commands = self.world.workload.encode(&event.request);
            let words =
                commands.iter().flatten().map(|word| abridged(&word.escape_ascii().to_string()));
            let request = words.collect::<Vec<_>>().join(" ");
            let reply = event.replied.as_ref().map(|(at, _, reply)| {
                let reply = reply.to_string();
                let words: Vec<_> = reply.split(' ').map(abridged).collect();
                format!("{at}: {}", words.join(" "))
            });
            let (client, at, shards) = (event.connection, event.invoked.0, event.shards);
            let reply = reply.unwrap_or_else(|| "(nothing)".to_owned());
            let _ = write!(text, "\n  #{client} {at} @{shards:b}: {request} -> {reply}");
        }
        text
    }
}

/// The beginning of a word.
fn abridged(word: &str) -> String {
    const CHARS_MAX: usize = 14;
    let mut short: String = word.chars().take(CHARS_MAX).collect();
    if word.len() > short.len() {
        short.push_str("..");
    }
    short
}

fn disk(world: &World) -> Arc<dyn LogDisk> {
    match world.mutation {
        Mutation::NoCrc => Arc::new(NoCrcDisk(world.disk.clone())),
        _ => Arc::new(world.disk.clone()),
    }
}
