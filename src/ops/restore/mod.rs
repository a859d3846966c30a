//! `restore`: a data directory put back, at any point in time.
//!
//! In this order: the plan is proven, the target directories are inspected, and only then is anything written: first a
//! lease in the repository, so that nobody prunes the backup that is read, as far as one can be written there. The data
//! directory is marked as being restored and loses its `pg_control`; archives are unpacked on all cores, each
//! file checked against the manifest; recovery settings are written; all of it is made durable; `pg_control` comes
//! last. What dies on the way cannot be started, and a second run with `--delta` finishes it.

mod data_files;
mod delta;
mod hold;
mod places;
mod proof;
mod recovery_settings;
mod target;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};

pub use crate::plan::recovery::{Target, TargetAction, TargetTimeline};

use self::data_files::{DataFiles, Unpacking};
use self::delta::Delta;
use self::hold::Holds;
use self::places::Places;
use self::proof::Proof;
use self::target::Owner;
use super::backup_files::{Expected, ExpectedWal};
use super::{Context, Error};
use crate::pg::tablespace_map;
use crate::pipe::{self, Stopped, Workers};
use crate::repo::layout::ArchiveContent;
use crate::repo::{BackupReader, Check, Repository};

#[derive(Debug)]
pub struct Request {
    pub directory: PathBuf,
    /// A backup's name; `None` is the newest that reaches the target.
    pub backup: Option<String>,
    pub target: Target,
    /// Stop just before the target instead of just after it.
    pub exclusive: bool,
    pub timeline: TargetTimeline,
    pub action: TargetAction,
    /// Old location and new location, both absolute.
    pub tablespace_mapping: Vec<(PathBuf, PathBuf)>,
    pub standby: bool,
    pub delta: bool,
    /// Only this repository; `None` is any, in the order of the configuration.
    pub repository: Option<String>,
    pub dry_run: bool,
}

/// What was proven before the first byte, and what was done. Serialized by `--json`.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    pub repository: String,
    pub backup: String,
    pub backup_stopped_at: DateTime<Utc>,
    pub directory: PathBuf,
    /// In words, with the offset for times: `2026-11-22 02:00:00+01:00, inclusive`.
    pub target: String,
    pub timeline: u32,
    /// The archived WAL that recovery can read, from and to; `None` when the backup brings all there is.
    pub wal_from: Option<String>,
    pub wal_to: Option<String>,
    pub size_bytes: u64,
    /// Where each tablespace goes.
    pub tablespaces: Vec<TablespacePlace>,
    /// The lines for postgresql.auto.conf.
    pub settings: Vec<Setting>,
    /// The commands that start the restored cluster.
    pub commands: Vec<String>,
    pub dry_run: bool,
    pub files_written: u64,
    /// With `--delta`: files that were already as they should be, and files that did not belong.
    pub files_kept: u64,
    pub files_removed: u64,
    pub duration_seconds: f64,
    /// What the operator should know, in sentences; not failures.
    pub notes: Vec<String>,
}

#[derive(Debug, serde::Serialize)]
pub struct TablespacePlace {
    pub oid: u32,
    pub directory: PathBuf,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct Setting {
    pub name: String,
    pub value: String,
}

/// Restores, or with `dry_run` only proves that it could.
pub fn run(context: &Context<'_>, request: &Request) -> Result<Report, Error> {
    let began_at = (context.clock)();
    let proof = Proof::find(context, request, began_at)?;
    let places = Places::new(request, &proof.backup.tablespaces)?;
    target::inspect(request, &places, &proof.backup)?;
    let mut report = proof.report(context, request, &places);
    if !request.dry_run {
        let holds = Holds::default();
        let restore = Restore { context, request, proof: &proof, places: &places, holds: &holds };
        holds.keep_while(context, &mut || restore.carry_out(&mut report))?;
        report.duration_seconds = ((context.clock)() - began_at).as_seconds_f64();
    }
    Ok(report)
}

/// Why an archive could not be unpacked.
struct Failure {
    error: Error,
    /// Whether another repository's copy may do better.
    is_of_source: bool,
}

fn unrestorable(repository: &Repository, archive: &str, reason: impl std::fmt::Display) -> Error {
    Error::Unrestorable {
        repository: repository.name().to_owned(),
        archive: archive.to_owned(),
        reason: reason.to_string(),
    }
}

struct Restore<'a> {
    context: &'a Context<'a>,
    request: &'a Request,
    proof: &'a Proof,
    places: &'a Places,
    holds: &'a Holds,
}

