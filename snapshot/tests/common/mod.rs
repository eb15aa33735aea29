//! What the tests of stores share: sample snapshots, the stores under test, and a store that fails
//! or lets something happen at its n-th operation.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod s3;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use cutwater_engine::entry::{Op, ValueKind};
use cutwater_engine::seal::{Keyring, MasterKey};
use cutwater_engine::types::{DbIndex, LogId, Lsn, Position, ShardId, StartId};
use cutwater_snapshot::chunk::push_tail_record;
use cutwater_snapshot::claim::Claimant;
use cutwater_snapshot::core_writer::PartPoint;
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::{DatabaseId, HistoryId, Identity, SnapshotUuid, WriterNonce};
use cutwater_snapshot::manifest::Manifest;
use cutwater_snapshot::store::{StoreUrl, open_local};
use cutwater_snapshot::writer::{SnapshotSpec, SnapshotWriter};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::*;

pub const IDENTITY: Identity =
    Identity { database: DatabaseId([0xDA; 16]), history: HistoryId([0x41; 16]), fork: None };

/// What keeps the folder or the server of a store under test.
pub enum Guard {
    None,
    Folder(tempfile::TempDir),
    Server(s3::S3Server),
}

/// Every store that the conformance suite runs over; the guard keeps what is behind it.
pub fn stores() -> Vec<(&'static str, Arc<dyn ObjectStore>, Guard)> {
    let folder = tempfile::tempdir().unwrap();
    let local = open_local(&folder.path().join("store")).unwrap();
    let server = s3::S3Server::start();
    let url = StoreUrl::parse("s3://bucket/some/prefix").unwrap();
    let remote = url.open(&server.options()).unwrap();
    vec![
        ("memory", memory(), Guard::None),
        ("local", local, Guard::Folder(folder)),
        ("s3", remote, Guard::Server(server)),
    ]
}

pub fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

pub fn nonce(n: u8) -> WriterNonce {
    WriterNonce([n; 16])
}

pub async fn claimant(store: &Arc<dyn ObjectStore>, n: u8) -> Claimant {
    take_over(store, n).await.unwrap()
}

pub async fn take_over(store: &Arc<dyn ObjectStore>, n: u8) -> Result<Claimant, SnapshotError> {
    let takeover = Claimant::take_over(store.clone(), IDENTITY, nonce(n), 1_000).await?;
    Ok(takeover.claimant)
}

/// A chunk of puts, `count` of them, with values of `value_bytes`.
pub fn puts(prefix: &str, count: u32, value_bytes: usize) -> (Bytes, u32) {
    let mut body = Vec::new();
    for i in 0..count {
        let key = format!("{prefix}:{i}");
        let value: Vec<u8> = (0..value_bytes).map(|at| (at * 7 + i as usize) as u8).collect();
        let expires_at_ms = (i % 2 == 1).then_some(1_700_000_000_000);
        let kind = ValueKind::String;
        Op::Put { db: DbIndex(1), key: key.as_bytes(), kind, expires_at_ms, value: &value }
            .encode(&mut body);
    }
    (body.into(), count)
}

/// A chunk of tail records at these LSNs.
pub fn tail(lsns: &[u64]) -> (Bytes, u32) {
    let mut body = Vec::new();
    for lsn in lsns {
        let mut ops = Vec::new();
        Op::Delete { db: DbIndex(1), key: b"tail" }.encode(&mut ops);
        push_tail_record(&mut body, Lsn(*lsn), &ops);
    }
    (body.into(), lsns.len() as u32)
}

pub fn point(core: u16, watermark: u64) -> PartPoint {
    PartPoint {
        watermark: Lsn(watermark),
        log_id: LogId { start: StartId(3), shard: ShardId(core) },
        position: Position(1_000 + u64::from(core)),
    }
}

pub fn spec(begin: u64, uuid: u8) -> SnapshotSpec {
    SnapshotSpec::base(Lsn(begin), 2, SnapshotUuid([uuid; 16]), 2_000)
}

/// Two cores with watermarks `begin` and `begin + 10`; core 0 has several chunks, several pieces
/// if `spec` wants them so, and a tail; `value_bytes` is the size of each of its values.
pub async fn write_spec(
    claimant: &mut Claimant,
    spec: SnapshotSpec,
    value_bytes: usize,
) -> Result<Manifest, SnapshotError> {
    let writer = SnapshotWriter::begin(claimant, spec, &plain()).await?;
    write_parts(writer, value_bytes).await
}

/// The parts of [`write_spec`], of a snapshot that was begun.
pub async fn write_parts(
    writer: SnapshotWriter,
    value_bytes: usize,
) -> Result<Manifest, SnapshotError> {
    let begin = writer.name().begin_lsn.0;
    let mut core = writer.core(ShardId(0));
    for prefix in ["a", "b", "c"] {
        let (body, entries) = puts(prefix, 2, value_bytes);
        core.image(body, entries).await?;
    }
    let (body, records) = tail(&[begin + 1, begin + 10]);
    core.tail(body, records).await?;
    let first = core.finish(point(0, begin)).await?;
    let mut core = writer.core(ShardId(1));
    let (body, entries) = puts("d", 3, 5);
    core.image(body, entries).await?;
    let second = core.finish(point(1, begin + 10)).await?;
    writer.finish(vec![second, first], Vec::new()).await
}

/// No key: nothing is sealed.
pub fn plain() -> Keyring {
    Keyring::default()
}

