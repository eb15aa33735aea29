//! The arithmetic of INCRBYFLOAT: Redis adds C's `long double`, so this is that type in software,
//! bit for bit as on x86-64: 64 bits of significand, rounded to nearest, ties to even. Pure.
//!
//! It is why `10.50 + 0.1` is `10.6`: with 11 more bits than an `f64`, the error of the sum lies
//! behind the 17 decimals that are printed. Numbers are read as `strtold` reads them (decimal,
//! hexadecimal, infinity) and written as `%.17Lf` without the zeros at the end (Redis' `ld2string`
//! with LD_STR_HUMAN).

use super::natural::Natural;

/// A finite number: `mantissa * 2^exponent`, with a sign of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finite {
    negative: bool,
    mantissa: u64,
    exponent: i32,
}

/// What text can stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongDouble {
    /// A number.
    Finite(Finite),
    /// Either infinity: it can be read, but every sum with it is refused.
    Infinite,
}

/// Bits of the significand.
const MANTISSA_BITS: i64 = 64;
/// The exponent of the lowest bit of the smallest (subnormal) number: 2^-16445.
const MIN_EXPONENT: i64 = -16_445;
/// Every finite number is below 2^16384.
const MAX_MAGNITUDE_BITS: i64 = 16_384;
/// Powers of ten beyond which a number is surely infinite, or surely rounds to zero.
const DECIMAL_MAGNITUDES: std::ops::RangeInclusive<i64> = -4_960..=4_934;
/// The same for powers of two.
const BINARY_MAGNITUDES: std::ops::RangeInclusive<i64> = -16_460..=16_400;
/// Longer texts are refused: Redis' MAX_LONG_DOUBLE_CHARS, exclusive.
const MAX_TEXT_LEN: usize = 5 * 1024;
/// Exponents are cut off here while they are read: no text is long enough to make up for it.
const EXPONENT_LIMIT: i64 = 1_000_000;
/// Decimals that are printed, before the zeros at the end go.
const DECIMALS: usize = 17;
const DECIMAL_UNIT: u128 = 10u128.pow(DECIMALS as u32);
/// Quotients get two bits more than a significand has: one decides the rounding.
const QUOTIENT_BITS: usize = 66;

impl LongDouble {
    /// Reads a number; `None` if it is none, is out of range, or rounds to zero without being it.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() >= MAX_TEXT_LEN {
            return None;
        }
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") {
            return Some(Self::Infinite);
        }
        let number = match rest {
            [b'0', b'x' | b'X', hexadecimal @ ..] => {
                let literal = Literal::parse(hexadecimal, 16, b'p')?;
                literal.hexadecimal(negative)
            }
            decimal => Literal::parse(decimal, 10, b'e')?.decimal(negative),
        };
        number.map(Self::Finite)
    }

    /// The sum; `None` if it is not finite.
    pub fn add(self, other: Self) -> Option<Finite> {
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => a.add(b),
            _ => None,
        }
    }
}

impl Finite {
    fn add(self, other: Self) -> Option<Self> {
        let exponent = self.exponent.min(other.exponent);
        let aligned = |number: Self| {
            let mut natural = Natural::from(u128::from(number.mantissa));
            natural.shift_left((number.exponent - exponent) as usize);
            natural
        };
        let (mut a, mut b) = (aligned(self), aligned(other));
        let exponent = i64::from(exponent);
        if self.negative == other.negative {
            a.add(&b);
            return round(self.negative, &a, exponent, false);
        }
        if a >= b {
            a.subtract(&b);
            // What cancels out is +0, whichever sign came first.
            round(self.negative && !a.is_zero(), &a, exponent, false)
        } else {
            b.subtract(&a);
            round(other.negative, &b, exponent, false)
        }
    }

