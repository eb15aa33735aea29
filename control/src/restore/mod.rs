//! A restore: any moment that a store can give, into a new data directory, on any number of shards.
//!
//! In order: [`Source::load`] reads what the store has; [`Source::plan`] says what of it makes the
//! moment; [`restore`] loads that into an engine in memory, which has no listeners and lets no key
//! expire, takes an ordinary snapshot of it into the new directory's local store, and writes the
//! identity last, with the history that forks off there. Until the identity is there no server
//! starts on the directory, which says what it is ([`unfinished`]). What fails on the way, or is
//! stopped ([`gauge`]), is taken away again.

mod damage;
pub mod gauge;
pub(crate) mod image;
pub mod text;
pub mod unfinished;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cutwater_engine::clock::wall_micros;
use cutwater_engine::engine::lock::{DataLock, LOCK_FILE, LockError};
use cutwater_engine::engine::{Failure, OpenError};
use cutwater_engine::seal::Keyring;
use cutwater_engine::types::Lsn;
use cutwater_engine::{Engine, EngineConfig};
use cutwater_snapshot::ObjectStore;
use cutwater_snapshot::archive::{Archive, ArchiveError};
use cutwater_snapshot::catalog::{Catalog, database_of};
use cutwater_snapshot::claim::Claimant;
use cutwater_snapshot::compression::Compression;
use cutwater_snapshot::error::{Refusal, SnapshotError};
use cutwater_snapshot::ident::{DatabaseId, HistoryId, WriterNonce};
use cutwater_snapshot::local::LocalStore;
use cutwater_snapshot::manifest::Manifest;
use cutwater_snapshot::plan::{Plan, PlanError, Restorable, Stock, Target, WalPiece};
use cutwater_snapshot::restore::{STORE_FOLDER, require_new};
use tokio::runtime::Handle;

pub use self::damage::Impeded;
use self::gauge::Gauge;
use self::image::PlanImage;
use crate::coordinator::work::Work;
use crate::coordinator::{CoordinatorError, Form, take_snapshot};
use crate::identity::{Fork, Identity, IdentityError};

/// Why the base of a restored directory was taken, in its manifest.
pub(crate) const RESTORED: &str = "restored";

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is no way to the moment.
    #[error("{}", text::explain(.0))]
    Plan(#[from] PlanError),
    /// There is no way to the moment, and some of the store cannot be read.
    #[error("{0}")]
    Impeded(Box<Impeded>),
    /// Something newer than the latest moment that can be restored cannot be read.
    #[error(
        "there may be a later moment than {} (LSN {found}), the last that can be restored: \
         {reason}",
        text::last_moment(*.found)
    )]
    Latest {
        /// What cannot be read, and why.
        reason: String,
        /// The last moment that can be restored.
        found: Lsn,
    },
    /// A snapshot, or a store.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// What was read cannot be loaded.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The engine in memory has failed.
    #[error(transparent)]
    Engine(#[from] Failure),
    /// The new base cannot be written.
    #[error("cannot write the restored base: {0}")]
    Base(#[from] CoordinatorError),
    /// The new identity cannot be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What an earlier restore left lies there.
    #[error(
        "{} is what a restore left that was ended in the middle: it is not a database",
        .folder.display()
    )]
    Unfinished {
        /// The folder.
        folder: PathBuf,
    },
    /// It was stopped, and took away what it had begun.
    #[error("the restore was stopped, and nothing of it is left")]
    Stopped,
    /// The directory could not be written or emptied.
    #[error("cannot use {}: {source}", .folder.display())]
    Folder {
        /// The directory.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process uses the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The kernel gave no random bytes.
    #[error("the kernel gives no random bytes")]
    Random,
    /// The runtime is going down.
    #[error("the runtime is going down")]
    Runtime,
}

