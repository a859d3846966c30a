//! The runs of each command: which are at work, how the last one ended, and how the last failure was told.
//!
//! So that `status` can say what a timer's mail said weeks ago to somebody who has left. In the state directory,
//! beside the locks: `COMMAND.PID.running` while a run works, then `COMMAND.done` or `COMMAND.failed`, each of which
//! the next run that ends alike replaces. A run that was killed leaves its `.running` behind, which is how that is
//! known. Commands do not depend on any of this: where it cannot be written, they work as well.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::process::{make_private_directory, pid_scope, replace_file};
use super::{Context, Error};

/// A run is a few lines; what is longer is none.
const SIZE_MAX_BYTES: u64 = 64 << 10;
/// Of the message that is kept.
const MESSAGE_CHARS_MAX: usize = 2000;

/// A run that is at work, or was killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub command: String,
    pub pid: u32,
    pid_scope: String,
    pub started_at: DateTime<Utc>,
}

/// A run that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub command: String,
    pub started_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
    pub exit_code: u8,
    /// What was said, without a final period; `None` when nothing had to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What is known of the runs of all commands with one configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Journal {
    pub at_work: Vec<Running>,
    /// Killed, or lost with the machine; the newest of each command.
    pub killed: Vec<Running>,
    /// The last good run of each command, that is, one that ended with 0 or 3.
    pub done: Vec<Ended>,
    /// The last failed run of each command.
    pub failed: Vec<Ended>,
}

/// This run, entered into the journal.
#[derive(Debug)]
pub struct Entry {
    running: Running,
    path: PathBuf,
}

impl Context<'_> {
    /// Enters this run; `None` where the journal cannot be written.
    pub fn enter_run(&self, command: &str) -> Option<Entry> {
        let running = Running {
            command: command.to_owned(),
            pid: std::process::id(),
            pid_scope: pid_scope(),
            started_at: (self.clock)(),
        };
        let path = self.runs().join(format!("{command}.{}.running", running.pid));
        let entered = self.make_state_directory().and_then(|()| make_private_directory(&self.runs()));
        let entered = entered.and_then(|()| replace(&path, &running));
        entered.inspect_err(|error| tracing::debug!("this run is not noted: {error}")).ok()?;
        Some(Entry { running, path })
    }

    /// Notes how a run ended. One that another held back (exit code 4), or that was told to stop, is neither done
    /// nor failed.
    pub fn leave_run(&self, entry: Entry, exit_code: u8, message: Option<&str>) {
        let Running { command, started_at, .. } = entry.running;
        let kind = match exit_code {
            0 | 3 => Some("done"),
            4 | 130 | 143 => None,
            _ => Some("failed"),
        };
        if let Some(kind) = kind {
            let message = message.map(|message| message.chars().take(MESSAGE_CHARS_MAX).collect());
            let path = self.runs().join(format!("{command}.{kind}"));
            let ended = Ended { command, started_at, ended_at: (self.clock)(), exit_code, message };
            if let Err(error) = replace(&path, &ended) {
                tracing::debug!("how this run ended is not noted: {error}");
            }
        }
        let _ = fs::remove_file(&entry.path);
    }

    /// What is known of all runs. What cannot be read is passed over.
    pub fn journal(&self) -> Journal {
        let mut journal = Journal::default();
        let Ok(entries) = fs::read_dir(self.runs()) else { return journal };
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("running") => journal.take_in(read(&path), &super::process::is_running),
                Some("done") => journal.done.extend(read::<Ended>(&path)),
                Some("failed") => journal.failed.extend(read::<Ended>(&path)),
                _ => {}
            }
        }
        journal
    }

    fn runs(&self) -> PathBuf {
        self.configuration_state().join("runs")
    }
}

impl Journal {
    fn take_in(&mut self, running: Option<Running>, is_running: &dyn Fn(u32) -> bool) {
        let Some(running) = running else { return };
        // In another container's scope the process cannot be seen; after a reboot none of them runs.
        if running.pid_scope == pid_scope() && is_running(running.pid) {
            return self.at_work.push(running);
        }
        match self.killed.iter_mut().find(|killed| killed.command == running.command) {
            Some(known) if known.started_at < running.started_at => *known = running,
            Some(_) => {}
            None => self.killed.push(running),
        }
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let mut text = String::new();
    File::open(path).ok()?.take(SIZE_MAX_BYTES).read_to_string(&mut text).ok()?;
    toml::from_str(&text).ok()
}

fn replace(path: &Path, content: &impl Serialize) -> Result<(), Error> {
    let text = toml::to_string(content).map_err(io::Error::other);
    let text = text.map_err(|source| Error::Io { action: "write", path: path.to_owned(), source })?;
    replace_file(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(pid: u32, scope: &str, seconds: i64) -> Running {
        Running {
            command: "prune".into(),
            pid,
            pid_scope: scope.into(),
            started_at: DateTime::from_timestamp(seconds, 0).unwrap(),
        }
    }

    #[test]
    fn a_run_without_its_process_was_killed() {
        let mut journal = Journal::default();
        let scope = pid_scope();
        let alive = |pid| pid == 7;
        for found in [running(7, &scope, 1), running(8, &scope, 3), running(7, "another boot", 2)] {
            journal.take_in(Some(found), &alive);
        }
        journal.take_in(None, &alive);
        assert_eq!(journal.at_work, [running(7, &scope, 1)]);
        assert_eq!(journal.killed, [running(8, &scope, 3)]);
    }

    #[test]
    fn a_file_is_replaced_whole_and_only_its_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("prune.7.running");
        for seconds in [1, 2] {
            replace(&path, &running(7, "scope", seconds)).unwrap();
            assert_eq!(read(&path), Some(running(7, "scope", seconds)));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        fs::write(&path, "pid = \"many\"").unwrap();
        assert_eq!(read::<Running>(&path), None);
    }
}
