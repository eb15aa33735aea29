//! Is there an order of the requests that explains every reply, and the state at the end?
//!
//! Wing and Gong's search, with Lowe's memory of configurations that were tried: at every point one
//! of the requests that no other must precede comes next; what was seen has to agree. A request
//! that nobody has seen answered may have taken effect at any time after it was sent, or never. The
//! state at the end is what a recovery found, so one search says that nothing acknowledged is lost,
//! nothing seen is taken back, and nothing is half there.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::lossy::{Kept, Survivors};
use super::model::{Request, Seen, State};
use crate::reply::Reply;

/// Configurations after which a search is given up.
const MAX_TRIED: usize = 200_000;
/// The most requests of one history.
pub const MAX_REQUESTS: usize = 64;

/// One request of a history.
#[derive(Clone, Debug)]
pub struct Event {
    /// Whose, as an index into the watches of [`State`].
    pub connection: usize,
    /// What.
    pub request: Request,
    /// When it was sent: a step, and milliseconds.
    pub invoked: (u64, u64),
    /// When its reply was there, and the reply.
    pub replied: Option<(u64, u64, Reply)>,
    /// The shards that its keys are on, as bits.
    pub shards: u64,
    /// It waits for everything before it on its connection, and nothing overtakes it.
    pub barrier: bool,
}

/// What a search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Explained,
    /// There is none.
    Impossible,
    /// The search was given up.
    Unknown,
}

/// What the order has to lead to.
pub enum End<'a> {
    /// A state that this accepts.
    Whole(&'a dyn Fn(&State) -> bool),
    /// Any state, of which this is what survived a crash.
    Lossy(Survivors<'a>),
}

/// Searches.
pub fn explain(events: &[Event], initial: &State, end: &End<'_>) -> Verdict {
    let relevant = |event: &&Event| event.replied.is_some() || !event.request.is_read();
    let mut events: Vec<&Event> = events.iter().filter(relevant).collect();
    assert!(events.len() <= MAX_REQUESTS, "a history is bounded");
    // Answered ones first, by when: the usual order is tried first.
    events.sort_by_key(|event| event.replied.as_ref().map_or(u64::MAX, |reply| reply.0));
    let before = events.iter().map(|event| {
        let bits = events.iter().enumerate().filter(|(_, other)| precedes(other, event));
        bits.fold(0u64, |mask, (at, _)| mask | 1 << at)
    });
    let answered = events.iter().enumerate().filter(|(_, event)| event.replied.is_some());
    let mut search = Search {
        before: before.collect(),
        answered: answered.fold(0, |mask, (at, _)| mask | 1 << at),
        events,
        end,
        tried: HashSet::new(),
    };
    match search.from(0, initial, &Kept::all(initial)) {
        true => Verdict::Explained,
        false if search.tried.len() >= MAX_TRIED => Verdict::Unknown,
        false => Verdict::Impossible,
    }
}

/// Whether `a` must take effect before `b` can: it was answered before `b` was sent, or it is
/// earlier on the same connection and nothing lets them overlap.
fn precedes(a: &Event, b: &Event) -> bool {
    if let Some((replied, ..)) = &a.replied
        && *replied < b.invoked.0
    {
        return true;
    }
    if a.connection != b.connection || a.invoked.0 >= b.invoked.0 {
        return false;
    }
    let same_shard = a.shards & b.shards != 0;
    let barrier = a.barrier || b.barrier;
    // Of two that were never answered, a crash may keep the later one, unless they share a log.
    same_shard || (barrier && a.replied.is_some())
}

struct Search<'a> {
    events: Vec<&'a Event>,
    before: Vec<u64>,
    answered: u64,
    end: &'a End<'a>,
    tried: HashSet<u64>,
}

