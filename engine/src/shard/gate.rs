//! The gate: what has to stay here until the log is durable up to a position.
//!
//! A reply under `--fsync always` waits for the last change of the slots that it speaks of, not
//! only for its own: a read that returns a value which a crash can still take back would be a lie.
//! Connections keep their held bytes themselves ([`super::connection`]); the gate only knows whom
//! to look at when the durable position moves.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::types::Position;

/// Things that wait, by position; equal positions leave in the order in which they came.
#[derive(Debug)]
pub struct Gate<T> {
    heap: BinaryHeap<Reverse<Waiting<T>>>,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    position: Position,
    arrival: u64,
    item: T,
}

impl<T> Default for Gate<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), arrivals: 0 }
    }
}

impl<T> Gate<T> {
    /// Holds an item until `position` is durable.
    pub fn hold(&mut self, position: Position, item: T) {
        self.arrivals += 1;
        self.heap.push(Reverse(Waiting { position, arrival: self.arrivals, item }));
    }

    /// Takes the next item that waits for nothing above `durable`.
    pub fn release(&mut self, durable: Position) -> Option<T> {
        if self.heap.peek().is_some_and(|Reverse(first)| first.position <= durable) {
            return self.heap.pop().map(|Reverse(first)| first.item);
        }
        None
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }
}

impl<T> PartialEq for Waiting<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Waiting<T> {}

impl<T> PartialOrd for Waiting<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Waiting<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.position, self.arrival).cmp(&(other.position, other.arrival))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_in_order_of_position_then_arrival() {
        let mut gate = Gate::default();
        for (position, item) in [(20, 'c'), (10, 'a'), (20, 'd'), (10, 'b')] {
            gate.hold(Position(position), item);
        }
        assert_eq!(gate.release(Position(9)), None);
        let mut left = String::new();
        while let Some(item) = gate.release(Position(10)) {
            left.push(item);
        }
        while let Some(item) = gate.release(Position(25)) {
            left.push(item);
        }
        assert_eq!((left.as_str(), gate.len()), ("abcd", 0));
    }
}
