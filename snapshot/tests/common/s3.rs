//! A server of the S3 protocol on loopback, for tests: `s3s-fs` serves a folder, and a layer around
//! it freezes, fails, slows down, or forgets conditions on demand. It lives in a thread of its own,
//! so that a test without a runtime has it too, and ends with its handle.
//!
//! Every crate's tests include this one file with `#[path]`. Conditional puts of `s3s-fs` look
//! first and write then; the layer makes them one step, which is what a store promises.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use cutwater_snapshot::store::{S3Credentials, S3Options};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore, oneshot, watch};

/// The one bucket.
pub const BUCKET: &str = "bucket";
/// The id of the one key.
pub const KEY_ID: &str = "test-key";
/// The key.
pub const SECRET: &str = "test-secret";
/// Connections that are served at once; further ones wait.
const CONNECTIONS: usize = 64;

/// What the layer does.
#[derive(Debug)]
pub struct Behaviour {
    /// Requests wait while this is set.
    frozen: watch::Sender<bool>,
    /// Conditions of puts are taken and ignored.
    pub lax: AtomicBool,
    /// Every request that writes fails after it was done.
    pub failing: AtomicBool,
    /// How long every request takes on top, in milliseconds.
    pub delay_ms: AtomicU64,
    /// How many requests came.
    pub requests: AtomicU64,
    /// How many bytes of objects came.
    pub received_bytes: AtomicU64,
    /// Every request that writes fails before anything was done.
    pub refusing: AtomicBool,
    /// Every listing fails.
    pub listing_fails: AtomicBool,
    /// The layer freezes by itself when so many further objects of snapshots, or parts of them,
    /// were written, before it answers the last; 0 for never.
    pub freeze_after_writes: AtomicU64,
    /// What came to be written, in order.
    writes: std::sync::Mutex<Vec<Write>>,
    /// Writes under way, and the most that there were at once.
    under_way: AtomicU64,
    most_under_way: AtomicU64,
    /// Puts are done one after the other, so that looking and writing are one step.
    puts: Mutex<()>,
}

/// A request that writes an object, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The object.
    pub key: String,
    /// Which part, of an object in parts.
    pub part: Option<i32>,
    /// Bytes.
    pub bytes: u64,
    /// When it came.
    pub at: std::time::Instant,
}

/// A running server.
pub struct S3Server {
    root: tempfile::TempDir,
    address: SocketAddr,
    behaviour: Arc<Behaviour>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl S3Server {
    /// Starts a server with an empty bucket on a port of its own.
    pub fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let behaviour = Arc::new(Behaviour {
            frozen: watch::Sender::new(false),
            lax: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            listing_fails: AtomicBool::new(false),
            freeze_after_writes: AtomicU64::new(0),
            writes: std::sync::Mutex::default(),
            under_way: AtomicU64::new(0),
            most_under_way: AtomicU64::new(0),
            puts: Mutex::new(()),
        });
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut server = Self { root, address, behaviour, running: None };
        server.resume();
        server
    }

    /// Ends it, with all connections: whoever calls is refused.
    pub fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            thread.join().unwrap();
        }
    }

    /// Starts it again, on the same port and with the same objects.
    pub fn resume(&mut self) {
        assert!(self.running.is_none());
        let (stop, stopped) = oneshot::channel();
        let (ready, bound) = std::sync::mpsc::channel();
        let service = self.service();
        let address = self.address;
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind(address).await.unwrap();
                ready.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    () = serve(listener, service) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        self.address = bound.recv().unwrap();
        self.running = Some((stop, thread));
    }

    /// Requests wait from now on, also those that are under way.
    pub fn freeze(&self) {
        self.behaviour.frozen.send_replace(true);
    }

    /// Requests go on.
    pub fn thaw(&self) {
        self.behaviour.frozen.send_replace(false);
    }

    /// Whether it is frozen, also by itself.
    pub fn is_frozen(&self) -> bool {
        *self.behaviour.frozen.borrow()
    }

    /// What the layer does.
    pub fn behaviour(&self) -> &Behaviour {
        &self.behaviour
    }

    /// What came to be written since this was last asked, in order.
    pub fn take_writes(&self) -> Vec<Write> {
        std::mem::take(&mut *self.behaviour.writes.lock().unwrap())
    }

    /// The most writes that were under way at once since this was last asked.
    pub fn take_most_under_way(&self) -> u64 {
        self.behaviour.most_under_way.swap(0, Ordering::SeqCst)
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The folder of the bucket's objects.
    pub fn folder(&self) -> PathBuf {
        self.root.path().join(BUCKET)
    }

    /// Options with which a client is let in.
    pub fn options(&self) -> S3Options {
        S3Options {
            endpoint: Some(self.endpoint()),
            region: Some("us-east-1".into()),
            allow_http: true,
            path_style: true,
            credentials: Some(S3Credentials {
                access_key_id: KEY_ID.into(),
                secret_access_key: SECRET.into(),
                session_token: None,
            }),
            ..S3Options::default()
        }
    }

    fn service(&self) -> S3Service {
        let inner = FileSystem::new(self.root.path()).unwrap();
        let layer = Layer { inner: Arc::new(inner), behaviour: Arc::clone(&self.behaviour) };
        let mut builder = S3ServiceBuilder::new(layer);
        builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        builder.build()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(listener: TcpListener, service: S3Service) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = permits.clone().acquire_owned().await.unwrap();
        let Ok((socket, _)) = listener.accept().await else { continue };
        let service = service.clone();
        tokio::spawn(async move {
            let server = Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
            drop(permit);
        });
    }
}

