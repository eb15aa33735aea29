//! A store that is asked with as much patience as there is to be sent: one client for what is
//! small, whose silence is soon noticed, and others for bodies that a slow line takes its time for.
//!
//! A timeout over a whole request cannot tell a slow line from a dead one. So those of large bodies
//! are only the last resort: who sends them looks beside it whether the store answers at all.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// The slowest line over which everything gets through in the end, in bytes a second.
const SLOWEST_BYTES_PER_S: u64 = 75 << 10;
/// How long a request without a large body may take.
pub(super) const SMALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest body that is small, inclusive.
const SMALL_BYTES: u64 = 256 << 10;
/// What is under way at once where objects go up beside each other, whole or in parts.
const LARGE_BYTES: u64 = 64 << 20;
/// The largest object that goes up in one put.
const HUGE_BYTES: u64 = 1 << 30;

/// A store by as many clients as there are degrees of patience.
#[derive(Debug)]
pub(super) struct PatientStore<S> {
    small: S,
    large: S,
    huge: S,
}

impl<S> PatientStore<S> {
    /// Clients of one store, which `open` makes for a timeout; `small` is that of the smallest.
    pub(super) fn new<E>(
        small: Duration,
        open: impl Fn(Duration) -> Result<S, E>,
    ) -> Result<Self, E> {
        let takes = |bytes: u64| small + Duration::from_secs(bytes / SLOWEST_BYTES_PER_S);
        Ok(Self {
            small: open(small)?,
            large: open(takes(LARGE_BYTES))?,
            huge: open(takes(HUGE_BYTES))?,
        })
    }

    fn for_body(&self, bytes: u64) -> &S {
        if bytes <= SMALL_BYTES {
            &self.small
        } else if bytes <= LARGE_BYTES {
            &self.large
        } else {
            &self.huge
        }
    }
}

impl<S: fmt::Display> fmt::Display for PatientStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.small.fmt(f)
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for PatientStore<S> {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let bytes = payload.content_length() as u64;
        self.for_body(bytes).put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.large.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.small.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.small.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.small.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.small.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.small.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.small.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn what_is_sent_at_once_has_time_on_a_line_of_100_kb_a_second() {
        let Ok(patience) = PatientStore::new(SMALL_TIMEOUT, Ok::<Duration, Infallible>);
        for (bytes, at_once) in [
            (1 << 10, 1 << 20),
            (256 << 10, 1 << 20),
            (8 << 20, 64 << 20),
            (16 << 20, 64 << 20),
            (33 << 20, 33 << 20),
            (1 << 30, 1 << 30),
        ] {
            let takes = Duration::from_secs(at_once / 100_000);
            assert!(*patience.for_body(bytes) > takes, "{bytes}");
        }
        assert_eq!(*patience.for_body(0), SMALL_TIMEOUT);
    }
}
