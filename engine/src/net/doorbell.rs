//! The doorbell of a shard: how another thread tells it that a queue has something, without a
//! system call unless the shard sleeps.
//!
//! A producer pushes into a queue and then rings; the shard empties its queues and then parks. The
//! two must never miss each other:
//!
//! ```text
//! producer: push to queue; fence; read `parked`  -> if true: clear it and write the eventfd
//! shard:    set `parked`;  fence; read the queue -> if empty: wait for the eventfd
//! ```
//!
//! Both fences are `SeqCst`, so one of them comes first in the single total order of such fences.
//! If the producer's does, the shard's read sees the push, and the shard does not wait. If the
//! shard's does, the producer's read sees `parked` (or a later value, below), and it writes the
//! eventfd. Both may happen: that is one needless wake, never a missed one.
//!
//! The producer *clears* `parked` as it writes, so that of many producers one pays for the system
//! call. Another that then reads `false` is safe: its fence is before the shard's *next* parking,
//! at the latest, whose read of the queue therefore sees its push; and the shard is on its way to
//! that read, because the eventfd is readable until it was drained, which is after the wait.
//!
//! The flag is about queues only. Completions of the ring reach the same eventfd by the kernel; see
//! `Ring::prepare_to_wait` for that half of the protocol.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use super::eventfd::EventFd;

#[derive(Debug)]
struct Shared {
    eventfd: EventFd,
    /// Set by the shard alone; cleared by the shard or by the producer that wakes it.
    parked: AtomicBool,
}

/// A handle to one shard's doorbell. Clones ring the same shard.
#[derive(Clone, Debug)]
pub struct Doorbell {
    shared: Arc<Shared>,
}

impl Doorbell {
    /// A doorbell of a shard that is awake.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new() -> io::Result<Self> {
        let shared = Shared { eventfd: EventFd::new()?, parked: AtomicBool::new(false) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Called by anyone *after* pushing into a queue of the shard: wakes it if it is parked.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.shared.parked.load(Ordering::Relaxed)
            && self.shared.parked.swap(false, Ordering::AcqRel)
        {
            self.shared.eventfd.signal().expect("an eventfd that we own takes a signal");
        }
    }

    /// Called by the shard alone, with nothing left to do. `nothing_to_do` looks at every queue
    /// again, after the shard has been declared parked; true if all are empty, and then the shard
    /// must wait for the eventfd (`Idle::wait`) and call [`unpark`](Self::unpark). On false
    /// the shard is awake as before and goes on.
    pub fn park(&self, nothing_to_do: impl FnOnce() -> bool) -> bool {
        self.shared.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if nothing_to_do() {
            return true;
        }
        self.unpark();
        false
    }

    /// Called by the shard alone, after its wait: nobody needs to wake it any more.
    pub fn unpark(&self) {
        self.shared.parked.store(false, Ordering::Relaxed);
    }

    /// Makes the eventfd readable, parked or not: the shard's way to wake itself.
    ///
    /// # Errors
    /// None that a healthy process meets.
    pub(super) fn signal(&self) -> io::Result<()> {
        self.shared.eventfd.signal()
    }

    /// Forgets signals that were given until now. Called by the shard alone, after its wait and
    /// before it looks at its queues.
    ///
    /// # Errors
    /// None that a healthy process meets.
    pub fn drain(&self) -> io::Result<bool> {
        self.shared.eventfd.drain()
    }
}

/// The eventfd, for the ring to signal and for the executor to await.
impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.shared.eventfd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    /// Blocks this thread until the eventfd is readable; false if it never is.
    #[expect(clippy::disallowed_methods, reason = "a test that hangs should fail instead")]
    fn wait(doorbell: &Doorbell) -> bool {
        let started = Instant::now();
        while !doorbell.drain().unwrap() {
            if started.elapsed() > Duration::from_secs(20) {
                return false;
            }
            thread::yield_now();
        }
        true
    }

    #[test]
    fn a_shard_that_is_awake_costs_no_system_call() {
        let doorbell = Doorbell::new().unwrap();
        doorbell.ring();
        assert!(!doorbell.drain().unwrap());
        assert!(doorbell.park(|| true));
        doorbell.unpark();
        doorbell.ring();
        assert!(!doorbell.drain().unwrap());
    }

    #[test]
    fn of_many_rings_one_wakes_the_parked() {
        let doorbell = Doorbell::new().unwrap();
        assert!(doorbell.park(|| true));
        doorbell.clone().ring();
        assert!(doorbell.drain().unwrap());
        doorbell.ring();
        assert!(!doorbell.drain().unwrap());
    }

    #[test]
    fn a_found_message_keeps_the_shard_awake() {
        let doorbell = Doorbell::new().unwrap();
        assert!(!doorbell.park(|| false));
        doorbell.ring();
        assert!(!doorbell.drain().unwrap());
    }

    /// Two producers and a shard that parks whenever it can: a missed wake would stall it.
    #[test]
    fn no_message_is_missed_between_threads() {
        const MESSAGES: u64 = 20_000;
        let doorbell = Doorbell::new().unwrap();
        let queued = AtomicU64::new(0);
        // How far the shard came, so that each producer lets it run dry again and again.
        let consumed = AtomicU64::new(0);
        thread::scope(|scope| {
            for producer in 0..2u64 {
                let (doorbell, queued, consumed) = (doorbell.clone(), &queued, &consumed);
                scope.spawn(move || {
                    for message in 0..MESSAGES {
                        queued.fetch_add(1, Ordering::Relaxed);
                        doorbell.ring();
                        if message % 3 == producer {
                            let due = message + 1;
                            while consumed.load(Ordering::Relaxed) < due {
                                thread::yield_now();
                            }
                        }
                    }
                });
            }
            let mut seen = 0;
            while seen < 2 * MESSAGES {
                let now = queued.load(Ordering::Relaxed);
                if now > seen {
                    seen = now;
                    consumed.store(seen, Ordering::Relaxed);
                } else if doorbell.park(|| queued.load(Ordering::Relaxed) == seen) {
                    let woken = wait(&doorbell);
                    doorbell.unpark();
                    // Lets the producers finish, so that the failure is shown.
                    if !woken {
                        consumed.store(u64::MAX, Ordering::Relaxed);
                    }
                    assert!(woken, "a message was missed after {seen}");
                }
            }
        });
    }
}
