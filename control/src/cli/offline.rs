//! A store worked on without a server, with the functions of `cutwater_snapshot`.
//!
//! A store that lies in a data directory (`DATA/store`) is a server's own: what changes it needs
//! the directory's lock, and its two newest snapshots, from which a restart recovers, stay. Any
//! other folder is a copy, of which everything may be deleted. Reading needs no lock.

mod keeping;

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cutwater_control::fault::Fault;
use cutwater_control::identity::{Identity, IdentityError};
use cutwater_control::restore::gauge::{Gauge, Phase, RestoreProgress};
use cutwater_control::restore::{Destination, RestoreError, Restored, Source, restore_with};
use cutwater_control::verify::{DeepError, DeepReport, verify_deep};
use cutwater_engine::engine::lock::{DataLock, LockError};
use cutwater_engine::seal::Keyring;
use cutwater_engine::types::SnapshotId;
use cutwater_snapshot::ObjectStore;
use cutwater_snapshot::archive::rekey::rekey_archive;
use cutwater_snapshot::catalog::{Catalog, database_of};
use cutwater_snapshot::delete::delete_snapshot;
use cutwater_snapshot::error::{Refusal, SnapshotError, StoreError};
use cutwater_snapshot::plan::Plan;
use cutwater_snapshot::rekey::rekey;
use cutwater_snapshot::store::{S3Options, StoreUrl};
use cutwater_snapshot::verify::{self, VerifyReport};
use tokio::runtime::Runtime;

pub use self::keeping::Pruned;
use super::failure::Failure;
use super::progress::{Progress, follow};
use super::row::Row;
use crate::interrupt::Interrupts;

/// What the tombstone of a snapshot that was deleted here says.
const DELETE_REASON: &str = "deleted by cutwater snapshot delete --store";

/// Why a store could not be worked on.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// There is no store; reading never makes one.
    #[error("there is no store at {}", .folder.display())]
    NoStore {
        /// The folder.
        folder: PathBuf,
    },
    /// The store's fault, or what was asked of it cannot be.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store answered with an error.
    #[error("cannot read the store: {0}")]
    Store(#[from] object_store::Error),
    /// A server uses the data directory that the store is part of, or has just begun to.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The identity of a data directory could not be read or made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Nothing was restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A store knows no policy.
    #[error("a store without its server has no policy of its own")]
    NoPolicy,
    /// A snapshot is not what it was taken of, or cannot be compared.
    #[error(transparent)]
    Deep(#[from] DeepError),
    /// Threads or files are short.
    #[error("cannot set up the work on the store: {0}")]
    Setup(io::Error),
}

impl OfflineError {
    /// What kind of failure it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NoStore { .. } => Fault::NotFound,
            Self::NoPolicy => Fault::Usage,
            Self::Snapshot(error) => error.into(),
            Self::Store(_) => Fault::Unreachable,
            Self::Lock(error) => error.into(),
            Self::Identity(_) | Self::Setup(_) => Fault::Failed,
            Self::Restore(error) => error.into(),
            Self::Deep(error) => error.into(),
        }
    }

    /// What to do about it, as one sentence.
    pub fn remedy(&self) -> &'static str {
        use SnapshotError as S;
        match self {
            Self::NoPolicy => "Give --keep-last, --keep-for, or both.",
            Self::Snapshot(S::Pinned { .. }) => {
                "Unpin it first: cutwater snapshot unpin ID --store URL."
            }
            Self::NoStore { .. } => "Name the folder that holds claims/ and snapshots/.",
            Self::Snapshot(S::Store(StoreError::Url { .. })) => {
                "Give --store as file:///DIR with an absolute path or s3://BUCKET/PREFIX, and what \
                 belongs to it with --s3-endpoint, --s3-region and --s3-allow-http."
            }
            Self::Snapshot(S::NoSnapshot { .. } | S::NotPublished { .. }) => {
                "Choose one that is published: cutwater snapshot list --store URL."
            }
            Self::Snapshot(S::Protected { .. }) => "Take a newer snapshot first.",
            Self::Snapshot(S::NotEmpty { .. }) => {
                "Give --into a folder that is new or empty; one that a failed restore left may be \
                 removed."
            }
            Self::Snapshot(S::Refused { reason: Refusal::Plain, .. }) => {
                "Give no --key-file, if it was never sealed; otherwise somebody has replaced it."
            }
            Self::Snapshot(S::Refused { .. } | S::NoKeys) => {
                "Give its key with --key-file ID=PATH."
            }
            Self::Snapshot(S::HasChildren { .. }) => "Delete what is on top of it first.",
            Self::Deep(DeepError::Snapshot(S::NoSnapshot { .. } | S::NotPublished { .. })) => {
                "Choose one that is published: cutwater snapshot list --store URL."
            }
            Self::Deep(DeepError::NoDigests { .. }) => "Verify it without --deep.",
            Self::Deep(DeepError::Differs { .. }) => {
                "Use another snapshot, and report this: no fault of a disk looks like it."
            }
            Self::Deep(error) if error.is_corruption() => {
                "Use another snapshot, or another copy of this one."
            }
            Self::Deep(_) => "Mend what is named, and try again.",
            Self::Snapshot(error) if error.is_corruption() => {
                "Use another snapshot, or another copy of this one."
            }
            Self::Lock(LockError::Held { .. }) => {
                "A server runs there: ask it with --server instead of --store."
            }
            Self::Lock(error) => error.remedy(),
            Self::Restore(error) => error.remedy(),
            Self::Identity(error) => error.remedy(),
            Self::Snapshot(S::Store(StoreError::Failed { cause, .. })) if cause.is_refusal() => {
                "Check the address, --s3-endpoint and --s3-region, and the credentials in AWS_* or \
                 the file that --config names."
            }
            Self::Snapshot(_) | Self::Store(_) => {
                "Check that the store's folder can be read and written, and try again."
            }
            Self::Setup(_) => "Look at the limits on threads and open files.",
        }
    }
}

