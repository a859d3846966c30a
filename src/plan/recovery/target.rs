//! Where recovery stops, and how PostgreSQL is told so.
//!
//! Follows PostgreSQL `src/backend/access/transam/xlogrecovery.c` (`recoveryStopsBefore`, `recoveryStopsAfter` and
//! the checks of the `recovery_target*` settings). These settings are the same in PostgreSQL 13 to 18.

use std::fmt;

use chrono::{DateTime, Utc};

use super::{RecoveryError, RecoveryRequest};
use crate::catalog::BackupInfo;
use crate::pg::{Lsn, Timeline};

/// Where recovery stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// At the end of the archived WAL.
    End,
    /// As soon as the backup is consistent.
    Immediate,
    Time(DateTime<Utc>),
    Lsn(Lsn),
    Xid(u32),
    /// A restore point made by `pg_create_restore_point()`.
    Name(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetTimeline {
    Latest,
    /// The timeline on which the backup was taken.
    Current,
    Number(Timeline),
}

/// What the server does when it has reached the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetAction {
    Pause,
    Promote,
    Shutdown,
}

/// The empty file that makes the server begin archive recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalFile {
    /// Recover, then open for writing.
    Recovery,
    /// Recover, then follow a primary.
    Standby,
}

/// `MAXFNAMELEN` without its final zero byte.
const NAME_BYTES_MAX: usize = 63;

/// Smaller numbers stand for no transaction (`FirstNormalTransactionId`).
const XID_MIN: u32 = 3;

impl Target {
    /// Refuses what no server could ever reach.
    pub(super) fn check(&self, now: DateTime<Utc>) -> Result<(), RecoveryError> {
        let invalid = |reason: String| Err(RecoveryError::InvalidTarget { reason });
        match self {
            Self::Time(time) if *time > now => Err(RecoveryError::TargetInFuture { time: *time, now }),
            Self::Xid(xid) if *xid < XID_MIN => {
                invalid(format!("{xid} is not a transaction that commits; the first one is {XID_MIN}"))
            }
            Self::Name(name) if name.is_empty() => invalid("the name of the restore point is empty".into()),
            Self::Name(name) if name.len() > NAME_BYTES_MAX => {
                let length = name.len();
                invalid(format!("the restore point's name has {length} bytes, more than {NAME_BYTES_MAX}"))
            }
            Self::Name(name) if name.contains(char::is_control) => {
                invalid(format!("the restore point's name {name:?} holds control characters"))
            }
            _ => Ok(()),
        }
    }

    /// Whether recovery of `backup` is consistent by the time it gets here.
    pub(super) fn is_after(&self, backup: &BackupInfo, exclusive: bool) -> bool {
        match self {
            // A commit at the very instant of the target ends recovery if the target is exclusive.
            Self::Time(time) if exclusive => backup.stopped_at < *time,
            Self::Time(time) => backup.stopped_at <= *time,
            Self::Lsn(lsn) => backup.stop_lsn <= *lsn,
            Self::End | Self::Immediate | Self::Xid(_) | Self::Name(_) => true,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End => f.write_str("the end of the archived WAL"),
            Self::Immediate => f.write_str("the end of the backup"),
            Self::Time(time) => f.write_str(&shown(*time)),
            Self::Lsn(lsn) => lsn.fmt(f),
            Self::Xid(xid) => write!(f, "transaction {xid}"),
            Self::Name(name) => write!(f, "restore point \"{name}\""),
        }
    }
}

impl TargetAction {
    /// As `recovery_target_action` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Promote => "promote",
            Self::Shutdown => "shutdown",
        }
    }
}

impl SignalFile {
    pub const ALL: [Self; 2] = [Self::Recovery, Self::Standby];

    pub fn file_name(self) -> &'static str {
        match self {
            Self::Recovery => "recovery.signal",
            Self::Standby => "standby.signal",
        }
    }
}

/// A time as people read it, with its offset.
pub(super) fn shown(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.f%:z").to_string()
}

/// The settings that make the server do what was planned; `restore_command` is not among them.
pub(super) fn settings(request: &RecoveryRequest, timeline: String) -> Vec<(&'static str, String)> {
    let (target, inclusive) = (&request.target, (!request.exclusive).to_string());
    let mut settings = match target {
        Target::End => vec![],
        Target::Immediate => vec![("recovery_target", "immediate".to_owned())],
        Target::Time(time) => {
            let time = time.format("%Y-%m-%d %H:%M:%S%.6f%:z").to_string();
            vec![("recovery_target_time", time), ("recovery_target_inclusive", inclusive)]
        }
        Target::Lsn(lsn) => {
            vec![("recovery_target_lsn", lsn.to_string()), ("recovery_target_inclusive", inclusive)]
        }
        Target::Xid(xid) => {
            vec![("recovery_target_xid", xid.to_string()), ("recovery_target_inclusive", inclusive)]
        }
        Target::Name(name) => vec![("recovery_target_name", name.clone())],
    };
    settings.push(("recovery_target_timeline", timeline));
    if *target != Target::End {
        settings.push(("recovery_target_action", request.action.name().to_owned()));
    }
    settings
}
