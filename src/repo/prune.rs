//! What a repository holds down to the last object, and how it is deleted.
//!
//! What is to go is decided elsewhere; here it goes in an order that is safe at every moment, whoever else is at work
//! and whenever this process dies:
//!
//! * **A backup: record first, data last.** A backup exists if and only if its record does, so nobody ever begins to
//!   read one of which something is gone. Leases of the dead go before, `SHA256SUMS` goes after everything else: a
//!   directory with sums but neither a record nor a writer's lease is one whose deletion was begun, and the next run
//!   finishes it. (A writer takes its lease first, writes the sums just before the record, and gives the lease back
//!   after it.)
//! * **WAL: oldest first.** What is left when this is interrupted is all younger than what is gone, but for the few
//!   that were being deleted at the same time; there is no gap in what anybody needs.
//!
//! Others at work at the same time:
//!
//! * **base-backup, and its `--copy-missing`**, write into a directory without a record that a lease holds. It is left
//!   alone, however old. The directory is listed again just before its deletion, so that a lease which was renewed
//!   while the first listing was read is seen in the second. While one is at work, no WAL is deleted at all.
//! * **restore** writes a lease into the backup's directory and *then* makes sure that the record is still there. Here
//!   the record is deleted and *then* the leases are looked at again. Whichever comes first, one of the two sees the
//!   other: either the restore finds the record gone and ends before it has touched anything, or the lease is seen
//!   here and the data stays for it, until a later run. A restore that cannot write a lease is not seen; it ends in an
//!   error if its backup is deleted, and never with half a cluster, as `pg_control` comes last.
//! * **wal-push and wal-sync** add WAL behind the newest, which is never deleted. What wal-sync brings back from
//!   another repository is harmless, and goes with the next run.
//! * **wal-fetch** on behalf of a server in recovery may find a segment gone that no kept backup needs. There are
//!   later ones, so it takes that for a gap and stops the server instead of letting it promote.
//! * **another prune** deletes the same or less; deleting what is gone succeeds.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use chrono::{DateTime, Utc};

use super::lease::{self, HeldLease, Holder, Observer};
use super::{Error, Repository, Result, layout};
use crate::catalog::leftover::{Leftover, LeftoverKind, Unrecorded};
use crate::catalog::{BackupInfo, BackupName, Catalog};
use crate::pg::{SystemIdentifier, WalFileName};
use crate::storage::{self, Entry};

/// How many deletes of WAL may be waited for at a time; it is their latency that this hides.
const DELETES_AT_A_TIME: usize = 8;

/// Everything in a repository, as it was found.
#[derive(Debug)]
pub struct Survey {
    pub catalog: Catalog,
    /// When the record of each backup was stored.
    pub recorded_at: BTreeMap<BackupName, DateTime<Utc>>,
    /// The backups of which something is missing or has another size than recorded, and what.
    pub damage: BTreeMap<BackupName, String>,
    /// The recorded backups that somebody uses, and who.
    pub in_use: BTreeMap<BackupName, String>,
    pub leftovers: Vec<Leftover>,
    pub wal: Vec<WalObject>,
    /// When the newest object was stored; leases and what is unfinished do not count.
    pub newest_object_at: Option<DateTime<Utc>>,
}

/// An archived file that is no history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalObject {
    pub key: String,
    pub system: SystemIdentifier,
    pub name: WalFileName,
    pub stored_bytes: u64,
}

/// What became of a backup, or of a leftover, that was to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    Done,
    /// Nothing was touched: somebody uses it, and who.
    InUse(String),
    /// It does not exist any more, but its data stays for the one who has just begun to use it.
    DataLeft(String),
}

/// A reader's hold of one backup. See the module's essay.
#[derive(Debug)]
pub struct Reading {
    repository: Repository,
    lease: HeldLease,
}

impl Repository {
    /// Looks at everything. Each directory is listed once.
    pub fn survey(&self, now: DateTime<Utc>, observer: &Observer<'_>) -> Result<Survey> {
        let mut inventory = Inventory::default();
        let catalog = self.catalog_seen(&mut |directory, entry| inventory.see(directory, entry))?;
        for entry in self.storage().list("")? {
            inventory.see("", &entry);
        }
        let directories = std::mem::take(&mut inventory.backups);
        let mut survey = Survey {
            recorded_at: BTreeMap::new(),
            damage: BTreeMap::new(),
            in_use: BTreeMap::new(),
            leftovers: Vec::new(),
            wal: inventory.wal,
            newest_object_at: inventory.newest_at,
            catalog,
        };
        survey.leftovers.append(&mut inventory.uploads);
        for (name, directory) in directories {
            let key = layout::backup_directory(name);
            let entries = self.storage().list(&key)?;
            let holder = lease::live(self.storage(), &key, &entries, now, observer)?;
            let holder = holder.map(|live| live.to_string());
            survey.take_in(name, &directory, &entries, holder);
        }
        survey.wal.sort_by(|one, other| order(one).cmp(&order(other)));
        Ok(survey)
    }

