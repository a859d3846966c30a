//! `wal-fetch`: one WAL file, checked, back where PostgreSQL wants it.
//!
//! PostgreSQL takes an exit code from 1 to 125 for "there is no such file, recovery is complete" and promotes. So
//! [`Outcome::EndOfArchive`] is said only when every repository was read and has neither the file nor any later one
//! of its timeline; all else is an error, on which PostgreSQL stops.
//!
//! The segment that the server was still writing may be there in parts only. At the end of the archive, when nobody has
//! it whole and nothing later, it is put together and filled up with zeros; PostgreSQL reads it up to its last record.
//! But PostgreSQL puts what it is given in the place of its own file of that name, and a standby's own may have more,
//! which it has promised to its primary to keep: so nothing is served where that one has all that the parts have.
//!
//! A file is written where its destination is, checked there, and only then given its name, so that PostgreSQL never
//! sees one that is half or wrong. While recovery replays it, a process of our own fetches the next segments into the
//! state directory, checked in the same way; a later call only moves one into place.

mod ahead;
mod unchecked;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::ahead::Ahead;
use self::unchecked::Unchecked;
use super::process::make_private_directory;
use super::{Context, Error, wal_file};
use crate::pg::wal_page::LongHeader;
use crate::pg::{SegmentPart, SystemIdentifier, WalFileName};
use crate::pipe::Workers;
use crate::repo::wal::Missing;
use crate::repo::{self, Repository};
use crate::storage::Patience;

/// How many segments are kept ready, and at most how many bytes of them.
const AHEAD_SEGMENTS: u64 = 8;
const AHEAD_BYTES_MAX: u64 = 256 << 20;
/// How often the parts of the tip are looked for when they go while they are read.
const TIP_ATTEMPTS: u32 = 5;

#[derive(Debug)]
pub struct Request {
    /// What PostgreSQL passes as `%f`.
    pub name: String,
    /// What PostgreSQL passes as `%p`: relative to the data directory, or absolute.
    pub destination: PathBuf,
    /// Only these repositories; empty is all. `restore` names those that it found whole.
    pub repositories: Vec<String>,
    /// Also fetch the segments after this one into the state directory, in the background.
    pub fetch_ahead: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Fetched,
    /// The repository was read, and holds neither this file nor any later one on its timeline.
    EndOfArchive,
}

/// What one fetch works with.
struct Fetch<'a> {
    context: &'a Context<'a>,
    name: WalFileName,
    system: SystemIdentifier,
    repositories: Vec<Repository>,
    workers: Arc<Workers>,
}

pub fn run(context: &Context<'_>, request: &Request) -> Result<Outcome, Error> {
    let (destination, cluster) = context.calling_cluster(&request.destination)?;
    let fetch = Fetch::new(context, &request.name, &request.repositories, cluster)?;
    let ahead = Ahead::of(context, fetch.system);
    // A state directory that others can write to is no place to take WAL from.
    let is_ready = context.make_state_directory().is_ok() && ahead.take(&fetch.name, &destination);
    if is_ready || fetch.to_or_tip(&destination)? {
        if request.fetch_ahead {
            ahead.start(context, request, &fetch);
        }
        return Ok(Outcome::Fetched);
    }
    ahead.clear();
    Ok(Outcome::EndOfArchive)
}

/// The background half: fetches segments after `name` into the state directory until enough are there.
///
/// What goes wrong here is not told to anyone: the call that needs the segment will meet it, and report it.
pub fn run_ahead(
    context: &Context<'_>,
    system: &str,
    name: &str,
    repositories: &[String],
) -> Result<(), Error> {
    let system =
        system.parse().map_err(|_| unknown_cluster(name, "the system identifier is not a number"))?;
    let mut fetch = Fetch::new(context, name, repositories, Some(system))?;
    let ahead = Ahead::of(context, system);
    let _lock = context.lock("wal-fetch", &system.to_string())?;
    make_private_directory(&ahead.directory)?;
    let known = fetch.repositories.iter().find_map(|repository| {
        let size = repository.segment_size_in(system, &fetch.name);
        size.inspect_err(|error| tracing::debug!("{error}")).ok().flatten()
    });
    let Some(size) = known else { return Ok(()) };
    let Some(mut segment) = fetch.name.segment(size) else { return Ok(()) };
    ahead.keep_only_after(&fetch.name);
    for _ in 0..AHEAD_SEGMENTS.min(AHEAD_BYTES_MAX / size.bytes()) {
        segment = segment.next();
        fetch.name = WalFileName::Segment(segment.file_name(size).to_string());
        let ready = ahead.path(&fetch.name);
        if !ready.exists() && !fetch.to(&ready)? {
            break;
        }
    }
    Ok(())
}

impl<'a> Fetch<'a> {
    fn new(
        context: &'a Context<'a>,
        name: &str,
        repositories: &[String],
        cluster: Option<SystemIdentifier>,
    ) -> Result<Self, Error> {
        let parsed = WalFileName::parse(name);
        let name =
            parsed.map_err(|error| Error::WrongWalName { name: name.into(), reason: error.to_string() })?;
        // PostgreSQL waits: the next repository is asked soon, and a restarted server asks again.
        let repositories = context.repositories_with(repositories, Patience::SHORT)?;
        let system = match cluster {
            Some(system) => system,
            None => wal_file::only_system(&name, &repositories)?,
        };
        let workers = context.workers()?;
        Ok(Self { context, name, system, repositories, workers })
    }

