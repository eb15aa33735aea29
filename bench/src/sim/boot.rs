//! A start, as the engine makes it: find out what the logs hold, decide it durably, load an image
//! and what continues it, serve. Beside it a comparison that the engine does not make: every way to
//! get at the state has to lead to the same.

use std::path::Path;
use std::sync::Arc;

use cutwater_engine::log::segment::segment_name;
use cutwater_engine::log::{
    LogDisk, LogError, LogKeys, LogWriter, NewStart, Record, Recovery, WriterConfig,
};
use cutwater_engine::shard::core::{ShardCore, ShardSetup};
use cutwater_engine::shard::journal::Journal;
use cutwater_engine::shard::load::Division;
use cutwater_engine::shard::shared::{ServerIdentity, Settings, Shared};
use cutwater_engine::slot::SlotMap;
use cutwater_engine::types::{Fsync, LogId, Lsn, ShardId, StartId};

use super::image::Image;
use super::mutation::Mutation;
use super::sealing::Sealing;
use super::snapshot::Complete;

/// The database and the history of every run.
pub const IDENTITY: (u128, u128) = (7, 8);

/// What a start needs.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The log folder.
    pub dir: &'a Path,
    /// How many shards.
    pub shards: u16,
    /// When replies may leave.
    pub fsync: Fsync,
    /// The size of segments.
    pub segment_bytes: u64,
    /// What is taken away.
    pub mutation: Mutation,
    /// Seeds the hash of keys.
    pub seed: u64,
    /// Now.
    pub now_micros: u64,
    /// Where the newest snapshot or the archive ends.
    pub published: Lsn,
}

/// Shards that are loaded and serve.
#[derive(Debug)]
pub struct Booted {
    /// The shards.
    pub cores: Vec<ShardCore>,
    /// Which start it is.
    pub start: StartId,
    /// A reading of the clock that is above everything found.
    pub now_micros: u64,
}

/// Starts from an image, or from the logs alone.
///
/// # Errors
/// Why the start is refused.
pub fn boot(
    disk: Arc<dyn LogDisk>,
    plan: &Plan<'_>,
    image: Option<&Complete>,
    sealing: &mut Sealing,
) -> Result<Booted, String> {
    disk.create_dir(plan.dir).map_err(|error| error.to_string())?;
    let text = |error: &dyn std::error::Error| error.to_string();
    let keys = sealing.keys.clone();
    let scanned = Recovery::scan(Arc::clone(&disk), plan.dir, keys);
    let mut recovery = scanned.map_err(|error| text(&error))?;
    recovery.keep(plan.published);
    let coverage = image.map(|image| &image.coverage);
    let resolution = recovery.resolve(coverage).map_err(|error| text(&error))?.clone();
    let floor = resolution.max_lsn.max(image.map_or(Lsn::ZERO, |image| image.end));
    let floor = floor.max(plan.published);
    let new = NewStart {
        database_id: IDENTITY.0,
        history_id: IDENTITY.1,
        created_at_us: plan.now_micros,
        shards: plan.shards,
        lsn_floor: floor,
        seal: sealing.of_start(resolution.next_start),
    };
    sealing.seal.clone_from(&new.seal);
    recovery.write_start_record(&new).map_err(|error| text(&error))?;
    for (log, index) in recovery.take_leftovers().map_err(|error| text(&error))? {
        let path = plan.dir.join(segment_name(log, index));
        disk.remove(&path).map_err(|error| error.to_string())?;
    }
    let start = resolution.next_start;
    let now_micros = plan.now_micros.max(floor.micros() + 1);
    let mut cores = cores(plan, start, floor, now_micros);
    let slots = SlotMap::new(plan.shards);
    let mut division = Division::new(slots);
    for ops in image.iter().flat_map(|image| &image.parts) {
        division.add(ops).map_err(|error| error.to_string())?;
    }
    for log in &resolution.logs {
        let add = &mut |record: &Record<'_>| {
            division.add(record.ops).map_err(|error| ReplayError(error.to_string()))
        };
        recovery.replay(log.log, Lsn::ZERO, add).map_err(|error| error.0)?;
    }
    for (core, ops) in cores.iter_mut().zip(&division.parts) {
        core.load(ops).map_err(|error| error.to_string())?;
        core.finish_loading(floor);
    }
    Ok(Booted { cores, start, now_micros })
}

/// The state that an image and the logs lead to; with a limit, the state at that LSN of a start.
///
/// # Errors
/// Why the logs do not lead anywhere.
pub fn replayed(
    disk: Arc<dyn LogDisk>,
    (dir, keys): (&Path, &LogKeys),
    image: Option<&Complete>,
    published: Lsn,
    limit: Option<(StartId, Lsn)>,
) -> Result<Image, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let mut recovery = Recovery::scan(disk, dir, keys.clone()).map_err(|error| text(&error))?;
    recovery.keep(published);
    let coverage = image.map(|image| &image.coverage);
    let resolution = recovery.resolve(coverage).map_err(|error| text(&error))?.clone();
    let mut state = image.map_or(Ok(Image::default()), Complete::base)?;
    for log in &resolution.logs {
        let wanted = |lsn: Lsn| match limit {
            Some((start, end)) if log.log.start == start => lsn <= end,
            Some((start, _)) => log.log.start < start,
            None => true,
        };
        let apply = &mut |record: &Record<'_>| {
            if wanted(record.lsn) {
                state.apply(record.ops).map_err(|error| ReplayError(error.to_string()))?;
            }
            Ok(())
        };
        recovery.replay(log.log, Lsn::ZERO, apply).map_err(|error: ReplayError| error.0)?;
    }
    Ok(state)
}

/// A replay that was ended.
struct ReplayError(String);

impl From<LogError> for ReplayError {
    fn from(error: LogError) -> Self {
        Self(error.to_string())
    }
}

fn cores(plan: &Plan<'_>, start: StartId, floor: Lsn, now_micros: u64) -> Vec<ShardCore> {
    let identity = ServerIdentity {
        run_id: "0".repeat(40),
        node_base: "0".repeat(40),
        node_name: None,
        announce_host: None,
        data_dir: Some("simulated".to_owned()),
        fsync: plan.fsync,
        log: true,
        started_at_micros: now_micros,
    };
    let settings = Settings { password: Vec::new(), max_clients: 1_000, timeout_s: 0 };
    let shared = Arc::new(Shared::new(SlotMap::new(plan.shards), identity, settings));
    let core = |shard| {
        let id = ShardId(shard);
        let writer = LogWriter::new(WriterConfig {
            log: LogId { start, shard: id },
            segment_bytes: plan.segment_bytes,
            fsync: plan.fsync,
            pending_limit_bytes: 1 << 20,
        });
        let journal = match plan.mutation {
            Mutation::NoGate => Journal::without_gate(writer, plan.fsync),
            _ => Journal::new(writer, plan.fsync),
        };
        let shared = Arc::clone(&shared);
        let seed = plan.seed;
        ShardCore::new(ShardSetup { id, start, shared, floor, now_micros, journal, seed })
    };
    (0..plan.shards).map(core).collect()
}
