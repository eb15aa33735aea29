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

/// What the check asks a machine.
trait Machine {
    /// As `uname -r` shows it.
    fn release(&self) -> io::Result<String>;
    /// Of this process.
    fn limits(&self) -> Result<Limits, PreflightError>;
    /// Sets a ring up as a shard would, and drops it.
    fn try_ring(&self) -> Result<(), PreflightError>;
}

/// The one that this process runs on.
struct ThisMachine;

impl Machine for ThisMachine {
    fn release(&self) -> io::Result<String> {
        fs::read_to_string("/proc/sys/kernel/osrelease")
    }

    fn limits(&self) -> Result<Limits, PreflightError> {
        limits()
    }

    fn try_ring(&self) -> Result<(), PreflightError> {
        let doorbell = Doorbell::new()
            .map_err(|source| PreflightError::Unreadable { what: "an eventfd", source })?;
        Ring::<Vec<u8>>::new(&RingConfig::default(), doorbell)?;
        Ok(())
    }
}

/// Checks kernel, locked memory and io_uring, in this order, and reports the limits.
///
/// # Errors
/// The first thing that is missing.
pub fn check() -> Result<Limits, PreflightError> {
    check_machine(&ThisMachine)
}

fn check_machine(machine: &dyn Machine) -> Result<Limits, PreflightError> {
    let release = machine
        .release()
        .map_err(|source| PreflightError::Unreadable { what: "the kernel's release", source })?;
    check_kernel(release.trim())?;
    let limits = machine.limits()?;
    check_locked_memory(limits.locked_memory_bytes)?;
    machine.try_ring()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine as a test wants it.
    struct Fake {
        release: Result<&'static str, i32>,
        locked_memory_bytes: u64,
        /// What io_uring_setup(2) fails with.
        setup_errno: Option<i32>,
    }

    const FIT: Fake = Fake {
        release: Ok("6.1.0\n"),
        locked_memory_bytes: LOCKED_MEMORY_BYTES,
        setup_errno: None,
    };

    impl Machine for Fake {
        fn release(&self) -> io::Result<String> {
            self.release.map(str::to_owned).map_err(io::Error::from_raw_os_error)
        }

        fn limits(&self) -> Result<Limits, PreflightError> {
            let locked_memory_bytes = self.locked_memory_bytes;
            Ok(Limits { locked_memory_bytes, open_files: 1, open_files_hard: 2 })
        }

        fn try_ring(&self) -> Result<(), PreflightError> {
            let error = self.setup_errno.map(io::Error::from_raw_os_error);
            error.map_or(Ok(()), |error| Err(RingError::from_setup(error).into()))
        }
    }

    fn refusal(machine: &Fake) -> String {
        check_machine(machine).unwrap_err().to_string()
    }

    #[test]
    fn each_thing_that_is_missing_is_one_clear_sentence() {
        assert_eq!(check_machine(&FIT).unwrap().locked_memory_bytes, LOCKED_MEMORY_BYTES);
        assert_eq!(
            refusal(&Fake { release: Ok("5.15.0-91-generic\n"), ..FIT }),
            "Cutwater needs Linux 6.1 or newer, and this is Linux 5.15.0-91-generic."
        );
        assert_eq!(
            refusal(&Fake { locked_memory_bytes: 64 << 10, ..FIT }),
            "Cutwater needs to lock 512 KiB of memory, and the limit is 64 KiB: raise it with \
             `ulimit -l`, LimitMEMLOCK= (systemd) or --ulimit memlock (Docker)."
        );
        let errno = |errno| refusal(&Fake { setup_errno: Some(errno), ..FIT });
        assert_eq!(
            errno(libc::EINVAL),
            "Cutwater cannot start: the kernel is too old: Linux 6.1 or newer is needed."
        );
        for (number, text) in [
            (libc::EPERM, "Operation not permitted (os error 1)"),
            (libc::ENOSYS, "Function not implemented (os error 38)"),
        ] {
            assert_eq!(
                errno(number),
                format!(
                    "Cutwater cannot start: io_uring is not permitted here ({text}): allow it in \
                     the container's seccomp profile, and set the sysctl \
                     kernel.io_uring_disabled to 0."
                )
            );
        }
        assert!(errno(libc::ENOMEM).contains("limit on locked memory is too low"));
        assert!(errno(libc::EMFILE).starts_with("Cutwater cannot start: io_uring cannot be set"));
        let unreadable = refusal(&Fake { release: Err(libc::EACCES), ..FIT });
        assert!(unreadable.starts_with("Cutwater cannot read the kernel's release: "));
    }

    /// What is told first is what explains the rest: an old kernel has no such ring either.
    #[test]
    fn the_kernel_comes_before_the_limit_and_that_before_the_ring() {
        let none =
            Fake { release: Ok("4.18.0"), locked_memory_bytes: 0, setup_errno: Some(libc::EPERM) };
        assert!(refusal(&none).contains("this is Linux 4.18.0"));
        assert!(refusal(&Fake { release: Ok("6.1"), ..none }).contains("the limit is 0 KiB"));
    }

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
