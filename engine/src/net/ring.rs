//! One `io_uring` a shard, for its sockets *and* its log.
//!
//! Nothing here makes a system call per request. Methods such as [`Ring::send`] only prepare
//! entries; [`Ring::turn`] submits all of them, lets the kernel finish what it has deferred, and
//! reports what completed, in one `io_uring_enter`, or in none when there is nothing of either.
//!
//! The flags (DESIGN §5): `SINGLE_ISSUER | DEFER_TASKRUN | COOP_TASKRUN`, so completions are worked
//! off only inside our own calls, on the shard's thread: the ring must be made there, and cannot
//! leave it. `TASKRUN_FLAG` tells whether there is deferred work without asking the kernel. The
//! ring's own descriptor never polls as readable with these flags; the doorbell's eventfd, which is
//! registered with the ring, does, and only while the shard has announced that it will wait
//! ([`Ring::prepare_to_wait`]), for the kernel to have nothing to signal while the shard is busy.
//!
//! Invariants:
//! - What the kernel may still read or write is owned by the ring until the completion that ends
//!   it, also when the ring is dropped: sockets are cancelled, writes awaited, and what is still
//!   there after [`DROP_PATIENCE`] is leaked.
//! - A completion is never lost: the queue of completions has `NODROP`, and a turn that leaves some
//!   (over [`EVENTS_PER_TURN`]) finds them in the next.
//! - One send in flight a connection, so that bytes go out in order.
//!
//! Leaves to others: deadlines (time is the executor's), limits on clients and on unsent bytes.

mod queues;
mod sockets;
mod tag;

use std::io;
use std::marker::PhantomData;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::queues::{Completion, Queues};
use self::tag::Tag;
use super::buffers::ReceiveBuffers;
use super::connection::{ConnId, Connections};
use super::doorbell::Doorbell;
use super::event::{Event, IoToken, ListenerId};
use super::file::{FileSlot, FileSync, FileTable, StableBuffer, Syncing, WriteRequest, Writing};

/// Completions that one turn reports at most, so that a turn stays short.
pub const EVENTS_PER_TURN: usize = 1024;

/// How long a ring that is dropped waits for what it has in the kernel: much longer than a disk
/// takes, so only a hung one leads to the leak that then keeps memory safe.
pub const DROP_PATIENCE: Duration = Duration::from_secs(10);

/// Sizes of a ring.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// Entries that go to the kernel in one call; more take a second call. A power of two.
    pub submission_entries: u32,
    /// Completions that wait in shared memory; more wait inside the kernel. A power of two.
    pub completion_entries: u32,
    /// Receive buffers at most. A power of two, at most 2^15. Memory is taken when used.
    pub receive_buffers: u16,
    /// Size of one of them: the most that one `Received` brings.
    pub receive_buffer_size_bytes: u32,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            submission_entries: 1024,
            completion_entries: 8192,
            receive_buffers: 1024,
            receive_buffer_size_bytes: 16 << 10,
        }
    }
}

/// Why there is no ring, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The kernel does not know the flags.
    #[error("the kernel is too old: Linux 6.1 or newer is needed")]
    KernelTooOld,
    /// A seccomp filter, `kernel.io_uring_disabled` or a kernel built without it.
    #[error(
        "io_uring is not permitted here ({0}): allow it in the container's seccomp profile, and \
         set the sysctl kernel.io_uring_disabled to 0"
    )]
    Forbidden(#[source] io::Error),
    /// The rings do not fit into the memory that the user may lock.
    #[error(
        "the limit on locked memory is too low for the rings: raise it (ulimit -l, LimitMEMLOCK)"
    )]
    LockedMemory,
    /// Anything else while setting up.
    #[error("io_uring cannot be set up: {0}")]
    Setup(#[source] io::Error),
    /// The kernel refused to go on with a running ring; the shard cannot.
    #[error("io_uring failed: {0}")]
    Enter(#[source] io::Error),
}

impl RingError {
    /// What an error of io_uring_setup(2) or io_uring_register(2) means.
    pub(crate) fn from_setup(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EINVAL) => Self::KernelTooOld,
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => Self::Forbidden(error),
            Some(libc::ENOMEM) => Self::LockedMemory,
            _ => Self::Setup(error),
        }
    }
}

/// Whether a turn may block its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Never: what a shard uses.
    Never,
    /// Until something completes, if nothing has: for a thread without an executor.
    ForOne,
}

