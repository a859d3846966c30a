//! Worlds in which something is to be deleted; they are those of the recovery planner, who says what is left of them.

mod promises;
mod stories;

use std::collections::BTreeSet;

use super::*;
use crate::catalog::wal::StoredAs;
use crate::catalog::{BackupInfo, WalArchive};
use crate::pg::history::TimelineHistory;
use crate::plan::recovery::tests::World;

/// Keeps nothing by itself.
fn nothing() -> Policy {
    Policy {
        keep_last: 0,
        keep_within: None,
        keep_daily: 0,
        keep_weekly: 0,
        keep_monthly: 0,
        pitr_window: None,
    }
}

fn keep_last(count: u32) -> Policy {
    Policy { keep_last: count, ..nothing() }
}

/// All is well, and nobody is at work.
fn situation(catalog: &Catalog, now: DateTime<Utc>) -> Situation<'_> {
    Situation {
        catalog,
        cluster: None,
        damage: BTreeMap::new(),
        in_use: BTreeMap::new(),
        leftovers: Vec::new(),
        newest_object_at: Some(now),
        now,
    }
}

/// What is left of a catalog when the plan has been carried out.
fn after(catalog: &Catalog, plan: &RetentionPlan) -> Catalog {
    let deleted: BTreeSet<BackupName> =
        plan.backups.iter().filter(|backup| backup.verdict.deletes()).map(|backup| backup.name).collect();
    let backups = catalog.backups().iter().filter(|backup| !deleted.contains(&backup.name));
    let backups: Vec<BackupInfo> = backups.cloned().collect();
    let archives = catalog.archives().iter().map(|(&system, archive)| {
        let mut left = WalArchive::new(archive.segment_size());
        let mut add = |name: String, stored: StoredAs| {
            let name = WalFileName::parse(&name).unwrap();
            if !plan.deletes_wal(system, &name) {
                left.add(&name, stored);
            }
        };
        for segment in segments(archive) {
            let intervals = || archive.intervals(segment.timeline);
            let interval = intervals()
                .find(|interval| (interval.first.number..=interval.last.number).contains(&segment.number));
            let stored = StoredAs { size_bytes: 1, stored_at: interval.unwrap().last_stored_at };
            add(segment.file_name(archive.segment_size()).to_string(), stored);
        }
        for (partial, stored) in archive.partials() {
            add(format!("{}.partial", partial.file_name(archive.segment_size())), *stored);
        }
        for note in archive.backup_notes() {
            add(note.clone(), StoredAs { size_bytes: 1, stored_at: DateTime::UNIX_EPOCH });
        }
        for (timeline, history) in archive.histories() {
            left.add_history(*timeline, content_of(history.as_ref().unwrap()).as_bytes());
        }
        (system, left)
    });
    Catalog::new(backups, Vec::new(), archives.collect())
}

fn content_of(history: &TimelineHistory) -> String {
    let lines = history.ancestors().iter();
    lines.map(|line| format!("{}\t{}\n", line.timeline, line.switch_lsn)).collect()
}

/// Every whole segment.
fn segments(archive: &WalArchive) -> Vec<SegmentName> {
    let timelines = archive.timelines();
    let intervals = timelines.iter().flat_map(|timeline| archive.intervals(*timeline));
    let numbers = |interval: &crate::catalog::wal::Interval| {
        let first = interval.first;
        (first.number..=interval.last.number).map(move |number| SegmentName { number, ..first })
    };
    intervals.flat_map(numbers).collect()
}

fn kept(plan: &RetentionPlan) -> Vec<BackupName> {
    let kept = plan.backups.iter().filter(|backup| !backup.verdict.deletes());
    kept.map(|backup| backup.name).collect()
}

/// The numbers of the segments of timeline `tli` that the plan keeps.
fn kept_segments(world: &World, plan: &RetentionPlan, tli: u32) -> Vec<u64> {
    let catalog = after(&world.catalog(), plan);
    let archive = catalog.archives().values().next().unwrap();
    let of_timeline = segments(archive).into_iter().filter(|segment| segment.timeline.get() == tli);
    of_timeline.map(|segment| segment.number).collect()
}
