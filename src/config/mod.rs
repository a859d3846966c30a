//! The configuration: a TOML file, or a handful of environment variables, as typed values.
//!
//! Parsed once, at the edge: what is in a [`Config`] has been checked, has its defaults filled in, and knows
//! nothing of the text it came from. Paths are absolute.

use std::path::PathBuf;
use std::time::Duration;

use crate::pipe::Compression;

/// One cluster and the repositories that hold its history.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file this came from; `None` when it came from environment variables alone.
    pub file: Option<PathBuf>,
    pub postgres: Postgres,
    pub wal: Wal,
    pub backup: Backup,
    pub retention: Retention,
    pub status: Status,
    /// At least one; names are unique.
    pub repositories: Vec<Repository>,
}

#[derive(Debug, Clone)]
pub struct Postgres {
    /// A libpq connection string or URI, empty for libpq's defaults. It may hold a password: never print it.
    pub connection: String,
    pub data_directory: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalSource {
    Push,
    Directory,
    Stream,
}

#[derive(Debug, Clone)]
pub struct Wal {
    pub source: WalSource,
    pub directory: Option<PathBuf>,
    pub slot: String,
    /// Names of the repositories that `wal-push` writes to before it succeeds; by default the first.
    pub push_to: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Backup {
    pub compression: Compression,
    /// Compression threads; 0 is one per core.
    pub workers: usize,
    /// Bytes per second.
    pub max_rate: Option<u64>,
    pub checkpoint: Checkpoint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    /// At once, at the price of a burst of writes.
    Fast,
    /// Spread out as the server's own checkpoints are.
    Spread,
}

#[derive(Debug, Clone)]
pub struct Retention {
    pub keep_last: u32,
    pub keep_within: Option<Duration>,
    pub keep_daily: u32,
    pub keep_weekly: u32,
    pub keep_monthly: u32,
    pub pitr_window: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct Status {
    pub backup_age_max: Duration,
    pub wal_lag_max: Duration,
}

#[derive(Debug, Clone)]
pub struct Repository {
    pub name: String,
    pub place: Place,
}

#[derive(Debug, Clone)]
pub enum Place {
    Local(PathBuf),
    Ssh(SshPlace),
}

#[derive(Debug, Clone)]
pub struct SshPlace {
    pub user: Option<String>,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub ssh_key: Option<PathBuf>,
    pub known_hosts: Option<PathBuf>,
    pub sessions: u32,
    /// `false` accepts a server without `fsync@openssh.com`.
    pub durable: bool,
}
