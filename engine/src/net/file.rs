//! What the ring remembers of a log write or a sync, from its submission until its completion.
//!
//! The kernel reads a write's buffer meanwhile, so the buffer lives here, and comes back with the
//! result. So does a share of the file, which therefore stays open.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::event::IoToken;

/// A buffer that the kernel may read from while it is owned by the ring.
///
/// Contract: `as_ref` gives the same memory and the same bytes each time, also after the owner has
/// been *moved* (so the bytes lie behind a pointer, not in the value). The kernel only reads, so a
/// type that breaks this puts wrong bytes into its file, and harms nothing else.
pub trait StableBuffer: AsRef<[u8]> + Send + 'static {}

impl StableBuffer for Vec<u8> {}
impl StableBuffer for Box<[u8]> {}
impl StableBuffer for crate::log::AlignedBuffer {}

/// How durable the bytes are when a write is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteSync {
    /// As far as the flags that the file was opened with promise; else a sync must follow.
    AsOpened,
    /// As by O_DSYNC, for this write alone.
    Durable,
}

/// What a sync makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSync {
    /// Bytes, and the metadata needed to read them (fdatasync).
    Data,
    /// All metadata too (fsync).
    All,
}

/// One write.
#[derive(Debug)]
pub struct WriteRequest<B> {
    /// To where; kept open until the write ended.
    pub file: Arc<OwnedFd>,
    /// At which byte of the file. With O_DIRECT a multiple of the block size, as are the address
    /// and the length of the buffer.
    pub offset_bytes: u64,
    /// What: all of it.
    pub buffer: B,
    /// How durable when reported.
    pub sync: WriteSync,
    /// The caller's name for it.
    pub token: IoToken,
}

/// A place in the table of writes or of syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileSlot(pub(super) u32);

/// What is to be submitted next for a write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest<'a> {
    pub(super) file: RawFd,
    pub(super) offset_bytes: u64,
    pub(super) bytes: &'a [u8],
    pub(super) sync: WriteSync,
}

/// A write in the kernel.
#[derive(Debug)]
pub(super) struct Writing<B> {
    request: WriteRequest<B>,
    written: usize,
}

/// A sync in the kernel.
#[derive(Debug)]
pub(super) struct Syncing {
    pub(super) file: Arc<OwnedFd>,
    pub(super) token: IoToken,
}

impl<B: StableBuffer> Writing<B> {
    pub(super) fn new(request: WriteRequest<B>) -> Self {
        Self { request, written: 0 }
    }

    /// The part that is not written yet.
    pub(super) fn rest(&self) -> Rest<'_> {
        Rest {
            file: self.request.file.as_raw_fd(),
            offset_bytes: self.request.offset_bytes + self.written as u64,
            bytes: &self.request.buffer.as_ref()[self.written..],
            sync: self.request.sync,
        }
    }

    /// Takes a completion in: the outcome of the whole write, or none if there is a rest.
    pub(super) fn advance(&mut self, result: io::Result<usize>) -> Option<io::Result<usize>> {
        let whole = self.request.buffer.as_ref().len();
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            Err(error) => Some(Err(error)),
            Ok(0) if self.written < whole => Some(Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => {
                self.written += count;
                assert!(self.written <= whole, "the kernel wrote more than it was given");
                if self.written == whole { Some(Ok(whole)) } else { None }
            }
        }
    }

    /// The caller's name for it, and the buffer.
    pub(super) fn finish(self) -> (IoToken, B) {
        (self.request.token, self.request.buffer)
    }
}

/// Operations of one kind in the kernel.
#[derive(Debug)]
pub(super) struct FileTable<T> {
    slots: Vec<Option<T>>,
    free: Vec<FileSlot>,
}

impl<T> Default for FileTable<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> FileTable<T> {
    pub(super) fn insert(&mut self, operation: T) -> FileSlot {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = u32::try_from(self.slots.len()).expect("fewer operations than 2^32");
            self.slots.push(None);
            FileSlot(slot)
        });
        self.slots[slot.0 as usize] = Some(operation);
        slot
    }

    pub(super) fn get_mut(&mut self, slot: FileSlot) -> &mut T {
        let operation = self.slots.get_mut(slot.0 as usize).and_then(Option::as_mut);
        operation.expect("a completion names an operation that is in the kernel")
    }

    pub(super) fn remove(&mut self, slot: FileSlot) -> T {
        let operation = self.slots.get_mut(slot.0 as usize).and_then(Option::take);
        self.free.push(slot);
        operation.expect("a completion names an operation that is in the kernel")
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writing() -> Writing<Vec<u8>> {
        let file = Arc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
        Writing::new(WriteRequest {
            file,
            offset_bytes: 8192,
            buffer: vec![1; 10],
            sync: WriteSync::AsOpened,
            token: IoToken(3),
        })
    }

    #[test]
    fn a_short_write_is_continued_where_it_stopped() {
        let mut writing = writing();
        assert!(writing.advance(Ok(4)).is_none());
        let rest = writing.rest();
        assert_eq!((rest.offset_bytes, rest.bytes.len()), (8196, 6));
        assert!(writing.advance(Err(io::ErrorKind::Interrupted.into())).is_none());
        assert_eq!(writing.advance(Ok(6)).unwrap().unwrap(), 10);
        assert_eq!(writing.finish().0, IoToken(3));
    }

    #[test]
    fn no_progress_and_errors_end_a_write() {
        let error = writing().advance(Ok(0)).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        let mut begun = writing();
        assert!(begun.advance(Ok(9)).is_none());
        let error = begun.advance(Err(io::Error::from_raw_os_error(libc::EIO)));
        assert_eq!(error.unwrap().unwrap_err().raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn slots_are_used_again_only_after_their_end() {
        let mut table = FileTable::default();
        let first = table.insert('a');
        let second = table.insert('b');
        assert_eq!((table.remove(first), table.len()), ('a', 1));
        assert_eq!(table.insert('c'), first);
        assert_eq!((*table.get_mut(first), *table.get_mut(second)), ('c', 'b'));
    }
}
