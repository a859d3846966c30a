//! The WAL of one system during one round: what is where, as far as it had to be looked at.
//!
//! Listed are the newest log directory of each timeline, and every other one that was not settled in an earlier round
//! or has changed since. What follows knows of nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use chrono::{DateTime, Utc};

use super::memory::{self, Settled, SystemMemory};
use super::parallel;
use super::round::Round;
use crate::ops::Error;
use crate::pg::{SegmentPlace, SystemIdentifier, Timeline, WalFileName};
use crate::pipe::Codec;
use crate::plan::retention::WalNeed;
use crate::plan::wal_sync::{self as plan, Coverage, Extent};
use crate::repo;
use crate::repo::wal_copy::LogDirectory;

/// What one repository holds, as far as it was listed.
pub type Holding = BTreeMap<WalFileName, Codec>;

pub struct Archive<'a> {
    pub round: &'a Round<'a>,
    pub system: SystemIdentifier,
    pub memory: SystemMemory,
    /// All log directories, in any repository or in the source's directory, and what became of each.
    pub logs: BTreeMap<LogDirectory, Log>,
    /// What the source's directory has of this system, by its names.
    pub source: BTreeSet<WalFileName>,
    progress: Mutex<Progress>,
    /// Whether each member may be written to, once that was asked.
    ready: Vec<OnceLock<bool>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub is_listed: bool,
    /// More will come here; it is never settled.
    pub is_newest: bool,
    /// When each member's was last changed, by the first look.
    pub changed_at: Vec<Option<DateTime<Utc>>>,
    pub source: Option<String>,
}

#[derive(Default)]
pub struct Progress {
    /// Of each member.
    pub holdings: Vec<Holding>,
    /// Why a file of the source's directory was not stored. Those that will be later are among them.
    pub not_collected: BTreeMap<WalFileName, String>,
    /// What is in the source's directory without being WAL of this system.
    pub not_wal: BTreeSet<WalFileName>,
    /// Why a member did not get a file.
    pub not_copied: BTreeMap<(usize, WalFileName), String>,
    /// The directories that this round has written to.
    pub touched: Vec<BTreeSet<LogDirectory>>,
}

impl<'a> Archive<'a> {
    pub fn survey(round: &'a Round<'a>, system: SystemIdentifier, memory: SystemMemory) -> Self {
        let is_source = round.source_system == Some(system);
        let directory = round.directory.as_ref().filter(|_| is_source);
        let source: BTreeSet<_> = directory.map(|directory| directory.names.clone()).unwrap_or_default();
        let members = round.members.len();
        let progress = Progress {
            holdings: vec![Holding::new(); members],
            touched: vec![BTreeSet::new(); members],
            ..Progress::default()
        };
        let mut archive = Self {
            round,
            system,
            memory,
            logs: BTreeMap::new(),
            source,
            progress: Mutex::new(progress),
            ready: (0..members).map(|_| OnceLock::new()).collect(),
        };
        archive.find_logs(directory.is_some());
        archive.list_logs();
        archive
    }

