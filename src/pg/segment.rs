//! WAL segments: the files of one size into which the write-ahead log is cut.
//!
//! Follows PostgreSQL `src/include/access/xlog_internal.h` (`XLogFileName`, `XLByteToSeg`).
//!
//! Invariant of a [`SegmentName`]: `number` counts segments from the start of the WAL, so its first byte is at
//! LSN `number * size`. It is *not* the low 8 digits of the file name: those wrap every 4 GiB of WAL.

use std::fmt;

use super::{Lsn, Timeline};

/// The size of every segment of one cluster, in bytes: a power of two from 1 MiB to 1 GiB (`initdb --wal-segsize`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentSize(u32);

/// A segment: which timeline wrote it, and the how-manieth it is since the cluster began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    pub timeline: Timeline,
    pub number: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a WAL segment name (24 upper-case hexadecimal digits)")]
pub struct NotASegment(String);

impl SegmentSize {
    /// What `initdb` chooses unless told otherwise: 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);

    pub fn from_bytes(bytes: u64) -> Option<Self> {
        let allowed = (1 << 20)..=(1 << 30);
        (bytes.is_power_of_two() && allowed.contains(&bytes)).then_some(Self(bytes as u32))
    }

    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// How many segments share the middle 8 digits of a name.
    pub(super) fn per_log_id(self) -> u64 {
        (1 << 32) / self.bytes()
    }
}

impl SegmentName {
    pub fn parse(name: &str, size: SegmentSize) -> Result<Self, NotASegment> {
        let not_a_segment = || NotASegment(name.to_owned());
        if !is_segment_shaped(name) {
            return Err(not_a_segment());
        }
        let field = |i: usize| u32::from_str_radix(&name[i * 8..][..8], 16).expect("8 hexadecimal digits");
        let timeline = Timeline::new(field(0)).ok_or_else(not_a_segment)?;
        let (log_id, segment) = (u64::from(field(1)), u64::from(field(2)));
        if segment >= size.per_log_id() {
            return Err(not_a_segment());
        }
        Ok(Self { timeline, number: log_id * size.per_log_id() + segment })
    }

    /// The segment of `timeline` that holds the byte at `lsn`.
    pub fn holding(lsn: Lsn, timeline: Timeline, size: SegmentSize) -> Self {
        Self { timeline, number: lsn.0 / size.bytes() }
    }

    /// The segment of `timeline` that holds the byte *before* `lsn`: where a record that ends at `lsn` ends.
    pub fn ending(lsn: Lsn, timeline: Timeline, size: SegmentSize) -> Self {
        Self { timeline, number: lsn.0.saturating_sub(1) / size.bytes() }
    }

    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.number * size.bytes())
    }

    pub fn end(self, size: SegmentSize) -> Lsn {
        Lsn((self.number + 1) * size.bytes())
    }

    pub fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }

    pub fn file_name(self, size: SegmentSize) -> impl fmt::Display {
        let (log_id, segment) = (self.number / size.per_log_id(), self.number % size.per_log_id());
        format!("{:08X}{log_id:08X}{segment:08X}", self.timeline.get())
    }
}

/// Whether `name` is 24 upper-case hexadecimal digits: a segment of *some* size.
pub(super) fn is_segment_shaped(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    #[test]
    fn low_digits_wrap_at_four_gibibytes() {
        let last = SegmentName::parse("0000000100000000000000FF", SIZE).unwrap();
        assert_eq!(last.next().file_name(SIZE).to_string(), "000000010000000100000000");
    }

    #[test]
    fn a_record_that_ends_on_a_boundary_ends_in_the_segment_before() {
        let boundary = Lsn(3 * SIZE.bytes());
        assert_eq!(SegmentName::holding(boundary, Timeline::FIRST, SIZE).number, 3);
        assert_eq!(SegmentName::ending(boundary, Timeline::FIRST, SIZE).number, 2);
    }

    #[test]
    fn rejects_what_only_looks_like_a_segment() {
        for name in [
            "",
            "00000001",
            "0000000000000000000000FF",
            "000000010000000000000100",
            "0000000100000000000000ff",
            "00000001000000000000000é",
        ] {
            assert!(SegmentName::parse(name, SIZE).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn name_round_trips(timeline in 1u32.., number in 0u64..1 << 40, shift in 20u32..=30) {
            let size = SegmentSize::from_bytes(1 << shift).unwrap();
            let number = number % (size.per_log_id() << 32);
            let name = SegmentName { timeline: Timeline::new(timeline).unwrap(), number };
            prop_assert_eq!(SegmentName::parse(&name.file_name(size).to_string(), size), Ok(name));
        }
    }
}
