//! Where streaming begins: where the repositories end.
//!
//! The candidates, in the order in which they are tried as long as the server says that it no longer has that WAL:
//! behind the last segment that each repository holds along the server's history, the earliest first; the segment that
//! the newest base backup stopped in; the one from which on the slot keeps WAL; the one that is being written. Only with
//! one of the first is nothing lost.

use crate::ops::Error;
use crate::pg::history::{Span, TimelineHistory};
use crate::pg::{Lsn, SegmentName, SegmentSize, SystemIdentifier, Timeline, WalFileName};
use crate::repo::Repository;
use crate::repo::wal_copy::LogDirectory;
use crate::server::SystemIdentity;

/// The beginning of a segment, which may lie before the timeline's own beginning in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    pub timeline: Timeline,
    pub lsn: Lsn,
}

/// What the candidates are found by.
pub struct Search<'a> {
    pub repositories: &'a [Repository],
    pub identity: SystemIdentity,
    pub size: SegmentSize,
    pub history: &'a TimelineHistory,
    /// From where on the slot keeps WAL, as far as that is known.
    pub kept_from: Option<Lsn>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Starts {
    /// Where WAL is lost if streaming begins behind it; `None` where nothing was ever stored.
    pub wanted: Option<Start>,
    /// Best first; never none.
    pub candidates: Vec<Start>,
}

