//! The hybrid logical clock of one shard: wall-clock time that never runs backwards and respects
//! causality between shards.
//!
//! A shard's next LSN is `max(now, last + 1)`. *Now* is given once a turn, after that turn's input
//! was taken; every message from another shard carries its sender's clock, and
//! [`ShardClock::observe`] moves past it. So an LSN is greater than everything that its command can
//! have seen.
//!
//! [`TimeSource`] makes *now*: CLOCK_BOOTTIME, which no operator can set, plus an offset that is
//! slewed towards the wall clock, so that a step of the wall clock never reaches an LSN as a step.

use std::sync::atomic::{AtomicI64, Ordering};

use nix::time::{ClockId, clock_gettime};

use crate::types::Lsn;

/// The clock of one shard. Pure: time goes in through [`ShardClock::tick`].
#[derive(Debug)]
pub struct ShardClock {
    now_micros: u64,
    last: Lsn,
}

impl ShardClock {
    /// A clock that gives only LSNs above `floor`.
    pub fn new(floor: Lsn, now_micros: u64) -> Self {
        Self { now_micros, last: floor }
    }

    /// Takes a reading of the time source. A reading below the last one is ignored.
    pub fn tick(&mut self, now_micros: u64) {
        self.now_micros = self.now_micros.max(now_micros);
    }

    /// The LSN that [`Self::next_lsn`] would give.
    pub fn peek(&self) -> Lsn {
        Lsn::from_micros(self.now_micros).max(self.last.next())
    }

    /// The next LSN of this shard.
    pub fn next_lsn(&mut self) -> Lsn {
        self.last = self.peek();
        self.last
    }

    /// The highest LSN that was given or observed.
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// Moves past an LSN that another shard has seen.
    pub fn observe(&mut self, lsn: Lsn) {
        self.last = self.last.max(lsn);
    }

    /// The clock as a promise: every LSN that [`Self::next_lsn`] gives from here on is above it.
    pub fn closed(&self) -> Lsn {
        Lsn(self.peek().0 - 1)
    }

    /// Milliseconds since the Unix epoch by which expiry is judged this turn.
    pub fn now_ms(&self) -> u64 {
        self.now_micros / 1_000
    }

    /// Microseconds since the Unix epoch of this turn.
    pub fn now_micros(&self) -> u64 {
        self.now_micros
    }
}

/// How much of an hour the offset may gain or lose in that hour: 500 ppm, as NTP daemons slew.
const SLEW_PARTS_PER_MILLION: i64 = 500;

/// *Now* for all shards of one engine, shared between their threads.
#[derive(Debug)]
pub struct TimeSource {
    /// Added to CLOCK_BOOTTIME, in microseconds.
    offset_micros: AtomicI64,
    /// The CLOCK_BOOTTIME reading of the last slew, in microseconds.
    slewed_at_micros: AtomicI64,
}

impl TimeSource {
    /// A source whose time begins at the wall clock, or above `floor` where that is ahead of it
    /// (the wall clock was set back while the server was down).
    pub fn starting_above(floor: Lsn) -> Self {
        let boot = read_clock(ClockId::CLOCK_BOOTTIME);
        let wall = read_clock(ClockId::CLOCK_REALTIME).max(floor.micros() as i64 + 1);
        Self { offset_micros: AtomicI64::new(wall - boot), slewed_at_micros: AtomicI64::new(boot) }
    }

    /// Microseconds since the Unix epoch.
    pub fn now_micros(&self) -> u64 {
        let now = read_clock(ClockId::CLOCK_BOOTTIME) + self.offset_micros.load(Ordering::Relaxed);
        now.max(0) as u64
    }

    /// Moves the offset towards the wall clock, by at most 500 ppm of the time that passed since
    /// the last call. One shard calls it, about once a second.
    pub fn slew(&self) {
        let boot = read_clock(ClockId::CLOCK_BOOTTIME);
        let elapsed = boot - self.slewed_at_micros.swap(boot, Ordering::Relaxed);
        let bound = elapsed.max(0) * SLEW_PARTS_PER_MILLION / 1_000_000;
        let error = read_clock(ClockId::CLOCK_REALTIME)
            - (boot + self.offset_micros.load(Ordering::Relaxed));
        self.offset_micros.fetch_add(error.clamp(-bound, bound), Ordering::Relaxed);
    }
}

/// A reading of a kernel clock, in microseconds. CLOCK_BOOTTIME is not in the standard library.
#[expect(clippy::disallowed_methods, reason = "this is the clock that the others are to ask")]
fn read_clock(clock: ClockId) -> i64 {
    let time = clock_gettime(clock).expect("Linux has CLOCK_BOOTTIME and CLOCK_REALTIME");
    time.tv_sec() * 1_000_000 + time.tv_nsec() / 1_000
}

/// The wall clock in microseconds since the Unix epoch, for timestamps that people read.
pub fn wall_micros() -> u64 {
    read_clock(ClockId::CLOCK_REALTIME).max(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsns_rise_with_time_with_haste_and_with_messages() {
        let mut clock = ShardClock::new(Lsn::ZERO, 100);
        let first = clock.next_lsn();
        assert_eq!(first, Lsn::from_micros(100));
        assert_eq!(clock.next_lsn(), first.next(), "no time has passed: the counter moves");
        clock.tick(50);
        assert!(clock.next_lsn() > first, "time does not run back");
        let seen = Lsn::from_micros(1_000);
        clock.observe(seen);
        assert_eq!(clock.closed(), seen);
        assert_eq!(clock.next_lsn(), seen.next());
        clock.tick(2_000);
        assert_eq!(clock.next_lsn(), Lsn::from_micros(2_000));
    }

    #[test]
    fn a_source_begins_above_what_was_found() {
        let ahead = Lsn::from_micros(wall_micros() + 60_000_000);
        assert!(TimeSource::starting_above(ahead).now_micros() > ahead.micros());
        let source = TimeSource::starting_above(Lsn::ZERO);
        let before = source.now_micros();
        source.slew();
        assert!(source.now_micros() >= before);
    }
}
