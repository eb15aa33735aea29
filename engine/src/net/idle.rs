//! A shard's task inside glommio: waiting until it has something to do, and letting the executor do
//! its own work while it has.
//!
//! The wait is on the shard's eventfd, which both the shard's own ring and its doorbell signal. The
//! poll that is registered with glommio outlives a wait that ended by time: it is not cancelled and
//! registered anew, it only resolves in a later wait.
//!
//! **Why not `yield_if_needed`.** glommio-ng 0.12.0 puts the executor to sleep *with a runnable
//! task* if its preemption timer fires between its polling for I/O and its first look at the task
//! queues: `run_task_queues` says the same for "preempted before anything ran" as for "nothing to
//! run". Nothing then wakes it. (Fixed after 0.12.0, in glommio/glommio pull request 53. Seen here:
//! twice in 25 runs of this folder's tests on two busy CPUs with a timer of 1 ms.) So a shard's
//! executor gets [`PREEMPT_TIMER`], which does not fire, and its task, instead of yielding,
//! sometimes
//! *waits* for an event that it has caused itself ([`Idle::give_turn_if_due`]): the executor then
//! finds nothing to run, and polls its rings, timers and foreign wakes. Task queues with
//! `Latency::Matters` of a short duration would bring the timer back: a shard has none.
#![expect(clippy::disallowed_methods, reason = "how long the executor waits is real time")]

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use glommio::io::{PollState, PollableFd};
use glommio::timer::Timer;

use super::doorbell::Doorbell;

/// For `LocalExecutorBuilder::preempt_timer` of every executor that a shard runs in: never.
pub const PREEMPT_TIMER: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a busy shard goes on before the executor gets its turn: how late a glommio timer or a
/// foreign wake can be. A turn costs some microseconds.
pub const EXECUTOR_TURN_EVERY: Duration = Duration::from_millis(10);

/// Awaits the eventfd of one doorbell. Belongs to the executor that it was made in.
#[derive(Debug)]
pub struct Idle {
    doorbell: PollableFd<Doorbell>,
    registration: PollState,
    /// When the executor last had its turn.
    turned: Instant,
}

impl Idle {
    /// Must be called inside the executor that will wait.
    ///
    /// # Errors
    /// The executor cannot watch the descriptor.
    pub fn new(doorbell: Doorbell) -> io::Result<Self> {
        let doorbell = PollableFd::new(doorbell).map_err(io::Error::from)?;
        Ok(Self { doorbell, registration: PollState::new(), turned: Instant::now() })
    }

    /// Called by a busy shard after every turn of its own: lets the executor poll its timers and
    /// run its other tasks, if [`EXECUTOR_TURN_EVERY`] has passed since it last could.
    ///
    /// # Errors
    /// The executor is going down.
    pub async fn give_turn_if_due(&mut self) -> io::Result<()> {
        if self.turned.elapsed() < EXECUTOR_TURN_EVERY {
            return Ok(());
        }
        self.doorbell.get_ref().signal()?;
        self.wait(None).await.map(drop)
    }

    /// Waits until the doorbell's eventfd was signalled, at most `longest`, and drains it. Returns
    /// whether it was signalled. To be called only after `Doorbell::park` said so; unparks.
    /// May return early for a signal from before the parking, so look at all queues, as always.
    ///
    /// # Errors
    /// The executor is going down.
    pub async fn wait(&mut self, longest: Option<Duration>) -> io::Result<bool> {
        let Self { doorbell, registration, .. } = self;
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
        self.turned = Instant::now();
        let doorbell = self.doorbell.get_ref();
        doorbell.unpark();
        // Drained even after a wait that ended by time: a signal that came with it is answered now.
        let drained = doorbell.drain()?;
        signalled.map(|signalled| signalled || drained).map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use glommio::{LocalExecutorBuilder, Placement};

    use super::*;

    #[test]
    fn a_busy_shard_lets_timers_and_other_tasks_go_on() {
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .preempt_timer(PREEMPT_TIMER)
            .io_memory(64 << 10);
        let shard = executor
            .spawn(|| async {
                let mut idle = Idle::new(Doorbell::new().unwrap()).unwrap();
                let ticks = Rc::new(Cell::new(0));
                let ticking = ticks.clone();
                let ticker = glommio::spawn_local(async move {
                    loop {
                        Timer::new(Duration::from_millis(2)).await;
                        ticking.set(ticking.get() + 1);
                    }
                });
                let started = Instant::now();
                while ticks.get() < 10 {
                    assert!(started.elapsed() < Duration::from_secs(20), "the ticker starves");
                    idle.give_turn_if_due().await.unwrap();
                }
                ticker.cancel().await;
            })
            .unwrap();
        shard.join().unwrap();
    }
}
