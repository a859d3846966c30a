//! A repository as a catalog: what its listing and its records say.
//!
//! The listing is the catalog; no index is kept that could disagree with it. A record that cannot be read, or that
//! contradicts its own place, makes its backup a damaged one; it never hides the others.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use super::inventory::must_stay;
use super::{Error, Repository, Result, layout};
use crate::catalog::wal::StoredAs;
use crate::catalog::{BackupInfo, BackupName, Catalog, DamagedBackup, RecordError, WalArchive, backup};
use crate::digest_line::{self, Checked};
use crate::pg::{SegmentSize, SystemIdentifier, Timeline, WalFileName, history, wal_page};
use crate::pipe::{Codec, Workers};
use crate::storage::{self, Entry};

impl Repository {
    /// Reads everything that the repository's listing and records say.
    pub fn catalog(&self) -> Result<Catalog> {
        self.catalog_seen(&mut |_, _| {})
    }

    /// The same, and shows every entry that is listed on the way, with its directory.
    pub(super) fn catalog_seen(&self, seen: &mut dyn FnMut(&str, &Entry)) -> Result<Catalog> {
        self.must_exist()?;
        let (backups, damaged) = self.records(seen)?;
        let mut archives = BTreeMap::new();
        for system in self.systems()? {
            let of_system = |backup: &&BackupInfo| backup.system_identifier == system;
            let recorded = backups.iter().rfind(of_system).map(|backup| backup.wal_segment_size);
            archives.insert(system, self.wal_archive(system, recorded, seen)?);
        }
        Ok(Catalog::new(backups, damaged, archives))
    }

    /// The backups that can be used, without a look at any WAL.
    pub fn backups(&self) -> Result<Vec<BackupInfo>> {
        self.records(&mut |_, _| {}).map(|(backups, _)| backups)
    }

    fn records(&self, seen: &mut dyn FnMut(&str, &Entry)) -> Result<(Vec<BackupInfo>, Vec<DamagedBackup>)> {
        let (mut backups, mut damaged) = (Vec::new(), Vec::new());
        let listed = self.storage().list(layout::BASE_BACKUPS)?;
        listed.iter().for_each(|entry| seen(layout::BASE_BACKUPS, entry));
        for entry in listed.iter().filter(|entry| entry.is_directory()) {
            let Ok(name) = entry.name.parse() else { continue };
            let (reason, hint) = match self.read_record(name) {
                Ok(None) => continue,
                Ok(Some(Ok(info))) => {
                    backups.push(info);
                    continue;
                }
                Ok(Some(Err(error))) => (error.to_string(), error.hint()),
                // One record that may not be read hides its own backup alone.
                Err(error) => must_stay(error).map(|error| (error.to_string(), error.hint()))?,
            };
            damaged.push(DamagedBackup { name: entry.name.clone(), reason, hint });
        }
        Ok((backups, damaged))
    }

    /// The record of one backup; `None` where the backup does not exist.
    pub fn backup(&self, name: BackupName) -> Result<Option<BackupInfo>> {
        let key = layout::backup_file(name, layout::RECORD);
        self.read_record(name)?.transpose().map_err(|error| self.damaged(&key, error))
    }

    /// Makes sure that a recorded backup stays recorded: whoever wrote the record may not have lived to make it
    /// durable.
    pub fn keep_recorded(&self, name: BackupName) -> Result<()> {
        self.make_durable(&layout::backup_file(name, layout::RECORD))
    }

    /// The clusters of which there is WAL.
    pub fn systems(&self) -> Result<Vec<SystemIdentifier>> {
        let entries = self.storage().list(layout::WAL_ARCHIVE)?;
        let directories = entries.iter().filter(|entry| entry.is_directory());
        Ok(directories.filter_map(|entry| entry.name.parse().ok()).collect())
    }

    /// The record of a backup, if it can be understood; `None` where there is none, so that the backup does not exist.
    pub(super) fn read_record(
        &self,
        name: BackupName,
    ) -> Result<Option<std::result::Result<BackupInfo, RecordError>>> {
        let key = layout::backup_file(name, layout::RECORD);
        match self.read_small(&key, backup::MAX_BYTES as u64) {
            Err(Error::Missing { .. }) => Ok(None),
            Err(Error::Damaged { .. }) => {
                Ok(Some(Err(RecordError::TooLong { size_bytes: backup::MAX_BYTES + 1 })))
            }
            read => Ok(Some(BackupInfo::from_toml(&read?, name))),
        }
    }

