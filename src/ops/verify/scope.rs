//! What of a repository is looked at: everything, or one backup and the WAL from its start on.

use crate::catalog::{BackupName, Catalog};
use crate::pg::{Lsn, SegmentSize, SystemIdentifier, WalFileName};

#[derive(Debug, Clone)]
pub struct Scope {
    only: Option<Only>,
}

#[derive(Debug, Clone)]
struct Only {
    backup: BackupName,
    /// Where it starts; `None` when its record cannot be read.
    start: Option<(SystemIdentifier, Lsn)>,
}

impl Scope {
    /// `backup` is a name, or `latest`; `None` is everything. There is no scope where there is no such backup.
    pub fn new(backup: Option<&str>, catalog: &Catalog) -> Option<Self> {
        let Some(name) = backup else { return Some(Self { only: None }) };
        let found = match name {
            "latest" => catalog.newest_backup(),
            _ => name.parse().ok().and_then(|name| catalog.backup(name)),
        };
        if let Some(info) = found {
            let start = Some((info.system_identifier, info.start_lsn));
            return Some(Self { only: Some(Only { backup: info.name, start }) });
        }
        let damaged = catalog.damaged().iter().find(|damaged| damaged.name == name)?;
        let backup = damaged.name.parse().ok()?;
        Some(Self { only: Some(Only { backup, start: None }) })
    }

    pub fn is_everything(&self) -> bool {
        self.only.is_none()
    }

    pub fn has_backup(&self, name: BackupName) -> bool {
        self.only.as_ref().is_none_or(|only| only.backup == name)
    }

    /// Histories are few, and looked at whatever the backup.
    pub fn has_wal(&self, system: SystemIdentifier, name: &WalFileName, size: SegmentSize) -> bool {
        let Some(only) = &self.only else { return true };
        let Some((of, lsn)) = only.start else { return false };
        of == system && name.segment(size).is_none_or(|segment| lsn < segment.end(size))
    }
}
