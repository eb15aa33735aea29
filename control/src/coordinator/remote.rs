//! The role of the remote store's writer: one task gains it, keeps an eye on it, and says when
//! another server has taken it over.
//!
//! [`probe_start`] asks before the shards open: a definite refusal (credentials, no bucket,
//! conditional puts that do not hold, another database's prefix) ends the start; no answer does
//! not. [`start`] then goes on asking with a back-off until it is the writer. Whoever writes to the
//! remote store watches [`RemoteState`] and works under the [`Lease`] that it holds; who finds a
//! higher epoch reports it with [`Lease::fenced`]. That is final for this process: the server keeps
//! serving, and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cutwater_engine::clock::wall_micros;
use cutwater_engine::types::{Lsn, SnapshotId};
use cutwater_snapshot::ObjectStore;
use cutwater_snapshot::archive::Fence;
use cutwater_snapshot::catalog::Catalog;
use cutwater_snapshot::claim::{Claimant, Removal, Takeover, WrittenHistory, require_database};
use cutwater_snapshot::delete::{Removed, delete_snapshot, sweep};
use cutwater_snapshot::error::{SnapshotError, StoreError};
use cutwater_snapshot::ident::{HistoryId, Identity, SnapshotUuid, WriterNonce};
use cutwater_snapshot::manifest::{Manifest, SnapshotKind, Tombstone};
use cutwater_snapshot::paths::SnapshotName;
use cutwater_snapshot::store::probe;
use futures::future::BoxFuture;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use super::behind::{BehindError, Known};

/// How long a start waits for the remote store's first answer.
pub const START_LIMIT: Duration = Duration::from_secs(5);
/// How long a start waits, beside that, until it is the writer.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(3);
/// How often a writer looks whether it still is.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// So many looks in a row without an answer mean that the store is out of reach.
const SILENT_CHECKS: u32 = 2;
/// The first wait after a failure; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait between two tries, inclusive.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Ids that are claimed for nothing at once so that a snapshot bears the same one in both stores.
const FILL_LIMIT: u64 = 1_000;

/// The remote store, and how it is used.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Its address, for people.
    pub url: String,
    /// Whether a store that ignores conditional puts is accepted, because nobody else writes.
    pub single_writer: bool,
    /// Bytes that uploads and the archive together may send in a second; `None` for as many as
    /// there are.
    pub upload_limit_bytes_per_s: Option<u64>,
    /// How often log goes to the archive.
    pub archive_interval: Duration,
    /// Bytes of log that may wait for the archive before a gap is accepted.
    pub archive_backlog_bytes: u64,
    /// How long a stop waits for uploads at most.
    pub shutdown_timeout: Duration,
}

/// Where this process stands as a writer of the remote store.
#[derive(Clone, Debug)]
pub enum RemoteState {
    /// Not yet the writer; it is tried again and again.
    Connecting {
        /// Why the last try failed; `None` before the first has ended.
        last_error: Option<String>,
    },
    /// The writer.
    Writer(Arc<Lease>),
    /// Another server is; for good.
    Superseded {
        /// Our epoch.
        own: u64,
        /// Its epoch.
        found: u64,
    },
}

impl RemoteState {
    /// The word for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connecting { .. } => "connecting",
            Self::Writer(_) => "writer",
            Self::Superseded { .. } => "superseded",
        }
    }
}

/// The right to write to the remote store, as long as nobody takes over.
#[derive(Debug)]
pub struct Lease {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The database and history that are written.
    pub identity: Identity,
    /// The epoch under which this process claims.
    pub epoch: u64,
    /// The writer, as its claims name it.
    pub nonce: WriterNonce,
    /// Claims of snapshots that this server has whole, which the takeover left open.
    pub kept: Vec<(SnapshotName, SnapshotUuid)>,
    /// Every history that has ever written to the store.
    pub histories: BTreeMap<HistoryId, WrittenHistory>,
    /// Where the newest base of the history ended that was there after the takeover, if that was
    /// looked at: for the archive.
    pub newest_base: Option<Lsn>,
    /// What was there after the takeover, if that was looked at, for the first who asks.
    catalog: std::sync::Mutex<Option<Catalog>>,
    /// How often snapshots were removed or pinned there, by whoever else than the uploads.
    changes: AtomicU64,
    claimant: Mutex<Claimant>,
    last_id: AtomicU64,
    state: watch::Sender<RemoteState>,
}

impl Lease {
    /// The highest id that is known to be taken.
    pub fn last_id(&self) -> SnapshotId {
        SnapshotId(self.last_id.load(Ordering::Acquire))
    }

    /// Claims an id for a snapshot: `wanted`, where that is free and not too far ahead.
    ///
    /// # Errors
    /// As for [`Claimant::claim`].
    pub async fn claim(
        &self,
        wanted: SnapshotId,
        begin_lsn: Lsn,
        uuid: SnapshotUuid,
    ) -> Result<SnapshotName, SnapshotError> {
        let mut claimant = self.claimant.lock().await;
        let ahead = wanted.0.saturating_sub(claimant.next_id().0);
        let claimed = async {
            if (1..=FILL_LIMIT).contains(&ahead) {
                claimant.fill(wanted, wall_micros()).await?;
            }
            claimant.claim(begin_lsn, uuid, wall_micros()).await
        };
        let claimed = claimed.await;
        self.last_id.store(claimant.last_id().0, Ordering::Release);
        claimed
    }

