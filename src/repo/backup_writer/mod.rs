//! Writing one backup to several repositories at once.
//!
//! The protocol, for each repository on its own:
//!
//! 1. a lease, so that nobody takes what follows for garbage;
//! 2. the archives, the manifest and their checksums, each durable when its commit returns;
//! 3. a look at what is really there, because whoever thought the run dead may have cleaned up behind it;
//! 4. the record. From here on, and only from here on, the backup exists;
//! 5. the lease goes.
//!
//! A repository that fails at any step drops out, and what it has of the backup is deleted; the others go on. A
//! writer that is dropped before [`BackupWriter::finish`] deletes what it wrote everywhere. What a killed process
//! leaves has no record, so nobody reads it, and a later run's claim deletes it.
//!
//! A far repository (see [`Distance`]) does all of this on threads of its own while there is a near one: it *follows*.
//! The near ones never wait for it. What does not fit in its queue is copied to it at the end, from a repository that
//! has the backup recorded by then; [`copy_backup`] does the same for a backup of an earlier run.

mod claim;
mod copy;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use self::claim::{Claim, RunTime};
use self::copy::{ClaimedUpload, Copy, LateFile, State};
use super::lease::Observer;
use super::{Distance, Error, Repository, Result, layout};
use crate::catalog::backup::StoredFile;
use crate::catalog::{BackupInfo, BackupName, backup};
use crate::pipe::{ArchiveWriter, Compression, Workers};
use crate::storage::{self, Upload};

/// A backup that is being written. See the module's protocol.
pub struct BackupWriter {
    name: BackupName,
    workers: Arc<Workers>,
    time: RunTime,
    copies: Vec<Copy>,
    files: Vec<StoredFile>,
}

/// What a long copy asks and tells while it goes on.
pub trait Pulse {
    fn now(&self) -> DateTime<Utc>;

    /// Called with the number of bytes after each piece; an error ends the copying.
    fn passed(&self, bytes: u64) -> io::Result<()>;
}

/// How one repository fared.
pub struct CopyOutcome {
    pub repository: String,
    pub result: Result<()>,
}

/// One file of the backup on its way to every repository that is still healthy. Dropping it discards it.
pub struct Archive {
    file_name: String,
    writer: ArchiveWriter<Box<dyn Upload>>,
    is_lost: bool,
    /// Which copy each of the writer's sinks and followers belongs to.
    sinks: Vec<usize>,
    followers: Vec<usize>,
    /// Where it could not even be begun: the copy, and why.
    failed: Vec<(usize, Error)>,
}

/// Writing never fails: what went wrong, and where, is told by [`BackupWriter::commit`]. See [`Archive::is_lost`].
impl Write for Archive {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Archive {
    pub fn put(&mut self, bytes: &[u8]) {
        if !self.is_lost {
            self.is_lost = self.writer.write_all(bytes).is_err();
        }
    }

    /// Whether no repository takes it any more, so that writing on is in vain and committing fails.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }
}

impl BackupWriter {
    /// Begins a backup. The name is that of `now`, or of the first second after it that no near repository has used.
    ///
    /// Fails only when no repository can be written to, with what the first one said.
    pub fn begin(
        repositories: &[Repository],
        workers: &Arc<Workers>,
        observer: &Observer<'static>,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let is_near = |repository: &&Repository| repository.distance() == Distance::Near;
        let mut taken = Vec::new();
        for repository in repositories.iter().filter(is_near) {
            // One that cannot be listed will fail below, where it is taken out.
            let entries = repository.storage().list(layout::BASE_BACKUPS).unwrap_or_default();
            taken.extend(entries.into_iter().map(|entry| entry.name));
        }
        let mut started_at = now;
        while taken.contains(&BackupName::of(started_at).to_string()) {
            started_at += chrono::TimeDelta::seconds(1);
        }

        let (name, time) = (BackupName::of(started_at), RunTime::new(now));
        let copy = |repository| Copy::new(name, Claim::new(repository, name, observer, &time));
        let copies = repositories.iter().map(copy).collect();
        let mut writer = Self { name, workers: Arc::clone(workers), time, copies, files: Vec::new() };
        writer.claim(Distance::Near);
        if writer.copies.iter().any(|copy| copy.is_writing() && copy.distance() == Distance::Near) {
            writer.copies.iter_mut().for_each(|copy| copy.follows = copy.distance() == Distance::Far);
        } else {
            writer.claim(Distance::Far);
        }
        writer.must_have_a_copy()?;
        Ok(writer)
    }

