//! One subtable: an array of cache-line buckets with tagged pointers to entries.
//!
//! ```text
//! bucket, 64 bytes, aligned:   7 words | link
//! word:  hash tag (16 bits) | pointer (48 bits; the lowest bit says "has an expiry"); 0 is empty
//! link:  stamp (16 bits)    | pointer to an overflow bucket (48 bits) or 0
//! ```
//!
//! A subtable covers the hashes that begin with its `depth` prefix bits. The tag of an entry is the
//! 16 bits of its hash behind that prefix, and its bucket is `tag * buckets >> 16`. So the order of
//! buckets is the order of hashes at every size, and growing, shrinking and merging need no
//! entry's memory, only its word; a split needs one more bit of each hash and reads the keys.
//!
//! Buckets that are full continue in a chain of overflow buckets. Chains are packed: only the last
//! bucket of a chain has empty words. The stamp (of a chain's first bucket) belongs to the walk.

#![expect(unsafe_code, reason = "buckets are tagged pointers in hand-aligned cache lines")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::mem::{align_of, size_of};
use std::ptr::NonNull;

use super::entry_layout::{ENTRY_ALIGN, Entry, EntryView, count_allocation};
use super::hash::KeyHasher;
use crate::types::DbIndex;

/// Words for entries in a bucket.
pub(super) const BUCKET_ENTRIES: usize = 7;
/// The most buckets that a subtable has; a fuller one splits in two.
pub(super) const MAX_BUCKETS: u32 = 512;
/// The most prefix bits of a subtable: a scan cursor keeps 48 bits of the hash, 16 are the tag's.
pub(super) const MAX_DEPTH: u32 = 32;
/// What one bucket occupies.
pub(super) const BUCKET_BYTES: usize = 64;

const POINTER_MASK: u64 = (1 << 48) - 1;
const TAG_SHIFT: u32 = 48;
const FLAG_EXPIRES: u64 = 1;
const FLAGS_MASK: u64 = ENTRY_ALIGN as u64 - 1;

#[repr(C, align(64))]
struct Bucket {
    words: [u64; BUCKET_ENTRIES],
    link: u64,
}

const _: () = {
    assert!(size_of::<Bucket>() == BUCKET_BYTES);
    assert!(align_of::<Bucket>() == BUCKET_BYTES);
};

/// Where an entry stands in a subtable; good until the subtable changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    bucket: u32,
    hop: u32,
    word: usize,
}

/// A part of a slot's entries: those whose hashes begin with a prefix.
#[derive(Debug)]
pub(super) struct Subtable {
    buckets: NonNull<Bucket>,
    bucket_count: u32,
    len: u32,
    overflow: u32,
    /// The stamp of the last walk that passed the whole subtable, or under which it was made.
    pub(super) walked: u16,
    depth: u8,
    /// The first hash that it covers.
    prefix: u64,
}

// SAFETY: a subtable owns its buckets and entries, and those own their values (`LargeValue` is
// `Send`); nothing in them is bound to a thread.
unsafe impl Send for Subtable {}

