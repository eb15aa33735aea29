//! Which log the checkpoints make superfluous: everything before the *older* of the two newest
//! ways back, a chain each, so that a damaged newest one still leaves another.
//!
//! Nor does log go that the archive lacks; the archiver sees to it that this ends some day.
//!
//! The newest snapshot is read back whole before any log goes on its account.

use std::cmp::Ordering;
use std::path::Path;

use cutwater_engine::Engine;
use cutwater_engine::engine::log_dir;
use cutwater_engine::log::{Coverage, FileDisk, LogDisk, obsolete_files};
use cutwater_engine::types::{Position, SnapshotId};
use cutwater_snapshot::catalog::Catalog;
use cutwater_snapshot::ident::HistoryId;
use cutwater_snapshot::manifest::Manifest;

use super::image::{coverage, start_of};
use super::job::CHECKPOINT;

/// The last snapshots of the two newest ways back ([`Catalog::ways_back`]) that the logs of this
/// history continue, newest first. Two snapshots of one chain are not two ways back: what damages
/// their base damages both.
pub fn checkpoints(catalog: &Catalog, history: HistoryId) -> Vec<&Manifest> {
    let of_history =
        |manifest: &Manifest| manifest.identity().history == history && start_of(manifest).0 > 0;
    catalog.ways_back(of_history).iter().filter_map(|way| way.last().copied()).collect()
}

/// Automatic checkpoints from which no restart recovers any more, and on which nothing rests.
pub fn superfluous_checkpoints(catalog: &Catalog) -> Vec<SnapshotId> {
    let needed = catalog.newest_two_checkpoints();
    let is_superfluous = |manifest: &&Manifest| {
        manifest.raw().reason.as_deref() == Some(CHECKPOINT)
            && !needed.contains(&manifest.id())
            && catalog.children_of(manifest.id()).next().is_none()
    };
    catalog.published().filter(is_superfluous).map(Manifest::id).collect()
}

/// What of the log the archive has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archived<'a> {
    /// There is no archive: nothing waits for it.
    NoArchive,
    /// Everything before these places; `None`: nothing yet.
    Before(Option<&'a Coverage>),
}

/// Lets go of what both checkpoints cover and the archive has.
pub fn recycle(
    engine: &Engine,
    data_dir: &Path,
    catalog: &Catalog,
    history: HistoryId,
    archived: Archived<'_>,
) {
    let checkpoints = checkpoints(catalog, history);
    let [_, older] = checkpoints[..] else { return };
    let Some(needed) = needed(coverage(older), archived) else { return };
    if needed.start == engine.start() {
        let before: Vec<Position> = needed.parts.iter().map(|part| part.position).collect();
        if engine.release_log(&before).is_err() {
            return;
        }
    }
    let dir = log_dir(data_dir);
    let obsolete = match obsolete_files(&FileDisk, &dir, engine.log_keys(), &needed, engine.start())
    {
        Ok(obsolete) => obsolete,
        Err(error) => return tracing::warn!(%error, "old logs are kept"),
    };
    for name in obsolete {
        if let Err(error) = FileDisk.remove(&dir.join(&name)) {
            return tracing::warn!(name, %error, "an old log file is kept");
        }
    }
}

/// From where on log is needed: by the checkpoint, or by the archive if that is further back.
fn needed(checkpoint: Coverage, archived: Archived<'_>) -> Option<Coverage> {
    let archive = match archived {
        Archived::NoArchive => return Some(checkpoint),
        Archived::Before(archive) => archive?,
    };
    match archive.start.cmp(&checkpoint.start) {
        Ordering::Less => Some(archive.clone()),
        Ordering::Greater => Some(checkpoint),
        Ordering::Equal => {
            let mut needed = checkpoint;
            for (part, archived) in needed.parts.iter_mut().zip(&archive.parts) {
                part.position = part.position.min(archived.position);
            }
            Some(needed)
        }
    }
}

/// Bytes of segment files of earlier starts, which only a checkpoint lets go.
pub fn old_log_bytes(data_dir: &Path, engine: &Engine) -> u64 {
    let dir = log_dir(data_dir);
    let Ok(files) = FileDisk.list(&dir) else { return 0 };
    let current = format!("{:06}-", engine.start().0);
    let old = files.iter().filter(|file| {
        file.name.ends_with(".seg")
            && !file.name.starts_with("spare")
            && !file.name.starts_with(&current)
    });
    old.filter_map(|file| FileDisk.size_bytes(&dir.join(&file.name)).ok()).sum()
}

#[cfg(test)]
mod tests {
    use cutwater_engine::log::Part;
    use cutwater_engine::types::{Lsn, StartId};

    use super::*;

    fn at(start: u32, positions: &[u64]) -> Coverage {
        let part = |&at: &u64| Part { watermark: Lsn(at), position: Position(at) };
        Coverage { start: StartId(start), parts: positions.iter().map(part).collect() }
    }

    #[test]
    fn log_waits_for_whoever_is_further_back() {
        let checkpoint = || at(3, &[100, 200]);
        fn positions(checkpoint: Coverage, archived: Archived<'_>) -> Option<(u32, Vec<u64>)> {
            let needed = needed(checkpoint, archived)?;
            let positions: Vec<u64> = needed.parts.iter().map(|part| part.position.0).collect();
            Some((needed.start.0, positions))
        }
        assert_eq!(positions(checkpoint(), Archived::NoArchive), Some((3, vec![100, 200])));
        assert_eq!(positions(checkpoint(), Archived::Before(None)), None);
        assert_eq!(
            positions(checkpoint(), Archived::Before(Some(&at(2, &[7])))),
            Some((2, vec![7]))
        );
        assert_eq!(
            positions(checkpoint(), Archived::Before(Some(&at(4, &[7])))),
            Some((3, vec![100, 200]))
        );
        let between = at(3, &[150, 50]);
        assert_eq!(
            positions(checkpoint(), Archived::Before(Some(&between))),
            Some((3, vec![100, 50]))
        );
    }
}
