//! The directory that `archive_command = 'cp …'` fills, from which `wal-sync` collects.
//!
//! PostgreSQL forgets a segment once the command has ended well, and nobody else takes anything away here. A file goes
//! when each configured repository has shown that it holds the same: all of it is read there and compared, and made
//! durable. That is asked before the repositories are pruned; what they no longer need goes here, too.
//!
//! A file stays as long as no later segment of its timeline is there: the server may be copying it at this moment. A
//! history stays for ever. Nothing goes while a repository cannot be read, or was left out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::report::{Decision, Deleted, DirectoryItem, DirectoryReport};
use super::{Context, Error, Request};
use crate::config::WalSource;
use crate::ops::wal_sync::directory::{Look, SourceDirectory};
use crate::ops::wal_sync::{self, parallel};
use crate::pg::{SystemIdentifier, WalFileName};
use crate::pipe::{Codec, Workers};
use crate::repo::wal::Comparison;
use crate::repo::wal_copy::LogDirectory;
use crate::repo::{Repository, layout};

/// What is to be deleted from the directory, and what is not.
pub struct Planned {
    report: DirectoryReport,
}

/// Looks at the directory; `None` where there is none, or not every repository is asked for.
pub fn plan(
    context: &Context<'_>,
    request: &Request,
    repositories: &[Repository],
) -> Result<Option<Planned>, Error> {
    let wal = &context.config.wal;
    let Some(path) = wal.directory.as_ref().filter(|_| wal.source == WalSource::Directory) else {
        return Ok(None);
    };
    if repositories.len() < context.config.repositories.len() {
        return Ok(None);
    }
    let mut report = DirectoryReport {
        path: path.clone(),
        error: None,
        hint: None,
        files: Vec::new(),
        deleted: Deleted::default(),
    };
    match look(context, request, repositories, path.clone()) {
        Ok(files) => report.files = files,
        Err(error) => {
            context.interrupt.check()?;
            (report.error, report.hint) = (Some(error.to_string()), error.hint());
        }
    }
    Ok(Some(Planned { report }))
}

fn look(
    context: &Context<'_>,
    request: &Request,
    repositories: &[Repository],
    path: PathBuf,
) -> Result<Vec<DirectoryItem>, Error> {
    let directory = SourceDirectory::list(&path)?;
    let of_last = || directory.system_of_last_segment().map(|(_, system)| system);
    let comparer = Comparer {
        context,
        system: wal_sync::cluster(context).or_else(of_last),
        directory: &directory,
        repositories,
        workers: context.workers()?,
        listed: Mutex::default(),
        dry_run: request.dry_run,
    };
    let is_history = |name: &&WalFileName| matches!(name, WalFileName::History(_));
    let mut names: Vec<&WalFileName> = directory.names.iter().filter(|name| !is_history(name)).collect();
    names.sort_by_key(|name| (name.timeline(), name.place(), name.to_string()));
    let numbered: Vec<(usize, &WalFileName)> = names.into_iter().enumerate().collect();
    let judged: Mutex<BTreeMap<usize, Result<DirectoryItem, Error>>> = Mutex::default();
    parallel::each(&numbered, |&(number, name)| {
        if context.interrupt.check().is_ok() {
            let item = comparer.judge(name);
            judged.lock().unwrap_or_else(PoisonError::into_inner).insert(number, item);
        }
    });
    context.interrupt.check()?;
    judged.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

/// The files of one log directory in one repository.
type Listing = Arc<BTreeMap<WalFileName, Codec>>;

struct Comparer<'a> {
    context: &'a Context<'a>,
    /// Whose files these are, where they do not say so themselves.
    system: Option<SystemIdentifier>,
    directory: &'a SourceDirectory,
    repositories: &'a [Repository],
    workers: Arc<Workers>,
    /// By the repository's number.
    listed: Mutex<BTreeMap<(usize, SystemIdentifier, LogDirectory), Listing>>,
    dry_run: bool,
}

impl Comparer<'_> {
    fn judge(&self, name: &WalFileName) -> Result<DirectoryItem, Error> {
        let path = self.directory.path_of(name);
        let look = self.directory.look_at(name);
        let look = look.map_err(|source| Error::Io { action: "read", path: path.clone(), source })?;
        let (decision, bytes) = match look {
            Look::Gone => (Decision::keep("somebody has removed it"), 0),
            Look::Incomplete(reason) | Look::Wrong(reason) => (Decision::keep(reason), 0),
            Look::Whole { size_bytes, .. } if !self.directory.has_later(name) => {
                (Decision::keep("the server may still be copying it"), size_bytes)
            }
            Look::Whole { file, system, size_bytes } => {
                (self.compare(name, &file, system.or(self.system))?, size_bytes)
            }
        };
        Ok(DirectoryItem { decision, name: name.to_string(), bytes })
    }

    fn compare(
        &self,
        name: &WalFileName,
        file: &File,
        system: Option<SystemIdentifier>,
    ) -> Result<Decision, Error> {
        let (Some(system), Some(log)) = (system, LogDirectory::of(name)) else {
            return Ok(Decision::keep("it is not known whose it is"));
        };
        let mut keys = Vec::new();
        for (number, repository) in self.repositories.iter().enumerate() {
            let kept =
                |reason: &str| Ok(Decision::keep(format!("repository {} {reason}", repository.name())));
            let Some(&codec) = self.listed(number, system, log)?.get(name) else {
                return kept("does not hold it");
            };
            let key = layout::wal_file(system, name, codec);
            self.context.interrupt.check()?;
            match repository.compare_wal(&key, codec, file, &self.workers)? {
                Comparison::Same => keys.push(key),
                Comparison::Different => return kept("holds it with other content"),
                Comparison::Unreadable => return kept("cannot read it back"),
            }
        }
        if !self.dry_run {
            for (repository, key) in self.repositories.iter().zip(&keys) {
                repository.make_durable(key)?;
            }
        }
        Ok(Decision::delete("every repository holds it"))
    }

    fn listed(&self, number: usize, system: SystemIdentifier, log: LogDirectory) -> Result<Listing, Error> {
        // Held while it is listed, so that it is listed once.
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listing) = listed.get(&(number, system, log)) {
            return Ok(Arc::clone(listing));
        }
        let repository = &self.repositories[number];
        repository.must_exist()?;
        let listing = Arc::new(repository.wal_files(system, log)?);
        listed.insert((number, system, log), Arc::clone(&listing));
        Ok(listing)
    }
}

impl Planned {
    /// Deletes what is planned, unless there were errors with a repository; those are named.
    pub fn carry_out(
        self,
        context: &Context<'_>,
        request: &Request,
        errors: &[(&str, Error)],
    ) -> Result<DirectoryReport, Error> {
        let mut report = self.report;
        if let Some((repository, _)) = errors.first() {
            report.files.clear();
            report.error.get_or_insert_with(|| {
                format!("nothing is deleted from it while repository {repository} is not well")
            });
        }
        let (mut deleted, mut failed) = (Deleted::default(), None);
        for item in report.files.iter().filter(|item| item.decision.deletes()) {
            context.interrupt.check()?;
            let path = report.path.join(&item.name);
            if !request.dry_run
                && let Err(source) = fs::remove_file(&path)
                && source.kind() != std::io::ErrorKind::NotFound
            {
                failed = Some(Error::Io { action: "delete", path, source });
                break;
            }
            deleted.wal_files += 1;
            deleted.bytes += item.bytes;
        }
        report.deleted = deleted;
        if let Some(error) = failed {
            (report.error, report.hint) = (Some(error.to_string()), error.hint());
        }
        Ok(report)
    }
}
