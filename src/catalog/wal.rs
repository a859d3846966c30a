//! The archived WAL of one cluster: which segments are there, and how far recovery can read.
//!
//! An archive may hold hundreds of thousands of segments. They are kept as intervals of segment numbers per
//! timeline, so that an archive without gaps is a handful of values however long it is.
//!
//! [`WalArchive::contiguous_from`] follows PostgreSQL `src/backend/access/transam/xlogrecovery.c`
//! (`XLogFileReadAnyTLI`), which looks for a segment like this:
//! * it goes through the timelines of the target's history, newest first;
//! * it passes over timelines that begin in a later segment;
//! * it stops at timelines older than that of the segment read before;
//! * what it finds first it reads, to its end, and that is where care is needed. The segment with a switch point
//!   exists whole on the new timeline, which begins with a copy of what is shared. On the old timeline it often
//!   exists too: as `.partial`, which is never asked for, or whole, if the old primary went on by itself. If
//!   only the latter was archived, PostgreSQL reads past the switch point into the abandoned branch and on in it,
//!   and opens with rows that the history never had (seen with PostgreSQL 15).

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::pg::history::{Span, TimelineHistory};
use crate::pg::{Lsn, SegmentName, SegmentPart, SegmentSize, Timeline, WalFileName};

/// The WAL of one system identifier. All its segments have one size.
#[derive(Debug, Clone)]
pub struct WalArchive {
    segment_size: SegmentSize,
    /// By the number of the first segment; neighbours never touch.
    intervals: BTreeMap<Timeline, BTreeMap<u64, Interval>>,
    /// Parts of one segment are counted together.
    partials: BTreeMap<SegmentName, StoredAs>,
    parts: BTreeMap<SegmentName, BTreeMap<SegmentPart, StoredAs>>,
    histories: BTreeMap<Timeline, Result<TimelineHistory, String>>,
    backup_notes: BTreeSet<String>,
    misfits: BTreeSet<String>,
}

/// What a listing says about a stored file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredAs {
    pub size_bytes: u64,
    pub stored_at: DateTime<Utc>,
}

/// Segments of one timeline, from `first` to `last` inclusive, none missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    pub first: SegmentName,
    pub last: SegmentName,
    /// Of all of them together, as stored.
    pub stored_bytes: u64,
    /// When the last of them was stored.
    pub last_stored_at: DateTime<Utc>,
}

/// Segments of one timeline that are missing between two that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gap {
    pub first: SegmentName,
    pub last: SegmentName,
}

/// How far WAL is contiguous along a history, and what comes then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoverageEnd {
    /// The first byte of the history that is not there.
    pub lsn: Lsn,
    /// The segment read last; `None` when not even the first one is there.
    pub last: Option<SegmentName>,
    /// When that one was stored, unless it is a stray.
    pub last_stored_at: Option<DateTime<Utc>>,
    /// The segment that is missing, by the name under which PostgreSQL asks for it first.
    pub missing: SegmentName,
    /// The first segment behind the missing one, whole or partial: with one, there is a gap; without, this is the
    /// end of what was archived.
    pub later: Option<SegmentName>,
    /// An older timeline's segment that PostgreSQL would take for the missing one. The history shares it only up
    /// to `lsn`.
    pub stray: Option<SegmentName>,
    /// The segment that is missing, or an older timeline's in its place, if its beginning is there in parts and was
    /// counted: with nothing behind it, `wal-fetch` fills it up with zeros.
    pub tip: Option<SegmentName>,
}

/// The end of WAL that was stored, perhaps in the middle of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    pub lsn: Lsn,
    pub stored_at: DateTime<Utc>,
}

impl Interval {
    pub fn segments(&self) -> u64 {
        self.last.number - self.first.number + 1
    }

    fn has(&self, number: u64) -> bool {
        (self.first.number..=self.last.number).contains(&number)
    }
}

impl WalArchive {
    pub fn new(segment_size: SegmentSize) -> Self {
        Self {
            segment_size,
            intervals: BTreeMap::new(),
            partials: BTreeMap::new(),
            parts: BTreeMap::new(),
            histories: BTreeMap::new(),
            backup_notes: BTreeSet::new(),
            misfits: BTreeSet::new(),
        }
    }

