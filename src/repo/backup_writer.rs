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
//! leaves has no record, so nobody reads it, and [`BackupWriter::sweep`] of a later run deletes it.

use std::io::{self, Write};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::lease::{self, HeldLease, Holder, Observer};
use super::{Error, Repository, Result, layout, put_small};
use crate::catalog::backup::StoredFile;
use crate::catalog::{BackupInfo, BackupName};
use crate::pipe::{ArchiveWriter, Compression, Workers};
use crate::storage::{self, Upload};

/// A backup that is being written. See the module's protocol.
pub struct BackupWriter {
    name: BackupName,
    workers: Arc<Workers>,
    copies: Vec<Copy>,
    files: Vec<StoredFile>,
}

struct Copy {
    repository: Repository,
    state: State,
}

enum State {
    Writing(HeldLease),
    Recorded,
    Failed(Error),
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
    /// Which copy each of the writer's sinks belongs to.
    copies: Vec<usize>,
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
    /// Deletes what dead runs left of backups that they never recorded.
    pub fn sweep(repository: &Repository, observer: &Observer<'_>, now: DateTime<Utc>) -> Result<()> {
        let storage = repository.storage();
        for entry in storage.list(layout::BASE_BACKUPS)?.into_iter().filter(storage::Entry::is_directory) {
            let directory = storage::join(layout::BASE_BACKUPS, &entry.name);
            let files = storage.list(&directory)?;
            let recorded = files.iter().any(|file| file.name == layout::RECORD);
            if recorded || lease::is_in_progress(storage, &directory, &files, now, observer)? {
                continue;
            }
            tracing::info!("deleting the unfinished {} from repository {}", entry.name, repository.name());
            discard(repository, &directory)?;
        }
        Ok(())
    }

    /// Begins a backup. The name is that of `now`, or of the first second after it that no repository has used.
    ///
    /// Fails only when no repository can be written to, with what the first one said.
    pub fn begin(
        repositories: &[Repository],
        workers: &Arc<Workers>,
        holder: &Holder,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let mut taken = Vec::new();
        for repository in repositories {
            // One that cannot be listed will fail below, where it is taken out.
            let entries = repository.storage().list(layout::BASE_BACKUPS).unwrap_or_default();
            taken.extend(entries.into_iter().map(|entry| entry.name));
        }
        let mut started_at = now;
        while taken.contains(&BackupName::of(started_at).to_string()) {
            started_at += chrono::TimeDelta::seconds(1);
        }

        let name = BackupName::of(started_at);
        let begin = |repository: &Repository| -> Result<HeldLease> {
            repository.ensure_exists()?;
            let directory = layout::backup_directory(name);
            Ok(HeldLease::take(repository.storage(), &directory, holder, now)?)
        };
        let copies = repositories.iter().map(|repository| Copy {
            repository: repository.clone(),
            state: begin(repository).map_or_else(State::Failed, State::Writing),
        });
        let copies: Vec<_> = copies.collect();
        let mut writer = Self { name, workers: Arc::clone(workers), copies, files: Vec::new() };
        writer.must_have_a_copy()?;
        Ok(writer)
    }

    pub fn name(&self) -> BackupName {
        self.name
    }

    /// Renews the leases that are due. To be called now and then while the backup is written.
    pub fn keep_alive(&mut self, now: DateTime<Utc>) {
        for copy in &mut self.copies {
            if let State::Writing(lease) = &mut copy.state
                && let Err(error) = lease.keep(copy.repository.storage(), now)
            {
                copy.fail(self.name, error.into());
            }
        }
    }

