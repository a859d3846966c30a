//! One round over all repositories and systems.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::archive::Archive;
use super::directory::SourceDirectory;
use super::member::Member;
use super::report::{Finding, Missing, Report, StreamReport, Waiting, finding};
use super::stream::{Loss, Stream};
use super::{Job, Source, parallel};
use crate::catalog::BackupInfo;
use crate::ops::Error;
use crate::pg::{SystemIdentifier, Timeline};
use crate::plan::retention::{self, Policy, WalNeed};

const DIRECTORY_UNREADABLE: &str = "directory-unreadable";

/// What one round knows and has to tell.
pub struct Round<'a> {
    pub job: &'a Job<'a>,
    pub members: Vec<Member<'a>>,
    /// `None` without one, and where it cannot be read.
    pub directory: Option<SourceDirectory>,
    /// Whose WAL the directory holds.
    pub source_system: Option<SystemIdentifier>,
    pub told: Mutex<Told>,
    backups: OnceLock<Backups>,
    needs: OnceLock<Option<BTreeMap<SystemIdentifier, WalNeed>>>,
}

struct Backups {
    /// Each as often as there are repositories that have it.
    all: Vec<BackupInfo>,
    /// How many repositories have any.
    holders: usize,
}

#[derive(Default)]
pub struct Told {
    pub findings: Vec<Finding>,
    pub waiting: Vec<Waiting>,
    /// Of each member.
    pub missing: Vec<Vec<Missing>>,
}

impl Told {
    /// Whether the source's directory could not be looked at.
    pub fn has_lost_source(&self) -> bool {
        self.findings.iter().any(|finding| finding.code == DIRECTORY_UNREADABLE)
    }
}

impl Job<'_> {
    pub fn round(&self, stream: Option<&Stream<'_>>) -> Result<Report, Error> {
        let started_at = (self.clock)();
        let before = self.memory.read();
        let round = Round::begin(self)?;
        let mut after = before.clone();
        // A system that is nowhere any more is forgotten, unless it may be where nobody could look.
        let systems = round.systems();
        if round.members.iter().all(Member::is_readable) {
            after.systems.retain(|system, _| systems.iter().any(|known| known.to_string() == *system));
        }
        for system in systems {
            let name = system.to_string();
            let memory = after.systems.remove(&name).unwrap_or_default();
            let remembered = Archive::survey(&round, system, memory).synchronise()?;
            after.systems.insert(name, remembered);
        }
        let streamed = stream.map(|stream| round.tell_stream(stream));
        self.interrupt.check()?;
        if after != before
            && let Err(error) = self.memory.write(&after)
        {
            tracing::warn!("the next round will look at everything again: {error}");
        }
        let duration_seconds = ((self.clock)() - started_at).as_seconds_f64();
        Ok(Report { stream: streamed, ..round.report(started_at, duration_seconds) })
    }
}

impl<'a> Round<'a> {
    fn begin(job: &'a Job<'a>) -> Result<Self, Error> {
        let looked = Mutex::new(Vec::new());
        let numbered: Vec<_> = job.repositories.iter().enumerate().collect();
        parallel::each(&numbered, |&(number, repository)| {
            let member = Member::look(repository, &job.memory);
            looked.lock().unwrap_or_else(PoisonError::into_inner).push((number, member));
        });
        let mut members = looked.into_inner().unwrap_or_else(PoisonError::into_inner);
        members.sort_by_key(|(number, _)| *number);
        let members: Vec<Member<'a>> = members.into_iter().map(|(_, member)| member).collect();
        job.interrupt.check()?;
        let readable = members.iter().filter(|member| member.is_readable()).count();
        if readable == 0 {
            let first = members.into_iter().find_map(Member::into_error);
            return Err(first.expect("there is a repository, and it cannot be read"));
        }

        let mut told = Told { missing: vec![Vec::new(); members.len()], ..Told::default() };
        let directory = match &job.source {
            Source::Push | Source::Stream => None,
            Source::Directory(path) => match SourceDirectory::list(path) {
                Ok(directory) => Some(directory),
                // Nothing to collect, and no other repository to copy to.
                Err(error) if readable < 2 => return Err(error),
                Err(error) => {
                    told.findings.push(finding(DIRECTORY_UNREADABLE, None, &error));
                    None
                }
            },
        };
        let (told, backups, needs) = (Mutex::new(told), OnceLock::new(), OnceLock::new());
        let mut round = Self { job, members, directory, source_system: None, told, backups, needs };
        round.source_system = round.find_source_system();
        Ok(round)
    }

    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tell(&self, code: &'static str, repository: Option<&str>, error: &Error) {
        let told = finding(code, repository, error);
        let mut all = self.told();
        let is_known = |known: &Finding| {
            (known.code, &known.repository, &known.message) == (told.code, &told.repository, &told.message)
        };
        if !all.findings.iter().any(is_known) {
            all.findings.push(told);
        }
    }

    /// Every usable base backup in a repository that can be read. Asked for only when it matters.
    pub fn backups(&self) -> &[BackupInfo] {
        &self.found_backups().all
    }

    fn found_backups(&self) -> &Backups {
        self.backups.get_or_init(|| {
            let mut all = Vec::new();
            for member in self.members.iter().filter(|member| member.is_readable()) {
                match member.repository.backups() {
                    Ok(backups) => all.push(backups),
                    Err(error) => member.reading.note(error),
                }
            }
            let holders = all.iter().filter(|backups| !backups.is_empty()).count();
            Backups { all: all.concat(), holders }
        })
    }

