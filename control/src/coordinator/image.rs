//! A published snapshot as the engine's start reads it: chunk by chunk, verified, on the loader's
//! threads.

use std::sync::Arc;

use cutwater_engine::ImageSource;
use cutwater_engine::log::{Coverage, Part};
use cutwater_engine::seal::Keyring;
use cutwater_engine::types::{Lsn, StartId};
use cutwater_snapshot::chunk::ChunkKind;
use cutwater_snapshot::ident::HistoryId;
use cutwater_snapshot::manifest::Manifest;
use cutwater_snapshot::reader::CoreReader;
use object_store::ObjectStore;
use tokio::runtime::Handle;

/// One snapshot of a store.
pub struct SnapshotImage {
    runtime: Handle,
    store: Arc<dyn ObjectStore>,
    manifest: Manifest,
    /// Whether the logs of the data directory continue it.
    continued: bool,
    keys: Keyring,
}

impl SnapshotImage {
    /// An image for a data directory of this history, which these keys open.
    pub fn new(
        runtime: Handle,
        store: Arc<dyn ObjectStore>,
        manifest: Manifest,
        history: HistoryId,
        keys: Keyring,
    ) -> Self {
        let continued = manifest.identity().history == history && start_of(&manifest).0 > 0;
        Self { runtime, store, manifest, continued, keys }
    }
}

impl ImageSource for SnapshotImage {
    fn name(&self) -> String {
        self.manifest.name().to_string()
    }

    fn coverage(&self) -> Option<Coverage> {
        self.continued.then(|| coverage(&self.manifest))
    }

    fn end_lsn(&self) -> Lsn {
        self.manifest.meta().end_lsn
    }

    fn parts(&self, _layer: usize) -> usize {
        self.manifest.cores().len()
    }

    fn read(
        &self,
        _layer: usize,
        part: usize,
        with_tail: bool,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let core = self.manifest.cores().get(part).ok_or("no such part")?.core;
        let snapshot = self.manifest.unlock(&self.keys).map_err(|error| error.to_string())?;
        let mut reader = CoreReader::open(&self.runtime, Arc::clone(&self.store), &snapshot, core);
        while let Some(chunk) = reader.next_blocking().map_err(|error| error.to_string())? {
            match chunk.kind {
                ChunkKind::Image => sink(&chunk.body)?,
                _ if !with_tail => {}
                _ => {
                    for record in chunk.records() {
                        sink(record.map_err(|flaw| flaw.to_string())?.ops)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What a snapshot covers of the logs of the start that took it.
pub fn coverage(manifest: &Manifest) -> Coverage {
    let part = |core: &cutwater_snapshot::manifest::CorePart| Part {
        watermark: core.watermark,
        position: core.position,
    };
    Coverage { start: start_of(manifest), parts: manifest.cores().iter().map(part).collect() }
}

/// The start that took a snapshot; 0 if it had no log.
pub fn start_of(manifest: &Manifest) -> StartId {
    manifest.cores().first().map_or(StartId(0), |core| core.log_id.start)
}