    /// Deletes a backup: see the module's essay.
    pub fn delete_backup(
        &self,
        name: BackupName,
        now: DateTime<Utc>,
        observer: &Observer<'_>,
    ) -> Result<Deletion> {
        let (storage, directory) = (self.storage(), layout::backup_directory(name));
        let look = || -> Result<(Vec<Entry>, Option<String>)> {
            let entries = storage.list(&directory)?;
            let holder = lease::live(storage, &directory, &entries, now, observer)?;
            Ok((entries, holder.map(|live| live.to_string())))
        };
        let (entries, holder) = look()?;
        if let Some(holder) = holder {
            return Ok(Deletion::InUse(holder));
        }
        for entry in entries.iter().filter(|entry| layout::is_lease(&entry.name)) {
            storage.delete(&storage::join(&directory, &entry.name))?;
        }
        storage.delete(&layout::backup_file(name, layout::RECORD))?;
        let (entries, holder) = look()?;
        if let Some(holder) = holder {
            return Ok(Deletion::DataLeft(holder));
        }
        self.delete_all(&directory, entries)?;
        Ok(Deletion::Done)
    }

    /// Deletes garbage, unless it has turned out to be none.
    pub fn delete_leftover(
        &self,
        leftover: &Leftover,
        now: DateTime<Utc>,
        observer: &Observer<'_>,
    ) -> Result<Deletion> {
        let (storage, directory) = (self.storage(), &leftover.key);
        let LeftoverKind::Unrecorded(_) = leftover.kind else {
            storage.delete(&leftover.key)?;
            return Ok(Deletion::Done);
        };
        let entries = storage.list(directory)?;
        if let Some(live) = lease::live(storage, directory, &entries, now, observer)? {
            return Ok(Deletion::InUse(live.to_string()));
        }
        if entries.iter().any(|entry| entry.name == layout::RECORD) {
            return Ok(Deletion::InUse("whoever has recorded it just now".to_owned()));
        }
        // Whoever deleted the record may not have lived to make that durable. With it goes a directory that is empty.
        storage.delete(&storage::join(directory, layout::RECORD))?;
        self.delete_all(directory, entries)?;
        Ok(Deletion::Done)
    }

    /// Deletes everything in a directory without a record: first the data, then the sums, then leases.
    fn delete_all(&self, directory: &str, mut entries: Vec<Entry>) -> Result<()> {
        entries.sort_by_key(|entry| (layout::is_lease(&entry.name), entry.name == layout::CHECKSUMS));
        for entry in entries.iter().filter(|entry| !entry.is_directory()) {
            self.storage().delete(&storage::join(directory, &entry.name))?;
        }
        Ok(())
    }

    /// Deletes WAL, in the order given, several at a time; each one that is gone is told to `done`, which may end it.
    ///
    /// After an error no further one is begun.
    pub fn delete_wal(
        &self,
        objects: &[&WalObject],
        done: &(dyn Fn(&WalObject) -> ControlFlow<()> + Sync),
    ) -> Result<()> {
        let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let work = || {
            while !is_over.load(Ordering::Relaxed)
                && let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed))
            {
                match self.storage().delete(&object.key) {
                    Ok(()) if done(object).is_continue() => {}
                    Ok(()) => is_over.store(true, Ordering::Relaxed),
                    Err(error) => {
                        is_over.store(true, Ordering::Relaxed);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.into());
                    }
                }
            }
        };
        match objects.len() {
            0 => {}
            1 => work(),
            count => thread::scope(|scope| {
                for _ in 0..count.min(DELETES_AT_A_TIME) {
                    scope.spawn(work);
                }
            }),
        }
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Holds a backup for as long as it is read.
    ///
    /// # Errors
    /// When no lease can be written, which need not keep anybody from reading; and [`Error::Missing`] when the backup
    /// was deleted meanwhile, which must.
    pub fn hold_to_read(&self, name: BackupName, holder: &Holder, now: DateTime<Utc>) -> Result<Reading> {
        let directory = layout::backup_directory(name);
        let lease = HeldLease::take_to_read(self.storage(), &directory, holder, now)?;
        let reading = Reading { repository: self.clone(), lease };
        let record = layout::backup_file(name, layout::RECORD);
        match self.storage().open(&record) {
            Ok(_) => Ok(reading),
            Err(error) => {
                reading.release();
                match error.kind {
                    storage::ErrorKind::NotFound => Err(self.missing(&record)),
                    _ => Err(error.into()),
                }
            }
        }
    }
}

impl Reading {
    /// Renews the lease if it is due.
    pub fn keep(&mut self, now: DateTime<Utc>) {
        if let Err(error) = self.lease.keep(self.repository.storage(), now) {
            tracing::info!("the backup that is being read may be taken for unused: {error}");
        }
    }

    pub fn release(self) {
        if let Err(error) = self.lease.release(self.repository.storage()) {
            tracing::info!("a lease stays, which does no harm: {error}");
        }
    }
}

