//! What `verify` reports: findings, which make the exit code 3, and notes, which do not.

use chrono::{DateTime, Utc};
use serde::Serialize;

/// Serialized by `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    pub started_at: DateTime<Utc>,
    pub duration_seconds: f64,
    /// `quick`, `default`, `full` or `drill`.
    pub mode: &'static str,
    pub repositories: Vec<RepositoryReport>,
    pub drills: Vec<DrillReport>,
    pub findings: Vec<Finding>,
    pub notes: Vec<Note>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct RepositoryReport {
    pub name: String,
    pub place: String,
    /// Why it could not be read, or not to its end.
    pub error: Option<String>,
    /// What was looked at: backups with a usable record, and files of the WAL archive.
    pub backups: u64,
    pub wal_files: u64,
    /// Objects of which every byte was read, and how many bytes that were.
    pub files_read: u64,
    pub bytes_read: u64,
    /// Objects that were proven before, have not changed since, and need not be proven again yet.
    pub files_passed_over: u64,
    pub bytes_passed_over: u64,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// For scripts; the manual lists them.
    pub code: &'static str,
    pub repository: Option<String>,
    /// The object's key, or that of the directory it should be in.
    pub object: Option<String>,
    /// The file inside the object, and the block of it: `base/5/16384, block 7`.
    pub inside: Option<String>,
    pub expected: Option<String>,
    pub found: String,
    pub unrestorable: Unrestorable,
    pub hint: Option<String>,
}

/// What can no longer be restored from this repository.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Unrestorable {
    /// Along each timeline; empty when another backup makes up for it.
    pub instants: Vec<LostInterval>,
    /// Where instants cannot tell it, in words.
    pub words: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LostInterval {
    pub system_identifier: String,
    pub timeline: u32,
    pub from_lsn: String,
    pub to_lsn: String,
    pub from_at: DateTime<Utc>,
    /// By when all of it had been committed; `None` for a backup that can be restored only as it is.
    pub to_at: Option<DateTime<Utc>>,
}

/// Something to know that is nothing to do about, or that another command does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    pub code: &'static str,
    pub repository: Option<String>,
    pub object: Option<String>,
    /// A sentence without a final period.
    pub message: String,
}

/// A backup that was restored and started.
#[derive(Debug, Clone, Serialize)]
pub struct DrillReport {
    pub repository: String,
    pub backup: String,
    pub size_bytes: u64,
    pub restore_seconds: f64,
    /// From the server's start to its promotion; `None` when it did not come so far.
    pub replay_seconds: Option<f64>,
    /// The end of what was replayed.
    pub replayed_to_lsn: Option<String>,
    /// When the last transaction that was replayed had been committed; `None` when there was none.
    pub last_transaction_at: Option<DateTime<Utc>>,
    pub server: String,
    /// In the order in which they were made: `pg_amcheck`, or the file of SQL.
    pub checks: Vec<DrillCheck>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DrillCheck {
    pub name: String,
    pub passed: bool,
    pub seconds: f64,
}

impl Report {
    /// Whether the run ended with something to look at (exit code 3).
    pub fn has_findings(&self) -> bool {
        !self.findings.is_empty()
    }
}
