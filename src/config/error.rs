//! What can be wrong with a configuration, in words for the person who wrote it.

use std::io;
use std::path::PathBuf;

/// Messages are lower case, without a final period, and say where: the file with its line, or the variable.
/// What to do about it is in [`ConfigError::hint`]. All of these end a command as wrong usage does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("could not read the configuration {}: {source}", file.display())]
    Unreadable { file: PathBuf, source: io::Error },

    #[error("{}, line {line}, column {column}: {problem}", file.display())]
    Syntax { file: PathBuf, line: usize, column: usize, problem: String },

    #[error("{}, line {line}: {problem}", file.display())]
    Invalid { file: PathBuf, line: usize, problem: String, hint: Option<String> },

    #[error("{}: {problem}", file.display())]
    Incomplete { file: PathBuf, problem: String, hint: String },

    #[error("environment variable {variable}: {problem}")]
    Variable { variable: &'static str, problem: String },

    #[error(
        "there is no configuration: neither --config nor PGBAK_CONFIG is given, {} does not exist, \
         and no variable such as POSTGRES_HOST or LOCAL_BACKUP_PATH is set",
        searched.display()
    )]
    Missing { searched: PathBuf },
}

/// Enough to take a first backup of a cluster on this machine; also shown by [`ConfigError::hint`].
const SMALLEST: &str = "[postgres]\n\
    connection = \"host=/var/run/postgresql user=postgres\"\n\
    [[repository]]\n\
    name = \"local\"\n\
    path = \"/var/lib/postgresql/backups\"";

impl ConfigError {
    /// What the user can do about it: one or more full sentences, and for a missing file its smallest content on
    /// the lines after them.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { source, file } => match source.kind() {
                io::ErrorKind::NotFound => {
                    Some("Check the path that --config or PGBAK_CONFIG gives.".to_owned())
                }
                io::ErrorKind::PermissionDenied => {
                    let file = file.display();
                    Some(format!("Run pgbak as a user who may read {file}; `ls -l {file}` shows who may."))
                }
                _ => None,
            },
            Self::Invalid { hint, .. } => hint.clone(),
            Self::Incomplete { hint, .. } => Some(hint.clone()),
            Self::Missing { searched } => {
                Some(format!("Write {} with at least these lines:\n{SMALLEST}", searched.display()))
            }
            Self::Syntax { .. } | Self::Variable { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_configuration_that_is_shown_is_one() {
        assert!(super::super::file::parse(SMALLEST, &PathBuf::from("/etc/pgbak/pgbak.toml")).is_ok());
    }
}