impl Subtable {
    /// An empty subtable for the hashes that share the first `depth` bits of `prefix`.
    pub(super) fn new(prefix: u64, depth: u32, bucket_count: u32, stamp: u16) -> Self {
        assert!(depth <= MAX_DEPTH && (1..=MAX_BUCKETS).contains(&bucket_count));
        let mut table = Self {
            buckets: allocate_buckets(bucket_count),
            bucket_count,
            len: 0,
            overflow: 0,
            walked: stamp,
            depth: depth as u8,
            prefix,
        };
        for bucket in 0..bucket_count {
            table.set_stamp(bucket, stamp);
        }
        table
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn bucket_count(&self) -> u32 {
        self.bucket_count
    }

    pub(super) fn prefix(&self) -> u64 {
        self.prefix
    }

    pub(super) fn depth(&self) -> u32 {
        u32::from(self.depth)
    }

    /// What the buckets occupy.
    pub(super) fn memory_bytes(&self) -> usize {
        (self.bucket_count as usize + self.overflow as usize) * BUCKET_BYTES
    }

    /// The first hash behind this subtable; `None` if there is none.
    pub(super) fn end(&self) -> Option<u64> {
        if self.depth == 0 { None } else { self.prefix.checked_add(1 << (64 - self.depth())) }
    }

    /// The bucket that holds this hash.
    pub(super) fn bucket_of(&self, hash: u64) -> u32 {
        self.bucket_of_tag(self.tag(hash))
    }

    /// The first hash behind this bucket within the subtable, or behind the subtable.
    pub(super) fn hash_after(&self, bucket: u32) -> Option<u64> {
        let next = bucket + 1;
        if next == self.bucket_count {
            return self.end();
        }
        let tag = (u64::from(next) << 16).div_ceil(u64::from(self.bucket_count));
        Some(self.prefix | tag << (48 - self.depth()))
    }

    fn tag(&self, hash: u64) -> u16 {
        (hash >> (48 - self.depth())) as u16
    }

    fn bucket_of_tag(&self, tag: u16) -> u32 {
        (u32::from(tag) * self.bucket_count) >> 16
    }

    /// Asks for the bucket of a hash.
    pub(super) fn prefetch_bucket(&self, hash: u64) {
        prefetch(std::ptr::from_ref(self.head(self.bucket_of_tag(self.tag(hash)))));
    }

    /// Asks for the entries in the bucket of a hash that may be the one.
    pub(super) fn prefetch_entry(&self, hash: u64) {
        let tag = self.tag(hash);
        let head = self.head(self.bucket_of_tag(tag));
        for bits in head.words.iter().filter(|bits| (**bits >> TAG_SHIFT) as u16 == tag) {
            if *bits != 0 {
                prefetch(pointer_of(*bits).as_ptr().cast_const());
            }
        }
    }

    /// Asks for all entries in a bucket, which will be read whole; if there is such a bucket.
    pub(super) fn prefetch_entries(&self, bucket: u32) {
        if bucket >= self.bucket_count {
            return;
        }
        for bits in self.head(bucket).words.iter().filter(|bits| **bits != 0) {
            let entry = pointer_of(*bits).as_ptr().cast_const();
            // A key and a short value end in the second line.
            prefetch(entry);
            prefetch(entry.wrapping_add(BUCKET_BYTES));
        }
    }

    /// The entry with this key.
    pub(super) fn find(&self, hash: u64, db: DbIndex, key: &[u8]) -> Option<Place> {
        let tag = self.tag(hash);
        let bucket = self.bucket_of_tag(tag);
        for (hop, words) in self.chain(bucket).enumerate() {
            for (word, bits) in words.iter().enumerate() {
                if (bits >> TAG_SHIFT) as u16 != tag || *bits == 0 {
                    continue;
                }
                let view = view_of(*bits);
                if view.key() == key && view.db() == db {
                    return Some(Place { bucket, hop: hop as u32, word });
                }
            }
        }
        None
    }

    /// The entry at a place.
    pub(super) fn view(&self, place: Place) -> EntryView<'_> {
        view_of(self.word(place))
    }

    /// Calls `f` with every entry of a chain and whether it is flagged as expiring; the entry's
    /// memory is read only if `f` does.
    pub(super) fn for_chain<'a>(&'a self, bucket: u32, mut f: impl FnMut(EntryView<'a>, bool)) {
        for words in self.chain(bucket) {
            for bits in words.iter().filter(|bits| **bits != 0) {
                f(view_of(*bits), bits & FLAG_EXPIRES != 0);
            }
        }
    }

    /// How many words a chain has, empty ones included.
    pub(super) fn chain_words(&self, bucket: u32) -> usize {
        self.chain(bucket).count() * BUCKET_ENTRIES
    }

