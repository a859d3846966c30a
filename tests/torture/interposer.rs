//! `interposer.c`, compiled and loaded: calls that are cut short or interrupted, which strace cannot do, and calls
//! that fail in sftp-server alone.
//!
//! It sees what goes through the C library, as Rust's `std` does. rustix makes system calls of its own: pgbak's only
//! `read` and `write` among them are those of an eventfd and a timerfd, which have eight bytes or none.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use super::strace::Point;
use crate::support::{Identity, process, skip};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torture/interposer.c");

/// A directory with the library, the orders for it, and what it reports.
pub struct Interposer {
    directory: tempfile::TempDir,
}

/// What a program's calls are to meet.
#[derive(Debug, Clone)]
pub enum Orders {
    Nothing,
    /// One in `one_in` calls that move bytes moves some of them, or is interrupted.
    Shorten {
        seed: u64,
        one_in: u32,
    },
    /// The same of files alone: what sftp-server talks through, it gives up when it is interrupted.
    ShortenFiles {
        seed: u64,
        one_in: u32,
    },
    /// The call at `point` of each process.
    Fail {
        point: Point,
        error: &'static str,
    },
    /// It is killed when it is about to sync a directory that holds a file whose path ends so.
    DieBehind {
        end: String,
    },
}

impl Interposer {
    /// For programs run by `identity`; `None`, with the test noted as skipped, where there is no compiler.
    pub fn build(identity: &Identity) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory for the library");
        let library = directory.path().join("interposer.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-o"]).arg(&library).args([SOURCE, "-ldl"]);
        if Command::new("cc").arg("--version").output().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            skip("no C compiler is installed; tests/run.sh installs one");
            return None;
        }
        process::run(&mut compiler);
        identity.own_path(directory.path());
        Some(Self { directory })
    }

    /// Puts these words before a command to have it under the library.
    pub fn tool(&self) -> Vec<String> {
        ["env".to_owned()].into_iter().chain(self.environment()).collect()
    }

    /// With these variables a program is under the library.
    pub fn environment(&self) -> [String; 2] {
        let directory = self.directory.path().display();
        [format!("LD_PRELOAD={directory}/interposer.so"), format!("PGBAK_TEST_CALLS={directory}")]
    }

    /// What holds for `program` from its next start on.
    pub fn order(&self, program: &str, orders: &Orders) {
        let line = match orders {
            Orders::Nothing => format!("{program} count\n"),
            Orders::Shorten { seed, one_in } => format!("{program} shorten {seed} {one_in}\n"),
            Orders::ShortenFiles { seed, one_in } => format!("{program} shorten-files {seed} {one_in}\n"),
            Orders::Fail { point, error } => {
                format!("{program} fail {} {} {}\n", point.call, point.nth, number(error))
            }
            Orders::DieBehind { end } => format!("{program} die {end}\n"),
        };
        fs::write(self.path("orders"), line).expect("the directory is writable");
    }

    /// How often each process made each call, and how many of its calls were `shortened` and `interrupted`, since this
    /// was asked before: the most of any process, and the sum.
    pub fn take_counts(&self) -> BTreeMap<String, (u32, u32)> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        let mut counts = BTreeMap::new();
        for line in text.lines() {
            let (name, count) = line.split_once(' ').expect("a name and a count");
            let count: u32 = count.parse().expect("a number");
            let (most, sum) = counts.entry(name.to_owned()).or_default();
            (*most, *sum) = (count.max(*most), count + *sum);
        }
        counts
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// As Linux numbers them on the machines that PostgreSQL runs on.
fn number(error: &str) -> i32 {
    use rustix::io::Errno;
    match error {
        "ENOSPC" => Errno::NOSPC,
        "EIO" => Errno::IO,
        "EDQUOT" => Errno::DQUOT,
        "EINTR" => Errno::INTR,
        _ => panic!("{error}"),
    }
    .raw_os_error()
}
