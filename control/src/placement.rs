//! Which CPU runs what: every shard on one CPU, and the control plane where it disturbs least.
//! Pure, but for [`usable_cpus`].

use std::collections::BTreeSet;
use std::fmt;

/// A CPU as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub usize);

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The kernel did not say which CPUs this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel does not say which CPUs this process may use (sched_getaffinity)")]
pub struct NoCpus;

/// The CPUs that this process may use, ascending and never empty. Ask before any thread is pinned:
/// a pinned thread sees only its own CPU.
///
/// # Errors
/// [`NoCpus`] if `sched_getaffinity` fails.
pub fn usable_cpus() -> Result<Vec<CpuId>, NoCpus> {
    let cpus: BTreeSet<CpuId> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|id| CpuId(id.id)).collect();
    if cpus.is_empty() { Err(NoCpus) } else { Ok(cpus.into_iter().collect()) }
}

/// Pins the calling thread, and the threads that it starts, to one CPU. Whether that worked: a
/// control plane that floats is slower, not wrong.
pub fn pin_current_thread(cpu: CpuId) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: cpu.0 })
}

/// A CPU for every shard and one for the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The CPU of each shard, by shard number.
    pub shards: Vec<CpuId>,
    /// The CPU of the control plane's threads.
    pub control: CpuId,
}

impl Placement {
    /// Places `shards` shards on `cpus` in turn, several on one CPU where there are more of them.
    /// The control plane gets the first CPU without a shard, else the CPU of the fewest shards,
    /// the highest of these: interrupts tend to arrive at the low ones.
    ///
    /// # Panics
    /// If `cpus` is empty, which [`usable_cpus`] never is.
    pub fn choose(cpus: &[CpuId], shards: u16) -> Self {
        assert!(!cpus.is_empty(), "a process runs on at least one CPU");
        let shard_count = usize::from(shards);
        let control = *cpus.get(shard_count).unwrap_or(&cpus[cpus.len() - 1]);
        Self { shards: cpus.iter().copied().cycle().take(shard_count).collect(), control }
    }

    /// Whether the control plane shares its CPU with a shard.
    pub fn control_is_shared(&self) -> bool {
        self.shards.contains(&self.control)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(ids: &[usize]) -> Vec<CpuId> {
        ids.iter().copied().map(CpuId).collect()
    }

    #[test]
    fn one_shard_a_cpu() {
        let placement = Placement::choose(&cpus(&[0, 1]), 2);
        assert_eq!(placement, Placement { shards: cpus(&[0, 1]), control: CpuId(1) });
        assert!(placement.control_is_shared());
    }

    #[test]
    fn a_cpu_to_spare_is_the_control_planes() {
        let placement = Placement::choose(&cpus(&[2, 3, 6, 7]), 2);
        assert_eq!(placement, Placement { shards: cpus(&[2, 3]), control: CpuId(6) });
        assert!(!placement.control_is_shared());
    }

    #[test]
    fn more_shards_than_cpus_take_turns() {
        let placement = Placement::choose(&cpus(&[4]), 2);
        assert_eq!(placement, Placement { shards: cpus(&[4, 4]), control: CpuId(4) });
        let placement = Placement::choose(&cpus(&[0, 1, 5]), 5);
        assert_eq!(placement, Placement { shards: cpus(&[0, 1, 5, 0, 1]), control: CpuId(5) });
    }

    #[test]
    fn this_process_has_cpus_and_can_be_pinned_to_each() {
        let cpus = usable_cpus().unwrap();
        assert!(cpus.is_sorted() && !cpus.is_empty());
        for cpu in cpus {
            // In a thread of its own: pinning lasts as long as the thread.
            let seen = std::thread::spawn(move || (pin_current_thread(cpu), usable_cpus()));
            assert_eq!(seen.join().unwrap(), (true, Ok(vec![cpu])));
        }
    }
}
