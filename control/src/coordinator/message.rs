//! What the coordinator is asked. The channel message stays inside; callers have [`Handle`].

use std::sync::Arc;

use cutwater_engine::SnapshotStreamError;
use cutwater_engine::types::{Lsn, SnapshotId};
use cutwater_snapshot::catalog::{Entry, EntryState};
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::manifest::{Manifest, SnapshotKind};
use cutwater_snapshot::retention::Policy;
use cutwater_snapshot::verify::VerifyReport;
use tokio::sync::{mpsc, oneshot};

use super::archive::ArchiveStatus;
use super::delta::BaseDue;
use super::remote::RemoteState;
use super::request::{Accepted, Origin, Waiting};
use super::upload::{Uploading, Uploads};
use super::work::Running;
use crate::verify::{DeepError, DeepReport};

/// Requests that wait for the coordinator.
pub const REQUESTS: usize = 64;

/// Why the coordinator did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// A snapshot is under way.
    #[error("snapshot {0} is under way: wait until it is published")]
    Busy(SnapshotId),
    /// One is under way that the server takes by itself, and somebody waits behind it.
    #[error("snapshot {0} is under way, and another request waits behind it: try again later")]
    BusyBehind(SnapshotId),
    /// The snapshot was cancelled while it was taken.
    #[error("snapshot {0} was cancelled: nothing of it is left")]
    Cancelled(SnapshotId),
    /// The request was cancelled while it waited for another snapshot.
    #[error("the request was cancelled while it waited: no snapshot was begun for it")]
    WaitCancelled,
    /// The verification was cancelled.
    #[error("the verification of snapshot {0} was cancelled")]
    VerifyCancelled(SnapshotId),
    /// No snapshot is being taken.
    #[error("no snapshot is being taken: there is nothing to cancel")]
    NothingToCancel,
    /// This snapshot is not the one that is being taken, or it is published by now.
    #[error("snapshot {0} is not being taken: there is nothing to cancel")]
    NotRunning(SnapshotId),
    /// Too many verifications are under way.
    #[error(
        "{0} verifications are under way: wait for one of them, or end it (SNAPSHOT CANCEL VERIFY)"
    )]
    Verifying(usize),
    /// A deep verification would need more memory than there is.
    #[error(
        "a deep verification of snapshot {id} needs about {needed_bytes} bytes of memory beside \
         the keys that are served, and {available_bytes} are available: verify it elsewhere, with \
         `cutwater snapshot verify {id} --deep --store URL`"
    )]
    NoMemory {
        /// The snapshot.
        id: SnapshotId,
        /// What it would take, about.
        needed_bytes: u64,
        /// What the machine has left.
        available_bytes: u64,
    },
    /// No request waits, or not this client's.
    #[error("no such request for a snapshot waits: there is nothing to cancel")]
    NothingWaits,
    /// No snapshot is being verified.
    #[error("no verification is under way: there is nothing to cancel")]
    NoVerification,
    /// The shards could not give their parts.
    #[error(transparent)]
    Engine(#[from] SnapshotStreamError),
    /// The store could not take or give it.
    #[error("{0}")]
    Store(Arc<SnapshotError>),
    /// It is deleted, and objects of it are still there.
    #[error("snapshot {id} is deleted, but objects of it stay for now, and go later: {reason}")]
    Leftovers {
        /// The snapshot.
        id: SnapshotId,
        /// Why they stay.
        reason: Arc<SnapshotError>,
    },
    /// A delta was asked for where there is no log.
    #[error(
        "deltas come from the log, and this server runs without one (--no-log): take a base instead"
    )]
    NoLog,
    /// It is not what it was taken of, or cannot be compared.
    #[error("{0}")]
    Deep(Arc<DeepError>),
    /// The coordinator has ended.
    #[error("the database is being closed")]
    Closed,
}