impl Search<'_> {
    /// # Errors
    /// When a repository cannot be read, or has more of the server's timeline than the server.
    pub fn starts(&self) -> Result<Starts, Error> {
        let mut ends = Vec::new();
        for repository in self.repositories {
            let end = self.end_of(repository)?;
            if let Some(end) = end {
                self.must_reach(repository, end)?;
            }
            ends.extend(end);
        }
        ends.sort_by_key(|start| start.lsn);
        // Reading every record takes time that a run each minute need not spend.
        let backup = || -> Result<Option<Start>, Error> {
            let mut newest: Option<Start> = None;
            for repository in self.repositories {
                for backup in repository.backups()? {
                    let is_own = backup.system_identifier == self.identity.system_identifier;
                    if is_own && self.history.contains(backup.timeline, backup.stop_lsn) {
                        let start = self.start_in(backup.stop_lsn);
                        newest = newest.filter(|newest| newest.lsn > start.lsn).or(Some(start));
                    }
                }
            }
            Ok(newest)
        };
        let mut wanted = ends.last().copied();
        let mut candidates = ends;
        if wanted.is_none() {
            wanted = backup()?;
            candidates.extend(wanted);
        }
        let server = [self.kept_from, Some(self.identity.flush_lsn)].into_iter().flatten();
        candidates.extend(server.map(|lsn| self.start_in(lsn)));
        candidates.dedup();
        Ok(Starts { wanted, candidates })
    }

    /// The beginning of the segment that holds `lsn`, on the timeline that wrote it.
    fn start_in(&self, lsn: Lsn) -> Start {
        let timeline = self.history.spans().rev().find(|span| span.begin <= lsn);
        let timeline = timeline.map_or(self.identity.timeline, |span| span.timeline);
        Start { timeline, lsn: SegmentName::holding(lsn, timeline, self.size).start(self.size) }
    }

    /// Behind the last segment of the history that a repository holds whole; or at a later one of which it has a part.
    fn end_of(&self, repository: &Repository) -> Result<Option<Start>, Error> {
        let system = self.identity.system_identifier;
        let directories = repository.wal_directories(system)?;
        for span in self.history.spans().rev() {
            let last = self.last_of(span);
            for log in directories.logs.keys().rev().filter(|log| log.timeline == span.timeline) {
                let (whole, begun) = self.newest_in(repository, system, *log, last)?;
                // What follows is told to the server as flushed, and so is all before it.
                repository.keep_wal_files(system, *log)?;
                match begun.filter(|begun| whole < Some(*begun)) {
                    Some(number) => {
                        let segment = SegmentName { timeline: span.timeline, number };
                        return Ok(Some(Start { timeline: span.timeline, lsn: segment.start(self.size) }));
                    }
                    None if whole.is_some() => return Ok(whole.map(|number| self.behind(span, number))),
                    None => {}
                }
            }
        }
        Ok(None)
    }

    /// The last segment that is there whole, and the last one of which there is a part from its beginning on.
    fn newest_in(
        &self,
        repository: &Repository,
        system: SystemIdentifier,
        log: LogDirectory,
        last: u64,
    ) -> Result<(Option<u64>, Option<u64>), Error> {
        let files = repository.wal_files(system, log)?;
        let newest = |is_wanted: &dyn Fn(&WalFileName) -> bool| {
            let names = files.keys().filter(|name| is_wanted(name));
            let numbers = names.filter_map(|name| Some(name.segment(self.size)?.number));
            numbers.filter(|number| *number <= last).max()
        };
        let whole = newest(&|name| matches!(name, WalFileName::Segment(_)));
        let begun = newest(&|name| name.part().is_some_and(|part| part.begin == 0));
        Ok((whole, begun))
    }

    /// The number of the last segment in which `span` has WAL.
    fn last_of(&self, span: Span) -> u64 {
        span.end.map_or(u64::MAX, |end| SegmentName::ending(end, span.timeline, self.size).number)
    }

    fn behind(&self, span: Span, number: u64) -> Start {
        let following = || self.history.spans().find(|next| Some(next.begin) == span.end);
        match following() {
            Some(next) if number >= self.last_of(span) => {
                let lsn = SegmentName::holding(next.begin, next.timeline, self.size).start(self.size);
                Start { timeline: next.timeline, lsn }
            }
            _ => {
                let segment = SegmentName { timeline: span.timeline, number };
                Start { timeline: span.timeline, lsn: segment.end(self.size) }
            }
        }
    }

    /// Refuses a server that has less of its own timeline than was stored.
    fn must_reach(&self, repository: &Repository, end: Start) -> Result<(), Error> {
        let SystemIdentity { system_identifier, timeline, flush_lsn } = self.identity;
        if end.timeline != timeline {
            return Ok(());
        }
        let segment = SegmentName::holding(end.lsn, timeline, self.size).file_name(self.size).to_string();
        let parts = repository.parts(system_identifier, &segment)?;
        let tip = crate::pg::SegmentPart::beginning(parts.into_keys()).last().map_or(0, |last| last.end);
        let stored_end = end.lsn + tip;
        if stored_end <= flush_lsn {
            return Ok(());
        }
        let repository = format!("repository {}", repository.name());
        Err(Error::WalWentBack { repository, timeline, server_end: flush_lsn, stored_end })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pipe::Codec;
    use crate::repo::Distance;
    use crate::repo::layout;
    use crate::storage::{Memory, Storage};

    const SYSTEM: SystemIdentifier = SystemIdentifier(7_439_122_314_155_001_234);
    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn timeline(number: u32) -> Timeline {
        Timeline::new(number).unwrap()
    }

    /// A location by quarters of segments.
    fn at(quarters: u64) -> Lsn {
        Lsn(quarters * (SIZE.bytes() / 4))
    }

    fn repository(names: &[&str]) -> Repository {
        let memory = Memory::default();
        for name in names {
            let name = WalFileName::parse_stored(name).unwrap();
            memory.create(&layout::wal_file(SYSTEM, &name, Codec::Zstd)).unwrap().commit().unwrap();
        }
        Repository::new("first", Arc::new(memory), Distance::Near)
    }

    fn starts(
        repositories: &[Repository],
        history: &str,
        flush_quarters: u64,
    ) -> Result<Vec<(u32, Lsn)>, Error> {
        let newest = timeline(history.lines().count() as u32 + 1);
        let history = TimelineHistory::parse(newest, history.as_bytes()).unwrap();
        let identity =
            SystemIdentity { system_identifier: SYSTEM, timeline: newest, flush_lsn: at(flush_quarters) };
        let search =
            Search { repositories, identity, size: SIZE, history: &history, kept_from: Some(at(21)) };
        let found = search.starts()?;
        let is_stored = repositories.iter().any(|repository| search.end_of(repository).unwrap().is_some());
        assert_eq!(found.wanted.is_some(), is_stored);
        Ok(found.candidates.into_iter().map(|start| (start.timeline.get(), start.lsn)).collect())
    }

    #[test]
    fn it_goes_on_behind_the_last_whole_segment_of_the_one_that_has_least() {
        let more = repository(&["000000010000000000000001", "000000010000000000000003"]);
        let less = repository(&["000000010000000000000001"]);
        assert_eq!(
            starts(&[more, less], "", 24).unwrap(),
            [(1, at(8)), (1, at(16)), (1, at(20)), (1, at(24))]
        );
    }

    #[test]
    fn with_nothing_stored_it_is_where_the_slot_begins() {
        assert_eq!(starts(&[repository(&[])], "", 24).unwrap(), [(1, at(20)), (1, at(24))]);
    }

    #[test]
    fn an_old_timeline_is_finished_before_the_new_one_begins() {
        let history = format!("1\t{}\tno reason\n", at(14));
        let old = repository(&["000000010000000000000001", "000000010000000000000002"]);
        assert_eq!(starts(&[old], &history, 24).unwrap()[0], (1, at(12)));
        let went_on =
            repository(&["000000010000000000000002", "000000010000000000000003", "000000010000000000000009"]);
        assert_eq!(starts(&[went_on], &history, 24).unwrap()[0], (2, at(12)));
        let begun =
            repository(&["000000010000000000000003", "000000020000000000000005.partial.00000000-00800000"]);
        assert_eq!(starts(&[begun], &history, 24).unwrap()[0], (2, at(20)));
        let new = repository(&["000000010000000000000002", "000000020000000000000003"]);
        assert_eq!(starts(&[new], &history, 24).unwrap()[0], (2, at(16)));
    }

    #[test]
    fn a_server_that_went_back_is_refused() {
        let whole = repository(&["000000010000000000000005"]);
        assert!(matches!(starts(&[whole], "", 23), Err(Error::WalWentBack { .. })));
        let part = || {
            repository(&["000000010000000000000004", "000000010000000000000005.partial.00000000-00800000"])
        };
        assert!(matches!(starts(&[part()], "", 21), Err(Error::WalWentBack { .. })));
        assert_eq!(starts(&[part()], "", 22).unwrap()[0], (1, at(20)));
    }
}
