//! Commands that wait: behind an intent, for room in a snapshot's chunk queue, or until it is known
//! whether the log has room.
//!
//! Everything later of the same connection waits behind the first, so a connection's commands keep
//! their order on this shard.

use std::collections::{HashMap, VecDeque};

use crate::types::ShardId;

use super::message::{Call, ExecuteHere, Forwarded, Task};
use crate::command::table::CommandFlags;
use crate::net::ConnId;

/// What waits.
#[derive(Debug)]
pub enum Job {
    /// A command.
    Call(Forwarded),
    /// A transaction on this shard alone.
    Here(ExecuteHere),
}

impl Job {
    /// Whether it may add to the log.
    pub fn writes(&self) -> bool {
        let writes = |call: &Call| call.spec.flags.contains(CommandFlags::WRITE);
        match self {
            Self::Call(forwarded) => writes(&forwarded.call),
            Self::Here(request) => {
                request.tasks.iter().any(|task| matches!(task, Task::Call(call) if writes(call)))
            }
        }
    }
}

/// The commands that wait, by connection.
#[derive(Debug, Default)]
pub struct Parked {
    queues: HashMap<(ShardId, ConnId), VecDeque<Job>>,
    /// The connections, in the order in which their first command came.
    order: VecDeque<(ShardId, ConnId)>,
}

impl Parked {
    /// Whether a command of this connection waits already.
    pub fn holds(&self, origin: (ShardId, ConnId)) -> bool {
        !self.queues.is_empty() && self.queues.contains_key(&origin)
    }

    /// Adds a command behind those of its connection.
    pub fn push(&mut self, origin: (ShardId, ConnId), job: Job) {
        let queue = self.queues.entry(origin).or_default();
        if queue.is_empty() {
            self.order.push_back(origin);
        }
        queue.push_back(job);
    }

    /// The connections with waiting commands, oldest first.
    pub fn origins(&self) -> Vec<(ShardId, ConnId)> {
        self.order.iter().copied().collect()
    }

    /// Takes the first command of a connection, to try it.
    pub fn take_first(&mut self, origin: (ShardId, ConnId)) -> Option<Job> {
        let Some(job) = self.queues.get_mut(&origin)?.pop_front() else {
            self.queues.remove(&origin);
            self.order.retain(|other| *other != origin);
            return None;
        };
        Some(job)
    }

    /// It still has to wait.
    pub fn put_back(&mut self, origin: (ShardId, ConnId), job: Job) {
        self.queues.entry(origin).or_default().push_front(job);
    }

    /// How many connections wait.
    pub fn len(&self) -> usize {
        self.order.len()
    }
}
