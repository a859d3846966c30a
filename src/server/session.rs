//! An SQL session: how it is opened, and who answers. What it asks is in [`state`].

mod state;

use std::time::Duration;

use postgres::config::SslMode as DriverSslMode;
use postgres::{Client, Config, NoTls, SimpleQueryMessage};
use postgres_openssl::MakeTlsConnector;

use super::connection::{APPLICATION_NAME, check_version};
use super::dial::{self, Address, Encryption, Route};
use super::error::{Cause, Error, Login, Result};
use super::messages::ServerMessage;
use super::settings::{ChannelBinding, ConnectionSettings, SessionAttributes};
use super::tls::{self, TlsError};
use crate::interrupt::Interrupt;
use crate::pg::{Lsn, ServerVersion};

/// Blocking; made for short questions.
pub struct Session {
    client: Client,
    server: String,
    version: ServerVersion,
}

impl Session {
    pub fn connect(settings: &ConnectionSettings, interrupt: &Interrupt) -> Result<Self> {
        dial::first_reachable(settings, interrupt, &mut |route| {
            let mut client = open(route, settings)?;
            let server = route.to_string();
            let text: String = value(&mut client, "SELECT current_setting('server_version_num')", &server)?;
            let version = check_version(text.parse().ok().map(ServerVersion), &text, &server)?;
            let mut session = Self { client, server, version };
            session.check_attributes(route.attributes)?;
            Ok(session)
        })
    }

    pub fn server_version(&self) -> ServerVersion {
        self.version
    }

    /// The end of the WAL that was written; on a standby, of what was received or replayed.
    pub fn current_wal_lsn(&mut self) -> Result<Lsn> {
        let text: Option<String> = value(
            &mut self.client,
            "SELECT (CASE WHEN pg_is_in_recovery() \
             THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) \
             ELSE pg_current_wal_lsn() END)::text",
            &self.server,
        )?;
        let text = text.unwrap_or_default();
        text.parse().map_err(|_| self.protocol(format!("\"{text}\" as WAL location")))
    }

    /// Runs SQL of one or more statements, and returns the rows of the last one that has any, as text.
    pub fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let messages = self.client.simple_query(sql).map_err(|error| failed(error, &self.server))?;
        let mut rows = Vec::new();
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(_) => rows.clear(),
                SimpleQueryMessage::Row(row) => {
                    let text = |column| row.get(column).map(str::to_owned);
                    rows.push((0..row.len()).map(text).collect());
                }
                _ => {}
            }
        }
        Ok(rows)
    }

    fn check_attributes(&mut self, attributes: SessionAttributes) -> Result<()> {
        use SessionAttributes::*;
        let (sql, wanted, expected) = match attributes {
            Any | PreferStandby => return Ok(()),
            Primary => ("SELECT pg_is_in_recovery()", "run as a primary", false),
            Standby => ("SELECT pg_is_in_recovery()", "run as a standby", true),
            ReadWrite => ("SELECT current_setting('transaction_read_only')::bool", "take writes", false),
            ReadOnly => ("SELECT current_setting('transaction_read_only')::bool", "refuse writes", true),
        };
        match value::<bool>(&mut self.client, sql, &self.server)? == expected {
            true => Ok(()),
            false => Err(Error::WrongSession { server: self.server.clone(), wanted }),
        }
    }

    fn protocol(&self, found: String) -> Error {
        Error::Protocol { server: self.server.clone(), found }
    }
}

fn value<T>(client: &mut Client, sql: &str, server: &str) -> Result<T>
where
    T: for<'r> postgres::types::FromSql<'r>,
{
    let row = client.query_one(sql, &[]).map_err(|error| failed(error, server))?;
    row.try_get(0).map_err(|error| failed(error, server))
}

fn open(route: &Route<'_>, settings: &ConnectionSettings) -> Result<Client> {
    let config = driver_config(route, settings);
    let connected = match route.encryption {
        Encryption::Plain => config.connect(NoTls),
        Encryption::Tls => {
            let unusable = |source: TlsError| Error::TlsSettings { server: route.to_string(), source };
            let mut connector = MakeTlsConnector::new(tls::connector(&settings.tls).map_err(unusable)?);
            let tls_settings = settings.tls.clone();
            connector.set_callback(move |configuration, _| {
                tls::configure(configuration, &tls_settings);
                Ok(())
            });
            config.connect(connector)
        }
    };
    connected.map_err(|error| not_connected(error, route, settings))
}

