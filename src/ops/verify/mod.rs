//! `verify`: proving that what is stored can be restored, and naming all that cannot.
//!
//! Four depths, each of which includes the ones before it, as far as it reads the same:
//!
//! * **quick** reads no data: names, sizes, records, checksum lists, histories, and whether the WAL is contiguous.
//! * **default** reads every stored byte. An archive of a backup has a recorded digest, which proves that these are the
//!   bytes that were written; its frames are decompressed all the same, as their checksums prove that what was
//!   written can be read. A segment has no recorded digest. Its frames, its size and each page's header have to do.
//! * **full** holds each file of a backup against the manifest and each page against its checksum.
//! * **drill** restores a backup and starts a server from it. It proves what no reading can: see [`drill`].
//!
//! What is not there is looked for twice: see [`absence`]. A finding never stops the run; only a repository that cannot be read at all does, and that is a finding too where
//! another can be. What was read and found sound is remembered ([`proofs`](super::proofs)) as soon as it was, so that
//! the next run passes over it until it has changed or is too long ago, and an interrupted run goes on where it was.
//! What is damaged is read again each time: the damage may have been mended.
//!
//! Nothing is ever changed in a repository.

mod absence;
mod archive;
mod conclusion;
mod coverage;
pub mod drill;
mod full;
mod lanes;
mod loss;
mod memory;
mod pages;
mod problem;
pub mod report;
mod scope;
mod structure;
mod task;
mod wal;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

pub use report::{DrillReport, Finding, LostInterval, Note, Report, RepositoryReport};

use self::lanes::Reading;
use self::memory::Memory;
use self::problem::{Problem, Subject};
use self::scope::Scope;
use self::task::{Tasks, Trust};
use super::proofs::{Depth, Proofs};
use super::{Context, Error};
use crate::catalog::Catalog;
use crate::pipe::Workers;
use crate::plan::recovery::RecoveryError;
use crate::plan::retention::{self, Policy};
use crate::repo::inventory::Inventory;
use crate::repo::{self, Repository};

#[derive(Debug)]
pub struct Request {
    /// Only this backup, by its name or as `latest`, and the WAL from its start on.
    pub backup: Option<String>,
    /// Only these repositories; empty is all.
    pub repositories: Vec<String>,
    pub mode: Mode,
    /// How long what was proven counts as proven.
    pub again_after: Duration,
}

#[derive(Debug, Clone)]
pub enum Mode {
    Quick,
    Default,
    Full,
    Drill(drill::Options),
}

impl Mode {
    fn name(&self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Default => "default",
            Self::Full => "full",
            Self::Drill(_) => "drill",
        }
    }

    /// How deep the bytes are looked into.
    fn depth(&self) -> Option<Depth> {
        match self {
            Self::Quick | Self::Drill(_) => None,
            Self::Default => Some(Depth::Read),
            Self::Full => Some(Depth::Full),
        }
    }
}

/// One repository, and what was found in it.
struct Checked {
    repository: Repository,
    inventory: Inventory,
    /// What could be restored if all in the inventory were whole.
    catalog: Catalog,
    scope: Scope,
    problems: Vec<Problem>,
    notes: Vec<Note>,
    started_at: DateTime<Utc>,
    report: RepositoryReport,
}

/// Verifies what `request` says.
///
/// # Errors
/// When no repository can be read. What is wrong with what they hold is in the report.
pub fn run(context: &Context<'_>, request: &Request) -> Result<Report, Error> {
    let started_at = (context.clock)();
    let _lock = context.lock("verify", &context.configuration_name())?;
    let mut report = Report {
        started_at,
        duration_seconds: 0.0,
        mode: request.mode.name(),
        repositories: Vec::new(),
        drills: Vec::new(),
        findings: Vec::new(),
        notes: Vec::new(),
    };
    match &request.mode {
        Mode::Drill(options) => drill::run(context, request, options, &mut report)?,
        Mode::Quick | Mode::Default | Mode::Full => read(context, request, &mut report)?,
    }
    report.duration_seconds = ((context.clock)() - started_at).as_seconds_f64();
    Ok(report)
}

