//! The heap entry: a key, its value and its expiry in one allocation behind a thin pointer. The
//! one place that knows the layout.
//!
//! ```text
//! offset 0  flags: bit 0 expires, bit 1 long key, bit 2 large value; bits 4 to 7 the value's kind
//!        1  database
//!        2  u16 length of the key (0 if it is a long one)
//!        4  u32 length of the value
//!        8  u64 expiry, milliseconds since the Unix epoch            only if it expires
//!        +  u64 length of the key                                    only if above 65,535
//!        +  pointer to the boxed LargeValue                          only if it is large
//!        +  key
//!        +  value                                                    unless it is large
//! ```
//!
//! The size of the allocation follows from the lengths alone ([`size_class`]), so it need not be
//! stored, and a value may change in place as long as the class stays the same. The classes are
//! those of mimalloc and jemalloc (16 bytes apart up to 128, then four for each doubling), so
//! nothing is lost by rounding up to them, and appending in a loop moves a value only once for
//! each fifth that it grows.

#![expect(unsafe_code, reason = "entries are laid out by hand behind thin pointers")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc};
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::ptr::NonNull;

use super::value::{LargeValue, OwnedValue, Stored, ValueView};
use crate::entry::ValueKind;
use crate::types::DbIndex;

const FLAG_EXPIRES: u8 = 1;
const FLAG_LONG_KEY: u8 = 2;
const FLAG_LARGE: u8 = 4;
const KIND_SHIFT: u32 = 4;
/// The kinds by their tag, which is all that the layout stores of them.
const KINDS: [ValueKind; 1] = [ValueKind::String];
/// Every optional field has this size, and so has the header.
const FIELD_BYTES: usize = 8;
/// Allocations have this alignment, so the lowest three bits of a pointer are free for the table.
pub(super) const ENTRY_ALIGN: usize = 8;

#[derive(Clone, Copy)]
#[repr(C)]
struct Header {
    flags: u8,
    db: u8,
    key_len: u16,
    value_len: u32,
}

const _: () = {
    assert!(size_of::<Header>() == FIELD_BYTES);
    assert!(align_of::<Header>() <= ENTRY_ALIGN);
    assert!(size_of::<usize>() == FIELD_BYTES, "pointers are stored as 64-bit fields");
    assert!(super::MAX_VALUE_BYTES <= u32::MAX as usize);
    assert!(KINDS.len() <= 16);
    assert!(KINDS[0] as usize == 0);
};

impl Header {
    fn field_count(self, before: u8) -> usize {
        (self.flags & (FLAG_EXPIRES | FLAG_LONG_KEY | FLAG_LARGE) & (before - 1)).count_ones()
            as usize
    }

    /// Offset of an optional field: behind the header and the fields of lower flags.
    fn field_offset(self, flag: u8) -> usize {
        FIELD_BYTES * (1 + self.field_count(flag))
    }

    fn key_offset(self) -> usize {
        self.field_offset(FLAG_LARGE << 1)
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The size that is requested for an entry of this length.
fn size_class(len: usize) -> usize {
    if len <= 128 {
        return len.next_multiple_of(16);
    }
    let bits = usize::BITS - (len - 1).leading_zeros();
    len.next_multiple_of(1 << (bits - 3))
}

/// An entry, owned; dropping it frees the allocation and the large value.
#[derive(Debug)]
pub(super) struct Entry(NonNull<u8>);

impl Entry {
    /// A new entry.
    ///
    /// # Panics
    /// If key and value exceed what one allocation may have (the commands bound both).
    pub(super) fn new(
        db: DbIndex,
        key: &[u8],
        kind: ValueKind,
        expires_at_ms: Option<u64>,
        value: Stored<'_>,
    ) -> Self {
        let header = header_of(db, key, kind, expires_at_ms, &value);
        let key_offset = header.key_offset();
        let inline_len = if header.has(FLAG_LARGE) { 0 } else { value.len() };
        let len = key_offset + key.len() + inline_len;
        let entry = Self(allocate(layout_of(len)));
        // SAFETY: the allocation holds `len` bytes: the header, the fields that the flags name,
        // the key, and the value when it is inline. All are written here, at aligned offsets for
        // the header and the fields, and nobody else knows the allocation yet.
        unsafe {
            let base = entry.0.as_ptr();
            base.cast::<Header>().write(header);
            if let Some(at) = expires_at_ms {
                base.add(header.field_offset(FLAG_EXPIRES)).cast::<u64>().write(at);
            }
            if header.has(FLAG_LONG_KEY) {
                base.add(header.field_offset(FLAG_LONG_KEY)).cast::<u64>().write(key.len() as u64);
            }
            base.add(key_offset).copy_from_nonoverlapping(key.as_ptr(), key.len());
            match value {
                Stored::Inline(bytes) => base
                    .add(key_offset + key.len())
                    .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()),
                Stored::Large(value) => base
                    .add(header.field_offset(FLAG_LARGE))
                    .cast::<*mut LargeValue>()
                    .write(Box::into_raw(Box::new(value))),
            }
        }
        entry
    }

    /// The entry, lent.
    pub(super) fn view(&self) -> EntryView<'_> {
        EntryView { base: self.0, lifetime: PhantomData }
    }

