//! One replication connection: the start, and commands with short answers.
//!
//! Follows PostgreSQL's documentation, "Message Flow". Notices are collected, parameters noted, and errors become
//! [`Error::Rejected`], whenever they come. A connection is either idle, and takes a command, or busy with one whose
//! answer has to be received to its end.

use std::time::Duration;

use super::auth::{Answer, Authenticator, Progress};
use super::dial::{self, Route};
use super::error::{Cause, Error, Login, Result};
use super::messages::{self, Fields, ServerMessage};
use super::rows::Row;
use super::settings::{ConnectionSettings, SessionAttributes};
use super::socket::Patience;
use super::stream::{Message, Stream};
use crate::interrupt::Interrupt;
use crate::pg::ServerVersion;

/// What a connection calls itself in `pg_stat_activity` and the server's log.
pub const APPLICATION_NAME: &str = "pgbak";
/// For the answer to a command that has nothing to wait for.
pub const COMMAND_PATIENCE: Duration = Duration::from_secs(60);
/// More messages than any server sends before it is ready, more rows than any command has, more notices than
/// anybody reads: beyond, the server is taken for broken or the rest is dropped.
const STARTUP_MESSAGES_MAX: usize = 10_000;
const ROWS_MAX: usize = 100_000;
const NOTICES_MAX: usize = 1_000;

pub struct Connection {
    stream: Stream,
    version: ServerVersion,
    notices: Vec<ServerMessage>,
    is_idle: bool,
}

impl Connection {
    /// Connects to the first server that will do, for physical replication.
    pub fn connect(settings: &ConnectionSettings, interrupt: &Interrupt) -> Result<Self> {
        dial::first_reachable(settings, interrupt, &mut |route| {
            let mut connection = Self::log_in(route, settings, interrupt)?;
            connection.check_attributes(route.attributes)?;
            Ok(connection)
        })
    }

    fn log_in(route: &Route<'_>, settings: &ConnectionSettings, interrupt: &Interrupt) -> Result<Self> {
        let mut patience = Patience::new(settings.connect_timeout);
        let mut stream = Stream::connect(route, settings, interrupt, &mut patience)?;
        let mut parameters = vec![
            ("user", settings.user.as_str()),
            ("replication", "true"),
            ("application_name", settings.application_name.as_deref().unwrap_or(APPLICATION_NAME)),
        ];
        parameters.extend(settings.options.as_deref().map(|options| ("options", options)));
        stream.send(&messages::startup(&parameters))?;

        let server = stream.server().to_owned();
        let mut authenticator = Authenticator {
            server: &server,
            user: &settings.user,
            password: settings.password(route.host, "replication"),
            channel_binding: settings.channel_binding,
            server_end_point: stream.server_end_point(),
            progress: Progress::NotBegun,
        };
        let login = Login {
            user: &settings.user,
            database: "replication",
            transport: route.hba_transport(),
            is_replication: true,
        };
        let (mut version, mut notices, mut is_authenticated) = (None, Vec::new(), false);
        for _ in 0..STARTUP_MESSAGES_MAX {
            let message = stream.receive(&mut patience)?;
            let Some(message) = message else { return Err(stream.silent("logging in", patience.spent())) };
            let body = stream.body(&message);
            match message.tag {
                b'R' if !is_authenticated => match authenticator.answer(body)? {
                    Answer::Send(bytes) => stream.send(&bytes)?,
                    Answer::Wait => {}
                    Answer::Done => is_authenticated = true,
                },
                b'E' => {
                    let message = server_message(body, &server)?;
                    let cause = Cause::of_login(&message, login);
                    return Err(Error::Rejected {
                        server,
                        attempted: "log in to",
                        cause,
                        message: message.into(),
                    });
                }
                b'N' => notices.push(server_message(body, &server)?),
                b'S' => version = supported_version(body, &server)?.or(version),
                b'K' if is_authenticated => {}
                b'Z' if is_authenticated => {
                    let found =
                        || Error::Protocol { server: server.clone(), found: "no server_version".to_owned() };
                    let version = version.ok_or_else(found)?;
                    return Ok(Self { stream, version, notices, is_idle: true });
                }
                tag => return Err(unexpected(tag, &server)),
            }
        }
        Err(Error::Protocol { server, found: format!("{STARTUP_MESSAGES_MAX} messages without being ready") })
    }