fn read(context: &Context<'_>, request: &Request, report: &mut Report) -> Result<(), Error> {
    let mut checked = survey(context, request, report)?;
    if let Some(depth) = request.mode.depth() {
        let again_after = TimeDelta::from_std(request.again_after).unwrap_or(TimeDelta::MAX);
        let trust = Trust { depth, now: report.started_at, again_after };
        read_bytes(context, request, &mut checked, trust)?;
    } else {
        for own in &mut checked {
            own.look_again(context, request)?;
            memory::remember_damage(context, own)?;
        }
    }
    report.findings.extend(conclusion::findings(&checked));
    for own in checked {
        report.notes.extend(own.notes);
        let place = report.repositories.iter().position(|known| known.name == own.report.name);
        if let Some(error) = &own.report.error {
            report.findings.push(unreadable(&own.repository, error.clone(), None));
        }
        match place {
            Some(place) => report.repositories[place] = own.report,
            None => report.repositories.push(own.report),
        }
    }
    Ok(())
}

/// With `pitr_window`, `prune` leaves holes between what older backups need and what the window does. They are no
/// findings, and worth a note, because a time in them cannot be restored.
fn pruned_on_purpose(
    context: &Context<'_>,
    repository: &Repository,
    catalog: &Catalog,
    problems: &mut Vec<Problem>,
    now: DateTime<Utc>,
) -> Vec<Note> {
    let policy = Policy::from(&context.config.retention);
    if policy.pitr_window.is_none() {
        return Vec::new();
    }
    let Some(needs) = retention::wal_of_use_in(catalog, BTreeMap::new(), &policy, now) else {
        return Vec::new();
    };
    let is_on_purpose = |problem: &Problem| match &problem.subject {
        Subject::Gap(system, gap) => needs.get(system).is_some_and(|need| !need.has_any(*gap)),
        _ => false,
    };
    let holes: Vec<Problem> = problems.extract_if(.., |problem| is_on_purpose(problem)).collect();
    let note = |hole: Problem| Note {
        code: "wal-outside-window",
        repository: Some(repository.name().to_owned()),
        object: Some(hole.object),
        message:
            "from here to the next archived segment there is no WAL, and retention.pitr_window needs none"
                .into(),
    };
    holes.into_iter().map(note).collect()
}

/// Lists every repository; one that cannot be read is a finding as long as another can.
fn survey(context: &Context<'_>, request: &Request, report: &mut Report) -> Result<Vec<Checked>, Error> {
    let (mut checked, mut first_error, mut is_anywhere) = (Vec::new(), None, false);
    for repository in context.repositories(&request.repositories)? {
        context.interrupt.check()?;
        let described = RepositoryReport {
            name: repository.name().to_owned(),
            place: repository.place(),
            ..RepositoryReport::default()
        };
        match look_through(context, request, &repository, described.clone(), report.started_at) {
            Ok(Some(own)) => {
                is_anywhere = true;
                report.repositories.push(own.report.clone());
                checked.push(own);
            }
            Ok(None) => {
                report.repositories.push(described);
                report.notes.push(Note {
                    code: "not-here",
                    repository: Some(repository.name().to_owned()),
                    object: None,
                    message: "it does not have this backup".to_owned(),
                });
            }
            Err(error) => {
                context.interrupt.check()?;
                report.findings.push(unreadable(&repository, error.to_string(), error.hint()));
                report.repositories.push(RepositoryReport { error: Some(error.to_string()), ..described });
                first_error = first_error.or(Some(error));
            }
        }
    }
    match (is_anywhere, first_error, &request.backup) {
        (true, ..) => Ok(checked),
        (false, Some(error), _) => Err(error.into()),
        (false, None, Some(name)) if name != "latest" => {
            Err(RecoveryError::UnknownBackup { name: name.clone(), newest: None }.into())
        }
        (false, None, _) => Err(RecoveryError::NoBackup { damaged: 0 }.into()),
    }
}

