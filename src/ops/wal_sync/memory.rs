//! What `wal-sync` remembers from round to round, so that it need not list again what has not changed.
//!
//! A log directory is *settled* when every repository was asked, all of them held the same of it as far as that is of
//! use, and nothing in it was missing. For each repository the time is noted at which the directory was last changed
//! then, by that repository's own clock, and compared with nothing but itself: another time, or no directory, and it
//! is listed again. What is lost, unreadable or of other repositories is as if nothing had ever been settled.
//!
//! Beside it lies a mark for each repository that was ever seen. One that is empty now is then known for a disk that
//! is not mounted, and is not made anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ops::Error;
use crate::ops::process::{make_private_directory, replace_file};
use crate::pipe::Digester;

const FORMAT: u32 = 1;
/// Room for some hundred thousand directories.
const SIZE_MAX_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    format: u32,
    /// Of the repositories, in the order of all lists here.
    places: Vec<String>,
    /// By system identifier.
    pub systems: BTreeMap<String, SystemMemory>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemMemory {
    pub segment_bytes: Option<u64>,
    /// The segment in which the newest base backup began, when that was last asked.
    pub newest_backup: Option<String>,
    /// By the 16 digits of the directory's name.
    pub settled: BTreeMap<String, Settled>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// When it was last changed in each repository; `None` where there is no such directory.
    pub changed_at: Vec<Option<DateTime<Utc>>>,
    /// The first and the last whole segment in it, between which none is missing.
    pub run: Option<[String; 2]>,
    /// A digest of the names that the source directory had of it; `None` without a source directory.
    pub source: Option<String>,
}

/// Where it is kept.
pub struct MemoryFile {
    directory: PathBuf,
    path: PathBuf,
    places: Vec<String>,
}

impl MemoryFile {
    pub fn of(state_directory: &Path, places: Vec<String>) -> Self {
        let path = state_directory.join(format!("wal-sync-{}.json", digest(places.iter())));
        Self { directory: state_directory.to_owned(), path, places }
    }

    pub fn read(&self) -> Memory {
        let fresh = || Memory { format: FORMAT, places: self.places.clone(), systems: BTreeMap::new() };
        let size_bytes = fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        let bytes = (size_bytes <= SIZE_MAX_BYTES).then(|| fs::read(&self.path).ok()).flatten();
        let memory: Option<Memory> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let is_ours = |memory: &Memory| memory.format == FORMAT && memory.places == self.places;
        memory.filter(is_ours).unwrap_or_else(fresh)
    }

    /// Replaces what was remembered, whole or not at all. It need not survive a crash of the machine.
    pub fn write(&self, memory: &Memory) -> Result<(), Error> {
        let bytes = serde_json::to_vec(memory).expect("a memory is strings and times");
        self.put(&self.path, &bytes)
    }

    /// Whether this repository was ever seen from here.
    pub fn knows(&self, place: &str) -> bool {
        self.mark(place).exists()
    }

    pub fn note(&self, place: &str) -> Result<(), Error> {
        if self.knows(place) { Ok(()) } else { self.put(&self.mark(place), format!("{place}\n").as_bytes()) }
    }

    fn mark(&self, place: &str) -> PathBuf {
        self.directory.join(format!("repository-{}", digest([place])))
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        make_private_directory(&self.directory)?;
        replace_file(path, bytes)
    }
}

/// A short name for a list of texts.
pub fn digest(texts: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut digester = Digester::default();
    for text in texts {
        digester.update(text.as_ref().as_bytes());
        digester.update(b"\n");
    }
    let mut digits = digester.finish().sha256.to_string();
    digits.truncate(16);
    digits
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(directory: &Path, places: &[&str]) -> MemoryFile {
        MemoryFile::of(directory, places.iter().map(|&place| place.to_owned()).collect())
    }

    #[test]
    fn what_is_written_comes_back_and_is_for_the_owner_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let file = file(&scratch.path().join("state"), &["/a", "/b"]);
        let mut memory = file.read();
        let changed_at = vec![DateTime::from_timestamp(1_700_000_000, 123_456_789), None];
        let settled = Settled { changed_at, run: None, source: None };
        let system = SystemMemory {
            segment_bytes: Some(1 << 20),
            newest_backup: None,
            settled: [("x".into(), settled)].into(),
        };
        memory.systems.insert("7".into(), system);
        file.write(&memory).unwrap();
        assert_eq!(file.read(), memory);
        let mode = fs::metadata(&file.path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(fs::read_dir(&file.directory).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_read_or_is_of_other_repositories_is_forgotten() {
        let scratch = tempfile::tempdir().unwrap();
        let ours = file(scratch.path(), &["/a", "/b"]);
        let mut memory = ours.read();
        memory.systems.insert("7".into(), SystemMemory::default());
        ours.write(&memory).unwrap();
        assert!(file(scratch.path(), &["/b", "/a"]).read().systems.is_empty());
        fs::copy(&ours.path, file(scratch.path(), &["/c"]).path).unwrap();
        assert!(file(scratch.path(), &["/c"]).read().systems.is_empty(), "it says whose it is");
        for damaged in
            [&b"{"[..], b"", b"{\"format\": 2, \"places\": [\"/a\", \"/b\"], \"systems\": {\"7\": {}}}"]
        {
            fs::write(&ours.path, damaged).unwrap();
            assert!(ours.read().systems.is_empty());
        }
    }

    #[test]
    fn a_repository_that_was_seen_stays_known_in_other_company() {
        let scratch = tempfile::tempdir().unwrap();
        file(scratch.path(), &["/a", "/b"]).note("/a").unwrap();
        assert!(file(scratch.path(), &["/a"]).knows("/a"));
        assert!(!file(scratch.path(), &["/a", "/b"]).knows("/b"));
    }
}
