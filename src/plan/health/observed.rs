//! What was observed, as plain values: everything that health is judged by.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::catalog::{BackupInfo, BackupName, Catalog};
use crate::pg::server_state::ServerState;
use crate::pg::{Lsn, SystemIdentifier, Timeline};

#[derive(Debug, Clone)]
pub struct Observations {
    pub now: DateTime<Utc>,
    pub thresholds: Thresholds,
    pub source: WalSource,
    /// In the order of the configuration.
    pub repositories: Vec<Repository>,
    pub server: Server,
    /// When segments that a repository may lack were finished, by their numbers, as far as that is known: by the server's
    /// files, or by when another repository stored them.
    pub finished_at: BTreeMap<u64, DateTime<Utc>>,
    pub runs: Vec<Run>,
    /// When streaming last found everything durable that the server had; `None` where that is not known.
    pub caught_up_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy)]
pub struct Thresholds {
    pub backup_age_max: TimeDelta,
    pub wal_lag_max: TimeDelta,
}

/// How WAL gets from the server into the repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalSource {
    /// PostgreSQL calls pgbak. `archive_command` is how it should.
    Push {
        archive_command: String,
    },
    /// PostgreSQL copies to a directory. `archive_command` is how it should.
    Directory {
        archive_command: String,
    },
    Stream {
        slot: String,
    },
}

/// Why something could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Without a final period.
    pub message: String,
    pub hint: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Repository {
    pub name: String,
    pub catalog: Result<Catalog, Trouble>,
    /// Of the backups that are there, those that `verify` has looked at.
    pub proofs: BTreeMap<BackupName, Proof>,
    /// WAL files that `verify` found damaged: the key, and what was wrong.
    pub damaged_wal: Vec<(String, Proof)>,
}

/// What came out when something was proven last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    pub proven_at: DateTime<Utc>,
    /// What was wrong; `None` when nothing was.
    pub damage: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Server {
    /// `None` when it could not be learned.
    pub identity: Option<Identity>,
    pub state: Result<ServerState, Trouble>,
    /// Whether a replication connection can be made, which a base backup needs.
    pub replication: Result<(), ReplicationTrouble>,
}

/// Which cluster the server runs, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub system_identifier: SystemIdentifier,
    pub timeline: Timeline,
    pub wal_lsn: Lsn,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicationTrouble {
    /// The role lacks `REPLICATION`.
    NotPermitted(Trouble),
    NoWalSenderFree(Trouble),
    /// Among them a `pg_hba.conf` that does not let it in.
    Other(Trouble),
}

/// What is known of the runs of one command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    pub command: String,
    /// When each that is at work began.
    pub at_work: Vec<DateTime<Utc>>,
    /// When the newest that was killed began.
    pub killed: Option<DateTime<Utc>>,
    /// The last good one.
    pub done: Option<RunEnd>,
    /// The last one that failed.
    pub failed: Option<RunEnd>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunEnd {
    pub started_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
    pub exit_code: u8,
    /// What was said, without a final period.
    pub message: Option<String>,
}

impl Observations {
    /// The repositories that could be read, with what they hold.
    pub(super) fn readable(&self) -> impl Iterator<Item = (&Repository, &Catalog)> {
        self.repositories
            .iter()
            .filter_map(|repository| Some((repository, repository.catalog.as_ref().ok()?)))
    }

    /// The backup that started last, of all that are anywhere.
    pub(super) fn newest_backup(&self) -> Option<&BackupInfo> {
        let newest = self.readable().filter_map(|(_, catalog)| catalog.newest_backup());
        newest.max_by_key(|backup| backup.started_at)
    }

    /// How long ago that was; nothing lies in the future.
    pub(super) fn age_seconds(&self, instant: DateTime<Utc>) -> i64 {
        (self.now - instant).num_seconds().max(0)
    }
}
