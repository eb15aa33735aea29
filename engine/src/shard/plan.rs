//! What a transaction does where: from commands to rounds of tasks for shards, and from their
//! results to replies. Pure; [`super::coordinate`] carries it out.
//!
//! A command whose keys live on several shards is split into commands with the keys of one shard
//! each, and their replies are joined. Three need two looks: MSETNX (all absent? then set), RENAME
//! and COPY to another shard (fetch, then store). A round runs as many commands as it can: up to
//! the first that has to look before it writes.

use std::collections::BTreeMap;

use crate::command::keys::CopyOptions;
use crate::command::table::{CommandFlags, CommandId, CommandSpec, lookup};
use crate::keyspace::OwnedEntry;
use crate::resp::{Args, ArgsBuf};
use crate::slot::{SlotMap, slot_of};
use crate::types::{DbIndex, ShardId, Slot};

use super::intent::{Claim, DbKey, Mode};
use super::join::{Join, integer};
use super::message::{Call, Task, TaskResult, WatchedKey};

/// Where a command belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It has no keys: the shard that received it answers.
    Anywhere,
    /// All its keys are on this shard.
    One(ShardId),
    /// On several.
    Several,
}

/// Whether a command looks at whole shards rather than at named keys.
fn is_whole(id: CommandId) -> bool {
    use CommandId as C;
    matches!(id, C::DbSize | C::Keys | C::RandomKey | C::FlushAll | C::FlushDb)
}

/// Where a command belongs.
pub fn place(spec: &CommandSpec, args: Args<'_>, slots: SlotMap) -> Place {
    use CommandId as C;
    match spec.id {
        // Every shard has connections, and an only one executes them when they are all put back.
        C::ClientList | C::ClientKill => return Place::Several,
        id if is_whole(id) && slots.shards() > 1 => return Place::Several,
        id if is_whole(id) => return Place::One(ShardId(0)),
        C::Scan => return Place::One(slots.owner(slot_of_cursor(args.get(1)))),
        C::ClusterCountKeysInSlot | C::ClusterGetKeysInSlot => {
            return Place::One(slots.owner(slot_of_number(args.get(2))));
        }
        _ => {}
    }
    let mut owners = spec.keys(args.len()).map(|index| slots.owner(slot_of(&args[index])));
    let Some(first) = owners.next() else { return Place::Anywhere };
    if owners.all(|owner| owner == first) { Place::One(first) } else { Place::Several }
}

/// The slot that a SCAN cursor names; slot 0 for what is no cursor, where the command says so.
fn slot_of_cursor(cursor: Option<&[u8]>) -> Slot {
    crate::command::scan::cursor_slot(cursor.unwrap_or_default()).unwrap_or(Slot(0))
}

fn slot_of_number(slot: Option<&[u8]>) -> Slot {
    let number = slot.and_then(|text| std::str::from_utf8(text).ok()?.parse::<u16>().ok());
    Slot(number.filter(|slot| *slot < crate::slot::SLOT_COUNT).unwrap_or(0))
}

/// The commands of one transaction, and how far they are.
#[derive(Debug)]
pub struct Script {
    steps: Vec<Step>,
    next: usize,
    /// What WATCH found.
    watching: Vec<WatchedKey>,
}

/// One round of a script: for each shard its tasks, in order.
#[derive(Debug, Default)]
pub struct Round {
    /// The tasks by shard.
    pub tasks: BTreeMap<ShardId, Vec<Task>>,
    /// For each task of a shard, the step and its part.
    origins: BTreeMap<ShardId, Vec<(usize, usize)>>,
    results: BTreeMap<(usize, usize), TaskResult>,
    awaited: usize,
}

