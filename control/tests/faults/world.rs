//! One run: a server that is started, used, and killed several times, until the stores are calm.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cutwater_control::coordinator::remote::{self, Asked, RemoteConfig, RemoteState};
use cutwater_control::coordinator::upload::{DELETED, LocalView, Uploads};
use cutwater_engine::entry::{Op, ValueKind};
use cutwater_engine::seal::{Keyring, MasterKey};
use cutwater_engine::types::{DbIndex, LogId, Lsn, Position, ShardId, StartId};
use cutwater_snapshot::archive::body::{BodyBuilder, WalRecord};
use cutwater_snapshot::archive::{
    Archive, ArchiveError, ArchiveWriter, Draft, Packing, Secrets, WalWriterId, find_head,
};
use cutwater_snapshot::catalog::Catalog;
use cutwater_snapshot::claim::Claimant;
use cutwater_snapshot::core_writer::PartPoint;
use cutwater_snapshot::delete::{delete_snapshot, sweep_leftovers};
use cutwater_snapshot::error::SnapshotError;
use cutwater_snapshot::ident::{
    DatabaseId, HistoryId, Identity, SnapshotUuid, WalUuid, WriterNonce,
};
use cutwater_snapshot::manifest::Manifest;
use cutwater_snapshot::rekey::rekey;
use cutwater_snapshot::throttle::Throttle;
use cutwater_snapshot::verify::verify;
use cutwater_snapshot::writer::{Parent, SnapshotSpec, SnapshotWriter};
use object_store::ObjectStore;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::rng::Rng;
use crate::store::{FaultyStore, Weather};

const IDENTITY: Identity =
    Identity { database: DatabaseId([0xDA; 16]), history: HistoryId([0x41; 16]), fork: None };
/// How long everything pending may take once the stores are calm.
const CALM_LIMIT: Duration = Duration::from_secs(3_600);

/// What runs did.
#[derive(Clone, Debug, Default)]
pub struct Done {
    pub starts: u64,
    pub snapshots: u64,
    pub deltas: u64,
    pub rekeyed: u64,
    pub deletions: u64,
    pub uploads: u64,
    pub archived: u64,
    pub superseded: u64,
}

impl Done {
    /// Adds what another run did.
    pub fn add(&mut self, other: &Self) {
        self.starts += other.starts;
        self.snapshots += other.snapshots;
        self.deltas += other.deltas;
        self.rekeyed += other.rekeyed;
        self.deletions += other.deletions;
        self.uploads += other.uploads;
        self.archived += other.archived;
        self.superseded += other.superseded;
    }
}

/// Runs one seed; what it did, or what was wrong.
pub fn run(seed: u64) -> Result<Done, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(World::new(seed).live())
}

/// Two keys, the first of which is active.
fn keys(ids: [&str; 2]) -> Keyring {
    let key = |id: &str| (id.parse().unwrap(), MasterKey::new([id.as_bytes()[1]; 32]));
    Keyring::new(ids.map(key).to_vec()).unwrap()
}

struct World {
    rng: Rng,
    local: FaultyStore,
    remote: FaultyStore,
    keys: Keyring,
    lsn: u64,
    /// The archive was told to reach this.
    archived_to: u64,
    archived: Vec<WalUuid>,
    /// Servers that were superseded and do not know it.
    zombies: Vec<Server>,
    done: Done,
}

/// A server that runs.
struct Server {
    claimant: Claimant,
    catalog: Catalog,
    uploads: Uploads,
    state: watch::Receiver<RemoteState>,
    tasks: Vec<JoinHandle<()>>,
    archive: Option<ArchiveWriter>,
    draft: Option<Draft>,
    /// A snapshot failed, and may be published all the same, on top of whatever was the newest.
    is_unsure: bool,
}

impl Server {
    fn kill(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (local, remote) = (FaultyStore::new(rng.any()), FaultyStore::new(rng.any()));
        local.audit(|audit| audit.may_skip_ids = true);
        let keys = if rng.chance(30) { keys(["k1", "k2"]) } else { Keyring::default() };
        Self {
            rng,
            local,
            remote,
            keys,
            lsn: 1_000,
            archived_to: 0,
            archived: Vec::new(),
            zombies: Vec::new(),
            done: Done::default(),
        }
    }