    fn find_logs(&mut self, has_source: bool) {
        let mut logs: BTreeSet<LogDirectory> = BTreeSet::new();
        for member in &self.round.members {
            logs.extend(member.directories.get(&self.system).into_iter().flat_map(|found| found.logs.keys()));
        }
        let mut in_source: BTreeMap<LogDirectory, Vec<String>> = BTreeMap::new();
        for name in &self.source {
            if let Some(log) = LogDirectory::of(name) {
                in_source.entry(log).or_default().push(name.to_string());
            }
        }
        logs.extend(in_source.keys());
        let newest: BTreeMap<Timeline, u32> = logs.iter().map(|log| (log.timeline, log.log)).collect();
        for log in logs {
            let changed_at = |member: &super::member::Member<'_>| {
                member.directories.get(&self.system)?.logs.get(&log).copied()
            };
            let source = has_source.then(|| memory::digest(in_source.get(&log).into_iter().flatten()));
            let mut found = Log {
                is_listed: true,
                is_newest: newest[&log.timeline] == log.log,
                changed_at: self.round.members.iter().map(changed_at).collect(),
                source,
            };
            let settled = self.memory.settled.get(&log.to_string());
            found.is_listed = found.is_newest || !settled.is_some_and(|settled| self.is_as(settled, &found));
            self.logs.insert(log, found);
        }
    }

    /// Whether a directory is as it was when it was settled, wherever one can look.
    fn is_as(&self, settled: &Settled, found: &Log) -> bool {
        let mut pairs = settled.changed_at.iter().zip(&found.changed_at).zip(&self.round.members);
        let is_same = pairs.all(|((then, now), member)| !member.is_readable() || then == now);
        let source_is_away = self.round.directory.is_none();
        settled.changed_at.len() == found.changed_at.len()
            && is_same
            && (source_is_away || settled.source == found.source)
    }

    fn list_logs(&self) {
        let mut wanted: Vec<(usize, LogDirectory)> = Vec::new();
        for (log, found) in self.logs.iter().filter(|(_, found)| found.is_listed) {
            let there = found.changed_at.iter().enumerate().filter(|(_, changed_at)| changed_at.is_some());
            wanted.extend(there.map(|(member, _)| (member, *log)));
        }
        parallel::each(&wanted, |&(number, log)| {
            let member = &self.round.members[number];
            if !member.is_readable() || self.is_interrupted() {
                return;
            }
            match member.repository.wal_files(self.system, log) {
                Ok(files) => self.progress().holdings[number].extend(files),
                // What it holds is not known, so nothing can be said of what it lacks.
                Err(error) => return member.reading.fail(error),
            }
            // Success says that it has all of this, and what is settled here is not looked at again.
            if let Err(error) = member.repository.keep_wal_files(self.system, log) {
                member.writing.fail(error);
            }
        });
        let mut progress = self.progress();
        for (holding, member) in progress.holdings.iter_mut().zip(&self.round.members) {
            let found = member.directories.get(&self.system);
            holding.extend(found.into_iter().flat_map(|found| found.histories.clone()));
        }
    }

    /// Brings everything where it lacks, and says what to remember.
    pub fn synchronise(self) -> Result<SystemMemory, Error> {
        let is_history = |name: &WalFileName| matches!(name, WalFileName::History(_));
        for of_kind in [&is_history as &dyn Fn(&WalFileName) -> bool, &|name| !is_history(name)] {
            self.collect(of_kind);
            self.round.job.interrupt.check()?;
            self.copy(of_kind);
            self.round.job.interrupt.check()?;
        }
        self.drop_superseded_parts();
        self.conclude()
    }

    pub fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_interrupted(&self) -> bool {
        self.round.job.interrupt.check().is_err()
    }

    /// The members whose holdings are known.
    pub fn readable(&self) -> Vec<usize> {
        let members = self.round.members.iter().enumerate();
        members.filter(|(_, member)| member.is_readable()).map(|(number, _)| number).collect()
    }

    /// Whether a member takes WAL of this system: it works, it is a repository, and not one of another cluster.
    pub fn is_ready(&self, number: usize) -> bool {
        let member = &self.round.members[number];
        let ask = || -> repo::Result<()> {
            if !member.exists {
                member.repository.ensure_exists()?;
            }
            match member.systems.is_empty() || member.systems.contains(&self.system) {
                true => Ok(()),
                false => member.repository.must_know(self.system),
            }
        };
        member.is_writable()
            && *self.ready[number].get_or_init(|| match ask() {
                Ok(()) => true,
                Err(error @ repo::Error::OtherCluster { .. }) => {
                    self.round.tell("wal-foreign", Some(member.name()), &error.into());
                    false
                }
                Err(error) => {
                    member.writing.fail(error);
                    false
                }
            })
    }

    /// Whether a member has, or nobody has, what tells how this file's timeline came to be.
    ///
    /// Recovery takes segments of a timeline without its history for a gap in the archive.
    pub fn has_history_of(&self, number: usize, name: &WalFileName) -> bool {
        let history = WalFileName::History(name.timeline());
        let progress = self.progress();
        let exists = || {
            self.source.contains(&history)
                || progress.holdings.iter().any(|holding| holding.contains_key(&history))
        };
        *name == history || progress.holdings[number].contains_key(&history) || !exists()
    }

    /// What is of use, if that is not clear for each of these files and members.
    pub fn need_of<'n>(
        &self,
        wanted: impl IntoIterator<Item = (&'n WalFileName, usize)>,
    ) -> Option<&WalNeed> {
        let coverage = match self.round.job.policy.pitr_window {
            None => Coverage::Whole,
            Some(_) => Coverage::WithHoles,
        };
        let oldest: Vec<_> = (0..self.round.members.len()).map(|number| self.oldest(number)).collect();
        let newest: Vec<_> = (0..self.round.members.len()).map(|number| self.newest(number)).collect();
        let depends = wanted.into_iter().any(|(name, number)| {
            let newest_of_timeline = newest[number].get(&name.timeline()).copied();
            let extent = Extent { oldest: oldest[number], newest_of_timeline };
            plan::depends_on_backups(name, extent, coverage)
        });
        if depends { self.round.need(self.system) } else { None }
    }

    pub fn backup_starts(&self) -> impl Iterator<Item = SegmentPlace> {
        let backups = self.round.backups().iter();
        backups.filter(|backup| backup.system_identifier == self.system).map(|backup| {
            let size = backup.wal_segment_size;
            crate::pg::SegmentName::holding(backup.start_lsn, backup.timeline, size).place(size)
        })
    }

    /// The newest place of each timeline of which a member holds something: its newest directory is always listed.
    fn newest(&self, number: usize) -> BTreeMap<Timeline, SegmentPlace> {
        let progress = self.progress();
        let held = progress.holdings[number].keys();
        let mut places: Vec<_> = held.filter_map(|name| Some((name.timeline(), name.place()?))).collect();
        places.sort_unstable();
        places.into_iter().collect()
    }

    /// The oldest place of which a member is known to hold something.
    fn oldest(&self, number: usize) -> Option<SegmentPlace> {
        let listed = self.progress().holdings[number].keys().filter_map(WalFileName::place).min();
        let is_unlisted = |(log, found): &(&LogDirectory, &Log)| {
            !found.is_listed && found.changed_at[number].is_some() && log.log < u32::MAX
        };
        // Somewhere in it, so before the next.
        let unlisted =
            self.logs.iter().filter(is_unlisted).map(|(log, _)| SegmentPlace::first_of(log.log + 1));
        listed.into_iter().chain(unlisted.min()).min()
    }
}
