//! What a start says on standard output: what was started, from what, and how to connect. Pure; the
//! command line prints it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use cutwater_engine::types::Fsync;

use crate::placement::{CpuId, Placement};

/// From this many milliseconds on, a duration is told in seconds.
const SECONDS_FROM_MS: u128 = 10_000;

/// The facts of one start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Banner {
    /// The program's version.
    pub version: &'static str,
    /// The process id.
    pub pid: u32,
    /// Which CPU runs what.
    pub placement: Placement,
    /// Where the data is, as configured.
    pub data_dir: PathBuf,
    /// How many keys the start found.
    pub recovered_keys: u64,
    /// How long finding them took.
    pub recovery: Duration,
    /// When a write is durable; `None` if there is no log.
    pub fsync: Option<Fsync>,
    /// The address that the listeners bound.
    pub bind: IpAddr,
    /// The common port that was bound.
    pub port: u16,
    /// The port of each shard, by shard number.
    pub shard_ports: Vec<u16>,
    /// Whether clients must give a password.
    pub has_password: bool,
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, pid, placement, .. } = self;
        writeln!(f, "Cutwater {version}, process {pid}")?;
        let numbers = |cpus: &[CpuId]| cpus.iter().map(|cpu| cpu.0).collect::<Vec<_>>();
        let cpus = numbers(&placement.shards);
        writeln!(
            f,
            "  shards     {} on CPU {}; control plane on CPU {}",
            cpus.len(),
            runs(&cpus),
            runs(&numbers(&placement.control))
        )?;
        writeln!(f, "  data       {}", self.data())?;
        writeln!(f, "  writes     {}", self.durability())?;
        let ports: Vec<usize> = self.shard_ports.iter().copied().map(usize::from).collect();
        writeln!(
            f,
            "  listening  {} port {}; shards on port {}",
            self.bind,
            self.port,
            runs(&ports)
        )?;
        write!(f, "  connect    {}", self.command())
    }
}

impl Banner {
    fn data(&self) -> String {
        let dir = self.data_dir.display();
        let keys = match self.recovered_keys {
            1 => "1 key".to_owned(),
            keys => format!("{} keys", grouped(keys)),
        };
        match self.recovery.as_millis() {
            _ if self.fsync.is_none() => "in memory only; nothing survives a stop".to_owned(),
            ms if ms < SECONDS_FROM_MS => format!("{dir}; recovered {keys} in {ms} ms"),
            ms => format!("{dir}; recovered {keys} in {} s", ms / 1000),
        }
    }

    fn durability(&self) -> &'static str {
        match self.fsync {
            Some(Fsync::Always) => "on disk before they are acknowledged (fsync always)",
            Some(Fsync::Everysec) => "on disk within about a second (fsync everysec)",
            Some(Fsync::Never) => "on disk when the kernel decides (fsync never)",
            None => "in memory only (no log)",
        }
    }

    /// A command line that reaches this server from this machine.
    fn command(&self) -> String {
        let host = match self.bind {
            bind if bind.is_unspecified() || bind == IpAddr::from([127, 0, 0, 1]) => String::new(),
            bind => format!(" -h {bind}"),
        };
        let password = if self.has_password { " --askpass" } else { "" };
        format!("redis-cli{host} -p {}{password}", self.port)
    }
}

/// Numbers in their order, with runs that count upwards by one drawn together: `0-3, 0-1, 7`.
fn runs(numbers: &[usize]) -> String {
    let run = |run: &[usize]| match run {
        [first, .., last] => format!("{first}-{last}"),
        one => one.iter().map(ToString::to_string).collect(),
    };
    numbers.chunk_by(|a, b| a + 1 == *b).map(run).collect::<Vec<_>>().join(", ")
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner() -> Banner {
        Banner {
            version: "1.2.3",
            pid: 42,
            placement: Placement::choose(&[CpuId(0), CpuId(1)], 2),
            data_dir: "./cutwater-data".into(),
            recovered_keys: 1_234_567,
            recovery: Duration::from_millis(1_500),
            fsync: Some(Fsync::Always),
            bind: IpAddr::from([127, 0, 0, 1]),
            port: 6379,
            shard_ports: vec![40_001, 40_007],
            has_password: false,
        }
    }

    #[test]
    fn the_usual_start() {
        assert_eq!(
            banner().to_string(),
            "Cutwater 1.2.3, process 42\n  \
               shards     2 on CPU 0-1; control plane on CPU 0-1\n  \
               data       ./cutwater-data; recovered 1,234,567 keys in 1500 ms\n  \
               writes     on disk before they are acknowledged (fsync always)\n  \
               listening  127.0.0.1 port 6379; shards on port 40001, 40007\n  \
               connect    redis-cli -p 6379"
        );
    }

    #[test]
    fn without_a_log_and_open_to_others() {
        let banner = Banner {
            fsync: None,
            bind: "::1".parse().unwrap(),
            port: 7000,
            has_password: true,
            ..banner()
        };
        let text = banner.to_string();
        assert!(text.contains("data       in memory only; nothing survives a stop\n"), "{text}");
        assert!(text.contains("writes     in memory only (no log)\n"), "{text}");
        assert!(text.ends_with("connect    redis-cli -h ::1 -p 7000 --askpass"), "{text}");
        let open = Banner { bind: "0.0.0.0".parse().unwrap(), ..banner };
        assert!(open.to_string().ends_with("redis-cli -p 7000 --askpass"));
    }

    #[test]
    fn other_modes_counts_and_times() {
        let text = Banner {
            fsync: Some(Fsync::Everysec),
            recovered_keys: 1,
            recovery: Duration::from_millis(61_900),
            ..banner()
        }
        .to_string();
        assert!(text.contains("recovered 1 key in 61 s"), "{text}");
        assert!(text.contains("within about a second (fsync everysec)"), "{text}");
        let text = Banner { fsync: Some(Fsync::Never), ..banner() }.to_string();
        assert!(text.contains("when the kernel decides (fsync never)"), "{text}");
    }

    #[test]
    fn runs_and_groups() {
        assert_eq!(runs(&[]), "");
        assert_eq!(runs(&[0, 1, 2, 5, 0, 0]), "0-2, 5, 0, 0");
        assert_eq!(
            ["0", "999", "1,000", "12,345,678"],
            [0, 999, 1_000, 12_345_678].map(grouped).as_slice()
        );
    }
}
