//! A store in memory whose faults come from a seed, over tokio's paused clock: answers that take
//! their time, fail before or after the work was done, never come, or come long before the work is
//! done; creates that meet themselves, as a client that repeats them makes them; and listings that
//! break off in the middle.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::*;
use tokio::time::sleep;

use crate::audit::Audit;
use crate::rng::Rng;

/// After which time a client gives a request up.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How the store is disposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Everything works at once.
    Calm,
    /// So many of a hundred operations fail.
    Flaky(u64),
    /// Every answer takes up to so many seconds.
    Slow(u64),
    /// Nothing is answered.
    Silent,
}

/// What becomes of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    FailedBefore,
    FailedAfter,
    SilentBefore,
    SilentAfter,
    /// Given up by the client, and done later.
    Late(Duration),
}

/// What all handles of a store share.
#[derive(Debug)]
struct Shared {
    inner: InMemory,
    rng: Mutex<Rng>,
    weather: Mutex<Weather>,
    audit: Mutex<Audit>,
}

/// The store.
#[derive(Clone, Debug)]
pub struct FaultyStore(Arc<Shared>);

impl FaultyStore {
    /// An empty store.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Shared {
            inner: InMemory::new(),
            rng: Mutex::new(Rng::new(seed)),
            weather: Mutex::new(Weather::Calm),
            audit: Mutex::default(),
        }))
    }

    /// Changes how it is disposed.
    pub fn set_weather(&self, weather: Weather) {
        *self.0.weather.lock().unwrap() = weather;
    }

    /// Works with what was seen of it.
    pub fn audit<T>(&self, work: impl FnOnce(&mut Audit) -> T) -> T {
        work(&mut self.0.audit.lock().unwrap())
    }

    /// How long the next operation takes, and what becomes of it.
    fn fate(&self) -> (Duration, Fate) {
        let mut rng = self.0.rng.lock().unwrap();
        let late = Duration::from_millis(rng.below(300_000));
        let failures =
            [Fate::FailedBefore, Fate::FailedAfter, Fate::FailedBefore, Fate::FailedAfter];
        let silence = [Fate::SilentBefore, Fate::SilentAfter, Fate::Late(late)];
        let mut pick = |fates: &[Fate]| fates[rng.below(fates.len() as u64) as usize];
        match *self.0.weather.lock().unwrap() {
            Weather::Calm => (Duration::ZERO, Fate::Done),
            Weather::Silent => (Duration::ZERO, pick(&silence)),
            Weather::Slow(seconds) => {
                (Duration::from_millis(rng.below(1_000 * seconds)), Fate::Done)
            }
            Weather::Flaky(percent) => {
                let all = [&failures[..], &silence[..1]].concat();
                let fate = pick(&all);
                let took = Duration::from_millis(rng.below(50));
                (took, if rng.chance(percent) { fate } else { Fate::Done })
            }
        }
    }

    /// Something that changes the store. A request once sent may be done although its sender has
    /// gone, so it is a task of its own.
    async fn change<T: Send + 'static>(
        &self,
        effect: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (took, fate) = self.fate();
        sleep(took).await;
        match fate {
            Fate::Done => effect.await,
            Fate::FailedBefore => Err(broken("failed")),
            Fate::FailedAfter => effect.await.and(Err(broken("failed after the work was done"))),
            Fate::SilentBefore => gone().await,
            Fate::SilentAfter => {
                let _ = effect.await;
                gone().await
            }
            Fate::Late(late) => {
                tokio::spawn(async move {
                    sleep(late).await;
                    let _ = effect.await;
                });
                gone().await
            }
        }
    }

    /// Something that reads.
    async fn look<T>(&self, found: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let (took, fate) = self.fate();
        sleep(took).await;
        match fate {
            Fate::Done => found.await,
            Fate::FailedBefore | Fate::FailedAfter => Err(broken("failed")),
            _ => gone().await,
        }
    }

    /// Reports a create that was done as one that met another: itself, by a client that repeats it
    /// after an error. Or one that was not done as one that met another that has not appeared yet.
    fn blur(&self, mode: &PutMode) -> bool {
        let weather = *self.0.weather.lock().unwrap();
        let Weather::Flaky(percent) = weather else { return false };
        *mode == PutMode::Create && self.0.rng.lock().unwrap().chance(percent)
    }
}

async fn gone<T>() -> Result<T> {
    sleep(TIMEOUT).await;
    Err(broken("operation timed out"))
}

fn broken(what: &str) -> Error {
    Error::Generic { store: "faulty", source: what.into() }
}

fn exists(path: &Path) -> Error {
    Error::AlreadyExists { path: path.to_string(), source: "met another".into() }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, path: &Path, body: PutPayload, o: PutOptions) -> Result<PutResult> {
        let (is_blurred, is_early) = (self.blur(&o.mode), self.blur(&o.mode));
        if is_blurred && is_early && self.0.inner.head(path).await.is_err() {
            return Err(exists(path));
        }
        let (store, to) = (self.clone(), path.clone());
        let done = self.change(async move {
            let bytes = body.clone().into();
            let done = store.0.inner.put_opts(&to, body, o).await?;
            store.audit(|audit| audit.put(&to, bytes));
            Ok(done)
        });
        let done = done.await?;
        if is_blurred { Err(exists(path)) } else { Ok(done) }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (store, to) = (self.clone(), path.clone());
        let begun =
            self.change(async move { store.0.inner.put_multipart_opts(&to, options).await });
        let inner = Arc::new(tokio::sync::Mutex::new(begun.await?));
        Ok(Box::new(FaultyUpload { inner, store: self.clone(), path: path.clone() }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.look(self.0.inner.get_opts(path, options)).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        paths
            .then(move |path| {
                let store = store.clone();
                async move {
                    let path = path?;
                    let (inner, of) = (store.clone(), path.clone());
                    let removal = store.change(async move {
                        inner.0.inner.delete(&of).await?;
                        inner.audit(|audit| audit.delete(&of));
                        Ok(())
                    });
                    removal.await?;
                    Ok(path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        futures::stream::once(async move {
            let (took, fate) = store.fate();
            sleep(took).await;
            let mut all: Vec<_> = store.0.inner.list(prefix.as_ref()).collect().await;
            if fate != Fate::Done {
                if !matches!(fate, Fate::FailedBefore | Fate::FailedAfter) {
                    sleep(TIMEOUT).await;
                }
                all.truncate(all.len() / 2);
                all.push(Err(broken("the listing broke off")));
            }
            futures::stream::iter(all)
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.look(self.0.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: "faulty".into() })
    }
}

struct FaultyUpload {
    inner: Arc<tokio::sync::Mutex<Box<dyn MultipartUpload>>>,
    store: FaultyStore,
    path: Path,
}

impl fmt::Debug for FaultyUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyUpload({})", self.path)
    }
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let part = self.inner.try_lock().expect("one call at a time").put_part(data);
        let store = self.store.clone();
        Box::pin(async move { store.change(part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (inner, store, path) = (Arc::clone(&self.inner), self.store.clone(), self.path.clone());
        let completion = self.store.change(async move {
            let done = inner.lock().await.complete().await?;
            let bytes = store.0.inner.get(&path).await?.bytes().await?;
            store.audit(|audit| audit.put(&path, bytes));
            Ok(done)
        });
        completion.await
    }

    async fn abort(&mut self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        self.store.change(async move { inner.lock().await.abort().await }).await
    }
}
