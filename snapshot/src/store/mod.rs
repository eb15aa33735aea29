//! Where objects are kept: the probe that a store can exclude a second writer, and the few calls
//! through which the rest of the crate uses one, which name operation and path in every error.
//!
//! | file | what |
//! |---|---|
//! | [`url`] | the address of a store, and opening it |
//! | [`paced`] | a store whose reads are spread over time |
//! | `s3` | an S3 store: endpoint, credentials, retries |
//! | `patient` | how long a request may take |

pub mod paced;
mod patient;
mod s3;
pub mod url;

use std::path::Path as FsPath;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use crate::error::{Operation, StoreError};
use crate::local::LocalStore;

pub use self::s3::{S3Credentials, S3Options};
pub use self::url::StoreUrl;

/// The object that [`probe`] creates twice; it stays, so that a later probe needs one call.
const PROBE: &str = "claims/probe";
/// What it holds.
const PROBE_BODY: &[u8] = b"a second create of this object must be refused\n";

/// Opens a folder as a store, and makes it first if it does not exist. Every write and delete is
/// durable when its call returns.
///
/// # Errors
/// [`StoreError::Io`] if the folder cannot be made or opened.
pub fn open_local(folder: &FsPath) -> Result<Arc<dyn ObjectStore>, StoreError> {
    Ok(Arc::new(LocalStore::open(folder)?))
}

/// Makes sure that the store refuses to create an object that exists, on which everything that
/// keeps two writers apart rests. Some S3 stores take the condition and ignore it.
///
/// # Errors
/// [`StoreError::CreateNotExclusive`] if it does not; [`StoreError::Failed`] if it cannot be asked.
pub async fn probe(store: &dyn ObjectStore) -> Result<(), StoreError> {
    let path = Path::from(PROBE);
    for _ in 0..2 {
        let body = Bytes::from_static(PROBE_BODY);
        match put_new(store, &path, body).await {
            Ok(()) => {}
            Err(error) if error.is_already_exists() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::CreateNotExclusive { path: PROBE.into() })
}

/// Whether a path is that of the probe's object.
pub(crate) fn is_probe(path: &Path) -> bool {
    path.as_ref() == PROBE
}

/// What came of a create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// The object is there with exactly these bytes, by this call or an earlier try of it.
    Ours,
    /// Another object is there.
    Theirs(Bytes),
}

/// Creates an object unless there is one. One that exists is read back: bytes that are exactly
/// ours (they carry a nonce) are an earlier try of this very call, so success. Any other error is
/// returned even though the object may have appeared: it may not be durable.
pub(crate) async fn create(
    store: &dyn ObjectStore,
    path: &Path,
    body: Bytes,
) -> Result<Created, StoreError> {
    match put_new(store, path, body.clone()).await {
        Ok(()) => Ok(Created::Ours),
        Err(error) if error.is_already_exists() => {
            let found = match get(store, path).await {
                Ok(found) => found,
                // S3 also answers so (409) while another create of the object is under way, which
                // may fail yet: nothing is known, and the caller may try again.
                Err(missing) if missing.is_not_found() => return Err(error.unanswered()),
                Err(other) => return Err(other),
            };
            Ok(if found == body { Created::Ours } else { Created::Theirs(found) })
        }
        Err(error) => Err(error),
    }
}

async fn put_new(store: &dyn ObjectStore, path: &Path, body: Bytes) -> Result<(), StoreError> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let put = store.put_opts(path, body.into(), options).await;
    put.map(drop).map_err(|e| StoreError::failed(Operation::Create, path, e))
}

/// Writes an object, whatever was there.
pub(crate) async fn put(
    store: &dyn ObjectStore,
    path: &Path,
    body: object_store::PutPayload,
) -> Result<(), StoreError> {
    let put = store.put(path, body).await;
    put.map(drop).map_err(|e| StoreError::failed(Operation::Put, path, e))
}

/// Reads a whole small object.
pub async fn get(store: &dyn ObjectStore, path: &Path) -> Result<Bytes, StoreError> {
    let failed = |e| StoreError::failed(Operation::Get, path, e);
    store.get(path).await.map_err(failed)?.bytes().await.map_err(failed)
}

/// Everything below a folder, or an error: never a part of it.
pub(crate) async fn list(
    store: &dyn ObjectStore,
    folder: &Path,
) -> Result<Vec<ObjectMeta>, StoreError> {
    let found = store.list(Some(folder)).try_collect::<Vec<_>>().await;
    found.map_err(|e| StoreError::failed(Operation::List, folder, e))
}

/// Removes an object; one that is gone already is fine.
pub(crate) async fn delete(store: &dyn ObjectStore, path: &Path) -> Result<(), StoreError> {
    match store.delete(path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(e) => Err(StoreError::failed(Operation::Delete, path, e)),
    }
}
