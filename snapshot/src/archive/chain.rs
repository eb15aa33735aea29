//! What an archive has: the heads of its objects, and which of them follow each other.
//!
//! It fails closed: an error while listing or reading is an error. An object whose header cannot be
//! believed is an entry that says why, and a hole in its history.

use std::collections::{BTreeMap, BTreeSet};

use cutwater_engine::types::Lsn;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::error::ArchiveError;
use super::header::{HEADER_BYTES, WalHeader, WalNumber};
use crate::error::{Damage, Flaw, Operation, StoreError};
use crate::ident::{DatabaseId, HistoryId, Identity};
use crate::paths::{self, Named};
use crate::store;

/// Headers that are read at once.
const READS_AT_ONCE: usize = 32;
/// Headers that a search for the head reads first: mostly the newest object is the head, and the
/// one before it its predecessor.
const HEAD_PROBE: usize = 2;
/// Headers that it reads at once if that does not tell; more than a head can have late objects of
/// superseded writers around it.
const HEAD_BATCH: usize = 128;

/// One object of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalEntry {
    /// Its number.
    pub number: WalNumber,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Its header, or why that is not believed.
    pub header: Result<WalHeader, Damage>,
}

/// The objects of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive {
    /// By number.
    pub entries: Vec<WalEntry>,
    /// Names in its folder that are not Cutwater's.
    pub foreign: Vec<String>,
}

/// Where a writer goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainHead {
    /// The highest number of any object in the store; 0 if there is none.
    pub last: WalNumber,
    /// The newest object of the writer's history.
    pub own: Option<WalHeader>,
}

impl Archive {
    /// Reads the header of every object.
    ///
    /// # Errors
    /// [`ArchiveError::Store`] if listing or reading fails, [`ArchiveError::ForeignDatabase`].
    pub async fn load(store: &dyn ObjectStore, database: DatabaseId) -> Result<Self, ArchiveError> {
        let (numbers, foreign) = list(store).await?;
        let numbers: BTreeMap<_, _> =
            numbers.iter().map(|(&number, meta)| (number, meta.size)).collect();
        // Futures, not a closure that makes them: with one, this future would not be `Send`.
        let reads: Vec<_> =
            numbers.iter().map(|(&number, &bytes)| read(store, database, number, bytes)).collect();
        let entries: Vec<_> = stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
        Ok(Self { entries: entries.into_iter().flatten().collect(), foreign })
    }

    /// The headers that can be believed, by number.
    pub fn headers(&self) -> impl DoubleEndedIterator<Item = &WalHeader> {
        self.entries.iter().filter_map(|entry| entry.header.as_ref().ok())
    }

    /// The objects of a history that follow each other, oldest first. Two neighbours of which the
    /// later does not begin where the earlier ends have a hole between them.
    pub fn chain(&self, history: HistoryId) -> Vec<&WalHeader> {
        chain(self.headers().filter(|header| header.identity.history == history))
    }

    /// The believable objects that no chain holds: late puts of superseded writers.
    pub fn orphans(&self) -> Vec<WalNumber> {
        let histories: BTreeSet<_> = self.headers().map(|header| header.identity.history).collect();
        let chained: BTreeSet<WalNumber> = histories
            .into_iter()
            .flat_map(|history| self.chain(history))
            .map(|header| header.link.number)
            .collect();
        let all = self.headers().map(|header| header.link.number);
        all.filter(|number| !chained.contains(number)).collect()
    }

    /// The orphans that certainly are late puts of superseded writers: passed over by an object
    /// that names an older one as its predecessor, or of a lower epoch than an object before them.
    pub fn late(&self) -> Vec<WalNumber> {
        let is_late = |number: &WalNumber| {
            let Some(late) = self.headers().find(|header| header.link.number == *number) else {
                return false;
            };
            let history = late.identity.history;
            let mut others = self.headers().filter(|header| header.identity.history == history);
            others.any(|other| {
                let is_after = other.link.number > *number;
                let names = other.predecessor.map(|link| link.number);
                let passes_over = is_after && names.is_some_and(|before| before < *number);
                let is_newer = !is_after && other.epoch > late.epoch;
                (passes_over && other.epoch >= late.epoch) || is_newer
            })
        };
        self.orphans().into_iter().filter(is_late).collect()
    }

    /// The highest LSN up to which anything is archived.
    pub fn highest_lsn(&self) -> Lsn {
        self.headers().map(|header| header.to).max().unwrap_or_default()
    }
}

/// Follows predecessors from the newest object down. Where one is gone, the chain goes on with the
/// next older object that fits and was not late: an object of a lower epoch than any older one is
/// its writer's last, put after it had been superseded.
fn chain<'a>(headers: impl DoubleEndedIterator<Item = &'a WalHeader>) -> Vec<&'a WalHeader> {
    let mut highest_epoch = 0;
    let timely: Vec<&WalHeader> = headers
        .filter(|header| {
            highest_epoch = highest_epoch.max(header.epoch);
            header.epoch == highest_epoch
        })
        .collect();
    let mut chain: Vec<&WalHeader> = Vec::new();
    for header in timely.into_iter().rev() {
        let Some(above) = chain.last() else {
            chain.push(header);
            continue;
        };
        let named = above.predecessor;
        let is_named = named.is_some_and(|link| link == header.link);
        let is_passed_over = named.is_none_or(|link| link.number < header.link.number);
        if is_named || (!is_passed_over && header.to <= above.from) {
            chain.push(header);
        }
    }
    chain.reverse();
    chain
}

