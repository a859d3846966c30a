//! Whether the WAL is contiguous, from each backup to the newest segment of every timeline.
//!
//! From its start to its stop a backup brings its own WAL, which is looked at as a part of the backup. Behind the stop
//! recovery reads the archive, along the history of whichever timeline it is told to follow: so that is how it is
//! looked through here, history by history, from the oldest backup that lies on it. What is older than every backup is
//! of no use, and may be missing.

use std::collections::{BTreeMap, BTreeSet};

use super::problem::{Problem, Subject};
use super::scope::Scope;
use crate::catalog::wal::Gap;
use crate::catalog::{BackupInfo, Catalog, WalArchive};
use crate::pg::history::TimelineHistory;
use crate::pg::{Lsn, SegmentName, SystemIdentifier, Timeline, WalFileName};
use crate::pipe::Codec;
use crate::repo::layout;

pub fn check(catalog: &Catalog, scope: &Scope) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (&system, archive) in catalog.archives() {
        let backups = catalog.backups_of(system).filter(|backup| scope.has_backup(backup.name));
        let backups: Vec<&BackupInfo> = backups.collect();
        let coverage = Coverage { system, archive, backups };
        problems.extend(coverage.gaps());
        problems.extend(coverage.missing_histories());
    }
    problems
}

struct Coverage<'a> {
    system: SystemIdentifier,
    archive: &'a WalArchive,
    backups: Vec<&'a BackupInfo>,
}

impl Coverage<'_> {
    fn gaps(&self) -> Vec<Problem> {
        let mut found = BTreeMap::new();
        let timelines: BTreeSet<Timeline> = self.archive.timelines();
        for timeline in timelines.into_iter().chain(self.backups.iter().map(|backup| backup.timeline)) {
            let history = match self.archive.histories().get(&timeline) {
                Some(Ok(history)) => history.clone(),
                // Told of by itself.
                Some(Err(_)) => continue,
                None => TimelineHistory::of(timeline),
            };
            let on_history = self.backups.iter().filter(|b| history.contains(b.timeline, b.stop_lsn));
            if let Some(from) = on_history.map(|backup| backup.stop_lsn).min() {
                self.along(&history, from, &mut found);
            }
        }
        found.into_values().collect()
    }

    /// Notes every gap on the way from `from` to the end, each by its first segment.
    fn along(&self, history: &TimelineHistory, mut from: Lsn, found: &mut BTreeMap<SegmentName, Problem>) {
        let size = self.archive.segment_size();
        loop {
            let end = self.archive.contiguous_from(from, history);
            if let Some(stray) = end.stray {
                let gap = Gap { first: end.missing, last: end.missing };
                let problem = self.of_gap("wal-of-other-branch", gap).expecting(format!(
                    "{}, which begins with what timeline {} shares with it",
                    end.missing.file_name(size),
                    stray.timeline,
                ));
                let found_here = format!("only {}, of the abandoned branch", stray.file_name(size));
                found.entry(end.missing).or_insert(Problem { found: found_here, ..problem });
            }
            let Some(later) = end.later else { return };
            if end.stray.is_none() {
                let last = SegmentName { number: later.number - 1, ..end.missing };
                let gap = Gap { first: end.missing, last };
                found.entry(end.missing).or_insert_with(|| self.of_gap("wal-missing", gap));
            }
            from = later.start(size);
        }
    }

    fn of_gap(&self, code: &'static str, gap: Gap) -> Problem {
        let size = self.archive.segment_size();
        let name = WalFileName::Segment(gap.first.file_name(size).to_string());
        let key = layout::wal_file(self.system, &name, Codec::None);
        let problem = Problem::new(code, key, Subject::Gap(self.system, gap), "nothing");
        match gap.last.number - gap.first.number {
            0 => problem.expecting("a segment, as there is later WAL"),
            more => problem.expecting(format!(
                "{} segments, up to {}, as there is later WAL",
                more + 1,
                gap.last.file_name(size)
            )),
        }
    }

    /// Without its history a timeline cannot be reached from a backup of an older one.
    fn missing_histories(&self) -> Vec<Problem> {
        let oldest = self.backups.iter().map(|backup| backup.timeline).min();
        let Some(oldest) = oldest else { return Vec::new() };
        let is_missing =
            |timeline: &Timeline| *timeline > oldest && !self.archive.histories().contains_key(timeline);
        let missing = self.archive.timelines().into_iter().filter(is_missing);
        let problem = |timeline| {
            let name = WalFileName::History(timeline);
            let key = layout::wal_file(self.system, &name, Codec::None);
            Problem::new("history-missing", key, Subject::History(self.system, timeline), "nothing")
                .expecting(format!("the history of timeline {timeline}, of which there is WAL"))
        };
        missing.map(problem).collect()
    }
}