struct Layer {
    inner: Arc<FileSystem>,
    behaviour: Arc<Behaviour>,
}

impl Layer {
    async fn enter(&self) {
        self.behaviour.requests.fetch_add(1, Ordering::SeqCst);
        let mut frozen = self.behaviour.frozen.subscribe();
        let _ = frozen.wait_for(|frozen| !frozen).await;
        let delay_ms = self.behaviour.delay_ms.load(Ordering::SeqCst);
        if delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
    }

    /// A write comes: counted, and perhaps refused.
    fn begin_write(&self, key: &str, part: Option<i32>, length: Option<i64>) -> S3Result<UnderWay> {
        let behaviour = Arc::clone(&self.behaviour);
        let bytes = u64::try_from(length.unwrap_or_default()).unwrap_or_default();
        behaviour.received_bytes.fetch_add(bytes, Ordering::SeqCst);
        behaviour.writes.lock().unwrap().push(Write {
            key: key.to_owned(),
            part,
            bytes,
            at: std::time::Instant::now(),
        });
        if behaviour.refusing.load(Ordering::SeqCst) {
            return Err(s3_error!(InternalError, "refused on purpose"));
        }
        let now = 1 + behaviour.under_way.fetch_add(1, Ordering::SeqCst);
        behaviour.most_under_way.fetch_max(now, Ordering::SeqCst);
        Ok(UnderWay(behaviour))
    }

    /// Done, and perhaps reported as failed.
    async fn leave<T>(&self, key: &str, done: S3Result<S3Response<T>>) -> S3Result<S3Response<T>> {
        let left = &self.behaviour.freeze_after_writes;
        let lower = |left: u64| left.checked_sub(1);
        if key.ends_with(".snap")
            && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lower) == Ok(1)
        {
            self.behaviour.frozen.send_replace(true);
        }
        // A store that froze meanwhile does not answer what it did, either.
        let mut frozen = self.behaviour.frozen.subscribe();
        let _ = frozen.wait_for(|frozen| !frozen).await;
        if self.behaviour.failing.load(Ordering::SeqCst) {
            return Err(s3_error!(InternalError, "failed on purpose"));
        }
        done
    }
}

/// A write under way.
struct UnderWay(Arc<Behaviour>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Hands a request on as it is.
macro_rules! hand_on {
    ($($name:ident: $input:ident -> $output:ident),* $(,)?) => {
        #[async_trait::async_trait]
        impl S3 for Layer {
            $(async fn $name(&self, req: S3Request<$input>) -> S3Result<S3Response<$output>> {
                self.enter().await;
                self.inner.$name(req).await
            })*

            async fn put_object(
                &self,
                mut req: S3Request<PutObjectInput>,
            ) -> S3Result<S3Response<PutObjectOutput>> {
                self.enter().await;
                let input = &req.input;
                let _under_way = self.begin_write(&input.key, None, input.content_length)?;
                if self.behaviour.lax.load(Ordering::SeqCst) {
                    req.input.if_none_match = None;
                }
                if self.inner_bucket_is_missing(&req.input.bucket).await {
                    return Err(s3_error!(NoSuchBucket));
                }
                let key = req.input.key.clone();
                let one_step = self.behaviour.puts.lock().await;
                let done = self.inner.put_object(req).await;
                drop(one_step);
                self.leave(&key, done).await
            }

            async fn upload_part(
                &self,
                req: S3Request<UploadPartInput>,
            ) -> S3Result<S3Response<UploadPartOutput>> {
                self.enter().await;
                let input = &req.input;
                let part = Some(input.part_number);
                let _under_way = self.begin_write(&input.key, part, input.content_length)?;
                let key = req.input.key.clone();
                let done = self.inner.upload_part(req).await;
                self.leave(&key, done).await
            }

            async fn list_objects_v2(
                &self,
                req: S3Request<ListObjectsV2Input>,
            ) -> S3Result<S3Response<ListObjectsV2Output>> {
                self.enter().await;
                if self.behaviour.listing_fails.load(Ordering::SeqCst) {
                    return Err(s3_error!(InternalError, "no listing on purpose"));
                }
                self.inner.list_objects_v2(req).await
            }

            async fn complete_multipart_upload(
                &self,
                req: S3Request<CompleteMultipartUploadInput>,
            ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
                self.enter().await;
                let done = self.inner.complete_multipart_upload(req).await;
                self.leave("", done).await
            }
        }
    };
}

hand_on! {
    abort_multipart_upload: AbortMultipartUploadInput -> AbortMultipartUploadOutput,
    create_multipart_upload: CreateMultipartUploadInput -> CreateMultipartUploadOutput,
    delete_object: DeleteObjectInput -> DeleteObjectOutput,
    get_object: GetObjectInput -> GetObjectOutput,
    head_bucket: HeadBucketInput -> HeadBucketOutput,
    head_object: HeadObjectInput -> HeadObjectOutput,
}

impl Layer {
    /// `s3s-fs` would make the folder of a bucket that nobody created.
    async fn inner_bucket_is_missing(&self, bucket: &str) -> bool {
        bucket != BUCKET
    }
}
