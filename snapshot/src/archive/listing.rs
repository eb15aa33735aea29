//! The objects of an archive by number, as a listing shows them, of which a few headers are read:
//! what a server does again and again, whose archive has a hundred thousand objects.

use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore};

use super::chain::{Archive, WalEntry, list, read};
use super::error::ArchiveError;
use super::header::WalNumber;
use crate::ident::DatabaseId;
use crate::retention::Promise;

/// Headers that are read at once.
const READS_AT_ONCE: usize = 32;
/// Headers that are looked at before it is decided whether to go on.
const BATCH: usize = 128;

/// The objects of an archive, oldest first.
#[derive(Clone, Debug, Default)]
pub struct WalListing {
    objects: Vec<(WalNumber, ObjectMeta)>,
}

impl WalListing {
    /// Lists an archive.
    ///
    /// # Errors
    /// [`ArchiveError::Store`].
    pub async fn load(store: &dyn ObjectStore) -> Result<Self, ArchiveError> {
        let (objects, _) = list(store).await?;
        Ok(Self { objects: objects.into_iter().collect() })
    }

    /// The objects that a promise lets go, oldest first; reads headers from the oldest on, until
    /// none can go any more, and stops at `limit` of them. The newest object always stays.
    ///
    /// # Errors
    /// As for [`Archive::load`].
    pub async fn superfluous(
        &self,
        store: &dyn ObjectStore,
        database: DatabaseId,
        promise: &Promise,
        limit: usize,
    ) -> Result<Vec<WalNumber>, ArchiveError> {
        let mut going = Vec::new();
        let old = self.objects.len().saturating_sub(1);
        for batch in self.objects[..old].chunks(BATCH) {
            let entries = headers(store, database, batch).await?;
            let mut is_over = true;
            for entry in &entries {
                let Ok(header) = &entry.header else { continue };
                is_over &= header.to > promise.horizon();
                if promise.log(header.identity.history, header.from, header.to).is_none() {
                    going.push(entry.number);
                }
            }
            going.truncate(limit);
            if is_over || going.len() == limit {
                break;
            }
        }
        Ok(going)
    }

    /// Late puts of superseded writers ([`Archive::late`]) among the newest so many objects that
    /// are older than `grace` by the store's clock.
    ///
    /// # Errors
    /// As for [`Archive::load`].
    pub async fn late(
        &self,
        store: &dyn ObjectStore,
        database: DatabaseId,
        newest: usize,
        grace: Duration,
    ) -> Result<Vec<WalNumber>, ArchiveError> {
        let batch = &self.objects[self.objects.len().saturating_sub(newest)..];
        let entries = headers(store, database, batch).await?;
        let late = Archive { entries, foreign: Vec::new() }.late();
        // No object is younger than the store's clock.
        let now = self.objects.iter().map(|(_, meta)| meta.last_modified).max();
        let is_old = |meta: &ObjectMeta| {
            let age = now.and_then(|now| (now - meta.last_modified).to_std().ok());
            age.is_some_and(|age| age >= grace)
        };
        let old = batch.iter().filter(|(number, meta)| late.contains(number) && is_old(meta));
        Ok(old.map(|(number, _)| *number).collect())
    }
}

async fn headers(
    store: &dyn ObjectStore,
    database: DatabaseId,
    objects: &[(WalNumber, ObjectMeta)],
) -> Result<Vec<WalEntry>, ArchiveError> {
    // Futures, not a closure that makes them: with one, this future would not be `Send`.
    let reads: Vec<_> =
        objects.iter().map(|(number, meta)| read(store, database, *number, meta.size)).collect();
    let entries: Vec<_> = stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
    Ok(entries.into_iter().flatten().collect())
}
