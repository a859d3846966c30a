//! What can be wrong with an archive.

use std::io;

use super::digest::Sha256;
use super::tar;
use super::workers::Panicked;

/// Reads well after the archive's name: `base.tar.zst: damaged at byte 4711: …`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What is stored from `offset_bytes` on is not what a codec writes, or fails its checksum.
    #[error("damaged at byte {offset_bytes}: {reason}")]
    Damaged { offset_bytes: u64, reason: String },

    #[error("cut short: it ends at byte {offset_bytes}, in the middle of a frame")]
    Truncated { offset_bytes: u64 },

    #[error("cut short: it ends at byte {found_bytes}, expected {expected_bytes} bytes")]
    TooShort { found_bytes: u64, expected_bytes: u64 },

    #[error("too long: it goes on after byte {expected_bytes}, where it should end")]
    TooLong { expected_bytes: u64 },

    #[error("its SHA-256 is {found}, expected {expected}")]
    Digest { found: Sha256, expected: Sha256 },

    #[error(transparent)]
    Tar(#[from] tar::Error),

    /// The place that it is stored in failed.
    #[error("could not be read: {0}")]
    Read(#[source] io::Error),

    #[error(transparent)]
    Panicked(#[from] Panicked),
}

impl Error {
    /// What the user can do about it: one or more full sentences.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Damaged { .. }
            | Self::Truncated { .. }
            | Self::TooShort { .. }
            | Self::TooLong { .. }
            | Self::Digest { .. }
            | Self::Tar(_) => Some(
                "Use another repository or another backup. `pgbak verify` lists everything that is damaged."
                    .to_owned(),
            ),
            Self::Read(_) | Self::Panicked(_) => None,
        }
    }

    /// The error of this kind inside an [`io::Error`] that a reader of this module returned.
    pub fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// What a decoder returned while it was at a frame: the error of what it reads from, or its own finding.
    pub(super) fn of_decoder(error: io::Error, offset_bytes: u64) -> Self {
        error.downcast().unwrap_or_else(|own| Self::Damaged { offset_bytes, reason: own.to_string() })
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Truncated { .. } | Error::TooShort { .. } => {
                Self::new(io::ErrorKind::UnexpectedEof, error)
            }
            Error::Read(source) => source,
            Error::Panicked(_) => Self::other(error),
            _ => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}
