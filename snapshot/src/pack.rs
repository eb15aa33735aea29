//! The chunk stream of one object on its way to stored bytes: bodies are compressed one by one, get
//! their headers, and the stream is sealed piece by piece, or not. What [`crate::decoder`] undoes.
//!
//! Pure and synchronous: [`crate::core_writer`] runs it on threads for such work. A large body that
//! is neither compressed nor sealed is not copied.

use bytes::Bytes;
use cutwater_engine::seal::{PieceSealer, SealKey};

use crate::chunk::{ChunkKind, ChunkPlace, OBJECT_HEADER_BYTES, ObjectHeader, chunk_header};
use crate::compression::{Compression, Compressor};

/// A chunk before anything was done to it.
#[derive(Debug)]
pub(crate) struct RawChunk {
    pub kind: ChunkKind,
    pub sequence: u64,
    /// Ops (image) or records (tail).
    pub count: u32,
    pub body: Bytes,
}

/// Packs the chunks of one object, in order.
#[derive(Debug)]
pub(crate) struct Packer {
    header: ObjectHeader,
    seed: u32,
    compressor: Compressor,
    sealer: Option<PieceSealer>,
    stream_bytes: u64,
}

impl Packer {
    /// A packer, and the header that goes before what it gives. A key if and only if the header
    /// has a salt.
    pub fn new(
        header: ObjectHeader,
        compression: Compression,
        key: Option<SealKey>,
    ) -> (Self, [u8; OBJECT_HEADER_BYTES]) {
        assert_eq!(header.salt.is_some(), key.is_some(), "sealed objects have a salt");
        let bytes = header.encode();
        let seed = header.seed();
        let sealer = key.map(|key| PieceSealer::new(key, &bytes));
        let compressor = Compressor::new(compression);
        (Self { header, seed, compressor, sealer, stream_bytes: OBJECT_HEADER_BYTES as u64 }, bytes)
    }

    /// Whether packing does more than to compute a checksum.
    pub fn is_work(&self) -> bool {
        !self.compressor.is_none() || self.sealer.is_some()
    }

    /// Bytes of the object so far, header included, before sealing.
    pub fn stream_bytes(&self) -> u64 {
        self.stream_bytes
    }

    /// Adds a chunk; what becomes ready to be stored goes to `out`.
    pub fn pack(&mut self, chunk: RawChunk, out: &mut Vec<Bytes>) {
        let RawChunk { kind, sequence, count, body } = chunk;
        let raw_bytes = body.len();
        let stored = match kind {
            ChunkKind::Image | ChunkKind::Tail => self.compressor.compress(&body),
            ChunkKind::PieceEnd | ChunkKind::CoreEnd => None,
        };
        let stored = stored.map_or(body, Bytes::from);
        let place = ChunkPlace { seed: self.seed, core: self.header.core, sequence };
        let header = chunk_header(place, kind, count, raw_bytes, &stored);
        self.stream_bytes += (header.len() + stored.len()) as u64;
        match &mut self.sealer {
            Some(sealer) => {
                for bytes in [&header[..], &stored] {
                    sealer.push(bytes, |piece| out.push(piece.into()));
                }
            }
            None => out.extend([Bytes::copy_from_slice(&header), stored]),
        }
    }

    /// The last bytes of the object.
    pub fn finish(self) -> Bytes {
        self.sealer.map_or(Bytes::new(), |sealer| sealer.finish().into())
    }
}
