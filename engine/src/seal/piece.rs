//! An object's bytes in sealed pieces, so that it is written and read in bounded memory and not a
//! byte is believed before its tag has been checked.
//!
//! This is the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár: "Online Authenticated-
//! Encryption and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015). Every piece holds
//! [`PIECE_BYTES`], only the last may hold fewer, and only that of an empty object none. The nonce
//! is four zero bytes and a little-endian `u64`: the piece's number, the top bit set in the last.
//! The associated data are the object's plain header. So pieces that are missing, doubled, swapped,
//! appended, cut off, or under another header, do not open. A nonce is never used twice, since
//! every object has a key of its own.

use super::SealError;
use super::cipher::{NONCE_BYTES, SealKey, TAG_BYTES};

/// Plain bytes of every piece but the last.
pub const PIECE_BYTES: usize = 1 << 20;
/// Stored bytes of every piece but the last.
pub const SEALED_PIECE_BYTES: usize = PIECE_BYTES + TAG_BYTES;

const LAST: u64 = 1 << 63;

/// How many bytes so many plain ones become.
pub const fn sealed_length(plain_bytes: u64) -> u64 {
    let pieces = if plain_bytes == 0 { 1 } else { plain_bytes.div_ceil(PIECE_BYTES as u64) };
    plain_bytes + pieces * TAG_BYTES as u64
}

/// Seals an object's bytes as they come. Holds one piece.
#[derive(Debug)]
pub struct PieceSealer {
    key: SealKey,
    header: Vec<u8>,
    pub(super) piece: Vec<u8>,
    count: u64,
}

impl PieceSealer {
    /// A sealer for one object, whose key is used for nothing else. `header` is its plain header.
    pub fn new(key: SealKey, header: &[u8]) -> Self {
        Self { key, header: header.into(), piece: Vec::new(), count: 0 }
    }

    /// Takes the next bytes, and gives every piece that becomes full to `each`.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Vec<u8>)) {
        while !bytes.is_empty() {
            // Only now is it known that the full piece is not the last.
            if self.piece.len() == PIECE_BYTES {
                each(self.seal(0));
            }
            if self.piece.capacity() == 0 {
                self.piece.reserve_exact(SEALED_PIECE_BYTES);
            }
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
        }
    }

    /// The last piece.
    pub fn finish(mut self) -> Vec<u8> {
        self.seal(LAST)
    }

    fn seal(&mut self, last: u64) -> Vec<u8> {
        let mut piece = std::mem::take(&mut self.piece);
        let tag = self.key.seal(nonce(self.count | last), &self.header, &mut piece);
        piece.extend_from_slice(&tag);
        self.count += 1;
        piece
    }
}

/// Opens an object's bytes as they come. Holds one piece.
#[derive(Debug)]
pub struct PieceOpener {
    key: SealKey,
    header: Vec<u8>,
    pub(super) piece: Vec<u8>,
    count: u64,
}

impl PieceOpener {
    /// An opener for one object, by the key and the plain header under which it was sealed.
    pub fn new(key: SealKey, header: &[u8]) -> Self {
        Self { key, header: header.into(), piece: Vec::new(), count: 0 }
    }

    /// Takes the next stored bytes, and gives the plain ones of every whole piece to `each`.
    ///
    /// # Errors
    /// [`SealError::Piece`] at the first that does not open; the opener is then of no more use.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Vec<u8>),
    ) -> Result<(), SealError> {
        while !bytes.is_empty() {
            if self.piece.len() == SEALED_PIECE_BYTES {
                each(self.open(0)?);
            }
            if self.piece.capacity() == 0 {
                self.piece.reserve_exact(SEALED_PIECE_BYTES);
            }
            let room = SEALED_PIECE_BYTES - self.piece.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.piece.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// The plain bytes of the last piece; the object is whole.
    ///
    /// # Errors
    /// [`SealError::Piece`] if it is not the last, or does not open.
    pub fn finish(mut self) -> Result<Vec<u8>, SealError> {
        self.open(LAST)
    }

    /// The number of the piece that comes next.
    pub fn next_piece(&self) -> u64 {
        self.count
    }

    fn open(&mut self, last: u64) -> Result<Vec<u8>, SealError> {
        let mut piece = std::mem::take(&mut self.piece);
        let failed = SealError::Piece { piece: self.count };
        let Some((sealed, tag)) = piece.split_last_chunk_mut::<TAG_BYTES>() else {
            return Err(failed);
        };
        if !self.key.open(nonce(self.count | last), &self.header, sealed, *tag) {
            return Err(failed);
        }
        piece.truncate(piece.len() - TAG_BYTES);
        self.count += 1;
        Ok(piece)
    }
}

fn nonce(number: u64) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    nonce
}
