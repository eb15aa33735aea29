//! What may be left after a crash where replies did not wait for the log (`everysec`, `never`):
//! requests may be lost, answered or not, but nothing survives without what it was built on.
//!
//! [`super::search`] tries orders of the requests; here each request that changed something either
//! survives or is lost:
//!
//! - One that is lost takes with it every later one that names a key that it had changed.
//! - A command on one key is logged when it is carried out. If it is lost, the log of its shard
//!   ends before it, so every later request that touches that shard is lost too.
//!
//! (A transaction is logged on a shard somewhat later than its place in the order, so what lies
//! between, on other keys, may survive it.)
//!
//! What can no longer change has to be what recovery found: that is checked at once, which keeps
//! the search short.

use super::model::{Request, State, Value, agrees};
use super::search::Event;

/// What recovery found, and how.
#[derive(Clone, Copy, Debug)]
pub struct Survivors<'a> {
    /// By key.
    pub found: &'a [Option<Value>],
    /// When it was found, in milliseconds.
    pub now_ms: u64,
    /// The shard of each key before the crash.
    pub owners: &'a [u16],
}

/// What survives of the requests so far.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kept {
    keys: Vec<Option<Value>>,
    /// Keys that a lost request has changed, as bits.
    lost_keys: u64,
    /// Shards whose log has ended, as bits.
    ended_shards: u64,
}

impl Kept {
    /// Everything that was there at the beginning.
    pub fn all(state: &State) -> Self {
        Self { keys: state.keys.clone(), lost_keys: 0, ended_shards: 0 }
    }
}

impl Survivors<'_> {
    /// What may survive once `event` has made `after` of `before`: with it, without it, or neither.
    /// `to_come` are the keys that requests behind it name, as bits.
    pub fn ways(
        &self,
        kept: &Kept,
        event: &Event,
        (before, after): (&State, &State),
        to_come: u64,
    ) -> Vec<Kept> {
        let pairs = before.keys.iter().zip(&after.keys).enumerate();
        let differs = pairs.filter(|(_, (before, after))| before != after);
        let changed = differs.fold(0u64, |bits, (key, _)| bits | 1 << key);
        let possible = |kept: &Kept| {
            self.agree(kept, |key| {
                (kept.lost_keys | !to_come) & 1 << key != 0
                    || kept.ended_shards & 1 << self.owners[key] != 0
            })
        };
        if changed == 0 {
            return if possible(kept) { vec![kept.clone()] } else { Vec::new() };
        }
        let mut ways = Vec::new();
        let named = event.request.key_bits();
        let shards = self.shards(named);
        if named & kept.lost_keys == 0 && shards & kept.ended_shards == 0 {
            let mut with = kept.clone();
            for key in (0..with.keys.len()).filter(|key| changed & 1 << key != 0) {
                with.keys[key].clone_from(&after.keys[key]);
            }
            ways.push(with);
        }
        let mut without = kept.clone();
        without.lost_keys |= changed;
        if matches!(event.request, Request::One(_)) && named.count_ones() == 1 {
            without.ended_shards |= shards;
        }
        ways.push(without);
        ways.retain(possible);
        ways
    }

    /// Whether this is what was found.
    pub fn accept(&self, kept: &Kept) -> bool {
        self.agree(kept, |_| true)
    }

    fn agree(&self, kept: &Kept, is_final: impl Fn(usize) -> bool) -> bool {
        let pairs = kept.keys.iter().zip(self.found).enumerate();
        pairs.into_iter().all(|(key, (kept, found))| {
            !is_final(key) || agrees(kept.as_ref(), found.as_ref(), self.now_ms)
        })
    }

    fn shards(&self, keys: u64) -> u64 {
        let owners = self.owners.iter().enumerate().filter(|(key, _)| keys & 1 << key != 0);
        owners.fold(0, |bits, (_, owner)| bits | 1 << owner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Command;
    use super::super::search::{End, Verdict, explain};
    use super::*;
    use crate::reply::Reply;

    /// SET or COPY, answered, one after the other; keys 0 and 1 are on shard 0, key 2 on shard 1.
    fn verdict(commands: &[Command], found: [Option<&str>; 3]) -> Verdict {
        let event = |(at, command): (usize, &Command)| {
            let at = 2 * at as u64 + 1;
            let reply = match command {
                Command::Copy(..) => Reply::Integer(1),
                _ => Reply::Simple("OK".to_owned()),
            };
            Event {
                connection: 0,
                request: Request::One(command.clone()),
                invoked: (at, at),
                replied: Some((at + 1, at + 1, reply)),
                shards: 3,
                barrier: true,
            }
        };
        let events: Vec<_> = commands.iter().enumerate().map(event).collect();
        let value = |text: &str| Value { bytes: text.into(), expires_at_ms: None };
        let found = found.map(|text| text.map(value));
        let survivors = Survivors { found: &found, now_ms: 0, owners: &[0, 0, 1] };
        explain(&events, &State::new(vec![None; 3], 1), &End::Lossy(survivors))
    }

    fn set(key: usize, value: &str) -> Command {
        Command::Set(key, value.into())
    }

    #[test]
    fn each_shard_may_lose_its_end() {
        let all = [set(0, "a"), set(2, "b"), set(1, "c")];
        for found in [
            [None, None, None],
            [Some("a"), None, None],
            [None, None, Some("b")],
            [Some("a"), Some("c"), None],
        ] {
            assert_eq!(verdict(&all, found), Verdict::Explained, "{found:?}");
        }
        assert_eq!(verdict(&all, [None, Some("c"), None]), Verdict::Impossible);
    }

    #[test]
    fn nothing_survives_what_it_was_built_on() {
        let all = [set(0, "a"), Command::Copy(0, 2, false)];
        assert_eq!(verdict(&all, [Some("a"), None, None]), Verdict::Explained);
        assert_eq!(verdict(&all, [None, None, Some("a")]), Verdict::Impossible);
        let all = [set(2, "a"), Command::Copy(2, 1, false), Command::Copy(1, 0, false)];
        assert_eq!(verdict(&all, [None, Some("a"), Some("a")]), Verdict::Explained);
        assert_eq!(verdict(&all, [Some("a"), None, Some("a")]), Verdict::Impossible);
    }

    #[test]
    fn a_transaction_is_there_whole_or_not() {
        let all = [Command::MSet(vec![(0, "a".into()), (2, "a".into())])];
        assert_eq!(verdict(&all, [Some("a"), None, Some("a")]), Verdict::Explained);
        assert_eq!(verdict(&all, [Some("a"), None, None]), Verdict::Impossible);
    }
}
