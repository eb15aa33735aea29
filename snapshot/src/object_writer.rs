//! One object on its way into the store, run by run, in bounded memory: a single put if it is
//! small, otherwise parts.
//!
//! Runs are never copied unless they are small: those are gathered in one buffer. At most
//! [`PARTS_IN_FLIGHT`] parts of about [`PART_BYTES`] are being written while the next fills; then
//! the caller waits. The object appears when [`ObjectWriter::complete`] returns.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;

use crate::error::{Operation, SnapshotError, StoreError};
use crate::store;

/// Bytes of a part of a multipart upload, at least; a smaller object goes up in one put. The least
/// that S3 takes.
pub const PART_BYTES: usize = 5 << 20;
/// Parts that are being written at once.
pub const PARTS_IN_FLIGHT: usize = 1;
/// Runs shorter than this are copied together rather than written on their own.
const GATHER_BYTES: usize = 32 << 10;

/// An object that is being written.
#[derive(Debug)]
pub(crate) struct ObjectWriter {
    store: Arc<dyn ObjectStore>,
    path: Path,
    length: u64,
    crc32c: u32,
    /// Runs that wait to be written, `gathered` last.
    runs: Vec<Bytes>,
    runs_bytes: usize,
    gathered: Vec<u8>,
    upload: Option<Box<dyn MultipartUpload>>,
    in_flight: JoinSet<object_store::Result<()>>,
}

/// An object that is in the store.
#[derive(Debug)]
pub(crate) struct Written {
    pub path: Path,
    pub length: u64,
    pub crc32c: u32,
}

impl ObjectWriter {
    pub fn new(store: Arc<dyn ObjectStore>, path: Path) -> Self {
        Self {
            store,
            path,
            length: 0,
            crc32c: 0,
            runs: Vec::new(),
            runs_bytes: 0,
            gathered: Vec::new(),
            upload: None,
            in_flight: JoinSet::new(),
        }
    }

    /// Adds the next bytes of the object.
    pub fn push(&mut self, run: Bytes) {
        self.length += run.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &run);
        if run.len() < GATHER_BYTES {
            return self.gathered.extend_from_slice(&run);
        }
        self.close_gathered();
        self.runs_bytes += run.len();
        self.runs.push(run);
    }

    /// Starts a part when enough waits for one, and waits while too many are in flight.
    pub async fn flush_full_parts(&mut self) -> Result<(), SnapshotError> {
        if self.runs_bytes + self.gathered.len() < PART_BYTES {
            return Ok(());
        }
        self.start_part().await
    }

    /// Makes the object appear, whole and durable.
    pub async fn complete(mut self) -> Result<Written, SnapshotError> {
        if self.upload.is_none() {
            let payload = self.take_payload();
            store::put(&*self.store, &self.path, payload).await?;
            return Ok(self.written());
        }
        if !self.runs.is_empty() || !self.gathered.is_empty() {
            self.start_part().await?;
        }
        while !self.in_flight.is_empty() {
            self.join_part().await?;
        }
        let upload = self.upload.as_mut().expect("seen above");
        upload.complete().await.map_err(|e| self.failed(e))?;
        Ok(self.written())
    }

    fn written(self) -> Written {
        Written { path: self.path, length: self.length, crc32c: self.crc32c }
    }

    fn close_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.runs_bytes += self.gathered.len();
            self.runs.push(std::mem::take(&mut self.gathered).into());
        }
    }

    async fn start_part(&mut self) -> Result<(), SnapshotError> {
        while self.in_flight.len() >= PARTS_IN_FLIGHT {
            self.join_part().await?;
        }
        let payload = self.take_payload();
        if self.upload.is_none() {
            let upload = self.store.put_multipart(&self.path).await;
            self.upload = Some(upload.map_err(|e| self.failed(e))?);
        }
        let upload = self.upload.as_mut().expect("just opened");
        self.in_flight.spawn(upload.put_part(payload));
        Ok(())
    }

    fn take_payload(&mut self) -> PutPayload {
        self.close_gathered();
        self.runs_bytes = 0;
        std::mem::take(&mut self.runs).into_iter().collect()
    }

    async fn join_part(&mut self) -> Result<(), SnapshotError> {
        match self.in_flight.join_next().await {
            None => Ok(()),
            Some(joined) => {
                joined.map_err(object_store::Error::from).flatten().map_err(|e| self.failed(e))
            }
        }
    }

    fn failed(&self, source: object_store::Error) -> SnapshotError {
        StoreError::failed(Operation::Multipart, &self.path, source).into()
    }
}