#[derive(Debug)]
struct Step {
    call: Call,
    shape: Shape,
    stage: u8,
    reply: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Shape {
    /// By the coordinator, when all others are done.
    Answered,
    /// Whole on one shard.
    Whole(ShardId),
    /// Split over shards.
    Split { parts: Vec<(ShardId, ArgsBuf)>, join: Join },
    /// MSETNX: the keys by shard, and the pairs by shard.
    SetIfNone { keys: Vec<(ShardId, ArgsBuf)>, pairs: Vec<(ShardId, ArgsBuf)> },
    /// RENAME or COPY from one shard to another.
    Transfer(Transfer),
    /// WATCH.
    Watch(Vec<(ShardId, Vec<DbKey>)>),
}

#[derive(Debug)]
struct Transfer {
    from: (ShardId, DbKey),
    to: (ShardId, DbKey),
    copy: bool,
    replace: bool,
    fetched: Option<Box<OwnedEntry>>,
}

impl Script {
    /// A script of commands. Those without keys are left to [`Self::answer_rest`]; `random` chooses
    /// whose key RANDOMKEY answers, if that shard has one.
    pub fn new(calls: Vec<Call>, slots: SlotMap, mut random: impl FnMut(&Call) -> ShardId) -> Self {
        let steps = calls.into_iter().map(|call| {
            let shape = shape(&call, slots, random(&call));
            let reply = matches!(shape, Shape::Answered).then(Vec::new);
            Step { call, shape, stage: 0, reply }
        });
        Self { steps: steps.collect(), next: 0, watching: Vec::new() }
    }

    /// What the script needs to hold, by shard: every shard that takes part is named.
    pub fn claims(&self, slots: SlotMap) -> BTreeMap<ShardId, Claim> {
        let mut modes: BTreeMap<(ShardId, DbKey), Mode> = BTreeMap::new();
        let mut claims: BTreeMap<ShardId, Claim> = BTreeMap::new();
        for step in &self.steps {
            for shard in step.shards() {
                let claim = claims.entry(shard).or_default();
                let flush = matches!(step.call.spec.id, CommandId::FlushAll | CommandId::FlushDb);
                claim.whole_shard |= flush;
            }
            for (key, mode) in step.keys() {
                let place = (slots.owner(slot_of(&key.key)), key);
                let held = modes.entry(place).or_insert(mode);
                *held = mode.max(*held);
            }
        }
        for ((shard, key), mode) in modes {
            claims.entry(shard).or_default().keys.push((key, mode));
        }
        claims
    }

    /// Whether it only reads, in one round.
    pub fn is_pure_read(&self) -> bool {
        self.steps.iter().all(|step| {
            matches!(step.shape, Shape::Answered | Shape::Watch(_))
                || !step.call.spec.flags.contains(CommandFlags::WRITE)
        })
    }

    /// The next round, or `None` when every command has its reply.
    pub fn round(&mut self) -> Option<Round> {
        let mut round = Round::default();
        for (index, step) in self.steps.iter_mut().enumerate().skip(self.next) {
            for (part, (shard, task)) in step.tasks().into_iter().enumerate() {
                round.tasks.entry(shard).or_default().push(task);
                round.origins.entry(shard).or_default().push((index, part));
            }
            if step.looks_first() {
                break;
            }
        }
        round.awaited = round.tasks.len();
        (round.awaited > 0).then_some(round)
    }

    /// Takes a finished round.
    pub fn absorb(&mut self, round: Round) {
        assert_eq!(round.awaited, 0, "every shard of the round has answered");
        let mut by_step: BTreeMap<usize, Vec<TaskResult>> = BTreeMap::new();
        for ((step, _), result) in round.results {
            match result {
                TaskResult::Watching(mut keys) => {
                    self.watching.append(&mut keys);
                    by_step.entry(step).or_default();
                }
                result => by_step.entry(step).or_default().push(result),
            }
        }
        for (index, results) in by_step {
            self.steps[index].absorb(results);
        }
        while self.steps.get(self.next).is_some_and(|step| step.reply.is_some()) {
            self.next += 1;
        }
    }