/// Why a send was not taken; the buffer comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum SendRefused {
    /// One is in flight; try again after its `Sent`.
    Busy(Vec<u8>),
    /// The connection is closing or gone; its `Closed` follows or was reported.
    Gone(Vec<u8>),
}

/// A listener and its multishot accept.
#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    state: Accepting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    Armed,
    /// Out of descriptors or memory; not armed.
    Paused,
    /// To be closed when its accept has ended.
    Stopping,
}

/// The ring of one shard. `B` is the buffer type of log writes.
#[derive(Debug)]
pub struct Ring<B: StableBuffer = Vec<u8>> {
    queues: Queues,
    buffers: ReceiveBuffers,
    connections: Connections,
    /// By [`ListenerId`]; none when closed.
    listeners: Vec<Option<Listener>>,
    /// A listener that was stopped while paused has no completion to be reported by.
    stopped_listeners: Vec<ListenerId>,
    writes: FileTable<Writing<B>>,
    syncs: FileTable<Syncing>,
    /// Connections whose receive found no buffer.
    starved: Vec<ConnId>,
    /// Connections whose last operation was over when they were closed.
    over: Vec<ConnId>,
    /// Reused from turn to turn.
    completions: Vec<Completion>,
    /// Keeps the registered eventfd open.
    doorbell: Doorbell,
    /// The kernel watches the doorbell for this ring.
    doorbell_polled: bool,
    /// Not `Send`: `SINGLE_ISSUER` binds the ring to its thread.
    thread_bound: PhantomData<Rc<()>>,
}

