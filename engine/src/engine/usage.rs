//! What this process costs, as the kernel counts it: for INFO, and for nothing on a command's path.

#![expect(clippy::disallowed_methods, reason = "the shell looks at the machine; the core does not")]

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::shard::shared::ProcessUsage;

/// Measures. What the kernel does not tell is 0.
pub fn measure() -> ProcessUsage {
    let resident_bytes = std::fs::read("/proc/self/status").ok();
    let resident_bytes = resident_bytes.and_then(|status| resident_of(&status)).unwrap_or(0);
    match getrusage(UsageWho::RUSAGE_SELF) {
        Ok(usage) => ProcessUsage {
            user: duration(usage.user_time()),
            system: duration(usage.system_time()),
            resident_bytes,
        },
        Err(_) => ProcessUsage { resident_bytes, ..ProcessUsage::default() },
    }
}

fn duration(time: TimeVal) -> Duration {
    Duration::from_micros(time.num_microseconds().unsigned_abs())
}

/// `VmRSS` of a `status` file, in bytes.
fn resident_of(status: &[u8]) -> Option<u64> {
    let status = std::str::from_utf8(status).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_memory_and_has_worked() {
        let before = measure();
        let mut work = vec![0u64; 1 << 20];
        while measure().user <= before.user && measure().system <= before.system {
            work.iter_mut().for_each(|word| *word = word.wrapping_mul(3) + 1);
        }
        let after = measure();
        assert!(after.resident_bytes > 1 << 20, "{after:?}");
        assert!(after.user + after.system > before.user + before.system, "{before:?} {after:?}");
        assert_eq!(resident_of(b"VmHWM:\t 9 kB\nVmRSS:\t  12 kB\n"), Some(12 << 10));
        for wrong in [&b""[..], b"VmRSS:", b"VmRSS: many kB", b"\xff"] {
            assert_eq!(resident_of(wrong), None);
        }
    }
}