    /// The keys that WATCH now watches.
    pub fn take_watching(&mut self) -> Vec<WatchedKey> {
        std::mem::take(&mut self.watching)
    }

    /// Answers the commands that no shard executes.
    pub fn answer_rest(&mut self, mut answer: impl FnMut(&Call) -> Vec<u8>) {
        for step in &mut self.steps {
            if matches!(step.shape, Shape::Answered) {
                step.reply = Some(answer(&step.call));
            }
        }
    }

    /// The replies of all commands.
    pub fn replies(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.steps.iter().map(|step| step.reply.as_deref().expect("the script has run"))
    }
}

impl Round {
    /// Takes the results of one shard, in the order of its tasks; true when none is missing.
    pub fn results(&mut self, shard: ShardId, results: Vec<TaskResult>) -> bool {
        let origins = self.origins.remove(&shard).expect("a shard answers a round once");
        assert_eq!(origins.len(), results.len(), "one result for each task");
        self.results.extend(origins.into_iter().zip(results));
        self.awaited -= 1;
        self.awaited == 0
    }
}

impl Step {
    /// Every shard that takes part.
    fn shards(&self) -> Vec<ShardId> {
        match &self.shape {
            Shape::Answered => Vec::new(),
            Shape::Whole(shard) => vec![*shard],
            Shape::Split { parts, .. } => parts.iter().map(|(shard, _)| *shard).collect(),
            Shape::SetIfNone { keys, .. } => keys.iter().map(|(shard, _)| *shard).collect(),
            Shape::Transfer(transfer) => vec![transfer.from.0, transfer.to.0],
            Shape::Watch(keys) => keys.iter().map(|(shard, _)| *shard).collect(),
        }
    }

    fn keys(&self) -> Vec<(DbKey, Mode)> {
        let Call { spec, db, args } = &self.call;
        match &self.shape {
            Shape::Answered => return Vec::new(),
            // Or a WATCH could begin before a transaction on the key that was answered already
            // takes effect here: its EXEC would fail for a change that came before it.
            Shape::Watch(keys) => {
                let keys = keys.iter().flat_map(|(_, keys)| keys.iter().cloned());
                return keys.map(|key| (key, Mode::Shared)).collect();
            }
            Shape::Transfer(Transfer { from, to, copy, .. }) => {
                let mode = if *copy { Mode::Shared } else { Mode::Exclusive };
                return vec![(from.1.clone(), mode), (to.1.clone(), Mode::Exclusive)];
            }
            _ => {}
        }
        let write = spec.flags.contains(CommandFlags::WRITE);
        let mode = if write { Mode::Exclusive } else { Mode::Shared };
        let args = args.as_args();
        let mut keys: Vec<_> = spec
            .keys(args.len())
            .map(|index| (DbKey { db: *db, key: args[index].into() }, mode))
            .collect();
        if spec.id == CommandId::Copy
            && let Some((target, _)) = copy_options(args, *db)
        {
            keys.push((DbKey { db: target, key: args[2].into() }, mode));
        }
        keys
    }

    /// Whether later commands have to wait for what this one finds.
    fn looks_first(&self) -> bool {
        self.stage == 0 && matches!(self.shape, Shape::SetIfNone { .. } | Shape::Transfer(_))
    }

    fn tasks(&mut self) -> Vec<(ShardId, Task)> {
        if self.reply.is_some() {
            return Vec::new();
        }
        let Call { spec, db, args } = &self.call;
        let db = *db;
        let call = |spec, args: &ArgsBuf| Task::Call(Call { spec, db, args: args.clone() });
        match (&mut self.shape, self.stage) {
            (Shape::Answered, _) => Vec::new(),
            (Shape::Whole(shard), _) => vec![(*shard, call(spec, args))],
            (Shape::Split { parts, .. }, _) => {
                parts.iter().map(|(shard, args)| (*shard, call(spec, args))).collect()
            }
            (Shape::SetIfNone { keys, .. }, 0) => {
                keys.iter().map(|(shard, args)| (*shard, call(command("exists"), args))).collect()
            }
            (Shape::SetIfNone { pairs, .. }, _) => {
                pairs.iter().map(|(shard, args)| (*shard, call(command("mset"), args))).collect()
            }
            (Shape::Transfer(transfer), stage) => transfer.tasks(stage),
            (Shape::Watch(keys), _) => {
                keys.iter().map(|(shard, keys)| (*shard, Task::Watch(keys.clone()))).collect()
            }
        }
    }

