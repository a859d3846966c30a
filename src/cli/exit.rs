//! How pgbak's processes end: the numbers that scripts, timers and PostgreSQL read. The only place that knows them.

use super::failure::Failure;
use crate::ops;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    pub const DONE: Self = Self(0);
    pub const FAILED: Self = Self(1);
    pub const USAGE: Self = Self(2);
    /// Done, but there is something to look at.
    pub const FINDINGS: Self = Self(3);
    /// The monitoring plugins' own numbers; 0 is OK.
    pub const PLUGIN_WARNING: Self = Self(1);
    pub const PLUGIN_CRITICAL: Self = Self(2);
    pub const PLUGIN_UNKNOWN: Self = Self(3);
    /// The repository was read, and holds neither the file nor any later one of its timeline.
    pub const END_OF_ARCHIVE: Self = Self(1);
    /// PostgreSQL takes 1 to 125 from a `restore_command` to mean "there is no such file", and promotes. Above
    /// 125 it stops (`RestoreArchivedFile` in `src/backend/access/transam/xlogarchive.c`).
    pub const WAL_FETCH_FAILED: Self = Self(200);

    pub fn code(self) -> u8 {
        self.0
    }
}

/// Which numbers a command ends with when something goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    Usual,
    /// Whatever goes wrong, even before the command runs, must never look like the end of the archive.
    WalFetch,
    /// Run by a monitoring system: whatever goes wrong, even before the command runs, is not known to be well.
    Plugin,
}

impl Rules {
    pub fn usage(self) -> Exit {
        match self {
            Self::Usual => Exit::USAGE,
            Self::WalFetch => Exit::WAL_FETCH_FAILED,
            Self::Plugin => Exit::PLUGIN_UNKNOWN,
        }
    }

    pub fn panicked(self) -> Exit {
        match self {
            Self::Usual => Exit::FAILED,
            Self::WalFetch => Exit::WAL_FETCH_FAILED,
            Self::Plugin => Exit::PLUGIN_UNKNOWN,
        }
    }

    pub fn failed(self, failure: &Failure) -> Exit {
        match (self, failure) {
            (Self::Plugin, _) => Exit::PLUGIN_UNKNOWN,
            // 128 + the signal's number: PostgreSQL sees a command that its own shutdown ended.
            (_, Failure::Operation(error @ ops::Error::Interrupted(_))) => Exit(error.exit_code()),
            (Self::WalFetch, _) => Exit::WAL_FETCH_FAILED,
            (Self::Usual, Failure::Usage { .. } | Failure::Config(_)) => Exit::USAGE,
            (Self::Usual, Failure::Operation(error)) => Exit(error.exit_code()),
            (Self::Usual, Failure::Output(_)) => Exit::FAILED,
        }
    }
}

/// The end of a command's long help: an example to paste, and the exit codes.
pub fn help(example: &str, codes: &[(&str, &str)]) -> String {
    let lines = codes.iter().map(|(code, meaning)| format!("  {code:<9}{meaning}\n"));
    format!("Example:\n{example}\n\nExit codes:\n{}", lines.collect::<String>().trim_end())
}

pub const DONE: (&str, &str) = ("0", "done");
pub const FAILED: (&str, &str) = ("1", "failed");
pub const USAGE: (&str, &str) = ("2", "wrong usage or configuration");
pub const LOCKED: (&str, &str) = ("4", "another run holds the lock");
pub const INTERRUPTED: (&str, &str) =
    ("130, 143", "interrupted by SIGINT or SIGTERM; what was begun is discarded");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::Interrupted;

    #[test]
    fn a_failed_fetch_never_looks_like_the_end_of_the_archive() {
        let interrupted = |signal| Failure::Operation(Interrupted { signal }.into());
        let usage = Failure::usage("x", "y");
        let output = Failure::Output(std::io::Error::other("x"));
        assert_eq!(Rules::WalFetch.usage().code(), 200);
        assert_eq!(Rules::WalFetch.panicked().code(), 200);
        assert_eq!(Rules::WalFetch.failed(&usage).code(), 200);
        assert_eq!(Rules::WalFetch.failed(&output).code(), 200);
        assert_eq!(Rules::WalFetch.failed(&interrupted(15)).code(), 143);
    }

    #[test]
    fn a_monitoring_system_never_takes_a_failure_for_a_state() {
        let interrupted = Failure::Operation(Interrupted { signal: 15 }.into());
        for failure in [Failure::usage("x", "y"), interrupted, Failure::Output(std::io::Error::other("x"))] {
            assert_eq!(Rules::Plugin.failed(&failure).code(), 3);
        }
        assert_eq!((Rules::Plugin.usage().code(), Rules::Plugin.panicked().code()), (3, 3));
    }

    #[test]
    fn other_commands_tell_wrong_usage_from_failure() {
        assert_eq!(Rules::Usual.failed(&Failure::usage("x", "y")).code(), 2);
        assert_eq!(Rules::Usual.failed(&Failure::Output(std::io::Error::other("x"))).code(), 1);
        assert_eq!(Rules::Usual.failed(&Failure::Operation(Interrupted { signal: 2 }.into())).code(), 130);
    }
}
