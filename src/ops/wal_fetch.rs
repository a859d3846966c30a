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
//! A file is written beside its destination, checked there, and renamed into place, so that PostgreSQL never sees
//! one that is half or wrong. While recovery replays it, a process of our own fetches the next segments into the
//! state directory, checked in the same way; a later call only moves one into place.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

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
const CHUNK_SIZE_BYTES: usize = 256 << 10;
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
        unchecked.publish(destination)?;
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

/// What the data directory that `destination` lies in has of this segment. `destination` has another name, as in
/// `pg_wal/RECOVERYXLOG`; somebody who calls by hand may give it the segment's, and wants it there.
fn own_file(destination: &Path, segment: &str) -> Option<PathBuf> {
    let own = destination.with_file_name(segment);
    (own != destination && own.exists()).then_some(own)
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
        let created =
            File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = created.map_err(|source| Error::Io { action: "create", path: path.clone(), source })?;
        Ok(Self { path, file, size_bytes: 0 })
    }

    /// Writes what `object` gives where it belongs, and returns how it begins.
    fn fill_part(
        &mut self,
        segment: &str,
        part: SegmentPart,
        object: impl Read,
        damaged: &dyn Fn(String) -> Error,
    ) -> Result<Vec<u8>, Error> {
        let seek = self.file.seek(SeekFrom::Start(part.begin));
        seek.map_err(|source| Error::Io { action: "write", path: self.path.clone(), source })?;
        self.size_bytes = part.begin;
        let first = self.fill(&WalFileName::of_part(segment, part), object, damaged)?;
        match self.size_bytes == part.end {
            true => Ok(first),
            false => Err(damaged(format!("its part up to {} ends at {}", part.end, self.size_bytes))),
        }
    }

    /// Whether another file begins with all that is in this one.
    fn is_beginning_of(&self, path: &Path) -> Result<bool, Error> {
        let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
        let other = File::open(path).map_err(io)?;
        let (mut ours, mut theirs) = (vec![0; CHUNK_SIZE_BYTES], vec![0; CHUNK_SIZE_BYTES]);
        let mut offset = 0;
        while offset < self.size_bytes {
            let length =
                CHUNK_SIZE_BYTES.min(usize::try_from(self.size_bytes - offset).unwrap_or(usize::MAX));
            self.file.read_exact_at(&mut ours[..length], offset).map_err(io)?;
            match other.read_exact_at(&mut theirs[..length], offset) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                read => read.map_err(io)?,
            }
            if ours[..length] != theirs[..length] {
                return Ok(false);
            }
            offset += length as u64;
        }
        Ok(true)
    }

    /// Fills up with zeros to `size_bytes`.
    fn fill_up(&mut self, size_bytes: u64, damaged: &dyn Fn(String) -> Error) -> Result<(), Error> {
        if self.size_bytes > size_bytes {
            return Err(damaged(format!("it has {} bytes, more than a segment", self.size_bytes)));
        }
        let extended = self.file.set_len(size_bytes);
        extended.map_err(|source| Error::Io { action: "extend", path: self.path.clone(), source })?;
        self.size_bytes = size_bytes;
        Ok(())
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
        let begin_bytes = self.size_bytes;
        loop {
            let length = object.read(&mut chunk).map_err(|error| damaged(error.to_string()))?;
            if length == 0 {
                return Ok(first);
            }
            self.size_bytes += length as u64;
            let wanted = wal_file::BEGINNING_BYTES - first.len();
            first.extend_from_slice(&chunk[..length.min(wanted)]);
            let size_max_bytes = wal_file::size_max_bytes(name, &first);
            if self.size_bytes - begin_bytes > size_max_bytes {
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
