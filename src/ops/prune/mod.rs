//! `prune`: what the retention policy no longer needs is deleted.
//!
//! Each repository is on its own: it is looked at, planned, and the plan carried out, before the next one's turn. One
//! that cannot be read, or about which nothing can be decided, keeps everything, and does not stop the others. The
//! server is not asked. What each step deletes, and in what order, is told in [`repo::prune`].
//!
//! Last comes the directory that PostgreSQL's own `archive_command` fills: see [`directory`].

mod directory;
mod report;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

pub use report::{
    BackupItem, Decision, Deleted, DirectoryItem, DirectoryReport, LeftoverItem, Report, RepositoryReport,
    WalItem,
};

use super::proofs::Proofs;
use super::wal_sync::{self, memory};
use super::{Context, Error};
use crate::catalog::BackupName;
use crate::config;
use crate::pg::SystemIdentifier;
use crate::plan::retention::{self, Policy, RetentionPlan, Situation};
use crate::repo::lease::Observer;
use crate::repo::prune::{Deletion, Survey, WalObject};
use crate::repo::{self, Repository};
use crate::storage::Patience;

#[derive(Debug, Clone)]
pub struct Request {
    /// Only these repositories; empty is all.
    pub repositories: Vec<String>,
    pub retention: config::Retention,
    /// Plan, and delete nothing.
    pub dry_run: bool,
}

impl From<&config::Retention> for Policy {
    fn from(retention: &config::Retention) -> Self {
        // The configuration has no span that would not fit.
        let span = |span: std::time::Duration| TimeDelta::from_std(span).unwrap_or(TimeDelta::MAX);
        Self {
            keep_last: retention.keep_last,
            keep_within: retention.keep_within.map(span),
            keep_daily: retention.keep_daily,
            keep_weekly: retention.keep_weekly,
            keep_monthly: retention.keep_monthly,
            pitr_window: retention.pitr_window.map(span),
        }
    }
}

/// Prunes, or with `dry_run` only says what would be deleted.
///
/// # Errors
/// When not one repository could be pruned, or another prune is at work. What fails for one repository only is in the
/// report.
pub fn run(context: &Context<'_>, request: &Request) -> Result<Report, Error> {
    let repositories = context.repositories(&request.repositories)?;
    let mut places: Vec<String> = context.repositories(&[])?.iter().map(Repository::place).collect();
    places.sort();
    let _lock = context.lock("prune", &memory::digest(&places))?;
    let pruner = Pruner {
        observer: context.observer(),
        cluster: wal_sync::cluster(context),
        clock: context.clock,
        check: &|| Ok(context.interrupt.check()?),
        known_damage: &|repository, survey| known_damage(context, repository, survey),
        policy: Policy::from(&request.retention),
        dry_run: request.dry_run,
    };
    let mut report = Report {
        started_at: (context.clock)(),
        duration_seconds: 0.0,
        dry_run: request.dry_run,
        repositories: Vec::new(),
        directory: None,
    };
    let mut errors = Vec::new();
    // One that is away is not waited for: the next run will do.
    let probes = context.repositories_with(&request.repositories, Patience::SHORT)?;
    let away: Vec<Option<repo::Error>> = probes.iter().map(|probe| probe.must_exist().err()).collect();
    // What the directory's files are compared with is there until the repositories are pruned.
    let directory = match away.iter().any(Option::is_some) {
        true => None,
        false => directory::plan(context, request, &repositories)?,
    };
    for (repository, away) in repositories.iter().zip(away) {
        context.interrupt.check()?;
        let mut own = RepositoryReport::new(repository);
        if let Err(error) = away.map_or_else(|| pruner.prune(repository, &mut own), |away| Err(away.into())) {
            context.interrupt.check()?;
            own.fail(&error);
            errors.push((repository.name(), error));
        }
        report.repositories.push(own);
    }
    if errors.len() == repositories.len() {
        return Err(summarised(errors));
    }
    report.directory =
        directory.map(|directory| directory.carry_out(context, request, &errors)).transpose()?;
    report.duration_seconds = ((context.clock)() - report.started_at).as_seconds_f64();
    Ok(report)
}

/// One failure speaks for itself; of several, each is told.
fn summarised(mut errors: Vec<(&str, Error)>) -> Error {
    if errors.len() == 1 {
        return errors.remove(0).1;
    }
    let hint = errors.iter().find_map(|(_, error)| error.hint());
    let reasons: Vec<_> = errors.iter().map(|(name, error)| format!("{name}: {error}")).collect();
    Error::NonePruned { reasons: reasons.join("; "), hint }
}

/// What `verify` found of the backups as they are stored now.
fn known_damage(
    context: &Context<'_>,
    repository: &Repository,
    survey: &Survey,
) -> Result<Vec<(BackupName, String)>, Error> {
    let proofs = Proofs::load(context, repository)?;
    let damage = survey.recorded_at.iter().filter_map(|(&name, &recorded_at)| {
        let proof = proofs.of_backup(name).filter(|proof| proof.modified_at == recorded_at)?;
        Some((name, proof.damage.clone()?))
    });
    Ok(damage.collect())
}

