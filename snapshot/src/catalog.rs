//! Which snapshots a store has: rebuilt from the store, kept in memory, sorted by `end_lsn`.
//!
//! It fails closed. An error while listing is an error; a manifest that cannot be read is an entry
//! that says why; a claim without a manifest is `unfinished`. Nothing is skipped in silence: names
//! that are not Cutwater's are listed apart.

use std::collections::{BTreeMap, BTreeSet};

use cutwater_engine::seal::Keyring;
use cutwater_engine::types::{Lsn, SnapshotId};
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::ObjectStore;

use crate::archive::{WalHeader, WalNumber};
use crate::claim::{Claim, read_claim};
use crate::error::{Refusal, SnapshotError};
use crate::ident::DatabaseId;
use crate::manifest::{Manifest, Record, SnapshotKind, State, Tombstone};
use crate::paths::{self, Named, SnapshotName};
use crate::store;

/// Manifests and claims that are read at once.
const READS_AT_ONCE: usize = 16;
/// How many checkpoints a local store keeps.
pub const CHECKPOINTS: usize = 2;

/// What a snapshot is, as far as its store tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// Whole: every object was there when its manifest was put.
    Published(Box<Manifest>),
    /// Given up or deleted.
    Tombstone(Tombstone),
    /// Claimed, without a manifest: being written, or left by a crash.
    Unfinished,
    /// There, and not to be trusted.
    Unreadable {
        /// Why, naming the object.
        reason: String,
    },
}

/// One snapshot of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: SnapshotId,
    /// Its full name; unknown where only an unreadable claim is left.
    pub name: Option<SnapshotName>,
    /// What it is.
    pub state: EntryState,
    /// Bytes of its objects in the store, manifest excluded, whatever its state.
    pub stored_bytes: u64,
}

impl Entry {
    /// The manifest of a published snapshot.
    pub fn manifest(&self) -> Option<&Manifest> {
        match &self.state {
            EntryState::Published(manifest) => Some(manifest),
            _ => None,
        }
    }

    /// The word for people.
    pub fn state_name(&self) -> &'static str {
        match &self.state {
            EntryState::Published(_) => State::Published.name(),
            EntryState::Tombstone(tombstone) => tombstone.state.name(),
            EntryState::Unfinished => "unfinished",
            EntryState::Unreadable { .. } => "unreadable",
        }
    }

    fn order(&self) -> (Lsn, SnapshotId) {
        let end_lsn = match &self.state {
            EntryState::Published(manifest) => manifest.meta().end_lsn,
            EntryState::Tombstone(tombstone) => tombstone.end_lsn,
            _ => self.name.map_or(Lsn::ZERO, |name| name.begin_lsn),
        };
        (end_lsn, self.id)
    }
}

/// The snapshots of one store, sorted by `end_lsn`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    entries: Vec<Entry>,
    foreign: Vec<String>,
}

impl Catalog {
    /// Reads the store of a database.
    ///
    /// # Errors
    /// [`SnapshotError::Store`] if listing or reading fails, [`SnapshotError::ForeignDatabase`] if
    /// a manifest or claim is another database's. Damaged objects are entries, not errors.
    pub async fn load(
        store: &dyn ObjectStore,
        database: DatabaseId,
    ) -> Result<Self, SnapshotError> {
        let listing = Listing::of(store).await?;
        // Futures, not a closure that makes them: with one, this future would not be `Send`.
        let reads: Vec<_> = listing
            .folders
            .iter()
            .map(|(name, folder)| folder_entry(store, database, *name, folder, &listing))
            .collect();
        let mut entries: Vec<Entry> =
            stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
        let settled = settled_below(store, database, &listing).await?;
        let folders = listing.ids();
        let is_open = |id: &&SnapshotId| **id >= settled && !folders.contains(id);
        let without_folder: Vec<_> = listing.claims.iter().filter(is_open).copied().collect();
        let open: Vec<Option<Entry>> = stream::iter(without_folder)
            .map(|id| claim_entry(store, database, id))
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        entries.extend(open.into_iter().flatten());
        entries.sort_by_key(Entry::order);
        Ok(Self { entries, foreign: listing.foreign })
    }

