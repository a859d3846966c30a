//! Which servers, addresses and kinds of encryption are tried, in which order, and when to give up.
//!
//! Follows PostgreSQL `src/interfaces/libpq/fe-connect.c` (`PQconnectPoll`): hosts in the order given, every address
//! of each; a server that cannot be reached or is starting up passes on to the next, one that says no does not.
//! `sslmode=prefer` falls back to a plain connection, and `allow` to an encrypted one, when the server takes the
//! other only.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use super::error::{Cause, Error, Result};
use super::settings::{ConnectionSettings, Host, Place, SessionAttributes, SslMode};
use crate::interrupt::Interrupt;

/// One way to reach one server.
#[derive(Debug, Clone)]
pub struct Route<'a> {
    pub host: &'a Host,
    pub address: Address,
    pub encryption: Encryption,
    /// What the session has to be like; never `PreferStandby`.
    pub attributes: SessionAttributes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The socket's file.
    Socket(PathBuf),
    Tcp(SocketAddr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    Plain,
    Tls,
}

/// In libpq's words.
impl fmt::Display for Route<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host.place, &self.address) {
            (_, Address::Socket(path)) => write!(f, "server on socket \"{}\"", path.display()),
            (Place::Tcp { name: Some(name), .. }, Address::Tcp(address))
                if *name != address.ip().to_string() =>
            {
                write!(f, "server at \"{name}\" ({}), port {}", address.ip(), address.port())
            }
            (_, Address::Tcp(address)) => {
                write!(f, "server at \"{}\", port {}", address.ip(), address.port())
            }
        }
    }
}

impl Route<'_> {
    /// The name that the server's certificate has to bear.
    pub fn certificate_name(&self) -> String {
        match (&self.host.place, &self.address) {
            (Place::Tcp { name: Some(name), .. }, _) => name.clone(),
            (_, Address::Tcp(address)) => address.ip().to_string(),
            (_, Address::Socket(_)) => String::new(),
        }
    }

    /// The word for such connections in `pg_hba.conf`.
    pub fn hba_transport(&self) -> &'static str {
        match (&self.address, self.encryption) {
            (Address::Socket(_), _) => "local",
            (Address::Tcp(_), Encryption::Plain) => "host",
            (Address::Tcp(_), Encryption::Tls) => "hostssl",
        }
    }
}

/// What `open` makes of the first route on which it succeeds.
pub fn first_reachable<T>(
    settings: &ConnectionSettings,
    interrupt: &Interrupt,
    open: &mut dyn FnMut(&Route<'_>) -> Result<T>,
) -> Result<T> {
    let mut failures = Vec::new();
    for &attributes in passes(settings.session_attributes) {
        for host in &settings.hosts {
            let addresses = addresses(host).map_err(|source| unresolved(host, source));
            let addresses = match addresses {
                Ok(addresses) => addresses,
                Err(error) => {
                    failures.push(error);
                    continue;
                }
            };
            for address in addresses {
                interrupt.check()?;
                let route = Route { host, address, encryption: Encryption::Plain, attributes };
                match with_encryption(route, settings.tls.mode, open) {
                    Ok(opened) => return Ok(opened),
                    Err(error) if passes_on(&error) => failures.push(error),
                    Err(error) => return Err(error),
                }
            }
        }
    }
    match failures.len() {
        1 => Err(failures.remove(0)),
        _ => Err(Error::NoneReachable(failures)),
    }
}

/// First a standby, then any, is two passes over the list.
fn passes(attributes: SessionAttributes) -> &'static [SessionAttributes] {
    use SessionAttributes::*;
    match attributes {
        Any => &[Any],
        ReadWrite => &[ReadWrite],
        ReadOnly => &[ReadOnly],
        Primary => &[Primary],
        Standby => &[Standby],
        PreferStandby => &[Standby, Any],
    }
}

