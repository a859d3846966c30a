//! Connection parameters: where each gets its value from, and what the value means.
//!
//! Follows PostgreSQL `src/interfaces/libpq/fe-connect.c` (`conninfo_add_defaults`, `pqConnectOptions2`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::conninfo;
use super::parameters::{self, Treatment};
use super::service_file;
use super::settings::{
    Host, Keepalive, Password, Place, RootCertificates, SettingsError, SslMode, TlsSettings, TlsVersion,
};

const DEFAULT_PORT: u16 = 5432;
/// Debian's libpq, then the PostgreSQL project's own.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// For connecting and authenticating, when `connect_timeout` is not given.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// The parameters that have a value, wherever it came from. An empty value is the default's.
pub struct Values(HashMap<&'static str, String>);

impl Values {
    pub fn gather(
        connection: &str,
        environment: &dyn Fn(&str) -> Option<String>,
        home: Option<&Path>,
    ) -> Result<Self, SettingsError> {
        let mut values = Self(HashMap::new());
        for (keyword, value) in conninfo::parse(connection)? {
            values.0.insert(known(&keyword)?, value);
        }
        let from_environment = |variable: &str| environment(variable).filter(|value| !value.is_empty());
        if let Some(service) =
            values.get("service").map(str::to_owned).or_else(|| from_environment("PGSERVICE"))
        {
            let user_file = values
                .get("servicefile")
                .map(str::to_owned)
                .or_else(|| from_environment("PGSERVICEFILE"))
                .map(PathBuf::from)
                .unwrap_or_else(|| home.unwrap_or(Path::new("/")).join(".pg_service.conf"));
            let system_file =
                from_environment("PGSYSCONFDIR").unwrap_or_else(|| service_file::SYSTEM_DIRECTORY.to_owned());
            let system_file = Path::new(&system_file).join("pg_service.conf");
            for (keyword, value) in service_file::find(&service, &user_file, &system_file)? {
                values.0.entry(known(&keyword)?).or_insert(value);
            }
        }
        for parameter in parameters::PARAMETERS {
            if let Some(value) = from_environment(parameter.variable) {
                values.0.entry(parameter.keyword).or_insert(value);
            }
        }
        values.refuse_unsupported()?;
        Ok(values)
    }

    fn refuse_unsupported(&self) -> Result<(), SettingsError> {
        for parameter in parameters::PARAMETERS {
            if let Treatment::Only(allowed) = parameter.treatment
                && let Some(value) = self.get(parameter.keyword)
                && !allowed.contains(&value)
            {
                return Err(SettingsError::Unsupported { keyword: parameter.keyword });
            }
        }
        Ok(())
    }

    pub fn get(&self, keyword: &'static str) -> Option<&str> {
        self.0.get(keyword).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub fn number(&self, keyword: &'static str) -> Result<Option<u32>, SettingsError> {
        let expected = "it is a whole number";
        let parse = |value: &str| {
            let text = value.trim();
            // libpq takes negative numbers for "leave it to the system".
            let number: i32 = text.parse().map_err(|_| invalid(keyword, value, expected))?;
            Ok(number.max(0).unsigned_abs())
        };
        self.get(keyword).map(parse).transpose()
    }

    pub fn one_of<T: Copy>(
        &self,
        keyword: &'static str,
        default: T,
        known: &[(&str, T)],
        expected: &'static str,
    ) -> Result<T, SettingsError> {
        let Some(value) = self.get(keyword) else { return Ok(default) };
        let found = known.iter().find(|(name, _)| *name == value);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| invalid(keyword, value, expected))
    }
}

fn known(keyword: &str) -> Result<&'static str, SettingsError> {
    parameters::find(keyword).map(|parameter| parameter.keyword).ok_or_else(|| {
        SettingsError::UnknownKeyword { keyword: keyword.to_owned(), nearest: parameters::nearest(keyword) }
    })
}

fn invalid(keyword: &'static str, value: &str, expected: &'static str) -> SettingsError {
    SettingsError::InvalidValue { keyword, value: value.to_owned(), expected }
}

pub fn hosts(values: &Values) -> Result<Vec<Host>, SettingsError> {
    let list = |keyword| values.get(keyword).map(|text| text.split(',').map(str::trim).collect::<Vec<_>>());
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = addresses.as_ref().or(names.as_ref()).map_or(1, Vec::len);
    if let Some(names) = &names
        && names.len() != count
    {
        return Err(SettingsError::CountMismatch { keyword: "host", count: names.len(), hosts: count });
    }
    let ports = ports.unwrap_or_else(|| vec![""]);
    if ports.len() != 1 && ports.len() != count {
        return Err(SettingsError::CountMismatch { keyword: "port", count: ports.len(), hosts: count });
    }
    let at = |list: &Option<Vec<&str>>, i: usize| list.as_ref().map_or("", |list| list[i]).to_owned();
    (0..count)
        .map(|i| {
            let place = place(&at(&names, i), &at(&addresses, i))?;
            Ok(Host { place, port: port(ports[if ports.len() == 1 { 0 } else { i }])? })
        })
        .collect()
}