    /// Gives the pointer away; [`Self::from_raw`] takes it back.
    pub(super) fn into_raw(self) -> NonNull<u8> {
        let base = self.0;
        std::mem::forget(self);
        base
    }

    /// Takes an entry back.
    ///
    /// # Safety
    /// `base` came from [`Self::into_raw`], and is taken back once.
    pub(super) unsafe fn from_raw(base: NonNull<u8>) -> Self {
        Self(base)
    }

    /// Changes value and expiry where they are, if that needs no other allocation.
    pub(super) fn try_overwrite(
        &mut self,
        kind: ValueKind,
        bytes: &[u8],
        expiry: Option<u64>,
    ) -> bool {
        let view = self.view();
        let header = view.header();
        if header.has(FLAG_LARGE) || header.has(FLAG_EXPIRES) != expiry.is_some() {
            return false;
        }
        let value_offset = header.key_offset() + view.key().len();
        if size_class(value_offset + bytes.len()) != view.allocation_bytes() {
            return false;
        }
        let header = Header {
            flags: header.flags & ((1 << KIND_SHIFT) - 1) | (kind as u8) << KIND_SHIFT,
            value_len: bytes.len() as u32,
            ..header
        };
        // SAFETY: the allocation's size is that of the new lengths too, as just compared, and the
        // optional fields are the same; `&mut self` says that nobody reads it.
        unsafe {
            let base = self.0.as_ptr();
            base.cast::<Header>().write(header);
            base.add(value_offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        self.try_set_expiry(expiry)
    }

    /// Changes the expiry where it is; false if the field would have to come or go.
    pub(super) fn try_set_expiry(&mut self, expires_at_ms: Option<u64>) -> bool {
        let header = self.view().header();
        if header.has(FLAG_EXPIRES) != expires_at_ms.is_some() {
            return false;
        }
        if let Some(at) = expires_at_ms {
            // SAFETY: the flag says that the field is there, and `&mut self` that nobody reads it.
            unsafe {
                self.0.as_ptr().add(header.field_offset(FLAG_EXPIRES)).cast::<u64>().write(at);
            }
        }
        true
    }

    /// The large value, to be changed; `None` if it is inline.
    pub(super) fn large_mut(&mut self) -> Option<&mut LargeValue> {
        let header = self.view().header();
        if !header.has(FLAG_LARGE) {
            return None;
        }
        // SAFETY: the flag says that the field holds the pointer of a box that this entry owns,
        // and `&mut self` that nobody else refers to it.
        unsafe {
            let field = self.0.as_ptr().add(header.field_offset(FLAG_LARGE));
            Some(&mut **field.cast::<*mut LargeValue>())
        }
    }

    /// Makes an inline value longer, filled with zeros; moves the entry if its class changes.
    /// `len` is at least the present length and at most [`super::LARGE_VALUE_BYTES`].
    pub(super) fn grow_inline(self, len: usize) -> Self {
        let view = self.view();
        let header = view.header();
        assert!(!header.has(FLAG_LARGE) && len >= header.value_len as usize);
        let value_offset = header.key_offset() + view.key().len();
        let old = layout_of(value_offset + header.value_len as usize);
        let new = layout_of(value_offset + len);
        let base = self.into_raw();
        // SAFETY: `old` is the layout of the allocation, as it was computed from the same lengths
        // when it was made; the new size is not zero and the class of a bounded length.
        let moved = if old == new {
            base.as_ptr()
        } else {
            unsafe { realloc(base.as_ptr(), old, new.size()) }
        };
        let Some(base) = NonNull::new(moved) else { handle_alloc_error(new) };
        // SAFETY: the allocation has `new.size()` bytes, `value_offset + len` or more; the bytes
        // behind the old value belong to nobody.
        unsafe {
            base.as_ptr().cast::<Header>().write(Header { value_len: len as u32, ..header });
            let end = value_offset + header.value_len as usize;
            base.as_ptr().add(end).write_bytes(0, value_offset + len - end);
        }
        Self(base)
    }

    /// The bytes of an inline value, to be changed; `None` if it is large.
    pub(super) fn inline_mut(&mut self) -> Option<&mut [u8]> {
        let view = self.view();
        let header = view.header();
        if header.has(FLAG_LARGE) {
            return None;
        }
        let value_offset = header.key_offset() + view.key().len();
        // SAFETY: an inline value of `value_len` initialized bytes stands behind the key, and
        // `&mut self` says that nobody else refers to it.
        unsafe {
            let begin = self.0.as_ptr().add(value_offset);
            Some(std::slice::from_raw_parts_mut(begin, header.value_len as usize))
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let view = self.view();
        let header = view.header();
        let layout = view.layout();
        // SAFETY: the large value's box is owned by this entry and taken back once, here; the
        // layout is that of the allocation, computed from the same lengths.
        unsafe {
            if header.has(FLAG_LARGE) {
                let field = self.0.as_ptr().add(header.field_offset(FLAG_LARGE));
                drop(Box::from_raw(field.cast::<*mut LargeValue>().read()));
            }
            dealloc(self.0.as_ptr(), layout);
        }
        count_allocation(-1);
    }
}

/// An entry, lent by the keyspace. Physical: whether it has expired is for the caller to judge.
#[derive(Clone, Copy)]
pub struct EntryView<'a> {
    base: NonNull<u8>,
    lifetime: PhantomData<&'a Entry>,
}

impl<'a> EntryView<'a> {
    /// Lends the entry behind a pointer.
    ///
    /// # Safety
    /// `base` came from [`Entry::into_raw`], and the entry is neither freed nor changed for `'a`.
    pub(super) unsafe fn from_raw(base: NonNull<u8>) -> Self {
        Self { base, lifetime: PhantomData }
    }

    fn header(self) -> Header {
        // SAFETY: every entry begins with a header, and nothing changes it during `'a`.
        unsafe { self.base.as_ptr().cast::<Header>().read() }
    }

    fn field(self, offset: usize) -> u64 {
        // SAFETY: callers pass the offset of a field that the flags name; fields are aligned.
        unsafe { self.base.as_ptr().add(offset).cast::<u64>().read() }
    }

    /// The logical database.
    pub fn db(self) -> DbIndex {
        DbIndex(self.header().db)
    }

    /// The type of the value.
    pub fn kind(self) -> ValueKind {
        KINDS[usize::from(self.header().flags >> KIND_SHIFT)]
    }

    /// When the key expires, in milliseconds since the Unix epoch.
    pub fn expires_at_ms(self) -> Option<u64> {
        let header = self.header();
        header.has(FLAG_EXPIRES).then(|| self.field(header.field_offset(FLAG_EXPIRES)))
    }

    /// The key.
    pub fn key(self) -> &'a [u8] {
        let header = self.header();
        let len = if header.has(FLAG_LONG_KEY) {
            self.field(header.field_offset(FLAG_LONG_KEY)) as usize
        } else {
            usize::from(header.key_len)
        };
        // SAFETY: a key of that length stands there, unchanged during `'a`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(header.key_offset()), len) }
    }

    /// The value.
    pub fn value(self) -> ValueView<'a> {
        let header = self.header();
        // SAFETY: a large value's field holds the pointer of a box that the entry owns; an inline
        // one stands behind the key. Neither changes during `'a`.
        unsafe {
            let base = self.base.as_ptr();
            if header.has(FLAG_LARGE) {
                let field = base.add(header.field_offset(FLAG_LARGE));
                return ValueView::Large(&*field.cast::<*const LargeValue>().read());
            }
            let begin = base.add(header.key_offset() + self.key().len());
            ValueView::Inline(std::slice::from_raw_parts(begin, header.value_len as usize))
        }
    }

