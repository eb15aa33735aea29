//! One core's part on its way into the store: chunk bodies in, objects out, in bounded memory.
//!
//! Each chunk is packed (`pack.rs`: compressed, sealed) and goes to the object
//! (`object_writer.rs`), of which one part is being written while the next fills. With the
//! chunk that is being packed, that is about 12 MiB a core.
//!
//! The local store writes parts past the page cache (`local/upload.rs`): a sealed snapshot of 5
//! million entries of 116 bytes took 0.8 s and 1.75 s of CPU so, its being read back included, and
//! through object_store's own multipart 1.2 s and 2.1 s (ext4, 2 CPUs, busy).

use std::sync::Arc;

use bytes::Bytes;
use cutwater_engine::types::{LogId, Lsn, Position, ShardId};
use object_store::ObjectStore;

use crate::chunk::{BODY_LIMIT_BYTES, CHUNK_HEADER_BYTES, ChunkKind, ObjectHeader, Totals};
use crate::compression::Compression;
use crate::error::SnapshotError;
use crate::manifest::{CorePart, StoredObject};
use crate::object_writer::{ObjectWriter, Written};
pub use crate::object_writer::{PART_BYTES, PARTS_IN_FLIGHT};
use crate::pack::{Packer, RawChunk};
use crate::paths::SnapshotName;
use crate::sealing::Seal;

/// The length at which a core's stream goes on in a further object.
pub const PIECE_BYTES: u64 = 1 << 30;
/// Bodies shorter than this are packed where they are: less work than to pass them on.
const INLINE_BYTES: usize = 32 << 10;

/// What a shard sends: the chunks of one core, image first.
#[derive(Debug)]
pub enum CoreInput {
    /// A run of `entry::Op`, and how many there are.
    Image {
        /// The ops.
        body: Vec<u8>,
        /// How many.
        entries: u32,
    },
    /// A run of records ([`crate::chunk::push_tail_record`]), and how many there are.
    Tail {
        /// The records.
        body: Vec<u8>,
        /// How many.
        records: u32,
    },
    /// Everything has been sent. A channel that closes without it is a shard that gave up.
    End,
}

/// Where a part's image stands, which the shard knows from its cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartPoint {
    /// The image holds everything at or below, and nothing above.
    pub watermark: Lsn,
    /// The log that goes on behind the image.
    pub log_id: LogId,
    /// Where in that log recovery continues.
    pub position: Position,
}

/// A core's part, wholly in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedCore {
    pub(crate) part: CorePart,
    pub(crate) objects: Vec<StoredObject>,
}

/// Writes the objects of one core.
#[derive(Debug)]
pub struct CoreWriter {
    store: Arc<dyn ObjectStore>,
    name: SnapshotName,
    header: ObjectHeader,
    compression: Compression,
    seal: Option<Seal>,
    piece_limit_bytes: u64,
    piece: Option<Piece>,
    sequence: u64,
    totals: Totals,
    objects: Vec<StoredObject>,
}

impl CoreWriter {
    pub(crate) fn new(
        store: Arc<dyn ObjectStore>,
        name: SnapshotName,
        header: ObjectHeader,
        compression: Compression,
        seal: Option<Seal>,
        piece_limit_bytes: u64,
    ) -> Self {
        Self {
            store,
            name,
            header,
            compression,
            seal,
            piece_limit_bytes,
            piece: None,
            sequence: 0,
            totals: Totals::default(),
            objects: Vec::new(),
        }
    }

    /// The core whose part this writes.
    pub fn core(&self) -> ShardId {
        self.header.core
    }

    /// Bytes of its objects so far, about: what of the last has been packed.
    pub fn stored_bytes(&self) -> u64 {
        let whole: u64 = self.objects.iter().map(|object| object.length).sum();
        whole + self.piece.as_ref().map_or(0, Piece::stream_bytes)
    }

    /// Writes everything that a shard sends, until its end mark.
    ///
    /// # Errors
    /// [`SnapshotError::SourceClosed`] if the channel closes before the end mark, or as for
    /// [`CoreWriter::image`]; the snapshot can then only be aborted.
    pub async fn run(
        mut self,
        chunks: flume::Receiver<CoreInput>,
        point: PartPoint,
    ) -> Result<FinishedCore, SnapshotError> {
        loop {
            match chunks.recv_async().await {
                Ok(CoreInput::Image { body, entries }) => self.image(body.into(), entries).await?,
                Ok(CoreInput::Tail { body, records }) => self.tail(body.into(), records).await?,
                Ok(CoreInput::End) => return self.finish(point).await,
                Err(_) => return Err(SnapshotError::SourceClosed { core: self.core() }),
            }
        }
    }

    /// Adds a chunk of the image: a run of `entry::Op`, `entries` of them.
    ///
    /// # Errors
    /// [`SnapshotError::Store`] if the store fails, [`SnapshotError::Parts`] if the body is too
    /// long or comes after the tail.
    pub async fn image(&mut self, body: Bytes, entries: u32) -> Result<(), SnapshotError> {
        if self.totals.tail_records > 0 {
            return Err(SnapshotError::Parts { reason: "an image chunk after the tail".into() });
        }
        self.chunk(ChunkKind::Image, body, entries).await
    }

