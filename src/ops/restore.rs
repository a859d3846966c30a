//! `restore`: a data directory put back, at any point in time.

use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::{Context, Error};
use crate::pg::{Lsn, Timeline};

#[derive(Debug)]
pub struct Request {
    pub directory: PathBuf,
    /// A backup's name; `None` is the newest that reaches the target.
    pub backup: Option<String>,
    pub target: Target,
    /// Stop just before the target instead of just after it.
    pub exclusive: bool,
    pub timeline: TargetTimeline,
    pub action: TargetAction,
    /// Old location and new location, both absolute.
    pub tablespace_mapping: Vec<(PathBuf, PathBuf)>,
    pub standby: bool,
    pub delta: bool,
    /// Only this repository; `None` is any, in the order of the configuration.
    pub repository: Option<String>,
    pub dry_run: bool,
}

/// Where recovery stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// At the end of the archived WAL.
    End,
    /// As soon as the backup is consistent.
    Immediate,
    Time(DateTime<Utc>),
    Lsn(Lsn),
    Xid(u32),
    /// A restore point made by `pg_create_restore_point()`.
    Name(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetTimeline {
    Latest,
    /// The timeline on which the backup was taken.
    Current,
    Number(Timeline),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetAction {
    Pause,
    Promote,
    Shutdown,
}

/// What was proven before the first byte, and what was done. Serialized by `--json`.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    pub repository: String,
    pub backup: String,
    pub backup_stopped_at: DateTime<Utc>,
    pub directory: PathBuf,
    /// In words, with the offset for times: `2026-11-22 02:00:00+01:00, inclusive`.
    pub target: String,
    pub timeline: u32,
    /// The archived WAL that recovery can read, from and to; `None` when the backup brings all there is.
    pub wal_from: Option<String>,
    pub wal_to: Option<String>,
    pub size_bytes: u64,
    /// Where each tablespace goes: object identifier and directory.
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// The lines for postgresql.auto.conf.
    pub settings: Vec<(String, String)>,
    /// The commands that start the restored cluster.
    pub commands: Vec<String>,
    pub dry_run: bool,
    pub files_written: u64,
    /// With `--delta`: files that were already as they should be, and files that did not belong.
    pub files_kept: u64,
    pub files_removed: u64,
    pub duration_seconds: f64,
    /// What the operator should know, in sentences; not failures.
    pub notes: Vec<String>,
}

pub fn run(_context: &Context<'_>, _request: &Request) -> Result<Report, Error> {
    unimplemented!()
}
