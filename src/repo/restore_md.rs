//! The page that lies in every repository: how to restore without pgbak.

use crate::digest_line::{self, Checked};

const TEXT: &str = include_str!("RESTORE.md");

/// What lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guide {
    /// The page that this version writes.
    #[default]
    Usual,
    /// The page of another version, whole.
    Other,
    /// Not as pgbak writes pages, or not as it wrote this one.
    Damaged,
}

/// The page as it is stored.
pub fn stored() -> String {
    TEXT.to_owned() + &digest_line::of(TEXT.as_bytes())
}

impl Guide {
    pub fn of(found: &[u8]) -> Self {
        match digest_line::check(found) {
            Checked::Whole(text) if text == TEXT.as_bytes() => Self::Usual,
            Checked::Whole(_) => Self::Other,
            Checked::WithoutDigest | Checked::Altered { .. } => Self::Damaged,
        }
    }
}