    /// Takes in one file of the listing, in any order. A history counts as unreadable until
    /// [`WalArchive::add_history`] brings its content.
    pub fn add(&mut self, name: &WalFileName, stored: StoredAs) {
        let segment = match name {
            WalFileName::History(timeline) => {
                let unread = || Err("its content has not been read".to_owned());
                self.histories.entry(*timeline).or_insert_with(unread);
                return;
            }
            WalFileName::Segment(_) | WalFileName::Partial(_) | WalFileName::BackupNote(_) => {
                name.segment(self.segment_size)
            }
        };
        match (name, segment) {
            (_, None) => drop(self.misfits.insert(name.to_string())),
            (WalFileName::Segment(_), Some(segment)) => self.add_segment(segment, stored),
            (WalFileName::Partial(_), Some(segment)) => self.add_partial(segment, name.part(), stored),
            (_, Some(_)) => drop(self.backup_notes.insert(name.to_string())),
        }
    }

    fn add_partial(&mut self, segment: SegmentName, part: Option<SegmentPart>, stored: StoredAs) {
        let partial = self.partials.entry(segment).or_insert(StoredAs { size_bytes: 0, ..stored });
        partial.size_bytes = partial.size_bytes.saturating_add(stored.size_bytes);
        partial.stored_at = partial.stored_at.max(stored.stored_at);
        if let Some(part) = part.filter(|part| part.end <= self.segment_size.bytes()) {
            self.parts.entry(segment).or_default().insert(part, stored);
        }
    }

    /// Takes in the content of a timeline's history file.
    pub fn add_history(&mut self, timeline: Timeline, content: &[u8]) {
        let history = TimelineHistory::parse(timeline, content).map_err(|error| error.to_string());
        self.histories.insert(timeline, history);
    }

    /// Notes that there is a history file, and why its content is not known.
    pub fn add_unreadable_history(&mut self, timeline: Timeline, reason: String) {
        self.histories.insert(timeline, Err(reason));
    }

    /// Refuses the histories that cannot be right, once everything was taken in: nothing else guards them.
    ///
    /// A timeline has no segment before the one that it begins in, and its history goes on where its parent's ends.
    pub fn refuse_contradicted_histories(&mut self) {
        let contradictions: Vec<(Timeline, String)> = self
            .histories
            .keys()
            .filter_map(|&timeline| Some((timeline, self.contradiction(timeline)?)))
            .collect();
        for (timeline, reason) in contradictions {
            self.add_unreadable_history(timeline, reason);
        }
    }

    fn contradiction(&self, timeline: Timeline) -> Option<String> {
        let history = self.histories.get(&timeline)?.as_ref().ok()?;
        let begin = history.span(timeline)?.begin;
        if let Some(first) = self.intervals(timeline).next()
            && first.first.number < self.number_at(begin)
        {
            let first = first.first.file_name(self.segment_size);
            return Some(format!(
                "it says that timeline {timeline} begins at {begin}, but there is {first} before"
            ));
        }
        let points = |history: &TimelineHistory| -> Vec<(Timeline, Lsn)> {
            history.ancestors().iter().map(|ancestor| (ancestor.timeline, ancestor.switch_lsn)).collect()
        };
        let mut own = points(history);
        let (parent, _) = own.pop()?;
        let of_parent = points(self.histories.get(&parent)?.as_ref().ok()?);
        (own != of_parent)
            .then(|| format!("it tells the history of timeline {parent} otherwise than that one's own"))
    }

    fn add_segment(&mut self, segment: SegmentName, stored: StoredAs) {
        if self.has(segment) {
            return;
        }
        let intervals = self.intervals.entry(segment.timeline).or_default();
        let mut interval = Interval {
            first: segment,
            last: segment,
            stored_bytes: stored.size_bytes,
            last_stored_at: stored.stored_at,
        };
        if let Some(after) = intervals.remove(&(segment.number + 1)) {
            interval.last = after.last;
            interval.stored_bytes = interval.stored_bytes.saturating_add(after.stored_bytes);
            interval.last_stored_at = after.last_stored_at;
        }
        let before = intervals.range(..segment.number).next_back().map(|(_, before)| *before);
        if let Some(before) = before.filter(|before| before.last.number + 1 == segment.number) {
            interval.first = before.first;
            interval.stored_bytes = interval.stored_bytes.saturating_add(before.stored_bytes);
        }
        intervals.insert(interval.first.number, interval);
    }

