//! Many objects read at a time: each by a lane, a thread that takes the next one when it is done, and all of them
//! decompressed by the same workers.
//!
//! A lane digests what it reads, which takes a core for each gigabyte and more a second; the lanes of a repository
//! behind a link also hide its latency. What is in memory is bounded by the number of lanes and the frames that each
//! may have in flight. Results come to the caller's thread one by one, in the order in which they are ready.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::problem::{Problem, Subject};
use super::task::{Task, What};
use crate::interrupt::Interrupted;
use crate::ops::{Context, Error};
use crate::pipe::{self, Workers};
use crate::repo::{self, Distance, Pulse, Repository};

/// More would not hide more latency, nor keep more cores busy.
const LANES_MAX: usize = 8;
const FRAMES_MAX: usize = 12;

/// Reads objects of one repository.
pub struct Reading<'a> {
    pub context: &'a Context<'a>,
    pub repository: &'a Repository,
    pub workers: &'a Arc<Workers>,
}

/// Takes in what was found in one task.
pub type Done<'d> = &'d mut dyn FnMut(&Task<'_>, Vec<Problem>) -> Result<(), Error>;

/// Why a lane goes no further.
#[derive(Debug)]
pub enum Stop {
    Interrupted(Interrupted),
    /// The repository cannot be reached any more.
    Away(repo::Error),
}

impl Reading<'_> {
    /// Reads all of `tasks`, and hands each to `done` with what was found. Ends early when the repository goes away,
    /// which is the inner error.
    pub fn read(&self, tasks: &[Task<'_>], done: Done<'_>) -> Result<Result<(), repo::Error>, Error> {
        let (next, is_stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, results) = crossbeam_channel::bounded(LANES_MAX);
        thread::scope(|scope| {
            for _ in 0..self.lanes().min(tasks.len()) {
                let sender = sender.clone();
                scope.spawn(|| {
                    let sender = sender;
                    while !is_stopped.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(task) = tasks.get(number) else { return };
                        if sender.send((number, self.check(task))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let mut ended = Ok(Ok(()));
            for (number, result) in results {
                let outcome = match result {
                    Ok(problems) if ended.is_ok() => done(&tasks[number], problems).map(Ok),
                    Ok(_) => continue,
                    Err(Stop::Away(error)) => Ok(Err(error)),
                    Err(Stop::Interrupted(interrupted)) => Err(interrupted.into()),
                };
                match outcome {
                    Ok(Ok(())) => {}
                    other => {
                        is_stopped.store(true, Ordering::Relaxed);
                        // Others will fail for the same reason, or a lesser one.
                        if matches!(ended, Ok(Ok(()))) || other.is_err() {
                            ended = other;
                        }
                    }
                }
            }
            ended
        })
    }

    fn lanes(&self) -> usize {
        match self.repository.distance() {
            Distance::Near => self.workers.count().clamp(2, LANES_MAX),
            Distance::Far => LANES_MAX,
        }
    }

    fn check(&self, task: &Task<'_>) -> Result<Vec<Problem>, Stop> {
        self.context.interrupt.check().map_err(Stop::Interrupted)?;
        match &task.what {
            What::File { backup, file_name } => super::archive::check_file(self, backup, file_name),
            What::Backup(backup) => super::full::check_backup(self, backup),
            What::Wal { system, name, codec, segment_size } => {
                let key = &task.objects[0].key;
                super::wal::check(self, key, *system, name, *codec, *segment_size)
            }
        }
    }

    /// Opens an object. What is read from it counts, and ends when the run shall.
    pub fn open(&self, key: &str, subject: &Subject) -> Result<Result<Counted<'_>, Problem>, Stop> {
        match self.repository.open(key) {
            Ok(inner) => Ok(Ok(Counted { inner, context: self.context })),
            Err(repo::Error::Missing { .. }) => {
                // Deleted since it was listed; whether that was right is for the next run to see.
                Ok(Err(Problem::new("missing", key, subject.clone(), "nothing").expecting("an object")))
            }
            Err(error) => self.unreadable(key, subject, error).map(Err),
        }
    }

    /// What ended the reading of an archive.
    pub fn failed(&self, key: &str, subject: &Subject, error: pipe::Error) -> Result<Problem, Stop> {
        self.context.interrupt.check().map_err(Stop::Interrupted)?;
        match error {
            pipe::Error::Read(source) => self.failed_to_read(key, subject, source),
            damage => Ok(Problem::of_archive(key, subject.clone(), &damage)),
        }
    }

    pub fn failed_to_read(&self, key: &str, subject: &Subject, error: io::Error) -> Result<Problem, Stop> {
        self.context.interrupt.check().map_err(Stop::Interrupted)?;
        let error = self.repository.read_error(key, error);
        self.unreadable(key, subject, error.into())
    }

    /// The object may not be read, or its disk fails; unless it is the repository that is away.
    pub fn unreadable(&self, key: &str, subject: &Subject, error: repo::Error) -> Result<Problem, Stop> {
        self.context.interrupt.check().map_err(Stop::Interrupted)?;
        let error = repo::inventory::must_stay(error).map_err(Stop::Away)?;
        let problem = Problem::new("unreadable", key, subject.clone(), error.to_string());
        Ok(problem.with_hint(error.hint()))
    }

    /// An archive's content, decompressed by the workers.
    pub fn archive<'s>(
        &'s self,
        codec: pipe::Codec,
        object: Counted<'s>,
        expected: Option<pipe::StoredDigest>,
    ) -> pipe::ArchiveReader<'s> {
        let reader = pipe::ArchiveReader::new(self.workers, codec, Box::new(object), expected);
        reader.with_in_flight_max(FRAMES_MAX)
    }
}

/// An object being read.
pub struct Counted<'a> {
    inner: Box<dyn Read + Send>,
    context: &'a Context<'a>,
}

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.context.passed(count as u64)?;
        Ok(count)
    }
}
