//! WAL as it is written, streamed.
//!
//! Follows PostgreSQL's documentation, "Streaming Replication Protocol" (`START_REPLICATION`), and
//! `src/bin/pg_basebackup/receivelog.c`. While the copy in both directions lasts, the server sends WAL (`w`) and
//! keepalives (`k`), we send status updates (`r`). It ends when we send CopyDone, or when the timeline ends and the
//! server does; then the server names the timeline that follows.
//!
//! What always holds: WAL comes without a gap, each event starting where the one before ended; `flushed` is never
//! more than the caller reported, because the server forgets what is flushed.
//!
//! The status update wants our time, and there is no clock here: it carries the time of the server's last message.

use std::time::Duration;

use super::connection::{COMMAND_PATIENCE, Connection};
use super::error::{Error, Result};
use super::messages::{self, Fields};
use super::rows::Row;
use super::socket::Patience;
use super::stream::Message;
use crate::pg::{Lsn, Timeline};

const ATTEMPTED: &str = "stream WAL from";
/// How much silence passes before the server is told again where we are.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// How much silence it takes to give the server up. It was asked for an answer several times by then.
const SILENCE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalEvent<'a> {
    /// WAL from `start` on, up to 128 KiB, cut anywhere.
    Data { start: Lsn, bytes: &'a [u8] },
    /// The timeline ended at `switch_lsn`, and `next` goes on from there. Nothing more will come.
    EndOfTimeline { next: Timeline, switch_lsn: Lsn },
}

/// WAL under way. Dropping it without [`WalStream::stop`] breaks the connection off.
#[must_use = "the server waits until its WAL is received"]
pub struct WalStream<'a> {
    connection: &'a mut Connection,
    /// Where the next WAL has to start.
    position: Lsn,
    reported: Reported,
    /// Microseconds since 2000, as the server's last message had it.
    server_time: u64,
    silence: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Streaming,
    /// Nothing of the timeline lay behind the start: the stream ends before it began.
    EndsAtOnce(Switch),
    Ended,
}

/// Where one timeline ends and which one goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Switch {
    next: Timeline,
    lsn: Lsn,
}

#[derive(Debug, Clone, Copy, Default)]
struct Reported {
    written: Lsn,
    flushed: Lsn,
    applied: Lsn,
}

/// What to do about a message within the copy.
enum Heard {
    /// WAL: all of the body but its first `HEADER_BYTES`.
    Wal,
    Keepalive {
        wants_answer: bool,
    },
}

impl Heard {
    const HEADER_BYTES: usize = 1 + 8 + 8 + 8;
}

impl<'a> WalStream<'a> {
    pub(super) fn begin(connection: &'a mut Connection, command: &str, start: Lsn) -> Result<Self> {
        connection.begin(command)?;
        // CopyBothResponse; or, where the timeline ended at `start`, the result at once.
        let state = match connection.expect(ATTEMPTED, Some(COMMAND_PATIENCE)) {
            Ok(Message { tag: b'W', .. }) => State::Streaming,
            Ok(Message { tag: b'T', .. }) => State::EndsAtOnce(receive_switch(connection)?),
            Ok(message) => return Err(connection.unexpected(message.tag)),
            Err(error) => {
                connection.recover(&error);
                return Err(error);
            }
        };
        let (reported, silence) = (Reported::default(), Duration::ZERO);
        Ok(Self { connection, position: start, reported, server_time: 0, silence, state })
    }

