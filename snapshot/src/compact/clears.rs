//! Which slots were cleared, and when last.

use std::ops::Range;

use cutwater_engine::entry::Op;
use cutwater_engine::types::{DATABASE_COUNT, DbIndex, Slot};

const DATABASES: usize = DATABASE_COUNT as usize;

/// The number of the last clear of each slot and database; 0 where there was none.
#[derive(Debug)]
pub struct Clears {
    slots: Range<u16>,
    /// Of all slots at once, as FLUSHALL and FLUSHDB do.
    whole: [u32; DATABASES],
    /// Of single ones, by database; empty as long as there was none.
    single: Vec<u32>,
}

impl Clears {
    /// None yet.
    pub fn new(slots: Range<u16>) -> Self {
        Self { slots, whole: [0; DATABASES], single: Vec::new() }
    }

    /// Notes that these slots (inclusive) were cleared by the op of this number.
    pub fn add(&mut self, first: Slot, last: Slot, db: Option<DbIndex>, number: u32) {
        let cleared = first.0.max(self.slots.start)..last.0.saturating_add(1).min(self.slots.end);
        if cleared.is_empty() {
            return;
        }
        let databases = match db {
            Some(db) => usize::from(db.0)..usize::from(db.0) + 1,
            None => 0..DATABASES,
        };
        for db in databases {
            if cleared == self.slots {
                self.whole[db] = number;
                continue;
            }
            if self.single.is_empty() {
                self.single = vec![0; DATABASES * self.slots.len()];
            }
            let (from, to) = (self.at(db, cleared.start), self.at(db, cleared.end - 1));
            self.single[from..=to].fill(number);
        }
    }

    /// When a slot was cleared last; 0: never.
    pub fn last(&self, db: DbIndex, slot: Slot) -> u32 {
        let db = usize::from(db.0);
        let single = if self.single.is_empty() { 0 } else { self.single[self.at(db, slot.0)] };
        self.whole[db].max(single)
    }

    /// What was cleared of these slots, as ops.
    pub fn ops(&self, slots: Range<u16>) -> Vec<Op<'static>> {
        let mut ops = Vec::new();
        if self.whole.iter().all(|number| *number > 0) {
            ops.extend(clear(&slots, None));
            return ops;
        }
        for db in 0..DATABASES {
            if self.whole[db] > 0 {
                ops.extend(clear(&slots, Some(db)));
            } else if !self.single.is_empty() {
                let mut from = slots.start;
                while from < slots.end {
                    let is_cleared = |slot: u16| self.single[self.at(db, slot)] > 0;
                    let end = (from..slots.end).find(|slot| is_cleared(*slot) != is_cleared(from));
                    let end = end.unwrap_or(slots.end);
                    if is_cleared(from) {
                        ops.extend(clear(&(from..end), Some(db)));
                    }
                    from = end;
                }
            }
        }
        ops
    }

    fn at(&self, db: usize, slot: u16) -> usize {
        db * self.slots.len() + usize::from(slot - self.slots.start)
    }
}

fn clear(slots: &Range<u16>, db: Option<usize>) -> Option<Op<'static>> {
    let last = Slot(slots.end.checked_sub(1).filter(|last| *last >= slots.start)?);
    Some(Op::Clear { first: Slot(slots.start), last, db: db.map(|db| DbIndex(db as u8)) })
}
