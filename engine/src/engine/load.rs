//! Filling the shards at a start: first an image, part by part, then the logs that continue it,
//! start by start. What is read side by side never holds the same slot, so the order of the changes
//! of every slot is kept.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing::field::Empty;

use crate::log::{LogError, Record, Recovery, ResolvedLog};
use crate::net::InboxSender;
use crate::shard::load::Division;
use crate::slot::SlotMap;
use crate::types::Lsn;

use super::config::ImageSource;
use super::error::OpenError;
use super::message::ToShard;

/// Ops for one shard go over when there are this many bytes.
const PART_BYTES: usize = 256 << 10;

/// Fills shards that are loading.
pub struct Loader<'a> {
    shards: &'a [InboxSender<ToShard>],
    slots: SlotMap,
    threads: usize,
}

/// Why a thread of the loader stopped.
#[derive(Debug)]
enum LoadFailure {
    Log(LogError),
    Other(String),
}

impl From<LogError> for LoadFailure {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<String> for LoadFailure {
    fn from(text: String) -> Self {
        Self::Other(text)
    }
}

impl<'a> Loader<'a> {
    /// A loader that reads on `threads` threads.
    pub fn new(shards: &'a [InboxSender<ToShard>], slots: SlotMap, threads: usize) -> Self {
        Self { shards, slots, threads: threads.max(1) }
    }

    /// Loads an image, layer by layer; with the last one's tail if no log continues it.
    ///
    /// # Errors
    /// [`OpenError::Image`]: the shards hold rubbish now, and have to be given up.
    pub fn image(&self, image: &dyn ImageSource, with_tail: bool) -> Result<(), OpenError> {
        let (layers, span) = (image.layers(), tracing::Span::current());
        for layer in 0..layers {
            let parts: Vec<usize> = (0..image.parts(layer)).collect();
            let with_tail = with_tail || layer + 1 < layers;
            let result = self.side_by_side(&parts, |part, sink| {
                let (id, lsn) = (image.name(), image.end_lsn().0);
                let _recovery =
                    tracing::info_span!(parent: &span, "recovery", shard = part, id, lsn).entered();
                let add = &mut |ops: &[u8]| sink.add(ops).map_err(LoadFailure::text);
                tracing::debug!(layer, "a part of the image is read");
                image.read(layer, *part, with_tail, add).map_err(LoadFailure::Other)
            });
            let (name, failed) = (image.name(), LoadFailure::text);
            result.map_err(|failure| OpenError::Image { name, reason: failed(failure) })?;
            self.wait_until_applied()?;
        }
        Ok(())
    }

    /// Replays the logs that recovery resolved.
    ///
    /// # Errors
    /// Those of reading the logs.
    pub fn logs(&self, recovery: &Recovery) -> Result<(), OpenError> {
        let logs = &recovery.resolution().logs;
        for start in logs.chunk_by(|a, b| a.log.start == b.log.start) {
            self.logs_of_start(recovery, start)?;
            self.wait_until_applied()?;
        }
        Ok(())
    }

    fn logs_of_start(&self, recovery: &Recovery, logs: &[ResolvedLog]) -> Result<(), OpenError> {
        let span = tracing::Span::current();
        let result = self.side_by_side(logs, |ResolvedLog { log, .. }, sink| {
            let shard = log.shard.0;
            let recovery_span =
                tracing::info_span!(parent: &span, "recovery", shard, id = %log, lsn = Empty);
            let _recovery = recovery_span.enter();
            let mut lsn = Lsn::ZERO;
            recovery.replay(*log, Lsn::ZERO, &mut |record: &Record<'_>| {
                lsn = record.lsn;
                sink.add(record.ops)
            })?;
            recovery_span.record("lsn", lsn.0);
            tracing::debug!("the log is replayed");
            Ok(())
        });
        result.map_err(|failure| match failure {
            LoadFailure::Log(error) => error.into(),
            LoadFailure::Other(text) => OpenError::Config(text),
        })
    }

    /// Waits until every shard has applied what it was sent: between two things that may hold the
    /// same slots.
    ///
    /// # Errors
    /// A shard has stopped.
    pub fn wait_until_applied(&self) -> Result<(), OpenError> {
        for shard in self.shards {
            let (done, applied) = flume::bounded(1);
            let message = ToShard::Load { ops: Vec::new(), done: Some(done) };
            let sent = shard.send(message).is_ok();
            if !sent || applied.recv().is_err() {
                return Err(OpenError::Config("a shard has stopped while loading".to_owned()));
            }
        }
        Ok(())
    }

    /// Reads items on several threads, each whole by one of them.
    fn side_by_side<I: Sync>(
        &self,
        items: &[I],
        read: impl Fn(&I, &mut Sink<'_>) -> Result<(), LoadFailure> + Sync,
    ) -> Result<(), LoadFailure> {
        let next = AtomicUsize::new(0);
        let first_failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..self.threads.min(items.len()) {
                scope.spawn(|| {
                    while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let mut sink = Sink { loader: self, division: Division::new(self.slots) };
                        let result = read(item, &mut sink).and_then(|()| sink.flush(0));
                        if let Err(failure) = result {
                            let mut first =
                                first_failure.lock().unwrap_or_else(|poison| poison.into_inner());
                            first.get_or_insert(failure);
                            return;
                        }
                    }
                });
            }
        });
        let failure = first_failure.into_inner().unwrap_or_else(|poison| poison.into_inner());
        failure.map_or(Ok(()), Err)
    }
}

impl LoadFailure {
    fn text(self) -> String {
        match self {
            Self::Log(error) => error.to_string(),
            Self::Other(text) => text,
        }
    }
}

/// Divides ops among the shards.
struct Sink<'a> {
    loader: &'a Loader<'a>,
    division: Division,
}

impl Sink<'_> {
    fn add(&mut self, ops: &[u8]) -> Result<(), LoadFailure> {
        self.division.add(ops).map_err(|error| LoadFailure::Other(error.to_string()))?;
        self.flush(PART_BYTES)
    }

    /// Sends what is at least `bytes` long.
    fn flush(&mut self, bytes: usize) -> Result<(), LoadFailure> {
        for (part, shard) in self.division.parts.iter_mut().zip(self.loader.shards) {
            if part.len() > bytes {
                let ops = std::mem::replace(part, Vec::with_capacity(bytes));
                let sent = shard.send(ToShard::Load { ops, done: None });
                sent.map_err(|_| LoadFailure::Other("a shard has stopped".to_owned()))?;
            }
        }
        Ok(())
    }
}
