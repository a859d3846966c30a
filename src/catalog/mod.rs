//! What one repository holds, as plain values: base backups and archived WAL.
//!
//! Knows nothing of how these are stored: `repo` lists and reads, and makes a [`Catalog`] of what it found. There
//! is no I/O here and no clock, so that a catalog of any shape can be written down in a test.

pub mod backup;
pub mod leftover;
pub mod wal;

mod backup_name;
mod fields;

use std::collections::{BTreeMap, BTreeSet};

pub use backup::{BackupInfo, RecordError};
pub use backup_name::{BackupName, NotABackupName};
pub use wal::WalArchive;

use crate::pg::SystemIdentifier;

/// Everything a repository holds, of every cluster that ever wrote to it: `pg_upgrade` starts a new one.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    backups: Vec<BackupInfo>,
    damaged: Vec<DamagedBackup>,
    archives: BTreeMap<SystemIdentifier, WalArchive>,
}

/// A backup that has a record, but one that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedBackup {
    /// The directory's name.
    pub name: String,
    /// A message without a final period.
    pub reason: String,
    /// What the user can do about it.
    pub hint: Option<String>,
}

impl Catalog {
    pub fn new(
        mut backups: Vec<BackupInfo>,
        damaged: Vec<DamagedBackup>,
        archives: BTreeMap<SystemIdentifier, WalArchive>,
    ) -> Self {
        backups.sort_by_key(|backup| (backup.started_at, backup.name));
        Self { backups, damaged, archives }
    }

    /// Ordered by the time at which they started, oldest first.
    pub fn backups(&self) -> &[BackupInfo] {
        &self.backups
    }

    pub fn damaged(&self) -> &[DamagedBackup] {
        &self.damaged
    }

    pub fn archives(&self) -> &BTreeMap<SystemIdentifier, WalArchive> {
        &self.archives
    }

    /// The WAL of one cluster; `None` when none was ever archived.
    pub fn archive(&self, system_identifier: SystemIdentifier) -> Option<&WalArchive> {
        self.archives.get(&system_identifier)
    }

    pub fn backup(&self, name: BackupName) -> Option<&BackupInfo> {
        self.backups.iter().find(|backup| backup.name == name)
    }

    /// The backup that started last, of whatever cluster.
    pub fn newest_backup(&self) -> Option<&BackupInfo> {
        self.backups.last()
    }

    /// Of one cluster, oldest first.
    pub fn backups_of(
        &self,
        system_identifier: SystemIdentifier,
    ) -> impl DoubleEndedIterator<Item = &BackupInfo> {
        self.backups.iter().filter(move |backup| backup.system_identifier == system_identifier)
    }

    /// Each cluster of which there is a backup or archived WAL.
    pub fn system_identifiers(&self) -> BTreeSet<SystemIdentifier> {
        let of_backups = self.backups.iter().map(|backup| backup.system_identifier);
        of_backups.chain(self.archives.keys().copied()).collect()
    }

    /// The same repository as if it did not have this backup.
    pub fn without_backup(&self, name: BackupName) -> Self {
        let mut catalog = self.clone();
        catalog.backups.retain(|backup| backup.name != name);
        catalog
    }

    /// The same repository with other WAL of one cluster.
    pub fn with_archive(&self, system_identifier: SystemIdentifier, archive: WalArchive) -> Self {
        let mut catalog = self.clone();
        catalog.archives.insert(system_identifier, archive);
        catalog
    }
}