    /// A catalog of these entries.
    pub fn of_entries(mut entries: Vec<Entry>) -> Self {
        entries.sort_by_key(Entry::order);
        Self { entries, foreign: Vec::new() }
    }

    /// Every entry, by `end_lsn`.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The published snapshots, by `end_lsn`.
    pub fn published(&self) -> impl DoubleEndedIterator<Item = &Manifest> {
        self.entries.iter().filter_map(Entry::manifest)
    }

    /// Names in the store that are not Cutwater's.
    pub fn foreign(&self) -> &[String] {
        &self.foreign
    }

    /// The entry of an id; the published one, should there be several.
    pub fn get(&self, id: SnapshotId) -> Option<&Entry> {
        let mut of_id = self.entries.iter().filter(|entry| entry.id == id);
        let first = of_id.next()?;
        Some(of_id.chain([first]).find(|entry| entry.manifest().is_some()).unwrap_or(first))
    }

    /// The newest base with `end_lsn` at or below `target`.
    pub fn find_base(&self, target: Lsn) -> Option<&Manifest> {
        self.published().rev().find(|manifest| {
            manifest.meta().kind == SnapshotKind::Base && manifest.meta().end_lsn <= target
        })
    }

    /// What the two newest ways back are made of ([`Catalog::ways_back`]): in a local store the
    /// checkpoints, which must stay.
    pub fn newest_two_checkpoints(&self) -> Vec<SnapshotId> {
        self.ways_back(|_| true).iter().flatten().map(|manifest| manifest.id()).collect()
    }

    /// The highest LSN that any name or manifest shows; every shard starts above it.
    pub fn highest_lsn(&self) -> Lsn {
        self.entries.iter().map(|entry| entry.order().0).max().unwrap_or_default()
    }

    /// Takes in a snapshot that was published just now, in place of what its name stood for.
    pub fn add(&mut self, manifest: Manifest) {
        let name = manifest.name();
        self.entries.retain(|entry| entry.name != Some(name));
        self.entries.push(Entry {
            id: name.id,
            name: Some(name),
            stored_bytes: manifest.meta().data_bytes,
            state: EntryState::Published(Box::new(manifest)),
        });
        self.entries.sort_by_key(Entry::order);
    }

    /// Authenticates every manifest by the configured keys: what was altered, or is plain although
    /// keys are configured, cannot be read. What is sealed under a key that is not there stays
    /// listed, and is refused when it is read. What is plain stays, too, if `accept_plain`.
    pub fn authenticate(&mut self, keys: &Keyring, accept_plain: bool) {
        for entry in &mut self.entries {
            let Some(manifest) = entry.manifest() else { continue };
            let refused = match manifest.unlock(keys) {
                Ok(_) => continue,
                Err(SnapshotError::Refused { reason: Refusal::Plain, .. }) if accept_plain => {
                    continue;
                }
                Err(SnapshotError::Refused {
                    reason: Refusal::NoKey { .. } | Refusal::Key(_),
                    ..
                }) => continue,
                Err(error) => error.to_string(),
            };
            entry.state = EntryState::Unreadable { reason: refused };
        }
    }

    /// Takes a snapshot, whose manifest is sound, for one that cannot be read: its data is not.
    pub fn distrust(&mut self, name: SnapshotName, reason: &str) {
        let of_name = |entry: &&mut Entry| entry.name == Some(name);
        if let Some(entry) = self.entries.iter_mut().find(of_name) {
            entry.state = EntryState::Unreadable { reason: reason.to_owned() };
        }
    }

    /// Takes in a snapshot that was aborted or deleted just now.
    pub fn bury(&mut self, tombstone: Tombstone) {
        let name = tombstone.name;
        self.entries.retain(|entry| entry.name != Some(name));
        let (id, state) = (name.id, EntryState::Tombstone(tombstone));
        self.entries.push(Entry { id, name: Some(name), state, stored_bytes: 0 });
        self.entries.sort_by_key(Entry::order);
    }

    /// Takes in a snapshot that was begun and has no manifest.
    pub fn leave_open(&mut self, name: SnapshotName) {
        self.entries.retain(|entry| entry.name != Some(name));
        let (id, state) = (name.id, EntryState::Unfinished);
        self.entries.push(Entry { id, name: Some(name), state, stored_bytes: 0 });
        self.entries.sort_by_key(Entry::order);
    }

