//! One snapshot, from the cut to the manifest: every shard freezes and streams its part, each part
//! is written by a task of its own, and the manifest is put when all are whole and every log is
//! durable past the end. Whatever fails, the claim is aborted and nothing looks like a snapshot.

use std::sync::Arc;

use cutwater_engine::clock::wall_micros;
use cutwater_engine::engine::{PartEvent, PartStream, SnapshotPlan};
use cutwater_engine::keyspace::SlotDigests;
use cutwater_engine::seal::Keyring;
use cutwater_engine::slot::SLOT_COUNT;
use cutwater_engine::types::Lsn;
use cutwater_engine::{Engine, SnapshotStreamError};
use cutwater_snapshot::chunk::push_tail_record;
use cutwater_snapshot::claim::Claimant;
use cutwater_snapshot::compression::Compression;
use cutwater_snapshot::core_writer::{CoreWriter, FinishedCore, PartPoint};
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::{self, SnapshotUuid};
use cutwater_snapshot::manifest::Manifest;
use cutwater_snapshot::throttle::Throttle;
use cutwater_snapshot::writer::{SlotSummary, SnapshotSpec, SnapshotWriter};
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::delta::{self, BaseDue};
use super::message::{CoordinatorError, Taken};
use super::work::Work;

/// Bytes of tail records that one chunk holds.
const TAIL_CHUNK_BYTES: usize = 1 << 20;

/// Why a checkpoint was taken, in its manifest: those that nobody asked for go by themselves.
pub const CHECKPOINT: &str = "checkpoint";
/// The same of a base without which the remote store could not restore what is archived.
pub const BASE_DUE: &str = "base due";

/// How a snapshot is stored.
#[derive(Clone, Debug)]
pub struct Form {
    /// The keys that seal it; empty: it is plain.
    pub keys: Keyring,
    /// How it is compressed.
    pub compression: Compression,
    /// Bytes of entries that it writes in a second at most.
    pub limit_bytes_per_s: Option<u64>,
}

/// What a job is to do.
#[derive(Debug)]
pub struct Order {
    /// How it is stored.
    pub form: Form,
    /// Why it is taken, if nobody asked for it.
    pub reason: Option<&'static str>,
    /// What a delta is to be made of, or why a base is due; `None`: a base is asked for.
    pub delta: Option<Result<delta::Source, BaseDue>>,
    /// How far it is, and whether it is still wanted.
    pub work: Arc<Work>,
}

/// Takes a delta if one is ordered and there can be one, else a base.
///
/// # Errors
/// As for [`take`].
pub async fn run(
    engine: &Engine,
    claimant: &mut Claimant,
    order: Order,
) -> Result<Taken, CoordinatorError> {
    let Order { form, reason, delta, work } = order;
    let due = match delta {
        None => None,
        Some(Err(due)) => Some(due),
        Some(Ok(source)) => match delta::take(engine, claimant, &form, source, &work).await? {
            Ok(manifest) => return Ok(Taken { manifest, instead: None }),
            Err(due) => Some(due),
        },
    };
    if let Some(due) = &due {
        tracing::warn!(%due, base = claimant.next_id().0, "a base is taken instead of a delta");
        work.restart_with_all_keys(engine.shared());
    }
    let manifest = take(engine, claimant, &form, reason, &work).await?;
    Ok(Taken { manifest, instead: due })
}

/// Takes a base, unless it is cancelled meanwhile. Once the manifest is on its way it is too
/// late for that.
///
/// # Errors
/// What failed first; [`CoordinatorError::Cancelled`] when nothing of it is left.
pub async fn take(
    engine: &Engine,
    claimant: &mut Claimant,
    form: &Form,
    reason: Option<&str>,
    work: &Arc<Work>,
) -> Result<Manifest, CoordinatorError> {
    let id = claimant.next_id();
    work.set_id(id);
    let digest_seed = random_u64()?;
    let plan = SnapshotPlan { cut: None, digest_seed, only_digests: false };
    let streams = tokio::select! {
        streams = engine.create_snapshot(plan) => streams?,
        () = work.cancelled() => return Err(CoordinatorError::Cancelled(id)),
    };
    let cores = u16::try_from(streams.parts.len()).expect("there are at most 16,384 shards");
    let uuid = SnapshotUuid::random().map_err(|_| SnapshotStreamError::Stopped)?;
    let mut spec = SnapshotSpec::base(streams.begin_lsn, cores, uuid, wall_micros());
    spec.reason = reason.map(str::to_owned);
    spec.compression = form.compression;
    tracing::Span::current().record("lsn", streams.begin_lsn.0);
    let writer = SnapshotWriter::begin(claimant, spec, &form.keys).await?;
    let throttle = Arc::new(Throttle::new(form.limit_bytes_per_s));
    let written = write_parts(&writer, streams.parts, &throttle, work).await;
    finish(writer, written, digest_seed, work).await
}

/// What was written of a snapshot: its parts, and their shards' digests.
pub(super) type Written = (Vec<FinishedCore>, Vec<SlotDigests>);

