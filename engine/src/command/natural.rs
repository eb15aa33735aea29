//! Natural numbers of any size, with the few operations that [`super::long_double`] needs to round
//! correctly. Pure. Little-endian limbs of 32 bits, the highest never zero.

use std::cmp::Ordering;

/// A natural number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Natural {
    limbs: Vec<u32>,
}

const LIMB_BITS: usize = 32;
/// The largest power of ten in a limb.
const POWER_OF_TEN: u32 = 1_000_000_000;
const POWER_OF_TEN_DIGITS: usize = 9;

impl From<u128> for Natural {
    fn from(mut value: u128) -> Self {
        let mut limbs = Vec::with_capacity(8);
        while value != 0 {
            limbs.push(value as u32);
            value >>= LIMB_BITS;
        }
        Self { limbs }
    }
}

impl Natural {
    /// The number that these digits (each below `radix`) write, the highest first.
    pub fn from_digits(digits: impl Iterator<Item = u8>, radix: u32) -> Self {
        let mut number = Self::default();
        digits.for_each(|digit| number.multiply_add(radix, u32::from(digit)));
        number
    }

    /// Multiplies by 10^exponent.
    pub fn scale_by_ten(&mut self, mut exponent: usize) {
        while exponent >= POWER_OF_TEN_DIGITS {
            self.multiply_add(POWER_OF_TEN, 0);
            exponent -= POWER_OF_TEN_DIGITS;
        }
        self.multiply_add(10u32.pow(exponent as u32), 0);
    }

    /// How many bits the number has; 0 for 0.
    pub fn bits(&self) -> usize {
        self.limbs
            .last()
            .map_or(0, |top| self.limbs.len() * LIMB_BITS - top.leading_zeros() as usize)
    }

    /// Multiplies by 2^count.
    pub fn shift_left(&mut self, count: usize) {
        if self.limbs.is_empty() {
            return;
        }
        let bits = count % LIMB_BITS;
        if bits != 0 {
            let mut carry = 0;
            for limb in &mut self.limbs {
                let wide = u64::from(*limb) << bits | carry;
                *limb = wide as u32;
                carry = wide >> LIMB_BITS;
            }
            self.push_carry(carry);
        }
        self.limbs.splice(0..0, std::iter::repeat_n(0, count / LIMB_BITS));
    }

    /// Whether the bit that counts 2^index is set.
    pub fn bit(&self, index: usize) -> bool {
        let limb = self.limbs.get(index / LIMB_BITS).copied().unwrap_or(0);
        limb >> (index % LIMB_BITS) & 1 != 0
    }

    /// Whether any bit below 2^count is set.
    pub fn any_bit_below(&self, count: usize) -> bool {
        let whole = (count / LIMB_BITS).min(self.limbs.len());
        self.limbs[..whole].iter().any(|limb| *limb != 0)
            || (whole * LIMB_BITS..count.min(self.bits())).any(|index| self.bit(index))
    }

    /// The lowest 64 bits of the number divided by 2^count.
    pub fn bits_from(&self, count: usize) -> u64 {
        let first = count / LIMB_BITS;
        let limb = |index: usize| u128::from(self.limbs.get(index).copied().unwrap_or(0));
        let wide = limb(first) | limb(first + 1) << 32 | limb(first + 2) << 64;
        (wide >> (count % LIMB_BITS)) as u64
    }

    /// The sum.
    pub fn add(&mut self, other: &Self) {
        self.limbs.resize(self.limbs.len().max(other.limbs.len()), 0);
        let mut carry = 0;
        for (index, limb) in self.limbs.iter_mut().enumerate() {
            let added = other.limbs.get(index).copied().unwrap_or(0);
            let wide = u64::from(*limb) + u64::from(added) + carry;
            *limb = wide as u32;
            carry = wide >> LIMB_BITS;
        }
        self.push_carry(carry);
    }

    /// The difference; `other` is not greater.
    pub fn subtract(&mut self, other: &Self) {
        debug_assert!(*self >= *other);
        let mut borrow = false;
        for (index, limb) in self.limbs.iter_mut().enumerate() {
            let taken = other.limbs.get(index).copied().unwrap_or(0);
            let (value, first) = limb.overflowing_sub(taken);
            let (value, second) = value.overflowing_sub(u32::from(borrow));
            *limb = value;
            borrow = first || second;
        }
        self.trim();
    }

