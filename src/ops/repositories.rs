//! The repositories that the configuration names, opened.

use std::sync::Arc;

use super::{Context, Error};
use crate::config::{self, Place};
use crate::repo::{Distance, Repository};
use crate::storage::Local;

impl Context<'_> {
    /// The repositories of these names, in the order of the configuration; no names means all.
    pub(super) fn repositories(&self, names: &[String]) -> Result<Vec<Repository>, Error> {
        let configured = &self.config.repositories;
        if let Some(unknown) = names.iter().find(|name| !configured.iter().any(|known| known.name == **name))
        {
            let known = configured.iter().map(|repository| repository.name.clone()).collect();
            return Err(Error::UnknownRepository { name: unknown.clone(), known });
        }
        let wanted =
            configured.iter().filter(|repository| names.is_empty() || names.contains(&repository.name));
        wanted.map(open).collect()
    }
}

fn open(repository: &config::Repository) -> Result<Repository, Error> {
    match &repository.place {
        Place::Local(path) => {
            Ok(Repository::new(&repository.name, Arc::new(Local::new(path)), Distance::Near))
        }
        Place::Ssh(_) => Err(Error::SshNotSupported { repository: repository.name.clone() }),
    }
}
