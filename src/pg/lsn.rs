//! Positions in the write-ahead log.
//!
//! Follows PostgreSQL `src/include/access/xlogdefs.h` (`XLogRecPtr`) and `src/backend/utils/adt/pg_lsn.c`.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

/// A byte position in the WAL, counted from the beginning of the cluster's first segment.
///
/// It is written as two hexadecimal numbers, the high and the low 32 bits: `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not a WAL location (two hexadecimal numbers with a slash between them, as in 16/B374D848)"
)]
pub struct NotAnLsn(String);

impl Add<u64> for Lsn {
    type Output = Self;

    fn add(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

impl Sub for Lsn {
    type Output = u64;

    /// The distance in bytes.
    fn sub(self, earlier: Self) -> u64 {
        self.0 - earlier.0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = NotAnLsn;

    fn from_str(text: &str) -> Result<Self, NotAnLsn> {
        let half = |digits: &str| {
            let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        let parse = || {
            let (high, low) = text.split_once('/')?;
            Some(Self(half(high)? << 32 | half(low)?))
        };
        parse().ok_or_else(|| NotAnLsn(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rejects_what_is_not_two_short_hexadecimal_numbers() {
        for text in ["", "0", "/", "0/", "/0", "0/0/0", "+1/0", "0/-1", "0/123456789", "G/0", "0 /1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(position: u64) {
            prop_assert_eq!(Lsn(position).to_string().parse(), Ok(Lsn(position)));
        }
    }
}
