//! Intents: what a command on several shards holds on this shard, from its grant to its release.
//!
//! A request names all its keys on this shard at once, and is granted whole or not at all. Requests
//! queue by [`Ticket`], one global order: a request may wait only for holders with *lower* tickets;
//! one that comes late (a conflicting holder has a higher ticket) is refused, learns that ticket,
//! gives back everything elsewhere and comes again behind it. So nobody waits in a circle.
//! A request that waits is not overtaken by a conflicting one with a higher ticket.
//!
//! A plain command never holds anything; if it meets an intent on its key it is parked by the
//! caller and tried again when that key is released.
//!
//! Pure bookkeeping: what a grant reads, logs and applies is [`super::participant`]'s.

use std::collections::{BTreeMap, HashMap};

use crate::types::{DbIndex, ShardId};

/// The place of a transaction in the one order by which intents queue. It says nothing about LSNs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// Taken from the coordinator's clock; raised on a refusal.
    pub number: u64,
    /// The coordinator; breaks ties.
    pub shard: ShardId,
}

/// A key with its database, owned: the unit of an intent, a watch or a parked command.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DbKey {
    /// The logical database.
    pub db: DbIndex,
    /// The key.
    pub key: Box<[u8]>,
}

/// How a key is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Only read: others may read too.
    Shared,
    /// Written: nobody else may read or write.
    Exclusive,
}

/// What one transaction asks of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The whole shard, exclusively (FLUSHALL). The keys are still listed: a transaction may also
    /// use some of them.
    pub whole_shard: bool,
    /// Each key once.
    pub keys: Vec<(DbKey, Mode)>,
}

impl Claim {
    /// Whether it is to change anything.
    pub fn writes(&self) -> bool {
        self.whole_shard || self.keys.iter().any(|(_, mode)| *mode == Mode::Exclusive)
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is held.
    Granted,
    /// It waits behind holders with lower tickets.
    Waiting,
    /// It came late: a conflicting holder has this higher ticket.
    Refused(Ticket),
}

#[derive(Debug)]
struct Held {
    mode: Mode,
    holders: Vec<Ticket>,
}

/// All intents of one shard.
#[derive(Debug, Default)]
pub struct IntentTable {
    keys: HashMap<DbKey, Held>,
    granted: BTreeMap<Ticket, Claim>,
    waiting: BTreeMap<Ticket, Claim>,
    whole_shard: Option<Ticket>,
}

impl IntentTable {
    /// Whether no intent is held: the one check on the path of a plain command.
    pub fn is_idle(&self) -> bool {
        self.granted.is_empty()
    }

    /// How many claims are held or wait.
    pub fn len(&self) -> usize {
        self.granted.len() + self.waiting.len()
    }

    /// Whether a plain command that reads (or writes) this key has to wait.
    pub fn blocks(&self, db: DbIndex, key: &[u8], write: bool) -> bool {
        if self.whole_shard.is_some() {
            return true;
        }
        // The table is short and this path is rare, so an owned key for the look-up is no matter.
        let held = self.keys.get(&DbKey { db, key: key.into() });
        held.is_some_and(|held| write || held.mode == Mode::Exclusive)
    }

    /// Whether the whole shard is held.
    pub fn whole_shard(&self) -> bool {
        self.whole_shard.is_some()
    }

    /// The keys that are held exclusively, each once: unresolved at a freeze.
    pub fn exclusive_keys(&self) -> impl Iterator<Item = &DbKey> {
        self.keys.iter().filter(|(_, held)| held.mode == Mode::Exclusive).map(|(key, _)| key)
    }

    /// Asks for a claim under a ticket that no other claim on this shard has.
    pub fn request(&mut self, ticket: Ticket, claim: Claim) -> Outcome {
        assert!(!self.granted.contains_key(&ticket) && !self.waiting.contains_key(&ticket));
        if let Some(holder) = self.highest_conflict(&claim) {
            if holder > ticket {
                return Outcome::Refused(holder);
            }
            self.waiting.insert(ticket, claim);
            return Outcome::Waiting;
        }
        if self.waiting.range(..ticket).any(|(_, earlier)| conflict(earlier, &claim)) {
            self.waiting.insert(ticket, claim);
            return Outcome::Waiting;
        }
        self.grant(ticket, claim);
        Outcome::Granted
    }

    /// Gives back what a ticket holds or waits for, and returns the claim. Waiting requests are
    /// granted by [`Self::grant_next`], after the caller has run what was parked.
    pub fn release(&mut self, ticket: Ticket) -> Option<Claim> {
        if let Some(claim) = self.waiting.remove(&ticket) {
            return Some(claim);
        }
        let claim = self.granted.remove(&ticket)?;
        if self.whole_shard == Some(ticket) {
            self.whole_shard = None;
        }
        for (key, _) in &claim.keys {
            let held = self.keys.get_mut(key).expect("a granted key is in the table");
            held.holders.retain(|holder| *holder != ticket);
            if held.holders.is_empty() {
                self.keys.remove(key);
            }
        }
        Some(claim)
    }

