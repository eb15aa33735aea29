//! Whole strings: SET and its options, GET, GETDEL, SETNX.

use super::context::Context;
use super::error::{CommandError, Outcome};
use super::expiry::{Deadline, TimeForm};
use super::parse::is_option;
use crate::entry::ValueKind;
use crate::keyspace::{EntryView, KeyRef, ValueView};
use crate::resp::{Args, Reply};

/// When SET sets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// NX: the key must not exist.
    Absent,
    /// XX: the key must exist.
    Present,
}

#[derive(Default)]
struct SetOptions<'a> {
    condition: Option<Condition>,
    get: bool,
    keep_ttl: bool,
    expiry: Option<(TimeForm, &'a [u8])>,
}

/// SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]
pub(super) fn set(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (key, value) = (context.key(&args[1]), &args[2]);
    if args.len() == 3 {
        context.put_string(&key, value, None);
        reply.ok();
        return Ok(());
    }
    let options = SetOptions::parse(args)?;
    let deadline = match options.expiry {
        Some((form, text)) => Some(Deadline::of_option(form, text, context.now_ms, "set")?),
        None => None,
    };
    let entry = context.get(&key);
    let (exists, old_expiry) = (entry.is_some(), entry.and_then(EntryView::expires_at_ms));
    if options.get {
        reply_value(reply, entry)?;
        context.count_lookup(exists);
    }
    if options.condition.is_some_and(|condition| exists != (condition == Condition::Present)) {
        if !options.get {
            reply.null();
        }
        return Ok(());
    }
    match deadline {
        None => context.put_string(&key, value, old_expiry.filter(|_| options.keep_ttl)),
        Some(Deadline::At(at_ms)) => context.put_string(&key, value, Some(at_ms)),
        // Nobody would ever see the value.
        Some(Deadline::Past) => {
            context.remove(&key);
        }
    }
    if !options.get {
        reply.ok();
    }
    Ok(())
}

impl<'a> SetOptions<'a> {
    fn parse(args: Args<'a>) -> Result<Self, CommandError> {
        let mut options = Self::default();
        let mut rest = args.skip(3).iter();
        while let Some(option) = rest.next() {
            if is_option(option, "NX") {
                options.set_condition(Condition::Absent)?;
            } else if is_option(option, "XX") {
                options.set_condition(Condition::Present)?;
            } else if is_option(option, "GET") {
                options.get = true;
            } else if is_option(option, "KEEPTTL") && options.expiry.is_none() {
                options.keep_ttl = true;
            } else {
                let form = TimeForm::of_option(option).ok_or(CommandError::Syntax)?;
                // The same option twice is allowed, and the later one counts.
                let other_form = options.expiry.is_some_and(|(earlier, _)| earlier != form);
                if other_form || options.keep_ttl {
                    return Err(CommandError::Syntax);
                }
                options.expiry = Some((form, rest.next().ok_or(CommandError::Syntax)?));
            }
        }
        Ok(options)
    }

    fn set_condition(&mut self, condition: Condition) -> Outcome {
        if self.condition.is_some_and(|earlier| earlier != condition) {
            return Err(CommandError::Syntax);
        }
        self.condition = Some(condition);
        Ok(())
    }
}

/// GET key
pub(super) fn get(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let key = context.key(&args[1]);
    reply_value(reply, context.read(&key))
}

/// GETDEL key
pub(super) fn getdel(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let key = context.key(&args[1]);
    reply_value(reply, context.read(&key))?;
    context.remove(&key);
    Ok(())
}

/// SETNX key value
pub(super) fn setnx(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let key = context.key(&args[1]);
    let absent = !context.exists(&key);
    if absent {
        context.put_string(&key, &args[2], None);
    }
    reply.integer(i64::from(absent));
    Ok(())
}

/// The string and the expiry of a key; `None` if it does not exist.
pub(super) fn lookup<'c>(
    context: &'c Context<'_>,
    key: &KeyRef<'_>,
) -> Result<Option<(ValueView<'c>, Option<u64>)>, CommandError> {
    match context.get(key) {
        None => Ok(None),
        Some(entry) => Ok(Some((value_of(entry)?, entry.expires_at_ms()))),
    }
}

/// The string of a key for a command that only reads; `None` if it does not exist.
pub(super) fn read_string<'c>(
    context: &'c mut Context<'_>,
    key: &KeyRef<'_>,
) -> Result<Option<ValueView<'c>>, CommandError> {
    context.read(key).map(value_of).transpose()
}

/// The string of an entry.
pub(super) fn value_of(entry: EntryView<'_>) -> Result<ValueView<'_>, CommandError> {
    match entry.kind() {
        ValueKind::String => Ok(entry.value()),
    }
}

/// Answers the string of an entry, or nil.
fn reply_value(reply: &mut Reply<'_>, entry: Option<EntryView<'_>>) -> Outcome {
    match entry {
        None => reply.null(),
        Some(entry) => {
            let value = value_of(entry)?;
            reply_range(reply, value, 0, value.len());
        }
    }
    Ok(())
}

/// Answers `len` bytes of a value from `offset` on; all of them exist.
pub(super) fn reply_range(reply: &mut Reply<'_>, value: ValueView<'_>, offset: usize, len: usize) {
    match value {
        ValueView::Inline(bytes) => reply.bulk(&bytes[offset..offset + len]),
        ValueView::Large(large) => {
            reply.raw(b"$");
            reply.raw(itoa::Buffer::new().format(len).as_bytes());
            reply.raw(b"\r\n");
            let (mut skip, mut left) = (offset, len);
            for piece in large.pieces() {
                let begin = skip.min(piece.len());
                let part = &piece[begin..piece.len().min(begin + left)];
                reply.raw(part);
                skip -= begin;
                left -= part.len();
            }
            reply.raw(b"\r\n");
        }
    }
}
