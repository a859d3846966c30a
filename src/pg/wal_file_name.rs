//! The names that PostgreSQL hands to `archive_command` and `restore_command`.
//!
//! Follows PostgreSQL `src/include/access/xlog_internal.h`:
//!
//! ```text
//! 000000010000000000000003                    a segment
//! 000000010000000000000003.partial            the last segment of a timeline that was left by a promotion
//! 000000010000000000000003.00000028.backup    a note that a base backup began at that offset of the segment
//! 00000002.history                            how timeline 2 came to be
//! ```

use std::fmt;

use super::segment::is_segment_shaped;
use super::{SegmentName, SegmentSize, Timeline};

/// A name in `pg_wal` that may be archived. The segment's number is known only with the segment size, so the name
/// is kept as text; see [`WalFileName::segment`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WalFileName {
    Segment(String),
    Partial(String),
    BackupNote(String),
    History(Timeline),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not the name of a WAL file (a segment of 24 upper-case hexadecimal digits, \
     also with .partial or .OFFSET.backup behind it, or TIMELINE.history)"
)]
pub struct NotAWalFile(String);

impl WalFileName {
    pub fn parse(name: &str) -> Result<Self, NotAWalFile> {
        let parse = || {
            let Some((stem, suffix)) = name.split_once('.') else {
                return segment_timeline(name).map(|_| Self::Segment(name.to_owned()));
            };
            if suffix == "history" {
                return timeline_of(stem).filter(|_| stem.len() == 8).map(Self::History);
            }
            segment_timeline(stem)?;
            if suffix == "partial" {
                return Some(Self::Partial(name.to_owned()));
            }
            let offset = suffix.strip_suffix(".backup")?;
            let is_offset = offset.len() == 8 && offset.bytes().all(is_digit);
            is_offset.then(|| Self::BackupNote(name.to_owned()))
        };
        parse().ok_or_else(|| NotAWalFile(name.to_owned()))
    }

    pub fn timeline(&self) -> Timeline {
        match self {
            Self::Segment(name) | Self::Partial(name) | Self::BackupNote(name) => {
                timeline_of(name).expect("parse accepts no other name")
            }
            Self::History(timeline) => *timeline,
        }
    }

    /// The segment that this file is, or belongs to; `None` for a history, and where the name does not fit `size`.
    pub fn segment(&self, size: SegmentSize) -> Option<SegmentName> {
        match self {
            Self::Segment(name) | Self::Partial(name) | Self::BackupNote(name) => {
                SegmentName::parse(&name[..24], size).ok()
            }
            Self::History(_) => None,
        }
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) | Self::Partial(name) | Self::BackupNote(name) => f.write_str(name),
            Self::History(timeline) => write!(f, "{:08X}.history", timeline.get()),
        }
    }
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'F')
}

fn timeline_of(name: &str) -> Option<Timeline> {
    let digits = name.get(..8).filter(|digits| digits.bytes().all(is_digit))?;
    Timeline::new(u32::from_str_radix(digits, 16).ok()?)
}

fn segment_timeline(name: &str) -> Option<Timeline> {
    timeline_of(name).filter(|_| is_segment_shaped(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_known_by_its_name() {
        let name = "0000000A0000000000000003";
        assert_eq!(WalFileName::parse(name), Ok(WalFileName::Segment(name.into())));
        let partial = format!("{name}.partial");
        assert_eq!(WalFileName::parse(&partial), Ok(WalFileName::Partial(partial)));
        let note = format!("{name}.00000028.backup");
        assert_eq!(WalFileName::parse(&note), Ok(WalFileName::BackupNote(note)));
        let history = WalFileName::parse("0000000A.history").unwrap();
        assert_eq!(history, WalFileName::History(Timeline::new(10).unwrap()));
        assert_eq!(history.to_string(), "0000000A.history");
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "../0000000100000000000000",
            "00000000.history",
            "0000000100000000000000031",
            "000000010000000000000003.part",
            "000000010000000000000003.0028.backup",
            "000000010000000000000003.partial.zst",
            "00000001.history.zst",
            "0000001.history",
            "0000000a.history",
        ] {
            assert!(WalFileName::parse(name).is_err(), "{name}");
        }
    }
}
