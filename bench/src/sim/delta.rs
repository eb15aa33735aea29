//! Deltas in the simulation: what the logs hold between two complete snapshots, folded as the
//! coordinator folds it, has to make of the older one what the newer one holds; with the older
//! one's tail and without.

use std::path::Path;
use std::sync::Arc;

use cutwater_control::coordinator::delta::changes::{Changes, ChangesError};
use cutwater_engine::entry::Op;
use cutwater_engine::log::{LogDisk, LogKeys, Running};
use cutwater_engine::types::ShardId;

use super::snapshot::Complete;

/// Compares a delta from `parent` to `newer`, which was just completed, with the image of `newer`.
///
/// # Errors
/// What differs, or why there is no delta.
pub fn check(
    disk: Arc<dyn LogDisk>,
    dir: &Path,
    keys: &LogKeys,
    parent: &Complete,
    newer: &Complete,
) -> Result<(), String> {
    let running = Running { start: newer.coverage.start, ends: newer.ends.clone() };
    let named = |reason: String| {
        format!("a delta from {} to {}: {reason}", parent.coverage_text(), newer.coverage_text())
    };
    let changes = Changes::open(disk, dir, keys, Some(&parent.coverage), &running, newer.end.0)
        .map_err(|error| named(error.to_string()))?;
    let (mut whole, mut without_tail) = (parent.at_end.clone(), parent.base()?);
    for (shard, part) in newer.coverage.parts.iter().enumerate() {
        let mut ops = Vec::new();
        let mut sink = |op: &Op<'_>| {
            op.encode(&mut ops);
            Ok::<(), ChangesError>(())
        };
        changes
            .compact(ShardId(shard as u16), part.watermark, &|| false, &mut sink)
            .map_err(|error| named(error.to_string()))?;
        for image in [&mut whole, &mut without_tail] {
            image.apply(&ops).map_err(|error| named(error.to_string()))?;
        }
    }
    let expected = newer.base()?;
    if whole != expected || without_tail != expected {
        return Err(named("it does not make what the snapshot holds".to_owned()));
    }
    Ok(())
}
