//! The thread that stores: whole segments and parts of the tip, in the order of the WAL, in every repository.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::Stream;
use super::spool::Spool;
use super::tip::{Merge, TipParts};
use crate::ops::wal_sync::parallel;
use crate::ops::{Error, wal_file};
use crate::pg::{Lsn, SegmentPart, SystemIdentifier, WalFileName};
use crate::repo::Repository;
use crate::repo::wal_tip::Parts;

/// How many segments may wait; each is a file of the state directory.
const QUEUE_SEGMENTS: usize = 3;

/// What is to be stored.
pub enum Task {
    Whole(Spool),
    /// What is in the spool by now.
    Tip(Spool),
    /// The same, in one part.
    GatheredTip(Spool),
}

/// How far storing has come, as seen by the thread that receives.
#[derive(Default)]
pub struct Progress {
    durable: AtomicU64,
    pending: AtomicUsize,
    is_broken: AtomicBool,
    failure: Mutex<Option<Error>>,
}

/// The other end.
pub struct Storer<'a> {
    stream: &'a Stream<'a>,
    system: SystemIdentifier,
    progress: &'a Progress,
    tip: Option<TipParts>,
    /// The first segment of a run may have been begun by another one.
    is_first: bool,
}

pub fn queue() -> (Sender<Task>, Receiver<Task>) {
    bounded(QUEUE_SEGMENTS)
}

impl Progress {
    /// Everything before is durable in every repository; `None` before anything is.
    pub fn durable(&self) -> Option<Lsn> {
        Some(Lsn(self.durable.load(Ordering::Acquire))).filter(|lsn| lsn.0 > 0)
    }

    pub fn is_idle(&self) -> bool {
        self.pending.load(Ordering::Acquire) == 0
    }