fn place(name: &str, address: &str) -> Result<Place, SettingsError> {
    let address = match address {
        "" => None,
        text => Some(text.parse().map_err(|_| invalid("hostaddr", text, "it is an IPv4 or IPv6 address"))?),
    };
    Ok(match (name, address) {
        ("", None) => Place::Socket(default_socket_directory().into()),
        (_, None) if name.starts_with(['/', '@']) => Place::Socket(name.into()),
        _ => Place::Tcp { name: (!name.is_empty()).then(|| name.to_owned()), address },
    })
}

fn port(text: &str) -> Result<u16, SettingsError> {
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    let number = text.parse().ok().filter(|&port| port > 0);
    number.ok_or_else(|| invalid("port", text, "it is a number from 1 to 65535"))
}

/// As in libpq, 0 and negative numbers wait for ever, and one second is too little.
pub fn connect_timeout(values: &Values) -> Result<Option<Duration>, SettingsError> {
    Ok(match values.number("connect_timeout")? {
        None => Some(DEFAULT_CONNECT_TIMEOUT),
        Some(0) => None,
        Some(seconds) => Some(Duration::from_secs(seconds.max(2).into())),
    })
}

pub fn keepalive(values: &Values) -> Result<Option<Keepalive>, SettingsError> {
    let number = |keyword, default| {
        Ok::<_, SettingsError>(values.number(keyword)?.filter(|&number| number > 0).unwrap_or(default))
    };
    let keepalive = Keepalive {
        idle: Duration::from_secs(number("keepalives_idle", 60)?.into()),
        interval: Duration::from_secs(number("keepalives_interval", 10)?.into()),
        count: number("keepalives_count", 6)?,
    };
    Ok((values.number("keepalives")? != Some(0)).then_some(keepalive))
}

pub fn tls(values: &Values, home: Option<&Path>) -> Result<TlsSettings, SettingsError> {
    // What is named must be there; what is merely usual may be missing.
    let usual = |name| home.map(|home| home.join(".postgresql").join(name)).filter(|path| path.exists());
    let file = |keyword, name| values.get(keyword).map(PathBuf::from).or_else(|| usual(name));
    let roots = match values.get("sslrootcert") {
        Some("system") => RootCertificates::System,
        _ => file("sslrootcert", "root.crt").map_or(RootCertificates::None, RootCertificates::File),
    };
    if let Some(key) = values.get("sslkey")
        && key.contains(':')
        && !key.starts_with('/')
    {
        return Err(invalid("sslkey", key, "it is a file; keys in an engine are not supported"));
    }
    let no_certificate = values.get("sslcertmode") == Some("disable");
    Ok(TlsSettings {
        mode: ssl_mode(values, &roots)?,
        roots,
        certificate: if no_certificate { None } else { file("sslcert", "postgresql.crt") },
        key: file("sslkey", "postgresql.key"),
        key_password: values.get("sslpassword").map(|password| Password::new(password.to_owned())),
        revocations: file("sslcrl", "root.crl"),
        revocations_directory: values.get("sslcrldir").map(PathBuf::from),
        server_name_indication: values.get("sslsni") != Some("0"),
        version_min: tls_version(values, "ssl_min_protocol_version")?.unwrap_or(TlsVersion::V1_2),
        version_max: tls_version(values, "ssl_max_protocol_version")?,
    })
}

fn ssl_mode(values: &Values, roots: &RootCertificates) -> Result<SslMode, SettingsError> {
    let system = *roots == RootCertificates::System;
    let default = if system { SslMode::VerifyFull } else { SslMode::Prefer };
    let mode = values.one_of(
        "sslmode",
        default,
        &[
            ("disable", SslMode::Disable),
            ("allow", SslMode::Allow),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ],
        "it is disable, allow, prefer, require, verify-ca or verify-full",
    )?;
    if system && mode != SslMode::VerifyFull {
        let mode = values.get("sslmode").unwrap_or_default().to_owned();
        return Err(SettingsError::WeakForSystemRoots { mode });
    }
    Ok(mode)
}

fn tls_version(values: &Values, keyword: &'static str) -> Result<Option<TlsVersion>, SettingsError> {
    values.one_of(
        keyword,
        None,
        &[
            ("TLSv1", Some(TlsVersion::V1_0)),
            ("TLSv1.1", Some(TlsVersion::V1_1)),
            ("TLSv1.2", Some(TlsVersion::V1_2)),
            ("TLSv1.3", Some(TlsVersion::V1_3)),
        ],
        "it is TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3",
    )
}

pub fn default_socket_directory() -> &'static str {
    let [debian, upstream] = SOCKET_DIRECTORIES;
    if Path::new(debian).is_dir() { debian } else { upstream }
}