    /// Gives a claimed snapshot up that was not published, and removes what was written of it.
    ///
    /// # Errors
    /// The store's error, or [`SnapshotError::Published`].
    pub async fn abandon(
        &self,
        name: SnapshotName,
        uuid: SnapshotUuid,
        reason: &str,
    ) -> Result<(), SnapshotError> {
        let claimant = self.claimant.lock().await;
        claimant.abort((name, uuid), reason, wall_micros()).await?;
        sweep(&*self.store, name).await.map(drop)
    }

    /// Removes snapshots and log, claimed beforehand ([`Claimant::remove`]). Claims and checks wait
    /// meanwhile: not too many at once.
    ///
    /// # Errors
    /// As for [`Claimant::claim`].
    pub async fn remove(&self, removal: Removal) -> Result<Removed, SnapshotError> {
        let mut claimant = self.claimant.lock().await;
        let removed = claimant.remove(removal, wall_micros()).await;
        self.last_id.store(claimant.last_id().0, Ordering::Release);
        removed
    }

    /// Deletes one snapshot, claimed beforehand.
    ///
    /// # Errors
    /// As for [`Lease::remove`], and [`SnapshotError::Pinned`].
    pub async fn delete(
        &self,
        manifest: &Manifest,
        reason: &str,
    ) -> Result<Tombstone, SnapshotError> {
        let (id, snapshot) = (manifest.id(), (manifest.name(), manifest.snapshot_uuid()));
        let (snapshots, log) = (vec![snapshot], Vec::new());
        self.remove(Removal { snapshots, log, reason: reason.to_owned() }).await?;
        // It is gone, unless it was pinned: then this says so.
        let (tombstone, _) = delete_snapshot(&*self.store, id, &[], reason).await?;
        tracing::info!(remote = id.0, "deleted in the remote store");
        Ok(tombstone)
    }

    /// What was there right after the takeover; `None` once somebody has it.
    pub fn take_catalog(&self) -> Option<Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Tells the uploads that snapshots were removed or pinned beside them.
    pub fn tell_change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.state.send_modify(|_| {});
    }

    /// How often [`Lease::tell_change`] was called.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Looks whether another server has taken over, and reports it if so.
    ///
    /// # Errors
    /// [`SnapshotError::Fenced`], or the store's error.
    pub async fn check(&self) -> Result<(), SnapshotError> {
        let checked = self.claimant.lock().await.check().await;
        if let Err(SnapshotError::Fenced { found, .. }) = checked {
            self.fenced(found);
        }
        checked
    }

    /// Completes when the store does not answer small questions any more, or answers that another
    /// server has taken over: for whoever sends it something that may take long, since a request
    /// with a large body that is under way cannot tell a slow line from a dead one.
    pub async fn silence(&self) -> SnapshotError {
        let mut silent = 0;
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            match self.check().await {
                Ok(()) => silent = 0,
                Err(error) if error.is_retryable() && silent + 1 < SILENT_CHECKS => silent += 1,
                Err(error) => return error,
            }
        }
    }

    /// Reports that a higher epoch was found: nothing is written any more.
    pub fn fenced(&self, found: u64) {
        let own = self.epoch;
        let is_news = self.state.send_if_modified(|state| {
            let is_news = !matches!(state, RemoteState::Superseded { .. });
            *state = RemoteState::Superseded { own, found };
            is_news
        });
        if is_news {
            tracing::error!(
                own,
                found,
                "another server has taken the remote store over: this one keeps serving, and \
                 uploads nothing any more"
            );
        }
    }
}

impl Fence for Lease {
    fn check(&self) -> BoxFuture<'_, Result<(), SnapshotError>> {
        Box::pin(Lease::check(self))
    }
}

/// Asks the remote store before a start. `None` if it can be used; why there was no answer, if
/// there was none.
///
/// # Errors
/// [`SnapshotError::is_refusal`]: its definite refusal.
pub async fn probe_start(
    config: &RemoteConfig,
    identity: Identity,
) -> Result<Option<String>, SnapshotError> {
    match tokio::time::timeout(START_LIMIT, ask(config, identity)).await {
        Ok(Ok(())) => Ok(None),
        Ok(Err(error)) if error.is_refusal() => Err(error),
        Ok(Err(error)) => Ok(Some(error.to_string())),
        Err(_) => Ok(Some(format!("no answer within {} s", START_LIMIT.as_secs()))),
    }
}

async fn ask(config: &RemoteConfig, identity: Identity) -> Result<(), SnapshotError> {
    match probe(&*config.store).await {
        Err(StoreError::CreateNotExclusive { .. }) if config.single_writer => {}
        probed => probed?,
    }
    require_database(&*config.store, identity.database).await
}

