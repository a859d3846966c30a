//! `status`: what can be restored right now, and what is wrong.

use chrono::{DateTime, Utc};

use super::{Context, Error};
use crate::catalog::wal::WalArchive;
use crate::catalog::{BackupInfo, Catalog};
use crate::pg::SystemIdentifier;
use crate::repo::Repository;
use crate::storage::Patience;

/// Serialized by `--format json`.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    pub at: DateTime<Utc>,
    pub repositories: Vec<RepositoryStatus>,
    pub findings: Vec<Finding>,
}

#[derive(Debug, serde::Serialize)]
pub struct RepositoryStatus {
    pub name: String,
    pub place: String,
    /// Why it could not be read; then the lists are empty.
    pub error: Option<String>,
    pub backups: Vec<BackupStatus>,
    pub wal: Vec<WalStatus>,
}

#[derive(Debug, serde::Serialize)]
pub struct BackupStatus {
    pub name: String,
    pub label: String,
    pub system_identifier: String,
    pub timeline: u32,
    pub started_at: DateTime<Utc>,
    pub stopped_at: DateTime<Utc>,
    pub start_lsn: String,
    pub stop_lsn: String,
    pub size_bytes: u64,
    pub stored_bytes: u64,
    pub age_seconds: u64,
}

/// One contiguous run of segments on one timeline.
#[derive(Debug, serde::Serialize)]
pub struct WalStatus {
    pub system_identifier: String,
    pub timeline: u32,
    pub first_segment: String,
    pub last_segment: String,
    pub segments: u64,
    pub stored_bytes: u64,
    /// When the last segment was stored.
    pub last_stored_at: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// For scripts: `repository-unreadable`, `backup-damaged`, `no-backup`, `backup-too-old`, `wal-gap` …
    pub code: &'static str,
    pub repository: Option<String>,
    pub message: String,
    pub hint: Option<String>,
}

/// Looks at every repository; one that cannot be read is a finding, not a failure.
pub fn run(context: &Context<'_>) -> Result<Report, Error> {
    let at = (context.clock)();
    let mut report = Report { at, repositories: Vec::new(), findings: Vec::new() };
    for repository in context.repositories_with(&[], Patience::SHORT)? {
        context.interrupt.check()?;
        match repository.catalog() {
            Ok(catalog) => {
                report.findings.extend(findings(context, repository.name(), &catalog, at));
                report.repositories.push(describe(&repository, &catalog, at));
            }
            Err(error) => {
                report.findings.push(Finding {
                    code: "repository-unreadable",
                    repository: Some(repository.name().to_owned()),
                    message: error.to_string(),
                    hint: error.hint(),
                });
                report.repositories.push(unreadable(&repository, error.to_string()));
            }
        }
    }
    Ok(report)
}

fn unreadable(repository: &Repository, error: String) -> RepositoryStatus {
    RepositoryStatus {
        name: repository.name().to_owned(),
        place: repository.place(),
        error: Some(error),
        backups: Vec::new(),
        wal: Vec::new(),
    }
}

fn describe(repository: &Repository, catalog: &Catalog, at: DateTime<Utc>) -> RepositoryStatus {
    let archives = catalog.archives().iter();
    RepositoryStatus {
        name: repository.name().to_owned(),
        place: repository.place(),
        error: None,
        backups: catalog.backups().iter().map(|backup| describe_backup(backup, at)).collect(),
        wal: archives.flat_map(|(system, archive)| describe_wal(*system, archive)).collect(),
    }
}

fn describe_backup(backup: &BackupInfo, at: DateTime<Utc>) -> BackupStatus {
    BackupStatus {
        name: backup.name.to_string(),
        label: backup.label.clone(),
        system_identifier: backup.system_identifier.to_string(),
        timeline: backup.timeline.get(),
        started_at: backup.started_at,
        stopped_at: backup.stopped_at,
        start_lsn: backup.start_lsn.to_string(),
        stop_lsn: backup.stop_lsn.to_string(),
        size_bytes: backup.size_bytes,
        stored_bytes: backup.stored_bytes,
        age_seconds: (at - backup.stopped_at).num_seconds().try_into().unwrap_or(0),
    }
}

fn describe_wal(system: SystemIdentifier, archive: &WalArchive) -> Vec<WalStatus> {
    let size = archive.segment_size();
    let describe = |timeline| {
        archive.intervals(timeline).map(move |interval| WalStatus {
            system_identifier: system.to_string(),
            timeline: timeline.get(),
            first_segment: interval.first.file_name(size).to_string(),
            last_segment: interval.last.file_name(size).to_string(),
            segments: interval.segments(),
            stored_bytes: interval.stored_bytes,
            last_stored_at: interval.last_stored_at,
        })
    };
    archive.timelines().into_iter().flat_map(describe).collect()
}

fn findings(context: &Context<'_>, repository: &str, catalog: &Catalog, at: DateTime<Utc>) -> Vec<Finding> {
    let finding = |code, message: String, hint: &str| Finding {
        code,
        repository: Some(repository.to_owned()),
        message,
        hint: Some(hint.to_owned()),
    };
    let mut findings = Vec::new();
    for damaged in catalog.damaged() {
        let message = format!("{} cannot be used: {}", damaged.name, damaged.reason);
        let hint = damaged.hint.as_deref().unwrap_or("Take a new backup with `pgbak base-backup`.");
        findings.push(finding("backup-damaged", message, hint));
    }
    for backup in catalog.backups().iter().filter(|backup| !backup.damaged_pages.is_empty()) {
        let message =
            format!("{} holds pages whose checksum failed: {}", backup.name, backup.damaged_pages[0]);
        findings.push(finding(
            "backup-with-damaged-pages",
            message,
            "Check the server's disks; keep older backups.",
        ));
    }
    findings.extend(backup_age(context, catalog, at).map(|(code, message)| {
        finding(code, message, "Take one with `pgbak base-backup`, and look why the timer did not.")
    }));
    for (system, archive) in catalog.archives() {
        for gap in archive.timelines().into_iter().flat_map(|timeline| archive.gaps(timeline)) {
            let size = archive.segment_size();
            let (first, last) = (gap.first.file_name(size), gap.last.file_name(size));
            let message = format!("WAL of system {system} is missing from {first} to {last}");
            findings.push(finding(
                "wal-gap",
                message,
                "Take a base backup now; times in the gap cannot be restored.",
            ));
        }
    }
    findings
}

fn backup_age(context: &Context<'_>, catalog: &Catalog, at: DateTime<Utc>) -> Option<(&'static str, String)> {
    let Some(newest) = catalog.newest_backup() else {
        return Some(("no-backup", "there is no backup".into()));
    };
    let age = (at - newest.stopped_at).to_std().unwrap_or_default();
    let allowed = context.config.status.backup_age_max;
    let seconds = |duration: std::time::Duration| {
        humantime::format_duration(std::time::Duration::from_secs(duration.as_secs()))
    };
    (age > allowed).then(|| {
        let message =
            format!("the newest backup is {} old, expected at most {}", seconds(age), seconds(allowed));
        ("backup-too-old", message)
    })
}
