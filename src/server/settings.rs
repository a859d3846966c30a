//! Where the server is and who we are to it, by libpq's conventions.
//!
//! A value comes from the first of these that has it: the connection string, the service file's section, the
//! environment variable, the default. Follows PostgreSQL `src/interfaces/libpq/fe-connect.c`
//! (`conninfo_add_defaults`, `pqConnectOptions2`) and the documentation's "Database Connection Control Functions".
//!
//! Where pgbak differs: an unknown keyword is refused with the nearest known one; a parameter that cannot be kept
//! to is refused, never ignored ([`super::parameters`]); connecting does not wait for ever unless
//! `connect_timeout=0` says so; where no database is named it is `postgres`, not one of the role's name, which a role
//! for backups hardly has; TCP keepalives find a dead server within two minutes unless they are set otherwise.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::account::Account;
use super::conninfo::ConninfoError;
use super::pass_file::{PassFile, Wanted};
use super::service_file::ServiceError;
use super::values::{self, Values};

/// Every cluster has it, unless somebody has dropped it.
const USUAL_DATABASE: &str = "postgres";

/// Everything that is needed to connect. `Debug` does not show passwords.
#[derive(Clone, Debug)]
pub struct ConnectionSettings {
    /// In the order in which they are to be tried; at least one.
    pub hosts: Vec<Host>,
    pub user: String,
    /// For SQL; a replication connection belongs to no database.
    pub database: String,
    pub application_name: Option<String>,
    /// Command-line options for the server process, as in `-c work_mem=4MB`.
    pub options: Option<String>,
    /// For connecting to one address and authenticating; `None` waits for ever.
    pub connect_timeout: Option<Duration>,
    pub keepalive: Option<Keepalive>,
    /// How long sent data may stay unacknowledged; `None` leaves it to the operating system.
    pub tcp_user_timeout: Option<Duration>,
    pub session_attributes: SessionAttributes,
    pub tls: TlsSettings,
    pub channel_binding: ChannelBinding,
    password: Option<Password>,
    pass_file: PassFile,
}

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub place: Place,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The directory with the server's socket; one that begins with `@` is in the abstract namespace.
    Socket(PathBuf),
    Tcp {
        /// What certificates and the password file call it; `None` when only the address was given.
        name: Option<String>,
        /// `None`: look the name up.
        address: Option<IpAddr>,
    },
}

/// A secret: it can be sent, not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

/// When the operating system asks a silent peer whether it is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    pub idle: Duration,
    pub interval: Duration,
    pub count: u32,
}

/// Which servers of a list will do (`target_session_attrs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAttributes {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// Which certificates the server's certificate may be signed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificates {
    /// Those that the operating system trusts (`sslrootcert=system`).
    System,
    /// Those in this file.
    File(PathBuf),
    /// No file is named, and there is no `~/.postgresql/root.crt`.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_0,
    V1_1,
    V1_2,
    V1_3,
}

#[derive(Clone, Debug)]
pub struct TlsSettings {
    pub mode: SslMode,
    pub roots: RootCertificates,
    /// `None` sends no certificate.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub key_password: Option<Password>,
    pub revocations: Option<PathBuf>,
    pub revocations_directory: Option<PathBuf>,
    pub server_name_indication: bool,
    pub version_min: TlsVersion,
    pub version_max: Option<TlsVersion>,
}

