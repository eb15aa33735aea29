//! Values as the keyspace stores, lends and takes them: short ones inside their entry, large ones
//! as shared pieces.
//!
//! A value above [`LARGE_VALUE_BYTES`] is a [`LargeValue`]: pieces of exactly [`PIECE_BYTES`] (the
//! last one may be shorter), each behind its own reference count, and their list behind another.
//! A clone costs one increment, whatever the length; a write copies the list of pieces if somebody
//! else holds it, and of the pieces those that it touches. So a snapshot walk or a reply keeps the
//! value that it saw, while the shard goes on changing it.

use std::sync::Arc;

/// The longest value, as Redis' `proto-max-bulk-len` has it. The commands refuse longer ones.
pub const MAX_VALUE_BYTES: usize = 512 << 20;
/// Values longer than this (in bytes) are stored in pieces.
pub const LARGE_VALUE_BYTES: usize = 64 << 10;
/// The length of every piece of a large value but the last.
pub const PIECE_BYTES: usize = 64 << 10;
/// What a piece costs beyond its bytes: two counts and the vector behind them, and its pointer.
const PIECE_OVERHEAD_BYTES: usize = 2 * 8 + 24 + 8;
/// What the list of pieces costs beyond its pointers: two counts and the vector.
const LIST_OVERHEAD_BYTES: usize = 2 * 8 + 24;

type Piece = Arc<Vec<u8>>;

/// A value too long for one allocation. Cloning is cheap: see the module's description.
#[derive(Clone, Debug, Default)]
pub struct LargeValue {
    pieces: Arc<Vec<Piece>>,
    len: usize,
}

impl LargeValue {
    /// A value with these bytes, of any length.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let pieces = bytes.chunks(PIECE_BYTES).map(|piece| Arc::new(piece.to_vec())).collect();
        Self { pieces: Arc::new(pieces), len: bytes.len() }
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces in order, each of [`PIECE_BYTES`] but for the last.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.pieces.iter().map(|piece| piece.as_slice())
    }

    /// How many pieces there are.
    pub fn piece_count(&self) -> usize {
        self.pieces.len()
    }

    /// One piece; `index` is below [`Self::piece_count`].
    pub fn piece(&self, index: usize) -> &[u8] {
        &self.pieces[index]
    }

    /// Appends up to `len` bytes from `offset` on to `out`: those that exist.
    pub fn range(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        let end = offset.saturating_add(len).min(self.len);
        let mut at = offset;
        while at < end {
            let piece = &self.pieces[at / PIECE_BYTES];
            let begin = at % PIECE_BYTES;
            let take = (piece.len() - begin).min(end - at);
            out.extend_from_slice(&piece[begin..begin + take]);
            at += take;
        }
    }

    /// Puts `bytes` at `offset`; a gap before them is filled with zeros. Pieces that others hold
    /// are copied first, the untouched ones stay shared.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if offset > self.len {
            self.extend_with_zeros(offset);
        }
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let begin = at % PIECE_BYTES;
            let take = (PIECE_BYTES - begin).min(rest.len());
            let (now, later) = rest.split_at(take);
            let piece = self.piece_mut(at / PIECE_BYTES, begin + take);
            let over = piece.len().min(begin + take) - begin;
            piece[begin..begin + over].copy_from_slice(&now[..over]);
            piece.extend_from_slice(&now[over..]);
            at += take;
            rest = later;
        }
        self.len = self.len.max(at);
    }

    /// What this value occupies, in requested bytes; pieces shared with others count whole.
    pub fn memory_bytes(&self) -> usize {
        let Some(last) = self.pieces.last() else { return LIST_OVERHEAD_BYTES };
        let whole = self.pieces.len() - 1;
        whole * (PIECE_BYTES + PIECE_OVERHEAD_BYTES)
            + last.capacity()
            + PIECE_OVERHEAD_BYTES
            + LIST_OVERHEAD_BYTES
    }

    /// Frees up to `count` pieces from the end; true while some are left that only this value
    /// holds. A value that somebody shares is let go at once, which frees nothing.
    pub(super) fn shorten(&mut self, count: usize) -> bool {
        let Some(pieces) = Arc::get_mut(&mut self.pieces) else {
            *self = Self::default();
            return false;
        };
        let left = pieces.len().saturating_sub(count);
        pieces.truncate(left);
        self.len = self.len.min(left * PIECE_BYTES);
        left > 0
    }

    fn extend_with_zeros(&mut self, len: usize) {
        while self.len < len {
            let begin = self.len % PIECE_BYTES;
            let take = (PIECE_BYTES - begin).min(len - self.len);
            self.piece_mut(self.len / PIECE_BYTES, begin + take).resize(begin + take, 0);
            self.len += take;
        }
    }

    /// The piece, unshared, and with room for `len` bytes; the next one is created when missing.
    fn piece_mut(&mut self, index: usize, len: usize) -> &mut Vec<u8> {
        let pieces = Arc::make_mut(&mut self.pieces);
        if index == pieces.len() {
            pieces.push(Arc::default());
        }
        let piece = Arc::make_mut(&mut pieces[index]);
        if piece.capacity() < len {
            // Doubling makes appending in a loop cheap; no piece is ever larger than its bound.
            let capacity = (piece.capacity() * 2).clamp(len, PIECE_BYTES);
            piece.reserve_exact(capacity - piece.len());
        }
        piece
    }
}

