//! WAL segments from inside: whether a file is the segment that its name says.
//!
//! Follows PostgreSQL `src/include/access/xlog_internal.h` (`XLogPageHeaderData`, `XLogLongPageHeaderData`) and
//! `XLogReaderValidatePageHeader` in `src/backend/access/transam/xlogreader.c`. Every page begins with
//!
//! ```text
//!  0 u16 magic      one for each major version           8 u64 address of this page
//!  2 u16 flags      0x0002: this is a long header       16 u32 bytes left of a record from the page before
//!  4 u32 timeline   of the first record on the page
//! ```
//!
//! and the first page of each segment, which has a long header, goes on with
//!
//! ```text
//! 24 u64 system identifier   32 u32 segment size   36 u32 page size
//! ```
//!
//! Numbers are little-endian, as on every machine that pgbak runs on.
//!
//! **Timelines.** A promotion in the middle of a segment copies the pages before it, headers and all, into the
//! first segment of the new timeline. So a page may be of an *older* timeline than the file's name, never of a newer
//! one, and never of an older one than the page before.
//!
//! **How far pages can be checked.** A switch to the next segment (`pg_switch_wal`, `archive_timeout`, the end of a
//! backup) leaves the rest of the segment all zero, headers too. So in a whole segment every page has a right header
//! until the first one that is zero, and from there on everything is zero; [`PageCheck`] holds it to that. Not so a
//! `.partial`: the file may have been a recycled one, whose old pages are still there behind the last new one. Of a
//! `.partial` only the first page can be checked, with [`check_first_page`].

use super::{Lsn, SegmentName, SegmentSize, SystemIdentifier, Timeline};

/// As many bytes of a segment as [`LongHeader::parse`] and [`check_first_page`] look at.
pub const LONG_HEADER_BYTES: usize = 40;

const FLAG_LONG_HEADER: u16 = 0x0002;
const FLAGS_KNOWN: u16 = 0x000F;

/// The header of a segment's first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongHeader {
    pub page: PageHeader,
    pub system_identifier: SystemIdentifier,
    pub segment_size: SegmentSize,
    pub page_bytes: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    pub magic: u16,
    /// Of the first record on the page.
    pub timeline: Timeline,
    /// The position of the page's first byte.
    pub address: Lsn,
}

/// What a file should be, to go by its name and the cluster it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub segment: SegmentName,
    pub segment_size: SegmentSize,
    pub system_identifier: SystemIdentifier,
}

/// In what a file is not the segment that it should be. Reads as a sentence behind the file's name and a colon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("it has {found_bytes} bytes, where a segment has {expected_bytes}")]
    Size { expected_bytes: u64, found_bytes: u64 },

    #[error("it is not WAL of PostgreSQL 13 to 18: it begins with the number {found:#06x}")]
    NotWal { found: u16 },

    #[error("its first page has no long header, and so is not the beginning of a segment")]
    NoLongHeader,

    #[error("it belongs to the cluster with system identifier {found}, not to {expected}")]
    System { expected: SystemIdentifier, found: SystemIdentifier },

    #[error("it is of a cluster with segments of {found_bytes} bytes, not of {expected_bytes}")]
    SegmentSize { expected_bytes: u64, found_bytes: u32 },

    #[error("it has pages of {found_bytes} bytes, which no server has")]
    PageSize { found_bytes: u32 },

    #[error("its page that should be at {expected} says that it is at {found}")]
    Address { expected: Lsn, found: Lsn },

    #[error(
        "its page at {at} is of timeline {found}, which cannot be in a segment of timeline {expected} there"
    )]
    Timeline { at: Lsn, expected: Timeline, found: u32 },

    #[error("its page at {at} has a damaged header: magic {magic:#06x}, flags {flags:#06x}")]
    Header { at: Lsn, magic: u16, flags: u16 },

    #[error("it has data behind its end, which is before {at}")]
    BehindEnd { at: Lsn },
}

