//! What `wal-sync` has to copy, from where to where. Pure: names in, copies out.
//!
//! Every plan keeps these promises, and the property tests below hold it to them:
//! * once carried out, each repository holds what any of them holds, as far as it is of use;
//! * a timeline's history comes before its segments, an older segment before a newer one of its timeline;
//! * nothing is copied that [`retention`](super::retention) would not keep: `prune` may have deleted it in one
//!   repository and not yet in another. A history always is;
//! * nothing is ever taken away.

use std::collections::{BTreeMap, BTreeSet};

use super::retention::WalNeed;
use crate::pg::{SegmentPart, SegmentPlace, SegmentSize, Timeline, WalFileName};

/// A file that some repositories have and others lack. Repositories go by their number in the list given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy<'a> {
    pub name: &'a WalFileName,
    pub from: Vec<usize>,
    pub to: Vec<usize>,
}

/// Segments that are missing between two that are there, by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub timeline: Timeline,
    pub first: SegmentPlace,
    pub last: SegmentPlace,
}

/// A run of segments, none missing, by the places of the first and the last.
pub type Run = (SegmentPlace, SegmentPlace);

/// What to copy so that all repositories hold the same, in the order in which to begin.
pub fn copies<'a>(holdings: &[BTreeSet<&'a WalFileName>]) -> Vec<Copy<'a>> {
    let mut holders: BTreeMap<&WalFileName, Vec<usize>> = BTreeMap::new();
    for (number, holding) in holdings.iter().enumerate() {
        for name in holding {
            holders.entry(name).or_default().push(number);
        }
    }
    holders.retain(|_, holders| holders.len() < holdings.len());
    let copy = |(name, from): (&'a WalFileName, Vec<usize>)| {
        let to = (0..holdings.len()).filter(|number| !from.contains(number)).collect();
        Copy { name, from, to }
    };
    let mut copies: Vec<_> = holders.into_iter().map(copy).collect();
    copies.sort_by_cached_key(|copy| order(copy.name));
    copies
}

/// By which files are stored and copied: histories first, then each timeline from its beginning on.
pub fn order(name: &WalFileName) -> (bool, Timeline, Option<SegmentPlace>, String) {
    let is_history = matches!(name, WalFileName::History(_));
    (!is_history, name.timeline(), name.place(), name.to_string())
}

/// Whether a file is of use; as long as nobody has asked, everything may be.
pub fn is_of_use(name: &WalFileName, need: Option<&WalNeed>) -> bool {
    need.is_none_or(|need| need.has(name))
}

/// What a repository holds of the WAL, as far as that is known: the place that its oldest file has, and on a file's
/// own timeline the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub oldest: Option<SegmentPlace>,
    pub newest_of_timeline: Option<SegmentPlace>,
}

/// Whether old backups have all WAL behind them, or only as much as makes them consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    Whole,
    /// There is a window, before which WAL is missing on purpose.
    WithHoles,
}

/// Whether only the base backups can tell if a repository should get this file. It should where it has an older one
/// already; or, if there are holes, only older ones of this timeline.
pub fn depends_on_backups(name: &WalFileName, extent: Extent, coverage: Coverage) -> bool {
    name.place().is_some_and(|place| match coverage {
        Coverage::Whole => extent.oldest.is_none_or(|oldest| place < oldest),
        Coverage::WithHoles => extent.newest_of_timeline.is_none_or(|newest| place <= newest),
    })
}

/// What is missing between runs of one timeline, given in any order.
pub fn gaps(timeline: Timeline, mut runs: Vec<Run>, size: SegmentSize) -> Vec<Gap> {
    runs.sort_unstable();
    let mut gaps = Vec::new();
    let mut reached: Option<SegmentPlace> = None;
    for (first, last) in runs {
        if let Some(reached) = reached.map(|reached| reached.next(size))
            && reached < first
        {
            gaps.push(Gap { timeline, first: reached, last: first.previous(size) });
        }
        reached = reached.max(Some(last));
    }
    gaps
}