impl RestoreError {
    /// What to do about it, as one sentence.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Plan(PlanError::Outside { .. }) => {
                "Choose a moment in one of the windows; cutwater restorable lists them."
            }
            Self::Plan(PlanError::NoSnapshot { .. }) => {
                "Choose one that is published: cutwater snapshot list --store URL."
            }
            Self::Impeded(_) => {
                "Use another copy of what cannot be read, or a moment without it: cutwater \
                 restorable --store URL."
            }
            Self::Latest { .. } => "If that moment will do, ask for it with --lsn.",
            Self::Plan(_) => "See what there is: cutwater restorable --store URL.",
            Self::Snapshot(SnapshotError::Refused { reason: Refusal::NoKey { .. }, .. }) => {
                "Give the key: --key-file ID=PATH, or CUTWATER_KEYS."
            }
            Self::Snapshot(SnapshotError::NotEmpty { .. }) => {
                "Give --into a folder that is new or empty."
            }
            Self::Snapshot(error) if error.is_corruption() => {
                "Choose a moment behind another snapshot, or use another copy of the store."
            }
            Self::Archive(error) if error.is_corruption() => {
                "Choose a moment before this object or behind the next snapshot."
            }
            Self::Archive(ArchiveError::Seal { .. } | ArchiveError::NeedsKey { .. }) => {
                "Give every key that was in use since the base: --key-file ID=PATH."
            }
            Self::Unfinished { .. } => "Remove the directory, and restore again.",
            Self::Lock(error) => error.remedy(),
            Self::Identity(error) => error.remedy(),
            _ => "Mend what is named, and try again: nothing was changed.",
        }
    }
}

/// What a store has to restore from.
pub struct Source {
    store: Arc<dyn ObjectStore>,
    database: DatabaseId,
    catalog: Catalog,
    archive: Archive,
    stock: Stock,
    keys: Keyring,
}

impl Source {
    /// Reads manifests and the heads of the archive.
    ///
    /// # Errors
    /// [`RestoreError::Snapshot`] or [`RestoreError::Archive`]; an error while listing is never an
    /// empty list.
    pub async fn load(store: Arc<dyn ObjectStore>, keys: Keyring) -> Result<Self, RestoreError> {
        let database = database_of(&*store).await?;
        let mut catalog = Catalog::load(&*store, database).await?;
        catalog.authenticate(&keys, false);
        let archive = Archive::load(&*store, database).await?;
        let stock = Stock::new(&catalog, &archive);
        Ok(Self { store, database, catalog, archive, stock, keys })
    }

    /// What can be restored, history by history.
    pub fn restorable(&self) -> Vec<Restorable> {
        self.stock.restorable()
    }

    /// What has to be read for a moment.
    ///
    /// # Errors
    /// [`RestoreError::Plan`], also with what cannot be read; [`RestoreError::Latest`].
    pub fn plan(&self, target: Target, history: Option<HistoryId>) -> Result<Plan, RestoreError> {
        let planned = self.stock.plan(target, history);
        damage::look(&self.catalog, &self.archive, target, planned)
    }

    /// The catalog of the store.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The archive of the store.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Everything of a plan as one image.
    fn image(&self, plan: &Plan, gauge: &Arc<Gauge>) -> Result<PlanImage, RestoreError> {
        let mut snapshots = Vec::new();
        for &id in [plan.base].iter().chain(&plan.deltas) {
            let manifest = self.catalog.get(id).and_then(|entry| entry.manifest());
            let manifest = manifest.ok_or(SnapshotError::NoSnapshot { id })?;
            snapshots.push(manifest.unlock(&self.keys)?);
        }
        let header = |number| self.archive.headers().find(|header| header.link.number == number);
        let planned = |piece: &WalPiece| Some((*piece, header(piece.number)?.clone()));
        let wal: Vec<_> = plan.wal.iter().filter_map(planned).collect();
        gauge.snapshots.expect(snapshots.iter().map(|snapshot| snapshot.meta().data_bytes).sum());
        gauge.log.expect(wal.iter().map(|(_, header)| header.object_bytes()).sum());
        Ok(PlanImage {
            runtime: Handle::current(),
            store: Arc::clone(&self.store),
            keys: self.keys.clone(),
            snapshots,
            with_last_tail: true,
            wal,
            target: plan.target,
            gauge: Arc::clone(gauge),
        })
    }
}

/// Where a restore goes.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The data directory to make; new or empty.
    pub into: PathBuf,
    /// How many shards load and write it, and so the parts of its base; `None`: as many as the base
    /// of the plan has. A server may serve it on any other number.
    pub shards: Option<u16>,
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The base of the new directory.
    pub manifest: Manifest,
    /// Who the new directory is.
    pub identity: Identity,
    /// How many keys it has.
    pub keys: u64,
}

/// Carries a plan out.
///
/// # Errors
/// [`RestoreError`]; the directory is then as it was.
pub async fn restore(
    source: &Source,
    plan: &Plan,
    destination: &Destination,
) -> Result<Restored, RestoreError> {
    restore_with(source, plan, destination, &Arc::default()).await
}