impl Mismatch {
    /// What the user can do about it: one or more full sentences.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::System { .. } | Self::SegmentSize { .. } => {
                "Give each cluster a repository of its own, and check that archive_command and restore_command name \
                 the configuration of this one."
            }
            Self::NotWal { .. } => "Check that this is a file from pg_wal, not compressed or encrypted.",
            Self::Size { .. } | Self::NoLongHeader | Self::PageSize { .. } | Self::Header { .. } => {
                "The file is damaged or not complete. Take it from the server's pg_wal or another repository, if it \
                 is still there."
            }
            Self::Address { .. } | Self::Timeline { .. } | Self::BehindEnd { .. } => {
                "The file holds other WAL than its name says: it was renamed, or recycled while it was copied."
            }
        }
        .into())
    }
}

/// The major version of PostgreSQL that writes pages with this magic.
pub fn major_of_magic(magic: u16) -> Option<u32> {
    Some(match magic {
        0xD106 => 13,
        0xD10D => 14,
        0xD110 => 15,
        0xD113 => 16,
        0xD116 => 17,
        0xD118 => 18,
        _ => return None,
    })
}

impl LongHeader {
    /// Reads the beginning of a segment, whichever it is.
    pub fn parse(bytes: &[u8]) -> Result<Self, Mismatch> {
        let expected_bytes = LONG_HEADER_BYTES as u64;
        let size = || Mismatch::Size { expected_bytes, found_bytes: bytes.len() as u64 };
        let bytes: &[u8; LONG_HEADER_BYTES] = bytes.first_chunk().ok_or_else(size)?;
        let raw = RawHeader::read(bytes);
        let [segment_bytes, page_bytes] = [32, 36].map(|at| u32_at(bytes, at));
        major_of_magic(raw.magic).ok_or(Mismatch::NotWal { found: raw.magic })?;
        if raw.flags & FLAG_LONG_HEADER == 0 {
            return Err(Mismatch::NoLongHeader);
        }
        if raw.flags & !FLAGS_KNOWN != 0 {
            return Err(raw.damaged(raw.address));
        }
        if !page_bytes.is_power_of_two() || !(1 << 10..=1 << 16).contains(&page_bytes) {
            return Err(Mismatch::PageSize { found_bytes: page_bytes });
        }
        let segment_size =
            SegmentSize::from_bytes(u64::from(segment_bytes)).ok_or_else(|| raw.damaged(raw.address))?;
        let timeline = Timeline::new(raw.timeline).ok_or_else(|| raw.damaged(raw.address))?;
        Ok(Self {
            page: PageHeader { magic: raw.magic, timeline, address: raw.address },
            system_identifier: SystemIdentifier(u64_at(bytes, 24)),
            segment_size,
            page_bytes,
        })
    }
}

/// Checks a file's length and its first page, of which `bytes` holds at least [`LONG_HEADER_BYTES`].
///
/// A segment of the wrong cluster, a renamed one and one that is not complete are found out by this; damage further
/// inside is not.
pub fn check_first_page(bytes: &[u8], file_bytes: u64, expected: Expected) -> Result<LongHeader, Mismatch> {
    let expected_bytes = expected.segment_size.bytes();
    if file_bytes != expected_bytes {
        return Err(Mismatch::Size { expected_bytes, found_bytes: file_bytes });
    }
    let header = LongHeader::parse(bytes)?;
    if header.system_identifier != expected.system_identifier {
        let (expected, found) = (expected.system_identifier, header.system_identifier);
        return Err(Mismatch::System { expected, found });
    }
    if header.segment_size != expected.segment_size {
        return Err(Mismatch::SegmentSize {
            expected_bytes,
            found_bytes: header.segment_size.bytes() as u32,
        });
    }
    let start = expected.segment.start(expected.segment_size);
    if header.page.address != start {
        return Err(Mismatch::Address { expected: start, found: header.page.address });
    }
    if header.page.timeline > expected.segment.timeline {
        let (expected, found) = (expected.segment.timeline, header.page.timeline.get());
        return Err(Mismatch::Timeline { at: start, expected, found });
    }
    Ok(header)
}

/// Checks every page header of a whole segment, in memory.
pub fn check_pages(segment: &[u8], expected: Expected) -> Result<LongHeader, Mismatch> {
    let mut check = PageCheck::new(expected);
    check.feed(segment)?;
    check.finish()
}