/// Keys of one byte each, by their ids; the first is active.
pub fn keys(named: &[(&str, u8)]) -> Keyring {
    let key = |&(id, fill): &(&str, u8)| (id.parse().unwrap(), MasterKey::new([fill; 32]));
    Keyring::new(named.iter().map(key).collect()).unwrap()
}

pub async fn write(claimant: &mut Claimant, begin: u64, uuid: u8) -> Manifest {
    let spec = SnapshotSpec { piece_limit_bytes: 240, ..spec(begin, uuid) };
    write_spec(claimant, spec, 20).await.unwrap()
}

pub async fn read(store: &Arc<dyn ObjectStore>, path: &Path) -> Vec<u8> {
    store.get(path).await.unwrap().bytes().await.unwrap().to_vec()
}

pub async fn overwrite(store: &Arc<dyn ObjectStore>, path: &Path, bytes: &[u8]) {
    store.put(path, bytes.to_vec().into()).await.unwrap();
}

/// Every object of a store, by name.
pub async fn dump(store: &Arc<dyn ObjectStore>) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = store.list(None).map(|meta| meta.unwrap().location).collect().await;
    found.sort();
    let mut all = Vec::new();
    for path in found {
        all.push((path.to_string(), read(store, &path).await));
    }
    all
}

type Hook = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// What happens at one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails, and so does everything after it: the process or the store is gone.
    Stop,
    /// It takes effect but reports a failure; everything after it fails.
    StopAfter,
    /// It takes effect but reports a failure; everything after it works.
    Blink,
}

/// A store that counts its operations and does something at one of them.
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<FaultState>,
}

#[derive(Default)]
struct FaultState {
    count: AtomicUsize,
    at: AtomicUsize,
    stopped: AtomicBool,
    fault: Mutex<Option<Fault>>,
    hook: Mutex<Option<Hook>>,
}

impl FaultStore {
    /// A store at whose operation `at`, from 0, the fault happens.
    pub fn new(inner: Arc<dyn ObjectStore>, at: usize, fault: Option<Fault>) -> Arc<Self> {
        let state = FaultState { fault: Mutex::new(fault), ..FaultState::default() };
        state.at.store(at, Ordering::SeqCst);
        Arc::new(Self { inner, state: Arc::new(state) })
    }

    /// A store before whose operation `at` something else happens.
    pub fn with_hook(inner: Arc<dyn ObjectStore>, at: usize, hook: Hook) -> Arc<Self> {
        let store = Self::new(inner, at, None);
        *store.state.hook.lock().unwrap() = Some(hook);
        store
    }

    pub fn operations(&self) -> usize {
        self.state.count.load(Ordering::SeqCst)
    }
}

impl FaultState {
    /// Counts an operation; says whether it must report a failure although it works.
    async fn enter(&self) -> Result<bool> {
        if self.stopped.load(Ordering::SeqCst) {
            return Err(broken());
        }
        if self.count.fetch_add(1, Ordering::SeqCst) != self.at.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let hook = self.hook.lock().unwrap().take();
        if let Some(hook) = hook {
            hook().await;
        }
        let fault = *self.fault.lock().unwrap();
        if matches!(fault, Some(Fault::Stop | Fault::StopAfter)) {
            self.stopped.store(true, Ordering::SeqCst);
        }
        match fault {
            Some(Fault::Stop) => Err(broken()),
            Some(Fault::StopAfter | Fault::Blink) => Ok(true),
            None => Ok(false),
        }
    }
}

pub fn broken() -> Error {
    Error::Generic { store: "fault", source: "broken on purpose".into() }
}

fn report<T>(failed: bool, result: Result<T>) -> Result<T> {
    if failed { Err(broken()) } else { result }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.inner)
    }
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, path: &Path, body: PutPayload, o: PutOptions) -> Result<PutResult> {
        let failed = self.state.enter().await?;
        report(failed, self.inner.put_opts(path, body, o).await)
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let failed = self.state.enter().await?;
        let inner = report(failed, self.inner.put_multipart_opts(path, options).await)?;
        Ok(Box::new(FaultUpload { inner, state: self.state.clone() }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let failed = self.state.enter().await?;
        report(failed, self.inner.get_opts(path, options).await)
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let failed = self.state.enter().await?;
        report(failed, self.inner.get_ranges(path, ranges).await)
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (inner, state) = (self.inner.clone(), self.state.clone());
        paths
            .then(move |path| {
                let (inner, state) = (inner.clone(), state.clone());
                async move {
                    let path = path?;
                    let failed = state.enter().await?;
                    report(failed, inner.delete(&path).await)?;
                    Ok(path)
                }
            })
            .boxed()
    }

    /// Fails in the middle: what was found before the failure is yielded first.
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let state = self.state.clone();
        let all = self.inner.list(prefix).collect::<Vec<_>>();
        futures::stream::once(async move {
            let entered = state.enter().await;
            let mut all = all.await;
            if !matches!(entered, Ok(false)) {
                all.truncate(all.len() / 2);
                all.push(Err(broken()));
            }
            futures::stream::iter(all)
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let failed = self.state.enter().await?;
        report(failed, self.inner.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let failed = self.state.enter().await?;
        report(failed, self.inner.copy_opts(from, to, options).await)
    }
}

struct FaultUpload {
    inner: Box<dyn MultipartUpload>,
    state: Arc<FaultState>,
}

impl fmt::Debug for FaultUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultUpload")
    }
}

#[async_trait]
impl MultipartUpload for FaultUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, state) = (self.inner.put_part(data), self.state.clone());
        Box::pin(async move {
            let failed = state.enter().await?;
            report(failed, part.await)
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let failed = self.state.enter().await?;
        report(failed, self.inner.complete().await)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
