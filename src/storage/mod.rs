//! Where repositories keep their objects: write-once bytes under keys.
//!
//! Storage knows nothing of PostgreSQL, compression or what a key means; it moves bytes. Five verbs and the six
//! promises of [`Storage`] are all that the layers above rely on, and each implementation passes the same suite
//! ([`contract`]) that tries them.

use std::fmt;
use std::io::{self, Read, Write};

use chrono::{DateTime, Utc};

pub mod contract;
mod local;
mod memory;
mod retry;
mod sftp;

pub use local::Local;
pub use memory::Memory;
pub use retry::{Patience, Retry};
pub use sftp::{Durability, Secret, Sftp, SftpSettings};

use crate::interrupt::Interrupted;

/// The contract. Implementations may not weaken it; callers may not assume more.
///
/// A key is a relative path of components separated by `/`; none is empty, `.` or `..`, and none ends in
/// [`UNFINISHED`]. Every verb refuses anything else.
///
/// 1. **Whole or absent.** An object becomes visible only by [`Upload::commit`], all of it, and by then it is
///    durable: it survives a crash of either machine.
/// 2. **Write-once.** A committed object never changes. Committing over one fails with
///    [`ErrorKind::AlreadyExists`] and leaves it as it was. By then that older object is durable too.
/// 3. **Idempotent delete.** Deleting a missing key succeeds. It stays missing, also where whoever deleted it did not
///    live to make that durable.
/// 4. **Listing tells the truth.** [`Storage::list`] returns everything directly in a directory, in byte order of
///    the names: objects, directories, and, marked as such, uploads that were never committed.
/// 5. **What was seen can be kept.** A listing also shows what somebody made visible without living to make it durable.
///    Whoever relies on what was listed or read calls [`Storage::sync`]: then it survives a crash of either machine.
/// 6. **Honest errors.** [`ErrorKind::NotFound`] means that the place was asked and holds no such object.
///    [`ErrorKind::Transient`] means that the same call may succeed if repeated, be it one of these or a read, write
///    or commit of what they gave; no other kind is retried.
pub trait Storage: fmt::Display + Send + Sync {
    /// What is directly in `directory` (the empty string is the root). A directory that does not exist is empty.
    fn list(&self, directory: &str) -> Result<Vec<Entry>>;

    /// Makes an object durable, or all objects directly in a directory, whoever committed them.
    fn sync(&self, path: &str) -> Result<()>;

    /// Opens an object for reading from its first byte.
    fn open(&self, key: &str) -> Result<Box<dyn Read + Send>>;

    /// Begins an object; directories above it are made as needed.
    fn create(&self, key: &str) -> Result<Box<dyn Upload>>;

    /// Deletes an object or an unfinished upload, and the directories that this leaves empty.
    fn delete(&self, key: &str) -> Result<()>;
}

/// An object being written. Dropping it before `commit` discards it.
///
/// Writes fail with a [`std::io::Error`]; [`Error::from_io`] makes it one of storage's. A write that failed took
/// nothing of what it was given: where it was [`ErrorKind::Transient`], the same call may be repeated, and goes on
/// from there. After any other error the upload is lost.
#[must_use = "an upload that is not committed is discarded"]
pub trait Upload: Write + Send {
    /// Publishes what was written, whole and durable. To be repeated only after a [`ErrorKind::Transient`] error.
    fn commit(&mut self) -> Result<()>;
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

/// How the name of an upload ends until it is committed. Not `.partial`, which is PostgreSQL's own.
pub const UNFINISHED: &str = ".unfinished";

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
#[error("could not {verb} {}: {source}", self.place())]
pub struct Error {
    pub kind: ErrorKind,
    pub verb: &'static str,
    /// Empty for the root.
    pub key: String,
    pub storage: String,
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A caller's mistake, or a name from a configuration or a listing that would lead out of the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a key (a relative path without \".\", \"..\" or empty components, none ending in \"{UNFINISHED}\")"
)]
pub struct NotAKey;

impl Error {
    pub fn new(
        kind: ErrorKind,
        verb: &'static str,
        key: &str,
        storage: &dyn fmt::Display,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, verb, key: key.to_owned(), storage: storage.to_string(), source: source.into() }
    }

    /// Says which object an I/O error was about. One of storage's own that travelled as an I/O error through
    /// `Read` or `Write` comes back as it was.
    pub fn from_io(verb: &'static str, key: &str, storage: &dyn fmt::Display, error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(error) => Self::new(kind_of(&error), verb, key, storage, error),
        }
    }

    /// What the user can do about it: one or more full sentences.
    pub fn hint(&self) -> Option<String> {
        let Self { storage, .. } = self;
        if let Some(failure) = self.source.downcast_ref::<sftp::Failure>()
            && let Some(hint) = failure.hint(self.verb, storage)
        {
            return Some(hint);
        }
        Some(match (self.kind, self.verb) {
            (ErrorKind::Denied, "list" | "open" | "read") => {
                format!(
                    "Check that {storage} and all in it belong to the user that runs pgbak, or run pgbak as its owner."
                )
            }
            (ErrorKind::Denied, _) => {
                format!(
                    "Make it writable for the user that runs pgbak, as root: `install -d -m 700 -o USER {storage}`. All that is in it \
                     must belong to that user, too."
                )
            }
            (ErrorKind::NoSpace, _) => {
                format!("Free space in {storage}, for example with `pgbak prune`, and run again.")
            }
            (ErrorKind::NotFound, "create") => {
                let above = storage.rsplit_once('/').map_or("", |(above, _)| above);
                format!(
                    "The directory that should hold {storage} is missing: mount it, or make it with `mkdir -p {above}`."
                )
            }
            _ => return None,
        })
    }

    /// The wish to stop, if it was that which ended the call.
    pub fn interrupted(&self) -> Option<Interrupted> {
        self.source.downcast_ref().copied()
    }

    fn place(&self) -> String {
        match self.key.as_str() {
            "" => self.storage.clone(),
            key => format!("{key:?} in {}", self.storage),
        }
    }
}

