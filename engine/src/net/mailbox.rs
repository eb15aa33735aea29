//! Mail between shards: for each ordered pair of them a bounded queue of *batches*, with one
//! producer and one consumer, so that neither locks.
//!
//! A batch is what one turn of one shard has for another. The emptied `Vec` goes back through a
//! second queue of the pair and is used again. Pushing mail wakes nobody: at the end of its turn a
//! shard rings once for every destination that got something ([`MeshEnd::ring_peers`]).
//!
//! A full queue gives the batch back. The shard must not wait for room (its peer may be waiting for
//! *it*): the core reserves room when it accepts a request (DESIGN §5), and keeps what does not
//! fit.

use rtrb::{Consumer, Producer, RingBuffer};

use super::doorbell::Doorbell;
use crate::types::ShardId;

/// Batches that one shard may have under way to one other.
pub const BATCHES_PER_PAIR: usize = 64;

/// Emptied batches with room for more messages than this are freed, not used again, so that one
/// burst does not hold its memory for ever.
pub const KEPT_BATCH_CAPACITY: usize = 4096;

/// Makes the ends of all shards' mail.
#[derive(Debug)]
pub struct Mesh<T> {
    marker: std::marker::PhantomData<T>,
}

/// One shard's end: sends to and receives from every other shard. Moves to the shard's thread.
#[derive(Debug)]
pub struct MeshEnd<T> {
    shard: ShardId,
    /// By shard; none for this one itself.
    peers: Vec<Option<Peer<T>>>,
}

#[derive(Debug)]
struct Peer<T> {
    outgoing: Producer<Vec<T>>,
    incoming: Consumer<Vec<T>>,
    /// Emptied batches that the peer gives back to us, and those that we give back to it.
    reusable: Consumer<Vec<T>>,
    emptied: Producer<Vec<T>>,
    /// Got mail since its doorbell was last rung.
    unrung: bool,
}

impl<T: Send> Mesh<T> {
    /// The ends of `shards` shards, in order, [`BATCHES_PER_PAIR`] batches a pair.
    #[expect(clippy::new_ret_no_self, reason = "a mesh is nothing but its ends")]
    pub fn new(shards: u16) -> Vec<MeshEnd<T>> {
        Self::with_capacity(shards, BATCHES_PER_PAIR)
    }

    /// The same with room for `batches` batches a pair (at least one).
    pub fn with_capacity(shards: u16, batches: usize) -> Vec<MeshEnd<T>> {
        let batches = batches.max(1);
        let mut ends: Vec<MeshEnd<T>> = (0..shards)
            .map(|shard| MeshEnd {
                shard: ShardId(shard),
                peers: (0..shards).map(|_| None).collect(),
            })
            .collect();
        for low in 0..usize::from(shards) {
            for high in low + 1..usize::from(shards) {
                let (of_low, of_high) = Peer::pair(batches);
                ends[low].peers[high] = Some(of_low);
                ends[high].peers[low] = Some(of_high);
            }
        }
        ends
    }
}

impl<T> Peer<T> {
    /// Two ends that are each other's peer.
    fn pair(batches: usize) -> (Self, Self) {
        let (forth, forth_end) = RingBuffer::new(batches);
        let (back, back_end) = RingBuffer::new(batches);
        let (forth_emptied, forth_reusable) = RingBuffer::new(batches);
        let (back_emptied, back_reusable) = RingBuffer::new(batches);
        let here = Self {
            outgoing: forth,
            incoming: back_end,
            reusable: forth_reusable,
            emptied: back_emptied,
            unrung: false,
        };
        let there = Self {
            outgoing: back,
            incoming: forth_end,
            reusable: back_reusable,
            emptied: forth_emptied,
            unrung: false,
        };
        (here, there)
    }
}

impl<T> MeshEnd<T> {
    /// The shard whose end this is.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// How many shards there are, this one included.
    pub fn shards(&self) -> u16 {
        u16::try_from(self.peers.len()).expect("made from a u16")
    }

    /// An empty batch for `to`, an old allocation if one came back.
    ///
    /// # Panics
    /// If `to` is this shard or none.
    pub fn empty_batch(&mut self, to: ShardId) -> Vec<T> {
        self.peer(to).reusable.pop().unwrap_or_default()
    }

    /// Batches that `to` takes at once before it is full. Grows as the peer receives.
    ///
    /// # Panics
    /// If `to` is this shard or none.
    pub fn room(&mut self, to: ShardId) -> usize {
        self.peer(to).outgoing.slots()
    }

    /// Sends a batch, in order behind earlier ones. An empty batch is not sent.
    ///
    /// # Errors
    /// The queue is full; the batch comes back.
    ///
    /// # Panics
    /// If `to` is this shard or none.
    pub fn send_batch(&mut self, to: ShardId, batch: Vec<T>) -> Result<(), Vec<T>> {
        if batch.is_empty() {
            return Ok(());
        }
        let peer = self.peer(to);
        peer.outgoing.push(batch).map_err(|rtrb::PushError::Full(batch)| batch)?;
        peer.unrung = true;
        Ok(())
    }

    /// Rings the doorbell of every shard that got mail since the last call; `doorbells` by shard.
    /// Once a turn, after the turn's last `send_batch`.
    pub fn ring_peers(&mut self, doorbells: &[Doorbell]) {
        for (peer, doorbell) in self.peers.iter_mut().zip(doorbells) {
            if let Some(peer) = peer
                && std::mem::take(&mut peer.unrung)
            {
                doorbell.ring();
            }
        }
    }

