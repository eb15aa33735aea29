//! Going through the keys of one shard: SCAN, KEYS, DBSIZE, RANDOMKEY, and the keys of a slot.
//!
//! A SCAN cursor names a slot and a place in it, never a shard. At the end of this shard's slots
//! the cursor answered is the first slot behind them, so that the next call goes to the shard that
//! owns it; after the last of all slots it is 0. KEYS and DBSIZE answer for this shard; whoever
//! asked all shards puts the answers together. On a shard's own port SCAN goes through that shard,
//! as on a cluster's node. Expired keys are counted until they are removed, but
//! never named.

use super::context::Context;
use super::error::{CommandError, Outcome};
use super::glob;
use super::parse::{self, is_option};
use crate::entry::ValueKind;
use crate::keyspace::{EntryView, ScanCursor};
use crate::resp::{Args, Reply, RespVersion};
use crate::slot::SLOT_COUNT;
use crate::types::Slot;

/// Entries that SCAN visits without COUNT.
const DEFAULT_COUNT: usize = 10;
/// How often one SCAN goes on where the keyspace stopped before the budget was used up: because of
/// the slots that it looked at, most of them empty, or because of other databases' keys. Enough for
/// all slots, so that a small database takes one call for each shard.
const SCAN_ROUNDS: usize = 4;
/// Entries that KEYS and RANDOMKEY visit between two looks at whether they are done.
const BATCH_ENTRIES: usize = 1024;
/// Random picks that may hit expired keys before RANDOMKEY searches for one that has not.
const RANDOM_TRIES: u64 = 32;

/// The arguments of SCAN.
struct ScanOptions<'a> {
    cursor: Option<ScanCursor>,
    count: usize,
    pattern: Option<&'a [u8]>,
    kind: KindFilter,
}

/// What TYPE leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KindFilter {
    Any,
    Only(ValueKind),
    /// A type that does not exist, which is no error.
    None,
}

/// The slot where a SCAN goes on, for whoever picks the shard. A cursor that no SCAN has answered
/// goes anywhere.
///
/// # Errors
/// [`CommandError::Cursor`] if it is no number.
pub fn cursor_slot(cursor: &[u8]) -> Result<Slot, CommandError> {
    let number = parse::cursor(cursor).ok_or(CommandError::Cursor)?;
    Ok(ScanCursor::from_u64(number).unwrap_or_default().slot())
}

/// SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]
pub(super) fn scan(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let options = ScanOptions::parse(args)?;
    let end = context.keyspace().slots().end;
    let (mut found, mut visited) = (Found::default(), 0);
    let mut next = options.cursor;
    for _ in 0..SCAN_ROUNDS {
        let Some(cursor) = next.filter(|cursor| visited < options.count && cursor.slot().0 < end)
        else {
            break;
        };
        next = context.keyspace().scan(cursor, context.db, options.count - visited, |entry| {
            visited += 1;
            if context.is_live(entry) && options.accept(entry) {
                found.push(entry.key());
            }
        });
    }
    // A cluster client goes through the nodes one by one: each ends with its own slots.
    let next = next.filter(|next| !context.as_node || next.slot().0 < end);
    let next = next.map_or(0, ScanCursor::to_u64);
    reply.array(2);
    reply.bulk(itoa::Buffer::new().format(next).as_bytes());
    found.reply(reply);
    Ok(())
}