    /// The same archive as if `segment` had never been stored; `before`, the one before it, was stored at that time.
    pub fn without_segment(&self, segment: SegmentName, before_stored_at: Option<DateTime<Utc>>) -> Self {
        let mut archive = self.clone();
        let Some(whole) = self.interval_with(segment).copied() else { return archive };
        let intervals = archive.intervals.entry(segment.timeline).or_default();
        intervals.remove(&whole.first.number);
        // How much each of the two takes is not known any more, only how much both do.
        let part = |first, last, last_stored_at| Interval { first, last, last_stored_at, ..whole };
        if whole.first < segment {
            let last = SegmentName { number: segment.number - 1, ..segment };
            let last_stored_at = before_stored_at.unwrap_or(whole.last_stored_at);
            intervals.insert(whole.first.number, part(whole.first, last, last_stored_at));
        }
        if segment < whole.last {
            let first = segment.next();
            intervals.insert(first.number, part(first, whole.last, whole.last_stored_at));
        }
        archive
    }

    /// The same archive as if what is missing in `gap`, all of it, were there, the last of it stored at that time.
    pub fn with_segments(&self, gap: Gap, stored_at: DateTime<Utc>) -> Self {
        let mut archive = self.clone();
        let intervals = archive.intervals.entry(gap.first.timeline).or_default();
        let mut filled =
            Interval { first: gap.first, last: gap.last, stored_bytes: 0, last_stored_at: stored_at };
        if let Some(after) = intervals.remove(&(gap.last.number + 1)) {
            (filled.last, filled.last_stored_at) = (after.last, after.last_stored_at);
        }
        let before = intervals.range(..gap.first.number).next_back().map(|(_, before)| *before);
        if let Some(before) = before.filter(|before| before.last.number + 1 == gap.first.number) {
            filled.first = before.first;
        }
        intervals.insert(filled.first.number, filled);
        archive
    }

    /// The same archive as if the history of `timeline` had never been stored.
    pub fn without_history(&self, timeline: Timeline) -> Self {
        let mut archive = self.clone();
        let lost = Err("it is lost".to_owned());
        archive.histories.insert(timeline, lost);
        archive
    }

    pub fn segment_size(&self) -> SegmentSize {
        self.segment_size
    }

    /// Each timeline that has a segment, a partial one or a history here.
    pub fn timelines(&self) -> BTreeSet<Timeline> {
        let of_partials = self.partials.keys().map(|segment| segment.timeline);
        self.intervals.keys().chain(self.histories.keys()).copied().chain(of_partials).collect()
    }

    /// What is there of one timeline, oldest first.
    pub fn intervals(&self, timeline: Timeline) -> impl DoubleEndedIterator<Item = &Interval> {
        self.intervals.get(&timeline).into_iter().flat_map(BTreeMap::values)
    }

    /// What is missing inside one timeline, oldest first.
    pub fn gaps(&self, timeline: Timeline) -> impl Iterator<Item = Gap> {
        let neighbours = self.intervals(timeline).zip(self.intervals(timeline).skip(1));
        neighbours.map(|(before, after)| Gap {
            first: before.last.next(),
            last: SegmentName { number: after.first.number - 1, ..after.first },
        })
    }

    /// Whether the whole segment is there; a partial one is not.
    pub fn has(&self, segment: SegmentName) -> bool {
        self.interval_with(segment).is_some()
    }

    fn interval_with(&self, segment: SegmentName) -> Option<&Interval> {
        let mut up_to = self.intervals.get(&segment.timeline)?.range(..=segment.number);
        up_to.next_back().map(|(_, interval)| interval).filter(|interval| interval.has(segment.number))
    }

    pub fn partials(&self) -> &BTreeMap<SegmentName, StoredAs> {
        &self.partials
    }

