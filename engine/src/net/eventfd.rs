//! An eventfd: a counter in the kernel that becomes readable when anyone adds to it.
//!
//! A shard has one. The kernel adds to it when its ring has completions, and other threads add to
//! it through the [`super::doorbell`]; a parked shard waits for it to become readable.
#![expect(unsafe_code, reason = "eventfd(2) has no safe wrapper in std")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

/// What a signal adds. The kernel reads the eight bytes as an integer of the machine's own order;
/// any order of a one makes the counter positive, and only that matters.
const ONE: [u8; 8] = 1u64.to_le_bytes();

/// A non-blocking, close-on-exec eventfd.
#[derive(Debug)]
pub struct EventFd {
    file: File,
}

impl EventFd {
    /// A counter at zero.
    ///
    /// # Errors
    /// No descriptor or no memory left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes two integers and touches no memory of ours.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us `fd`, and nobody else knows it, so `File` owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        Ok(Self { file })
    }

    /// Makes the descriptor readable. A counter at its maximum is readable already, so that
    /// refusal (`WouldBlock`) is success.
    ///
    /// # Errors
    /// None that a healthy process meets.
    pub fn signal(&self) -> io::Result<()> {
        match (&self.file).write_all(&ONE) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// Sets the counter back to zero; whether it had been signalled.
    ///
    /// # Errors
    /// None that a healthy process meets.
    pub fn drain(&self) -> io::Result<bool> {
        let mut counter = [0; size_of::<u64>()];
        match (&self.file).read_exact(&mut counter) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_add_up_and_one_drain_takes_them_all() {
        let eventfd = EventFd::new().unwrap();
        assert!(!eventfd.drain().unwrap());
        eventfd.signal().unwrap();
        eventfd.signal().unwrap();
        assert!(eventfd.drain().unwrap());
        assert!(!eventfd.drain().unwrap());
    }
}
