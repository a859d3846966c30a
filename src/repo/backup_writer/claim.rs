//! The claim of one repository's part in a backup: the backup's directory there, and the lease that holds it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};

use super::super::lease::{self, HeldLease, Observer};
use super::super::{Error, Repository, Result, layout};
use crate::catalog::BackupName;
use crate::storage;

/// The time, as the run last told it to all who write for it. In whole seconds, as leases need no more.
#[derive(Debug, Clone)]
pub struct RunTime(Arc<AtomicI64>);

impl RunTime {
    pub fn new(now: DateTime<Utc>) -> Self {
        Self(Arc::new(AtomicI64::new(now.timestamp())))
    }

    pub fn set(&self, now: DateTime<Utc>) {
        self.0.store(now.timestamp(), Ordering::Relaxed);
    }

    pub fn get(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.0.load(Ordering::Relaxed), 0).expect("it came from a time")
    }
}

/// A directory that is to hold a backup. Nothing is touched before the first [`Claim::hold`].
pub struct Claim {
    pub repository: Repository,
    name: BackupName,
    observer: Observer<'static>,
    time: RunTime,
    lease: Mutex<Option<HeldLease>>,
}

impl Claim {
    pub fn new(
        repository: &Repository,
        name: BackupName,
        observer: &Observer<'static>,
        time: &RunTime,
    ) -> Self {
        let (repository, observer, time) = (repository.clone(), observer.clone(), time.clone());
        Self { repository, name, observer, time, lease: Mutex::new(None) }
    }

    /// Makes sure that the lease is there and not about to expire. The first time, that makes the repository if it is
    /// missing, deletes what dead runs left, and insists that nobody else is at this directory.
    pub fn hold(&self) -> Result<()> {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let (storage, now) = (self.repository.storage(), self.time.get());
        if let Some(lease) = &mut *lease {
            return Ok(lease.keep(storage, now)?);
        }
        self.repository.ensure_exists()?;
        if let Err(error) = sweep(&self.repository, &self.observer, now) {
            let repository = self.repository.name();
            tracing::warn!("could not look for unfinished backups in repository {repository}: {error}");
        }
        let directory = layout::backup_directory(self.name);
        if !storage.list(&directory)?.is_empty() {
            let repository = self.repository.name().to_owned();
            return Err(Error::BackupInProgress { repository, name: self.name.to_string() });
        }
        *lease = Some(HeldLease::take(storage, &directory, &self.observer.holder, now)?);
        Ok(())
    }

    /// Gives the lease back, once the backup is recorded.
    pub fn release(&self) {
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = lease.map(|lease| lease.release(self.repository.storage())) {
            tracing::warn!("{} keeps its lease, which does no harm: {error}", self.name);
        }
    }

    /// Deletes what was written. What was never claimed is another's.
    pub fn discard(&self) {
        if self.lease.lock().unwrap_or_else(PoisonError::into_inner).take().is_none() {
            return;
        }
        if let Err(error) = discard(&self.repository, &layout::backup_directory(self.name)) {
            let (name, repository) = (self.name, self.repository.name());
            tracing::warn!("{name} stays unfinished in repository {repository} until the next run: {error}");
        }
    }
}

/// Deletes what dead runs left of backups that they never recorded.
fn sweep(repository: &Repository, observer: &Observer<'_>, now: DateTime<Utc>) -> Result<()> {
    let storage = repository.storage();
    for entry in storage.list(layout::BASE_BACKUPS)?.into_iter().filter(storage::Entry::is_directory) {
        let directory = storage::join(layout::BASE_BACKUPS, &entry.name);
        let files = storage.list(&directory)?;
        let recorded = files.iter().any(|file| file.name == layout::RECORD);
        if recorded || lease::live(storage, &directory, &files, now, observer)?.is_some() {
            continue;
        }
        tracing::info!("deleting the unfinished {} from repository {}", entry.name, repository.name());
        discard(repository, &directory)?;
    }
    Ok(())
}

/// Deletes everything in a directory without a record: leases last, so that it stays known for unfinished.
fn discard(repository: &Repository, directory: &str) -> Result<()> {
    let storage = repository.storage();
    let mut entries = storage.list(directory)?;
    if entries.is_empty() {
        // A run that died before its lease left the directory; it goes as after the last of its objects.
        storage.delete(&storage::join(directory, layout::RECORD))?;
    }
    entries.sort_by_key(|entry| (entry.name != layout::RECORD, layout::is_lease(&entry.name)));
    for entry in entries.into_iter().filter(|entry| !entry.is_directory()) {
        storage.delete(&storage::join(directory, &entry.name))?;
    }
    Ok(())
}
