//! Timeline history files: from which timelines, and at which points of them, a timeline has grown.
//!
//! Follows PostgreSQL `src/backend/access/transam/timeline.c` (`readTimeLineHistory`, `tliOfPointInHistory`,
//! `tliSwitchPoint`). `0000000A.history` describes timeline 10:
//!
//! ```text
//! file     = { line "\n" }                 the last line break, which PostgreSQL always writes, is asked for
//! line     = blank | "#" anything | ancestor
//! ancestor = timeline whitespace switch-point [ whitespace reason ]
//! ```
//!
//! Ancestors come oldest first. The timeline itself has no line: it begins where the last ancestor was left.
//! Timeline 1 has no file.
//!
//! What always holds in a [`TimelineHistory`], and what PostgreSQL checks only in part:
//! * timelines strictly increase, and the timeline itself is greater than all of its ancestors;
//! * switch points never decrease, so the spans of the timelines follow each other without a gap.

use super::{Lsn, Timeline};

/// More than any real history, of which each promotion adds a line; a reader need not read further.
pub const MAX_BYTES: u64 = 1 << 20;

/// One timeline and the timelines it has grown from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: Timeline,
    ancestors: Vec<Ancestor>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    pub timeline: Timeline,
    /// The end of what is shared: WAL from here on belongs to the next timeline.
    pub switch_lsn: Lsn,
    /// In PostgreSQL's words, for people.
    pub reason: String,
}

/// The stretch of WAL that one timeline contributes to a history: from `begin` up to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub timeline: Timeline,
    pub begin: Lsn,
    /// `None` for the history's own timeline, which goes on.
    pub end: Option<Lsn>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    #[error("the history of timeline {timeline} has {size_bytes} bytes, more than any real one")]
    TooLong { timeline: Timeline, size_bytes: usize },

    #[error(
        "line {line} of the history of timeline {timeline} is \"{text}\", not a timeline and a WAL location"
    )]
    NotAnAncestor { timeline: Timeline, line: usize, text: String },

    #[error(
        "line {line} of the history of timeline {timeline} names timeline {found} after timeline {previous}"
    )]
    NotIncreasing { timeline: Timeline, line: usize, previous: Timeline, found: Timeline },

    #[error(
        "line {line} of the history of timeline {timeline} leaves timeline {ancestor} at {found}, \
         before it began at {begin}"
    )]
    SwitchGoesBack { timeline: Timeline, line: usize, ancestor: Timeline, begin: Lsn, found: Lsn },

    #[error("line {line} of the history of timeline {timeline} names timeline {found} as its ancestor")]
    NotOlder { timeline: Timeline, line: usize, found: Timeline },

    #[error("the history of timeline {timeline} is cut short: its last line does not end")]
    CutShort { timeline: Timeline },

    /// PostgreSQL would take it for a timeline that grew from nothing; it is what a torn file looks like.
    #[error("the history of timeline {timeline} names no ancestor")]
    NoAncestor { timeline: Timeline },
}

impl TimelineHistory {
    /// The history of a timeline that has no file: of the first, or of one whose ancestors nobody needs to know.
    pub fn of(timeline: Timeline) -> Self {
        Self { timeline, ancestors: Vec::new() }
    }

