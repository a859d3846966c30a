//! The configuration: a TOML file, or a handful of environment variables, as typed values.
//!
//! Parsed once, at the edge: what is in a [`Config`] has been checked, has its defaults filled in, and knows
//! nothing of the text it came from. Paths are absolute.

mod environment;
mod error;
mod file;
mod spelling;
mod state;
mod words;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::ConfigError;
pub use state::state_directory;
pub use words::{NotAWord, Rate, Span};

use crate::pipe::Compression;

/// Where the configuration is unless `--config` or `PGBAK_CONFIG` says otherwise.
const DEFAULT_FILE: &str = "/etc/pgbak/pgbak.toml";

/// More than any configuration needs; what is larger is another kind of file.
const FILE_SIZE_MAX_BYTES: u64 = 1 << 20;

/// One cluster and the repositories that hold its history.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file this came from; `None` when it came from environment variables alone.
    pub file: Option<PathBuf>,
    pub postgres: Postgres,
    pub wal: Wal,
    pub backup: Backup,
    pub retention: Retention,
    pub status: Status,
    /// At least one; names are unique.
    pub repositories: Vec<Repository>,
}

#[derive(Clone)]
pub struct Postgres {
    /// A libpq connection string or URI, empty for libpq's defaults. It may hold a password: never print it.
    pub connection: String,
    pub data_directory: Option<PathBuf>,
}

impl std::fmt::Debug for Postgres {
    /// Without the connection, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").field("data_directory", &self.data_directory).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalSource {
    Push,
    Directory,
    Stream,
}

#[derive(Debug, Clone)]
pub struct Wal {
    pub source: WalSource,
    pub directory: Option<PathBuf>,
    pub slot: String,
    /// Names of the repositories that `wal-push` writes to before it succeeds; by default the first.
    pub push_to: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Backup {
    pub compression: Compression,
    /// Compression threads; 0 is one per core.
    pub workers: usize,
    /// Bytes per second.
    pub max_rate: Option<u64>,
    pub checkpoint: Checkpoint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    /// At once, at the price of a burst of writes.
    Fast,
    /// Spread out as the server's own checkpoints are.
    Spread,
}

#[derive(Debug, Clone)]
pub struct Retention {
    pub keep_last: u32,
    pub keep_within: Option<Duration>,
    pub keep_daily: u32,
    pub keep_weekly: u32,
    pub keep_monthly: u32,
    pub pitr_window: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct Status {
    pub backup_age_max: Duration,
    pub wal_lag_max: Duration,
}

#[derive(Debug, Clone)]
pub struct Repository {
    pub name: String,
    pub place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Local(PathBuf),
    Ssh(SshPlace),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshPlace {
    pub user: Option<String>,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub ssh_key: Option<PathBuf>,
    pub known_hosts: Option<PathBuf>,
    pub sessions: u32,
    /// `false` accepts a server without `fsync@openssh.com`.
    pub durable: bool,
}

impl Config {
    /// Reads the file that `--config` names, else the one that `PGBAK_CONFIG` names, else the default one if it
    /// exists, else the environment variables.
    pub fn load(
        file: Option<&Path>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        Self::load_with_default(file, environment, Path::new(DEFAULT_FILE))
    }

    fn load_with_default(
        file: Option<&Path>,
        environment: &dyn Fn(&str) -> Option<String>,
        default: &Path,
    ) -> Result<Self, ConfigError> {
        let from_environment = environment("PGBAK_CONFIG").filter(|value| !value.is_empty());
        if let Some(file) = file.map(Path::to_owned).or_else(|| from_environment.map(PathBuf::from)) {
            return Self::read(&file);
        }
        match Self::read(default) {
            Err(ConfigError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let missing = || ConfigError::Missing { searched: default.to_owned() };
                environment::read(environment).unwrap_or_else(|| Err(missing()))
            }
            result => result,
        }
    }

