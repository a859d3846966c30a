//! The repositories during one round: what a first look at each showed, and whether it still works.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::memory::MemoryFile;
use super::report::{Finding, RepositoryReport, Tally, finding};
use crate::ops::Error;
use crate::pg::SystemIdentifier;
use crate::repo::wal_copy::WalDirectories;
use crate::repo::{self, Repository};
use crate::storage::ErrorKind;

/// After so many errors a repository drops out of the round.
const ERRORS_MAX: usize = 3;

/// One repository in this round.
pub struct Member<'a> {
    pub repository: &'a Repository,
    pub exists: bool,
    pub systems: Vec<SystemIdentifier>,
    pub directories: BTreeMap<SystemIdentifier, WalDirectories>,
    pub reading: Health,
    pub writing: Health,
    pub tally: Mutex<Tally>,
}

/// The errors of one side, and whether there were too many.
#[derive(Debug, Default)]
pub struct Health {
    errors: Mutex<Vec<repo::Error>>,
    is_out: AtomicBool,
}

impl Health {
    pub fn is_well(&self) -> bool {
        !self.is_out.load(Ordering::Relaxed)
    }

    /// Notes an error; what will not go away by itself, or comes again and again, ends this side.
    pub fn note(&self, error: repo::Error) {
        let lasts = match &error {
            repo::Error::Storage(error) => matches!(error.kind, ErrorKind::Denied | ErrorKind::NoSpace),
            _ => true,
        };
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if lasts || errors.len() + 1 >= ERRORS_MAX {
            self.is_out.store(true, Ordering::Relaxed);
        }
        errors.push(error);
    }

    /// Notes an error without which nothing more can be done.
    pub fn fail(&self, error: repo::Error) {
        self.is_out.store(true, Ordering::Relaxed);
        self.note(error);
    }

    /// The first error, and how many there were.
    fn take(&self) -> Option<(repo::Error, usize)> {
        let mut errors = std::mem::take(&mut *self.errors.lock().unwrap_or_else(PoisonError::into_inner));
        let count = errors.len();
        (count > 0).then(|| (errors.swap_remove(0), count))
    }
}

impl<'a> Member<'a> {
    /// Takes a first look: which systems there are, and which log directories of each.
    pub fn look(repository: &'a Repository, memory: &MemoryFile) -> Self {
        let mut member = Self {
            repository,
            exists: false,
            systems: Vec::new(),
            directories: BTreeMap::new(),
            reading: Health::default(),
            writing: Health::default(),
            tally: Mutex::default(),
        };
        if let Err(error) = member.look_inside(memory) {
            member.reading.fail(error);
        }
        member
    }

    fn look_inside(&mut self, memory: &MemoryFile) -> repo::Result<()> {
        let place = self.repository.place();
        if !self.repository.exists()? {
            // One that was here before is not made anew in what may be an empty mount point.
            return if memory.knows(&place) { self.repository.must_exist() } else { Ok(()) };
        }
        self.exists = true;
        if let Err(error) = memory.note(&place) {
            tracing::warn!("{error}");
        }
        self.systems = self.repository.systems()?;
        for &system in &self.systems {
            let found = self.repository.wal_directories(system)?;
            if !found.histories.is_empty()
                && let Err(error) = self.repository.keep_histories(system)
            {
                self.writing.fail(error);
            }
            self.directories.insert(system, found);
        }
        Ok(())
    }

    pub fn name(&self) -> &str {
        self.repository.name()
    }

    pub fn is_readable(&self) -> bool {
        self.reading.is_well()
    }

    pub fn is_writable(&self) -> bool {
        self.is_readable() && self.writing.is_well()
    }

    /// The error that ends everything when no repository can be read.
    pub fn into_error(self) -> Option<Error> {
        self.reading.take().map(|(error, _)| error.into())
    }

    pub fn report(self) -> (RepositoryReport, Vec<Finding>) {
        let name = self.repository.name();
        let sides = [&self.reading, &self.writing].into_iter().filter_map(Health::take);
        let mut findings: Vec<Finding> = Vec::new();
        for (error, count) in sides {
            let mut told = finding("repository-failed", Some(name), &Error::from(error));
            if count > 1 {
                told.message += &format!(" (the first of {count} errors)");
            }
            findings.push(told);
        }
        let copied_from = self.tally.into_inner().unwrap_or_else(PoisonError::into_inner).into_parts();
        let report = RepositoryReport {
            name: name.to_owned(),
            place: self.repository.place(),
            error: findings.first().map(|finding| finding.message.clone()),
            hint: findings.first().and_then(|finding| finding.hint.clone()),
            files_copied: copied_from.iter().map(|part| part.files).sum(),
            bytes_copied: copied_from.iter().map(|part| part.bytes).sum(),
            copied_from,
            missing: Vec::new(),
        };
        (report, findings)
    }
}
