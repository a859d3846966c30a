//! What of one repository is kept and what is deleted, each with its reason. Pure: what was found goes in, verdicts
//! come out, and `--dry-run` prints the very plan that a run carries out.
//!
//! # Backups
//!
//! They are put in order by when they started, of whatever cluster; never by their names. A backup is *good* unless
//! something is known to be wrong with it, and only good ones count where the policy counts:
//! * the newest `keep_last`; every one that ended within `keep_within`; the newest of each of the last `keep_daily`
//!   days, `keep_weekly` weeks and `keep_monthly` months *that have one*: days in UTC, weeks as in ISO 8601, from Monday
//!   on. Where no backup was taken for a month, nothing is deleted for that alone;
//! * whatever the policy says: the newest good one of all, the newest good one of the configured cluster, and the
//!   newest good one from which the cluster's latest timeline can be restored. The last is another one after a
//!   restore to a time before the newest backup;
//! * one that somebody is restoring from;
//! * a damaged one, as long as it is recent, or fewer than `keep_last` good ones are newer.
//!
//! # WAL
//!
//! Without `pitr_window`, all WAL since the oldest kept backup of its cluster is kept. With it, every instant of the
//! window that can be restored stays so (see [`window`]): the backups that this takes are kept, with all WAL from the
//! first of them on; older ones that are kept have the WAL from their start to their stop, along their own history.
//! *From a backup on* means, on every timeline, from the segment on in which the backup starts. So WAL behind the newest
//! backup is never deleted, and neither is that of a branch of which nobody knows yet what it will be good for.
//!
//! While a backup is being written, no WAL is deleted at all: where it began to read is not recorded yet. The WAL of
//! a former cluster goes when none of its backups is kept. A `.partial` segment and a backup's note go as their
//! segment does; a history never goes.
//!
//! # Refusals
//!
//! Where the repository cannot be understood whole, or the clock cannot be believed, there is no plan at all: see
//! [`RetentionError`].

mod backups;
mod error;
#[cfg(test)]
mod tests;
mod wal;
mod window;

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

pub use error::RetentionError;
pub use wal::{Reach, WalNeed, wal_of_use, wal_of_use_in};

use crate::catalog::leftover::{Leftover, LeftoverKind, Unrecorded};
use crate::catalog::{BackupName, Catalog};
use crate::pg::{SegmentName, SegmentSize, SystemIdentifier, Timeline, WalFileName};

/// How far a clock may be off before nobody believes it, and how old what is unfinished must be to be garbage.
pub const DAY: TimeDelta = TimeDelta::days(1);

/// What the operator wants to keep. See the module's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub keep_last: u32,
    pub keep_within: Option<TimeDelta>,
    pub keep_daily: u32,
    pub keep_weekly: u32,
    pub keep_monthly: u32,
    pub pitr_window: Option<TimeDelta>,
}

/// What is known of one repository.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    pub catalog: &'a Catalog,
    /// The cluster that the configuration is about, where its data directory can be read.
    pub cluster: Option<SystemIdentifier>,
    /// What is wrong with a backup, in words, beyond what its own record says.
    pub damage: BTreeMap<BackupName, String>,
    /// By whom a recorded backup is used, in words.
    pub in_use: BTreeMap<BackupName, String>,
    pub leftovers: Vec<Leftover>,
    /// When the newest object was stored, by the clock of the machine that holds it.
    pub newest_object_at: Option<DateTime<Utc>>,
    pub now: DateTime<Utc>,
}

/// What is done with everything that a repository holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionPlan {
    /// Oldest first.
    pub backups: Vec<BackupVerdict>,
    /// By cluster and timeline, oldest first.
    pub wal: Vec<WalVerdict>,
    pub leftovers: Vec<LeftoverVerdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Keep,
    Delete,
}

