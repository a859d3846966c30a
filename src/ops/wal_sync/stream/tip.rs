//! Which parts of the tip there are, and when several become one.
//!
//! A busy server gives twenty parts in a second, an idle one still a few in a minute. Whenever there are [`FAN_IN`]
//! of one level behind each other, they are written again as one of the next level: each byte is written a few
//! times at most, and there are never many parts.

use crate::pg::{SegmentName, SegmentPart};

/// How many parts of one level become one of the next.
const FAN_IN: usize = 16;

/// The parts of one segment that this process has stored: from its beginning on, without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TipParts {
    pub segment: SegmentName,
    parts: Vec<(SegmentPart, u32)>,
}

/// Parts that become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    pub whole: SegmentPart,
    pub parts: Vec<SegmentPart>,
    level: u32,
}

impl TipParts {
    pub fn new(segment: SegmentName) -> Self {
        Self { segment, parts: Vec::new() }
    }

    /// How much of the segment's beginning is stored.
    pub fn end(&self) -> u64 {
        self.parts.last().map_or(0, |(part, _)| part.end)
    }

    pub fn parts(&self) -> impl Iterator<Item = SegmentPart> {
        self.parts.iter().map(|(part, _)| *part)
    }

    /// Takes in the part that goes on where the others end.
    pub fn push(&mut self, part: SegmentPart) {
        assert_eq!(part.begin, self.end(), "parts have no gap between them");
        self.parts.push((part, 0));
    }

    /// What is due to become one.
    pub fn due(&self) -> Option<Merge> {
        let (_, level) = *self.parts.last()?;
        let of_level = self.parts.iter().rev().take_while(|(_, other)| *other == level).count();
        (of_level >= FAN_IN).then(|| self.merge_last(of_level, level + 1))
    }

    /// All of them as one; `None` where there is one at most.
    pub fn all(&self) -> Option<Merge> {
        let level = self.parts.iter().map(|(_, level)| *level).max()?;
        (self.parts.len() > 1).then(|| self.merge_last(self.parts.len(), level + 1))
    }

    fn merge_last(&self, count: usize, level: u32) -> Merge {
        let parts: Vec<SegmentPart> = self.parts().skip(self.parts.len() - count).collect();
        Merge { whole: SegmentPart { begin: parts[0].begin, end: self.end() }, parts, level }
    }

    /// Takes note that they are one now.
    pub fn merged(&mut self, merge: &Merge) {
        self.parts.truncate(self.parts.len() - merge.parts.len());
        self.parts.push((merge.whole, merge.level));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Timeline;

    fn tip() -> TipParts {
        TipParts::new(SegmentName { timeline: Timeline::FIRST, number: 1 })
    }

    #[test]
    fn however_many_parts_come_few_are_left_and_none_is_written_often() {
        let (mut tip, mut written_bytes) = (tip(), 0);
        for begin in 0..100_000 {
            tip.push(SegmentPart { begin, end: begin + 1 });
            written_bytes += 1;
            while let Some(merge) = tip.due() {
                written_bytes += merge.whole.size_bytes();
                assert!(merge.parts.iter().all(|part| merge.whole.covers(*part)));
                tip.merged(&merge);
            }
            assert_eq!(tip.end(), begin + 1);
            assert_eq!(SegmentPart::beginning(tip.parts()).last().unwrap().end, begin + 1);
            assert!(tip.parts.len() <= 5 * FAN_IN, "{}", tip.parts.len());
        }
        assert!(written_bytes <= 6 * 100_000, "{written_bytes}");
    }

    #[test]
    fn they_can_be_made_one_at_any_time() {
        let mut tip = tip();
        assert_eq!(tip.all(), None);
        tip.push(SegmentPart { begin: 0, end: 5 });
        assert_eq!(tip.all(), None);
        tip.push(SegmentPart { begin: 5, end: 9 });
        let all = tip.all().unwrap();
        assert_eq!((all.whole, all.parts.len()), (SegmentPart { begin: 0, end: 9 }, 2));
        tip.merged(&all);
        assert_eq!(tip.parts().collect::<Vec<_>>(), [SegmentPart { begin: 0, end: 9 }]);
    }
}
