//! Integers in decimal, as strictly as Redis reads them. Pure; used for lengths in the protocol
//! and for integer arguments and values of commands.

/// The longest text of an `i64`: a sign and 19 digits.
const LONGEST: usize = 20;

/// The integer that `text` is, if it is written the one way Redis accepts: digits with an optional
/// `-`, no `+`, no blanks, no leading zeros, no `-0`, and within the range of an `i64`.
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [] => return None,
        [b'0'] => return (!negative).then_some(0),
        [b'0', ..] => return None,
        _ if text.len() > LONGEST => return None,
        _ => {}
    }
    // Towards the negative side, which reaches one further than the positive one.
    let mut value = 0i64;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_sub(i64::from(digit))?;
    }
    if negative { Some(value) } else { value.checked_neg() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_canonical_form_is_a_number() {
        let no = [
            "",
            "-",
            "+1",
            " 1",
            "1 ",
            "01",
            "-0",
            "-01",
            "00",
            "1a",
            "0x1",
            "1.0",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
            "--1",
        ];
        for text in no {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_integer_survives(value in any::<i64>()) {
            prop_assert_eq!(parse_i64(value.to_string().as_bytes()), Some(value));
        }

        #[test]
        fn what_is_accepted_is_canonical(text in "[-+0-9 a]{0,22}") {
            if let Some(value) = parse_i64(text.as_bytes()) {
                prop_assert_eq!(value.to_string(), text);
            }
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        for value in [i64::MIN, i64::MAX, 0, -1] {
            assert_eq!(parse_i64(value.to_string().as_bytes()), Some(value));
        }
    }
}
