//! What can end a command, in words for the person at the terminal.

use std::io;
use std::path::PathBuf;

use crate::pg::control_file::ControlFileError;
use crate::pg::{Lsn, SystemIdentifier, Timeline};
use crate::{interrupt, plan, repo, server, storage};

/// Messages are lower case, without a final period, and name the thing that failed. What to do about it is in
/// [`Error::hint`]; how the process ends is in [`Error::exit_code`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Interrupted(#[from] interrupt::Interrupted),

    #[error(transparent)]
    Repository(#[from] repo::Error),

    #[error(transparent)]
    Server(#[from] server::Error),

    #[error(transparent)]
    Connection(#[from] server::SettingsError),

    #[error(transparent)]
    Recovery(#[from] plan::recovery::RecoveryError),

    #[error("nothing was deleted from repository {repository}: {source}")]
    NotPruned { repository: String, source: plan::retention::RetentionError },

    #[error("no repository was pruned: {reasons}")]
    NonePruned { reasons: String, hint: Option<String> },

    #[error("could not {action} \"{}\": {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error("\"{}\": {source}", path.display())]
    ControlFile { path: PathBuf, source: ControlFileError },

    #[error("there is no repository \"{name}\" in the configuration, only {}", known.join(", "))]
    UnknownRepository { name: String, known: Vec<String> },

    #[error("another {command} is at work: {holder}")]
    Locked { command: &'static str, holder: String },

    #[error("replication slot \"{slot}\" is another's: {reason}")]
    SlotInUse { slot: String, reason: String },

    #[error("what the server sent as {name} is not that: {reason}")]
    UnsoundWal { name: String, reason: String },

    #[error(
        "the server's WAL ends at {server_end} on timeline {timeline}, but {repository} has WAL of that timeline up to \
         {stored_end}"
    )]
    WalWentBack { repository: String, timeline: Timeline, server_end: Lsn, stored_end: Lsn },

    #[error("what the server sent is not a sound backup: {reason}")]
    UnsoundStream { reason: String },

    #[error("the WAL ended at {received} while the backup needs it up to {needed}: {reason}")]
    WalEnded { received: Lsn, needed: Lsn, reason: String },

    #[error("\"{}\" is not what its name says: {reason}", path.display())]
    NotThisWal { path: PathBuf, reason: String },

    #[error("\"{name}\" is not something to archive: {reason}")]
    WrongWalName { name: String, reason: String },

    #[error("\"{}\" is WAL of system {found}, but {owner} is system {expected}", path.display())]
    ForeignWal { path: PathBuf, found: SystemIdentifier, expected: SystemIdentifier, owner: String },

    #[error("{name} is missing from the archive of repository {repository}, which holds later WAL")]
    WalGap { name: String, repository: String },

    #[error("no repository could give {name}: {reasons}")]
    NotFetched { name: String, reasons: String },

    #[error("the cluster that asks for {name} is not known: {reason}")]
    UnknownCluster { name: String, reason: String },

    #[error("\"{}\" {reason}", path.display())]
    TargetDirectory { path: PathBuf, reason: String, hint: String },

    #[error("{archive} in repository {repository} cannot be restored: {reason}")]
    Unrestorable { repository: String, archive: String, reason: String },

    #[error("no repository holds a backup that can be restored: {reasons}")]
    NoRepository { reasons: String, hint: Option<String> },

    #[error("{reason}")]
    Usage { reason: String, hint: String },
}

impl Error {
    /// What the user can do about it: one or more full sentences.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Repository(error) => return error.hint(),
            Self::Server(error) => return error.hint(),
            Self::Connection(error) => return error.hint(),
            Self::Recovery(error) => return error.hint(),
            Self::NotPruned { source, .. } => return source.hint(),
            Self::NonePruned { hint, .. } => return hint.clone(),
            Self::Locked { .. } => "Wait for it to end; the lock goes with the process.".into(),
            Self::SlotInUse { slot, .. } => format!(
                "Only one `wal-sync` streams from a slot. `SELECT active_pid FROM pg_replication_slots WHERE slot_name = \
                 '{slot}';` shows whose it is; another cluster's or place's configuration needs its own `slot` in [wal]."
            ),
            Self::UnsoundWal { .. } => {
                "Nothing of it was stored. Look for what stands between pgbak and the server, and at the server's disk."
                    .into()
            }
            Self::WalWentBack { .. } => {
                "Was the server put back to an older state without a promotion, as from a snapshot? Then give it \
                 repositories of its own and take a base backup. A standby that lags catches up by itself."
                    .into()
            }
            Self::UnsoundStream { .. } => {
                "Nothing was recorded. Run the backup again; if it fails again, check the server's disks."
                    .into()
            }
            Self::WalEnded { .. } => "Nothing was recorded. Run the backup again.".into(),
            Self::NotThisWal { .. } => {
                "Nothing was stored. Check the file with `pg_waldump`, and the disk that it lies on.".into()
            }
            Self::WrongWalName { .. } => {
                "Set `archive_command = '/usr/local/bin/pgbak wal-push %p'`, or where pgbak is, in postgresql.conf.".into()
            }
            Self::ForeignWal { .. } => {
                "Nothing was stored. Give each cluster a configuration and repositories of its own.".into()
            }
            Self::WalGap { .. } => {
                "Recovery cannot go on from here. Restore to a time before the gap, or from \
                 another repository: `pgbak status` shows what each can restore."
                    .into()
            }
            Self::UnknownCluster { .. } => {
                "Run it in the data directory, as PostgreSQL does, or set `data_directory` in [postgres]."
                    .into()
            }
            Self::TargetDirectory { hint, .. } | Self::Usage { hint, .. } => hint.clone(),
            Self::Unrestorable { .. } => {
                "The target has no pg_control and cannot be started. Restore another backup \
                 into it with `--delta --backup NAME`, or from another repository with `--repository NAME`."
                    .into()
            }
            Self::NoRepository { hint, .. } => return hint.clone(),
            Self::Io { source, .. } => return io_hint(source),
            Self::Interrupted(_)
            | Self::ControlFile { .. }
            | Self::UnknownRepository { .. }
            | Self::NotFetched { .. } => return None,
        })
    }

    /// Listed in each command's help; scripts rely on these numbers.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted(interrupted) | Self::Server(server::Error::Interrupted(interrupted)) => {
                128 + interrupted.signal as u8
            }
            Self::Repository(repo::Error::Storage(error)) if error.interrupted().is_some() => {
                error.interrupted().map_or(1, |interrupted| 128 + interrupted.signal as u8)
            }
            Self::Connection(_) | Self::UnknownRepository { .. } | Self::Usage { .. } => 2,
            Self::Locked { .. } | Self::SlotInUse { .. } => 4,
            _ => 1,
        }
    }
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        Self::Repository(error.into())
    }
}

fn io_hint(error: &io::Error) -> Option<String> {
    Some(match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "Free space there and run again.".into(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "Check who owns it, and run pgbak as that user.".into()
        }
        _ => return None,
    })
}