    /// The entry at a word of a chain, if there is one.
    pub(super) fn nth(&self, bucket: u32, index: usize) -> Option<EntryView<'_>> {
        let words = self.chain(bucket).nth(index / BUCKET_ENTRIES)?;
        let bits = words[index % BUCKET_ENTRIES];
        (bits != 0).then(|| view_of(bits))
    }

    /// Adds an entry whose key is not there.
    pub(super) fn insert(&mut self, hash: u64, entry: Entry) {
        let tag = self.tag(hash);
        let expires = entry.view().expires_at_ms().is_some();
        self.insert_word(word_of(tag, entry, expires));
    }

    /// Replaces the entry at a place by what `change` makes of it; the key stays.
    pub(super) fn update(&mut self, place: Place, change: impl FnOnce(Entry) -> Entry) {
        let bits = self.word(place);
        // Should `change` panic, the word must not keep a pointer to what it has dropped.
        *self.word_mut(place) = 0;
        let entry = change(entry_of(bits));
        let expires = entry.view().expires_at_ms().is_some();
        *self.word_mut(place) = word_of((bits >> TAG_SHIFT) as u16, entry, expires);
    }

    /// Takes an entry out.
    pub(super) fn take(&mut self, place: Place) -> Entry {
        let bits = self.word(place);
        let last = self.pop_word(place.bucket).expect("the chain has an entry at the place");
        if last != bits {
            *self.word_mut(place) = last;
        }
        self.len -= 1;
        entry_of(bits)
    }

    /// Takes all entries out of a chain for which `condition` holds.
    pub(super) fn take_from_chain(
        &mut self,
        bucket: u32,
        mut condition: impl FnMut(EntryView<'_>) -> bool,
        mut f: impl FnMut(Entry),
    ) {
        let mut kept = Vec::new();
        while let Some(bits) = self.pop_word(bucket) {
            self.len -= 1;
            if condition(view_of(bits)) {
                f(entry_of(bits));
            } else {
                kept.push(bits);
            }
        }
        for bits in kept {
            self.push_word(bucket, bits);
        }
    }

    /// The stamp of a chain.
    pub(super) fn stamp(&self, bucket: u32) -> u16 {
        (self.head(bucket).link >> TAG_SHIFT) as u16
    }

    /// Stamps a chain.
    pub(super) fn set_stamp(&mut self, bucket: u32, stamp: u16) {
        let head = self.head_mut(bucket);
        head.link = head.link & POINTER_MASK | u64::from(stamp) << TAG_SHIFT;
    }

    /// Gives the subtable another number of buckets, all with this stamp.
    pub(super) fn resize(&mut self, bucket_count: u32, stamp: u16) {
        let mut resized = Self::new(self.prefix, self.depth(), bucket_count, stamp);
        self.drain_words(|bits| resized.insert_word(bits));
        *self = resized;
    }

    /// Splits by the next bit of the hash; both halves get `bucket_count` buckets.
    pub(super) fn split(&mut self, bucket_count: u32, stamp: u16, hasher: &KeyHasher) -> Self {
        let depth = self.depth() + 1;
        let upper_prefix = self.prefix | 1 << (64 - depth);
        let mut lower = Self::new(self.prefix, depth, bucket_count, stamp);
        let mut upper = Self::new(upper_prefix, depth, bucket_count, stamp);
        self.drain_words(|bits| {
            let view = view_of(bits);
            let hash = hasher.hash(view.db(), view.key());
            let half = if hash >= upper_prefix { &mut upper } else { &mut lower };
            let tag = half.tag(hash);
            half.insert_word(bits & POINTER_MASK | u64::from(tag) << TAG_SHIFT);
        });
        *self = lower;
        upper
    }

    /// Whether `upper` is the other half of this one.
    pub(super) fn is_lower_half_of(&self, upper: &Self) -> bool {
        self.depth == upper.depth
            && self.depth > 0
            && upper.prefix == self.prefix | 1 << (64 - self.depth())
            && upper.prefix != self.prefix
    }

    /// Takes the other half in; the inverse of [`Self::split`].
    pub(super) fn merge(&mut self, mut upper: Self, bucket_count: u32, stamp: u16) {
        assert!(self.is_lower_half_of(&upper));
        let mut merged = Self::new(self.prefix, self.depth() - 1, bucket_count, stamp);
        for (half, top) in [(&mut *self, 0), (&mut upper, 1 << 63)] {
            half.drain_words(|bits| {
                let tag = (bits >> 1) & !POINTER_MASK & !(1 << 63) | top;
                // The lowest bit of the old tag is shifted out, not into the pointer.
                merged.insert_word(tag | bits & POINTER_MASK);
            });
        }
        *self = merged;
    }

    fn insert_word(&mut self, bits: u64) {
        self.push_word(self.bucket_of_tag((bits >> TAG_SHIFT) as u16), bits);
    }

    /// Puts a word behind the last of a chain.
    fn push_word(&mut self, bucket: u32, bits: u64) {
        self.len += 1;
        let mut overflowed = false;
        let mut at = self.head_mut(bucket);
        // Chains are packed: a free word is in the last bucket, and only there.
        while let Some(mut next) = overflow_of(at.link) {
            // SAFETY: a link owns its overflow bucket, which `&mut self` borrows alone.
            at = unsafe { next.as_mut() };
        }
        if at.words[BUCKET_ENTRIES - 1] != 0 {
            let mut next = allocate_buckets(1);
            at.link |= next.as_ptr().expose_provenance() as u64;
            overflowed = true;
            // SAFETY: just allocated and zeroed, and known to this link only.
            at = unsafe { next.as_mut() };
        }
        let free = at.words.iter_mut().find(|word| **word == 0);
        *free.expect("the last bucket of a chain has room") = bits;
        self.overflow += u32::from(overflowed);
    }

    /// Takes the last word of a chain, and frees its bucket if it is an empty overflow bucket. The
    /// caller corrects `len`.
    fn pop_word(&mut self, bucket: u32) -> Option<u64> {
        let head: *mut Bucket = self.head_mut(bucket);
        let (mut before, mut last) = (None, head);
        // SAFETY: a chain's buckets belong to this subtable, which `&mut self` borrows alone; every
        // reference made here ends before the next one to the same bucket is made.
        unsafe {
            while let Some(next) = overflow_of((*last).link) {
                before = Some(last);
                last = next.as_ptr();
            }
            let words = &mut (*last).words;
            let index = words.iter().rposition(|word| *word != 0)?;
            let bits = std::mem::take(&mut words[index]);
            if let (0, Some(before)) = (index, before) {
                (*before).link &= !POINTER_MASK;
                free_buckets(NonNull::new_unchecked(last), 1);
                self.overflow -= 1;
            }
            Some(bits)
        }
    }

    /// Takes all words out, bucket by bucket.
    fn drain_words(&mut self, mut f: impl FnMut(u64)) {
        for bucket in 0..self.bucket_count {
            while let Some(bits) = self.pop_word(bucket) {
                self.len -= 1;
                f(bits);
            }
        }
    }

    fn word(&self, place: Place) -> u64 {
        let mut chain = self.chain(place.bucket);
        chain.nth(place.hop as usize).expect("the place is in the chain")[place.word]
    }

    fn word_mut(&mut self, place: Place) -> &mut u64 {
        let mut at = self.head_mut(place.bucket);
        for _ in 0..place.hop {
            let mut next = overflow_of(at.link).expect("the place is in the chain");
            // SAFETY: a link owns its overflow bucket, which `&mut self` borrows alone.
            at = unsafe { next.as_mut() };
        }
        &mut at.words[place.word]
    }

    /// The words of a chain, bucket by bucket.
    fn chain(&self, bucket: u32) -> impl Iterator<Item = &[u64; BUCKET_ENTRIES]> {
        let mut next = Some(self.head(bucket));
        std::iter::from_fn(move || {
            let at = next?;
            // SAFETY: a link owns its overflow bucket, which lives as long as `&self` borrows.
            next = overflow_of(at.link).map(|bucket| unsafe { bucket.as_ref() });
            Some(&at.words)
        })
    }

    fn head(&self, bucket: u32) -> &Bucket {
        assert!(bucket < self.bucket_count);
        // SAFETY: the array has `bucket_count` buckets, all initialized (zeroed at first).
        unsafe { self.buckets.add(bucket as usize).as_ref() }
    }

    fn head_mut(&mut self, bucket: u32) -> &mut Bucket {
        assert!(bucket < self.bucket_count);
        // SAFETY: as in `head`, and `&mut self` borrows it alone.
        unsafe { self.buckets.add(bucket as usize).as_mut() }
    }
}

