//! The reference: a repository in memory, which can die at any change.
//!
//! It keeps the whole contract in few lines, so that what the layers above promise can be tried by the thousand.
//! Its fuse kills the process that uses it at a chosen change: [`Memory::dies_at`].

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Cursor, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use chrono::{DateTime, Utc};

use super::{Entry, EntryKind, Error, ErrorKind, Result, Storage, UNFINISHED, Upload};
use super::{check_deletable, check_directory, check_key};

/// Clones share their content, the fuse and the time.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Committed objects and, under their own names, unfinished uploads.
    files: BTreeMap<String, File>,
    /// What the next file's `modified_at` will be.
    now: DateTime<Utc>,
    uploads_begun: u64,
    changes_done: u64,
    /// The change at which everything ends.
    fuse: Option<u64>,
    dead: bool,
}

#[derive(Debug, Clone)]
struct File {
    bytes: Arc<Vec<u8>>,
    modified_at: DateTime<Utc>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    NotAKey(#[from] super::NotAKey),
    #[error("there is no such object")]
    Missing,
    #[error("there already is such an object")]
    Exists,
    #[error("it is a directory")]
    IsDirectory,
    #[error("a component of it is an object")]
    IsObject,
    #[error("the process has died")]
    Dead,
}

impl Memory {
    /// Dies at the change (commit or delete) number `change`, counted from 0 and from now: that one and everything
    /// after it fails, and nobody is left to discard the uploads that were begun.
    pub fn dies_at(&self, change: u64) {
        let mut state = self.state();
        state.fuse = Some(state.changes_done + change);
    }

    /// Takes the fuse out; what was done stays done.
    pub fn revive(&self) {
        let mut state = self.state();
        (state.fuse, state.dead) = (None, false);
    }

    /// Sets the clock that dates what is written from now on; it starts at 1970.
    pub fn set_time(&self, now: DateTime<Utc>) {
        self.state().now = now;
    }

    /// The keys of all committed objects, in byte order.
    pub fn keys(&self) -> Vec<String> {
        self.state().files.keys().filter(|key| !key.ends_with(UNFINISHED)).cloned().collect()
    }

    /// The content of an object, or of an unfinished upload, as it is stored.
    pub fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        self.state().files.get(key).map(|file| file.bytes.to_vec())
    }

    /// Damages an object behind its owner's back, or forges one. Its time stays, if it had one.
    pub fn replace(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        let mut state = self.state();
        let modified_at = state.files.get(key).map_or(state.now, |file| file.modified_at);
        state.files.insert(key.to_owned(), File { bytes: Arc::new(bytes.into()), modified_at });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds this lock")
    }

    fn error(&self, verb: &'static str, key: &str, failure: Failure) -> Error {
        let kind = match failure {
            Failure::Missing => ErrorKind::NotFound,
            Failure::Exists => ErrorKind::AlreadyExists,
            Failure::NotAKey(_) | Failure::IsDirectory | Failure::IsObject | Failure::Dead => {
                ErrorKind::Other
            }
        };
        Error::new(kind, verb, key, self, failure)
    }
}

impl State {
    fn alive(&self) -> std::result::Result<(), Failure> {
        if self.dead { Err(Failure::Dead) } else { Ok(()) }
    }

    /// Counts a change that is about to happen, unless it is the one that the process does not survive.
    fn change(&mut self) -> std::result::Result<(), Failure> {
        self.dead |= self.fuse.is_some_and(|fuse| self.changes_done >= fuse);
        self.alive()?;
        self.changes_done += 1;
        Ok(())
    }

    fn is_directory(&self, key: &str) -> bool {
        let prefix = format!("{key}/");
        self.files.range(prefix.clone()..).next().is_some_and(|(first, _)| first.starts_with(&prefix))
    }

    fn is_below_object(&self, key: &str) -> bool {
        key.match_indices('/').any(|(end, _)| self.files.contains_key(&key[..end]))
    }

