//! One delta, from the cut to the manifest. It runs beside the coordinator, as a base does.

use std::path::PathBuf;
use std::sync::Arc;

use cutwater_engine::clock::wall_micros;
use cutwater_engine::engine::{PartEvent, PartStream, SnapshotPlan};
use cutwater_engine::keyspace::SlotDigests;
use cutwater_engine::log::{FileDisk, RecoveryError, Running};
use cutwater_engine::types::{LogId, Lsn, Position};
use cutwater_engine::{Engine, SnapshotStreamError};
use cutwater_snapshot::claim::Claimant;
use cutwater_snapshot::compact::IndexError;
use cutwater_snapshot::core_writer::PartPoint;
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::SnapshotUuid;
use cutwater_snapshot::manifest::Manifest;
use cutwater_snapshot::throttle::Throttle;
use cutwater_snapshot::writer::{self, SnapshotSpec, SnapshotWriter};
use tokio::sync::mpsc;

use super::BaseDue;
use super::changes::{Changes, ChangesError, KEYS_LIMIT};
use super::parent::Parent;
use crate::coordinator::job::{Form, Written, finish, give_up, random_u64, write_tail};
use crate::coordinator::message::CoordinatorError;
use crate::coordinator::work::Work;

/// Chunks of about a MiB that wait to be written.
const CHUNKS_AHEAD: usize = 2;
/// A delta up to this size is worth it whatever its base is.
const SMALL_BYTES: u64 = 1 << 20;

/// What a delta is made of.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is taken on top of.
    pub parent: Parent,
    /// The folder of the logs.
    pub log_dir: PathBuf,
}

/// Why there is no delta.
enum Stop {
    /// A base is due.
    Due(BaseDue),
    Failed(CoordinatorError),
}

impl From<CoordinatorError> for Stop {
    fn from(error: CoordinatorError) -> Self {
        Self::Failed(error)
    }
}