    fn check_attributes(&mut self, attributes: SessionAttributes) -> Result<()> {
        use SessionAttributes::*;
        let (setting, wanted, is_on) = match attributes {
            Any | PreferStandby => return Ok(()),
            Primary => ("pg_is_in_recovery", "run as a primary", false),
            Standby => ("pg_is_in_recovery", "run as a standby", true),
            ReadWrite => ("transaction_read_only", "take writes", false),
            ReadOnly => ("transaction_read_only", "refuse writes", true),
        };
        // Whether a server is in recovery shows in what a transaction may do unless a setting says so outright.
        let setting = match (setting, self.version.major()) {
            ("pg_is_in_recovery", 14..) => "in_hot_standby",
            _ => "transaction_read_only",
        };
        let value: String = self.single_row(&format!("SHOW {setting}"), "query")?.value(0, setting)?;
        match (value == "on") == is_on {
            true => Ok(()),
            false => Err(Error::WrongSession { server: self.server().to_owned(), wanted }),
        }
    }

    pub fn heed(&mut self, interrupt: &Interrupt) {
        self.stream.heed(interrupt);
    }

    pub fn server(&self) -> &str {
        self.stream.server()
    }

    pub fn version(&self) -> ServerVersion {
        self.version
    }

    /// The notices and warnings since they were last taken.
    pub fn take_notices(&mut self) -> Vec<ServerMessage> {
        std::mem::take(&mut self.notices)
    }

    /// Sends a command; its answer is then to be received until ReadyForQuery, and [`Connection::done`] called.
    pub fn begin(&mut self, command: &str) -> Result<()> {
        if !self.is_idle {
            let reason = "an earlier command was broken off".to_owned();
            return Err(Error::Disconnected { server: self.server().to_owned(), reason });
        }
        self.is_idle = false;
        self.stream.send(&messages::request(b'Q', &[command.as_bytes(), b"\0"]))
    }

    /// Takes note that ReadyForQuery was received.
    pub fn done(&mut self) {
        self.is_idle = true;
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.send(bytes)
    }

    pub fn body(&self, message: &Message) -> &[u8] {
        self.stream.body(message)
    }

    /// The next message that belongs to the command's answer; `None` when patience ran out.
    ///
    /// An ErrorResponse becomes an error: the server could not do what was `attempted`.
    pub fn receive(&mut self, attempted: &'static str, patience: &mut Patience) -> Result<Option<Message>> {
        loop {
            let Some(message) = self.stream.receive(patience)? else { return Ok(None) };
            match message.tag {
                b'N' => {
                    let notice = server_message(self.stream.body(&message), self.stream.server())?;
                    if self.notices.len() < NOTICES_MAX {
                        self.notices.push(notice);
                    }
                }
                b'S' | b'A' => {}
                b'E' => {
                    let message = server_message(self.stream.body(&message), self.stream.server())?;
                    return Err(Error::Rejected {
                        server: self.server().to_owned(),
                        attempted,
                        cause: Cause::of(&message),
                        message: message.into(),
                    });
                }
                _ => return Ok(Some(message)),
            }
        }
    }

    /// As [`Connection::receive`], but a server that stays silent is an error.
    pub fn expect(&mut self, attempted: &'static str, patience: Option<Duration>) -> Result<Message> {
        let mut patience = Patience::new(patience);
        let message = self.receive(attempted, &mut patience)?;
        message.ok_or_else(|| self.stream.silent("answering a command", patience.spent()))
    }