/// What is wrong with the connection's description. No message holds a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    #[error("the connection string cannot be read: {0}")]
    Conninfo(#[from] ConninfoError),
    #[error("{keyword} is not a connection parameter")]
    UnknownKeyword { keyword: String, nearest: Option<&'static str> },
    #[error("connection parameter {keyword} cannot be \"{value}\": {expected}")]
    InvalidValue { keyword: &'static str, value: String, expected: &'static str },
    #[error(
        "connection parameter {keyword} is not supported by pgbak and would be needed to keep its promise"
    )]
    Unsupported { keyword: &'static str },
    #[error("{count} values of {keyword} do not fit {hosts} hosts")]
    CountMismatch { keyword: &'static str, count: usize, hosts: usize },
    #[error("sslmode \"{mode}\" is too weak for sslrootcert=system, which needs \"verify-full\"")]
    WeakForSystemRoots { mode: String },
    #[error("the name of the user that runs pgbak cannot be found out")]
    NoUser,
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl SettingsError {
    /// What the user can do about it: one or more full sentences.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Conninfo(ConninfoError::MissingEquals { .. }) => {
                "Put values with blanks into single quotes, as in `password='open sesame'`.".to_owned()
            }
            Self::UnknownKeyword { nearest: Some(nearest), .. } => format!("Did you mean `{nearest}`?"),
            Self::Unsupported { keyword } => {
                format!("Remove {keyword} from the connection string, the service file or the environment.")
            }
            Self::CountMismatch { keyword, .. } => {
                format!("Give one {keyword} for all hosts, or one for each.")
            }
            Self::NoUser => "Name the user in the connection string, as in `user=postgres`.".to_owned(),
            Self::Conninfo(_)
            | Self::UnknownKeyword { .. }
            | Self::InvalidValue { .. }
            | Self::WeakForSystemRoots { .. }
            | Self::Service(_) => return None,
        })
    }
}

impl Password {
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

impl fmt::Debug for PassFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PassFile(…)")
    }
}

impl ConnectionSettings {
    /// The settings that `connection` (a connection string or URI, empty for the defaults) means in `environment`.
    ///
    /// Reads the service file and the password file; a password file that cannot be trusted is not used, which is
    /// logged as a warning.
    pub fn resolve(
        connection: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let account = Account::of_this_process();
        let home = environment("HOME")
            .filter(|home| !home.is_empty())
            .map(PathBuf::from)
            .or_else(|| account.as_ref().map(|account| account.home.clone()));
        let values = Values::gather(connection, environment, home.as_deref())?;

        let user = values
            .get("user")
            .map(str::to_owned)
            .or_else(|| account.map(|account| account.name))
            .or_else(|| environment("USER").filter(|user| !user.is_empty()))
            .ok_or(SettingsError::NoUser)?;
        let pass_file = values
            .get("passfile")
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join(".pgpass")))
            .map(|path| PassFile::read(&path))
            .unwrap_or_else(|| Ok(PassFile::default()))
            .unwrap_or_else(|untrusted| {
                tracing::warn!("{untrusted}");
                PassFile::default()
            });
        Ok(Self {
            hosts: values::hosts(&values)?,
            database: values.get("dbname").unwrap_or(USUAL_DATABASE).to_owned(),
            user,
            application_name: values.get("application_name").map(str::to_owned),
            options: values.get("options").map(str::to_owned),
            connect_timeout: values::connect_timeout(&values)?,
            keepalive: values::keepalive(&values)?,
            tcp_user_timeout: values
                .number("tcp_user_timeout")?
                .filter(|&milliseconds| milliseconds > 0)
                .map(|milliseconds| Duration::from_millis(milliseconds.into())),
            session_attributes: values.one_of(
                "target_session_attrs",
                SessionAttributes::Any,
                &[
                    ("any", SessionAttributes::Any),
                    ("read-write", SessionAttributes::ReadWrite),
                    ("read-only", SessionAttributes::ReadOnly),
                    ("primary", SessionAttributes::Primary),
                    ("standby", SessionAttributes::Standby),
                    ("prefer-standby", SessionAttributes::PreferStandby),
                ],
                "it is any, read-write, read-only, primary, standby or prefer-standby",
            )?,
            tls: values::tls(&values, home.as_deref())?,
            channel_binding: values.one_of(
                "channel_binding",
                ChannelBinding::Prefer,
                &[
                    ("disable", ChannelBinding::Disable),
                    ("prefer", ChannelBinding::Prefer),
                    ("require", ChannelBinding::Require),
                ],
                "it is disable, prefer or require",
            )?,
            password: values.get("password").map(|password| Password(password.to_owned())),
            pass_file,
        })
    }

    /// The password for `host`; the password file calls a replication connection's database `replication`.
    pub(super) fn password(&self, host: &Host, database: &str) -> Option<Password> {
        let name = host.pass_file_name();
        let wanted = Wanted { host: &name, port: host.port, database, user: &self.user };
        self.password.clone().or_else(|| self.pass_file.find(wanted))
    }
}

