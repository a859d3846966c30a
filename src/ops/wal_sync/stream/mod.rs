//! WAL as it is written: from a replication slot into the repositories that `[wal] push_to` names.
//!
//! Why nothing that the server was told to be safe can be lost:
//! * The server keeps WAL until it hears that it is flushed, and it hears so only of what every one of these
//!   repositories holds durably. So the server is the only buffer that counts: whatever ends a connection, the next one
//!   begins where the repositories end, and needs no memory of this one.
//! * A segment is received into an unnamed file of the state directory, which goes with the process, and stored whole
//!   when it is full. What is there of it before that is stored in parts ([`crate::repo::wal_tip`]), and then
//!   counts as flushed, too.
//! * One thread receives, another stores ([`storer`]), in the order of the WAL: what it says is durable has nothing
//!   missing before it. When a repository fails, the connection ends, and another is made after a pause.
//! * A timeline's history is stored before its first segment, and the old timeline up to the switch point before that.
//! * WAL that the server no longer has is a loss, told as a finding and visible in the repositories as a gap for ever.
//!   Nothing else makes this skip a byte.
//!
//! A wish to stop ends the receiving; what was received is then made durable and confirmed before the connection ends.
//! So the connection and the repositories here are given an interrupt of their own.

mod link;
mod receiver;
mod spool;
mod standing;
mod start;
mod storer;
mod tip;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

pub use standing::{Caught, Loss, Standing};

use self::spool::Spools;
use super::report::{Finding, finding};
use super::{Interrupt, Repository};
use crate::ops::{Context, Error};
use crate::pipe::Workers;
use crate::server::{self, Cause, ConnectionSettings};

/// How long to wait after the first failure; each further one in a row doubles it.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How soon a wish to stop is heard in a pause.
const NAP: Duration = Duration::from_millis(50);
/// For the walsender of a run that was killed, which the server takes a moment to notice.
const SLOT_RELEASE: Duration = Duration::from_secs(5);
/// How long the parts of the tip are waited for to be put together before a round.
const GATHERING: Duration = Duration::from_secs(5);

pub struct Stream<'a> {
    /// With an interrupt that only this module raises.
    context: &'a Context<'a>,
    /// The wish to stop.
    stop: &'a Interrupt,
    settings: ConnectionSettings,
    slot: String,
    /// What was flushed is durable in each of these.
    repositories: Vec<Repository>,
    workers: Arc<Workers>,
    spools: Spools,
    standing: Mutex<Standing>,
    /// Asks for the tip in one part.
    gather: AtomicBool,
}

/// When a connection has done its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// Everything that the server had when it was connected to.
    CatchUp,
    Forever,
}

impl<'a> Stream<'a> {
    /// `context` has an interrupt of its own; `stop` is the one that signals raise.
    pub fn new(context: &'a Context<'a>, stop: &'a Interrupt) -> Result<Self, Error> {
        let settings = ConnectionSettings::resolve(&context.config.postgres.connection, context.environment)?;
        context.make_state_directory()?;
        Ok(Self {
            context,
            stop,
            settings,
            slot: context.config.wal.slot.clone(),
            repositories: context.repositories(&context.config.wal.push_to)?,
            workers: context.workers()?,
            spools: Spools::default(),
            standing: Mutex::default(),
            gather: AtomicBool::new(false),
        })
    }

    /// Receives what the server has by now.
    pub fn catch_up(&self) -> Result<(), Error> {
        self.connected(Goal::CatchUp)
    }

    /// Receives until there is a wish to stop. What goes wrong meanwhile is in the standing, and tried again.
    ///
    /// # Errors
    /// When the slot is another's from the beginning, or the configuration cannot work.
    pub fn follow(&self) -> Result<(), Error> {
        let (mut pause, mut before) = (PAUSE_FIRST, None);
        while self.stop.check().is_ok() {
            let ended = self.connected(Goal::Forever);
            let durable = self.standing().durable;
            match ended {
                Ok(()) => break,
                Err(error @ (Error::SlotInUse { .. } | Error::Connection(_))) if durable.is_none() => {
                    return Err(error);
                }
                Err(_) if self.stop.check().is_err() => break,
                Err(error) => self.note_trouble(&error),
            }
            // Whoever gets on is not made to wait longer and longer.
            pause = if durable > before { PAUSE_FIRST } else { pause };
            before = durable;
            self.rest(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Ok(())
    }

    /// One connection; a slot that another walsender holds is given a moment.
    fn connected(&self, goal: Goal) -> Result<(), Error> {
        let mut waited = Duration::ZERO;
        loop {
            match link::run(self, goal) {
                Err(Error::SlotInUse { .. }) if waited < SLOT_RELEASE && self.stop.check().is_ok() => {
                    self.rest(10 * NAP);
                    waited += 10 * NAP;
                }
                ended => return ended,
            }
        }
    }

    fn rest(&self, pause: Duration) {
        let mut left = pause;
        while !left.is_zero() && self.stop.check().is_ok() {
            thread::sleep(left.min(NAP));
            left = left.saturating_sub(NAP);
        }
    }

    pub fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn slot(&self) -> &str {
        &self.slot
    }

    /// Those that are streamed to.
    pub fn repositories(&self) -> &[Repository] {
        &self.repositories
    }

    /// Puts the parts of the tip together, so that a copy of it is one file.
    pub fn gather_tip(&self) {
        self.gather.store(true, Ordering::Relaxed);
        let mut left = GATHERING;
        let is_asked = || self.gather.load(Ordering::Relaxed) && self.standing().is_streaming;
        while is_asked() && !left.is_zero() && self.stop.check().is_ok() {
            thread::sleep(NAP);
            left = left.saturating_sub(NAP);
        }
    }

    pub fn note_trouble(&self, error: &Error) {
        let code = match error {
            Error::Server(_) | Error::SlotInUse { .. } | Error::WalWentBack { .. } => "stream-failed",
            _ => "stream-not-stored",
        };
        let mut standing = self.standing();
        standing.is_streaming = false;
        standing.trouble = Some(finding(code, None, error));
    }

    /// The server has removed WAL that nobody had received.
    fn note_loss(&self, loss: Loss) {
        tracing::error!("{}", loss.finding().message);
        self.standing().losses.push(loss);
    }

    /// A slot that another connection holds is another run's.
    fn of_slot(&self, error: server::Error) -> Error {
        match error.cause() {
            Some(Cause::SlotInUse) => Error::SlotInUse { slot: self.slot.clone(), reason: error.to_string() },
            _ => error.into(),
        }
    }
}