/// So that an upload's error survives its way through `Write`.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::Denied => io::ErrorKind::PermissionDenied,
            ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            // Not `Interrupted`, which the standard library's loops would repeat without end.
            ErrorKind::Transient | ErrorKind::Other => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl Entry {
    pub fn is_directory(&self) -> bool {
        self.kind == EntryKind::Directory
    }

    pub fn is_unfinished(&self) -> bool {
        self.kind == EntryKind::Unfinished
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

/// Everything below `directory` with its whole key, in byte order of the keys: objects and unfinished uploads, not
/// the directories between.
pub fn walk(storage: &dyn Storage, directory: &str) -> Result<Vec<(String, Entry)>> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in storage.list(&directory)? {
            let key = join(&directory, &entry.name);
            match entry.kind {
                EntryKind::Directory => directories.push(key),
                EntryKind::Object { .. } | EntryKind::Unfinished => found.push((key, entry)),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What an object may be called.
fn check_key(key: &str) -> std::result::Result<(), NotAKey> {
    match key.split('/').all(|component| is_plain(component) && !component.ends_with(UNFINISHED)) {
        true => Ok(()),
        false => Err(NotAKey),
    }
}

/// What may be deleted: objects, and unfinished uploads by the name that a listing gave.
fn check_deletable(key: &str) -> std::result::Result<(), NotAKey> {
    let (directory, name) =
        key.rsplit_once('/').map_or((None, key), |(directory, name)| (Some(directory), name));
    directory.map_or(Ok(()), check_key)?;
    if is_plain(name) { Ok(()) } else { Err(NotAKey) }
}

/// What may be listed: the root, and directories.
fn check_directory(directory: &str) -> std::result::Result<(), NotAKey> {
    match directory {
        "" => Ok(()),
        _ => check_key(directory),
    }
}

fn is_plain(component: &str) -> bool {
    !matches!(component, "" | "." | "..") && !component.contains('\0')
}

fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        io::ErrorKind::Interrupted
        | io::ErrorKind::WouldBlock
        | io::ErrorKind::TimedOut
        | io::ErrorKind::StaleNetworkFileHandle
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted => ErrorKind::Transient,
        _ => ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_its_way_through_io() {
        let full = io::Error::from(io::ErrorKind::QuotaExceeded);
        let error = Error::from_io("write", "a/b", &"/srv/backups", full);
        assert_eq!(error.kind, ErrorKind::NoSpace);
        let travelled = Error::from_io("commit", "other", &"elsewhere", error.into());
        assert_eq!((travelled.kind, travelled.verb), (ErrorKind::NoSpace, "write"));
        assert_eq!(travelled.to_string(), "could not write \"a/b\" in /srv/backups: quota exceeded");
        assert!(travelled.hint().unwrap().contains("pgbak prune"));
    }

    #[test]
    fn the_kinds_of_failure_are_told_apart() {
        use rustix::io::Errno;
        for (errno, kind) in [
            (Errno::NOENT, ErrorKind::NotFound),
            (Errno::EXIST, ErrorKind::AlreadyExists),
            (Errno::ACCESS, ErrorKind::Denied),
            (Errno::PERM, ErrorKind::Denied),
            (Errno::ROFS, ErrorKind::Denied),
            (Errno::NOSPC, ErrorKind::NoSpace),
            (Errno::DQUOT, ErrorKind::NoSpace),
            (Errno::INTR, ErrorKind::Transient),
            (Errno::TIMEDOUT, ErrorKind::Transient),
            (Errno::STALE, ErrorKind::Transient),
            (Errno::IO, ErrorKind::Other),
            (Errno::NOTDIR, ErrorKind::Other),
        ] {
            assert_eq!(kind_of(&errno.into()), kind, "{errno}");
        }
    }

    #[test]
    fn an_error_about_the_root_names_the_root_alone() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = Error::from_io("list", "", &"/srv/backups", denied);
        assert_eq!(error.to_string(), "could not list /srv/backups: permission denied");
    }

    #[test]
    fn a_walk_finds_everything_in_the_order_of_the_keys() {
        let storage = Memory::default();
        for key in ["b/c/d", "b-a", "a", "b/a"] {
            storage.create(key).unwrap().commit().unwrap();
        }
        let left = storage.create("b/c/left").unwrap();
        let keys: Vec<_> = walk(&storage, "").unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys[..4], ["a", "b-a", "b/a", "b/c/d"]);
        assert!(keys[4].starts_with("b/c/left.") && keys[4].ends_with(UNFINISHED), "{keys:?}");
        assert_eq!(walk(&storage, "b/c").unwrap().len(), 2);
        drop(left);
    }
}