impl From<SnapshotError> for CoordinatorError {
    fn from(error: SnapshotError) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl From<DeepError> for CoordinatorError {
    fn from(error: DeepError) -> Self {
        Self::Deep(Arc::new(error))
    }
}

/// A snapshot that was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// It, published.
    pub manifest: Manifest,
    /// Why it is a base, if a delta was asked for.
    pub instead: Option<BaseDue>,
}

/// Where the coordinator stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// When this was told, in microseconds since the Unix epoch.
    pub now_us: u64,
    /// The snapshot under way.
    pub running: Option<Running>,
    /// The request that waits for it.
    pub waiting: Option<Waiting>,
    /// The verifications under way.
    pub verifications: Vec<Running>,
    /// The newest published snapshot.
    pub last: Option<SnapshotId>,
    /// Where that one ends.
    pub last_end_lsn: Lsn,
    /// When it was begun, in microseconds since the Unix epoch.
    pub last_created_at_us: u64,
    /// How many were published by this process.
    pub published: u64,
    /// How many failed in this process.
    pub failed: u64,
    /// How many were cancelled in this process.
    pub cancelled: u64,
    /// How long the last one took that was published by this process, in microseconds; 0 if none.
    pub last_duration_us: u64,
    /// Bytes of the newest published snapshot.
    pub last_data_bytes: u64,
    /// Why the last one failed, if none was published since.
    pub last_error: Option<String>,
    /// Bytes of log since the newest checkpoint.
    pub log_since_checkpoint_bytes: u64,
    /// Published snapshots that have yet to be read back before log goes on their account.
    pub reading_back: usize,
    /// At how many the next checkpoint is taken.
    pub checkpoint_at_bytes: u64,
    /// The remote store, if there is one.
    pub remote: Option<RemoteStatus>,
    /// The archive, if there is one.
    pub archive: Option<ArchiveStatus>,
}

/// Where the remote store stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteStatus {
    /// Its address.
    pub url: String,
    /// `connecting`, `writer` or `superseded`.
    pub state: &'static str,
    /// How many snapshots are published there.
    pub uploaded: usize,
    /// How many have yet to go up, the one under way included.
    pub pending: usize,
    /// How many have yet to be deleted there.
    pub pending_deletions: usize,
    /// How many cannot go up because they are damaged here.
    pub failed: usize,
    /// How many cannot go up because what they are on top of was deleted there.
    pub orphaned: usize,
    /// Bytes of those that have yet to go up, the one under way whole.
    pub pending_bytes: u64,
    /// The snapshot that goes up now.
    pub uploading: Option<UploadProgress>,
    /// What is wrong, if anything is.
    pub last_error: Option<String>,
}

/// How far the snapshot is that goes up now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadProgress {
    /// Which, by its local id.
    pub id: SnapshotId,
    /// Bytes that are there.
    pub done_bytes: u64,
    /// Bytes of its objects.
    pub total_bytes: u64,
}

impl UploadProgress {
    /// How far it is, from 0 to 100.
    pub fn percent(&self) -> u64 {
        let done = self.done_bytes.saturating_mul(100);
        done.checked_div(self.total_bytes).unwrap_or(0).min(100)
    }
}

impl RemoteStatus {
    pub(super) fn of(uploads: &Uploads) -> Self {
        let (state, status) = (uploads.state(), uploads.status());
        let last_error = match &state {
            RemoteState::Connecting { last_error } => last_error.clone(),
            RemoteState::Writer(_) => status.last_error.clone(),
            RemoteState::Superseded { own, found } => Some(format!(
                "another server has taken the remote store over (its epoch is {found}, ours \
                 {own}): nothing is uploaded any more"
            )),
        };
        Self {
            url: uploads.url().to_owned(),
            state: state.name(),
            uploaded: status.uploaded.len(),
            pending: status.pending,
            pending_deletions: status.pending_deletions,
            failed: status.failed.len(),
            orphaned: status.orphaned.len(),
            pending_bytes: status.pending_bytes,
            uploading: status.uploading.as_ref().map(Uploading::progress),
            last_error,
        }
    }
}

