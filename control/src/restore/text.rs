//! Moments, windows and plans as people read them, and as `--at` takes them: RFC 3339 in UTC, to
//! the microsecond. Pure.

use std::time::UNIX_EPOCH;

use cutwater_engine::types::Lsn;
use cutwater_snapshot::plan::{Hole, Plan, PlanError, Restorable, Window};

use crate::listing::rfc_3339;

/// Windows that an error lists: the newest.
const SHOWN_WINDOWS: usize = 8;
/// The LSNs of one microsecond.
const LSNS_PER_MICRO: u64 = 1 << Lsn::COUNTER_BITS;

/// The text is no moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no moment: give it as 2026-03-01T12:00:00.5Z or with an offset like +02:00")]
pub struct NoMoment {
    /// What was given.
    pub text: String,
}

/// Microseconds since the Unix epoch; a fraction beyond microseconds is cut off.
///
/// # Errors
/// [`NoMoment`].
pub fn parse_moment(text: &str) -> Result<u64, NoMoment> {
    parse(text.trim()).ok_or_else(|| NoMoment { text: text.to_owned() })
}

fn parse(text: &str) -> Option<u64> {
    // The offset stands behind the time; the date has dashes of its own.
    let time = text.find(['T', 't', ' '])?;
    let (local, offset_minutes) = match text[time..].rfind(['+', '-']) {
        Some(at) => {
            let (local, offset) = text.split_at(time + at);
            (local, offset_minutes(offset)?)
        }
        None => (text.trim_end_matches(['Z', 'z']), 0),
    };
    let moment = humantime::parse_rfc3339_weak(local).ok()?;
    let micros = i64::try_from(moment.duration_since(UNIX_EPOCH).ok()?.as_micros()).ok()?;
    u64::try_from(micros.checked_sub(offset_minutes.checked_mul(60_000_000)?)?).ok()
}

/// `+hh:mm` or `-hh:mm`.
fn offset_minutes(text: &str) -> Option<i64> {
    let (sign, rest) = text.split_at_checked(1)?;
    let (hours, minutes) = rest.split_once(':')?;
    let number = |digits: &str, limit: i64| -> Option<i64> {
        let sound = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|number| sound && *number < limit)
    };
    let minutes = number(hours, 24)? * 60 + number(minutes, 60)?;
    Some(if sign == "-" { -minutes } else { minutes })
}

/// The microsecond of an LSN.
pub fn moment(lsn: Lsn) -> String {
    rfc_3339(lsn.micros()).unwrap_or_else(|| format!("LSN {lsn}"))
}

/// The last microsecond of which everything is at or below `lsn`: what `--at` may name.
pub fn last_moment(lsn: Lsn) -> String {
    moment(Lsn((lsn.0 + 1).saturating_sub(LSNS_PER_MICRO)))
}

/// One window.
pub fn window(window: &Window) -> String {
    let Window { first, last } = *window;
    if first == last {
        return format!("{} only (--lsn {first})", moment(first));
    }
    format!("{} to {}", moment(first), last_moment(last))
}

/// One hole.
pub fn hole(hole: &Hole) -> String {
    format!("{} to {}", moment(hole.after), moment(hole.before))
}

/// Why there is no plan, with what there is instead.
pub fn explain(error: &PlanError) -> String {
    let PlanError::Outside { target, history, windows, holes, nearest, elsewhere } = error else {
        return error.to_string();
    };
    let mut text = format!(
        "{} (LSN {target}) cannot be restored in history {history}: it lies outside every window",
        moment(*target)
    );
    let skipped = windows.len().saturating_sub(SHOWN_WINDOWS);
    for found in &windows[skipped..] {
        text.push_str(&format!("\n  window   {}", window(found)));
    }
    for found in holes.iter().rev().take(SHOWN_WINDOWS).rev() {
        text.push_str(&format!("\n  hole     {}", hole(found)));
    }
    let is_end = windows.iter().any(|window| window.last == *nearest);
    let near = if is_end { last_moment(*nearest) } else { moment(*nearest) };
    text.push_str(&format!("\n  nearest  {near} (LSN {nearest})"));
    if let Some(other) = elsewhere {
        text.push_str(&format!("\n  history {other} has this moment: add --history {other}"));
    }
    text
}