/// Where a writer of this identity goes on. Reads from the newest object down, a batch at a time,
/// and stops where nothing of its history can come any more: a history's objects are younger than
/// the last one of its parent before the fork.
///
/// # Errors
/// As for [`Archive::load`], and [`ArchiveError::Damaged`] if a header cannot be believed that
/// might be the one.
pub async fn find_head(
    store: &dyn ObjectStore,
    identity: Identity,
) -> Result<ChainHead, ArchiveError> {
    let (numbers, _) = list(store).await?;
    let last = numbers.keys().next_back().copied().unwrap_or_default();
    let newest: Vec<_> = numbers.into_iter().rev().map(|(n, meta)| (n, meta.size)).collect();
    let probed = newest.get(..HEAD_PROBE).unwrap_or(&newest);
    let entries = read_down(store, identity.database, probed).await?;
    if let Some(own) = evident_head(&entries, identity) {
        return Ok(ChainHead { last, own: Some(own) });
    }
    for batch in newest.chunks(HEAD_BATCH) {
        let entries = read_down(store, identity.database, batch).await?;
        let headers = || entries.iter().filter_map(|entry| entry.header.as_ref().ok());
        let own = chain(headers().filter(|header| header.identity.history == identity.history));
        let own = own.last().map(|header| (*header).clone());
        let above = own.as_ref().map_or(WalNumber(0), |header| header.link.number);
        let mut newer = entries.iter().filter(|entry| entry.number > above);
        if let Some(damage) = newer.find_map(|entry| entry.header.as_ref().err()) {
            return Err(damage.clone().into());
        }
        let is_before_fork =
            |header: &WalHeader| identity.fork.is_some_and(|fork| header.to <= fork.lsn);
        if own.is_some() || headers().any(is_before_fork) {
            return Ok(ChainHead { last, own });
        }
    }
    Ok(ChainHead { last, own: None })
}

/// The newest object, if it certainly is the head: it is the history's, and names as its
/// predecessor the one before it, which is of no later writer. A late
/// put names as its predecessor an object of the writer that has superseded it, or one that lies
/// further below.
fn evident_head(entries: &[WalEntry], identity: Identity) -> Option<WalHeader> {
    let [.., before, newest] = entries else { return None };
    let (before, newest) = (before.header.as_ref().ok()?, newest.header.as_ref().ok()?);
    let is_own = |header: &WalHeader| header.identity.history == identity.history;
    let follows = newest.predecessor == Some(before.link) && before.epoch <= newest.epoch;
    (is_own(newest) && is_own(before) && follows).then(|| newest.clone())
}

/// Reads the headers of objects that come from the newest down, and gives them by number.
async fn read_down(
    store: &dyn ObjectStore,
    database: DatabaseId,
    newest: &[(WalNumber, u64)],
) -> Result<Vec<WalEntry>, ArchiveError> {
    let reads: Vec<_> =
        newest.iter().map(|&(number, bytes)| read(store, database, number, bytes)).collect();
    let entries: Vec<_> = stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
    let mut entries: Vec<WalEntry> = entries.into_iter().flatten().collect();
    entries.reverse();
    Ok(entries)
}

/// The objects by number, and names that are not Cutwater's.
pub(super) async fn list(
    store: &dyn ObjectStore,
) -> Result<(BTreeMap<WalNumber, ObjectMeta>, Vec<String>), ArchiveError> {
    let (mut numbers, mut foreign) = (BTreeMap::new(), Vec::new());
    for object in store::list(store, &paths::wal_folder()).await? {
        match Named::parse(&object.location) {
            Some(Named::Wal(number)) => {
                numbers.insert(WalNumber(number), object);
            }
            _ => foreign.push(object.location.to_string()),
        }
    }
    Ok((numbers, foreign))
}

/// Reads one header; `None` if the object was removed since it was listed.
pub(super) async fn read(
    store: &dyn ObjectStore,
    database: DatabaseId,
    number: WalNumber,
    size_bytes: u64,
) -> Result<Option<WalEntry>, ArchiveError> {
    let path = paths::wal(number.0);
    let end = size_bytes.min(HEADER_BYTES as u64);
    let bytes = match end {
        0 => Ok(bytes::Bytes::new()),
        _ => store.get_range(&path, 0..end).await,
    };
    let bytes = match bytes {
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        bytes => bytes.map_err(|e| StoreError::failed(Operation::Get, &path, e))?,
    };
    let header = WalHeader::decode(number, &bytes).and_then(|header| {
        let (expected, found) = (header.object_bytes(), size_bytes);
        if expected == found {
            return Ok(header);
        }
        Err(Damage::whole(&path, Flaw::Length { expected, found }))
    });
    if let Ok(header) = &header
        && header.identity.database != database
    {
        let (expected, found) = (database, header.identity.database);
        return Err(ArchiveError::ForeignDatabase { object: path.to_string(), expected, found });
    }
    Ok(Some(WalEntry { number, size_bytes, header }))
}