/// What came of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone, wherever it was.
    Everywhere,
    /// It is gone here, and goes in the remote store when that can be reached.
    RemotePending,
}

/// A reply, once.
pub(super) type Reply<T> = oneshot::Sender<Result<T, CoordinatorError>>;

/// A request to the actor.
#[derive(Debug)]
pub(super) enum Message {
    /// Answered when the manifest is published, or with why not.
    Create(SnapshotKind, Origin, Reply<Taken>),
    /// The same, answered at once.
    Begin(SnapshotKind, Origin, Reply<Accepted>),
    /// The request that waits, if a client is named only that client's; answered at once.
    CancelWaiting(Option<u64>, Reply<()>),
    /// Answered when the snapshot under way is over and nothing of it is left, with its id; if one
    /// is named, only that one.
    Cancel(Option<SnapshotId>, Reply<SnapshotId>),
    /// Answered at once.
    List(Reply<Vec<Entry>>),
    /// From a client, if it was one; answered when everything was read. The actor goes on
    /// meanwhile, and the reading ends when nobody waits for the answer any more.
    Verify(SnapshotId, Option<u64>, Reply<VerifyReport>),
    /// The same, and compared with what it was taken of.
    VerifyDeep(SnapshotId, Option<u64>, Reply<DeepReport>),
    /// Answered at once, with how many were told to end; of one snapshot, or of all.
    CancelVerify(Option<SnapshotId>, Reply<u64>),
    /// Answered when the objects are gone.
    Delete(SnapshotId, Reply<Deleted>),
    /// Answered when the objects are gone here; the remote store's copy stays.
    Retire(SnapshotId, Reply<()>),
    /// Since when the snapshot is to be pinned; `None` unpins. Answered when its manifest says so.
    Pin(SnapshotId, Option<u64>, Reply<Manifest>),
    /// Answered when every manifest that had to be was written anew, with how many they were.
    Rekey(Option<SnapshotId>, Reply<u64>),
    /// Answered at once.
    Status(Reply<Status>),
    /// Ends the actor; a job under way is given up.
    Close(Reply<()>),
}

/// How one talks to the coordinator. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) requests: mpsc::Sender<Message>,
    pub(super) uploads: Option<Uploads>,
    /// What the server keeps by itself.
    pub(super) retention: Policy,
}

impl Handle {
    /// Takes a base; completes when its manifest is published.
    ///
    /// # Errors
    /// As for [`Handle::create_for`].
    pub async fn create(&self) -> Result<Manifest, CoordinatorError> {
        Ok(self.create_kind(SnapshotKind::Base).await?.manifest)
    }

    /// Takes a base, or a delta; completes when its manifest is published. Where a base is
    /// due it is taken instead of a delta, and [`Taken::instead`] says why.
    ///
    /// # Errors
    /// As for [`Handle::create_for`].
    pub async fn create_kind(&self, kind: SnapshotKind) -> Result<Taken, CoordinatorError> {
        self.create_for(kind, None).await
    }

    /// [`Self::create_kind`] for a client, as CLIENT ID says it, which [`Status`] then names.
    ///
    /// Behind a snapshot that the server takes by itself it waits.
    ///
    /// # Errors
    /// [`CoordinatorError::Busy`] and [`CoordinatorError::BusyBehind`] name the one under way;
    /// [`CoordinatorError::NoLog`] where a delta is never possible;
    /// [`CoordinatorError::Cancelled`] and [`CoordinatorError::WaitCancelled`] if somebody cancels
    /// it.
    pub async fn create_for(
        &self,
        kind: SnapshotKind,
        client: Option<u64>,
    ) -> Result<Taken, CoordinatorError> {
        self.ask(|reply| Message::Create(kind, Origin::Caller(client), reply)).await
    }

