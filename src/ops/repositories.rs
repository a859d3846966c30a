//! The repositories that the configuration names, opened.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Context, Error};
use crate::config::{self, Place, SshPlace};
use crate::repo::{Distance, Repository};
use crate::storage::{Durability, Local, Patience, Retry, Secret, Sftp, SftpSettings};

impl Context<'_> {
    /// The repositories of these names, in the order of the configuration; no names means all.
    pub(super) fn repositories(&self, names: &[String]) -> Result<Vec<Repository>, Error> {
        self.repositories_with(names, Patience::USUAL)
    }

    /// The same, with this much patience for one that is away.
    pub(super) fn repositories_with(
        &self,
        names: &[String],
        patience: Patience,
    ) -> Result<Vec<Repository>, Error> {
        let configured = &self.config.repositories;
        if let Some(unknown) = names.iter().find(|name| !configured.iter().any(|known| known.name == **name))
        {
            let known = configured.iter().map(|repository| repository.name.clone()).collect();
            return Err(Error::UnknownRepository { name: unknown.clone(), known });
        }
        let wanted =
            configured.iter().filter(|repository| names.is_empty() || names.contains(&repository.name));
        wanted.map(|repository| self.open(repository, patience)).collect()
    }

    fn open(&self, repository: &config::Repository, patience: Patience) -> Result<Repository, Error> {
        let name = &repository.name;
        match &repository.place {
            Place::Local(path) => Ok(Repository::new(name, Arc::new(Local::new(path)), Distance::Near)),
            Place::Ssh(place) => {
                let sftp = Sftp::new(self.ssh_settings(name, place)?, self.interrupt.clone());
                let patient = Retry::new(Arc::new(sftp), patience, self.interrupt.clone());
                Ok(Repository::new(name, Arc::new(patient), Distance::Far))
            }
        }
    }

    /// Fills in what ssh would find in the environment: the user, the agent, and where keys and known hosts are.
    fn ssh_settings(&self, repository: &str, place: &SshPlace) -> Result<SftpSettings, Error> {
        let variable = |name: &str| (self.environment)(name).filter(|value| !value.is_empty());
        let home = variable("HOME").map(PathBuf::from);
        let user = place.user.clone().or_else(|| variable("USER")).or_else(|| variable("LOGNAME"));
        let user = user.ok_or_else(|| Error::Usage {
            reason: format!("repository {repository}: no user to log in as"),
            hint: format!("Name it in the `url`: \"ssh://USER@{}{}\".", place.host, place.path),
        })?;
        let usual_known_hosts = || home.as_ref().map(|home| home.join(".ssh/known_hosts"));
        Ok(SftpSettings {
            user,
            host: place.host.clone(),
            port: place.port,
            path: place.path.clone(),
            key: place.ssh_key.clone(),
            passphrase: variable("PGBAK_SSH_PASSPHRASE").map(Secret::new),
            agent: variable("SSH_AUTH_SOCK").map(PathBuf::from),
            known_hosts: place.known_hosts.clone().or_else(usual_known_hosts),
            home,
            sessions: place.sessions as usize,
            durability: if place.durable { Durability::Required } else { Durability::IfOffered },
        })
    }
}
