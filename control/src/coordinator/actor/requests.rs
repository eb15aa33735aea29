//! How a snapshot begins: at once, behind one that the server takes by itself, or not at all; and
//! how it is cancelled.

use std::sync::Arc;

use cutwater_engine::clock::wall_micros;
use cutwater_engine::engine::log_dir;
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::manifest::SnapshotKind;
use tracing::Instrument as _;

use super::super::delta::{self, BaseDue, parent};
use super::super::job::{self, Order};
use super::super::message::{CoordinatorError, Reply, Taken};
use super::super::request::{Accepted, Origin, Waiting, accept};
use super::super::upload::Uploads;
use super::super::work::Work;
use super::{Actor, Job};

/// A snapshot that somebody asks for.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) kind: SnapshotKind,
    pub(super) origin: Origin,
    /// Who waits for the snapshot; nobody, if it is to be taken in the background.
    pub(super) reply: Option<Reply<Taken>>,
}

impl Request {
    pub(super) fn shown(&self) -> Waiting {
        Waiting { kind: self.kind, origin: self.origin }
    }

    /// Whether somebody waited for it, and does not any more.
    fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_some_and(Reply::is_closed)
    }
}

impl Actor {
    /// Takes a request in, or answers why not.
    pub(super) fn request(&mut self, request: Request) {
        if let Err((error, Some(reply))) = self.admit(request) {
            let _ = reply.send(Err(error));
        }
    }

    /// Takes a request in; a refused one gives its reply back.
    pub(super) fn admit(
        &mut self,
        request: Request,
    ) -> Result<Accepted, (CoordinatorError, Option<Reply<Taken>>)> {
        if self.waiting.as_ref().is_some_and(Request::is_abandoned) {
            self.waiting = None;
        }
        let running = self.job.as_ref().map(|job| (job.id(), job.origin));
        let accepted = match accept(request.origin, running, self.waiting.is_some()) {
            Ok(_) if request.kind == SnapshotKind::Delta && self.data_dir.is_none() => {
                Err(CoordinatorError::NoLog)
            }
            // It went down with a job.
            Ok(Accepted::Begins) if self.claimant.is_none() => Err(CoordinatorError::Closed),
            accepted => accepted,
        };
        match accepted {
            Ok(Accepted::Begins) => {
                let job = self.begin(request.kind, request.origin, None);
                job.reply = request.reply;
            }
            Ok(Accepted::Waits) => self.waiting = Some(request),
            Err(error) => return Err((error, request.reply)),
        }
        accepted.map_err(|error| (error, None))
    }

    /// Begins what waits, if something does: the job before it is over.
    pub(super) fn begin_waiting(&mut self) {
        if let Some(request) = self.waiting.take().filter(|request| !request.is_abandoned()) {
            self.request(request);
        }
    }

    pub(super) fn cancel_waiting(&mut self, client: Option<u64>) -> Result<(), CoordinatorError> {
        let is_meant =
            |request: &mut Request| client.is_none() || request.origin.client() == client;
        let request = self.waiting.take_if(is_meant).ok_or(CoordinatorError::NothingWaits)?;
        if let Some(reply) = request.reply {
            let _ = reply.send(Err(CoordinatorError::WaitCancelled));
        }
        Ok(())
    }

    /// Begins a snapshot, for a reason if nobody asked for it.
    pub(super) fn begin(
        &mut self,
        kind: SnapshotKind,
        origin: Origin,
        reason: Option<&'static str>,
    ) -> &mut Job {
        let mut claimant = self.claimant.take().expect("it is here while no job runs");
        let engine = Arc::clone(&self.engine);
        let work = match kind {
            SnapshotKind::Base => Work::of_all_keys(engine.shared()),
            SnapshotKind::Delta => Work::of_unknown_size(),
        };
        let order = Order {
            form: self.form.clone(),
            reason,
            delta: (kind == SnapshotKind::Delta).then(|| self.delta_source()),
            work: Arc::clone(&work),
        };
        // Where that is possible a snapshot bears one id in both stores.
        if let Some(taken) = self.uploads.as_ref().and_then(Uploads::last_id) {
            claimant.skip_past(taken);
        }
        let id = claimant.next_id();
        work.set_id(id);
        tracing::info!(snapshot = id.0, "snapshot begins");
        let span = tracing::info_span!("snapshot", id = id.0, lsn = tracing::field::Empty);
        let take = async move {
            let result = job::run(&engine, &mut claimant, order).await;
            (claimant, result)
        };
        let handle = tokio::spawn(take.instrument(span));
        let since_us = wall_micros();
        let (reply, cancellers) = (None, Vec::new());
        self.job.insert(Job { handle, work, origin, since_us, reply, cancellers })
    }

    /// What a delta would be made of now.
    fn delta_source(&self) -> Result<delta::Source, BaseDue> {
        let dir = self.data_dir.as_ref().ok_or(BaseDue::NoParent)?;
        let remote = self.uploads.as_ref().map(Uploads::status);
        let parent = parent::choose(&self.catalog, self.history, remote.as_ref())?;
        Ok(delta::Source { parent, log_dir: log_dir(dir) })
    }

    /// Answered by [`Self::job_over`], when nothing of it is left.
    pub(super) fn cancel(&mut self, id: Option<SnapshotId>, reply: Reply<SnapshotId>) {
        let job = self.job.as_mut().filter(|job| id.is_none_or(|id| id == job.id()));
        match (job, id) {
            (Some(job), _) => {
                job.work.cancel();
                job.cancellers.push(reply);
            }
            (None, Some(id)) => drop(reply.send(Err(CoordinatorError::NotRunning(id)))),
            (None, None) => drop(reply.send(Err(CoordinatorError::NothingToCancel))),
        }
    }

    /// Ends everything that is under way or waits, when the actor ends.
    pub(super) async fn give_up(&mut self) {
        if let Some(reply) = self.waiting.take().and_then(|request| request.reply) {
            let _ = reply.send(Err(CoordinatorError::Closed));
        }
        let Some(mut job) = self.job.take() else { return };
        // The streams go with the task, which cancels the snapshot; its claim is aborted at the
        // next start.
        job.handle.abort();
        let _ = (&mut job.handle).await;
        if let Some(reply) = job.reply.take() {
            let _ = reply.send(Err(CoordinatorError::Closed));
        }
        for canceller in job.cancellers.drain(..) {
            let _ = canceller.send(Err(CoordinatorError::Closed));
        }
    }
}
