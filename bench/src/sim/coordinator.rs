//! The world's part in snapshots: when one begins, how long what the control plane says is on its
//! way, and what becomes of log that two complete ones cover.

use std::sync::Arc;

use cutwater_engine::log::segment::retire_segment;
use cutwater_engine::log::{LogDisk, obsolete_files};
use cutwater_engine::shard::cut::CutRequest;
use cutwater_engine::types::{LogId, Lsn, ShardId, SnapshotId};

use super::node::{Control, Node};
use super::snapshot::Shot;
use super::world::World;

/// How many older snapshots a new one is compared with.
const DELTA_PARENTS: usize = 2;

impl World {
    /// Begins one, unless one is under way.
    pub(super) fn begin_snapshot(&mut self) {
        let busy = |node: &Node| node.core.waits_for_consumer() || !node.control.is_empty();
        if self.shot.is_some() || self.nodes.iter().any(busy) {
            return;
        }
        self.snapshots += 1;
        let id = SnapshotId(self.snapshots);
        let limit_bytes = *self.rng.pick(&[200, 2_000, 1 << 20]);
        let stuck = self.rng.chance(20);
        let shot = Shot::new(id, self.nodes.len(), limit_bytes, stuck);
        let ahead = *self.rng.pick(&[0, 0, 50, 2_000]);
        let cut = Lsn::from_micros(self.now_micros + ahead);
        let budget = Arc::clone(&shot.budget);
        let stall_limit_ms = self.rng.between(1, 500);
        for node in &mut self.nodes {
            let budget = Arc::clone(&budget);
            let request =
                CutRequest { id, cut, budget, stall_limit_ms, digest_seed: 0, serializes: true };
            node.control.push_back(Control::Begin(request));
        }
        self.shot = Some(shot);
    }

    /// A shard hears what the control plane said.
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn control(&mut self, node: usize) -> Result<(), String> {
        match self.nodes[node].control.pop_front() {
            Some(Control::Begin(request)) => self.turn(node, |core, _| core.begin_cut(request)),
            Some(Control::End(id, end)) => self.turn(node, |core, _| core.end_cut(id, end)),
            Some(Control::Cancel(id)) => self.turn(node, |core, _| core.cancel_cut(id)),
            Some(Control::Release(before)) => {
                let writer = self.nodes[node].core.journal().writer();
                let released = writer.map(|writer| writer.release(before)).unwrap_or_default();
                let log = LogId { start: self.start, shard: ShardId(node as u16) };
                for index in released {
                    self.whole_log = false;
                    let spare = retire_segment(&self.disk, &self.dir, log, index);
                    self.spares.push(spare.map_err(|error| format!("cannot retire: {error}"))?);
                }
            }
            Some(Control::Mark) => {
                let mut mark = None;
                self.turn(node, |core, _| mark = Some(core.mark()));
                if let Some(mark) = mark {
                    self.marked(node, mark);
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Takes what the shards report.
    ///
    /// # Errors
    /// What cannot be in a snapshot.
    pub(super) fn snapshot_events(&mut self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            for event in std::mem::take(&mut self.nodes[node].core.effects.snapshot) {
                let Some(shot) = &mut self.shot else { continue };
                let id = shot.id;
                if let Some(end) = shot.event(node, event)? {
                    let each = self.nodes.iter_mut();
                    each.for_each(|node| node.control.push_back(Control::End(id, end)));
                }
            }
        }
        let Some(shot) = self.shot.take_if(|shot| shot.given_up || shot.is_done()) else {
            return Ok(());
        };
        if shot.given_up {
            let each = self.nodes.iter_mut();
            each.for_each(|node| node.control.push_back(Control::Cancel(shot.id)));
            return Ok(());
        }
        self.completed += 1;
        let complete = shot.complete(self.start)?;
        for parent in self.complete.iter().rev().take(DELTA_PARENTS) {
            let disk = Arc::new(self.disk.clone());
            super::delta::check(disk, &self.dir, &self.sealing.keys, parent, &complete)?;
        }
        self.complete.push(complete);
        if self.recycles && self.complete.len() > 2 {
            self.complete.remove(0);
        }
        if self.recycles && self.complete.len() == 2 {
            self.recycle()?;
        }
        Ok(())
    }

    /// Gives up what the older of two snapshots covers.
    fn recycle(&mut self) -> Result<(), String> {
        let older = &self.complete[0].coverage;
        let keys = &self.sealing.keys;
        let names = obsolete_files(&self.disk, &self.dir, keys, older, self.start);
        for name in names.map_err(|error| error.to_string())? {
            self.whole_log = false;
            LogDisk::remove(&self.disk, &self.dir.join(name)).map_err(|error| error.to_string())?;
        }
        if older.start == self.start {
            for (node, part) in self.nodes.iter_mut().zip(&older.parts) {
                node.control.push_back(Control::Release(part.position));
            }
        }
        Ok(())
    }
}
