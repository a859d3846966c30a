//! A configuration from environment variables alone, as the compose files of before pgbak set them.
//!
//! Knows nothing of TOML. An empty variable is one that is not set: that is what `.env` files make of a key
//! without a value. What cannot be said by a variable has the default that it has in a file.

use std::path::PathBuf;

use super::words::AbsolutePath;
use super::{
    Backup, Config, ConfigError, Place, Postgres, Repository, Retention, SshPlace, Status, Wal, WalSource,
};

/// Any of these makes the environment a configuration.
///
/// `BACKUP_SCHEDULE` and `WAL_SYNC_INTERVAL` are among them although no value here comes from them: they tell whoever
/// calls pgbak (a crontab, a loop) when to, and the latter is how often `wal-sync --follow` begins a round.
const VARIABLES: [&str; 13] = [
    "POSTGRES_DB",
    "POSTGRES_USER",
    "POSTGRES_PASSWORD",
    "POSTGRES_HOST",
    "BACKUP_RETENTION_DAYS",
    "BACKUP_SCHEDULE",
    "WAL_SYNC_INTERVAL",
    "REMOTE_BACKUP_HOST",
    "REMOTE_BACKUP_USER",
    "REMOTE_BACKUP_PATH",
    "REMOTE_SSH_KEY_PATH",
    "LOCAL_BACKUP_PATH",
    "WAL_ARCHIVE_PATH",
];

/// `None` when no variable that matters is set.
pub fn read(environment: &dyn Fn(&str) -> Option<String>) -> Option<Result<Config, ConfigError>> {
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    VARIABLES.iter().any(|name| variable(name).is_some()).then(|| config(&variable))
}

fn config(variable: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let local = path(variable, "LOCAL_BACKUP_PATH", "/var/lib/postgresql/backups")?;
    let mut repositories = vec![Repository { name: "local".to_owned(), place: Place::Local(local) }];
    repositories.extend(remote(variable)?);
    Ok(Config {
        file: None,
        postgres: Postgres { connection: connection(variable), data_directory: None },
        wal: Wal {
            source: WalSource::Directory,
            directory: Some(path(variable, "WAL_ARCHIVE_PATH", "/var/lib/postgresql/wal-archive")?),
            slot: Wal::SLOT.to_owned(),
            push_to: vec!["local".to_owned()],
        },
        backup: Backup::default(),
        retention: retention(variable)?,
        status: Status::default(),
        repositories,
    })
}

/// A libpq connection string of what is set; the rest is left to libpq's own variables and defaults.
fn connection(variable: &dyn Fn(&str) -> Option<String>) -> String {
    let keywords = [
        ("host", "POSTGRES_HOST"),
        ("user", "POSTGRES_USER"),
        ("password", "POSTGRES_PASSWORD"),
        ("dbname", "POSTGRES_DB"),
    ];
    let set = keywords.into_iter().filter_map(|(keyword, name)| Some((keyword, variable(name)?)));
    let settings = set.map(|(keyword, value)| {
        let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
        format!("{keyword}='{quoted}'")
    });
    settings.collect::<Vec<_>>().join(" ")
}

/// In spite of its name, `BACKUP_RETENTION_DAYS` is the number of base backups to keep.
fn retention(variable: &dyn Fn(&str) -> Option<String>) -> Result<Retention, ConfigError> {
    let keep_last = match variable("BACKUP_RETENTION_DAYS") {
        Some(text) => text.parse().map_err(|_| ConfigError::Variable {
            variable: "BACKUP_RETENTION_DAYS",
            problem: format!("\"{text}\" is not a whole number of backups to keep"),
        })?,
        None => Retention::default().keep_last,
    };
    Ok(Retention { keep_last, ..Retention::default() })
}