    fn wal_archive(
        &self,
        system: SystemIdentifier,
        recorded: Option<SegmentSize>,
        seen: &mut dyn FnMut(&str, &Entry),
    ) -> Result<WalArchive> {
        let root = layout::wal_of(system);
        let (mut files, mut histories) = (Vec::new(), Vec::new());
        for entry in self.storage().list(&root)? {
            seen(&root, &entry);
            if entry.is_directory() && layout::parse_segment_directory(&entry.name).is_some() {
                let directory = storage::join(&root, &entry.name);
                let listed = self.storage().list(&directory)?;
                listed.iter().for_each(|entry| seen(&directory, entry));
                files.extend(listed);
            } else if let Some((WalFileName::History(timeline), codec)) = layout::parse_wal_file(&entry.name)
            {
                histories.push((timeline, codec));
            }
        }
        // Leaves out what is not WAL, and uploads that were never committed.
        let stored = files.iter().filter_map(|entry| {
            let stored = StoredAs { size_bytes: entry.size_bytes()?, stored_at: entry.modified_at };
            Some((layout::parse_wal_file(&entry.name)?.0, stored))
        });
        let stored: Vec<_> = stored.collect();
        let size = match recorded {
            Some(size) => size,
            None => self.segment_size(system, stored.iter().map(|(name, _)| name))?,
        };
        let mut archive = WalArchive::new(size);
        for (name, stored) in stored {
            archive.add(&name, stored);
        }
        for (timeline, codec) in histories {
            self.add_history(&mut archive, system, timeline, codec)?;
        }
        archive.refuse_contradicted_histories();
        Ok(archive)
    }

    /// The segment size of a cluster without a backup, by what the first of its segments that can be read says.
    pub(super) fn segment_size<'a>(
        &self,
        system: SystemIdentifier,
        names: impl Iterator<Item = &'a WalFileName>,
    ) -> Result<SegmentSize> {
        for name in names.filter(|name| matches!(name, WalFileName::Segment(_))) {
            if let Some(size) = self.segment_size_in(system, name)? {
                return Ok(size);
            }
        }
        Ok(SegmentSize::DEFAULT)
    }

    /// The segment size that a stored segment's own header gives; `None` when it cannot be read.
    pub fn segment_size_in(
        &self,
        system: SystemIdentifier,
        name: &WalFileName,
    ) -> Result<Option<SegmentSize>> {
        let workers = Workers::new(1).map_err(|source| Error::Source { what: name.to_string(), source })?;
        let Some((_, object)) = self.open_wal(system, name, &Arc::new(workers))? else { return Ok(None) };
        let mut page = Vec::new();
        let read = object.take(wal_page::LONG_HEADER_BYTES as u64).read_to_end(&mut page);
        let header = read.ok().and_then(|_| wal_page::LongHeader::parse(&page).ok());
        Ok(header.map(|header| header.segment_size))
    }

    /// The content of a timeline's history; `None` where there is none.
    pub fn history(
        &self,
        system: SystemIdentifier,
        timeline: Timeline,
        codec: Codec,
    ) -> Result<Option<Vec<u8>>> {
        let key = layout::wal_file(system, &WalFileName::History(timeline), codec);
        match self.read_small(&key, history::MAX_BYTES) {
            Ok(stored) => match digest_line::check(&stored) {
                Checked::Whole(lines) => Ok(Some(lines.to_vec())),
                Checked::WithoutDigest => Ok(Some(stored)),
                Checked::Altered { .. } => Err(self.damaged(&key, "its last line tells another SHA-256")),
            },
            Err(Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn add_history(
        &self,
        archive: &mut WalArchive,
        system: SystemIdentifier,
        timeline: Timeline,
        codec: Codec,
    ) -> Result<()> {
        match self.history(system, timeline, codec) {
            Ok(Some(content)) => archive.add_history(timeline, &content),
            // Where it was deleted since it was listed, it stays known as unreadable.
            Ok(None) => {}
            Err(error) => archive.add_unreadable_history(timeline, must_stay(error)?.to_string()),
        }
        Ok(())
    }
}
