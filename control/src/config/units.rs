//! Sizes and durations as people write them: `64mb`, `1GiB`, `4096`; `10s`, `500ms`. Pure.
//!
//! Size suffixes are those of Redis' configuration (`k` is 1,000 bytes and `kb` 1,024), and the IEC
//! ones (`KiB`); case does not matter. There are no fractions and no signs.

use std::time::Duration;

/// Suffix and bytes, in lower case.
const SIZES: [(&str, u64); 14] = [
    ("", 1),
    ("b", 1),
    ("k", 1_000),
    ("kb", 1 << 10),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1 << 20),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1 << 30),
    ("gib", 1 << 30),
    ("t", 1_000_000_000_000),
    ("tb", 1 << 40),
    ("tib", 1 << 40),
];

/// Suffix and milliseconds. A bare number has no unit and is refused, except for 0.
const DURATIONS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// A size in bytes: a whole number and an optional suffix. `None` if it is none, or too large.
pub fn parse_size_bytes(text: &str) -> Option<u64> {
    let (number, suffix) = split(text)?;
    let unit_bytes = SIZES.iter().find(|(name, _)| *name == suffix)?.1;
    number.checked_mul(unit_bytes)
}

/// A duration: a whole number and `ms`, `s`, `m` or `h`. `None` if it is none, or too long.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, suffix) = split(text)?;
    if number == 0 && suffix.is_empty() {
        return Some(Duration::ZERO);
    }
    let unit_ms = DURATIONS.iter().find(|(name, _)| *name == suffix)?.1;
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

/// For how long moments are kept: a duration, also in days, from 1 s to 36,500 days.
pub fn parse_keep_for(text: &str) -> Option<Duration> {
    let keep_for = match text.strip_suffix('d') {
        Some(days) => Duration::from_secs(days.parse::<u64>().ok()?.checked_mul(24 * 3600)?),
        None => parse_duration(text)?,
    };
    let sound = Duration::from_secs(1)..=Duration::from_secs(36_500 * 24 * 3600);
    sound.contains(&keep_for).then_some(keep_for)
}

/// The number in front and the suffix in lower case, with one space or none between.
fn split(text: &str) -> Option<(u64, String)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let suffix = suffix.strip_prefix(' ').unwrap_or(suffix);
    Some((number.parse().ok()?, suffix.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("10b", 10),
            ("1k", 1_000),
            ("1kb", 1_024),
            ("1KiB", 1_024),
            ("64mb", 64 << 20),
            ("64 MB", 64 << 20),
            ("1M", 1_000_000),
            ("1GiB", 1 << 30),
            ("2tb", 2 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size_bytes(text), Some(bytes), "{text}");
        }
        for text in
            ["", "mb", "-1", "+1", "1.5gb", "1xb", "1mbb", "1  mb", " 1", "99999999999tb", "٣"]
        {
            assert_eq!(parse_size_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in
            [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1H", 3_600_000), ("0", 0)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "10", "s", "1d", "1.5s", "-1s", "1s2", "99999999999999999999s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
