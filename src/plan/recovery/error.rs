//! Why a restore cannot be promised, and what can be.

use chrono::{DateTime, Utc};

use super::target::shown;
use crate::catalog::BackupName;
use crate::pg::{Lsn, SystemIdentifier, Timeline};

/// Messages are lower case, without a final period; what to do about it is in [`RecoveryError::hint`]. A target is
/// held in words, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    #[error("cannot recover to this target: {reason}")]
    InvalidTarget { reason: String },

    #[error("the target time {} lies in the future (it is {})", shown(*.time), shown(*.now))]
    TargetInFuture { time: DateTime<Utc>, now: DateTime<Utc> },

    #[error("there is no backup to restore")]
    NoBackup { damaged: usize },

    #[error("there is no backup named \"{name}\"")]
    UnknownBackup { name: String, newest: Option<BackupName> },

    #[error("{name} cannot be restored: {reason}")]
    DamagedBackup { name: String, reason: String, hint: Option<String>, newest: Option<BackupName> },

    #[error("the archive of system {system_identifier} has no history of timeline {timeline}")]
    UnknownTimeline { timeline: Timeline, system_identifier: SystemIdentifier, known: Vec<Timeline> },

    #[error("the history of timeline {timeline} in the archive cannot be used: {reason}")]
    UnreadableHistory { timeline: Timeline, reason: String },

    #[error(
        "{backup}, which stopped at {stop_lsn} on timeline {backup_timeline}, is not on the history of timeline \
         {timeline}, which {}",
        left(*.switch_lsn, *.backup_timeline)
    )]
    NotOnTimeline {
        backup: BackupName,
        backup_timeline: Timeline,
        stop_lsn: Lsn,
        timeline: Timeline,
        /// Where the history leaves the backup's timeline; `None` when it never was on it.
        switch_lsn: Option<Lsn>,
        /// A backup that is on it.
        instead: Option<BackupName>,
    },

    #[error("no backup of system {system_identifier} stopped before the target, {target}")]
    TargetTooEarly {
        target: String,
        system_identifier: SystemIdentifier,
        earliest: Earliest,
        /// A backup of another system that did, as there is one from before a `pg_upgrade`.
        elsewhere: Option<BackupName>,
    },

    #[error("{backup} stopped at {} ({stop_lsn}), after the target, {target}", shown(*.stopped_at))]
    BackupTooLate {
        backup: BackupName,
        stopped_at: DateTime<Utc>,
        stop_lsn: Lsn,
        target: String,
        /// The backup that would do.
        instead: Option<BackupName>,
        earliest: Earliest,
    },

    #[error(
        "cannot restore {backup} to {target}: no WAL after the backup, which stopped at {stop_lsn}, is archived"
    )]
    NothingArchived { backup: BackupName, target: String, stop_lsn: Lsn },

    #[error(
        "cannot restore {backup} to {target}: WAL segment {missing} is missing from the archive, which is \
         contiguous up to {until}"
    )]
    WalMissing {
        backup: BackupName,
        target: String,
        missing: String,
        until: Lsn,
        /// The last location that recovery is certain to reach; `None` when that is where the backup stopped.
        reachable: Option<Lsn>,
        /// Whether the archive has a beginning of the segment, as `.partial` or in parts.
        is_partial: bool,
    },

    #[error(
        "cannot restore {backup} to {target}: WAL segment {missing} is missing from the archive, and PostgreSQL \
         would read {stray} in its place, past {until}, where the history leaves that timeline"
    )]
    WalOfOtherBranch {
        backup: BackupName,
        target: String,
        missing: String,
        stray: String,
        until: Lsn,
        reachable: Option<Lsn>,
    },
}

/// What can be restored at the earliest, in the terms of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earliest {
    Time(DateTime<Utc>),
    /// Any instant after this one.
    After(DateTime<Utc>),
    Lsn(Lsn),
}

