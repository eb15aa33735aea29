//! Spreads bytes over time, for all that share it: uploads and the archive of a remote store, reads
//! of a verification, writes of a snapshot.
//!
//! Two lanes. Who passes first goes before everybody who waits in the other lane, and never before
//! what has been let through already: so the archive, which is small and on which every moment
//! depends, waits for one part of an upload at most, and both together stay under the limit.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as Lane, Notify};
use tokio::time::Instant;

/// Spreads bytes over time, for all that share it.
#[derive(Debug)]
pub struct Throttle {
    limit_bytes_per_s: Option<u64>,
    turn: Mutex<Turn>,
    /// Whoever waits, in the order in which they came.
    lane: Lane<()>,
    first_lane: Lane<()>,
    /// Told when nobody waits in the first lane any more.
    first_is_empty: Notify,
}

#[derive(Debug)]
struct Turn {
    /// What was let through has been sent by then.
    free_at: Instant,
    /// How many wait in the first lane.
    first: usize,
}

impl Throttle {
    /// A throttle of so many bytes a second; `None` lets everything pass at once.
    pub fn new(limit_bytes_per_s: Option<u64>) -> Self {
        Self {
            limit_bytes_per_s: limit_bytes_per_s.filter(|limit| *limit > 0),
            turn: Mutex::new(Turn { free_at: Instant::now(), first: 0 }),
            lane: Lane::default(),
            first_lane: Lane::default(),
            first_is_empty: Notify::new(),
        }
    }

    /// Waits until so many bytes may be sent.
    pub async fn pass(&self, bytes: u64) {
        if self.limit_bytes_per_s.is_none() {
            return;
        }
        let _lane = self.lane.lock().await;
        loop {
            let free_at = {
                let mut turn = self.turn();
                if turn.first == 0 && turn.free_at <= Instant::now() {
                    return self.take(&mut turn, bytes);
                }
                (turn.first == 0).then_some(turn.free_at)
            };
            match free_at {
                Some(free_at) => tokio::time::sleep_until(free_at).await,
                // One permit is kept for the one who waits here: nothing is missed in between.
                None => self.first_is_empty.notified().await,
            }
        }
    }

    /// Waits until so many bytes may be sent, before everybody who waits in [`Self::pass`].
    pub async fn pass_first(&self, bytes: u64) {
        if self.limit_bytes_per_s.is_none() {
            return;
        }
        let _waiting = Waiting::in_first_lane(self);
        let _lane = self.first_lane.lock().await;
        loop {
            let free_at = {
                let mut turn = self.turn();
                if turn.free_at <= Instant::now() {
                    return self.take(&mut turn, bytes);
                }
                turn.free_at
            };
            tokio::time::sleep_until(free_at).await;
        }
    }

    fn take(&self, turn: &mut Turn, bytes: u64) {
        let Some(limit) = self.limit_bytes_per_s else { return };
        let takes = Duration::from_secs_f64(bytes as f64 / limit as f64);
        turn.free_at = turn.free_at.max(Instant::now()) + takes;
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits in the first lane, until it passes or gives up.
struct Waiting<'t>(&'t Throttle);

impl<'t> Waiting<'t> {
    fn in_first_lane(throttle: &'t Throttle) -> Self {
        throttle.turn().first += 1;
        Self(throttle)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut turn = self.0.turn();
        turn.first -= 1;
        if turn.first == 0 {
            self.0.first_is_empty.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn both_lanes_together_stay_under_the_limit_and_the_first_goes_first() {
        let begun = Instant::now();
        let throttle = Arc::new(Throttle::new(Some(1_000)));
        let sent = Arc::new(AtomicU64::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (throttle, sent) = (throttle.clone(), sent.clone());
            tasks.spawn(async move {
                for _ in 0..10 {
                    throttle.pass(1_000).await;
                    sent.fetch_add(1_000, Ordering::Relaxed);
                    // One of each may be under way, at most.
                    let limit = begun.elapsed().as_millis() as u64 + 1_001;
                    assert!(sent.load(Ordering::Relaxed) <= limit);
                }
            });
        }
        for _ in 0..20 {
            let asked = Instant::now();
            throttle.pass_first(500).await;
            sent.fetch_add(500, Ordering::Relaxed);
            // At most what was let through before: one of the others.
            assert!(asked.elapsed() <= Duration::from_millis(1_001), "{:?}", asked.elapsed());
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        // 80,000 bytes and 10,000: nothing is lost, nobody is forgotten.
        assert!((89..=91).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_in_the_first_lane_holds_nobody_up() {
        let throttle = Throttle::new(Some(1));
        throttle.pass(100).await;
        let gave_up = tokio::time::timeout(Duration::from_secs(1), throttle.pass_first(1)).await;
        assert!(gave_up.is_err());
        let waited = Instant::now();
        throttle.pass(1).await;
        assert_eq!(waited.elapsed().as_secs(), 99);
        Throttle::new(None).pass_first(u64::MAX).await;
    }
}