    /// Begins one file of the backup in every healthy repository. Fails only when that is possible in none.
    pub fn create(&self, file_name: &str, compression: Compression) -> Result<Archive> {
        let key = layout::backup_file(self.name, file_name);
        let (mut copies, mut uploads, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (index, copy) in self.copies.iter().enumerate() {
            if let State::Writing(_) = copy.state {
                match copy.repository.storage().create(&key) {
                    Ok(upload) => {
                        copies.push(index);
                        uploads.push(upload);
                    }
                    Err(error) => failed.push((index, error.into())),
                }
            }
        }
        if uploads.is_empty() {
            let (_, first) = failed.swap_remove(0);
            return Err(first);
        }
        let writer = ArchiveWriter::new(&self.workers, compression, uploads);
        let writer = writer.map_err(|source| Error::Threads { source })?;
        Ok(Archive { file_name: file_name.to_owned(), writer, is_lost: false, copies, failed })
    }

    /// Ends a file: it is durable wherever no error took that repository out.
    ///
    /// Fails only when no repository is left.
    pub fn commit(&mut self, archive: Archive) -> Result<()> {
        let Archive { file_name, writer, is_lost: _, copies, failed } = archive;
        for (index, error) in failed {
            self.copies[index].fail(self.name, error);
        }
        let key = layout::backup_file(self.name, &file_name);
        let finished = writer.finish();
        for (index, written) in copies.into_iter().zip(finished.sinks) {
            let copy = &mut self.copies[index];
            let storage = copy.repository.storage();
            let committed = match written {
                Err(error) => Err(storage::Error::from_io("write", &key, storage, error)),
                // A repository that failed elsewhere in the meantime gets no more files.
                Ok(_) if matches!(copy.state, State::Failed(_)) => continue,
                Ok(mut upload) => upload.commit(),
            };
            if let Err(error) = committed {
                copy.fail(self.name, error.into());
            }
        }
        self.files.push(StoredFile {
            name: file_name,
            size_bytes: finished.stored_bytes,
            sha256: finished.sha256.to_string(),
        });
        self.must_have_a_copy()
    }

    /// Records the backup in every healthy repository and says how each fared, in the order of the configuration.
    ///
    /// `info` describes the backup; which files it has is filled in here.
    pub fn finish(mut self, mut info: BackupInfo) -> (BackupInfo, Vec<CopyOutcome>) {
        let sums: String =
            self.files.iter().map(|file| format!("{}  {}\n", file.sha256, file.name)).collect();
        info.stored_bytes = self.files.iter().map(|file| file.size_bytes).sum();
        info.files = self.files.clone();
        let record = info.to_toml();
        for copy in &mut self.copies {
            copy.record(self.name, &self.files, &sums, &record);
        }
        let outcomes = std::mem::take(&mut self.copies).into_iter().map(|copy| CopyOutcome {
            repository: copy.repository.name().to_owned(),
            result: match copy.state {
                State::Recorded => Ok(()),
                State::Failed(error) => Err(error),
                State::Writing(_) => unreachable!("record leaves no copy unfinished"),
            },
        });
        (info, outcomes.collect())
    }

    fn must_have_a_copy(&mut self) -> Result<()> {
        if self.copies.iter().any(|copy| matches!(copy.state, State::Writing(_))) {
            return Ok(());
        }
        let first = self.copies.drain(..).find_map(|copy| match copy.state {
            State::Failed(error) => Some(error),
            State::Writing(_) | State::Recorded => None,
        });
        Err(first.expect("a backup goes to at least one repository"))
    }
}

impl Drop for BackupWriter {
    fn drop(&mut self) {
        for copy in &self.copies {
            if let State::Writing(_) = copy.state {
                copy.discard(self.name);
            }
        }
    }
}

impl Copy {
    fn fail(&mut self, name: BackupName, error: Error) {
        if let State::Failed(_) = self.state {
            return;
        }
        // The report tells it, or the error if no repository is left.
        tracing::info!("repository {} drops out of this backup: {error}", self.repository.name());
        self.discard(name);
        self.state = State::Failed(error);
    }

    fn discard(&self, name: BackupName) {
        if let Err(error) = discard(&self.repository, &layout::backup_directory(name)) {
            let repository = self.repository.name();
            tracing::warn!("{name} stays unfinished in repository {repository} until the next run: {error}");
        }
    }

    fn record(&mut self, name: BackupName, files: &[StoredFile], sums: &str, record: &str) {
        let State::Writing(_) = self.state else { return };
        let storage = self.repository.storage();
        let write = || -> Result<()> {
            put_small(storage, &layout::backup_file(name, layout::CHECKSUMS), sums.as_bytes())?;
            self.must_hold(name, files)?;
            put_small(storage, &layout::backup_file(name, layout::RECORD), record.as_bytes())?;
            Ok(())
        };
        if let Err(error) = write() {
            return self.fail(name, error);
        }
        let State::Writing(lease) = std::mem::replace(&mut self.state, State::Recorded) else { return };
        if let Err(error) = lease.release(self.repository.storage()) {
            tracing::warn!("{name} keeps its lease, which does no harm: {error}");
        }
    }

    fn must_hold(&self, name: BackupName, files: &[StoredFile]) -> Result<()> {
        let directory = layout::backup_directory(name);
        let entries = self.repository.storage().list(&directory)?;
        for file in files {
            let found = entries.iter().find(|entry| entry.name == file.name);
            if found.and_then(storage::Entry::size_bytes) != Some(file.size_bytes) {
                let reason =
                    format!("expected {} bytes just written, found it changed or gone", file.size_bytes);
                return Err(self.repository.damaged(&storage::join(&directory, &file.name), reason));
            }
        }
        Ok(())
    }
}

/// Deletes everything in a directory without a record: leases last, so that it stays known for unfinished.
fn discard(repository: &Repository, directory: &str) -> Result<()> {
    let storage = repository.storage();
    let mut entries = storage.list(directory)?;
    entries.sort_by_key(|entry| (entry.name != layout::RECORD, layout::is_lease(&entry.name)));
    for entry in entries.into_iter().filter(|entry| !entry.is_directory()) {
        storage.delete(&storage::join(directory, &entry.name))?;
    }
    Ok(())
}
