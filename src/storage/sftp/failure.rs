//! Why something on the server failed, before it is known which object it was about.

use super::super::{Error, ErrorKind};
use super::Sftp;
use super::packet::{Malformed, Reply, Status};
use crate::interrupt::Interrupted;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Interrupted(#[from] Interrupted),

    /// Another connection may do better.
    #[error("{reason}")]
    Lost { reason: String },

    /// No repetition heals it.
    #[error("{reason}")]
    Refused { kind: ErrorKind, reason: String, hint: Option<String> },

    /// What the server said, where nothing better is known.
    #[error("the server says: {0}")]
    Status(Status),

    #[error("{reason}")]
    Found { kind: ErrorKind, reason: String },
}

pub type Attempt<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn lost(reason: impl Into<String>) -> Self {
        Self::Lost { reason: reason.into() }
    }

    pub fn found(kind: ErrorKind, reason: impl Into<String>) -> Self {
        Self::Found { kind, reason: reason.into() }
    }

    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }

    pub fn is_status(&self, code: u32) -> bool {
        matches!(self, Self::Status(status) if status.code == code)
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Interrupted(_) => ErrorKind::Other,
            Self::Lost { .. } => ErrorKind::Transient,
            Self::Refused { kind, .. } | Self::Found { kind, .. } => *kind,
            Self::Status(status) => match status.code {
                Status::NO_SUCH_FILE => ErrorKind::NotFound,
                Status::PERMISSION_DENIED => ErrorKind::Denied,
                _ => ErrorKind::Other,
            },
        }
    }

    /// Names the object.
    pub fn of(self, verb: &'static str, key: &str, storage: &Sftp) -> Error {
        let kind = self.kind();
        match self {
            Self::Interrupted(interrupted) => Error::new(kind, verb, key, storage, interrupted),
            failure => Error::new(kind, verb, key, storage, failure),
        }
    }

    /// What the user can do about it, where `verb` failed in `storage`, which is its URL; `None` leaves it to what the
    /// kind of the error suggests.
    pub fn hint(&self, verb: &str, storage: &str) -> Option<String> {
        let (user, path) = account_and_path(storage)?;
        match self {
            Self::Refused { hint, .. } => hint.clone(),
            Self::Lost { .. } => {
                Some("Check the host and the port in the repository's `url`, that sshd runs there, and the way to it.".into())
            }
            Self::Status(status) if status.code == Status::NO_SUCH_FILE && verb == "create" => Some(format!(
                "The directory that should hold {storage} is missing: mount it, or make it on the server with \
                 `mkdir -p {}` (below the account's chroot, where it has one).",
                super::parent(path)
            )),
            _ if self.kind() == ErrorKind::Denied => Some(format!(
                "Make it the account's own on the server, as root: `install -d -m 700 -o {user} {path}` (below its \
                 chroot, where it has one). All that is in it must belong to the account, too."
            )),
            _ => None,
        }
    }
}

/// Of `ssh://user@host:port/path`.
fn account_and_path(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("ssh://")?;
    let (authority, path) = rest.split_at_checked(rest.find('/')?)?;
    Some((authority.rsplit_once('@')?.0, path))
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::found(ErrorKind::Other, malformed.to_string())
    }
}

/// A reply of the kind that the request asks for; a status that is not that is a failure.
pub trait Expect {
    fn done(self) -> Attempt<()>;
    fn handle(self) -> Attempt<Vec<u8>>;
    fn attributes(self) -> Attempt<super::packet::Attributes>;
}

impl Expect for Reply {
    fn done(self) -> Attempt<()> {
        match self {
            Reply::Status(status) if status.code == Status::OK => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn handle(self) -> Attempt<Vec<u8>> {
        match self {
            Reply::Handle(handle) => Ok(handle),
            other => Err(unexpected(other)),
        }
    }

    fn attributes(self) -> Attempt<super::packet::Attributes> {
        match self {
            Reply::Attributes(attributes) => Ok(attributes),
            other => Err(unexpected(other)),
        }
    }
}

/// A status is the server's refusal, except OK, which is as wrong as any other kind of reply.
pub fn unexpected(reply: Reply) -> Failure {
    match reply {
        Reply::Status(status) if status.code != Status::OK => Failure::Status(status),
        _ => Malformed.into(),
    }
}