impl From<SnapshotStreamError> for Stop {
    fn from(error: SnapshotStreamError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<SnapshotError> for Stop {
    fn from(error: SnapshotError) -> Self {
        Self::Failed(error.into())
    }
}

/// One shard's part, but for what changed.
struct PartEnd {
    log: LogId,
    watermark: Lsn,
    position: Position,
    log_end: Position,
    tail: Vec<(Lsn, Vec<u8>)>,
    digests: SlotDigests,
}

/// Takes a delta, unless it is cancelled meanwhile; or says why a base is due, with nothing
/// published.
///
/// # Errors
/// What failed first; [`CoordinatorError::Cancelled`] when nothing of it is left.
pub async fn take(
    engine: &Engine,
    claimant: &mut Claimant,
    form: &Form,
    source: Source,
    work: &Work,
) -> Result<Result<Manifest, BaseDue>, CoordinatorError> {
    match try_take(engine, claimant, form, source, work).await {
        Ok(manifest) => Ok(Ok(manifest)),
        Err(Stop::Due(due)) => Ok(Err(due)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

async fn try_take(
    engine: &Engine,
    claimant: &mut Claimant,
    form: &Form,
    source: Source,
    work: &Work,
) -> Result<Manifest, Stop> {
    let id = claimant.next_id();
    work.set_id(id);
    let digest_seed = random_u64()?;
    let (parts, changes) = tokio::select! {
        frozen = freeze(engine, &source, digest_seed) => frozen?,
        () = work.cancelled() => return Err(CoordinatorError::Cancelled(id).into()),
    };
    let cores = u16::try_from(parts.len()).expect("there are at most 16,384 shards");
    let begin_lsn = parts.iter().map(|part| part.watermark).min().unwrap_or_default();
    tracing::Span::current().record("lsn", begin_lsn.0);
    let uuid = SnapshotUuid::random().map_err(|_| SnapshotStreamError::Stopped)?;
    let mut spec = SnapshotSpec::base(begin_lsn, cores, uuid, wall_micros());
    spec.compression = form.compression;
    spec.parent = Some(writer::Parent::of(source.parent.manifest()));
    let writer = SnapshotWriter::begin(claimant, spec, &form.keys).await?;
    let throttle = Throttle::new(form.limit_bytes_per_s);
    let written = tokio::select! {
        written = write_parts(&writer, changes, parts, &source.parent, &throttle, work) => written,
        () = work.cancelled() => Err(CoordinatorError::Cancelled(writer.name().id).into()),
    };
    let written = match written {
        Ok(written) => Ok(written),
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::Due(due)) => {
            give_up(writer, &format!("a base is due: {due}"), work).await;
            return Err(Stop::Due(due));
        }
    };
    Ok(finish(writer, written, digest_seed, work).await?)
}

/// Has every shard freeze, walk its part for the digests, and close its tail; and opens the logs.
async fn freeze(
    engine: &Engine,
    source: &Source,
    digest_seed: u64,
) -> Result<(Vec<PartEnd>, Arc<Changes>), Stop> {
    // Seen before anything is frozen: a log that does not reach back.
    let marks = engine.mark().await.map_err(|_| SnapshotStreamError::Stopped)?;
    open(engine, source, Running::from_marks(engine.start(), &marks)).await?;
    let plan = SnapshotPlan { cut: None, digest_seed, only_digests: true };
    let streams = engine.create_snapshot(plan).await?;
    let mut parts = Vec::with_capacity(streams.parts.len());
    for part in streams.parts {
        parts.push(end_of(part).await?);
    }
    let ends = parts.iter().map(|part| part.log_end).collect();
    let changes = open(engine, source, Running { start: engine.start(), ends }).await?;
    Ok((parts, changes))
}

async fn open(engine: &Engine, source: &Source, running: Running) -> Result<Arc<Changes>, Stop> {
    let (dir, parent) = (source.log_dir.clone(), source.parent.coverage());
    let (keys, seed) = (engine.log_keys().clone(), random_u64()?);
    let opened = tokio::task::spawn_blocking(move || {
        Changes::open(Arc::new(FileDisk), &dir, &keys, parent.as_ref(), &running, seed)
    });
    let opened = opened.await.map_err(|_| CoordinatorError::Closed)?;
    let due = |error: RecoveryError| log_due(&source.parent, &error);
    opened.map(Arc::new).map_err(due)
}

fn log_due(parent: &Parent, error: &dyn std::error::Error) -> Stop {
    let (parent, reason) = (parent.manifest().id(), error.to_string());
    Stop::Due(BaseDue::Log { parent, reason })
}

/// Waits for the end of a part that has no chunks.
async fn end_of(mut part: PartStream) -> Result<PartEnd, SnapshotStreamError> {
    loop {
        if let PartEvent::End { tail, log_end, digests } = part.next().await? {
            let (log, watermark, position) = (part.log, part.watermark, part.position);
            return Ok(PartEnd { log, watermark, position, log_end, tail, digests });
        }
    }
}

/// Writes the parts, one after the other: what is in memory is one index.
async fn write_parts(
    writer: &SnapshotWriter,
    changes: Arc<Changes>,
    parts: Vec<PartEnd>,
    parent: &Parent,
    throttle: &Throttle,
    work: &Work,
) -> Result<Written, Stop> {
    let base_bytes = parent.base_bytes();
    let room_bytes = base_bytes.saturating_sub(parent.delta_bytes());
    let limit_bytes = (base_bytes / 2).min(room_bytes).max(SMALL_BYTES);
    let mut stored_bytes = 0;
    let (mut finished, mut digests) = (Vec::new(), Vec::new());
    for part in parts {
        let mut core = writer.core(part.log.shard);
        let (sender, mut chunks) = mpsc::channel(CHUNKS_AHEAD);
        let (changes, shard, watermark) = (Arc::clone(&changes), part.log.shard, part.watermark);
        let reading = tokio::task::spawn_blocking(move || changes.send(shard, watermark, &sender));
        while let Some((body, ops)) = chunks.recv().await {
            let bytes = body.len() as u64;
            throttle.pass(bytes).await;
            core.image(body, ops).await?;
            work.add(bytes, ops.into());
            if stored_bytes + core.stored_bytes() > limit_bytes {
                let parent = parent.manifest().id();
                return Err(Stop::Due(BaseDue::Bytes { parent, limit_bytes, base_bytes }));
            }
        }
        let read = reading.await.map_err(|_| CoordinatorError::Closed)?;
        read.map_err(|error| changes_due(parent, error))?;
        write_tail(&mut core, &part.tail).await?;
        stored_bytes += core.stored_bytes();
        let (watermark, log_id, position) = (part.watermark, part.log, part.position);
        finished.push(core.finish(PartPoint { watermark, log_id, position }).await?);
        digests.push(part.digests);
    }
    Ok((finished, digests))
}

fn changes_due(parent: &Parent, error: ChangesError) -> Stop {
    let id = parent.manifest().id();
    match error {
        ChangesError::Log(error) => log_due(parent, &error),
        ChangesError::Index(IndexError::Decode(error)) => log_due(parent, &error),
        ChangesError::Index(reason) => Stop::Due(BaseDue::Keys { parent: id, reason }),
        ChangesError::Rounds => Stop::Due(BaseDue::Rounds { parent: id, keys: KEYS_LIMIT }),
        ChangesError::GivenUp => Stop::Failed(CoordinatorError::Closed),
    }
}