/// An open store, with a runtime to work on it.
pub struct Store {
    store: Arc<dyn ObjectStore>,
    /// The data directory whose local store this is, if it is one.
    data_dir: Option<PathBuf>,
    /// What opens the snapshots.
    keys: Keyring,
    runtime: Runtime,
}

impl Store {
    /// Opens a store that exists.
    ///
    /// # Errors
    /// [`OfflineError`].
    pub fn open(url: &str, options: &S3Options, keys: Keyring) -> Result<Self, OfflineError> {
        let url = StoreUrl::parse(url).map_err(SnapshotError::Store)?;
        let data_dir = match &url {
            StoreUrl::File(folder) => {
                // Opening would make the folder, and a mistyped one would be an empty store.
                let Some(path) = folder.canonicalize().ok().filter(|path| path.is_dir()) else {
                    return Err(OfflineError::NoStore { folder: folder.clone() });
                };
                match path.parent() {
                    Some(parent) => Identity::read(parent)?.map(|_| parent.to_owned()),
                    None => None,
                }
            }
            StoreUrl::S3 { .. } => None,
        };
        let store = url.open(options).map_err(SnapshotError::Store)?;
        let runtime = Runtime::new().map_err(OfflineError::Setup)?;
        Ok(Self { store, data_dir, keys, runtime })
    }

    /// Every snapshot, by `end_lsn`.
    ///
    /// # Errors
    /// [`OfflineError`]; an error while listing is never an empty list.
    pub fn list(&self) -> Result<Vec<Row>, OfflineError> {
        Ok(self.catalog()?.entries().iter().map(Row::from_entry).collect())
    }

