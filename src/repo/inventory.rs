//! Everything that lies in a repository, object by object, and what is wrong with it to go by names, sizes, records
//! and histories.
//!
//! Where a [`Catalog`] says what can be used, and fails when it cannot be read whole, an [`Inventory`] goes on: an
//! object or a directory that may not be read is listed as such, and the catalog that can be made of the rest is for
//! judging it, never for restoring or deleting. Only what may be a passing failure, such as a link that is down, and
//! what hides everything ends it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::lease::{self, Observer};
use super::restore_md::Guide;
use super::{Error, Repository, Result, layout};
use crate::catalog::wal::StoredAs;
use crate::catalog::{BackupInfo, BackupName, Catalog, DamagedBackup, RecordError, WalArchive};
use crate::pg::{SystemIdentifier, Timeline, WalFileName};
use crate::pipe::Codec;
use crate::storage::{self, Entry, ErrorKind};

/// What file systems put at their root themselves.
const OF_THE_FILE_SYSTEM: &str = "lost+found";

/// Far more than any version's text.
const GUIDE_SIZE_MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Default)]
pub struct Inventory {
    pub backups: Vec<BackupDirectory>,
    /// By key.
    pub wal: BTreeMap<String, WalObject>,
    /// Histories that could not be read or understood.
    pub bad_histories: Vec<BadHistory>,
    /// Keys that mean nothing in a repository.
    pub strangers: Vec<String>,
    /// Uploads that were never committed.
    pub unfinished: Vec<String>,
    /// Directories that may not be listed.
    pub closed: Vec<Closed>,
    /// What is there as `RESTORE.md`.
    pub guide: Guide,
    archives: BTreeMap<SystemIdentifier, WalArchive>,
}

/// A directory below `base-backups`.
#[derive(Debug)]
pub struct BackupDirectory {
    pub name: BackupName,
    pub entries: Vec<Entry>,
    pub state: BackupState,
}

#[derive(Debug)]
pub enum BackupState {
    Recorded(Box<BackupInfo>),
    /// There is a record, and it is of no use.
    Damaged(RecordError),
    /// There is a record, and it may not be read.
    Closed(Error),
    /// There is no record, but a live lease.
    InProgress,
    /// There is neither: an unfinished backup, or an unfinished deletion.
    Garbage,
}

#[derive(Debug, Clone)]
pub struct WalObject {
    pub system: SystemIdentifier,
    pub name: WalFileName,
    pub codec: Codec,
    pub stored: StoredAs,
}

#[derive(Debug)]
pub struct BadHistory {
    pub key: String,
    pub system: SystemIdentifier,
    pub timeline: Timeline,
    /// A message without a final period.
    pub reason: String,
}

/// What may not be looked into.
#[derive(Debug)]
pub struct Closed {
    pub key: String,
    pub error: Error,
}

impl Repository {
    /// Lists everything, and reads records, leases and histories.
    pub fn inventory(&self, now: DateTime<Utc>, observer: &Observer<'_>) -> Result<Inventory> {
        self.must_exist()?;
        let guide = self.read_small(layout::RESTORE_MD, GUIDE_SIZE_MAX_BYTES);
        let guide = guide.map_or(Guide::Damaged, |found| Guide::of(&found));
        let mut inventory = Inventory { guide, ..Inventory::default() };
        let known = [layout::RESTORE_MD, layout::BASE_BACKUPS, layout::WAL_ARCHIVE, OF_THE_FILE_SYSTEM];
        for entry in self.storage().list("")? {
            if !known.contains(&entry.name.as_str()) {
                inventory.add_stranger("", &entry);
            }
        }
        self.take_in_backups(&mut inventory, now, observer)?;
        self.take_in_wal(&mut inventory)?;
        Ok(inventory)
    }

    /// Says what it was that ended the reading of an object.
    pub fn read_error(&self, key: &str, error: std::io::Error) -> storage::Error {
        storage::Error::from_io("read", key, self.storage(), error)
    }