    /// Which WAL of a system the backups need that the retention policy keeps, of all that are in any repository;
    /// `None` where there are none, so that all of it may be needed. Asked for only when it matters.
    pub fn need(&self, system: SystemIdentifier) -> Option<&WalNeed> {
        let needs = self.needs.get_or_init(|| {
            let damage = (self.job.known_damage)(&self.job.repositories);
            let now = (self.job.clock)();
            retention::wal_of_use(self.backups(), &self.histories(), damage, &self.policy(), now)
        });
        needs.as_ref()?.get(&system)
    }

    /// The retention policy, but that no backup is given up which every repository with backups still has: nobody has
    /// pruned it yet. One that only some have was pruned from the others, and their WAL is not to come back.
    fn policy(&self) -> Policy {
        let Backups { all, holders } = self.found_backups();
        let held_by = |name| all.iter().filter(|backup| backup.name == name).count();
        let everywhere = all.iter().filter(|backup| held_by(backup.name) >= *holders);
        let oldest = everywhere.map(|backup| backup.started_at).min();
        let newer = all.iter().filter(|backup| oldest.is_some_and(|oldest| backup.started_at >= oldest));
        let newer: BTreeSet<_> = newer.map(|backup| backup.name).collect();
        let keep_last = self.job.policy.keep_last.max(u32::try_from(newer.len()).unwrap_or(u32::MAX));
        Policy { keep_last, ..self.job.policy.clone() }
    }

    /// The content of every history, from the first repository that can give it.
    fn histories(&self) -> BTreeMap<SystemIdentifier, BTreeMap<Timeline, Vec<u8>>> {
        let mut all: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for member in self.members.iter().filter(|member| member.is_readable()) {
            for (&system, found) in &member.directories {
                let of_system = all.entry(system).or_default();
                for (name, &codec) in &found.histories {
                    let timeline = name.timeline();
                    if of_system.contains_key(&timeline) {
                        continue;
                    }
                    match member.repository.history(system, timeline, codec) {
                        Ok(content) => of_system.extend(content.map(|content| (timeline, content))),
                        Err(error) => tracing::info!("{error}"),
                    }
                }
            }
        }
        all
    }

    /// Whether WAL of this system is here, or would be accepted.
    pub fn knows(&self, system: SystemIdentifier) -> bool {
        self.members.iter().any(|member| member.systems.contains(&system))
            || self.backups().iter().any(|backup| backup.system_identifier == system)
    }

    fn systems(&self) -> BTreeSet<SystemIdentifier> {
        let of_members = self.members.iter().flat_map(|member| &member.systems).copied();
        of_members.chain(self.source_system).collect()
    }

    /// Whose WAL the directory holds. Its files of other systems are looked at one by one.
    fn find_source_system(&self) -> Option<SystemIdentifier> {
        let directory = self.directory.as_ref()?;
        if self.job.cluster.is_some() {
            return self.job.cluster;
        }
        let known: BTreeSet<_> = self.members.iter().flat_map(|member| &member.systems).copied().collect();
        let last = directory.system_of_last_segment();
        if let Some((_, system)) = last
            && known.contains(&system)
        {
            return Some(system);
        }
        if known.len() == 1 && last.is_none() {
            return known.first().copied();
        }
        let of_newest_backup =
            || self.backups().iter().max_by_key(|backup| backup.started_at).map(|b| b.system_identifier);
        let Some((name, system)) = last else { return of_newest_backup() };
        if self.knows(system) {
            return Some(system);
        }
        let own = of_newest_backup().or_else(|| known.last().copied());
        if let Some(expected) = own {
            let (path, owner) = (directory.path_of(name), "what the repositories hold".to_owned());
            self.tell("wal-foreign", None, &Error::ForeignWal { path, found: system, expected, owner });
        }
        own.or(Some(system))
    }

    /// What streaming has to tell. A loss is old once a base backup began behind it.
    fn tell_stream(&self, stream: &Stream<'_>) -> StreamReport {
        let mut standing = stream.standing().clone();
        if !standing.losses.is_empty() {
            let newest = self.backups().iter().map(|backup| backup.start_lsn).max();
            standing.losses.retain(|loss| newest < Some(loss.to));
            stream.standing().losses.retain(|loss| newest < Some(loss.to));
        }
        let mut told = self.told();
        told.findings.extend(standing.losses.iter().map(Loss::finding));
        told.findings.extend(standing.trouble);
        StreamReport {
            slot: stream.slot().to_owned(),
            timeline: standing.timeline.map(Timeline::get),
            received_lsn: standing.received.map(|lsn| lsn.to_string()),
            durable_lsn: standing.durable.map(|lsn| lsn.to_string()),
            segments_stored: standing.segments_stored,
        }
    }

    fn report(self, started_at: chrono::DateTime<chrono::Utc>, duration_seconds: f64) -> Report {
        let source = match self.job.source {
            Source::Push => "push",
            Source::Directory(_) => "directory",
            Source::Stream => "stream",
        };
        let told = self.told.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (mut repositories, mut findings) = (Vec::new(), Vec::new());
        for (member, missing) in self.members.into_iter().zip(told.missing) {
            let (mut report, own) = member.report();
            report.missing = missing;
            repositories.push(report);
            findings.extend(own);
        }
        findings.extend(told.findings);
        let mut waiting = told.waiting;
        waiting.sort_by(|one, other| one.name.cmp(&other.name));
        Report { started_at, duration_seconds, source, stream: None, repositories, waiting, findings }
    }
}
