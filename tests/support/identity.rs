//! As whom servers and pgbak run: PostgreSQL refuses to be root.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

/// A user who is not root: whoever runs the tests, or, when that is root, `postgres` or else `nobody`.
#[derive(Debug, Clone)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Whom a process must be handed over to, if it is another user.
    other: Option<&'static str>,
}

impl Identity {
    /// Who runs the tests.
    pub fn own() -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { uid, gid, other: None }
    }

    /// Whom the tests' servers belong to.
    pub fn ordinary() -> Self {
        let own = Self::own();
        if own.uid != 0 {
            return own;
        }
        let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
        let find = |name| users.lines().find_map(|line| Self::named(name, line));
        find("postgres").or_else(|| find("nobody")).expect("there is a user postgres or nobody")
    }

    /// Reads `name:password:uid:gid:…`.
    fn named(name: &'static str, line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let matches = fields.next()? == name;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        matches.then_some(Self { uid, gid, other: Some(name) })
    }

    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// A command run by this user. It gets `signal` should the test die, so that nothing outlives the tests.
    pub fn command(&self, program: impl AsRef<OsStr>, signal: &str) -> Command {
        let mut command = Command::new("setpriv");
        if self.other.is_some() {
            command.arg(format!("--reuid={}", self.uid)).arg(format!("--regid={}", self.gid));
            command.arg("--clear-groups");
        }
        command.arg(format!("--pdeathsig={signal}")).arg("--").arg(program);
        command
    }

    /// The same, traced. pgbak keeps others from looking into it, also this user's own tracer, but not root's.
    pub fn traced(&self, signal: &str) -> Command {
        match self.other {
            None => self.command("strace", signal),
            Some(name) => {
                let mut command = Self::own().command("strace", signal);
                command.args(["-u", name]);
                command
            }
        }
    }

    /// Hands `path` over to this user.
    pub fn own_path(&self, path: &Path) {
        if self.other.is_some() {
            chown(path, Some(self.uid), Some(self.gid))
                .unwrap_or_else(|e| panic!("chown {}: {e}", path.display()));
        }
    }
}