/// What is done, and why: a clause without a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub action: Action,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupVerdict {
    pub name: BackupName,
    pub system_identifier: SystemIdentifier,
    pub stopped_at: DateTime<Utc>,
    pub stored_bytes: u64,
    /// What is known to be wrong with it.
    pub damage: Option<String>,
    /// How far its archived WAL reaches, if it is kept.
    pub reach: Option<Reach>,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalVerdict {
    pub system_identifier: SystemIdentifier,
    pub segment_size: SegmentSize,
    pub files: WalFiles,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalFiles {
    /// From the first to the last, all of them there.
    Segments {
        first: SegmentName,
        last: SegmentName,
    },
    Partial(SegmentName),
    /// A backup's note, or what has an impossible name.
    Named(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftoverVerdict {
    pub leftover: Leftover,
    pub verdict: Verdict,
}

impl Verdict {
    fn keep(reason: impl Into<String>) -> Self {
        Self { action: Action::Keep, reason: reason.into() }
    }

    fn delete(reason: impl Into<String>) -> Self {
        Self { action: Action::Delete, reason: reason.into() }
    }

    pub fn deletes(&self) -> bool {
        self.action == Action::Delete
    }
}

impl WalFiles {
    pub fn timeline(&self) -> Option<Timeline> {
        match self {
            Self::Segments { first, .. } => Some(first.timeline),
            Self::Partial(segment) => Some(segment.timeline),
            Self::Named(name) => WalFileName::parse_stored(name).ok().map(|name| name.timeline()),
        }
    }

    fn has(&self, name: &WalFileName, size: SegmentSize) -> bool {
        match (self, name) {
            (Self::Segments { first, last }, WalFileName::Segment(_)) => {
                name.segment(size).is_some_and(|segment| {
                    segment.timeline == first.timeline
                        && (first.number..=last.number).contains(&segment.number)
                })
            }
            (Self::Partial(partial), WalFileName::Partial(_)) => name.segment(size) == Some(*partial),
            (
                Self::Named(known),
                WalFileName::Segment(text) | WalFileName::Partial(text) | WalFileName::BackupNote(text),
            ) => known == text,
            _ => false,
        }
    }
}

impl RetentionPlan {
    pub fn deletes_anything(&self) -> bool {
        let backups = self.backups.iter().map(|backup| &backup.verdict);
        let wal = self.wal.iter().map(|wal| &wal.verdict);
        let leftovers = self.leftovers.iter().map(|leftover| &leftover.verdict);
        backups.chain(wal).chain(leftovers).any(Verdict::deletes)
    }

    /// Whether this archived file is to be deleted. What the plan does not know is not.
    pub fn deletes_wal(&self, system: SystemIdentifier, name: &WalFileName) -> bool {
        self.index_of_wal(system, name).is_some_and(|index| self.wal[index].verdict.deletes())
    }

    /// Which of the verdicts on WAL is about this file.
    pub fn index_of_wal(&self, system: SystemIdentifier, name: &WalFileName) -> Option<usize> {
        let is_about =
            |wal: &WalVerdict| wal.system_identifier == system && wal.files.has(name, wal.segment_size);
        self.wal.iter().position(is_about)
    }
}

/// Decides about everything in a repository, or says why nothing can be decided.
pub fn plan(situation: &Situation<'_>, policy: &Policy) -> Result<RetentionPlan, RetentionError> {
    error::guard(situation)?;
    let chosen = backups::choose(situation, policy)?;
    Ok(RetentionPlan {
        wal: wal::verdicts(situation, &chosen),
        backups: chosen.into_verdicts(),
        leftovers: situation.leftovers.iter().map(|leftover| judge(leftover, situation)).collect(),
    })
}

/// Whether something that no record names is garbage by now. Its age is what both clocks agree on: that of this
/// machine, and that of the machine that holds the repository, as far as its newest object shows it.
fn judge(leftover: &Leftover, situation: &Situation<'_>) -> LeftoverVerdict {
    let there = situation.newest_object_at.unwrap_or(leftover.changed_at);
    let is_old = there.min(situation.now) - leftover.changed_at >= DAY;
    let verdict = match &leftover.kind {
        LeftoverKind::Unrecorded(Unrecorded::Held(by)) => Verdict::keep(format!("being written by {by}")),
        LeftoverKind::Unrecorded(Unrecorded::HalfDeleted) => {
            Verdict::delete("its record is gone: an earlier prune began to delete it")
        }
        LeftoverKind::Unrecorded(Unrecorded::Abandoned) if is_old => {
            Verdict::delete("it was never recorded, and nobody has written to it for a day")
        }
        LeftoverKind::Upload if is_old => Verdict::delete("an upload that was given up a day ago or earlier"),
        LeftoverKind::Lease if is_old => Verdict::delete("whoever held it has ended"),
        LeftoverKind::Lease | LeftoverKind::Upload | LeftoverKind::Unrecorded(_) => {
            Verdict::keep("less than a day old, so somebody may be at work on it")
        }
    };
    LeftoverVerdict { leftover: leftover.clone(), verdict }
}