    fn list(&self, directory: &str) -> std::result::Result<Vec<Entry>, Failure> {
        self.alive()?;
        check_directory(directory)?;
        if self.files.contains_key(directory) || self.is_below_object(directory) {
            return Err(Failure::IsObject);
        }
        let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for (key, file) in self.files.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix))
        {
            let rest = &key[prefix.len()..];
            let (name, kind) = match rest.split_once('/') {
                Some((name, _)) => (name, EntryKind::Directory),
                None if rest.ends_with(UNFINISHED) => (rest, EntryKind::Unfinished),
                None => (rest, EntryKind::Object { size_bytes: file.bytes.len() as u64 }),
            };
            let entry = Entry { name: name.to_owned(), kind, modified_at: file.modified_at };
            entries.insert(name.to_owned(), entry);
        }
        Ok(entries.into_values().collect())
    }

    /// Everything that is committed is durable here; it only has to be there.
    fn sync(&self, path: &str) -> std::result::Result<(), Failure> {
        self.alive()?;
        check_directory(path)?;
        if self.is_below_object(path) {
            return Err(Failure::IsObject);
        }
        let is_there = path.is_empty() || self.files.contains_key(path) || self.is_directory(path);
        if is_there { Ok(()) } else { Err(Failure::Missing) }
    }

    fn open(&self, key: &str) -> std::result::Result<Cursor<SharedBytes>, Failure> {
        self.alive()?;
        check_key(key)?;
        if self.is_below_object(key) {
            return Err(Failure::IsObject);
        }
        if self.is_directory(key) {
            return Err(Failure::IsDirectory);
        }
        let file = self.files.get(key).ok_or(Failure::Missing)?;
        Ok(Cursor::new(SharedBytes(Arc::clone(&file.bytes))))
    }

    fn create(&mut self, key: &str) -> std::result::Result<String, Failure> {
        self.alive()?;
        check_key(key)?;
        if self.is_below_object(key) {
            return Err(Failure::IsObject);
        }
        self.uploads_begun += 1;
        let unfinished = format!("{key}.{}{UNFINISHED}", self.uploads_begun);
        let file = File { bytes: Arc::default(), modified_at: self.now };
        self.files.insert(unfinished.clone(), file);
        Ok(unfinished)
    }

    fn commit(&mut self, unfinished: &str, key: &str) -> std::result::Result<(), Failure> {
        if self.files.contains_key(key) {
            return Err(Failure::Exists);
        }
        if self.is_directory(key) {
            return Err(Failure::IsDirectory);
        }
        if !self.files.contains_key(unfinished) {
            return Err(Failure::Missing);
        }
        self.change()?;
        let file = self.files.remove(unfinished).expect("it was there, and the lock is still held");
        self.files.insert(key.to_owned(), File { modified_at: self.now, ..file });
        Ok(())
    }

    fn delete(&mut self, key: &str) -> std::result::Result<(), Failure> {
        self.alive()?;
        check_deletable(key)?;
        if self.is_directory(key) {
            return Err(Failure::IsDirectory);
        }
        if self.files.contains_key(key) {
            self.change()?;
            self.files.remove(key);
        }
        Ok(())
    }
}

impl Storage for Memory {
    fn list(&self, directory: &str) -> Result<Vec<Entry>> {
        let listed = self.state().list(directory);
        listed.map_err(|failure| self.error("list", directory, failure))
    }

    fn sync(&self, path: &str) -> Result<()> {
        let synced = self.state().sync(path);
        synced.map_err(|failure| self.error("sync", path, failure))
    }

    fn open(&self, key: &str) -> Result<Box<dyn Read + Send>> {
        let opened = self.state().open(key);
        Ok(Box::new(opened.map_err(|failure| self.error("open", key, failure))?))
    }

    fn create(&self, key: &str) -> Result<Box<dyn Upload>> {
        let created = self.state().create(key);
        let unfinished = created.map_err(|failure| self.error("create", key, failure))?;
        Ok(Box::new(MemoryUpload { storage: self.clone(), key: key.to_owned(), unfinished }))
    }

    fn delete(&self, key: &str) -> Result<()> {
        let deleted = self.state().delete(key);
        deleted.map_err(|failure| self.error("delete", key, failure))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

struct MemoryUpload {
    storage: Memory,
    key: String,
    unfinished: String,
}

impl Write for MemoryUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.storage.state();
        let failure = match (state.alive(), state.files.get_mut(&self.unfinished)) {
            (Ok(()), Some(file)) => {
                Arc::make_mut(&mut file.bytes).extend_from_slice(bytes);
                return Ok(bytes.len());
            }
            // Deleted under its writer's hands, who learns it from the commit, as with a file.
            (Ok(()), None) => return Ok(bytes.len()),
            (Err(failure), _) => failure,
        };
        drop(state);
        Err(self.storage.error("write", &self.key, failure).into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for MemoryUpload {
    fn commit(&mut self) -> Result<()> {
        let committed = self.storage.state().commit(&self.unfinished, &self.key);
        committed.map_err(|failure| self.storage.error("commit", &self.key, failure))
    }
}

impl Drop for MemoryUpload {
    fn drop(&mut self) {
        let mut state = self.storage.state();
        if state.alive().is_ok() {
            state.files.remove(&self.unfinished);
        }
    }
}

/// Lets a reader go on with what it opened, whatever happens to the object.
struct SharedBytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::{contract, walk};
    use super::*;

    fn put(storage: &Memory, key: &str) -> Result<()> {
        storage.create(key)?.commit()
    }

    #[test]
    fn the_reference_keeps_the_contract() {
        contract::check(&Memory::default());
    }

    #[test]
    fn the_fuse_ends_everything_at_its_change() {
        let storage = Memory::default();
        put(&storage, "old").unwrap();
        storage.dies_at(2);
        put(&storage, "0").unwrap();
        storage.delete("old").unwrap();
        storage.delete("missing").unwrap();
        assert!(put(&storage, "2").is_err());
        assert!(storage.open("0").is_err() && storage.list("").is_err() && storage.create("3").is_err());
        storage.revive();
        assert_eq!(storage.keys(), ["0"]);
        let left = walk(&storage, "").unwrap();
        assert!(left.iter().any(|(key, entry)| key.starts_with("2.") && entry.is_unfinished()), "{left:?}");
        put(&storage, "2").unwrap();
    }

    #[test]
    fn an_object_can_be_damaged_and_is_dated_by_the_set_time() {
        let storage = Memory::default();
        let noon: DateTime<Utc> = "2026-11-22T12:00:00Z".parse().unwrap();
        storage.set_time(noon);
        put(&storage, "x").unwrap();
        storage.replace("x", *b"damaged");
        assert_eq!(storage.bytes("x").unwrap(), b"damaged");
        let entry = &storage.list("").unwrap()[0];
        assert_eq!((entry.modified_at, entry.size_bytes()), (noon, Some(7)));
    }
}
