//! One connection: to the server, to its slot, along its timelines.

use std::thread;

use super::receiver::{Ending, Receiver};
use super::start::{Search, Start, Starts};
use super::storer::{self, Progress, Storer};
use super::{Goal, Stream};
use crate::ops::Error;
use crate::pg::history::TimelineHistory;
use crate::pg::{Lsn, SegmentName, SegmentSize, Timeline, WalFileName};
use crate::server::{Cause, ReplicationClient, Session, SystemIdentity};

/// Streams until the goal is reached or there is a wish to stop.
pub fn run(stream: &Stream<'_>, goal: Goal) -> Result<(), Error> {
    let mut link = Link::connect(stream)?;
    link.prepare_repositories()?;
    let kept_from = link.look_after_slot()?;
    let history = link.store_histories(link.identity.timeline)?;
    let (identity, size) = (link.identity, link.size);
    let repositories = &stream.repositories;
    let search = Search { repositories, identity, size, history: &history, kept_from };
    let Starts { wanted, candidates } = search.starts()?;
    for (tried, start) in candidates.iter().enumerate() {
        if tried > 0 {
            // The server has ended the copy with an error.
            link = Link::connect(stream)?;
        }
        let loss = wanted.filter(|wanted| wanted.lsn < start.lsn);
        let is_last = tried + 1 == candidates.len();
        match link.stream_from(*start, loss, goal) {
            Err(Error::Server(error)) if error.cause() == Some(&Cause::WalRemoved) && !is_last => {
                tracing::info!("from {} on timeline {}: {error}", start.lsn, start.timeline);
            }
            ended => return ended,
        }
    }
    unreachable!("the last candidate ends the loop")
}

struct Link<'s, 'a> {
    stream: &'s Stream<'a>,
    client: ReplicationClient,
    identity: SystemIdentity,
    size: SegmentSize,
}

impl<'s, 'a> Link<'s, 'a> {
    fn connect(stream: &'s Stream<'a>) -> Result<Self, Error> {
        let mut client = ReplicationClient::connect(&stream.settings, stream.stop)?;
        // A wish to stop is to end the stream, not the connection.
        client.heed(stream.context.interrupt);
        let identity = client.identify_system()?;
        let size = client.segment_size()?;
        Ok(Self { stream, client, identity, size })
    }

    fn prepare_repositories(&self) -> Result<(), Error> {
        for repository in &self.stream.repositories {
            repository.ensure_exists()?;
            repository.must_know(self.identity.system_identifier)?;
        }
        Ok(())
    }

    /// Makes the slot if there is none, and anew if it has lost what it was there to keep. Says from where on it keeps
    /// WAL, as far as that is known.
    fn look_after_slot(&mut self) -> Result<Option<Lsn>, Error> {
        let (stream, name) = (self.stream, &self.stream.slot);
        let session = Session::connect(&stream.settings, stream.stop);
        match session.and_then(|mut session| session.slot(name)) {
            Ok(Some((slot, _))) if slot.wal_status.as_deref() == Some("lost") => {
                tracing::warn!("replication slot \"{name}\" has lost WAL, and is made anew");
                self.client.drop_slot(name).map_err(|error| stream.of_slot(error))?;
                self.client.create_slot(name)?;
                Ok(None)
            }
            Ok(Some((_, kept_from))) => Ok(kept_from),
            Ok(None) => {
                tracing::warn!("there is no replication slot \"{name}\" yet: it is made");
                self.client.create_slot(name)?;
                Ok(None)
            }
            // A role that may only replicate is enough.
            Err(error) => {
                tracing::debug!("what is known of the slot: {error}");
                match self.client.create_slot(name) {
                    Err(error) if error.cause() != Some(&Cause::SlotExists) => Err(error.into()),
                    _ => Ok(None),
                }
            }
        }
    }

    /// Stores the histories of `timeline` and its ancestors where they are missing, and returns the newest.
    fn store_histories(&mut self, timeline: Timeline) -> Result<TimelineHistory, Error> {
        if timeline == Timeline::FIRST {
            return Ok(TimelineHistory::of(timeline));
        }
        let content = self.client.timeline_history(timeline)?;
        let unsound =
            |reason: String| Error::UnsoundWal { name: WalFileName::History(timeline).to_string(), reason };
        let history =
            TimelineHistory::parse(timeline, &content).map_err(|error| unsound(error.to_string()))?;
        for ancestor in history.ancestors().iter().map(|ancestor| ancestor.timeline) {
            if ancestor == Timeline::FIRST {
                continue;
            }
            match self.client.timeline_history(ancestor) {
                Ok(content) => self.store_history(ancestor, &content)?,
                // The server may have been restored without it.
                Err(error) => tracing::info!("the history of timeline {ancestor}: {error}"),
            }
        }
        self.store_history(timeline, &content)?;
        Ok(history)
    }

    fn store_history(&self, timeline: Timeline, content: &[u8]) -> Result<(), Error> {
        use std::io::Write;
        let (stream, name) = (self.stream, WalFileName::History(timeline));
        let directory = &stream.context.state_directory;
        let io = |source| Error::Io { action: "write to a file in", path: directory.clone(), source };
        let mut file = tempfile::tempfile_in(directory).map_err(io)?;
        file.write_all(content).map_err(io)?;
        let compression = stream.context.config.backup.compression;
        for repository in &stream.repositories {
            let system = self.identity.system_identifier;
            repository.store_wal(system, &name, &file, compression, &stream.workers)?;
        }
        Ok(())
    }

    /// Streams from `start` on, and on along the timelines that follow. What lies between `loss` and the start is lost
    /// when there is WAL at the start.
    fn stream_from(&mut self, start: Start, loss: Option<Start>, goal: Goal) -> Result<(), Error> {
        let stream = self.stream;
        let progress = Progress::default();
        let (sender, tasks) = storer::queue();
        let (system, size) = (self.identity.system_identifier, self.size);
        let goal_lsn = (goal == Goal::CatchUp).then_some(self.identity.flush_lsn);
        thread::scope(|scope| {
            let storer = Storer::new(stream, system, &progress);
            scope.spawn(move || storer.run(&tasks));
            let mut receiver = Receiver::new(stream, system, size, sender, &progress, loss);
            let mut start = start;
            loop {
                match receiver.receive(&mut self.client, start, goal_lsn)? {
                    Ending::Stopped => return Ok(()),
                    Ending::TimelineEnded { next, switch_lsn } => {
                        tracing::info!("timeline {} ended at {switch_lsn}; {next} goes on", start.timeline);
                        self.store_histories(next)?;
                        let lsn = SegmentName::holding(switch_lsn, next, size).start(size);
                        start = Start { timeline: next, lsn };
                    }
                }
            }
        })
    }
}
