//! One core's stream out of the bytes of its objects: [`CoreDecoder`] takes the bytes as they come
//! from a store and yields verified chunks in order. Readers, verification and copies share it.
//!
//! It checks everything that needs no decoding of entries: object headers against the manifest,
//! chunk checksums and sequence, totals, and each object's length and CRC32C. Pure. Its memory is
//! what was pushed and not yet taken; a chunk that lies within one pushed run is not copied.

use std::collections::VecDeque;

use bytes::Bytes;
use cutwater_engine::types::ShardId;

use crate::chunk::{
    CHUNK_HEADER_BYTES, Chunk, ChunkKind, ChunkPlace, OBJECT_HEADER_BYTES, ObjectHeader, Totals,
    UnverifiedChunk, body_length, mismatch,
};
use crate::error::{Damage, Flaw};
use crate::manifest::{CorePart, Manifest, StoredObject};

/// What the bytes so far give.
#[derive(Debug)]
pub enum Step {
    /// More bytes of the current object are needed.
    Starved,
    /// A chunk of entries or records.
    Chunk(Chunk),
    /// The current object is whole; bytes of the next one may come.
    PieceDone,
    /// The core's stream is whole.
    Done,
}

/// Decodes one core's objects, in order.
#[derive(Debug)]
pub struct CoreDecoder {
    expected: ObjectHeader,
    objects: VecDeque<StoredObject>,
    part: CorePart,
    bytes: ByteQueue,
    offset_bytes: u64,
    received_bytes: u64,
    object_crc: u32,
    seed: Option<u32>,
    ended: Option<ChunkKind>,
    sequence: u64,
    totals: Totals,
    piece_start: Totals,
}

impl CoreDecoder {
    /// A decoder for one core of a snapshot.
    ///
    /// # Panics
    /// If the snapshot has no such core.
    pub fn new(manifest: &Manifest, core: ShardId) -> Self {
        let part = manifest.cores()[usize::from(core.0)].clone();
        Self {
            expected: ObjectHeader {
                database: manifest.identity().database,
                snapshot: manifest.snapshot_uuid(),
                core,
                piece: 0,
            },
            objects: manifest.objects_of(core).cloned().collect(),
            part,
            bytes: ByteQueue::default(),
            offset_bytes: 0,
            received_bytes: 0,
            object_crc: 0,
            seed: None,
            ended: None,
            sequence: 0,
            totals: Totals::default(),
            piece_start: Totals::default(),
        }
    }

    /// Gives the next bytes of the current object.
    pub fn push(&mut self, bytes: Bytes) {
        self.received_bytes += bytes.len() as u64;
        self.object_crc = crc32c::crc32c_append(self.object_crc, &bytes);
        self.bytes.push(bytes);
    }

    /// What the bytes so far give. Call until it is starved, then push more.
    ///
    /// # Errors
    /// [`Damage`] that names object and offset; the decoder is then of no more use.
    pub fn step(&mut self) -> Result<Step, Damage> {
        let Some(object) = self.objects.front() else { return Ok(Step::Done) };
        let name = object.name.clone();
        let at = self.offset_bytes;
        self.try_step().map_err(|flaw| Damage::at(name, at, flaw))
    }

    /// The damage that it is when the current object ends although the decoder is starved.
    pub fn ended_early(&self) -> Damage {
        let name = self.objects.front().map_or(String::new(), |object| object.name.clone());
        Damage::at(name, self.offset_bytes, Flaw::Truncated)
    }

    fn try_step(&mut self) -> Result<Step, Flaw> {
        if self.ended.is_some() {
            return self.finish_piece();
        }
        let Some(seed) = self.seed else { return self.open_piece() };
        let Some(header) = self.bytes.peek::<CHUNK_HEADER_BYTES>() else {
            return Ok(Step::Starved);
        };
        let body_bytes = body_length(&header)?;
        let chunk_bytes = CHUNK_HEADER_BYTES + body_bytes;
        let object = self.objects.front().expect("a piece is open");
        if chunk_bytes as u64 > object.length.saturating_sub(self.offset_bytes) {
            return Err(Flaw::Bound(body_bytes as u64));
        }
        if self.bytes.len() < chunk_bytes {
            return Ok(Step::Starved);
        }
        let body = self.bytes.take(chunk_bytes).slice(CHUNK_HEADER_BYTES..);
        let place = ChunkPlace { seed, core: self.expected.core, sequence: self.sequence };
        let chunk = UnverifiedChunk { header, body }.verify(place)?;
        self.accept(chunk, chunk_bytes)
    }

