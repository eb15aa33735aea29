//! WATCH: which keys are watched, and how often each has changed since.
//!
//! The owner of a key counts its changes while anybody watches it; the connection keeps the count
//! that WATCH saw, and EXEC compares. A key that has expired in between has changed too.

use std::collections::HashMap;

use crate::entry::Op;

use super::connection::Connection;
use super::core::ShardCore;
use super::intent::DbKey;
use super::message::{Mail, WatchedKey};

/// The watched keys of one shard.
#[derive(Debug, Default)]
pub struct Watches {
    keys: HashMap<DbKey, Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    version: u64,
    watchers: usize,
    /// Whether the key is there, as the changes since the first WATCH tell: clearing a database
    /// changes the keys that it holds, and no others.
    exists: bool,
}

impl Watches {
    /// Whether nobody watches anything.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Counts the changes of a command or a transaction.
    pub fn changed(&mut self, mut ops: &[u8]) {
        if self.keys.is_empty() {
            return;
        }
        while !ops.is_empty() {
            match Op::decode(&mut ops).expect("our own encoder wrote the ops") {
                Op::Clear { db, .. } => {
                    let cleared = |key: &DbKey| db.is_none_or(|db| db == key.db);
                    let watched = self.keys.iter_mut().filter(|(key, _)| cleared(key));
                    watched.filter(|(_, watched)| watched.exists).for_each(|(_, watched)| {
                        watched.version += 1;
                        watched.exists = false;
                    });
                }
                Op::Delete { db, key } => self.key_changed(DbKey { db, key: key.into() }, false),
                Op::Put { db, key, .. }
                | Op::Expire { db, key, .. }
                | Op::Write { db, key, .. } => {
                    self.key_changed(DbKey { db, key: key.into() }, true);
                }
            }
        }
    }

    fn key_changed(&mut self, key: DbKey, exists: bool) {
        if let Some(watched) = self.keys.get_mut(&key) {
            watched.version += 1;
            watched.exists = exists;
        }
    }

    /// These watches are over, one for each time a key is named.
    pub fn unwatch(&mut self, keys: &[DbKey]) {
        for key in keys {
            let Some(watched) = self.keys.get_mut(key) else { continue };
            watched.watchers -= 1;
            if watched.watchers == 0 {
                self.keys.remove(key);
            }
        }
    }

    fn watch(&mut self, key: &DbKey, exists: bool) -> u64 {
        let watched = self.keys.entry(key.clone()).or_default();
        watched.watchers += 1;
        watched.exists = exists;
        watched.version
    }

    fn version(&self, key: &DbKey) -> Option<u64> {
        self.keys.get(key).map(|watched| watched.version)
    }
}

impl ShardCore {
    /// Watches keys of this shard from here on.
    pub(super) fn watch_keys(&mut self, keys: Vec<DbKey>, now_ms: u64) -> Vec<WatchedKey> {
        let watched = keys.into_iter().map(|key| {
            let existed = self.exists_at(&key, now_ms);
            WatchedKey { version: self.watches.watch(&key, existed), existed, key }
        });
        watched.collect()
    }

    /// Whether any of these keys is not what it was.
    pub(super) fn watch_failed(&self, watched: &[WatchedKey], now_ms: u64) -> bool {
        watched.iter().any(|watched| {
            let expired = watched.existed && !self.exists_at(&watched.key, now_ms);
            expired || self.watches.version(&watched.key) != Some(watched.version)
        })
    }

    /// Ends all watches of a connection.
    pub(super) fn unwatch(&mut self, connection: &mut Connection) {
        for watched in std::mem::take(&mut connection.session.watched) {
            let owner = self.shared.slots.owner(crate::slot::slot_of(&watched.key.key));
            self.post(owner, Mail::Unwatch { keys: vec![watched.key] });
        }
    }

    fn exists_at(&self, key: &DbKey, now_ms: u64) -> bool {
        let entry = self.keyspace.get(&self.keyspace.key(key.db, &key.key));
        entry.is_some_and(|entry| entry.expires_at_ms().is_none_or(|at| at > now_ms))
    }
}
