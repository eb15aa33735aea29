//! What a process costs, from `/proc`: CPU time of its threads, and resident memory.

use std::fs;
use std::io::{self, ErrorKind};
use std::time::Duration;

/// The CPU time of one thread since it began.
#[derive(Clone, Debug)]
pub struct ThreadUsage {
    /// The thread's name, at most 15 bytes.
    pub name: String,
    /// Time on a CPU, in user and kernel mode.
    pub cpu: Duration,
}

/// The CPU time of a process: the sum over the threads that live now. `io_uring` workers are
/// threads of the process, so their time is in it.
///
/// # Errors
/// If the process does not exist.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    Ok(threads(pid)?.iter().map(|thread| thread.cpu).sum())
}

/// The CPU time of every living thread of a process.
///
/// # Errors
/// If the process does not exist.
pub fn threads(pid: u32) -> io::Result<Vec<ThreadUsage>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = entry?.path();
        // A thread may end between the listing and the reading.
        let Ok(stat) = fs::read_to_string(task.join("stat")) else { continue };
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default().trim().to_owned();
        let cpu = match fs::read_to_string(task.join("schedstat")) {
            Ok(text) => nanoseconds(&text)?,
            Err(_) => ticks(&stat)?,
        };
        threads.push(ThreadUsage { name, cpu });
    }
    Ok(threads)
}

/// Bytes of memory that a process holds (`VmRSS`).
///
/// # Errors
/// If the process does not exist.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| invalid("no VmRSS", &status))
}

/// The first field of `schedstat`: nanoseconds on a CPU. Exact, where `stat` counts 10 ms ticks.
fn nanoseconds(schedstat: &str) -> io::Result<Duration> {
    let field = schedstat.split_whitespace().next().and_then(|field| field.parse().ok());
    field.map(Duration::from_nanos).ok_or_else(|| invalid("no schedstat", schedstat))
}

/// Fields 14 and 15 of `stat`, in ticks of 10 ms: `USER_HZ` is 100 on every platform of Rust.
fn ticks(stat: &str) -> io::Result<Duration> {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after_name.split_whitespace().skip(11);
    let mut next = || fields.next().and_then(|field| field.parse::<u64>().ok());
    match (next(), next()) {
        (Some(user), Some(system)) => Ok(Duration::from_millis((user + system) * 10)),
        _ => Err(invalid("no times in stat", stat)),
    }
}

fn invalid(what: &str, text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("{what}: {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let pid = std::process::id();
        assert!(resident_bytes(pid).unwrap() > 100_000);
        assert!(!threads(pid).unwrap().is_empty());
        let before = cpu_time(pid).unwrap();
        let mut x = 1u64;
        while cpu_time(pid).unwrap() <= before {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
    }

    #[test]
    fn ticks_are_read_behind_a_name_with_spaces() {
        let stat = "7 (a) b) S 1 1 1 0 -1 4 1 0 0 0 12 30 0 0 20 0 1 0 5 5 5";
        assert_eq!(ticks(stat).unwrap(), Duration::from_millis(420));
    }
}
