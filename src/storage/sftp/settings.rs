//! What must be known to reach a repository over SSH, the environment's part included.

use std::fmt;
use std::path::PathBuf;

/// Where the repository is, and how to log in.
#[derive(Debug, Clone)]
pub struct SftpSettings {
    pub user: String,
    pub host: String,
    pub port: u16,
    /// Absolute, on the server; in a chroot, inside of it.
    pub path: String,
    /// The one key to use; without it the agent's, then the usual files below `home`.
    pub key: Option<PathBuf>,
    /// For the keys that have one.
    pub passphrase: Option<Secret>,
    /// The agent's socket.
    pub agent: Option<PathBuf>,
    pub known_hosts: Option<PathBuf>,
    pub home: Option<PathBuf>,
    /// How many SSH sessions to use at most; at least 1.
    pub sessions: usize,
    pub durability: Durability,
}

/// Whether the server must be able to make durable what it acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    Required,
    /// A server that cannot is used as it is.
    IfOffered,
}

/// Never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