/// [`restore`] that tells how far it is, and can be stopped.
///
/// # Errors
/// [`RestoreError`], also [`RestoreError::Stopped`]; the directory is then as it was.
pub async fn restore_with(
    source: &Source,
    plan: &Plan,
    destination: &Destination,
    gauge: &Arc<Gauge>,
) -> Result<Restored, RestoreError> {
    let into = &destination.into;
    let folder = |source| RestoreError::Folder { folder: into.clone(), source };
    let existed = into.is_dir();
    if unfinished::is_unfinished(into).map_err(folder)? {
        // Unless it is being written right now.
        drop(DataLock::acquire(into)?);
        return Err(RestoreError::Unfinished { folder: into.clone() });
    }
    let image = source.image(plan, gauge)?;
    require_new(into)?;
    // Whoever else begins here at the same moment has it, or it is ours until the end.
    let lock = DataLock::acquire(into)?;
    require_only_lock(into)?;
    unfinished::mark(into).map_err(folder)?;
    let restored = fill(source, plan, destination, image, gauge).await;
    let restored = match (restored, gauge.take_failure()) {
        (Err(_), _) if gauge.is_stopped() => Err(RestoreError::Stopped),
        (Err(RestoreError::Open(OpenError::Image { .. })), Some(error)) => Err(error),
        (restored, _) => restored.and_then(|restored| {
            unfinished::unmark(into).map_err(folder)?;
            Ok(restored)
        }),
    };
    if restored.is_err() {
        // Nothing was here before, so all that is here is ours. What stays, a new try names.
        let emptied = if existed { empty(into) } else { std::fs::remove_dir_all(into) };
        if let Err(error) = emptied {
            tracing::warn!(folder = %into.display(), %error, "what was begun stays");
        }
    }
    drop(lock);
    restored
}

/// Somebody may have begun here, and ended, since the folder was seen to be empty.
fn require_only_lock(into: &Path) -> Result<(), RestoreError> {
    let failed = |source| RestoreError::Folder { folder: into.to_owned(), source };
    for entry in std::fs::read_dir(into).map_err(failed)? {
        if entry.map_err(failed)?.file_name() != LOCK_FILE {
            return Err(SnapshotError::NotEmpty { folder: into.display().to_string() }.into());
        }
    }
    Ok(())
}

fn empty(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

async fn fill(
    source: &Source,
    plan: &Plan,
    destination: &Destination,
    image: PlanImage,
    gauge: &Gauge,
) -> Result<Restored, RestoreError> {
    let into = &destination.into;
    let fork = Fork { parent: plan.history, lsn: plan.target };
    let identity = Identity::forked(source.database, fork)?;
    let parts = image.snapshots.first().map_or(1, |base| base.cores().len());
    let shards = destination.shards.unwrap_or(u16::try_from(parts).unwrap_or(1));

    let mut config = EngineConfig::memory();
    config.shards = shards.max(1);
    config.keep_expired = true;
    config.accept_clock = true;
    config.images = vec![Box::new(image)];
    // Blocks: on a thread for it, since the image is read on this runtime meanwhile.
    let opened = tokio::task::spawn_blocking(move || Engine::open(config)).await;
    let engine = Arc::new(opened.map_err(|_| RestoreError::Runtime)??);
    let manifest =
        write_base(&engine, identity, &source.keys, &into.join(STORE_FOLDER), gauge).await;
    let keys = engine.recovered().keys;
    // Joining the shards' threads blocks.
    let closed = tokio::task::spawn_blocking(move || engine.shut_down()).await;
    let manifest = manifest?;
    closed.map_err(|_| RestoreError::Runtime)??;
    identity.create(into)?;
    Ok(Restored { manifest, identity, keys })
}

async fn write_base(
    engine: &Engine,
    identity: Identity,
    keys: &Keyring,
    folder: &Path,
    gauge: &Gauge,
) -> Result<Manifest, RestoreError> {
    let local = LocalStore::open(folder).map_err(SnapshotError::from)?;
    let store: Arc<dyn ObjectStore> = Arc::new(local.clone());
    let nonce = WriterNonce::random().map_err(|_| RestoreError::Random)?;
    let takeover = Claimant::take_over(store, identity.ids(), nonce, wall_micros()).await?;
    let mut claimant = takeover.claimant;
    let work = Work::of_all_keys(engine.shared());
    gauge.write_base(Arc::clone(&work));
    let form = Form { keys: keys.clone(), compression: Compression::None, limit_bytes_per_s: None };
    let taken = take_snapshot(engine, &mut claimant, &form, Some(RESTORED), &work).await;
    // What failed is taken away, and no put may come after that. (It blocks.)
    let _ = tokio::task::spawn_blocking(move || local.close()).await;
    Ok(taken?)
}
