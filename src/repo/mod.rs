//! A repository: what the keys of a storage mean, and the protocol by which they are written and read.
//!
//! * [`layout`] is the only place that builds or parses a key.
//! * [`BackupWriter`] writes one backup to several repositories, data first, record last.
//! * [`BackupReader`] reads one back and trusts nothing that it has not checked.
//! * [`wal`] stores and finds WAL files, each once; [`wal_copy`] copies them between repositories.
//! * [`inventory`] lists everything, whatever state it is in.
//! * [`lease`] tells a run in progress from what a dead one left.
//! * [`prune`] deletes, in an order that is safe at every moment.
//!
//! It knows nothing of commands, servers or how bytes reach a disk.

pub mod inventory;
pub mod layout;
pub mod lease;
pub mod prune;
pub mod wal;
pub mod wal_copy;
pub mod wal_tip;

mod backup_reader;
mod backup_writer;
mod error;
pub mod restore_md;
mod scan;
mod watch;

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

pub use backup_reader::{BackupReader, Check};
pub use backup_writer::{Archive, BackupWriter, CopyOutcome, Pulse, copy_backup};
pub use error::Error;
pub use watch::InProgress;

use crate::storage::{self, Storage};

pub type Result<T> = std::result::Result<T, Error>;

/// One place that holds one cluster's history, under the name that the configuration gives it.
#[derive(Clone)]
pub struct Repository {
    name: String,
    storage: Arc<dyn Storage>,
    distance: Distance,
}

/// Whether what is written elsewhere at the same time waits for a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// A disk of this machine.
    Near,
    /// At the other end of a link, which may be slow or down.
    Far,
}

impl Repository {
    pub fn new(name: impl Into<String>, storage: Arc<dyn Storage>, distance: Distance) -> Self {
        Self { name: name.into(), storage, distance }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn distance(&self) -> Distance {
        self.distance
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        self.storage.to_string()
    }

    fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Makes the repository if it is not there yet: writes `RESTORE.md`, which marks it as one.
    pub fn ensure_exists(&self) -> Result<()> {
        if self.exists()? {
            return Ok(());
        }
        match put_small(self.storage(), layout::RESTORE_MD, restore_md::stored().as_bytes()) {
            Err(error) if error.kind != storage::ErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Whether this is a repository, rather than an empty or unmounted directory.
    pub fn exists(&self) -> Result<bool> {
        match self.storage.open(layout::RESTORE_MD) {
            Ok(_) => Ok(true),
            Err(error) if error.kind == storage::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Fails unless this is a repository: what an absent one does not hold is no answer.
    pub fn must_exist(&self) -> Result<()> {
        match self.exists()? {
            true => Ok(()),
            false => Err(Error::NotARepository { repository: self.name.clone(), place: self.place() }),
        }
    }

    fn missing(&self, key: &str) -> Error {
        Error::Missing { repository: self.name.clone(), key: key.to_owned() }
    }

    fn damaged(&self, key: &str, reason: impl fmt::Display) -> Error {
        Error::Damaged { repository: self.name.clone(), key: key.to_owned(), reason: reason.to_string() }
    }

    /// Opens any object for reading.
    pub fn open(&self, key: &str) -> Result<Box<dyn Read + Send>> {
        match self.storage.open(key) {
            Err(error) if error.kind == storage::ErrorKind::NotFound => Err(self.missing(key)),
            opened => Ok(opened?),
        }
    }

    /// Makes sure that an object stays: whoever stored it may have died between making it visible and making that
    /// durable.
    pub fn make_durable(&self, key: &str) -> Result<()> {
        match self.storage.sync(key) {
            Err(error) if error.kind == storage::ErrorKind::NotFound => Err(self.missing(key)),
            synced => Ok(synced?),
        }
    }

    /// Reads an object that is small by its nature, whole. A larger one than `size_max_bytes` is damage.
    fn read_small(&self, key: &str, size_max_bytes: u64) -> Result<Vec<u8>> {
        let object = self.open(key)?;
        let mut bytes = Vec::new();
        let read = object.take(size_max_bytes + 1).read_to_end(&mut bytes);
        read.map_err(|error| storage::Error::from_io("read", key, &self.storage, error))?;
        match bytes.len() as u64 > size_max_bytes {
            true => Err(self.damaged(key, format!("expected at most {size_max_bytes} bytes, found more"))),
            false => Ok(bytes),
        }
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repository({} at {})", self.name, self.storage)
    }
}

/// Writes an object in one piece.
fn put_small(storage: &dyn Storage, key: &str, bytes: &[u8]) -> storage::Result<()> {
    let mut upload = storage.create(key)?;
    let written = io::Write::write_all(&mut *upload, bytes);
    written.map_err(|error| storage::Error::from_io("write", key, storage, error))?;
    upload.commit()
}