/// Publishes what was written whole and is still wanted; gives it up otherwise.
pub(super) async fn finish(
    writer: SnapshotWriter,
    written: Result<Written, CoordinatorError>,
    digest_seed: u64,
    work: &Work,
) -> Result<Manifest, CoordinatorError> {
    let published = match written {
        Ok(_) if work.is_cancelled() => Err(CoordinatorError::Cancelled(writer.name().id)),
        Ok((parts, digests)) => {
            let summary = summary(digest_seed, digests);
            writer.finish_with(parts, summary).await.map_err(CoordinatorError::from)
        }
        Err(error) => Err(error),
    };
    if let Err(error) = &published {
        give_up(writer, &error.to_string(), work).await;
    }
    published
}

/// A seed that nobody can know.
pub(super) fn random_u64() -> Result<u64, CoordinatorError> {
    let mut bytes = [0; 8];
    ident::random(&mut bytes).map_err(|_| SnapshotStreamError::Stopped)?;
    Ok(u64::from_le_bytes(bytes))
}

/// What the manifest says of all slots together.
fn summary(seed: u64, parts: Vec<SlotDigests>) -> SlotSummary {
    SlotSummary { counts: Vec::new(), digests: Some((seed, gather_digests(parts))) }
}

/// The digests of all slots, in order, of the shards' parts.
pub(crate) fn gather_digests(parts: Vec<SlotDigests>) -> Vec<u128> {
    let mut digests = vec![0; usize::from(SLOT_COUNT)];
    for SlotDigests { first, sums } in parts {
        let first = usize::from(first.0);
        digests[first..first + sums.len()].copy_from_slice(&sums);
    }
    digests
}

/// Ends a snapshot that is not published.
pub(super) async fn give_up(writer: SnapshotWriter, reason: &str, work: &Work) {
    work.give_up(writer.name());
    if let Err(abort) = writer.abort(reason).await {
        tracing::warn!(%abort, "what is left of the snapshot stays until the next start");
    }
}

async fn write_parts(
    writer: &SnapshotWriter,
    parts: Vec<PartStream>,
    throttle: &Arc<Throttle>,
    work: &Arc<Work>,
) -> Result<Written, CoordinatorError> {
    let mut tasks = JoinSet::new();
    for part in parts {
        let core = writer.core(part.log.shard);
        let (shard, id, lsn) = (part.log.shard.0, writer.name().id.0, part.watermark.0);
        let span = tracing::info_span!("snapshot", shard, id, lsn);
        tasks
            .spawn(write_part(core, part, Arc::clone(throttle), Arc::clone(work)).instrument(span));
    }
    let finished = tokio::select! {
        finished = join_parts(&mut tasks) => finished,
        () = work.cancelled() => Err(CoordinatorError::Cancelled(writer.name().id)),
    };
    // Dropping the other tasks drops their streams, which cancels the snapshot on the shards. They
    // are waited for: what one of them wrote after the sweep would stay until the next start.
    tasks.shutdown().await;
    finished
}

async fn join_parts(
    tasks: &mut JoinSet<Result<(FinishedCore, SlotDigests), CoordinatorError>>,
) -> Result<Written, CoordinatorError> {
    let (mut finished, mut digests) = (Vec::new(), Vec::new());
    while let Some(result) = tasks.join_next().await {
        let (core, of_core) = result.map_err(|_| CoordinatorError::Closed)??;
        finished.push(core);
        digests.push(of_core);
    }
    Ok((finished, digests))
}

async fn write_part(
    mut core: CoreWriter,
    mut part: PartStream,
    throttle: Arc<Throttle>,
    work: Arc<Work>,
) -> Result<(FinishedCore, SlotDigests), CoordinatorError> {
    loop {
        match part.next().await? {
            PartEvent::Chunk(chunk) => {
                let (bytes, ops, entries) = (chunk.bytes(), chunk.count, chunk.entries);
                throttle.pass(bytes).await;
                core.image(chunk.into_ops().into(), ops).await?;
                work.add(bytes, entries);
            }
            PartEvent::End { tail, digests, .. } => {
                write_tail(&mut core, &tail).await?;
                tracing::debug!("the part is written");
                let point = PartPoint {
                    watermark: part.watermark,
                    log_id: part.log,
                    position: part.position,
                };
                return Ok((core.finish(point).await?, digests));
            }
        }
    }
}

pub(super) async fn write_tail(
    core: &mut CoreWriter,
    tail: &[(Lsn, Vec<u8>)],
) -> Result<(), SnapshotError> {
    let (mut body, mut records) = (Vec::new(), 0);
    for (lsn, ops) in tail {
        push_tail_record(&mut body, *lsn, ops);
        records += 1;
        if body.len() >= TAIL_CHUNK_BYTES {
            core.tail(std::mem::take(&mut body).into(), records).await?;
            records = 0;
        }
    }
    if records > 0 {
        core.tail(body.into(), records).await?;
    }
    Ok(())
}