    fn absorb(&mut self, results: Vec<TaskResult>) {
        let first_look = self.looks_first();
        self.stage += 1;
        self.reply = match &mut self.shape {
            Shape::Answered => unreachable!("an answered command has no tasks"),
            Shape::Whole(_) => Some(only_reply(results)),
            Shape::Split { join, .. } => Some(join.join(replies(results))),
            Shape::SetIfNone { .. } if first_look => {
                let found = integer(&Join::Sum.join(replies(results)));
                (found != 0).then(|| b":0\r\n".to_vec())
            }
            Shape::SetIfNone { .. } => Some(b":1\r\n".to_vec()),
            Shape::Transfer(transfer) if first_look => transfer.looked(results),
            Shape::Transfer(transfer) => {
                Some(if transfer.copy { b":1\r\n".to_vec() } else { b"+OK\r\n".to_vec() })
            }
            Shape::Watch(_) => Some(b"+OK\r\n".to_vec()),
        };
    }
}

impl Transfer {
    fn tasks(&mut self, stage: u8) -> Vec<(ShardId, Task)> {
        let ((from, source), (to, target)) = (&self.from, &self.to);
        let one_key = |spec, key: &DbKey| {
            let args = ArgsBuf::new([b"".as_slice(), &key.key]);
            Task::Call(Call { spec, db: key.db, args })
        };
        if stage == 0 {
            let found = one_key(command("exists"), target);
            return vec![(*from, Task::Fetch(source.clone())), (*to, found)];
        }
        let entry = self.fetched.take().expect("the first look fetched it");
        let store = (*to, Task::Store(target.clone(), entry));
        if self.copy { vec![store] } else { vec![(*from, one_key(command("del"), source)), store] }
    }

