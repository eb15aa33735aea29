//! How a world is driven: at what tempo, until it writes, until it is at rest.

use super::node::Io;
use super::rng::Rng;
use super::world::{Tempo, World};

/// Steps after which what is under way must have ended.
const MAX_STEPS: usize = 60_000;
/// How long a crash waits for a log write to tear.
const MAX_STEPS_TO_A_WRITE: usize = 60;
/// Turns with nothing to do after which a world is at rest.
const IDLE_TURNS: usize = 12;

/// Steps until a log write is under way, so that a crash can tear it.
pub(super) fn step_until_writing(world: &mut World) -> Result<(), String> {
    for _ in 0..MAX_STEPS_TO_A_WRITE {
        let is_write = |io: &Io| matches!(io, Io::Write { .. });
        let writing = world.nodes.iter().filter(|node| node.io.iter().any(is_write)).count();
        if writing > world.rng.below(world.nodes.len()) || !world.step()? {
            break;
        }
    }
    Ok(())
}

/// Steps until nothing is left to do, not even for time that passes.
pub(super) fn settle(world: &mut World) -> Result<(), String> {
    let mut idle = 0;
    for _ in 0..MAX_STEPS {
        if world.step()? {
            continue;
        }
        idle += 1;
        if idle > IDLE_TURNS {
            return Ok(());
        }
        world.idle(100_000);
    }
    Err("the shards never come to rest".to_owned())
}

/// How fast everything is, and how often what happens.
pub(super) fn tempo(rng: &mut Rng) -> Tempo {
    Tempo {
        mail: (0..16).map(|_| *rng.pick(&[1, 3, 20])).collect(),
        disk: *rng.pick(&[1, 3, 20]),
        net: *rng.pick(&[3, 20]),
        ask: *rng.pick(&[1, 5, 20]),
        leave_permille: *rng.pick(&[0, 0, 30, 100]),
        clock_percent: *rng.pick(&[5, 50, 100]),
        snapshot_permille: *rng.pick(&[0, 5, 20]),
    }
}