/// Checks every page header of a whole segment while its bytes go by, in pieces of any size.
#[derive(Debug)]
pub struct PageCheck {
    expected: Expected,
    offset_bytes: u64,
    /// The beginning of the page at hand, as far as it was seen.
    page: [u8; LONG_HEADER_BYTES],
    first: Option<LongHeader>,
    newest_timeline: Option<Timeline>,
    /// Where the first page was that is all zero.
    end: Option<Lsn>,
}

impl PageCheck {
    pub fn new(expected: Expected) -> Self {
        let page = [0; LONG_HEADER_BYTES];
        Self { expected, offset_bytes: 0, page, first: None, newest_timeline: None, end: None }
    }

    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Mismatch> {
        let room_bytes = self.expected.segment_size.bytes() - self.offset_bytes;
        if bytes.len() as u64 > room_bytes {
            let found_bytes = self.offset_bytes + bytes.len() as u64;
            return Err(self.wrong_size(found_bytes));
        }
        while !bytes.is_empty() {
            // Until the first header is read the size of a page is not known, nor needed.
            let page_bytes = self.first.map_or(u64::MAX, |first| u64::from(first.page_bytes));
            let in_page = self.offset_bytes % page_bytes;
            let seen = (in_page as usize).min(LONG_HEADER_BYTES);
            let wanted = match LONG_HEADER_BYTES - seen {
                0 => page_bytes - in_page,
                rest_of_header => rest_of_header as u64,
            };
            let (piece, rest) =
                bytes.split_at(bytes.len().min(usize::try_from(wanted).unwrap_or(usize::MAX)));
            if let Some(end) = self.end
                && piece.iter().any(|&byte| byte != 0)
            {
                return Err(Mismatch::BehindEnd { at: end });
            }
            self.offset_bytes += piece.len() as u64;
            if seen < LONG_HEADER_BYTES {
                self.page[seen..seen + piece.len()].copy_from_slice(piece);
                if seen + piece.len() == LONG_HEADER_BYTES {
                    self.check_header()?;
                }
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Says whether it was a whole segment, and what its first page says.
    pub fn finish(self) -> Result<LongHeader, Mismatch> {
        let complete = self.offset_bytes == self.expected.segment_size.bytes();
        let first = self.first.filter(|_| complete);
        first.ok_or_else(|| self.wrong_size(self.offset_bytes))
    }

    fn wrong_size(&self, found_bytes: u64) -> Mismatch {
        Mismatch::Size { expected_bytes: self.expected.segment_size.bytes(), found_bytes }
    }

    fn check_header(&mut self) -> Result<(), Mismatch> {
        let Some(first) = self.first else {
            let first = check_first_page(&self.page, self.expected.segment_size.bytes(), self.expected)?;
            (self.first, self.newest_timeline) = (Some(first), Some(first.page.timeline));
            return Ok(());
        };
        let start = self.expected.segment.start(self.expected.segment_size);
        let at = start + (self.offset_bytes - LONG_HEADER_BYTES as u64);
        if self.end.is_some() || self.page == [0; LONG_HEADER_BYTES] {
            self.end.get_or_insert(at);
            return Ok(());
        }
        let raw = RawHeader::read(&self.page);
        if raw.magic != first.page.magic || raw.flags & !FLAGS_KNOWN != 0 || raw.flags & FLAG_LONG_HEADER != 0
        {
            return Err(raw.damaged(at));
        }
        if raw.address != at {
            return Err(Mismatch::Address { expected: at, found: raw.address });
        }
        let timeline = Timeline::new(raw.timeline).filter(|timeline| {
            *timeline <= self.expected.segment.timeline && Some(*timeline) >= self.newest_timeline
        });
        if timeline.is_none() {
            let (expected, found) = (self.expected.segment.timeline, raw.timeline);
            return Err(Mismatch::Timeline { at, expected, found });
        }
        self.newest_timeline = timeline;
        Ok(())
    }
}

/// The header that all pages have, before anything of it is believed.
struct RawHeader {
    magic: u16,
    flags: u16,
    timeline: u32,
    address: Lsn,
}

impl RawHeader {
    fn read(bytes: &[u8; LONG_HEADER_BYTES]) -> Self {
        let [magic, flags] = [0, 2].map(|at| u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        Self { magic, flags, timeline: u32_at(bytes, 4), address: Lsn(u64_at(bytes, 8)) }
    }

    fn damaged(&self, at: Lsn) -> Mismatch {
        Mismatch::Header { at, magic: self.magic, flags: self.flags }
    }
}

fn u32_at(bytes: &[u8; LONG_HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes are 4 bytes"))
}

fn u64_at(bytes: &[u8; LONG_HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes are 8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: usize = 8192;
    const MIB: usize = 1 << 20;
    const SYSTEM: SystemIdentifier = SystemIdentifier(7711059041355033155);

    /// The first 40 bytes of 000000020000000000000018 and ...19 of a PostgreSQL 18 with segments of 1 MiB, which was
    /// promoted in the middle of the former.
    const REAL_FIRST_OF_TIMELINE_2: [u8; 40] =
        *b"\x18\xd1\x06\0\x01\0\0\0\0\0\x80\x01\0\0\0\0\0\0\0\0\0\0\0\0\
        \x43\xea\x07\xda\x57\x2f\x03\x6b\0\0\x10\0\0\x20\0\0";
    const REAL_SECOND_OF_TIMELINE_2: [u8; 40] =
        *b"\x18\xd1\x07\0\x02\0\0\0\0\0\x90\x01\0\0\0\0\x0b\0\0\0\0\0\0\0\
        \x43\xea\x07\xda\x57\x2f\x03\x6b\0\0\x10\0\0\x20\0\0";

    fn expected(timeline: u32, number: u64) -> Expected {
        let segment = SegmentName { timeline: Timeline::new(timeline).unwrap(), number };
        let segment_size = SegmentSize::from_bytes(MIB as u64).unwrap();
        Expected { segment, segment_size, system_identifier: SYSTEM }
    }

    /// A segment of `pages` pages with records on them, and zero from there on.
    fn segment(of: Expected, pages: usize) -> Vec<u8> {
        let mut bytes = vec![0; MIB];
        for (i, page) in bytes.chunks_mut(PAGE).take(pages).enumerate() {
            let address = of.segment.start(of.segment_size).0 + (i * PAGE) as u64;
            page.fill(0xAB);
            page[..40].copy_from_slice(&REAL_FIRST_OF_TIMELINE_2);
            page[2] = if i == 0 { 0x06 } else { 0x05 };
            page[4..8].copy_from_slice(&of.segment.timeline.get().to_le_bytes());
            page[8..16].copy_from_slice(&address.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn knows_the_segments_of_a_real_promotion() {
        for (header, number, timeline) in
            [(REAL_FIRST_OF_TIMELINE_2, 0x18, 1), (REAL_SECOND_OF_TIMELINE_2, 0x19, 2)]
        {
            let first = check_first_page(&header, MIB as u64, expected(2, number)).unwrap();
            assert_eq!(first.page.timeline.get(), timeline, "the copied page keeps its older timeline");
            assert_eq!(major_of_magic(first.page.magic), Some(18));
            assert_eq!((first.segment_size.bytes(), first.page_bytes), (MIB as u64, 8192));
        }
    }

    #[test]
    fn a_file_that_is_not_what_its_name_says_is_found_out() {
        let (header, size) = (REAL_SECOND_OF_TIMELINE_2, MIB as u64);
        let refused =
            |bytes: &[u8], file_bytes, expected| check_first_page(bytes, file_bytes, expected).unwrap_err();
        let of = expected(2, 0x19);

        assert!(matches!(refused(&header, size - 1, of), Mismatch::Size { .. }));
        assert!(matches!(refused(&header[..39], size, of), Mismatch::Size { .. }));
        let (expected_lsn, found) = (Lsn(0x1A0_0000), Lsn(0x190_0000));
        let renamed = refused(&header, size, expected(2, 0x1A));
        assert_eq!(renamed, Mismatch::Address { expected: expected_lsn, found });
        assert!(matches!(refused(&header, size, expected(1, 0x19)), Mismatch::Timeline { found: 2, .. }));
        let other = Expected { system_identifier: SystemIdentifier(7), ..of };
        let refusal = refused(&header, size, other);
        assert_eq!(refusal, Mismatch::System { expected: SystemIdentifier(7), found: SYSTEM });
        assert!(refusal.hint().unwrap().contains("repository of its own"));
        let larger = Expected { segment_size: SegmentSize::DEFAULT, ..of };
        assert!(matches!(refused(&header, 16 << 20, larger), Mismatch::SegmentSize { .. }));

        let mutated = |at: usize, byte: u8| {
            let mut bytes = header;
            bytes[at] = byte;
            refused(&bytes, size, of)
        };
        assert_eq!(mutated(0, 0x19), Mismatch::NotWal { found: 0xD119 });
        assert_eq!(mutated(2, 0x05), Mismatch::NoLongHeader);
        assert!(matches!(mutated(3, 0x80), Mismatch::Header { .. }));
        assert!(matches!(mutated(4, 0), Mismatch::Header { .. }));
        assert!(matches!(mutated(37, 0x30), Mismatch::PageSize { .. }));
        assert!(matches!(refused(&[0; 40], size, of), Mismatch::NotWal { found: 0 }));
    }

    #[test]
    fn a_segment_is_followed_to_its_end() {
        let of = expected(2, 0x19);
        for pages in [1, 2, 77, 128] {
            check_pages(&segment(of, pages), of).unwrap_or_else(|error| panic!("{pages} pages: {error}"));
        }
        let whole = segment(of, 128);
        assert!(matches!(check_pages(&whole[..MIB - 1], of), Err(Mismatch::Size { .. })));
        assert!(matches!(check_pages(&[whole, vec![0]].concat(), of), Err(Mismatch::Size { .. })));
        assert!(matches!(check_pages(&[], of), Err(Mismatch::Size { found_bytes: 0, .. })));
    }

    #[test]
    fn a_wrong_page_inside_is_found() {
        let of = expected(2, 0x19);
        let damaged = |page: usize, at: usize, byte: u8| {
            let mut bytes = segment(of, 100);
            bytes[page * PAGE + at] = byte;
            check_pages(&bytes, of).unwrap_err()
        };
        let at = Lsn(0x190_0000 + 50 * 8192);
        assert!(matches!(damaged(50, 0, 0), Mismatch::Header { .. }));
        assert!(matches!(damaged(50, 2, 0x02), Mismatch::Header { .. }), "a long header in the middle");
        assert!(matches!(damaged(50, 8, 1), Mismatch::Address { expected, .. } if expected == at));
        assert!(matches!(damaged(50, 4, 3), Mismatch::Timeline { found: 3, .. }));
        assert!(
            matches!(damaged(50, 4, 1), Mismatch::Timeline { found: 1, .. }),
            "older than the page before"
        );
        assert!(matches!(damaged(100, 4000, 1), Mismatch::BehindEnd { .. }));
        assert!(matches!(damaged(127, 8191, 1), Mismatch::BehindEnd { .. }));
        let mut hole = segment(of, 100);
        hole[60 * PAGE..61 * PAGE].fill(0);
        assert!(matches!(check_pages(&hole, of), Err(Mismatch::BehindEnd { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = LongHeader::parse(&bytes);
            prop_assert!(check_pages(&bytes, expected(1, 1)).is_err());
        }

        #[test]
        fn the_pieces_do_not_matter(lengths in prop::collection::vec(1..200_000usize, 1..40), pages in 1..=128usize) {
            let of = expected(1, 7);
            let bytes = segment(of, pages);
            let mut check = PageCheck::new(of);
            let mut rest = &bytes[..];
            for length in lengths.into_iter().chain([MIB]) {
                let (piece, behind) = rest.split_at(length.min(rest.len()));
                check.feed(piece).unwrap();
                rest = behind;
            }
            prop_assert!(check.finish().is_ok());
        }
    }
}
