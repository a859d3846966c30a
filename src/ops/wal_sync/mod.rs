//! `wal-sync`: every repository up to date with the WAL.
//!
//! One round: look at each repository, collect from the source's directory what no repository has, and copy between
//! repositories until each has what any of them has. Nothing is ever deleted but parts of a segment that are there in
//! a longer part, or whole.
//!
//! Where WAL is streamed, the server is asked before that, or all the time beside it: see [`stream`]. Otherwise it is
//! never asked.
//!
//! * Histories go first everywhere, then segments, the oldest first, several at a time.
//! * Each repository is on its own: one that fails drops out, the others go on, and the next round repairs what is
//!   missing. That is why a killed run needs no cleaning up.
//! * A round without news costs each repository as many calls however long its archive is: see [`memory`].
//! * No time of one machine is compared with another's.

mod archive;
mod conclusion;
pub(super) mod directory;
mod member;
pub(super) mod memory;
pub(super) mod parallel;
mod report;
mod round;
mod stream;
#[cfg(test)]
mod tests;
mod transfer;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use chrono::{DateTime, Utc};

pub use report::{CopiedFrom, Finding, Missing, Report, RepositoryReport, StreamReport, Waiting};
pub use stream::Caught;

use self::memory::MemoryFile;
use self::stream::Stream;
use super::process::Lock;
use super::proofs::Proofs;
use super::{Context, Error, data_directory};
use crate::catalog::BackupName;
use crate::config::WalSource;
use crate::interrupt::Interrupt;
use crate::meter::Meter;
use crate::pg::SystemIdentifier;
use crate::pipe::{Compression, Workers};
use crate::plan::retention::Policy;
use crate::repo::{self, Repository};

/// More threads than these have no use for checking copies, and would only hold more memory.
const DECODERS_MAX: usize = 4;
/// The signal of a reader that is gone.
const SIGPIPE: usize = 13;
/// How soon a wish to stop is heard between two rounds.
const NAP: Duration = Duration::from_millis(50);

/// What all rounds of a run work with.
struct Job<'a> {
    repositories: Vec<Repository>,
    source: Source,
    /// The cluster that the source belongs to, where its data directory can be read.
    cluster: Option<SystemIdentifier>,
    compression: Compression,
    workers: Arc<Workers>,
    decoders: Arc<Workers>,
    memory: MemoryFile,
    policy: Policy,
    /// What `verify` found wrong with backups, of all repositories. Asked for only when it matters.
    known_damage: &'a KnownDamage<'a>,
    interrupt: &'a Interrupt,
    meter: &'a Meter,
    clock: &'a (dyn Fn() -> DateTime<Utc> + Sync),
}

type KnownDamage<'a> = dyn Fn(&[Repository]) -> BTreeMap<BackupName, String> + Sync + 'a;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Push,
    Directory(PathBuf),
    Stream,
}

/// Runs one round.
///
/// # Errors
/// When nothing could be done: no repository can be read, another run is at work, the source is not one of these.
pub fn run(context: &Context<'_>) -> Result<Report, Error> {
    let known_damage = |repositories: &[Repository]| known_damage(context, repositories);
    let (job, _lock) = begin(context, &known_damage)?;
    if job.source != Source::Stream {
        return job.round(None);
    }
    let own = Interrupt::default();
    let context_of_stream = context.heeding(&own);
    let stream = Stream::new(&context_of_stream, context.interrupt)?;
    match stream.catch_up() {
        Ok(()) => {}
        // Nothing to receive, and no other repository to copy to.
        Err(error) if job.repositories.len() < 2 || error.exit_code() != 1 => return Err(error),
        Err(error) => stream.note_trouble(&error),
    }
    context.interrupt.check()?;
    job.round(Some(&stream))
}