impl<B: StableBuffer> Ring<B> {
    /// Sets up the ring of the calling thread, whose completions signal `doorbell`.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn new(config: &RingConfig, doorbell: Doorbell) -> Result<Self, RingError> {
        let queues = Queues::new(config, doorbell.as_raw_fd())?;
        let buffers = ReceiveBuffers::register(
            queues.uring(),
            config.receive_buffers,
            config.receive_buffer_size_bytes,
        )
        .map_err(RingError::from_setup)?;
        Ok(Self {
            queues,
            buffers,
            connections: Connections::default(),
            listeners: Vec::new(),
            stopped_listeners: Vec::new(),
            writes: FileTable::default(),
            syncs: FileTable::default(),
            starved: Vec::new(),
            over: Vec::new(),
            completions: Vec::with_capacity(EVENTS_PER_TURN),
            doorbell,
            doorbell_polled: false,
            thread_bound: PhantomData,
        })
    }

    /// Submits everything that was prepared, reaps, and gives each event to `visit`: at most
    /// [`EVENTS_PER_TURN`] completions. Returns how many completions there were; with a full turn
    /// there may be more.
    ///
    /// # Errors
    /// [`RingError::Enter`], which is final.
    pub fn turn(
        &mut self,
        wait: Wait,
        mut visit: impl FnMut(Event<'_, B>),
    ) -> Result<usize, RingError> {
        self.queues.disable_eventfd();
        let reported_early = self.report_what_needs_no_completion(&mut visit);
        self.queues.enter(wait == Wait::ForOne && reported_early == 0)?;

        let mut completions = std::mem::take(&mut self.completions);
        self.queues.reap(EVENTS_PER_TURN, &mut completions);
        let count = reported_early + completions.len();
        for completion in completions.drain(..) {
            self.complete(completion, &mut visit);
        }
        self.completions = completions;
        // All buffers of this turn are back, so the starved can go on.
        self.feed_starved();
        Ok(count)
    }

    /// Called when the shard has nothing to do and is about to wait for its eventfd: submits what
    /// is prepared, and lets the kernel signal from now on. True if there is nothing to reap, so
    /// waiting is right; false if a turn is due. Meant as the last part of `Doorbell::park`'s
    /// check.
    ///
    /// # Errors
    /// [`RingError::Enter`], which is final.
    pub fn prepare_to_wait(&mut self) -> Result<bool, RingError> {
        if !self.over.is_empty() || !self.stopped_listeners.is_empty() {
            return Ok(false);
        }
        self.queues.prepare_to_wait()
    }

    /// A short wait inside the ring, for a completion or for the doorbell: a sixth of the system
    /// calls of a wait in the executor, which does not run meanwhile. Called like
    /// [`super::Idle::wait`], when `Doorbell::park` said so; the caller unparks.
    ///
    /// # Errors
    /// [`RingError::Enter`], which is final.
    pub fn nap(&mut self, longest: Duration) -> Result<(), RingError> {
        if !self.doorbell_polled {
            self.doorbell_polled = true;
            self.queues.poll_readable(self.doorbell.as_raw_fd(), Tag::Doorbell);
        }
        self.queues.wait_at_most(longest)
    }

    /// Whether a turn would find something to do, as far as can be told without a system call.
    pub fn has_work(&mut self) -> bool {
        !self.over.is_empty() || !self.stopped_listeners.is_empty() || self.queues.has_work()
    }

    /// The doorbell whose eventfd the ring signals.
    pub fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    /// Connections that are not yet reported as closed.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Writes and syncs that are not yet reported.
    pub fn file_operations(&self) -> usize {
        self.writes.len() + self.syncs.len()
    }

    /// Prepares a write; it ends in [`Event::Written`]. Short writes are continued.
    pub fn write(&mut self, request: WriteRequest<B>) {
        let slot = self.writes.insert(Writing::new(request));
        self.submit_write(slot);
    }

    /// Prepares a sync of a file; it ends in [`Event::Synced`]. It does not order itself behind
    /// writes that have not been reported: sync after `Written`.
    pub fn sync(&mut self, file: Arc<OwnedFd>, sync: FileSync, token: IoToken) {
        let slot = self.syncs.insert(Syncing { file, token });
        let fd = self.syncs.get_mut(slot).file.as_raw_fd();
        self.queues.sync(fd, sync, Tag::Sync(slot));
    }

    fn submit_write(&mut self, slot: FileSlot) {
        let rest = self.writes.get_mut(slot).rest();
        self.queues.write(rest, Tag::Write(slot));
    }

    fn complete(&mut self, completion: Completion, visit: &mut impl FnMut(Event<'_, B>)) {
        match completion.tag() {
            Tag::Ignored => {}
            Tag::Doorbell => {
                self.doorbell_polled = false;
                // Else the next poll would find the signal of this one.
                let _ = self.doorbell.drain();
            }
            Tag::Accept(listener) => self.accepted(listener, completion, visit),
            Tag::Receive(conn) => self.received(conn, &completion, visit),
            Tag::Send(conn) => self.sent(conn, &completion, visit),
            Tag::Write(slot) => self.written(slot, completion.outcome(), visit),
            Tag::Sync(slot) => {
                let Syncing { token, .. } = self.syncs.remove(slot);
                visit(Event::Synced { token, result: completion.outcome().map(drop) });
            }
        }
    }

    fn written(
        &mut self,
        slot: FileSlot,
        outcome: io::Result<usize>,
        visit: &mut impl FnMut(Event<'_, B>),
    ) {
        match self.writes.get_mut(slot).advance(outcome) {
            None => self.submit_write(slot),
            Some(result) => {
                let (token, buffer) = self.writes.remove(slot).finish();
                visit(Event::Written { token, result, buffer });
            }
        }
    }

    /// Cancels what sockets do, and reaps without reporting until nothing is in flight. Writes are
    /// not cancelled: half of one would land.
    #[expect(clippy::disallowed_methods, reason = "the end of the ring is outside any turn")]
    fn end_everything(&mut self) -> Result<(), RingError> {
        let started = Instant::now();
        self.cancel_sockets();
        if self.doorbell_polled {
            // Nobody rings any more: it would be waited for in vain.
            self.queues.cancel(Tag::Doorbell);
        }
        while self.queues.in_flight() > 0 && started.elapsed() < DROP_PATIENCE {
            self.queues.wait_at_most(Duration::from_millis(100))?;
            let mut completions = std::mem::take(&mut self.completions);
            completions.clear();
            self.queues.reap(usize::MAX, &mut completions);
            // A connection that came in the meantime is closed.
            completions.drain(..).filter_map(Completion::into_socket).for_each(drop);
            self.completions = completions;
        }
        Ok(())
    }
}

impl<B: StableBuffer> Drop for Ring<B> {
    fn drop(&mut self) {
        let ended = self.end_everything();
        if ended.is_err() || self.queues.in_flight() > 0 {
            // The kernel may still use this memory, for ever as far as we know.
            std::mem::forget(self.connections.take_sends());
            std::mem::forget(std::mem::take(&mut self.writes));
            self.buffers.leak();
        }
    }
}

#[cfg(test)]
mod tests;