/// What the listings showed.
#[derive(Default)]
struct Inventory {
    backups: BTreeMap<BackupName, Entry>,
    wal: Vec<WalObject>,
    uploads: Vec<Leftover>,
    newest_at: Option<DateTime<Utc>>,
}

impl Inventory {
    fn see(&mut self, directory: &str, entry: &Entry) {
        let key =
            if directory.is_empty() { entry.name.clone() } else { storage::join(directory, &entry.name) };
        match entry.kind {
            storage::EntryKind::Unfinished => self.uploads.push(upload(key, entry)),
            storage::EntryKind::Directory if directory == layout::BASE_BACKUPS => {
                self.backups.extend(entry.name.parse().ok().map(|name| (name, entry.clone())));
            }
            storage::EntryKind::Directory => {}
            storage::EntryKind::Object { size_bytes } => {
                self.newest_at = self.newest_at.max(Some(entry.modified_at));
                self.wal.extend(wal_object(directory, key, entry, size_bytes));
            }
        }
    }
}

impl Survey {
    fn take_in(&mut self, name: BackupName, directory: &Entry, entries: &[Entry], holder: Option<String>) {
        let key = layout::backup_directory(name);
        let is_lease = |entry: &&Entry| layout::is_lease(&entry.name);
        let objects = || entries.iter().filter(|entry| entry.size_bytes().is_some());
        let newest = objects().filter(|entry| !is_lease(entry)).map(|entry| entry.modified_at).max();
        self.newest_object_at = self.newest_object_at.max(newest);
        let record = objects().find(|entry| entry.name == layout::RECORD);
        let Some(record) = record else {
            let has_sums = objects().any(|entry| entry.name == layout::CHECKSUMS);
            let was_left = entries.iter().any(|entry| layout::is_writer_lease(&entry.name));
            let kind = match holder {
                Some(holder) => Unrecorded::Held(holder),
                None if has_sums && !was_left => Unrecorded::HalfDeleted,
                None => Unrecorded::Abandoned,
            };
            let changed_at = entries.iter().map(|entry| entry.modified_at).max();
            self.leftovers.push(Leftover {
                key,
                kind: LeftoverKind::Unrecorded(kind),
                changed_at: changed_at.unwrap_or(directory.modified_at),
                stored_bytes: objects().filter_map(Entry::size_bytes).sum(),
            });
            return;
        };
        self.recorded_at.insert(name, record.modified_at);
        let is_known = self.catalog.backup(name).is_some()
            || self.catalog.damaged().iter().any(|damaged| damaged.name == name.to_string());
        if !is_known {
            // Recorded since the records were read: what it needs is as unknown as while it was written.
            let kind = LeftoverKind::Unrecorded(Unrecorded::Held("whoever has just recorded it".to_owned()));
            self.leftovers.push(Leftover { key, kind, changed_at: record.modified_at, stored_bytes: 0 });
            return;
        }
        if let Some(damage) = self.catalog.backup(name).and_then(|info| missing(info, entries)) {
            self.damage.insert(name, damage);
        }
        if let Some(holder) = holder {
            self.in_use.insert(name, holder);
            return;
        }
        for entry in entries.iter().filter(|entry| !entry.is_directory()) {
            let key = storage::join(&key, &entry.name);
            if entry.is_unfinished() {
                self.leftovers.push(upload(key, entry));
            } else if is_lease(&entry) {
                let kind = LeftoverKind::Lease;
                self.leftovers.push(Leftover { kind, ..upload(key, entry) });
            }
        }
    }
}

fn upload(key: String, entry: &Entry) -> Leftover {
    let stored_bytes = entry.size_bytes().unwrap_or(0);
    Leftover { key, kind: LeftoverKind::Upload, changed_at: entry.modified_at, stored_bytes }
}

fn wal_object(directory: &str, key: String, entry: &Entry, stored_bytes: u64) -> Option<WalObject> {
    let mut components = directory.split('/');
    let is_in_archive = components.next() == Some(layout::WAL_ARCHIVE);
    let system = components.next().filter(|_| is_in_archive)?.parse().ok()?;
    let (name, _) = layout::parse_wal_file(&entry.name)?;
    let is_history = matches!(name, WalFileName::History(_));
    (!is_history).then_some(WalObject { key, system, name, stored_bytes })
}

/// In which WAL is deleted.
fn order(object: &WalObject) -> (SystemIdentifier, Option<crate::pg::SegmentPlace>, &WalFileName) {
    (object.system, object.name.place(), &object.name)
}

/// What of a recorded backup is not there as recorded.
fn missing(info: &BackupInfo, entries: &[Entry]) -> Option<String> {
    info.files.iter().find_map(|file| {
        let found = entries.iter().find(|entry| entry.name == file.name).and_then(Entry::size_bytes);
        match found {
            Some(size_bytes) if size_bytes == file.size_bytes => None,
            Some(size_bytes) => {
                Some(format!("{} has {size_bytes} bytes instead of {}", file.name, file.size_bytes))
            }
            None => Some(format!("{} is missing", file.name)),
        }
    })
}