impl PartialEq for LargeValue {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.pieces().eq(other.pieces())
    }
}

impl Eq for LargeValue {}

/// A value lent by the keyspace.
#[derive(Clone, Copy, Debug)]
pub enum ValueView<'a> {
    /// The bytes, inside the entry.
    Inline(&'a [u8]),
    /// The pieces.
    Large(&'a LargeValue),
}

impl<'a> ValueView<'a> {
    /// The length in bytes.
    pub fn len(self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::Large(value) => value.len(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Appends the whole value to `out`.
    pub fn copy_to(self, out: &mut Vec<u8>) {
        self.range(0, self.len(), out);
    }

    /// Appends up to `len` bytes from `offset` on to `out`: those that exist.
    pub fn range(self, offset: usize, len: usize, out: &mut Vec<u8>) {
        match self {
            Self::Inline(bytes) => {
                let end = offset.saturating_add(len).min(bytes.len());
                out.extend_from_slice(&bytes[offset.min(end)..end]);
            }
            Self::Large(value) => value.range(offset, len, out),
        }
    }

    /// The bytes, if they stand in one place.
    pub fn as_contiguous(self) -> Option<&'a [u8]> {
        match self {
            Self::Inline(bytes) => Some(bytes),
            Self::Large(value) => match value.piece_count() {
                0 => Some(&[]),
                1 => Some(value.piece(0)),
                _ => None,
            },
        }
    }

    /// The value for itself; a large one shares its pieces.
    pub fn to_owned(self) -> OwnedValue {
        match self {
            Self::Inline(bytes) => OwnedValue::Inline(bytes.into()),
            Self::Large(value) => OwnedValue::Large(value.clone()),
        }
    }
}

/// A value for itself, for replies that outlive the entry, RENAME and COPY.
#[derive(Clone, Debug)]
pub enum OwnedValue {
    /// The bytes.
    Inline(Box<[u8]>),
    /// The pieces, shared with whoever else holds them.
    Large(LargeValue),
}

impl OwnedValue {
    /// The value, lent.
    pub fn view(&self) -> ValueView<'_> {
        match self {
            Self::Inline(bytes) => ValueView::Inline(bytes),
            Self::Large(value) => ValueView::Large(value),
        }
    }
}

/// Equal when the bytes are, however they are stored.
impl PartialEq for OwnedValue {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Inline(left), Self::Inline(right)) => left == right,
            (Self::Large(left), Self::Large(right)) => left == right,
            (Self::Inline(short), Self::Large(large))
            | (Self::Large(large), Self::Inline(short)) => {
                short.len() == large.len() && large.pieces().eq(short.chunks(PIECE_BYTES))
            }
        }
    }
}

