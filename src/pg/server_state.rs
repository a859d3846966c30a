//! What a running server says of itself, as plain values.
//!
//! Follows PostgreSQL's documentation of `pg_stat_archiver`, `pg_replication_slots`, `pg_roles` and the settings named
//! here. Sizes are in bytes, times by the server's clock.

use chrono::{DateTime, Utc};

use super::{Lsn, SegmentSize, ServerVersion, SystemIdentifier, Timeline};

/// What a plain SQL session can find out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState {
    pub version: ServerVersion,
    pub system_identifier: SystemIdentifier,
    pub timeline: Timeline,
    /// The end of the WAL that was written; on a standby, of what was received or replayed.
    pub wal_lsn: Lsn,
    pub segment_size: SegmentSize,
    pub is_standby: bool,
    /// The role that asked.
    pub role: String,
    /// Whether it has `REPLICATION`, or is a superuser.
    pub may_replicate: bool,
    /// Whether it may list `pg_wal`: it is in `pg_monitor`, or a superuser.
    pub may_list_wal: bool,
    pub full_page_writes: bool,
    pub wal_senders_max: u32,
    pub wal_senders_used: u32,
    /// How much WAL the server keeps at most for its own sake: `max_wal_size` and `wal_keep_size`.
    pub wal_kept_bytes: u64,
    pub archiver: Archiver,
    /// Physical and logical ones.
    pub slots: Vec<Slot>,
}

/// The server's own WAL archiving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archiver {
    /// `off`, `on` or `always`.
    pub mode: String,
    pub method: ArchiveMethod,
    /// `minimal`, `replica` or `logical`.
    pub wal_level: String,
    pub archived_count: u64,
    pub last_archived: Option<ArchiverEvent>,
    pub failed_count: u64,
    pub last_failed: Option<ArchiverEvent>,
}

/// A file, and when the archiver last dealt with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiverEvent {
    pub file_name: String,
    pub at: DateTime<Utc>,
}

/// How the server hands WAL files over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveMethod {
    Command(String),
    Library(String),
    /// Archiving is on and has nothing to call: WAL piles up.
    Missing,
    /// Archiving is off.
    Off,
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub name: String,
    pub is_active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`; `None` where it holds back nothing.
    pub wal_status: Option<String>,
    /// How far back it keeps the server from removing WAL.
    pub retained_bytes: Option<u64>,
}
