//! `wal-fetch`: one WAL file, checked, back where PostgreSQL wants it.
//!
//! PostgreSQL takes an exit code from 1 to 125 for "there is no such file, recovery is complete" and promotes. So
//! [`Outcome::EndOfArchive`] is said only when every repository was read and has neither the file nor any later one
//! of its timeline; all else is an error, on which PostgreSQL stops.
//!
//! A file is written beside its destination, checked there, and renamed into place, so that PostgreSQL never sees
//! one that is half or wrong. While recovery replays it, a process of our own fetches the next segments into the
//! state directory, checked in the same way; a later call only moves one into place.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::process::make_private_directory;
use super::{Context, Error, wal_file};
use crate::pg::{SystemIdentifier, WalFileName};
use crate::pipe::Workers;
use crate::repo::Repository;
use crate::repo::wal::Missing;
use crate::storage::Patience;

/// How many segments are kept ready, and at most how many bytes of them.
const AHEAD_SEGMENTS: u64 = 8;
const AHEAD_BYTES_MAX: u64 = 256 << 20;
const CHUNK_SIZE_BYTES: usize = 256 << 10;

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
    if is_ready || fetch.to(&destination)? {
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
            Error::from(crate::repo::Error::Damaged { repository, key: key.clone(), reason })
        };
        let mut unchecked = Unchecked::beside(destination)?;
        let first = unchecked.fill(&self.name, object, &damaged)?;
        self.check(&first, unchecked.size_bytes).map_err(damaged)?;
        unchecked.publish(destination)?;
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

/// A fetched file that nobody has checked yet. It goes when it is dropped.
struct Unchecked {
    path: PathBuf,
    file: File,
    size_bytes: u64,
}

impl Unchecked {
    fn beside(destination: &Path) -> Result<Self, Error> {
        let mut name = destination.file_name().unwrap_or_default().to_owned();
        name.push(format!(".pgbak-{}", std::process::id()));
        let path = destination.with_file_name(name);
        let created = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = created.map_err(|source| Error::Io { action: "create", path: path.clone(), source })?;
        Ok(Self { path, file, size_bytes: 0 })
    }

    /// Writes what `object` gives, and returns how it begins. Where that is not the beginning of such a file, or it is
    /// longer than it says, nothing more is read.
    fn fill(
        &mut self,
        name: &WalFileName,
        mut object: impl Read,
        damaged: &dyn Fn(String) -> Error,
    ) -> Result<Vec<u8>, Error> {
        let mut chunk = vec![0; CHUNK_SIZE_BYTES];
        let mut first = Vec::new();
        loop {
            let length = object.read(&mut chunk).map_err(|error| damaged(error.to_string()))?;
            if length == 0 {
                return Ok(first);
            }
            self.size_bytes += length as u64;
            let wanted = wal_file::BEGINNING_BYTES - first.len();
            first.extend_from_slice(&chunk[..length.min(wanted)]);
            let size_max_bytes = wal_file::size_max_bytes(name, &first);
            if self.size_bytes > size_max_bytes {
                return Err(damaged(format!("it unpacks to more than {size_max_bytes} bytes")));
            }
            let written = self.file.write_all(&chunk[..length]);
            written.map_err(|source| Error::Io { action: "write", path: self.path.clone(), source })?;
        }
    }

    fn publish(self, destination: &Path) -> Result<(), Error> {
        let io = |source| Error::Io { action: "rename to", path: destination.to_owned(), source };
        fs::rename(&self.path, destination).map_err(io)
    }
}

impl Drop for Unchecked {
    fn drop(&mut self) {
        // After `publish` there is nothing of this name.
        let _ = fs::remove_file(&self.path);
    }
}

/// Segments fetched before they were asked for, in a directory of pgbak's own.
///
/// They are not made durable: the directory's name holds the kernel's boot, so that what a power failure left torn is
/// never taken for a segment.
struct Ahead {
    directory: PathBuf,
}

impl Ahead {
    fn of(context: &Context<'_>, system: SystemIdentifier) -> Self {
        let boot = super::process::boot_id();
        let directory = context.state_directory.join("fetched-ahead").join(format!("{system}-{boot}"));
        Self { directory }
    }

    fn path(&self, name: &WalFileName) -> PathBuf {
        self.directory.join(name.to_string())
    }

    /// Moves a segment that is ready into place; `false` when it is not, or cannot be moved.
    fn take(&self, name: &WalFileName, destination: &Path) -> bool {
        let ready = self.path(name);
        let moved = match fs::rename(&ready, destination) {
            // The state directory lies on another file system.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                self.copy(&ready, destination).and_then(|()| fs::remove_file(&ready))
            }
            renamed => renamed,
        };
        moved.is_ok()
    }

    fn copy(&self, ready: &Path, destination: &Path) -> io::Result<()> {
        let mut unchecked = Unchecked::beside(destination).map_err(io::Error::other)?;
        io::copy(&mut File::open(ready)?, &mut unchecked.file)?;
        unchecked.publish(destination).map_err(io::Error::other)
    }

    /// Starts the background process, unless the next segment is there already.
    fn start(&self, context: &Context<'_>, request: &Request, fetch: &Fetch<'_>) {
        if !matches!(fetch.name, WalFileName::Segment(_)) || self.is_filled() {
            return;
        }
        let mut command = Command::new(&context.program);
        if let Some(file) = &context.config.file {
            command.arg("--config").arg(file);
        }
        command.args(["wal-fetch-ahead", &fetch.system.to_string(), &request.name]).current_dir("/");
        command.args(request.repositories.iter().flat_map(|name| ["--repository", name]));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A session of its own: a signal to PostgreSQL's process group does not concern it.
        if let Err(error) = std::os::unix::process::CommandExt::process_group(&mut command, 0).spawn() {
            tracing::debug!("could not fetch ahead: {error}");
        }
    }

    /// Whether so many are ready that nothing needs to be started.
    fn is_filled(&self) -> bool {
        let ready = fs::read_dir(&self.directory).map_or(0, |entries| entries.count() as u64);
        ready > AHEAD_SEGMENTS / 2
    }

    /// Removes what recovery has passed, what it left on other timelines, and what was fetched before a reboot.
    fn keep_only_after(&self, name: &WalFileName) {
        for sibling in
            fs::read_dir(self.directory.parent().unwrap_or(Path::new("/"))).into_iter().flatten().flatten()
        {
            if sibling.path() != self.directory && is_of_same_system(&sibling.path(), &self.directory) {
                let _ = fs::remove_dir_all(sibling.path());
            }
        }
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let file_name = entry.file_name();
            let parsed = file_name.to_str().and_then(|text| WalFileName::parse(text).ok());
            let later = |ready: &WalFileName| {
                ready.timeline() == name.timeline() && ready.to_string() > name.to_string()
            };
            if !parsed.as_ref().is_some_and(later) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn clear(&self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn is_of_same_system(one: &Path, other: &Path) -> bool {
    let system =
        |path: &Path| path.file_name()?.to_str()?.split_once('-').map(|(system, _)| system.to_owned());
    system(one).is_some() && system(one) == system(other)
}

fn unknown_cluster(name: &str, reason: &str) -> Error {
    Error::UnknownCluster { name: name.to_owned(), reason: reason.to_owned() }
}
