//! Arguments as numbers and options, read as Redis reads them. Pure.
//!
//! What fails here is answered by the command, with one of the texts in [`super::error`].

use std::borrow::Cow;

pub use crate::resp::number::parse_i64 as integer;

/// A SCAN cursor, read as `strtoul` reads it: an optional sign (a negative number wraps), leading
/// zeros, and the empty text is 0.
pub fn cursor(text: &[u8]) -> Option<u64> {
    let (negative, digits) = match text {
        [] => return Some(0),
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let magnitude = digits.iter().try_fold(0u64, |value, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })?;
    Some(if negative { magnitude.wrapping_neg() } else { magnitude })
}

/// What an error repeats of an argument: up to a NUL, since Redis prints it as a C string. What is
/// not UTF-8 is replaced, so that an error is always text.
pub fn repeated(argument: &[u8]) -> Cow<'_, str> {
    let shown = argument.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(shown)
}

/// Whether an argument is this option, in any case of letters.
pub fn is_option(argument: &[u8], name: &str) -> bool {
    argument.eq_ignore_ascii_case(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_those_of_strtoul() {
        let good = [
            ("", 0),
            ("0", 0),
            ("007", 7),
            ("+7", 7),
            ("-1", u64::MAX),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, value) in good {
            assert_eq!(cursor(text.as_bytes()), Some(value), "{text}");
        }
        for text in ["a", "1a", " 1", "-", "+", "18446744073709551616", "1.0"] {
            assert_eq!(cursor(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn errors_repeat_text() {
        assert_eq!(repeated(b"caf\xc3\xa9 \xff\0x"), "caf\u{e9} \u{fffd}");
    }

    #[test]
    fn options_have_no_case() {
        assert!(is_option(b"keepTTL", "KEEPTTL") && !is_option(b"NX ", "NX"));
    }
}