    fn take_in_backups(
        &self,
        inventory: &mut Inventory,
        now: DateTime<Utc>,
        observer: &Observer<'_>,
    ) -> Result<()> {
        for entry in self.storage().list(layout::BASE_BACKUPS)? {
            let name = entry.name.parse::<BackupName>().ok().filter(|_| entry.is_directory());
            let Some(name) = name else {
                inventory.add_stranger(layout::BASE_BACKUPS, &entry);
                continue;
            };
            let directory = layout::backup_directory(name);
            let entries = match self.list_if_open(&directory)? {
                Ok(entries) => entries,
                Err(error) => {
                    inventory.closed.push(Closed { key: directory, error });
                    continue;
                }
            };
            let has_record = entries.iter().any(|entry| entry.name == layout::RECORD);
            let state = match has_record {
                true => self.recorded(name)?,
                false => match lease::live(self.storage(), &directory, &entries, now, observer) {
                    Ok(Some(_)) => BackupState::InProgress,
                    Ok(None) => BackupState::Garbage,
                    // It may be alive, for all that can be seen.
                    Err(error) => {
                        let key = storage::join(&directory, "lease-*.toml");
                        inventory.closed.push(Closed { key, error: must_stay(error.into())? });
                        BackupState::InProgress
                    }
                },
            };
            inventory.backups.push(BackupDirectory { name, entries, state });
        }
        Ok(())
    }

    fn recorded(&self, name: BackupName) -> Result<BackupState> {
        Ok(match self.read_record(name) {
            Ok(Some(Ok(info))) => BackupState::Recorded(Box::new(info)),
            Ok(Some(Err(error))) => BackupState::Damaged(error),
            // Deleted since it was listed.
            Ok(None) => BackupState::Garbage,
            Err(error) => BackupState::Closed(must_stay(error)?),
        })
    }

    fn take_in_wal(&self, inventory: &mut Inventory) -> Result<()> {
        for entry in self.storage().list(layout::WAL_ARCHIVE)? {
            match entry.name.parse::<SystemIdentifier>().ok().filter(|_| entry.is_directory()) {
                Some(system) => self.take_in_system(inventory, system)?,
                None => inventory.add_stranger(layout::WAL_ARCHIVE, &entry),
            }
        }
        Ok(())
    }

    fn take_in_system(&self, inventory: &mut Inventory, system: SystemIdentifier) -> Result<()> {
        let root = layout::wal_of(system);
        let mut found: Vec<(String, Entry)> = Vec::new();
        let in_root = match self.list_if_open(&root)? {
            Ok(entries) => entries,
            Err(error) => {
                inventory.closed.push(Closed { key: root, error });
                return Ok(());
            }
        };
        for entry in in_root {
            if !entry.is_directory() {
                found.push((root.clone(), entry));
            } else if layout::parse_segment_directory(&entry.name).is_none() {
                inventory.add_stranger(&root, &entry);
            } else {
                let directory = storage::join(&root, &entry.name);
                match self.list_if_open(&directory)? {
                    Ok(entries) => {
                        found.extend(entries.into_iter().map(|entry| (directory.clone(), entry)));
                    }
                    Err(error) => inventory.closed.push(Closed { key: directory, error }),
                }
            }
        }
        let mut objects = BTreeMap::new();
        for (directory, entry) in found {
            let size_bytes = entry.size_bytes();
            let parsed = layout::parse_wal_file(&entry.name).zip(size_bytes);
            // A name in another directory than its own would not be found there.
            let parsed = parsed.filter(|((name, _), _)| layout::wal_directory(system, name) == directory);
            match parsed {
                Some(((name, codec), size_bytes)) => {
                    let stored = StoredAs { size_bytes, stored_at: entry.modified_at };
                    let key = storage::join(&directory, &entry.name);
                    objects.insert(key, WalObject { system, name, codec, stored });
                }
                None => inventory.add_stranger(&directory, &entry),
            }
        }
        self.add_archive(inventory, system, &objects)?;
        inventory.wal.extend(objects);
        Ok(())
    }

