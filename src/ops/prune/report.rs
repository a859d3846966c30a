//! What `prune` tells: the plan, item by item with its reasons, and what became of it.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::ops::Error;
use crate::plan::retention::{Action, Reach, RetentionPlan, Verdict, WalFiles};
use crate::repo::Repository;
use crate::repo::prune::Survey;

/// Serialized by `--json`. With `dry_run`, what is told as deleted would be.
#[derive(Debug, Serialize)]
pub struct Report {
    pub started_at: DateTime<Utc>,
    pub duration_seconds: f64,
    pub dry_run: bool,
    pub repositories: Vec<RepositoryReport>,
    /// The directory that `archive_command` fills; `None` without one, and where only some repositories were asked for.
    pub directory: Option<DirectoryReport>,
}

#[derive(Debug, Serialize)]
pub struct RepositoryReport {
    pub name: String,
    pub place: String,
    /// Why it was not pruned, or not to the end.
    pub error: Option<String>,
    pub hint: Option<String>,
    /// Oldest first, as everything else.
    pub backups: Vec<BackupItem>,
    pub wal: Vec<WalItem>,
    pub leftovers: Vec<LeftoverItem>,
    /// What turned out otherwise than planned, in sentences without a period.
    pub notes: Vec<String>,
    pub deleted: Deleted,
}

/// What happens to an item, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// `keep` or `delete`.
    pub action: &'static str,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupItem {
    #[serde(flatten)]
    pub decision: Decision,
    pub name: String,
    pub system_identifier: String,
    pub stopped_at: DateTime<Utc>,
    pub stored_bytes: u64,
    /// What is known to be wrong with it.
    pub damage: Option<String>,
    /// Of a kept one: `onward` where it has all WAL from its start on, `to-its-stop` where only what makes it consistent.
    pub wal: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalItem {
    #[serde(flatten)]
    pub decision: Decision,
    pub system_identifier: String,
    /// `segments`, from the first to the last without a gap; `partial`; or `other`, such as a backup's note.
    pub kind: &'static str,
    pub timeline: Option<u32>,
    pub first: String,
    pub last: String,
    pub files: u64,
    pub stored_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftoverItem {
    #[serde(flatten)]
    pub decision: Decision,
    pub key: String,
    pub stored_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Deleted {
    pub backups: u64,
    pub wal_files: u64,
    pub leftovers: u64,
    pub bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct DirectoryReport {
    pub path: PathBuf,
    /// Why nothing, or not everything, was deleted from it.
    pub error: Option<String>,
    pub hint: Option<String>,
    pub files: Vec<DirectoryItem>,
    pub deleted: Deleted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DirectoryItem {
    #[serde(flatten)]
    pub decision: Decision,
    pub name: String,
    pub bytes: u64,
}

impl Report {
    pub(super) fn new(started_at: DateTime<Utc>, dry_run: bool) -> Self {
        Self { started_at, duration_seconds: 0.0, dry_run, repositories: Vec::new(), directory: None }
    }

    /// Whether the run ended with something to look at (exit code 3).
    pub fn has_findings(&self) -> bool {
        let of_directory = self.directory.as_ref().and_then(|directory| directory.error.as_ref());
        self.repositories.iter().any(|repository| repository.error.is_some()) || of_directory.is_some()
    }
}

impl RepositoryReport {
    pub fn new(repository: &Repository) -> Self {
        Self {
            name: repository.name().to_owned(),
            place: repository.place(),
            error: None,
            hint: None,
            backups: Vec::new(),
            wal: Vec::new(),
            leftovers: Vec::new(),
            notes: Vec::new(),
            deleted: Deleted::default(),
        }
    }

    pub fn fail(&mut self, error: &Error) {
        (self.error, self.hint) = (Some(error.to_string()), error.hint());
    }

    pub fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }

    /// Takes in what is planned, in the place of what was before.
    pub fn show(&mut self, plan: &RetentionPlan, survey: &Survey) {
        self.backups = plan.backups.iter().map(BackupItem::of).collect();
        self.wal = wal_items(plan, survey);
        let leftover = |found: &crate::plan::retention::LeftoverVerdict| LeftoverItem {
            decision: Decision::of(&found.verdict),
            key: found.leftover.key.clone(),
            stored_bytes: found.leftover.stored_bytes,
        };
        self.leftovers = plan.leftovers.iter().map(leftover).collect();
    }

    /// All that is planned.
    pub fn to_be_deleted(&self) -> Deleted {
        let backups = || self.backups.iter().filter(|item| item.decision.deletes());
        let wal = || self.wal.iter().filter(|item| item.decision.deletes());
        let leftovers = || self.leftovers.iter().filter(|item| item.decision.deletes());
        Deleted {
            backups: backups().count() as u64,
            wal_files: wal().map(|item| item.files).sum(),
            leftovers: leftovers().count() as u64,
            bytes: backups().map(|item| item.stored_bytes).sum::<u64>()
                + wal().map(|item| item.stored_bytes).sum::<u64>()
                + leftovers().map(|item| item.stored_bytes).sum::<u64>(),
        }
    }
}

impl Decision {
    pub fn of(verdict: &Verdict) -> Self {
        let action = match verdict.action {
            Action::Keep => "keep",
            Action::Delete => "delete",
        };
        Self { action, reason: verdict.reason.clone() }
    }

    pub fn keep(reason: impl Into<String>) -> Self {
        Self { action: "keep", reason: reason.into() }
    }

    pub fn delete(reason: impl Into<String>) -> Self {
        Self { action: "delete", reason: reason.into() }
    }

    pub fn deletes(&self) -> bool {
        self.action == "delete"
    }
}

impl BackupItem {
    fn of(backup: &crate::plan::retention::BackupVerdict) -> Self {
        Self {
            decision: Decision::of(&backup.verdict),
            name: backup.name.to_string(),
            system_identifier: backup.system_identifier.to_string(),
            stopped_at: backup.stopped_at,
            stored_bytes: backup.stored_bytes,
            damage: backup.damage.clone(),
            wal: backup.reach.map(|reach| match reach {
                Reach::Onward => "onward",
                Reach::ToItsStop => "to-its-stop",
            }),
        }
    }
}

fn wal_items(plan: &RetentionPlan, survey: &Survey) -> Vec<WalItem> {
    let mut items: Vec<WalItem> = plan
        .wal
        .iter()
        .map(|found| {
            let name = |segment: crate::pg::SegmentName| segment.file_name(found.segment_size).to_string();
            let (kind, first, last) = match &found.files {
                WalFiles::Segments { first, last } => ("segments", name(*first), name(*last)),
                WalFiles::Partial(segment) => {
                    let name = format!("{}.partial", name(*segment));
                    ("partial", name.clone(), name)
                }
                WalFiles::Named(name) => ("other", name.clone(), name.clone()),
            };
            WalItem {
                decision: Decision::of(&found.verdict),
                system_identifier: found.system_identifier.to_string(),
                kind,
                timeline: found.files.timeline().map(crate::pg::Timeline::get),
                first,
                last,
                files: 0,
                stored_bytes: 0,
            }
        })
        .collect();
    for object in &survey.wal {
        if let Some(index) = plan.index_of_wal(object.system, &object.name) {
            items[index].files += 1;
            items[index].stored_bytes += object.stored_bytes;
        }
    }
    items
}