/// The driver's own settings, for exactly one way to one server.
fn driver_config(route: &Route<'_>, settings: &ConnectionSettings) -> Config {
    let mut config = Config::new();
    config
        .user(&settings.user)
        .dbname(&settings.database)
        .application_name(settings.application_name.as_deref().unwrap_or(APPLICATION_NAME))
        .port(route.host.port)
        .ssl_mode(match route.encryption {
            Encryption::Plain => DriverSslMode::Disable,
            Encryption::Tls => DriverSslMode::Require,
        })
        .channel_binding(match settings.channel_binding {
            ChannelBinding::Disable => postgres::config::ChannelBinding::Disable,
            ChannelBinding::Prefer => postgres::config::ChannelBinding::Prefer,
            ChannelBinding::Require => postgres::config::ChannelBinding::Require,
        })
        .keepalives(settings.keepalive.is_some());
    match &route.address {
        Address::Socket(path) => config.host_path(path.parent().unwrap_or(path)),
        Address::Tcp(address) => config.host(&route.certificate_name()).hostaddr(address.ip()),
    };
    if let Some(keepalive) = settings.keepalive {
        config
            .keepalives_idle(keepalive.idle)
            .keepalives_interval(keepalive.interval)
            .keepalives_retries(keepalive.count);
    }
    if let Some(password) = settings.password(route.host, &settings.database) {
        config.password(password.reveal());
    }
    if let Some(options) = &settings.options {
        config.options(options);
    }
    config.connect_timeout(settings.connect_timeout.unwrap_or(Duration::MAX));
    if let Some(timeout) = settings.tcp_user_timeout {
        config.tcp_user_timeout(timeout);
    }
    config
}

/// The driver's error, in the words of the replication client's.
fn not_connected(error: postgres::Error, route: &Route<'_>, settings: &ConnectionSettings) -> Error {
    let server = route.to_string();
    if let Some(message) = error.as_db_error().map(server_message) {
        let login = Login {
            user: &settings.user,
            database: &settings.database,
            transport: route.hba_transport(),
            is_replication: false,
        };
        let cause = Cause::of_login(&message, login);
        return Error::Rejected { server, attempted: "log in to", cause, message: message.into() };
    }
    let source = std::error::Error::source(&error);
    if let Some(io) = source.and_then(|source| source.downcast_ref::<std::io::Error>()) {
        return match io.kind() {
            std::io::ErrorKind::TimedOut => {
                let seconds = settings.connect_timeout.map_or(0, |timeout| timeout.as_secs());
                Error::Timeout { server, doing: "connecting", seconds }
            }
            _ => Error::Unreachable { server, source: std::io::Error::new(io.kind(), io.to_string()) },
        };
    }
    let reason = source.map_or_else(|| error.to_string(), |source| source.to_string());
    // The driver does not say in a type which of its checks failed, only in words.
    match (error.to_string(), reason) {
        (_, reason) if reason.contains("password missing") => {
            Error::PasswordMissing { server, user: settings.user.clone() }
        }
        (_, reason) if reason.contains("server does not support TLS") => Error::TlsNotOffered { server },
        (_, reason) if reason.contains("channel binding") => Error::ChannelBindingMissing { server },
        (kind, reason) if kind.contains("TLS handshake") => Error::TlsHandshake { server, reason },
        (_, reason) => Error::Disconnected { server, reason },
    }
}

fn failed(error: postgres::Error, server: &str) -> Error {
    let server = server.to_owned();
    match error.as_db_error().map(server_message) {
        Some(message) => Error::Rejected {
            server,
            attempted: "query",
            cause: Cause::of(&message),
            message: message.into(),
        },
        None => Error::Disconnected { server, reason: error.to_string() },
    }
}

fn server_message(error: &postgres::error::DbError) -> ServerMessage {
    ServerMessage {
        severity: error.severity().to_owned(),
        sqlstate: error.code().code().to_owned(),
        message: error.message().to_owned(),
        detail: error.detail().map(str::to_owned),
        hint: error.hint().map(str::to_owned),
    }
}