    /// Forgets every entry of an id; the store is not touched.
    pub fn remove(&mut self, id: SnapshotId) {
        self.entries.retain(|entry| entry.id != id);
    }
}

/// Whose store it is, by the first claim, manifest or archive object that can be read. Without any,
/// the catalog is empty or unreadable under every id.
///
/// # Errors
/// [`SnapshotError::Store`].
pub async fn database_of(store: &dyn ObjectStore) -> Result<DatabaseId, SnapshotError> {
    for folder in [paths::claims(), paths::snapshots(), paths::wal_folder()] {
        for object in store::list(store, &folder).await? {
            let named = Named::parse(&object.location);
            if !matches!(named, Some(Named::Claim(_) | Named::Manifest(_) | Named::Wal(_))) {
                continue;
            }
            let bytes = match store::get(store, &object.location).await {
                Ok(bytes) => bytes,
                // Deleted since it was listed.
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            let database = match named {
                Some(Named::Claim(id)) => {
                    Claim::decode(id, &bytes).map(|claim| claim.identity.database)
                }
                Some(Named::Manifest(name)) => {
                    Record::decode(name, &bytes).map(|record| match record {
                        Record::Published(manifest) => manifest.identity().database,
                        Record::Tombstone(tombstone) => tombstone.database,
                    })
                }
                Some(Named::Wal(number)) => WalHeader::decode(WalNumber(number), &bytes)
                    .map(|header| header.identity.database),
                _ => continue,
            };
            // What is damaged is for the catalog to tell; another object names the database too.
            if let Ok(database) = database {
                return Ok(database);
            }
        }
    }
    Ok(DatabaseId::default())
}

/// What a listing shows of one snapshot's folder.
#[derive(Debug, Default)]
struct Folder {
    has_manifest: bool,
    stored_bytes: u64,
}

/// What a listing shows of a store.
#[derive(Debug, Default)]
struct Listing {
    claims: BTreeSet<SnapshotId>,
    folders: BTreeMap<SnapshotName, Folder>,
    foreign: Vec<String>,
}

impl Listing {
    async fn of(store: &dyn ObjectStore) -> Result<Self, SnapshotError> {
        let mut listing = Self::default();
        for folder in [paths::claims(), paths::snapshots()] {
            for object in store::list(store, &folder).await? {
                match Named::parse(&object.location) {
                    Some(Named::Claim(id)) => {
                        listing.claims.insert(id);
                    }
                    Some(Named::Manifest(name)) => {
                        listing.folders.entry(name).or_default().has_manifest = true;
                    }
                    Some(Named::Core { name, .. }) => {
                        listing.folders.entry(name).or_default().stored_bytes += object.size;
                    }
                    Some(Named::Wal(_)) => {}
                    None if store::is_probe(&object.location) => {}
                    None => listing.foreign.push(object.location.to_string()),
                }
            }
        }
        Ok(listing)
    }

    fn ids(&self) -> BTreeSet<SnapshotId> {
        self.folders.keys().map(|name| name.id).collect()
    }

    /// Whether two folders bear one id, of which its claim can belong to one only.
    fn is_contested(&self, name: SnapshotName) -> bool {
        self.folders.keys().filter(|other| other.id == name.id).count() > 1
    }
}

/// The entry of a folder of which objects are there.
async fn folder_entry(
    store: &dyn ObjectStore,
    database: DatabaseId,
    name: SnapshotName,
    folder: &Folder,
    listing: &Listing,
) -> Result<Entry, SnapshotError> {
    let contested = listing.is_contested(name);
    let claimed = !contested || claim_names(store, database, name, listing).await?;
    let state = if !claimed {
        EntryState::Unreadable { reason: format!("claims/{:06} is another's", name.id.0) }
    } else if folder.has_manifest {
        manifest_state(store, database, name).await?
    } else if listing.claims.contains(&name.id) {
        EntryState::Unfinished
    } else {
        EntryState::Unreadable { reason: format!("{name} has neither manifest nor claim") }
    };
    Ok(Entry { id: name.id, name: Some(name), state, stored_bytes: folder.stored_bytes })
}

/// No claim below it is that of a snapshot without a manifest, so the newest claim says; one that
/// cannot be read says nothing.
async fn settled_below(
    store: &dyn ObjectStore,
    database: DatabaseId,
    listing: &Listing,
) -> Result<SnapshotId, SnapshotError> {
    let Some(newest) = listing.claims.last() else { return Ok(SnapshotId::default()) };
    match read_claim(store, *newest, database).await {
        Ok(claim) => Ok(claim.settled.below),
        Err(SnapshotError::Damaged(_)) => Ok(SnapshotId::default()),
        Err(error) => Err(error),
    }
}

async fn claim_names(
    store: &dyn ObjectStore,
    database: DatabaseId,
    name: SnapshotName,
    listing: &Listing,
) -> Result<bool, SnapshotError> {
    if !listing.claims.contains(&name.id) {
        return Ok(false);
    }
    match read_claim(store, name.id, database).await {
        Ok(claim) => Ok(claim.snapshot.is_some_and(|(claimed, _)| claimed == name)),
        Err(SnapshotError::Damaged(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn manifest_state(
    store: &dyn ObjectStore,
    database: DatabaseId,
    name: SnapshotName,
) -> Result<EntryState, SnapshotError> {
    let found = match read_record(store, name).await {
        Ok(record) => record,
        Err(SnapshotError::Damaged(damage)) => {
            return Ok(EntryState::Unreadable { reason: damage.to_string() });
        }
        Err(error) => return Err(error),
    };
    let (state, found) = match found {
        Record::Published(manifest) => {
            let database = manifest.identity().database;
            (EntryState::Published(manifest), database)
        }
        Record::Tombstone(tombstone) => {
            let database = tombstone.database;
            (EntryState::Tombstone(tombstone), database)
        }
    };
    if found != database {
        let (object, expected) = (name.manifest().to_string(), database);
        return Err(SnapshotError::ForeignDatabase { object, expected, found });
    }
    Ok(state)
}

/// The entry of a claim without a folder; `None` for a takeover.
async fn claim_entry(
    store: &dyn ObjectStore,
    database: DatabaseId,
    id: SnapshotId,
) -> Result<Option<Entry>, SnapshotError> {
    let (name, state) = match read_claim(store, id, database).await {
        Ok(claim) => match claim.snapshot {
            None => return Ok(None),
            Some((name, _)) => (Some(name), EntryState::Unfinished),
        },
        Err(SnapshotError::Damaged(damage)) => {
            (None, EntryState::Unreadable { reason: damage.to_string() })
        }
        Err(error) => return Err(error),
    };
    Ok(Some(Entry { id, name, state, stored_bytes: 0 }))
}

/// Reads and validates the manifest of a snapshot.
///
/// # Errors
/// The store's, or what is wrong with the manifest.
pub async fn read_record(
    store: &dyn ObjectStore,
    name: SnapshotName,
) -> Result<Record, SnapshotError> {
    let bytes = store::get(store, &name.manifest()).await?;
    Ok(Record::decode(name, &bytes)?)
}

/// The full names of the folders that bear an id and have a manifest.
pub(crate) async fn find_names(
    store: &dyn ObjectStore,
    id: SnapshotId,
) -> Result<Vec<SnapshotName>, SnapshotError> {
    let found = store::list(store, &paths::snapshots()).await?;
    let names = found.iter().filter_map(|object| match Named::parse(&object.location) {
        Some(Named::Manifest(name)) if name.id == id => Some(name),
        _ => None,
    });
    Ok(names.collect())
}

/// Reads the published manifest of an id, without a catalog.
///
/// # Errors
/// [`SnapshotError::NoSnapshot`], [`SnapshotError::NotPublished`], [`SnapshotError::Damaged`] for a
/// manifest that cannot be read, or the store's error.
pub async fn find_published(
    store: &dyn ObjectStore,
    id: SnapshotId,
) -> Result<Manifest, SnapshotError> {
    let mut other = SnapshotError::NoSnapshot { id };
    for name in find_names(store, id).await? {
        match read_record(store, name).await {
            Ok(Record::Published(manifest)) => return Ok(*manifest),
            Ok(Record::Tombstone(tombstone)) => {
                other = SnapshotError::NotPublished { id, state: tombstone.state.name() };
            }
            Err(error) => return Err(error),
        }
    }
    Err(other)
}
