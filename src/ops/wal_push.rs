//! `wal-push`: one WAL file, durable in the repository before PostgreSQL may forget it.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use super::{Context, Error};
use crate::pg::history::TimelineHistory;
use crate::pg::{SystemIdentifier, WalFileName, wal_page};
use crate::repo::Repository;
use crate::repo::wal::Stored;

/// A history has one line per promotion, a backup note some ten lines.
const NOTE_SIZE_MAX_BYTES: u64 = 1 << 20;

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
    let file = File::open(&path).map_err(|source| Error::Io { action: "open", path: path.clone(), source })?;
    let repositories = context.repositories(&context.config.wal.push_to)?;
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

/// Checks that the file is what its name says, and whose it is.
///
/// A segment says itself which system it belongs to. A history or a backup note does not, so for these the data
/// directory must, or the repository, if it holds one system only.
fn identify(
    name: &WalFileName,
    file: &File,
    path: &Path,
    cluster: Option<SystemIdentifier>,
    repositories: &[Repository],
) -> Result<SystemIdentifier, Error> {
    if let WalFileName::Segment(_) | WalFileName::Partial(_) = name {
        let found = check_segment(name, file, path)?;
        return match cluster {
            Some(expected) if expected != found => {
                let owner = "the data directory that it lies in".to_owned();
                Err(Error::ForeignWal { path: path.to_owned(), found, expected, owner })
            }
            _ => Ok(found),
        };
    }
    check_note(name, file, path)?;
    cluster.map_or_else(|| only_system(name, repositories), Ok)
}

fn check_segment(name: &WalFileName, mut file: &File, path: &Path) -> Result<SystemIdentifier, Error> {
    let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let size_bytes = file.metadata().map_err(io)?.len();
    let mut page = Vec::new();
    file.rewind().map_err(io)?;
    file.take(wal_page::PAGE_SIZE_MAX_BYTES).read_to_end(&mut page).map_err(io)?;
    let header = wal_page::check_segment(name, &page, size_bytes);
    let header =
        header.map_err(|error| Error::NotThisWal { path: path.to_owned(), reason: error.to_string() })?;
    Ok(header.system_identifier)
}

fn check_note(name: &WalFileName, mut file: &File, path: &Path) -> Result<(), Error> {
    let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let not_this = |reason: String| Error::NotThisWal { path: path.to_owned(), reason };
    let mut bytes = Vec::new();
    file.rewind().map_err(io)?;
    file.take(NOTE_SIZE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.is_empty() || bytes.len() as u64 > NOTE_SIZE_MAX_BYTES {
        return Err(not_this(format!("expected a few lines of text, found {} bytes", bytes.len())));
    }
    match name {
        WalFileName::History(timeline) => {
            TimelineHistory::parse(*timeline, &bytes).map(drop).map_err(|error| not_this(error.to_string()))
        }
        _ => Ok(()),
    }
}

fn only_system(name: &WalFileName, repositories: &[Repository]) -> Result<SystemIdentifier, Error> {
    let mut known = Vec::new();
    for repository in repositories {
        known.extend(repository.systems()?);
    }
    known.sort_unstable();
    known.dedup();
    match known[..] {
        [system] => Ok(system),
        _ => Err(Error::UnknownCluster {
            name: name.to_string(),
            reason: "no data directory was found that it could belong to".into(),
        }),
    }
}
