//! A store whose reads are spread over time, so that reading a whole snapshot leaves the disk to
//! others.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::throttle::Throttle;

/// Another store, read at a limited rate; everything else is as fast as there.
#[derive(Debug)]
pub struct PacedStore {
    inner: Arc<dyn ObjectStore>,
    reads: Throttle,
}

impl PacedStore {
    /// Limits reads of a store to so many bytes a second.
    pub fn new(inner: Arc<dyn ObjectStore>, limit_bytes_per_s: u64) -> Self {
        Self { inner, reads: Throttle::new(Some(limit_bytes_per_s)) }
    }
}

impl fmt::Display for PacedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for PacedStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let is_read = !options.head;
        let found = self.inner.get_opts(location, options).await?;
        if is_read {
            self.reads.pass(found.range.end.saturating_sub(found.range.start)).await;
        }
        Ok(found)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn reads_wait_for_those_before_them_and_writes_do_not() {
        // A read of 3,000 bytes takes the better part of an hour.
        let store = PacedStore::new(Arc::new(InMemory::new()), 1);
        let path = Path::from("x");
        store.put(&path, vec![0; 3_000].into()).await.unwrap();
        store.get(&path).await.unwrap();
        let mut second = Box::pin(store.get(&path));
        assert!(futures::poll!(&mut second).is_pending());
        store.head(&path).await.unwrap();
        store.put(&path, "1".into()).await.unwrap();
        assert!(futures::poll!(&mut second).is_pending());
    }
}
