//! What `wal-sync` has to copy, from where to where. Pure: names in, copies out.
//!
//! Every plan keeps these promises, and the property tests below hold it to them:
//! * once carried out, each repository holds what any of them holds, as far as it is of use;
//! * a timeline's history comes before its segments, an older segment before a newer one of its timeline;
//! * nothing is copied that lies before the oldest base backup: `prune` may have deleted it in one repository and
//!   not yet in another. A history always is;
//! * nothing is ever taken away.

use std::collections::{BTreeMap, BTreeSet};

use crate::pg::{SegmentPlace, SegmentSize, Timeline, WalFileName};

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
pub fn copies<'a>(holdings: &[BTreeSet<&'a WalFileName>], floor: Option<SegmentPlace>) -> Vec<Copy<'a>> {
    let mut holders: BTreeMap<&WalFileName, Vec<usize>> = BTreeMap::new();
    for (number, holding) in holdings.iter().enumerate() {
        for name in holding {
            holders.entry(name).or_default().push(number);
        }
    }
    holders.retain(|name, holders| holders.len() < holdings.len() && is_of_use(name, floor));
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

/// Whether a file lies at or behind `floor`, where the oldest base backup begins.
pub fn is_of_use(name: &WalFileName, floor: Option<SegmentPlace>) -> bool {
    name.place().is_none_or(|place| Some(place) >= floor)
}

/// Whether only the base backups can tell if a repository should get this file: where it has an older one already,
/// it should.
pub fn depends_on_backups(name: &WalFileName, oldest: Option<SegmentPlace>) -> bool {
    name.place().is_some_and(|place| oldest.is_none_or(|oldest| place < oldest))
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
            let floor = floor.map(place);
            let holdings: Vec<BTreeSet<_>> = before.iter().map(|held| held.iter().collect()).collect();
            let union: BTreeSet<&WalFileName> = before.iter().flatten().collect();
            let mut after = holdings.clone();
            for Copy { name, from, to } in copies(&holdings, floor) {
                prop_assert!(name.place().is_none() || name.place() >= floor, "{name} is of no use");
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
                    prop_assert!(after.contains(name) || !is_of_use(name, floor), "{name} is missing");
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
        assert!(!depends_on_backups(&segment(1, 9), Some(place(9))));
        assert!(!depends_on_backups(&segment(1, 9), Some(place(3))));
        assert!(depends_on_backups(&segment(1, 9), Some(place(10))));
        assert!(depends_on_backups(&segment(1, 9), None), "it is empty");
        assert!(!depends_on_backups(&name("00000002.history"), None));
    }

    #[test]
    fn the_backup_s_own_first_segment_is_of_use() {
        assert!(is_of_use(&segment(2, 9), Some(place(9))));
        assert!(!is_of_use(&segment(2, 8), Some(place(9))));
        assert!(is_of_use(&segment(2, 8), None));
        assert!(is_of_use(&name("00000002.history"), Some(place(9))));
    }
}
