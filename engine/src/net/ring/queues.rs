//! The two queues that a ring shares with the kernel: entries go in, completions come out.
//!
//! Contract of the pushing methods, kept by `Ring`: bytes that an entry points to stay where they
//! are and unchanged, and a descriptor that it names stays open, until its completion without
//! [`Completion::more`] was reaped. `Ring` therefore owns the buffers and sockets itself, takes
//! them out of its tables only on that completion, and waits for all of them when it is dropped.
//!
//! An entry that finds no room waits in a backlog of our own, so pushing never fails.
#![expect(unsafe_code, reason = "io_uring reads memory and adopts descriptors on our word")]

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode};

use super::tag::Tag;
use super::{RingConfig, RingError};
use crate::net::buffers::BUFFER_GROUP;
use crate::net::file::{FileSync, Rest, WriteSync};

/// One send takes at most this many bytes; the rest follows when it completes. Bounded because the
/// length of an entry has 32 bits.
pub(super) const MAX_SEND_BYTES: usize = 1 << 30;

/// One completion. Not `Copy`: that of an accept stands for a descriptor, which is adopted once.
#[derive(Debug)]
pub(super) struct Completion {
    tag: Tag,
    /// What the system call would have returned; an error is negative.
    result: i32,
    flags: u32,
}

impl Completion {
    /// Whose it is.
    pub(super) fn tag(&self) -> Tag {
        self.tag
    }

    /// The operation goes on, and completes again.
    pub(super) fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer that it filled, which is now ours.
    pub(super) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// The result with its error as one.
    pub(super) fn outcome(&self) -> io::Result<usize> {
        usize::try_from(self.result).map_err(|_| io::Error::from_raw_os_error(-self.result))
    }

    /// The socket that an accept has returned.
    pub(super) fn into_socket(self) -> Option<TcpStream> {
        if !matches!(self.tag, Tag::Accept(_)) || self.result < 0 {
            return None;
        }
        // SAFETY: the result of a successful accept is an open descriptor that the kernel gave to
        // us, and this, which consumes the only completion that names it, alone takes it.
        Some(unsafe { TcpStream::from_raw_fd(self.result) })
    }
}

/// The queues.
pub(super) struct Queues {
    uring: IoUring,
    backlog: VecDeque<Entry>,
    /// Operations in the kernel or before it that will complete, cancellations not counted.
    in_flight: usize,
    /// The kernel signals the eventfd.
    eventfd_enabled: bool,
}

impl Queues {
    /// Sets the ring up; belongs to this thread from now on.
    pub(super) fn new(config: &RingConfig, eventfd: RawFd) -> Result<Self, RingError> {
        let uring = IoUring::builder()
            .dontfork()
            .setup_cqsize(config.completion_entries)
            .setup_clamp()
            .setup_submit_all()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(config.submission_entries)
            .map_err(RingError::from_setup)?;
        if !uring.params().is_feature_nodrop() {
            return Err(RingError::KernelTooOld);
        }
        uring.submitter().register_eventfd(eventfd).map_err(RingError::Setup)?;
        let mut queues =
            Self { uring, backlog: VecDeque::new(), in_flight: 0, eventfd_enabled: true };
        queues.disable_eventfd();
        Ok(queues)
    }

    pub(super) fn uring(&self) -> &IoUring {
        &self.uring
    }

