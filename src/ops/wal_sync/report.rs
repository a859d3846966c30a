//! What a round of `wal-sync` did, and what it could not do.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::ops::Error;

/// One round. Serialized by `--json`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    pub started_at: DateTime<Utc>,
    pub duration_seconds: f64,
    /// `push`, `directory` or `stream`, as configured.
    pub source: &'static str,
    /// How far streaming has come; `null` where WAL is not streamed.
    pub stream: Option<StreamReport>,
    /// In the order of the configuration.
    pub repositories: Vec<RepositoryReport>,
    /// Files of the directory that are still being copied there; the next round takes them.
    pub waiting: Vec<Waiting>,
    pub findings: Vec<Finding>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StreamReport {
    pub slot: String,
    /// The one that is, or was last, streamed.
    pub timeline: Option<u32>,
    /// Up to where the server has sent WAL, such as `0/3000060`.
    pub received_lsn: Option<String>,
    /// Up to where it is durable in each repository that is streamed to.
    pub durable_lsn: Option<String>,
    /// Whole ones, since this run began.
    pub segments_stored: u64,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct RepositoryReport {
    pub name: String,
    pub place: String,
    /// Why it was left out, or dropped out; `None` when all went well.
    pub error: Option<String>,
    pub hint: Option<String>,
    pub files_copied: u64,
    /// As stored.
    pub bytes_copied: u64,
    pub copied_from: Vec<CopiedFrom>,
    /// What others have, or had, and this one still lacks. Empty, too, when it could not be read.
    pub missing: Vec<Missing>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct CopiedFrom {
    /// A repository's name, or `directory`.
    pub from: String,
    pub files: u64,
    pub bytes: u64,
}

/// Files of one timeline that follow each other.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    pub system_identifier: String,
    pub first: String,
    pub last: String,
    pub files: u64,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Waiting {
    pub name: String,
    pub reason: String,
}

/// Something that is wrong and did not stop the round.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// For scripts: `wal-gap`, `history-missing` …
    pub code: &'static str,
    pub repository: Option<String>,
    /// Without a final period.
    pub message: String,
    pub hint: Option<String>,
}

impl Report {
    /// Whether the round ended with something to look at (exit code 3).
    pub fn has_findings(&self) -> bool {
        !self.findings.is_empty() || self.repositories.iter().any(|repository| !repository.missing.is_empty())
    }

    pub fn files_copied(&self) -> u64 {
        self.repositories.iter().map(|repository| repository.files_copied).sum()
    }
}

/// What was copied to one repository, and from where.
#[derive(Debug, Default)]
pub struct Tally {
    by_origin: BTreeMap<String, (u64, u64)>,
}

impl Tally {
    pub fn add(&mut self, from: &str, stored_bytes: u64) {
        let (files, bytes) = self.by_origin.entry(from.to_owned()).or_default();
        *files += 1;
        *bytes += stored_bytes;
    }

    pub fn into_parts(self) -> Vec<CopiedFrom> {
        let part = |(from, (files, bytes))| CopiedFrom { from, files, bytes };
        self.by_origin.into_iter().map(part).collect()
    }
}

pub fn finding(code: &'static str, repository: Option<&str>, error: &Error) -> Finding {
    Finding {
        code,
        repository: repository.map(str::to_owned),
        message: error.to_string(),
        hint: error.hint(),
    }
}
