//! Memory that O_DIRECT accepts: buffers aligned to a block, reused from a small pool.
//!
//! The writer encodes each frame into one, the shell hands it to the kernel, and the completion
//! brings it back. The address is stable while the buffer moves between owners. Alignment is got
//! by over-allocating, so nothing here is unsafe.

use std::fmt;
use std::ops::{Deref, DerefMut};

use super::frame::BLOCK_BYTES;

/// The smallest buffer that the pool allocates: most commits fit, so few are ever replaced.
const MIN_BUFFER_BYTES: usize = 64 * 1024;

/// Bytes whose first one is at a multiple of [`BLOCK_BYTES`].
pub struct AlignedBuffer {
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// A zeroed buffer of `len` bytes.
    pub fn zeroed(len: usize) -> Self {
        let bytes = vec![0u8; len + BLOCK_BYTES].into_boxed_slice();
        let start = bytes.as_ptr().align_offset(BLOCK_BYTES);
        assert!(start < BLOCK_BYTES, "an allocation can be aligned within one block");
        Self { bytes, start, len }
    }

    /// The most bytes that this buffer can hold.
    fn capacity(&self) -> usize {
        self.bytes.len() - BLOCK_BYTES
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuffer({} bytes)", self.len)
    }
}

/// Buffers that wait for the next commit. Holds at most `limit`; more are freed.
#[derive(Debug)]
pub(super) struct BufferPool {
    free: Vec<AlignedBuffer>,
    limit: usize,
}

impl BufferPool {
    pub(super) fn new(limit: usize) -> Self {
        Self { free: Vec::with_capacity(limit), limit }
    }

    /// A buffer of exactly `len` bytes; its content is whatever it last held.
    pub(super) fn take(&mut self, len: usize) -> AlignedBuffer {
        if let Some(at) = self.free.iter().rposition(|buffer| buffer.capacity() >= len) {
            let mut buffer = self.free.swap_remove(at);
            buffer.len = len;
            return buffer;
        }
        self.free.pop();
        let mut buffer = AlignedBuffer::zeroed(len.next_power_of_two().max(MIN_BUFFER_BYTES));
        buffer.len = len;
        buffer
    }

    /// Gives a buffer back.
    pub(super) fn put(&mut self, buffer: AlignedBuffer) {
        if self.free.len() < self.limit {
            self.free.push(buffer);
        }
    }

    /// Bytes held by buffers that wait.
    pub(super) fn memory_bytes(&self) -> usize {
        self.free.iter().map(|buffer| buffer.bytes.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_and_reused() {
        let mut pool = BufferPool::new(2);
        for len in [BLOCK_BYTES, 1 << 20, 3 * BLOCK_BYTES] {
            let buffer = pool.take(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().align_offset(BLOCK_BYTES), 0);
            pool.put(buffer);
        }
        let first = pool.take(4096);
        let address = first.as_ptr();
        pool.put(first);
        assert_eq!(pool.take(8192).as_ptr(), address);
    }
}
