//! Which backup is restored, along which timeline, and whether the target can be reached: proven before a restore
//! writes its first byte.
//!
//! PostgreSQL finds out late, or never, that it cannot do what it was asked. It stops as soon as it is consistent
//! if the target is earlier; it takes a segment that is not there for the end of recovery, and promotes; and it
//! reads an abandoned branch if nothing better is archived. So a plan promises, and the property tests hold it
//! to that:
//! * **The backup is before the target.** It is whole, stopped at or before the target, and lies on the history of
//!   the target's timeline: that history does not leave the backup's timeline before the backup stopped.
//! * **The WAL is contiguous.** A backup brings the WAL from its start to its stop. From there on the archive has
//!   every segment up to the target's, along the history and across its switch points. Where the target's position
//!   in the WAL is not known beforehand, which is so for a time, a transaction and a restore point, no segment
//!   is missing up to the newest one of the history, unless a backup shows that the target lies before the gap.
//! * **What was proven is what happens.** The settings name the timeline by its number: PostgreSQL's `latest` may
//!   mean another one by the time the server starts.
//!
//! What remains open goes into the notes. PostgreSQL itself fails if it does not meet its target in the WAL.

mod error;
mod notes;
mod target;
#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

pub use error::{Earliest, RecoveryError};
pub use target::{SignalFile, Target, TargetAction, TargetTimeline};

use crate::catalog::backup::BackupSource;
use crate::catalog::wal::CoverageEnd;
use crate::catalog::{BackupInfo, BackupName, Catalog, DamagedBackup, WalArchive};
use crate::pg::history::TimelineHistory;
use crate::pg::{Lsn, SystemIdentifier, Timeline};
use target::settings;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryRequest {
    /// A backup's name; `None` is the newest that reaches the target.
    pub backup: Option<String>,
    pub target: Target,
    /// Stop just before the target instead of just after it.
    pub exclusive: bool,
    pub timeline: TargetTimeline,
    pub action: TargetAction,
    pub standby: bool,
}

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryPlan {
    pub backup: BackupName,
    pub system_identifier: SystemIdentifier,
    /// The target's timeline and its ancestors.
    pub history: TimelineHistory,
    /// The archived WAL that recovery can read; `None` when the backup brings all there is, or all that is needed.
    pub wal: Option<WalRange>,
    /// For `postgresql.auto.conf`; `restore_command` comes from whoever knows this binary's path.
    pub settings: Vec<(&'static str, String)>,
    pub signal: SignalFile,
    /// What the operator should know, in sentences; not failures.
    pub notes: Vec<String>,
}

/// From where the backup stopped to the end of the contiguous WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    pub from: Lsn,
    pub to: Lsn,
}

/// Decides how `request` is fulfilled from what `catalog` holds, or says why it cannot be.
pub fn plan(
    catalog: &Catalog,
    request: &RecoveryRequest,
    now: DateTime<Utc>,
) -> Result<RecoveryPlan, RecoveryError> {
    request.target.check(now)?;
    let planner = Planner::new(catalog, request)?;
    let candidates = match planner.named {
        Some(backup) => vec![planner.named_candidate(backup)?],
        None => planner.best_first(planner.on_history()?)?,
    };
    let mut refused = None;
    for candidate in candidates {
        match planner.prove(&candidate) {
            Ok(reach) => return Ok(planner.finish(candidate, &reach)),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.expect("there is at least one candidate"))
}

struct Planner<'a> {
    catalog: &'a Catalog,
    request: &'a RecoveryRequest,
    system_identifier: SystemIdentifier,
    /// Of that system, oldest first.
    backups: Vec<&'a BackupInfo>,
    /// The one that was asked for by name.
    named: Option<&'a BackupInfo>,
    archive: Option<&'a WalArchive>,
}

/// A backup, and the history along which it would be recovered.
struct Candidate<'a> {
    backup: &'a BackupInfo,
    history: TimelineHistory,
}

/// How far recovery of a backup can go without leaving its history.
struct Reach {
    lsn: Lsn,
    /// What the archive says about the WAL after the backup; `None` when it has none at all.
    coverage: Option<CoverageEnd>,
}

