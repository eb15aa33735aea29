//! A store in memory or elsewhere, before each operation of which a test may look, wait or fail.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Put,
    Get,
    List,
    Delete,
}

type Hook = dyn Fn(What, String) -> BoxFuture<'static, Result<()>> + Send + Sync;

/// The store.
#[derive(Clone)]
pub struct Hooked {
    inner: Arc<dyn ObjectStore>,
    hook: Arc<Hook>,
}

impl Hooked {
    /// A store before whose puts, reads, listings and deletions `hook` is called, with the path.
    pub fn over(
        inner: Arc<dyn ObjectStore>,
        hook: impl Fn(What, String) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> Arc<dyn ObjectStore> {
        Arc::new(Self { inner, hook: Arc::new(hook) })
    }

    async fn before(&self, what: What, path: &Path) -> Result<()> {
        (self.hook)(what, path.to_string()).await
    }
}

/// A failure of the store's own.
pub fn broken() -> Error {
    Error::Generic { store: "hooked", source: "broken on purpose".into() }
}

impl fmt::Display for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Hooked {
    async fn put_opts(&self, path: &Path, body: PutPayload, o: PutOptions) -> Result<PutResult> {
        self.before(What::Put, path).await?;
        self.inner.put_opts(path, body, o).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.before(What::Put, path).await?;
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.before(What::Get, path).await?;
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let allowed = paths.and_then(move |path| {
            let store = store.clone();
            async move { store.before(What::Delete, &path).await.map(|()| path) }
        });
        self.inner.delete_stream(allowed.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let path = prefix.clone().unwrap_or_default();
            match store.before(What::List, &path).await {
                Ok(()) => store.inner.list(prefix.as_ref()),
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            }
        };
        futures::stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