impl Host {
    fn pass_file_name(&self) -> String {
        match &self.place {
            Place::Socket(directory) if directory == Path::new(values::default_socket_directory()) => {
                "localhost".to_owned()
            }
            Place::Socket(directory) => directory.to_string_lossy().into_owned(),
            Place::Tcp { name: Some(name), .. } => name.clone(),
            Place::Tcp { address: Some(address), .. } => address.to_string(),
            Place::Tcp { name: None, address: None } => "localhost".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn resolve(connection: &str, environment: &[(&str, &str)]) -> Result<ConnectionSettings, SettingsError> {
        let environment: HashMap<_, _> = environment.iter().copied().collect();
        ConnectionSettings::resolve(connection, &|name| environment.get(name).map(|value| value.to_string()))
    }

    fn tcp(name: &str, port: u16) -> Host {
        Host { place: Place::Tcp { name: Some(name.to_owned()), address: None }, port }
    }

    #[test]
    fn nothing_at_all_means_the_local_socket() {
        let settings = resolve("", &[("HOME", "/nonexistent")]).unwrap();
        let place = Place::Socket(values::default_socket_directory().into());
        assert_eq!(settings.hosts, [Host { place, port: 5432 }]);
        assert_eq!(settings.user, Account::of_this_process().unwrap().name);
        assert_eq!(settings.database, "postgres");
        assert_eq!(settings.tls.mode, SslMode::Prefer);
        assert_eq!(settings.tls.roots, RootCertificates::None);
        assert_eq!(settings.connect_timeout, Some(Duration::from_secs(60)));
    }

    #[test]
    fn the_nearest_value_counts() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("services");
        fs::write(&file, "[shop]\nhost=of-service\nuser=of-service\n").unwrap();
        let environment = [
            ("PGSERVICEFILE", file.to_str().unwrap()),
            ("PGSERVICE", "shop"),
            ("PGHOST", "of-environment"),
            ("PGUSER", "of-environment"),
            ("PGDATABASE", "of-environment"),
            ("PGPORT", "5433"),
        ];
        let settings = resolve("host=of-string", &environment).unwrap();
        assert_eq!(settings.hosts, [tcp("of-string", 5433)]);
        assert_eq!(settings.user, "of-service");
        assert_eq!(settings.database, "of-environment");
        assert!(matches!(resolve("service=none", &environment), Err(SettingsError::Service(_))));
    }

    #[test]
    fn several_hosts_take_one_port_or_one_each() {
        let hosts = |connection| resolve(connection, &[("PGUSER", "u")]).map(|settings| settings.hosts);
        assert_eq!(hosts("postgres://a,b:2/"), Ok(vec![tcp("a", 5432), tcp("b", 2)]));
        assert_eq!(hosts("host=a,b port=7"), Ok(vec![tcp("a", 7), tcp("b", 7)]));
        let socket = Host { place: Place::Socket("/run/x".into()), port: 5432 };
        assert_eq!(hosts("host=/run/x,b"), Ok(vec![socket, tcp("b", 5432)]));
        let address = Some("192.0.2.1".parse().unwrap());
        let place = Place::Tcp { name: Some("a".to_owned()), address };
        assert_eq!(hosts("host=a hostaddr=192.0.2.1"), Ok(vec![Host { place, port: 5432 }]));
        for (keyword, connection) in
            [("port", "host=a,b port=1,2,3"), ("host", "host=a hostaddr=192.0.2.1,192.0.2.2")]
        {
            let Err(SettingsError::CountMismatch { keyword: found, .. }) = hosts(connection) else {
                panic!("{connection}");
            };
            assert_eq!(found, keyword);
        }
    }

    #[test]
    fn what_cannot_be_kept_to_is_refused_by_name() {
        for (connection, expected) in [
            ("sslmod=require", "sslmod is not a connection parameter"),
            ("gssencmode=require", "connection parameter gssencmode is not supported"),
            ("require_auth=scram-sha-256", "connection parameter require_auth is not supported"),
            ("requirepeer=postgres", "connection parameter requirepeer is not supported"),
            ("sslnegotiation=direct", "connection parameter sslnegotiation is not supported"),
            ("port=0", "connection parameter port cannot be \"0\""),
            ("port=99999", "connection parameter port cannot be \"99999\""),
            ("connect_timeout=soon", "connection parameter connect_timeout cannot be \"soon\""),
            ("hostaddr=localhost", "connection parameter hostaddr cannot be \"localhost\""),
            ("sslmode=always", "connection parameter sslmode cannot be \"always\""),
            ("sslrootcert=system sslmode=require", "sslmode \"require\" is too weak"),
            ("sslkey=engine:key", "connection parameter sslkey cannot be \"engine:key\""),
        ] {
            let error = resolve(connection, &[]).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{connection}: {error}");
        }
        let hint = resolve("sslmod=require", &[]).unwrap_err().hint();
        assert_eq!(hint.as_deref(), Some("Did you mean `sslmode`?"));
        for accepted in [
            "gssencmode=prefer krbsrvname=x load_balance_hosts=random",
            "client_encoding=latin1 sslcompression=1 replication=true",
            "require_auth='' sslrootcert=system",
        ] {
            resolve(accepted, &[]).expect(accepted);
        }
    }

    #[test]
    fn the_password_file_knows_sockets_and_replication() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(".pgpass");
        fs::write(&file, "localhost:5432:replication:u:for-socket\ndb:1:shop:u:for-shop\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let home = [("HOME", directory.path().to_str().unwrap()), ("PGUSER", "u")];
        let password = |connection: &str, database: &str| {
            let settings = resolve(connection, &home).unwrap();
            settings.password(&settings.hosts[0], database).map(|password| password.reveal().to_owned())
        };
        assert_eq!(password("", "replication").as_deref(), Some("for-socket"));
        assert_eq!(password("", "shop"), None);
        assert_eq!(password("host=db port=1", "shop").as_deref(), Some("for-shop"));
        assert_eq!(password("host=db port=1 password=given", "shop").as_deref(), Some("given"));
        assert_eq!(password("host=/elsewhere", "replication"), None);
    }

    #[test]
    fn usual_certificates_are_used_when_they_are_there() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join(".postgresql");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("root.crt"), "").unwrap();
        let tls = |connection| resolve(connection, &[("HOME", home.path().to_str().unwrap())]).unwrap().tls;
        assert_eq!(tls("").roots, RootCertificates::File(directory.join("root.crt")));
        assert_eq!(tls("").certificate, None);
        assert_eq!(tls("sslrootcert=/x").roots, RootCertificates::File("/x".into()));
        assert_eq!(tls("sslrootcert=system").mode, SslMode::VerifyFull);
        assert_eq!(tls("sslcert=/x").certificate, Some("/x".into()));
        assert_eq!(tls("sslcert=/x sslcertmode=disable").certificate, None);
    }

    proptest! {
        #[test]
        fn no_password_ever_shows(secret in "[a-zA-Z0-9]{12,20}", open in any::<bool>(), rest in "( [a-z]{1,9}=[ -~]{0,9})?") {
            let quote = if open { "'" } else { "" };
            let connection = format!("user=u password={quote}{secret}{rest}");
            let shown = match resolve(&connection, &[]) {
                Ok(settings) => format!("{settings:?}"),
                Err(error) => format!("{error:?} {error}"),
            };
            prop_assert!(!shown.contains(&secret), "{}", shown);
        }

        #[test]
        fn any_string_is_resolved_or_refused(connection in "([a-z_]{2,12}=[^ ]{0,5} ?){0,4}|postgres://.*") {
            let _ = resolve(&connection, &[]);
        }
    }
}