    /// Adds a chunk of tail records, `records` of them.
    ///
    /// # Errors
    /// As for [`CoreWriter::image`].
    pub async fn tail(&mut self, body: Bytes, records: u32) -> Result<(), SnapshotError> {
        self.chunk(ChunkKind::Tail, body, records).await
    }

    /// Ends the stream; the part is in the store when this returns.
    ///
    /// # Errors
    /// [`SnapshotError::Store`] if the store fails.
    pub async fn finish(mut self, point: PartPoint) -> Result<FinishedCore, SnapshotError> {
        self.end_piece(ChunkKind::CoreEnd).await?;
        let Totals { chunks, entries, tail_records, .. } = self.totals;
        let part = CorePart {
            core: self.core(),
            watermark: point.watermark,
            log_id: point.log_id,
            position: point.position,
            entries,
            chunks,
            tail_records,
        };
        Ok(FinishedCore { part, objects: self.objects })
    }

    async fn chunk(
        &mut self,
        kind: ChunkKind,
        body: Bytes,
        count: u32,
    ) -> Result<(), SnapshotError> {
        if body.is_empty() && count == 0 {
            return Ok(());
        }
        if body.len() > BODY_LIMIT_BYTES {
            let reason = format!("a chunk of {} bytes", body.len());
            return Err(SnapshotError::Parts { reason });
        }
        let chunk_bytes = (CHUNK_HEADER_BYTES + body.len()) as u64;
        if let Some(piece) = &self.piece
            && piece.stream_bytes() + chunk_bytes > self.piece_limit_bytes
            && piece.has_chunks
        {
            self.end_piece(ChunkKind::PieceEnd).await?;
        }
        self.totals.add(kind, count, body.len());
        self.append(kind, body, count).await
    }

    async fn append(
        &mut self,
        kind: ChunkKind,
        body: Bytes,
        count: u32,
    ) -> Result<(), SnapshotError> {
        let (core, sequence) = (self.core(), self.sequence);
        self.sequence += 1;
        if self.piece.is_none() {
            // The chunk that opens a piece has been counted already.
            let opening = if kind == ChunkKind::Image { u64::from(count) } else { 0 };
            self.piece = Some(self.open_piece(self.totals.entries - opening)?);
        }
        let piece = self.piece.as_mut().expect("just opened");
        piece.chunk(core, RawChunk { kind, sequence, count, body }).await
    }

    fn open_piece(&self, entries_before: u64) -> Result<Piece, SnapshotError> {
        let number = self.objects.len() as u32;
        let path = self.name.core_object(self.core(), number);
        let (salt, key) = match &self.seal {
            Some(seal) => seal.object(&path).map(|(salt, key)| (Some(salt), Some(key)))?,
            None => (None, None),
        };
        let header = ObjectHeader { piece: number, salt, ..self.header };
        let (packer, header) = Packer::new(header, self.compression, key);
        let mut object = ObjectWriter::new(self.store.clone(), path);
        object.push(Bytes::copy_from_slice(&header));
        Ok(Piece { object, packer: Some(packer), entries_before, has_chunks: false })
    }

    async fn end_piece(&mut self, kind: ChunkKind) -> Result<(), SnapshotError> {
        let totals = self.totals.encode();
        self.append(kind, Bytes::copy_from_slice(&totals), 0).await?;
        let piece = self.piece.take().expect("append opens a piece");
        let entries = self.totals.entries - piece.entries_before;
        let number = self.objects.len() as u32;
        let Written { path, length, crc32c } = piece.complete().await?;
        let (name, core) = (path.to_string(), self.core());
        self.objects.push(StoredObject { name, core, piece: number, length, crc32c, entries });
        Ok(())
    }
}

/// An object that is being written.
#[derive(Debug)]
struct Piece {
    object: ObjectWriter,
    /// Away while a chunk is packed.
    packer: Option<Packer>,
    entries_before: u64,
    has_chunks: bool,
}

impl Piece {
    /// Packs a chunk and hands it to the store. Packing that is work is done on a thread for it:
    /// this task's runtime has few, and they serve others too.
    async fn chunk(&mut self, core: ShardId, chunk: RawChunk) -> Result<(), SnapshotError> {
        let mut packer = self.packer.take().expect("it is here between chunks");
        let (packer, runs) = if packer.is_work() && chunk.body.len() >= INLINE_BYTES {
            let packed = tokio::task::spawn_blocking(move || {
                let mut runs = Vec::new();
                packer.pack(chunk, &mut runs);
                (packer, runs)
            });
            packed.await.map_err(|_| SnapshotError::WriterStopped { core })?
        } else {
            let mut runs = Vec::new();
            packer.pack(chunk, &mut runs);
            (packer, runs)
        };
        self.packer = Some(packer);
        self.has_chunks = true;
        runs.into_iter().for_each(|run| self.object.push(run));
        self.object.flush_full_parts().await
    }

    fn stream_bytes(&self) -> u64 {
        self.packer.as_ref().map_or(0, Packer::stream_bytes)
    }

    async fn complete(mut self) -> Result<Written, SnapshotError> {
        let packer = self.packer.take().expect("it is here between chunks");
        self.object.push(packer.finish());
        self.object.complete().await
    }
}