/// The windows of every history, for people.
pub fn restorable(found: &[Restorable]) -> String {
    let mut text = String::new();
    for one in found {
        text.push_str(&format!("history {}", one.history));
        if let Some(fork) = one.fork {
            text.push_str(&format!(" (off {} at {})", fork.parent, moment(fork.lsn)));
        }
        text.push_str(if one.is_current { ", current\n" } else { "\n" });
        if one.windows.is_empty() {
            text.push_str("  nothing can be restored\n");
        }
        for found in &one.windows {
            text.push_str(&format!("  window  {}\n", window(found)));
        }
        for found in &one.holes {
            text.push_str(&format!("  hole    {}\n", hole(found)));
        }
    }
    if text.is_empty() {
        return "nothing can be restored".to_owned();
    }
    text.truncate(text.trim_end().len());
    text
}

/// A plan, for people.
pub fn plan(plan: &Plan) -> String {
    let mut text = format!(
        "moment   {} (LSN {})\nhistory  {}\nbase     snapshot {}",
        moment(plan.target),
        plan.target,
        plan.history,
        plan.base
    );
    for delta in &plan.deltas {
        text.push_str(&format!("\ndelta    snapshot {delta}"));
    }
    match plan.wal[..] {
        [] => text.push_str("\nlog      none"),
        [first, .., last] => {
            let (first, last) = (first.number, last.number);
            text.push_str(&format!("\nlog      {} objects, {first} to {last}", plan.wal.len()));
        }
        [only] => text.push_str(&format!("\nlog      object {}", only.number)),
    }
    text
}

#[cfg(test)]
mod tests {
    use cutwater_snapshot::ident::HistoryId;

    use super::*;

    #[test]
    fn moments() {
        let half_past = 1_709_210_096_500_000;
        for text in [
            "2024-02-29T12:34:56.5Z",
            "2024-02-29T12:34:56.5",
            "2024-02-29 12:34:56.500000999Z",
            "2024-02-29T14:34:56.5+02:00",
            "2024-02-29T08:04:56.5-04:30",
        ] {
            assert_eq!(parse_moment(text), Ok(half_past), "{text}");
        }
        assert_eq!(rfc_3339(half_past).unwrap(), "2024-02-29T12:34:56.500000Z");
        for bad in ["", "now", "2024-02-29", "2024-02-30T00:00:00Z", "2024-02-29T12:34:56+2:00"] {
            assert!(parse_moment(bad).is_err(), "{bad}");
        }
        for bad in ["1969-12-31T23:59:59Z", "1970-01-01T00:30:00+01:00", "é2024T1+02:00"] {
            assert!(parse_moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_shown_as_the_last_moment_can_be_asked_for() {
        for last in [Lsn(5 << 12 | 0xFFF), Lsn(5 << 12 | 7), Lsn(6 << 12)] {
            let shown = last_moment(last);
            let asked = Lsn(parse_moment(&shown).unwrap() << 12 | 0xFFF);
            assert!(asked <= last, "{shown} {last}");
        }
    }

    #[test]
    fn an_error_names_the_windows_and_the_nearest() {
        let at = |seconds: u64| Lsn(Lsn::from_micros(seconds * 1_000_000).0 - 1);
        let error = PlanError::Outside {
            target: at(50),
            history: HistoryId([1; 16]),
            windows: vec![
                Window { first: at(10), last: at(40) },
                Window { first: at(60), last: at(60) },
            ],
            holes: vec![Hole { after: at(40), before: at(55) }],
            nearest: at(40),
            elsewhere: Some(HistoryId([2; 16])),
        };
        let text = explain(&error);
        assert!(
            text.contains("1970-01-01T00:00:09.999999Z to 1970-01-01T00:00:39.999999Z"),
            "{text}"
        );
        assert!(text.contains("hole     1970-01-01T00:00:39.999999Z to"), "{text}");
        assert!(text.contains("nearest  1970-01-01T00:00:39.999999Z"), "{text}");
        assert!(text.contains("--history 0202"), "{text}");
    }
}