    /// How much of the beginning of `segment` is there in parts.
    pub fn tip(&self, segment: SegmentName) -> Option<Tip> {
        let parts = self.parts.get(&segment)?;
        let beginning = SegmentPart::beginning(parts.keys().copied());
        let end = beginning.last()?.end;
        let stored_at = beginning.iter().map(|part| parts[part].stored_at).max()?;
        Some(Tip { lsn: segment.start(self.segment_size) + end, stored_at })
    }

    /// Where the WAL of `timeline` ends that was stored: behind its last segment, or behind what is there of the next.
    pub fn end_of_timeline(&self, timeline: Timeline) -> Option<Tip> {
        let whole = self.intervals(timeline).next_back().map(|interval| Tip {
            lsn: self.end_of(interval.last.number),
            stored_at: interval.last_stored_at,
        });
        let parts = self.parts.keys().filter(|segment| segment.timeline == timeline);
        let tips = parts.filter_map(|segment| self.tip(*segment));
        tips.chain(whole).max_by_key(|tip| (tip.lsn, tip.stored_at))
    }

    /// The timelines that have a history file, and what it says, or why it cannot be read.
    pub fn histories(&self) -> &BTreeMap<Timeline, Result<TimelineHistory, String>> {
        &self.histories
    }

    /// Names of the notes that base backups left, as `0000…03.00000028.backup`.
    pub fn backup_notes(&self) -> &BTreeSet<String> {
        &self.backup_notes
    }

    /// Names that cannot be: no segment of this size has such a number.
    pub fn misfits(&self) -> &BTreeSet<String> {
        &self.misfits
    }

    /// How far recovery along `history` can read whole segments, when it needs the byte at `from` next.
    pub fn contiguous_from(&self, from: Lsn, history: &TimelineHistory) -> CoverageEnd {
        let mut number = from.0 / self.segment_size.bytes();
        let mut oldest = history.timeline_holding(Lsn(from.0.saturating_sub(1)));
        let mut end = CoverageEnd {
            lsn: from,
            last: None,
            last_stored_at: None,
            missing: self.asked_for_first(number, history),
            later: None,
            stray: None,
            tip: None,
        };
        while let Some((span, interval)) = self.first_found(number, oldest, history) {
            let taken_over = history.spans().find(|next| next.timeline > span.timeline);
            let taken_over = taken_over.map(|next| self.number_at(next.begin));
            if taken_over.is_some_and(|first| first <= number) {
                let stray = SegmentName { timeline: span.timeline, number };
                let shared = span.end.expect("another timeline takes over from this one");
                end.lsn = shared.clamp(end.lsn, self.end_of(number));
                (end.last, end.last_stored_at, end.stray) = (Some(stray), None, Some(stray));
                break;
            }
            let last = taken_over.map_or(u64::MAX, |first| first - 1).min(interval.last.number);
            end.last = Some(SegmentName { timeline: span.timeline, number: last });
            end.last_stored_at = Some(interval.last_stored_at);
            end.lsn = self.end_of(last);
            (number, oldest) = (last + 1, span.timeline);
            end.missing = self.asked_for_first(number, history);
        }
        end.later = self.first_behind(end.missing.number, history);
        if end.stray.is_none() && end.later.is_none() {
            self.add_tip(&mut end, number, oldest, history);
        }
        end
    }

    /// Counts what is there in parts of segment `number`, of the timeline whose parts PostgreSQL would be given.
    fn add_tip(&self, end: &mut CoverageEnd, number: u64, oldest: Timeline, history: &TimelineHistory) {
        let found = |span: Span| {
            let segment = SegmentName { timeline: span.timeline, number };
            Some((span, segment, self.tip(segment)?))
        };
        let Some((span, segment, tip)) = self.spans_asked(number, oldest, history).find_map(found) else {
            return;
        };
        let taken_over =
            history.spans().any(|next| next.timeline > span.timeline && self.number_at(next.begin) <= number);
        match span.end.filter(|switch_lsn| taken_over && *switch_lsn < tip.lsn) {
            Some(switch_lsn) => {
                end.lsn = switch_lsn.max(end.lsn);
                (end.last, end.last_stored_at, end.stray) = (Some(segment), None, Some(segment));
            }
            None if tip.lsn > end.lsn => {
                end.lsn = tip.lsn;
                (end.last, end.last_stored_at, end.tip) = (Some(segment), Some(tip.stored_at), Some(segment));
            }
            None => {}
        }
    }

