//! Opening an engine, step by step: check the machine, lock, find out what the logs hold, decide
//! (durably) what of it counts, start the shards, load them, serve.
//!
//! Images are tried from the newest on. One that is damaged shows only while it is loaded; then the
//! shards are given up and started anew from the one before, if the logs reach back to it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::field::Empty;

use crate::clock::{TimeSource, wall_micros};
use crate::log::{
    FileDisk, LogDisk, LogWriter, NewStart, Recovery, SegmentIndex, StartIdentity, StartSeal,
    WriterConfig,
};
use crate::net::{Doorbell, Inbox, InboxSender, Mesh, listen, preflight};
use crate::shard::core::ShardSetup;
use crate::shard::journal::Journal;
use crate::shard::shared::{Ports, ServerIdentity, Settings, Shared};
use crate::slot::{SLOT_COUNT, SlotMap};
use crate::types::{LogId, Lsn, ShardId, StartId};

use super::config::{EngineConfig, ImageSource};
use super::error::{FailureCell, OpenError};
use super::load::Loader;
use super::lock::DataLock;
use super::message::{INBOX_CAPACITY, ToShard};
use super::provider::{Provider, SegmentPlan, fill_random, random_u64};
use super::shell::ShellSetup;
use super::threads::ShardThreads;
use super::{Engine, Recovered, log_dir};

/// How far the data may be ahead of the wall clock.
const MAX_AHEAD: Duration = Duration::from_secs(600);
/// Bytes of the log that may wait for the disk on one shard.
const PENDING_LOG_BYTES: usize = 64 << 20;