impl Drop for Subtable {
    fn drop(&mut self) {
        if self.len > 0 || self.overflow > 0 {
            self.drain_words(|bits| drop(entry_of(bits)));
        }
        free_buckets(self.buckets, self.bucket_count);
    }
}

fn overflow_of(link: u64) -> Option<NonNull<Bucket>> {
    NonNull::new(std::ptr::with_exposed_provenance_mut((link & POINTER_MASK) as usize))
}

fn pointer_of(bits: u64) -> NonNull<u8> {
    let address = (bits & POINTER_MASK & !FLAGS_MASK) as usize;
    NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("a word that is not empty")
}

/// Asks for a cache line without waiting for it.
pub(super) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint: it reads nothing, and no address faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Lends the entry of a word that is not empty. The lifetime is bound by the callers to the
/// subtable's borrow.
fn view_of<'a>(bits: u64) -> EntryView<'a> {
    // SAFETY: words hold pointers of entries that they own; callers hold the subtable's borrow.
    unsafe { EntryView::from_raw(pointer_of(bits)) }
}

/// Takes the entry of a word, which the caller has taken out of its bucket.
fn entry_of(bits: u64) -> Entry {
    // SAFETY: words hold pointers of entries that they own, and this word is in no bucket any more.
    unsafe { Entry::from_raw(pointer_of(bits)) }
}