    fn local(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.local.clone())
    }

    async fn live(mut self) -> Result<Done, String> {
        for _ in 0..1 + self.rng.below(4) {
            self.change_weather();
            let Some(mut server) = self.start().await? else { continue };
            for _ in 0..2 + self.rng.below(10) {
                self.act(&mut server).await?;
                self.check(&server)?;
            }
            self.end(server).await;
        }
        self.local.set_weather(Weather::Calm);
        self.remote.set_weather(Weather::Calm);
        let server = self.start().await?.ok_or("no start although all is calm")?;
        self.finish(server).await
    }

    fn change_weather(&mut self) {
        let weather = match self.rng.below(6) {
            0 | 1 => Weather::Calm,
            2 => Weather::Flaky(5),
            3 => Weather::Flaky(40),
            4 => Weather::Slow(1 + self.rng.below(40)),
            _ => Weather::Silent,
        };
        self.remote.set_weather(weather);
        // A disk is full or fails now and then; it does not keep one waiting.
        let is_bad = self.rng.chance(15);
        self.local.set_weather(if is_bad { Weather::Flaky(5) } else { Weather::Calm });
    }

    fn config(&mut self) -> RemoteConfig {
        RemoteConfig {
            store: Arc::new(self.remote.clone()),
            url: "memory:".into(),
            single_writer: false,
            upload_limit_bytes_per_s: self
                .rng
                .chance(20)
                .then(|| 100_000 + self.rng.below(1 << 20)),
            archive_interval: Duration::from_secs(10),
            archive_backlog_bytes: 1 << 30,
            shutdown_timeout: Duration::from_secs(10),
        }
    }

    /// A start, as the database's; `None` where the local store keeps it from one.
    async fn start(&mut self) -> Result<Option<Server>, String> {
        let nonce = WriterNonce(u128::from(self.rng.any()).to_le_bytes());
        let Ok(taken) = Claimant::take_over(self.local(), IDENTITY, nonce, 1).await else {
            return Ok(None);
        };
        let Ok(catalog) = Catalog::load(&self.local, IDENTITY.database).await else {
            return Ok(None);
        };
        if sweep_leftovers(&self.local, &catalog).await.is_err() {
            return Ok(None);
        }
        let config = self.config();
        let answer = remote::probe_start(&config, IDENTITY).await;
        let answer = answer.map_err(|error| format!("a fault was taken for a refusal: {error}"))?;
        let asked = answer.map_or(Asked::Answered, Asked::Silent);
        let view = LocalView::of(&catalog);
        let keep = view.uuids();
        let (state, seeker) = remote::start(config.clone(), IDENTITY, keep, None, asked).await;
        let throttle = Arc::new(Throttle::new(config.upload_limit_bytes_per_s));
        let throttled = (state.clone(), throttle);
        let (uploads, uploader) =
            Uploads::start(&config, self.local(), self.keys.clone(), throttled, view);
        self.done.starts += 1;
        let tasks = vec![seeker, uploader];
        let claimant = taken.claimant;
        Ok(Some(Server {
            claimant,
            catalog,
            uploads,
            state,
            tasks,
            archive: None,
            draft: None,
            is_unsure: false,
        }))
    }

    /// The server ends: killed at some moment, stopped in order, or left behind.
    async fn end(&mut self, server: Server) {
        match self.rng.below(4) {
            0 => server.uploads.finish(Duration::from_secs(10)).await,
            // One that was never the writer would become it yet, which is a takeover, not a fault.
            1 if !matches!(&*server.state.borrow(), RemoteState::Connecting { .. }) => {
                return self.zombies.push(server);
            }
            _ => sleep(Duration::from_millis(self.rng.below(2_000))).await,
        }
        server.kill();
    }

    async fn act(&mut self, server: &mut Server) -> Result<(), String> {
        match self.rng.below(13) {
            0..4 => self.snapshot(server).await,
            12 => self.rekey().await,
            4 | 5 => self.delete(server).await,
            6 | 7 => self.archive(server).await?,
            8 => self.list().await?,
            9 => self.change_weather(),
            _ => sleep(Duration::from_millis(self.rng.below(120_000))).await,
        }
        Ok(())
    }

    async fn snapshot(&mut self, server: &mut Server) {
        if let Some(taken) = server.uploads.last_id() {
            server.claimant.skip_past(taken);
        }
        // Sometimes it is killed in the middle, with the claim that it had.
        let limit = Duration::from_millis(if self.rng.chance(10) { 1 } else { 600_000 });
        let newest = server.catalog.published().next_back().cloned();
        let parent = newest.filter(|_| self.rng.chance(50));
        let taken = timeout(limit, self.write(&mut server.claimant, parent.as_ref())).await;
        if let Ok(Ok(manifest)) = taken {
            self.done.deltas += u64::from(parent.is_some());
            server.catalog.add(manifest);
            server.uploads.show(&server.catalog);
            self.done.snapshots += 1;
        } else {
            server.is_unsure = true;
        }
    }

    /// A base, or a delta on top of a snapshot.
    async fn write(
        &mut self,
        claimant: &mut Claimant,
        parent: Option<&Manifest>,
    ) -> Result<Manifest, SnapshotError> {
        self.lsn += 1 + self.rng.below(1_000);
        let begin = self.lsn;
        let uuid = SnapshotUuid(u128::from(self.rng.any()).to_le_bytes());
        let parts = 1 + self.rng.below(3) as u16;
        let parts = parent.map_or(parts, |parent| parent.cores().len() as u16);
        let spec = SnapshotSpec {
            piece_limit_bytes: 300,
            parent: parent.map(Parent::of),
            ..SnapshotSpec::base(Lsn(begin), parts, uuid, 5)
        };
        let writer = SnapshotWriter::begin(claimant, spec, &self.keys).await?;
        let mut finished = Vec::new();
        for core in 0..parts {
            let mut part = writer.core(ShardId(core));
            // Now and then one that goes up in parts.
            let bytes = if self.rng.below(400) == 0 { 17 << 20 } else { self.rng.below(200) };
            for n in 0..1 + self.rng.below(4) {
                let value = vec![n as u8; bytes as usize];
                let (db, kind, key) = (DbIndex(0), ValueKind::String, format!("{core}:{n}"));
                let (key, value) = (key.as_bytes(), value.as_slice());
                let mut body = Vec::new();
                Op::Put { db, key, kind, expires_at_ms: None, value }.encode(&mut body);
                part.image(Bytes::from(body), 1).await?;
            }
            let log_id = LogId { start: StartId(1), shard: ShardId(core) };
            let (watermark, position) = (Lsn(begin), Position(7));
            finished.push(part.finish(PartPoint { watermark, log_id, position }).await?);
        }
        writer.finish(finished, Vec::new()).await
    }

    async fn delete(&mut self, server: &mut Server) {
        let protected = server.catalog.newest_two_checkpoints();
        let ids: Vec<_> = server.catalog.published().map(Manifest::id).collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.rng.below(ids.len() as u64) as usize];
        if server.is_unsure || server.catalog.check_childless(id).is_err() {
            return;
        }
        if let Ok((tombstone, _)) = delete_snapshot(&self.local, id, &protected, DELETED).await {
            server.catalog.bury(tombstone);
            server.uploads.show(&server.catalog);
            self.done.deletions += 1;
        }
    }

    /// Brings what is in the remote store under the other key, as the command line does beside a
    /// server; a store that fails keeps some under the first.
    async fn rekey(&mut self) {
        let Some((active, _)) = self.keys.active() else { return };
        let order = if active.to_string() == "k1" { ["k2", "k1"] } else { ["k1", "k2"] };
        self.keys = keys(order);
        let limit = Duration::from_secs(600);
        let rekeyed = timeout(limit, rekey(&self.remote, None, &self.keys)).await;
        if let Ok(Ok(rekeyed)) = rekeyed {
            self.done.rekeyed += rekeyed.manifests.len() as u64;
        }
    }

    async fn archive(&mut self, server: &mut Server) -> Result<(), String> {
        let RemoteState::Writer(lease) = server.state.borrow().clone() else { return Ok(()) };
        if server.archive.is_none() {
            let Ok(head) = find_head(&*lease.store, IDENTITY).await else { return Ok(()) };
            let there = head.own.as_ref().map_or(0, |header| header.to.0);
            if there < self.archived_to {
                return Err(format!("the archive reaches {there}, not {}", self.archived_to));
            }
            // What was put and never acknowledged is there all the same.
            self.archived_to = there;
            let (epoch, nonce) = (lease.epoch, lease.nonce);
            let id = WalWriterId { identity: IDENTITY, epoch, nonce };
            let packing = Packing { keys: self.keys.clone(), ..Packing::default() };
            let store = Arc::clone(&lease.store);
            server.archive = Some(ArchiveWriter::new(store, id, packing, &head));
        }
        let draft = server.draft.take().unwrap_or_else(|| self.draft());
        let writer = server.archive.as_mut().expect("just made");
        match writer.put(&draft).await {
            Ok(put) => {
                self.archived_to = put.header().to.0;
                self.archived.push(put.header().link.uuid);
                self.done.archived += 1;
            }
            Err(ArchiveError::Fenced { own, found }) => {
                return Err(format!("the only server ({own}) met a newer one ({found})"));
            }
            Err(_) => server.draft = Some(draft),
        }
        Ok(())
    }

    fn draft(&mut self) -> Draft {
        self.lsn += 1 + self.rng.below(100);
        let mut body = BodyBuilder::default();
        let log = LogId { start: StartId(1), shard: ShardId(0) };
        body.push(WalRecord { log, lsn: Lsn(self.lsn), ops: b"ops" });
        Draft {
            uuid: WalUuid(u128::from(self.rng.any()).to_le_bytes()),
            from: Lsn(self.archived_to),
            to: Lsn(self.lsn),
            created_at_us: 1,
            body: body.finish(),
            secrets: Secrets { data_key: [1; 32], wrap_nonce: [2; 12], salt: [3; 32] },
        }
    }

    /// A listing is whole or an error.
    async fn list(&mut self) -> Result<(), String> {
        for store in [&self.local, &self.remote] {
            let names = || -> BTreeSet<_> {
                store.audit(|audit| audit.all_published().iter().map(Manifest::name).collect())
            };
            let before = names();
            let Ok(catalog) = Catalog::load(store, IDENTITY.database).await else { continue };
            let after = names();
            let found: BTreeSet<_> = catalog.published().map(Manifest::name).collect();
            let lost: Vec<_> = before.intersection(&after).filter(|n| !found.contains(n)).collect();
            if !lost.is_empty() {
                return Err(format!("a listing lacks {lost:?}"));
            }
        }
        Ok(())
    }

    /// What a server says is uploaded is there, or was deleted.
    fn check(&self, server: &Server) -> Result<(), String> {
        for store in [&self.local, &self.remote] {
            let wrong = store.audit(|audit| audit.wrong().first().cloned());
            if let Some(wrong) = wrong {
                return Err(wrong);
            }
        }
        let there: BTreeSet<_> = self.remote_uuids();
        let kept: BTreeSet<_> = server.catalog.published().map(Manifest::snapshot_uuid).collect();
        let status = server.uploads.status();
        let mut uploaded = status.uploaded.keys().filter(|uuid| kept.contains(uuid));
        match uploaded.find(|uuid| !there.contains(uuid)) {
            Some(uuid) => Err(format!("{uuid} was said to be uploaded")),
            None => Ok(()),
        }
    }

    fn remote_uuids(&self) -> BTreeSet<SnapshotUuid> {
        let published = self.remote.audit(|audit| audit.all_published());
        published.iter().map(Manifest::snapshot_uuid).collect()
    }

    /// All is calm: everything pending comes about, and everything is whole.
    async fn finish(mut self, mut server: Server) -> Result<Done, String> {
        self.snapshot(&mut server).await;
        let is_over = async {
            loop {
                let status = server.uploads.status();
                if status.is_known && status.pending + status.pending_deletions == 0 {
                    return;
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        if timeout(CALM_LIMIT, is_over).await.is_err() {
            let status = server.uploads.status();
            return Err(format!("not over: {status:?} {:?}", server.state.borrow().name()));
        }
        // Whatever lands late has landed, and who was superseded has found out.
        sleep(CALM_LIMIT).await;
        for _ in 0..2 {
            self.archive(&mut server).await?;
        }
        self.check(&server)?;
        for zombie in &self.zombies {
            let is_superseded = matches!(&*zombie.state.borrow(), RemoteState::Superseded { .. });
            if !is_superseded {
                return Err(format!("an earlier server is {}", zombie.state.borrow().name()));
            }
            self.done.superseded += 1;
            zombie.kill();
        }
        let local: BTreeSet<_> = LocalView::of(&server.catalog).uuids();
        let remote = self.remote_uuids();
        if local != remote {
            return Err(format!("local {local:?} and remote {remote:?}"));
        }
        self.done.uploads += remote.len() as u64;
        for store in [&self.local, &self.remote] {
            let whole: Arc<dyn ObjectStore> = Arc::new(store.clone());
            for manifest in store.audit(|audit| audit.all_published()) {
                let verified = verify(&whole, manifest.id(), &self.keys, &|_| ()).await;
                verified.map_err(|error| format!("{}: {error}", manifest.name()))?;
            }
        }
        self.check_archive().await?;
        server.kill();
        Ok(self.done)
    }

    async fn check_archive(&self) -> Result<(), String> {
        let archive = Archive::load(&self.remote, IDENTITY.database).await;
        let archive = archive.map_err(|error| error.to_string())?;
        let chain = archive.chain(IDENTITY.history);
        if let Some(pair) = chain.windows(2).find(|pair| pair[0].to != pair[1].from) {
            return Err(format!("the archive has a hole: {pair:?}"));
        }
        let found: BTreeSet<_> = chain.iter().map(|header| header.link.uuid).collect();
        match self.archived.iter().find(|uuid| !found.contains(uuid)) {
            Some(uuid) => Err(format!("{uuid:?} was archived and is in no chain")),
            None => Ok(()),
        }
    }
}
