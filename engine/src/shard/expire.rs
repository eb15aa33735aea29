//! Expiry: keys past their time are removed a slice at a time, and logged as the deletions that
//! they are. Until then they are absent to every command anyway.

use std::sync::atomic::Ordering;

use crate::entry::Op;
use crate::types::DbIndex;

use super::core::ShardCore;
use super::shared::bump;

/// How often expired keys are looked for, in milliseconds.
const INTERVAL_MS: u64 = 100;
/// Entries that are visited at a time.
const VISIT_ENTRIES: usize = 1_000;

impl ShardCore {
    /// Whether any key has an expiry.
    pub fn has_expiring_keys(&self) -> bool {
        self.keyspace.next_expiry_ms().is_some()
    }

    /// Removes some expired keys, if it is time to look for them. Keys under an intent stay.
    pub(super) fn expire(&mut self) {
        let now_ms = self.clock.now_ms();
        if self.shared.keeps_expired.load(Ordering::Relaxed) {
            self.expire_again_ms = now_ms + INTERVAL_MS;
            return;
        }
        if now_ms < self.expire_again_ms || self.intents.whole_shard() || self.cut.stalls_writes() {
            return;
        }
        let mut expired: Vec<(DbIndex, Vec<u8>)> = Vec::new();
        let intents = &self.intents;
        let progress = self.keyspace.expire_slice(now_ms, VISIT_ENTRIES, |entry| {
            let free = !intents.blocks(entry.db(), entry.key(), true);
            if free {
                expired.push((entry.db(), entry.key().to_vec()));
            }
            free
        });
        self.expire_again_ms = if progress.more { now_ms } else { now_ms + INTERVAL_MS };
        if expired.is_empty() {
            return;
        }
        let lsn = self.next_lsn();
        self.changes.reset(self.must_encode());
        for (db, key) in &expired {
            let key = self.keyspace.key(*db, key);
            self.keyspace.remove(&key);
            self.changes.push(&Op::Delete { db: key.db, key: key.key });
        }
        let position = self.record(lsn);
        for (db, key) in &expired {
            let slot = self.keyspace.key(*db, key).slot;
            self.keyspace.touch(slot, position);
        }
        bump(&self.shared.stats(self.id).expired_keys, expired.len() as u64);
    }
}
