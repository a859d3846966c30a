//! Repositories and the backups in them: are there any, are they recent, are they whole.

use chrono::TimeDelta;

use super::{Finding, Observations, Repository, Severity, span};
use crate::catalog::{BackupInfo, Catalog};

/// By then a nightly `verify` has had its chance.
const UNPROVEN_MAX: TimeDelta = TimeDelta::days(1);
/// A monthly `verify`, and some days of grace.
const PROOF_AGE_MAX: TimeDelta = TimeDelta::days(35);

pub fn look(observations: &Observations, findings: &mut Vec<Finding>) {
    let none_readable = observations.readable().next().is_none();
    for repository in &observations.repositories {
        match &repository.catalog {
            Ok(catalog) => look_at(observations, repository, catalog, findings),
            Err(trouble) => {
                let severity = if none_readable { Severity::Critical } else { Severity::Warning };
                let finding = Finding::new("repository-unreadable", severity, &trouble.message);
                findings.push(Finding { hint: trouble.hint.clone(), ..finding.of(repository) });
            }
        }
    }
}

fn look_at(
    observations: &Observations,
    repository: &Repository,
    catalog: &Catalog,
    findings: &mut Vec<Finding>,
) {
    findings.extend(
        absence(observations, catalog)
            .or_else(|| age(observations, catalog))
            .map(|finding| finding.of(repository)),
    );
    for damaged in catalog.damaged() {
        let message = format!("{} cannot be used: {}", damaged.name, damaged.reason);
        let hint = damaged.hint.as_deref().unwrap_or(
            "Restore another backup, and take a new one with `pgbak base-backup`; `pgbak verify` \
             looks at the others.",
        );
        findings.push(Finding::warning("backup-damaged", message).hint(hint).of(repository));
    }
    findings.extend(damaged_pages(catalog).map(|finding| finding.of(repository)));
    findings.extend(damage_found(repository, catalog).map(|finding| finding.of(repository)));
    findings.extend(proof(observations, repository, catalog).map(|finding| finding.of(repository)));
}

/// Another repository of this site has what is missing here.
fn copied_from(observations: &Observations, is_good: &dyn Fn(&BackupInfo) -> bool) -> Option<String> {
    let has = |catalog: &Catalog| catalog.newest_backup().is_some_and(is_good);
    let holder = observations.readable().find(|(_, catalog)| has(catalog))?;
    Some(format!("Repository {} has one: run `pgbak base-backup --copy-missing`.", holder.0.name))
}

fn absence(observations: &Observations, catalog: &Catalog) -> Option<Finding> {
    if catalog.newest_backup().is_some() {
        return None;
    }
    let (code, message) = match (catalog.archives().is_empty(), catalog.damaged().is_empty()) {
        (true, true) => ("repository-empty", "it holds neither a backup nor WAL"),
        (_, true) => ("no-backup", "there is no backup"),
        (_, false) => ("no-backup", "there is no backup that can be used"),
    };
    Some(match copied_from(observations, &|_| true) {
        Some(hint) => Finding::warning(code, message).hint(hint),
        None => Finding::critical(code, message).hint("Take one with `pgbak base-backup`."),
    })
}

fn age(observations: &Observations, catalog: &Catalog) -> Option<Finding> {
    let newest = catalog.newest_backup()?;
    let allowed = observations.thresholds.backup_age_max;
    let is_recent = |backup: &BackupInfo| observations.now - backup.stopped_at <= allowed;
    if is_recent(newest) {
        return None;
    }
    let message = format!(
        "the newest backup is {} old, expected at most {}",
        span(observations.age_seconds(newest.stopped_at)),
        span(allowed.num_seconds())
    );
    Some(match copied_from(observations, &is_recent) {
        Some(hint) => Finding::warning("backup-too-old", message).hint(hint),
        None => Finding::critical("backup-too-old", message)
            .hint("Take one with `pgbak base-backup`, and see why the timer did not."),
    })
}

fn damaged_pages(catalog: &Catalog) -> impl Iterator<Item = Finding> {
    let newest = catalog.newest_backup().map(|newest| newest.name);
    let damaged = catalog.backups().iter().filter(|backup| !backup.damaged_pages.is_empty());
    damaged.map(move |backup| {
        let (pages, first) = (backup.damaged_pages.len(), &backup.damaged_pages[0]);
        let more = if pages > 1 { format!(", and {} more", pages - 1) } else { String::new() };
        let message = format!("{} holds pages that were damaged on the server: {first}{more}", backup.name);
        let is_newest = newest == Some(backup.name);
        let severity = if is_newest { Severity::Critical } else { Severity::Warning };
        Finding::new("backup-with-damaged-pages", severity, message).hint(
            "Check the server's disks, and find what is damaged with `pg_amcheck`. Keep the backups that are older.",
        )
    })
}

fn damage_found(repository: &Repository, catalog: &Catalog) -> impl Iterator<Item = Finding> {
    let of_backups = catalog.backups().iter().filter_map(|backup| {
        let proof = repository.proofs.get(&backup.name)?;
        let damage = proof.damage.as_ref()?;
        let message = format!("{} is damaged: {damage}", backup.name);
        let hint = format!(
            "Restore another backup. If a second repository has it whole, delete this copy and run `pgbak \
             base-backup --copy-missing`, then `pgbak verify --backup {}`.",
            backup.name
        );
        Some(Finding::critical("backup-damage-found", message).hint(hint))
    });
    let of_wal = repository.damaged_wal.iter().filter_map(|(key, proof)| {
        let message = format!("{key} is damaged: {}", proof.damage.as_ref()?);
        let hint = "If a second repository has it whole, delete this copy and run `pgbak wal-sync`; if none has, take a \
                    base backup now with `pgbak base-backup`.";
        Some(Finding::critical("wal-damage-found", message).hint(hint))
    });
    of_backups.chain(of_wal)
}

fn proof(observations: &Observations, repository: &Repository, catalog: &Catalog) -> Option<Finding> {
    let oldest = catalog.backups().first()?;
    let Some(newest) = repository.proofs.values().map(|proof| proof.proven_at).max() else {
        let is_due = observations.now - oldest.stopped_at > UNPROVEN_MAX;
        let message = "no backup here was ever read back by `pgbak verify`";
        let finding = Finding::info("backup-unproven", message);
        return is_due.then(|| finding.hint("Run `pgbak verify`; a timer can do so every night."));
    };
    (observations.now - newest > PROOF_AGE_MAX).then(|| {
        let message = format!("no backup here was proven for {}", span(observations.age_seconds(newest)));
        Finding::warning("verify-old", message).hint("Run `pgbak verify`, and see why the timer did not.")
    })
}