    /// Grants the first waiting request that conflicts with no holder and no earlier request.
    pub fn grant_next(&mut self) -> Option<Ticket> {
        let ticket = self.waiting.iter().find_map(|(ticket, claim)| {
            let free = self.highest_conflict(claim).is_none()
                && !self.waiting.range(..ticket).any(|(_, earlier)| conflict(earlier, claim));
            free.then_some(*ticket)
        })?;
        let claim = self.waiting.remove(&ticket).expect("the ticket was found there");
        self.grant(ticket, claim);
        Some(ticket)
    }

    /// The highest ticket that holds something which this claim may not share.
    fn highest_conflict(&self, claim: &Claim) -> Option<Ticket> {
        if claim.whole_shard {
            return self.granted.last_key_value().map(|(ticket, _)| *ticket);
        }
        let of_keys = claim.keys.iter().filter_map(|(key, mode)| {
            let held = self.keys.get(key)?;
            let shared = held.mode == Mode::Shared && *mode == Mode::Shared;
            if shared { None } else { held.holders.iter().copied().max() }
        });
        of_keys.chain(self.whole_shard).max()
    }

    fn grant(&mut self, ticket: Ticket, claim: Claim) {
        if claim.whole_shard {
            assert!(self.granted.is_empty(), "the whole shard is held alone");
            self.whole_shard = Some(ticket);
        }
        for (key, mode) in &claim.keys {
            let held = self
                .keys
                .entry(key.clone())
                .or_insert_with(|| Held { mode: *mode, holders: Vec::new() });
            assert!(held.holders.is_empty() || (held.mode, *mode) == (Mode::Shared, Mode::Shared));
            held.holders.push(ticket);
        }
        self.granted.insert(ticket, claim);
    }
}

fn conflict(a: &Claim, b: &Claim) -> bool {
    if a.whole_shard || b.whole_shard {
        return true;
    }
    a.keys.iter().any(|(key, mode)| {
        b.keys.iter().any(|(other, other_mode)| {
            key == other && (*mode == Mode::Exclusive || *other_mode == Mode::Exclusive)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(number: u64) -> Ticket {
        Ticket { number, shard: ShardId(0) }
    }

    fn claim(keys: &[(&str, Mode)]) -> Claim {
        let key = |name: &str| DbKey { db: DbIndex(0), key: name.as_bytes().into() };
        Claim { whole_shard: false, keys: keys.iter().map(|(k, m)| (key(k), *m)).collect() }
    }

    #[test]
    fn readers_share_and_writers_wait_or_come_again() {
        use Mode::{Exclusive, Shared};
        let mut table = IntentTable::default();
        assert_eq!(table.request(ticket(2), claim(&[("a", Shared)])), Outcome::Granted);
        assert_eq!(table.request(ticket(3), claim(&[("a", Shared)])), Outcome::Granted);
        let late = table.request(ticket(1), claim(&[("a", Exclusive)]));
        assert_eq!(late, Outcome::Refused(ticket(3)), "it learns the highest holder");
        assert_eq!(table.request(ticket(4), claim(&[("a", Exclusive)])), Outcome::Waiting);
        let overtaking = table.request(ticket(5), claim(&[("a", Shared)]));
        assert_eq!(overtaking, Outcome::Waiting, "a waiting writer is not overtaken");
        assert!(table.blocks(DbIndex(0), b"a", true) && !table.blocks(DbIndex(0), b"a", false));
        assert!(!table.blocks(DbIndex(1), b"a", true), "another database is another key");
        table.release(ticket(2));
        assert_eq!(table.grant_next(), None);
        table.release(ticket(3));
        assert_eq!(table.grant_next(), Some(ticket(4)));
        assert_eq!(table.grant_next(), None);
        assert_eq!(table.exclusive_keys().count(), 1);
        table.release(ticket(4));
        assert_eq!(table.grant_next(), Some(ticket(5)));
        table.release(ticket(5));
        assert!(table.is_idle());
    }

    #[test]
    fn the_whole_shard_is_held_alone() {
        let mut table = IntentTable::default();
        let whole = Claim { whole_shard: true, keys: Vec::new() };
        assert_eq!(table.request(ticket(1), claim(&[("a", Mode::Shared)])), Outcome::Granted);
        assert_eq!(table.request(ticket(2), whole), Outcome::Waiting);
        assert_eq!(table.request(ticket(3), claim(&[("b", Mode::Shared)])), Outcome::Waiting);
        table.release(ticket(1));
        assert_eq!(table.grant_next(), Some(ticket(2)));
        assert!(table.blocks(DbIndex(9), b"any", false));
        assert_eq!(table.grant_next(), None);
        table.release(ticket(2));
        assert_eq!(table.grant_next(), Some(ticket(3)));
    }
}
