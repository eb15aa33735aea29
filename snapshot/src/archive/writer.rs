//! The one writer of a history's archive: puts objects one after the other, and finds out when
//! another writer has taken over.
//!
//! The rule, at the number after the last that this writer knows, create-if-absent:
//!
//! - created, or found with our nonce: it is stored. A put that reported an error may have done its
//!   work, so the same draft is tried again until one of the outcomes is certain.
//! - found with a higher epoch: another writer has taken over; nothing is written any more.
//! - found with a lower epoch: an earlier writer's put that came late. It is passed over; our
//!   object names our own predecessor, so no reader follows a link to the late one.
//!
//! The newer writer's object may have been removed since, by its retention. So whoever has put an
//! object looks at the claims, which are never removed ([`Fence`]), before it counts as stored; and
//! takes it back if another writer has taken over meanwhile.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use object_store::ObjectStore;

use super::chain::ChainHead;
use super::error::ArchiveError;
use super::header::{Link, WalHeader, WalNumber};
use super::object::{self, Draft, Packing, Place};
use crate::claim::Claimant;
use crate::error::SnapshotError;
use crate::ident::{Identity, WriterNonce};
use crate::paths;
use crate::store::{self, Created};
use crate::throttle::Throttle;

/// Late objects that are passed over in one put. An earlier writer puts until it meets an object of
/// the newer one, which comes within an interval.
const STALE_LIMIT: u64 = 64;

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub struct WalWriterId {
    /// The database and the history.
    pub identity: Identity,
    /// The epoch of the claim by which it took the store over.
    pub epoch: u64,
    /// Its nonce, as in that claim.
    pub nonce: WriterNonce,
}

/// The writer of a history's archive.
#[derive(Debug)]
pub struct ArchiveWriter {
    store: Arc<dyn ObjectStore>,
    id: WalWriterId,
    packing: Packing,
    next: WalNumber,
    head: Option<Link>,
    fence: Option<Arc<dyn Fence>>,
    throttle: Arc<Throttle>,
}

/// Says whether a writer still is the store's writer.
pub trait Fence: fmt::Debug + Send + Sync {
    /// Looks at the claims.
    ///
    /// # Errors
    /// [`SnapshotError::Fenced`] if another writer has taken over, or the store's error.
    fn check(&self) -> BoxFuture<'_, Result<(), SnapshotError>>;
}

impl Fence for tokio::sync::Mutex<Claimant> {
    fn check(&self) -> BoxFuture<'_, Result<(), SnapshotError>> {
        Box::pin(async move { self.lock().await.check().await })
    }
}

/// What came of a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// The draft is stored.
    Stored(WalHeader),
    /// An earlier draft of this very writer stands at its place, which was thought not to have been
    /// stored. It is the head now; the archive goes on at its end.
    Earlier(WalHeader),
}

impl Put {
    /// The header of the object that is the head now.
    pub fn header(&self) -> &WalHeader {
        match self {
            Self::Stored(header) | Self::Earlier(header) => header,
        }
    }
}

impl ArchiveWriter {
    /// A writer that goes on behind `head`, which was read after its takeover.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        id: WalWriterId,
        packing: Packing,
        head: &ChainHead,
    ) -> Self {
        let next = head.last.next();
        let head = head.own.as_ref().map(|header| header.link);
        let throttle = Arc::new(Throttle::new(None));
        Self { store, id, packing, next, head, fence: None, throttle }
    }

    /// Asks this fence after every put. Without one the store must have no other writer.
    #[must_use]
    pub fn fenced(self, fence: Arc<dyn Fence>) -> Self {
        Self { fence: Some(fence), ..self }
    }

    /// Is held back by this, before the uploads that share it.
    #[must_use]
    pub fn throttled(self, throttle: Arc<Throttle>) -> Self {
        Self { throttle, ..self }
    }

    /// The number that the next object will have, unless late ones stand there.
    pub fn next_number(&self) -> WalNumber {
        self.next
    }

    /// The store that it writes to.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Puts an object. After an error that is retryable, put the same draft again.
    ///
    /// # Errors
    /// [`ArchiveError::Fenced`], [`ArchiveError::ForeignDatabase`], [`ArchiveError::Damaged`] if
    /// what stands at the number cannot be read, or the store's error.
    pub async fn put(&mut self, draft: &Draft) -> Result<Put, ArchiveError> {
        let mut number = self.next;
        for _ in 0..STALE_LIMIT {
            let place = Place {
                number,
                epoch: self.id.epoch,
                nonce: self.id.nonce,
                identity: self.id.identity,
                predecessor: self.head,
            };
            let (header, bytes) = object::encode(draft, &place, &self.packing);
            self.throttle.pass_first(bytes.len() as u64).await;
            let found = match store::create(&*self.store, &paths::wal(number.0), bytes).await? {
                Created::Ours => {
                    self.confirm(&header).await?;
                    return Ok(self.stored(Put::Stored(header)));
                }
                Created::Theirs(found) => WalHeader::decode(number, &found)?,
            };
            if found.identity.database != self.id.identity.database {
                return Err(ArchiveError::ForeignDatabase {
                    object: paths::wal(number.0).to_string(),
                    expected: self.id.identity.database,
                    found: found.identity.database,
                });
            }
            if found.nonce == self.id.nonce {
                self.confirm(&found).await?;
                let ours = found.link.uuid == draft.uuid;
                let put = if ours { Put::Stored(found) } else { Put::Earlier(found) };
                return Ok(self.stored(put));
            }
            if found.epoch >= self.id.epoch {
                return Err(ArchiveError::Fenced { own: self.id.epoch, found: found.epoch });
            }
            tracing::warn!(object = %paths::wal(number.0), "passing over a superseded writer's");
            number = number.next();
        }
        Err(ArchiveError::TooManyStale { limit: STALE_LIMIT, number })
    }

    /// Makes sure that an object that stands at its place counts; takes it back otherwise.
    async fn confirm(&self, header: &WalHeader) -> Result<(), ArchiveError> {
        let Some(fence) = &self.fence else { return Ok(()) };
        let fenced = match fence.check().await {
            Ok(()) => return Ok(()),
            Err(SnapshotError::Fenced { own, found }) => ArchiveError::Fenced { own, found },
            Err(SnapshotError::Store(error)) => return Err(error.into()),
            Err(SnapshotError::Damaged(damage)) => return Err(damage.into()),
            Err(SnapshotError::ForeignDatabase { object, expected, found }) => {
                return Err(ArchiveError::ForeignDatabase { object, expected, found });
            }
            Err(error) => unreachable!("no answer of a fence: {error}"),
        };
        let path = paths::wal(header.link.number.0);
        // Numbers only grow: whoever removed ours puts nothing in its place.
        match store::get(&*self.store, &path).await {
            Ok(bytes) => {
                let found = WalHeader::decode(header.link.number, &bytes);
                if found.is_ok_and(|found| found.link == header.link) {
                    store::delete(&*self.store, &path).await?;
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        Err(fenced)
    }

    fn stored(&mut self, put: Put) -> Put {
        let link = put.header().link;
        self.head = Some(link);
        self.next = link.number.next();
        put
    }
}