    fn add_archive(
        &self,
        inventory: &mut Inventory,
        system: SystemIdentifier,
        objects: &BTreeMap<String, WalObject>,
    ) -> Result<()> {
        let of_system = |info: &&BackupInfo| info.system_identifier == system;
        let recorded = inventory.recorded().filter(of_system).last().map(|info| info.wal_segment_size);
        let segment_size = match recorded {
            Some(size) => size,
            None => match self.segment_size(system, objects.values().map(|object| &object.name)) {
                Ok(size) => size,
                Err(error) => {
                    must_stay(error)?;
                    crate::pg::SegmentSize::DEFAULT
                }
            },
        };
        let mut archive = WalArchive::new(segment_size);
        for (key, object) in objects {
            archive.add(&object.name, object.stored);
            let WalFileName::History(timeline) = object.name else { continue };
            let bad = |reason| BadHistory { key: key.clone(), system, timeline, reason };
            match self.history(system, timeline, object.codec) {
                // Deleted since it was listed.
                Ok(None) => {}
                Err(error) => {
                    let reason = must_stay(error)?.to_string();
                    archive.add_unreadable_history(timeline, reason.clone());
                    inventory.bad_histories.push(bad(reason));
                }
                Ok(Some(content)) => {
                    archive.add_history(timeline, &content);
                    // The server ends each line; what is left of a last one may name another place.
                    if !content.ends_with(b"\n") {
                        inventory.bad_histories.push(bad("it ends in the middle of a line".to_owned()));
                    }
                }
            }
        }
        archive.refuse_contradicted_histories();
        for (key, object) in objects {
            let WalFileName::History(timeline) = object.name else { continue };
            let is_told = inventory.bad_histories.iter().any(|bad| bad.key == *key);
            if let Some(Err(reason)) = archive.histories().get(&timeline)
                && !is_told
            {
                let (key, reason) = (key.clone(), reason.clone());
                inventory.bad_histories.push(BadHistory { key, system, timeline, reason });
            }
        }
        inventory.archives.insert(system, archive);
        Ok(())
    }

    /// Lists a directory, unless it may not be listed, which is the inner error.
    fn list_if_open(&self, directory: &str) -> Result<std::result::Result<Vec<Entry>, Error>> {
        match self.storage().list(directory) {
            Ok(entries) => Ok(Ok(entries)),
            Err(error) => must_stay(error.into()).map(Err),
        }
    }
}

/// Hands back an error that would be the same tomorrow; what may pass ends the run.
pub fn must_stay(error: Error) -> Result<Error> {
    match &error {
        Error::Storage(source) if source.kind == ErrorKind::Transient || source.interrupted().is_some() => {
            Err(error)
        }
        _ => Ok(error),
    }
}

impl Inventory {
    /// The backups whose records can be read, in the order of their names.
    pub fn recorded(&self) -> impl Iterator<Item = &BackupInfo> {
        self.backups.iter().filter_map(BackupDirectory::info)
    }

    /// What could be restored if everything listed is whole.
    pub fn catalog(&self) -> Catalog {
        let damaged = self.backups.iter().filter_map(|directory| {
            let (reason, hint) = match &directory.state {
                BackupState::Damaged(error) => (error.to_string(), error.hint()),
                BackupState::Closed(error) => (error.to_string(), error.hint()),
                _ => return None,
            };
            Some(DamagedBackup { name: directory.name.to_string(), reason, hint })
        });
        let backups = self.recorded().cloned().collect();
        Catalog::new(backups, damaged.collect(), self.archives.clone())
    }

    /// Every object's key with its size and time, those of backups included.
    pub fn objects(&self) -> BTreeMap<String, StoredAs> {
        let of_backups = self.backups.iter().flat_map(|directory| {
            directory.entries.iter().filter_map(|entry| {
                let stored = StoredAs { size_bytes: entry.size_bytes()?, stored_at: entry.modified_at };
                Some((layout::backup_file(directory.name, &entry.name), stored))
            })
        });
        let of_wal = self.wal.iter().map(|(key, object)| (key.clone(), object.stored));
        of_backups.chain(of_wal).collect()
    }

    fn add_stranger(&mut self, directory: &str, entry: &Entry) {
        let key = storage::join(directory, &entry.name);
        match entry.is_unfinished() {
            true => self.unfinished.push(key),
            false => self.strangers.push(key),
        }
    }
}

impl BackupDirectory {
    pub fn info(&self) -> Option<&BackupInfo> {
        match &self.state {
            BackupState::Recorded(info) => Some(info),
            _ => None,
        }
    }

    pub fn entry(&self, file_name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == file_name)
    }
}
