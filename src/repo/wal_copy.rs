//! WAL between repositories: what is there, found by as few listings as possible, and copies of it as it is stored.
//!
//! A log directory ([`LogDirectory`]) holds the segments that share the first 16 digits of their names, 256 of them
//! where segments have 16 MiB. One listing of a system's directory tells which of them there are, when each was last
//! changed, and which histories; so whoever remembers how the old ones looked need not list them again.
//!
//! A copy has the stored bytes of its source: it is read once, goes to every destination as it comes, and is decoded
//! and checked on the way. Nothing is committed anywhere that was not sound, so that damage does not spread.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::wal::{Content, FILE_SIZE_MAX_BYTES, Stored};
use super::{Error, Repository, Result, layout};
use crate::pg::{SegmentPlace, SystemIdentifier, Timeline, WalFileName};
use crate::pipe::{self, ArchiveReader, Codec, Compression, Workers};
use crate::storage::{self, ErrorKind, Upload};

/// How much of a file's beginning is shown to whoever checks it: more than a segment's first page or any history.
pub const BEGINNING_BYTES: usize = 64 << 10;

/// Where the segments of one timeline and log number lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogDirectory {
    pub timeline: Timeline,
    pub log: u32,
}

/// What is directly in the directory of one system.
#[derive(Debug, Clone, Default)]
pub struct WalDirectories {
    pub histories: BTreeMap<WalFileName, Codec>,
    /// When each was last changed, by the clock of the machine that holds it: to be compared with itself only.
    pub logs: BTreeMap<LogDirectory, DateTime<Utc>>,
}

/// What is to be copied.
#[derive(Debug, Clone, Copy)]
pub struct Original<'a> {
    pub system: SystemIdentifier,
    pub name: &'a WalFileName,
    pub codec: Codec,
}

/// Who looks at a file while it is copied.
pub trait Inspector: Sync {
    /// Says what is wrong with a file, by how it begins (at least [`BEGINNING_BYTES`], or all of it) and by its size.
    fn check(&self, beginning: &[u8], size_bytes: u64) -> std::result::Result<(), String>;

    /// Learns how far it is; an error ends the copy.
    fn passed(&self, stored_bytes: u64) -> io::Result<()>;
}

/// What a copy came to. Nothing is half done: each destination has it, or has nothing of it.
#[derive(Debug)]
pub struct Copied {
    pub stored_bytes: u64,
    /// In the order of the destinations.
    pub results: Vec<Result<Stored>>,
}

impl LogDirectory {
    /// Where a file lies; `None` for a history, which is in none.
    pub fn of(name: &WalFileName) -> Option<Self> {
        Some(Self { timeline: name.timeline(), log: name.place()?.log() })
    }

    /// No segment in it lies before.
    pub fn first_place(self) -> SegmentPlace {
        SegmentPlace::first_of(self.log)
    }

    pub fn parse(name: &str) -> Option<Self> {
        layout::parse_segment_directory(name).map(|(timeline, log)| Self { timeline, log })
    }
}

impl fmt::Display for LogDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}", self.timeline.get(), self.log)
    }
}