    fn read(file: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
        let file = std::path::absolute(file).map_err(unreadable)?;
        let mut text = String::new();
        let mut limited = File::open(&file).map_err(unreadable)?.take(FILE_SIZE_MAX_BYTES + 1);
        let size_bytes = limited.read_to_string(&mut text).map_err(unreadable)?;
        if size_bytes as u64 > FILE_SIZE_MAX_BYTES {
            return Err(unreadable(io::Error::other("it is larger than 1 MiB")));
        }
        file::parse(&text, &file)
    }
}

impl Wal {
    /// What the replication slot is called unless the configuration says otherwise.
    const SLOT: &str = "pgbak";
}

impl Backup {
    /// More threads than this is a slip of the pen.
    const WORKERS_MAX: usize = 1024;
}

impl Default for Backup {
    fn default() -> Self {
        Self { compression: Compression::default(), workers: 0, max_rate: None, checkpoint: Checkpoint::Fast }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            keep_last: 10,
            keep_within: None,
            keep_daily: 0,
            keep_weekly: 0,
            keep_monthly: 0,
            pitr_window: None,
        }
    }
}

impl Default for Status {
    fn default() -> Self {
        Self { backup_age_max: Duration::from_secs(26 * 3600), wal_lag_max: Duration::from_secs(5 * 60) }
    }
}

impl SshPlace {
    const PORT: u16 = 22;
    const SESSIONS: u32 = 2;
    /// OpenSSH's server begins to refuse logins when as many are in progress (`MaxStartups 10:30:100`).
    const SESSIONS_MAX: u32 = 10;
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const REPOSITORY: &str = "[[repository]]\nname = \"NAME\"\npath = \"/b\"\n";

    struct Files {
        directory: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        /// Writes a configuration whose one repository is called `name`.
        fn write(&self, name: &str) -> PathBuf {
            fs::write(self.path(name), REPOSITORY.replace("NAME", name)).unwrap();
            self.path(name)
        }

        fn load(&self, file: Option<&Path>, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
            let environment =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
            Config::load_with_default(file, &environment, &self.path("default"))
        }
    }

    #[test]
    fn the_flag_wins_over_the_variable_over_the_default_file_over_other_variables() {
        let files = Files::new();
        let (flag, variable) = (files.write("flag"), files.write("variable"));
        let variables = [("PGBAK_CONFIG", variable.to_str().unwrap()), ("LOCAL_BACKUP_PATH", "/x")];
        let name = |config: Result<Config, ConfigError>| config.unwrap().repositories[0].name.clone();

        assert_eq!(name(files.load(None, &variables[1..])), "local");
        files.write("default");
        assert_eq!(name(files.load(None, &variables[1..])), "default");
        assert_eq!(name(files.load(None, &[("PGBAK_CONFIG", "")])), "default");
        assert_eq!(name(files.load(None, &variables)), "variable");
        assert_eq!(name(files.load(Some(&flag), &variables)), "flag");
        assert_eq!(files.load(Some(&flag), &variables).unwrap().file, Some(flag));
    }

    #[test]
    fn a_file_that_was_asked_for_must_exist() {
        let files = Files::new();
        files.write("default");
        let error = files.load(Some(&files.path("gone")), &[("LOCAL_BACKUP_PATH", "/x")]).unwrap_err();
        assert!(error.to_string().starts_with("could not read the configuration /"), "{error}");
        assert!(error.to_string().ends_with("gone: No such file or directory (os error 2)"), "{error}");
        assert!(error.hint().unwrap().contains("--config"));
    }

    #[test]
    fn a_default_file_that_cannot_be_parsed_is_not_passed_over() {
        let files = Files::new();
        fs::write(files.path("default"), "nonsense").unwrap();
        let error = files.load(None, &[("LOCAL_BACKUP_PATH", "/x")]).unwrap_err();
        assert!(matches!(error, ConfigError::Syntax { line: 1, .. }), "{error}");
    }

    #[test]
    fn without_any_configuration_the_hint_shows_one() {
        let error = Files::new().load(None, &[]).unwrap_err();
        assert!(matches!(error, ConfigError::Missing { .. }));
        assert!(error.hint().unwrap().contains("[[repository]]"));
    }

    #[test]
    fn what_is_no_text_or_far_too_large_is_refused() {
        let files = Files::new();
        fs::write(files.path("default"), [0xFF, 0xFE]).unwrap();
        assert!(matches!(files.load(None, &[]), Err(ConfigError::Unreadable { .. })));
        fs::write(files.path("default"), "#".repeat((1 << 20) + 1)).unwrap();
        let error = files.load(None, &[]).unwrap_err();
        assert!(error.to_string().ends_with("it is larger than 1 MiB"), "{error}");
    }

    #[test]
    fn a_password_does_not_get_into_debug_output() {
        let files = Files::new();
        let config = files.load(None, &[("POSTGRES_PASSWORD", "hunter2")]).unwrap();
        assert!(config.postgres.connection.contains("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
