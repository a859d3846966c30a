//! What is proven before a restore's first byte: that the plan holds, and that the backup is whole.

use std::ffi::OsStr;

use chrono::{DateTime, Utc};

use super::places::Places;
use super::{Context, Error, Report, Request, Setting, TablespacePlace, Target};
use crate::catalog::BackupInfo;
use crate::ops::server_calls::restore_command;
use crate::pg::manifest::Manifest;
use crate::plan::recovery::{self, RecoveryPlan, RecoveryRequest};
use crate::repo::{BackupReader, Repository};
use crate::storage::Patience;

/// A plan that can be carried out, and what it needs.
pub struct Proof {
    pub repository: Repository,
    pub backup: BackupInfo,
    pub plan: RecoveryPlan,
    pub manifest: Manifest,
    pub manifest_bytes: Vec<u8>,
    /// The repositories that recovery may read WAL from; empty when these are all that are configured.
    pub wal_repositories: Vec<String>,
}

impl Proof {
    /// Takes the first repository, in the order of the configuration, that can give what is asked for.
    pub fn find(context: &Context<'_>, request: &Request, now: DateTime<Utc>) -> Result<Self, Error> {
        let names: Vec<String> = request.repository.iter().cloned().collect();
        // One that is away is not waited for while another may do; what is read from then on is.
        let repositories = context.repositories_with(&names, Patience::SHORT)?;
        let mut refused = Vec::new();
        let mut found = None;
        let mut readable = Vec::new();
        for repository in &repositories {
            let exists = repository.must_exist();
            if exists.is_ok() {
                readable.push(repository.name().to_owned());
            }
            match exists.map_err(Error::from).and_then(|()| Self::of(repository, request, now)) {
                Ok(proof) => found = found.or(Some(proof)),
                Err(error) => {
                    tracing::info!("repository {}: {error}", repository.name());
                    refused.push((repository.name().to_owned(), error));
                }
            }
        }
        let Some(mut proof) = found else { return Err(summarised(refused)) };
        proof.repository = context.repositories(&[proof.repository.name().to_owned()])?.remove(0);
        let all = readable.len() == context.config.repositories.len();
        Ok(Self { wal_repositories: if all { Vec::new() } else { readable }, ..proof })
    }

    fn of(repository: &Repository, request: &Request, now: DateTime<Utc>) -> Result<Self, Error> {
        let catalog = repository.catalog()?;
        let wanted = RecoveryRequest {
            backup: request.backup.clone(),
            target: request.target.clone(),
            exclusive: request.exclusive,
            timeline: request.timeline,
            action: request.action,
            standby: request.standby,
        };
        let plan = recovery::plan(&catalog, &wanted, now)?;
        let backup = catalog.backup(plan.backup).expect("a plan names a backup of its catalog").clone();
        let reader = BackupReader::new(repository, &backup);
        reader.check()?;
        let (manifest, manifest_bytes) = reader.manifest()?;
        Ok(Self {
            repository: repository.clone(),
            backup,
            plan,
            manifest,
            manifest_bytes,
            wal_repositories: Vec::new(),
        })
    }

    /// What a dry run prints, and a restore fills in as it goes.
    pub fn report(&self, context: &Context<'_>, request: &Request, places: &Places) -> Report {
        let plan = &self.plan;
        let command = restore_command(context, &self.wal_repositories);
        let own = plan.settings.iter().map(|(name, value)| (*name, value.clone()));
        let settings = std::iter::once(("restore_command", command)).chain(own);
        let tablespaces = places.tablespaces.iter();
        let mut notes = plan.notes.clone();
        let has_configuration = self.manifest.files.contains_key(OsStr::new("postgresql.conf"));
        if !has_configuration {
            notes.push(
                "The backup has no postgresql.conf, because the server keeps it outside the data directory, as on \
                 Debian. Start the cluster with the configuration that belongs to it."
                    .into(),
            );
        }
        Report {
            repository: self.repository.name().to_owned(),
            backup: self.backup.name.to_string(),
            backup_stopped_at: self.backup.stopped_at,
            directory: places.data.clone(),
            target: in_words(request),
            timeline: plan.history.timeline().get(),
            wal_from: plan.wal.map(|range| range.from.to_string()),
            wal_to: plan.wal.map(|range| range.to.to_string()),
            size_bytes: self.backup.size_bytes,
            tablespaces: tablespaces
                .map(|(oid, directory)| TablespacePlace { oid: *oid, directory: directory.clone() })
                .collect(),
            settings: settings.map(|(name, value)| Setting { name: name.into(), value }).collect(),
            commands: start_commands(places, has_configuration),
            dry_run: request.dry_run,
            files_written: 0,
            files_kept: 0,
            files_removed: 0,
            duration_seconds: 0.0,
            notes,
        }
    }
}

fn in_words(request: &Request) -> String {
    let side = if request.exclusive { "exclusive" } else { "inclusive" };
    match &request.target {
        Target::End => "end of the archived WAL".into(),
        Target::Immediate => "as soon as consistent".into(),
        Target::Time(time) => format!("time {}, {side}", time.format("%Y-%m-%d %H:%M:%S%.f%:z")),
        Target::Lsn(lsn) => format!("LSN {lsn}, {side}"),
        Target::Xid(xid) => format!("transaction {xid}, {side}"),
        Target::Name(name) => format!("restore point \"{name}\""),
    }
}

fn start_commands(places: &Places, has_configuration: bool) -> Vec<String> {
    let data = places.data.display();
    vec![match has_configuration {
        true => format!("pg_ctl -D \"{data}\" start"),
        false => format!("pg_ctl -D \"{data}\" -o '-c config_file=/etc/postgresql/…/postgresql.conf' start"),
    }]
}

/// One refusal speaks for itself; of several, each is told.
fn summarised(mut refused: Vec<(String, Error)>) -> Error {
    if refused.len() == 1 {
        return refused.remove(0).1;
    }
    let hint = refused.iter().find_map(|(_, error)| error.hint());
    let reasons: Vec<_> = refused.iter().map(|(name, error)| format!("{name}: {error}")).collect();
    Error::NoRepository { reasons: reasons.join("; "), hint }
}
