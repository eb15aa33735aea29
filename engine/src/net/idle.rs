//! Waiting inside glommio until a shard has something to do.
//!
//! The wait is on the shard's eventfd, which both the shard's own ring and its doorbell signal. The
//! poll that is registered with glommio outlives a wait that ended by time: it is not cancelled and
//! registered anew, it only resolves in a later wait.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use glommio::io::{PollState, PollableFd};
use glommio::timer::Timer;

use super::doorbell::Doorbell;

/// Awaits the eventfd of one doorbell. Belongs to the executor that it was made in.
#[derive(Debug)]
pub struct Idle {
    doorbell: PollableFd<Doorbell>,
    registration: PollState,
}

impl Idle {
    /// Must be called inside the executor that will wait.
    ///
    /// # Errors
    /// The executor cannot watch the descriptor.
    pub fn new(doorbell: Doorbell) -> io::Result<Self> {
        let doorbell = PollableFd::new(doorbell).map_err(io::Error::from)?;
        Ok(Self { doorbell, registration: PollState::new() })
    }

    /// Waits until the doorbell's eventfd was signalled, at most `longest`, and drains it. Returns
    /// whether it was signalled. To be called only after `Doorbell::park` said so; unparks.
    /// May return early for a signal from before the parking, so look at all queues, as always.
    ///
    /// # Errors
    /// The executor is going down.
    pub async fn wait(&mut self, longest: Option<Duration>) -> io::Result<bool> {
        let Self { doorbell, registration } = self;
        let signalled = match longest {
            None => poll_fn(|context| doorbell.poll_readable(context, registration))
                .await
                .map(|()| true),
            Some(longest) => {
                let mut timer = pin!(Timer::new(longest));
                poll_fn(|context| match doorbell.poll_readable(context, registration) {
                    Poll::Ready(result) => Poll::Ready(result.map(|()| true)),
                    Poll::Pending => timer.as_mut().poll(context).map(|_| Ok(false)),
                })
                .await
            }
        };
        let doorbell = doorbell.get_ref();
        doorbell.unpark();
        // Drained even after a wait that ended by time: a signal that came with it is answered now.
        let drained = doorbell.drain()?;
        signalled.map(|signalled| signalled || drained).map_err(io::Error::from)
    }
}
