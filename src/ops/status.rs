//! `status`: what can be restored right now, and what is wrong.

use chrono::{DateTime, Utc};

use super::{Context, Error};

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

#[derive(Debug, serde::Serialize)]
pub struct Finding {
    /// For scripts: `repository-unreadable`, `backup-damaged`, `no-backup`, `backup-too-old`, `wal-gap` …
    pub code: &'static str,
    pub repository: Option<String>,
    pub message: String,
    pub hint: Option<String>,
}

pub fn run(_context: &Context<'_>) -> Result<Report, Error> {
    unimplemented!()
}
