//! A plan as an image that an engine loads: the base is a layer, so is every delta, and the log
//! behind them is one more, read object by object with a little ahead.

use std::sync::Arc;

use bytes::Bytes;
use cutwater_engine::ImageSource;
use cutwater_engine::log::Coverage;
use cutwater_engine::seal::Keyring;
use cutwater_engine::types::Lsn;
use cutwater_snapshot::ObjectStore;
use cutwater_snapshot::archive::object::decode;
use cutwater_snapshot::archive::{WalHeader, WalNumber};
use cutwater_snapshot::chunk::ChunkKind;
use cutwater_snapshot::error::{Flaw, SnapshotError};
use cutwater_snapshot::paths;
use cutwater_snapshot::plan::WalPiece;
use cutwater_snapshot::reader::{CoreReader, receive_unless};
use cutwater_snapshot::sealing::Unlocked;
use tokio::runtime::Handle;

use super::gauge::Gauge;

/// Archive objects that are read ahead.
const OBJECTS_AHEAD: usize = 2;

/// See the module.
pub struct PlanImage {
    /// Where the store is read.
    pub runtime: Handle,
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// What opens the archive's objects.
    pub keys: Keyring,
    /// The base, and the deltas on top of it.
    pub snapshots: Vec<Unlocked>,
    /// Whether the last of them is read with its tail: without, it is what the parts held when they
    /// froze.
    pub with_last_tail: bool,
    /// The log behind them: what is taken of which object.
    pub wal: Vec<(WalPiece, WalHeader)>,
    /// The moment.
    pub target: Lsn,
    /// How far it is, and whether it is still wanted.
    pub gauge: Arc<Gauge>,
}

/// Why a record was not taken.
struct Refused(String);

impl From<Flaw> for Refused {
    fn from(flaw: Flaw) -> Self {
        Self(flaw.to_string())
    }
}

impl ImageSource for PlanImage {
    fn name(&self) -> String {
        let snapshots: Vec<String> =
            self.snapshots.iter().map(|snapshot| snapshot.name().to_string()).collect();
        format!("{} and {} objects of the archive", snapshots.join(", "), self.wal.len())
    }

    fn coverage(&self) -> Option<Coverage> {
        None
    }

    fn end_lsn(&self) -> Lsn {
        self.target
    }

    fn layers(&self) -> usize {
        self.snapshots.len() + usize::from(!self.wal.is_empty())
    }

    fn parts(&self, layer: usize) -> usize {
        self.snapshots.get(layer).map_or(1, |snapshot| snapshot.cores().len())
    }

    fn read(
        &self,
        layer: usize,
        part: usize,
        with_tail: bool,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        match self.snapshots.get(layer) {
            Some(snapshot) => {
                let is_last = layer + 1 == self.snapshots.len();
                let with_tail = with_tail && (self.with_last_tail || !is_last);
                self.read_part(snapshot, part, with_tail, sink)
            }
            None => self.read_wal(sink),
        }
    }
}

impl PlanImage {
    fn read_part(
        &self,
        snapshot: &Unlocked,
        part: usize,
        with_tail: bool,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let core = snapshot.cores().get(part).ok_or("no such part")?.core;
        let mut reader = CoreReader::open(&self.runtime, Arc::clone(&self.store), snapshot, core);
        let mut counted = 0;
        loop {
            let next = reader.next_blocking_unless(self.gauge.stopped());
            let read_bytes = reader.read_bytes();
            self.gauge.snapshots.add(read_bytes - counted);
            counted = read_bytes;
            let Some(chunk) = next.map_err(|error| self.gauge.failed(error))? else { break };
            match chunk.kind {
                ChunkKind::Image => sink(&chunk.body)?,
                _ if !with_tail => {}
                _ => {
                    for record in chunk.records() {
                        sink(record.map_err(|flaw| flaw.to_string())?.ops)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// All of the log in order: what one object holds of a slot comes before what the next does.
    fn read_wal(&self, sink: &mut dyn FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        let (sender, objects) = flume::bounded(OBJECTS_AHEAD);
        let numbers: Vec<WalNumber> = self.wal.iter().map(|(piece, _)| piece.number).collect();
        self.runtime.spawn(fetch(Arc::clone(&self.store), numbers, sender));
        for (piece, planned) in &self.wal {
            let number = piece.number;
            let name = || paths::wal(number.0).to_string();
            let object = receive_unless(&objects, self.gauge.stopped());
            let object = object.ok_or_else(|| "the reading has stopped".to_owned())?;
            let object = object.map_err(|error| self.gauge.failed(error))?;
            let (header, body) =
                decode(number, &object, &self.keys).map_err(|error| self.gauge.failed(error))?;
            if header.link != planned.link {
                return Err(format!("{} was replaced since it was planned", name()));
            }
            let applied = body.for_each::<Refused>(&mut |record| {
                if record.lsn <= piece.above || record.lsn > piece.up_to {
                    return Ok(());
                }
                sink(record.ops).map_err(Refused)
            });
            applied.map_err(|Refused(reason)| format!("{}: {reason}", name()))?;
            self.gauge.log.add(planned.object_bytes());
        }
        Ok(())
    }
}

/// Reads the objects in order; ends when the receiver has gone.
async fn fetch(
    store: Arc<dyn ObjectStore>,
    numbers: Vec<WalNumber>,
    sender: flume::Sender<Result<Bytes, SnapshotError>>,
) {
    for number in numbers {
        let path = paths::wal(number.0);
        let object = cutwater_snapshot::store::get(&*store, &path).await.map_err(Into::into);
        let is_last = object.is_err();
        if sender.send_async(object).await.is_err() || is_last {
            return;
        }
    }
}