    /// The entry for itself.
    pub fn to_owned(self) -> OwnedEntry {
        OwnedEntry {
            db: self.db(),
            key: self.key().into(),
            kind: self.kind(),
            expires_at_ms: self.expires_at_ms(),
            value: self.value().to_owned(),
        }
    }

    /// What the entry occupies, in requested bytes.
    pub fn memory_bytes(self) -> usize {
        self.allocation_bytes()
            + match self.value() {
                ValueView::Inline(_) => 0,
                ValueView::Large(value) => size_of::<LargeValue>() + value.memory_bytes(),
            }
    }

    fn layout(self) -> Layout {
        let header = self.header();
        let inline_len = if header.has(FLAG_LARGE) { 0 } else { header.value_len as usize };
        layout_of(header.key_offset() + self.key().len() + inline_len)
    }

    fn allocation_bytes(self) -> usize {
        self.layout().size()
    }
}

impl std::fmt::Debug for EntryView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EntryView")
            .field("db", &self.db())
            .field("key", &self.key().escape_ascii().to_string())
            .field("expires_at_ms", &self.expires_at_ms())
            .field("value_len", &self.value().len())
            .finish()
    }
}

/// An entry for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedEntry {
    /// The logical database.
    pub db: DbIndex,
    /// The key.
    pub key: Box<[u8]>,
    /// The type of the value.
    pub kind: ValueKind,
    /// When the key expires, in milliseconds since the Unix epoch.
    pub expires_at_ms: Option<u64>,
    /// The value; a large one shares its pieces with the entry.
    pub value: OwnedValue,
}

