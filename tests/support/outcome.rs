//! A run of pgbak: how it ended and what it said.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::normalise::Normaliser;
use super::process;

/// A run that has ended. Each assertion shows the whole run when it fails.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub arguments: String,
    /// The exit code; 128 and the signal's number for a run that a signal ended.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub duration: Duration,
    pub normaliser: Normaliser,
}

impl Outcome {
    #[track_caller]
    pub fn succeeds(self) -> Self {
        self.exits(0)
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code\n{self}");
        self
    }

    /// Compares all of stderr, with times, sizes and paths normalised.
    #[track_caller]
    pub fn says(self, expected: &str) -> Self {
        let said = self.normaliser.normalise(&self.stderr);
        assert_eq!(said, expected, "what it says, normalised\n{self}");
        self
    }

    #[track_caller]
    pub fn stderr_has(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "stderr has no \"{words}\"\n{self}");
        self
    }

    #[track_caller]
    pub fn stdout_has(self, words: &str) -> Self {
        assert!(self.stdout.contains(words), "stdout has no \"{words}\"\n{self}");
        self
    }

    #[track_caller]
    pub fn stdout_is(self, expected: &str) -> Self {
        assert_eq!(self.stdout, expected, "stdout\n{self}");
        self
    }

    /// Asserts that the run ended with one line of error that has each of `error`, and one line of hint that has
    /// each of `hint`, and no other word on stderr.
    #[track_caller]
    pub fn refuses(self, error: &[&str], hint: &[&str]) -> Self {
        let lines: Vec<&str> = self.stderr.lines().collect();
        let [first, second] = lines[..] else { panic!("not one line of error and one of hint\n{self}") };
        for (line, prefix, words) in [(first, "pgbak: error: ", error), (second, "hint: ", hint)] {
            assert!(line.starts_with(prefix), "no \"{prefix}\" at the start of \"{line}\"\n{self}");
            for word in words {
                // The system's own words begin with a capital letter.
                assert!(
                    line.to_lowercase().contains(&word.to_lowercase()),
                    "no \"{word}\" in \"{line}\"\n{self}"
                );
            }
        }
        assert_eq!(self.stdout, "", "a refusal prints no result\n{self}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON: {e}\n{self}"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { arguments, code, stdout, stderr, duration, .. } = self;
        writeln!(f, "$ pgbak {arguments}\n{stdout}{stderr}[exit {code}, {duration:?}]")
    }
}

/// A run under way. Dropping it kills it.
#[must_use = "a run that is dropped is killed"]
pub struct Running {
    pub(super) child: Child,
    pub(super) arguments: String,
    pub(super) stdout: PathBuf,
    pub(super) stderr: PathBuf,
    pub(super) started_at: Instant,
    pub(super) normaliser: Normaliser,
}

impl Running {
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        process::signal(&self.child, signal);
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Where its standard output goes.
    pub fn stdout(&self) -> &Path {
        &self.stdout
    }

    pub fn stderr_so_far(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    #[must_use = "say how the run must have ended"]
    pub fn finish(mut self) -> Outcome {
        let what = format!("pgbak {}", self.arguments);
        let status = process::wait_for_exit(&mut self.child, &what);
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
        let text = |path| String::from_utf8_lossy(&fs::read(path).expect("its output is kept")).into_owned();
        Outcome {
            arguments: self.arguments.clone(),
            code: status.code().or(by_signal).expect("it exited or a signal ended it"),
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
            duration: self.started_at.elapsed(),
            normaliser: self.normaliser.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---\n$ pgbak {}\n{}[killed]", self.arguments, self.stderr_so_far());
        }
    }
}