/// Everything that a repository says without its data; `None` where it has no such backup.
fn look_through(
    context: &Context<'_>,
    request: &Request,
    repository: &Repository,
    described: RepositoryReport,
    started_at: DateTime<Utc>,
) -> repo::Result<Option<Checked>> {
    let inventory = repository.inventory(started_at, &context.observer())?;
    let catalog = inventory.catalog();
    let Some(scope) = Scope::new(request.backup.as_deref(), &catalog) else { return Ok(None) };
    let (mut problems, mut notes) = structure::check(repository, &inventory, &scope)?;
    notes.extend(pruned_on_purpose(context, repository, &catalog, &mut problems, started_at));
    if catalog.backups().is_empty() {
        problems.push(
            Problem::new(
                "no-backup",
                repo::layout::BASE_BACKUPS,
                Subject::Nothing,
                "no backup that could be restored",
            )
            .with_hint(Some("Take one now: `pgbak base-backup`.".to_owned())),
        );
    }
    let backups = inventory.recorded().filter(|backup| scope.has_backup(backup.name)).count();
    let report =
        RepositoryReport { backups: backups as u64, wal_files: inventory.wal.len() as u64, ..described };
    let repository = repository.clone();
    Ok(Some(Checked { repository, inventory, catalog, scope, problems, notes, started_at, report }))
}

/// Reads what has not been proven yet, one repository after the other.
fn read_bytes(
    context: &Context<'_>,
    request: &Request,
    checked: &mut [Checked],
    trust: Trust,
) -> Result<(), Error> {
    let workers = context.workers()?;
    let mut planned = Vec::new();
    for own in checked.iter() {
        let proofs = Proofs::load(context, &own.repository)?;
        planned.push(own.tasks(&proofs, trust).to_do.iter().map(task::Task::size_bytes).sum::<u64>());
    }
    context.meter.expect(planned.iter().sum());
    for own in checked {
        context.interrupt.check()?;
        own.read(context, request, &workers, trust)?;
    }
    Ok(())
}

impl Checked {
    fn tasks<'a>(&'a self, proofs: &Proofs, trust: Trust) -> Tasks<'a> {
        let wrong: BTreeSet<&str> = self.problems.iter().map(|problem| problem.object.as_str()).collect();
        let is_wrong = |key: &str| wrong.contains(key);
        task::collect(&self.inventory, &self.catalog, &self.scope, proofs, trust, &is_wrong)
    }

    fn read(
        &mut self,
        context: &Context<'_>,
        request: &Request,
        workers: &Arc<Workers>,
        trust: Trust,
    ) -> Result<(), Error> {
        let mut memory = Memory::open(context, self, trust)?;
        let tasks = self.tasks(memory.proofs(), trust);
        let reading = Reading { context, repository: &self.repository, workers };
        let (mut problems, mut report) = (Vec::new(), self.report.clone());
        report.files_passed_over = tasks.passed_over.len() as u64;
        report.bytes_passed_over = tasks.passed_over.iter().map(|object| object.stored.size_bytes).sum();
        let ended = reading.read(&tasks.to_do, &mut |task, found| {
            report.files_read += task.objects.len() as u64;
            report.bytes_read += task.size_bytes();
            // What is gone has nothing to be remembered.
            problems.extend(match found.iter().any(absence::is_absence) {
                true => found,
                false => memory.remember(task, found, (context.clock)())?,
            });
            Ok(())
        })?;
        report.error = ended.err().map(|error| error.to_string());
        drop(tasks);
        self.report = report;
        self.problems.extend(problems);
        self.look_again(context, request)?;
        self.forget_what_is_told_better();
        memory.conclude(self)
    }
}

impl Checked {
    /// Where each damaged page was found, what the server had said of them is told already.
    fn forget_what_is_told_better(&mut self) {
        let of_pages = self.problems.iter().filter(|problem| problem.code == "page-checksum");
        let found: BTreeSet<_> = of_pages.filter_map(|problem| problem.subject.backup()).collect();
        self.problems.retain(|problem| {
            let backup = problem.subject.backup();
            problem.code != "pages-damaged" || !backup.is_some_and(|backup| found.contains(&backup))
        });
    }
}

fn unreadable(repository: &Repository, found: String, hint: Option<String>) -> Finding {
    Finding {
        code: "repository-unreadable",
        repository: Some(repository.name().to_owned()),
        object: None,
        inside: None,
        expected: None,
        found,
        unrestorable: report::Unrestorable {
            instants: Vec::new(),
            words: Some("all that is in it, as long as it cannot be read".to_owned()),
        },
        hint,
    }
}