    /// Brings the file to `destination` from the first repository that can give it; `false` when this is the end of
    /// the archive.
    fn to(&self, destination: &Path) -> Result<bool, Error> {
        let mut reasons = Vec::new();
        for repository in &self.repositories {
            self.context.interrupt.check()?;
            match self.from(repository, destination) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!("{error}");
                    reasons.push(error);
                }
            }
        }
        match reasons.len() {
            0 => Ok(false),
            1 => Err(reasons.remove(0)),
            _ => {
                let reasons = reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                Err(Error::NotFetched { name: self.name.to_string(), reasons })
            }
        }
    }

    /// The same; and where nobody has the segment nor anything later, what there is of its beginning.
    fn to_or_tip(&self, destination: &Path) -> Result<bool, Error> {
        let mut attempts = 0;
        loop {
            if self.to(destination)? {
                return Ok(true);
            }
            match self.tip_to(destination) {
                // While streaming goes on, parts become one, and then the whole segment.
                Err(Error::Repository(repo::Error::Missing { .. })) if attempts < TIP_ATTEMPTS => {
                    attempts += 1
                }
                ended => return ended,
            }
        }
    }

    /// Puts the segment together from the parts of the repository that has most of it; `false` where there are none.
    /// Nobody has it whole, nor anything later.
    fn tip_to(&self, destination: &Path) -> Result<bool, Error> {
        let WalFileName::Segment(segment) = &self.name else { return Ok(false) };
        let mut tips = Vec::new();
        for repository in &self.repositories {
            let parts = repository.parts(self.system, segment)?;
            let beginning = SegmentPart::beginning(parts.keys().copied());
            let reached = beginning.last().map_or(0, |last| last.end);
            let beginning: Vec<_> = beginning.into_iter().map(|part| (part, parts[&part])).collect();
            tips.push((reached, repository, beginning));
        }
        // The first of those that have most.
        let Some((reached, repository, parts)) = tips.into_iter().rev().max_by_key(|(reached, ..)| *reached)
        else {
            return Ok(false);
        };
        if reached == 0 {
            // What a promoted server archives of the segment in which it left the old timeline.
            let name = WalFileName::Partial(format!("{segment}.partial"));
            let partial = Fetch {
                name,
                repositories: self.repositories.clone(),
                workers: Arc::clone(&self.workers),
                ..*self
            };
            return match own_file(destination, segment) {
                Some(_) => Ok(false),
                None => partial.to(destination),
            };
        }
        let damaged = |reason: String| {
            let (repository, key) = (repository.name().to_owned(), format!("{segment}.partial"));
            Error::from(repo::Error::Damaged { repository, key, reason })
        };
        let mut unchecked = Unchecked::beside(destination)?;
        let mut beginning = Vec::new();
        for (part, codec) in parts {
            let object = repository.open_part(self.system, segment, (part, codec), &self.workers)?;
            let first = unchecked.fill_part(segment, part, object, &damaged)?;
            if part.begin == 0 {
                beginning = first;
            }
        }
        if let Some(own) = own_file(destination, segment)
            && unchecked.is_beginning_of(&own)?
        {
            tracing::info!("{} has all of {segment} that is stored, or more", own.display());
            return Ok(false);
        }
        let header = LongHeader::parse(&beginning).map_err(|error| damaged(error.to_string()))?;
        unchecked.fill_up(header.segment_size.bytes(), &damaged)?;
        beginning.resize(beginning.len().max(header.page_bytes as usize), 0);
        self.check(&beginning, unchecked.size_bytes).map_err(damaged)?;
        unchecked.publish()?;
        tracing::info!(
            "{segment} is the end of the archive: its first {reached} bytes, filled up with zeros"
        );
        Ok(true)
    }

    fn from(&self, repository: &Repository, destination: &Path) -> Result<bool, Error> {
        let Some((key, object)) = repository.open_wal(self.system, &self.name, &self.workers)? else {
            return match repository.missing_wal(self.system, &self.name)? {
                Missing::AtTheEnd => Ok(false),
                Missing::InTheMiddle => {
                    let repository = repository.name().to_owned();
                    Err(Error::WalGap { name: self.name.to_string(), repository })
                }
            };
        };
        let damaged = |reason: String| {
            let repository = repository.name().to_owned();
            Error::from(repo::Error::Damaged { repository, key: key.clone(), reason })
        };
        let mut unchecked = Unchecked::beside(destination)?;
        let first = unchecked.fill(&self.name, object, &damaged)?;
        self.check(&first, unchecked.size_bytes).map_err(damaged)?;
        unchecked.publish()?;
        Ok(true)
    }

    /// Whether what was fetched is what its name says, of the cluster that asks. `beginning` is how it begins.
    fn check(&self, beginning: &[u8], size_bytes: u64) -> Result<(), String> {
        match wal_file::check(&self.name, beginning, size_bytes).map_err(|error| error.to_string())? {
            Some(found) if found != self.system => {
                Err(format!("it is WAL of system {found}, not {}", self.system))
            }
            _ => Ok(()),
        }
    }
}

/// What the data directory that `destination` lies in has of this segment. `destination` has another name, as in
/// `pg_wal/RECOVERYXLOG`; somebody who calls by hand may give it the segment's, and wants it there.
fn own_file(destination: &Path, segment: &str) -> Option<PathBuf> {
    let own = destination.with_file_name(segment);
    (own != destination && own.exists()).then_some(own)
}

fn unknown_cluster(name: &str, reason: &str) -> Error {
    Error::UnknownCluster { name: name.to_owned(), reason: reason.to_owned() }
}
