//! The server, asked in the background and not waited for longer than an operator would.
//!
//! Two connections are tried, as a base backup needs the second: an SQL session, which tells nearly everything, and a
//! replication connection, which is closed again at once. Each may fail by itself.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use chrono::TimeDelta;

use crate::interrupt::Interrupt;
use crate::ops::{Context, Error};
use crate::pg::server_state::ServerState;
use crate::plan::health::{Identity, ReplicationTrouble, Server, Trouble};
use crate::repo;
use crate::server::{self, Cause, ConnectionSettings, ReplicationClient, Session, SystemIdentity};

/// For connecting to one address.
const CONNECTING_MAX: Duration = Duration::from_secs(5);
/// For all of it; a server that hangs would never answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How soon a wish to stop is heard.
const NAP: Duration = Duration::from_millis(100);

pub struct Answer {
    pub server: Server,
    /// How long ago segments were finished, by their numbers.
    pub finished: Vec<(u64, TimeDelta)>,
}

/// A server that is being asked.
pub struct Inquiry {
    answer: Receiver<Answer>,
}

impl Inquiry {
    /// # Errors
    /// When the connection is not described as it should be.
    pub fn begin(context: &Context<'_>) -> Result<Self, Error> {
        let mut settings =
            ConnectionSettings::resolve(&context.config.postgres.connection, context.environment)?;
        settings.connect_timeout =
            Some(settings.connect_timeout.unwrap_or(CONNECTING_MAX).min(CONNECTING_MAX));
        let interrupt = context.interrupt.clone();
        let (sender, answer) = mpsc::sync_channel(1);
        // Not joined: where the server never answers, the process ends without it.
        let asking = move || drop(sender.send(ask(&settings, &interrupt)));
        let spawned = thread::Builder::new().name("server".to_owned()).spawn(asking);
        spawned.map_err(|source| repo::Error::Threads { source })?;
        Ok(Self { answer })
    }

    pub fn finish(self, context: &Context<'_>) -> Result<Answer, Error> {
        let mut left = PATIENCE;
        loop {
            context.interrupt.check()?;
            match self.answer.recv_timeout(NAP) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) if left > NAP => left -= NAP,
                Err(_) => return Ok(silence()),
            }
        }
    }
}

fn silence() -> Answer {
    let message = format!("the server did not answer within {} s", PATIENCE.as_secs());
    let hint = "See the server's log, and whether it can be reached with psql.".to_owned();
    let trouble = Trouble { message, hint: Some(hint) };
    let replication = Err(ReplicationTrouble::Other(trouble.clone()));
    Answer { server: Server { identity: None, state: Err(trouble), replication }, finished: Vec::new() }
}

fn ask(settings: &ConnectionSettings, interrupt: &Interrupt) -> Answer {
    // First, so that the trial below does not count among the WAL senders in use.
    let (state, finished) = match Session::connect(settings, interrupt) {
        Ok(mut session) => ask_session(&mut session),
        Err(error) => (Err(trouble(&error)), Vec::new()),
    };
    let identified =
        ReplicationClient::connect(settings, interrupt).and_then(|mut client| client.identify_system());
    let of_state = state.as_ref().ok().map(|state| Identity {
        system_identifier: state.system_identifier,
        timeline: state.timeline,
        wal_lsn: state.wal_lsn,
    });
    let identity = match &identified {
        Ok(SystemIdentity { system_identifier, timeline, flush_lsn }) => {
            let wal_lsn = of_state.map_or(*flush_lsn, |state| state.wal_lsn);
            Some(Identity { system_identifier: *system_identifier, timeline: *timeline, wal_lsn })
        }
        Err(_) => of_state,
    };
    let replication = identified.map(|_| ()).map_err(|error| replication_trouble(&error));
    Answer { server: Server { identity, state, replication }, finished }
}

fn ask_session(session: &mut Session) -> (Result<ServerState, Trouble>, Vec<(u64, TimeDelta)>) {
    let state = session.state().map_err(|error| trouble(&error));
    let listed = match &state {
        Ok(state) if state.may_list_wal => session.finished_segments(state),
        _ => Ok(Vec::new()),
    };
    let finished = listed.unwrap_or_else(|error| {
        tracing::warn!("{error}");
        Vec::new()
    });
    (state, finished)
}

fn trouble(error: &server::Error) -> Trouble {
    Trouble { message: error.to_string(), hint: error.hint() }
}

fn replication_trouble(error: &server::Error) -> ReplicationTrouble {
    let trouble = trouble(error);
    match error.cause() {
        Some(Cause::NotReplicationRole { .. }) => ReplicationTrouble::NotPermitted(trouble),
        Some(Cause::NoFreeWalSender | Cause::ReplicationOff) => ReplicationTrouble::NoWalSenderFree(trouble),
        _ => ReplicationTrouble::Other(trouble),
    }
}
