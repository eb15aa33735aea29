//! Looks at every change of a store at the moment at which it takes effect, whoever made it and
//! whatever was answered, and remembers what may never be.

use std::collections::BTreeMap;

use bytes::Bytes;
use cutwater_snapshot::claim::Claim;
use cutwater_snapshot::manifest::{Manifest, Record, State};
use cutwater_snapshot::paths::{Named, SnapshotName};
use object_store::path::Path;

/// What a store holds, and what was wrong about how it came to.
#[derive(Debug, Default)]
pub struct Audit {
    objects: BTreeMap<String, Bytes>,
    wrong: Vec<String>,
    /// Whether ids may be skipped: in a store that has one writer, under a lock.
    pub may_skip_ids: bool,
}

impl Audit {
    /// What was wrong, if anything was.
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }

    /// Remembers something else that was wrong.
    pub fn blame(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// An object has been written.
    pub fn put(&mut self, path: &Path, bytes: Bytes) {
        let before = self.objects.get(path.as_ref()).cloned();
        let is_change = before.as_ref().is_some_and(|before| *before != bytes);
        match Named::parse(path) {
            Some(Named::Claim(id)) => {
                if is_change {
                    self.blame(format!("{path} was overwritten"));
                }
                let below = format!("claims/{:06}", id.0 - 1);
                if id.0 > 1 && !self.may_skip_ids && !self.objects.contains_key(&below) {
                    self.blame(format!("{path} was claimed before {below}"));
                }
            }
            Some(Named::Wal(_)) if is_change => self.blame(format!("{path} was overwritten")),
            Some(Named::Core { name, .. }) if is_change && self.published(name).is_some() => {
                self.blame(format!("{path} was changed behind its manifest"));
            }
            Some(Named::Manifest(name)) => {
                let change = before.map(|before| Record::decode(name, &before).unwrap());
                self.manifest(name, change, Record::decode(name, &bytes).unwrap());
            }
            _ => {}
        }
        self.objects.insert(path.to_string(), bytes);
    }

    /// An object has been removed.
    pub fn delete(&mut self, path: &Path) {
        match Named::parse(path) {
            Some(Named::Core { name, .. }) if self.published(name).is_none() => {}
            _ => self.blame(format!("{path} was removed")),
        }
        self.objects.remove(path.as_ref());
    }

    /// The manifests that are published.
    pub fn all_published(&self) -> Vec<Manifest> {
        let names =
            self.objects.keys().filter_map(|path| match Named::parse(&Path::from(&**path)) {
                Some(Named::Manifest(name)) => Some(name),
                _ => None,
            });
        names.filter_map(|name| self.published(name)).collect()
    }

    /// The manifest or tombstone of a name.
    fn record(&self, name: SnapshotName) -> Option<Record> {
        let bytes = self.objects.get(name.manifest().as_ref())?;
        Some(Record::decode(name, bytes).unwrap())
    }

    fn published(&self, name: SnapshotName) -> Option<Manifest> {
        match self.record(name)? {
            Record::Published(manifest) => Some(*manifest),
            Record::Tombstone(_) => None,
        }
    }

    fn manifest(&mut self, name: SnapshotName, before: Option<Record>, now: Record) {
        let is_tombstone_of = |record: &Record, state: State| match record {
            Record::Tombstone(tombstone) => tombstone.state == state,
            Record::Published(_) => false,
        };
        match &before {
            None => {}
            Some(before) if *before == now || is_rekeyed(before, &now) => {}
            Some(before) => {
                let was_aborted = is_tombstone_of(before, State::Aborted);
                if was_aborted || !is_tombstone_of(&now, State::Deleted) {
                    self.blame(format!("{name}: {before:?} was overwritten by {now:?}"));
                }
            }
        }
        let uuid = match &now {
            Record::Published(manifest) => manifest.snapshot_uuid(),
            Record::Tombstone(tombstone) => tombstone.snapshot_uuid,
        };
        let claim = self.objects.get(&format!("claims/{:06}", name.id.0));
        let claim = claim.map(|bytes| Claim::decode(name.id, bytes).unwrap().snapshot);
        if claim != Some(Some((name, uuid))) {
            self.blame(format!("{name} {uuid} has the claim {claim:?}"));
        }
        let Record::Published(manifest) = now else { return };
        if let Some(parent) = manifest.meta().parent_id
            && before.is_none()
            && !self.all_published().iter().any(|published| published.id() == parent)
        {
            self.blame(format!("{name} was published before its parent {parent}"));
        }
        for object in manifest.objects() {
            let found = self.objects.get(&object.name);
            let is_whole = found.is_some_and(|bytes| {
                bytes.len() as u64 == object.length && crc32c::crc32c(bytes) == object.crc32c
            });
            if !is_whole {
                self.blame(format!("{name} was published without {}", object.name));
            }
        }
    }
}

/// Whether nothing but the wrapping of the data key has changed.
fn is_rekeyed(before: &Record, now: &Record) -> bool {
    match (before, now) {
        (Record::Published(before), Record::Published(now)) => {
            before.raw().digest() == now.raw().digest()
        }
        _ => false,
    }
}
