//! The WAL that makes a backup consistent, from the segment of its start to the segment of its stop.
//!
//! `pg_wal.tar` holds whole segments under their own names, the last one filled up with zeros where the server has
//! not filled it yet, and the histories of the timelines before. Beside each lies `archive_status/NAME.done`, as
//! `pg_basebackup` leaves it: a restored server must not archive these files again.

use std::io::{self, Write};
use std::time::Duration;

use chrono::{DateTime, Utc};
use crossbeam_channel::{Receiver, TryRecvError};

use super::Error;
use crate::interrupt::Interrupt;
use crate::pg::{Lsn, SegmentName, SegmentSize, Timeline, WalFileName};
use crate::pipe::tar::TarWriter;
use crate::repo::Archive;
use crate::server::{ReplicationClient, WalEvent, WalStream};

/// How often the thread looks whether the backup has stopped, when no WAL arrives.
const POLL: Duration = Duration::from_millis(100);
/// How many polls without a byte, once the stop is known, mean that the WAL will not come: a minute.
const SILENT_POLLS_MAX: u32 = 600;
const FILE_MODE: u32 = 0o600;

/// The copying of one backup's WAL.
pub struct WalCopy<'a> {
    pub client: &'a mut ReplicationClient,
    pub slot: String,
    pub timeline: Timeline,
    pub start_lsn: Lsn,
    pub segment_size: SegmentSize,
}

/// The WAL as it was copied.
pub struct CopiedWal {
    pub archive: Archive,
    /// When the server sent the WAL that holds the backup's stop, by the server's clock.
    pub stopped_at: DateTime<Utc>,
}

/// Where the copying stands.
struct Position {
    /// Up to where WAL was received.
    received: Lsn,
    /// The segment that is being written.
    open: Option<SegmentName>,
}

impl WalCopy<'_> {
    /// Copies until the position that arrives by `stop`. Its disconnection means that the backup has failed; then
    /// there is no error to tell.
    pub fn run(
        self,
        archive: Archive,
        stop: &Receiver<Lsn>,
        interrupt: &Interrupt,
    ) -> Result<CopiedWal, Option<Error>> {
        let (timeline, size) = (self.timeline, self.segment_size);
        let mut tar = TarWriter::new(archive);
        if timeline != Timeline::FIRST {
            let history = self.client.timeline_history(timeline).map_err(Error::from)?;
            add_history(&mut tar, timeline, &history)?;
        }
        let first = SegmentName::holding(self.start_lsn, timeline, size);
        let start = first.start(size);
        let stream = self.client.start_replication(Some(&self.slot), start, timeline).map_err(Error::from)?;
        let mut segments =
            Segments { tar, timeline, size, position: Position { received: start, open: None } };
        let stopped_at = segments.copy(stream, stop, interrupt)?;
        let archive = segments.finish()?;
        Ok(CopiedWal { archive, stopped_at })
    }
}

/// WAL on its way into a tar, cut into segments.
struct Segments {
    tar: TarWriter<Archive>,
    timeline: Timeline,
    size: SegmentSize,
    position: Position,
}

impl Segments {
    fn copy(
        &mut self,
        mut stream: WalStream<'_>,
        stop: &Receiver<Lsn>,
        interrupt: &Interrupt,
    ) -> Result<DateTime<Utc>, Option<Error>> {
        let mut needed = None;
        let mut silent_polls = 0;
        loop {
            interrupt.check().map_err(Error::from)?;
            needed = match (needed, stop.try_recv()) {
                (Some(lsn), _) | (None, Ok(lsn)) => Some(lsn),
                (None, Err(TryRecvError::Empty)) => None,
                (None, Err(TryRecvError::Disconnected)) => return Err(None),
            };
            // The server's clock is known from its messages, so there must have been one since the stop.
            if let (Some(lsn), Some(at)) = (needed, stream.server_time())
                && self.position.received >= lsn
            {
                stream.stop().map_err(Error::from)?;
                return Ok(at);
            }
            if self.tar.get_ref().is_lost() {
                return Ok(DateTime::UNIX_EPOCH);
            }
            match stream.next(POLL).map_err(Error::from)? {
                Some(WalEvent::Data { start, bytes }) => {
                    silent_polls = 0;
                    self.add(start, bytes)?;
                    let received = self.position.received;
                    stream.report(received, received, received).map_err(Error::from)?;
                }
                Some(WalEvent::EndOfTimeline { next, switch_lsn }) => {
                    let reason = format!("the server was promoted to timeline {next} during the backup");
                    return Err(Some(self.ended(needed.unwrap_or(switch_lsn), reason)));
                }
                None if needed.is_some() => silent_polls += 1,
                None => {}
            }
            if let Some(lsn) = needed.filter(|_| silent_polls > SILENT_POLLS_MAX) {
                return Err(Some(self.ended(lsn, "no more came for a minute".into())));
            }
        }
    }

    fn ended(&self, needed: Lsn, reason: String) -> Error {
        Error::WalEnded { received: self.position.received, needed, reason }
    }

    fn add(&mut self, start: Lsn, mut bytes: &[u8]) -> Result<(), Error> {
        if start != self.position.received {
            let received = self.position.received;
            return Err(Error::UnsoundStream {
                reason: format!("WAL at {start} followed WAL up to {received}"),
            });
        }
        while !bytes.is_empty() {
            let segment = SegmentName::holding(self.position.received, self.timeline, self.size);
            if self.position.open.is_none() {
                let name = segment.file_name(self.size).to_string();
                self.tar.begin_file(&name, self.size.bytes(), FILE_MODE, 0).map_err(not_written)?;
                self.position.open = Some(segment);
            }
            let room = segment.end(self.size) - self.position.received;
            let (now, later) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            self.tar.write_all(now).map_err(not_written)?;
            self.position.received = self.position.received + now.len() as u64;
            if self.position.received == segment.end(self.size) {
                self.close(segment)?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn close(&mut self, segment: SegmentName) -> Result<(), Error> {
        self.position.open = None;
        let name = segment.file_name(self.size).to_string();
        mark_done(&mut self.tar, &name)
    }

    /// Fills the last segment up and ends the archive.
    fn finish(mut self) -> Result<Archive, Error> {
        if let Some(segment) = self.position.open {
            self.tar.fill_with_zeros().map_err(not_written)?;
            self.close(segment)?;
        }
        self.tar.finish().map_err(not_written)
    }
}

/// An [`Archive`] takes everything; only a name or size that no tar can hold is refused.
fn not_written(error: io::Error) -> Error {
    Error::UnsoundStream { reason: format!("its WAL does not fit a tar: {error}") }
}

fn add_history(tar: &mut TarWriter<Archive>, timeline: Timeline, content: &[u8]) -> Result<(), Error> {
    let name = WalFileName::History(timeline).to_string();
    tar.begin_file(&name, content.len() as u64, FILE_MODE, 0).map_err(not_written)?;
    tar.write_all(content).map_err(not_written)?;
    mark_done(tar, &name)
}

fn mark_done(tar: &mut TarWriter<Archive>, name: &str) -> Result<(), Error> {
    let path = format!("archive_status/{name}.done");
    tar.begin_file(&path, 0, FILE_MODE, 0).map_err(not_written)
}
