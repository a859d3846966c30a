//! Where repositories keep their objects: write-once bytes under keys.
//!
//! Storage knows nothing of PostgreSQL, compression or what a key means; it moves bytes. Four verbs and the five
//! promises of [`Storage`] are all that the layers above rely on, and each implementation passes the same suite
//! ([`contract`]) that tries them.

use std::fmt;
use std::io::{Read, Write};

use chrono::{DateTime, Utc};

#[cfg(test)]
mod contract;
mod local;
mod memory;

//pub use local::Local;
//pub use memory::Memory;

/// The contract. Implementations may not weaken it; callers may not assume more.
///
/// A key is a relative path of components separated by `/`; none is empty, `.` or `..`.
///
/// 1. **Whole or absent.** An object becomes visible only by [`Upload::commit`], all of it, and by then it is
///    durable: it survives a crash of either machine.
/// 2. **Write-once.** A committed object never changes. Committing over one fails with
///    [`ErrorKind::AlreadyExists`] and leaves it as it was. By then that older object is durable too.
/// 3. **Idempotent delete.** Deleting a missing key succeeds.
/// 4. **Listing tells the truth.** [`Storage::list`] returns everything directly in a directory, in byte order of
///    the names: objects, directories, and, marked as such, uploads that were never committed.
/// 5. **Honest errors.** [`ErrorKind::Transient`] means that the same call may succeed if repeated; no other kind
///    is retried.
pub trait Storage: fmt::Display + Send + Sync {
    /// What is directly in `directory` (the empty string is the root). A directory that does not exist is empty.
    fn list(&self, directory: &str) -> Result<Vec<Entry>>;

    /// Opens an object for reading from its first byte.
    fn open(&self, key: &str) -> Result<Box<dyn Read + Send>>;

    /// Begins an object; directories above it are made as needed.
    fn create(&self, key: &str) -> Result<Box<dyn Upload>>;

    /// Deletes an object or an unfinished upload, and the directory that this leaves empty.
    fn delete(&self, key: &str) -> Result<()>;
}

/// An object being written. Dropping it before `commit` discards it.
#[must_use = "an upload that is not committed is discarded"]
pub trait Upload: Write + Send {
    fn commit(self: Box<Self>) -> Result<()>;
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The last component of the key; the whole key is `directory/name`.
    pub name: String,
    pub kind: EntryKind,
    /// By the clock of the machine that holds it.
    pub modified_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    Object {
        size_bytes: u64,
    },
    Directory,
    /// An upload that is in progress or was abandoned. It can be deleted by this name, not opened.
    Unfinished,
}

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    NotFound,
    AlreadyExists,
    /// Not permitted, or a read-only file system.
    Denied,
    /// The disk is full, or a quota is used up.
    NoSpace,
    Transient,
    Other,
}

/// What went wrong with which object, where.
#[derive(Debug, thiserror::Error)]
#[error("could not {verb} \"{key}\" in {storage}: {source}")]
pub struct Error {
    pub kind: ErrorKind,
    pub verb: &'static str,
    pub key: String,
    pub storage: String,
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl Error {
    /// What the user can do about it: one or more full sentences.
    pub fn hint(&self) -> Option<String> {
        Some(match self.kind {
            ErrorKind::Denied => {
                format!("Check who owns {} and that it is writable by this user.", self.storage)
            }
            ErrorKind::NoSpace => {
                format!("Free space in {}, for example with `pgbak prune`, and run again.", self.storage)
            }
            ErrorKind::NotFound | ErrorKind::AlreadyExists | ErrorKind::Transient | ErrorKind::Other => {
                return None;
            }
        })
    }
}

impl Entry {
    pub fn is_directory(&self) -> bool {
        self.kind == EntryKind::Directory
    }

    /// The size of a committed object, in bytes.
    pub fn size_bytes(&self) -> Option<u64> {
        match self.kind {
            EntryKind::Object { size_bytes } => Some(size_bytes),
            EntryKind::Directory | EntryKind::Unfinished => None,
        }
    }
}

/// The key of `name` in `directory`.
pub fn join(directory: &str, name: &str) -> String {
    match directory {
        "" => name.to_owned(),
        _ => format!("{directory}/{name}"),
    }
}
