//! When nothing is deleted: the repository is not understood whole, or the clock is not believed.

use chrono::{DateTime, SecondsFormat, Utc};

use super::{DAY, Situation};
use crate::pg::{SystemIdentifier, Timeline};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RetentionError {
    /// It may need any WAL, and be the only good backup.
    #[error("{backup} has a record that cannot be read, so it is not known what it needs: {reason}")]
    UnreadableRecord { backup: String, reason: String, hint: Option<String> },

    #[error(
        "the history of timeline {timeline} of cluster {system} cannot be read, so it is not known which WAL is \
         needed: {reason}"
    )]
    UnreadableHistory { system: SystemIdentifier, timeline: Timeline, reason: String },

    #[error("it holds no good backup ({damaged} damaged), so there is nothing that it could do without")]
    NoGoodBackup { damaged: usize },

    #[error("it holds no backup of the cluster {expected} in the data directory, only of {}", join(.found))]
    ForeignCluster { expected: SystemIdentifier, found: Vec<SystemIdentifier> },

    #[error(
        "the clock says {}, more than a day after its newest object was stored ({})",
        show(*now),
        show(*newest)
    )]
    ClockAhead { now: DateTime<Utc>, newest: DateTime<Utc> },

    #[error(
        "the clock says {}, more than a day before its newest object was stored ({})",
        show(*now),
        show(*newest)
    )]
    ClockBehind { now: DateTime<Utc>, newest: DateTime<Utc> },
}

impl RetentionError {
    /// What the user can do about it: one or more full sentences.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnreadableRecord { hint: Some(hint), .. } => {
                format!("{hint} Nothing is deleted before that.")
            }
            Self::UnreadableRecord { backup, hint: None, .. } => format!(
                "Nothing is deleted until it is clear: delete the directory base-backups/{backup} of this repository, and \
                 bring the backup back from another one that has it with `pgbak base-backup --copy-missing`."
            ),
            Self::UnreadableHistory { system, timeline, .. } => format!(
                "Delete wal-archive/{system}/{:08X}.history of this repository, and archive it again: `pgbak wal-sync` \
                 brings it from another repository, `pgbak wal-push pg_wal/{:08X}.history` from the server.",
                timeline.get(),
                timeline.get()
            ),
            Self::NoGoodBackup { .. } => "Take one with `pgbak base-backup`.".to_owned(),
            Self::ForeignCluster { .. } => {
                "After pg_upgrade or initdb, take a base backup first: `pgbak base-backup`. Else correct \
                 `data_directory` in [postgres], or the repository's place: each cluster needs one of its own."
                    .to_owned()
            }
            Self::ClockAhead { .. } => {
                "Check the clock of this machine with `date`. If it is right, take a base backup first: `pgbak \
                 base-backup && pgbak prune`."
                    .to_owned()
            }
            Self::ClockBehind { .. } => {
                "Check the clock of this machine, and that of the one that holds the repository, with `date`."
                    .to_owned()
            }
        })
    }
}

/// Refuses what cannot be judged.
pub fn guard(situation: &Situation<'_>) -> Result<(), RetentionError> {
    let catalog = situation.catalog;
    if let Some(damaged) = catalog.damaged().first() {
        let (backup, reason) = (damaged.name.clone(), damaged.reason.clone());
        return Err(RetentionError::UnreadableRecord { backup, reason, hint: damaged.hint.clone() });
    }
    for (&system, archive) in catalog.archives() {
        for (&timeline, history) in archive.histories() {
            if let Err(reason) = history {
                let reason = reason.clone();
                return Err(RetentionError::UnreadableHistory { system, timeline, reason });
            }
        }
    }
    if let Some(expected) = situation.cluster
        && !catalog.backups().is_empty()
        && catalog.backups_of(expected).next().is_none()
    {
        let mut found: Vec<_> = catalog.backups().iter().map(|backup| backup.system_identifier).collect();
        found.sort_unstable();
        found.dedup();
        return Err(RetentionError::ForeignCluster { expected, found });
    }
    guard_clock(situation)
}

/// A backup's own times are those of the machine that took it, an object's those of the one that holds it.
fn guard_clock(situation: &Situation<'_>) -> Result<(), RetentionError> {
    let now = situation.now;
    let of_backups =
        situation.catalog.backups().iter().map(|backup| backup.stopped_at.max(backup.started_at));
    let Some(newest) = of_backups.chain(situation.newest_object_at).max() else { return Ok(()) };
    match newest - now {
        ahead if ahead > DAY => Err(RetentionError::ClockBehind { now, newest }),
        ahead if -ahead > DAY => Err(RetentionError::ClockAhead { now, newest }),
        _ => Ok(()),
    }
}

fn show(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, false)
}

fn join(systems: &[SystemIdentifier]) -> String {
    systems.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