    /// Checks the object's header.
    fn open_piece(&mut self) -> Result<Step, Flaw> {
        let Some(bytes) = self.bytes.peek::<OBJECT_HEADER_BYTES>() else {
            return Ok(Step::Starved);
        };
        let (found, seed) = ObjectHeader::decode(&bytes)?;
        let expected = &self.expected;
        if found.database != expected.database {
            return Err(mismatch("database id", expected.database, found.database));
        }
        if found.snapshot != expected.snapshot {
            return Err(mismatch("snapshot uuid", expected.snapshot, found.snapshot));
        }
        if found.core != expected.core {
            return Err(mismatch("core", expected.core, found.core));
        }
        if found.piece != expected.piece {
            return Err(mismatch("piece", expected.piece, found.piece));
        }
        self.bytes.take(OBJECT_HEADER_BYTES);
        self.offset_bytes = OBJECT_HEADER_BYTES as u64;
        self.seed = Some(seed);
        self.try_step()
    }

    /// Takes a verified chunk into the stream's order and totals.
    fn accept(&mut self, chunk: Chunk, chunk_bytes: usize) -> Result<Step, Flaw> {
        match chunk.kind {
            ChunkKind::Image if self.totals.tail_records > 0 => return Err(Flaw::Order),
            ChunkKind::Image | ChunkKind::Tail => {
                self.totals.add(chunk.kind, chunk.count, chunk.body.len());
            }
            ChunkKind::PieceEnd | ChunkKind::CoreEnd => {
                let (expected, found) = (Totals::decode(&chunk.body)?, self.totals);
                if expected != found {
                    let (expected, found) = (format!("{expected:?}"), format!("{found:?}"));
                    return Err(mismatch("the total", expected, found));
                }
            }
        }
        self.sequence += 1;
        self.offset_bytes += chunk_bytes as u64;
        match chunk.kind {
            ChunkKind::Image | ChunkKind::Tail => Ok(Step::Chunk(chunk)),
            end => {
                self.ended = Some(end);
                self.finish_piece()
            }
        }
    }

    /// Compares the object as a whole with the manifest, once its end chunk has been seen.
    fn finish_piece(&mut self) -> Result<Step, Flaw> {
        let object = self.objects.front().expect("a piece is open");
        if self.bytes.len() > 0 {
            return Err(Flaw::Trailing);
        }
        if self.received_bytes != object.length {
            return Err(Flaw::Length { expected: object.length, found: self.received_bytes });
        }
        if self.object_crc != object.crc32c {
            return Err(Flaw::Crc { expected: object.crc32c, found: self.object_crc });
        }
        let entries = self.totals.entries - self.piece_start.entries;
        if entries != object.entries {
            return Err(mismatch("entries of the object", object.entries, entries));
        }
        let last = self.objects.len() == 1;
        if last != (self.ended == Some(ChunkKind::CoreEnd)) {
            return Err(if last { Flaw::Truncated } else { Flaw::Trailing });
        }
        if last {
            self.compare_part()?;
        }
        self.objects.pop_front();
        self.expected.piece += 1;
        (self.offset_bytes, self.received_bytes, self.object_crc) = (0, 0, 0);
        (self.seed, self.ended, self.piece_start) = (None, None, self.totals);
        Ok(if last { Step::Done } else { Step::PieceDone })
    }

    /// Compares the core as a whole with the manifest.
    fn compare_part(&self) -> Result<(), Flaw> {
        let Totals { chunks, entries, tail_records, .. } = self.totals;
        for (field, expected, found) in [
            ("chunks of the core", self.part.chunks, chunks),
            ("entries of the core", self.part.entries, entries),
            ("tail records of the core", self.part.tail_records, tail_records),
        ] {
            if expected != found {
                return Err(mismatch(field, expected, found));
            }
        }
        Ok(())
    }
}

/// Bytes in the runs in which they came.
#[derive(Debug, Default)]
struct ByteQueue {
    runs: VecDeque<Bytes>,
    len: usize,
}

impl ByteQueue {
    fn len(&self) -> usize {
        self.len
    }

    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.runs.push_back(bytes);
        }
    }

    /// The first `N` bytes, if there are as many; they stay.
    fn peek<const N: usize>(&self) -> Option<[u8; N]> {
        if self.len < N {
            return None;
        }
        let mut out = [0; N];
        let mut filled = 0;
        for run in &self.runs {
            let take = run.len().min(N - filled);
            out[filled..filled + take].copy_from_slice(&run[..take]);
            filled += take;
            if filled == N {
                break;
            }
        }
        Some(out)
    }

    /// The first `count` bytes, of which there must be as many; copied only across runs.
    fn take(&mut self, count: usize) -> Bytes {
        assert!(count <= self.len, "{count} bytes of {}", self.len);
        self.len -= count;
        if let Some(front) = self.runs.front_mut()
            && front.len() > count
        {
            return front.split_to(count);
        }
        let mut gathered = Vec::new();
        let mut missing = count;
        while missing > 0 {
            let mut run = self.runs.pop_front().expect("len counts the runs");
            if run.len() == count {
                return run;
            }
            let part = run.split_to(run.len().min(missing));
            if !run.is_empty() {
                self.runs.push_front(run);
            }
            gathered.reserve_exact(if gathered.is_empty() { count } else { 0 });
            gathered.extend_from_slice(&part);
            missing -= part.len();
        }
        gathered.into()
    }
}
