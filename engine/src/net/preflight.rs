//! What the machine must allow before a shard can start, told in one sentence for each thing that
//! is missing. [`check`] only looks; changing a limit of the process is the binary's to decide
//! ([`raise_open_files`]), since the library may live in someone else's process.

use std::{fs, io};

use super::doorbell::Doorbell;
use super::ring::{Ring, RingConfig, RingError};

/// The oldest kernel with `IORING_SETUP_DEFER_TASKRUN`.
pub const OLDEST_KERNEL: KernelVersion = KernelVersion { major: 6, minor: 1 };

/// Memory that a shard's two rings (its own and the executor's) need to lock.
pub const LOCKED_MEMORY_BYTES: u64 = 512 << 10;

/// The first two numbers of a kernel's release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The 6 of 6.1.
    pub major: u32,
    /// The 1 of 6.1.
    pub minor: u32,
}

/// Something that a shard needs is missing.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The kernel is older than [`OLDEST_KERNEL`].
    #[error("Cutwater needs Linux 6.1 or newer, and this is Linux {release}.")]
    KernelTooOld {
        /// As `uname -r` shows it.
        release: String,
    },
    /// RLIMIT_MEMLOCK is below [`LOCKED_MEMORY_BYTES`].
    #[error(
        "Cutwater needs to lock 512 KiB of memory, and the limit is {} KiB: raise it with \
         `ulimit -l`, LimitMEMLOCK= (systemd) or --ulimit memlock (Docker).",
        .limit_bytes / 1024
    )]
    LockedMemory {
        /// The soft limit.
        limit_bytes: u64,
    },
    /// io_uring does not work.
    #[error("Cutwater cannot start: {0}.")]
    Ring(#[from] RingError),
    /// The limits or the kernel's release cannot be read.
    #[error("Cutwater cannot read {what}: {source}.")]
    Unreadable {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Limits that are worth showing at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of memory that may be locked (soft).
    pub locked_memory_bytes: u64,
    /// Descriptors that the process may have open (soft), and so clients.
    pub open_files: u64,
    /// What `open_files` can be raised to without privileges.
    pub open_files_hard: u64,
}

/// Checks kernel, locked memory and io_uring, in this order, and reports the limits.
///
/// # Errors
/// The first thing that is missing.
pub fn check() -> Result<Limits, PreflightError> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_err(|source| PreflightError::Unreadable { what: "the kernel's release", source })?;
    check_kernel(release.trim())?;
    let limits = limits()?;
    check_locked_memory(limits.locked_memory_bytes)?;
    check_ring()?;
    Ok(limits)
}

/// The current limits.
///
/// # Errors
/// They cannot be read.
pub fn limits() -> Result<Limits, PreflightError> {
    let unreadable =
        |source| PreflightError::Unreadable { what: "the limits of the process", source };
    let (locked_memory_bytes, _) = rlimit::Resource::MEMLOCK.get().map_err(unreadable)?;
    let (open_files, open_files_hard) = rlimit::Resource::NOFILE.get().map_err(unreadable)?;
    Ok(Limits { locked_memory_bytes, open_files, open_files_hard })
}

/// Raises the soft limit on open files to the hard one, and returns it. For a process of its own.
///
/// # Errors
/// setrlimit(2) refuses.
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = rlimit::Resource::NOFILE.get()?;
    if soft < hard {
        rlimit::Resource::NOFILE.set(hard, hard)?;
    }
    Ok(hard)
}

/// The version in a release such as `6.18.44-fc-v657`.
pub fn parse_release(release: &str) -> Option<KernelVersion> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some(KernelVersion { major, minor })
}

fn check_kernel(release: &str) -> Result<(), PreflightError> {
    match parse_release(release) {
        Some(version) if version < OLDEST_KERNEL => {
            Err(PreflightError::KernelTooOld { release: release.to_owned() })
        }
        // A release that says nothing is no reason to refuse: setting up a ring tells.
        _ => Ok(()),
    }
}

fn check_locked_memory(limit_bytes: u64) -> Result<(), PreflightError> {
    if limit_bytes < LOCKED_MEMORY_BYTES {
        return Err(PreflightError::LockedMemory { limit_bytes });
    }
    Ok(())
}

/// Sets a ring up as a shard would, and drops it.
fn check_ring() -> Result<(), PreflightError> {
    let doorbell = Doorbell::new()
        .map_err(|source| PreflightError::Unreadable { what: "an eventfd", source })?;
    Ring::<Vec<u8>>::new(&RingConfig::default(), doorbell)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        let old = ["5.15.0-91-generic", "6.0.19", "4.18.0-513.el8.x86_64"];
        for release in old {
            let error = check_kernel(release).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("Cutwater needs Linux 6.1 or newer, and this is Linux {release}.")
            );
        }
        for release in ["6.1.0", "6.18.44-fc-v657", "10.0", "6.1-rc1", "unknown"] {
            check_kernel(release).unwrap();
        }
        assert_eq!(parse_release("6.10"), Some(KernelVersion { major: 6, minor: 10 }));
        assert_eq!(parse_release(""), None);
    }

    #[test]
    fn too_little_locked_memory_is_one_sentence() {
        check_locked_memory(LOCKED_MEMORY_BYTES).unwrap();
        check_locked_memory(u64::MAX).unwrap();
        let error = check_locked_memory(64 << 10).unwrap_err().to_string();
        assert!(error.contains("the limit is 64 KiB") && error.ends_with('.'), "{error}");
    }

    #[test]
    fn this_machine_is_checked_without_changing_it() {
        let before = limits().unwrap();
        if let Ok(limits) = check() {
            assert_eq!(limits, before);
        }
        assert_eq!(limits().unwrap(), before);
        assert!(before.open_files <= before.open_files_hard);
    }
}