impl Eq for OwnedValue {}

/// A value that comes into the keyspace.
#[derive(Clone, Debug)]
pub enum NewValue<'a> {
    /// Bytes to copy, of any length up to [`MAX_VALUE_BYTES`].
    Bytes(&'a [u8]),
    /// A value that was taken out before; the pieces of a large one are not copied.
    Owned(OwnedValue),
}

/// A value as an entry takes it: already in the form in which it is stored.
pub(super) enum Stored<'a> {
    Inline(&'a [u8]),
    Large(LargeValue),
}

impl NewValue<'_> {
    /// The form in which these bytes are stored.
    ///
    /// # Panics
    /// If the value is longer than [`MAX_VALUE_BYTES`]: the commands check, and so does `apply`.
    pub(super) fn stored(&self) -> Stored<'_> {
        let stored = match self {
            Self::Bytes(bytes) => Stored::of_bytes(bytes),
            Self::Owned(OwnedValue::Inline(bytes)) => Stored::of_bytes(bytes),
            Self::Owned(OwnedValue::Large(value)) => Stored::Large(value.clone()),
        };
        assert!(stored.len() <= MAX_VALUE_BYTES, "a value of {} bytes", stored.len());
        stored
    }
}

impl<'a> Stored<'a> {
    fn of_bytes(bytes: &'a [u8]) -> Self {
        if bytes.len() > LARGE_VALUE_BYTES {
            Self::Large(LargeValue::from_bytes(bytes))
        } else {
            Self::Inline(bytes)
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::Large(value) => value.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_equal_those_of_a_vector_and_leave_clones_alone() {
        let mut model: Vec<u8> = (0..200_000u32).map(|byte| byte as u8).collect();
        let mut value = LargeValue::from_bytes(&model);
        let writes = [
            (0, 1),
            (65_535, 2),
            (65_536, 65_536),
            (199_999, 10),
            (250_000, 5),
            (262_144, 1),
            (400_000, 140_000),
            (10, 0),
            (700_000, 0),
        ];
        for (round, (offset, len)) in writes.into_iter().enumerate() {
            let before = value.clone();
            let before_model = model.clone();
            let bytes = vec![round as u8 + 100; len];
            value.write(offset, &bytes);
            if len > 0 {
                model.resize(model.len().max(offset + len), 0);
                model[offset..offset + len].copy_from_slice(&bytes);
            }
            assert_eq!(value, LargeValue::from_bytes(&model), "write {len} at {offset}");
            assert_eq!(before, LargeValue::from_bytes(&before_model), "a clone changed");
            let mut out = Vec::new();
            value.range(65_530, 70_000, &mut out);
            assert_eq!(out, model[65_530..135_530]);
        }
    }

    #[test]
    fn a_write_copies_only_the_pieces_it_touches() {
        let mut value = LargeValue::from_bytes(&vec![7; 10 * PIECE_BYTES]);
        let held = value.clone();
        value.write(3 * PIECE_BYTES + 1, b"x");
        let shared =
            value.pieces.iter().zip(held.pieces.iter()).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(shared, 9);
    }

    #[test]
    fn ranges_beyond_the_end_are_empty() {
        for value in [
            OwnedValue::Inline(b"abc".as_slice().into()),
            OwnedValue::Large(LargeValue::from_bytes(b"abc")),
        ] {
            for (offset, len, expected) in
                [(0, 9, "abc"), (1, 1, "b"), (3, 1, ""), (9, usize::MAX, ""), (2, usize::MAX, "c")]
            {
                let mut out = Vec::new();
                value.view().range(offset, len, &mut out);
                assert_eq!(out, expected.as_bytes());
            }
        }
    }
}
