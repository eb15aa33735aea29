//! Brings the objects of an archive under the active key: each is put again, conditionally, with
//! its data key wrapped anew in its header and every other byte as it was (FORMAT.md). So a key can
//! be retired although moments of its time stay restorable.
//!
//! Safe beside a server that writes there: it puts new numbers only, and what its retention removes
//! meanwhile is not put again, since the condition names the object that was read.

use cutwater_engine::seal::{Keyring, NONCE_BYTES};
use futures::stream::{self, StreamExt};
use object_store::ObjectStore;

use super::chain::{list, read};
use super::error::ArchiveError;
use super::header::WalNumber;
use super::object::rewrapped;
use crate::amend::Object;
use crate::error::{Damage, Flaw};
use crate::ident::{self, DatabaseId};
use crate::paths;

/// Objects that are rewritten at once: each is in memory meanwhile.
const AT_ONCE: usize = 4;

/// What a rekeying of an archive did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RekeyedLog {
    /// Objects that are under the active key now and were under another.
    pub rewrapped: u64,
    /// Objects that were under it already.
    pub current: u64,
    /// Objects that are not sealed at all.
    pub plain: u64,
}

/// What became of one object.
enum Outcome {
    Rewrapped,
    Current,
    Plain,
    /// Removed meanwhile.
    Gone,
}

/// Rewraps the data keys of all objects under the active key. The keys under which they are now
/// must be configured too. One that cannot be is no reason to leave the others. Can be repeated.
///
/// # Errors
/// That of the first object that is damaged, or is not opened by the keys, after all others are
/// done; or the store's.
pub async fn rekey_archive(
    store: &dyn ObjectStore,
    database: DatabaseId,
    keys: &Keyring,
) -> Result<RekeyedLog, ArchiveError> {
    let (numbers, _) = list(store).await?;
    // Futures, not a closure that makes them: with one, this future would not be `Send`.
    let rekeyings: Vec<_> = numbers
        .into_iter()
        .map(|(number, meta)| rekey_object(store, database, number, meta.size, keys))
        .collect();
    let mut rekeyings = stream::iter(rekeyings).buffered(AT_ONCE);
    let (mut done, mut failed) = (RekeyedLog::default(), None);
    while let Some(outcome) = rekeyings.next().await {
        match outcome {
            Ok(Outcome::Rewrapped) => done.rewrapped += 1,
            Ok(Outcome::Current) => done.current += 1,
            Ok(Outcome::Plain) => done.plain += 1,
            Ok(Outcome::Gone) => {}
            Err(error @ ArchiveError::Store(_)) => return Err(error),
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    failed.map_or(Ok(done), Err)
}

async fn rekey_object(
    store: &dyn ObjectStore,
    database: DatabaseId,
    number: WalNumber,
    size_bytes: u64,
    keys: &Keyring,
) -> Result<Outcome, ArchiveError> {
    let Some(entry) = read(store, database, number, size_bytes).await? else {
        return Ok(Outcome::Gone);
    };
    let header = entry.header?;
    let Some(sealed) = &header.sealed else { return Ok(Outcome::Plain) };
    let path = paths::wal(number.0);
    // Also where the key is the active one: what does not open is not called done.
    let opened = sealed.wrapped.unwrap(keys, &header.key_context());
    let object = || path.to_string();
    opened.map_err(|source| ArchiveError::Seal { object: object(), source })?;
    if keys.active().is_none_or(|(active, _)| *active == sealed.wrapped.key_id) {
        return Ok(Outcome::Current);
    }
    let found = match Object::read(store, path.clone()).await {
        Err(error) if error.is_not_found() => return Ok(Outcome::Gone),
        found => found?,
    };
    let bytes = found.bytes();
    if bytes.len() as u64 != header.object_bytes() {
        let flaw = Flaw::Length { expected: header.object_bytes(), found: bytes.len() as u64 };
        return Err(Damage::whole(object(), flaw).into());
    }
    let mut nonce = [0; NONCE_BYTES];
    ident::random(&mut nonce).map_err(ArchiveError::Random)?;
    let body = rewrapped(number, bytes, keys, nonce)?;
    // Otherwise it was removed, or somebody else has rewrapped it: under the active key or not, the
    // next rekeying sees it.
    match found.replace(store, body).await? {
        true => Ok(Outcome::Rewrapped),
        false => Ok(Outcome::Gone),
    }
}