    /// The first segment behind `number` that is on `history`, whole or partial.
    fn first_behind(&self, number: u64, history: &TimelineHistory) -> Option<SegmentName> {
        let in_span = |span: Span| {
            let segment = |number| SegmentName { timeline: span.timeline, number };
            let first = segment(self.number_at(span.begin).max(number + 1));
            let last = segment(span.end.map_or(u64::MAX, |end| self.number_at(Lsn(end.0.saturating_sub(1)))));
            if last < first {
                return None;
            }
            let whole = self.intervals(span.timeline).find(|interval| interval.last >= first);
            let whole = whole.map(|interval| interval.first.max(first)).filter(|whole| *whole <= last);
            let partial = self.partials.range(first..=last).next().map(|(partial, _)| *partial);
            whole.into_iter().chain(partial).min()
        };
        history.spans().filter_map(in_span).min_by_key(|found| found.number)
    }

    /// The segment that PostgreSQL opens to read segment `number`, and the interval it is in.
    fn first_found(
        &self,
        number: u64,
        oldest: Timeline,
        history: &TimelineHistory,
    ) -> Option<(Span, &Interval)> {
        let found =
            |span: Span| Some((span, self.interval_with(SegmentName { timeline: span.timeline, number })?));
        self.spans_asked(number, oldest, history).find_map(found)
    }