    /// Divides by a divisor that makes the quotient less than 2^128; what stays is the remainder.
    pub fn divide(&mut self, mut divisor: Self) -> u128 {
        let places = (self.bits() + 1).saturating_sub(divisor.bits());
        assert!(places <= 128, "the caller scales, so that the quotient fits");
        divisor.shift_left(places);
        let mut quotient = 0;
        for _ in 0..places {
            divisor.halve();
            quotient <<= 1;
            if *self >= divisor {
                self.subtract(&divisor);
                quotient |= 1;
            }
        }
        quotient
    }

    /// Whether the number is 0.
    pub fn is_zero(&self) -> bool {
        self.limbs.is_empty()
    }

    /// The number in decimal.
    pub fn to_decimal(&self) -> String {
        let mut rest = self.clone();
        let mut groups = Vec::new();
        while !rest.is_zero() {
            groups.push(rest.divide_by_limb(POWER_OF_TEN));
        }
        let mut text = groups.pop().unwrap_or(0).to_string();
        for group in groups.iter().rev() {
            text.push_str(&format!("{group:09}"));
        }
        text
    }

    fn multiply_add(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for limb in &mut self.limbs {
            let wide = u64::from(*limb) * u64::from(factor) + carry;
            *limb = wide as u32;
            carry = wide >> LIMB_BITS;
        }
        self.push_carry(carry);
    }

    /// Divides and returns the remainder.
    fn divide_by_limb(&mut self, divisor: u32) -> u32 {
        let mut remainder = 0u64;
        for limb in self.limbs.iter_mut().rev() {
            let wide = remainder << LIMB_BITS | u64::from(*limb);
            *limb = (wide / u64::from(divisor)) as u32;
            remainder = wide % u64::from(divisor);
        }
        self.trim();
        remainder as u32
    }

    fn halve(&mut self) {
        let mut carry = 0;
        for limb in self.limbs.iter_mut().rev() {
            let low = *limb << (LIMB_BITS - 1);
            *limb = *limb >> 1 | carry;
            carry = low;
        }
        self.trim();
    }

    fn push_carry(&mut self, carry: u64) {
        if carry != 0 {
            self.limbs.push(carry as u32);
        }
    }

    fn trim(&mut self) {
        while self.limbs.last() == Some(&0) {
            self.limbs.pop();
        }
    }
}

impl Ord for Natural {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_length = self.limbs.len().cmp(&other.limbs.len());
        by_length.then_with(|| self.limbs.iter().rev().cmp(other.limbs.iter().rev()))
    }
}

impl PartialOrd for Natural {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_u128(a in any::<u128>(), b in 1..u128::MAX, shift in 0usize..200) {
            let (a, b) = (a >> 1, (b >> 1).max(1));
            let mut sum = Natural::from(a);
            sum.add(&b.into());
            prop_assert_eq!(&sum, &Natural::from(a + b));
            prop_assert_eq!(sum.to_decimal(), (a + b).to_string());
            sum.subtract(&a.into());
            prop_assert_eq!(sum, b.into());
            let mut rest = Natural::from(a);
            prop_assert_eq!(rest.divide(b.into()), a / b);
            prop_assert_eq!(rest, (a % b).into());
            let mut shifted = Natural::from(a);
            shifted.shift_left(shift);
            prop_assert_eq!(shifted.bits_from(shift), a as u64);
            prop_assert!(!shifted.any_bit_below(shift));
            let digits = a.to_string();
            let read = Natural::from_digits(digits.bytes().map(|byte| byte - b'0'), 10);
            prop_assert_eq!(read, a.into());
        }
    }

    #[test]
    fn large_ones_in_decimal() {
        let mut number = Natural::from(7);
        number.scale_by_ten(100);
        assert_eq!(number.to_decimal(), format!("7{}", "0".repeat(100)));
        assert_eq!(Natural::default().to_decimal(), "0");
    }
}
