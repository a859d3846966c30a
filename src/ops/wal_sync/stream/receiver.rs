//! The thread that receives: WAL into spools, spools to the storer, what is durable back to the server.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use crossbeam_channel::{SendTimeoutError, Sender};

use super::spool::Spool;
use super::standing::{Caught, Loss};
use super::start::Start;
use super::storer::{Progress, Task};
use super::{Ordering, Stream};
use crate::ops::Error;
use crate::pg::{Lsn, SegmentName, SegmentSize, SystemIdentifier, Timeline};
use crate::server::{ReplicationClient, WalEvent, WalStream};

/// How long to wait for WAL: when there is nothing else to do; while something is being stored, so that the server hears
/// of it at once; and to see that no more comes for now.
const IDLE_WAIT: Duration = Duration::from_millis(100);
const STORING_WAIT: Duration = Duration::from_millis(2);
const QUIET_WAIT: Duration = Duration::from_millis(1);
/// How old WAL may get in the spool while more keeps coming.
const TIP_AGE_MAX: TimeDelta = TimeDelta::milliseconds(20);
/// While storing takes long, the server hears from us that often.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);
/// How long storing may take once there is a wish to stop.
const STOPPING_MAX: Duration = Duration::from_secs(30);
const NAP: Duration = Duration::from_millis(2);
/// How often it is noted in the state directory that everything is durable.
const NOTE_INTERVAL: TimeDelta = TimeDelta::seconds(1);

/// Why receiving ended; what was received is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The goal was reached, or there is a wish to stop.
    Stopped,
    TimelineEnded {
        next: Timeline,
        switch_lsn: Lsn,
    },
}

pub struct Receiver<'s, 'a> {
    stream: &'s Stream<'a>,
    system: SystemIdentifier,
    size: SegmentSize,
    tasks: Sender<Task>,
    progress: &'s Progress,
    /// From where on WAL is lost if any comes.
    loss: Option<Start>,
    timeline: Timeline,
    received: Lsn,
    /// Up to where it was sent to the storer.
    handed: Lsn,
    /// When the oldest WAL came that was not.
    waiting_since: Option<DateTime<Utc>>,
    reported: Option<Lsn>,
    spool: Option<Spool>,
    noted_at: Option<DateTime<Utc>>,
}

impl<'s, 'a> Receiver<'s, 'a> {
    pub fn new(
        stream: &'s Stream<'a>,
        system: SystemIdentifier,
        size: SegmentSize,
        tasks: Sender<Task>,
        progress: &'s Progress,
        loss: Option<Start>,
    ) -> Self {
        Self {
            stream,
            system,
            size,
            tasks,
            progress,
            loss,
            timeline: Timeline::FIRST,
            received: Lsn(0),
            handed: Lsn(0),
            waiting_since: None,
            reported: None,
            spool: None,
            noted_at: None,
        }
    }

    /// Receives one timeline from `start` on, up to `goal` if there is one.
    pub fn receive(
        &mut self,
        client: &mut ReplicationClient,
        start: Start,
        goal: Option<Lsn>,
    ) -> Result<Ending, Error> {
        let stream = self.stream;
        let started = client.start_replication(Some(&stream.slot), start.lsn, start.timeline);
        let mut wal = started.map_err(|error| stream.of_slot(error))?;
        (self.timeline, self.received, self.handed) = (start.timeline, start.lsn, start.lsn);
        (self.spool, self.waiting_since) = (None, None);
        {
            let mut standing = stream.standing();
            standing.is_streaming = true;
            standing.timeline = Some(start.timeline);
        }
        let ended = self.pump(&mut wal, goal);
        // Also what came before the connection broke: perhaps the server will never be back to send it again.
        let is_open = matches!(ended, Ok(Ending::Stopped));
        let stored = self.store_rest(is_open.then_some(&mut wal));
        let ending = ended?;
        stored?;
        if is_open {
            self.report(&mut wal)?;
            self.note_caught_up(wal.server_time());
            wal.stop()?;
        }
        stream.standing().is_streaming = ending != Ending::Stopped;
        Ok(ending)
    }

    fn pump(&mut self, wal: &mut WalStream<'_>, goal: Option<Lsn>) -> Result<Ending, Error> {
        loop {
            self.must_store()?;
            if self.stream.stop.check().is_err() || goal.is_some_and(|goal| self.received >= goal) {
                return Ok(Ending::Stopped);
            }
            let is_quiet = match wal.next(self.patience())? {
                Some(WalEvent::Data { start, bytes }) => {
                    let ready = self.take(start, bytes)?;
                    for spool in ready {
                        self.hand_over(Task::Whole(spool), Some(&mut *wal))?;
                    }
                    false
                }
                Some(WalEvent::EndOfTimeline { next, switch_lsn }) => {
                    return Ok(Ending::TimelineEnded { next, switch_lsn });
                }
                None => true,
            };
            self.report(wal)?;
            if is_quiet && self.is_all_durable() {
                self.note_caught_up(wal.server_time());
            }
            // Whoever only catches up stores the tip once, at the end.
            if goal.is_none() {
                self.keep_tip(is_quiet)?;
            }
        }
    }

    fn patience(&self) -> Duration {
        match () {
            () if !self.progress.is_idle() => STORING_WAIT,
            () if self.waiting_since.is_some() => QUIET_WAIT,
            () => IDLE_WAIT,
        }
    }

    fn is_all_durable(&self) -> bool {
        self.progress.durable() >= Some(self.received)
    }

