//! One repository's copy of a backup, and how it is completed from another's.

use std::io::{self, Read, Write};
use std::sync::Arc;

use super::super::{Distance, Error, Repository, Result, layout, put_small};
use super::claim::Claim;
use super::{Pulse, RunTime};
use crate::catalog::BackupName;
use crate::catalog::backup::StoredFile;
use crate::pipe::{Digester, Follower};
use crate::storage::{self, Upload};

/// How much is copied at a time.
const CHUNK_SIZE_BYTES: usize = 1 << 20;

pub struct Copy {
    name: BackupName,
    pub claim: Arc<Claim>,
    pub state: State,
    /// Whether the backup does not wait for this one.
    pub follows: bool,
    /// What this copy still lacks, or has not yet confirmed, of the files that the others have.
    pub late: Vec<LateFile>,
}

pub enum State {
    Writing,
    Recorded,
    Failed(Error),
}

/// A file that a follower was given, as far as it kept up.
pub struct LateFile {
    pub file: StoredFile,
    /// `None` when it was not even begun.
    pub begun: Option<Follower<Box<dyn Upload>>>,
}

impl LateFile {
    /// Whether the rest must come from another repository's copy.
    pub fn is_behind(&self) -> bool {
        self.begun.as_ref().is_none_or(|begun| begun.given_bytes() < self.file.size_bytes)
    }
}

impl Copy {
    pub fn new(name: BackupName, claim: Claim) -> Self {
        Self { name, claim: Arc::new(claim), state: State::Writing, follows: false, late: Vec::new() }
    }

    pub fn repository(&self) -> &Repository {
        &self.claim.repository
    }

    pub fn distance(&self) -> Distance {
        self.claim.repository.distance()
    }

    pub fn is_writing(&self) -> bool {
        matches!(self.state, State::Writing)
    }

    /// Whether it cannot be completed without another's copy.
    pub fn is_behind(&self) -> bool {
        self.late.iter().any(LateFile::is_behind)
    }

    /// Takes it out of the backup, and deletes what it has of it.
    pub fn fail(&mut self, error: Error) {
        if let State::Failed(_) = self.state {
            return;
        }
        // The report tells it, or the error if no repository is left.
        tracing::info!("repository {} drops out of this backup: {error}", self.repository().name());
        self.state = State::Failed(error);
        self.discard();
    }

    pub fn discard(&mut self) {
        // Uploads go before the directory does.
        self.late.drain(..).filter_map(|late| late.begun).for_each(|follower| drop(follower.join()));
        self.claim.discard();
    }

    /// Brings what is late, from `sources` where it has fallen behind.
    pub fn catch_up(&mut self, sources: &[Repository], time: &RunTime, pulse: &dyn Pulse) -> Result<()> {
        for late in self.late.drain(..) {
            complete(&self.claim, self.name, late, sources, time, pulse)?;
        }
        Ok(())
    }

    /// Makes the backup exist: `record` comes last, after a look at what is really there.
    pub fn record(&mut self, files: &[StoredFile], record: &[u8]) {
        if !self.is_writing() {
            return;
        }
        let storage = self.repository().storage();
        let sums: String = files.iter().map(|file| format!("{}  {}\n", file.sha256, file.name)).collect();
        let write = || -> Result<()> {
            put_small(storage, &layout::backup_file(self.name, layout::CHECKSUMS), sums.as_bytes())?;
            self.must_hold(files)?;
            put_small(storage, &layout::backup_file(self.name, layout::RECORD), record)?;
            Ok(())
        };
        match write() {
            Err(error) => self.fail(error),
            Ok(()) => {
                self.state = State::Recorded;
                self.claim.release();
            }
        }
    }

    fn must_hold(&self, files: &[StoredFile]) -> Result<()> {
        let directory = layout::backup_directory(self.name);
        let entries = self.repository().storage().list(&directory)?;
        for file in files {
            let found = entries.iter().find(|entry| entry.name == file.name);
            if found.and_then(storage::Entry::size_bytes) != Some(file.size_bytes) {
                let reason =
                    format!("expected {} bytes just written, found it changed or gone", file.size_bytes);
                return Err(self.repository().damaged(&storage::join(&directory, &file.name), reason));
            }
        }
        Ok(())
    }
}