    /// The timelines for whose segment `number` PostgreSQL asks, in that order.
    fn spans_asked<'h>(
        &self,
        number: u64,
        oldest: Timeline,
        history: &'h TimelineHistory,
    ) -> impl Iterator<Item = Span> + use<'_, 'h> {
        let begun = history.spans().rev().filter(move |span| self.number_at(span.begin) <= number);
        begun.take_while(move |span| span.timeline >= oldest)
    }

    fn asked_for_first(&self, number: u64, history: &TimelineHistory) -> SegmentName {
        let newest = history.spans().rev().find(|span| self.number_at(span.begin) <= number);
        let timeline = newest.map_or(history.timeline(), |span| span.timeline);
        SegmentName { timeline, number }
    }

    fn number_at(&self, lsn: Lsn) -> u64 {
        lsn.0 / self.segment_size.bytes()
    }

    /// Where segment `number` ends; no overflow for the very last one.
    fn end_of(&self, number: u64) -> Lsn {
        Lsn((number + 1).saturating_mul(self.segment_size.bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;
    const QUARTER: u64 = 4 << 20;

    fn timeline(number: u32) -> Timeline {
        Timeline::new(number).unwrap()
    }

    fn segment(tli: u32, number: u64) -> SegmentName {
        SegmentName { timeline: timeline(tli), number }
    }

    /// Stored at a minute of its own, and as many bytes as its number.
    fn stored(number: u64) -> StoredAs {
        let stored_at = DateTime::from_timestamp(number as i64 * 60, 0).unwrap();
        StoredAs { size_bytes: number, stored_at }
    }

    fn add(archive: &mut WalArchive, name: &str, number: u64) {
        archive.add(&WalFileName::parse(name).unwrap(), stored(number));
    }

    fn archive(segments: &[(u32, u64)]) -> WalArchive {
        let mut archive = WalArchive::new(SIZE);
        for &(tli, number) in segments {
            add(&mut archive, &segment(tli, number).file_name(SIZE).to_string(), number);
        }
        archive
    }

    /// A history from timelines and the quarters of segments at which they were left.
    fn history(tli: u32, switches: &[(u32, u64)]) -> TimelineHistory {
        let line = |(tli, quarters): &(u32, u64)| format!("{tli}\t{}\n", Lsn(quarters * QUARTER));
        TimelineHistory::parse(timeline(tli), switches.iter().map(line).collect::<String>().as_bytes())
            .unwrap()
    }

    #[test]
    fn a_history_that_cannot_be_right_is_refused() {
        let line = |tli: u32, quarters: u64| format!("{tli}\t{}\tno reason\n", Lsn(quarters * QUARTER));
        let refused = |second: &str, third: &str| {
            let mut archive = archive(&[(1, 1), (1, 2), (2, 2), (2, 3), (3, 3)]);
            archive.add_history(timeline(2), second.as_bytes());
            archive.add_history(timeline(3), third.as_bytes());
            archive.refuse_contradicted_histories();
            let refused = archive.histories().iter().filter(|(_, history)| history.is_err());
            refused.map(|(timeline, _)| timeline.get()).collect::<Vec<_>>()
        };
        let second = line(1, 10);
        assert_eq!(refused(&second, &format!("{second}{}", line(2, 14))), [0; 0]);
        assert_eq!(
            refused(&line(1, 12), &format!("{}{}", line(1, 12), line(2, 14))),
            [2],
            "2 has a segment before"
        );
        assert_eq!(refused(&second, &format!("{}{}", line(1, 9), line(2, 14))), [3], "2 left 1 elsewhere");
        assert_eq!(refused(&second, &line(1, 13)), [0; 0], "a branch of its own");
    }

    #[test]
    fn a_segment_that_is_taken_out_leaves_a_gap_and_put_back_fills_it() {
        let whole = archive(&[(1, 1), (1, 2), (1, 3), (1, 4)]);
        let at = |number| Some(stored(number).stored_at);
        for number in 1..=4 {
            let torn = whole.without_segment(segment(1, number), at(number - 1));
            for other in 1..=4 {
                assert_eq!(torn.has(segment(1, other)), other != number);
            }
            let end = torn.contiguous_from(segment(1, 1).start(SIZE), &TimelineHistory::of(timeline(1)));
            assert_eq!(end.last_stored_at, at(number - 1).filter(|_| number > 1));
            let gap = Gap { first: segment(1, number), last: segment(1, number) };
            let mended = torn.with_segments(gap, stored(number).stored_at);
            let end = mended.contiguous_from(segment(1, 1).start(SIZE), &TimelineHistory::of(timeline(1)));
            assert_eq!((end.last, end.last_stored_at), (Some(segment(1, 4)), at(4)), "{number}");
            assert_eq!(mended.intervals(timeline(1)).count(), 1);
        }
        assert!(whole.without_segment(segment(2, 2), None).has(segment(1, 2)));
    }

    #[test]
    fn each_kind_of_file_finds_its_place() {
        let mut archive = archive(&[(1, 1), (1, 2)]);
        add(&mut archive, "000000010000000000000003.partial", 3);
        add(&mut archive, "000000010000000000000002.00000028.backup", 2);
        add(&mut archive, "00000002.history", 9);
        add(&mut archive, "000000010000000000000100", 9);
        assert!(archive.has(segment(1, 2)) && !archive.has(segment(1, 3)) && !archive.has(segment(2, 2)));
        assert_eq!(archive.partials().keys().copied().collect::<Vec<_>>(), [segment(1, 3)]);
        assert_eq!(archive.backup_notes().len(), 1);
        assert_eq!(archive.misfits().first().unwrap(), "000000010000000000000100");
        assert_eq!(archive.timelines(), BTreeSet::from([timeline(1), timeline(2)]));
        assert!(archive.histories()[&timeline(2)].is_err(), "listed, but not read");

        archive.add_history(timeline(2), b"1\t0/2000000\n");
        add(&mut archive, "00000002.history", 9);
        assert!(archive.histories()[&timeline(2)].is_ok());
    }

    #[test]
    fn segments_of_64_mebibytes_are_counted_by_their_size() {
        let size = SegmentSize::from_bytes(64 << 20).unwrap();
        let mut archive = WalArchive::new(size);
        for name in ["00000001000000000000003E", "00000001000000000000003F", "000000010000000100000000"] {
            add(&mut archive, name, 1);
        }
        add(&mut archive, "000000010000000000000040", 1);
        assert_eq!(archive.intervals(timeline(1)).count(), 1);
        assert_eq!(archive.misfits().len(), 1);
        let end = archive.contiguous_from(Lsn(0xF800_0000), &TimelineHistory::of(timeline(1)));
        assert_eq!(end.lsn.to_string(), "1/4000000");
        assert_eq!(end.missing.file_name(size).to_string(), "000000010000000100000001");
    }

    #[test]
    fn the_old_timelines_partial_segment_is_not_needed_when_the_new_timeline_has_it() {
        let mut archive = archive(&[(1, 3), (1, 4), (2, 5), (2, 6)]);
        add(&mut archive, "000000010000000000000005.partial", 5);
        let end = archive.contiguous_from(Lsn(4 * SIZE.bytes()), &history(2, &[(1, 22)]));
        assert_eq!((end.lsn, end.last), (Lsn(7 * SIZE.bytes()), Some(segment(2, 6))));
        assert_eq!((end.missing, end.later, end.stray), (segment(2, 7), None, None));
        assert_eq!(end.last_stored_at, Some(stored(6).stored_at));

        let end = archive.contiguous_from(Lsn(4 * SIZE.bytes()), &history(1, &[]));
        assert_eq!((end.missing, end.later), (segment(1, 5), None), "a partial segment is not a whole one");
    }

    #[test]
    fn a_partial_segment_behind_a_missing_one_shows_the_gap() {
        let mut archive = archive(&[(1, 3)]);
        add(&mut archive, "000000010000000000000005.partial", 5);
        let end = archive.contiguous_from(Lsn(3 * SIZE.bytes()), &history(1, &[]));
        assert_eq!((end.missing, end.later), (segment(1, 4), Some(segment(1, 5))));
    }

    #[test]
    fn the_abandoned_branch_is_no_substitute_for_the_new_timelines_first_segment() {
        let archive = archive(&[(1, 4), (1, 5), (1, 6), (1, 7)]);
        let end = archive.contiguous_from(Lsn(4 * SIZE.bytes()), &history(2, &[(1, 22)]));
        assert_eq!(end.lsn, Lsn(22 * QUARTER));
        assert_eq!((end.missing, end.stray), (segment(2, 5), Some(segment(1, 5))));
        assert_eq!(
            end.later, None,
            "what the old timeline has behind the switch point is not of this history"
        );
    }

    #[test]
    fn a_segment_with_two_switch_points_is_read_on_the_newest_timeline() {
        let history = history(3, &[(1, 21), (2, 22)]);
        let whole = archive(&[(1, 4), (1, 5), (3, 5)]).contiguous_from(Lsn(16 * QUARTER), &history);
        assert_eq!((whole.lsn, whole.stray), (Lsn(24 * QUARTER), None));
        let middle = archive(&[(1, 4), (1, 5), (2, 5)]).contiguous_from(Lsn(16 * QUARTER), &history);
        assert_eq!((middle.lsn, middle.stray), (Lsn(22 * QUARTER), Some(segment(2, 5))));
    }

    #[test]
    fn the_last_segment_of_all_does_not_overflow() {
        let size = SegmentSize::from_bytes(1 << 20).unwrap();
        let mut archive = WalArchive::new(size);
        add(&mut archive, "00000001FFFFFFFF00000FFF", 1);
        let end = archive.contiguous_from(Lsn(u64::MAX - 5), &TimelineHistory::of(timeline(1)));
        assert_eq!(end.lsn, Lsn(u64::MAX));
        assert_eq!(archive.contiguous_from(Lsn(0), &TimelineHistory::of(timeline(1))).lsn, Lsn(0));
    }

    /// Timelines 1 to 4, of which each was left at a later quarter or the same.
    fn histories() -> impl Strategy<Value = TimelineHistory> {
        prop::collection::vec(0u64..40, 0..4).prop_map(|mut quarters| {
            quarters.sort_unstable();
            let switches: Vec<(u32, u64)> = (1..).zip(quarters).collect();
            history(switches.len() as u32 + 1, &switches)
        })
    }

    fn segments() -> impl Strategy<Value = Vec<(u32, u64)>> {
        prop::collection::vec((1u32..=4, 0u64..11), 0..60)
    }

    proptest! {
        #[test]
        fn intervals_hold_what_was_added_in_whatever_order(numbers in prop::collection::vec(0u64..40, 0..40)) {
            let archive = archive(&numbers.iter().map(|&number| (1, number)).collect::<Vec<_>>());
            let model: BTreeSet<u64> = numbers.into_iter().collect();
            let intervals: Vec<Interval> = archive.intervals(timeline(1)).copied().collect();
            for number in 0..41 {
                prop_assert_eq!(archive.has(segment(1, number)), model.contains(&number));
            }
            prop_assert_eq!(intervals.iter().map(Interval::segments).sum::<u64>(), model.len() as u64);
            prop_assert_eq!(intervals.iter().map(|i| i.stored_bytes).sum::<u64>(), model.iter().sum::<u64>());
            for interval in &intervals {
                prop_assert_eq!(interval.last_stored_at, stored(interval.last.number).stored_at);
            }
            let missing = |gap: &Gap| gap.last.number - gap.first.number + 1;
            let span = model.last().map_or(0, |last| last - model.first().unwrap() + 1);
            prop_assert_eq!(archive.gaps(timeline(1)).map(|gap| missing(&gap)).sum::<u64>() + model.len() as u64, span);
            prop_assert_eq!(archive.gaps(timeline(1)).count(), intervals.len().saturating_sub(1));
        }

        /// Coverage ends at the first quarter of a segment that no segment of the history holds: neither that
        /// of the timeline that wrote it, nor one of a later timeline, which begins with a copy.
        #[test]
        fn coverage_ends_at_the_first_byte_that_is_not_there(
            segments in segments(), history in histories(), from in 0u64..44,
        ) {
            let archive = archive(&segments);
            let is_there = |quarter: &u64| history.spans().any(|span| {
                let begins = span.begin.0 / SIZE.bytes() <= quarter / 4;
                let copies = span.timeline >= history.timeline_holding(Lsn(quarter * QUARTER));
                begins && copies && segments.contains(&(span.timeline.get(), quarter / 4))
            });
            let first_missing = (from..).find(|quarter| !is_there(quarter)).unwrap();
            let end = archive.contiguous_from(Lsn(from * QUARTER), &history);
            prop_assert_eq!(end.lsn, Lsn(first_missing * QUARTER));
        }

        /// The segments that PostgreSQL opens one after the other, as it looks for them.
        #[test]
        fn segments_are_found_as_postgresql_finds_them(
            segments in segments(), history in histories(), from in 0u64..11,
        ) {
            let starts_in = |span: &Span, number| span.begin.0 / SIZE.bytes() <= number;
            let mut current = history.timeline_holding(Lsn((from * SIZE.bytes()).saturating_sub(1)));
            let (mut opened, mut stray) = (None, None);
            for number in from.. {
                let mut candidates = history.spans().rev().take_while(|span| span.timeline >= current);
                let found = candidates.find(|span| {
                    starts_in(span, number) && segments.contains(&(span.timeline.get(), number))
                });
                let Some(found) = found else { break };
                opened = Some(SegmentName { timeline: found.timeline, number });
                current = found.timeline;
                let ends_inside = found.end.is_some_and(|end| end < Lsn((number + 1) * SIZE.bytes()));
                if ends_inside {
                    stray = opened;
                    break;
                }
            }
            let end = archive(&segments).contiguous_from(Lsn(from * SIZE.bytes()), &history);
            prop_assert_eq!(end.last, opened);
            prop_assert_eq!(end.stray, stray);
        }

        #[test]
        fn a_gap_is_seen_if_the_history_has_a_later_segment(segments in segments(), history in histories()) {
            let end = archive(&segments).contiguous_from(Lsn(0), &history);
            let is_of_history = |&&(tli, number): &&(u32, u64)| history.span(timeline(tli)).is_some_and(|span| {
                let begins = span.begin.0 / SIZE.bytes() <= number;
                begins && span.end.is_none_or(|end| number * SIZE.bytes() < end.0)
            });
            let later = segments.iter().filter(is_of_history).map(|(_, number)| *number);
            let later = later.filter(|number| *number > end.missing.number).min();
            prop_assert_eq!(end.later.map(|segment| segment.number), later);
        }
    }
}