    /// Puts WAL into spools, and returns those that are whole.
    fn take(&mut self, start: Lsn, mut bytes: &[u8]) -> Result<Vec<Spool>, Error> {
        debug_assert_eq!(start, self.received, "WAL comes without a gap");
        if let Some(loss) = self.loss.take() {
            self.stream.note_loss(Loss { timeline: loss.timeline, from: loss.lsn, to: start });
        }
        let directory = &self.stream.context.state_directory;
        self.stream.context.meter.add(bytes.len() as u64);
        let mut ready = Vec::new();
        while !bytes.is_empty() {
            let mut spool = match self.spool.take() {
                Some(spool) => spool,
                None => {
                    let segment = SegmentName::holding(self.received, self.timeline, self.size);
                    self.stream.spools.begin(directory, segment, self.size)?
                }
            };
            bytes = spool.fill(directory, bytes)?;
            self.received = spool.end();
            match spool.is_whole() {
                true => ready.push(spool),
                false => self.spool = Some(spool),
            }
        }
        if self.waiting_since.is_none() && self.spool.is_some() {
            self.waiting_since = Some((self.stream.context.clock)());
        }
        Ok(ready)
    }

    /// Sends the tip to the storer when the server has nothing more for now, or has had for a while; never while the
    /// storer has something to do.
    fn keep_tip(&mut self, is_quiet: bool) -> Result<(), Error> {
        let gather = &self.stream.gather;
        if !self.progress.is_idle() {
            return Ok(());
        }
        let Some(spool) = self.spool.clone() else {
            gather.store(false, Ordering::Relaxed);
            return Ok(());
        };
        if gather.swap(false, Ordering::Relaxed) {
            return self.hand_over(Task::GatheredTip(spool), None);
        }
        let now = (self.stream.context.clock)();
        let is_old = |since: DateTime<Utc>| now - since > TIP_AGE_MAX || now < since;
        match self.waiting_since {
            Some(since) if is_quiet || is_old(since) => self.hand_over(Task::Tip(spool), None),
            _ => Ok(()),
        }
    }

    /// Gives the storer a task, as soon as it has room; the server hears from us meanwhile.
    fn hand_over(&mut self, task: Task, mut wal: Option<&mut WalStream<'_>>) -> Result<(), Error> {
        let (Task::Whole(spool) | Task::Tip(spool) | Task::GatheredTip(spool)) = &task;
        let end = spool.end();
        self.progress.sends();
        let (mut task, mut silence) = (task, Duration::ZERO);
        loop {
            match self.tasks.send_timeout(task, IDLE_WAIT) {
                Ok(()) => break,
                Err(SendTimeoutError::Timeout(back)) => task = back,
                Err(SendTimeoutError::Disconnected(_)) => {
                    self.progress.sends_not();
                    return self.must_store();
                }
            }
            silence += IDLE_WAIT;
            self.break_silence(&mut silence, wal.as_deref_mut())?;
        }
        self.handed = end;
        if end == self.received {
            self.waiting_since = None;
        }
        Ok(())
    }

    /// Lets the server hear from us when it has not for so long, so that it does not take us for gone.
    fn break_silence(
        &mut self,
        silence: &mut Duration,
        wal: Option<&mut WalStream<'_>>,
    ) -> Result<(), Error> {
        match wal {
            Some(wal) if *silence >= STATUS_INTERVAL => {
                *silence = Duration::ZERO;
                self.reported = None;
                self.report(wal)
            }
            _ => Ok(()),
        }
    }

    /// Waits until everything that was received is durable.
    fn store_rest(&mut self, mut wal: Option<&mut WalStream<'_>>) -> Result<(), Error> {
        // In one part: nobody knows when the next run comes. Also what an earlier run has stored is compared so.
        if let Some(spool) = self.spool.clone() {
            self.hand_over(Task::GatheredTip(spool), wal.as_deref_mut())?;
        }
        let (mut silence, mut stopping) = (Duration::ZERO, Duration::ZERO);
        while !self.progress.is_idle() && !self.progress.is_broken() {
            std::thread::sleep(NAP);
            silence += NAP;
            self.break_silence(&mut silence, wal.as_deref_mut())?;
            if let Err(interrupted) = self.stream.stop.check() {
                stopping += NAP;
                if stopping >= STOPPING_MAX {
                    self.stream.context.interrupt.raise(interrupted.signal);
                }
            }
        }
        self.must_store()
    }

    /// What ended the storing ends the receiving.
    fn must_store(&self) -> Result<(), Error> {
        self.progress.take_failure().map_or(Ok(()), Err)
    }

    /// Tells the server and the reports what is durable, if that is news.
    fn report(&mut self, wal: &mut WalStream<'_>) -> Result<(), Error> {
        let durable = self.progress.durable();
        {
            let mut standing = self.stream.standing();
            standing.received = Some(self.received);
            if durable > standing.durable {
                standing.durable = durable;
                standing.trouble = None;
            }
        }
        if durable != self.reported {
            self.reported = durable;
            // Location 0 says nothing: there is nobody here who replays WAL.
            wal.report(self.received, durable.unwrap_or(Lsn(0)), Lsn(0))?;
        }
        Ok(())
    }

    /// The server's last message found everything durable that was before it.
    fn note_caught_up(&mut self, at: Option<DateTime<Utc>>) {
        let Some(at) = at.filter(|at| self.noted_at.is_none_or(|noted| *at - noted >= NOTE_INTERVAL)) else {
            return;
        };
        self.noted_at = Some(at);
        if let Err(error) = Caught::new(self.system, self.received, at).store(self.stream.context) {
            tracing::debug!("{error}");
        }
    }
}
