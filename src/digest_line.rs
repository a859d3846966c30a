//! The last line of a text that pgbak stores, which vouches for the lines above it.
//!
//! ```text
//! # SHA-256 of the lines above: 1fc65e5f7eb4024b051b19b5db96ed895033d52104cfcd90a52d9e6e330de786
//! ```
//!
//! That is a comment in TOML, and in a timeline's history, where PostgreSQL passes over it as well. Texts without it are
//! as they are: others write such, and so did the first pgbak.

use std::fmt::Display;

use sha2::{Digest, Sha256};

const REMARK: &str = "# SHA-256 of the lines above: ";
const LINE_BYTES: usize = REMARK.len() + 64 + 1;

/// What is like a digest's beginning but for so many bits was one before it was damaged.
const NEAR_BITS: u32 = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked<'a> {
    /// The lines above, as they were written.
    Whole(&'a [u8]),
    /// Nothing vouches for the text.
    WithoutDigest,
    /// The text or its last line is not as it was written. `sha256` is of the lines above as they are now.
    Altered { sha256: String },
}

/// The last line for these lines.
pub fn of(lines: &[u8]) -> String {
    saying(&sha256(lines))
}

/// The last line for lines with this digest.
pub fn saying(sha256: &dyn Display) -> String {
    format!("{REMARK}{sha256}\n")
}

/// Compares a text with its last line.
pub fn check(stored: &[u8]) -> Checked<'_> {
    let (lines, last) = stored.split_at(stored.len().saturating_sub(LINE_BYTES));
    if last == of(lines).as_bytes() {
        return Checked::Whole(lines);
    }
    let is_elsewhere = || stored.windows(REMARK.len()).any(|bytes| bytes == REMARK.as_bytes());
    let is_damaged = || last.len() == LINE_BYTES && is_near(last, REMARK.as_bytes());
    match is_damaged() || is_cut(stored) || is_elsewhere() {
        true => Checked::Altered { sha256: sha256(lines) },
        false => Checked::WithoutDigest,
    }
}

/// Whether these bytes begin like `expected`, but for [`NEAR_BITS`] bits at most.
pub fn is_near(found: &[u8], expected: &[u8]) -> bool {
    let differing = found.iter().zip(expected).map(|(found, expected)| (found ^ expected).count_ones());
    differing.sum::<u32>() <= NEAR_BITS
}

/// Whether the last line may be the beginning of ours. Nobody else ends these texts with a comment.
fn is_cut(stored: &[u8]) -> bool {
    let text = stored.strip_suffix(b"\n").unwrap_or(stored);
    text.rsplit(|&byte| byte == b'\n').next().is_some_and(|last| last.starts_with(b"#"))
}

fn sha256(text: &[u8]) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_altered(stored: &[u8]) -> bool {
        matches!(check(stored), Checked::Altered { .. })
    }

    #[test]
    fn is_what_the_usual_tool_says() {
        let expected = "1fc65e5f7eb4024b051b19b5db96ed895033d52104cfcd90a52d9e6e330de786";
        assert_eq!(of(b"pgbak\n"), format!("# SHA-256 of the lines above: {expected}\n"));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_found_wherever_it_is(
            lines in prop::collection::vec(any::<u8>(), 0..200),
            at: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let mut stored = [&lines[..], of(&lines).as_bytes()].concat();
            prop_assert_eq!(check(&stored), Checked::Whole(&lines));
            let at = at.index(stored.len());
            stored[at] ^= 1 << bit;
            prop_assert!(is_altered(&stored));
        }

        #[test]
        fn what_others_wrote_is_left_as_it_is(text in "[0-9A-Z/\t\n]{0,200}") {
            prop_assert_eq!(check(text.as_bytes()), Checked::WithoutDigest);
        }

        #[test]
        fn what_is_added_or_cut_off_is_found(lines in "([a-z]{0,8}\n){0,9}", more in "[a-z\n]{1,9}", cut in 1usize..95) {
            let stored = format!("{lines}{}", of(lines.as_bytes()));
            let longer = format!("{stored}{more}");
            prop_assert!(is_altered(longer.as_bytes()));
            let shorter = &stored[..stored.len() - cut];
            prop_assert!(is_altered(shorter.as_bytes()));
        }
    }
}