impl Search<'_> {
    fn from(&mut self, done: u64, state: &State, kept: &Kept) -> bool {
        let complete = done & self.answered == self.answered;
        let accepted = || match self.end {
            End::Whole(accepts) => accepts(state),
            End::Lossy(survivors) => survivors.accept(kept),
        };
        if complete && accepted() {
            return true;
        }
        if self.tried.len() >= MAX_TRIED || !self.tried.insert(fingerprint(done, state, kept)) {
            return false;
        }
        let mut nexts = Vec::new();
        for at in 0..self.events.len() {
            if done & 1 << at != 0 || self.before[at] & !done != 0 {
                continue;
            }
            let Some(next) = self.apply(at, state) else { continue };
            // A read that agrees and changes nothing: whatever order explains the rest explains it
            // with this read in front, too, so no other has to be tried.
            if self.events[at].request.is_read() && next == *state {
                nexts = vec![(at, next)];
                break;
            }
            nexts.push((at, next));
        }
        nexts.into_iter().any(|(at, next)| {
            let done = done | 1 << at;
            let ways = match self.end {
                End::Whole(_) => vec![kept.clone()],
                End::Lossy(survivors) => {
                    survivors.ways(kept, self.events[at], (state, &next), self.named(!done))
                }
            };
            ways.iter().any(|kept| self.from(done, &next, kept))
        })
    }

    /// The state after a request, if what was seen of it agrees.
    fn apply(&self, at: usize, state: &State) -> Option<State> {
        let event = self.events[at];
        let seen = Seen {
            invoked_ms: event.invoked.1,
            replied_ms: event.replied.as_ref().map_or(u64::MAX, |reply| reply.1),
            reply: event.replied.as_ref().map(|reply| &reply.2),
        };
        let mut next = state.clone();
        next.apply(event.connection, &event.request, seen).then_some(next)
    }

    /// The keys that those of these requests name that may change something, as bits.
    fn named(&self, events: u64) -> u64 {
        let each = self.events.iter().enumerate();
        let named = each.filter(|(at, event)| events & 1 << at != 0 && !event.request.is_read());
        named.fold(0, |bits, (_, event)| bits | event.request.key_bits())
    }
}

fn fingerprint(done: u64, state: &State, kept: &Kept) -> u64 {
    let mut hasher = DefaultHasher::new();
    (done, state, kept).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::super::model::{Command, Value};
    use super::*;

    fn event(connection: usize, request: Command, span: (u64, Option<(u64, Reply)>)) -> Event {
        let replied = span.1.map(|(at, reply)| (at, at, reply));
        let (request, invoked) = (Request::One(request), (span.0, span.0));
        Event { connection, request, invoked, replied, shards: 1, barrier: false }
    }

    fn ok() -> Reply {
        Reply::Simple("OK".to_owned())
    }

    fn verdict(events: &[Event], last: Option<&str>) -> Verdict {
        let value = |text: &str| Value { bytes: text.into(), expires_at_ms: None };
        let last = vec![last.map(value)];
        let accepts = |state: &State| state.explains(&last, 0);
        explain(events, &State::new(vec![None], 3), &End::Whole(&accepts))
    }

    #[test]
    fn an_acknowledged_write_may_not_be_lost_and_another_may() {
        let set = |replied| event(0, Command::Set(0, b"a".to_vec()), (1, replied));
        assert_eq!(verdict(&[set(Some((2, ok())))], Some("a")), Verdict::Explained);
        assert_eq!(verdict(&[set(Some((2, ok())))], None), Verdict::Impossible);
        assert_eq!(verdict(&[set(None)], None), Verdict::Explained);
        assert_eq!(verdict(&[set(None)], Some("a")), Verdict::Explained);
    }

    #[test]
    fn what_was_read_is_not_taken_back() {
        let set = event(0, Command::Set(0, b"a".to_vec()), (1, None));
        let get = event(1, Command::Get(0), (2, Some((3, Reply::Bulk(b"a".to_vec())))));
        assert_eq!(verdict(&[set.clone(), get.clone()], Some("a")), Verdict::Explained);
        assert_eq!(verdict(&[set, get], None), Verdict::Impossible);
    }

    #[test]
    fn a_read_after_a_write_sees_it() {
        let set = event(0, Command::Set(0, b"a".to_vec()), (1, Some((2, ok()))));
        let nil = Reply::Nil(crate::reply::NilKind::Bulk);
        let late = event(1, Command::Get(0), (3, Some((4, nil.clone()))));
        let overlapping = event(1, Command::Get(0), (2, Some((4, nil))));
        assert_eq!(verdict(&[set.clone(), late], Some("a")), Verdict::Impossible);
        assert_eq!(verdict(&[set, overlapping], Some("a")), Verdict::Explained);
    }
}
