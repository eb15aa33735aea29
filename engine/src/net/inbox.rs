//! Messages to a shard from threads that are no shards: embedded clients and the control plane.
//!
//! A bounded queue of many producers. When it is full, `try_send` gives the message back, `send`
//! blocks its thread and `send_async` its task; the shard itself never waits. Every push is
//! followed by the shard's doorbell, so the shard finds it although it never awaits the queue (a
//! foreign future that is re-created in a loop is what DESIGN §5 forbids).
//!
//! A shard that goes drops what waits for it, and whoever delivers too late drops it himself: the
//! reply channels in those messages end, so that nobody waits for an answer that never comes. (The
//! queue alone would keep its messages for as long as any sender lives.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::doorbell::Doorbell;

/// A message that was not delivered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InboxRefused<T> {
    /// The inbox holds as much as it may.
    #[error("the shard's inbox is full")]
    Full(T),
    /// The shard is gone.
    #[error("the shard has stopped")]
    Gone(T),
}

/// The shard's end.
#[derive(Debug)]
pub struct Inbox<T> {
    queue: Arc<Queue<T>>,
}

/// What both ends share.
#[derive(Debug)]
struct Queue<T> {
    receiver: flume::Receiver<T>,
    /// The shard is gone.
    closed: AtomicBool,
}

/// Anyone's end.
#[derive(Debug)]
pub struct InboxSender<T> {
    sender: flume::Sender<T>,
    queue: Arc<Queue<T>>,
    doorbell: Doorbell,
}

impl<T> Queue<T> {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Drops what waits, and with it lets in and drops what blocked senders hold.
    fn discard(&self) {
        while self.receiver.try_recv().is_ok() {}
    }

    /// After a push. The flag was set before the shard discarded, both with the queue's lock in
    /// between: either its discarding saw the push, or this sees the flag.
    fn discard_if_closed(&self) {
        if self.is_closed() {
            self.discard();
        }
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        self.queue.closed.store(true, Ordering::SeqCst);
        self.queue.discard();
    }
}

impl<T> Clone for InboxSender<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            queue: Arc::clone(&self.queue),
            doorbell: self.doorbell.clone(),
        }
    }
}

impl<T> Inbox<T> {
    /// An inbox of at most `capacity` messages (at least one) of the shard that `doorbell` wakes.
    pub fn new(capacity: usize, doorbell: Doorbell) -> (InboxSender<T>, Self) {
        let (sender, receiver) = flume::bounded(capacity.max(1));
        let queue = Arc::new(Queue { receiver, closed: AtomicBool::new(false) });
        (InboxSender { sender, queue: Arc::clone(&queue), doorbell }, Self { queue })
    }

    /// Takes at most `limit` messages that wait, and says how many there were.
    pub fn receive(&self, limit: usize, mut visit: impl FnMut(T)) -> usize {
        let mut taken = 0;
        while taken < limit {
            let Ok(message) = self.queue.receiver.try_recv() else { break };
            visit(message);
            taken += 1;
        }
        taken
    }

    /// Whether nothing waits: part of the check before parking.
    pub fn is_empty(&self) -> bool {
        self.queue.receiver.is_empty()
    }

    /// Whether no sender is left.
    pub fn is_abandoned(&self) -> bool {
        self.queue.receiver.is_disconnected()
    }
}

impl<T> InboxSender<T> {
    /// Delivers without waiting.
    ///
    /// # Errors
    /// The inbox is full, or the shard is gone; the message comes back.
    pub fn try_send(&self, message: T) -> Result<(), InboxRefused<T>> {
        if self.queue.is_closed() {
            return Err(InboxRefused::Gone(message));
        }
        self.sender.try_send(message).map_err(|error| match error {
            flume::TrySendError::Full(message) => InboxRefused::Full(message),
            flume::TrySendError::Disconnected(message) => InboxRefused::Gone(message),
        })?;
        self.queue.discard_if_closed();
        self.doorbell.ring();
        Ok(())
    }

    /// Delivers, blocking this thread while the inbox is full. Never to be called on a shard. A
    /// shard that goes meanwhile drops the message.
    ///
    /// # Errors
    /// The shard is gone; the message comes back.
    pub fn send(&self, message: T) -> Result<(), InboxRefused<T>> {
        if self.queue.is_closed() {
            return Err(InboxRefused::Gone(message));
        }
        self.sender
            .send(message)
            .map_err(|flume::SendError(message)| InboxRefused::Gone(message))?;
        self.queue.discard_if_closed();
        self.doorbell.ring();
        Ok(())
    }