    /// The rows of the only result of `command`.
    pub fn query(&mut self, command: &str, attempted: &'static str) -> Result<Vec<Row>> {
        self.begin(command)?;
        let mut rows = Vec::new();
        loop {
            match self.expect(attempted, Some(COMMAND_PATIENCE)) {
                Ok(message) => match message.tag {
                    b'D' if rows.len() < ROWS_MAX => {
                        rows.push(Row::read(self.body(&message), self.server())?)
                    }
                    b'T' | b'C' => {}
                    b'Z' => {
                        self.done();
                        return Ok(rows);
                    }
                    tag => return Err(self.unexpected(tag)),
                },
                Err(error) => {
                    self.recover(&error);
                    return Err(error);
                }
            }
        }
    }

    pub fn single_row(&mut self, command: &str, attempted: &'static str) -> Result<Row> {
        let mut rows = self.query(command, attempted)?;
        match rows.len() {
            1 => Ok(rows.remove(0)),
            count => Err(self.protocol(format!("{count} rows in answer to {command}"))),
        }
    }

    /// After the server refused a command, reads on until it takes the next one. A connection that does not get
    /// there stays busy, and says so when it is used again.
    pub fn recover(&mut self, error: &Error) {
        if matches!(error, Error::Rejected { .. })
            && let Ok(Message { tag: b'Z', .. }) = self.expect("end a command on", Some(COMMAND_PATIENCE))
        {
            self.done();
        }
    }

    pub fn protocol(&self, found: impl Into<String>) -> Error {
        Error::Protocol { server: self.server().to_owned(), found: found.into() }
    }

    pub fn unexpected(&self, tag: u8) -> Error {
        unexpected(tag, self.server())
    }

    pub fn silent(&self, doing: &'static str, waited: Duration) -> Error {
        self.stream.silent(doing, waited)
    }
}

/// Says goodbye, so that the server's log does not speak of a lost connection; in the middle of a command the
/// closed socket has to say it.
impl Drop for Connection {
    fn drop(&mut self) {
        if self.is_idle {
            // Nothing can be done about a server that does not hear it, and nothing depends on it.
            let _ = self.stream.send(&messages::request(b'X', &[]));
        }
    }
}

fn server_message(body: &[u8], server: &str) -> Result<ServerMessage> {
    ServerMessage::parse(body).map_err(|_| Error::Protocol {
        server: server.to_owned(),
        found: "a malformed error or notice".to_owned(),
    })
}

/// The version, when the ParameterStatus is the one that names it.
fn supported_version(body: &[u8], server: &str) -> Result<Option<ServerVersion>> {
    let mut fields = Fields::new(body);
    let (Ok(name), Ok(value)) = (fields.text(), fields.text()) else {
        return Err(Error::Protocol { server: server.to_owned(), found: "a malformed parameter".to_owned() });
    };
    if name != b"server_version" {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(value);
    check_version(ServerVersion::from_parameter(&text), &text, server).map(Some)
}

/// `version` if pgbak supports it; `text` is what the server called it.
pub fn check_version(version: Option<ServerVersion>, text: &str, server: &str) -> Result<ServerVersion> {
    version.filter(|version| ServerVersion::SUPPORTED_MAJORS.contains(&version.major())).ok_or_else(|| {
        let version = version.map_or_else(|| text.to_owned(), |version| version.to_string());
        Error::UnsupportedVersion { server: server.to_owned(), version }
    })
}

fn unexpected(tag: u8, server: &str) -> Error {
    Error::Protocol { server: server.to_owned(), found: format!("a message \"{}\"", tag.escape_ascii()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_refused_by_number() {
        let version = |text: &str| {
            let body = [b"server_version\0", text.as_bytes(), b"\0"].concat();
            supported_version(&body, "server").map_err(|error| error.to_string())
        };
        assert_eq!(version("15.18 (Debian 15.18-0+deb12u1)"), Ok(Some(ServerVersion(150_018))));
        assert_eq!(version("12.22"), Err("server runs PostgreSQL 12.22; pgbak supports 13 to 18".to_owned()));
        assert_eq!(version("9.6.1"), Err("server runs PostgreSQL 9.6.1; pgbak supports 13 to 18".to_owned()));
        assert_eq!(
            version("19devel"),
            Err("server runs PostgreSQL 19.0; pgbak supports 13 to 18".to_owned())
        );
    }
}
