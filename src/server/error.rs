//! What can go wrong between pgbak and a server, in words for the person at the terminal.

use std::io;
use std::net::IpAddr;

use super::messages::ServerMessage;
use super::settings::SettingsError;
use super::tls::TlsError;
use crate::interrupt::Interrupted;

pub type Result<T> = std::result::Result<T, Error>;

/// `server` is always libpq's wording: `server at "db" (192.0.2.7), port 5432` or `server on socket "…"`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Interrupted(#[from] Interrupted),

    #[error(transparent)]
    Settings(#[from] SettingsError),

    #[error("could not connect to {server}: {}", plain(.source))]
    Unreachable { server: String, source: io::Error },

    /// Each of several servers or addresses was tried.
    #[error("{}", joined(.0))]
    NoneReachable(Vec<Error>),

    #[error("{server} does not {wanted}, as target_session_attrs wants")]
    WrongSession { server: String, wanted: &'static str },

    #[error("could not set up TLS for {server}: {source}")]
    TlsSettings { server: String, source: TlsError },

    #[error("{server} does not offer TLS, which sslmode asks for")]
    TlsNotOffered { server: String },

    #[error("the TLS handshake with {server} failed: {reason}")]
    TlsHandshake { server: String, reason: String },

    #[error("{server} asks for a password, and none is given for user \"{user}\"")]
    PasswordMissing { server: String, user: String },

    #[error("{server} asks for {method} authentication, which pgbak cannot do")]
    UnsupportedAuthentication { server: String, method: String },

    #[error("{server} authenticates without channel binding, which channel_binding=require asks for")]
    ChannelBindingMissing { server: String },

    /// A wrong password is the usual cause of a proof that does not fit, but the server says so itself.
    #[error("{server} could not prove that it knows the password of user \"{user}\": {reason}")]
    ServerNotAuthentic { server: String, user: String, reason: String },

    #[error("{server} runs PostgreSQL {version}; pgbak supports 13 to 18")]
    UnsupportedVersion { server: String, version: String },

    #[error("could not {attempted} {server}: {message}")]
    Rejected { server: String, attempted: &'static str, cause: Cause, message: Box<ServerMessage> },

    #[error("{server} was silent for {seconds} seconds ({doing})")]
    Timeout { server: String, doing: &'static str, seconds: u64 },

    #[error("{server} closed the connection: {reason}")]
    Disconnected { server: String, reason: String },

    /// The server, or something that only looks like one, broke the protocol.
    #[error("{server} sent {found}, which the protocol does not allow here")]
    Protocol { server: String, found: String },

    #[error("{what} cannot be {value}: {expected}")]
    InvalidArgument { what: &'static str, value: String, expected: &'static str },
}

/// Why the server said no, as far as its SQLSTATE and the place in its source tell.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    WrongPassword,
    /// `line` is what is missing in `pg_hba.conf`.
    NoHbaEntry {
        line: String,
    },
    /// The operating system's user, the certificate or the role's name does not fit.
    IdentityRejected,
    /// On a socket, it is the operating system's user that does not fit.
    PeerRejected {
        role: String,
    },
    DatabaseMissing,
    NotReplicationRole {
        role: String,
    },
    /// `max_wal_senders` is 0, which `wal_level = minimal` enforces.
    ReplicationOff,
    NoFreeWalSender,
    TooManyConnections,
    NoFreeSlot,
    SlotMissing,
    SlotExists,
    SlotInUse,
    WalRemoved,
    StartingUp,
    ShuttingDown,
    PageChecksum,
    Other,
}

/// What is known of the login that a message of the server answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Login<'a> {
    pub user: &'a str,
    /// `replication`, or the database's name.
    pub database: &'a str,
    pub transport: &'static str,
    pub is_replication: bool,
}

impl Cause {
    /// Why a login failed.
    pub(super) fn of_login(message: &ServerMessage, login: Login<'_>) -> Self {
        match message.sqlstate.as_str() {
            // The file's name is the same in every language of the server.
            "28000" if message.message.contains("pg_hba.conf") => {
                Self::NoHbaEntry { line: login.hba_line(message) }
            }
            "28000" if login.transport == "local" => Self::PeerRejected { role: login.user.to_owned() },
            "28000" => Self::IdentityRejected,
            "3D000" => Self::DatabaseMissing,
            "42501" if login.is_replication => Self::NotReplicationRole { role: login.user.to_owned() },
            _ => Self::of(message),
        }
    }

    /// Why a command failed.
    pub(super) fn of(message: &ServerMessage) -> Self {
        match message.sqlstate.as_str() {
            "28P01" => Self::WrongPassword,
            // The names of settings and the numbers are the same in every language of the server.
            "53300" if message.message.contains("max_wal_senders") => match last_number(&message.message) {
                Some(0) => Self::ReplicationOff,
                _ => Self::NoFreeWalSender,
            },
            "53300" => Self::TooManyConnections,
            "53400" => Self::NoFreeSlot,
            "42704" => Self::SlotMissing,
            "42710" => Self::SlotExists,
            "55006" => Self::SlotInUse,
            "55000" if message.hint.as_deref().is_some_and(|hint| hint.contains("wal_level")) => {
                Self::ReplicationOff
            }
            "58P01" => Self::WalRemoved,
            "57P03" => Self::StartingUp,
            "57P01" | "57P02" => Self::ShuttingDown,
            "XX001" => Self::PageChecksum,
            _ => Self::Other,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::WrongPassword => {
                "Check the password in the connection string, PGPASSWORD or ~/.pgpass.".to_owned()
            }
            Self::NoHbaEntry { line } => hba_hint(line),
            Self::IdentityRejected => {
                "Connect as the role that pg_hba.conf and pg_ident.conf expect for this \
                user or certificate, and see the server's log for what did not fit."
                    .to_owned()
            }
            Self::PeerRejected { role } => format!(
                "Run pgbak as the system's user of that name, as in `sudo -u {role} pgbak status`, or let another in with a \
                 line in pg_ident.conf."
            ),
            Self::DatabaseMissing => {
                "Name one that exists, such as dbname=postgres, in `connection` in [postgres].".to_owned()
            }
            Self::NotReplicationRole { role } => {
                format!(
                    "Run `ALTER ROLE {} REPLICATION;` on the server as a superuser.",
                    quoted_identifier(role)
                )
            }
            Self::ReplicationOff => "Run `ALTER SYSTEM SET wal_level = 'replica';` and `ALTER SYSTEM SET \
                max_wal_senders = 10;` on the server, and restart it."
                .to_owned(),
            Self::NoFreeWalSender => {
                "A base backup needs two free WAL senders: raise max_wal_senders on the \
                server and restart it, or end another replication connection."
                    .to_owned()
            }
            Self::TooManyConnections => {
                "Raise max_connections on the server and restart it, or end another connection.".to_owned()
            }
            Self::NoFreeSlot => {
                "Raise max_replication_slots on the server and restart it, or drop a slot that \
                nobody uses (see `SELECT slot_name, active FROM pg_replication_slots;`)."
                    .to_owned()
            }
            Self::SlotMissing => {
                "See `SELECT slot_name FROM pg_replication_slots;` for the slots that exist.".to_owned()
            }
            Self::SlotInUse => {
                "Another connection uses the slot; `SELECT * FROM pg_stat_replication;` shows which."
                    .to_owned()
            }
            Self::WalRemoved => "The server no longer has this WAL; a new base backup is needed.".to_owned(),
            Self::StartingUp | Self::ShuttingDown => {
                "Run again when the server accepts connections.".to_owned()
            }
            Self::SlotExists | Self::PageChecksum | Self::Other => return None,
        })
    }
}

