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

/// Where a segment lies in the WAL of its cluster, on whatever timeline: the last 16 digits of its name. They sort as
/// LSNs do, whatever the segment size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentPlace(u64);

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

    /// Where the segment lies that this file is, or belongs to; `None` for a history.
    pub fn place(&self) -> Option<SegmentPlace> {
        match self {
            Self::Segment(name) | Self::Partial(name) | Self::BackupNote(name) => place_of(name),
            Self::History(_) => None,
        }
    }
}

impl SegmentPlace {
    /// The first place of a log number: no segment of it lies before.
    pub fn first_of(log: u32) -> Self {
        Self(u64::from(log) << 32)
    }

    /// The place of the next segment.
    pub fn next(self, size: SegmentSize) -> Self {
        let is_last = u64::from(self.0 as u32) + 1 >= size.per_log_id();
        if is_last { Self::first_of(self.log().saturating_add(1)) } else { Self(self.0 + 1) }
    }

    /// The place of the segment before; of the very first, that one itself.
    pub fn previous(self, size: SegmentSize) -> Self {
        match self.0 as u32 {
            0 if self.log() == 0 => self,
            0 => Self(u64::from(self.log() - 1) << 32 | (size.per_log_id() - 1)),
            _ => Self(self.0 - 1),
        }
    }

    /// The name of the segment at this place on `timeline`.
    pub fn on(self, timeline: Timeline) -> WalFileName {
        WalFileName::Segment(format!("{:08X}{:08X}{:08X}", timeline.get(), self.log(), self.0 as u32))
    }

    /// The digits that segments in one directory of an archive share.
    pub fn log(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl SegmentName {
    pub fn place(self, size: SegmentSize) -> SegmentPlace {
        let name = self.file_name(size).to_string();
        place_of(&name).expect("a segment's name is made of digits")
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

fn place_of(name: &str) -> Option<SegmentPlace> {
    u64::from_str_radix(name.get(8..24)?, 16).ok().map(SegmentPlace)
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
    fn a_place_is_the_same_on_every_timeline_and_sorts_as_lsns_do() {
        let place = |name: &str| WalFileName::parse(name).unwrap().place().unwrap();
        assert_eq!(place("0000000100000002000000FF"), place("0000000A00000002000000FF.partial"));
        assert!(place("0000000900000002000000FF") < place("000000010000000300000000.00000028.backup"));
        assert_eq!(place("0000000100000002000000FF").log(), 2);
        assert!(SegmentPlace::first_of(3) > place("0000000100000002000000FF"));
        assert_eq!(SegmentPlace::first_of(3), place("000000010000000300000000"));
        assert_eq!(WalFileName::History(Timeline::FIRST).place(), None);
        let last = place("0000000100000002000000FF");
        assert_eq!(last.next(SegmentSize::DEFAULT), SegmentPlace::first_of(3));
        assert_eq!(SegmentPlace::first_of(3).previous(SegmentSize::DEFAULT), last);
        assert_eq!(last.previous(SegmentSize::DEFAULT).next(SegmentSize::DEFAULT), last);
        assert_eq!(last.on(Timeline::FIRST).to_string(), "0000000100000002000000FF");
        let segment = SegmentName { timeline: Timeline::FIRST, number: 0x2FF };
        assert_eq!(segment.place(SegmentSize::DEFAULT), place("0000000100000002000000FF"));
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
