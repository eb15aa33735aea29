//! The end of a log's stream that no frame carries yet: records are appended behind, frames are cut
//! off in front.

use super::record;
use crate::types::Position;

/// The buffer is given back to the allocator when it is empty and has grown beyond this.
const KEPT_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that wait to be written, and where in the log they stand.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Bytes from position `sent - head` on; those before `head` are in frames already.
    bytes: Vec<u8>,
    head: usize,
    /// The end of the bytes that were cut into frames.
    sent: Position,
    /// The first record that begins at or after `sent`.
    next_record: Position,
}

impl Stream {
    /// The end of everything appended.
    pub(super) fn tail(&self) -> Position {
        Position(self.sent.0 + self.pending_bytes() as u64)
    }

    /// The end of what frames carry.
    pub(super) fn sent(&self) -> Position {
        self.sent
    }

    /// Bytes that no frame carries.
    pub(super) fn pending_bytes(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Memory held.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Where a record is encoded, at the end. Whatever is added must be whole records before the
    /// next frame is cut.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The first `len` waiting bytes, and where among them the first record begins.
    pub(super) fn front(&self, len: usize) -> (&[u8], Option<u32>) {
        let first_record = self.next_record.0 - self.sent.0;
        let first_record = u32::try_from(first_record).ok().filter(|&at| (at as usize) < len);
        (&self.bytes[self.head..self.head + len], first_record)
    }

    /// Gives up the first `len` waiting bytes: a frame carries them.
    pub(super) fn cut(&mut self, len: usize) {
        let end = Position(self.sent.0 + len as u64);
        self.next_record = self.first_record_from(end);
        self.sent = end;
        self.head += len;
        self.compact();
    }

    /// The first record that begins at or after `end`. Records are appended whole, so every length
    /// on the way is still in the buffer.
    fn first_record_from(&self, end: Position) -> Position {
        if end == self.tail() {
            return end;
        }
        let mut at = self.next_record;
        while at < end {
            let bytes = &self.bytes[self.head + (at.0 - self.sent.0) as usize..];
            at.0 += record::peek_len(bytes).expect("records are appended whole");
        }
        at
    }

    /// Drops what is in frames: at once when that is all, else when it is most.
    fn compact(&mut self) {
        if self.head == self.bytes.len() {
            self.bytes.clear();
            self.head = 0;
            if self.bytes.capacity() > KEPT_BYTES {
                self.bytes.shrink_to(KEPT_BYTES);
            }
        } else if self.head > self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Lsn;

    #[test]
    fn knows_where_the_first_record_of_each_piece_begins() {
        for piece in 1..60 {
            let mut stream = Stream::default();
            // A marker record takes 13 bytes.
            (0..20).for_each(|at| record::put_marker(stream.buffer(), Lsn(at)));
            let mut sent = 0u64;
            while stream.pending_bytes() > 0 {
                let len = piece.min(stream.pending_bytes());
                let begins = sent.next_multiple_of(13) - sent;
                let (bytes, first_record) = stream.front(len);
                assert_eq!(bytes.len(), len);
                assert_eq!(first_record.map(u64::from), Some(begins).filter(|&b| b < len as u64));
                stream.cut(len);
                sent += len as u64;
                assert_eq!((stream.sent().0, stream.tail().0), (sent, 260));
            }
        }
    }
}