fn hba_hint(line: &str) -> String {
    let add = format!(
        "Add the line `{line}` to the server's pg_hba.conf, whose path `SHOW hba_file;` tells, before any that rejects, \
         and run `SELECT pg_reload_conf();` there."
    );
    match line.starts_with("local ") {
        true => format!(
            "{add} With `peer` as its last word, the system's user of the role's name needs no password."
        ),
        false => add,
    }
}

impl Login<'_> {
    fn hba_line(&self, message: &ServerMessage) -> String {
        let (database, user) = (self.database, quoted_identifier(self.user));
        if self.transport == "local" {
            return format!("local {database} {user} scram-sha-256");
        }
        // The address as the server sees it is the first word in quotes that is one.
        let address = message.message.split('"').find_map(|word| word.parse::<IpAddr>().ok());
        let address = match address {
            Some(address) if address.is_ipv4() => format!("{address}/32"),
            Some(address) => format!("{address}/128"),
            None => "ADDRESS".to_owned(),
        };
        format!("{} {database} {user} {address} scram-sha-256", self.transport)
    }
}

impl Error {
    /// What the user can do about it: one or more full sentences.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Settings(error) => return error.hint(),
            Self::TlsSettings { source, .. } => return source.hint(),
            Self::NoneReachable(errors) => return errors.iter().find_map(Self::hint),
            Self::Rejected { cause, message, .. } => return cause.hint().or_else(|| message.hint.clone()),
            Self::Unreachable { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "Is the server running there, and does it accept such connections?".to_owned()
                }
                io::ErrorKind::PermissionDenied => {
                    "Run pgbak as a user who may use the socket, for example as postgres.".to_owned()
                }
                _ => "Check the host and the port in the connection string, and the way there.".to_owned(),
            },
            Self::TlsNotOffered { .. } => {
                "Set `ssl = on` on the server, or choose sslmode=prefer or disable.".to_owned()
            }
            Self::PasswordMissing { .. } => {
                "Put the password into ~/.pgpass (mode 0600) or PGPASSWORD.".to_owned()
            }
            Self::UnsupportedAuthentication { .. } => {
                "Use scram-sha-256, a client certificate or peer for this connection in pg_hba.conf.".to_owned()
            }
            Self::ChannelBindingMissing { .. } => {
                "Channel binding needs TLS and scram-sha-256 in pg_hba.conf; or choose channel_binding=prefer.".to_owned()
            }
            Self::ServerNotAuthentic { .. } => {
                "Check that this is the right server: one that does not know the password may be an impostor.".to_owned()
            }
            Self::Interrupted(_)
            | Self::WrongSession { .. }
            | Self::TlsHandshake { .. }
            | Self::UnsupportedVersion { .. }
            | Self::Timeout { .. }
            | Self::Disconnected { .. }
            | Self::Protocol { .. }
            | Self::InvalidArgument { .. } => return None,
        })
    }

    /// Why the server said no; `None` when it is not the server that did.
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Rejected { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

/// An operating system's message without Rust's "(os error 2)", in lower case.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

fn joined(errors: &[Error]) -> String {
    errors.iter().map(Error::to_string).collect::<Vec<_>>().join("; ")
}

fn last_number(text: &str) -> Option<u64> {
    text.split(|c: char| !c.is_ascii_digit()).rfind(|digits| !digits.is_empty())?.parse().ok()
}

/// As SQL and pg_hba.conf want it: in quotes where it is not a plain word.
fn quoted_identifier(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match name.chars().all(is_plain) && name.starts_with(|c: char| !c.is_ascii_digit()) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sqlstate: &str, text: &str) -> ServerMessage {
        ServerMessage { sqlstate: sqlstate.to_owned(), message: text.to_owned(), ..ServerMessage::default() }
    }

    const LOGIN: Login<'_> =
        Login { user: "Bak", database: "replication", transport: "host", is_replication: true };

    #[test]
    fn the_missing_hba_line_is_spelled_out() {
        let said = message(
            "28000",
            "no pg_hba.conf entry for replication connection from host \"192.0.2.9\", user \"Bak\", no encryption",
        );
        let hint = Cause::of_login(&said, LOGIN).hint().unwrap();
        assert!(hint.contains("`host replication \"Bak\" 192.0.2.9/32 scram-sha-256`"), "{hint}");
        let local = Login { transport: "local", user: "bak", ..LOGIN };
        let hint = Cause::of_login(&said, local).hint().unwrap();
        assert!(hint.contains("`local replication bak scram-sha-256`"), "{hint}");
    }

    #[test]
    fn no_wal_senders_at_all_is_not_the_same_as_none_free() {
        let exceeds = |n| {
            let text =
                format!("number of requested standby connections exceeds max_wal_senders (currently {n})");
            Cause::of_login(&message("53300", &text), LOGIN)
        };
        assert_eq!(exceeds(0), Cause::ReplicationOff);
        assert_eq!(exceeds(10), Cause::NoFreeWalSender);
        assert_eq!(
            Cause::of(&message("53300", "sorry, too many clients already")),
            Cause::TooManyConnections
        );
    }

    #[test]
    fn system_messages_read_as_part_of_a_sentence() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(plain(&error), "no such file or directory");
    }
}