impl RecoveryError {
    /// The same, now that a backup is known that is on the timeline.
    pub(super) fn with_instead(mut self, known: Option<BackupName>) -> Self {
        if let Self::NotOnTimeline { instead, .. } = &mut self {
            *instead = known;
        }
        self
    }

    /// What the user can do about it: one or more full sentences.
    pub fn hint(&self) -> Option<String> {
        let newest = |newest: &Option<BackupName>| {
            newest.map(|name| format!("The newest backup is {name}; `pgbak status` lists all of them."))
        };
        match self {
            Self::InvalidTarget { .. } => None,
            Self::TargetInFuture { .. } => Some(
                "Check its offset and this machine's clock. Without a target, all archived WAL is replayed."
                    .to_owned(),
            ),
            Self::NoBackup { damaged: 0 } => Some("Take one with `pgbak base-backup`.".to_owned()),
            Self::NoBackup { damaged } => {
                Some(format!("There are {damaged} that are damaged; `pgbak status` says why."))
            }
            Self::DamagedBackup { hint: Some(hint), .. } => Some(hint.clone()),
            Self::UnknownBackup { newest: name, .. } | Self::DamagedBackup { newest: name, .. } => {
                newest(name)
            }
            Self::UnknownTimeline { known, .. } => {
                let known: Vec<String> = known.iter().map(Timeline::to_string).collect();
                Some(format!("Timelines that can be restored: {}.", known.join(", ")))
            }
            Self::UnreadableHistory { timeline, .. } => Some(format!(
                "Put a whole {:08X}.history back, from the server's pg_wal or another repository; or restore along \
                 another timeline with `--target-timeline`.",
                timeline.get()
            )),
            Self::NotOnTimeline { instead, .. } => Some(match instead {
                Some(name) => format!(
                    "Restore {name}, which is on it, or restore along the backup's own timeline with \
                     `--target-timeline current`."
                ),
                None => {
                    "Restore along the backup's own timeline with `--target-timeline current`.".to_owned()
                }
            }),
            Self::TargetTooEarly { earliest, elsewhere, .. } => {
                let elsewhere = elsewhere.map(|name| {
                    format!(" A backup of another system did: restore it with `--backup {name}`.")
                });
                Some(format!("{}{}", earliest.sentence(), elsewhere.unwrap_or_default()))
            }
            Self::BackupTooLate { instead: Some(name), .. } => {
                Some(format!("Restore {name}, which stopped before the target: `--backup {name}`."))
            }
            Self::BackupTooLate { earliest, .. } => Some(earliest.sentence()),
            Self::NothingArchived { backup, .. } => Some(instead_of_the_target(*backup, None)),
            Self::WalMissing { backup, missing, reachable, is_partial, .. } => {
                let partial = is_partial.then(|| format!(" Only a beginning of {missing} is there."));
                Some(instead_of_the_target(*backup, *reachable) + &partial.unwrap_or_default())
            }
            Self::WalOfOtherBranch { backup, reachable, .. } => {
                Some(instead_of_the_target(*backup, *reachable))
            }
        }
    }
}

impl Earliest {
    fn sentence(self) -> String {
        match self {
            Self::Time(time) => format!("The earliest restorable time is {}.", shown(time)),
            Self::After(time) => format!("Only times after {} can be restored.", shown(time)),
            Self::Lsn(lsn) => format!("The earliest restorable location is {lsn}."),
        }
    }
}

fn instead_of_the_target(backup: BackupName, reachable: Option<Lsn>) -> String {
    match reachable {
        Some(lsn) => format!(
            "Restore with `--target-lsn {lsn}`, the last location that recovery is certain to reach before it."
        ),
        None => format!(
            "Restore the backup as it was when it stopped with `--backup {backup} --target-immediate`."
        ),
    }
}

fn left(switch_lsn: Option<Lsn>, from: Timeline) -> String {
    match switch_lsn {
        Some(lsn) => format!("left timeline {from} at {lsn}"),
        None => format!("never was on timeline {from}"),
    }
}