fn with_encryption<T>(
    mut route: Route<'_>,
    mode: SslMode,
    open: &mut dyn FnMut(&Route<'_>) -> Result<T>,
) -> Result<T> {
    let (first, second) = match (&route.address, mode) {
        (Address::Socket(_), _) | (_, SslMode::Disable) => (Encryption::Plain, None),
        (_, SslMode::Allow) => (Encryption::Plain, Some(Encryption::Tls)),
        (_, SslMode::Prefer) => (Encryption::Tls, Some(Encryption::Plain)),
        (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => (Encryption::Tls, None),
    };
    route.encryption = first;
    let error = match open(&route) {
        Ok(opened) => return Ok(opened),
        Err(error) => error,
    };
    match second {
        Some(second) if other_encryption_may_help(&error) => {
            route.encryption = second;
            open(&route).map_err(|again| match error {
                Error::TlsHandshake { .. } => Error::NoneReachable(vec![error, again]),
                _ => again,
            })
        }
        _ => Err(error),
    }
}

fn other_encryption_may_help(error: &Error) -> bool {
    matches!(error, Error::TlsNotOffered { .. } | Error::TlsHandshake { .. })
        || matches!(error.cause(), Some(Cause::NoHbaEntry { .. }))
}

/// Whether the next address or host is to be tried after `error`.
fn passes_on(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. } | Error::Timeout { .. } | Error::WrongSession { .. })
        || error.cause() == Some(&Cause::StartingUp)
}

fn addresses(host: &Host) -> io::Result<Vec<Address>> {
    match &host.place {
        Place::Socket(directory) => Ok(vec![Address::Socket(socket_path(directory, host.port))]),
        Place::Tcp { address: Some(address), .. } => {
            Ok(vec![Address::Tcp(SocketAddr::new(*address, host.port))])
        }
        Place::Tcp { name, address: None } => {
            let name = name.as_deref().unwrap_or("localhost");
            let found: Vec<_> = (name, host.port).to_socket_addrs()?.map(Address::Tcp).collect();
            match found.is_empty() {
                true => Err(io::Error::other("the name has no address")),
                false => Ok(found),
            }
        }
    }
}

fn socket_path(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

fn unresolved(host: &Host, source: io::Error) -> Error {
    let name = match &host.place {
        Place::Tcp { name: Some(name), .. } => name.as_str(),
        Place::Tcp { .. } | Place::Socket(_) => "localhost",
    };
    Error::Unreachable { server: format!("server at \"{name}\", port {}", host.port), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(connection: &str) -> ConnectionSettings {
        ConnectionSettings::resolve(connection, &|_| None).unwrap()
    }

    fn refused(route: &Route<'_>) -> Error {
        Error::Unreachable { server: route.to_string(), source: io::ErrorKind::ConnectionRefused.into() }
    }

    fn no_hba_entry(route: &Route<'_>) -> Error {
        Error::Rejected {
            server: route.to_string(),
            attempted: "log in to",
            cause: Cause::NoHbaEntry { line: String::new() },
            message: Box::default(),
        }
    }

    /// The routes that are tried when every one ends with `failure`.
    fn tried(connection: &str, failure: fn(&Route<'_>) -> Error) -> Vec<(String, Encryption)> {
        let mut routes = Vec::new();
        let mut open = |route: &Route<'_>| {
            routes.push((route.to_string(), route.encryption));
            Err::<(), _>(failure(route))
        };
        first_reachable(&settings(connection), &Interrupt::default(), &mut open).unwrap_err();
        routes
    }

    #[test]
    fn every_host_is_tried_in_order_until_one_answers() {
        use Encryption::{Plain, Tls};
        let hosts = "host=/run/pg,db hostaddr=,192.0.2.7 port=5433 sslmode=require user=u";
        // hostaddr leads: an empty one leaves the place to host.
        assert_eq!(
            tried(hosts, refused),
            [
                ("server on socket \"/run/pg/.s.PGSQL.5433\"".to_owned(), Plain),
                ("server at \"db\" (192.0.2.7), port 5433".to_owned(), Tls)
            ]
        );
        assert_eq!(tried(hosts, no_hba_entry).len(), 1);
    }

    #[test]
    fn encryption_falls_back_only_where_sslmode_allows_it() {
        use Encryption::{Plain, Tls};
        let kinds = |mode: &str| {
            let connection = format!("host=127.0.0.1 sslmode={mode} user=u");
            tried(&connection, no_hba_entry).into_iter().map(|(_, encryption)| encryption).collect::<Vec<_>>()
        };
        assert_eq!(kinds("disable"), [Plain]);
        assert_eq!(kinds("allow"), [Plain, Tls]);
        assert_eq!(kinds("prefer"), [Tls, Plain]);
        assert_eq!(kinds("require"), [Tls]);
        assert_eq!(kinds("verify-full"), [Tls]);
    }
}