impl Restore<'_> {
    fn carry_out(&self, report: &mut Report) -> Result<(), Error> {
        self.holds.add(self.context, &self.proof.repository, self.proof.backup.name)?;
        let delta = match self.request.delta {
            true => Delta::find(self.context, self.places, &self.proof.manifest)?,
            false => Delta::default(),
        };
        report.files_kept = delta.kept.len() as u64;
        self.context.meter.expect(self.proof.backup.size_bytes);
        let owner = Owner::of(self.context, &self.places.data);

        target::begin(self.places, &self.proof.backup)?;
        report.files_removed = delta.remove_aliens()?;
        self.link_tablespaces()?;
        let expected = Expected::from_manifest(&self.proof.manifest);
        let mut files = DataFiles {
            places: self.places,
            owner,
            meter: Arc::clone(self.context.meter),
            interrupt: self.context.interrupt.clone(),
            expected: expected.map_err(|reason| self.unrestorable("backup_manifest", reason))?,
            kept: delta.kept,
            taken: Vec::new(),
            written: 0,
            directory_mode: 0o700,
        };
        self.unpack(&mut files)?;
        report.files_written = files.written;

        self.place_tablespaces(owner, files.directory_mode)?;
        let settings = report.settings.iter().map(|setting| (setting.name.clone(), setting.value.clone()));
        let settings: Vec<_> = settings.collect();
        recovery_settings::write(&self.places.data, &self.proof.plan, &settings, owner)?;
        let manifest = self.places.data.join("backup_manifest");
        recovery_settings::replace(&manifest, &self.proof.manifest_bytes, owner)?;
        target::finish(self.places, &files.control_file(), files.directory_mode, owner)
    }

    /// Unpacks every archive, and insists that everything the manifest names came out.
    fn unpack(&self, files: &mut DataFiles<'_>) -> Result<(), Error> {
        let workers = self.context.workers()?;
        for content in BackupReader::new(&self.proof.repository, &self.proof.backup).contents() {
            self.unpack_from_any(files, content, &workers)?;
        }
        match files.expected.missing().next() {
            None => Ok(()),
            Some(path) => {
                Err(self.unrestorable("backup", format!("{path} is in its manifest, but in no archive")))
            }
        }
    }

    /// Unpacks one archive; where that cannot be read or is damaged, from the next repository that has the backup.
    fn unpack_from_any(
        &self,
        files: &mut DataFiles<'_>,
        content: ArchiveContent,
        workers: &Arc<Workers>,
    ) -> Result<(), Error> {
        let mut failed = match self.unpack_from(&self.proof.repository, files, content, workers) {
            Err(Failure { error, is_of_source: true }) => error,
            ended => return ended.map_err(|failure| failure.error),
        };
        for other in self.others()? {
            tracing::warn!("{failed}; trying repository {}", other.name());
            files.expect_again();
            self.holds.add(self.context, &other, self.proof.backup.name)?;
            failed = match self.unpack_from(&other, files, content, workers) {
                Err(Failure { error, is_of_source: true }) => error,
                ended => return ended.map_err(|failure| failure.error),
            };
        }
        Err(failed)
    }

    fn unpack_from(
        &self,
        repository: &Repository,
        files: &mut DataFiles<'_>,
        content: ArchiveContent,
        workers: &Arc<Workers>,
    ) -> Result<(), Failure> {
        let of_source = |error: crate::repo::Error| Failure { error: error.into(), is_of_source: true };
        let reader = BackupReader::new(repository, &self.proof.backup);
        let key = reader.archive_key(content).map_err(of_source)?;
        // The manifest checks every byte of the data files; the WAL is not in it.
        let check = match content {
            ArchiveContent::Base | ArchiveContent::Tablespace(_) => Check::ByContent,
            ArchiveContent::Wal => Check::ByDigest,
        };
        let archive = reader.open(content, check, workers).map_err(of_source)?;
        files.taken.clear();
        let wal = ExpectedWal::of(&self.proof.backup);
        pipe::unpack(archive, &mut Unpacking { files, content, wal }).map(drop).map_err(|stopped| {
            // An interruption comes back through the same door.
            if let Err(interrupted) = self.context.interrupt.check() {
                return Failure { error: interrupted.into(), is_of_source: false };
            }
            let is_of_source = match &stopped {
                Stopped::Archive(_) => true,
                Stopped::Entry(error) | Stopped::Sink(error) => error.kind() == io::ErrorKind::InvalidData,
            };
            Failure { error: unrestorable(repository, &key, stopped), is_of_source }
        })
    }

    /// The other repositories that have this very backup, by their own records.
    fn others(&self) -> Result<Vec<Repository>, Error> {
        let own = self.proof.repository.name();
        let names: Vec<String> = self.request.repository.iter().cloned().collect();
        let others = self.context.repositories(&names)?.into_iter().filter(|other| other.name() != own);
        Ok(others
            .filter(|other| match other.backup(self.proof.backup.name) {
                Ok(found) => found.is_some_and(|found| found.files == self.proof.backup.files),
                Err(error) => {
                    tracing::warn!("{error}");
                    false
                }
            })
            .collect())
    }

    fn unrestorable(&self, archive: &str, reason: impl std::fmt::Display) -> Error {
        unrestorable(&self.proof.repository, archive, reason)
    }

    /// Links each tablespace to where it will be, before anything is written there: should this run die, the links
    /// tell the next one what is its own.
    fn link_tablespaces(&self) -> Result<(), Error> {
        target::make_directory(&self.places.data.join("pg_tblspc"))?;
        for (oid, directory) in &self.places.tablespaces {
            let link = self.places.link(*oid);
            if !self.places.links_to(*oid, directory) {
                target::remove_if_there(&link)
                    .map_err(|source| target::io_error("replace", &link, source))?;
                let linked = std::os::unix::fs::symlink(directory, &link);
                linked.map_err(|source| target::io_error("link", &link, source))?;
            }
        }
        Ok(())
    }

    /// Gives the tablespaces to their owner, and tells recovery, which makes their links anew, where they are.
    fn place_tablespaces(&self, owner: Owner, directory_mode: u32) -> Result<(), Error> {
        let data = &self.places.data;
        for (oid, directory) in &self.places.tablespaces {
            let link = self.places.link(*oid);
            target::give_like(&link, &data.join("PG_VERSION"), owner)?;
            target::give_like(directory, &data.join("PG_VERSION"), owner)?;
            target::set_mode(directory, directory_mode)?;
        }
        if self.request.tablespace_mapping.is_empty() {
            return Ok(());
        }
        let path = data.join("tablespace_map");
        let bytes = std::fs::read(&path).map_err(|source| target::io_error("read", &path, source))?;
        let version = self.proof.backup.server_version;
        let mut moved = tablespace_map::parse(&bytes, version)
            .map_err(|error| self.unrestorable("tablespace_map", error))?;
        for tablespace in &mut moved {
            if let Some(directory) = self.places.tablespaces.get(&tablespace.oid) {
                tablespace.location.clone_from(directory);
            }
        }
        recovery_settings::replace(&path, &tablespace_map::write(&moved, version), owner)
    }
}
