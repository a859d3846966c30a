//! The end of a round for one system: what is still missing, and what need not be looked at again.

use std::collections::{BTreeMap, BTreeSet};

use super::archive::{Archive, Log};
use super::memory::{Settled, SystemMemory};
use super::parallel;
use super::report::{Finding, Missing};
use crate::ops::Error;
use crate::pg::{SegmentPlace, SegmentSize, Timeline, WalFileName};
use crate::plan::wal_sync::{self as plan, Gap, Run};
use crate::repo::wal_copy::LogDirectory;

/// How many segments are opened to learn their size, if the first cannot be read.
const SEGMENTS_TRIED: usize = 3;

impl Archive<'_> {
    pub fn conclude(self) -> Result<SystemMemory, Error> {
        let size = self.segment_size();
        let union = self.union();
        let lacking = self.lacking(&union);
        for (&number, names) in &lacking {
            let missing = self.ranges(number, names, size.unwrap_or(SegmentSize::DEFAULT));
            self.round.told().missing[number].extend(missing);
        }
        let (gaps, newest_backup) = size.map(|size| self.gaps(&union, size)).unwrap_or_default();
        for gap in &gaps {
            self.tell_gap(gap);
        }
        let unexplained = self.tell_missing_histories(&union);
        self.round.job.interrupt.check()?;
        let settled = self.settle(&union, &lacking, &gaps, &unexplained);
        // Any timeline does: it is read back as a place only.
        let newest_backup = newest_backup.map(|place| place.on(Timeline::FIRST).to_string());
        Ok(SystemMemory { segment_bytes: size.map(SegmentSize::bytes), newest_backup, settled })
    }

    /// What any repository holds, and what the source's directory had and none took.
    fn union(&self) -> BTreeSet<WalFileName> {
        let progress = self.progress();
        let held = self.readable().into_iter().flat_map(|number| progress.holdings[number].keys());
        held.chain(progress.not_collected.keys()).cloned().collect()
    }

    /// What each member lacks that is of use. A file that is still being copied into the directory is not lacking, and
    /// a part of a segment may have been superseded since it was listed.
    fn lacking(&self, union: &BTreeSet<WalFileName>) -> BTreeMap<usize, Vec<WalFileName>> {
        let waiting: BTreeSet<String> =
            self.round.told().waiting.iter().map(|waiting| waiting.name.clone()).collect();
        let mut lacking: BTreeMap<usize, Vec<WalFileName>> = BTreeMap::new();
        for number in self.readable() {
            let held = &self.progress().holdings[number];
            let names = union.iter().filter(|name| !held.contains_key(name) && name.part().is_none());
            let names: Vec<_> = names.filter(|name| !waiting.contains(&name.to_string())).cloned().collect();
            lacking.insert(number, names);
        }
        let wanted = lacking.iter().flat_map(|(&number, names)| names.iter().map(move |name| (name, number)));
        let need = self.need_of(wanted);
        for names in lacking.values_mut() {
            names.retain(|name| plan::is_of_use(name, need));
            names.sort_by_cached_key(plan::order);
        }
        lacking.retain(|_, names| !names.is_empty());
        lacking
    }

    fn ranges(&self, number: usize, names: &[WalFileName], size: SegmentSize) -> Vec<Missing> {
        let mut ranges: Vec<Missing> = Vec::new();
        let mut before: Option<&WalFileName> = None;
        for name in names {
            let reason = self.reason(number, name);
            let follows = before.is_some_and(|before| is_next(before, name, size));
            match ranges.last_mut() {
                Some(range) if follows && range.reason == reason => {
                    range.last = name.to_string();
                    range.files += 1;
                }
                _ => ranges.push(Missing {
                    system_identifier: self.system.to_string(),
                    first: name.to_string(),
                    last: name.to_string(),
                    files: 1,
                    reason,
                }),
            }
            before = Some(name);
        }
        ranges
    }

    fn reason(&self, number: usize, name: &WalFileName) -> String {
        let member = &self.round.members[number];
        let progress = self.progress();
        if let Some(reason) = progress.not_collected.get(name) {
            return reason.clone();
        }
        match progress.not_copied.get(&(number, name.clone())) {
            Some(reason) if member.writing.is_well() && !reason.is_empty() => reason.clone(),
            _ if !member.writing.is_well() => "the repository dropped out".to_owned(),
            _ => "the repository did not take it".to_owned(),
        }
    }

    /// What is missing everywhere, from the newest base backup on, and where that begins as far as it was asked: a gap
    /// before it harms nobody who restores that.
    fn gaps(&self, union: &BTreeSet<WalFileName>, size: SegmentSize) -> (Vec<Gap>, Option<SegmentPlace>) {
        let mut runs: BTreeMap<Timeline, Vec<Run>> = BTreeMap::new();
        for (log, found) in self.logs.iter().filter(|(_, found)| !found.is_listed) {
            let settled = self.memory.settled.get(&log.to_string());
            debug_assert!(!found.is_newest && settled.is_some());
            runs.entry(log.timeline).or_default().extend(settled.and_then(run_of));
        }
        let mut places: BTreeMap<Timeline, Vec<SegmentPlace>> = BTreeMap::new();
        let not_collected = self.progress().not_collected.clone();
        let is_held = |name: &&WalFileName| !not_collected.contains_key(name);
        let segments = union.iter().filter(|name| matches!(name, WalFileName::Segment(_)));
        for name in segments.filter(is_held) {
            places.entry(name.timeline()).or_default().extend(name.place());
        }
        for (timeline, mut places) in places {
            places.sort_unstable();
            runs.entry(timeline).or_default().extend(plan::runs(places, size));
        }
        let gaps = runs.into_iter().flat_map(|(timeline, runs)| plan::gaps(timeline, runs, size));
        let mut gaps: Vec<Gap> = gaps.collect();
        // What the source's directory has is not missing everywhere.
        let in_source = |place: SegmentPlace, gap: &Gap| not_collected.contains_key(&place.on(gap.timeline));
        let is_in_source = |gap: &Gap| {
            let places = std::iter::successors(Some(gap.first), |place| Some(place.next(size)));
            places.take_while(|place| *place <= gap.last).all(|place| in_source(place, gap))
        };
        gaps.retain(|gap| !is_in_source(gap));
        let mut newest = self.memory.newest_backup.as_deref().and_then(place_of);
        gaps.retain(|gap| Some(gap.last) >= newest);
        if !gaps.is_empty() {
            newest = newest.max(self.backup_starts().max());
            gaps.retain(|gap| Some(gap.last) >= newest);
        }
        (gaps, newest)
    }

    fn tell_gap(&self, gap: &Gap) {
        let (first, last) = (gap.first.on(gap.timeline), gap.last.on(gap.timeline));
        let finding = Finding {
            code: "wal-gap",
            repository: None,
            message: format!(
                "WAL of system {} is missing in every repository from {first} to {last}",
                self.system
            ),
            hint: Some(
                "Take a base backup now with `pgbak base-backup`; times in the gap cannot be restored."
                    .into(),
            ),
        };
        self.round.told().findings.push(finding);
    }

    /// Timelines of which there are segments, but no history anywhere.
    fn tell_missing_histories(&self, union: &BTreeSet<WalFileName>) -> BTreeSet<Timeline> {
        let timelines: BTreeSet<Timeline> = self.logs.keys().map(|log| log.timeline).collect();
        let lacks = |timeline: &Timeline| {
            *timeline != Timeline::FIRST && !union.contains(&WalFileName::History(*timeline))
        };
        let lacking: BTreeSet<Timeline> = timelines.into_iter().filter(lacks).collect();
        for &timeline in &lacking {
            let history = WalFileName::History(timeline);
            self.round.told().findings.push(Finding {
                code: "history-missing",
                repository: None,
                message: format!(
                    "{history} of system {} is in no repository, but segments of its timeline are",
                    self.system
                ),
                hint: Some(format!(
                    "Archive it from the server that wrote it: `pgbak wal-push pg_wal/{history}` in its data directory."
                )),
            });
        }
        lacking
    }

    /// The size of this system's segments: as remembered, else as a segment says.
    fn segment_size(&self) -> Option<SegmentSize> {
        let remembered = self.memory.segment_bytes.and_then(SegmentSize::from_bytes);
        let ask = || {
            for number in self.readable() {
                let segments: Vec<_> = {
                    let progress = self.progress();
                    let names = progress.holdings[number].keys();
                    let segments = names.filter(|name| matches!(name, WalFileName::Segment(_)));
                    segments.take(SEGMENTS_TRIED).cloned().collect()
                };
                let repository = self.round.members[number].repository;
                let found = segments
                    .iter()
                    .find_map(|name| repository.segment_size_in(self.system, name).ok().flatten());
                if found.is_some() {
                    return found;
                }
            }
            None
        };
        remembered.or_else(ask)
    }

    /// The log directories that need not be listed again as long as nobody changes them.
    fn settle(
        &self,
        union: &BTreeSet<WalFileName>,
        lacking: &BTreeMap<usize, Vec<WalFileName>>,
        gaps: &[Gap],
        unexplained: &BTreeSet<Timeline>,
    ) -> BTreeMap<String, Settled> {
        let unlisted = self.logs.iter().filter(|(_, found)| !found.is_listed);
        let keep = |log: &LogDirectory| self.memory.settled.get_key_value(&log.to_string());
        let kept =
            unlisted.filter_map(|(log, _)| keep(log)).map(|(log, settled)| (log.clone(), settled.clone()));
        let mut all: BTreeMap<String, Settled> = kept.collect();
        if self.readable().len() < self.round.members.len() || self.round.told().has_lost_source() {
            return all;
        }
        let in_gap = |log: &LogDirectory| {
            gaps.iter().any(|gap| {
                gap.timeline == log.timeline && gap.first.log() <= log.log && log.log <= gap.last.log()
            })
        };
        let not_collected: BTreeSet<_> = {
            let progress = self.progress();
            let names = progress.not_collected.keys().chain(&progress.not_wal);
            names.filter_map(LogDirectory::of).collect()
        };
        let open: BTreeSet<_> = lacking.values().flatten().filter_map(LogDirectory::of).collect();
        let can_settle = |log: &LogDirectory, found: &Log| {
            found.is_listed
                && !found.is_newest
                && !in_gap(log)
                && !not_collected.contains(log)
                && !open.contains(log)
                && !unexplained.contains(&log.timeline)
        };
        let mut settled: BTreeMap<LogDirectory, Log> = self
            .logs
            .iter()
            .filter(|(log, found)| can_settle(log, found))
            .map(|(log, found)| (*log, found.clone()))
            .collect();
        self.look_again(&mut settled);
        for (log, found) in settled {
            let run = self.run_in(union, log);
            let Log { changed_at, source, .. } = found;
            all.insert(log.to_string(), Settled { changed_at, run, source });
        }
        all
    }

    fn run_in(&self, union: &BTreeSet<WalFileName>, log: LogDirectory) -> Option<[String; 2]> {
        let from = log.first_place().on(log.timeline);
        let in_log = union.range(from..).take_while(|name| LogDirectory::of(name) == Some(log));
        let mut segments = in_log.filter(|name| matches!(name, WalFileName::Segment(_)));
        let first = segments.next()?;
        let last = segments.last().unwrap_or(first);
        Some([first.to_string(), last.to_string()])
    }

    /// What this round wrote has changed the directories: how they look now is what to remember, if it is all there.
    fn look_again(&self, settled: &mut BTreeMap<LogDirectory, Log>) {
        let mut wanted: Vec<(usize, LogDirectory)> = Vec::new();
        for (number, member) in self.round.members.iter().enumerate() {
            let touched = self.progress().touched[number].clone();
            let logs: Vec<_> = touched.into_iter().filter(|log| settled.contains_key(log)).collect();
            if logs.is_empty() {
                continue;
            }
            // Before the directories are listed: what is added meanwhile changes the time again.
            let now = member.repository.wal_directories(self.system).unwrap_or_default();
            for log in logs {
                if let Some(found) = settled.get_mut(&log) {
                    found.changed_at[number] = now.logs.get(&log).copied();
                }
                wanted.push((number, log));
            }
        }
        let unsettled = std::sync::Mutex::new(BTreeSet::new());
        parallel::each(&wanted, |&(number, log)| {
            let listed = self.round.members[number].repository.wal_files(self.system, log);
            let progress = self.progress();
            let expected =
                progress.holdings[number].keys().filter(|name| LogDirectory::of(name) == Some(log));
            let is_same = listed.is_ok_and(|listed| listed.keys().eq(expected));
            if !is_same {
                unsettled.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(log);
            }
        });
        let unsettled = unsettled.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        settled.retain(|log, _| !unsettled.contains(log));
    }
}

fn run_of(settled: &Settled) -> Option<Run> {
    let [first, last] = settled.run.as_ref()?;
    Some((place_of(first)?, place_of(last)?))
}

fn place_of(name: &str) -> Option<SegmentPlace> {
    WalFileName::parse(name).ok()?.place()
}

/// Whether `name` comes right behind `before`, as the next segment or as a file of the same one.
fn is_next(before: &WalFileName, name: &WalFileName, size: SegmentSize) -> bool {
    match (before.place(), name.place()) {
        (Some(one), Some(other)) if before.timeline() == name.timeline() => {
            one == other || one.next(size) == other
        }
        _ => false,
    }
}
