//! `wal-push`: one WAL file, durable in the repository before PostgreSQL may forget it.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use super::{Context, Error, wal_file};
use crate::pg::{SystemIdentifier, WalFileName};
use crate::repo::Repository;
use crate::repo::wal::Stored;
use crate::storage::Patience;

#[derive(Debug)]
pub struct Request {
    /// What PostgreSQL passes as `%p`: relative to the data directory, or absolute.
    pub path: PathBuf,
}

/// Stores the file in every repository that `[wal] push_to` names.
///
/// # Errors
/// When it is not durable in all of them; PostgreSQL keeps the file then, and tries again.
pub fn run(context: &Context<'_>, request: &Request) -> Result<(), Error> {
    let name = wal_file_name(&request.path)?;
    let (path, cluster) = context.calling_cluster(&request.path)?;
    let file =
        File::open(&path).map_err(|source| Error::Io { action: "open", path: path.clone(), source })?;
    // The server repeats the command until it succeeds.
    let repositories = context.repositories_with(&context.config.wal.push_to, Patience::SHORT)?;
    let system = identify(&name, &file, &path, cluster, &repositories)?;

    let workers = context.workers()?;
    let compression = context.config.backup.compression;
    for repository in &repositories {
        context.interrupt.check()?;
        let stored = repository.store_wal(system, &name, &file, compression, &workers)?;
        let how = match stored {
            Stored::New => "stored",
            Stored::Already => "was already",
        };
        tracing::info!("{name} {how} in repository {}", repository.name());
    }
    Ok(())
}

fn wal_file_name(path: &Path) -> Result<WalFileName, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    WalFileName::parse(&name).map_err(|error| Error::WrongWalName { name, reason: error.to_string() })
}

/// Checks that the file is what its name says, and finds whose it is.
///
/// A segment says itself which system it belongs to. A history or a backup note does not, so for these the data
/// directory must, or the repository, if it holds one system only.
fn identify(
    name: &WalFileName,
    mut file: &File,
    path: &Path,
    cluster: Option<SystemIdentifier>,
    repositories: &[Repository],
) -> Result<SystemIdentifier, Error> {
    let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let size_bytes = file.metadata().map_err(io)?.len();
    let mut beginning = Vec::new();
    file.rewind().map_err(io)?;
    file.take(wal_file::BEGINNING_BYTES as u64).read_to_end(&mut beginning).map_err(io)?;
    let found = wal_file::check(name, &beginning, size_bytes);
    let found =
        found.map_err(|error| Error::NotThisWal { path: path.to_owned(), reason: error.to_string() })?;
    match (found, cluster) {
        (Some(found), Some(expected)) if found != expected => {
            let owner = "the data directory that it lies in".to_owned();
            Err(Error::ForeignWal { path: path.to_owned(), found, expected, owner })
        }
        (Some(system), _) | (None, Some(system)) => Ok(system),
        (None, None) => wal_file::only_system(name, repositories),
    }
}
