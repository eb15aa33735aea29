//! The provided buffers of a ring: where the kernel puts bytes that arrive.
//!
//! The kernel takes a buffer when bytes are there, not when the receive is armed, so ten thousand
//! silent connections need none. Two mappings: the buffers themselves, and the small ring of their
//! descriptions that is shared with the kernel (`struct io_uring_buf_ring`: entries of 16 bytes,
//! of which the first one's last two bytes are the tail; see io_uring_register_buf_ring(3)).
//!
//! Only a few buffers are given to the kernel at first, and the number doubles each time it runs
//! out: it takes them in turn, and fewer stay in the processor's cache. Memory is touched, and thus
//! taken, only then.
//!
//! Ownership: a buffer belongs to the kernel from `ReceiveBuffers::give_back` (or the first
//! giving) to the completion that names it, and to us from there to the next `give_back`.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// The one buffer group of a ring.
pub(super) const BUFFER_GROUP: u16 = 0;
/// Most buffers that a group may have (a limit of the kernel).
pub const MAX_BUFFERS: u16 = 1 << 15;
/// Buffers that the kernel gets at first.
const FIRST_BUFFERS: u16 = 64;

/// Memory from mmap: zero, page-aligned, taken page by page when touched.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    size_bytes: usize,
}

impl Mapping {
    fn new(size_bytes: usize) -> io::Result<Self> {
        // SAFETY: an anonymous mapping at an address that the kernel chooses overlaps nothing.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).expect("mmap does not map page zero");
        Ok(Self { start, size_bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.size_bytes == 0 {
            return;
        }
        // SAFETY: the mapping is ours alone, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size_bytes) };
    }
}

/// The receive buffers of one ring. Must outlive every receive in the kernel; see `Ring`'s drop.
#[derive(Debug)]
pub(super) struct ReceiveBuffers {
    descriptions: Mapping,
    memory: Mapping,
    buffer_size_bytes: u32,
    /// A power of two.
    entries: u16,
    /// Buffers `0..provided` take part.
    provided: u16,
    tail: u16,
}

impl ReceiveBuffers {
    /// Maps `entries` buffers (rounded up to a power of two, at most [`MAX_BUFFERS`]) and registers
    /// them with the ring.
    pub(super) fn register(
        uring: &IoUring,
        entries: u16,
        buffer_size_bytes: u32,
    ) -> io::Result<Self> {
        let entries = entries.clamp(1, MAX_BUFFERS).next_power_of_two();
        let descriptions = Mapping::new(usize::from(entries) * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(usize::from(entries) * buffer_size_bytes as usize)?;
        let address = descriptions.start.as_ptr() as u64;
        // SAFETY: `descriptions` is page-aligned, holds `entries` descriptions, and is unmapped
        // only after the ring is closed and nothing of it is in flight (`Ring`'s drop).
        unsafe {
            uring.submitter().register_buf_ring_with_flags(address, entries, BUFFER_GROUP, 0)?;
        }
        let mut buffers =
            Self { descriptions, memory, buffer_size_bytes, entries, provided: 0, tail: 0 };
        buffers.provide_up_to(FIRST_BUFFERS);
        Ok(buffers)
    }

    /// The first `len` bytes of a buffer that a completion has named.
    pub(super) fn filled(&self, buffer: u16, len: usize) -> &[u8] {
        assert!(buffer < self.provided && len <= self.buffer_size_bytes as usize);
        let offset = usize::from(buffer) * self.buffer_size_bytes as usize;
        // SAFETY: in bounds by the assertion. The kernel has handed the buffer to us, and writes
        // to it only after `give_back`, which takes `&mut self` and so ends this borrow.
        unsafe { std::slice::from_raw_parts(self.memory.start.as_ptr().add(offset), len) }
    }

    /// Lets the kernel fill a buffer again.
    pub(super) fn give_back(&mut self, buffer: u16) {
        assert!(buffer < self.provided);
        let offset = usize::from(buffer) * self.buffer_size_bytes as usize;
        let entries = self.descriptions.start.as_ptr().cast::<BufRingEntry>();
        let index = self.tail & (self.entries - 1);
        // SAFETY: `index` is below `entries`, and the mapping holds that many, zero-initialised and
        // aligned. The kernel reads an entry only after the tail has moved past it. The setters do
        // not touch the tail, which lies in the first entry's padding.
        unsafe {
            let entry = &mut *entries.add(usize::from(index));
            entry.set_addr(self.memory.start.as_ptr().add(offset) as u64);
            entry.set_len(self.buffer_size_bytes);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `tail` points to two aligned bytes inside the first entry, which both sides
        // access atomically. Release: the entry is written before the kernel sees the tail.
        unsafe {
            let tail = BufRingEntry::tail(entries).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    /// The kernel has run out: twice as many take part, while there are any left.
    pub(super) fn grow(&mut self) {
        self.provide_up_to(self.provided.saturating_mul(2));
    }

    /// Never unmaps: the kernel may still write.
    pub(super) fn leak(&mut self) {
        for mapping in [&mut self.descriptions, &mut self.memory] {
            mapping.size_bytes = 0;
        }
    }

    fn provide_up_to(&mut self, count: u16) {
        while self.provided < count.min(self.entries) {
            self.provided += 1;
            self.give_back(self.provided - 1);
        }
    }
}