impl<'a> ScanOptions<'a> {
    fn parse(args: Args<'a>) -> Result<Self, CommandError> {
        let number = parse::cursor(&args[1]).ok_or(CommandError::Cursor)?;
        let mut options = Self {
            // Of a number that no SCAN has answered, nothing is left to scan.
            cursor: ScanCursor::from_u64(number),
            count: DEFAULT_COUNT,
            pattern: None,
            kind: KindFilter::Any,
        };
        let mut rest = args.skip(2).iter();
        while let Some(option) = rest.next() {
            let value = rest.next().ok_or(CommandError::Syntax)?;
            if is_option(option, "COUNT") {
                let count = parse::integer(value).ok_or(CommandError::NotInteger)?;
                options.count = usize::try_from(count).map_err(|_| CommandError::Syntax)?;
                if options.count == 0 {
                    return Err(CommandError::Syntax);
                }
            } else if is_option(option, "MATCH") {
                options.pattern = (!glob::matches_all(value)).then_some(value);
            } else if is_option(option, "TYPE") {
                options.kind = KindFilter::parse(value);
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(options)
    }

    fn accept(&self, entry: EntryView<'_>) -> bool {
        let kind = match self.kind {
            KindFilter::Any => true,
            KindFilter::Only(kind) => entry.kind() == kind,
            KindFilter::None => false,
        };
        kind && self.pattern.is_none_or(|pattern| glob::matches(pattern, entry.key()))
    }
}

impl KindFilter {
    fn parse(name: &[u8]) -> Self {
        let kinds = [ValueKind::String];
        let kind = kinds.into_iter().find(|kind| is_option(name, kind.name()));
        kind.map_or(Self::None, Self::Only)
    }
}

/// KEYS pattern, of this shard.
pub(super) fn keys(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let mut found = Found::default();
    found.keys(context, &args[1], |_| true);
    found.reply(reply);
    Ok(())
}

/// DBSIZE, of this shard.
pub(super) fn dbsize(context: &mut Context<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.integer(context.keyspace().len(context.db) as i64);
    Ok(())
}

/// RANDOMKEY, of this shard.
pub(super) fn randomkey(context: &mut Context<'_>, reply: &mut Reply<'_>) -> Outcome {
    /// Makes one random word into many (the golden ratio in 64 bits).
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
    let pick = |nth: u64| {
        let random = context.random.wrapping_add(nth.wrapping_mul(STEP));
        context.keyspace().random(context.db, random)
    };
    let picked = (0..RANDOM_TRIES).map_while(pick).find(|entry| context.is_live(*entry));
    if let Some(entry) = picked {
        reply.bulk(entry.key());
        return Ok(());
    }
    // Nearly all keys have expired: any other will do, from a random slot on, then from the first.
    let from = Slot((context.random % u64::from(SLOT_COUNT)) as u16);
    match first_live_from(context, from).or_else(|| first_live_from(context, Slot(0))) {
        Some(key) => reply.bulk(&key),
        None => reply.null(),
    }
    Ok(())
}

fn first_live_from(context: &Context<'_>, slot: Slot) -> Option<Vec<u8>> {
    let mut found = None;
    for_each_batch(context, slot, |entry| {
        if found.is_none() && context.is_live(entry) {
            found = Some(entry.key().to_vec());
        }
        found.is_none()
    });
    found
}

/// Calls `f` with the keys of this database on this shard from a slot on; after it answered false,
/// at most to the end of a batch.
fn for_each_batch(context: &Context<'_>, from: Slot, mut f: impl FnMut(EntryView<'_>) -> bool) {
    let end = context.keyspace().slots().end;
    let mut goes_on = true;
    let mut next = Some(ScanCursor::of_slot(from));
    while let (true, Some(cursor)) = (goes_on, next.filter(|cursor| cursor.slot().0 < end)) {
        next = context.keyspace().scan(cursor, context.db, BATCH_ENTRIES, |entry| {
            goes_on &= f(entry);
        });
    }
}

/// Keys as elements of a reply whose number is not known before.
#[derive(Default)]
pub(crate) struct Found {
    encoded: Vec<u8>,
    count: usize,
}

impl Found {
    fn push(&mut self, key: &[u8]) {
        Reply::new(&mut self.encoded, RespVersion::V2).bulk(key);
        self.count += 1;
    }

    /// Adds the keys that a pattern and `accept` let through.
    pub(crate) fn keys(
        &mut self,
        context: &Context<'_>,
        pattern: &[u8],
        accept: impl Fn(&[u8]) -> bool,
    ) {
        let all = glob::matches_all(pattern);
        for_each_batch(context, Slot(0), |entry| {
            let key = entry.key();
            if context.is_live(entry) && (all || glob::matches(pattern, key)) && accept(key) {
                self.push(key);
            }
            true
        });
    }

    pub(crate) fn reply(&self, reply: &mut Reply<'_>) {
        reply.array(self.count);
        reply.raw(&self.encoded);
    }
}

/// CLUSTER COUNTKEYSINSLOT slot
pub(super) fn countkeysinslot(
    context: &mut Context<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Outcome {
    let slot = parse::integer(&args[2]).ok_or(CommandError::NotInteger)?;
    let slot = slot_of_number(slot).ok_or(CommandError::Slot)?;
    let keyspace = context.keyspace();
    let count = if !keyspace.owns(slot) {
        0
    } else if keyspace.len(context.db) == keyspace.total_len() {
        keyspace.slot_len(slot)
    } else {
        let mut count = 0;
        keyspace.keys_in_slot(slot, usize::MAX, |entry| {
            count += u64::from(entry.db() == context.db);
        });
        count
    };
    reply.integer(count as i64);
    Ok(())
}

/// CLUSTER GETKEYSINSLOT slot count
pub(super) fn getkeysinslot(
    context: &mut Context<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Outcome {
    let slot = parse::integer(&args[2]).ok_or(CommandError::NotInteger)?;
    let wanted = parse::integer(&args[3]).ok_or(CommandError::NotInteger)?;
    let slot = slot_of_number(slot).ok_or(CommandError::SlotOrCount)?;
    let wanted = usize::try_from(wanted).map_err(|_| CommandError::SlotOrCount)?;
    let keyspace = context.keyspace();
    let len = if keyspace.owns(slot) { keyspace.slot_len(slot) as usize } else { 0 };
    // Other databases' keys and expired ones count as visited: look again at twice as many until
    // there are enough.
    let mut visits = wanted.min(len);
    loop {
        let mut found = Found::default();
        if visits > 0 {
            keyspace.keys_in_slot(slot, visits, |entry| {
                let named = entry.db() == context.db && context.is_live(entry);
                if named && found.count < wanted {
                    found.push(entry.key());
                }
            });
        }
        if found.count == wanted || visits >= len {
            found.reply(reply);
            return Ok(());
        }
        visits = (visits * 2).min(len);
    }
}

/// The slot that CLUSTER COUNTKEYSINSLOT or GETKEYSINSLOT asks about, for whoever picks the shard.
pub fn argument_slot(args: Args<'_>) -> Option<Slot> {
    args.get(2).and_then(parse::integer).and_then(slot_of_number)
}

fn slot_of_number(number: i64) -> Option<Slot> {
    u16::try_from(number).ok().filter(|slot| *slot < SLOT_COUNT).map(Slot)
}
