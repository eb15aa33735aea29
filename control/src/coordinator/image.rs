//! A published snapshot as the engine's start reads it, with the chain below it if it is a delta:
//! layer by layer, chunk by chunk, verified, on the loader's threads.

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
    /// The base, and the deltas on top of it, each with the keys that open it; it is the last.
    chain: Vec<(Manifest, Keyring)>,
    /// Whether the logs of the data directory continue it.
    continued: bool,
}

impl SnapshotImage {
    /// An image of a chain, base first, for a data directory of this history.
    ///
    /// # Panics
    /// If the chain is empty.
    pub fn new(
        runtime: Handle,
        store: Arc<dyn ObjectStore>,
        chain: Vec<(Manifest, Keyring)>,
        history: HistoryId,
    ) -> Self {
        let (last, _) = chain.last().expect("a chain has a base");
        let continued = last.identity().history == history && start_of(last).0 > 0;
        Self { runtime, store, chain, continued }
    }

    fn last(&self) -> &Manifest {
        &self.chain[self.chain.len() - 1].0
    }
}

impl ImageSource for SnapshotImage {
    fn name(&self) -> String {
        self.last().name().to_string()
    }

    fn coverage(&self) -> Option<Coverage> {
        self.continued.then(|| coverage(self.last()))
    }

    fn end_lsn(&self) -> Lsn {
        self.last().meta().end_lsn
    }

    fn layers(&self) -> usize {
        self.chain.len()
    }

    fn parts(&self, layer: usize) -> usize {
        self.chain[layer].0.cores().len()
    }

    fn read(
        &self,
        layer: usize,
        part: usize,
        with_tail: bool,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let (manifest, keys) = self.chain.get(layer).ok_or("no such layer")?;
        let core = manifest.cores().get(part).ok_or("no such part")?.core;
        let snapshot = manifest.unlock(keys).map_err(|error| error.to_string())?;
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