    /// [`Self::create_kind`] for a rule of the schedule, which waits for nothing.
    pub(super) async fn create_by_rule(&self, kind: SnapshotKind) -> Result<(), CoordinatorError> {
        self.ask(|reply| Message::Create(kind, Origin::Schedule, reply)).await.map(drop)
    }

    /// Begins a base for a client, or has it wait behind one that the server takes by itself; how
    /// it ends is in [`Status`].
    ///
    /// # Errors
    /// [`CoordinatorError::Busy`] and [`CoordinatorError::BusyBehind`] name the one under way.
    pub async fn begin_for(&self, client: Option<u64>) -> Result<Accepted, CoordinatorError> {
        let (kind, origin) = (SnapshotKind::Base, Origin::Caller(client));
        self.ask(|reply| Message::Begin(kind, origin, reply)).await
    }

    /// Cancels the request that waits for a snapshot of the server's own; if `client` is given only
    /// one of that client.
    ///
    /// # Errors
    /// [`CoordinatorError::NothingWaits`], also if it is being taken by now.
    pub async fn cancel_waiting(&self, client: Option<u64>) -> Result<(), CoordinatorError> {
        self.ask(|reply| Message::CancelWaiting(client, reply)).await
    }

    /// Cancels the snapshot that is being taken, if `id` is given only that one; completes with its
    /// id when nothing of it is left.
    ///
    /// # Errors
    /// [`CoordinatorError::NothingToCancel`], or [`CoordinatorError::NotRunning`], also if it was
    /// published before it could be cancelled.
    pub async fn cancel(&self, id: Option<SnapshotId>) -> Result<SnapshotId, CoordinatorError> {
        self.ask(|reply| Message::Cancel(id, reply)).await
    }

    /// The catalog, by `end_lsn`.
    ///
    /// # Errors
    /// [`CoordinatorError::Closed`].
    pub async fn list(&self) -> Result<Vec<Entry>, CoordinatorError> {
        self.ask(Message::List).await
    }