    fn claim(&mut self, distance: Distance) {
        for copy in self.copies.iter_mut().filter(|copy| copy.distance() == distance) {
            if let Err(error) = copy.claim.hold() {
                copy.fail(error);
            }
        }
    }

    pub fn name(&self) -> BackupName {
        self.name
    }

    /// Renews the leases that are due. To be called now and then while the backup is written.
    pub fn keep_alive(&mut self, now: DateTime<Utc>) {
        self.time.set(now);
        // Those that follow do it when they write.
        for copy in self.copies.iter_mut().filter(|copy| copy.is_writing() && !copy.follows) {
            if let Err(error) = copy.claim.hold() {
                copy.fail(error);
            }
        }
    }

    /// Begins one file of the backup in every healthy repository. Fails only when that is possible in none.
    pub fn create(&self, file_name: &str, compression: Compression) -> Result<Archive> {
        let key = layout::backup_file(self.name, file_name);
        let (mut sinks, mut uploads, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        let writing = || self.copies.iter().enumerate().filter(|(_, copy)| copy.is_writing());
        for (index, copy) in writing().filter(|(_, copy)| !copy.follows) {
            match copy.repository().storage().create(&key) {
                Ok(upload) => {
                    sinks.push(index);
                    uploads.push(upload);
                }
                Err(error) => failed.push((index, error.into())),
            }
        }
        // One that has fallen behind gets the rest when all is done.
        let keeping_up = writing().filter(|(_, copy)| copy.follows && !copy.is_behind());
        let (mut followers, mut late): (Vec<usize>, Vec<Box<dyn Upload>>) = keeping_up
            .map(|(index, copy)| -> (usize, Box<dyn Upload>) {
                (index, Box::new(ClaimedUpload::new(&copy.claim, &key)))
            })
            .unzip();
        if uploads.is_empty() {
            // Nobody is left to be followed.
            (sinks, uploads) = (std::mem::take(&mut followers), std::mem::take(&mut late));
        }
        if uploads.is_empty() {
            let (_, first) = failed.swap_remove(0);
            return Err(first);
        }
        let writer = ArchiveWriter::with_followers(&self.workers, compression, uploads, late);
        let writer = writer.map_err(|source| Error::Threads { source })?;
        Ok(Archive { file_name: file_name.to_owned(), writer, is_lost: false, sinks, followers, failed })
    }

    /// Ends a file: it is durable wherever no error took that repository out, and where that does not follow.
    ///
    /// Fails only when no repository is left that can have all of it.
    pub fn commit(&mut self, archive: Archive) -> Result<()> {
        let Archive { file_name, writer, is_lost: _, sinks, followers, failed } = archive;
        for (index, error) in failed {
            self.copies[index].fail(error);
        }
        let key = layout::backup_file(self.name, &file_name);
        let finished = writer.finish();
        let file = StoredFile {
            name: file_name,
            size_bytes: finished.stored_bytes,
            sha256: finished.sha256.to_string(),
        };
        for (&index, written) in sinks.iter().zip(finished.sinks) {
            let copy = &mut self.copies[index];
            let storage = copy.repository().storage();
            let committed = match written {
                Err(error) => Err(storage::Error::from_io("write", &key, storage, error)),
                // A repository that failed elsewhere in the meantime gets no more files.
                Ok(_) if !copy.is_writing() => continue,
                Ok(mut upload) => upload.commit(),
            };
            if let Err(error) = committed {
                copy.fail(error.into());
            }
        }
        let mut begun: Vec<_> = followers.into_iter().zip(finished.followers).collect();
        for (index, copy) in self.copies.iter_mut().enumerate() {
            let position = begun.iter().position(|(of, _)| *of == index);
            let follower = position.map(|position| begun.swap_remove(position).1);
            if copy.is_writing() && copy.follows && !sinks.contains(&index) {
                copy.late.push(LateFile { file: file.clone(), begun: follower });
            } else if let Some(follower) = follower {
                drop(follower.join());
            }
        }
        self.files.push(file);
        self.must_have_a_copy()
    }

    /// Records the backup in every healthy repository, completes those that follow, and says how each fared, in the
    /// order of the configuration.
    ///
    /// `info` describes the backup; which files it has is filled in here.
    pub fn finish(mut self, mut info: BackupInfo, pulse: &dyn Pulse) -> (BackupInfo, Vec<CopyOutcome>) {
        info.stored_bytes = self.files.iter().map(|file| file.size_bytes).sum();
        info.files = self.files.clone();
        let record = info.to_toml();
        let mut sources = Vec::new();
        for copy in self.copies.iter_mut().filter(|copy| copy.late.is_empty()) {
            copy.record(&self.files, record.as_bytes());
            if let State::Recorded = copy.state {
                sources.push(copy.repository().clone());
            }
        }
        for copy in self.copies.iter_mut().filter(|copy| copy.is_writing()) {
            match copy.catch_up(&sources, &self.time, pulse) {
                Ok(()) => copy.record(&self.files, record.as_bytes()),
                Err(error) => copy.fail(error),
            }
        }
        let outcomes = std::mem::take(&mut self.copies).into_iter().map(CopyOutcome::of).collect();
        (info, outcomes)
    }

    fn must_have_a_copy(&mut self) -> Result<()> {
        if self.copies.iter().any(|copy| copy.is_writing() && !copy.is_behind()) {
            return Ok(());
        }
        self.copies.iter_mut().filter(|copy| copy.is_writing()).for_each(Copy::discard);
        let first = self.copies.drain(..).find_map(|copy| match copy.state {
            State::Failed(error) => Some(error),
            State::Writing | State::Recorded => None,
        });
        Err(first.expect("a backup goes to at least one repository"))
    }
}

impl Drop for BackupWriter {
    fn drop(&mut self) {
        self.copies.iter_mut().filter(|copy| copy.is_writing()).for_each(Copy::discard);
    }
}

impl CopyOutcome {
    fn of(copy: Copy) -> Self {
        let repository = copy.repository().name().to_owned();
        let result = match copy.state {
            State::Recorded => Ok(()),
            State::Failed(error) => Err(error),
            State::Writing => unreachable!("finishing leaves no copy unfinished"),
        };
        Self { repository, result }
    }
}

/// Brings a backup to a repository that lacks it, from the first of `sources` that gives each file as recorded.
///
/// The record is copied byte for byte.
pub fn copy_backup(
    info: &BackupInfo,
    sources: &[Repository],
    to: &Repository,
    observer: &Observer<'static>,
    pulse: &dyn Pulse,
) -> Result<()> {
    let time = RunTime::new(pulse.now());
    let key = layout::backup_file(info.name, layout::RECORD);
    let source = sources
        .first()
        .ok_or_else(|| Error::FellBehind { repository: to.name().to_owned(), key: key.clone() })?;
    let record = source.read_small(&key, backup::MAX_BYTES as u64)?;
    let mut copy = Copy::new(info.name, Claim::new(to, info.name, observer, &time));
    copy.late = info.files.iter().map(|file| LateFile { file: file.clone(), begun: None }).collect();
    let caught_up = copy.claim.hold().and_then(|()| copy.catch_up(sources, &time, pulse));
    match caught_up {
        Ok(()) => copy.record(&info.files, &record),
        Err(error) => copy.fail(error),
    }
    CopyOutcome::of(copy).result
}
