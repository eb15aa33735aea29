//! The sealing of a run: with a key or without one, by the seed, and where its random bytes come
//! from. A source of its own, so that sealing changes nothing else of what a seed does.

use std::io;
use std::path::Path;

use cutwater_engine::log::frame::{BLOCK_BYTES, FRAME_HEADER_BYTES, RawFrame};
use cutwater_engine::log::segment::{SEGMENT_HEADER_BYTES, parse_segment_name};
use cutwater_engine::log::{LogDisk, LogKeys, SegmentHeader, SimDisk, StartIdentity, StartSeal};
use cutwater_engine::seal::{Keyring, MasterKey, SALT_BYTES, SealKey};
use cutwater_engine::types::StartId;

use super::boot::IDENTITY;
use super::rng::Rng;

/// One of so many seeds is sealed: the last.
const SEALED_SEEDS: u64 = 4;
/// Tells this source of chance from that of the run.
const STREAM: u64 = 0x5EA1_ED00_5EA1_ED00;
/// In a frame's header, what comes before this is looked at before the checksum, or says whose
/// frame it is; changed, it is no frame of this segment, like one that was never written.
const TAMPER_FROM: usize = 40;

/// What a run seals with.
#[derive(Debug)]
pub struct Sealing {
    /// The keys of every start; none: nothing is sealed.
    pub keys: LogKeys,
    /// What seals the start that serves.
    pub seal: Option<StartSeal>,
    rng: Rng,
}

impl Sealing {
    /// The sealing of a seed.
    pub fn new(seed: u64) -> Self {
        let key = ("k".parse(), MasterKey::new([3; 32]));
        let is_sealed = seed % SEALED_SEEDS == SEALED_SEEDS - 1;
        let keys = match (is_sealed, key) {
            (true, (Ok(id), key)) => Keyring::new(vec![(id, key)]).unwrap_or_default(),
            _ => Keyring::default(),
        };
        Self { keys: LogKeys::strict(keys), seal: None, rng: Rng::new(seed ^ STREAM) }
    }

    /// No sealing, whatever the seed.
    pub fn off(seed: u64) -> Self {
        Self { keys: LogKeys::default(), seal: None, rng: Rng::new(seed ^ STREAM) }
    }

    /// Whether the log of this run is sealed.
    pub fn is_on(&self) -> bool {
        !self.keys.ring.is_empty()
    }

    /// The seal of a start that is about to be.
    pub fn of_start(&mut self, start: StartId) -> Option<StartSeal> {
        let of = StartIdentity { database_id: IDENTITY.0, history_id: IDENTITY.1, start };
        let rng = &mut self.rng;
        let seal = StartSeal::new(&self.keys, of, &mut |bytes| {
            fill(rng, bytes);
            io::Result::Ok(())
        });
        seal.expect("chance does not fail")
    }

    /// Makes a header that of a sealed segment, if the run is sealed.
    pub fn segment(&mut self, header: &mut SegmentHeader) -> Option<Box<SealKey>> {
        let seal = self.seal.as_ref()?;
        let mut salt = [0; SALT_BYTES];
        fill(&mut self.rng, &mut salt);
        Some(Box::new(seal.seal_segment(header, salt)))
    }

    /// Changes one byte of a frame somewhere on the disk, and gives the frame the checksum of what
    /// is there then; says where, or `None` if there is no frame.
    pub fn tamper(&mut self, disk: &SimDisk, dir: &Path) -> Option<String> {
        let mut frames = Vec::new();
        for file in disk.list(dir).ok()? {
            if parse_segment_name(&file.name).is_none() {
                continue;
            }
            let path = dir.join(&file.name);
            let bytes = disk.read_file(&path, file.size_bytes).ok()?;
            let identity = SegmentHeader::decode(&bytes).ok()?.identity;
            let mut at = SEGMENT_HEADER_BYTES;
            while at < bytes.len() {
                let whole = RawFrame::parse(&bytes[at..]).ok().filter(|raw| {
                    raw.header().identity == identity && raw.verify(&bytes[at..]).is_ok()
                });
                if let Some(raw) = whole {
                    frames.push((path.clone(), at, raw.stored_bytes()));
                    at += raw.frame_bytes();
                } else {
                    at += BLOCK_BYTES;
                }
            }
        }
        if frames.is_empty() {
            return None;
        }
        let (path, at, stored_bytes) = self.rng.pick(&frames).clone();
        let end = at + FRAME_HEADER_BYTES + stored_bytes;
        let byte = at + TAMPER_FROM + self.rng.below(end - at - TAMPER_FROM);
        let mask = 1 << self.rng.below(8);
        disk.corrupt(&path, |bytes| {
            bytes[byte] ^= mask;
            let crc = crc32c::crc32c(&bytes[at + 8..end]);
            bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        });
        Some(format!("byte {byte} of {}", path.display()))
    }
}

fn fill(rng: &mut Rng, bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&rng.any().to_le_bytes()[..chunk.len()]);
    }
}
