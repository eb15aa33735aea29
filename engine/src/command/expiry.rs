//! When keys expire: EXPIRE and its three relatives, TTL, PTTL, PERSIST, and the instants that the
//! options of SET name. Instants are milliseconds since the Unix epoch; what is logged is always
//! the absolute one.

use super::context::Context;
use super::error::{CommandError, Outcome};
use super::parse::{self, is_option};
use crate::keyspace::EntryView;
use crate::resp::{Args, Reply};

/// Milliseconds in a second.
const SECOND_MS: i64 = 1000;

/// How an argument names an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeForm {
    /// In seconds, else in milliseconds.
    seconds: bool,
    /// Since the Unix epoch, else from now on.
    absolute: bool,
}

impl TimeForm {
    /// From now on, in seconds: EX and EXPIRE.
    pub(super) const IN_SECONDS: Self = Self { seconds: true, absolute: false };
    /// From now on, in milliseconds: PX and PEXPIRE.
    pub(super) const IN_MILLISECONDS: Self = Self { seconds: false, absolute: false };
    /// Since the epoch, in seconds: EXAT and EXPIREAT.
    pub(super) const AT_SECOND: Self = Self { seconds: true, absolute: true };
    /// Since the epoch, in milliseconds: PXAT and PEXPIREAT.
    pub(super) const AT_MILLISECOND: Self = Self { seconds: false, absolute: true };

    /// The form that an option of SET stands for.
    pub(super) fn of_option(option: &[u8]) -> Option<Self> {
        let forms = [
            ("EX", Self::IN_SECONDS),
            ("PX", Self::IN_MILLISECONDS),
            ("EXAT", Self::AT_SECOND),
            ("PXAT", Self::AT_MILLISECOND),
        ];
        forms.into_iter().find(|(name, _)| is_option(option, name)).map(|(_, form)| form)
    }

    /// The instant; `None` if it does not fit into 64 bits.
    fn instant(self, number: i64, now_ms: u64) -> Option<i64> {
        let ms = if self.seconds { number.checked_mul(SECOND_MS)? } else { number };
        if self.absolute { Some(ms) } else { ms.checked_add_unsigned(now_ms) }
    }
}

/// An instant seen from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deadline {
    /// It is still to come; never 0.
    At(u64),
    /// It is now, or has passed.
    Past,
}

impl Deadline {
    /// The instant that an option of SET names, which must be positive.
    pub(super) fn of_option(
        form: TimeForm,
        text: &[u8],
        now_ms: u64,
        command: &'static str,
    ) -> Result<Self, CommandError> {
        let number = parse::integer(text).ok_or(CommandError::NotInteger)?;
        match form.instant(number, now_ms) {
            Some(at_ms) if number > 0 => Ok(Self::of(at_ms, now_ms)),
            _ => Err(CommandError::ExpireTime(command)),
        }
    }

    fn of(at_ms: i64, now_ms: u64) -> Self {
        match u64::try_from(at_ms) {
            Ok(at_ms) if at_ms > now_ms => Self::At(at_ms),
            _ => Self::Past,
        }
    }
}

/// The conditions of EXPIRE and its relatives.
#[derive(Default)]
struct Conditions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl Conditions {
    fn parse(options: Args<'_>) -> Result<Self, CommandError> {
        let mut conditions = Self::default();
        for option in options.iter() {
            let chosen = match () {
                () if is_option(option, "NX") => &mut conditions.nx,
                () if is_option(option, "XX") => &mut conditions.xx,
                () if is_option(option, "GT") => &mut conditions.gt,
                () if is_option(option, "LT") => &mut conditions.lt,
                () => return Err(unsupported(option)),
            };
            *chosen = true;
        }
        if conditions.nx && (conditions.xx || conditions.gt || conditions.lt) {
            return Err(CommandError::ExpireNxAndOther);
        }
        if conditions.gt && conditions.lt {
            return Err(CommandError::ExpireGtAndLt);
        }
        Ok(conditions)
    }

    /// Whether the expiry may change from `old` (`None` counts as never) to `new_ms`.
    fn allow(&self, old: Option<u64>, new_ms: i64) -> bool {
        let old = old.map(|at_ms| i64::try_from(at_ms).unwrap_or(i64::MAX));
        !(self.nx && old.is_some()
            || self.xx && old.is_none()
            || self.gt && old.is_none_or(|old| new_ms <= old)
            || self.lt && old.is_some_and(|old| new_ms >= old))
    }
}

/// Redis prints the option as a C string of bounded length.
fn unsupported(option: &[u8]) -> CommandError {
    const SHOWN_BYTES: usize = 128;
    let shown = parse::repeated(&option[..option.len().min(SHOWN_BYTES)]);
    CommandError::ExpireOption(shown.into_owned())
}

/// EXPIRE | PEXPIRE | EXPIREAT | PEXPIREAT key time [NX | XX | GT | LT]
pub(super) fn expire(
    context: &mut Context<'_>,
    args: Args<'_>,
    form: TimeForm,
    command: &'static str,
    reply: &mut Reply<'_>,
) -> Outcome {
    let conditions = Conditions::parse(args.skip(3))?;
    let number = parse::integer(&args[2]).ok_or(CommandError::NotInteger)?;
    let at_ms = form.instant(number, context.now_ms).ok_or(CommandError::ExpireTime(command))?;
    let key = context.key(&args[1]);
    let old = context.get(&key).map(EntryView::expires_at_ms);
    let changes = old.is_some_and(|old| conditions.allow(old, at_ms));
    if changes {
        match Deadline::of(at_ms, context.now_ms) {
            Deadline::At(at_ms) => context.set_expiry(&key, Some(at_ms)),
            Deadline::Past => {
                context.remove(&key);
            }
        }
    }
    reply.integer(i64::from(changes));
    Ok(())
}

/// PTTL key: -2 without a key, -1 without an expiry.
pub(super) fn pttl(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.integer(remaining_ms(context, &args[1]));
    Ok(())
}

/// TTL key: as PTTL, in seconds, to the nearest.
pub(super) fn ttl(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let remaining = remaining_ms(context, &args[1]);
    let seconds = |ms: i64| ms.saturating_add(SECOND_MS / 2) / SECOND_MS;
    reply.integer(if remaining < 0 { remaining } else { seconds(remaining) });
    Ok(())
}

fn remaining_ms(context: &mut Context<'_>, key: &[u8]) -> i64 {
    let (key, now_ms) = (context.key(key), context.now_ms);
    match context.read(&key).map(EntryView::expires_at_ms) {
        None => -2,
        Some(None) => -1,
        Some(Some(at_ms)) => i64::try_from(at_ms - now_ms).unwrap_or(i64::MAX),
    }
}

/// PERSIST key
pub(super) fn persist(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let key = context.key(&args[1]);
    let expires = context.get(&key).is_some_and(|entry| entry.expires_at_ms().is_some());
    if expires {
        context.set_expiry(&key, None);
    }
    reply.integer(i64::from(expires));
    Ok(())
}