fn remote(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Repository>, ConfigError> {
    let Some(host) = variable("REMOTE_BACKUP_HOST") else {
        return Ok(None);
    };
    let path_on_server = path(variable, "REMOTE_BACKUP_PATH", "/home/rcadmin/postgres-backups")?;
    let place = SshPlace {
        user: variable("REMOTE_BACKUP_USER"),
        host,
        port: SshPlace::PORT,
        path: path_on_server.to_string_lossy().into_owned(),
        ssh_key: Some(path(variable, "REMOTE_SSH_KEY_PATH", "/backup-keys/id_rsa")?),
        known_hosts: None,
        sessions: SshPlace::SESSIONS,
        durable: true,
    };
    Ok(Some(Repository { name: "remote".to_owned(), place: Place::Ssh(place) }))
}

fn path(
    variable: &dyn Fn(&str) -> Option<String>,
    name: &'static str,
    default: &str,
) -> Result<PathBuf, ConfigError> {
    let text = variable(name).unwrap_or_else(|| default.to_owned());
    let path = text.parse::<AbsolutePath>();
    path.map(|path| path.0)
        .map_err(|error| ConfigError::Variable { variable: name, problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_from(variables: &[(&str, &str)]) -> Option<Result<Config, ConfigError>> {
        read(&|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn nothing_set_is_no_configuration() {
        assert!(read_from(&[("HOME", "/root"), ("POSTGRES_HOST", "")]).is_none());
    }

    #[test]
    fn each_variable_finds_its_place() {
        let config = read_from(&[
            ("POSTGRES_DB", "shop"),
            ("POSTGRES_USER", "postgres"),
            ("POSTGRES_PASSWORD", r"it's a \ secret"),
            ("POSTGRES_HOST", "db"),
            ("BACKUP_RETENTION_DAYS", "7"),
            ("BACKUP_SCHEDULE", "0 2 * * *"),
            ("WAL_SYNC_INTERVAL", "60"),
            ("REMOTE_BACKUP_HOST", "192.168.1.246"),
            ("REMOTE_BACKUP_USER", "rcadmin"),
            ("REMOTE_BACKUP_PATH", "/srv/pg"),
            ("REMOTE_SSH_KEY_PATH", "/keys/id_ed25519"),
            ("LOCAL_BACKUP_PATH", "/backups"),
            ("WAL_ARCHIVE_PATH", "/wal"),
        ]);
        let config = config.unwrap().unwrap();
        assert_eq!(
            config.postgres.connection,
            r"host='db' user='postgres' password='it\'s a \\ secret' dbname='shop'"
        );
        assert_eq!(config.retention.keep_last, 7);
        assert_eq!(config.wal.source, WalSource::Directory);
        assert_eq!(config.wal.directory, Some("/wal".into()));
        assert_eq!(config.wal.push_to, ["local"]);
        assert_eq!(config.repositories[0].place, Place::Local("/backups".into()));
        let Place::Ssh(remote) = &config.repositories[1].place else { panic!("{config:?}") };
        assert_eq!((remote.user.as_deref(), remote.host.as_str()), (Some("rcadmin"), "192.168.1.246"));
        assert_eq!((remote.port, remote.path.as_str()), (22, "/srv/pg"));
        assert_eq!(remote.ssh_key, Some("/keys/id_ed25519".into()));
    }

    #[test]
    fn one_variable_is_enough_and_the_rest_has_defaults() {
        let config = read_from(&[("POSTGRES_HOST", "db")]).unwrap().unwrap();
        assert_eq!(config.repositories.len(), 1, "no remote without REMOTE_BACKUP_HOST");
        assert_eq!(config.repositories[0].place, Place::Local("/var/lib/postgresql/backups".into()));
        assert_eq!(config.wal.directory, Some("/var/lib/postgresql/wal-archive".into()));
        assert_eq!(config.retention.keep_last, 10);

        let config = read_from(&[("REMOTE_BACKUP_HOST", "vault")]).unwrap().unwrap();
        assert_eq!(config.postgres.connection, "");
        let Place::Ssh(remote) = &config.repositories[1].place else { panic!("{config:?}") };
        assert_eq!(remote.path, "/home/rcadmin/postgres-backups");
        assert_eq!(remote.ssh_key, Some("/backup-keys/id_rsa".into()));
    }

    #[test]
    fn a_variable_that_makes_no_sense_is_named() {
        let error = read_from(&[("BACKUP_RETENTION_DAYS", "ten")]).unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment variable BACKUP_RETENTION_DAYS: \"ten\" is not a whole number of backups to keep"
        );
        let error = read_from(&[("LOCAL_BACKUP_PATH", "backups")]).unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment variable LOCAL_BACKUP_PATH: \"backups\" is not an absolute path (one that begins with /)"
        );
    }
}
