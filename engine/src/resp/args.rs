//! The arguments of one request: borrowed from a connection's buffer ([`Args`]), or owned
//! ([`ArgsBuf`]) by whoever must keep them, such as a MULTI queue, a command that waits, or a
//! client in the same process. Pure.
//!
//! Both are one run of bytes and the ranges of the arguments in it, so a request costs no
//! allocation for each argument.

use std::fmt;
use std::ops::Index;

/// Where one argument stands in the bytes of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ArgRange {
    /// The first byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// The arguments of a request, the command's name first. A view: copying it copies two slices.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    bytes: &'a [u8],
    ranges: &'a [ArgRange],
}

impl<'a> Args<'a> {
    pub(super) fn new(bytes: &'a [u8], ranges: &'a [ArgRange]) -> Self {
        Self { bytes, ranges }
    }

    /// How many arguments there are, the command's name included.
    pub fn len(self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none; a decoded request always has one.
    pub fn is_empty(self) -> bool {
        self.ranges.is_empty()
    }

    /// The argument at `index`, counted from 0.
    pub fn get(self, index: usize) -> Option<&'a [u8]> {
        self.ranges.get(index).map(|range| &self.bytes[range.start as usize..range.end as usize])
    }

    /// The arguments from `count` on; none if there are fewer.
    pub fn skip(self, count: usize) -> Self {
        Self { bytes: self.bytes, ranges: self.ranges.get(count..).unwrap_or_default() }
    }

    /// All arguments in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator {
        self.ranges.iter().map(move |range| &self.bytes[range.start as usize..range.end as usize])
    }

    /// A copy that outlives the connection's buffer.
    pub fn to_buf(self) -> ArgsBuf {
        ArgsBuf::new(self.iter())
    }
}

impl Index<usize> for Args<'_> {
    type Output = [u8];

    /// # Panics
    /// If there are not that many arguments: check the arity first.
    fn index(&self, index: usize) -> &[u8] {
        self.get(index).expect("the arity was checked")
    }
}

impl fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(String::from_utf8_lossy)).finish()
    }
}

impl PartialEq for Args<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// Arguments that own their bytes.
#[derive(Clone, Default)]
pub struct ArgsBuf {
    bytes: Vec<u8>,
    ranges: Vec<ArgRange>,
}

impl ArgsBuf {
    /// Copies these arguments.
    ///
    /// # Panics
    /// If they are 4 GiB or more; [`super::Limits`] keeps requests below that.
    pub fn new<'a>(args: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut buf = Self::default();
        args.into_iter().for_each(|arg| buf.push(arg));
        buf
    }

    /// Adds one argument at the end.
    ///
    /// # Panics
    /// If the arguments are then 4 GiB or more.
    pub fn push(&mut self, arg: &[u8]) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(arg);
        let end = u32::try_from(self.bytes.len()).expect("a request is shorter than 4 GiB");
        self.ranges.push(ArgRange { start, end });
    }

    /// The view that commands take.
    pub fn as_args(&self) -> Args<'_> {
        Args::new(&self.bytes, &self.ranges)
    }

    /// The memory that the arguments hold, for the limits on queued commands.
    pub fn size_bytes(&self) -> usize {
        self.bytes.capacity() + self.ranges.capacity() * size_of::<ArgRange>()
    }
}

impl fmt::Debug for ArgsBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_args().fmt(f)
    }
}

impl PartialEq for ArgsBuf {
    fn eq(&self, other: &Self) -> bool {
        self.as_args() == other.as_args()
    }
}

impl<'a, T: AsRef<[u8]> + ?Sized> FromIterator<&'a T> for ArgsBuf {
    fn from_iter<I: IntoIterator<Item = &'a T>>(args: I) -> Self {
        Self::new(args.into_iter().map(AsRef::as_ref))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owned_copy_is_equal_and_can_be_cut() {
        let buf: ArgsBuf = ["SET", "", "value"].iter().collect();
        let args = buf.as_args();
        assert_eq!(args.len(), 3);
        assert_eq!((&args[0], &args[1], args.get(3)), (&b"SET"[..], &b""[..], None));
        assert_eq!(args.to_buf(), buf);
        assert_eq!(args.skip(2).iter().collect::<Vec<_>>(), [b"value"]);
        assert!(args.skip(3).is_empty() && args.skip(9).is_empty());
        assert_eq!(format!("{buf:?}"), r#"["SET", "", "value"]"#);
    }
}