    /// The reply, if there is nothing to store.
    fn looked(&mut self, results: Vec<TaskResult>) -> Option<Vec<u8>> {
        let mut taken = false;
        for result in results {
            match result {
                TaskResult::Entry(entry) => self.fetched = entry,
                TaskResult::Reply(reply) => taken = integer(&reply) != 0,
                _ => unreachable!("a first look fetches and asks"),
            }
        }
        match (&self.fetched, self.copy) {
            (None, false) => Some(b"-ERR no such key\r\n".to_vec()),
            (None, true) => Some(b":0\r\n".to_vec()),
            (Some(_), true) if taken && !self.replace => Some(b":0\r\n".to_vec()),
            _ => None,
        }
    }
}

fn shape(call: &Call, slots: SlotMap, random: ShardId) -> Shape {
    use CommandId as C;
    let (spec, args) = (call.spec, call.args.as_args());
    if spec.id == C::Watch {
        return Shape::Watch(watch_keys(call, slots));
    }
    match place(spec, args, slots) {
        Place::Anywhere => return Shape::Answered,
        Place::One(shard) => return Shape::Whole(shard),
        Place::Several => {}
    }
    let everywhere = |join| Shape::Split {
        parts: (0..slots.shards()).map(|shard| (ShardId(shard), call.args.clone())).collect(),
        join,
    };
    match spec.id {
        C::DbSize => everywhere(Join::Sum),
        // Only a shard itself knows whether it still has a key.
        C::RandomKey => everywhere(Join::Any(usize::from(random.0))),
        C::ClientList => everywhere(Join::Text),
        // CLIENT KILL addr, and the requester that its shard has added.
        C::ClientKill if args.len() == 4 => everywhere(Join::Killed),
        C::ClientKill => everywhere(Join::Sum),
        C::Keys => everywhere(Join::Concat),
        C::FlushAll | C::FlushDb => everywhere(Join::Ok),
        C::Rename | C::Copy => transfer(call, slots),
        C::MSet | C::MSetNx if args.len() % 2 == 0 => Shape::Whole(slots.owner(slot_of(&args[1]))),
        C::MSet => Shape::Split { parts: split(args, 2, 2, slots).0, join: Join::Ok },
        C::MSetNx => {
            Shape::SetIfNone { keys: split(args, 2, 1, slots).0, pairs: split(args, 2, 2, slots).0 }
        }
        C::MGet => {
            let (parts, places) = split(args, 1, 1, slots);
            Shape::Split { parts, join: Join::Interleave(places) }
        }
        _ => Shape::Split { parts: split(args, 1, 1, slots).0, join: Join::Sum },
    }
}

fn transfer(call: &Call, slots: SlotMap) -> Shape {
    let args = call.args.as_args();
    let copy = call.spec.id == CommandId::Copy;
    let place = |db, key: &[u8]| (slots.owner(slot_of(key)), DbKey { db, key: key.into() });
    let from = place(call.db, &args[1]);
    let options = if copy { copy_options(args, call.db) } else { Some((call.db, true)) };
    // Bad options: the command itself says what is wrong with them.
    let Some((db, replace)) = options else { return Shape::Whole(from.0) };
    let to = place(db, &args[2]);
    Shape::Transfer(Transfer { from, to, copy, replace, fetched: None })
}

/// The options of COPY: the target database, and REPLACE; `None` if they are wrong.
fn copy_options(args: Args<'_>, db: DbIndex) -> Option<(DbIndex, bool)> {
    CopyOptions::parse(args, db).ok().map(|options| (options.db, options.replace))
}

fn watch_keys(call: &Call, slots: SlotMap) -> Vec<(ShardId, Vec<DbKey>)> {
    let mut by_shard: BTreeMap<ShardId, Vec<DbKey>> = BTreeMap::new();
    for key in call.args.as_args().skip(1).iter() {
        let keys = by_shard.entry(slots.owner(slot_of(key))).or_default();
        let key = DbKey { db: call.db, key: key.into() };
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    by_shard.into_iter().collect()
}

/// Splits arguments by the owner of each group of `stride`, of which the first `kept` are kept.
/// Also gives, for each part, the indexes of its groups.
fn split(
    args: Args<'_>,
    stride: usize,
    kept: usize,
    slots: SlotMap,
) -> (Vec<(ShardId, ArgsBuf)>, Vec<Vec<usize>>) {
    let mut parts: BTreeMap<ShardId, (ArgsBuf, Vec<usize>)> = BTreeMap::new();
    for (group, first) in (1..args.len()).step_by(stride).enumerate() {
        let owner = slots.owner(slot_of(&args[first]));
        let (part, groups) =
            parts.entry(owner).or_insert_with(|| (ArgsBuf::new([&args[0]]), Vec::new()));
        (first..first + kept).for_each(|index| part.push(&args[index]));
        groups.push(group);
    }
    parts.into_iter().map(|(shard, (part, groups))| ((shard, part), groups)).unzip()
}

fn command(name: &str) -> &'static CommandSpec {
    lookup(name.as_bytes()).expect("the table has every command that others are made of")
}

fn replies(results: Vec<TaskResult>) -> Vec<Vec<u8>> {
    let reply = |result| match result {
        TaskResult::Reply(reply) => Some(reply),
        _ => None,
    };
    results.into_iter().filter_map(reply).collect()
}

fn only_reply(results: Vec<TaskResult>) -> Vec<u8> {
    replies(results).pop().expect("a call has a reply")
}