fn header_of(
    db: DbIndex,
    key: &[u8],
    kind: ValueKind,
    expires_at_ms: Option<u64>,
    value: &Stored<'_>,
) -> Header {
    let mut flags = (kind as u8) << KIND_SHIFT;
    if expires_at_ms.is_some() {
        flags |= FLAG_EXPIRES;
    }
    let key_len = u16::try_from(key.len()).unwrap_or_else(|_| {
        flags |= FLAG_LONG_KEY;
        0
    });
    let value_len = match value {
        Stored::Inline(bytes) => bytes.len() as u32,
        Stored::Large(_) => {
            flags |= FLAG_LARGE;
            0
        }
    };
    Header { flags, db: db.0, key_len, value_len }
}

fn layout_of(len: usize) -> Layout {
    Layout::from_size_align(size_class(len), ENTRY_ALIGN).expect("keys and values are bounded")
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: the size is not zero: an entry has a header.
    let base = unsafe { alloc(layout) };
    count_allocation(1);
    NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout))
}

#[cfg(not(test))]
pub(super) fn count_allocation(_change: isize) {}

#[cfg(test)]
thread_local! {
    static LIVE: std::cell::Cell<isize> = const { std::cell::Cell::new(0) };
}

/// Counts the allocations of this thread that are alive: entries, bucket arrays, overflow buckets.
#[cfg(test)]
pub(super) fn count_allocation(change: isize) {
    LIVE.with(|live| live.set(live.get() + change));
}

/// How many entries and buckets of this thread are alive.
#[cfg(test)]
pub(super) fn live_allocations() -> isize {
    LIVE.with(std::cell::Cell::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &[u8], expiry: Option<u64>, value: &[u8]) -> Entry {
        let value = super::super::NewValue::Bytes(value);
        Entry::new(DbIndex(5), key, ValueKind::String, expiry, value.stored())
    }

    #[test]
    fn every_combination_of_fields_reads_back() {
        let keys = [vec![], b"key".to_vec(), vec![b'k'; 65_535], vec![b'k'; 65_536]];
        let values = [0, 1, 100, 65_536, 65_537, 200_000].map(|len| vec![b'v'; len]);
        for key in &keys {
            for value in &values {
                for expiry in [None, Some(u64::MAX)] {
                    let entry = entry(key, expiry, value);
                    let view = entry.view();
                    assert_eq!((view.db(), view.kind()), (DbIndex(5), ValueKind::String));
                    assert_eq!(view.key(), key);
                    assert_eq!(view.expires_at_ms(), expiry);
                    assert_eq!(view.value().to_owned().view().len(), value.len());
                    let mut out = Vec::new();
                    view.value().copy_to(&mut out);
                    assert_eq!(&out, value);
                }
            }
        }
        assert_eq!(live_allocations(), 0);
    }

    #[test]
    fn classes_are_those_of_the_allocators() {
        let classes: Vec<usize> = [8, 17, 113, 128, 129, 161, 257, 320, 321, 1025, 65_545]
            .into_iter()
            .map(size_class)
            .collect();
        assert_eq!(classes, [16, 32, 128, 128, 160, 192, 320, 320, 384, 1280, 81_920]);
    }

    #[test]
    fn overwriting_stays_within_the_class() {
        let mut entry = entry(b"0123456789abcdef", None, &[1; 100]);
        assert_eq!(entry.view().memory_bytes(), 128);
        assert!(entry.try_overwrite(ValueKind::String, &[2; 104], None));
        assert!(!entry.try_overwrite(ValueKind::String, &[2; 105], None));
        assert!(!entry.try_overwrite(ValueKind::String, &[2; 88], None));
        assert!(!entry.try_overwrite(ValueKind::String, &[2; 104], Some(1)));
        assert!(entry.try_overwrite(ValueKind::String, &[3; 89], None));
        assert_eq!(entry.view().value().as_contiguous(), Some([3; 89].as_slice()));
        let mut entry = entry.grow_inline(1000);
        assert_eq!(entry.inline_mut().map(|bytes| bytes.len()), Some(1000));
        assert_eq!(
            entry.view().value().as_contiguous().map(|value| value[89..] == [0; 911]),
            Some(true)
        );
        assert_eq!(entry.view().key(), b"0123456789abcdef");
    }
}
