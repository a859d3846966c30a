//! The repositories, looked at in parallel: what each holds, what was proven of it, which runs write to it.

use std::collections::BTreeMap;
use std::thread;

use chrono::{DateTime, Utc};

use crate::catalog::{BackupName, Catalog};
use crate::ops::Context;
use crate::ops::proofs::{Proof, Proofs};
use crate::pg::{SegmentName, SystemIdentifier, WalFileName};
use crate::plan::health::{self, Observations, Trouble};
use crate::plan::recoverable::RecoverableInterval;
use crate::repo::wal_copy::LogDirectory;
use crate::repo::{self, InProgress, Repository, layout};

/// What was seen of one repository.
pub struct Look<'a> {
    pub repository: &'a Repository,
    pub observed: health::Repository,
    pub proofs: BTreeMap<BackupName, Proof>,
    pub in_progress: Vec<InProgress>,
}

pub fn look<'a>(context: &Context<'_>, repositories: &'a [Repository], now: DateTime<Utc>) -> Vec<Look<'a>> {
    thread::scope(|scope| {
        let looks: Vec<_> = repositories
            .iter()
            .map(|repository| scope.spawn(move || look_at(context, repository, now)))
            .collect();
        looks.into_iter().map(|look| look.join().expect("looking does not panic")).collect()
    })
}

fn look_at<'a>(context: &Context<'_>, repository: &'a Repository, now: DateTime<Utc>) -> Look<'a> {
    let catalog = repository.catalog().map_err(|error| trouble(&error));
    let mut look = Look {
        repository,
        observed: health::Repository {
            name: repository.name().to_owned(),
            catalog,
            proofs: BTreeMap::new(),
            damaged_wal: Vec::new(),
        },
        proofs: BTreeMap::new(),
        in_progress: Vec::new(),
    };
    let Ok(catalog) = &look.observed.catalog else { return look };
    let in_progress = repository.backups_in_progress(catalog, now, &context.observer());
    look.in_progress = in_progress.unwrap_or_else(|error| {
        tracing::warn!("{error}");
        Vec::new()
    });
    match Proofs::load(context, repository) {
        Ok(proofs) => {
            look.proofs = proofs_of_backups(repository, catalog, &proofs);
            look.observed.damaged_wal = damaged_wal(repository, &proofs);
            look.observed.proofs = look.proofs.iter().map(|(name, proof)| (*name, observed(proof))).collect();
        }
        Err(error) => tracing::warn!("{error}"),
    }
    look
}

fn trouble(error: &repo::Error) -> Trouble {
    Trouble { message: error.to_string(), hint: error.hint() }
}

fn observed(proof: &Proof) -> health::Proof {
    health::Proof { proven_at: proof.proven_at, damage: proof.damage.clone() }
}

fn proofs_of_backups(
    repository: &Repository,
    catalog: &Catalog,
    proofs: &Proofs,
) -> BTreeMap<BackupName, Proof> {
    let names = catalog.backups().iter().map(|backup| backup.name);
    let known = names.filter_map(|name| Some((name, proofs.of_backup(name)?.clone())));
    // A damaged backup that was since replaced by a whole copy is to be proven anew; nobody asks that of the others.
    let is_of_this = |(name, proof): &(BackupName, Proof)| {
        let stored_at = || repository.backup_stored_at(*name).ok().flatten();
        proof.damage.is_none() || stored_at().is_none_or(|stored_at| stored_at == proof.modified_at)
    };
    known.filter(is_of_this).collect()
}

/// Of the WAL that is still there as it was when it was read.
fn damaged_wal(repository: &Repository, proofs: &Proofs) -> Vec<(String, health::Proof)> {
    let is_there = |key: &str, proof: &Proof| {
        let (system, name) = layout::parse_wal_key(key)?;
        let stored = repository.wal_stored_at(system, LogDirectory::of(&name)?).ok()?;
        (stored.get(&name) == Some(&proof.modified_at)).then_some(())
    };
    let damaged = proofs.damaged().filter(|(key, proof)| is_there(key, proof).is_some());
    damaged.map(|(key, proof)| (key.to_owned(), observed(proof))).collect()
}

/// When segments that one repository lacks were stored in another, by their numbers.
///
/// A clock of another machine may say so. What is at stake is minutes, and what such clocks are apart is less.
pub fn when_stored(observations: &Observations, looks: &[Look<'_>]) -> Vec<(u64, DateTime<Utc>)> {
    let mut times = Vec::new();
    for look in looks {
        let Ok(catalog) = &look.observed.catalog else { continue };
        let Some((system, number)) = health::first_missing(observations, catalog) else { continue };
        if !observations.finished_at.contains_key(&number) {
            times.extend(looks.iter().find_map(|other| stored_at(other, system, number)));
        }
    }
    times
}

/// When the WAL ended that can be restored from a repository: no later than when the first of all repositories stored its
/// last segment, though it may itself have got it much later.
pub fn end_of(interval: &RecoverableInterval, look: &Look<'_>, looks: &[Look<'_>]) -> Option<DateTime<Utc>> {
    let archive = look.observed.catalog.as_ref().ok()?.archive(interval.system_identifier)?;
    let number = interval.to_lsn.0.checked_sub(1)? / archive.segment_size().bytes();
    let others = looks.iter().filter(|other| !std::ptr::eq(*other, look));
    let stored = others.filter_map(|other| stored_at(other, interval.system_identifier, number));
    stored.map(|(_, at)| at).chain([interval.to_at?]).min()
}

fn stored_at(look: &Look<'_>, system: SystemIdentifier, number: u64) -> Option<(u64, DateTime<Utc>)> {
    let catalog = look.observed.catalog.as_ref().ok()?;
    let archive = catalog.archive(system)?;
    let on_timelines = archive.timelines().into_iter().rev();
    let mut segments = on_timelines.map(|timeline| SegmentName { timeline, number });
    let segment = segments.find(|segment| archive.has(*segment))?;
    let name = WalFileName::Segment(segment.file_name(archive.segment_size()).to_string());
    let stored = look.repository.wal_stored_at(system, LogDirectory::of(&name)?).ok()?;
    Some((number, *stored.get(&name)?))
}