    /// A multishot accept. Accepted sockets are blocking ones: on a non-blocking socket the kernel
    /// would report EAGAIN where it should wait.
    pub(super) fn accept(&mut self, listener: RawFd, tag: Tag) {
        let entry = opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC).build();
        self.push_counted(entry, tag);
    }

    /// A multishot receive into the provided buffers.
    pub(super) fn receive(&mut self, socket: RawFd, tag: Tag) {
        self.push_counted(opcode::RecvMulti::new(Fd(socket), BUFFER_GROUP).build(), tag);
    }

    /// A send; `MSG_WAITALL` lets the kernel go on after a partial one by itself.
    pub(super) fn send(&mut self, socket: RawFd, bytes: &[u8], tag: Tag) {
        let len = u32::try_from(bytes.len().min(MAX_SEND_BYTES)).expect("at most 2^30");
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = opcode::Send::new(Fd(socket), bytes.as_ptr(), len).flags(flags).build();
        self.push_counted(entry, tag);
    }

    /// A write to a file.
    pub(super) fn write(&mut self, rest: Rest<'_>, tag: Tag) {
        let len = u32::try_from(rest.bytes.len().min(MAX_SEND_BYTES)).expect("at most 2^30");
        let flags = match rest.sync {
            WriteSync::AsOpened => 0,
            WriteSync::Durable => libc::RWF_DSYNC,
        };
        let entry = opcode::Write::new(Fd(rest.file), rest.bytes.as_ptr(), len)
            .offset(rest.offset_bytes)
            .rw_flags(flags)
            .build();
        self.push_counted(entry, tag);
    }

    /// Completes when a descriptor becomes readable, once.
    pub(super) fn poll_readable(&mut self, file: RawFd, tag: Tag) {
        let events = u32::from(libc::POLLIN.unsigned_abs());
        self.push_counted(opcode::PollAdd::new(Fd(file), events).build(), tag);
    }

    /// A sync of a file.
    pub(super) fn sync(&mut self, file: RawFd, sync: FileSync, tag: Tag) {
        let flags = match sync {
            FileSync::Data => FsyncFlags::DATASYNC,
            FileSync::All => FsyncFlags::empty(),
        };
        self.push_counted(opcode::Fsync::new(Fd(file)).flags(flags).build(), tag);
    }

    /// Ends the operation that was pushed with `target`. It completes in any case; this itself
    /// completes only if there is nothing to end, and nobody cares.
    pub(super) fn cancel(&mut self, target: Tag) {
        let entry = opcode::AsyncCancel::new(target.encode()).build().flags(Flags::SKIP_SUCCESS);
        self.push(entry.user_data(Tag::Ignored.encode()));
    }

    /// The operations that have not completed for the last time.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether a turn would find something to do.
    pub(super) fn has_work(&mut self) -> bool {
        self.has_deferred_work() || self.has_entries() || self.has_completions()
    }

    /// Whether completions can be reaped without entering the kernel.
    pub(super) fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// Submits everything and lets the kernel finish what it has deferred, in one system call, or
    /// in none if there is nothing of either. Waits for a completion if told to.
    pub(super) fn enter(&mut self, wait: bool) -> Result<(), RingError> {
        loop {
            self.fill_from_backlog();
            let wait = wait && !self.has_completions();
            let prepared = self.prepared();
            if prepared == 0 && !wait && !self.has_deferred_work() {
                return Ok(());
            }
            self.enter_kernel(prepared, u32::from(wait))?;
            // More than one queue full of entries: the rest goes in another call, unless the
            // kernel takes no more before completions were reaped.
            if self.backlog.is_empty() || self.uring.submission().is_full() {
                return Ok(());
            }
        }
    }

    /// Lets the kernel signal the eventfd from now on, and then looks for anything that happened
    /// before: true if there is nothing to reap, so that the thread may wait for the eventfd.
    ///
    /// The kernel adds deferred work to its list, then reads the flag that we clear here. Entering
    /// it after that looks at the list itself, so either we find the work or the kernel signals.
    /// (The `TASKRUN` flag alone would do on x86 only, where setting it is a full barrier.)
    pub(super) fn prepare_to_wait(&mut self) -> Result<bool, RingError> {
        if !self.eventfd_enabled {
            self.uring.completion().enable_eventfd();
            self.eventfd_enabled = true;
        }
        fence(Ordering::SeqCst);
        self.fill_from_backlog();
        let prepared = self.prepared();
        self.enter_kernel(prepared, 0)?;
        if self.has_work() {
            self.disable_eventfd();
            return Ok(false);
        }
        Ok(true)
    }

    /// The thread is awake, and the kernel need not signal.
    pub(super) fn disable_eventfd(&mut self) {
        if self.eventfd_enabled {
            self.uring.completion().disable_eventfd();
            self.eventfd_enabled = false;
        }
    }

    /// Takes at most `limit` completions into `completions`, in order.
    pub(super) fn reap(&mut self, limit: usize, completions: &mut Vec<Completion>) {
        let reaped = self.uring.completion().take(limit).map(|entry| Completion {
            tag: Tag::decode(entry.user_data()),
            result: entry.result(),
            flags: entry.flags(),
        });
        completions.extend(reaped);
        for completion in completions.iter() {
            if !completion.more() && !matches!(completion.tag, Tag::Ignored) {
                self.in_flight -= 1;
            }
        }
    }

    /// Submits everything and waits at most `longest` for a completion.
    pub(super) fn wait_at_most(&mut self, longest: Duration) -> Result<(), RingError> {
        self.fill_from_backlog();
        let timeout = Timespec::from(longest);
        let arguments = SubmitArgs::new().timespec(&timeout);
        match self.uring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(()),
            Err(error) => Self::pass_over(error),
        }
    }

    fn push_counted(&mut self, entry: Entry, tag: Tag) {
        self.in_flight += 1;
        self.push(entry.user_data(tag.encode()));
    }

    fn push(&mut self, entry: Entry) {
        if !self.backlog.is_empty() || !self.try_push(&entry) {
            self.backlog.push_back(entry);
        }
    }

    fn try_push(&mut self, entry: &Entry) -> bool {
        // SAFETY: what the entry points to outlives it by the contract in the module's head.
        unsafe { self.uring.submission().push(entry).is_ok() }
    }

    fn fill_from_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    fn has_entries(&mut self) -> bool {
        !self.backlog.is_empty() || self.prepared() > 0
    }

    /// Entries that the kernel has not taken yet.
    fn prepared(&mut self) -> u32 {
        u32::try_from(self.uring.submission().len()).expect("a queue has 32-bit counters")
    }

    /// The kernel keeps work, or completions that found no room, until it is entered.
    fn has_deferred_work(&mut self) -> bool {
        let submission = self.uring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    fn enter_kernel(&mut self, to_submit: u32, min_complete: u32) -> Result<(), RingError> {
        let flags = EnterFlags::GETEVENTS.bits();
        let submitter = self.uring.submitter();
        // SAFETY: no argument beside the integers; `to_submit` entries are in the queue.
        let entered =
            unsafe { submitter.enter::<libc::sigset_t>(to_submit, min_complete, flags, None) };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => Self::pass_over(error),
        }
    }

    /// Errors after which the ring works on: what was not submitted stays in the queue, and the
    /// caller reaps (which is what a full completion queue needs).
    fn pass_over(error: io::Error) -> Result<(), RingError> {
        match error.raw_os_error() {
            Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
            _ => Err(RingError::Enter(error)),
        }
    }
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queues")
            .field("fd", &self.uring.as_raw_fd())
            .field("backlog", &self.backlog.len())
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}