    /// Takes note of a task before it is sent.
    pub fn sends(&self) {
        self.pending.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes note that it could not be.
    pub fn sends_not(&self) {
        self.pending.fetch_sub(1, Ordering::AcqRel);
    }

    /// Nothing more will be stored.
    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Acquire)
    }

    /// What ended the storing; told once.
    pub fn take_failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<'a> Storer<'a> {
    pub fn new(stream: &'a Stream<'a>, system: SystemIdentifier, progress: &'a Progress) -> Self {
        Self { stream, system, progress, tip: None, is_first: true }
    }

    /// Stores until no more comes, or something fails.
    pub fn run(mut self, tasks: &Receiver<Task>) {
        for task in tasks {
            match self.store(task) {
                Ok(durable) => {
                    // Never backwards: a tip may be shorter than what an earlier run has stored of it.
                    self.progress.durable.fetch_max(durable.0, Ordering::AcqRel);
                    self.progress.pending.fetch_sub(1, Ordering::AcqRel);
                }
                Err(error) => {
                    *self.progress.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    self.progress.is_broken.store(true, Ordering::Release);
                    return;
                }
            }
        }
    }

    fn store(&mut self, task: Task) -> Result<Lsn, Error> {
        match task {
            Task::Whole(spool) => {
                let durable = self.store_whole(&spool)?;
                self.stream.spools.end(spool);
                Ok(durable)
            }
            Task::Tip(spool) => self.store_tip(&spool),
            Task::GatheredTip(spool) => {
                let durable = self.store_tip(&spool)?;
                if let Some(all) = self.tip.as_ref().and_then(TipParts::all) {
                    self.merge(&spool, &all)?;
                }
                Ok(durable)
            }
        }
    }

    fn store_whole(&mut self, spool: &Spool) -> Result<Lsn, Error> {
        let text = spool.name();
        let name = WalFileName::parse(&text).expect("a segment's name is the name of a WAL file");
        self.check(&name, spool)?;
        let compression = self.stream.context.config.backup.compression;
        self.everywhere(&|repository| {
            let stored =
                repository.add_wal(self.system, &name, &spool.file, compression, &self.stream.workers)?;
            tracing::info!("{name} is in repository {}: {:?}", repository.name(), stored.0);
            Ok(())
        })?;
        let tip = self.tip.take().filter(|tip| tip.segment == spool.segment);
        if std::mem::take(&mut self.is_first) {
            self.everywhere(&|repository| {
                let parts = repository.parts(self.system, &text)?;
                self.delete(repository, &text, &parts);
                Ok(())
            })?;
        } else if let Some(tip) = tip {
            let parts: Parts = tip.parts().map(|part| (part, compression.codec())).collect();
            self.everywhere(&|repository| {
                self.delete(repository, &text, &parts);
                Ok(())
            })?;
        }
        let mut standing = self.stream.standing();
        standing.segments_stored += 1;
        Ok(spool.end())
    }

    fn store_tip(&mut self, spool: &Spool) -> Result<Lsn, Error> {
        let (end, text) = (spool.filled_bytes, spool.name());
        match &self.tip {
            Some(tip) if tip.segment == spool.segment => {
                if end > tip.end() {
                    self.store_part(spool, SegmentPart { begin: tip.end(), end })?;
                }
            }
            _ => {
                let name = WalFileName::parse(&text).expect("a segment's name is the name of a WAL file");
                self.check(&name, spool)?;
                let whole = SegmentPart { begin: 0, end };
                let found = self.stored_parts(&text)?;
                let has_more = |parts: &Parts| {
                    SegmentPart::beginning(parts.keys().copied()).last().is_some_and(|last| last.end > end)
                };
                // An earlier run was sent more of it: before the server crashed, or before a promotion cut it off.
                if !found.is_empty() && found.iter().all(has_more) {
                    return Ok(spool.end());
                }
                self.tip = Some(TipParts::new(spool.segment));
                self.store_part(spool, whole)?;
                for (repository, parts) in self.stream.repositories.iter().zip(&found) {
                    let covered = parts.iter().filter(|(part, _)| **part != whole && whole.covers(**part));
                    let covered: Parts = covered.map(|(part, codec)| (*part, *codec)).collect();
                    self.delete(repository, &text, &covered);
                }
            }
        }
        while let Some(due) = self.tip.as_ref().and_then(TipParts::due) {
            self.merge(spool, &due)?;
        }
        Ok(spool.end())
    }

    fn merge(&mut self, spool: &Spool, merge: &Merge) -> Result<(), Error> {
        self.add_part(spool, merge.whole)?;
        let codec = self.stream.context.config.backup.compression.codec();
        let gone: Parts = merge.parts.iter().map(|part| (*part, codec)).collect();
        let text = spool.name();
        self.everywhere(&|repository| {
            self.delete(repository, &text, &gone);
            Ok(())
        })?;
        self.tip.as_mut().expect("there is a tip to merge").merged(merge);
        Ok(())
    }

    fn store_part(&mut self, spool: &Spool, part: SegmentPart) -> Result<(), Error> {
        self.add_part(spool, part)?;
        self.tip.as_mut().expect("its tip was begun").push(part);
        Ok(())
    }

    fn add_part(&self, spool: &Spool, part: SegmentPart) -> Result<(), Error> {
        let compression = self.stream.context.config.backup.compression;
        let (text, workers) = (spool.name(), &self.stream.workers);
        self.everywhere(&|repository| {
            repository.add_part(self.system, &text, part, &spool.file, compression, workers)?;
            Ok(())
        })
    }

    fn stored_parts(&self, segment: &str) -> Result<Vec<Parts>, Error> {
        let parts = self.stream.repositories.iter().map(|repository| repository.parts(self.system, segment));
        Ok(parts.collect::<Result<_, _>>()?)
    }

    /// What is deleted is of no use; where it cannot be, it stays.
    fn delete(&self, repository: &Repository, segment: &str, parts: &Parts) {
        for (part, codec) in parts {
            if let Err(error) = repository.delete_part(self.system, segment, (*part, *codec)) {
                tracing::debug!("{error}");
            }
        }
    }

    /// Nothing is stored under a name that its content does not bear out.
    fn check(&self, name: &WalFileName, spool: &Spool) -> Result<(), Error> {
        let mut beginning = vec![0; wal_file::BEGINNING_BYTES.min(spool.filled_bytes as usize)];
        let path = || self.stream.context.state_directory.clone();
        let read = spool.file.read_exact_at(&mut beginning, 0);
        read.map_err(|source: io::Error| Error::Io { action: "read from a file in", path: path(), source })?;
        let end = spool.filled_bytes;
        let checked = match spool.is_whole() {
            true => wal_file::check(name, &beginning, end),
            false => {
                let part = WalFileName::of_part(&spool.name(), SegmentPart { begin: 0, end });
                wal_file::check(&part, &beginning, end)
            }
        };
        let unsound = |reason: String| Error::UnsoundWal { name: name.to_string(), reason };
        match checked.map_err(|error| unsound(error.to_string()))? {
            Some(found) if found != self.system => {
                Err(unsound(format!("it is WAL of system {found}, not {}", self.system)))
            }
            _ => Ok(()),
        }
    }

    /// Does the same to every repository, all at a time; the first failure counts.
    fn everywhere(&self, act: &(dyn Fn(&Repository) -> Result<(), Error> + Sync)) -> Result<(), Error> {
        let failed = Mutex::new(None);
        parallel::each(&self.stream.repositories, |repository| {
            if let Err(error) = act(repository) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}
