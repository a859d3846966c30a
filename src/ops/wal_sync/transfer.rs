//! Files on their way: from the source's directory into the first repository that takes them, and from there to the
//! others, as they are stored.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

use super::archive::Archive;
use super::directory::{Look, SourceDirectory};
use super::parallel;
use super::report::Waiting;
use crate::interrupt::Interrupt;
use crate::meter::Meter;
use crate::ops::{Error, wal_file};
use crate::pg::{SystemIdentifier, WalFileName};
use crate::plan::wal_sync::{self as plan, Copy};
use crate::repo;
use crate::repo::Repository;
use crate::repo::wal::Stored;
use crate::repo::wal_copy::{Inspector, LogDirectory, Original};

/// What a file comes from when it comes from no repository.
const FROM_DIRECTORY: &str = "directory";

impl Archive<'_> {
    /// Stores what only the source's directory has.
    pub fn collect(&self, of_kind: &dyn Fn(&WalFileName) -> bool) {
        let Some(directory) = &self.round.directory else { return };
        let mut names: Vec<&WalFileName> = {
            let progress = self.progress();
            let is_held = |name: &WalFileName| progress.holdings.iter().any(|held| held.contains_key(name));
            let is_listed = |name| LogDirectory::of(name).is_none_or(|log| self.logs[&log].is_listed);
            let source = self.source.iter().filter(|name| of_kind(name));
            source.filter(|name| is_listed(name) && !is_held(name)).collect()
        };
        let readable = self.readable();
        let need = self.need_of(names.iter().flat_map(|name| readable.iter().map(|&number| (*name, number))));
        names.retain(|name| plan::is_of_use(name, need));
        names.sort_by_cached_key(|name| plan::order(name));
        parallel::each(&names, |name| {
            if self.is_interrupted() {
                return;
            }
            match self.collect_one(directory, name) {
                Ok(()) => {}
                Err(NotCollected::NotWal) => drop(self.progress().not_wal.insert((*name).clone())),
                Err(NotCollected::Because(reason)) => {
                    self.progress().not_collected.insert((*name).clone(), reason);
                }
            }
        });
    }

    /// Says why a file was not stored.
    fn collect_one(&self, directory: &SourceDirectory, name: &WalFileName) -> Result<(), NotCollected> {
        let takers: Vec<usize> = self
            .readable()
            .into_iter()
            .filter(|&number| self.is_ready(number) && self.has_history_of(number, name))
            .collect();
        if takers.is_empty() {
            return Err(nobody_took_it());
        }
        let path = directory.path_of(name);
        let look = directory.look_at(name).map_err(|source| {
            let error = Error::Io { action: "read", path: path.clone(), source };
            self.round.tell("file-unreadable", None, &error);
            NotCollected::Because(error.to_string())
        })?;
        let wrong = |code, reason: String| {
            self.round.tell(code, None, &Error::NotThisWal { path: path.clone(), reason: reason.clone() });
            reason
        };
        match look {
            Look::Gone => Ok(()),
            Look::Incomplete(reason) if directory.has_later(name) => Err(NotCollected::Because(wrong(
                "file-incomplete",
                format!("{reason}, and will not get more, as PostgreSQL has gone on to the next"),
            ))),
            Look::Incomplete(reason) => {
                tracing::info!("{name} is left for the next round: {reason}");
                self.round.told().waiting.push(Waiting { name: name.to_string(), reason: reason.clone() });
                Err(NotCollected::Because(reason))
            }
            Look::Wrong(reason) => {
                wrong("file-wrong", reason);
                Err(NotCollected::NotWal)
            }
            Look::Whole { file, system: Some(system), .. } if system != self.system => {
                self.collect_of_other_system(directory, name, &file, system)
            }
            Look::Whole { file, size_bytes, .. } => {
                self.store(name, &file, &takers).inspect(|()| self.round.job.meter.add(size_bytes))
            }
        }
    }

    fn store(&self, name: &WalFileName, file: &File, takers: &[usize]) -> Result<(), NotCollected> {
        let job = self.round.job;
        for &number in takers {
            let member = &self.round.members[number];
            let repository = member.repository;
            if !member.is_writable() {
                continue;
            }
            match repository.add_wal(self.system, name, file, job.compression, &job.workers) {
                Ok((stored, stored_bytes)) => {
                    let codec = repo::wal::stored_as(name, job.compression).codec();
                    self.note_stored(number, name, codec, stored, FROM_DIRECTORY, stored_bytes);
                    return Ok(());
                }
                Err(error @ (repo::Error::Conflict { .. } | repo::Error::Source { .. })) => {
                    let is_conflict = matches!(error, repo::Error::Conflict { .. });
                    let code = if is_conflict { "wal-conflict" } else { "file-unreadable" };
                    let reason = error.to_string();
                    self.round.tell(code, Some(member.name()), &error.into());
                    return Err(NotCollected::Because(reason));
                }
                Err(error @ repo::Error::Damaged { .. }) => {
                    self.round.tell("wal-damaged", Some(member.name()), &error.into());
                }
                Err(error) => member.writing.note(error),
            }
        }
        Err(nobody_took_it())
    }

    /// After `pg_upgrade`, the former cluster's last segments may still be in the directory.
    fn collect_of_other_system(
        &self,
        directory: &SourceDirectory,
        name: &WalFileName,
        file: &File,
        found: SystemIdentifier,
    ) -> Result<(), NotCollected> {
        if !self.round.knows(found) {
            let (path, owner) =
                (directory.path_of(name), "the cluster that the directory belongs to".to_owned());
            let error = Error::ForeignWal { path, found, expected: self.system, owner };
            self.round.tell("wal-foreign", None, &error);
            return Err(NotCollected::NotWal);
        }
        let job = self.round.job;
        let members = || self.readable().into_iter().map(|number| &self.round.members[number]);
        let holds = |repository: &Repository| repository.find_wal(found, name);
        if members().any(|member| matches!(holds(member.repository), Ok(Some(_)))) {
            return Ok(());
        }
        for member in members().filter(|member| member.is_writable()) {
            match member.repository.store_wal(found, name, file, job.compression, &job.workers) {
                Ok(_) => return Ok(()),
                Err(repo::Error::OtherCluster { .. }) => {}
                Err(error) => member.writing.note(error),
            }
        }
        Err(nobody_took_it())
    }

    /// Copies between repositories until each has what any has.
    pub fn copy(&self, of_kind: &dyn Fn(&WalFileName) -> bool) {
        let readable = self.readable();
        let holdings: Vec<BTreeMap<_, _>> =
            readable.iter().map(|&number| self.progress().holdings[number].clone()).collect();
        let superseded = plan::superseded(&holdings.iter().flat_map(BTreeMap::keys).collect());
        let is_wanted = |name: &&WalFileName| of_kind(name) && !superseded.contains(name);
        let names: Vec<BTreeSet<&WalFileName>> =
            holdings.iter().map(|holding| holding.keys().filter(is_wanted).collect()).collect();
        let mut copies = plan::copies(&names);
        let wanted = copies.iter().flat_map(|copy| copy.to.iter().map(|&place| (copy.name, readable[place])));
        let need = self.need_of(wanted);
        copies.retain(|copy| plan::is_of_use(copy.name, need));
        parallel::each(&copies, |copy| {
            let Copy { name, from, to } = copy;
            let members = |places: &[usize]| places.iter().map(|&place| readable[place]).collect::<Vec<_>>();
            if !self.is_interrupted() {
                self.copy_one(name, &members(from), &members(to));
            }
        });
    }

    /// Deletes the parts of segments that each repository holds in a longer part, or whole.
    ///
    /// One that stays, as in a repository that may only be added to, harms nobody.
    pub fn drop_superseded_parts(&self) {
        for number in self.readable() {
            let held = self.progress().holdings[number].clone();
            let member = &self.round.members[number];
            for name in plan::superseded(&held.keys().collect()) {
                let (Some(part), codec) = (name.part(), held[name]) else { continue };
                let segment = &name.to_string()[..24];
                match member.repository.delete_part(self.system, segment, (part, codec)) {
                    Ok(()) => {
                        let mut progress = self.progress();
                        progress.holdings[number].remove(name);
                        progress.touched[number].extend(LogDirectory::of(name));
                    }
                    Err(error) => tracing::debug!("{error}"),
                }
            }
        }
    }

    fn copy_one(&self, name: &WalFileName, from: &[usize], to: &[usize]) {
        let mut to = to.to_vec();
        to.retain(|&number| {
            let has_history = self.has_history_of(number, name);
            if !has_history {
                let reason = "its timeline's history could not be stored before it".to_owned();
                self.progress().not_copied.insert((number, name.clone()), reason);
            }
            has_history && self.is_ready(number)
        });
        let mut reasons = Vec::new();
        for &source in from.iter().filter(|&&source| self.round.members[source].is_readable()) {
            if to.is_empty() {
                return;
            }
            match self.copy_from(source, name, &to) {
                Ok(()) => return,
                Err(_) if self.is_interrupted() => return,
                Err(error) => {
                    let member = &self.round.members[source];
                    reasons.push(error.to_string());
                    match error {
                        error @ repo::Error::Damaged { .. } => {
                            self.round.tell("wal-damaged", Some(member.name()), &error.into());
                        }
                        // Deleted since it was listed.
                        repo::Error::Missing { .. } => {}
                        error => member.reading.note(error),
                    }
                }
            }
        }
        for number in to {
            let reason = reasons.join("; ");
            self.progress().not_copied.insert((number, name.clone()), reason);
        }
    }

    fn copy_from(&self, source: usize, name: &WalFileName, to: &[usize]) -> repo::Result<()> {
        let job = self.round.job;
        let member = &self.round.members[source];
        let codec = self.progress().holdings[source][name];
        let original = Original { system: self.system, name, codec };
        let destinations: Vec<&Repository> =
            to.iter().map(|&number| self.round.members[number].repository).collect();
        let check = Check { system: self.system, name, interrupt: job.interrupt, meter: job.meter };
        let copied = member.repository.copy_wal(original, &destinations, &check, &job.decoders)?;
        for (&number, result) in to.iter().zip(copied.results) {
            match result {
                Ok(stored) => {
                    self.note_stored(number, name, codec, stored, member.name(), copied.stored_bytes);
                }
                Err(error) => {
                    let reason = error.to_string();
                    self.progress().not_copied.insert((number, name.clone()), reason);
                    self.round.members[number].writing.note(error);
                }
            }
        }
        Ok(())
    }

    fn note_stored(
        &self,
        number: usize,
        name: &WalFileName,
        codec: crate::pipe::Codec,
        stored: Stored,
        from: &str,
        stored_bytes: u64,
    ) {
        let mut progress = self.progress();
        progress.holdings[number].insert(name.clone(), codec);
        progress.touched[number].extend(LogDirectory::of(name));
        drop(progress);
        let member = &self.round.members[number];
        tracing::info!("{name} is in repository {}, from {from}", member.name());
        if stored == Stored::New {
            member.tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(from, stored_bytes);
        }
    }
}

/// What kept a file of the source's directory from being stored.
enum NotCollected {
    /// It is wanted.
    Because(String),
    /// It is not what its name says, or not this cluster's, and nobody misses it.
    NotWal,
}

fn nobody_took_it() -> NotCollected {
    NotCollected::Because("no repository took it".to_owned())
}

/// Looks at a file while it is copied.
struct Check<'a> {
    system: SystemIdentifier,
    name: &'a WalFileName,
    interrupt: &'a Interrupt,
    meter: &'a Meter,
}

impl Inspector for Check<'_> {
    fn check(&self, beginning: &[u8], size_bytes: u64) -> Result<(), String> {
        match wal_file::check(self.name, beginning, size_bytes).map_err(|error| error.to_string())? {
            Some(found) if found != self.system => {
                Err(format!("it is WAL of system {found}, not {}", self.system))
            }
            _ => Ok(()),
        }
    }

    fn passed(&self, stored_bytes: u64) -> io::Result<()> {
        self.meter.add(stored_bytes);
        Ok(self.interrupt.check()?)
    }
}