    /// One snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::NoSnapshot`], or as for [`Store::list`].
    pub fn show(&self, id: SnapshotId) -> Result<Row, OfflineError> {
        let catalog = self.catalog()?;
        let entry = catalog.get(id).ok_or(SnapshotError::NoSnapshot { id })?;
        Ok(Row::from_entry(entry))
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// [`OfflineError::Lock`] if a server runs on the store, [`SnapshotError::Protected`], or as
    /// for [`Store::list`].
    pub fn delete(&self, id: SnapshotId, interrupts: &Interrupts) -> Result<(), Failure> {
        let _lock = self.lock()?;
        let deletion = async {
            let catalog = self.load().await?;
            catalog.check_childless(id)?;
            let protect = match self.data_dir {
                Some(_) => catalog.newest_two_checkpoints(),
                None => Vec::new(),
            };
            delete_snapshot(&*self.store, id, &protect, DELETE_REASON).await
        };
        let deleted = self.runtime.block_on(follow(pin!(deletion), || None, interrupts));
        let deleted = deleted.map_err(|by| {
            let what = format!(
                "snapshot {id} may be deleted or not, but not in part; delete it again to be sure"
            );
            Failure::Interrupted { by, what }
        })?;
        deleted.map_err(OfflineError::from)?;
        Ok(())
    }

    fn lock(&self) -> Result<Option<DataLock>, OfflineError> {
        Ok(self.data_dir.as_deref().map(DataLock::acquire).transpose()?)
    }

    /// Reads all of a snapshot and checks it.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] names object, offset and reason.
    pub fn verify(&self, id: SnapshotId, interrupts: &Interrupts) -> Result<VerifyReport, Failure> {
        self.verified(id, interrupts, async |progress| {
            verify::verify(&self.store, id, &self.keys, progress).await
        })
    }

    /// Reads all of a snapshot, restores it in memory on so many shards, and compares it
    /// with what it was taken of.
    ///
    /// # Errors
    /// [`OfflineError::Deep`].
    pub fn verify_deep(
        &self,
        id: SnapshotId,
        shards: u16,
        interrupts: &Interrupts,
    ) -> Result<DeepReport, Failure> {
        self.verified(id, interrupts, async |progress| {
            verify_deep(&self.store, id, &self.keys, shards, progress).await
        })
    }

    fn verified<T, E>(
        &self,
        id: SnapshotId,
        interrupts: &Interrupts,
        verify: impl AsyncFnOnce(&(dyn Fn(verify::Progress) + Send + Sync)) -> Result<T, E>,
    ) -> Result<T, Failure>
    where
        OfflineError: From<E>,
    {
        let (done, total) = (AtomicU64::new(0), AtomicU64::new(0));
        let count = |progress: verify::Progress| {
            done.store(progress.done_bytes, Ordering::Relaxed);
            total.store(progress.total_bytes, Ordering::Relaxed);
        };
        let gauge = || {
            Some(Progress {
                label: format!("verifying snapshot {id}"),
                done_bytes: done.load(Ordering::Relaxed),
                total_bytes: Some(total.load(Ordering::Relaxed)).filter(|total| *total > 0),
                is_estimate: false,
            })
        };
        let verified = self.runtime.block_on(follow(pin!(verify(&count)), gauge, interrupts));
        let verified = verified.map_err(|by| {
            let what = format!("the verification of snapshot {id} was stopped");
            Failure::Interrupted { by, what }
        })?;
        Ok(verified.map_err(OfflineError::from)?)
    }

    /// Brings one snapshot, or all of them and the archive, under the active key; says how many
    /// snapshots and objects of the archive were under another.
    ///
    /// # Errors
    /// [`OfflineError::Lock`] if a server runs on the store, [`SnapshotError::NoKeys`], or
    /// [`SnapshotError::Refused`] where a key is missing, and the archive's likewise.
    pub fn rekey(&self, id: Option<SnapshotId>) -> Result<(usize, u64), OfflineError> {
        let _lock = self.lock()?;
        self.runtime.block_on(async {
            let snapshots = rekey(&*self.store, id, &self.keys).await?.manifests.len();
            if id.is_some() {
                return Ok((snapshots, 0));
            }
            let database = database_of(&*self.store).await?;
            let log = rekey_archive(&*self.store, database, &self.keys).await;
            Ok((snapshots, log.map_err(RestoreError::from)?.rewrapped))
        })
    }

    /// What the store has to restore from.
    ///
    /// # Errors
    /// [`OfflineError::Restore`].
    pub fn source(&self) -> Result<Source, OfflineError> {
        Ok(self.runtime.block_on(Source::load(Arc::clone(&self.store), self.keys.clone()))?)
    }

    /// Makes a new data directory that holds a moment and continues the database in a new history.
    /// Until the identity is there, which comes last, no server starts on it.
    ///
    /// # Errors
    /// [`OfflineError::Restore`]; [`Failure::Interrupted`] when nothing of it is left.
    pub fn restore(
        &self,
        source: &Source,
        plan: &Plan,
        destination: &Destination,
        interrupts: &Interrupts,
    ) -> Result<Restored, Failure> {
        let gauge = Arc::default();
        self.runtime.block_on(async {
            let mut work = pin!(restore_with(source, plan, destination, &gauge));
            match follow(&mut work, || Some(restore_progress(&gauge)), interrupts).await {
                Ok(restored) => restored.map_err(OfflineError::from).map_err(Failure::from),
                Err(by) => {
                    gauge.stop();
                    match work.await {
                        // It was over when the signal came.
                        Ok(restored) => Ok(restored),
                        Err(RestoreError::Stopped) => {
                            let what = "the restore was stopped, and nothing of it is left";
                            Err(Failure::Interrupted { by, what: what.to_owned() })
                        }
                        Err(error) => Err(OfflineError::from(error).into()),
                    }
                }
            }
        })
    }

    fn catalog(&self) -> Result<Catalog, OfflineError> {
        Ok(self.runtime.block_on(self.load())?)
    }

    async fn load(&self) -> Result<Catalog, SnapshotError> {
        let database = database_of(&*self.store).await?;
        let mut catalog = Catalog::load(&*self.store, database).await?;
        // Without keys a listing shows what the manifests say.
        if !self.keys.is_empty() {
            catalog.authenticate(&self.keys, false);
        }
        Ok(catalog)
    }
}

fn restore_progress(gauge: &Gauge) -> Progress {
    let RestoreProgress { phase, done_bytes, total_bytes } = gauge.progress();
    let label = match phase {
        Phase::Snapshots => "reading snapshots",
        Phase::Log => "replaying the log",
        Phase::Base => "writing the new directory",
    };
    let is_estimate = phase == Phase::Base;
    Progress { label: label.to_owned(), done_bytes, total_bytes, is_estimate }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use cutwater_control::identity::Fork;
    use cutwater_engine::entry::{Op, ValueKind};
    use cutwater_engine::types::{DbIndex, LogId, Lsn, Position, ShardId};
    use cutwater_snapshot::claim::Claimant;
    use cutwater_snapshot::core_writer::PartPoint;
    use cutwater_snapshot::ident::{SnapshotUuid, WriterNonce};
    use cutwater_snapshot::plan::Target;
    use cutwater_snapshot::store::open_local;
    use cutwater_snapshot::writer::{SnapshotSpec, SnapshotWriter};

    use super::*;

    /// A data directory with `count` snapshots of one key each, and its identity.
    fn data_dir(count: u64) -> (tempfile::TempDir, Identity) {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::new_database().unwrap();
        identity.create(dir.path()).unwrap();
        let store = open_local(&dir.path().join("store")).unwrap();
        Runtime::new().unwrap().block_on(async {
            let nonce = WriterNonce([1; 16]);
            let takeover = Claimant::take_over(store, identity.ids(), nonce, 1).await.unwrap();
            let mut claimant = takeover.claimant;
            for n in 1..=count {
                let uuid = SnapshotUuid([n as u8; 16]);
                let spec = SnapshotSpec::base(Lsn(n * 100), 1, uuid, n);
                let writer =
                    SnapshotWriter::begin(&mut claimant, spec, &Keyring::default()).await.unwrap();
                let mut core = writer.core(ShardId(0));
                let (db, key, value) = (DbIndex(0), b"key".as_slice(), b"value".as_slice());
                let mut body = Vec::new();
                Op::Put { db, key, kind: ValueKind::String, expires_at_ms: None, value }
                    .encode(&mut body);
                core.image(Bytes::from(body), 1).await.unwrap();
                let (watermark, log_id, position) = (Lsn(n * 100), LogId::default(), Position(0));
                let part = core.finish(PartPoint { watermark, log_id, position }).await.unwrap();
                writer.finish(vec![part], Vec::new()).await.unwrap();
            }
        });
        (dir, identity)
    }

    fn open(dir: &Path) -> Result<Store, OfflineError> {
        let url = format!("file://{}", dir.join("store").display());
        Store::open(&url, &S3Options::default(), Keyring::default())
    }

    fn interrupts() -> Interrupts {
        Interrupts::listen().unwrap()
    }

    /// The ids of the published snapshots.
    fn published(store: &Store) -> Vec<u64> {
        let rows = store.list().unwrap();
        let rows = rows.iter().filter(|row| row.get("state").unwrap() == "published");
        rows.map(|row| row.get("id").unwrap().as_u64().unwrap()).collect()
    }

    #[test]
    fn list_show_and_verify() {
        let (dir, _) = data_dir(2);
        let store = open(dir.path()).unwrap();
        let ids = published(&store);
        assert_eq!(ids.len(), 2);
        let row = store.show(SnapshotId(ids[1])).unwrap();
        assert_eq!(row.get("end_lsn"), Some(&200.into()));
        assert_eq!(row.get("kind"), Some(&"base".into()));
        assert_eq!(row.get("entries"), Some(&1.into()));
        store.verify(SnapshotId(ids[0]), &interrupts()).unwrap();
        let error = store.show(SnapshotId(999)).unwrap_err();
        assert_eq!(error.to_string(), "there is no snapshot 999");
        assert!(error.remedy().contains("snapshot list"));
    }

    #[test]
    fn checkpoints_stay_and_a_running_server_is_asked_instead() {
        let (dir, _) = data_dir(3);
        let store = open(dir.path()).unwrap();
        let ids = published(&store);
        let lock = DataLock::acquire(dir.path()).unwrap();
        let error = store.delete(SnapshotId(ids[0]), &interrupts()).unwrap_err();
        assert!(error.to_string().contains("is in use by"), "{error}");
        assert!(error.remedy().contains("--server"));
        drop(lock);
        for id in &ids[1..] {
            let error = store.delete(SnapshotId(*id), &interrupts()).unwrap_err();
            assert!(error.to_string().contains("newest checkpoints"), "{error}");
        }
        store.delete(SnapshotId(ids[0]), &interrupts()).unwrap();
        assert_eq!(published(&store), ids[1..]);
    }

    #[test]
    fn a_copy_of_a_store_may_lose_all() {
        let (dir, _) = data_dir(1);
        std::fs::remove_file(dir.path().join("database.toml")).unwrap();
        let store = open(dir.path()).unwrap();
        let ids = published(&store);
        store.delete(SnapshotId(ids[0]), &interrupts()).unwrap();
        assert!(published(&store).is_empty());
    }

    #[test]
    fn a_restore_begins_a_new_history_in_a_new_directory() {
        let (dir, identity) = data_dir(2);
        let store = open(dir.path()).unwrap();
        let id = SnapshotId(published(&store)[0]);
        let target = tempfile::tempdir().unwrap();
        let into = target.path().join("new");
        let source = store.source().unwrap();
        let plan = source.plan(Target::Snapshot(id), None).unwrap();
        let destination = Destination { into: into.clone(), shards: Some(2) };
        store.restore(&source, &plan, &destination, &interrupts()).unwrap();
        let restored = Identity::read(&into).unwrap().unwrap();
        assert_eq!(restored.database, identity.database);
        assert_ne!(restored.history, identity.history);
        let fork = Fork { parent: identity.history, lsn: Lsn(100) };
        assert_eq!(restored.fork, Some(fork));
        let copy = open(&into).unwrap();
        let ids = published(&copy);
        assert_eq!(ids.len(), 1);
        copy.verify(SnapshotId(ids[0]), &interrupts()).unwrap();
        let error = store.restore(&source, &plan, &destination, &interrupts()).unwrap_err();
        assert!(error.to_string().contains("is not empty"), "{error}");
        assert!(error.remedy().contains("--into"));
    }

    #[test]
    fn a_store_that_is_none_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let error = open(dir.path()).err().unwrap();
        let folder = dir.path().join("store");
        assert_eq!(error.to_string(), format!("there is no store at {}", folder.display()));
        assert!(error.fault() == Fault::NotFound && !folder.exists());
        let error = Store::open("gs://bucket", &S3Options::default(), Keyring::default());
        let error = error.err().unwrap();
        assert!(error.fault() == Fault::Usage && error.remedy().contains("file:///DIR"), "{error}");
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(open(dir.path()).unwrap().list().unwrap(), []);
    }
}
