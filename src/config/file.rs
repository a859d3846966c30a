//! The configuration file: TOML, one cluster.
//!
//! Knows nothing of environment variables. Every key is optional but a repository's `name` and its place. Each
//! error names the file, the line and the key: most arise while a value is read, where `toml` knows its place;
//! those between keys carry the place of the key that is to blame ([`Spanned`]).

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use toml::Spanned;

use super::spelling::nearest;
use super::words::{AbsolutePath, Rate, RepositoryName, SlotName, Span, SshUrl};
use super::{
    Backup, Checkpoint, Config, ConfigError, Place, Postgres, Repository, Retention, SshPlace, Status, Wal,
    WalSource,
};
use crate::pipe::{Codec, Compression};

/// `text` is the content of `file`, whose path is absolute.
pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
    let source = Source { text, file };
    let document: Document = toml::from_str(text).map_err(|error| source.refuse(error))?;
    let repositories = document.repositories(&source)?;
    Ok(Config {
        file: Some(file.to_owned()),
        wal: document.wal.check(&source, &repositories)?,
        backup: document.backup.check(&source)?,
        postgres: document.postgres.into(),
        retention: document.retention.into(),
        status: document.status.into(),
        repositories,
    })
}

/// A value that is written as a string and parsed by its type's `FromStr`.
struct Text<T>(T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

fn unwrap_text<T>(text: Option<Text<T>>) -> Option<T> {
    text.map(|Text(value)| value)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    postgres: PostgresTable,
    #[serde(default)]
    wal: WalTable,
    #[serde(default)]
    backup: BackupTable,
    #[serde(default)]
    retention: RetentionTable,
    #[serde(default)]
    status: StatusTable,
    #[serde(default)]
    repository: Vec<Spanned<RepositoryTable>>,
}

impl Document {
    fn repositories(&self, source: &Source<'_>) -> Result<Vec<Repository>, ConfigError> {
        if self.repository.is_empty() {
            return Err(ConfigError::Incomplete {
                file: source.file.to_owned(),
                problem: "no [[repository]] is defined, so there is nowhere to keep a backup".to_owned(),
                hint:
                    "Add the lines:\n[[repository]]\nname = \"local\"\npath = \"/var/lib/postgresql/backups\""
                        .to_owned(),
            });
        }
        let mut names = HashSet::new();
        for table in &self.repository {
            let name = &table.get_ref().name;
            if !names.insert(&name.get_ref().0.0) {
                let problem = format!("a second repository is named \"{}\"", name.get_ref().0.0);
                return Err(source.invalid(
                    name.span(),
                    problem,
                    Some("Give each [[repository]] a name of its own.".into()),
                ));
            }
        }
        self.repository.iter().map(|table| table.get_ref().check(source, table.span())).collect()
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct PostgresTable {
    connection: Option<String>,
    data_directory: Option<Text<AbsolutePath>>,
}

impl From<PostgresTable> for Postgres {
    fn from(table: PostgresTable) -> Self {
        Self {
            connection: table.connection.unwrap_or_default(),
            data_directory: unwrap_text(table.data_directory).map(|path| path.0),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct WalTable {
    source: Option<Spanned<Text<WalSource>>>,
    directory: Option<Text<AbsolutePath>>,
    slot: Option<Text<SlotName>>,
    push_to: Option<Spanned<Vec<Spanned<String>>>>,
}

impl WalTable {
    fn check(self, source: &Source<'_>, repositories: &[Repository]) -> Result<Wal, ConfigError> {
        let push_to = self.check_push_to(source, repositories)?;
        let wal_source = match &self.source {
            Some(spanned) if spanned.get_ref().0 == WalSource::Directory && self.directory.is_none() => {
                let problem = "wal.source is \"directory\", but wal.directory is not set".to_owned();
                let hint = "Set wal.directory to where archive_command copies WAL to.".to_owned();
                return Err(source.invalid(spanned.span(), problem, Some(hint)));
            }
            Some(spanned) => spanned.get_ref().0,
            None => WalSource::Push,
        };
        Ok(Wal {
            source: wal_source,
            directory: unwrap_text(self.directory).map(|path| path.0),
            slot: unwrap_text(self.slot).map_or_else(|| Wal::SLOT.to_owned(), |slot| slot.0),
            push_to,
        })
    }

    fn check_push_to(
        &self,
        source: &Source<'_>,
        repositories: &[Repository],
    ) -> Result<Vec<String>, ConfigError> {
        let Some(list) = &self.push_to else {
            return Ok(vec![repositories[0].name.clone()]);
        };
        if list.get_ref().is_empty() {
            let problem = "wal.push_to is empty, so wal-push would have nowhere to write".to_owned();
            let hint = "Leave wal.push_to out to push to the first repository.".to_owned();
            return Err(source.invalid(list.span(), problem, Some(hint)));
        }
        let mut push_to: Vec<String> = Vec::new();
        for name in list.get_ref() {
            if !repositories.iter().any(|repository| repository.name == *name.get_ref()) {
                let problem = format!("wal.push_to: no repository is named \"{}\"", name.get_ref());
                let names = repositories.iter().map(|repository| repository.name.as_str());
                let hint = format!("The repositories are: {}.", names.collect::<Vec<_>>().join(", "));
                return Err(source.invalid(name.span(), problem, Some(hint)));
            }
            if !push_to.contains(name.get_ref()) {
                push_to.push(name.get_ref().clone());
            }
        }
        Ok(push_to)
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct BackupTable {
    compression: Option<Text<Codec>>,
    level: Option<Spanned<i32>>,
    workers: Option<Spanned<usize>>,
    max_rate: Option<Text<Rate>>,
    checkpoint: Option<Text<Checkpoint>>,
}

impl BackupTable {
    fn check(self, source: &Source<'_>) -> Result<Backup, ConfigError> {
        let usual = Backup::default();
        let codec = unwrap_text(self.compression).unwrap_or(usual.compression.codec());
        let level = self.level.as_ref().map(|level| *level.get_ref());
        let compression = Compression::new(codec, level).map_err(|error| {
            let place = self.level.as_ref().map(Spanned::span).unwrap_or_default();
            let hint = "Leave backup.level out for the codec's usual level.".to_owned();
            source.invalid(place, format!("backup.level: {error}"), Some(hint))
        })?;
        let workers = match &self.workers {
            Some(workers) if *workers.get_ref() > Backup::WORKERS_MAX => {
                let problem =
                    format!("backup.workers: {} is more than {}", workers.get_ref(), Backup::WORKERS_MAX);
                let hint = "Leave backup.workers out to use every core.".to_owned();
                return Err(source.invalid(workers.span(), problem, Some(hint)));
            }
            Some(workers) => *workers.get_ref(),
            None => usual.workers,
        };
        Ok(Backup {
            compression,
            workers,
            max_rate: unwrap_text(self.max_rate).map(|rate| rate.0),
            checkpoint: unwrap_text(self.checkpoint).unwrap_or(usual.checkpoint),
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RetentionTable {
    keep_last: Option<u32>,
    keep_within: Option<Text<Span>>,
    keep_daily: Option<u32>,
    keep_weekly: Option<u32>,
    keep_monthly: Option<u32>,
    pitr_window: Option<Text<Span>>,
}

impl From<RetentionTable> for Retention {
    fn from(table: RetentionTable) -> Self {
        let usual = Self::default();
        Self {
            keep_last: table.keep_last.unwrap_or(usual.keep_last),
            keep_within: unwrap_text(table.keep_within).map(|span| span.0),
            keep_daily: table.keep_daily.unwrap_or(usual.keep_daily),
            keep_weekly: table.keep_weekly.unwrap_or(usual.keep_weekly),
            keep_monthly: table.keep_monthly.unwrap_or(usual.keep_monthly),
            pitr_window: unwrap_text(table.pitr_window).map(|span| span.0),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct StatusTable {
    backup_age_max: Option<Text<Span>>,
    wal_lag_max: Option<Text<Span>>,
}

impl From<StatusTable> for Status {
    fn from(table: StatusTable) -> Self {
        let usual = Self::default();
        Self {
            backup_age_max: unwrap_text(table.backup_age_max).map_or(usual.backup_age_max, |span| span.0),
            wal_lag_max: unwrap_text(table.wal_lag_max).map_or(usual.wal_lag_max, |span| span.0),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RepositoryTable {
    name: Spanned<Text<RepositoryName>>,
    path: Option<Text<AbsolutePath>>,
    url: Option<Spanned<Text<SshUrl>>>,
    ssh_key: Option<Spanned<Text<AbsolutePath>>>,
    known_hosts: Option<Spanned<Text<AbsolutePath>>>,
    sessions: Option<Spanned<u32>>,
    durable: Option<Spanned<bool>>,
}

impl RepositoryTable {
    /// `place` is where the whole table stands.
    fn check(&self, source: &Source<'_>, place: Range<usize>) -> Result<Repository, ConfigError> {
        let name = self.name.get_ref().0.0.clone();
        let place = match (&self.path, &self.url) {
            (Some(Text(path)), None) => self.local(source, path)?,
            (None, Some(url)) => Place::Ssh(self.ssh(source, &url.get_ref().0)?),
            (Some(_), Some(url)) => {
                let problem = format!("repository \"{name}\" has both a path and a url");
                let hint = "Keep `path` for a local directory, or `url` for an SSH server.".to_owned();
                return Err(source.invalid(url.span(), problem, Some(hint)));
            }
            (None, None) => {
                let problem = format!("repository \"{name}\" has neither a path nor a url");
                let hint =
                    "Add `path = \"/…\"` for a local directory, or `url = \"ssh://…\"` for an SSH server.";
                return Err(source.invalid(place, problem, Some(hint.to_owned())));
            }
        };
        Ok(Repository { name, place })
    }

    fn local(&self, source: &Source<'_>, path: &AbsolutePath) -> Result<Place, ConfigError> {
        let ssh_only = [
            ("ssh_key", self.ssh_key.as_ref().map(Spanned::span)),
            ("known_hosts", self.known_hosts.as_ref().map(Spanned::span)),
            ("sessions", self.sessions.as_ref().map(Spanned::span)),
            ("durable", self.durable.as_ref().map(Spanned::span)),
        ];
        match ssh_only.into_iter().find_map(|(key, span)| Some((key, span?))) {
            Some((key, span)) => {
                let problem = format!("repository.{key} belongs to a repository with a url, not with a path");
                Err(source.invalid(span, problem, Some(format!("Remove `{key}`."))))
            }
            None => Ok(Place::Local(path.0.clone())),
        }
    }

    fn ssh(&self, source: &Source<'_>, url: &SshUrl) -> Result<SshPlace, ConfigError> {
        let file =
            |key: &Option<Spanned<Text<AbsolutePath>>>| key.as_ref().map(|key| key.get_ref().0.0.clone());
        let sessions = match &self.sessions {
            Some(sessions) if !(1..=SshPlace::SESSIONS_MAX).contains(sessions.get_ref()) => {
                let problem = format!(
                    "repository.sessions: {} is not from 1 to {}",
                    sessions.get_ref(),
                    SshPlace::SESSIONS_MAX
                );
                return Err(source.invalid(sessions.span(), problem, None));
            }
            Some(sessions) => *sessions.get_ref(),
            None => SshPlace::SESSIONS,
        };
        Ok(SshPlace {
            user: url.user.clone(),
            host: url.host.clone(),
            port: url.port,
            path: url.path.clone(),
            ssh_key: file(&self.ssh_key),
            known_hosts: file(&self.known_hosts),
            sessions,
            durable: self.durable.as_ref().is_none_or(|durable| *durable.get_ref()),
        })
    }
}

/// The text and where it came from, for saying where it is wrong.
struct Source<'a> {
    text: &'a str,
    file: &'a Path,
}

impl Source<'_> {
    fn invalid(&self, place: Range<usize>, problem: String, hint: Option<String>) -> ConfigError {
        let (line, _) = self.line_and_column(place.start);
        ConfigError::Invalid { file: PathBuf::from(self.file), line, problem, hint }
    }

    /// Puts what `toml` found into our words.
    fn refuse(&self, mut error: toml::de::Error) -> ConfigError {
        let place = error.span().unwrap_or_default();
        // Without its input, an error shows the path of its key instead of an excerpt: "message\nin `wal.slot`".
        error.set_input(None);
        let shown = error.to_string();
        let key = shown.rsplit_once("\nin `").map(|(_, key)| key.trim_end().trim_end_matches('`'));
        if let Some((unknown, known)) = unknown_key(error.message()) {
            let table = match key {
                Some("repository") => " in [[repository]]".to_owned(),
                Some(table) => format!(" in [{table}]"),
                None => String::new(),
            };
            let hint = match nearest(unknown, &known) {
                Some(similar) => format!("Did you mean \"{similar}\"?"),
                None => format!("The keys known here are: {}.", known.join(", ")),
            };
            return self.invalid(place, format!("unknown key \"{unknown}\"{table}"), Some(hint));
        }
        match key {
            Some(key) => {
                let is_single = key == "repository" && error.message().starts_with("invalid type: map");
                let hint =
                    is_single.then(|| "Write [[repository]], with two brackets on each side.".to_owned());
                self.invalid(place, format!("{key}: {}", plain(error.message())), hint)
            }
            None => {
                let (line, column) = self.line_and_column(place.start);
                let problem = plain(error.message());
                ConfigError::Syntax { file: PathBuf::from(self.file), line, column, problem }
            }
        }
    }

    /// Both counted from 1, columns in characters.
    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// Takes serde's message apart: "unknown field `x`, expected one of `a`, `b`" or "…, expected `a` or `b`".
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let (unknown, expected) = message.strip_prefix("unknown field `")?.split_once('`')?;
    Some((unknown, expected.split('`').skip(1).step_by(2).collect()))
}

/// One line, without the names of Rust's types.
fn plain(message: &str) -> String {
    let one_line = message.lines().map(str::trim).collect::<Vec<_>>().join("; ");
    ["u32", "i32", "usize"].iter().fold(one_line, |text, integer| {
        text.replace(&format!("expected {integer}"), "expected a whole number")
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const REPOSITORY: &str = "[[repository]]\nname = \"local\"\npath = \"/b\"\n";

    fn read(text: &str) -> Result<Config, ConfigError> {
        parse(text, Path::new("/etc/pgbak/pgbak.toml"))
    }

    /// The message after the file's name, and the hint.
    fn refused(text: &str) -> (String, String) {
        let error = read(text).expect_err(text);
        let message = error.to_string();
        let place = message.strip_prefix("/etc/pgbak/pgbak.toml").expect("names the file");
        (place.trim_start_matches([',', ':', ' ']).to_owned(), error.hint().unwrap_or_default())
    }

    #[test]
    fn every_key_is_read() {
        let config = read(
            r#"
            [postgres]
            connection = "host=/var/run/postgresql user=postgres"
            data_directory = "/var/lib/postgresql/15/main"
            [wal]
            source = "directory"
            directory = "/var/lib/postgresql/wal-archive"
            slot = "pgbak_2"
            push_to = ["remote", "local", "remote"]
            [backup]
            compression = "gzip"
            level = 9
            workers = 3
            max_rate = "200MB"
            checkpoint = "spread"
            [retention]
            keep_last = 11
            keep_within = "14d"
            keep_daily = 1
            keep_weekly = 2
            keep_monthly = 3
            pitr_window = "7d"
            [status]
            backup_age_max = "27h"
            wal_lag_max = "6m"
            [[repository]]
            name = "local"
            path = "/var/lib/postgresql/backups"
            [[repository]]
            name = "remote"
            url = "ssh://rcadmin@192.168.1.246:2222/home/rcadmin/postgres-backups"
            ssh_key = "/etc/pgbak/id_ed25519"
            known_hosts = "/etc/pgbak/known_hosts"
            sessions = 4
            durable = false
            "#,
        );
        let config = config.unwrap();
        assert_eq!(config.postgres.connection, "host=/var/run/postgresql user=postgres");
        assert_eq!(config.postgres.data_directory, Some("/var/lib/postgresql/15/main".into()));
        assert_eq!(config.wal.source, WalSource::Directory);
        assert_eq!(config.wal.directory, Some("/var/lib/postgresql/wal-archive".into()));
        assert_eq!(config.wal.slot, "pgbak_2");
        assert_eq!(config.wal.push_to, ["remote", "local"]);
        assert_eq!(config.backup.compression.to_string(), "gzip:9");
        assert_eq!(config.backup.workers, 3);
        assert_eq!(config.backup.max_rate, Some(200_000_000));
        assert_eq!(config.backup.checkpoint, Checkpoint::Spread);
        let day = Duration::from_secs(86_400);
        assert_eq!((config.retention.keep_last, config.retention.keep_within), (11, Some(14 * day)));
        assert_eq!(config.retention.keep_daily, 1);
        assert_eq!(config.retention.keep_weekly, 2);
        assert_eq!(config.retention.keep_monthly, 3);
        assert_eq!(config.retention.pitr_window, Some(7 * day));
        assert_eq!(config.status.backup_age_max, Duration::from_secs(27 * 3600));
        assert_eq!(config.status.wal_lag_max, Duration::from_secs(360));
        assert_eq!(config.repositories[0].name, "local");
        assert_eq!(config.repositories[0].place, Place::Local("/var/lib/postgresql/backups".into()));
        let remote = SshPlace {
            user: Some("rcadmin".into()),
            host: "192.168.1.246".into(),
            port: 2222,
            path: "/home/rcadmin/postgres-backups".into(),
            ssh_key: Some("/etc/pgbak/id_ed25519".into()),
            known_hosts: Some("/etc/pgbak/known_hosts".into()),
            sessions: 4,
            durable: false,
        };
        assert_eq!(config.repositories[1].name, "remote");
        assert_eq!(config.repositories[1].place, Place::Ssh(remote));
    }

    #[test]
    fn a_repository_is_all_that_must_be_said() {
        let config = read(REPOSITORY).unwrap();
        assert_eq!(config.postgres.connection, "");
        assert_eq!((config.wal.source, config.wal.slot.as_str()), (WalSource::Push, "pgbak"));
        assert_eq!(config.wal.push_to, ["local"]);
        assert_eq!(config.backup.compression.to_string(), "zstd:3");
        assert_eq!(config.backup.checkpoint, Checkpoint::Fast);
        assert_eq!((config.retention.keep_last, config.retention.keep_within), (10, None));
        assert_eq!(config.status.wal_lag_max, Duration::from_secs(300));
    }

    #[test]
    fn the_annotated_example_is_a_configuration() {
        let example = include_str!("../../examples/pgbak.toml");
        let config = read(example).unwrap();
        assert_eq!(config.repositories[0].place, Place::Local("/var/lib/postgresql/backups".into()));
    }

    /// Taking away the `#` of each key that is commented out must leave a file in which each key is known.
    #[test]
    fn the_annotated_example_comments_out_real_keys_only() {
        let example = include_str!("../../examples/pgbak.toml");
        let uncommented: Vec<_> = example
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .collect();
        let config = read(&uncommented.join("\n")).unwrap();
        assert_eq!(config.repositories.len(), 2);
        for key in [
            "connection",
            "data_directory",
            "source",
            "directory",
            "slot",
            "push_to",
            "compression",
            "level",
            "workers",
            "max_rate",
            "checkpoint",
            "keep_last",
            "keep_within",
            "keep_daily",
            "keep_weekly",
            "keep_monthly",
            "pitr_window",
            "backup_age_max",
            "wal_lag_max",
            "name",
            "path",
            "url",
            "ssh_key",
            "known_hosts",
            "sessions",
            "durable",
        ] {
            assert!(uncommented.iter().any(|line| line.starts_with(&format!("{key} = "))), "{key}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        let (message, hint) = refused(&format!("{REPOSITORY}\n[retention]\nkeep_last = 3\nkeep_dayly = 7\n"));
        assert_eq!(message, "line 7: unknown key \"keep_dayly\" in [retention]");
        assert_eq!(hint, "Did you mean \"keep_daily\"?");

        let (message, hint) = refused("[repository]\n");
        assert_eq!(message, "line 1: repository: invalid type: map, expected a sequence");
        assert_eq!(hint, "Write [[repository]], with two brackets on each side.");

        let (message, hint) = refused(&format!("{REPOSITORY}pth = \"/c\"\n"));
        assert_eq!(message, "line 4: unknown key \"pth\" in [[repository]]");
        assert_eq!(hint, "Did you mean \"path\"?");

        let (message, hint) = refused(&format!("{REPOSITORY}[status]\nfrequency = 3\n"));
        assert_eq!(message, "line 5: unknown key \"frequency\" in [status]");
        assert_eq!(hint, "The keys known here are: backup_age_max, wal_lag_max.");

        let (message, _) = refused(&format!("retentions = 3\n{REPOSITORY}"));
        assert_eq!(message, "line 1: unknown key \"retentions\"");
    }

    #[test]
    fn a_value_that_makes_no_sense_is_named_with_its_line_and_key() {
        for (lines, expected) in [
            ("[backup]\nlevel = 99", "line 2: backup.level: \"zstd:99\" is not a compression"),
            ("[backup]\ncompression = \"none\"\nlevel = 3", "line 3: backup.level: \"none:3\" is not"),
            ("[backup]\ncompression = \"zip\"", "line 2: backup.compression: \"zip\" is not a compression"),
            ("[backup]\nmax_rate = \"fast\"", "line 2: backup.max_rate: \"fast\" is not a rate"),
            (
                "[backup]\nmax_rate = 200",
                "line 2: backup.max_rate: invalid type: integer `200`, expected a string",
            ),
            (
                "[backup]\nworkers = -1",
                "line 2: backup.workers: invalid value: integer `-1`, expected a whole number",
            ),
            ("[backup]\nworkers = 5000", "line 2: backup.workers: 5000 is more than 1024"),
            (
                "[backup]\ncheckpoint = \"now\"",
                "line 2: backup.checkpoint: \"now\" is not a kind of checkpoint",
            ),
            ("[retention]\nkeep_last = \"ten\"", "line 2: retention.keep_last: invalid type: string \"ten\""),
            (
                "[retention]\nkeep_within = \"14\"",
                "line 2: retention.keep_within: \"14\" is not a span of time",
            ),
            ("[status]\nwal_lag_max = \"\"", "line 2: status.wal_lag_max: \"\" is not a span of time"),
            (
                "[postgres]\ndata_directory = \"main\"",
                "line 2: postgres.data_directory: \"main\" is not an absolute",
            ),
            ("[wal]\nsource = \"pull\"", "line 2: wal.source: \"pull\" is not a WAL source"),
            (
                "[wal]\nsource = \"directory\"",
                "line 2: wal.source is \"directory\", but wal.directory is not set",
            ),
            ("[wal]\nslot = \"my-slot\"", "line 2: wal.slot: \"my-slot\" is not a replication slot's name"),
            ("[wal]\npush_to = [\"local\",\n\"far\"]", "line 3: wal.push_to: no repository is named \"far\""),
            ("[wal]\npush_to = []", "line 2: wal.push_to is empty"),
        ] {
            let (message, _) = refused(&format!("{lines}\n{REPOSITORY}"));
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn a_repository_is_in_exactly_one_place_under_a_name_of_its_own() {
        for (lines, expected) in [
            ("[[repository]]\npath = \"/b\"", "line 1: repository: missing field `name`"),
            ("[[repository]]\nname = \"a\"", "line 1: repository \"a\" has neither a path nor a url"),
            (
                "[[repository]]\nname = \"a\"\npath = \"/b\"\nurl = \"ssh://h/p\"",
                "line 4: repository \"a\" has both a path and a url",
            ),
            (
                "[[repository]]\nname = \"a\"\npath = \"b\"",
                "line 3: repository.path: \"b\" is not an absolute",
            ),
            ("[[repository]]\nname = \"a b\"\npath = \"/b\"", "line 2: repository.name: \"a b\" is not"),
            (
                "[[repository]]\nname = \"a\"\nurl = \"ssh://u:secret@h/p\"",
                "line 3: repository.url: not an SSH location",
            ),
            (
                "[[repository]]\nname = \"a\"\nurl = \"ssh://h/p\"\nsessions = 0",
                "line 4: repository.sessions: 0 is not from 1 to 10",
            ),
            (
                "[[repository]]\nname = \"a\"\npath = \"/p\"\ndurable = true",
                "line 4: repository.durable belongs to a repository with a url",
            ),
            (
                "[[repository]]\nname = \"a\"\npath = \"/p\"\n[[repository]]\nname = \"a\"\npath = \"/q\"",
                "line 5: a second repository is named \"a\"",
            ),
            ("", "no [[repository]] is defined"),
        ] {
            let (message, _) = refused(lines);
            assert!(message.starts_with(expected), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn broken_toml_is_refused_with_line_and_column() {
        let (message, _) = refused("[postgres]\nconnection = \"é\" x\n");
        assert!(message.starts_with("line 2, column 18: "), "{message}");
        let (message, _) = refused("[backup]\nlevel = 1\nlevel = 2\n");
        assert!(message.starts_with("line 3, column 1: duplicate key"), "{message}");
        assert!(!message.contains('\n'));
    }
}
