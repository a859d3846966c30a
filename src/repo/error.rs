//! What can go wrong between a command and what a repository holds.

use crate::pg::SystemIdentifier;
use crate::storage;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Storage(#[from] storage::Error),

    /// An object is there, but it is not what it should be.
    #[error("\"{key}\" in repository {repository} is damaged: {reason}")]
    Damaged { repository: String, key: String, reason: String },

    #[error("\"{key}\" is not in repository {repository}")]
    Missing { repository: String, key: String },

    /// Archived once already, with other content.
    #[error("repository {repository} already holds \"{key}\" with different content")]
    Conflict { repository: String, key: String },

    #[error(
        "repository {repository} at {place} has no {}: it is empty, or its disk is not mounted",
        super::layout::RESTORE_MD
    )]
    NotARepository { repository: String, place: String },

    #[error("repository {repository} holds nothing of system {expected}, but of {}", join(.found))]
    OtherCluster { repository: String, expected: SystemIdentifier, found: Vec<SystemIdentifier> },

    #[error("repository {repository} already has a {name} that another run is writing")]
    BackupInProgress { repository: String, name: String },

    /// It was too slow to take part, and nobody has what it lacks.
    #[error("repository {repository} fell behind, and no other has \"{key}\" to complete it from")]
    FellBehind { repository: String, key: String },

    #[error("could not start a thread: {source}")]
    Threads { source: std::io::Error },

    /// What was to be stored could not be read.
    #[error("could not read {what}: {source}")]
    Source { what: String, source: std::io::Error },
}

impl Error {
    /// What the user can do about it: one or more full sentences.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Storage(error) => return error.hint(),
            Self::Damaged { .. } | Self::Missing { .. } => {
                "Use another repository that holds it, with `--repository NAME`, or another backup.".into()
            }
            Self::Conflict { .. } => {
                "Two clusters write to one archive, or one was restored and went on without a \
                 new timeline. Nothing was overwritten. Give each cluster a repository of its own."
                    .into()
            }
            Self::NotARepository { place, .. } => {
                format!("Check that {place} is mounted; `pgbak base-backup` makes a new repository.")
            }
            Self::OtherCluster { .. } => {
                "Nothing was stored. Give each cluster a repository of its own; after \
                 pg_upgrade, take a base backup first: `pgbak base-backup`."
                    .into()
            }
            Self::BackupInProgress { .. } => "Wait for that run to end, and run again.".into(),
            Self::FellBehind { .. } => "Take a new backup with `pgbak base-backup`.".into(),
            Self::Source { .. } | Self::Threads { .. } => return None,
        })
    }
}

fn join(systems: &[SystemIdentifier]) -> String {
    systems.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
