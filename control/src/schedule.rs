//! When snapshots are due by themselves: `every 15m`, `delta every 5m`, `base cron 0 3 * * *`.
//!
//! Pure: the time comes in, what is due goes out. A rule looks only at when a snapshot that would
//! satisfy it was last begun, so nothing is stored, a restart forgets nothing, and however long a
//! server was down it catches up with one snapshot, not with all that it missed. Times are UTC.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use croner::Cron;
use cutwater_snapshot::manifest::SnapshotKind;

use crate::config::parse_duration;

/// The shortest interval of a rule: below it a snapshot would hardly end before the next.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The longest interval of a rule.
const MAX_INTERVAL: Duration = Duration::from_secs(366 * 24 * 3600);

/// One rule: what is taken, and when.
#[derive(Clone, Debug)]
pub struct Rule {
    kind: SnapshotKind,
    when: When,
    text: String,
}

#[derive(Clone, Debug)]
enum When {
    Every(Duration),
    Cron(Box<Cron>),
}

/// When the last snapshots were begun, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Last {
    /// The last base.
    pub base_us: Option<u64>,
    /// The last base or delta.
    pub any_us: Option<u64>,
    /// When this process began: what a cron rule missed before that, without any snapshot to
    /// measure from, is not made up for.
    pub started_us: u64,
}

impl Rule {
    /// Whether this rule wants its snapshot at `now_us`, in microseconds since the Unix epoch.
    pub fn is_due(&self, last: Last, now_us: u64) -> bool {
        self.next_us(last).is_some_and(|next_us| next_us <= now_us)
    }

    /// When it wants its next snapshot; none for a cron pattern that never comes again.
    pub fn next_us(&self, last: Last) -> Option<u64> {
        let last_us = match self.kind {
            SnapshotKind::Base => last.base_us,
            // A base holds whatever a delta would.
            SnapshotKind::Delta => last.any_us,
        };
        match &self.when {
            When::Every(interval) => {
                let interval_us = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
                Some(last_us.map_or(last.started_us, |last_us| last_us.saturating_add(interval_us)))
            }
            When::Cron(cron) => {
                let from_us = i64::try_from(last_us.unwrap_or(last.started_us)).ok()?;
                let from = DateTime::<Utc>::from_timestamp_micros(from_us)?;
                let next = cron.find_next_occurrence(&from, false).ok()?;
                u64::try_from(next.timestamp_micros()).ok()
            }
        }
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Rule {}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The text is no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rule is [base|delta] every DURATION, or [base|delta] cron MIN HOUR DAY MONTH WEEKDAY")]
pub struct NotARule;

impl FromStr for Rule {
    type Err = NotARule;

    fn from_str(text: &str) -> Result<Self, NotARule> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (kind, rest) = match words.split_first() {
            Some((&"base", rest)) => (SnapshotKind::Base, rest),
            Some((&"delta", rest)) => (SnapshotKind::Delta, rest),
            _ => (SnapshotKind::Base, &words[..]),
        };
        let when = match rest.split_first() {
            Some((&"every", [interval])) => When::Every(interval_of(interval).ok_or(NotARule)?),
            Some((&"cron", pattern)) => {
                let pattern = pattern.join(" ");
                When::Cron(Box::new(Cron::from_str(&pattern).map_err(|_| NotARule)?))
            }
            _ => return Err(NotARule),
        };
        let kind_name = match kind {
            SnapshotKind::Base => "base",
            SnapshotKind::Delta => "delta",
        };
        Ok(Self { kind, when, text: format!("{kind_name} {}", rest.join(" ")) })
    }
}

/// `15m`, `6h`; also days, which only a schedule needs.
fn interval_of(text: &str) -> Option<Duration> {
    let interval = match text.strip_suffix('d') {
        Some(days) => Duration::from_secs(days.parse::<u64>().ok()?.checked_mul(24 * 3600)?),
        None => parse_duration(text)?,
    };
    (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval).then_some(interval)
}

/// What the rules want now: a base if any wants one, which serves those that want a delta too.
pub fn due(rules: &[Rule], last: Last, now_us: u64) -> Option<SnapshotKind> {
    let mut wanted = rules.iter().filter(|rule| rule.is_due(last, now_us)).map(|rule| rule.kind);
    let first = wanted.next()?;
    Some(if wanted.any(|kind| kind == SnapshotKind::Base) { SnapshotKind::Base } else { first })
}

/// When the next snapshot is due, in microseconds since the Unix epoch.
pub fn next_us(rules: &[Rule], last: Last) -> Option<u64> {
    rules.iter().filter_map(|rule| rule.next_us(last)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_US: u64 = 60_000_000;
    /// 2026-01-01T00:00:00Z, a Thursday.
    const DAY_US: u64 = 1_767_225_600_000_000;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    #[test]
    fn rules_and_what_is_none() {
        for (text, shown) in [
            ("every 15m", "base every 15m"),
            ("delta  every 30s", "delta every 30s"),
            ("base every 7d", "base every 7d"),
            ("cron 0 3 * * *", "base cron 0 3 * * *"),
            ("delta cron */5 * * * MON-FRI", "delta cron */5 * * * MON-FRI"),
        ] {
            assert_eq!(rule(text).to_string(), shown);
        }
        for text in [
            "",
            "every",
            "every 0",
            "every 500ms",
            "every 15",
            "every 999999d",
            "each 15m",
            "cron",
            "cron * * *",
            "cron 61 * * * *",
            "delta",
            "delta every 5m now",
        ] {
            assert_eq!(text.parse::<Rule>(), Err(NotARule), "{text}");
        }
    }

    #[test]
    fn an_interval_counts_from_the_last_snapshot_that_serves() {
        let base = rule("every 15m");
        let delta = rule("delta every 5m");
        let last = Last { base_us: Some(DAY_US), any_us: Some(DAY_US), started_us: DAY_US };
        assert!(!base.is_due(last, DAY_US + 15 * MINUTE_US - 1));
        assert!(base.is_due(last, DAY_US + 15 * MINUTE_US));
        let rules = [base, delta];
        assert_eq!(due(&rules, last, DAY_US + 4 * MINUTE_US), None);
        assert_eq!(due(&rules, last, DAY_US + 5 * MINUTE_US), Some(SnapshotKind::Delta));
        assert_eq!(due(&rules, last, DAY_US + 20 * MINUTE_US), Some(SnapshotKind::Base));
        assert_eq!(next_us(&rules, last), Some(DAY_US + 5 * MINUTE_US));
    }

    #[test]
    fn without_any_snapshot_an_interval_is_due_at_once() {
        let last = Last { started_us: DAY_US, ..Last::default() };
        assert!(rule("delta every 1h").is_due(last, DAY_US));
    }

    #[test]
    fn a_cron_rule_that_was_missed_is_made_up_for_once() {
        let nightly = rule("cron 0 3 * * *");
        let hour_us = 60 * MINUTE_US;
        let at = |us| Last { base_us: Some(us), any_us: Some(us), started_us: us };
        assert_eq!(nightly.next_us(at(DAY_US)), Some(DAY_US + 3 * hour_us));
        // Down for a week: one snapshot, then the next night's.
        let back_us = DAY_US + 7 * 24 * hour_us + 10 * hour_us;
        assert!(nightly.is_due(at(DAY_US), back_us));
        assert!(!nightly.is_due(at(back_us), back_us + hour_us));
        let new = Last { started_us: DAY_US, ..Last::default() };
        assert!(!nightly.is_due(new, DAY_US + hour_us));
    }
}
