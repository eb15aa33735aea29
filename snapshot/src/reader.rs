//! One core's part out of a store, chunk by verified chunk, in bounded memory.
//!
//! A task reads ahead in runs of [`RUN_BYTES`]; [`CoreReader`] checks and yields, from async code
//! or from a plain thread: the engine's loaders are threads without a runtime, so that checking and
//! decoding scale with them. Whoever reads the core to its end has also compared every object's
//! length and CRC32C with the manifest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cutwater_engine::types::ShardId;
use flume::RecvTimeoutError;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;

use crate::chunk::Chunk;
use crate::decoder::{CoreDecoder, Step};
use crate::error::{Damage, Flaw, Operation, SnapshotError, StoreError};
use crate::manifest::{StoredObject, object_path};
use crate::sealing::Unlocked;

/// Bytes that are read at once.
pub const RUN_BYTES: u64 = 4 << 20;
/// Runs that are read ahead; beside them one is being read and one taken apart.
pub const RUNS_AHEAD: usize = 2;
/// How often a thread that waits for the store looks whether it is to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// Reads one core's part.
#[derive(Debug)]
pub struct CoreReader {
    runs: flume::Receiver<Fetched>,
    decoder: CoreDecoder,
    core: ShardId,
    read_bytes: u64,
}

/// What the reading task sends.
#[derive(Debug)]
enum Fetched {
    Run(Bytes),
    Failed(SnapshotError),
    End,
}

impl CoreReader {
    /// Begins to read a core of a snapshot, on the runtime of `handle`.
    ///
    /// # Panics
    /// If the snapshot has no such core.
    pub fn open(
        handle: &Handle,
        store: Arc<dyn ObjectStore>,
        snapshot: &Unlocked,
        core: ShardId,
    ) -> Self {
        let (sender, runs) = flume::bounded(RUNS_AHEAD);
        let objects = snapshot.objects_of(core).cloned().collect();
        let decoder = CoreDecoder::new(snapshot, core);
        handle.spawn(fetch(store, objects, sender));
        Self { runs, decoder, core, read_bytes: 0 }
    }

    /// The next chunk: those of the image first, then tail records; `None` after the last, when
    /// everything has been compared with the manifest.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] that names object and offset, or the store's error. The reader is
    /// then of no more use.
    pub async fn next(&mut self) -> Result<Option<Chunk>, SnapshotError> {
        loop {
            if let Some(done) = self.decoded()? {
                return Ok(done);
            }
            let run = self.runs.recv_async().await;
            self.take(run.ok())?;
        }
    }

    /// [`CoreReader::next`] for a thread outside the runtime; it blocks that thread.
    ///
    /// # Errors
    /// As for [`CoreReader::next`].
    pub fn next_blocking(&mut self) -> Result<Option<Chunk>, SnapshotError> {
        self.next_blocking_unless(&AtomicBool::new(false))
    }

    /// [`CoreReader::next_blocking`] that gives up soon after `stopped` is set, also when the store
    /// does not answer.
    ///
    /// # Errors
    /// As for [`CoreReader::next`]; [`SnapshotError::ReaderStopped`] if it gave up.
    pub fn next_blocking_unless(
        &mut self,
        stopped: &AtomicBool,
    ) -> Result<Option<Chunk>, SnapshotError> {
        loop {
            if let Some(done) = self.decoded()? {
                return Ok(done);
            }
            let run = receive_unless(&self.runs, stopped);
            self.take(run)?;
        }
    }

    /// Bytes of objects that have been read so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// What the bytes so far give; `None` if more are needed.
    fn decoded(&mut self) -> Result<Option<Option<Chunk>>, Damage> {
        loop {
            match self.decoder.step()? {
                Step::Starved => return Ok(None),
                Step::Chunk(chunk) => return Ok(Some(Some(chunk))),
                Step::PieceDone => {}
                Step::Done => return Ok(Some(None)),
            }
        }
    }

    fn take(&mut self, fetched: Option<Fetched>) -> Result<(), SnapshotError> {
        match fetched {
            Some(Fetched::Run(run)) => {
                self.read_bytes += run.len() as u64;
                self.decoder.push(run);
                Ok(())
            }
            Some(Fetched::Failed(error)) => Err(error),
            Some(Fetched::End) => Err(self.decoder.ended_early().into()),
            None => Err(SnapshotError::ReaderStopped { object: format!("core {}", self.core) }),
        }
    }
}

/// The next item of a channel; `None` when it is closed, or soon after `stopped` is set. It blocks
/// the thread.
pub fn receive_unless<T>(channel: &flume::Receiver<T>, stopped: &AtomicBool) -> Option<T> {
    while !stopped.load(Ordering::Acquire) {
        match channel.recv_timeout(STOP_INTERVAL) {
            Ok(item) => return Some(item),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
    None
}

/// Reads the objects in order; ends when the receiver has gone.
async fn fetch(
    store: Arc<dyn ObjectStore>,
    objects: Vec<StoredObject>,
    sender: flume::Sender<Fetched>,
) {
    for object in &objects {
        let mut at = 0;
        if let Err(error) = check_length(&*store, object).await {
            drop(sender.send_async(Fetched::Failed(error)).await);
            return;
        }
        while at < object.length {
            let (fetched, last) = match read_run(&*store, object, at).await {
                Ok(run) => {
                    at += run.len() as u64;
                    (Fetched::Run(run), false)
                }
                Err(error) => (Fetched::Failed(error), true),
            };
            if sender.send_async(fetched).await.is_err() || last {
                return;
            }
        }
    }
    drop(sender.send_async(Fetched::End).await);
}

/// Compares the object's length with the manifest's.
pub(crate) async fn check_length(
    store: &dyn ObjectStore,
    object: &StoredObject,
) -> Result<(), SnapshotError> {
    let path = object_path(object);
    let meta = store.head(&path).await.map_err(|e| StoreError::failed(Operation::Head, &path, e));
    let found = match meta {
        Ok(meta) => meta.size,
        Err(error) if error.is_not_found() => {
            return Err(Damage::whole(&object.name, Flaw::Missing).into());
        }
        Err(error) => return Err(error.into()),
    };
    if found != object.length {
        let flaw = Flaw::Length { expected: object.length, found };
        return Err(Damage::whole(&object.name, flaw).into());
    }
    Ok(())
}

/// Reads up to [`RUN_BYTES`] of an object, at least one byte.
pub(crate) async fn read_run(
    store: &dyn ObjectStore,
    object: &StoredObject,
    at: u64,
) -> Result<Bytes, SnapshotError> {
    let path = object_path(object);
    let end = object.length.min(at + RUN_BYTES);
    let run = store.get_range(&path, at..end).await;
    let run = run.map_err(|e| StoreError::failed(Operation::Get, &path, e))?;
    if run.len() as u64 != end - at {
        return Err(Damage::at(&object.name, at + run.len() as u64, Flaw::Truncated).into());
    }
    Ok(run)
}