/// See [`Engine::open`].
pub fn open(mut config: EngineConfig) -> Result<Engine, OpenError> {
    check(&config)?;
    preflight::check()?;
    let lock = lock_directory(&mut config)?;
    let images = std::mem::take(&mut config.images);
    // Of all of them, also of one that cannot be loaded.
    let published = images.iter().map(|image| image.end_lsn()).max().unwrap_or_default();
    let published = published.max(config.kept_lsn);
    let mut failed = None;
    for image in images.iter().map(|image| Some(&**image)).chain([None]) {
        if image.is_none() && !images.is_empty() {
            // Images exist, and none can be loaded: starting empty would hide that.
            break;
        }
        match open_from(&config, image, published) {
            Ok(engine) => {
                *engine.lock.lock().unwrap_or_else(PoisonError::into_inner) = lock;
                return Ok(engine);
            }
            // An older image needs no less of the log, and no other key.
            Err(OpenError::Recovery(error)) if failed.is_none() && error.refusal().is_some() => {
                return Err(error.into());
            }
            Err(error @ (OpenError::Image { .. } | OpenError::Recovery(_))) if image.is_some() => {
                tracing::error!(%error, "cannot start from this image");
                failed.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(failed.unwrap_or_else(|| OpenError::Config("there is no image to start from".to_owned())))
}

/// See [`Engine::check_keys`].
pub fn check_keys(config: &EngineConfig) -> Result<(), OpenError> {
    let Some(dir) = config.data_dir.as_ref().filter(|_| config.log) else { return Ok(()) };
    match Recovery::scan(Arc::new(FileDisk), &log_dir(dir), config.keys.clone()) {
        Err(error) if error.refusal().is_some() => Err(error.into()),
        _ => Ok(()),
    }
}

fn check(config: &EngineConfig) -> Result<(), OpenError> {
    if config.shards == 0 || config.shards > SLOT_COUNT {
        return Err(OpenError::Config(format!("1 to {SLOT_COUNT} shards, not {}", config.shards)));
    }
    if config.cpus.as_ref().is_some_and(Vec::is_empty) {
        return Err(OpenError::Config("shards are to be pinned, and no CPU is named".to_owned()));
    }
    if config.log && config.data_dir.is_none() {
        return Err(OpenError::Config("a log needs a data directory".to_owned()));
    }
    Ok(())
}

fn lock_directory(config: &mut EngineConfig) -> Result<Option<DataLock>, OpenError> {
    let Some(dir) = &config.data_dir else { return Ok(None) };
    let failed = |source| OpenError::Io { what: "create", path: dir.clone(), source };
    FileDisk.create_dir(dir).map_err(failed)?;
    match config.lock.take() {
        Some(lock) => Ok(Some(lock)),
        None => Ok(Some(DataLock::acquire(dir)?)),
    }
}

/// What a start knows before its shards exist.
struct Ground {
    recovery: Option<Recovery>,
    start: StartId,
    identity: (u128, u128),
    floor: Lsn,
    with_tail: bool,
    /// Segments of earlier starts that nobody reads any more.
    leftovers: Vec<(LogId, SegmentIndex)>,
    /// What seals the log, if anything does.
    seal: Option<StartSeal>,
}

fn open_from(
    config: &EngineConfig,
    image: Option<&dyn ImageSource>,
    published: Lsn,
) -> Result<Engine, OpenError> {
    let span = tracing::info_span!("boot", shards = config.shards, id = Empty, lsn = Empty);
    let _boot = span.enter();
    let ground = prepare(config, image, published)?;
    span.record("id", ground.start.0).record("lsn", ground.floor.0);
    let time = Arc::new(TimeSource::starting_above(ground.floor));
    let shared = Arc::new(share(config)?);
    let mut parts = Parts::new(config.shards)?;
    let listeners = bind(config, &shared)?;
    let (setups, provider) = set_up(config, &ground, &time, &shared, &mut parts, listeners)?;
    let (cpus, failure) = (config.cpus.as_deref(), FailureCell::default());
    let bells = &parts.doorbells;
    let threads = ShardThreads::start(setups, cpus, provider, &shared, bells, failure.clone())?;
    let mut engine = Engine {
        shared,
        time,
        inboxes: parts.senders.into(),
        doorbells: parts.doorbells,
        threads,
        failure,
        start: ground.start,
        keys: config.keys.clone(),
        recovered: Recovered::default(),
        snapshots: Default::default(),
        snapshot_turn: Arc::default(),
        stall_limit_ms: config.snapshot_stall_limit_ms,
        lock: Mutex::default(),
    };
    match load(&engine, &ground, image) {
        Ok(recovered) => engine.recovered = recovered,
        // Only when the shards have ended it is certain which of them failed first, and why.
        Err(error) => return Err(engine.shut_down().map_or_else(OpenError::from, |()| error)),
    }
    Ok(engine)
}

/// Reads what the logs say, decides what counts, and writes that down.
fn prepare(
    config: &EngineConfig,
    image: Option<&dyn ImageSource>,
    published: Lsn,
) -> Result<Ground, OpenError> {
    let end = image.map_or(Lsn::ZERO, ImageSource::end_lsn).max(config.lsn_floor);
    let new_ids = || -> Result<u128, OpenError> {
        let random = || {
            random_u64().map_err(|source| io_error("read random bytes from", "the kernel", source))
        };
        Ok(u128::from(random()?) << 64 | u128::from(random()?))
    };
    let data_dir = match &config.data_dir {
        Some(dir) if config.log => dir,
        _ => {
            let identity = config.identity.map_or_else(|| Ok((new_ids()?, new_ids()?)), Ok);
            check_clock(config, end)?;
            return Ok(Ground {
                recovery: None,
                // No log of this number exists: a snapshot taken now stands for itself.
                start: StartId(0),
                identity: identity.map_err(|error: OpenError| error)?,
                floor: end,
                with_tail: true,
                leftovers: Vec::new(),
                seal: None,
            });
        }
    };
    let dir = log_dir(data_dir);
    FileDisk.create_dir(&dir).map_err(|source| io_error("create", &dir, source))?;
    let mut recovery = Recovery::scan(Arc::new(FileDisk), &dir, config.keys.clone())?;
    let coverage = image.and_then(ImageSource::coverage);
    let with_tail = coverage.is_none();
    recovery.keep(published);
    let resolution = recovery.resolve(coverage.as_ref())?.clone();
    let floor = resolution.max_lsn.max(end);
    check_clock(config, floor)?;
    let known = recovery.starts().last().map(|start| (start.database_id, start.history_id));
    let identity = match config.identity.or(known) {
        Some(identity) => identity,
        None => (new_ids()?, new_ids()?),
    };
    let start = resolution.next_start;
    let of = StartIdentity { database_id: identity.0, history_id: identity.1, start };
    let seal = StartSeal::new(&config.keys, of, &mut fill_random)
        .map_err(|source| io_error("read random bytes from", "the kernel", source))?;
    recovery.write_start_record(&NewStart {
        database_id: identity.0,
        history_id: identity.1,
        created_at_us: wall_micros(),
        shards: config.shards,
        lsn_floor: floor,
        seal: seal.clone(),
    })?;
    for cut in &resolution.cuts {
        tracing::warn!(?cut, "an unfinished commit at the end of a log was cut off");
    }
    let leftovers = recovery.take_leftovers()?;
    Ok(Ground { recovery: Some(recovery), start, identity, floor, with_tail, leftovers, seal })
}

fn check_clock(config: &EngineConfig, floor: Lsn) -> Result<(), OpenError> {
    let ahead_micros = floor.micros().saturating_sub(wall_micros());
    if ahead_micros > MAX_AHEAD.as_micros() as u64 && !config.accept_clock {
        return Err(OpenError::ClockBehind { ahead_s: ahead_micros / 1_000_000 });
    }
    Ok(())
}

fn share(config: &EngineConfig) -> Result<Shared, OpenError> {
    let mut run_id = String::new();
    for _ in 0..3 {
        let random = random_u64()
            .map_err(|source| io_error("read random bytes from", "the kernel", source))?;
        run_id.push_str(&format!("{random:016x}"));
    }
    run_id.truncate(40);
    let identity = ServerIdentity {
        node_base: run_id.clone(),
        run_id,
        node_name: config.node_name.clone(),
        announce_host: config.announce_host.clone(),
        data_dir: config.data_dir.as_ref().map(|dir| {
            // As a tool in another folder needs it.
            std::path::absolute(dir).unwrap_or_else(|_| dir.clone()).display().to_string()
        }),
        fsync: config.fsync,
        log: config.log,
        started_at_micros: wall_micros(),
    };
    let settings = Settings {
        password: config.password.clone(),
        max_clients: config.max_clients,
        timeout_s: 0,
    };
    let shared = Shared::new(SlotMap::new(config.shards), identity, settings);
    shared.usage.get_or_init(|| super::usage::measure);
    shared.keeps_expired.store(config.keep_expired, Ordering::Relaxed);
    Ok(shared)
}

/// What every shard gets one of.
struct Parts {
    doorbells: Vec<Doorbell>,
    senders: Vec<InboxSender<ToShard>>,
    inboxes: Vec<Inbox<ToShard>>,
}

impl Parts {
    fn new(shards: u16) -> Result<Self, OpenError> {
        let doorbells: Result<Vec<_>, _> = (0..shards).map(|_| Doorbell::new()).collect();
        let doorbells = doorbells.map_err(|source| io_error("create", "an eventfd", source))?;
        let inboxes = doorbells.iter().map(|bell| Inbox::new(INBOX_CAPACITY, bell.clone()));
        let (senders, inboxes) = inboxes.unzip();
        Ok(Self { doorbells, senders, inboxes })
    }
}

/// Binds the common port for all shards, and each shard's own.
fn bind(
    config: &EngineConfig,
    shared: &Shared,
) -> Result<Vec<Vec<std::net::TcpListener>>, OpenError> {
    let Some(address) = config.listen else {
        return Ok((0..config.shards).map(|_| Vec::new()).collect());
    };
    let mut ports = Ports::default();
    let mut listeners = Vec::new();
    for (shard, common) in listen::bind_group(address, config.shards)?.into_iter().enumerate() {
        let port = config.shard_port_base.map_or(0, |base| base.saturating_add(shard as u16));
        let own = listen::bind_exclusive(SocketAddr::new(address.ip(), port))?;
        let local = |listener: &std::net::TcpListener| {
            listener
                .local_addr()
                .map_err(|source| io_error("read the address of", "a listener", source))
        };
        ports.common = Some(local(&common)?);
        ports.shards.push(local(&own)?);
        listeners.push(vec![common, own]);
    }
    let set = shared.ports.set(ports);
    debug_assert!(set.is_ok(), "ports are bound once");
    Ok(listeners)
}

fn set_up(
    config: &EngineConfig,
    ground: &Ground,
    time: &Arc<TimeSource>,
    shared: &Arc<Shared>,
    parts: &mut Parts,
    listeners: Vec<Vec<std::net::TcpListener>>,
) -> Result<(Vec<ShellSetup>, Option<Provider>), OpenError> {
    let (requests, to_provider) = flume::unbounded();
    let provider = config.data_dir.as_ref().filter(|_| config.log).map(|dir| {
        let plan = SegmentPlan {
            dir: log_dir(dir),
            database_id: ground.identity.0,
            history_id: ground.identity.1,
            start: ground.start,
            shards: config.shards,
            segment_bytes: config.segment_bytes,
            fsync: config.fsync,
            seal: ground.seal.clone(),
        };
        Provider::new(plan, to_provider, parts.senders.clone(), ground.leftovers.clone())
    });
    let seed =
        random_u64().map_err(|source| io_error("read random bytes from", "the kernel", source))?;
    let mut setups = Vec::new();
    let meshes = Mesh::new(config.shards);
    let each = meshes.into_iter().zip(parts.inboxes.drain(..)).zip(listeners);
    for (shard, ((mesh, inbox), listeners)) in each.enumerate() {
        let id = ShardId(shard as u16);
        let journal = if config.log {
            let log = LogId { start: ground.start, shard: id };
            Journal::new(
                LogWriter::new(WriterConfig {
                    log,
                    segment_bytes: config.segment_bytes,
                    fsync: config.fsync,
                    pending_limit_bytes: PENDING_LOG_BYTES,
                }),
                config.fsync,
            )
        } else {
            Journal::none()
        };
        setups.push(ShellSetup {
            core: ShardSetup {
                id,
                start: ground.start,
                shared: Arc::clone(shared),
                floor: ground.floor,
                now_micros: time.now_micros(),
                journal,
                seed,
            },
            mesh,
            doorbells: parts.doorbells.clone(),
            inbox,
            replier: parts.senders[shard].clone(),
            listeners,
            provider: requests.clone(),
            time: Arc::clone(time),
            admin: config.admin.clone(),
        });
    }
    Ok((setups, provider))
}

/// Fills the shards and lets them serve.
#[expect(clippy::disallowed_methods, reason = "how long a start took is for people to read")]
fn load(
    engine: &Engine,
    ground: &Ground,
    image: Option<&dyn ImageSource>,
) -> Result<Recovered, OpenError> {
    let began = std::time::Instant::now();
    let shards = engine.shared.slots.shards();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let loader = Loader::new(&engine.inboxes, engine.shared.slots, threads);
    if let Some(image) = image {
        loader.image(image, ground.with_tail)?;
    }
    let mut recovered = Recovered {
        image: image.map(ImageSource::name),
        identity: ground.identity,
        ..Recovered::default()
    };
    if let Some(recovery) = &ground.recovery {
        loader.logs(recovery)?;
        recovered.dropped_transactions = recovery.resolution().dropped.len();
    }
    for shard in 0..shards {
        let (done, serves) = flume::bounded(1);
        let message = ToShard::FinishLoading { floor: ground.floor, done };
        let sent = engine.inboxes[shard as usize].send(message).is_ok();
        if !sent || serves.recv().is_err() {
            return Err(OpenError::Config("a shard has stopped while loading".to_owned()));
        }
    }
    recovered.keys = engine.shared.all_stats().iter().map(|stats| stats.total_keys()).sum();
    recovered.elapsed = began.elapsed();
    Ok(recovered)
}

fn io_error(what: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> OpenError {
    OpenError::Io { what, path: path.into(), source }
}
