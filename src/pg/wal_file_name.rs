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
//!
//! A repository has one more kind of name, for the segment that the server is still writing:
//!
//! ```text
//! 000000010000000000000003.partial.00000000-0001C000    its bytes from the first offset up to the second
//! ```

use std::fmt;

use super::segment::is_segment_shaped;
use super::{SegmentName, SegmentSize, Timeline};

/// A name in `pg_wal` that may be archived, or that of a [`SegmentPart`]. The segment's number is known only with the
/// segment size, so the name is kept as text; see [`WalFileName::segment`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WalFileName {
    Segment(String),
    /// As PostgreSQL names it; or a part, as a repository does.
    Partial(String),
    BackupNote(String),
    History(Timeline),
}

/// Where a segment lies in the WAL of its cluster, on whatever timeline: the last 16 digits of its name. They sort as
/// LSNs do, whatever the segment size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentPlace(u64);

/// A part of a segment: its bytes from offset `begin` up to, and without, `end`.
///
/// Parts of one segment may overlap; where they do, they hold the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentPart {
    pub begin: u64,
    pub end: u64,
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

    /// Parses the name of a file in a repository: what [`WalFileName::parse`] accepts, and that of a part.
    pub fn parse_stored(name: &str) -> Result<Self, NotAWalFile> {
        match part_of(name) {
            Some(_) => Ok(Self::Partial(name.to_owned())),
            None => Self::parse(name),
        }
    }

    /// The name of a part of a segment.
    pub fn of_part(segment: &str, part: SegmentPart) -> Self {
        debug_assert!(is_segment_shaped(segment));
        Self::Partial(format!("{segment}.partial.{:08X}-{:08X}", part.begin, part.end))
    }

    /// Which part of its segment this file holds, if it is one that a repository made.
    pub fn part(&self) -> Option<SegmentPart> {
        match self {
            Self::Partial(name) => part_of(name),
            Self::Segment(_) | Self::BackupNote(_) | Self::History(_) => None,
        }
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

impl SegmentPart {
    pub fn size_bytes(self) -> u64 {
        self.end - self.begin
    }

    /// Whether all that `other` holds is in this one, too.
    pub fn covers(self, other: Self) -> bool {
        self.begin <= other.begin && other.end <= self.end
    }

    /// Those of `parts` to read, in order, for as much of the segment's beginning as they hold without a gap.
    pub fn beginning(parts: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut parts: Vec<Self> = parts.into_iter().collect();
        parts.sort_unstable();
        let mut chosen: Vec<Self> = Vec::new();
        let mut rest = &parts[..];
        loop {
            let reached = chosen.last().map_or(0, |last| last.end);
            let within = rest.partition_point(|part| part.begin <= reached);
            let longest = rest[..within].iter().max_by_key(|part| part.end);
            match longest.filter(|part| part.end > reached) {
                Some(&part) => chosen.push(part),
                None => return chosen,
            }
            rest = &rest[within..];
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

/// `NAME.partial.BEGIN-END`, with 8 digits each.
fn part_of(name: &str) -> Option<SegmentPart> {
    let (segment, range) = name.split_once(".partial.")?;
    segment_timeline(segment)?;
    let (begin, end) = range.split_once('-')?;
    let offset = |digits: &str| {
        let is_offset = digits.len() == 8 && digits.bytes().all(is_digit);
        is_offset.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    };
    let part = SegmentPart { begin: offset(begin)?, end: offset(end)? };
    (part.begin < part.end).then_some(part)
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
    fn a_part_is_named_by_its_offsets_and_only_in_a_repository() {
        let part = SegmentPart { begin: 0x1000, end: 0x4000_0000 };
        let name = WalFileName::of_part("0000000100000002000000FF", part);
        assert_eq!(name.to_string(), "0000000100000002000000FF.partial.00001000-40000000");
        assert_eq!(WalFileName::parse_stored(&name.to_string()).as_ref(), Ok(&name));
        assert_eq!(name.part(), Some(part));
        assert!(WalFileName::parse(&name.to_string()).is_err(), "PostgreSQL has no such file");
        assert_eq!(WalFileName::parse_stored("0000000100000002000000FF.partial").unwrap().part(), None);
        for range in [
            "",
            "00001000",
            "00001000-",
            "00001000-00001000",
            "00002000-00001000",
            "1000-2000",
            "0000100g-00002000",
        ] {
            let name = format!("0000000100000002000000FF.partial.{range}");
            assert!(WalFileName::parse_stored(&name).is_err(), "{name}");
        }
    }

    #[test]
    fn parts_are_read_as_far_as_they_go_without_a_gap() {
        let beginning = |parts: &[(u64, u64)]| -> Vec<(u64, u64)> {
            let parts = parts.iter().map(|&(begin, end)| SegmentPart { begin, end });
            SegmentPart::beginning(parts).into_iter().map(|part| (part.begin, part.end)).collect()
        };
        assert_eq!(beginning(&[]), []);
        assert_eq!(beginning(&[(1, 5)]), []);
        assert_eq!(beginning(&[(5, 9), (0, 5)]), [(0, 5), (5, 9)]);
        assert_eq!(beginning(&[(0, 5), (0, 9), (5, 7), (9, 10)]), [(0, 9), (9, 10)]);
        assert_eq!(beginning(&[(0, 5), (3, 9), (4, 8), (12, 20)]), [(0, 5), (3, 9)]);
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