    /// The number with at most 17 decimals, without an exponent and without zeros at the end.
    pub fn to_text(self) -> String {
        let (whole, decimals) = match u32::try_from(-self.exponent) {
            Ok(shift) => {
                let scaled =
                    shift_right_to_nearest(u128::from(self.mantissa) * DECIMAL_UNIT, shift);
                ((scaled / DECIMAL_UNIT).to_string(), scaled % DECIMAL_UNIT)
            }
            Err(_) => {
                let mut natural = Natural::from(u128::from(self.mantissa));
                natural.shift_left(self.exponent as usize);
                (natural.to_decimal(), 0)
            }
        };
        let sign = if self.negative && (decimals != 0 || whole != "0") { "-" } else { "" };
        let text = format!("{sign}{whole}.{decimals:0DECIMALS$}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

/// A number as written: digits, and the power of the radix (or of two) that scales them.
struct Literal {
    /// Values of the digits, without zeros in front.
    digits: Vec<u8>,
    /// How many of them stand behind the point.
    behind_point: i64,
    exponent: i64,
}

impl Literal {
    fn parse(text: &[u8], radix: u32, exponent_letter: u8) -> Option<Self> {
        let is_letter = |byte: &u8| byte.to_ascii_lowercase() == exponent_letter;
        let (number, exponent) = match text.iter().position(is_letter) {
            Some(at) => (&text[..at], parse_exponent(&text[at + 1..])?),
            None => (text, 0),
        };
        let point = number.iter().position(|byte| *byte == b'.');
        let (whole, behind) = match point {
            Some(at) => (&number[..at], &number[at + 1..]),
            None => (number, &[][..]),
        };
        if whole.is_empty() && behind.is_empty() {
            return None;
        }
        let mut digits = Vec::with_capacity(number.len());
        for byte in whole.iter().chain(behind) {
            let digit = char::from(*byte).to_digit(radix)? as u8;
            if digit != 0 || !digits.is_empty() {
                digits.push(digit);
            }
        }
        Some(Self { digits, behind_point: behind.len() as i64, exponent })
    }

    fn decimal(self, negative: bool) -> Option<Finite> {
        let power = self.exponent - self.behind_point;
        let magnitude = self.digits.len() as i64 + power;
        if self.digits.is_empty() {
            return Some(Finite { negative, mantissa: 0, exponent: 0 });
        }
        if !DECIMAL_MAGNITUDES.contains(&magnitude) {
            return None;
        }
        let mut number = Natural::from_digits(self.digits.into_iter(), 10);
        let scale = power.unsigned_abs() as usize;
        if power >= 0 {
            number.scale_by_ten(scale);
            return not_zero(round(negative, &number, 0, false));
        }
        let mut divisor = Natural::from(1);
        divisor.scale_by_ten(scale);
        // Scaled so that the quotient has enough bits, and not many more.
        let shift = (divisor.bits() + QUOTIENT_BITS) as i64 - number.bits() as i64;
        if shift >= 0 {
            number.shift_left(shift as usize);
        } else {
            divisor.shift_left(shift.unsigned_abs() as usize);
        }
        let quotient = number.divide(divisor);
        not_zero(round(negative, &quotient.into(), -shift, !number.is_zero()))
    }

    fn hexadecimal(self, negative: bool) -> Option<Finite> {
        let power = self.exponent - 4 * self.behind_point;
        let magnitude = 4 * self.digits.len() as i64 + power;
        if self.digits.is_empty() {
            return Some(Finite { negative, mantissa: 0, exponent: 0 });
        }
        if !BINARY_MAGNITUDES.contains(&magnitude) {
            return None;
        }
        let number = Natural::from_digits(self.digits.into_iter(), 16);
        not_zero(round(negative, &number, power, false))
    }
}

fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let magnitude = digits
        .iter()
        .fold(0, |value, byte| (value * 10 + i64::from(byte - b'0')).min(EXPONENT_LIMIT));
    Some(if negative { -magnitude } else { magnitude })
}

fn not_zero(number: Option<Finite>) -> Option<Finite> {
    number.filter(|number| number.mantissa != 0)
}

/// The nearest number to `natural * 2^exponent`, or to a little more than that if `inexact` (then
/// `natural` has more bits than a significand). `None` if it is infinite.
fn round(negative: bool, natural: &Natural, exponent: i64, inexact: bool) -> Option<Finite> {
    let bits = natural.bits() as i64;
    if bits == 0 {
        return Some(Finite { negative, mantissa: 0, exponent: 0 });
    }
    let dropped = (bits - MANTISSA_BITS).max(MIN_EXPONENT - exponent).max(0) as usize;
    let mut mantissa = u128::from(natural.bits_from(dropped));
    if dropped > 0 && natural.bit(dropped - 1) {
        let above_half = inexact || natural.any_bit_below(dropped - 1);
        if above_half || mantissa & 1 != 0 {
            mantissa += 1;
        }
    }
    let mut exponent = exponent + dropped as i64;
    if mantissa >> MANTISSA_BITS != 0 {
        mantissa >>= 1;
        exponent += 1;
    }
    let magnitude_bits = i64::from(u128::BITS - mantissa.leading_zeros()) + exponent;
    if magnitude_bits > MAX_MAGNITUDE_BITS {
        return None;
    }
    Some(Finite { negative, mantissa: mantissa as u64, exponent: exponent as i32 })
}

/// `value / 2^shift` to the nearest integer, ties to even.
fn shift_right_to_nearest(value: u128, shift: u32) -> u128 {
    if shift == 0 {
        return value;
    }
    if shift >= u128::BITS {
        // A mantissa times 10^17 has less than 121 bits: less than a half is left.
        return 0;
    }
    let quotient = value >> shift;
    let rest = value & ((1 << shift) - 1);
    let half = 1 << (shift - 1);
    if rest > half || (rest == half && quotient & 1 != 0) { quotient + 1 } else { quotient }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(a: &str, b: &str) -> Option<String> {
        let number = |text: &str| LongDouble::parse(text.as_bytes());
        number(a)?.add(number(b)?).map(Finite::to_text)
    }

    /// Replies of a Redis 7.0 server on x86-64.
    #[test]
    fn sums_are_those_of_redis() {
        let cases = [
            ("10.50", "0.1", "10.6"),
            ("10.6", "-5", "5.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3.0", "-1.0", "2"),
            ("3.0", "1.000000000000000005", "4.00000000000000001"),
            ("0.1", "0.2", "0.3"),
            ("0", "1e-17", "0.00000000000000001"),
            ("0", "5e-18", "0"),
            ("0", "6e-18", "0.00000000000000001"),
            ("0", "-1e-20", "0"),
            ("1", "-1", "0"),
            ("0x10", "0x1p-3", "16.125"),
            (".5", "5.", "5.5"),
            ("+1", "0", "1"),
            ("1e19", "1", "10000000000000000001"),
            ("1e20", "1", "100000000000000000000"),
            ("17179869184", "1.5", "17179869185.5"),
            ("9223372036854775807", "1", "9223372036854775808"),
            ("-1.5", "0.25", "-1.25"),
        ];
        for (a, b, expected) in cases {
            assert_eq!(sum(a, b).as_deref(), Some(expected), "{a} + {b}");
        }
    }

    /// Each line: two random numbers, and what a Redis 7.0 server on x86-64 made of their sum.
    #[test]
    fn random_sums_are_those_of_redis() {
        for line in include_str!("golden/long_double.txt").lines() {
            let words: Vec<_> = line.split(' ').collect();
            assert_eq!(sum(words[0], words[1]).as_deref(), Some(words[2]), "{line}");
        }
    }

    #[test]
    fn what_is_no_number() {
        let bad = [
            "", " 1", "1 ", "abc", "1a", ".", "-", "1e", "1e+", "0x", "0x.", "--1", "nan", "1..2",
            "1e5000", "-1e5000", "1e-5000", "1\0", "infi", "1e1e1", "0x1p", "1,5",
        ];
        for text in bad {
            assert_eq!(LongDouble::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(LongDouble::parse(&[b'1'; MAX_TEXT_LEN]), None);
        for text in ["inf", "-Infinity", "+INF"] {
            assert_eq!(LongDouble::parse(text.as_bytes()), Some(LongDouble::Infinite));
        }
        assert_eq!(sum("1.1e4932", "1.1e4932"), None, "the sum is infinite");
        assert_eq!(sum("0e999999999999", "1").as_deref(), Some("1"));
    }

    #[test]
    fn the_ends_of_the_range() {
        let number = |text: &str| LongDouble::parse(text.as_bytes());
        assert!(number("1.18973149535723176502e4932").is_some(), "the largest");
        assert!(number("1.18973149535723176509e4932").is_none(), "rounds to infinity");
        let Some(LongDouble::Finite(tiny)) = number("3.6e-4951") else { panic!("subnormal") };
        assert_eq!((tiny.mantissa, i64::from(tiny.exponent)), (1, MIN_EXPONENT));
        assert!(number("1.8e-4951").is_none(), "rounds to zero");
        let long = sum("1e4000", "0").unwrap();
        assert_eq!(long.len(), 4000);
        assert!(long.starts_with("9999999999999999999965463873099623784932"));
        assert!(long.ends_with("06648276349901340672"));
        let padded = format!("0.{}1e4001", "0".repeat(4000));
        assert_eq!(sum(&padded, "0").as_deref(), Some("1"));
    }

    #[test]
    fn ties_go_to_even() {
        // 2^64 + 1 lies half-way between two numbers, 2^64 + 3 too.
        assert_eq!(sum("18446744073709551617", "0").as_deref(), Some("18446744073709551616"));
        assert_eq!(sum("18446744073709551619", "0").as_deref(), Some("18446744073709551620"));
        assert_eq!(sum("18446744073709551617.0001", "0").as_deref(), Some("18446744073709551618"));
    }
}