/// Choosing the backup and the history.
impl<'a> Planner<'a> {
    fn new(catalog: &'a Catalog, request: &'a RecoveryRequest) -> Result<Self, RecoveryError> {
        let named = request.backup.as_deref().map(|name| find(catalog, name)).transpose()?;
        let damaged = catalog.damaged().len();
        let chosen = named.or(catalog.newest_backup()).ok_or(RecoveryError::NoBackup { damaged })?;
        let system_identifier = chosen.system_identifier;
        Ok(Self {
            catalog,
            request,
            system_identifier,
            backups: catalog.backups_of(system_identifier).collect(),
            named,
            archive: catalog.archive(system_identifier),
        })
    }

    /// What the archive knows of `timeline`; PostgreSQL takes one without a file for one without ancestors.
    fn history(&self, timeline: Timeline) -> Result<TimelineHistory, RecoveryError> {
        match self.archive.and_then(|archive| archive.histories().get(&timeline)) {
            Some(Ok(history)) => Ok(history.clone()),
            Some(Err(reason)) => Err(RecoveryError::UnreadableHistory { timeline, reason: reason.clone() }),
            None => Ok(TimelineHistory::of(timeline)),
        }
    }

    /// The timelines of which there is a history, or a backup.
    fn known_timelines(&self) -> BTreeSet<Timeline> {
        let of_archive = self.archive.into_iter().flat_map(|archive| archive.histories().keys().copied());
        of_archive.chain(self.backups.iter().map(|backup| backup.timeline)).collect()
    }

    /// The history that a restore of `backup` is asked to follow.
    fn history_for(&self, backup: &BackupInfo) -> Result<TimelineHistory, RecoveryError> {
        let known = self.known_timelines();
        match self.request.timeline {
            // A named backup that goes nowhere beyond its stop needs no other timeline than its own.
            TargetTimeline::Latest if self.named.is_some() && self.request.target == Target::Immediate => {
                self.history(backup.timeline)
            }
            TargetTimeline::Latest => self.history(known.last().copied().unwrap_or(backup.timeline)),
            TargetTimeline::Current => self.history(backup.timeline),
            TargetTimeline::Number(timeline) if known.contains(&timeline) => self.history(timeline),
            TargetTimeline::Number(timeline) => Err(RecoveryError::UnknownTimeline {
                timeline,
                system_identifier: self.system_identifier,
                known: known.into_iter().collect(),
            }),
        }
    }

    /// `backup`, if the asked-for history passes through it.
    fn candidate(&self, backup: &'a BackupInfo) -> Result<Candidate<'a>, RecoveryError> {
        let history = self.history_for(backup)?;
        if !history.contains(backup.timeline, backup.stop_lsn) {
            return Err(RecoveryError::NotOnTimeline {
                backup: backup.name,
                backup_timeline: backup.timeline,
                stop_lsn: backup.stop_lsn,
                timeline: history.timeline(),
                switch_lsn: history.switch_point(backup.timeline),
                instead: None,
            });
        }
        let goes_no_further = self.request.target == Target::Immediate;
        let history = if goes_no_further { self.history(backup.timeline)? } else { history };
        Ok(Candidate { backup, history })
    }

    /// The backups that the asked-for history passes through, oldest first; never none.
    fn on_history(&self) -> Result<Vec<Candidate<'a>>, RecoveryError> {
        let mut on_history = Vec::new();
        let mut error = None;
        for &backup in &self.backups {
            match self.candidate(backup) {
                Ok(candidate) => on_history.push(candidate),
                Err(newest) => error = Some(newest),
            }
        }
        match error {
            Some(error) if on_history.is_empty() => Err(error),
            _ => Ok(on_history),
        }
    }

    /// Witnesses of how far a history goes, and when it was where.
    fn backups_on<'b>(&'b self, history: &'b TimelineHistory) -> impl Iterator<Item = &'b BackupInfo> {
        let is_on = |backup: &&BackupInfo| history.contains(backup.timeline, backup.stop_lsn);
        self.backups.iter().copied().filter(is_on)
    }

    fn is_before_target(&self, backup: &BackupInfo) -> bool {
        self.request.target.is_after(backup, self.request.exclusive)
    }