impl Repository {
    pub fn wal_directories(&self, system: SystemIdentifier) -> Result<WalDirectories> {
        let mut found = WalDirectories::default();
        for entry in self.storage().list(&layout::wal_of(system))? {
            match (LogDirectory::parse(&entry.name), layout::parse_wal_file(&entry.name)) {
                (Some(log), _) if entry.is_directory() => drop(found.logs.insert(log, entry.modified_at)),
                (_, Some((name @ WalFileName::History(_), codec))) if entry.size_bytes().is_some() => {
                    found.histories.insert(name, codec);
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// The files in one log directory, and how each is stored.
    pub fn wal_files(
        &self,
        system: SystemIdentifier,
        directory: LogDirectory,
    ) -> Result<BTreeMap<WalFileName, Codec>> {
        let listed = self.storage().list(&layout::log_directory(system, &directory.to_string()))?;
        let stored = listed.iter().filter(|entry| entry.size_bytes().is_some());
        let files = stored.filter_map(|entry| layout::parse_wal_file(&entry.name));
        Ok(files.filter(|(name, _)| LogDirectory::of(name) == Some(directory)).collect())
    }

    /// Makes sure that what [`Self::wal_files`] showed stays: whoever stored it may not have lived to make it durable.
    pub fn keep_wal_files(&self, system: SystemIdentifier, directory: LogDirectory) -> Result<()> {
        self.keep_listed(&layout::log_directory(system, &directory.to_string()))
    }

    /// The same for the histories that [`Self::wal_directories`] showed.
    pub fn keep_histories(&self, system: SystemIdentifier) -> Result<()> {
        self.keep_listed(&layout::wal_of(system))
    }

    fn keep_listed(&self, directory: &str) -> Result<()> {
        match self.storage().sync(directory) {
            // All of it was pruned since.
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            synced => Ok(synced?),
        }
    }

    /// Stores a file that a listing did not show; the repository is there, and knows its system. Says how many bytes
    /// it took.
    ///
    /// If another process was faster, its content is compared: other content is [`Error::Conflict`].
    pub fn add_wal(
        &self,
        system: SystemIdentifier,
        name: &WalFileName,
        source: &File,
        compression: Compression,
        workers: &Arc<Workers>,
    ) -> Result<(Stored, u64)> {
        let compression = super::wal::stored_as(name, compression);
        let key = layout::wal_file(system, name, compression.codec());
        let content = Content::of(source, compression.codec(), &key)?;
        match self.upload(&key, content, compression, workers) {
            Err(Error::Storage(error)) if error.kind == ErrorKind::AlreadyExists => {
                let settled = self.settle(&key, compression.codec(), content, workers)?;
                let settled = settled.ok_or_else(|| self.damaged(&key, "it cannot be read back"));
                settled.map(|stored| (stored, 0))
            }
            uploaded => uploaded.map(|stored_bytes| (Stored::New, stored_bytes)),
        }
    }

    /// Copies a file to each of `destinations`, which are there, know its system and lack it.
    ///
    /// # Errors
    /// When the original cannot be read or is damaged; then nothing was committed anywhere. What goes wrong at a
    /// destination is among the results.
    pub fn copy_wal(
        &self,
        original: Original<'_>,
        destinations: &[&Self],
        inspector: &dyn Inspector,
        workers: &Arc<Workers>,
    ) -> Result<Copied> {
        let Original { system, name, codec } = original;
        let key = layout::wal_file(system, name, codec);
        let object = self.open(&key)?;
        let lanes = destinations.iter().map(|destination| Lane::begin(destination, &key));
        let mut tee = Tee { object, lanes: lanes.collect(), stored_bytes: 0, inspector, stopped: None };
        let read = Decoded::read(&mut tee, codec, workers);
        match tee.stopped {
            None => {}
            Some(Stopped::ByInspector) => {
                let source = io::Error::other("it was interrupted");
                return Err(Error::Source { what: key.clone(), source });
            }
            Some(Stopped::NoDestination) => return Ok(tee.commit()),
        }
        let content = read.map_err(|error| match error {
            pipe::Error::Read(error) => storage::Error::from_io("read", &key, self.storage(), error).into(),
            error => self.damaged(&key, error),
        })?;
        inspector
            .check(&content.beginning, content.size_bytes)
            .map_err(|reason| self.damaged(&key, reason))?;
        Ok(tee.commit())
    }
}

/// What a copy's content looks like to whoever checks it.
struct Decoded {
    beginning: Vec<u8>,
    size_bytes: u64,
}

impl Decoded {
    /// Decodes everything that comes through the tee, and reads the tee to its end.
    fn read(
        tee: &mut Tee<'_>,
        codec: Codec,
        workers: &Arc<Workers>,
    ) -> std::result::Result<Self, pipe::Error> {
        let mut content = Self { beginning: Vec::new(), size_bytes: 0 };
        let mut archive = ArchiveReader::new(workers, codec, Box::new(&mut *tee), None);
        while let Some(piece) = archive.next_frame()? {
            let wanted = BEGINNING_BYTES - content.beginning.len();
            content.beginning.extend_from_slice(&piece[..piece.len().min(wanted)]);
            content.size_bytes += piece.len() as u64;
            if content.size_bytes > FILE_SIZE_MAX_BYTES {
                let offset_bytes = content.size_bytes;
                let reason = format!("it unpacks to more than {FILE_SIZE_MAX_BYTES} bytes");
                return Err(pipe::Error::Damaged { offset_bytes, reason });
            }
        }
        drop(archive);
        let behind = io::copy(tee, &mut io::sink()).map_err(pipe::Error::Read)?;
        match behind {
            0 => Ok(content),
            _ => Err(pipe::Error::TooLong { expected_bytes: tee.stored_bytes - behind }),
        }
    }
}

/// Reads an object, and writes what it reads to every destination that has not failed.
struct Tee<'a> {
    object: Box<dyn Read + Send>,
    lanes: Vec<Lane<'a>>,
    stored_bytes: u64,
    inspector: &'a (dyn Inspector + 'a),
    /// Why it reads no further.
    stopped: Option<Stopped>,
}

enum Stopped {
    ByInspector,
    /// Each has failed.
    NoDestination,
}

/// The way to one destination.
struct Lane<'a> {
    repository: &'a Repository,
    key: &'a str,
    upload: Result<Box<dyn Upload>>,
}

impl Read for Tee<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.object.read(into)?;
        self.stored_bytes += count as u64;
        if let Err(error) = self.inspector.passed(count as u64) {
            self.stopped = Some(Stopped::ByInspector);
            return Err(error);
        }
        for lane in &mut self.lanes {
            lane.write(&into[..count]);
        }
        if self.lanes.iter().all(|lane| lane.upload.is_err()) {
            self.stopped = Some(Stopped::NoDestination);
            return Err(io::Error::other("no destination is left"));
        }
        Ok(count)
    }
}

impl Tee<'_> {
    fn commit(self) -> Copied {
        let results = self.lanes.into_iter().map(Lane::commit).collect();
        Copied { stored_bytes: self.stored_bytes, results }
    }
}

impl<'a> Lane<'a> {
    fn begin(repository: &'a Repository, key: &'a str) -> Self {
        Self { repository, key, upload: repository.storage().create(key).map_err(Error::from) }
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Ok(upload) = &mut self.upload
            && let Err(error) = upload.write_all(bytes)
        {
            let error = storage::Error::from_io("write", self.key, self.repository.storage(), error);
            self.upload = Err(error.into());
        }
    }

    fn commit(self) -> Result<Stored> {
        match self.upload?.commit() {
            // Another process was faster; what it stored is durable.
            Err(error) if error.kind == ErrorKind::AlreadyExists => Ok(Stored::Already),
            committed => Ok(committed.map(|()| Stored::New)?),
        }
    }
}
