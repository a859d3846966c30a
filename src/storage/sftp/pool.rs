//! The SSH sessions of one repository: made when needed, shared by all, replaced when lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::connection::Connection;
use super::failure::{Attempt, Failure};
use super::packet::Request;
use super::session;
use super::settings::SftpSettings;
use super::waiting::Waiting;

/// A session that has more than this to do is joined by another one.
const BUSY_BYTES: u64 = 512 << 10;

/// No list grows without a bound.
const ORPHANS_MAX: usize = 1000;

pub struct Pool {
    settings: SftpSettings,
    sessions: Vec<Session>,
    /// Unfinished files that could not be removed because the connection was lost; the next one tries again.
    orphans: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Session {
    /// Locked while a connection is made.
    state: Mutex<State>,
    /// How often it could not be made. Whoever waited for the attempt of another shares its outcome.
    failures: AtomicU64,
}

#[derive(Default)]
struct State {
    connection: Option<Arc<Connection>>,
    last_failure: Option<Failure>,
}

impl State {
    fn alive(&self) -> Option<Arc<Connection>> {
        self.connection.clone().filter(|connection| !connection.is_lost())
    }
}

impl Pool {
    pub fn new(settings: SftpSettings) -> Self {
        let sessions = (0..settings.sessions.max(1)).map(|_| Session::default()).collect();
        Self { settings, sessions, orphans: Mutex::default() }
    }

    /// The session with the least to do; a new one where there is none, or all have much to do.
    pub fn connection(&self, waiting: &Waiting) -> Attempt<Arc<Connection>> {
        let alive = self.alive();
        let Some(idlest) = alive.iter().min_by_key(|connection| connection.busy_bytes()) else {
            return self.connect(&self.sessions[0], waiting);
        };
        if idlest.busy_bytes() < BUSY_BYTES {
            return Ok(Arc::clone(idlest));
        }
        Ok(self.another(&alive, waiting).unwrap_or_else(|| Arc::clone(idlest)))
    }

    /// One that is not among `taken`, which are all good: to have less is no failure.
    pub fn another(&self, taken: &[Arc<Connection>], waiting: &Waiting) -> Option<Arc<Connection>> {
        let is_taken =
            |connection: &Arc<Connection>| taken.iter().any(|other| Arc::ptr_eq(other, connection));
        if let Some(free) = self.alive().into_iter().find(|connection| !is_taken(connection)) {
            return Some(free);
        }
        let is_empty = |session: &&Session| match session.state.try_lock() {
            Ok(state) => state.alive().is_none(),
            // Another is at it, or panicked at it.
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => false,
        };
        let made = self.connect(self.sessions.iter().find(is_empty)?, waiting);
        made.inspect_err(|failure| tracing::debug!("no further SSH session: {failure}")).ok()
    }

    pub fn sessions_max(&self) -> usize {
        self.sessions.len()
    }

    /// Those that can be used at once.
    pub fn alive(&self) -> Vec<Arc<Connection>> {
        let alive = |session: &Session| session.state.try_lock().ok().and_then(|state| state.alive());
        self.sessions.iter().filter_map(alive).collect()
    }

    /// To be removed when there is a connection again.
    pub fn leave_behind(&self, unfinished: String) {
        let mut orphans = lock(&self.orphans);
        if orphans.len() < ORPHANS_MAX {
            orphans.push(unfinished);
        }
    }

    fn connect(&self, session: &Session, waiting: &Waiting) -> Attempt<Arc<Connection>> {
        let failures_before = session.failures.load(Ordering::Acquire);
        let mut state = lock(&session.state);
        if let Some(connection) = state.alive() {
            return Ok(connection);
        }
        if session.failures.load(Ordering::Acquire) != failures_before
            && let Some(failure) = &state.last_failure
        {
            return Err(failure.clone());
        }
        state.connection = None;
        match session::establish(&self.settings, waiting).and_then(Connection::start) {
            Ok(connection) => {
                self.remove_orphans(&connection);
                state.connection = Some(Arc::clone(&connection));
                Ok(connection)
            }
            Err(failure) => {
                state.last_failure = Some(failure.clone());
                session.failures.fetch_add(1, Ordering::Release);
                Err(failure)
            }
        }
    }

    fn remove_orphans(&self, connection: &Connection) {
        for path in lock(&self.orphans).drain(..) {
            connection.mention(&Request::Remove { path: &path });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind it is whole after each change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
