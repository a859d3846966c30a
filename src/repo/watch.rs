//! What `status` looks at beside the catalog: backups in progress, and when single objects were stored.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::lease::{self, Lease, Live, Observer};
use super::wal_copy::LogDirectory;
use super::{Repository, Result, layout};
use crate::catalog::{BackupName, Catalog};
use crate::pg::{SystemIdentifier, WalFileName};

/// A backup that a run somewhere is writing into this repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InProgress {
    pub backup: BackupName,
    /// `None` when it was renewed or released while it was read, or cannot be understood.
    pub lease: Option<Lease>,
}

impl Repository {
    /// The backups that live leases name. `catalog` is what the repository was just found to hold: what has a record is
    /// done, and costs no look.
    pub fn backups_in_progress(
        &self,
        catalog: &Catalog,
        now: DateTime<Utc>,
        observer: &Observer<'_>,
    ) -> Result<Vec<InProgress>> {
        let mut in_progress = Vec::new();
        for entry in self.storage().list(layout::BASE_BACKUPS)?.iter().filter(|entry| entry.is_directory()) {
            let Ok(backup) = entry.name.parse::<BackupName>() else { continue };
            let is_damaged = catalog.damaged().iter().any(|damaged| damaged.name == entry.name);
            if is_damaged || catalog.backup(backup).is_some() {
                continue;
            }
            let directory = layout::backup_directory(backup);
            let entries = self.storage().list(&directory)?;
            in_progress.extend(match lease::live(self.storage(), &directory, &entries, now, observer)? {
                Some(Live::Held(lease)) => Some(InProgress { backup, lease: Some(lease) }),
                Some(Live::JustRenewed | Live::Illegible(_)) => Some(InProgress { backup, lease: None }),
                None => None,
            });
        }
        Ok(in_progress)
    }

    /// When a backup's record was stored, by the clock of the machine that holds it; `None` where there is none.
    pub fn backup_stored_at(&self, backup: BackupName) -> Result<Option<DateTime<Utc>>> {
        let entries = self.storage().list(&layout::backup_directory(backup))?;
        let record = entries.iter().find(|entry| entry.name == layout::RECORD);
        Ok(record.map(|record| record.modified_at))
    }

    /// When the WAL files of one log number were stored, by the clock of the machine that holds them.
    pub fn wal_stored_at(
        &self,
        system: SystemIdentifier,
        directory: LogDirectory,
    ) -> Result<BTreeMap<WalFileName, DateTime<Utc>>> {
        let entries = self.storage().list(&layout::log_directory(system, &directory.to_string()))?;
        let stored = entries.iter().filter(|entry| entry.size_bytes().is_some());
        Ok(stored
            .filter_map(|entry| Some((layout::parse_wal_file(&entry.name)?.0, entry.modified_at)))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::repo::Distance;
    use crate::repo::lease::{HeldLease, Holder};
    use crate::storage::Memory;

    #[test]
    fn a_backup_in_progress_is_seen_with_its_holder_and_what_a_dead_run_left_is_not() {
        let storage = Arc::new(Memory::default());
        let repository = Repository::new("local", storage.clone(), Distance::Near);
        let now = DateTime::UNIX_EPOCH;
        let holder = Holder { host: "there".into(), pid: 7, pid_scope: "boot".into() };
        let [live, dead]: [BackupName; 2] =
            ["base_backup_20261122_020000", "base_backup_20261121_020000"].map(|name| name.parse().unwrap());
        let take = |backup, at| {
            HeldLease::take(&*storage, &layout::backup_directory(backup), &holder, at).unwrap();
        };
        take(live, now);
        take(dead, now - lease::LIFETIME);
        let here = Holder { host: "here".into(), ..holder.clone() };
        let observer = Observer { holder: here, is_running: &|_| false };
        let found = repository.backups_in_progress(&Catalog::default(), now, &observer).unwrap();
        let [InProgress { backup, lease: Some(lease) }] = &found[..] else { panic!("{found:?}") };
        assert_eq!((*backup, &lease.holder, lease.started_at), (live, &holder, now));
    }
}