fn word_of(tag: u16, entry: Entry, expires: bool) -> u64 {
    let address = entry.into_raw().as_ptr().expose_provenance() as u64;
    // Linux gives user space 47 bits (x86-64) or 48 (AArch64) unless a process asks for more.
    assert!(address & !POINTER_MASK == 0 && address & FLAGS_MASK == 0, "entry at {address:#x}");
    u64::from(tag) << TAG_SHIFT | address | if expires { FLAG_EXPIRES } else { 0 }
}

fn allocate_buckets(count: u32) -> NonNull<Bucket> {
    let layout = Layout::array::<Bucket>(count as usize).expect("at most MAX_BUCKETS");
    // SAFETY: the size is not zero, as `count` is at least 1; zeroed bytes are an empty bucket.
    let buckets = unsafe { alloc_zeroed(layout) };
    count_allocation(1);
    let Some(buckets) = NonNull::new(buckets.cast::<Bucket>()) else { handle_alloc_error(layout) };
    assert!(buckets.as_ptr().addr() as u64 & !POINTER_MASK == 0);
    buckets
}

fn free_buckets(buckets: NonNull<Bucket>, count: u32) {
    let layout = Layout::array::<Bucket>(count as usize).expect("at most MAX_BUCKETS");
    // SAFETY: `buckets` came from `allocate_buckets(count)`, and its owner gives it up.
    unsafe { dealloc(buckets.as_ptr().cast(), layout) };
    count_allocation(-1);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cursor that stands behind a bucket is exactly the first hash of the next one, and fits
    /// into the 48 bits that a scan keeps.
    #[test]
    fn buckets_follow_each_other_in_the_order_of_hashes() {
        for depth in [0, 1, 7, MAX_DEPTH] {
            for prefix in [0, u64::MAX.checked_shl(64 - depth).unwrap_or(0)] {
                for bucket_count in [1, 2, 3, 5, 7, 8, 10, 320, 384, MAX_BUCKETS] {
                    let table = Subtable::new(prefix, depth, bucket_count, 0);
                    assert_eq!(table.bucket_of(prefix), 0);
                    for bucket in 0..bucket_count - 1 {
                        let next = table.hash_after(bucket).expect("not the last bucket");
                        assert_eq!(next & 0xFFFF, 0);
                        assert_eq!(table.bucket_of(next), bucket + 1);
                        assert_eq!(table.bucket_of(next - 1), bucket);
                    }
                    assert_eq!(table.hash_after(bucket_count - 1), table.end());
                    if let Some(end) = table.end() {
                        assert_eq!(table.bucket_of(end - 1), bucket_count - 1);
                    }
                }
            }
        }
    }

    #[test]
    fn chains_are_packed_and_free_what_they_do_not_need() {
        let hasher = KeyHasher::new(1);
        let mut table = Subtable::new(0, 0, 1, 9);
        let name = |n: usize| format!("key{n}").into_bytes();
        for n in 0..50 {
            let (key, value) = (name(n), super::super::NewValue::Bytes(b"v"));
            let kind = crate::entry::ValueKind::String;
            let entry = Entry::new(DbIndex(0), &key, kind, Some(1), value.stored());
            table.insert(hasher.hash(DbIndex(0), &key), entry);
            assert_eq!(table.memory_bytes(), (n + 1).div_ceil(BUCKET_ENTRIES) * BUCKET_BYTES);
        }
        for n in 0..50 {
            let key = name(n);
            let place = table.find(hasher.hash(DbIndex(0), &key), DbIndex(0), &key);
            assert_eq!(table.take(place.expect("inserted")).view().key(), key);
            let left = (49 - n).div_ceil(BUCKET_ENTRIES).max(1);
            assert_eq!((table.memory_bytes(), table.stamp(0)), (left * BUCKET_BYTES, 9));
        }
        assert_eq!(table.len(), 0);
    }
}
