//! What can be restored: from where to where, along every timeline.
//!
//! An interval begins where a backup stopped and ends with the contiguous WAL after it. It is exactly what
//! [`recovery::plan`](super::recovery::plan) accepts, and a property test ties the two together: a location is
//! inside an interval of a timeline if and only if there is a plan for it along that timeline.
//!
//! What always holds of the result: intervals of one timeline are ordered, and neither overlap nor touch. Those of two
//! timelines may share what both have in common: the interval of a timeline begins on the ancestor that the backup was
//! taken on, and the ancestor has one of its own, which goes on into the branch that was left.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use crate::catalog::wal::Interval;
use crate::catalog::{BackupInfo, BackupName, Catalog, WalArchive};
use crate::pg::history::TimelineHistory;
use crate::pg::{Lsn, SystemIdentifier, Timeline};

/// What can be restored along one timeline without a break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverableInterval {
    pub system_identifier: SystemIdentifier,
    /// The timeline that recovery follows to its target.
    pub timeline: Timeline,
    /// The oldest one with which a restore into the interval can begin.
    pub backup: BackupName,
    /// Where that backup stopped: the first location that can be a target.
    pub from_lsn: Lsn,
    /// When it stopped.
    pub from_at: DateTime<Utc>,
    /// The first location that can be no target any more. Where it is `from_lsn`, no WAL was archived after the
    /// backup, and it can be restored only as it is (`--target-immediate`).
    pub to_lsn: Lsn,
    /// When the last contiguous segment was stored: all that it holds was committed before. `None` when there is
    /// only the backup's own WAL.
    pub to_at: Option<DateTime<Utc>>,
}

/// All of them, by cluster, timeline and location.
pub fn intervals(catalog: &Catalog) -> Vec<RecoverableInterval> {
    catalog.system_identifiers().into_iter().flat_map(|system| of_system(catalog, system)).collect()
}

fn of_system(catalog: &Catalog, system: SystemIdentifier) -> Vec<RecoverableInterval> {
    let archive = catalog.archive(system);
    let backups: Vec<&BackupInfo> = catalog.backups_of(system).collect();
    let with_history = archive.into_iter().flat_map(|archive| archive.histories().keys().copied());
    let timelines: BTreeSet<Timeline> =
        with_history.chain(backups.iter().map(|backup| backup.timeline)).collect();
    let histories = timelines.into_iter().filter_map(|timeline| history(archive, timeline));
    histories.flat_map(|history| along(&history, &backups, archive)).collect()
}

/// A timeline without a file has no ancestors; `None` when there is one that cannot be read.
fn history(archive: Option<&WalArchive>, timeline: Timeline) -> Option<TimelineHistory> {
    match archive.and_then(|archive| archive.histories().get(&timeline)) {
        Some(history) => history.clone().ok(),
        None => Some(TimelineHistory::of(timeline)),
    }
}

fn along(
    history: &TimelineHistory,
    backups: &[&BackupInfo],
    archive: Option<&WalArchive>,
) -> Vec<RecoverableInterval> {
    let is_on = |backup: &&&BackupInfo| history.contains(backup.timeline, backup.stop_lsn);
    let mut on_history: Vec<&BackupInfo> = backups.iter().filter(is_on).copied().collect();
    on_history.sort_by_key(|backup| (backup.stop_lsn, backup.started_at));
    let mut intervals: Vec<RecoverableInterval> = Vec::new();
    for backup in on_history {
        match intervals.last() {
            // The WAL behind the older backup went on past this one, and so it ends where this one's would.
            Some(last) if backup.stop_lsn <= last.to_lsn => {}
            _ => intervals.push(from_backup(backup, history, archive)),
        }
    }
    intervals
}

fn from_backup(
    backup: &BackupInfo,
    history: &TimelineHistory,
    archive: Option<&WalArchive>,
) -> RecoverableInterval {
    let (to_lsn, to_at) = reach(backup, history, archive);
    RecoverableInterval {
        system_identifier: backup.system_identifier,
        timeline: history.timeline(),
        backup: backup.name,
        from_lsn: backup.stop_lsn,
        from_at: backup.stopped_at,
        to_lsn,
        to_at,
    }
}

fn reach(
    backup: &BackupInfo,
    history: &TimelineHistory,
    archive: Option<&WalArchive>,
) -> (Lsn, Option<DateTime<Utc>>) {
    let Some(archive) = archive else { return (backup.stop_lsn, None) };
    let end = archive.contiguous_from(backup.stop_lsn, history);
    let Some(stray) = end.stray else { return (end.lsn, end.last_stored_at) };
    // Once PostgreSQL has opened that segment, nothing keeps it from reading into the abandoned branch.
    let shared = stray.start(archive.segment_size()).max(backup.stop_lsn);
    let read_before = |interval: &&Interval| {
        interval.first.number < stray.number && stray.number <= interval.last.number + 1
    };
    let stored_at = history.spans().flat_map(|span| archive.intervals(span.timeline)).filter(read_before);
    let stored_at = stored_at.map(|interval| interval.last_stored_at).min();
    (shared, stored_at.filter(|_| backup.stop_lsn < shared))
}
