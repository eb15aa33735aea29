//! One snapshot, from the cut to the manifest: every shard freezes and streams its part, each part
//! is written by a task of its own, and the manifest is put when all are whole and every log is
//! durable past the end. Whatever fails, the claim is aborted and nothing looks like a snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cutwater_engine::clock::wall_micros;
use cutwater_engine::engine::{PartEvent, PartStream};
use cutwater_engine::seal::Keyring;
use cutwater_engine::{Engine, SnapshotStreamError};
use cutwater_snapshot::chunk::push_tail_record;
use cutwater_snapshot::claim::Claimant;
use cutwater_snapshot::compression::Compression;
use cutwater_snapshot::core_writer::{CoreWriter, FinishedCore, PartPoint};
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::SnapshotUuid;
use cutwater_snapshot::manifest::Manifest;
use cutwater_snapshot::writer::{SnapshotSpec, SnapshotWriter};
use tokio::task::JoinSet;

use super::message::CoordinatorError;

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
}

/// Takes a snapshot.
///
/// # Errors
/// What failed first.
pub async fn take(
    engine: &Engine,
    claimant: &mut Claimant,
    form: &Form,
    reason: Option<&str>,
    written_bytes: &Arc<AtomicU64>,
) -> Result<Manifest, CoordinatorError> {
    let streams = engine.create_snapshot(None).await?;
    let cores = u16::try_from(streams.parts.len()).expect("there are at most 16,384 shards");
    let uuid = SnapshotUuid::random().map_err(|_| SnapshotStreamError::Stopped)?;
    let mut spec = SnapshotSpec::base(streams.begin_lsn, cores, uuid, wall_micros());
    spec.reason = reason.map(str::to_owned);
    spec.compression = form.compression;
    let writer = SnapshotWriter::begin(claimant, spec, &form.keys).await?;
    match write_parts(&writer, streams.parts, written_bytes).await {
        Ok(parts) => match writer.finish(parts, Vec::new()).await {
            Ok(manifest) => Ok(manifest),
            Err(error) => Err(give_up(writer, error.into()).await),
        },
        Err(error) => Err(give_up(writer, error).await),
    }
}

async fn give_up(writer: SnapshotWriter, error: CoordinatorError) -> CoordinatorError {
    if let Err(abort) = writer.abort(&error.to_string()).await {
        tracing::warn!(%abort, "what is left of the snapshot stays until the next start");
    }
    error
}

async fn write_parts(
    writer: &SnapshotWriter,
    parts: Vec<PartStream>,
    written_bytes: &Arc<AtomicU64>,
) -> Result<Vec<FinishedCore>, CoordinatorError> {
    let mut tasks = JoinSet::new();
    for part in parts {
        let core = writer.core(part.log.shard);
        tasks.spawn(write_part(core, part, Arc::clone(written_bytes)));
    }
    let mut finished = Vec::with_capacity(tasks.len());
    while let Some(result) = tasks.join_next().await {
        // Dropping the other tasks drops their streams, which cancels the snapshot on the shards.
        finished.push(result.map_err(|_| CoordinatorError::Closed)??);
    }
    Ok(finished)
}

async fn write_part(
    mut core: CoreWriter,
    mut part: PartStream,
    written_bytes: Arc<AtomicU64>,
) -> Result<FinishedCore, CoordinatorError> {
    loop {
        match part.next().await? {
            PartEvent::Chunk(chunk) => {
                let ops = chunk.count_ops();
                // The chunk counts against the shards' budget until the store let go of it.
                let body = Bytes::from_owner(chunk);
                written_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
                core.image(body, ops).await?;
            }
            PartEvent::End { tail, .. } => {
                write_tail(&mut core, &tail).await?;
                let point = PartPoint {
                    watermark: part.watermark,
                    log_id: part.log,
                    position: part.position,
                };
                return Ok(core.finish(point).await?);
            }
        }
    }
}

async fn write_tail(
    core: &mut CoreWriter,
    tail: &[(cutwater_engine::types::Lsn, Vec<u8>)],
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