    /// Those that stopped before the target, best first, never none: the newest, but those with damaged pages last.
    fn best_first(&self, on_history: Vec<Candidate<'a>>) -> Result<Vec<Candidate<'a>>, RecoveryError> {
        let earliest = self.earliest(&on_history);
        let mut candidates = on_history;
        candidates.retain(|candidate| self.is_before_target(candidate.backup));
        candidates.reverse();
        candidates.sort_by_key(|candidate| !candidate.backup.damaged_pages.is_empty());
        if !candidates.is_empty() {
            return Ok(candidates);
        }
        // Locations of different clusters cannot be compared, times can.
        let comparable = matches!(self.request.target, Target::Time(_));
        let of_another = |backup: &&BackupInfo| backup.system_identifier != self.system_identifier;
        let mut elsewhere = self.catalog.backups().iter().rev().filter(of_another);
        let elsewhere = elsewhere.find(|backup| comparable && self.is_before_target(backup));
        Err(RecoveryError::TargetTooEarly {
            target: self.request.target.to_string(),
            system_identifier: self.system_identifier,
            earliest,
            elsewhere: elsewhere.map(|backup| backup.name),
        })
    }

    fn earliest(&self, on_history: &[Candidate<'_>]) -> Earliest {
        let backups = || on_history.iter().map(|candidate| candidate.backup);
        let lsn = backups().map(|backup| backup.stop_lsn).min().expect("at least one is on the history");
        let time = backups().map(|backup| backup.stopped_at).min().expect("at least one is on the history");
        match self.request.target {
            Target::Lsn(_) => Earliest::Lsn(lsn),
            _ if self.request.exclusive => Earliest::After(time),
            _ => Earliest::Time(time),
        }
    }

    /// The named backup, if it is on the target's timeline and before the target; else what would be.
    fn named_candidate(&self, backup: &'a BackupInfo) -> Result<Candidate<'a>, RecoveryError> {
        let best = || {
            let candidates = self.on_history().and_then(|on_history| self.best_first(on_history)).ok()?;
            Some(candidates.first()?.backup.name)
        };
        let candidate = self.candidate(backup).map_err(|error| error.with_instead(best()))?;
        if self.is_before_target(backup) {
            return Ok(candidate);
        }
        Err(RecoveryError::BackupTooLate {
            backup: backup.name,
            stopped_at: backup.stopped_at,
            stop_lsn: backup.stop_lsn,
            target: self.request.target.to_string(),
            instead: best(),
            earliest: self.earliest(&self.on_history()?),
        })
    }
}

/// Proving that the target can be reached.
impl Planner<'_> {
    fn reach(&self, Candidate { backup, history }: &Candidate<'_>) -> Reach {
        let Some(archive) = self.archive else {
            return Reach { lsn: backup.stop_lsn, coverage: None };
        };
        let coverage = archive.contiguous_from(backup.stop_lsn, history);
        let lsn = match coverage.stray {
            // Once PostgreSQL has opened that segment, nothing keeps it from reading too far.
            Some(stray) => stray.start(archive.segment_size()).max(backup.stop_lsn),
            None => coverage.lsn,
        };
        Reach { lsn, coverage: Some(coverage) }
    }

    /// How far recovery gets, if that is certain to be far enough, or not certain not to be.
    fn prove(&self, candidate: &Candidate<'_>) -> Result<Reach, RecoveryError> {
        let Candidate { backup, history } = candidate;
        let reach = self.reach(candidate);
        let on_history = || self.backups_on(history);
        let is_enough = match &self.request.target {
            Target::Immediate => true,
            // A backup is a witness that the history goes on, and PostgreSQL would not miss the rest.
            Target::End => !reach.has_gap() && on_history().all(|other| other.stop_lsn <= reach.lsn),
            Target::Lsn(lsn) => *lsn < reach.lsn,
            Target::Time(time) => {
                // Whatever is before a backup's stop was committed before it stopped, and on a primary also
                // the other way round.
                let is_beyond =
                    on_history().any(|other| other.stopped_at <= *time && reach.lsn <= other.stop_lsn);
                let is_within = on_history().any(|other| {
                    let knows_all = other.source == BackupSource::Primary;
                    knows_all && *time <= other.stopped_at && other.stop_lsn <= reach.lsn
                });
                !is_beyond && (!reach.has_gap() || is_within && !reach.has_stray())
            }
            Target::Xid(_) | Target::Name(_) => backup.stop_lsn < reach.lsn && !reach.has_gap(),
        };
        if is_enough { Ok(reach) } else { Err(self.out_of_reach(backup, &reach)) }
    }

    fn out_of_reach(&self, backup: &BackupInfo, reach: &Reach) -> RecoveryError {
        let (name, target, stop_lsn) = (backup.name, self.request.target.to_string(), backup.stop_lsn);
        let Some((archive, end)) = self.archive.zip(reach.coverage) else {
            return RecoveryError::NothingArchived { backup: name, target, stop_lsn };
        };
        let size = archive.segment_size();
        // The last record may begin well before the end, and go on behind it. In the last segment one begins.
        let reachable = reach.lsn.0.checked_sub(size.bytes()).map(Lsn).filter(|lsn| *lsn >= stop_lsn);
        let missing = end.missing.file_name(size).to_string();
        match end {
            CoverageEnd { stray: Some(stray), lsn: until, .. } => {
                let stray = stray.file_name(size).to_string();
                RecoveryError::WalOfOtherBranch { backup: name, target, missing, stray, until, reachable }
            }
            CoverageEnd { last: None, later: None, .. } => {
                RecoveryError::NothingArchived { backup: name, target, stop_lsn }
            }
            CoverageEnd { missing: segment, lsn: until, .. } => {
                let is_partial = archive.partials().contains_key(&segment);
                RecoveryError::WalMissing { backup: name, target, missing, until, reachable, is_partial }
            }
        }
    }
}

impl Reach {
    /// Whether the archive has WAL of the history behind what is missing, or WAL that only looks like it.
    fn has_gap(&self) -> bool {
        self.has_stray() || self.coverage.is_some_and(|end| end.later.is_some())
    }

    fn has_stray(&self) -> bool {
        self.coverage.is_some_and(|end| end.stray.is_some())
    }
}

/// Writing the plan down.
impl<'a> Planner<'a> {
    fn finish(&self, candidate: Candidate<'a>, reach: &Reach) -> RecoveryPlan {
        let notes = self.notes(&candidate, reach);
        let Candidate { backup, history } = candidate;
        let mut settings = settings(self.request, self.target_timeline(&history));
        settings.extend(without_reading_ahead(self.request, backup, reach));
        let reads_on = self.request.target != Target::Immediate && backup.stop_lsn < reach.lsn;
        RecoveryPlan {
            backup: backup.name,
            system_identifier: self.system_identifier,
            wal: reads_on.then_some(WalRange { from: backup.stop_lsn, to: reach.lsn }),
            settings,
            signal: if self.request.standby { SignalFile::Standby } else { SignalFile::Recovery },
            history,
            notes,
        }
    }

    /// The target's timeline in PostgreSQL's words.
    fn target_timeline(&self, history: &TimelineHistory) -> String {
        let RecoveryRequest { target, timeline, standby, .. } = self.request;
        let number = history.timeline();
        let has_file = self.archive.is_some_and(|archive| archive.histories().contains_key(&number));
        // Only a standby that follows its primary for good may move on to timelines that are not there yet.
        if *standby && *target == Target::End && *timeline == TargetTimeline::Latest {
            return "latest".to_owned();
        }
        // PostgreSQL refuses a number without a history file, except 1. This is the backup's own timeline, as a
        // history without ancestors passes through no other.
        match has_file || number == Timeline::FIRST {
            true => number.to_string(),
            false => "current".to_owned(),
        }
    }
}

/// From 15 on, recovery reads ahead of what it replays. Close to the end of the contiguous WAL it would ask for the
/// segment after the target's, which may be the one that is missing, before it has come to the target.
fn without_reading_ahead(
    request: &RecoveryRequest,
    backup: &BackupInfo,
    reach: &Reach,
) -> Option<(&'static str, String)> {
    let target = match request.target {
        Target::Lsn(lsn) => lsn,
        // Behind a backup that is older than the window, WAL is missing on purpose.
        Target::Immediate => backup.stop_lsn,
        // Nobody knows how close.
        Target::Time(_) if reach.has_gap() => reach.lsn,
        _ => return None,
    };
    let is_close = reach.lsn.0.saturating_sub(target.0) <= backup.wal_segment_size.bytes();
    (is_close && backup.server_version.major() >= 15).then(|| ("recovery_prefetch", "off".to_owned()))
}

/// The backup of that name, which must be a usable one.
fn find<'a>(catalog: &'a Catalog, name: &str) -> Result<&'a BackupInfo, RecoveryError> {
    if let Some(backup) = name.parse().ok().and_then(|name| catalog.backup(name)) {
        return Ok(backup);
    }
    let (newest, name) = (catalog.newest_backup().map(|newest| newest.name), name.to_owned());
    Err(match catalog.damaged().iter().find(|damaged| damaged.name == name) {
        Some(DamagedBackup { reason, hint, .. }) => {
            RecoveryError::DamagedBackup { name, reason: reason.clone(), hint: hint.clone(), newest }
        }
        None => RecoveryError::UnknownBackup { name, newest },
    })
}
