//! `base-backup`: one stream from the server, written to every repository.

use chrono::{DateTime, Utc};

use super::{Context, Error};
use crate::config::Checkpoint;
use crate::pipe::Compression;

#[derive(Debug)]
pub struct Request {
    pub label: Option<String>,
    /// Only these repositories; empty is all.
    pub repositories: Vec<String>,
    /// Bytes per second; `None` is unlimited.
    pub max_rate: Option<u64>,
    pub compression: Compression,
    pub checkpoint: Checkpoint,
}

/// The backup as it was taken, and how each repository fared. Serialized by `--json`.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    pub name: String,
    pub label: String,
    pub system_identifier: String,
    pub server_version: u32,
    pub timeline: u32,
    pub start_lsn: String,
    pub stop_lsn: String,
    pub started_at: DateTime<Utc>,
    pub stopped_at: DateTime<Utc>,
    pub size_bytes: u64,
    pub stored_bytes: u64,
    pub duration_seconds: f64,
    pub repositories: Vec<RepositoryOutcome>,
    /// What the server said about pages whose checksum failed; empty when all is well.
    pub damaged_pages: Vec<String>,
}

#[derive(Debug, serde::Serialize)]
pub struct RepositoryOutcome {
    pub repository: String,
    /// Why this repository has no copy of the backup; `None` when it has.
    pub error: Option<String>,
    pub hint: Option<String>,
}

impl Report {
    /// Whether the run ended with something to look at (exit code 3).
    pub fn has_findings(&self) -> bool {
        !self.damaged_pages.is_empty() || self.repositories.iter().any(|outcome| outcome.error.is_some())
    }
}

pub fn run(_context: &Context<'_>, _request: &Request) -> Result<Report, Error> {
    unimplemented!()
}