/// What a start has heard of the remote store so far, in words for people where it is silence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It does not answer.
    Silent(String),
    /// It may be used, as far as [`probe_start`] goes.
    Answered,
    /// Besides, what it has of the history was compared with the directory.
    Checked,
}

/// Begins to seek the role of the writer; `keep` are the snapshots that this server has whole,
/// `known` what it knows of its history in the store (if it has a log that goes on), and
/// `asked` what this start has heard of it. Completes when there is a first outcome, or after a few
/// seconds.
pub async fn start(
    config: RemoteConfig,
    identity: Identity,
    keep: BTreeSet<SnapshotUuid>,
    known: Option<Known>,
    asked: Asked,
) -> (watch::Receiver<RemoteState>, JoinHandle<()>) {
    let answered = !matches!(asked, Asked::Silent(_));
    let is_checked = matches!(asked, Asked::Checked);
    let last_error = match asked {
        Asked::Silent(error) => Some(error),
        Asked::Answered | Asked::Checked => None,
    };
    if let Some(error) = &last_error {
        tracing::warn!(
            store = config.url,
            error,
            "the remote store does not answer: it is tried again and again, and snapshots wait \
             in the local store meanwhile"
        );
    }
    let (sender, mut state) = watch::channel(RemoteState::Connecting { last_error });
    let task = tokio::spawn(seek(config, identity, (keep, known, is_checked), sender));
    if answered {
        // So that the first snapshot already knows which ids the remote store has taken.
        let _ = tokio::time::timeout(TAKEOVER_LIMIT, state.changed()).await;
        state.mark_unchanged();
    }
    (state, task)
}

async fn seek(
    config: RemoteConfig,
    identity: Identity,
    (keep, known, mut is_checked): (BTreeSet<SnapshotUuid>, Option<Known>, bool),
    state: watch::Sender<RemoteState>,
) {
    let mut retry = Retry::default();
    let lease = loop {
        let check = !std::mem::take(&mut is_checked);
        match take_over(&config, identity, (&keep, known.as_ref(), check), &state).await {
            Ok(lease) => break Arc::new(lease),
            Err(error) => {
                let text = error.to_string();
                if matches!(&error, NotWriter::Behind(error) if error.is_behind()) {
                    tracing::error!(error = text, "nothing is written to the remote store");
                }
                tracing::debug!(error = text, "the remote store cannot be written yet");
                state.send_replace(RemoteState::Connecting { last_error: Some(text) });
                tokio::time::sleep(retry.next()).await;
            }
        }
    };
    tracing::info!(store = config.url, epoch = lease.epoch, "writer of the remote store");
    state.send_replace(RemoteState::Writer(Arc::clone(&lease)));
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        // Any other error is the uploads' to tell of.
        if let Err(SnapshotError::Fenced { .. }) = lease.check().await {
            return;
        }
    }
}

async fn take_over(
    config: &RemoteConfig,
    identity: Identity,
    (keep, known, check): (&BTreeSet<SnapshotUuid>, Option<&Known>, bool),
    state: &watch::Sender<RemoteState>,
) -> Result<Lease, NotWriter> {
    if check {
        ask(config, identity).await?;
        if let Some(known) = known {
            known.check(&*config.store).await?;
        }
    }
    let nonce = WriterNonce::random().map_err(SnapshotError::Random)?;
    let store = Arc::clone(&config.store);
    let Takeover { claimant, aborted, kept, histories } =
        Claimant::take_over_keeping(store, identity, nonce, wall_micros(), keep).await?;
    for name in aborted {
        tracing::warn!(%name, "an unfinished upload, whose snapshot is gone, was given up");
    }
    // Again: what the writer before put until it was superseded.
    let catalog = match known {
        Some(known) => Some(known.check(&*config.store).await?),
        None => None,
    };
    let bases = catalog.iter().flat_map(Catalog::published).filter(|manifest| {
        manifest.meta().kind == SnapshotKind::Base
            && manifest.identity().history == identity.history
    });
    Ok(Lease {
        newest_base: bases.map(|manifest| manifest.meta().end_lsn).max(),
        catalog: std::sync::Mutex::new(catalog),
        store: Arc::clone(&config.store),
        identity,
        epoch: claimant.epoch(),
        nonce,
        kept,
        histories,
        changes: AtomicU64::new(0),
        last_id: AtomicU64::new(claimant.last_id().0),
        claimant: Mutex::new(claimant),
        state: state.clone(),
    })
}

/// Why this process is not the writer yet.
#[derive(Debug, thiserror::Error)]
enum NotWriter {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Behind(#[from] BehindError),
}

/// Waits that grow.
#[derive(Debug, Default)]
pub(super) struct Retry {
    failures: u32,
}

impl Retry {
    /// How long to wait after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let wait = FIRST_RETRY.saturating_mul(1 << self.failures.min(10)).min(LONGEST_RETRY);
        self.failures += 1;
        wait
    }

    /// It works again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        let mut retry = Retry::default();
        let waits: Vec<u64> = (0..9).map(|_| retry.next().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        retry.reset();
        assert_eq!(retry.next(), FIRST_RETRY);
    }
}