    /// Gives every batch that waited when the call began to `visit`, in the order in which its
    /// sender sent it, and says how many there were. What `visit` leaves in the batch is dropped.
    pub fn receive(&mut self, mut visit: impl FnMut(ShardId, &mut Vec<T>)) -> usize {
        let mut received = 0;
        for (from, peer) in self.peers.iter_mut().enumerate() {
            let Some(peer) = peer else { continue };
            let from = ShardId(u16::try_from(from).expect("made from a u16"));
            // Counted once: a peer that keeps sending cannot keep this shard here.
            let waiting = peer.incoming.slots();
            for _ in 0..waiting {
                let Ok(mut batch) = peer.incoming.pop() else { break };
                visit(from, &mut batch);
                batch.clear();
                if batch.capacity() > 0 && batch.capacity() <= KEPT_BATCH_CAPACITY {
                    // With no room to give it back, it is freed.
                    let _ = peer.emptied.push(batch);
                }
            }
            received += waiting;
        }
        received
    }

    /// Whether no mail waits: part of the check before parking.
    pub fn is_empty(&self) -> bool {
        self.peers.iter().flatten().all(|peer| peer.incoming.is_empty())
    }

    /// Whether a peer's end is gone. One dead shard must not leave the others serving.
    pub fn has_lost_peer(&self) -> bool {
        self.peers.iter().flatten().any(|peer| peer.incoming.is_abandoned())
    }

    fn peer(&mut self, to: ShardId) -> &mut Peer<T> {
        self.peers[usize::from(to.0)].as_mut().expect("mail goes to another shard")
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn mail_arrives_once_in_order_and_allocations_come_back() {
        let mut ends = Mesh::new(3);
        let mut batch = ends[0].empty_batch(ShardId(2));
        batch.extend([1, 2, 3]);
        let allocation = batch.as_ptr();
        ends[0].send_batch(ShardId(2), batch).unwrap();
        ends[0].send_batch(ShardId(2), vec![4]).unwrap();
        ends[1].send_batch(ShardId(2), vec![5]).unwrap();
        ends[1].send_batch(ShardId(0), Vec::new()).unwrap();
        assert!(ends[0].is_empty() && ends[1].is_empty() && !ends[2].is_empty());
        let mut received = Vec::new();
        let count = ends[2].receive(|from, batch| received.push((from.0, batch.clone())));
        assert_eq!(count, 3);
        assert_eq!(received, [(0, vec![1, 2, 3]), (0, vec![4]), (1, vec![5])]);
        assert!(ends[2].is_empty());
        let reused = ends[0].empty_batch(ShardId(2));
        assert!(reused.is_empty());
        assert_eq!(reused.as_ptr(), allocation);
    }

    #[test]
    fn a_full_queue_gives_the_batch_back() {
        let mut ends = Mesh::with_capacity(2, 1);
        assert_eq!(ends[0].room(ShardId(1)), 1);
        ends[0].send_batch(ShardId(1), vec![1]).unwrap();
        assert_eq!(ends[0].send_batch(ShardId(1), vec![2]), Err(vec![2]));
        assert_eq!(ends[1].receive(|_, batch| assert_eq!(*batch, [1])), 1);
        ends[0].send_batch(ShardId(1), vec![2]).unwrap();
    }

    #[test]
    fn a_turn_rings_each_destination_once() {
        let doorbells: Vec<Doorbell> = (0..3).map(|_| Doorbell::new().unwrap()).collect();
        let mut ends = Mesh::new(3);
        for doorbell in &doorbells {
            assert!(doorbell.park(|| true));
        }
        ends[0].send_batch(ShardId(1), vec![1]).unwrap();
        ends[0].send_batch(ShardId(1), vec![2]).unwrap();
        ends[0].ring_peers(&doorbells);
        let rung: Vec<bool> = doorbells.iter().map(|doorbell| doorbell.drain().unwrap()).collect();
        assert_eq!(rung, [false, true, false]);
        assert!(doorbells[1].park(|| true));
        ends[0].ring_peers(&doorbells);
        assert!(!doorbells[1].drain().unwrap());
    }

    #[test]
    fn a_lost_peer_is_noticed() {
        let mut ends = Mesh::<u8>::new(2);
        assert!(!ends[0].has_lost_peer());
        ends.pop();
        assert!(ends[0].has_lost_peer());
    }

    #[test]
    fn two_threads_exchange_everything() {
        const BATCHES: u64 = 5_000;
        let mut ends = Mesh::with_capacity(2, 4);
        let there = ends.pop().unwrap();
        let here = ends.pop().unwrap();
        let run = |mut end: MeshEnd<u64>, to: ShardId| {
            move || {
                let (mut sent, mut expected) = (0, 0);
                while sent < BATCHES || expected < 2 * BATCHES {
                    if sent < BATCHES && end.room(to) > 0 {
                        let mut batch = end.empty_batch(to);
                        assert!(batch.is_empty());
                        batch.extend([2 * sent, 2 * sent + 1]);
                        end.send_batch(to, batch).unwrap();
                        sent += 1;
                    }
                    let received = end.receive(|from, batch| {
                        assert_eq!(from, to);
                        for message in batch.drain(..) {
                            assert_eq!(message, expected);
                            expected += 1;
                        }
                    });
                    if received == 0 {
                        thread::yield_now();
                    }
                }
                end
            }
        };
        thread::scope(|scope| {
            let other = scope.spawn(run(there, ShardId(0)));
            run(here, ShardId(1))();
            other.join().unwrap();
        });
    }
}