    /// Reads the content of `timeline`'s history file.
    pub fn parse(timeline: Timeline, bytes: &[u8]) -> Result<Self, HistoryError> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(HistoryError::TooLong { timeline, size_bytes: bytes.len() });
        }
        let mut history = Self::of(timeline);
        for (index, raw) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let text = raw.trim_ascii();
            if !text.is_empty() && text[0] != b'#' {
                history.push(index + 1, text)?;
            }
        }
        match history.ancestors.is_empty() && timeline != Timeline::FIRST {
            true => Err(HistoryError::NoAncestor { timeline }),
            false if !bytes.is_empty() && !bytes.ends_with(b"\n") => Err(HistoryError::CutShort { timeline }),
            false => Ok(history),
        }
    }

    fn push(&mut self, line: usize, text: &[u8]) -> Result<(), HistoryError> {
        let timeline = self.timeline;
        let ancestor = Ancestor::parse(text).ok_or_else(|| {
            let text = String::from_utf8_lossy(&text[..text.len().min(100)]).into_owned();
            HistoryError::NotAnAncestor { timeline, line, text }
        })?;
        let found = ancestor.timeline;
        if found >= timeline {
            return Err(HistoryError::NotOlder { timeline, line, found });
        }
        if let Some(previous) = self.ancestors.last() {
            if found <= previous.timeline {
                return Err(HistoryError::NotIncreasing {
                    timeline,
                    line,
                    previous: previous.timeline,
                    found,
                });
            }
            if ancestor.switch_lsn < previous.switch_lsn {
                let (begin, found) = (previous.switch_lsn, ancestor.switch_lsn);
                let ancestor = ancestor.timeline;
                return Err(HistoryError::SwitchGoesBack { timeline, line, ancestor, begin, found });
            }
        }
        self.ancestors.push(ancestor);
        Ok(())
    }

    pub fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// Oldest first.
    pub fn ancestors(&self) -> &[Ancestor] {
        &self.ancestors
    }

    /// What each timeline contributes, oldest first; the spans cover all WAL, each byte once.
    pub fn spans(&self) -> impl DoubleEndedIterator<Item = Span> {
        (0..=self.ancestors.len()).map(|index| {
            let ancestor = self.ancestors.get(index);
            Span {
                timeline: ancestor.map_or(self.timeline, |ancestor| ancestor.timeline),
                begin: index.checked_sub(1).map_or(Lsn(0), |before| self.ancestors[before].switch_lsn),
                end: ancestor.map(|ancestor| ancestor.switch_lsn),
            }
        })
    }

    /// The part of this history that `timeline` wrote; `None` when it is neither an ancestor nor the timeline itself.
    pub fn span(&self, timeline: Timeline) -> Option<Span> {
        self.spans().find(|span| span.timeline == timeline)
    }

    /// The timeline that wrote the byte at `lsn`.
    pub fn timeline_holding(&self, lsn: Lsn) -> Timeline {
        let ancestor = self.ancestors.iter().find(|ancestor| lsn < ancestor.switch_lsn);
        ancestor.map_or(self.timeline, |ancestor| ancestor.timeline)
    }

    /// Whether this history passes through the state in which `timeline` had been written up to `lsn`.
    ///
    /// A switch point is such a state of both of its timelines.
    pub fn contains(&self, timeline: Timeline, lsn: Lsn) -> bool {
        let reaches = |span: Span| span.begin <= lsn && span.end.is_none_or(|end| lsn <= end);
        self.span(timeline).is_some_and(reaches)
    }

    /// Where this history leaves `timeline`; `None` when it never does, or never was on it.
    pub fn switch_point(&self, timeline: Timeline) -> Option<Lsn> {
        self.span(timeline)?.end
    }
}