/// Completes one file, from the first of `sources` that gives the recorded bytes where it has fallen behind, and
/// commits it.
fn complete(
    claim: &Arc<Claim>,
    name: BackupName,
    late: LateFile,
    sources: &[Repository],
    time: &RunTime,
    pulse: &dyn Pulse,
) -> Result<()> {
    let (key, is_behind) = (layout::backup_file(name, &late.file.name), late.is_behind());
    let given_bytes = late.begun.as_ref().map_or(0, Follower::given_bytes);
    let begun = late.begun.map(Follower::join).transpose();
    let mut begun = begun.map_err(|error| write_error(&key, &claim.repository, error))?;
    if let (Some(upload), false) = (&mut begun, is_behind) {
        return Ok(upload.commit()?);
    }
    let mut reason = Error::FellBehind { repository: claim.repository.name().to_owned(), key: key.clone() };
    for source in sources {
        // Behind a source that failed, what was begun may hold its damage: the next one begins anew.
        let (mut upload, offset): (Box<dyn Upload>, u64) = match begun.take() {
            Some(upload) => (upload, given_bytes),
            None => (Box::new(ClaimedUpload::new(claim, &key)), 0),
        };
        let pace = |bytes| {
            time.set(pulse.now());
            pulse.passed(bytes)?;
            claim.hold().map_err(io::Error::other)
        };
        match copy_rest(source, &key, &late.file, offset, &mut *upload, &pace) {
            Ok(()) => return Ok(upload.commit()?),
            Err(CopyError::Sink(error)) => return Err(write_error(&key, &claim.repository, error)),
            Err(CopyError::Source(error)) => {
                tracing::warn!("{error}");
                reason = error;
            }
        }
    }
    Err(reason)
}

enum CopyError {
    Source(Error),
    Sink(io::Error),
}

/// Copies what is behind the first `offset` bytes of an object; all of it is read, and must be what was recorded.
fn copy_rest(
    source: &Repository,
    key: &str,
    file: &StoredFile,
    offset: u64,
    sink: &mut dyn Upload,
    pace: &dyn Fn(u64) -> io::Result<()>,
) -> std::result::Result<(), CopyError> {
    let storage = source.storage();
    let failed = |error| CopyError::Source(storage::Error::from_io("read", key, storage, error).into());
    let mut object = storage.open(key).map_err(|error| CopyError::Source(error.into()))?;
    let mut digester = Digester::default();
    let mut chunk = vec![0; CHUNK_SIZE_BYTES];
    let mut position = 0;
    loop {
        let length = match object.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        digester.update(&chunk[..length]);
        let known = offset.saturating_sub(position).min(length as u64);
        position += length as u64;
        let new = &chunk[known as usize..length];
        sink.write_all(new).and_then(|()| pace(new.len() as u64)).map_err(CopyError::Sink)?;
    }
    match digester.finish().sha256.to_string() == file.sha256 {
        true => Ok(()),
        false => Err(CopyError::Source(source.damaged(key, "its SHA-256 is not the recorded one"))),
    }
}

/// An upload that begins with its first byte, or its commit: with the claim first, if that is not held yet.
pub struct ClaimedUpload {
    claim: Arc<Claim>,
    key: String,
    begun: Option<Box<dyn Upload>>,
}

impl ClaimedUpload {
    pub fn new(claim: &Arc<Claim>, key: &str) -> Self {
        Self { claim: Arc::clone(claim), key: key.to_owned(), begun: None }
    }

    fn begun(&mut self) -> Result<&mut Box<dyn Upload>> {
        self.claim.hold()?;
        match &mut self.begun {
            Some(upload) => Ok(upload),
            none => Ok(none.insert(self.claim.repository.storage().create(&self.key)?)),
        }
    }
}

impl Write for ClaimedUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun().map_err(into_io)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.begun().map_err(into_io)?.flush()
    }
}

impl Upload for ClaimedUpload {
    fn commit(&mut self) -> storage::Result<()> {
        let (key, claim) = (self.key.clone(), Arc::clone(&self.claim));
        let begun = self.begun().map_err(|error| {
            storage::Error::from_io("create", &key, claim.repository.storage(), into_io(error))
        });
        begun?.commit()
    }
}

/// So that storage's own errors come out of `Write` as they were.
fn into_io(error: Error) -> io::Error {
    match error {
        Error::Storage(error) => error.into(),
        other => io::Error::other(other),
    }
}

fn write_error(key: &str, repository: &Repository, error: io::Error) -> Error {
    storage::Error::from_io("write", key, repository.storage(), error).into()
}