    /// What comes next; `None` when nothing did within `timeout`, or when the server asked how far we are.
    ///
    /// The server has then been told what was last reported. Report again if more is flushed by now, or can be: a
    /// server that shuts down asks again and again, and waits until all its WAL is reported as flushed.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<WalEvent<'_>>> {
        match self.state {
            State::Streaming => {}
            State::EndsAtOnce(switch) => return Ok(Some(self.ended(switch))),
            State::Ended => panic!("a timeline that has ended has no more WAL"),
        }
        let mut patience = Patience::new(Some(timeout));
        loop {
            let spent_before = patience.spent();
            let message = self.connection.receive(ATTEMPTED, &mut patience)?;
            let Some(message) = message else {
                return self.note_silence(patience.spent() - spent_before).map(|()| None);
            };
            self.silence = Duration::ZERO;
            match message.tag {
                b'd' => match self.hear(&message)? {
                    Heard::Wal => {
                        let start = self.position;
                        let bytes = &self.connection.body(&message)[Heard::HEADER_BYTES..];
                        self.position = Lsn(start.0.saturating_add(bytes.len() as u64));
                        return Ok(Some(WalEvent::Data { start, bytes }));
                    }
                    Heard::Keepalive { wants_answer: true } => return self.send_status(0).map(|()| None),
                    Heard::Keepalive { wants_answer: false } => {}
                },
                b'c' => {
                    self.connection.send(&messages::request(b'c', &[]))?;
                    let switch = receive_switch(self.connection)?;
                    return Ok(Some(self.ended(switch)));
                }
                // A server that shuts down completes the command without ending the copy.
                b'C' => {
                    let server = self.connection.server().to_owned();
                    return Err(Error::Disconnected { server, reason: "it is shutting down".to_owned() });
                }
                tag => return Err(self.connection.unexpected(tag)),
            }
        }
    }

    /// Tells the server how far we are. What is `flushed` must be durable: the server may forget it.
    pub fn report(&mut self, written: Lsn, flushed: Lsn, applied: Lsn) -> Result<()> {
        self.reported = Reported { written, flushed, applied };
        self.send_status(0)
    }

    /// Ends the stream; the client takes the next command.
    pub fn stop(self) -> Result<()> {
        if self.state != State::Streaming {
            return Ok(());
        }
        self.connection.send(&messages::request(b'c', &[]))?;
        loop {
            let message = self.connection.expect(ATTEMPTED, Some(COMMAND_PATIENCE))?;
            match message.tag {
                // WAL and keepalives that were already on their way, the answer to CopyDone, and perhaps the
                // timeline that follows.
                b'd' | b'c' | b'T' | b'D' | b'C' => {}
                b'Z' => {
                    self.connection.done();
                    return Ok(());
                }
                tag => return Err(self.connection.unexpected(tag)),
            }
        }
    }

    fn hear(&mut self, message: &Message) -> Result<Heard> {
        let read = |mut fields: Fields<'_>| {
            Ok(match fields.u8()? {
                b'w' => Some((Heard::Wal, Lsn(fields.u64()?), fields.u64()?, fields.u64()?)),
                b'k' => {
                    let (end, time) = (fields.u64()?, fields.u64()?);
                    Some((Heard::Keepalive { wants_answer: fields.u8()? != 0 }, Lsn(end), end, time))
                }
                _ => None,
            })
        };
        let heard: std::result::Result<_, messages::Malformed> =
            read(Fields::new(self.connection.body(message)));
        let Ok(Some((heard, start, _, time))) = heard else {
            return Err(self.connection.protocol("a malformed message within the WAL"));
        };
        if matches!(heard, Heard::Wal) && start != self.position {
            let found = format!("WAL from {start} on where {} was due", self.position);
            return Err(self.connection.protocol(found));
        }
        self.server_time = time;
        Ok(heard)
    }

    /// Keeps the server informed while it has nothing to say, and gives it up when it does not answer.
    fn note_silence(&mut self, waited: Duration) -> Result<()> {
        let intervals_before = self.silence.as_secs() / STATUS_INTERVAL.as_secs();
        self.silence += waited;
        if self.silence >= SILENCE_MAX {
            return Err(self.connection.silent("streaming WAL", self.silence));
        }
        if self.silence.as_secs() / STATUS_INTERVAL.as_secs() > intervals_before {
            self.send_status(1)?;
        }
        Ok(())
    }

    /// `wants_answer` is 1 to have the server answer at once, else 0.
    fn send_status(&mut self, wants_answer: u8) -> Result<()> {
        let Reported { written, flushed, applied } = self.reported;
        let numbers = [written.0, flushed.0, applied.0, self.server_time].map(u64::to_be_bytes);
        self.connection.send(&messages::request(b'd', &[b"r", numbers.as_flattened(), &[wants_answer]]))
    }

    fn ended(&mut self, switch: Switch) -> WalEvent<'static> {
        self.state = State::Ended;
        WalEvent::EndOfTimeline { next: switch.next, switch_lsn: switch.lsn }
    }
}

/// The result that follows a timeline's end, up to ReadyForQuery.
fn receive_switch(connection: &mut Connection) -> Result<Switch> {
    let mut follows = None;
    loop {
        let message = connection.expect(ATTEMPTED, Some(COMMAND_PATIENCE))?;
        match message.tag {
            b'D' => follows = Some(Row::read(connection.body(&message), connection.server())?),
            b'T' | b'C' => {}
            b'Z' => break,
            tag => return Err(connection.unexpected(tag)),
        }
    }
    connection.done();
    let row = follows.ok_or_else(|| connection.protocol("a timeline's end without the next timeline"))?;
    Ok(Switch { next: row.value(0, "timeline")?, lsn: row.value(1, "WAL location")? })
}
