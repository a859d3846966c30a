//! `base-backup --copy-missing`: no new backup, but every backup in every repository.
//!
//! A repository that was away, or too slow, while a backup was taken lacks it. Here it is copied from one that has
//! it, file by file as recorded, the newest backup first. Nothing is asked of the server.

use super::{Context, Error};
use crate::catalog::{BackupInfo, Catalog};
use crate::repo::{self, Repository, copy_backup};

#[derive(Debug)]
pub struct Request {
    /// Copy to these repositories only; empty is all. Each one is read from.
    pub repositories: Vec<String>,
}

/// Serialized by `--json`.
#[derive(Debug, Default, serde::Serialize)]
pub struct Report {
    pub copied: Vec<Copied>,
    pub failed: Vec<Failed>,
    pub duration_seconds: f64,
}

#[derive(Debug, serde::Serialize)]
pub struct Copied {
    pub backup: String,
    pub repository: String,
    pub stored_bytes: u64,
}

/// A backup that is still missing, or a repository of which not even that is known.
#[derive(Debug, serde::Serialize)]
pub struct Failed {
    pub backup: Option<String>,
    pub repository: String,
    pub error: String,
    pub hint: Option<String>,
}

impl Report {
    /// Whether the run ended with something to look at (exit code 3).
    pub fn has_findings(&self) -> bool {
        !self.failed.is_empty()
    }

    fn fail(&mut self, backup: Option<&BackupInfo>, repository: &Repository, error: &repo::Error) {
        self.failed.push(Failed {
            backup: backup.map(|backup| backup.name.to_string()),
            repository: repository.name().to_owned(),
            error: error.to_string(),
            hint: error.hint(),
        });
    }
}

/// Copies to each repository the backups that it lacks.
///
/// # Errors
/// When no repository can be read. What fails for one repository only is in the report.
pub fn run(context: &Context<'_>, request: &Request) -> Result<Report, Error> {
    let began_at = (context.clock)();
    let wanted = context.repositories(&request.repositories)?;
    let is_wanted = |repository: &Repository| wanted.iter().any(|wanted| wanted.name() == repository.name());
    let mut report = Report::default();
    let mut readable = Vec::new();
    let mut first_error = None;
    for repository in context.repositories(&[])? {
        context.interrupt.check()?;
        match catalog(&repository) {
            Ok(catalog) => readable.push((repository, catalog)),
            Err(error) => {
                report.fail(None, &repository, &error);
                first_error = first_error.or(Some(error));
            }
        }
    }
    if let (true, Some(error)) = (readable.is_empty(), first_error) {
        return Err(error.into());
    }

    // What is there already counts as copied, so it has to stay.
    for (to, catalog) in readable.iter().filter(|(to, _)| is_wanted(to)) {
        for backup in catalog.backups() {
            context.interrupt.check()?;
            if let Err(error) = to.keep_recorded(backup.name) {
                report.fail(Some(backup), to, &error);
                break;
            }
        }
    }
    let missing = missing(&readable, &is_wanted);
    context.meter.expect(missing.iter().map(|missing| missing.backup.stored_bytes).sum());
    let mut lock = None;
    let mut given_up = Vec::new();
    for Missing { backup, sources, to } in missing {
        context.interrupt.check()?;
        if given_up.contains(&to.name()) {
            continue;
        }
        let system = backup.system_identifier;
        if !matches!(&lock, Some((of, _)) if *of == system) {
            lock = Some((system, context.lock("base-backup", &system.to_string())?));
        }
        match copy_backup(backup, &sources, to, &context.observer(), context) {
            Ok(()) => report.copied.push(Copied {
                backup: backup.name.to_string(),
                repository: to.name().to_owned(),
                stored_bytes: backup.stored_bytes,
            }),
            Err(error) => {
                context.interrupt.check()?;
                report.fail(Some(backup), to, &error);
                // What its storage refuses once it will refuse again; what a source cannot give, another backup may.
                if let repo::Error::Storage(_) = error {
                    given_up.push(to.name());
                }
            }
        }
    }
    report.duration_seconds = ((context.clock)() - began_at).as_seconds_f64();
    Ok(report)
}

/// What a repository holds; one that is not made yet holds nothing.
fn catalog(repository: &Repository) -> repo::Result<Catalog> {
    match repository.exists()? {
        true => repository.catalog(),
        false => Ok(Catalog::default()),
    }
}

struct Missing<'a> {
    backup: &'a BackupInfo,
    sources: Vec<Repository>,
    to: &'a Repository,
}

/// What each wanted repository lacks, and which others have it; the newest first.
fn missing<'a>(
    readable: &'a [(Repository, Catalog)],
    is_wanted: &dyn Fn(&Repository) -> bool,
) -> Vec<Missing<'a>> {
    let mut backups: Vec<&BackupInfo> = readable.iter().flat_map(|(_, catalog)| catalog.backups()).collect();
    backups.sort_by_key(|backup| std::cmp::Reverse(backup.name));
    backups.dedup_by_key(|backup| backup.name);
    let mut missing = Vec::new();
    for backup in backups {
        let same = |found: &&BackupInfo| found.name == backup.name && found.files == backup.files;
        let has = |(_, catalog): &&(Repository, Catalog)| catalog.backups().iter().any(|info| same(&info));
        let sources: Vec<Repository> =
            readable.iter().filter(has).map(|(repository, _)| repository.clone()).collect();
        let knows = |catalog: &Catalog| {
            let name = backup.name.to_string();
            catalog.backups().iter().any(|info| info.name == backup.name)
                || catalog.damaged().iter().any(|damaged| damaged.name == name)
        };
        for (to, _) in readable.iter().filter(|(to, catalog)| is_wanted(to) && !knows(catalog)) {
            missing.push(Missing { backup, sources: sources.clone(), to });
        }
    }
    missing
}
