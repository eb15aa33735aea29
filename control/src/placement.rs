//! Which CPU runs what: every shard on one CPU, and the control plane where it disturbs least.
//! Pure, but for [`usable_cpus`].

use std::collections::BTreeSet;
use std::fmt;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

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

/// Keeps the calling thread, and the threads that it starts, on these CPUs. Whether that worked: a
/// control plane that is anywhere is slower, not wrong.
pub fn keep_current_thread_on(cpus: &[CpuId]) -> bool {
    let mut set = CpuSet::new();
    let added = cpus.iter().all(|cpu| set.set(cpu.0).is_ok());
    added && sched_setaffinity(Pid::from_raw(0), &set).is_ok()
}

/// A CPU for every shard, and those of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The CPU of each shard, by shard number.
    pub shards: Vec<CpuId>,
    /// The CPUs of the control plane's threads, ascending.
    pub control: Vec<CpuId>,
}

impl Placement {
    /// Places `shards` shards on `cpus` in turn, several on one CPU where there are more of them.
    /// The control plane gets the CPUs without a shard. If there are none it gets all: what seals
    /// and writes a snapshot then runs wherever a shard is idle. (On one CPU of two it would take
    /// half as long again, and be in the way of that shard alone.)
    ///
    /// # Panics
    /// If `cpus` is empty, which [`usable_cpus`] never is.
    pub fn choose(cpus: &[CpuId], shards: u16) -> Self {
        assert!(!cpus.is_empty(), "a process runs on at least one CPU");
        let shard_count = usize::from(shards);
        let free = cpus.get(shard_count..).filter(|free| !free.is_empty());
        let control = free.unwrap_or(cpus).to_vec();
        Self { shards: cpus.iter().copied().cycle().take(shard_count).collect(), control }
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
        assert_eq!(placement, Placement { shards: cpus(&[0, 1]), control: cpus(&[0, 1]) });
    }

    #[test]
    fn cpus_to_spare_are_the_control_planes() {
        let placement = Placement::choose(&cpus(&[2, 3, 6, 7]), 2);
        assert_eq!(placement, Placement { shards: cpus(&[2, 3]), control: cpus(&[6, 7]) });
    }

    #[test]
    fn more_shards_than_cpus_take_turns() {
        let placement = Placement::choose(&cpus(&[4]), 2);
        assert_eq!(placement, Placement { shards: cpus(&[4, 4]), control: cpus(&[4]) });
        let placement = Placement::choose(&cpus(&[0, 1, 5]), 5);
        assert_eq!(placement.shards, cpus(&[0, 1, 5, 0, 1]));
        assert_eq!(placement.control, cpus(&[0, 1, 5]));
    }

    #[test]
    fn this_process_has_cpus_and_can_be_kept_on_each_and_all() {
        let cpus = usable_cpus().unwrap();
        assert!(cpus.is_sorted() && !cpus.is_empty());
        for kept in cpus.iter().map(|cpu| vec![*cpu]).chain([cpus.clone()]) {
            // In a thread of its own: it lasts as long as the thread.
            let on = kept.clone();
            let seen = std::thread::spawn(move || (keep_current_thread_on(&on), usable_cpus()));
            assert_eq!(seen.join().unwrap(), (true, Ok(kept)));
        }
    }
}
