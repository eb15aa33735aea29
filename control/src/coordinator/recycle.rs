//! Which log the checkpoints make superfluous: everything before the *older* of the two newest
//! local snapshots, so that a damaged newest one still leaves a way back.
//!
//! The newest snapshot is read back whole before any log goes on its account.

use std::path::Path;

use cutwater_engine::Engine;
use cutwater_engine::engine::log_dir;
use cutwater_engine::log::{FileDisk, LogDisk, obsolete_files};
use cutwater_engine::types::Position;
use cutwater_snapshot::catalog::Catalog;
use cutwater_snapshot::ident::HistoryId;
use cutwater_snapshot::manifest::Manifest;

use super::image::{coverage, start_of};

/// The two newest snapshots that the logs of this history continue, newest first.
pub fn checkpoints(catalog: &Catalog, history: HistoryId) -> Vec<&Manifest> {
    let of_history =
        |manifest: &&Manifest| manifest.identity().history == history && start_of(manifest).0 > 0;
    catalog.published().rev().filter(of_history).take(2).collect()
}

/// Lets go of what both checkpoints cover.
pub fn recycle(engine: &Engine, data_dir: &Path, catalog: &Catalog, history: HistoryId) {
    let checkpoints = checkpoints(catalog, history);
    let [_, older] = checkpoints[..] else { return };
    if start_of(older) == engine.start() {
        let before: Vec<Position> = older.cores().iter().map(|core| core.position).collect();
        if engine.release_log(&before).is_err() {
            return;
        }
    }
    let dir = log_dir(data_dir);
    let obsolete = match obsolete_files(&FileDisk, &dir, &coverage(older), engine.start()) {
        Ok(obsolete) => obsolete,
        Err(error) => return tracing::warn!(%error, "old logs are kept"),
    };
    for name in obsolete {
        if let Err(error) = FileDisk.remove(&dir.join(&name)) {
            return tracing::warn!(name, %error, "an old log file is kept");
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