impl Ancestor {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut rest = line;
        let mut word = || {
            let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(end);
            rest = behind.trim_ascii_start();
            std::str::from_utf8(word).ok()
        };
        let timeline = word()?.parse().ok()?;
        let switch_lsn = word()?.parse().ok()?;
        Some(Self { timeline, switch_lsn, reason: String::from_utf8_lossy(rest).into_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timeline(number: u32) -> Timeline {
        Timeline::new(number).unwrap()
    }

    #[test]
    fn a_file_of_two_promotions_reads_as_postgresql_wrote_it() {
        let text =
            b"1\t0/3000158\tno recovery target specified\n\n2\t0/5000000\tat restore point \"caf\xe9\"\n";
        let history = TimelineHistory::parse(timeline(3), text).unwrap();
        assert_eq!(history.timeline(), timeline(3));
        assert_eq!(history.ancestors()[0].reason, "no recovery target specified");
        assert_eq!(history.ancestors()[1].reason, "at restore point \"caf\u{fffd}\"");
        assert_eq!(history.switch_point(timeline(1)), Some(Lsn(0x300_0158)));
        assert_eq!(history.switch_point(timeline(3)), None);
        assert_eq!(history.timeline_holding(Lsn(0x300_0157)), timeline(1));
        assert_eq!(history.timeline_holding(Lsn(0x300_0158)), timeline(2));
        assert_eq!(history.timeline_holding(Lsn(u64::MAX)), timeline(3));
    }

    #[test]
    fn comments_and_blank_lines_are_passed_over() {
        let text = b"# by hand\r\n\r\n  \t \n 1 16/B374D848\n#2 17/0\n";
        let history = TimelineHistory::parse(timeline(2), text).unwrap();
        assert_eq!(history.ancestors().len(), 1);
        assert_eq!(history.ancestors()[0].reason, "");
    }

    #[test]
    fn a_switch_point_lies_on_both_timelines_and_nothing_beyond_it_does() {
        let history = TimelineHistory::parse(timeline(2), b"1\t0/5000100\t\n").unwrap();
        let on = |number, lsn| history.contains(timeline(number), Lsn(lsn));
        assert!(on(1, 0x500_0100) && on(2, 0x500_0100));
        assert!(on(1, 0) && on(2, u64::MAX));
        assert!(!on(1, 0x500_0101) && !on(2, 0x500_00FF) && !on(3, 0x500_0100));
    }

    #[test]
    fn a_timeline_left_at_once_holds_nothing() {
        let history = TimelineHistory::parse(timeline(9), b"1 0/100\n4 0/100\n").unwrap();
        assert_eq!(history.timeline_holding(Lsn(0x100)), timeline(9));
        assert!(history.contains(timeline(4), Lsn(0x100)));
    }

    #[test]
    fn impossible_histories_are_refused_with_their_line() {
        for (text, message) in [
            ("", "the history of timeline 3 names no ancestor"),
            ("# nothing\n", "the history of timeline 3 names no ancestor"),
            ("1 0/1\n1 0/2\n", "line 2 of the history of timeline 3 names timeline 1 after timeline 1"),
            ("2 0/1\n1 0/2\n", "line 2 of the history of timeline 3 names timeline 1 after timeline 2"),
            (
                "1 0/2\n2 0/1\n",
                "line 2 of the history of timeline 3 leaves timeline 2 at 0/1, before it began at 0/2",
            ),
            ("3 0/1\n", "line 1 of the history of timeline 3 names timeline 3 as its ancestor"),
            (
                "\n0 0/1\n",
                "line 2 of the history of timeline 3 is \"0 0/1\", not a timeline and a WAL location",
            ),
            ("1\n", "line 1 of the history of timeline 3 is \"1\", not a timeline and a WAL location"),
            ("1 x\n", "line 1 of the history of timeline 3 is \"1 x\", not a timeline and a WAL location"),
        ] {
            let error = TimelineHistory::parse(timeline(3), text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let long = vec![b'\n'; MAX_BYTES as usize + 1];
        assert!(TimelineHistory::parse(timeline(3), &long).is_err());
        assert!(TimelineHistory::parse(Timeline::FIRST, b"1 0/1\n").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, number in 1u32..) {
            let _ = TimelineHistory::parse(timeline(number), &bytes);
        }

        /// Every byte of WAL belongs to one span, and to the timeline of which the history says so.
        #[test]
        fn spans_divide_the_wal(
            lines in prop::collection::btree_map(1u32..1000, 0u64..64, 0..8),
            position in 0u64..70,
        ) {
            let mut switches: Vec<u64> = lines.values().copied().collect();
            switches.sort_unstable();
            let lines = lines.keys().zip(&switches);
            let text: String = lines.map(|(tli, lsn)| format!("{tli}\t{}\twhy\n", Lsn(*lsn))).collect();
            prop_assume!(!text.is_empty());
            let history = TimelineHistory::parse(timeline(1000), text.as_bytes()).unwrap();

            let lsn = Lsn(position);
            let within = |span: &Span| span.begin <= lsn && span.end.is_none_or(|end| lsn < end);
            let holding: Vec<Span> = history.spans().filter(within).collect();
            prop_assert_eq!(holding.len(), 1);
            prop_assert_eq!(history.timeline_holding(lsn), holding[0].timeline);
            prop_assert!(history.contains(holding[0].timeline, lsn));
        }
    }
}
