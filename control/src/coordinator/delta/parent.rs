//! Which snapshot a delta is taken on top of.
//!
//! It has to be one that the log of this directory continues to what the shards hold now: one that
//! this process took, or that it loaded, itself or a later one, and replayed the log behind. What
//! this start could not load is not trusted any more, so every snapshot of this history is one of
//! these, as long as no snapshot in between was taken without a log. Whether the log still reaches
//! back so far is seen when it is opened.
//!
//! With a remote store the parent has to get there before the delta, and the whole chain below it:
//! automatic checkpoints do not, nor what failed to, nor what somebody deleted there.

use cutwater_engine::log::Coverage;
use cutwater_snapshot::catalog::Catalog;
use cutwater_snapshot::chain::CHAIN_LIMIT;
use cutwater_snapshot::ident::HistoryId;
use cutwater_snapshot::manifest::Manifest;

use super::BaseDue;
use crate::coordinator::image::{coverage, start_of};
use crate::coordinator::job::CHECKPOINT;
use crate::coordinator::upload::UploadStatus;
use crate::restore::RESTORED;

/// The parent of a delta.
#[derive(Clone, Debug)]
pub struct Parent {
    /// Its base, and the deltas up to itself, which is the last.
    chain: Vec<Manifest>,
}

impl Parent {
    /// It itself.
    pub fn manifest(&self) -> &Manifest {
        self.chain.last().expect("a chain has a base")
    }

    /// Where the log goes on behind it; `None`: with the first start, since the directory was
    /// restored.
    pub fn coverage(&self) -> Option<Coverage> {
        Some(self.manifest()).filter(|parent| start_of(parent).0 > 0).map(coverage)
    }

    /// Bytes of its base.
    pub fn base_bytes(&self) -> u64 {
        self.chain[0].meta().data_bytes
    }

    /// Bytes of the deltas of its chain.
    pub fn delta_bytes(&self) -> u64 {
        self.chain[1..].iter().map(|delta| delta.meta().data_bytes).sum()
    }
}

/// Chooses it. `remote` is what is known of the uploads, where there is a remote store.
///
/// # Errors
/// Why a base is due.
pub fn choose(
    catalog: &Catalog,
    history: HistoryId,
    remote: Option<&UploadStatus>,
) -> Result<Parent, BaseDue> {
    let of_history = |manifest: &&Manifest| manifest.identity().history == history;
    let candidates = catalog.published().rev().filter(of_history);
    let is_upload = |manifest: &Manifest| remote.is_none() || !is_checkpoint(manifest);
    let candidate = candidates.take_while(|it| is_logged(it)).find(|it| is_upload(it));
    let id = candidate.ok_or(BaseDue::NoParent)?.id();
    let chain = catalog.chain_of(id).map_err(|error| BaseDue::Chain(error.to_string()))?;
    let deltas = chain.len() - 1;
    if deltas >= CHAIN_LIMIT {
        return Err(BaseDue::Length { parent: id, deltas });
    }
    for manifest in &chain {
        if let Some(reason) = remote.and_then(|remote| why_not_remote(remote, manifest)) {
            return Err(BaseDue::NotRemote { id: manifest.id(), reason });
        }
    }
    Ok(Parent { chain: chain.into_iter().cloned().collect() })
}

/// Whether the logs of this directory continue it. A restored one's begin with it; what was taken
/// without a log says nothing of them, and they nothing of what it holds.
fn is_logged(manifest: &Manifest) -> bool {
    start_of(manifest).0 > 0 || manifest.raw().reason.as_deref() == Some(RESTORED)
}

fn is_checkpoint(manifest: &Manifest) -> bool {
    manifest.raw().reason.as_deref() == Some(CHECKPOINT)
}

fn why_not_remote(remote: &UploadStatus, manifest: &Manifest) -> Option<String> {
    let uuid = manifest.snapshot_uuid();
    if is_checkpoint(manifest) {
        return Some("automatic checkpoints are local".to_owned());
    }
    if remote.deleted.contains(&uuid) {
        return Some("it was deleted there".to_owned());
    }
    remote.failed.get(&uuid).cloned()
}