type KnownDamage<'a> = dyn Fn(&Repository, &Survey) -> Result<Vec<(BackupName, String)>, Error> + 'a;

/// What all repositories are pruned with.
struct Pruner<'a> {
    observer: Observer<'a>,
    cluster: Option<SystemIdentifier>,
    clock: &'a (dyn Fn() -> DateTime<Utc> + Sync),
    /// Fails once somebody wants this to stop.
    check: &'a (dyn Fn() -> Result<(), Error> + Sync),
    known_damage: &'a KnownDamage<'a>,
    policy: Policy,
    dry_run: bool,
}

impl Pruner<'_> {
    fn prune(&self, repository: &Repository, report: &mut RepositoryReport) -> Result<(), Error> {
        let now = (self.clock)();
        let survey = repository.survey(now, &self.observer)?;
        let mut damage = survey.damage.clone();
        for (name, found) in (self.known_damage)(repository, &survey)? {
            damage.entry(name).or_insert(found);
        }
        let mut situation = Situation {
            catalog: &survey.catalog,
            cluster: self.cluster,
            damage,
            in_use: survey.in_use.clone(),
            leftovers: survey.leftovers.clone(),
            newest_object_at: survey.newest_object_at,
            now,
        };
        let mut plan = self.plan(repository, &situation)?;
        report.show(&plan, &survey);
        if self.dry_run {
            report.deleted = report.to_be_deleted();
            return Ok(());
        }
        self.keep_what_is_relied_on(repository, &plan)?;
        let has_changed = self.delete_backups(repository, &plan, &mut situation, report)?;
        if has_changed {
            // The WAL of what has turned out to be used stays with it.
            plan = self.plan(repository, &situation)?;
            report.show(&plan, &survey);
        }
        self.delete_wal(repository, &plan, &survey, report)?;
        self.delete_leftovers(repository, &plan, report)
    }

    fn plan(&self, repository: &Repository, situation: &Situation<'_>) -> Result<RetentionPlan, Error> {
        let planned = retention::plan(situation, &self.policy);
        planned.map_err(|source| Error::NotPruned { repository: repository.name().to_owned(), source })
    }

    /// What is deleted is not needed because of what is kept, which may have been recorded by somebody who did not live
    /// to make that durable.
    fn keep_what_is_relied_on(&self, repository: &Repository, plan: &RetentionPlan) -> Result<(), Error> {
        // A leftover goes for what it is itself.
        let deletes = plan.backups.iter().any(|backup| backup.verdict.deletes())
            || plan.wal.iter().any(|wal| wal.verdict.deletes());
        if !deletes {
            return Ok(());
        }
        for kept in plan.backups.iter().filter(|backup| !backup.verdict.deletes()) {
            (self.check)()?;
            repository.keep_recorded(kept.name)?;
        }
        Ok(())
    }

    /// Oldest first. Says whether one was in use, contrary to the plan.
    fn delete_backups(
        &self,
        repository: &Repository,
        plan: &RetentionPlan,
        situation: &mut Situation<'_>,
        report: &mut RepositoryReport,
    ) -> Result<bool, Error> {
        let mut has_changed = false;
        for backup in plan.backups.iter().filter(|backup| backup.verdict.deletes()) {
            (self.check)()?;
            match repository.delete_backup(backup.name, (self.clock)(), &self.observer)? {
                Deletion::Done => {
                    report.deleted.backups += 1;
                    report.deleted.bytes += backup.stored_bytes;
                }
                Deletion::DataLeft(by) => {
                    report.deleted.backups += 1;
                    report.note(&format!(
                        "{} is deleted, but its data stays until {by} has ended",
                        backup.name
                    ));
                }
                Deletion::InUse(by) => {
                    situation.in_use.insert(backup.name, by);
                    has_changed = true;
                }
            }
        }
        Ok(has_changed)
    }

    fn delete_wal(
        &self,
        repository: &Repository,
        plan: &RetentionPlan,
        survey: &Survey,
        report: &mut RepositoryReport,
    ) -> Result<(), Error> {
        let objects = survey.wal.iter().filter(|object| plan.deletes_wal(object.system, &object.name));
        let objects: Vec<&WalObject> = objects.collect();
        let (files, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let deleted = repository.delete_wal(&objects, &|object| {
            files.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(object.stored_bytes, Ordering::Relaxed);
            if (self.check)().is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        report.deleted.wal_files += files.into_inner();
        report.deleted.bytes += bytes.into_inner();
        deleted?;
        (self.check)()
    }

    fn delete_leftovers(
        &self,
        repository: &Repository,
        plan: &RetentionPlan,
        report: &mut RepositoryReport,
    ) -> Result<(), Error> {
        for found in plan.leftovers.iter().filter(|leftover| leftover.verdict.deletes()) {
            (self.check)()?;
            match repository.delete_leftover(&found.leftover, (self.clock)(), &self.observer)? {
                Deletion::Done => {
                    report.deleted.leftovers += 1;
                    report.deleted.bytes += found.leftover.stored_bytes;
                }
                Deletion::InUse(by) | Deletion::DataLeft(by) => {
                    report.note(&format!("{} stays: it belongs to {by}", found.leftover.key));
                }
            }
        }
        Ok(())
    }
}