/// Runs round after round, `interval` apart, until it is interrupted or `tell` has heard enough. What ends a round
/// is told, and does not end the run. WAL that is streamed is received all the time.
pub fn follow(
    context: &Context<'_>,
    interval: Duration,
    tell: &mut dyn FnMut(Result<Report, Error>) -> ControlFlow<()>,
) -> Result<(), Error> {
    let known_damage = |repositories: &[Repository]| known_damage(context, repositories);
    let (job, _lock) = begin(context, &known_damage)?;
    if job.source != Source::Stream {
        return follow_rounds(&job, None, interval, tell, &|| false);
    }
    let own = Interrupt::default();
    let context_of_stream = context.heeding(&own);
    let stream = Stream::new(&context_of_stream, context.interrupt)?;
    thread::scope(|scope| {
        let streaming = scope.spawn(|| stream.follow());
        let rounds = follow_rounds(&job, Some(&stream), interval, tell, &|| streaming.is_finished());
        if context.interrupt.check().is_ok() && !streaming.is_finished() {
            // Nobody hears what is told any more.
            context.interrupt.raise(SIGPIPE);
        }
        streaming.join().expect("streaming does not panic")?;
        rounds
    })
}

fn follow_rounds(
    job: &Job<'_>,
    stream: Option<&Stream<'_>>,
    interval: Duration,
    tell: &mut dyn FnMut(Result<Report, Error>) -> ControlFlow<()>,
    has_ended: &dyn Fn() -> bool,
) -> Result<(), Error> {
    loop {
        if let Some(stream) = stream
            && job.repositories.len() > stream.repositories().len()
        {
            stream.gather_tip();
        }
        let round = job.round(stream);
        job.interrupt.check()?;
        if tell(round).is_break() || rest(interval, job.interrupt, has_ended)?.is_break() {
            return Ok(());
        }
    }
}

/// Breaks when there is nothing more to rest for.
fn rest(
    interval: Duration,
    interrupt: &Interrupt,
    has_ended: &dyn Fn() -> bool,
) -> Result<ControlFlow<()>, Error> {
    let mut left = interval;
    while !left.is_zero() {
        interrupt.check()?;
        if has_ended() {
            return Ok(ControlFlow::Break(()));
        }
        let nap = left.min(NAP);
        thread::sleep(nap);
        left -= nap;
    }
    interrupt.check()?;
    Ok(ControlFlow::Continue(()))
}

fn begin<'a>(context: &'a Context<'_>, known_damage: &'a KnownDamage<'a>) -> Result<(Job<'a>, Lock), Error> {
    let source = source(context)?;
    let repositories = context.repositories(&[])?;
    let places: Vec<String> = repositories.iter().map(Repository::place).collect();
    let mut sorted = places.clone();
    sorted.sort();
    let lock = context.lock("wal-sync", &memory::digest(&sorted))?;
    let decoders = Workers::new(0).and_then(|workers| match workers.count() {
        ..=DECODERS_MAX => Ok(workers),
        _ => Workers::new(DECODERS_MAX),
    });
    let job = Job {
        repositories,
        source,
        cluster: cluster(context),
        compression: context.config.backup.compression,
        workers: context.workers()?,
        decoders: Arc::new(decoders.map_err(|source| repo::Error::Threads { source })?),
        memory: MemoryFile::of(&context.state_directory, places),
        policy: Policy::from(&context.config.retention),
        known_damage,
        interrupt: context.interrupt,
        meter: context.meter,
        clock: context.clock,
    };
    Ok((job, lock))
}

fn known_damage(context: &Context<'_>, repositories: &[Repository]) -> BTreeMap<BackupName, String> {
    let proofs = repositories.iter().filter_map(|repository| Proofs::load(context, repository).ok());
    proofs.flat_map(|proofs| proofs.damaged_backups()).collect()
}

fn source(context: &Context<'_>) -> Result<Source, Error> {
    let wal = &context.config.wal;
    match (wal.source, &wal.directory) {
        (WalSource::Push, _) => Ok(Source::Push),
        (WalSource::Directory, Some(directory)) => Ok(Source::Directory(directory.clone())),
        (WalSource::Directory, None) => Err(Error::Usage {
            reason: "wal.source is \"directory\", but wal.directory is not set".to_owned(),
            hint: "Set wal.directory to where archive_command copies WAL to.".to_owned(),
        }),
        (WalSource::Stream, _) => Ok(Source::Stream),
    }
}

/// Who the configured data directory belongs to; `None` where it is on another machine, closed to this user, or its
/// control file is being written.
pub(super) fn cluster(context: &Context<'_>) -> Option<SystemIdentifier> {
    let directory = context.config.postgres.data_directory.as_ref()?;
    let control = data_directory::control_file(directory);
    let control = control.inspect_err(|error| tracing::info!("the data directory says nothing: {error}"));
    control.ok().flatten().map(|control| control.system_identifier)
}