/// The parts of segments that are of no more use, as another of these names holds all that they do.
pub fn superseded<'a>(names: &BTreeSet<&'a WalFileName>) -> BTreeSet<&'a WalFileName> {
    let mut parts: BTreeMap<&str, Vec<(SegmentPart, &'a WalFileName)>> = BTreeMap::new();
    let mut whole: BTreeSet<&str> = BTreeSet::new();
    for &name in names {
        match (name, name.part()) {
            (WalFileName::Partial(text), Some(part)) => {
                parts.entry(&text[..24]).or_default().push((part, name))
            }
            (WalFileName::Segment(text), _) => drop(whole.insert(text)),
            _ => {}
        }
    }
    let of_segment = |(segment, parts): (&str, Vec<(SegmentPart, &'a WalFileName)>)| {
        let is_whole = whole.contains(segment);
        let is_covered =
            |part: SegmentPart| parts.iter().any(|(other, _)| *other != part && other.covers(part));
        let gone = parts.iter().filter(|(part, _)| is_whole || is_covered(*part));
        gone.map(|(_, name)| *name).collect::<Vec<_>>()
    };
    parts.into_iter().flat_map(of_segment).collect()
}

/// Puts neighbours together.
pub fn runs(places: impl IntoIterator<Item = SegmentPlace>, size: SegmentSize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for place in places {
        match runs.last_mut() {
            Some((_, last)) if last.next(size) == place || *last == place => *last = place,
            _ => runs.push((place, place)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> WalFileName {
        WalFileName::parse(text).unwrap()
    }

    fn since(number: u64) -> WalNeed {
        let size = SegmentSize::DEFAULT;
        WalNeed::since(segment(1, number).segment(size).unwrap(), size)
    }

    #[test]
    fn a_part_is_of_use_until_a_longer_one_or_the_whole_segment_is_there() {
        let names = [
            "000000010000000000000003",
            "000000010000000000000003.partial",
            "000000010000000000000003.partial.00000000-00000010",
            "000000010000000000000004.partial.00000000-00000010",
            "000000010000000000000004.partial.00000000-00000020",
            "000000010000000000000004.partial.00000010-00000020",
            "000000010000000000000004.partial.00000018-00000030",
            "000000020000000000000003.partial.00000000-00000010",
        ]
        .map(|text| WalFileName::parse_stored(text).unwrap());
        let gone = superseded(&names.iter().collect());
        assert_eq!(gone, [&names[2], &names[3], &names[5]].into());
    }

    fn place(number: u64) -> SegmentPlace {
        segment(1, number).place().unwrap()
    }

    fn segment(timeline: u32, number: u64) -> WalFileName {
        name(&format!("{timeline:08X}{:08X}{:08X}", number / 256, number % 256))
    }

    /// Names of four timelines with histories, notes and partial segments, across a change of the log number.
    fn files() -> impl Strategy<Value = WalFileName> {
        (1u32..=4, 250u64..262, 0..8u8).prop_map(|(timeline, number, kind)| match kind {
            0 => name(&format!("{timeline:08X}.history")),
            1 => name(&format!("{}.partial", segment(timeline, number))),
            2 => name(&format!("{}.00000028.backup", segment(timeline, number))),
            _ => segment(timeline, number),
        })
    }

    fn repositories() -> impl Strategy<Value = Vec<BTreeSet<WalFileName>>> {
        prop::collection::vec(prop::collection::btree_set(files(), 0..40), 1..4)
    }

    proptest! {
        #[test]
        fn keeps_its_promises(before in repositories(), floor in prop::option::of(245u64..265)) {
            let need = floor.map(since);
            let is_of_use = |name: &WalFileName| is_of_use(name, need.as_ref());
            let holdings: Vec<BTreeSet<_>> = before.iter().map(|held| held.iter().collect()).collect();
            let union: BTreeSet<&WalFileName> = before.iter().flatten().collect();
            let mut after = holdings.clone();
            for Copy { name, from, to } in copies(&holdings).into_iter().filter(|copy| is_of_use(copy.name)) {
                prop_assert!(!from.is_empty() && !to.is_empty());
                for &number in &from {
                    prop_assert!(after[number].contains(name), "there is nothing to copy from");
                }
                for &number in &to {
                    let history = WalFileName::History(name.timeline());
                    let has_history = after[number].contains(&history) || !union.contains(&history);
                    prop_assert!(*name == history || has_history, "{name} came before its history");
                    let newer = |held: &&&WalFileName| {
                        held.timeline() == name.timeline() && held.place() > name.place()
                            && !holdings[number].contains(*held)
                    };
                    prop_assert!(after[number].iter().find(newer).is_none(), "{name} came after a newer one");
                    prop_assert!(after[number].insert(name), "copied twice");
                }
            }
            for (before, after) in holdings.iter().zip(&after) {
                prop_assert!(before.is_subset(after));
                for name in &union {
                    prop_assert!(after.contains(name) || !is_of_use(name), "{name} is missing");
                }
            }
        }

        #[test]
        fn gaps_are_what_is_between_the_runs(numbers in prop::collection::btree_set(500u64..560, 0..60)) {
            let runs = runs(numbers.iter().copied().map(place), SegmentSize::DEFAULT);
            for (first, last) in &runs {
                prop_assert!(first <= last);
            }
            let gaps = gaps(Timeline::FIRST, runs.into_iter().rev().collect(), SegmentSize::DEFAULT);
            let missing = |number: u64| gaps.iter().any(|gap| (gap.first..=gap.last).contains(&place(number)));
            let (first, last) = (numbers.first().copied().unwrap_or(0), numbers.last().copied().unwrap_or(0));
            for number in 499..561 {
                let inside = first < number && number < last;
                prop_assert_eq!(missing(number), inside && !numbers.contains(&number), "{}", number);
            }
        }
    }

    #[test]
    fn a_repository_with_older_wal_needs_no_look_at_the_backups() {
        let extent = |oldest: Option<u64>, newest: Option<u64>| Extent {
            oldest: oldest.map(place),
            newest_of_timeline: newest.map(place),
        };
        let whole = |oldest| depends_on_backups(&segment(1, 9), extent(oldest, None), Coverage::Whole);
        assert!(!whole(Some(9)) && !whole(Some(3)));
        assert!(whole(Some(10)));
        assert!(whole(None), "it is empty");
        let holes = |newest| depends_on_backups(&segment(1, 9), extent(Some(3), newest), Coverage::WithHoles);
        assert!(!holes(Some(8)));
        assert!(holes(Some(9)), "it may have been deleted");
        assert!(holes(None), "it has nothing of the timeline");
        for coverage in [Coverage::Whole, Coverage::WithHoles] {
            assert!(!depends_on_backups(&name("00000002.history"), extent(None, None), coverage));
        }
    }

    #[test]
    fn the_backup_s_own_first_segment_is_of_use() {
        assert!(is_of_use(&segment(2, 9), Some(&since(9))));
        assert!(!is_of_use(&segment(2, 8), Some(&since(9))));
        assert!(is_of_use(&segment(2, 8), None));
        assert!(is_of_use(&name("00000002.history"), Some(&since(9))));
    }
}