    /// Reads a snapshot whole and checks everything. Dropped, it ends the reading.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn verify(&self, id: SnapshotId) -> Result<VerifyReport, CoordinatorError> {
        self.verify_for(id, None).await
    }

    /// [`Self::verify`] for a client, as CLIENT ID says it, which [`Status`] then names.
    ///
    /// # Errors
    /// As for [`Self::verify`]; [`CoordinatorError::VerifyCancelled`] if somebody cancels it.
    pub async fn verify_for(
        &self,
        id: SnapshotId,
        client: Option<u64>,
    ) -> Result<VerifyReport, CoordinatorError> {
        self.ask(|reply| Message::Verify(id, client, reply)).await
    }

    /// Reads a snapshot whole, restores it in memory, and compares it with what it was taken of.
    /// One at a time: each holds all keys once more. Dropped, it ends.
    ///
    /// # Errors
    /// What is wrong with it; [`CoordinatorError::VerifyCancelled`] if somebody cancels it.
    pub async fn verify_deep(
        &self,
        id: SnapshotId,
        client: Option<u64>,
    ) -> Result<DeepReport, CoordinatorError> {
        self.ask(|reply| Message::VerifyDeep(id, client, reply)).await
    }

    /// Ends the verifications of one snapshot, or all; says how many.
    ///
    /// # Errors
    /// [`CoordinatorError::NoVerification`].
    pub async fn cancel_verify(&self, id: Option<SnapshotId>) -> Result<u64, CoordinatorError> {
        self.ask(|reply| Message::CancelVerify(id, reply)).await
    }

    /// Deletes a snapshot; never one of the two newest.
    ///
    /// # Errors
    /// Why not.
    pub async fn delete(&self, id: SnapshotId) -> Result<Deleted, CoordinatorError> {
        self.ask(|reply| Message::Delete(id, reply)).await
    }

    /// Deletes a snapshot here that the policy lets go; its copy in the remote store stays.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn retire(&self, id: SnapshotId) -> Result<(), CoordinatorError> {
        self.ask(|reply| Message::Retire(id, reply)).await
    }

    /// Pins a snapshot of the local store, or unpins it; gives its manifest.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn pin_here(
        &self,
        id: SnapshotId,
        at_us: Option<u64>,
    ) -> Result<Manifest, CoordinatorError> {
        self.ask(|reply| Message::Pin(id, at_us, reply)).await
    }

    /// Where a snapshot of [`Handle::list`] is in the remote store, in words ([`Uploads::place`]);
    /// `None` without a remote store, or for what is no snapshot.
    pub fn remote_place(&self, entry: &Entry) -> Option<String> {
        let has_uuid = !matches!(entry.state, EntryState::Unreadable { .. });
        self.uploads.as_ref().filter(|_| has_uuid).map(|uploads| uploads.place(entry))
    }

    /// Why a snapshot of [`Handle::list`] never gets into the remote store, if that is so.
    pub fn why_not_remote(&self, entry: &Entry) -> Option<String> {
        let uuid = entry.manifest()?.snapshot_uuid();
        self.uploads.as_ref()?.status().why_never(uuid).map(str::to_owned)
    }

    /// Brings one snapshot, or all of them, under the active key; says how many were under another.
    ///
    /// # Errors
    /// Why not.
    pub async fn rekey(&self, id: Option<SnapshotId>) -> Result<u64, CoordinatorError> {
        self.ask(|reply| Message::Rekey(id, reply)).await
    }

    /// Where the coordinator stands.
    ///
    /// # Errors
    /// [`CoordinatorError::Closed`].
    pub async fn status(&self) -> Result<Status, CoordinatorError> {
        self.ask(Message::Status).await
    }

    /// Ends the coordinator.
    pub(crate) async fn close(&self) {
        // One that is gone already is closed.
        let _ = self.ask(Message::Close).await;
    }

    async fn ask<T>(
        &self,
        message: impl FnOnce(Reply<T>) -> Message,
    ) -> Result<T, CoordinatorError> {
        let (reply, mut answer) = oneshot::channel();
        let permit = self.requests.reserve().await.map_err(|_| CoordinatorError::Closed)?;
        permit.send(message(reply));
        // An actor that is aborted drops its receiver, which empties the channel. What is sent
        // between that and the permit stays in the channel for as long as any handle lives, this
        // one too, and with it the sender of the answer: waiting for the answer alone would be
        // waiting for ever.
        tokio::select! {
            biased;
            answered = &mut answer => answered.map_err(|_| CoordinatorError::Closed)?,
            () = self.requests.closed() => {
                // The answer may have come just before the end.
                answer.try_recv().map_err(|_| CoordinatorError::Closed)?
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The actor goes while a request is on its way, after it was let into the channel: nobody
    /// takes it out again, and the caller's own handle keeps the channel alive.
    #[tokio::test]
    async fn a_request_that_an_aborted_actor_never_took_is_answered() {
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let handle = Handle { requests, uploads: None, retention: Policy::default() };
        let asked = handle.ask(|reply| {
            drop(receiver);
            Message::Status(reply)
        });
        assert!(matches!(asked.await, Err(CoordinatorError::Closed)));
        assert!(matches!(handle.status().await, Err(CoordinatorError::Closed)));
    }

    #[tokio::test]
    async fn an_answer_given_just_before_the_end_counts() {
        let (requests, mut receiver) = mpsc::channel(REQUESTS);
        let handle = Handle { requests, uploads: None, retention: Policy::default() };
        let actor = async {
            let Some(Message::List(reply)) = receiver.recv().await else { panic!("one request") };
            reply.send(Ok(Vec::new())).unwrap();
            drop(receiver);
        };
        let (answer, ()) = tokio::join!(handle.list(), actor);
        assert!(answer.unwrap().is_empty());
    }
}