    /// Delivers, waiting while the inbox is full, on any runtime. Dropping the future before it
    /// resolves leaves it open whether the message was delivered.
    ///
    /// # Errors
    /// The shard is gone; the message comes back.
    pub async fn send_async(&self, message: T) -> Result<(), InboxRefused<T>> {
        if self.queue.is_closed() {
            return Err(InboxRefused::Gone(message));
        }
        // A message that waits for room is taken into the queue by the shard's own receive, so no
        // bell is owed for it; one that found room must be rung for even if this future is dropped
        // at once, and flume resolves such a send in its first poll, together with the bell below.
        let sent = self.sender.send_async(message).await;
        sent.map_err(|flume::SendError(message)| InboxRefused::Gone(message))?;
        self.queue.discard_if_closed();
        self.doorbell.ring();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::{pin::pin, thread};

    use super::*;

    #[test]
    fn a_full_inbox_gives_back_and_a_gone_shard_too() {
        let doorbell = Doorbell::new().unwrap();
        let (sender, inbox) = Inbox::new(2, doorbell);
        sender.try_send(1).unwrap();
        sender.clone().try_send(2).unwrap();
        assert_eq!(sender.try_send(3), Err(InboxRefused::Full(3)));
        let mut taken = Vec::new();
        assert_eq!(inbox.receive(1, |message| taken.push(message)), 1);
        assert_eq!(inbox.receive(9, |message| taken.push(message)), 1);
        assert_eq!(taken, [1, 2]);
        assert!(inbox.is_empty() && !inbox.is_abandoned());
        drop(inbox);
        assert_eq!(sender.try_send(4), Err(InboxRefused::Gone(4)));
        assert_eq!(sender.send(5), Err(InboxRefused::Gone(5)));
    }

    /// The messages hold the ends of channels on which somebody waits.
    #[test]
    fn what_waits_for_a_shard_that_goes_is_dropped_though_senders_live() {
        let (sender, inbox) = Inbox::new(1, Doorbell::new().unwrap());
        let (reply, answer) = flume::bounded::<()>(1);
        sender.try_send(reply.clone()).unwrap();
        thread::scope(|scope| {
            // These wait for room, or come when the shard is gone.
            for _ in 0..8 {
                let (sender, reply) = (sender.clone(), reply.clone());
                scope.spawn(move || drop(sender.send(reply)));
            }
            thread::yield_now();
            drop(inbox);
        });
        drop(reply);
        assert_eq!(answer.recv(), Err(flume::RecvError::Disconnected));
        assert!(sender.try_send(flume::bounded(1).0).is_err());
    }

    #[test]
    fn every_kind_of_send_rings_the_parked_shard() {
        let doorbell = Doorbell::new().unwrap();
        let (sender, inbox) = Inbox::new(8, doorbell.clone());
        let sends: [&dyn Fn(); 3] =
            [&|| sender.try_send(1).unwrap(), &|| sender.send(2).unwrap(), &|| {
                let sending = pin!(sender.send_async(3));
                let mut context = Context::from_waker(Waker::noop());
                assert_eq!(sending.poll(&mut context), Poll::Ready(Ok(())));
            }];
        for send in sends {
            assert!(doorbell.park(|| inbox.is_empty()));
            send();
            assert!(doorbell.drain().unwrap());
            assert_eq!(inbox.receive(8, drop), 1);
        }
    }

    #[test]
    fn blocked_senders_get_through_in_the_end() {
        let (sender, inbox) = Inbox::new(1, Doorbell::new().unwrap());
        thread::scope(|scope| {
            for from in 0..4 {
                let sender = sender.clone();
                scope.spawn(move || (0..500).for_each(|n| sender.send((from, n)).unwrap()));
            }
            let mut next = [0; 4];
            while next != [500; 4] {
                inbox.receive(3, |(from, n): (usize, i32)| {
                    assert_eq!(n, next[from]);
                    next[from] += 1;
                });
                thread::yield_now();
            }
        });
    }
}
