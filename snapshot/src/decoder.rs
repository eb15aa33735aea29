//! One core's stream out of the bytes of its objects: [`CoreDecoder`] takes the bytes as they come
//! from a store and yields verified chunks in order. Readers, verification and copies share it.
//!
//! It opens what is sealed and decompresses what is compressed, and checks everything that needs no
//! decoding of entries: object headers against the manifest, chunk checksums and sequence, totals,
//! and each object's length and CRC32C. Pure. Its memory is what was pushed and not yet taken; a
//! chunk that lies within one pushed run of a plain object is not copied. Offsets in errors count
//! stored bytes up to the damaged piece in sealed objects, and bytes before sealing inside it.

use std::collections::VecDeque;

use bytes::Bytes;
use cutwater_engine::seal::{PieceOpener, SEALED_PIECE_BYTES, SealError};
use cutwater_engine::types::ShardId;

use crate::chunk::{
    CHUNK_HEADER_BYTES, Chunk, ChunkKind, ChunkPlace, OBJECT_HEADER_BYTES, ObjectHeader, Totals,
    UnverifiedChunk, body_length, mismatch,
};
use crate::error::{Damage, Flaw};
use crate::manifest::{CorePart, StoredObject};
use crate::sealing::{Unlocked, flaw};

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
    snapshot: Unlocked,
    expected: ObjectHeader,
    objects: VecDeque<StoredObject>,
    part: CorePart,
    /// Plain bytes of the object.
    bytes: ByteQueue,
    /// Opens the rest of a sealed object; what waits for that.
    opener: Option<PieceOpener>,
    sealed: VecDeque<Bytes>,
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
    pub fn new(snapshot: &Unlocked, core: ShardId) -> Self {
        let part = snapshot.cores()[usize::from(core.0)].clone();
        Self {
            expected: ObjectHeader {
                database: snapshot.identity().database,
                snapshot: snapshot.snapshot_uuid(),
                core,
                piece: 0,
                compression: snapshot.compression(),
                salt: None,
            },
            objects: snapshot.objects_of(core).cloned().collect(),
            snapshot: snapshot.clone(),
            part,
            bytes: ByteQueue::default(),
            opener: None,
            sealed: VecDeque::new(),
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
        match self.opener {
            Some(_) => self.sealed.push_back(bytes),
            None => self.bytes.push(bytes),
        }
    }

    /// What the bytes so far give. Call until it is starved, then push more.
    ///
    /// # Errors
    /// [`Damage`] that names object and offset; the decoder is then of no more use.
    pub fn step(&mut self) -> Result<Step, Damage> {
        let Some(object) = self.objects.front() else { return Ok(Step::Done) };
        let name = object.name.clone();
        let at = self.offset_bytes;
        self.try_step().map_err(|flaw| match flaw {
            Flaw::Seal(SealError::Piece { piece }) => {
                let at = OBJECT_HEADER_BYTES as u64 + piece * SEALED_PIECE_BYTES as u64;
                Damage::at(name, at, flaw)
            }
            _ => Damage::at(name, at, flaw),
        })
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
        self.unseal().map_err(flaw)?;
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
        let chunk = UnverifiedChunk { header, body }.verify(place, self.expected.compression)?;
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
        if found.compression != expected.compression {
            return Err(mismatch("compression", expected.compression, found.compression));
        }
        let (sealed, is_sealed) = (self.snapshot.is_sealed(), found.salt.is_some());
        if sealed != is_sealed {
            let name = |sealed| if sealed { "AES-256-GCM" } else { "none" };
            return Err(mismatch("sealing", name(sealed), name(is_sealed)));
        }
        self.bytes.take(OBJECT_HEADER_BYTES);
        if let Some(salt) = &found.salt {
            let object = self.objects.front().expect("a piece is open");
            let key = self.snapshot.object_key(salt, &object.name).expect("it is sealed");
            self.opener = Some(PieceOpener::new(key, &bytes));
            self.sealed = std::mem::take(&mut self.bytes).runs;
        }
        self.offset_bytes = OBJECT_HEADER_BYTES as u64;
        self.seed = Some(seed);
        self.try_step()
    }

    /// Opens every sealed piece that has come whole; the last one when all of the object has.
    fn unseal(&mut self) -> Result<(), SealError> {
        let Some(opener) = &mut self.opener else { return Ok(()) };
        while let Some(run) = self.sealed.pop_front() {
            opener.push(&run, |piece| self.bytes.push(piece.into()))?;
        }
        let length = self.objects.front().expect("a piece is open").length;
        if self.received_bytes >= length {
            let opener = self.opener.take().expect("seen above");
            self.bytes.push(opener.finish()?.into());
        }
        Ok(())
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
        if self.bytes.len() > 0 || self.opener.is_some() {
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
